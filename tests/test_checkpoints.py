"""Checkpoints: what is left by every crash, and trainings that go on, to the bit, where they were broken off."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kill
import numpy as np
import pytest
import safetensors.numpy
from tolerances import BARS, assert_same, assert_within, rounded

import portnn
from portnn import (
    MLP,
    SGD,
    Adam,
    Checkpoints,
    FormatError,
    NonFiniteError,
    checkpoint_file,
    checkpoint_record,
    load_checkpoint,
    loop,
    schedules,
)
from portnn.backends import get_backend
from portnn.callbacks import Checkpoint, CSVLog, EarlyStopping
from portnn.history import History
from portnn.saver import Position, Saver

N = 40
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")
LABELS = (X @ np.random.default_rng(1).normal(size=(4, 3))).argmax(axis=1)
FORKS = hasattr(os, "fork")
CONFIGURATION = {"batch_size": 10, "members": None, "x": {"shape": [N, 4]}}  # what a checkpoint is held to by itself


class PowerCut(Exception):
    """Ends a training without its knowing: not Ctrl-C, not an error of ours."""


def cut() -> None:
    raise PowerCut


def network(**options: Any) -> MLP:
    return MLP([4, 6, 3], **{"activation": "tanh", "dropout": 0.25, **options})


def fit(model: MLP, folder: Any = None, **options: Any) -> History:
    """Two chunks per epoch; everything is saved."""
    defaults = {"optimizer": Adam(0.02), "epochs": 3, "batch_size": 10, "progress": False}
    where = {} if folder is None else {"checkpoint": Checkpoints(folder, seconds=0.0), "resume": True}
    with kill.small_chunks():
        return portnn.fit(model, X, LABELS, **{**defaults, **where, **options})


def without_times(history: dict[str, list]) -> dict[str, list]:
    return {name: values for name, values in history.items() if name != "epoch_seconds"}


def broken_off(phase: str, number: int, train: Callable[[], Any]) -> None:
    with kill.strike(phase, number, cut), pytest.raises(PowerCut):
        train()


def newest(folder: Any) -> checkpoint_record.Kept:
    """The newest checkpoint; a warning, which would say that one is damaged, is an error here."""
    kept, spoiled = checkpoint_file.newest(str(folder), "test")
    assert kept is not None
    assert spoiled == []
    return kept


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# -- resume, to the bit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", kill.OPTIMIZERS)
def test_a_training_that_is_resumed_is_the_one_that_was_not_broken_off(library, optimizer, tmp_path):
    """With dropout, batch norm, validation, early stopping, and each schedule: at points all over the training."""
    usual = library.name in ("numpy", "torch", "jax")
    for k, schedule in enumerate(kill.SCHEDULES if usual else ["plateau"]):
        folder, number = tmp_path / schedule, 1 + (5 * k + 3 * list(kill.OPTIMIZERS).index(optimizer)) % kill.CHUNKS
        phase, train = kill.PHASES[k % len(kill.PHASES)], {"optimizer": optimizer, "schedule": schedule}
        expected = kill.run(None, **train, **library.where)
        broken_off(phase, number, lambda f=folder, t=train: kill.run(f, **t, **library.where))
        assert kill.run(folder, **train, **library.where) == expected, (schedule, phase, number)


def test_every_chunk_and_every_phase_of_one_training(tmp_path):
    """Broken off again and again, at the first new chunk of steps each time, it still ends as if nothing had been."""
    train = {"optimizer": "adamw", "schedule": "plateau", "model": {"members": 2}}
    expected = kill.run(None, **train)
    for phase in kill.PHASES:
        for number in range(1, kill.CHUNKS + 1):
            folder = tmp_path / f"{phase} {number}"
            broken_off(phase, number, lambda f=folder: kill.run(f, **train))
            assert kill.run(folder, **train) == expected, (phase, number)
    broken = 0
    for _ in range(3 * kill.CHUNKS):
        try:
            with kill.strike("told", 1, cut):
                found = kill.run(tmp_path / "again and again", **train)
        except PowerCut:
            broken += 1
    assert broken == kill.CHUNKS, "one save for each chunk but the last of an epoch, and one for each epoch"
    assert found == expected


def test_a_step_count_that_is_lost_would_show(tmp_path):
    """Adam's bias correction and the schedule count the updates, from the first one on."""
    options = {"optimizer": lambda: Adam(schedules.step_decay(0.05, every=5, factor=0.5)), "epochs": 2}
    whole, model = network(), network()
    expected = fit(whole, **{**options, "optimizer": options["optimizer"]()})
    broken_off("step", 3, lambda: fit(network(), tmp_path / "run", **{**options, "optimizer": options["optimizer"]()}))
    assert newest(tmp_path / "run").record["updates"] == 4
    assert without_times(fit(model, tmp_path / "run", **{**options, "optimizer": options["optimizer"]()})) == (
        without_times(expected)
    )
    assert_same(model.params, whole.params)


def test_members_have_their_schedules_and_their_best(tmp_path):
    def train(model: MLP, folder: Any) -> tuple[History, EarlyStopping]:
        rates = [schedules.ReduceOnPlateau(r, factor=0.5, patience=0, threshold=0.1) for r in (0.3, 0.03, 0.003)]
        stop = EarlyStopping(patience=2)
        return fit(model, folder, optimizer=Adam(rates), epochs=12, validation_split=0.3, callbacks=stop), stop

    whole, model = network(members=3), network(members=3)
    expected, best = train(whole, None)
    broken_off("read", 9, lambda: train(network(members=3), tmp_path / "run"))
    history, stop = train(model, tmp_path / "run")
    assert without_times(history) == without_times(expected)
    assert (stop.best, stop.best_epoch) == (best.best, best.best_epoch)
    assert len(set(history["learning_rate"][-1])) == 3
    assert_same(model.params, whole.params)


@pytest.mark.parametrize("when", ["validation", "callback"])
def test_ctrl_c_between_the_steps_and_the_end_of_an_epoch(tmp_path, when, monkeypatch):
    """The end of the epoch is made again from its beginning: nobody has seen the epoch twice."""

    def train(model: MLP, folder: Any, *more: Any) -> tuple[History, EarlyStopping]:
        stop = EarlyStopping(patience=2)
        rate = schedules.ReduceOnPlateau(0.5, factor=0.5, patience=0)
        options = {"optimizer": SGD(rate), "epochs": 6, "validation_split": 0.3, "callbacks": [stop, *more]}
        return fit(model, folder, **options), stop

    def press(model: MLP, history: History) -> None:
        if when == "callback" and len(history["loss"]) == 3:
            raise KeyboardInterrupt

    whole, model = network(), network()
    expected, best = train(whole, None)
    with monkeypatch.context() as patch:
        if when == "validation":
            judged, calls = loop.judged, []

            def third(*args: Any, **place: Any) -> Any:
                calls.append(1)
                if len(calls) == 3:
                    raise KeyboardInterrupt
                return judged(*args, **place)

            patch.setattr(loop, "judged", third)
        half, _ = train(network(), tmp_path / "run", press)
    assert half.interrupted
    record = newest(tmp_path / "run").record
    assert (record["epoch"], record["row"]) == (2, 28)
    history, stop = train(model, tmp_path / "run")
    assert not history.interrupted
    assert without_times(history) == without_times(expected)
    assert (stop.best, stop.best_epoch) == (best.best, best.best_epoch)
    assert_same(model.params, whole.params)


