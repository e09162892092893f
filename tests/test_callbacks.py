"""Callbacks against what they stand for: the parameters that were recorded, files read by others, rules by hand."""

from __future__ import annotations

import builtins
import copy
import csv
import io
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same

import portnn
from portnn import MLP, SGD, Adam, NonFiniteError, callbacks
from portnn.callbacks import Checkpoint, CSVLog, EarlyStopping, EpochPrinter, TensorBoard
from portnn.history import History

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 4)).astype("float32")
LABELS = (X @ rng.normal(size=(4, 3))).argmax(axis=1)
HELD = rng.normal(size=(40, 4)).astype("float32"), rng.integers(0, 3, 40)  # noise: training makes it worse


def network(**options: Any) -> MLP:
    return MLP([4, 6, 3], **{"activation": "tanh", **options})


def fit(model: MLP, *called: Any, **options: Any) -> History:
    defaults = {"optimizer": Adam(0.02), "epochs": 8, "batch_size": 20, "validation_data": HELD, "progress": False}
    return portnn.fit(model, X, LABELS, callbacks=list(called), **{**defaults, **options})


class Recorder:
    """Keeps the parameters after every epoch, and what it was told."""

    def __init__(self, name: str = "", said: list | None = None, fails: str = "") -> None:
        self.name, self.fails = name, fails
        self.said: list[str] = [] if said is None else said
        self.params: list[np.ndarray] = []

    def _say(self, what: str) -> None:
        self.said.append(f"{self.name}{what}")
        if what == self.fails:
            raise ZeroDivisionError(what)

    def on_begin(self, model: MLP, history: History) -> None:
        assert not history
        self._say("begin")

    def __call__(self, model: MLP, history: History) -> None:
        self.params.append(model.backend.to_numpy(model.params).copy())
        self._say("epoch")

    def on_end(self, model: MLP, history: History) -> None:
        self._say("end")


def interrupt(after: int) -> Any:
    def interrupt(model: MLP, history: History) -> None:
        if len(history["loss"]) == after:
            raise KeyboardInterrupt

    return interrupt


# -- begin and end ----------------------------------------------------------------------------------------------------


def test_begin_epochs_end_in_the_order_of_the_list():
    said: list[str] = []
    fit(network(), Recorder("a ", said), Recorder("b ", said), epochs=2)
    steps = ("begin", "epoch", "epoch", "end")
    assert said == [f"{name} {step}" for step in steps for name in "ab"]


@pytest.mark.parametrize("fails", ["begin", "epoch", "end"])
def test_every_end_comes_whatever_fails(fails):
    said: list[str] = []
    model = network()
    before = model.params.copy()
    with pytest.raises(ZeroDivisionError, match=fails):
        fit(model, Recorder("a ", said), Recorder("b ", said, fails=fails), Recorder("c ", said), epochs=1)
    ends = [line for line in said if line.endswith("end")]
    assert ends == (["a end"] if fails == "begin" else ["a end", "b end", "c end"]), "those that have begun"
    if fails == "begin":
        assert "a epoch" not in said
        assert_same(model.params, before)


def test_names_are_what_is_written_down(library):
    class Names:
        def on_begin(self, model: MLP, history: History) -> None:
            self.names, self.epochs = history.names, history.epochs

        def __call__(self, model: MLP, history: History) -> None: ...

    names = Names()
    history = fit(network(**library.where), names, epochs=1)
    assert names.names == tuple(history)
    assert names.epochs == 1
    values = portnn.fit(MLP([4, 1]), X, X[:, 0], loss="mse", epochs=1, optimizer=SGD(0.1), callbacks=names)
    assert names.names == tuple(values) == ("loss", "learning_rate", "epoch_seconds")


def test_a_nan_leaves_history_and_ends():
    recorder = Recorder()

    def spoil(model: MLP, history: History) -> None:
        if len(history["loss"]) == 3:
            model.params = model.params + np.inf

    model = network()
    with pytest.raises(NonFiniteError) as caught:
        fit(model, EarlyStopping(), recorder, spoil)
    history = caught.value.history
    assert len(history["val_loss"]) == 3
    assert recorder.said[-1] == "end"
    assert_same(model.params, recorder.params[int(np.argmin(history["val_loss"]))])


