"""The ground floor: finding a library, its devices and its dtypes, and getting arrays in and out of it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import array_api_compat.numpy
import array_api_strict
import numpy as np
import pytest
from tolerances import assert_same

import portnn
from portnn import MLP, BackendError
from portnn.backends import HOST, Backend, dtype_name, get_backend, namespace
from portnn.backends.base import Rows, table, to_native

NAMES = ("numpy", "cupy", "torch", "jax", "array_api_strict")
X = np.random.default_rng(0).normal(size=(30, 4)).astype("float32")
LABELS = np.arange(30) % 3


def here(name: str) -> bool:
    return portnn.backends()[name].usable


def python(code: str, **environment: str) -> str:
    """Run a program in a fresh interpreter, warnings being errors, and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PATH": "", **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def only_sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The message of an error, which must be short and of one line."""
    message = str(error.value)
    assert len(message) <= 500, message
    assert "\n" not in message, message
    return message


# -- finding a library ------------------------------------------------------------------------------------------------


def test_name_module_array_and_backend_name_the_same(library):
    first = get_backend(library.backend_name, library.device_name)
    for spec, device in (
        (library.backend_name, library.device_name),
        (library.xp, library.device_name),
        (library.make(X), None),
        (first, None),
        (first, library.device_name),
    ):
        backend = get_backend(spec, device)
        assert (backend.name, backend.device_name) == (library.backend_name, first.device_name)
        assert backend.owns(library.make(X))
        assert library.to_numpy(backend.asarray(X)).dtype == np.float32


def test_a_backend_on_another_device():
    there = get_backend(get_backend("array_api_strict"), "device1")
    assert (there.name, there.device_name) == ("array_api_strict", "device1")
    assert get_backend(there.asarray(X)).device_name == "device1"
    assert get_backend(there.asarray(X), "cpu").device_name == "cpu"


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("nunpy", ValueError, "unknown backend 'nunpy': expected one of 'numpy', 'cupy', .*; did you mean 'numpy'?"),
        ("tensorflow", ValueError, "unknown backend 'tensorflow': expected one of 'numpy', 'cupy', 'torch', 'jax'"),
        ("", ValueError, "unknown backend ''"),
        (3, TypeError, "int is not a supported array type, nor the name or namespace of a backend"),
        ([1.0], TypeError, "list is not a supported array type"),
        (None, TypeError, "NoneType is not"),
        (subprocess, TypeError, "module subprocess is not a namespace of arrays"),
    ],
)
def test_what_is_no_backend(spec, error, words):
    with pytest.raises(error, match=words) as caught:
        get_backend(spec)
    only_sentence(caught)


CURES = {  # portnn is on no package index, so it is the library itself that is to be installed
    "cupy": 'python -m pip install "cupy-cuda13x[ctk]" (CUDA 13) or "cupy-cuda12x[ctk]"',
    "torch": "python -m pip install torch",
    "jax": "python -m pip install jax",
    "array_api_strict": "python -m pip install array-api-strict",
}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "numpy"])
def test_a_missing_library_is_one_sentence_with_the_cure(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    cure = f": {CURES[name]}"
    with pytest.raises(BackendError) as caught:
        MLP([2, 1], backend=name)
    assert cure in only_sentence(caught)
    info = portnn.backends()
    assert not info[name].usable
    assert cure in info[name].why_not
    assert info["numpy"].usable


def test_backends_says_what_is_here(library):
    info = portnn.backends()
    assert tuple(info) == NAMES
    mine = info[library.backend_name]
    assert mine.usable
    assert mine.name == library.backend_name
    assert mine.version == library.backend.version != "unknown"
    assert {"float32", "float64"} == set(mine.dtypes)
    assert not mine.why_not
    for device in mine.devices:
        assert get_backend(library.backend_name, device).device_name == device
    assert info["numpy"] == ("numpy", True, np.__version__, ["cpu"], ["float32", "float64"], "")
    assert set(info["array_api_strict"].devices) >= {"cpu", "device1", "device2"}
    for other in info.values():
        assert other.usable or (other.why_not and not other.version and not other.devices)


# -- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "device", "words"),
    [
        ("numpy", "cuda:0", "numpy runs on device 'cpu' only, got 'cuda:0'; use backend='cupy' for a GPU"),
        ("torch", "gpu", "torch knows no device 'gpu'; try 'cpu' or 'cuda:0'"),
        ("torch", 3.5, "torch knows no device 3.5"),
        ("torch", "xla", "torch cannot use device 'xla' here"),
        ("jax", "tpu", r"jax has no device 'tpu' here \(it has .*\)"),
        ("jax", "cpu:7", "jax has no device 'cpu:7' here"),
        ("jax", "cpu:x", "jax has no device 'cpu:x' here"),
        ("array_api_strict", "device9", "array_api_strict has no device 'device9'"),
    ],
)
def test_a_device_that_is_not_there(name, device, words):
    if not here(name):
        pytest.skip(portnn.backends()[name].why_not)
    with pytest.raises(BackendError, match=words) as caught:
        MLP([2, 1], backend=name, device=device)
    only_sentence(caught)


