"""Micro-benchmarks of the primitives on every array library that is present.

    python -m pip install pytest-benchmark
    python -m pytest benchmarks/test_micro.py [--benchmark-group-by=group] [-k "adam and torch"]

They are not part of the test suite. JAX's functions are compiled, as they are in ``fit``, and the clock stops when the
results are there. For the same number of threads everywhere set OMP_NUM_THREADS; see speed.py for whole epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from libraries import LIBRARIES, Library

from portnn.activations import relu
from portnn.feed import as_index, take_rows
from portnn.losses import cross_entropy
from portnn.optimizers import Adam
from portnn.primitives import linear

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")

PRESENT = [
    library
    for name, library in LIBRARIES.items()
    if name in ("numpy", "torch", "jax", "cupy", "torch-cuda", "jax-cuda") and not library.why_not
]
BATCH, INPUTS, OUTPUTS, CLASSES, SAMPLES = 128, 784, 128, 10, 60_000
Measure = Callable[..., Any]


@pytest.fixture(params=PRESENT, ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> Library:
    """One array library after the other."""
    return request.param


@pytest.fixture
def measure(benchmark: Any, library: Library) -> Measure:
    """Time ``f(*arrays)``: compiled on JAX, with the results waited for, one call off the clock."""

    def measure(f: Callable[..., Any], *arrays: Any) -> Any:
        if library.backend_name == "jax":
            import jax

            compiled = jax.jit(f)

            def run() -> Any:
                return jax.block_until_ready(compiled(*arrays))
        else:

            def run() -> Any:
                result = f(*arrays)
                library.backend.synchronize()
                return result

        with library.backend.scope():
            run()
            return benchmark(run)

    return measure


def numbers(library: Library, *shape: int) -> Any:
    """Return normal numbers in float32, the same in every call."""
    return library.make(np.random.default_rng(0).standard_normal(shape), "float32", given_up=True)


@pytest.mark.benchmark(group="linear, forward")
def test_linear_forward(measure: Measure, library: Library) -> None:
    """The first layer of 784-128-10 at batch 128."""
    x, w, b = numbers(library, BATCH, INPUTS), numbers(library, INPUTS, OUTPUTS), numbers(library, OUTPUTS)
    assert measure(lambda x, w, b: linear(x, w, b)[0], x, w, b).shape == (BATCH, OUTPUTS)


@pytest.mark.benchmark(group="linear, forward and back")
def test_linear_forward_and_back(measure: Measure, library: Library) -> None:
    """The same with dx, dweight and dbias."""
    x, w, b = numbers(library, BATCH, INPUTS), numbers(library, INPUTS, OUTPUTS), numbers(library, OUTPUTS)
    dy = numbers(library, BATCH, OUTPUTS)
    result = measure(lambda x, w, b, dy: linear(x, w, b)[1](dy), x, w, b, dy)
    assert [tuple(a.shape) for a in result] == [(BATCH, INPUTS), (INPUTS, OUTPUTS), (OUTPUTS,)]


@pytest.mark.benchmark(group="softmax cross-entropy, forward and back")
def test_cross_entropy(measure: Measure, library: Library) -> None:
    """Value and derivative from labels."""
    y, share = numbers(library, BATCH, CLASSES), numbers(library, BATCH)
    t = library.make(np.arange(BATCH) % CLASSES, "int32")

    def both(y: Any, t: Any, share: Any) -> Any:
        values, vjp = cross_entropy(y, t)
        return values, vjp(share)

    assert measure(both, y, t, share)[0].shape == (BATCH,)


@pytest.mark.benchmark(group="relu, forward and back")
def test_relu(measure: Measure, library: Library) -> None:
    """Value and derivative of a hidden layer."""
    z, zero = numbers(library, BATCH, OUTPUTS), library.make(0.0, "float32")

    def both(z: Any, zero: Any) -> Any:
        y, vjp = relu(z, zero)
        return y, vjp(z)

    assert measure(both, z, zero)[0].shape == (BATCH, OUTPUTS)


@pytest.mark.benchmark(group="Adam, one update")
def test_adam(measure: Measure, library: Library) -> None:
    """As many parameters as 784-128-10 has; the arrays are updated again and again."""
    n = INPUTS * OUTPUTS + OUTPUTS + OUTPUTS * CLASSES + CLASSES
    adam, p, grad = Adam(1e-3), numbers(library, n), numbers(library, n)
    grad = grad * 0.0  # it is squared in place: a number would overflow or vanish
    m, v = (library.make(np.zeros(n), "float32", given_up=True) for _ in range(2))
    h = adam.row(0)
    result = measure(lambda p, grad, m, v: adam.update(p, grad, {"m": m, "v": v}, h)[0], p, grad, m, v)
    assert result.shape == (n,)


@pytest.mark.benchmark(group="gather, 8192 rows")
def test_gather(measure: Measure, library: Library) -> None:
    """A chunk of shuffled samples."""
    x = numbers(library, SAMPLES // 4, INPUTS)
    rows = np.random.default_rng(0).permutation(SAMPLES // 4)[:8192]
    index = as_index(library.backend, rows, SAMPLES // 4)
    assert measure(lambda x, index: take_rows(library.backend, x, index), x, index).shape == (8192, INPUTS)