def test_ctrl_c_within_an_epoch_saves_what_there_is(tmp_path):
    def press() -> None:
        raise KeyboardInterrupt

    whole, model = network(), network()
    expected = fit(whole)
    with kill.strike("step", 4, press):  # in the middle of the second epoch, and no save is due for an hour
        half = fit(network(), tmp_path / "run", checkpoint=Checkpoints(tmp_path / "run", seconds=3600.0))
    assert half.interrupted
    record = newest(tmp_path / "run").record
    assert (record["epoch"], record["row"], record["batch"], record["updates"]) == (1, 20, 2, 6)
    assert without_times(fit(model, tmp_path / "run")) == without_times(expected)
    assert_same(model.params, whole.params)


def test_chunks_are_cut_as_before_on_the_same_device_and_anew_elsewhere(tmp_path, monkeypatch):
    """Their size depends on the free memory, and the last bits of an epoch's loss on their size."""
    options = {"batch_size": 5, "epochs": 2, "optimizer": Adam(0.02), "progress": False}
    cuts: list[tuple[int, int, int]] = []
    run = portnn.step.Chunks.run

    def spied(self: Any, steps: int, size: int, *rest: Any) -> Any:
        cuts.append((steps, size))
        return run(self, steps, size, *rest)

    monkeypatch.setattr(portnn.step.Chunks, "run", spied)

    def train(folder: Any, rows: int, **where: Any) -> tuple[list[tuple[int, int]], History, MLP]:
        monkeypatch.setattr(portnn.feed, "rows_per_chunk", lambda *_: rows)
        cuts.clear()
        kept = {} if folder is None else {"checkpoint": Checkpoints(folder, seconds=0.0), "resume": True}
        model = network(dtype="float64", **where)
        history = portnn.fit(model, X, LABELS, **kept, **options)
        return list(cuts), history, model

    whole, expected, model = train(None, 10)
    assert whole == [(2, 5)] * 8
    for name, where, left in (
        ("here", {"backend": "numpy"}, [(2, 5)] * 7),
        ("elsewhere", {"backend": get_backend("array_api_strict")}, [(3, 5)] * 2 + [(4, 5)] * 2),
    ):
        broken_off("step", 2, lambda f=tmp_path / name: train(f, 10))
        found, history, again = train(tmp_path / name, 20, **where)
        assert found == left
        if name == "here":
            assert without_times(history) == without_times(expected)
            assert_same(again.params, model.params)
        else:
            params = again.backend.to_numpy(again.params)
            assert_within(params, model.params, BARS["adam"]["float64"] * np.abs(model.params).max())


def test_what_ended_has_ended(tmp_path):
    """By a callback, and by the number of epochs; more epochs go on where those ended."""
    stopped, again = network(), network()
    first = fit(stopped, tmp_path / "stopped", callbacks=lambda model, history: len(history["loss"]) == 2, epochs=9)
    assert len(first["loss"]) == 2
    asked: list[int] = []
    history = fit(again, tmp_path / "stopped", callbacks=lambda model, history: asked.append(1), epochs=9)
    assert (history, asked) == (first, [])
    assert_same(again.params, stopped.params)
    whole, over, more = network(), network(), network()
    five = fit(whole, epochs=5)
    three = fit(over, tmp_path / "run", epochs=3)
    assert fit(network(), tmp_path / "run", epochs=3) == three
    assert fit(network(), tmp_path / "run", epochs=1) == three
    longer = fit(more, tmp_path / "run", epochs=5)
    assert without_times(longer) == without_times(five)
    assert longer["epoch_seconds"][:3] == three["epoch_seconds"]
    assert_same(more.params, whole.params)


def test_an_empty_folder_and_none_at_all_are_a_beginning(tmp_path):
    whole, model = network(), network()
    expected = fit(whole)
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "new"):
        model = network()
        assert without_times(fit(model, tmp_path / folder)) == without_times(expected)
        assert_same(model.params, whole.params)


def test_further_epochs_in_memory_are_saved_with_those_before(tmp_path):
    whole, model, again = network(), network(), network()
    expected = fit(whole, epochs=4)
    first = fit(model, epochs=2)
    both = fit(model, tmp_path / "run", epochs=2, resume=first)
    assert without_times(both) == without_times(expected)
    assert fit(again, tmp_path / "run", epochs=4) == both
    assert_same(again.params, whole.params)
    watched = fit(network(), epochs=1, validation_data=(X, LABELS))
    fit(network(), tmp_path / "unwatched", epochs=1, resume=watched)
    history = fit(network(), tmp_path / "unwatched", epochs=3)
    assert np.isnan(history["val_loss"]).tolist() == [False, True, True], "as without a checkpoint"


# -- another library, device, dtype -----------------------------------------------------------------------------------


def test_another_library_goes_on_with_the_next_batch_and_its_mask(library, tmp_path, monkeypatch):
    """In float64 300 steps of SGD part by BARS["sgd"] at most; another batch or mask would be off by 1e-2.

    (Adam is left out: the bias before a batch norm has a gradient that is nothing but rounding, which Adam enlarges.)
    """
    options = {"model": {"dtype": "float64"}}
    train = {"optimizer": "sgd", "schedule": "cosine", **options}
    seen: list[Any] = []
    words = loop.sample_words
    monkeypatch.setattr(loop, "sample_words", lambda *args: seen.append((args, words(*args))) or seen[-1][1])

    def params_of(folder: Any, where: dict[str, Any]) -> np.ndarray:
        def keep(model: MLP, history: History) -> None:
            params[:] = [model.backend.to_numpy(model.params)]

        params: list[np.ndarray] = []
        monkeypatch.setattr(kill, "EarlyStopping", lambda patience: Stop(keep))
        kill.run(folder, **train, **where)
        return params[0]

    class Stop:
        best = best_epoch = 0

        def __init__(self, keep: Any) -> None:
            self.keep = keep

        def __call__(self, model: MLP, history: History) -> None:
            self.keep(model, history)

    expected = params_of(None, {"backend": "numpy"})
    broken_off("step", 7, lambda: params_of(tmp_path / "run", {"backend": "numpy"}))
    assert newest(tmp_path / "run").record["row"] == 48
    seen.clear()
    found = params_of(tmp_path / "run", library.where)
    rest = [(5, 1, 24, 48), (5, 1, 1, 72)]
    assert [args for args, _ in seen] == [*rest, *((5, 2, min(24, 73 - k), k) for k in (0, 24, 48, 72))]
    assert_same(seen[0][1], words(5, 1, 73)[48:72])
    assert_within(found, expected, BARS["sgd"]["float64"] * np.abs(expected).max())


def test_a_checkpoint_is_loaded_anywhere(library, tmp_path):
    model = network(normalization="batch")
    history = fit(model, tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / files(tmp_path / "run")[-1]):
        same, its = load_checkpoint(path, **library.where)
        assert_same(library.to_numpy(same.params), model.params)
        assert_same(library.to_numpy(same.running), model.running)
        assert (its, its.reached[:2], its.names) == (history, history.reached[:2], history.names)
        for name, a in history.reached.arrays.items():
            assert_same(library.to_numpy(its.reached.arrays[name]), a)
    wide, its = load_checkpoint(tmp_path / "run", dtype="float64", **library.where)
    assert library.dtype_name(wide.params) == library.dtype_name(its.reached.arrays["m"]) == "float64"
    assert_same(library.to_numpy(wide.params), model.params.astype("float64"))
    fit(wide, resume=its, epochs=1)
    narrow = load_checkpoint(path, dtype="float32", **library.where)[0]
    assert_within(library.to_numpy(narrow.params), model.params, rounded(model.params, "float32"))


