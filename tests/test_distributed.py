"""Ranks of MPI that train together: what they compute is what one process does, and none waits for one that has gone.

Each case runs in processes that mpiexec starts, see ``ranks.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import tolerances
from libraries import LIBRARIES as LIBRARY
from tolerances import assert_same, assert_within

import portnn
from portnn.errors import NonFiniteError, RankError
from portnn.group import Group
from portnn.ranks import Ranks

BIN = Path(sys.prefix, "bin")
MPIEXEC = shutil.which("mpiexec", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None, reason="no mpiexec or no mpi4py on this system"
)


def start(n: int, case: str, **options: Any) -> subprocess.Popen[str]:
    """Start a case on ranks of its own, in a group of processes that can be looked at and ended."""
    command = [str(MPIEXEC), "-n", str(n), sys.executable, "-m", "mpi4py", str(HERE / "ranks.py"), case]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_ENABLE_X64": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen([*command, json.dumps(options)], env=known, text=True, start_new_session=True, **pipes)


def end(process: subprocess.Popen[str]) -> list[int]:
    """End what is left of a job, and return what that was."""
    left = processes_of(process.pid)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def on_ranks(n: int, case: str, **options: Any) -> Any:
    """Return what a case gives on rank 0."""
    process = start(n, case, **options)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == 0, f"{out}\n{err}"
    return json.loads(out.splitlines()[-1])


def one_by_one(n: int, case: str, told: list[dict[str, Any]]) -> list[Any]:
    """Return what a case gives with some options, and then with others, on the same ranks."""
    found: list[Any] = on_ranks(n, "one_by_one", what=case, told=told)
    return found


def there(backend: str) -> str:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    return backend


LIBRARIES = ["numpy", "torch", "jax"]

# -- the same numbers -------------------------------------------------------------------------------------------------


def delta(params: np.ndarray, weighted: bool, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the inputs of the last layer of 12-7-5, their deltas, and those of the first, in float64."""
    w0, b0 = params[:84].reshape(12, 7), params[84:91]
    w1, b1 = params[91:126].reshape(7, 5), params[126:]
    x = ranks.X[:n].astype("float64")
    hidden = np.tanh(x @ w0 + b0)
    y = hidden @ w1 + b1
    y = np.exp(y - y.max(axis=1, keepdims=True))
    share = ranks.WEIGHTS[:n] / ranks.WEIGHTS[:n].sum() if weighted else np.full(n, 1.0 / n)
    last = (y / y.sum(axis=1, keepdims=True) - np.eye(5)[ranks.T[:n]]) * share[:, None]
    return hidden, last, (last @ w1.T) * (1.0 - hidden**2)


@pytest.mark.parametrize("backend", LIBRARIES)
@pytest.mark.parametrize(
    ("n", "samples", "micro"), [(2, 250, None), (3, 250, None), (4, 250, 17), (4, 3, None), (1, 250, 60)]
)
def test_gradients_are_those_of_one_process(backend, n, samples, micro):
    """The promise: 250 samples in uneven parts, within 16 u |X|^T|D|; a rank may have none of a batch."""
    options = {"backend": there(backend), "hidden": [7], "batch_size": samples}
    told = [{**options, "micro": micro, "weighted": weighted} for weighted in (False, True)]
    for found, weighted in zip(one_by_one(n, "gradient", told), (False, True), strict=True):
        one = np.asarray(ranks.gradient(None, micro=None, weighted=weighted, **options))
        params = portnn.MLP([12, 7, 5], activation="tanh", seed=3).params.astype("float64")
        hidden, last, first = delta(params, weighted, samples)
        ones = np.ones((samples, 1))
        bound = [tolerances.of_ranks(ranks.X[:samples], first, "float32"), tolerances.of_ranks(ones, first, "float32")]
        bound += [tolerances.of_ranks(hidden, last, "float32"), tolerances.of_ranks(ones, last, "float32")]
        assert_within(np.asarray(found), one, np.concatenate([b.reshape(-1) for b in bound]))
        exact = np.concatenate([(ranks.X[:samples].astype("float64").T @ first).reshape(-1), first.sum(axis=0)])
        assert_within(np.asarray(found)[:91], exact, 4 * np.concatenate([b.reshape(-1) for b in bound[:2]]))