def test_cuda_on_a_library_built_for_the_cpu():
    for name in ("torch", "jax"):
        if here(name) and not any("cuda" in d or "gpu" in d for d in portnn.backends()[name].devices):
            with pytest.raises(BackendError, match=r"CUDA build|jax\[cuda13\]") as caught:
                get_backend(name, "cuda")
            assert "cuda" in only_sentence(caught)


def test_arrays_of_two_devices():
    near, far = (get_backend("array_api_strict", device) for device in ("cpu", "device2"))
    moved = near.asarray(near.to_numpy(far.asarray(X)))
    assert near.device_of(moved) == near.device != far.device
    assert_same(near.to_numpy(moved), X)


FAKE_CUPY = """
import sys, types
cupy = types.ModuleType("cupy")
cupy.__version__, cupy.float32, cupy.ones = "99.0", "float32", lambda shape, dtype: None
class Device:
    def __init__(self, number=0): self.id = number
    def __enter__(self): pass
    def __exit__(self, *args): pass
def matmul(a, b): raise {failure}
cupy.cuda = types.SimpleNamespace(is_available=lambda: {gpus} > 0, Device=Device,
                                  runtime=types.SimpleNamespace(getDeviceCount=lambda: {gpus}))
cupy.matmul = matmul
sys.modules["cupy"] = sys.modules["array_api_compat.cupy"] = cupy
import portnn
try:
    portnn.MLP([2, 1], backend="cupy", device={device!r})
except portnn.BackendError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("gpus", "device", "failure", "words"),
    [
        (0, None, "None", "cupy 99.0 is installed but sees no CUDA GPU: check `nvidia-smi`"),
        (1, "cuda:3", "None", "cupy has 1 CUDA device(s), no 'cuda:3'"),
        (1, "cpu", "None", "cupy knows no device 'cpu'; devices are named 'cuda:0'"),
        (1, None, "ImportError('libcublas.so.12: cannot open')", f"libcublas.so.12: cannot open): {CURES['cupy']}"),
        (1, 0, "RuntimeError('CUDA path could not be detected')", f"could not be detected): {CURES['cupy']}"),
    ],
)
def test_cupy_without_its_gpu_or_toolkit(gpus, device, failure, words):
    (message,) = python(FAKE_CUPY.format(gpus=gpus, device=device, failure=failure)).splitlines()
    assert words in message


# -- dtypes -----------------------------------------------------------------------------------------------------------


def test_names_of_dtypes(library):
    for name in ("float32", "float64"):
        for dtype in (name, np.dtype(name), getattr(np, name), getattr(library.xp, name)):
            assert dtype_name(dtype) == name
            model = MLP([2, 1], dtype=dtype, **library.where)
            assert model.dtype == model.to(dtype=dtype).dtype == library.dtype_name(model.params) == name
        assert library.backend.float_dtype(name) == library.make(X, name).dtype
    with pytest.raises(ValueError, match="dtype must be 'float32' or 'float64', got 'int32'"):
        library.backend.float_dtype("int32")


JAX_32 = """
import sys
import numpy as np
import portnn
x, t = np.ones((8, 2)), np.arange(8) % 2
try:
    portnn.MLP([2, 2], backend="jax", dtype="float64")
except ValueError as error:
    print(error)