class Half:
    """No function: it has no __call__."""

    def on_end(self, model: MLP, history: History) -> None: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [None],
            r"callbacks has None, expected functions f\(model, history\) or objects of portnn.callbacks; leave it",
        ),
        ([EarlyStopping], r"callbacks has the class EarlyStopping, expected an object of it: EarlyStopping\(...\)"),
        (EpochPrinter, r"callbacks has the class EpochPrinter, expected an object of it: EpochPrinter\(...\)"),
        ("early", "callbacks has 'early', expected functions"),
        ({"stop": print}, "callbacks has {'stop': <built-in function print>}, expected functions"),
        (3, "callbacks has 3, expected functions"),
        ([Half()], "callbacks has <.*Half object .*>, expected functions"),
    ],
)
def test_what_is_no_callback_is_refused_before_the_first_step(given, message):
    model, told = network(), Recorder()
    before = model.params.copy()
    given = [told, *given] if isinstance(given, list) else given
    with pytest.raises(TypeError, match=f"^fit: {message}") as caught:
        portnn.fit(model, X, LABELS, callbacks=given)
    assert "\n" not in str(caught.value)
    assert told.said == []
    assert_same(model.params, before)


def test_an_answer_that_is_neither_true_nor_false_is_refused():
    """Such as an array of several numbers."""
    with pytest.raises(TypeError, match=r"^fit: the callback <lambda> returned ndarray of shape \(3,\), expected True"):
        fit(network(), lambda model, history: np.ones(3))
    history = fit(network(), lambda model, history: np.ones(1), epochs=3)
    assert len(history["loss"]) == 1


def test_callbacks_may_come_one_by_one():
    said: list[str] = []
    portnn.fit(network(), X, LABELS, epochs=1, callbacks=(Recorder(name, said) for name in "ab"), progress=False)
    assert said == ["abegin", "bbegin", "aepoch", "bepoch", "aend", "bend"]
    with_none, without = network(), network()
    portnn.fit(with_none, X, LABELS, epochs=1, callbacks=None, progress=False)
    portnn.fit(without, X, LABELS, epochs=1, progress=False)
    assert_same(with_none.params, without.params)


# -- a callback that leaves NaN ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("members", [None, 3])
def test_a_nan_of_a_callback_is_its_own(library, members, last, in_place):
    """Found at once, also in the last epoch, and put down to the callback, not to the step after it."""
    model, recorder = network(members=members, normalization="batch", **library.where), Recorder()
    if in_place and (library.backend_name == "jax" or model.backend.memory_of(model.params) != (1, 0)):
        pytest.skip("its arrays are never changed, or lie where they are not looked at")

    def nudges(model: MLP, history: History) -> None:
        model.params = model.params * 0.5

    def spoils(model: MLP, history: History) -> None:
        if len(history["loss"]) == 2:
            bad = library.to_numpy(model.params).copy()
            bad[(1, slice(24, 26)) if members else slice(24, 26)] = [np.inf, np.nan]
            if in_place:
                model.params[...] = library.backend.asarray(bad)
            else:
                model.params = library.backend.asarray(bad)

    sentence = (
        r"^fit: epoch 2: the callback spoils left NaN or infinity in biases\[0\] of the model, which keeps its last"
    )
    with pytest.raises(NonFiniteError, match=sentence) as caught:
        fit(model, nudges, recorder, spoils, epochs=2 if last else 4)
    assert caught.value.members == (() if members is None else (1,))
    assert recorder.said == ["begin", "epoch", "epoch", "end"]
    assert_same(library.to_numpy(model.params), recorder.params[-1])
    portnn.evaluate(model, library.make(X), LABELS)


def test_a_nan_in_running_statistics_that_a_callback_set():
    model = network(normalization="batch")
    before = model.running.copy()
    with pytest.raises(ValueError, match=r"^MLP.running: the running variance of layer 0 is negative or NaN"):
        fit(model, lambda model, history: setattr(model, "running", model.running * np.nan), epochs=1)

    class Spoils:
        def __call__(self, model: MLP, history: History) -> None:
            model.running = np.where(np.arange(model.running.shape[0]) == 0, np.inf, model.running)

    with pytest.raises(
        NonFiniteError, match="callback Spoils left NaN or infinity in running mean of layer 0 of the m"
    ):
        fit(model, Spoils(), epochs=1)
    assert np.isfinite(model.running).all()
    assert not np.array_equal(model.running, before)


def test_nothing_is_read_for_a_callback_that_sets_nothing(library, monkeypatch):
    """On a device with memory of its own, which the host's is taken for here."""
    model, looks = network(**library.where), []
    monkeypatch.setattr(type(model.backend), "memory_of", lambda self, x: (2, 0))
    monkeypatch.setattr(portnn.callbacks, "stored", lambda *a: looks.append(a))
    fit(model, lambda model, history: model.params[0], epochs=2)
    at_rest = len(looks)  # fit and validation look once each, before they begin
    looks.clear()
    fit(model, lambda model, history: setattr(model, "params", model.params), epochs=2)
    assert len(looks) == at_rest + 2