@pytest.mark.parametrize("backend", LIBRARIES)
@pytest.mark.parametrize("n", [2, 3])
def test_all_ranks_have_the_same_bits_after_every_step(backend, n):
    _, steps = on_ranks(n, "same_bits", backend=there(backend), kind="everything", weighted=True)
    assert steps == 3 * 6


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weights": {"weighted": True, "l2": 1e-2, "validation_split": 0.2},
    "per batch": {"weighted": True, "l2": 1.0, "l1": 0.1, "per_batch": True},
    "clipped": {"clip_norm": 0.1, "batch_size": 250, "micro_batch_size": 11},
    "in order": {"shuffle": False, "batch_size": 7, "micro_batch_size": 2, "l2": 1e-2},
    "by the loop": {"compile": False},
    "a last batch of one": {"weighted": True, "batch_size": 83, "l2": 1e-2},
    "large batches": {"rule": "LAMB", "batch_size": 125},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["everything", "members"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_training_is_that_of_one_process(name, kind, n):
    found = on_ranks(n, "trained", kind=kind, **OPTIONS[name])
    one = ranks.trained(None, kind=kind, **{k: v for k, v in OPTIONS[name].items() if k != "micro_batch_size"})
    check_same(found, one)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_training_on_another_library_is_that_of_one_process(backend):
    options = {"kind": "everything", **OPTIONS["weights"]}
    found = on_ranks(2, "trained", backend=there(backend), **options)
    check_same(found, ranks.trained(None, **options))


ON_GPUS = {name: LIBRARY[name] for name in ("cupy", "torch-cuda", "jax-cuda")}


@pytest.mark.parametrize("name", ON_GPUS)
@pytest.mark.parametrize("n", [1, 2])
def test_a_training_on_a_gpu_is_that_of_one_process(name, n):
    """Two ranks that share a GPU add up in the memory of the host."""
    where = on_gpu(name)
    options = {"kind": "everything", **OPTIONS["weights"]}
    check_same(on_ranks(n, "trained", **where, **options), ranks.trained(None, **options))


@pytest.mark.parametrize("name", ["numpy", "torch", *ON_GPUS])
@pytest.mark.parametrize("n", [1, 2])
def test_arrays_are_added_where_they_lie(name, n):
    """One rank alone has a GPU of its own, and adds up by NCCL; two share one here."""
    where = on_gpu(name) if name in ON_GPUS else {"backend": there(name)}
    total, how = on_ranks(n, "added", **where)
    assert total == [k * n * (n + 1) / 2 for k in range(9)]
    assert how == ("device" if n == 1 and name in ("cupy", "torch-cuda") else "host")


def on_gpu(name: str) -> dict[str, Any]:
    if ON_GPUS[name].why_not:
        pytest.skip(ON_GPUS[name].why_not)
    return {"backend": ON_GPUS[name].backend_name, "device": ON_GPUS[name].device_name}


def check_same(found: Any, expected: Any, steps: str = "adam") -> None:
    """Up to rounding, which in float64 stays below the bar of 300 steps."""
    assert found["reached"] == expected["reached"]
    assert found["history"].keys() == expected["history"].keys()
    for part in ("arrays", "history"):
        for name, values in expected[part].items():
            bound = tolerances.BARS[steps]["float64"] * max(1.0, float(np.abs(values).max()))
            assert_within(found[part][name], values, bound)


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_a_stream_on_ranks_is_the_same_samples_in_memory(tmp_path, rule):
    """To the bit: each rank has the same rows of every batch."""
    streamed, in_memory = on_ranks(3, "streamed", folder=str(tmp_path), rule=rule)
    assert streamed["digest"] == in_memory["digest"]
    for name, values in in_memory["history"].items():  # sums of chunks that are cut otherwise
        assert_within(streamed["history"][name], values, tolerances.few_steps(values, "float32"))


@pytest.mark.parametrize(("n", "members"), [(2, 5), (3, 2), (1, 3)])
def test_members_on_ranks_are_those_of_one_process(n, members):
    found, one, digests, running = on_ranks(n, "sweep", members=members)
    assert len(set(digests)) == 1
    assert found["history"].keys() == one["history"].keys()
    for name, a in one["arrays"].items():
        assert_within(found["arrays"][name], a, tolerances.first_gradient(a, "float32"))
    assert_within(running[0], running[1], tolerances.first_gradient(running[1], "float32"))
    for name, values in one["history"].items():
        assert_within(found["history"][name], values, tolerances.few_steps(values, "float32"))
    assert found["reached"] == one["reached"]


def test_the_example_prints_and_writes_once(tmp_path):
    example = HERE.parent / "examples" / "mnist.py"
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "mpi4py", str(example), "--distributed"]
    options = ["--dataset", "digits", "--epochs", "3", "--save", "model.safetensors", "--report", "report.json"]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], cwd=tmp_path, env=known, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("ranks     2, which share every batch") == 1
    assert done.stdout.count("epoch   3/3") == 1
    report = json.loads((tmp_path / "report.json").read_text())
    _, _, x_test, t_test = portnn.datasets.load_digits()
    model = portnn.MLP.load(tmp_path / "model.safetensors")
    assert report["test_accuracy"] == portnn.evaluate(model, x_test, t_test)["accuracy"] > 0.7
    assert len(report["history"]["val_accuracy"]) == 3


