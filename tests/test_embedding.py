"""One formula with a network in it, run on every array library there is, without a word about any of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from array_api_compat import array_namespace, device
from libraries import LIBRARIES
from test_house import LIBRARIES as NAMES
from tolerances import assert_within, first_gradient

from portnn import MLP
from portnn.activations import ACTIVATIONS


def bridge(model: MLP, params: Any, x: Any) -> tuple[Any, Any, Any]:
    """Return u = A + B N, du/dx and d(sum u)/d params, with N the network and u right at both ends whatever N is.

    A(x, y) = 1 - x + x exp(-y) and B(x) = x (1 - x): the ansatz of Lagaris, Likas and Fotiadis (1998).
    """
    xp = array_namespace(params, x)
    n, pullback = model.forward(params, x)
    s, y = x[:, :1], x[:, 1:]
    a, slope = 1.0 - s + s * xp.exp(-y), xp.exp(-y) - 1.0
    b = s * (1.0 - s)
    d_params, dn = pullback(b * xp.ones_like(n))
    return a + b * n, slope + (1.0 - 2.0 * s) * n + dn[:, :1], d_params


class Place(NamedTuple):
    """Where the formula is run: how arrays get there and back, and whether one is of that library and place."""

    make: Callable[[np.ndarray], Any]
    back: Callable[[Any], np.ndarray]
    kind: type
    device: Any


def place(name: str) -> Place:
    if name in LIBRARIES:
        library = LIBRARIES[name]
        like = library.make([0.0])
        return Place(library.make, library.to_numpy, type(like), device(like))
    if name == "dask":
        da = pytest.importorskip("dask.array", reason="dask is not installed")
        chunks = {1: -1, 2: (4, -1)}
        return Place(lambda a: da.from_array(a, chunks[a.ndim]), lambda y: y.compute(scheduler="sync"), da.Array, "cpu")
    ndonnx = pytest.importorskip("ndonnx", reason="ndonnx is not installed")
    like = ndonnx.asarray(np.zeros(1))
    return Place(ndonnx.asarray, lambda y: y.unwrap_numpy(), type(like), like.device)


PLACES = [name for name, x in LIBRARIES.items() if not (x.readonly or x.flags or x.why_not)] + ["dask", "ndonnx"]
X = np.random.default_rng(1).random((11, 2))


def model_of(activation: str, dtype: str) -> MLP:
    return MLP([2, 6, 5, 1], activation=activation, init="glorot_normal", dtype=dtype, seed=8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PLACES)
def test_one_formula_on_all_libraries(name, dtype):
    there, model = place(name), model_of("tanh", dtype)
    exact = bridge(model_of("tanh", "float64"), model.params.astype("float64"), X.astype(dtype).astype("float64"))
    found = bridge(model, there.make(model.params), there.make(X.astype(dtype)))
    for one, other in zip(found, exact, strict=True):
        assert isinstance(one, there.kind)
        assert device(one) == there.device
        y = there.back(one)
        assert y.dtype == dtype
        assert_within(y, other, first_gradient(other, dtype))


@pytest.mark.parametrize("where", ["dask", "ndonnx"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_activations_where_nothing_else_is_tested(activation, where):
    there, model = place(where), model_of(activation, "float64")
    exact = bridge(model, model.params, X)
    for one, other in zip(bridge(model, there.make(model.params), there.make(X)), exact, strict=True):
        assert_within(there.back(one), other, first_gradient(other, "float64"))


def test_the_formula_names_no_library():
    words = set(re.findall(r"\w+", inspect.getsource(bridge)))
    assert not words & {*NAMES, "numpy", "np", "ndonnx"}
    assert {"xp", "forward"} <= words


def test_at_both_ends_the_network_does_not_count():
    model = model_of("tanh", "float64")
    ends = np.asarray([[0.0, 0.3], [1.0, 0.7]])
    u, _, _ = bridge(model, model.params, ends)
    assert_within(u, [[1.0], [np.exp(-0.7)]], first_gradient(1.0, "float64"))


def test_the_derivatives_are_those_of_the_value():
    model, h = model_of("tanh", "float64"), 1e-5
    params = model.params.copy()
    _, slope, d_params = bridge(model, params, X)
    step = np.asarray([[h, 0.0]])
    difference = (bridge(model, params, X + step)[0] - bridge(model, params, X - step)[0]) / (2.0 * h)
    assert np.abs(difference - slope).max() < h
    for i in (0, 17, len(params) - 1):
        e = np.zeros_like(params)
        e[i] = h
        difference = (bridge(model, params + e, X)[0] - bridge(model, params - e, X)[0]).sum() / (2.0 * h)
        assert abs(difference - d_params[i]) < h