def test_a_model_is_loaded_from_a_checkpoint_and_python_m_portnn_looks_into_it(tmp_path, capsys):
    from portnn.__main__ import main

    model = network()
    fit(model, tmp_path / "run")
    path = tmp_path / "run" / files(tmp_path / "run")[-1]
    assert_same(MLP.load(path).params, model.params)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "4 - 6 - 3" in out
    assert "after 3 epochs, 12 updates; made with numpy" in out
    # the reference implementation reads it too
    arrays = safetensors.numpy.load_file(path)
    assert_same(arrays["layers.0.weight"], model.weights[0])
    assert_same(arrays["training/optimizer/m"], newest(tmp_path / "run").arrays["training/optimizer/m"])


# -- files ------------------------------------------------------------------------------------------------------------


def test_what_is_in_a_file(tmp_path):
    options = {"optimizer": Adam(schedules.ReduceOnPlateau(0.02)), "callbacks": EarlyStopping("loss")}
    broken_off("step", 4, lambda: fit(network(), tmp_path / "run", **options))
    kept = newest(tmp_path / "run")
    record = kept.record
    assert (record["epoch"], record["row"], record["batch"], record["updates"]) == (1, 20, 2, 6)
    assert {"portnn", "backend", "version", "threads"} <= set(record["made_with"])
    told = record["configuration"]
    assert (told["batch_size"], told["seed"], told["dtype"]) == (10, 0, "float32")
    assert told["optimizer"].startswith("Adam(learning_rate=ReduceOnPlateau(learning_rate=0.02, factor=0.1")
    assert told["x"]["sha256"] == hashlib.sha256(X.tobytes()).hexdigest()
    assert (told["x"]["shape"], told["x"]["rows"]) == ([40, 4], 40)
    assert kept.arrays["training/sums/loss"].dtype == np.float64
    assert told["callbacks"] == [
        "EarlyStopping(monitor='loss', patience=10.0, min_delta=0.0, mode='min', restore_best=True)"
    ]
    assert record["schedules"][0]["values"]["bad_epochs"] == 0
    assert {*record["callbacks"][0]["arrays"]} == {"values", "epochs", "params"}


def test_a_long_history_fits(tmp_path):
    """10,000 epochs, and lists of a callback's own: numbers exactly, remarks as they are."""
    history = History({name: np.random.default_rng(0).normal(size=10_000).tolist() for name in ("loss", *"abcde")})
    history["remark"] = ["fine"] * 10_000
    history["mixed"] = [1, 2.5, None, [1, 2.5]]
    history["nothing"] = []
    history.names, history.epochs = ("loss", *"abcde"), 12_000
    lists, arrays = checkpoint_record.packed_history(history, {name: len(v) for name, v in history.items()})
    record = json.loads(json.dumps({"history": lists}))
    found = checkpoint_record.history_of(checkpoint_record.Kept("", arrays, {}, record))
    assert (found, found.names, found.epochs) == (history, history.names, 12_000)
    nan = History(loss=[np.nan, np.inf, -0.0])
    lists, arrays = checkpoint_record.packed_history(nan, {"loss": 3})
    assert repr(checkpoint_record.history_of(checkpoint_record.Kept("", arrays, {}, {"history": lists}))["loss"]) == (
        repr(nan["loss"])
    )
    model, kept = network(), Checkpoints(tmp_path / "run")
    saver = Saver(kept, model, Adam(), [], CONFIGURATION)
    saver.settle(saver.settled(history))
    saver.save(Position(10_000, 0, 1, {"params": model.params}), history)
    assert newest(tmp_path / "run").arrays["training/history/0"].shape == (10_000,)


def test_the_newest_are_kept_with_a_usual_mode(tmp_path):
    for keep in (1, 2, 5):
        before = os.umask(0o022)
        try:
            fit(network(), tmp_path / str(keep), checkpoint=Checkpoints(tmp_path / str(keep), seconds=0.0, keep=keep))
        finally:
            os.umask(before)
        # after 2 and 4 batches of each epoch; that after 4 is replaced when the epoch is over
        expected = [f"checkpoint-{updates:012d}.safetensors" for updates in (2, 4, 6, 8, 10, 12)]
        assert files(tmp_path / str(keep)) == expected[-keep:]
        assert all(os.stat(tmp_path / str(keep) / name).st_mode & 0o777 == 0o644 for name in expected[-keep:])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"seconds": None}, [4, 8, 12]),
        ({"seconds": 3600.0}, [4, 8, 12]),
        ({"seconds": 0.0}, [2, 4, 6, 8, 10, 12]),
        ({"seconds": None, "steps": 2}, [2, 4, 6, 8, 10, 12]),
        ({"seconds": None, "steps": 3}, [4, 8, 12]),
        ({"seconds": None, "steps": 1}, [2, 4, 6, 8, 10, 12]),
    ],
)
def test_how_often(tmp_path, options, expected):
    fit(network(), tmp_path / "run", checkpoint=Checkpoints(tmp_path / "run", keep=99, **options))
    assert [int(name[11:23]) for name in files(tmp_path / "run")] == expected


