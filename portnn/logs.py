"""Callbacks that write down how a training goes: as CSV, for TensorBoard, as lines of text."""

from __future__ import annotations

import csv
import numbers
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import numpy

from portnn.checks import check_count
from portnn.errors import shown
from portnn.history import History, flat
from portnn.mlp import MLP
from portnn.progress import print_line


def _numbers(value: Any) -> bool:
    """Whether a callback of the user's wrote down numbers, and not a remark."""
    return all(isinstance(v, numbers.Real) for v in (value if isinstance(value, list) else [value]))


class CSVLog:
    """Write the history to a CSV file, a line after each epoch, which is on its way to the disk when the next begins.

    The columns are ``epoch``, counted from 1, and the names of the history; with members ``loss[0]``, ``loss[1]``, ...
    Numbers have all their digits: read back, they are those of the history.

    Parameters
    ----------
    path
        The file; its folder must exist.
    append
        Go on behind the lines of an earlier run, with the next epoch, if the columns are the same. False replaces the
        file.

    Examples
    --------
    >>> import pathlib, tempfile, numpy as np, portnn
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "log.csv")
    ...     history = portnn.fit(portnn.MLP([1, 1]), x, x, loss="mse", epochs=2, callbacks=[CSVLog(path)])
    ...     path.read_text().splitlines()[0]
    'epoch,loss,learning_rate,epoch_seconds'

    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = os.fspath(path), append
        self._file: TextIO | None = None
        self._columns: list[str] | None = None
        self._before = 0

    def on_begin(self, model: MLP, history: History) -> None:
        """Open the file; ValueError if it is to go on with other columns."""
        self._columns, self._before = None, 0
        if self.append and os.path.exists(self.path):
            with open(self.path, encoding="utf-8", newline="") as file:
                lines = list(csv.reader(file))
            if lines:
                self._columns, self._before = lines[0], len(lines) - 1
                missing = {"epoch", *history.names} - {name.partition("[")[0] for name in self._columns}
                if missing:
                    self._differ(sorted(missing)[0])
        self._file = open(self.path, "a" if self.append else "w", encoding="utf-8", newline="")  # noqa: SIM115

    def __call__(self, model: MLP, history: History) -> None:
        """Write the line of this epoch."""
        if self._file is None:
            self.on_begin(model, history)
        n = len(history["loss"])
        row = {"epoch": self._before + n, **flat({k: v[-1] for k, v in history.items() if len(v) == n})}
        if self._columns is None:
            self._columns = list(row)
            self._write(self._columns)
        missing = {*self._columns} - {*row} if n == 1 else set()
        if other := sorted(({*row} - {*self._columns}) | missing):
            self._differ(other[0])
        self._write([row.get(name, "") for name in self._columns])  # nothing where a callback wrote nothing down

    def on_end(self, model: MLP, history: History) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, row: Sequence[Any]) -> None:
        assert self._file is not None
        csv.writer(self._file, lineterminator="\n").writerow(row)
        self._file.flush()

    def _differ(self, name: str) -> None:
        raise ValueError(
            f"CSVLog: the columns of {shown(self.path)} are not those of this training: {shown(name)} is in one only; "
            "choose another file, or append=False to replace it"
        )


class TensorBoard:
    """Write the history as scalars for TensorBoard: ``tensorboard --logdir LOG_DIR`` shows them as they come.

    ``loss/train`` and ``loss/validation`` stand side by side, and so do the accuracies; with members there is
    ``loss/train/member_0`` and so on. Needs tensorboardX, which needs neither TensorFlow nor PyTorch:
    ``python -m pip install "portnn[tensorboard]"``.

    Parameters
    ----------
    log_dir
        A folder for each run, such as ``"runs/adam-1e-3"``; it is made.

    Examples
    --------
    >>> import pathlib, tempfile, numpy as np, portnn
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = portnn.fit(portnn.MLP([1, 1]), x, x, loss="mse", epochs=2, callbacks=[TensorBoard(folder)])
    ...     len(list(pathlib.Path(folder).glob("events.*")))
    1

    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.log_dir = os.fspath(log_dir)
        self._writer: Any = None

    def on_begin(self, model: MLP, history: History) -> None:
        """Open a file of events; ImportError if tensorboardX is missing."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            message = 'TensorBoard: tensorboardX is missing: python -m pip install "portnn[tensorboard]"'
            raise ImportError(message) from error
        self._writer = SummaryWriter(self.log_dir)

    def __call__(self, model: MLP, history: History) -> None:
        """Write the numbers of this epoch."""
        epoch = len(history["loss"])
        for name, values in history.items():
            if len(values) != epoch or not _numbers(values[-1]):
                continue
            kind, tag = name.removeprefix("val_"), name
            if kind in ("loss", "accuracy"):
                tag = f"{kind}/{'train' if kind == name else 'validation'}"
            value = values[-1]
            for i, v in enumerate(value if isinstance(value, list) else [value]):
                self._writer.add_scalar(f"{tag}/member_{i}" if isinstance(value, list) else tag, v, epoch)
        self._writer.flush()

    def on_end(self, model: MLP, history: History) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class EpochPrinter:
    """Print a line per epoch, for logs, where a progress bar would be in the way; of members it prints the means.

    On a terminal the lines stand above the bar.

    Parameters
    ----------
    every
        Print each so many epochs, and the last one.
    file
        Where to, by default the standard output.

    Examples
    --------
    >>> EpochPrinter()(None, History(loss=[0.5], val_accuracy=[0.75], epoch_seconds=[0.25]))
    epoch 1  loss 0.5000  val_accuracy 75.00%  0.25 s

    """

    def __init__(self, every: int = 1, file: TextIO | None = None) -> None:
        self.every, self.file = check_count(type(self).__name__, "every", every), file

    def __call__(self, model: MLP | None, history: History) -> None:
        """Print the line of this epoch."""
        epoch, of = len(history["loss"]), history.epochs
        if epoch % self.every and epoch != of:
            return
        parts = [f"epoch {epoch:{len(str(of))}d}/{of}" if of else f"epoch {epoch}"]
        for name, values in history.items():
            if len(values) != epoch or not _numbers(values[-1]):
                continue
            value = float(numpy.mean(values[-1]))
            if name == "epoch_seconds":
                parts.append(f"{value:.2f} s")
            elif name.endswith("accuracy"):
                parts.append(f"{name} {value:.2%}")
            else:
                parts.append(f"{name} {value:.3g}" if name == "learning_rate" else f"{name} {value:.4f}")
        print_line("  ".join(parts), self.file or sys.stdout)