# -- early stopping ---------------------------------------------------------------------------------------------------


def stop_by_hand(values: list[float], patience: int, delta: float = 0.0, sign: int = 1) -> tuple[int, int]:
    """Return (epochs, best epoch): for each end of the training look whether the best lies ``patience`` behind."""
    best = 0
    for epoch, value in enumerate(values):
        if epoch and sign * value < sign * values[best] - delta:
            best = epoch
        if epoch - best == patience:
            return epoch + 1, best + 1
    return len(values), best + 1


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_the_best_parameters_are_put_back_to_the_bit(library, monitor):
    recorder, stop = Recorder(), EarlyStopping(monitor, patience=3)
    model = network(**library.where)
    history = fit(model, recorder, stop, epochs=20)
    free = fit(network(**library.where), epochs=20)
    epochs, best = stop_by_hand(free[monitor], 3, sign=1 if monitor == "val_loss" else -1)
    assert len(history["loss"]) == epochs < 20
    assert stop.best_epoch == best
    assert stop.best == history[monitor][best - 1]
    assert_same(library.to_numpy(model.params), recorder.params[best - 1])
    assert not np.array_equal(recorder.params[-1], recorder.params[best - 1])


@pytest.mark.parametrize(
    ("values", "options", "epochs", "best"),
    [
        ([3, 2, 1, 1, 1, 0], {"patience": 2}, 5, 3),  # equal is no improvement
        ([3, 2, 1, 1, 0.5, 1, 1], {"patience": 2}, 7, 5),
        ([3, 4, 5], {"patience": 1}, 2, 1),
        ([3, 2, 1.6, 1.5, 1.3], {"patience": 2, "min_delta": 0.5}, 4, 2),
        ([3, 2, 1.5, 0.9], {"patience": 2, "min_delta": 0.5}, 4, 4),  # 1.5 is not less than 2 - 0.5; 0.9 is
        ([1, 2, 3, 3, 2], {"patience": 2, "mode": "max"}, 5, 3),
        ([1, 2, 3, 3, 2], {"patience": 2, "mode": "min"}, 3, 1),
        ([float("nan"), 5, 4, float("nan"), float("nan")], {"patience": 2}, 5, 3),
        ([float("inf"), float("inf"), 4], {"patience": 2}, 3, 3),
        ([float("nan")] * 4, {"patience": 2}, 3, 1),
    ],
)
def test_the_rule(values, options, epochs, best):
    stop = EarlyStopping("mine", **{"mode": "min", **options})
    history, ended = History(loss=[], mine=[]), 0
    for value in values:
        history["loss"].append(0.0)
        history["mine"].append(value)
        if stop(network(), history):
            ended = len(history["loss"])
            break
    assert (ended or len(values), stop.best_epoch) == (epochs, best)


RATES, SEEDS = [0.003, 0.03, 0.1], [5, 6, 7]


def test_members_stop_as_if_they_were_alone(library):
    patience, options = 3, {"epochs": 24, "optimizer": Adam(RATES)}
    several = {"members": 3, "seed": SEEDS, **library.where}
    model, recorder = network(**several), Recorder()
    stop = EarlyStopping(patience=patience)
    history = fit(model, recorder, stop, **options)
    free = fit(network(**several), **options)
    each = [stop_by_hand([values[m] for values in free["val_loss"]], patience) for m in range(3)]
    assert len({epochs for epochs, _ in each}) > 1, "members that stop at different epochs"
    assert len(history["loss"]) == max(epochs for epochs, _ in each)
    assert stop.best_epoch == [best for _, best in each]
    for m, (_, best) in enumerate(each):
        assert_same(library.to_numpy(model.params)[m], recorder.params[best - 1][m])


def test_what_comes_after_a_members_patience_does_not_count_for_it():
    stop, history, model = EarlyStopping("mine", mode="min", patience=2), History(loss=[], mine=[]), network(members=2)
    ended = []
    for epoch, values in enumerate([[3, 3], [4, 2], [5, 1], [0, 1], [0, 0.5], [0, 1], [0, 1], [0, 0]], 1):
        history["loss"].append([0.0, 0.0])
        history["mine"].append(values)
        model.params = np.full((2, model.n_params), epoch)
        ended.append(stop(model, history))
    assert ended == [False] * 6 + [True] * 2
    assert (stop.best_epoch, stop.best) == ([1, 5], [3, 0.5])
    stop.on_end(model, history)
    assert model.params.tolist() == [[1] * model.n_params, [5] * model.n_params]


