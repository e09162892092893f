"""The bar, as a terminal, a log and a notebook see it."""

from __future__ import annotations

import builtins
import io
import re
import sys
import types
from typing import Any

import numpy as np
import pytest

import portnn
from portnn import MLP, SGD, progress
from portnn.callbacks import EpochPrinter

tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed: no bar to look at")

X = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
LABELS = (X @ np.random.default_rng(1).normal(size=(4, 3))).argmax(axis=1)


def fit(model: MLP | None = None, **options: Any) -> portnn.History:
    defaults = {"optimizer": SGD(0.1), "epochs": 3, "batch_size": 20}
    return portnn.fit(model or MLP([4, 3]), X, LABELS, **{**defaults, **options})


class Screen(io.StringIO):
    """A terminal of 200 columns that keeps all that was written."""

    def isatty(self) -> bool:
        return True

    def states(self) -> list[str]:
        """What the line of the bar was, one state after the other."""
        return [state.strip() for state in re.split(r"[\r\n]", self.getvalue()) if state.strip()]


def a_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Put a terminal in the place of the standard error; in a fixture pytest would take it away before the test."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(tqdm.tqdm, "__init__", eager(tqdm.tqdm.__init__))
    return screen


def eager(original: Any) -> Any:
    """Draw every update, where otherwise a tenth of a second must lie between two."""

    def init(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **{**options, "mininterval": 0, "miniters": 1, "ncols": 200})

    return init


def test_the_bar_shows_epoch_loss_accuracy_rate_and_time_left(monkeypatch):
    screen = a_screen(monkeypatch)
    history = fit(validation_data=(X, LABELS))
    *_, last = screen.states()
    assert last.startswith("epoch 3/3: 100%")
    assert "600/600 [" in last, "samples of all epochs"
    assert re.search(r"<\d\d:\d\d, +[\d.]+k? samples/s", last), "time left, samples per second"
    assert f"loss={history['loss'][2]:.4f}, accuracy={history['accuracy'][2]:.4f}" in last
    assert f"val_accuracy={history['val_accuracy'][2]:.4f}" in last, "drawn once more at the end"


def test_the_numbers_are_those_of_the_epoch_so_far(monkeypatch):
    screen = a_screen(monkeypatch)
    monkeypatch.setattr(portnn.loop, "plan", lambda n, size, most: portnn.feed.plan(n, size, 100))
    history = fit(epochs=2, validation_data=(X, LABELS))
    middle = next(state for state in screen.states() if "300/400" in state)
    assert middle.startswith("epoch 2/2:  75%")
    assert f"val_loss={history['val_loss'][0]:.4f}" in middle, "validation is of the epoch before"
    assert f" loss={history['loss'][0]:.4f}" not in middle


def test_a_resumed_training_is_not_counted_from_zero(monkeypatch, tmp_path):
    fit(epochs=2, checkpoint=tmp_path / "run")
    screen = a_screen(monkeypatch)
    fit(epochs=4, checkpoint=tmp_path / "run", resume=True)
    states = list(screen.states())
    assert not any("200/800" in state for state in states)
    assert states[-1].startswith("epoch 4/4: 100%")
    assert "800/800 [" in states[-1]


def test_means_of_members_and_no_number_that_is_none(monkeypatch):
    screen = a_screen(monkeypatch)
    bar = progress.Bar(True, 1, 10)
    bar.advance(10, lambda n: {"loss": [1.0, 2.0], "accuracy": float("nan")})
    bar.ended({"loss": [1.0, 2.0], "val_loss": [0.25, 0.75]})
    bar.close()
    text = screen.getvalue()
    assert "loss=1.5000" in text
    assert "accuracy" not in text


def test_nothing_where_it_is_not_wanted(monkeypatch):
    screen = a_screen(monkeypatch)
    fit(progress=False)
    assert screen.getvalue() == ""


def test_nothing_in_a_log(capfd):
    fit(progress=True)
    assert capfd.readouterr() == ("", "")


def test_the_screen_is_left_as_it_was(monkeypatch):
    screen = a_screen(monkeypatch)
    fit(callbacks=lambda model, history: len(history["loss"]) == 2)
    assert screen.getvalue().endswith("\r")
    assert screen.getvalue().split("\r")[-2].strip() == "", "the line is empty"
    with pytest.raises(ZeroDivisionError):
        fit(callbacks=lambda model, history: 1 // 0)
    assert screen.getvalue().split("\r")[-2].strip() == ""


def test_lines_of_the_printer_stand_above_the_bar(monkeypatch):
    screen = a_screen(monkeypatch)
    monkeypatch.setattr(sys, "stdout", screen)
    fit(callbacks=EpochPrinter())
    lines = [line.rpartition("\r")[2] for line in screen.getvalue().split("\n")]
    assert [line[:9] for line in lines if line.startswith("epoch") and "samples/s" not in line] == [
        *("epoch 1/3", "epoch 2/3", "epoch 3/3")
    ]


def test_drawing_is_bounded(monkeypatch):
    """A thousand short epochs may not mean a thousand writes to the terminal."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    writes = []
    monkeypatch.setattr(screen, "write", lambda text: writes.append(text) or len(text))
    clock = iter(range(10**9))
    monkeypatch.setattr("time.time", lambda: next(clock) * 1e-4)  # tqdm looks at it once per update or so
    bar = progress.Bar(True, 1000, 8)
    for _ in range(1000):
        bar.advance(8, lambda n: {"loss": 1.0})
        bar.ended({"loss": 1.0})
    drawn = sum(bool(text.strip()) for text in writes)
    bar.close()
    assert 1 <= drawn < 100


class Shell:
    """What IPython says of itself in a kernel of Jupyter, or in a terminal."""

    def __init__(self, *applications: str) -> None:
        self.config = {name: {} for name in applications}


@pytest.mark.parametrize(
    ("shell", "wanted"), [(Shell("IPKernelApp"), True), (Shell("TerminalIPythonApp"), False), (None, False)]
)
def test_a_notebook_has_a_bar_although_it_is_no_terminal(monkeypatch, shell, wanted):
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    cell = io.StringIO()  # isatty() is False, as that of a cell
    monkeypatch.setattr(sys, "stderr", cell)
    fit()
    assert ("epoch 3/3" in cell.getvalue()) == wanted


def test_training_without_tqdm_is_quiet(monkeypatch, capfd):
    original = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("tqdm"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    fit(progress=True, callbacks=EpochPrinter())
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 3
    assert err == ""
