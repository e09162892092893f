"""Arrays of others: a pure call follows its arguments, mixtures get a sentence, memory is shared where it can be."""

from __future__ import annotations

import importlib
import itertools
import re
from typing import Any

import array_api_compat
import numpy as np
import pytest
from libraries import LIBRARIES
from tolerances import assert_same, assert_within, few_steps

import portnn
from portnn import MLP
from portnn.backends import HOST, get_backend
from portnn.guests import home, taken_in

X = np.random.default_rng(3).normal(size=(50, 4)).astype("float32")
LABELS = np.arange(50) % 3
THERE = [x for name, x in LIBRARIES.items() if name in ("numpy", "array_api_strict", "torch", "jax") and not x.why_not]
STRICT = LIBRARIES["array_api_strict"]
ON_GPU = [x for name, x in LIBRARIES.items() if name in ("cupy", "torch-cuda", "jax-cuda") and not x.why_not]
PAIRS = [pair for group in (THERE, ON_GPU) for pair in itertools.permutations(group, 2)]
both = pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda x: x.name)


def fitted(model: MLP, x: Any) -> Any:
    portnn.fit(model, x, LABELS, epochs=2, batch_size=8, progress=False, validation_data=(x, LABELS))
    return model.backend.to_numpy(model.params)


# -- classes made of theirs -------------------------------------------------------------------------------------------


class Quantity(np.ndarray):
    """As astropy's: products of it are of its class."""


def test_an_array_of_a_class_made_of_numpys_is_one_of_numpy(library):
    model, twin = (MLP([4, 3], **library.where) for _ in range(2))
    predicted = portnn.predict(model, X.view(Quantity))
    assert type(predicted) is np.ndarray
    assert_same(predicted, portnn.predict(model, X))
    assert_same(fitted(model, X.view(Quantity)), fitted(twin, X))


def test_a_tensor_of_a_class_made_of_torchs_is_a_tensor():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Image(torch.Tensor):
        pass

    image = torch.asarray(X).as_subclass(Image)
    for where in ({"backend": "torch"}, {"backend": "numpy"}):
        model = MLP([4, 3], **where)
        assert_same(np.asarray(portnn.predict(model, image)), np.asarray(portnn.predict(model, torch.asarray(X))))
    assert MLP([4, 3], backend=image).backend.name == "torch"


# -- follow the input -------------------------------------------------------------------------------------------------


def test_a_pure_call_follows_its_arguments_whoever_holds_the_model(library):
    params, x, dy = (library.make(a, "float32") for a in (MLP([4, 5, 3]).params, X, np.ones((50, 3))))
    expected = MLP([4, 5, 3], **library.where).apply(params, x)
    for holder in THERE:
        model = MLP([4, 5, 3], **holder.where)
        y, vjp = model.forward(params, x)
        assert_same(library.to_numpy(y), library.to_numpy(expected))
        for a in (model.apply(params, x), *vjp(dy)):
            assert library.dtype_name(a) == "float32"
            library.to_numpy(a)  # TypeError if it is not of the library, on its device


@both
def test_two_libraries_get_a_sentence_and_what_it_says_works(one, other):
    model = MLP([4, 3], **one.where)
    params, x = one.make(model.backend.to_numpy(model.params)), other.make(X)
    with pytest.raises(
        ValueError, match=f"params is a {one.backend_name} array on .*, x a {other.backend_name}"
    ) as caught:
        model.apply(params, x)
    said = str(caught.value)
    assert len(said) < 500
    assert "\n" not in said
    cures = re.search(r"convert x with (.*\(x\)), or use (model\.to\(backend=x\)\.params)$", said)
    names = {name: importlib.import_module(name) for name in ("numpy", "array_api_strict")}
    names |= {x.backend_name: importlib.import_module(x.backend_name) for x in (one, other)}
    scope = {**names, "x": x, "model": model}
    if one.backend_name == "jax":
        import jax.numpy  # noqa: F401
    first = model.apply(params, eval(cures[1], scope))
    second = model.apply(eval(cures[2], scope), x)
    expected = MLP([4, 3])(X)
    for y, theirs in ((first, one), (second, other)):
        assert_within(theirs.to_numpy(y), expected, few_steps(expected, "float32"))