def test_a_member_is_what_it_is_alone():
    together, alone = EarlyStopping(patience=3), []
    fit(network(members=3, seed=SEEDS, dtype="float64"), together, epochs=24, optimizer=Adam(RATES))
    for seed, rate in zip(SEEDS, RATES, strict=True):
        alone.append(EarlyStopping(patience=3))
        fit(network(seed=seed, dtype="float64"), alone[-1], epochs=24, optimizer=Adam(rate))
    assert together.best_epoch == [stop.best_epoch for stop in alone]


def test_ctrl_c_puts_the_best_back_too():
    recorder, model = Recorder(), network()
    history = fit(model, recorder, EarlyStopping(patience=50), interrupt(7), epochs=20)
    assert history.interrupted
    best = int(np.argmin(history["val_loss"]))
    assert 0 <= best < 6
    assert_same(model.params, recorder.params[best])


def test_the_best_is_kept_whatever_others_do_to_the_parameters():
    def double(model: MLP, history: History) -> None:
        model.params *= 2.0  # in place, where the library can

    recorder, model = Recorder(), network()
    history = fit(model, recorder, EarlyStopping(patience=50), double, epochs=4)
    assert_same(model.params, recorder.params[int(np.argmin(history["val_loss"]))])


def test_the_last_parameters_stay_without_restore_best():
    recorder, model, stop = Recorder(), network(), EarlyStopping(patience=2, restore_best=False)
    history = fit(model, recorder, stop, epochs=20)
    assert len(history["loss"]) == stop.best_epoch + 2
    assert_same(model.params, recorder.params[-1])


def test_one_object_serves_a_second_training():
    stop, first, second = EarlyStopping(patience=2), network(), network()
    fit(first, stop, epochs=20)
    best = stop.best_epoch
    fit(second, stop, epochs=20)
    assert stop.best_epoch == best
    assert_same(first.params, second.params)


def test_a_list_of_the_users_own_can_be_watched():
    def measure(model: MLP, history: History) -> None:
        history.setdefault("norm", []).append(float(np.linalg.norm(model.params)))

    stop = EarlyStopping("norm", patience=2, mode="min")
    history = fit(network(), measure, stop, epochs=20)
    assert len(history["loss"]) == stop_by_hand(history["norm"], 2)[0]


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2])
def test_the_file_is_the_newest_model(tmp_path, every):
    path, recorder, seen = tmp_path / "newest.safetensors", Recorder(), []

    def look(model: MLP, history: History) -> None:
        epoch = len(history["loss"])
        if epoch >= every:
            kept = MLP.load(path).params
            seen.append(next(k for k, params in enumerate(recorder.params, 1) if np.array_equal(params, kept)))

    model = network()
    fit(model, recorder, Checkpoint(path, every=every), look, epochs=5)
    assert seen == ([1, 2, 3, 4, 5] if every == 1 else [2, 2, 4, 4])
    assert_same(MLP.load(path).params, model.params)


def test_the_file_is_the_best_model(tmp_path):
    path, recorder = tmp_path / "best.safetensors", Recorder()
    history = fit(network(), recorder, Checkpoint(path, "val_loss"))
    assert_same(MLP.load(path).params, recorder.params[int(np.argmin(history["val_loss"]))])
    fit(network(), recorder, Checkpoint(path, "val_loss", every=3), epochs=8)
    looked = [2, 5]
    best = min(looked, key=lambda k: history["val_loss"][k])
    assert_same(MLP.load(path).params, recorder.params[best])


def test_of_members_the_file_has_the_best_of_each(tmp_path):
    path, recorder = tmp_path / "best.safetensors", Recorder()
    model = network(members=3, seed=SEEDS)
    history = fit(model, recorder, Checkpoint(path, "val_loss"), epochs=12, optimizer=Adam(RATES))
    best = np.asarray(history["val_loss"]).argmin(axis=0)
    assert len(set(best.tolist())) > 1
    assert_same(MLP.load(path).params, np.stack([recorder.params[k][m] for m, k in enumerate(best)]))
    assert_same(model.params, recorder.params[-1])


def test_the_file_is_that_of_ctrl_c_and_of_the_best_put_back(tmp_path):
    path, model = tmp_path / "m.safetensors", network()
    fit(model, Checkpoint(path, every=100), interrupt(2))
    assert_same(MLP.load(path).params, model.params)
    fit(model, EarlyStopping(patience=2), Checkpoint(path), epochs=20)
    assert_same(MLP.load(path).params, model.params)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_training(tmp_path):
    recorder, model = Recorder(), network()
    with pytest.raises(FileNotFoundError, match=r"Checkpoint: the folder of .*absent.*make it first"):
        fit(model, Checkpoint(tmp_path / "absent" / "m.safetensors"), recorder)
    own = network(activation=lambda z: (z, lambda dy: (dy,)))
    with pytest.raises(ValueError, match="Checkpoint: the activation of layer 0 is your own function"):
        fit(own, Checkpoint(tmp_path / "m.safetensors"), recorder)
    assert recorder.said == []
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_onto_a_folder_is_refused_before_training(tmp_path):
    recorder, model = Recorder(), network()
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        fit(model, Checkpoint(tmp_path), recorder)
    assert recorder.said == []
    with pytest.raises(ValueError, match="Checkpoint: path is empty; name a file"):
        Checkpoint("")