# -- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [1, 2, 3])
def test_another_number_of_ranks_goes_on(tmp_path, then):
    options = {"kind": "everything", **OPTIONS["weights"]}
    on_ranks(2, "trained", folder=str(tmp_path / "run"), epochs=2, **options)
    found = on_ranks(then, "trained", folder=str(tmp_path / "run"), epochs=4, **options)
    check_same(found, ranks.trained(None, epochs=4, **options))
    if then == 2:
        assert found["digest"] == on_ranks(2, "trained", epochs=4, **options)["digest"]


def test_one_process_goes_on(tmp_path):
    on_ranks(2, "trained", folder=str(tmp_path / "run"), epochs=2)
    found = ranks.trained(None, folder=str(tmp_path / "run"), epochs=4)
    check_same(found, ranks.trained(None, epochs=4))


def test_ctrl_c_on_one_rank_ends_all_and_is_gone_on_from(tmp_path):
    told, found, as_before = on_ranks(3, "pressed", folder=str(tmp_path / "run"))
    assert all(interrupted for interrupted, *_ in told)
    assert [reached for _, reached, _ in told] == [[1, 11]] * 3
    assert len({digest for *_, digest in told}) == 1
    assert as_before
    assert found["digest"] == on_ranks(3, "trained")["digest"]


def test_ctrl_c_before_the_first_step_leaves_everything_as_it_was():
    assert on_ranks(2, "pressed_at_once") == [[1, True], [0, True]]


