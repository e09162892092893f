"""What ranks of MPI do in the tests: ``mpiexec -n 3 python -m mpi4py tests/ranks.py CASE '{"options": ...}'``.

A case is a function of the communicator and of options; what it returns on rank 0 is printed as one line of JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import portnn
from portnn import MLP, History, checkpoints, distributed, loop, reduced, saver
from portnn.feed import plan

N = 250
X = np.random.default_rng(0).normal(size=(N, 12)).astype("float32")
T = (X @ np.random.default_rng(1).normal(size=(12, 5))).argmax(axis=1)
WEIGHTS = np.random.default_rng(2).uniform(0.25, 4.0, N)
LAST = -1


class Kept:
    """An optimizer whose parameters become the gradient."""

    def init(self, params: Any) -> dict[str, Any]:
        return {}

    def row(self, step: int) -> tuple[float, ...]:
        return (0.0,)

    def update(self, params: Any, grad: Any, state: Any, h: Any, decayed: Any = None) -> tuple[Any, Any]:
        return params * h[0] + grad, state


def gradient(comm: Any, backend: str, hidden: list[int], batch_size: int, micro: int | None, **options: Any) -> Any:
    """Return the gradient of one batch, of all ranks together or, with no communicator, of one process."""
    model = MLP([12, *hidden, 5], activation="tanh", backend=backend, seed=3)
    weight = WEIGHTS if options.pop("weighted", False) else None
    told = {"optimizer": Kept(), "epochs": 1, "batch_size": batch_size, "micro_batch_size": micro, "shuffle": False}
    n = batch_size
    given = {"sample_weight": None if weight is None else weight[:n], "progress": False, "comm": comm}
    portnn.fit(model, X[:n], T[:n], **told, **given, **options)
    return model.backend.to_numpy(model.params).astype("float64").tolist()


MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "float64": {"dtype": "float64"},
    "everything": {"dtype": "float64", "dropout": 0.3, "normalization": "layer"},
    "members": {"dtype": "float64", "members": 3},
}


def outcome(model: MLP, history: History) -> dict[str, Any]:
    """Return all that a training ends with, arrays as lists."""
    assert history.reached is not None
    arrays = {"params": model.params, **history.reached.arrays}
    host = {name: model.backend.to_numpy(a) for name, a in arrays.items()}
    bits = b"".join(np.ascontiguousarray(host[name]).tobytes() for name in sorted(host))
    return {
        "arrays": {name: a.astype("float64").tolist() for name, a in host.items()},
        "digest": hashlib.sha256(bits).hexdigest(),
        "history": {name: values for name, values in history.to_dict().items() if name != "epoch_seconds"},
        "reached": list(history.reached[:2]),
        "interrupted": history.interrupted,
    }


def trained(comm: Any, backend: str = "numpy", kind: str = "float64", device: str | None = None, **options: Any) -> Any:
    """Train with much that can be asked for, and return what came of it."""
    made = {**MODELS[kind], "dtype": MODELS[kind].get("dtype", "float32"), "device": device}
    model = MLP([12, 9, 5], activation="tanh", backend=backend, seed=3, **made)
    if comm is not None and comm.Get_rank():
        model.params = model.backend.to_numpy(model.params) * 0.5  # those of rank 0 count
    given = {"sample_weight": WEIGHTS if options.pop("weighted", False) else None}
    rule, folder = getattr(portnn, options.pop("rule", "Adam"))(0.02), options.pop("folder", None)
    if folder is not None:
        given |= {"checkpoint": checkpoints.Checkpoints(folder, seconds=0.0), "resume": True}
    told = {"optimizer": rule, "epochs": 3, "batch_size": 48, "seed": 5, "progress": False, **given}
    history = portnn.fit(model, X, T, comm=comm, **{**told, **options})
    return outcome(model, history)


def added(comm: Any, backend: str, device: str | None = None) -> Any:
    """Return the sum over ranks of arrays that lie where a model of that backend has them, and how it was made."""
    model, group = MLP([2, 3], backend=backend, device=device), portnn.ranks.Ranks(comm, "added")
    mine = model.backend.asarray(np.arange(9.0, dtype="float32") * (comm.Get_rank() + 1.0))
    with group.at_work():
        total = model.backend.to_numpy(group.add(model.backend, mine)).tolist()
        assert group._reduce is not None
        return total, "host" if group._reduce.__name__ == "<lambda>" else "device"


def same_bits(comm: Any, backend: str, **options: Any) -> Any:
    """Compare the parameters of all ranks after every step, and return how many steps there were."""
    original, steps = reduced.Reduced._half, [0]

    def half(self: Any, name: str, *args: Any) -> Any:
        done, metrics = original(self, name, *args)
        if name == "update":
            host = {key: self.backend.to_numpy(done[key]) for key in sorted(done)}
            digest = hashlib.sha256(b"".join(a.tobytes() for key, a in host.items() if key != reduced.GRADIENT))
            assert len(set(comm.allgather(digest.hexdigest()))) == 1
            steps[0] += 1
        return done, metrics

    reduced.Reduced._half = half  # type: ignore[method-assign]
    return trained(comm, backend, **options), steps[0]


def spoiled(comm: Any, backend: str, rows: list[int], micro: int | None = None) -> Any:
    """Train on an activation that has a NaN for some samples, and return what each rank is told."""

    def root(z: Any) -> Any:
        with np.errstate(invalid="ignore"):
            y = z**0.5
        return y, lambda dy: (0.5 * dy / y,)

    x = np.ones((60, 3))
    x[rows] = -1.0
    model = MLP([3, 4, 2], activation=root, init=lambda key, i, o: np.ones((i, o)), dtype="float64", backend=backend)
    before = model.backend.to_numpy(model.params).copy()
    try:
        stop = portnn.callbacks.EarlyStopping("loss", patience=9)
        told = {"batch_size": 20, "micro_batch_size": micro, "shuffle": False, "progress": False, "compile": False}
        portnn.fit(model, x, np.arange(60) % 2, comm=comm, callbacks=stop, **told)
    except portnn.NonFiniteError as error:
        same = bool((model.backend.to_numpy(model.params) == before).all()) or error.batch != 1
        return comm.allgather([str(error), error.batch, error.array, list(error.samples), error.n_samples, same])
    return None


def diverged(comm: Any) -> Any:
    """Train until there is a NaN, and return the parameters that early stopping has put back on each rank."""
    model, stop = MLP([12, 5], dtype="float64", seed=1), portnn.callbacks.EarlyStopping("loss", patience=99)
    told = {"loss": "mse", "optimizer": portnn.SGD(1e4), "epochs": 99, "progress": False, "callbacks": stop}
    try:
        portnn.fit(model, X, np.eye(5)[T], comm=comm, **told)
    except portnn.NonFiniteError:
        return comm.allgather(hashlib.sha256(model.params.tobytes()).hexdigest())
    return None


def shuffled(comm: Any) -> Any:
    """Train with an order that every rank would draw otherwise, and return what all ended with, and what one does."""
    rng = np.random.default_rng(comm.Get_rank())
    found = trained(comm, shuffle=lambda epoch: rng.permutation(N))
    rng = np.random.default_rng(0)
    return comm.allgather(found["digest"]), found, trained(None, shuffle=lambda epoch: rng.permutation(N))


def plateaus(comm: Any) -> Any:
    """Train members with schedules that observe, on the ranks and in one process; or one that diverges."""
    made = {"members": 4, "dtype": "float64", "seed": 4}
    rates = [
        [portnn.schedules.ReduceOnPlateau(0.1 * i + 0.1, patience=0, threshold=0.9) for i in range(4)] for _ in "ab"
    ]
    model, one = (MLP([12, 5], **made) for _ in range(2))
    options, t = {"loss": "mse", "epochs": 5, "progress": False}, np.eye(5)[T]
    distributed.fit_members(model, X, t, comm=comm, optimizer=portnn.SGD(rates[0]), **options)
    portnn.fit(one, X, t, optimizer=portnn.SGD(rates[1]), **options)
    same = [a.state() == b.state() for a, b in zip(*rates, strict=True)]
    before = model.params.copy()
    wild = [portnn.schedules.ReduceOnPlateau(rate, patience=0, threshold=0.9) for rate in (0.1, 0.1, 1e300, 0.1)]
    states = [schedule.state() for schedule in wild]
    order = {"shuffle": lambda epoch: time.sleep(0.02 * comm.Get_rank()) or np.arange(N)}
    try:
        distributed.fit_members(model, X, t, comm=comm, optimizer=portnn.SGD(wild), **options, **order)
    except portnn.NonFiniteError as error:
        as_before = (model.params == before).all() and [schedule.state() for schedule in wild] == states
        told = [same, list(error.members), str(error), bool(as_before)]
        again = distributed.fit_members(model, X, t, comm=comm, optimizer=portnn.SGD(0.01), **options)
        return comm.allgather([*told, len(again["loss"])])
    return None


class Callback:
    """Does what it is told at the beginning, after each epoch, and in the end."""

    def __init__(self, begin: Any = None, each: Any = None, end: Any = None) -> None:
        self.begin, self.each, self.end = begin, each, end

    def __call__(self, model: MLP, history: History) -> None:
        if self.each:
            self.each(model)

    def on_begin(self, model: MLP, history: History) -> None:
        if self.begin:
            self.begin(model)

    def on_end(self, model: MLP, history: History) -> None:
        if self.end:
            self.end(model)


def press(*_: Any) -> None:
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def pressed_at_once(comm: Any) -> Any:
    """Press Ctrl-C before the first step, where it takes longer to end than the others would wait for a failure."""
    portnn.ranks.PATIENCE, ended = 0.2, []
    slow = Callback(begin=press, end=lambda _: ended.append(time.sleep(1.0)))
    model = MLP([12, 5], seed=comm.Get_rank())
    before = model.params.copy()
    try:
        portnn.fit(model, X, T, comm=comm, callbacks=slow, progress=False)
    except KeyboardInterrupt:
        return comm.allgather([len(ended), bool((model.params == before).all())])
    return None


def pressed_while_waiting(comm: Any) -> Any:
    """Press Ctrl-C on a rank whose members are trained; return what became of the model, and how far others came."""
    portnn.ranks.PATIENCE, epochs = 0.2, [0]

    def order(epoch: int) -> Any:
        epochs[0] += 1
        time.sleep(0.05 * comm.Get_rank())
        return np.arange(N)

    if comm.Get_rank() == 0:
        threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    model = MLP([12, 5], members=3, seed=1)
    before = model.params.copy()
    try:
        distributed.fit_members(model, X, T, comm=comm, epochs=100, progress=False, shuffle=order)
    except KeyboardInterrupt:
        return comm.allgather([epochs[0], bool((model.params == before).all())])
    return None


def ended_badly(comm: Any) -> Any:
    """Fail in a callback, and then at the end in another, behind one that has changed the model."""

    def no_room(model: MLP) -> None:
        raise OSError(28, "No space left on device")

    def zeros(model: MLP) -> None:
        model.params = model.params * 0.0

    model = MLP([12, 5], seed=1)
    given = [Callback(each=no_room, end=zeros), Callback(end=lambda _: fail("raise"))]
    try:
        portnn.fit(model, X, T, comm=comm, callbacks=given, progress=False)
    except Exception as error:
        return comm.allgather([type(error).__name__, float(abs(model.params).sum())])
    return None


def left_early(comm: Any) -> Any:
    """Leave before the first has told what its callbacks left, and call ``fit`` again, where that would come in."""
    if comm.Get_rank() == 1:

        def fails(self: Any) -> None:
            loop.Loop._hold_as_the_first = original  # type: ignore[method-assign]
            fail("raise")

        original, loop.Loop._hold_as_the_first = loop.Loop._hold_as_the_first, fails  # type: ignore[method-assign]
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError, portnn.RankError):
            portnn.fit(MLP([12, 5], seed=1), X, T, epochs=1, comm=comm, callbacks=print, progress=False)
    return "came back"


def refused(comm: Any, what: str, folder: str) -> Any:
    """Fail on one rank, and return what each is told."""
    rank, model, options = comm.Get_rank(), MLP([12, 5]), {"epochs": 2}
    x, t = X, T

    def fails(model: MLP, history: History) -> None:
        raise LookupError(f"epoch {len(history['loss'])}")

    if what == "labels" and rank == 1:
        t = T + 10
    elif what == "other labels" and rank == 1:
        t = T[::-1]
    elif what == "batch size":
        options["batch_size"] = 10 + rank
    elif what == "callback":
        options["callbacks"] = fails
    elif what == "end":
        options["callbacks"] = type("End", (), {"__call__": lambda *_: None, "on_end": lambda self, *_: fails(*_)})()
    elif what == "disk":
        options["checkpoint"] = folder

        def no_room(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        saver.Saver._write = no_room  # type: ignore[method-assign, assignment]
    elif what == "batch norm":
        model = MLP([12, 5, 5], normalization="batch")
    elif what == "mean":
        options["loss"] = portnn.losses.Loss("mean", lambda y, t: ((y * y).mean(), lambda d: (2 * y * d,)), "values")
        t = np.eye(5)[T]
    elif what == "validation" and rank == 1:
        options["validation_data"] = (X, T)
    elif what == "library" and rank == 1:
        model = MLP([12, 5], backend="array_api_strict")
    elif what == "epochs":
        options["epochs"] = 2 + rank
    elif what == "seed":
        options["seed"] = None
    elif what in ("windows", "files"):
        if rank == 0:
            np.save(f"{folder}/x.npy", X)
            np.save(f"{folder}/t.npy", T)
        comm.Barrier()
        memory = {"memory": 4 * (48 + 48) * (40 if rank else 800)} if what == "windows" else {}
        stream = portnn.datasets.Stream(f"{folder}/x.npy", f"{folder}/t.npy", block_rows=10, **memory)
        if what == "windows":
            options["validation_data"] = stream
        elif rank == 0:
            x, t = stream, None
        options["shuffle"] = False
    elif what == "entry":
        options["callbacks"] = lambda _, history: history.setdefault("own", []).append(print)
    try:
        portnn.fit(model, x, t, comm=comm, progress=False, **options)
    except Exception as error:
        return comm.allgather([type(error).__name__, str(error)])
    return comm.allgather(["nothing", ""])


def pressed(comm: Any, folder: str) -> Any:
    """Press Ctrl-C on the last rank in the second epoch, and go on afterwards."""
    original, calls = loop.Loop._train, [0]

    def train(self: Any, *args: Any) -> None:
        calls[0] += 1
        if calls[0] == 2 and comm.Get_rank() == comm.Get_size() - 1:
            signal.raise_signal(signal.SIGINT)
        original(self, *args)

    loop.Loop._train = train  # type: ignore[method-assign]
    first = trained(comm, folder=folder)
    told = comm.allgather([first["interrupted"], first["reached"], first["digest"]])
    return told, trained(comm, folder=folder), signal.getsignal(signal.SIGINT) is signal.default_int_handler


def watched(comm: Any) -> Any:
    """Stop early by a callback of rank 0 that also writes down and changes the model."""

    def mine(model: MLP, history: History) -> None:
        history.setdefault("rank", []).append(comm.Get_rank())
        if len(history["loss"]) == 2:
            model.params = model.params * 0.5

    stop = portnn.callbacks.EarlyStopping("val_loss", patience=2, min_delta=10.0)
    model = MLP([12, 5], dtype="float64", seed=1)
    options = {"validation_split": 0.2, "epochs": 20, "callbacks": [mine, stop]}
    history = portnn.fit(model, X, T, comm=comm, progress=False, **options)
    found = outcome(model, history)
    return comm.allgather([found["digest"], found["history"]]), found


def sweep(comm: Any, members: int) -> Any:
    """Train members on the ranks, and in one process."""
    rates = np.geomspace(0.01, 1.0, members).tolist()
    made = {"members": members, "dropout": 0.2, "normalization": "batch", "seed": 4}
    options = {"optimizer": portnn.SGD(rates, momentum=0.9), "l2": [1e-4 * i for i in range(members)], "epochs": 3}
    model, one = (MLP([12, 6, 5], **made) for _ in range(2))
    history = distributed.fit_members(model, X, T, comm=comm, validation_split=0.2, progress=False, **options)
    alone = portnn.fit(one, X, T, validation_split=0.2, progress=False, **options)
    digests = comm.allgather(outcome(model, history)["digest"])
    return outcome(model, history), outcome(one, alone), digests, [model.running.tolist(), one.running.tolist()]


def streamed(comm: Any, folder: str, rule: str = "SGD") -> Any:
    """Train on files, and on the same samples in memory in the same order."""
    if comm.Get_rank() == 0:
        for i, part in enumerate(np.array_split(np.arange(N), 3)):
            np.save(f"{folder}/x{i}.npy", X[part])
            np.save(f"{folder}/t{i}.npy", T[part])
    comm.Barrier()
    stream = portnn.datasets.Stream(f"{folder}/x*.npy", f"{folder}/t*.npy", block_rows=7, memory=4 * (48 + 48) * 40)
    rule = {"optimizer": getattr(portnn, rule)(0.1), "epochs": 3, "batch_size": 32, "seed": 2, "comm": comm}
    told = {**rule, "progress": False, "sample_weight": WEIGHTS}
    models = [MLP([12, 9, 5], dropout=0.2, seed=1) for _ in range(2)]
    first = portnn.fit(models[0], stream, **told, validation_data=stream)
    second = portnn.fit(models[1], X, T, **told, shuffle=lambda epoch: stream.order(2, epoch), validation_data=(X, T))
    return [outcome(model, history) for model, history in zip(models, (first, second), strict=True)]


def one_by_one(comm: Any, what: str, told: list[dict[str, Any]]) -> Any:
    """Return what a case gives with some options, and then with others."""
    return [globals()[what](comm, **options) for options in told]


# -- ranks that end ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_chunks() -> Iterator[None]:
    """Look at the host after every second step."""
    before, loop.plan = loop.plan, lambda n, size, most: plan(n, size, 2 * size)
    try:
        yield
    finally:
        loop.plan = before


def fail(how: str) -> None:
    """End this process in one of the ways that there are."""
    if how == "raise":
        message = "on purpose"
        raise ZeroDivisionError(message)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        sys.exit(3)
    os._exit(0)


PLACES: dict[str, Callable[[], tuple[Any, str, int]]] = {
    "samples": lambda: (portnn.preparation, "checked", 1),
    "agreement": lambda: (portnn.preparation, "check_alike", 1),
    "begin": lambda: (loop.Loop, "_be_as_the_first", 1),
    "step": lambda: (reduced.Reduced, "run", 4),
    "gradient": lambda: (reduced.Reduced, "_half", 8),
    "chunk": lambda: (loop, "read_back", 4),
    "validation": lambda: (loop, "judged", 2),
    "save": lambda: (loop.Loop, "_save", 3),
    "file": lambda: (portnn.storage, "atomic_write", 3),
}


def struck(comm: Any, how: str, where: str, rank: int, folder: str) -> Any:
    """Train with checkpoints, and end a rank somewhere on the way; ``done`` is written by a training that ends."""
    portnn.ranks.PATIENCE = portnn.ranks.PATIENCE if where == "step" else 0.5
    if comm.Get_rank() == rank % comm.Get_size():
        if where == "start":
            fail(how)
        owner, name, number = PLACES[where]()
        original, calls = getattr(owner, name), [0]

        def called(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                fail(how)
            return original(*args, **kwargs)

        setattr(owner, name, called)
    with small_chunks():
        trained(comm, folder=f"{folder}/run", validation_split=0.2, epochs=4)
    Path(folder, f"done-{comm.Get_rank()}").touch()
    return "done"


def main() -> None:
    """Run a case."""
    warnings.simplefilter("error")
    comm = distributed.world()
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # ranks would read what another has half written
        os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder, f"rank-{comm.Get_rank()}")
    result = globals()[sys.argv[1]](comm, **json.loads(sys.argv[2]))
    if comm.Get_rank() == 0:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