def test_a_path_may_be_bytes(tmp_path):
    files, model = [tmp_path / "best.safetensors", tmp_path / "log.csv"], network()
    fit(model, Checkpoint(os.fsencode(files[0])), CSVLog(os.fsencode(files[1])), epochs=1)
    assert_same(MLP.load(files[0]).params, model.params)
    assert len(files[1].read_text().splitlines()) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_a_log_can_be_used_again_after_a_full_disk(tmp_path):
    log = CSVLog("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        fit(network(), log, epochs=2)
    log.path = str(tmp_path / "log.csv")
    fit(network(), log, epochs=2)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_a_refused_fit_leaves_the_files_of_an_earlier_one(tmp_path):
    files, model = [tmp_path / "best.safetensors", tmp_path / "log.csv"], network()
    fit(model, Checkpoint(files[0]), CSVLog(files[1]), epochs=2)
    before = [file.read_bytes() for file in files]
    with pytest.raises(ValueError, match="give validation_data or validation_split"):
        fit(network(seed=1), Checkpoint(files[0]), CSVLog(files[1]), EarlyStopping(), validation_data=None)
    assert [file.read_bytes() for file in files] == before
    with pytest.raises(FileNotFoundError, match=r"CSVLog: the folder of .*absent.*make it first"):
        fit(model, CSVLog(tmp_path / "absent" / "log.csv"))


# -- logs -------------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("members", [None, 2])
def test_the_csv_file_is_the_history(tmp_path, members):
    path, lengths = tmp_path / "log.csv", []

    def look(model: MLP, history: History) -> None:
        lengths.append(len(path.read_text().splitlines()))

    history = fit(network(members=members), CSVLog(path), look, epochs=3)
    assert lengths == [2, 3, 4], "a line is there before the next epoch"
    rows = read(path)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    for name, values in history.items():
        for m in range(members or 1):
            column = f"{name}[{m}]" if isinstance(values[0], list) else name
            wanted = [value[m] if isinstance(value, list) else value for value in values]
            assert [float(row[column]) for row in rows] == wanted, "to the last digit"
    assert list(rows[0]) == ["epoch", *history.to_pandas()]


def test_the_csv_file_goes_on_or_is_replaced(tmp_path):
    path, model = tmp_path / "log.csv", network()
    first = fit(model, CSVLog(path, append=True), epochs=2)
    second = fit(model, CSVLog(path, append=True), epochs=2)
    rows = read(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["val_loss"]) for row in rows] == first["val_loss"] + second["val_loss"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"CSVLog: the columns .* 'accuracy' is in one only; .*append=False"):
        portnn.fit(MLP([4, 1]), X, X[:, 0], loss="mse", epochs=1, callbacks=CSVLog(path, append=True))
    assert path.read_bytes() == before
    third = fit(model, CSVLog(path), epochs=1)
    assert [float(row["loss"]) for row in read(path)] == third["loss"]