def test_two_devices_get_a_sentence_and_what_it_says_works():
    there = LIBRARIES["array_api_strict-device1"]
    model = MLP([4, 3], **there.where)
    x = STRICT.make(X)
    with pytest.raises(
        ValueError, match=r"params is a array_api_strict array on device1, x a .* on cpu; both"
    ) as caught:
        model.apply(model.params, x)
    cure = re.search(r"move x with (.*\)\)), or use", str(caught.value))[1]
    moved = eval(cure, {"array_api_compat": array_api_compat, "x": x, "params": model.params})
    assert_same(there.to_numpy(model.apply(model.params, moved)), MLP([4, 3])(X))


@pytest.mark.parametrize("bad", [[[1.0, 2.0]], None, 3.0, "x"])
@pytest.mark.parametrize("argument", ["params", "x"])
def test_what_is_no_array_is_named(bad, argument):
    model = MLP([4, 3])
    arguments = {"params": model.params, "x": X} | {argument: bad}
    with pytest.raises(
        TypeError, match=rf"MLP\.apply: {argument} is a {type(bad).__name__}, .* numpy\.asarray\({argument}\)"
    ):
        model.apply(**arguments)


def test_home_is_where_the_arrays_are(library):
    a = library.make(X)
    for holder in THERE:
        found = home(holder.backend, a, a, "f")
        assert (found.name, found.device_name) == (library.backend_name, library.backend.device_name)
    assert home(library.backend, a, a, "f") is library.backend


# -- memory -----------------------------------------------------------------------------------------------------------


def address(x: Any) -> int:
    """Return where in memory an array begins."""
    if hasattr(getattr(x, "data", None), "ptr"):
        return x.data.ptr
    for name in ("data_ptr", "unsafe_buffer_pointer"):
        if hasattr(x, name):
            return getattr(x, name)()
    return np.asarray(x).__array_interface__["data"][0]


def aligned(dtype: str = "float32") -> np.ndarray:
    """Return X at a multiple of 64 bytes, where JAX can read it."""
    room = np.empty(X.size + 16, dtype)
    start = -room.ctypes.data % 64 // room.itemsize
    part = room[start : start + X.size].reshape(X.shape)
    part[...] = X
    return part


def on(library: Any, a: np.ndarray) -> Any:
    """Return an array of a library in the memory of ``a``, or on its GPU."""
    if library in ON_GPU:
        return library.make(a)
    return a if library.backend_name == "numpy" else library.xp.from_dlpack(a)


@both
def test_samples_are_read_where_they_lie(one, other):
    x = on(other, aligned())
    given, leave = taken_in(one.backend, x, "f")
    assert one.backend.owns(given) or other.backend_name == "numpy"
    assert address(given) == address(x)
    back = leave(given)
    assert other.backend.owns(back)
    assert_same(other.to_numpy(back), X)


@both
def test_fit_predict_and_evaluate_read_another_library(one, other):
    x, model = other.make(X), MLP([4, 5, 3], **one.where)
    y = portnn.predict(model, x)
    assert other.backend.owns(y)
    assert_same(other.to_numpy(y), portnn.predict(model, X))
    assert portnn.evaluate(model, x, LABELS) == portnn.evaluate(model, X, LABELS)
    assert_same(fitted(MLP([4, 5, 3], **one.where), x), fitted(MLP([4, 5, 3], **one.where), X))
    team = MLP([4, 5, 3], **one.where, members=2)
    for a, b in zip(*(portnn.ensemble_predict(team, a, kind="classes") for a in (x, X)), strict=True):
        assert other.backend.owns(a)
        assert_same(other.to_numpy(a), b)
    assert_same(other.to_numpy(x), X)


@both
def test_a_model_moves_by_dlpack_into_memory_of_its_own(one, other, monkeypatch):
    model = MLP([4, 5, 3], **one.where)
    before = np.array(one.to_numpy(model.params))

    def refuses(*arguments: Any) -> Any:
        pytest.fail("a detour by the host")

    with monkeypatch.context() as patch:
        patch.setattr(type(model.backend), "to_numpy", refuses)
        moved = model.to(backend=other.backend_name, device=other.device_name)
    assert_same(other.to_numpy(moved.params), before)
    assert address(moved.params) != address(model.params)
    moved.params = np.zeros_like(before)
    portnn.fit(moved, X, LABELS, epochs=1, progress=False)
    assert_same(one.to_numpy(model.params), before)
    wide = model.to(backend=other.backend_name, device=other.device_name, dtype="float64")
    assert_same(other.to_numpy(wide.params), before.astype("float64"))


