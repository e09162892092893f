"""Out of memory: the same exception on every library, with bytes wanted and a batch size, and the model still works."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same

import portnn
import portnn.loop
import portnn.step
from portnn import MLP, SGD, fit
from portnn.backends import HOST
from portnn.feed import Feed
from portnn.memory import enough, outputs_want, training_wants

N = 60
X = np.random.default_rng(1).normal(size=(N, 4)).astype("float32")
T = np.arange(N) % 3
SAYS = {  # what each library says, none of them with an exception that the others have
    "torch": lambda: RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    ),
    "jax": lambda: RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
}
TRAIN = {"optimizer": SGD(0.1), "epochs": 2, "batch_size": 20, "progress": False}


def full(library: Any, after: int = 0) -> Callable[..., Any]:
    """In the place of a method: what the library says when memory runs out, after some calls that went well."""
    methods = {name: getattr(Feed, name) for name in ("gather", "chunk")}
    calls = 0

    def crowded(self: Feed, rows: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise SAYS.get(library.backend_name, MemoryError)()
        return methods["gather" if isinstance(rows, slice) and method == "gather" else "chunk"](self, rows)

    method = "chunk" if after else "gather"
    return crowded


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (portnn.predict,
         r"^predict: out of memory: 60 of 60 samples at once want about \d+ bytes; try a batch size of 30, such as "
         r"predict\(model, x\[:30\]\)$"),
        (lambda model, x: portnn.evaluate(model, x, T),
         r"^evaluate: out of memory: 60 of 60 samples at once want about \d+ bytes; try a batch size of 30, such as "
         r"evaluate\(model, x\[:30\], t\[:30\]\)$"),
        (lambda model, x: fit(model, x, T, **TRAIN, validation_data=(x, T)),
         r"^fit: epoch 1, validation data: out of memory: .* want about \d+ bytes; try a batch size of 30, such as "
         r"validation_data=\(x\[:30\], t\[:30\]\)$"),
    ],
    ids=["predict", "evaluate", "validation"],
)  # fmt: skip
@pytest.mark.parametrize("host", [True, False])
def test_going_forward(library: Any, monkeypatch: pytest.MonkeyPatch, call: Any, words: str, host: bool) -> None:
    model, x = MLP([4, 5, 3], **library.where), X if host else library.make(X)
    good = np.asarray(portnn.predict(model, X))
    with monkeypatch.context() as patch:
        patch.setattr(Feed, "gather", full(library))
        with pytest.raises(MemoryError, match=words) as caught:
            call(model, x)
    assert type(caught.value) is MemoryError
    assert np.isfinite(library.to_numpy(model.params)).all()
    if call is portnn.predict:
        assert_same(np.asarray(portnn.predict(model, X)), good)
    portnn.evaluate(model, x, T)


def test_training_keeps_the_last_finished_steps(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin = (MLP([4, 5, 3], **library.where, seed=1) for _ in range(2))
    options = {**TRAIN, "compile": False}
    history = fit(twin, X, T, **{**options, "epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Feed, "chunk", full(library, after=1))  # one chunk is an epoch here
        with pytest.raises(
            MemoryError, match=r"^fit: out of memory: batches of 20 samples .* try batch_size=10\. The mod"
        ):
            fit(model, X, T, **options)
    assert_same(library.to_numpy(model.params), library.to_numpy(twin.params))
    again = fit(model, X, T, **{**options, "epochs": 1})
    assert again["loss"][0] < history["loss"][0]


def test_samples_that_do_not_fit_on_the_device_are_moved_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    model, twin = (MLP([4, 5, 3], backend="torch", seed=1) for _ in range(2))
    move, moved = Feed._move, []

    def narrow(self: Feed, x: np.ndarray) -> Any:
        moved.append(len(x))
        if len(moved) == 1:
            raise SAYS["torch"]()
        return move(self, x)

    fit(twin, X, T, **TRAIN)
    with monkeypatch.context() as patch:
        patch.setattr(Feed, "_move", narrow)
        fit(model, X, T, **TRAIN)
    assert moved == [N, N, N]  # all at once in vain, then each epoch's chunk
    assert_same(model.backend.to_numpy(model.params), twin.backend.to_numpy(twin.params))


@pytest.mark.parametrize("name", ["asarray", "copied"])
def test_wherever_it_runs_out(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """The first, the second, ... array that is made does not fit: said alike each time, and nothing is the worse."""
    x, t = library.make(X), T
    where = {"asarray": (type(MLP([4, 5, 3], **library.where).backend),), "copied": (portnn.step, portnn.loop)}[name]
    options = {**TRAIN, "compile": False, "optimizer": "adam", "validation_data": (X, T), "sample_weight": np.ones(N)}
    options |= {"callbacks": lambda model, history: False}
    network = {**library.where, "seed": 1, "dropout": 0.1, "normalization": "batch"}
    twin = MLP([4, 5, 3], **network)
    fit(twin, x, t, **options)
    k, said = 0, set()
    while "done" not in said:
        model, calls = MLP([4, 5, 3], **network), 0
        k += 1
        whole = getattr(where[0], name)

        def crowded(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == k:  # noqa: B023
                raise SAYS.get(library.backend_name, MemoryError)()
            return whole(*arguments, **more)  # noqa: B023

        folder = str(tmp_path / f"{name}{k}")
        with monkeypatch.context() as patch:
            for place in where:
                patch.setattr(place, name, crowded)
            try:
                fit(model, x, t, **options, checkpoint=folder)
                said.add("done")
            except MemoryError as error:
                said.add(str(error).partition(" want")[0])
        assert np.isfinite(library.to_numpy(model.params)).all()
        fit(model := MLP([4, 5, 3], **network), x, t, **options, checkpoint=folder, resume=True)
        assert_same(library.to_numpy(model.params), library.to_numpy(twin.params))
    assert len(said) > 2
    assert all(text == "done" or (text.startswith("fit: ") and ": out of memory: " in text) for text in said), said


class Large(np.ndarray):
    """An array that can be referred to weakly."""


def test_what_failed_is_let_go() -> None:
    """The exception may be kept, by a debugger or a notebook; what the failed calls had made is not."""
    made = []

    def crowded() -> None:
        values = np.zeros(1000).view(Large)
        made.append(weakref.ref(values))
        raise MemoryError

    def called() -> None:
        crowded()

    with pytest.raises(MemoryError, match=r"^said$") as kept, enough(HOST, lambda: "said"):
        called()
    assert kept.value.__cause__ is not None
    assert made[0]() is None


def test_other_errors_stay_what_they_are(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MLP([4, 5, 3], **library.where)

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("something else")  # noqa: EM101

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "gather", broken)
        patch.setattr(Feed, "chunk", broken)
        for call in (partial(portnn.predict, model, X), partial(fit, model, X, T, **TRAIN)):
            with pytest.raises(ZeroDivisionError, match="something else"):
                call()


def test_the_bytes_are_counted() -> None:
    model = MLP([1000, 2000, 10], dtype="float32")
    said = outputs_want(model, 500, 8192, "predict", "predict(model, x[:{0}])")
    assert (
        f"about {4 * (500 * (1000 + 3000) + 500 * 10)} bytes" in said
    )  # 500 rows of inputs, of two layers, of outputs
    values, parameters = 2 * 3 * (1000 + 2000 + 10), 2 * 4 * (1000 * 2000 + 2000 + 2000 * 10 + 10)  # of two members
    said = training_wants(MLP([1000, 2000, 10], members=2, init="zeros", dtype="float64"), 5, 7)
    assert f"about {8 * (5 * 7 * 1000 + 7 * values + parameters)} bytes" in said
    assert "try batch_size=" not in training_wants(model, 1, 1)
    assert "take a smaller network" in training_wants(model, 1, 1)


# In a process of its own with little room beyond what is taken when it begins: the batch is what does not fit.
FOR_REAL = """
import resource, sys
import numpy as np
import portnn
from pathlib import Path
backend, room = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
x, t = rng.normal(size=(6000, 200)).astype("float32"), np.arange(6000) % 10
model = portnn.MLP([200, 16000, 10], backend=backend)
few = dict(optimizer="sgd", epochs=1, batch_size=8, progress=False)
portnn.fit(model, x[:16], t[:16], **few)  # what is set up once is set up
portnn.predict(model, x[:8]), portnn.evaluate(model, x[:8], t[:8])
before = np.array(model.backend.to_numpy(model.params))
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + room, resource.RLIM_INFINITY))
for name, call in {
    "predict": lambda: portnn.predict(model, x),
    "evaluate": lambda: portnn.evaluate(model, x, t),
    "fit": lambda: portnn.fit(model, x, t, **{**few, "batch_size": 6000}),
}.items():
    try:
        call()
    except MemoryError as error:
        print(error)
    assert np.array_equal(model.backend.to_numpy(model.params), before), name
    portnn.predict(model, x[:8]), portnn.evaluate(model, x[:8], t[:8])