def test_the_csv_file_goes_on_where_a_training_is_resumed(tmp_path):
    path, model = tmp_path / "log.csv", network()
    history = fit(model, CSVLog(path), epochs=2)
    history = fit(model, CSVLog(path, append=True), epochs=2, resume=history)
    rows = read(path)
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(history["loss"]) + 1))
    assert [float(row["loss"]) for row in rows] == history["loss"]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path, model = tmp_path / "log.csv", network()
    first = fit(model, CSVLog(path), epochs=2)
    path.write_bytes(path.read_bytes()[:-9])
    second = fit(model, CSVLog(path, append=True), epochs=2)
    rows = read(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == [first["loss"][0], *second["loss"]]
    path.write_bytes(path.read_bytes() + b"4,0.5\n")
    with pytest.raises(ValueError, match=r"CSVLog: the last line of .* has 2 fields and the epoch '4', expected"):
        fit(model, CSVLog(path, append=True), epochs=1)
    path.write_bytes(path.read_bytes()[:3])
    fit(model, CSVLog(path, append=True), epochs=1)
    assert [row["epoch"] for row in read(path)] == ["1"]
    path.write_text("a note, of one line without an end")
    with pytest.raises(ValueError, match=r"is no log \(it has no end of a line\); choose another file"):
        fit(model, CSVLog(path, append=True), epochs=1)
    assert path.read_text() == "a note, of one line without an end"


def test_the_csv_file_holds_lists_of_the_users_own_and_what_came_before_a_nan(tmp_path):
    path = tmp_path / "log.csv"

    def mine(model: MLP, history: History) -> None:
        history.setdefault("mine", []).append(len(history["loss"]))

    def spoil(model: MLP, history: History) -> None:
        if len(history["loss"]) == 2:
            model.params = model.params + np.nan

    with pytest.raises(NonFiniteError):
        fit(network(), mine, CSVLog(path), spoil)
    assert [row["mine"] for row in read(path)] == ["1", "2"]


def test_the_csv_file_has_dates_as_texts_and_a_column_for_each_of_a_tuple(tmp_path):
    def mine(_: MLP, history: History) -> None:
        history.setdefault("when", []).append(np.datetime64("2026-11-22T10:30", "ns"))
        history.setdefault("took", []).append(np.timedelta64(90, "s"))
        history.setdefault("pair", []).append((1, np.float32(0.1)))

    history = fit(network(), mine, CSVLog(tmp_path / "log.csv"), epochs=2)
    rows = read(tmp_path / "log.csv")
    assert [row["when"] for row in rows] == ["2026-11-22T10:30:00.000000000"] * 2
    assert [(row["took"], row["pair[0]"]) for row in rows] == [("90 seconds", "1")] * 2
    assert [np.float32(row["pair[1]"]) for row in rows] == [np.float32(0.1)] * 2
    assert json.loads(json.dumps(history.to_dict()))["when"] == ["2026-11-22T10:30:00.000000000"] * 2


def test_the_csv_file_leaves_out_what_was_not_written_down(tmp_path):
    path = tmp_path / "log.csv"

    def once(model: MLP, history: History) -> None:
        history.setdefault("once", [7])

    fit(network(), once, CSVLog(path), epochs=2)
    assert [row["once"] for row in read(path)] == ["7", ""]

    def late(model: MLP, history: History) -> None:
        if len(history["loss"]) == 2:
            history["late"] = [0, 1]

    with pytest.raises(ValueError, match=r"CSVLog: the columns .*'late' is in one only"):
        fit(network(), late, CSVLog(path), epochs=2)
    with pytest.raises(ValueError, match=r"CSVLog: the columns .* is in one only"):
        fit(network(members=2), CSVLog(path, append=True), epochs=2)


@pytest.mark.parametrize("members", [None, 2])
def test_tensorboard_reads_the_history(tmp_path, members):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (extra: tensorboard)")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed to read with"
    )
    history = fit(network(members=members), TensorBoard(tmp_path / "runs"), epochs=3)
    seen = reader.EventAccumulator(str(tmp_path / "runs"))
    seen.Reload()
    tags = {
        "loss": "loss/train",
        "val_loss": "loss/validation",
        "accuracy": "accuracy/train",
        "val_accuracy": "accuracy/validation",
        "learning_rate": "learning_rate",
        "epoch_seconds": "epoch_seconds",
    }
    found = {}
    for name, tag in tags.items():
        for m in range(len(history[name][0]) if isinstance(history[name][0], list) else 1):
            whole = f"{tag}/member_{m}" if isinstance(history[name][0], list) else tag
            found[whole] = [(e.step, e.value) for e in seen.Scalars(whole)]
            wanted = [value[m] if isinstance(value, list) else value for value in history[name]]
            assert found[whole] == [(k, np.float32(v)) for k, v in enumerate(wanted, 1)]
    assert set(found) == set(seen.Tags()["scalars"])


@pytest.mark.parametrize(("module", "callback", "pip"), [("tensorboardX", TensorBoard("runs"), "tensorboardX")])
def test_a_missing_package_is_named_before_training(monkeypatch, module, callback, pip):
    hide(monkeypatch, module)
    recorder = Recorder()
    with pytest.raises(ImportError, match=f"python -m pip install {pip}"):
        fit(network(), callback, recorder)
    assert recorder.said == []


def hide(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == hidden:
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)


def test_a_line_per_epoch(capsys):
    history = fit(network(), EpochPrinter(), epochs=10)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    last = {name: values[-1] for name, values in history.items()}
    assert lines[-1] == (
        f"epoch 10/10  loss {last['loss']:.4f}  accuracy {100 * last['accuracy']:.2f}%  "
        f"val_loss {last['val_loss']:.4f}  val_accuracy {100 * last['val_accuracy']:.2f}%  learning_rate 0.02  "
        f"{last['epoch_seconds']:.2f} s"
    )
    assert lines[0].startswith("epoch  1/10  loss ")