def test_a_minute_is_one(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(portnn.saver.time, "monotonic", lambda: now[0])
    model = network()
    saver = Saver(Checkpoints(tmp_path / "run"), model, Adam(), [], CONFIGURATION)
    position = Position(0, 10, 1, {"params": model.params})
    for seconds, due in ((0.0, False), (59.9, False), (60.0, True)):
        now[0] = seconds
        assert saver.due(position.updates) == due
    saver.save(position, History())
    assert not saver.due(position.updates)


def test_leftovers_of_killed_runs_go_and_other_files_stay(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".portnn-0123456789abcdef.tmp", "notes.txt", ".portnn-mine.tmp", "checkpoint-12.safetensors"):
        (folder / name).write_bytes(b"x")
    fit(network(), folder)
    assert files(folder)[:2] == [".portnn-mine.tmp", "checkpoint-000000000010.safetensors"]
    assert "notes.txt" in files(folder)
    assert "checkpoint-12.safetensors" in files(folder)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "bit":
        data[-5] ^= 1
    elif how == "weight":
        start = 8 + int.from_bytes(data[:8], "little")
        data[start + 100] ^= 64
    elif how == "cut":
        del data[-1]
    elif how == "empty":
        data = bytearray()
    elif how == "pickle":
        data = bytearray(b"\x80\x04\x95")
    elif how == "newer":
        data = data.replace(b'{\\"format\\": 2, \\"epoch\\"', b'{\\"format\\": 9, \\"epoch\\"')
    elif how == "metadata":
        data = data.replace(b'\\"seed\\": 0', b'\\"seed\\": 7', 1)
    path.write_bytes(data)


DAMAGE = {
    "bit": "sha256 mismatch",
    "weight": "sha256 mismatch",
    "cut": "size",
    "empty": "header",
    "pickle": "header",
    "newer": "checkpoint format 9 > 2",
    "metadata": "not those that were written",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_gone_back_from_and_named(tmp_path, how):
    whole, model = network(), network()
    expected = fit(whole)
    where = {"checkpoint": Checkpoints(tmp_path / "run", seconds=0.0, keep=1)}
    broken_off("step", 6, lambda: fit(network(), tmp_path / "run", **where))
    older = (tmp_path / "run" / files(tmp_path / "run")[0]).read_bytes()
    fit(network(), tmp_path / "run", **where)
    (name,) = files(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-000000000010.safetensors").write_bytes(older)
    damage(tmp_path / "run" / name, how)
    with pytest.raises(FormatError, match=DAMAGE[how]):
        load_checkpoint(tmp_path / "run" / name)
    if how not in ("metadata", "newer"):  # the model in it is whole, and of a format that is known
        with pytest.raises(FormatError):
            MLP.load(tmp_path / "run" / name)
    with pytest.warns(UserWarning, match=f"(?s)going back to .*10.safetensors.*{name}.*{DAMAGE[how]}") as said:
        history = fit(model, tmp_path / "run", **where)
    assert said[0].filename == __file__
    assert without_times(history) == without_times(expected)
    assert_same(model.params, whole.params)
    assert files(tmp_path / "run") == [name], "the damaged one was replaced, the older one removed"
    newest(tmp_path / "run")


def test_a_damaged_file_does_not_count_among_those_that_are_kept(tmp_path):
    folder, name = tmp_path / "run", "checkpoint-{:012d}.safetensors".format
    fit(network(), folder)
    (folder / name(17)).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="going back to"):
        broken_off("told", 2, lambda: fit(network(), folder, epochs=6))
    assert files(folder) == [name(14), name(16), name(17)], "it is newer: it may stay"
    with pytest.warns(UserWarning, match="going back to"):
        broken_off("told", 1, lambda: fit(network(), folder, epochs=6))
    assert files(folder) == [name(16), name(18)]
    newest(folder)


def test_nothing_is_overwritten_where_nothing_is_valid(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint-000000000004.safetensors", "checkpoint-000000000008.safetensors"):
        (folder / name).write_bytes(b"PK\x03\x04 and so on, a zip archive")
    model = network()
    before = model.params.copy()
    with pytest.raises(FormatError, match=r"none of the 2 checkpoints in .* is valid: .*it looks like a zip archive"):
        fit(model, folder)
    assert_same(model.params, before)
    assert len(files(folder)) == 2
    assert all((folder / name).read_bytes().startswith(b"PK") for name in files(folder))
    with pytest.raises(FormatError, match="there is no checkpoint in"):
        load_checkpoint(tmp_path)
    network().save(tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"not a checkpoint; MLP\.load reads models"):
        load_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nothing")


def test_what_is_not_finite_is_not_saved(tmp_path):
    def spoil(model: MLP, history: History) -> None:
        if len(history["loss"]) == 2:
            model.params = model.params + np.inf

    with pytest.raises(
        NonFiniteError, match=r"epoch 2: the callback spoil left NaN or infinity in weights\[0\]"
    ) as caught:
        fit(network(), tmp_path / "run", callbacks=spoil)
    assert len(caught.value.history["loss"]) == 2
    assert newest(tmp_path / "run").record["updates"] == 6
    with pytest.raises(NonFiniteError, match="epoch 1, batch"):
        fit(network(), tmp_path / "wild", optimizer=SGD(1e38))
    assert not (tmp_path / "wild").exists()


def test_ctrl_c_while_a_callback_tells_its_state(tmp_path):
    """The position, the history and the states that are saved are of one epoch."""

    class Slow:
        def __init__(self, at: int) -> None:
            self.seen, self.calls, self.at = 0, 0, at

        def __call__(self, model: MLP, history: History) -> None:
            self.seen += 1

        def state(self) -> dict[str, Any]:
            self.calls += 1
            if self.calls == self.at:
                signal.raise_signal(signal.SIGINT)
            return {"seen": self.seen}

        def restore(self, state: dict[str, Any]) -> None:
            self.seen = state["seen"]

    whole = fit(network(), epochs=5)
    for at in (1, 2, 3):  # the first is before the training
        folder = tmp_path / f"run {at}"
        with contextlib.suppress(KeyboardInterrupt):
            assert fit(network(), folder, callbacks=Slow(at), epochs=5).interrupted
        model, slow = network(), Slow(0)
        history = fit(model, folder, callbacks=slow, epochs=5, resume=True)
        assert history["loss"] == whole["loss"]
        assert slow.seen == 5


@pytest.mark.parametrize("values", [3, {"a": 1}, "text"])
def test_what_is_no_list_in_a_history_is_refused(tmp_path, values):
    def write(model: MLP, history: History) -> None:
        history["own"] = values

    with pytest.raises(
        TypeError, match=r"history\['own'\] is a \w+, which a checkpoint does not keep; expected a list"
    ):
        fit(network(), tmp_path / "run", callbacks=write)


NONSENSE: dict[str, tuple[Callable[[dict, dict], Any], str]] = {
    "behind the samples": (lambda record, arrays: record.update(row=10**9), "sample 1000000000 of 40, where no batch"),
    "within a batch": (lambda record, arrays: record.update(row=7), "it stands at sample 7 of 40, where no batch ends"),
    "without sums": (lambda record, arrays: record.update(row=40, batch=4), "the sums of its epoch are missing"),
    "sums of nothing": (lambda record, arrays: arrays.update({"training/sums/loss": np.ones(())}), "of no samples"),
    "more epochs": (lambda record, arrays: record.update(epoch=50), "its history is not of 50 epochs"),
    "fewer epochs": (lambda record, arrays: record.update(epoch=1), "its history is not of 1 epochs"),
    "unknown lists": (lambda record, arrays: record.update(gone=["zzz"]), "its history lacks lists that it names"),
    "a list": (
        lambda record, arrays: record.update(configuration=[]),
        "the entry 'configuration' of its record is \\[\\], expected",
    ),
    "half a number": (
        lambda record, arrays: record.update(updates=1.5),
        "the entry 'updates' of its record is 1.5, expected",
    ),
    "no history": (lambda record, arrays: record.pop("history"), "the entry 'history' of its record is missing"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_with_the_right_sum_is_no_checkpoint(tmp_path, trained, name):
    """A file may come from anywhere."""
    spoil, words = NONSENSE[name]
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    *_, path = sorted(folder.iterdir())
    for other in set(folder.iterdir()) - {path}:
        other.unlink()
    arrays, metadata = portnn.storage.read_safetensors_file(path)
    record = json.loads(arrays[portnn.model_file.RECORD].tobytes())
    spoil(record, arrays)
    arrays[portnn.model_file.RECORD] = np.frombuffer(json.dumps(record).encode(), dtype="uint8")
    metadata["sha256"] = portnn.storage.payload_sha256(arrays)
    portnn.storage.write_safetensors_file(path, arrays, metadata)
    with pytest.raises(FormatError, match=words):
        portnn.load_checkpoint(path)
    model = network()
    before = model.params.copy()
    with pytest.raises(FormatError, match=words):
        fit(model, folder, validation_data=(X, LABELS))
    assert_same(model.params, before)


@pytest.mark.parametrize("left", [0, 60, None])
def test_a_log_that_lost_lines_gets_them_again(tmp_path, left):
    """The log is on its way to the disk when the checkpoint is already there: a power cut may take its end."""
    log, folder = tmp_path / "log.csv", tmp_path / "run"
    fit(network(), folder, callbacks=CSVLog(log))
    if left is None:
        log.unlink()
    else:
        log.write_bytes(log.read_bytes()[:left])
    history = fit(network(), folder, callbacks=CSVLog(log), epochs=5)
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [float(row["loss"]) for row in rows] == history["loss"]


def test_a_log_whose_training_had_written_nothing_is_not_that_of_another(tmp_path):
    """With append=True, and killed before the end of the first epoch."""
    folder, other = tmp_path / "run", tmp_path / "other.csv"
    broken_off("before", 1, lambda: fit(network(), folder, callbacks=CSVLog(tmp_path / "log.csv", append=True)))
    fit(network(seed=1), callbacks=CSVLog(other))
    text = other.read_text()
    with pytest.raises(FormatError, match=r"other\.csv' does not hold the lines that the checkpoint knows"):
        fit(network(), folder, callbacks=CSVLog(other, append=True))
    assert other.read_text() == text
    fit(network(), folder, callbacks=CSVLog(tmp_path / "log.csv", append=True))
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("before", [None, "epoch,lo"])
def test_a_log_that_was_broken_off_in_its_first_epoch_goes_on(tmp_path, monkeypatch, before):
    """Its line is written, and the save behind it is not; or another run had left a header that was cut off."""
    log = CSVLog(tmp_path / "log.csv", append=True)
    if before is not None:
        (tmp_path / "log.csv").write_text(before)
    real = Saver.save

    def save(self: Saver, position: Any, history: Any) -> None:
        if position.epoch == 1 and position.row == 0:
            raise PowerCut
        real(self, position, history)

    monkeypatch.setattr(Saver, "save", save)
    with pytest.raises(PowerCut):
        fit(network(), tmp_path / "run", callbacks=log)
    monkeypatch.setattr(Saver, "save", real)
    history = fit(network(), tmp_path / "run", callbacks=CSVLog(tmp_path / "log.csv", append=True))
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == history["loss"]


def test_a_log_that_another_run_has_written_since_is_not_emptied(tmp_path):
    """Both have the same columns and the same file; the training had written nothing to it."""
    log, folder = tmp_path / "log.csv", tmp_path / "run"
    broken_off("before", 1, lambda: fit(network(), folder, callbacks=CSVLog(log, append=True)))
    fit(network(seed=1), callbacks=CSVLog(log))
    text = log.read_text()
    with pytest.raises(FormatError, match=r"log\.csv' does not hold the lines that the checkpoint knows"):
        fit(network(), folder, callbacks=CSVLog(log, append=True))
    assert log.read_text() == text


@pytest.mark.parametrize("left", [None, 60])
def test_lines_that_were_lost_are_not_forgotten_by_another_break(tmp_path, monkeypatch, left):
    """Between the resume that finds it out and the next line."""
    log, folder = tmp_path / "log.csv", tmp_path / "run"
    fit(network(), folder, callbacks=CSVLog(log))
    text = log.read_bytes()
    log.unlink()
    if left is not None:
        log.write_bytes(text[:left])
    with monkeypatch.context() as patch:
        patch.setattr(portnn.loop.Loop, "_finish", lambda *_: signal.raise_signal(signal.SIGINT))
        assert fit(network(), folder, callbacks=CSVLog(log), epochs=5).interrupted
    history = fit(network(), folder, callbacks=CSVLog(log), epochs=5)
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == [*"12345"]
    assert [float(row["loss"]) for row in rows] == history["loss"]


@pytest.mark.parametrize("kind", ["float32", "float16", "a text", "a pair"])
def test_lost_lines_of_a_callback_of_ones_own(tmp_path, kind):
    """Whose entries come back from a checkpoint as Python's numbers."""
    log, folder = tmp_path / "log.csv", tmp_path / "run"

    def own(model: MLP, history: History) -> None:
        n = len(history["loss"])
        texts = {"a text": f"{n},\nsecond line", "a pair": (n, 0.1)}
        value = texts[kind] if kind in texts else np.dtype(kind).type(0.1 * n)
        history.setdefault("own", []).append(value)

    fit(network(), folder, callbacks=[own, CSVLog(log)])
    log.write_bytes(log.read_bytes()[:-8])
    history = fit(network(), folder, callbacks=[own, CSVLog(log)], epochs=5)
    rows = list(csv.DictReader(log.read_text().splitlines(keepends=True)))
    assert [row["epoch"] for row in rows] == [*"12345"]
    assert [float(row["loss"]) for row in rows] == history["loss"]


def test_what_a_callback_of_ones_own_refuses_is_said(tmp_path):
    """A FormatError of a file of the user's is not that of a log."""

    class Refuses:
        def __call__(self, model: MLP, history: History) -> None: ...

        def state(self) -> dict[str, Any]:
            return {}

        def restore(self, state: dict[str, Any]) -> None:
            message = "my net.safetensors is damaged"
            raise FormatError(message)

    fit(network(), tmp_path / "run", callbacks=Refuses())
    for epochs in (3, 5):
        with pytest.raises(FormatError, match=r"has a state that Refuses\.restore refuses .*my net\.safetensors"):
            fit(network(), tmp_path / "run", callbacks=Refuses(), epochs=epochs)


def test_a_training_that_is_over_returns_its_history_whatever_became_of_its_log(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log.csv"
    expected = fit(network(), folder, callbacks=CSVLog(log))
    log.write_bytes(log.read_bytes().replace(b"\n", b"\r\n"))
    text = log.read_bytes()
    assert fit(network(), folder, callbacks=CSVLog(log)) == expected
    assert log.read_bytes() == text
    with pytest.raises(FormatError, match="does not hold the lines"):
        fit(network(), folder, callbacks=CSVLog(log), epochs=5)


def test_a_log_goes_on_twice(tmp_path):
    """What stood in the file before the first of three trainings is known to the last."""
    folder, log = tmp_path / "run", tmp_path / "log.csv"
    fit(network(), callbacks=CSVLog(log), epochs=2)
    for epochs in (2, 3, 4):
        fit(network(), folder, callbacks=CSVLog(log, append=True), epochs=epochs)
        log.write_bytes(log.read_bytes()[:-10] + b"\0" * 5)  # what a power cut may leave
    text = log.read_bytes()
    log.write_bytes(b"epoch" + text[6:])
    with pytest.raises(FormatError, match="does not hold the lines"):
        fit(network(), folder, callbacks=CSVLog(log), epochs=5)
    log.write_bytes(text)
    fit(network(), folder, callbacks=CSVLog(log, append=True), epochs=5)
    assert [row["epoch"] for row in csv.DictReader(log.read_text().splitlines())] == [*"1234567"]


@pytest.mark.parametrize("name", ["bytes", "start"])
@pytest.mark.parametrize("number", [10**12, 10**30, -1, 0.5])
def test_a_log_is_not_read_beyond_its_end(tmp_path, name, number):
    log = CSVLog(tmp_path / "log.csv")
    fit(network(), tmp_path / "run", callbacks=log)
    state = log.state()
    state = {**state, name: number if name == "bytes" else [number, state["start"][1]]}
    with pytest.raises(ValueError, match=r"does not hold the lines|not the state of a log"):
        CSVLog(log.path).restore(state)


def test_a_log_that_lost_lines_keeps_those_of_another_training(tmp_path):
    log, folder = tmp_path / "log.csv", tmp_path / "run"
    fit(network(), callbacks=CSVLog(log), epochs=2)
    before = log.read_text()
    fit(network(), folder, callbacks=CSVLog(log, append=True))
    log.write_bytes(log.read_bytes()[:-10])
    fit(network(), folder, callbacks=CSVLog(log, append=True), epochs=4)
    assert log.read_text().startswith(before)
    assert [row["epoch"] for row in csv.DictReader(log.read_text().splitlines())] == [*"123456"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_only_has_the_name_of_a_checkpoint_is_passed_by(tmp_path, trained):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "checkpoint-000000000097.safetensors").mkdir()
    os.mkfifo(folder / "checkpoint-000000000098.safetensors")
    (folder / "checkpoint-000000000099.safetensors").symlink_to("nothing")
    _, history = load_checkpoint(folder)
    assert len(history["loss"]) == 3


def test_a_disk_that_cannot_read_the_newest_is_a_reason_to_go_back(tmp_path, trained, monkeypatch):
    newest_path = Checkpoints(trained).files()[0]
    read = portnn.storage.read_safetensors_file

    def failing(path: Any, **options: Any) -> Any:
        if os.fspath(path) == newest_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return read(path, **options)

    monkeypatch.setattr(portnn.storage, "read_safetensors_file", failing)
    with pytest.warns(UserWarning, match="going back to .*Input/output error"):
        load_checkpoint(trained)


@pytest.mark.parametrize(
    ("folder", "error", "words"),
    [
        ("", ValueError, "the folder must be a path"),
        ("a\0b", ValueError, "the folder must be a path"),
        ("nope/../run", FileNotFoundError, "does not exist; make it first"),
        ("link", NotADirectoryError, "is a link to nothing"),
        ("n" * 300, OSError, "longer than 255 bytes"),
    ],
)
def test_folders_that_cannot_be_are_refused_before_the_first_step(tmp_path, monkeypatch, folder, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nothing")
    model = network()
    before = model.params.copy()
    with pytest.raises(error, match=words):
        portnn.fit(model, X, LABELS, checkpoint=folder, progress=False)
    assert_same(model.params, before)


class Wide(SGD):
    """Keeps what is not of the parameters' dtype: a momentum in float64, a count, and a smallest number of none."""

    def init(self, params):
        return {
            "m": params.astype("float64") * 0.0,
            "count": np.zeros(1, dtype="int64") + 2**40,
            "least": params + np.inf,
            "signs": params > 0.0,
        }

    def update(self, params, grad, state, h, decayed=None):
        m = 0.9 * state["m"] + grad
        params = (params - h[0] * m).astype(params.dtype)
        least = np.minimum(state["least"], abs(grad))
        return params, {"m": m, "count": state["count"] + 1, "least": least, "signs": ~state["signs"]}


def test_an_optimizer_of_the_users_goes_on_with_what_it_keeps(tmp_path):
    options = {"optimizer": Wide(0.1), "compile": False}
    whole, half, model = network(), network(), network()
    expected = fit(whole, epochs=4, **options)
    fit(half, tmp_path / "run", epochs=2, **options)
    history = fit(model, tmp_path / "run", epochs=4, **options)
    assert_same(model.params, whole.params)
    assert history["loss"] == expected["loss"]
    for name, a in expected.reached.arrays.items():
        assert history.reached.arrays[name].dtype == a.dtype
        assert_same(history.reached.arrays[name], a)
    again = network()
    first = fit(again, epochs=2, **options)
    more = fit(again, epochs=2, resume=first, **options)
    assert_same(again.params, whole.params)
    assert more.reached.arrays["count"].tolist() == [2**40 + 16]
    _, loaded = load_checkpoint(tmp_path / "run")
    assert {name: a.dtype for name, a in loaded.reached.arrays.items()} == {
        name: a.dtype for name, a in expected.reached.arrays.items()
    }


def test_moments_that_are_not_finite_are_no_checkpoint(tmp_path, trained):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for path in folder.iterdir():
        arrays, metadata = portnn.storage.read_safetensors_file(path)
        arrays["training/optimizer/m"][0] = np.nan
        metadata["sha256"] = portnn.storage.payload_sha256(arrays)
        portnn.storage.write_safetensors_file(path, arrays, metadata)
    with pytest.raises(FormatError, match="'m': 'float32 with NaN or infinity'"):
        fit(network(), folder, validation_data=(X, LABELS))


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with checkpoints of ``fit(network(), folder)``; nobody may change it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    fit(network(), folder, validation_data=(X, LABELS))
    return folder


def other(loss: Any) -> Any:
    return loss


OTHERS: dict[str, tuple[dict[str, Any], type[ValueError], str]] = {
    "sizes": ({"model": {"sizes": [4, 8, 3]}}, FormatError, r"sizes=\[4, 6, 3\], this one has sizes=\[4, 8, 3\]"),
    "activation": ({"model": {"activation": "relu"}}, FormatError, r"activation=\['tanh', 'identity'\]"),
    "bias": ({"model": {"bias": False}}, FormatError, "bias="),
    "members": ({"model": {"members": 2}}, FormatError, "members=None, this one has members=2"),
    "normalization": ({"model": {"normalization": "layer"}}, FormatError, "normalization=None"),
    "residual": ({"model": {"sizes": [4, 4, 3], "residual": True}}, FormatError, "sizes="),
    "inputs": ({"model": {"inputs": portnn.Rescale(2.0)}}, FormatError, "inputs=None"),
    "dropout": ({"model": {"dropout": 0.5}}, FormatError, "dropout=0.25, this one has dropout=0.5"),
    "dtype": ({"model": {"dtype": "float64"}}, ValueError, "dtype=float32, this one has dtype=float64"),
    "seed of the network": (
        {"model": {"seed": 1}},
        ValueError,
        r"seed of the network=\[0\], .*=\[1\]",
    ),
    "matmul_precision": ({"model": {"matmul_precision": "tf32"}}, ValueError, "matmul_precision=float32, .*=tf32"),
    "loss": ({"loss": portnn.losses.Loss("mine", portnn.losses.mse, "classes")}, ValueError, "mse of classes"),
    "optimizer": ({"optimizer": SGD(0.1)}, FormatError, r"optimizer=Adam\(.*\), .* optimizer=SGD\("),
    "rate": ({"optimizer": Adam(0.03)}, FormatError, "learning_rate=0.02, .*learning_rate=0.03"),
    "schedule": ({"optimizer": Adam(schedules.cosine(0.02, 9))}, FormatError, r"learning_rate=cosine\("),
    "beta": ({"optimizer": Adam(0.02, beta2=0.99)}, FormatError, "beta2=0.999, .* beta2=0.99"),
    "batch_size": ({"batch_size": 20}, ValueError, "batch_size=10, this one has batch_size=20"),
    "seed": ({"seed": 1}, ValueError, "seed=0, this one has seed=1"),
    "clip_norm": ({"clip_norm": 1.0}, ValueError, "clip_norm=None, this one has clip_norm=1.0"),
    "clip_value": ({"clip_value": 1.0}, ValueError, "clip_value=None"),
    "l1": ({"l1": 0.1}, ValueError, "l1=0.0, this one has l1=0.1"),
    "l2": ({"l2": 0.1}, ValueError, "l2=0.0, this one has l2=0.1"),
    "per_batch": ({"per_batch": True}, ValueError, "per_batch=False"),
    "shuffle": ({"shuffle": False}, ValueError, "shuffle=True, this one has shuffle=False"),
    "x": ({"x": X + np.float32(1e-6)}, ValueError, r"x=float32 \(40, 4\) sha256 \w{12}, .* x=float32 \(40, 4\) sha256"),
    "x of another dtype": ({"x": X.astype("float64")}, ValueError, r"x=float64 \(40, 4\)"),
    "t": ({"t": LABELS[::-1].copy()}, ValueError, "with t="),
    "sample_weight": ({"sample_weight": np.arange(1.0, N + 1)}, ValueError, "with weight=None"),
    "validation_data": ({"validation_data": (X[:9], LABELS[:9])}, ValueError, "validation x="),
    "no validation": ({"validation_data": None}, ValueError, "validation x="),
    "callbacks": ({"callbacks": EarlyStopping()}, ValueError, r"callbacks=\[\], .* callbacks=\[.EarlyStopping\("),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_not_taken_for_its_continuation(trained, name):
    given, error, words = OTHERS[name]
    given = dict(given)
    options = {"activation": "tanh", "dropout": 0.25, **given.pop("model", {})}
    model = MLP(options.pop("sizes", [4, 6, 3]), **options)
    before, there = model.params.copy(), files(trained)
    told = {"optimizer": Adam(0.02), "epochs": 9, "batch_size": 10, "validation_data": (X, LABELS), "progress": False}
    where = {"checkpoint": trained, "resume": True}
    with pytest.raises(error, match=words) as caught:
        portnn.fit(model, given.pop("x", X), given.pop("t", LABELS), **{**told, **where, **given})
    message = str(caught.value)
    assert type(caught.value) is error
    assert message.startswith("fit: the checkpoint")
    assert len(message) < 500
    assert "\n" not in message
    assert_same(model.params, before)
    assert files(trained) == there


def test_functions_of_the_users_are_compared_by_name(tmp_path):
    def steady(step: int) -> float:
        return 0.01

    def risky(step: int) -> float:
        return 0.02

    def bent(z: Any) -> Any:
        return np.tanh(z), lambda dz: (dz * (1.0 - np.tanh(z) ** 2),)

    def order(epoch: int) -> np.ndarray:
        return np.roll(np.arange(N), epoch)

    def train(rate: Any) -> tuple[MLP, History]:
        model = network(activation=bent)
        return model, fit(model, tmp_path / "run", optimizer=SGD(rate), shuffle=order, epochs=2)

    model, history = train(steady)
    again, same = train(steady)
    assert same == history
    assert_same(again.params, model.params)
    with pytest.raises(FormatError, match=r"SGD\(learning_rate=steady.*SGD\(learning_rate=risky"):
        train(risky)
    with pytest.raises(FormatError, match="activation '<bent>' is a function of the user's, which no file holds"):
        load_checkpoint(tmp_path / "run")


def test_what_is_asked_for_must_make_sense(tmp_path, trained):
    model, there = network(), files(trained)
    before = model.params.copy()
    (tmp_path / "file").write_bytes(b"x")
    for error, words, options in (
        (FileExistsError, "holds 2 checkpoints of an earlier training; resume=True goes on", {"checkpoint": trained}),
        (ValueError, "resume=True wants to know where from", {"resume": True}),
        (FileNotFoundError, "nowhere' of the checkpoints does not exist", {"checkpoint": tmp_path / "nowhere" / "run"}),
        (NotADirectoryError, "is a file, expected a folder", {"checkpoint": tmp_path / "file"}),
        (TypeError, "the folder must be a path such as 'run', got 3", {"checkpoint": 3}),
        (TypeError, "resume must be the History of an earlier fit, got str", {"resume": "run"}),
    ):
        with pytest.raises(error, match=words):
            portnn.fit(model, X, LABELS, epochs=1, progress=False, **options)
    for words, options in (
        ("seconds must be a finite number >= 0", {"seconds": -1.0}),
        ("steps must be an int in the range", {"steps": 0}),
        ("keep must be an int in the range", {"keep": 0}),
    ):
        with pytest.raises(ValueError, match=f"Checkpoints: {words}"):
            Checkpoints("run", **options)
    assert_same(model.params, before)
    assert (files(trained), files(tmp_path)) == (there, ["file"])


# -- what remembers ---------------------------------------------------------------------------------------------------


class Mean:
    """A callback of a user's: a running mean of the parameters, and its own list in the history."""

    def __init__(self) -> None:
        self.mean: Any = None
        self.said: list[str] = []

    def on_begin(self, model: MLP, history: History) -> None:
        self.mean, self.said = np.zeros_like(model.backend.to_numpy(model.params)), [f"begin {len(history)}"]

    def __call__(self, model: MLP, history: History) -> None:
        self.mean *= 0.5  # in place: what a checkpoint has taken hold of must not change
        self.mean += model.backend.to_numpy(model.params)
        history.setdefault("norm", []).append(np.linalg.norm(self.mean))
        if len(history["loss"]) == 3:
            cut_here()

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "count": np.int64(3), "words": {"a": [1, None, "b"], "nan": float("nan")}}

    def restore(self, state: dict[str, Any]) -> None:
        assert (state["count"], state["words"]["a"]) == (3, [1, None, "b"])
        self.said.append("restore")
        self.mean = state["mean"].copy()


def cut_here() -> None:
    """Nothing, until a test says otherwise."""


def test_callbacks_of_the_users_remember(tmp_path, monkeypatch):
    whole, model = network(), network()
    first, second = Mean(), Mean()
    expected = fit(whole, callbacks=first, epochs=5)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "cut_here", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        assert fit(network(), tmp_path / "run", callbacks=Mean(), epochs=5).interrupted
    history = fit(model, tmp_path / "run", callbacks=second, epochs=5)
    assert second.said == [f"begin {len(expected)}", "restore"]
    assert without_times(history) == without_times(expected)
    assert_same(second.mean, first.mean)


def test_what_cannot_be_remembered_is_refused_before_the_first_step(tmp_path):
    class Watches:
        def __call__(self, step: int) -> float:
            return 0.1

        def observe(self, loss: float) -> None: ...

    class Odd:
        def __init__(self, kept: Any) -> None:
            self.kept = kept

        def __call__(self, model: MLP, history: History) -> None:
            raise AssertionError

        def state(self) -> Any:
            return self.kept

        def restore(self, state: Any) -> None: ...

    with pytest.raises(TypeError, match=r"schedule Watches observes losses, but has no state\(\) and restore"):
        fit(network(), tmp_path / "run", optimizer=SGD(Watches()))
    with pytest.raises(TypeError, match=r"Odd\.state\(\)\['f'\] is a function"):
        fit(network(), tmp_path / "run", callbacks=Odd({"f": len and other}))
    with pytest.raises(TypeError, match=r"Odd\.state\(\) must return a dict"):
        fit(network(), tmp_path / "run", callbacks=Odd([1]))
    assert not (tmp_path / "run").exists()
    with pytest.raises(TypeError, match=r"history\['odd'\] is a list, or holds what a checkpoint cannot"):
        fit(network(), tmp_path / "run", callbacks=lambda _, history: history.setdefault("odd", []).append(len))


def test_early_stopping_goes_on_with_the_best_on_another_library(library, tmp_path):
    def train(folder: Any, **where: Any) -> tuple[MLP, EarlyStopping, History]:
        model, stop = network(members=2, dtype="float64", **where), EarlyStopping(patience=3)
        rate = {"optimizer": Adam([0.3, 0.1]), "validation_split": 0.3}
        return model, stop, fit(model, folder, epochs=30, callbacks=stop, **rate)

    whole, best, expected = train(None)
    broken_off("told", 11, lambda: train(tmp_path / "run"))
    model, stop, history = train(tmp_path / "run", **library.where)
    assert len(history["loss"]) == len(expected["loss"]) < 30
    assert stop.best_epoch == best.best_epoch
    assert stop.best_epoch[0] < 6 < len(history["loss"]), "one has its best from the file"
    assert_within(library.to_numpy(model.params), whole.params, BARS["adam"]["float64"] * np.abs(whole.params).max())


def test_another_monitor_is_refused(tmp_path):
    fit(network(), tmp_path / "run", callbacks=EarlyStopping("loss"))
    with pytest.raises(ValueError, match=r"EarlyStopping\(monitor='loss'.*EarlyStopping\(monitor='accuracy'"):
        fit(network(), tmp_path / "run", callbacks=EarlyStopping("accuracy"), epochs=5)


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("phase", ["write", "told"])
def test_a_log_and_the_best_model_go_on(tmp_path, append, phase):
    def train(where: Path, folder: Any) -> History:
        best = Checkpoint(where / "best.safetensors", "val_loss")
        log = CSVLog(where / "log.csv", append=append)
        return fit(network(), folder, epochs=6, validation_split=0.3, callbacks=[log, best])

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for where in (whole, parts):
        where.mkdir()
    expected = train(whole, None)
    broken_off(phase, 6, lambda: train(parts, tmp_path / "run"))  # the third epoch: its line is in the log
    assert len((parts / "log.csv").read_text().splitlines()) == 4
    assert without_times(train(parts, tmp_path / "run")) == without_times(expected)
    lines = [[line.split(",")[:-1] for line in (d / "log.csv").read_text().splitlines()] for d in (whole, parts)]
    assert lines[0] == lines[1]
    assert (whole / "best.safetensors").read_bytes() == (parts / "best.safetensors").read_bytes()


# -- crashes ----------------------------------------------------------------------------------------------------------


class Disk:
    """The system calls by which files change, recorded; one of them crashes, or fails, before or after it is made."""

    NAMES = ("open", "write", "fsync", "fsync folder", "replace", "unlink")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int = -1, after: bool = False, error: Any = None) -> None:
        self.calls: list[str] = []
        self.files: list[Any] = []
        self.at, self.after, self.error, self.crashed = at, after, error, False
        self.real = {"fsync": os.fsync, "replace": os.replace, "unlink": os.unlink}
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", lambda a, b: self.made("replace", lambda: self.real["replace"](a, b)))
        monkeypatch.setattr(os, "unlink", self.unlink)
        monkeypatch.setattr(portnn.files, "open", self.open, raising=False)

    def made(self, name: str, call: Callable[[], Any]) -> Any:
        if self.crashed:
            raise PowerCut(name)  # the process is dead: it changes nothing any more
        here = len(self.calls) == self.at
        self.calls.append(name)
        if here and not self.after:
            self.stop()
        result = call()
        if here:
            self.stop()
        return result

    def stop(self) -> None:
        if self.error is not None:
            raise self.error
        self.crashed = True
        for file in self.files:
            file.close()
        raise PowerCut

    def fsync(self, descriptor: int) -> None:
        folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        self.made("fsync folder" if folder else "fsync", lambda: self.real["fsync"](descriptor))

    def unlink(self, path: str) -> None:
        # what a failing write takes away again is no part of the protocol; after a crash nothing is taken away
        if path.endswith(".tmp") and self.error is not None:
            self.real["unlink"](path)
        else:
            self.made("unlink", lambda: self.real["unlink"](path))

    def open(self, path: str, mode: str = "r") -> Any:
        def opened() -> Any:
            self.files.append(open(path, mode))  # noqa: SIM115
            return self.files[-1]

        file, disk = self.made("open", opened), self

        class File:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: Any) -> None:
                disk.made("write", lambda: (file.write(data), file.flush()))

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        return File()


def saved_once_more(folder: Path, updates: int) -> Callable[[], None]:
    """A save of a state that is known by its number of updates, behind what is in the folder."""
    model = network()
    saver = Saver(Checkpoints(folder, keep=1), model, SGD(0.1), [], CONFIGURATION)
    saver.settle(saver.settled(History()))
    position = Position(0, 10, updates, {"params": model.params + updates}, {"loss": 1.0})
    return lambda: saver.save(position, History())


def check_either(folder: Path, *updates: int) -> int:
    kept = newest(folder)
    assert kept.record["updates"] in updates
    model, _ = load_checkpoint(folder)
    assert_same(model.params, network().params + kept.record["updates"])
    return kept.record["updates"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_system_call_leaves_the_old_or_the_new(tmp_path, monkeypatch, after):
    saved_once_more(tmp_path / "run", 1)()
    with monkeypatch.context() as patch:
        calls = Disk(patch).calls
        saved_once_more(tmp_path / "run", 2)()
    assert [name for name in calls if name != "write"] == ["open", "fsync", "replace", "fsync folder", "unlink"]
    assert calls.count("write") > 3
    assert calls.index("fsync") > len(calls) - 1 - calls[::-1].index("write")
    left = []
    for at in range(len(calls)):
        folder = tmp_path / f"{at}"
        saved_once_more(folder, 1)()
        with monkeypatch.context() as patch:
            disk = Disk(patch, at, after)
            with pytest.raises(PowerCut):
                saved_once_more(folder, 2)()
            assert disk.calls == calls[: at + 1]
        left.append(check_either(folder, 1, 2))
        saved_once_more(folder, 3)()  # the next run goes on, whatever is lying there
        assert check_either(folder, 3) == 3
    assert left == sorted(left)
    new = calls.index("replace") + (not after)
    assert left == [1] * new + [2] * (len(calls) - new)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_files_and_a_model_that_works(tmp_path, monkeypatch, number):
    whole = network()
    fit(whole, epochs=2)
    for call in ("open", "write", "fsync", "replace"):
        folder, model = tmp_path / call, network()
        fit(network(), folder, epochs=1)
        before = {name: (folder / name).read_bytes() for name in files(folder)}
        with monkeypatch.context() as patch:
            at = Disk(patch).calls
            saved_once_more(tmp_path / f"{call} once", 1)()
        with monkeypatch.context() as patch:
            Disk(patch, at.index(call), error=OSError(number, os.strerror(number)))
            with pytest.raises(OSError, match="checkpoint-000000000006") as caught:
                fit(model, folder, epochs=2)
        assert caught.value.errno == number
        assert {name: (folder / name).read_bytes() for name in files(folder)} == before, "no temporary file either"
        portnn.predict(model, X)
        model = network()
        fit(model, folder, epochs=2)
        assert_same(model.params, whole.params)


@pytest.mark.skipif(not FORKS, reason="the system has no limits of processes")
def test_a_file_that_grows_beyond_its_limit_leaves_the_old_one(tmp_path):
    program = """
import resource, signal, sys
import numpy as np, portnn
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
x = np.linspace(-1.0, 1.0, 64)[:, None]
options = {"loss": "mse", "batch_size": 64, "progress": False, "checkpoint": sys.argv[1], "resume": True}
portnn.fit(portnn.MLP([1, 50, 1]), x, x, epochs=1, **options)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    portnn.fit(portnn.MLP([1, 50, 1]), x, x, epochs=2, **options)
except OSError as error:
    print(error.errno)
"""
    command = [sys.executable, "-c", program, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == (str(errno.EFBIG), "")
    assert files(tmp_path / "run") == ["checkpoint-000000000001.safetensors"]
    newest(tmp_path / "run")


@pytest.mark.skipif(not FORKS, reason="the system has no fork")
@pytest.mark.parametrize("what", [("saves", "20"), ("resumes", "6", "--backend", "numpy")], ids=lambda x: x[0])
def test_killed_trainings_lose_nothing(what):
    """SIGKILL at random moments; benchmarks/kills.py does it more often, and on all libraries."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    script = Path(kill.__file__)
    done = subprocess.run([sys.executable, script, *what], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == int(what[1])
    assert found.get("told", found["kills"]) >= found["kills"]
    assert not found.get("differ")


def test_a_log_is_not_cut_by_a_training_that_never_wrote_it(tmp_path):
    """Neither a table of somebody else's, whether longer or shorter, nor the log of another training."""
    log, other, folder = tmp_path / "log.csv", tmp_path / "other.csv", tmp_path / "run"
    fit(network(), folder, callbacks=CSVLog(log))
    fit(network(seed=1), callbacks=CSVLog(tmp_path / "second.csv"), epochs=5)
    log_of_another, own = (tmp_path / "second.csv").read_text(), log.read_text().splitlines(keepends=True)
    shorter = "".join(log_of_another.splitlines(keepends=True)[:3])
    no_beginning = "".join([own[0], own[2], own[1]])
    tables = ("name,mass\n" + "a,1.5\n" * 100, "name,mass\na,1\n", "no end of a line")
    for text in (*tables, log_of_another, shorter, no_beginning):
        other.write_text(text)
        model = network()
        before = model.params.copy()
        with pytest.raises(FormatError, match=r"^CSVLog: '.*other\.csv' does not hold the lines that the"):
            fit(model, folder, callbacks=CSVLog(other), epochs=5)
        assert other.read_text() == text
        assert_same(model.params, before)
    shutil.copy(log, other)
    history = fit(network(), folder, callbacks=CSVLog(other), epochs=5)
    rows = list(csv.DictReader(other.read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == history["loss"]