for dtype in ("float64", "int64", "uint64", "float16"):
    model = portnn.MLP([2, 2], backend="jax")
    portnn.fit(model, x.astype(dtype), t, epochs=1, batch_size=8, progress=False)
    assert str(model.params.dtype) == "float32" and np.isfinite(np.asarray(model.params)).all()
try:
    portnn.fit(model, np.full((8, 2), 2**60), t)
except ValueError as error:
    print(error)
sys.modules["torch"] = None  # which takes seconds to import
print(portnn.backends()["jax"].dtypes, portnn.backends()["jax"].why_not)
"""


def test_jax_without_x64_never_narrows_in_silence():
    if not here("jax"):
        pytest.skip(portnn.backends()["jax"].why_not)
    refused, wide, info = python(JAX_32, JAX_PLATFORMS="cpu", HOME=str(Path.home())).splitlines()
    assert refused == "jax on cpu:0 has no float64; " + (
        'enable jax_enable_x64 first: jax.config.update("jax_enable_x64", True), or JAX_ENABLE_X64=1 in the '
        "environment, or use dtype='float32'"
    )
    assert "loses precision" in wide
    assert info.startswith("['float32'] float64: enable jax_enable_x64")


# -- importing --------------------------------------------------------------------------------------------------------

QUIET = """
import sys
noise = []
def hook(event, args):
    if event.startswith(("socket.", "urllib.", "subprocess.", "os.mkdir", "os.rename", "os.remove", "shutil.")):
        noise.append((event, args))
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+") and ".pyc" not in str(args[0]):
        noise.append((event, args))