def test_remarks_of_the_users_own_are_no_scalars(tmp_path, capsys):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (extra: tensorboard)")

    def remark(model: MLP, history: History) -> None:
        history.setdefault("remark", []).append("fine")
        history.setdefault("first", [1.0])

    fit(network(), remark, TensorBoard(tmp_path), CSVLog(tmp_path / "log.csv"), EpochPrinter(), epochs=2)
    first, second = capsys.readouterr().out.splitlines()
    assert "first 1.0000" in first
    assert "first" not in second
    assert "remark" not in first
    assert [row["remark"] for row in read(tmp_path / "log.csv")] == ["fine", "fine"]
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed to read with"
    )
    seen = reader.EventAccumulator(str(tmp_path))
    seen.Reload()
    assert [event.step for event in seen.Scalars("first")] == [1]
    assert "remark" not in seen.Tags()["scalars"]


def test_every_third_line_and_the_last_and_means_of_members():
    paper = io.StringIO()
    history = fit(network(members=2), EpochPrinter(every=3, file=paper), epochs=7)
    lines = paper.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["3/7", "6/7", "7/7"]
    assert f"loss {np.mean(history['loss'][2]):.4f}  accuracy {100 * np.mean(history['accuracy'][2]):.2f}%" in lines[0]


# -- history ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [None, 2])
def test_the_history_as_dict_and_table(members):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    history = fit(network(members=members), epochs=3)
    plain = history.to_dict()
    assert type(plain) is dict
    assert json.loads(json.dumps(plain)) == plain == dict(history)
    plain["loss"].clear()
    assert len(history["loss"]) == 3, "a copy"
    table = history.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.index) == [1, 2, 3]
    assert table.index.name == "epoch"
    if members is None:
        assert {name: list(table[name]) for name in table} == dict(history)
    else:
        assert table[["loss[0]", "loss[1]"]].to_numpy().tolist() == history["loss"]
        assert list(table["epoch_seconds"]) == history["epoch_seconds"]
    assert History().to_pandas().empty


def test_numbers_that_a_callback_appends_become_pythons(library):
    def scores(model: MLP, history: History) -> None:
        history.setdefault("f1", []).append(np.float32(0.5))
        history.setdefault("count", []).append(np.int64(len(history["loss"])))
        history.setdefault("each", []).append(np.asarray([0.25, 0.5], dtype="float32"))
        history.setdefault("spread", []).append((np.float64(1.5), 2))
        history.setdefault("norm", []).append(library.xp.sum(model.params * 0.0))
        history.setdefault("note", []).append("good")

    plain = fit(network(**library.where), scores, epochs=2).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    own = {"f1": [0.5] * 2, "count": [1, 2], "each": [[0.25, 0.5]] * 2, "spread": [[1.5, 2]] * 2, "norm": [0.0] * 2}
    assert {name: plain[name] for name in own} == own
    assert plain["note"] == ["good"] * 2
    assert type(plain["f1"][0]) is float
    assert type(plain["count"][0]) is int


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h)), History.copy])
def test_a_history_that_was_copied_goes_on(library, twin):
    """Its copies hold the optimizer's arrays on the host, which are taken to any library."""
    ends, options = [], {"normalization": "batch", "dropout": 0.25, **library.where}
    for copied in (lambda h: h, twin):
        model = network(**options)
        history = copied(fit(model, epochs=2))
        assert type(history) is History
        assert (history.names, history.interrupted, history.epochs) == (tuple(history), False, 2)
        whole = fit(model, epochs=2, resume=history)
        assert len(whole["loss"]) == 4
        ends.append(library.to_numpy(model.params))
    assert all(type(a) is np.ndarray for a in history.reached.arrays.values())
    assert_same(*ends)


def test_a_history_lets_go_of_the_arrays():
    history = fit(network(), epochs=1)
    size = len(pickle.dumps(history))
    n = network().n_params
    assert {name: a.shape for name, a in history.reached.arrays.items()} == {"m": (n,), "v": (n,)}
    history.reached = None
    assert len(pickle.dumps(history)) < size - 2 * 4 * n
    assert type(history.copy()) is History


def test_a_list_that_begins_late_leaves_no_column_shifted():
    table = History(loss=[1.0, 2.0], mine=[3.0]).to_pandas()
    assert table["mine"].isna().tolist() == [False, True]


def test_missing_pandas_names_the_cure(monkeypatch):
    hide(monkeypatch, "pandas")
    with pytest.raises(ImportError, match=r"History\.to_pandas: .*pip install pandas"):
        History().to_pandas()