def test_ctrl_c_on_a_rank_that_waits_ends_the_members_of_others():
    (first, as_before), (second, as_before_there) = on_ranks(2, "pressed_while_waiting")
    assert (first, as_before, as_before_there) == (100, True, True)
    assert 1 < second < 100


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_callbacks_are_those_of_rank_0_and_all_have_what_they_leave():
    each, found = on_ranks(2, "watched")
    assert each[0] == each[1]
    assert found["history"]["rank"] == [0, 0, 0]
    assert len(found["history"]["loss"]) == 3


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("micro", [None, 2])
def test_a_nan_is_told_to_all_with_the_samples_of_all(backend, micro):
    spoiled = [[3], [27], [41, 42, 59]]
    told = [{"backend": there(backend), "rows": rows, "micro": micro} for rows in spoiled]
    for rows, each in zip(spoiled, one_by_one(3, "spoiled", told), strict=True):
        assert all(told == each[0] for told in each)
        text, batch, array, samples, n_samples, same = each[0]
        assert (batch, array, samples, n_samples, same) == (rows[0] // 20 + 1, "outputs", rows, len(rows), True)
        assert f"epoch 1, batch {batch}" in text
        assert f"for {len(rows)} of 20 samples" in text


def test_what_callbacks_put_back_after_a_nan_is_put_back_on_all():
    assert len(set(on_ranks(3, "diverged"))) == 1


def test_what_callbacks_leave_is_that_of_all_where_another_fails_in_the_end():
    assert on_ranks(2, "ended_badly") == [["ZeroDivisionError", 0.0], ["RankError", 0.0]]


def test_a_rank_that_leaves_before_it_was_told_ends_all():
    """Or the next training would be told what was meant for this one."""
    process = start(2, "left_early")
    try:
        out, err = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode, out
    assert "fit: rank 1 of 2 ends the job" in err
    assert "on purpose" in err
    assert "came back" not in out


def test_an_order_of_ones_own_is_that_of_rank_0():
    digests, found, one = on_ranks(2, "shuffled")
    assert len(set(digests)) == 1
    check_same(found, one)


def test_members_that_plateau_or_diverge_are_those_of_the_ensemble():
    each = on_ranks(2, "plateaus")
    assert [same for same, *_ in each] == [[True] * 4] * 2
    assert [members for _, members, *_ in each] == [[2]] * 2
    assert all("of members 2 to 3, here counted from 0: fit: epoch 1" in text for _, _, text, *_ in each)
    assert all(as_it_was for *_, as_it_was, _ in each)
    assert [epochs for *_, epochs in each] == [5] * 2  # of the next call, which hears nothing of this one


REFUSED = {
    "labels": ("RankError", "rank 1 of 2 ended with ValueError: fit: label 1", 1, "ValueError"),
    "other labels": ("ValueError", "rank 1 has t=int32 .* rank 0 int32 .*; all must be given the same", 1, None),
    "batch size": ("ValueError", "rank 1 has batch_size=11, rank 0 10; all must be given the same", 1, None),
    "validation": ("ValueError", "rank 1 has validation x=", 1, None),
    "library": ("ValueError", "rank 1 has library=array_api_strict, rank 0 numpy; all must be given the same", 1, None),
    "epochs": ("ValueError", "rank 1 has epochs=3, rank 0 2; all must be given the same", 1, None),
    "seed": ("nothing", "", 0, None),
    "entry": ("TypeError", r"history\['own'\] holds what cannot be sent to other ranks", 1, "RankError"),
    "callback": ("LookupError", "epoch 1", 1, "RankError"),
    "end": ("LookupError", "epoch 2", 1, "RankError"),
    "disk": ("OSError", "No space left on device", 1, "RankError"),
    "batch norm": ("ValueError", "takes the statistics of whole batches, which comm cuts into parts", 1, None),
    "windows": ("ValueError", "rank 1 has validation samples in=windows of 40 rows .*, rank 0 windows of 800", 1, None),
    "files": ("ValueError", "rank 1 has samples in=memory, rank 0 files; all must be given the same", 1, None),
    "mean": ("ValueError", r"one number per batch: parts of a batch \(micro_batch_size, comm\) need one per", 1, None),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_one_rank_refuses_all_refuse(tmp_path, what):
    """With an error of its own on that rank, and one that names it on the others; nobody waits."""
    kind, words, rank, other = REFUSED[what]
    each = on_ranks(2, "refused", what=what, folder=str(tmp_path))
    assert [name for name, _ in each] == [kind, other or kind]
    assert re.search(words, each[0][1]), each
    assert each[rank][1] or kind == "nothing"


WAYS = ["raise", "kill", "exit", "leave"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    ("where", "rank"),
    [("start", 0), ("start", -1)]
    + [(w, -1) for w in ranks.PLACES if w != "file"]
    + [("save", 0), ("file", 0), ("step", 0)],
)
def test_a_rank_that_ends_ends_all(tmp_path, how, where, rank):
    """Within 10 s, with a status that is not 0 or without a record that it is done; the last checkpoint loads."""
    began = time.monotonic()
    process = start(2 + (where == "step"), "struck", how=how, where=where, rank=rank, folder=str(tmp_path))
    try:
        out, err = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    finally:
        left = end(process)
    assert seconds < SECONDS, f"{seconds:.1f} s\n{err}"
    assert not left
    assert not list(tmp_path.glob("done-*")), out
    assert process.returncode != 0 or how == "leave", f"{out}\n{err}"
    if how == "raise":
        assert "ZeroDivisionError: on purpose" in err
    if where in ("save", "file", "validation") and list((tmp_path / "run").glob("*")):
        _, history = portnn.load_checkpoint(tmp_path / "run")
        assert history.reached is not None
    found = on_ranks(2, "trained", folder=str(tmp_path / "run"), validation_split=0.2, epochs=4)
    assert found["reached"][0] == 4


SECONDS = 10.0


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that are still there, zombies apart."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat") if Path("/proc").is_dir() else ():
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended
            continue
        if int(of) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


# -- in one process ---------------------------------------------------------------------------------------------------


def test_what_is_no_communicator_is_refused():
    with pytest.raises(TypeError, match=r"^fit: comm must be a communicator of mpi4py, such as portnn\.distributed"):
        portnn.fit(portnn.MLP([12, 5]), ranks.X, ranks.T, comm="world")
    with pytest.raises(TypeError, match=r"^fit_members: comm must be a communicator of mpi4py"):
        portnn.distributed.fit_members(portnn.MLP([12, 5], members=2), ranks.X, ranks.T, comm=3)


BAD_MEMBERS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "a single network": ({}, None, "the model is a single network; make it with members=M, or use fit"),
    "checkpoints": ({"checkpoint": "run"}, 2, "checkpoint is about all members, of which a rank has some"),
    "callbacks": ({"callbacks": [print]}, 2, "callbacks is about all members"),
    "rates": (
        {"optimizer": portnn.SGD([0.1, 0.2, 0.3])},
        2,
        "SGD: learning_rate has 3 entries, the model has 2",
    ),
    "penalties": ({"l2": [0.1]}, 2, "l2 has 1 entries, the model has 2 members"),
    "one plateau": (
        {"optimizer": portnn.SGD(portnn.schedules.ReduceOnPlateau(0.1))},
        2,
        "ReduceOnPlateau would observe the mean of some members; give each its own",
    ),
}


