"""One training in a folder at a time, and what a training that is refused leaves behind: nothing."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import kill
import numpy as np
import pytest
import runs
from tolerances import assert_same, assert_within, few_steps

import portnn
from portnn import MLP, SGD, Adam, Checkpoints, FormatError, NonFiniteError, files, load_checkpoint, schedules
from portnn.callbacks import EarlyStopping
from portnn.history import History

LOCKS = files.fcntl is not None
X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
LABELS = (X @ np.random.default_rng(1).normal(size=(4, 3))).argmax(axis=1)
IN_USE = "fit: the folder .* is in use by another training; wait until it has ended, or name another folder"


def network(**options: Any) -> MLP:
    return MLP([4, 6, 3], **{"activation": "tanh", **options})


def fit(model: MLP, folder: Any = None, **options: Any) -> History:
    defaults = {"optimizer": Adam(0.02), "epochs": 2, "batch_size": 10, "progress": False}
    where = {} if folder is None else {"checkpoint": Checkpoints(folder, seconds=0.0), "resume": True}
    with kill.small_chunks():
        return portnn.fit(model, X, LABELS, **{**defaults, **where, **options})


# -- locks ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not LOCKS, reason="nothing is locked on this system")
def test_a_second_training_in_a_folder_is_refused(tmp_path):
    """By the first step of the first, and whatever it wants there; reading is for everybody."""
    folder, seen = tmp_path / "run", []

    def second(model: MLP, history: History) -> None:
        other = network(seed=1)
        before = other.params.copy()
        for options in ({}, {"resume": False}, {"batch_size": 5}):
            with pytest.raises(BlockingIOError, match=IN_USE):
                fit(other, folder, **options)
        assert_same(other.params, before)
        seen.append(files.LOCK in os.listdir(folder))
        if len(history["loss"]) > 1:
            assert len(load_checkpoint(folder)[1]["loss"]) == len(history["loss"]) - 1

    fit(network(), folder, callbacks=second)
    assert seen == [True, True]
    assert files.LOCK not in os.listdir(folder)
    assert len(fit(network(), folder, epochs=3)["loss"]) == 3


@pytest.mark.skipif(not LOCKS, reason="nothing is locked on this system")
def test_a_second_training_in_a_thread_or_by_another_path_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("run")
    refused: list[str] = []

    def second() -> None:
        try:
            fit(network(), tmp_path / "link")
        except BlockingIOError as error:
            refused.append(str(error))

    def callback(model: MLP, history: History) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    fit(network(), tmp_path / "run", callbacks=callback, epochs=1)
    assert len(refused) == 1


@pytest.mark.skipif(not LOCKS, reason="nothing is locked on this system")
@pytest.mark.parametrize("how", ["spawn", "fork"])
def test_another_process_is_refused_and_children_hold_nothing(tmp_path, how):
    """A worker that outlives the training which it was forked from, does not keep others out."""
    if how == "fork" and not hasattr(os, "fork"):
        pytest.skip("the system has no fork")
    folder = tmp_path / "run"
    if how == "spawn":
        with files.alone(folder, "fit"), multiprocessing.get_context(how).Pool(1) as pool:
            assert pool.apply_async(runs.in_use, (folder,)).get(timeout=120)
            assert runs.in_use(folder)
        return
    program = """
import os, sys
from portnn import files
def in_use(folder):
    try:
        with files.alone(folder, "fit"):
            return False
    except BlockingIOError:
        return True
(reading, writing), (waiting, go) = os.pipe(), os.pipe()
with files.alone(sys.argv[1], "fit"):
    pid = os.fork()
    if not pid:
        os.close(go)
        os.write(writing, b"%d" % (in_use(sys.argv[1]) and not files._held))
        os.read(waiting, 1)
        os._exit(0)
    print(os.read(reading, 1), in_use(sys.argv[1]))
print(in_use(sys.argv[1]))
os.close(go)
os.waitpid(pid, 0)
"""  # in a process of its own: JAX, which may be here, is not to be forked
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["b'1'", "True", "False"], "")


@pytest.mark.skipif(not (LOCKS and hasattr(signal, "SIGKILL")), reason="nothing is locked, or nobody killed, here")
def test_the_lock_of_a_process_that_was_killed_is_gone(tmp_path):
    """Its file is left, and means nothing; nor does a worker that it had forked, and that lives on."""
    program = """
import os, sys
import numpy as np, portnn
x = np.ones((8, 1))
def wait(model, history):
    if not os.fork():
        print("there", flush=True)  # where what is done after a fork has been done
    os.read(0, 1)
    os._exit(0)