def test_the_history_draws_itself(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: examples)")
    path = tmp_path / "curves.png"
    figure = fit(network(), epochs=3).plot(path)
    assert "Learning curves, 3 epochs" in figure.get_suptitle()
    assert path.read_bytes().startswith(b"\x89PNG")


# -- slips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: EarlyStopping(patience=0),
            ValueError,
            r"EarlyStopping: patience must be an int in the range \[1, inf",
        ),
        (lambda: EarlyStopping(min_delta=-1.0), ValueError, "EarlyStopping: min_delta must be a finite number >= 0"),
        (lambda: EarlyStopping(mode="most"), ValueError, "unknown mode of EarlyStopping 'most'"),
        (lambda: EarlyStopping(monitor=3), TypeError, "EarlyStopping: monitor must be a name of the history"),
        (
            lambda: EarlyStopping("f1"),
            ValueError,
            "EarlyStopping: mode='auto' does not know whether 'f1' should fall or rise; say mode='min' or 'max'",
        ),
        (
            lambda: EarlyStopping("val_los"),
            ValueError,
            r"whether 'val_los' should fall or rise; did you mean 'val_loss'\? For a list .* yours adds, say mode=",
        ),
        (lambda: Checkpoint("m", "f1"), ValueError, "Checkpoint: mode='auto' does not know whether 'f1'"),
        (lambda: Checkpoint("m", every=0), ValueError, r"Checkpoint: every must be an int in the range \[1, inf"),
        (lambda: Checkpoint("m", "loss", mode="most"), ValueError, "unknown mode of Checkpoint 'most'"),
        (lambda: EpochPrinter(every=0), ValueError, "EpochPrinter: every must be an int"),
    ],
)
def test_what_is_refused_when_it_is_made(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("callback", [EarlyStopping("val_loss"), Checkpoint("m", "val_loss")])
def test_a_name_that_will_not_come_is_refused_before_training(callback):
    model = network()
    before = model.params.copy()
    with pytest.raises(ValueError, match=r"monitor='val_loss' is not in the history, .*; give validation_data or"):
        fit(model, callback, validation_data=None)
    assert_same(model.params, before)


def test_a_name_that_does_not_come_is_refused_after_the_first_epoch():
    with pytest.raises(ValueError, match="EarlyStopping: monitor='mine' is not in the history, which has loss, acc"):
        fit(network(), EarlyStopping("mine", mode="min"))


@pytest.mark.parametrize(
    ("name", "meant"), [("val_los", "val_loss"), ("vall_loss", "val_loss"), ("acuracy", "accuracy")]
)
def test_a_name_that_does_not_come_is_told_which_one_was_meant(name, meant):
    with pytest.raises(ValueError, match=rf"monitor='{name}' is not .*; did you mean '{meant}'\?$"):
        fit(network(), EarlyStopping(name, mode="min"))


def test_a_name_near_another_may_be_a_users_own():
    stop = EarlyStopping("val_los", mode="min", patience=9)
    history = fit(network(), lambda model, history: history.setdefault("val_los", []).append(1.0), stop)
    assert stop.best_epoch == 1
    assert history["val_los"] == [1.0] * len(history["loss"])


def test_all_names_are_public():
    assert {name for name in callbacks.__all__ if name[0].isupper()} == {
        *("CSVLog", "Callback", "Checkpoint", "EarlyStopping", "EpochPrinter", "TensorBoard")
    }


@pytest.mark.parametrize("members", [None, 2])
def test_the_best_of_batch_norm_comes_back_whole(members, tmp_path):
    """Parameters of one epoch with the running statistics of another would be another network."""
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    model = portnn.MLP([3, 6, 1], normalization="batch", dtype="float64", members=members)
    seen = []

    def watch(model, history):
        seen.append([np.array(a, copy=True) for a in (model.params, model.running)])

    stop = EarlyStopping("val_loss", patience=2)
    keep = Checkpoint(tmp_path / "best.safetensors", monitor="val_loss")
    portnn.fit(
        *(model, x, t),
        loss="mse",
        optimizer=portnn.Adam(0.05),
        validation_split=0.5,
        epochs=60,
        batch_size=10,
        callbacks=[watch, keep, stop],
    )
    saved = portnn.MLP.load(tmp_path / "best.safetensors")
    best = np.atleast_1d(stop.best_epoch) - 1
    assert len(seen) - 1 > best.min()
    for name, k in (("params", 0), ("running", 1)):
        rows = [seen[epoch][k] if members is None else seen[epoch][k][m] for m, epoch in enumerate(best)]
        expected = rows[0] if members is None else np.stack(rows)
        for found in (model, saved):
            assert np.array_equal(np.asarray(getattr(found, name)), expected)