@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_what_members_on_ranks_cannot_have_is_refused(name):
    options, members, words = BAD_MEMBERS[name]
    model = portnn.MLP([12, 5], members=members)
    with pytest.raises(ValueError, match=f"^fit(_members)?: {words}"):
        portnn.distributed.fit_members(model, ranks.X, ranks.T, comm=portnn.distributed.world(), **options)


def test_a_share_is_as_many_as_any_other_or_one_more():
    group = Group()
    for n in (0, 1, 5, 17):
        for size in (1, 2, 3, 7):
            shares = []
            for group.rank in range(size):
                group.size = size
                shares.append(group.share(n))
            assert [i for share in shares for i in range(n)[share]] == list(range(n))
            assert {share.stop - share.start for share in shares} <= {n // size, -(-n // size)}


def test_a_communicator_of_one_is_one_process():
    comm = portnn.distributed.world()
    assert ranks.trained(comm)["digest"] == ranks.trained(None)["digest"]
    assert portnn.distributed.local_rank(comm) == 0
    with pytest.raises(ValueError, match="intracommunicator"):
        Ranks(type(comm)(), "fit")


def test_errors_of_others_keep_what_they_know():
    error = NonFiniteError("fit: x", epoch=2, batch=3, array="x", samples=(1, 2), n_samples=2)
    assert vars(NonFiniteError(str(error), **error.fields)) == vars(error)
    assert issubclass(RankError, RuntimeError)


@pytest.mark.parametrize("micro", [1, 7, 64, 1000])
def test_micro_batches_are_the_batch(micro):
    options = {"kind": "everything", **OPTIONS["weights"]}
    check_same(ranks.trained(None, micro_batch_size=micro, **options), ranks.trained(None, **options))


def test_a_micro_batch_as_large_as_the_batch_is_the_batch():
    assert ranks.trained(None, micro_batch_size=48)["digest"] == ranks.trained(None)["digest"]


def test_micro_batches_that_cannot_be_compiled_are_run_by_the_loop(monkeypatch):
    """All halves of a step, also those that were recorded already."""
    expected = ranks.trained(None, micro_batch_size=7, compile=False)
    monkeypatch.setattr(portnn.backends.replay._Replay, "_same", lambda *_: False)
    with pytest.warns(RuntimeWarning, match="steps run one by one, they cannot be compiled") as said:
        found = ranks.trained(None, micro_batch_size=7)
    assert len(said) == 1
    assert said[0].filename == ranks.__file__
    assert found["digest"] == expected["digest"]


def test_micro_batches_name_the_sample_that_is_not_finite(library):
    def root(z: Any) -> Any:
        y = z**0.5
        return y, lambda dy: (0.5 * dy / y,)

    x = np.ones((60, 3))
    x[27] = -1.0
    model = portnn.MLP(
        [3, 4, 2], activation=root, init=lambda key, i, o: np.ones((i, o)), dtype="float64", **library.where
    )
    options = {"batch_size": 20, "micro_batch_size": 3, "shuffle": False, "compile": False, "progress": False}
    with pytest.raises(NonFiniteError, match=r"epoch 1, batch 2: .*for 1 of 20 samples") as caught:
        portnn.fit(model, x, np.arange(60) % 2, **options)
    assert caught.value.samples == (27,)


def test_micro_batches_on_every_library(library):
    model, one = (portnn.MLP([12, 7, 5], seed=2, **library.where) for _ in range(2))
    options = {"epochs": 2, "batch_size": 50, "progress": False, "optimizer": portnn.SGD(0.1, momentum=0.9), "l2": 1e-3}
    portnn.fit(one, ranks.X, ranks.T, **options)
    portnn.fit(model, ranks.X, ranks.T, micro_batch_size=16, **options)
    found, expected = (library.to_numpy(m.params) for m in (model, one))
    assert_within(found, expected, tolerances.BARS["sgd"]["float32"] * np.abs(expected).max())


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "many"])
def test_a_micro_batch_is_a_count(bad):
    with pytest.raises(ValueError, match=r"^fit: micro_batch_size must be an int in the range \[1, inf\)"):
        portnn.fit(portnn.MLP([12, 5]), ranks.X, ranks.T, micro_batch_size=bad)


def test_words_of_dropout_do_not_depend_on_how_they_are_drawn():
    from portnn.dropout import sample_words

    whole = sample_words(3, 2, 100)
    for first, n in ((0, 100), (1, 5), (17, 30), (99, 1), (50, 0)):
        assert_same(sample_words(3, 2, n, first), whole[first : first + n])
    with pytest.raises(ValueError, match=r"words of numbers 0 to 2\*\*32 - 1"):
        sample_words(3, 2, 2, 2**32 - 1)
    assert len(sample_words(3, 2, 1, 2**32 - 1)) == 1