history = portnn.fit(model, x[:16], t[:16], **few)
assert np.isfinite(history["loss"][0]) and np.isfinite(model.backend.to_numpy(model.params)).all()
"""

# The same with less and less room, so that each array of any size is once the one that does not fit.
LITTLE_BY_LITTLE = """
import resource, sys, tempfile
import numpy as np
import portnn
from pathlib import Path
backend = sys.argv[1]
rng = np.random.default_rng(0)
x, t = rng.normal(size=(3000, 300)), np.arange(3000) % 10
few = dict(epochs=2, batch_size=100, progress=False, seed=3)

def run(checkpoint, room=None, **more):
    model = portnn.MLP([300, 2000, 10], backend=backend, seed=1)
    said = "done"
    if room is not None:
        resource.setrlimit(resource.RLIMIT_AS, (taken + (room << 20), resource.RLIM_INFINITY))
    try:
        portnn.fit(model, x, t, validation_split=0.5, checkpoint=checkpoint, **few, **more)
    except MemoryError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return model, np.array(model.backend.to_numpy(model.params)), said

with tempfile.TemporaryDirectory() as folder:
    whole = run(f"{folder}/whole")[1]
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for room in (0, 4, 8, 16, 24, 32, 48, 64, 96, 400):
        model, params, said = run(f"{folder}/{room}", room)
        print(said.partition(" want")[0])
        if said == "done":
            assert np.array_equal(params, whole)
            continue
        assert np.isfinite(params).all()
        assert np.isfinite(portnn.fit(model, x[:100], t[:100], **{**few, "epochs": 1})["loss"][0])
        assert np.array_equal(run(f"{folder}/{room}", resume=True)[1], whole)
"""


def in_a_process(program: str, backend: str, *arguments: str) -> list[str]:
    """Return the lines that a program prints, whose memory may be limited."""
    if backend == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc and RLIMIT_AS")
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    environment["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)  # glibc keeps nothing larger that was freed, to give it again
    command = [sys.executable, "-c", program, backend, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_little_by_little(backend: str) -> None:
    """Whatever does not fit is said in the same way, the model goes on, and so does the training from its files."""
    said = {*in_a_process(LITTLE_BY_LITTLE, backend)}
    assert "done" in said
    assert all(text == "done" or (text.startswith("fit: ") and ": out of memory: " in text) for text in said), said
    assert len(said) > 1


@pytest.mark.parametrize("backend", ["numpy", "torch"])  # XLA ends the process where the system gives it nothing
def test_for_real(backend: str) -> None:
    predicted, evaluated, fitted = in_a_process(FOR_REAL, backend, str(256 << 20))
    assert predicted.startswith("predict: out of memory: 6000 of 6000 samples at once want about ")
    assert evaluated.startswith("evaluate: out of memory: 6000 of 6000 samples at once want about ")
    assert fitted.startswith("fit: out of memory: batches of 6000 samples want about ")
    assert "try batch_size=3000" in fitted