sys.addaudithook(hook)
import portnn
assert not noise, noise
foreign = {"torch", "jax", "jaxlib", "cupy", "array_api_strict", "scipy", "pandas", "matplotlib", "tqdm", "pooch"}
assert not foreign & set(sys.modules), foreign & set(sys.modules)
portnn.fit(portnn.MLP([1, 1]), __import__("numpy").ones((2, 1)), __import__("numpy").ones(2), loss="mse", batch_size=2)
assert not {"torch", "jax", "cupy", "array_api_strict"} & set(sys.modules)
import socket
socket.socket().close()
open("/dev/null", "w").close()
assert {event for event, _ in noise} >= {"socket.__new__", "open"}, "the hook itself is deaf"
print("quiet")
"""


def test_importing_is_quiet():
    """No other library, no socket and no file."""
    assert python(QUIET, PYTHONDONTWRITEBYTECODE="1") == "quiet\n"


# -- libraries that nobody has heard of -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_library(tmp_path_factory):
    """A conforming library under a name of its own: array_api_strict, rewritten."""
    folder = tmp_path_factory.mktemp("libraries")
    shutil.copytree(Path(array_api_strict.__file__).parent, folder / "quiet_arrays")
    for path in (folder / "quiet_arrays").rglob("*.py"):
        path.write_text(path.read_text().replace("array_api_strict", "quiet_arrays"))
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("quiet_arrays")
    finally:
        sys.path.remove(str(folder))


def test_any_conforming_namespace_trains_and_predicts(other_library):
    twin = MLP([4, 5, 3])
    model = MLP([4, 5, 3], backend=other_library)
    assert type(model.backend) is Backend
    assert type(model.params).__module__.startswith("quiet_arrays")
    options = {"epochs": 3, "batch_size": 8, "progress": False}
    x = model.backend.asarray(X)
    history = portnn.fit(model, x, LABELS, validation_split=0.2, **options)
    expected = portnn.fit(twin, X, LABELS, validation_split=0.2, **options)
    assert {k: v for k, v in history.items() if k != "epoch_seconds"} == {
        k: v for k, v in expected.items() if k != "epoch_seconds"
    }
    assert_same(model.backend.to_numpy(model.params), twin.params)
    assert_same(model.backend.to_numpy(portnn.predict(model, x)), portnn.predict(twin, X))
    assert_same(portnn.predict(model, X), portnn.predict(twin, X))
    assert portnn.evaluate(model, x, LABELS) == portnn.evaluate(twin, X, LABELS)
    assert get_backend(x).owns(x)
    assert get_backend(model.backend, "device1").device_of(get_backend(x, None).asarray(X)) != "device1"
    with pytest.raises(ValueError, match="must use the same namespace: x is a numpy array"):
        model(X)


@pytest.mark.parametrize("wrapped", [array_api_compat.numpy, array_api_strict], ids=lambda m: m.__name__)
def test_another_name_for_a_known_library(wrapped):
    thin = types.ModuleType("thin")
    vars(thin).update({name: getattr(wrapped, name) for name in dir(wrapped) if not name.startswith("__")})
    model = MLP([4, 3], backend=thin)
    x = thin.asarray(X)
    portnn.fit(model, x, LABELS, epochs=1, batch_size=8, progress=False)
    assert_same(np.asarray(portnn.predict(model, x)), portnn.predict(model, X))
    assert np.asarray(model(x)).shape == (30, 3)


# -- arrays in and out ------------------------------------------------------------------------------------------------


def test_namespace_is_remembered_and_right(library):
    x = library.make(X)
    first = namespace(x)
    assert first is namespace(library.make(LABELS)) is namespace(x)
    assert first.__name__ == library.xp.__name__
    assert namespace(X) is HOST.xp, "another library's arrays were mixed up"


@pytest.mark.parametrize(
    "a",
    [
        X,
        X[::-1],
        X[:, ::-2],
        X.T,
        X[::3],
        X.astype(">f4"),
        LABELS.astype(">i8")[::-1],
        np.broadcast_to(X[:1], X.shape),
        np.float32(3.0),
        np.asarray(2.0, ">f8"),
        np.ones((0, 3)),
        np.frombuffer(X.tobytes(), "float32"),
    ],
    ids=lambda a: f"{a.dtype.str}{np.shape(a)}{a.strides}",
)
def test_any_host_array_arrives(library, a):
    """Byte order, negative strides, broadcast axes and memory that cannot be written."""
    native = to_native(a)
    assert native.dtype.isnative
    assert all(stride >= 0 for stride in native.strides)
    before = a.tobytes()
    for copy in (None, True):
        arrived = library.backend.asarray(a, copy=copy)
        assert library.backend.owns(arrived)
        assert_same(
            library.to_numpy(arrived), np.ascontiguousarray(a).astype(a.dtype.newbyteorder("=")).reshape(a.shape)
        )
    assert a.tobytes() == before


def test_a_copy_is_a_copy(library):
    a = X.copy()
    mine = library.backend.asarray(a, library.backend.float_dtype("float32"), copy=True)
    a[:] = 0.0
    assert_same(library.to_numpy(mine), X)
    again = library.backend.asarray(mine, copy=True)
    again *= 0.0
    assert_same(library.to_numpy(mine), X)


def test_asarray_casts(library):
    for dtype in ("float32", "float64"):
        wanted = library.backend.float_dtype(dtype)
        for given in (LABELS, X, X.astype("float64"), library.make(X), library.make(LABELS)):
            assert library.backend.asarray(given, wanted).dtype == wanted


def test_a_chunk_is_its_steps_one_by_one(library):
    """compile_chunk, whatever it does, gives what a loop over the steps gives; the state handed in is given up."""
    steps, size = 3, 4

    def step(state, batch, h):
        params = state["params"] * h[0] + namespace(batch["x"]).sum(batch["x"], axis=0)
        return {"params": params, "count": state["count"] + h[1]}, {"loss": batch["x"][:, 0] * params[0]}

    x = np.arange(steps * size * 2.0).reshape(-1, 2)
    rows = [(0.5, 1.0), (2.0, 1.0), (1.0, 2.0)]
    state = {"params": library.make([1.0, -1.0], given_up=True), "count": library.make(0.0, "float64", given_up=True)}
    run = library.backend.compile_chunk(step, steps, size)
    state, metrics = run(state, {"x": Rows(library.backend, library.make(x))}, rows)
    params, losses = np.asarray([1.0, -1.0]), []
    for k in range(steps):
        params = params * rows[k][0] + x[k * size : (k + 1) * size].sum(axis=0)
        losses += (x[k * size : (k + 1) * size, 0] * params[0]).tolist()
    assert_same(library.to_numpy(state["params"]), params)
    assert float(library.to_numpy(state["count"])) == 4.0
    assert float(library.to_numpy(metrics["loss"])) == sum(losses)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "loop"])
def test_a_chunk_takes_scalars_of_each_member(library, dtype, compiled):
    """They are host float64 and must neither widen float32 nor stay on the host, beside scalars for all members."""

    def step(state, batch, h):
        params = state["params"] * h[0] + h[1]
        xp = namespace(params)
        return {"params": params}, {"loss": xp.sum(params, axis=-1, keepdims=True) + batch["x"][:, 0]}

    rows = [(np.asarray([[0.5], [2.0]]), 1.0), (np.asarray([[1.5], [-1.0]]), 0.25)]
    state = {"params": library.make([[1.0, -1.0], [3.0, 4.0]], dtype, given_up=True)}
    run = (library.backend.compile_chunk if compiled else library.backend.loop_chunk)(step, 2, 1)
    state, metrics = run(state, {"x": Rows(library.backend, library.make(np.zeros((2, 1)), dtype))}, rows)
    params, losses = np.asarray([[1.0, -1.0], [3.0, 4.0]]), []
    for factor, term in rows:
        params = params * factor + term
        losses.append(params.sum(axis=-1))
    assert library.dtype_name(state["params"]) == dtype
    assert_same(library.to_numpy(state["params"]), params.astype(dtype))
    assert_same(library.to_numpy(metrics["loss"]), sum(losses).astype(dtype))


def test_the_table_of_scalars_is_as_small_as_can_be():
    assert_same(table([(0.1, 2.0), (0.3, 4.0)], "float32"), np.asarray([[0.1, 2.0], [0.3, 4.0]], "float32"))
    got = table([(0.5, np.asarray([[1.0], [2.0]])), (0.25, np.asarray([[3.0], [4.0]]))], "float64")
    assert got.shape == (2, 2, 2, 1)
    assert_same(got[..., 0], np.asarray([[[0.5, 0.5], [1.0, 2.0]], [[0.25, 0.25], [3.0, 4.0]]]))


# -- precision of products --------------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """What the process has set in each library."""
    found = {"numpy": np.geterr()}
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        found["torch"] = (torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision)
    if "jax" in sys.modules:
        found["jax"] = sys.modules["jax"].config.jax_default_matmul_precision
    return found


PRODUCTS = {"float32": "ieee", "tf32": "tf32"}  # what torch calls them


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_scope_puts_everything_back(library, precision):
    before = settings()
    with library.backend.scope(precision):
        if library.backend_name == "torch":
            assert {"none": "ieee"}.get(p := settings()["torch"]["cuda" in library.name], p) == PRODUCTS[precision]
        if library.backend_name == "jax":
            assert settings()["jax"] == {"float32": "highest", "tf32": "tensorfloat32"}[precision]
    assert settings() == before
    with pytest.raises(ZeroDivisionError), library.backend.scope(precision):
        raise ZeroDivisionError
    assert settings() == before
    model = MLP([4, 3], matmul_precision=precision, **library.where)
    portnn.fit(model, library.make(X), LABELS, epochs=1, batch_size=30, progress=False)
    model(library.make(X))
    assert settings() == before


def older_switch(torch: Any) -> None:
    torch.set_float32_matmul_precision("medium")


def newer_switch(torch: Any) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"


@pytest.mark.parametrize("switch", [older_switch, newer_switch])
def test_scope_holds_against_what_the_process_has_set(switch):
    if not here("torch"):
        pytest.skip(portnn.backends()["torch"].why_not)
    import torch

    products = torch.backends.mkldnn.matmul
    try:
        switch(torch)
        before = products.fp32_precision
        with get_backend("torch").scope():
            assert products.fp32_precision == "ieee"
            assert MLP([4, 3], backend="torch")(torch.zeros(2, 4)).shape == (2, 3)
        assert products.fp32_precision == before != "ieee"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_cupy_has_the_names_we_use():
    """The wheel can be imported without a GPU, so its names can be looked at anywhere."""
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    import array_api_compat.cupy
    from cupy._core import _routines_linalg as products

    from portnn.backends.cupy import CupyBackend

    for name in ("get_compute_type", "set_compute_type", "COMPUTE_TYPE_TF32", "COMPUTE_TYPE_DEFAULT"):
        assert hasattr(products, name)
    first = CupyBackend(array_api_compat.cupy, cupy.cuda.Device(0))
    assert (first.device_name, repr(first.device)) == ("cuda:0", "<CUDA Device 0>")