portnn.fit(portnn.MLP([1, 1]), x, x, loss="mse", checkpoint=sys.argv[1], progress=False, callbacks=wait)
"""
    folder, pipes = tmp_path / "run", {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, folder], **pipes) as process:
        assert process.stdout.readline().split() == [b"there"]
        assert runs.in_use(folder)
        process.kill()
        process.wait()
        assert os.listdir(folder) == [files.LOCK]
        fit(network(), folder)
        assert files.LOCK not in os.listdir(folder)


@pytest.mark.skipif(not LOCKS, reason="nothing is locked on this system")
def test_a_lock_that_is_taken_away_is_found_out(tmp_path, monkeypatch):
    """Between opening its file and locking it, who had the folder may let go and remove both."""
    flock, folder, steps = files.fcntl.flock, tmp_path / "run", []

    def slow(descriptor: int, how: int) -> None:
        steps.append(how)
        if len(steps) == 1:
            os.unlink(folder / files.LOCK)
            os.rmdir(folder)
        elif len(steps) == 2:
            os.unlink(folder / files.LOCK)
            (folder / files.LOCK).touch()
        flock(descriptor, how)

    monkeypatch.setattr(files.fcntl, "flock", slow)
    with files.alone(folder, "fit"):
        assert len(steps) == 3
        monkeypatch.setattr(files.fcntl, "flock", flock)
        assert runs.in_use(folder)
    assert not folder.exists()


@pytest.mark.parametrize("why", ["no locks", "Windows"])
def test_where_nothing_can_be_locked_everybody_is_let_in(tmp_path, monkeypatch, why):
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if why == "Windows" or not LOCKS:
        monkeypatch.setattr(files, "fcntl", None)
    else:
        monkeypatch.setattr(files.fcntl, "flock", refuse)
    with files.alone(tmp_path / "run", "fit"), files.alone(tmp_path / "run", "fit"):
        assert os.listdir(tmp_path / "run") == []
    fit(network(), tmp_path / "run")
    assert len(load_checkpoint(tmp_path / "run")[1]["loss"]) == 2


def test_a_folder_that_was_made_for_nothing_goes(tmp_path):
    """And one that was there stays, and so does its empty self."""
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with pytest.raises(NonFiniteError):
            fit(network(), tmp_path / name, optimizer=SGD(1e38))
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(tmp_path / "there") == []
    assert not files._held


# -- refused before the first step ------------------------------------------------------------------------------------


class Sets:
    """A callback that sets the parameters when training begins, and refuses if it is told to."""

    def __init__(self, value: Any = None, refuses: str = "", in_place: bool = False) -> None:
        self.value, self.refuses, self.in_place = value, refuses, in_place
        self.began: Any = None

    def on_begin(self, model: MLP, history: History) -> None:
        self.began = np.array(model.backend.to_numpy(model.params))
        if self.in_place:
            model.params[:] = self.value
        elif self.value is not None:
            model.params = np.full(model.params.shape, self.value, dtype="float32")
        if self.refuses == "on_begin":
            raise RuntimeError("no")  # noqa: EM101

    def __call__(self, model: MLP, history: History) -> None: ...

    def state(self) -> dict[str, Any]:
        if self.refuses == "state":
            raise RuntimeError("no")  # noqa: EM101
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        if self.refuses == "restore":
            raise RuntimeError("no")  # noqa: EM101


@pytest.mark.parametrize("refuses", ["on_begin", "state", "restore"])
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_training_that_is_refused_leaves_everything_as_it_was(tmp_path, refuses, resumed, in_place):
    def optimizer() -> SGD:
        return SGD(schedules.ReduceOnPlateau(0.5, factor=0.5, patience=0))

    if refuses == "restore" and not resumed:
        pytest.skip("nothing is restored")
    if resumed:
        fit(network(normalization="batch"), tmp_path / "run", callbacks=[Sets(), Sets()], optimizer=optimizer())
    there = sorted(os.listdir(tmp_path / "run")) if resumed else None
    model, rule = network(normalization="batch", seed=1), optimizer()
    before, running = model.params.copy(), model.running.copy()
    callbacks = [Sets(0.5, in_place=in_place), Sets(refuses=refuses)]
    with pytest.raises(RuntimeError, match="no"):
        fit(model, tmp_path / "run", callbacks=callbacks, optimizer=rule, epochs=5)
    assert_same(model.params, before)
    assert_same(model.running, running)
    assert repr(rule) == repr(optimizer())
    assert rule.learning_rate == optimizer().learning_rate
    assert (sorted(os.listdir(tmp_path / "run")) if resumed else not (tmp_path / "run").exists()) == (there or True)


def test_a_state_that_is_refused_leaves_the_model_though_early_stopping_has_its_best(tmp_path):
    fit(network(), tmp_path / "run", callbacks=[EarlyStopping("loss"), Sets()])
    model = network(seed=1)
    before = model.params.copy()
    with pytest.raises(RuntimeError, match="no"):
        fit(model, tmp_path / "run", callbacks=[EarlyStopping("loss"), Sets(refuses="restore")], epochs=5)
    assert_same(model.params, before)


def test_what_on_begin_sets_is_what_training_starts_from(library, tmp_path):
    """Parameters, also for what an optimizer of the user's makes of them; where it is resumed, the checkpoint's."""
    start = np.full(network().n_params, 0.25, dtype="float32")

    class Slow(SGD):
        """Keeps its start."""

        def init(self, params: Any) -> dict[str, Any]:
            return {"start": params + 0.0}

        def update(self, params: Any, grad: Any, state: Any, h: Any, decayed: Any = None) -> Any:
            return params - h[0] * (grad + 0.1 * (params - state["start"])), state

    for optimizer in (Adam(0.02), Slow(0.1)):
        whole, model = network(**library.where), network(**library.where)
        whole.params = start
        options = {"optimizer": optimizer, "compile": "auto"}
        expected = fit(whole, **options)
        history = fit(model, callbacks=Sets(0.25), **options)
        assert history["loss"] == expected["loss"]
        assert_same(library.to_numpy(model.params), library.to_numpy(whole.params))
    further, again = network(**library.where), network(**library.where)
    one, two = fit(further, epochs=1), fit(again, epochs=1)
    further.params = start
    expected = fit(further, resume=one)
    assert fit(again, resume=two, callbacks=Sets(0.25))["loss"] == expected["loss"]
    assert_same(library.to_numpy(again.params), library.to_numpy(further.params))


def test_on_begin_of_a_training_that_is_resumed_sees_the_checkpoint(tmp_path):
    whole, model, sets = network(), network(seed=1), Sets(0.25)
    expected = fit(whole, epochs=4)
    half = network()
    fit(half, tmp_path / "run", callbacks=Sets())
    history = fit(model, tmp_path / "run", callbacks=sets, epochs=4)
    assert_same(sets.began, half.params)
    assert history["loss"] == expected["loss"]
    assert_same(model.params, whole.params)


def test_nan_that_on_begin_leaves_is_named(tmp_path):
    model = network()
    before = model.params.copy()
    words = r"fit: before the first step: the callback Sets left NaN or infinity in weights\[0\] of the model"
    for folder in (None, tmp_path / "run"):
        with pytest.raises(NonFiniteError, match=words) as caught:
            fit(model, folder, callbacks=Sets(np.nan))
        assert caught.value.epoch is None
        assert_same(model.params, before)
    assert not (tmp_path / "run").exists()


def test_a_restore_that_cannot_is_a_format_error_that_names_it(tmp_path):
    class Odd(Sets):
        def restore(self, state: dict[str, Any]) -> None:
            state["missing"]

    Odd.__name__ = "Sets"
    fit(network(), tmp_path / "run", callbacks=Sets())
    with pytest.raises(FormatError, match=r"has a state that Sets.restore refuses \(KeyError: 'missing'\)") as caught:
        fit(network(), tmp_path / "run", callbacks=Odd(), epochs=3)
    assert isinstance(caught.value.__cause__, KeyError)


def test_ctrl_c_before_the_first_step_leaves_the_model(tmp_path):
    fit(network(), tmp_path / "run", callbacks=Sets())
    model = network(seed=1)
    before = model.params.copy()

    class Press(Sets):
        def restore(self, state: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    Press.__name__ = "Sets"
    with contextlib.suppress(KeyboardInterrupt):
        fit(model, tmp_path / "run", callbacks=Press(), epochs=3)
    assert_same(model.params, before)
    assert files.LOCK not in os.listdir(tmp_path / "run")


# -- where chunks were cut in another way -----------------------------------------------------------------------------


def test_an_epoch_goes_on_in_the_middle_where_it_would_be_one_chunk(tmp_path):
    """As on another device, where chunks are longer: the row that was saved lies within the only one there is."""
    folder = tmp_path / "run"
    whole = network()
    expected = fit(whole, epochs=1)
    with kill.small_chunks(), kill.strike("step", 2, lambda: signal.raise_signal(signal.SIGINT)):
        portnn.fit(
            *(network(), X, LABELS),
            **{"optimizer": Adam(0.02), "epochs": 1, "batch_size": 10, "progress": False},
            checkpoint=Checkpoints(folder, seconds=0.0),
        )
    kept = portnn.checkpoint_file.newest(str(folder), "test")[0]
    assert 0 < kept.record["row"] < 40
    record = dict(kept.record, chunk_rows=0)
    model = network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portnn.saver, "newest", lambda *_: (kept._replace(record=record), []))
        history = portnn.fit(
            *(model, X, LABELS),
            **{"optimizer": Adam(0.02), "epochs": 1, "batch_size": 10, "progress": False},
            checkpoint=Checkpoints(folder, seconds=0.0),
            resume=True,
        )
    assert_same(model.params, whole.params)
    assert_within(history["loss"], expected["loss"], few_steps(expected["loss"], "float32"))  # summed in other parts


# -- clean-up that fails ----------------------------------------------------------------------------------------------


def test_an_old_checkpoint_that_cannot_be_removed_costs_no_training(tmp_path, monkeypatch):
    """Windows refuses to while somebody reads it."""
    unlink = os.unlink

    def refuse(path: Any, **options: Any) -> None:
        if str(path).endswith(".safetensors"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    assert len(fit(network(), tmp_path / "run", epochs=4)["loss"]) == 4
    assert len(load_checkpoint(tmp_path / "run")[1]["loss"]) == 4


def test_a_folder_with_a_slash_behind_it(tmp_path):
    fit(network(), f"{tmp_path}/run/")
    assert len(load_checkpoint(f"{tmp_path}/run/")[1]["loss"]) == 2
    assert len(load_checkpoint(os.fsencode(tmp_path / "run"))[1]["loss"]) == 2