def test_numbers_that_are_too_small_for_compiled_code_are_carried_over(library):
    tiny = np.asarray([1e-45, 1e-40, -3e-39, 0.0, 1.0, 2.0, 1e-38, 5.0], dtype="float32")
    model = MLP([3, 2])
    model.params = tiny
    there = model.to(backend=library.backend_name, device=library.device_name)
    assert_same(library.to_numpy(there.params), tiny)
    assert_same(library.to_numpy(there.to(dtype="float64").params), tiny.astype("float64"))
    assert_same(there.to(backend="numpy", device="cpu", dtype="float64").params, tiny.astype("float64"))


@pytest.mark.parametrize("other", [x for x in THERE if x.backend_name != "numpy"], ids=lambda x: x.name)
def test_a_model_on_another_device_takes_what_the_host_can_read(other):
    there = LIBRARIES["array_api_strict-device1"] if other.backend_name != "array_api_strict" else LIBRARIES["numpy"]
    for holder in (there, *ON_GPU):
        model, x = MLP([4, 5, 3], **holder.where), other.make(X)
        y = portnn.predict(model, x)
        assert other.backend.owns(y)
        assert_same(other.to_numpy(y), portnn.predict(model, X))
        assert_same(fitted(model, x), fitted(MLP([4, 5, 3], **holder.where), X))


def test_other_layouts_and_dtypes_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    wide = torch.asarray(np.random.default_rng(4).normal(size=(100, 8)).astype("float32"))
    for holder in THERE:
        model = MLP([4, 5, 3], **holder.where)
        for x in (
            wide[::2, ::2],
            wide.T.contiguous().T[:50, 4:],
            wide[:50, :4].double(),
            wide[:50, :4].half(),
            (wide[:50, :4] * 50.0).to(torch.int16),
            wide[:50, :4] > 0.0,
        ):
            y = portnn.predict(model, x)
            assert isinstance(y, torch.Tensor)
            assert y.dtype is torch.float32
            assert_same(y.numpy(), portnn.predict(model, np.ascontiguousarray(x.numpy())))


def test_arrays_that_cannot_be_written_are_read():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x, model = jax.numpy.asarray(X), MLP([4, 5, 3])
    given, _ = taken_in(HOST, x, "f")
    assert not given.flags.writeable
    assert_same(fitted(model, x), fitted(MLP([4, 5, 3]), X))
    frozen = X.copy()
    frozen.flags.writeable = False
    for holder in THERE:
        assert_same(
            portnn.predict(MLP([4, 5, 3], **holder.where), frozen), portnn.predict(MLP([4, 5, 3], **holder.where), X)
        )


def test_bfloat16_goes_where_it_is_known():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    half, same = jax.numpy.asarray(X, dtype="bfloat16"), torch.asarray(X.copy()).to(torch.bfloat16)
    for model, x, own in (
        (MLP([4, 3], backend="torch"), half, same),
        (MLP([4, 3], backend="jax", device="cpu"), same, half),
    ):
        y, expected = portnn.predict(model, x), portnn.predict(model, own)
        assert_same(get_backend(y).to_numpy(y), get_backend(expected).to_numpy(expected))
    for x, name in ((half, "jax"), (same, "torch")):
        with pytest.raises(ValueError, match=f"x is a {name} array, .* or convert x"):
            portnn.predict(MLP([4, 3]), x)


def test_another_device_is_not_read_behind_the_users_back():
    for holder, there in itertools.product(THERE, (LIBRARIES["array_api_strict-device1"], *ON_GPU)):
        model, x = MLP([4, 3], **holder.where), there.make(X)
        for call in (portnn.predict, lambda m, x: portnn.fit(m, x, LABELS), lambda m, x: portnn.evaluate(m, x, LABELS)):
            with pytest.raises(ValueError, match=r"x is a \w+ array, .* model\.to|x is on device (device1|cuda|gpu)"):
                call(model, x)


def test_a_tensor_that_records_is_refused():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.asarray(X.copy()).requires_grad_()
    with pytest.raises(TypeError, match=r"requires_grad=True; pass x\.detach\(\)"):
        portnn.predict(MLP([4, 3]), x)
    assert MLP([4, 3]).to(backend="torch").apply(torch.asarray(MLP([4, 3]).params.copy()), x).requires_grad
