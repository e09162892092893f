"""Callbacks that write down how a training goes: as CSV, for TensorBoard, as lines of text."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import numbers
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

import numpy

from portnn.checks import check_count
from portnn.errors import OtherFile, reason, shown
from portnn.history import History, flat, plain
from portnn.mlp import MLP
from portnn.progress import print_line


def _numbers(value: Any) -> bool:
    """Whether a callback of the user's wrote down numbers, and not a remark."""
    return all(isinstance(v, numbers.Real) for v in (value if isinstance(value, list) else [value]))


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


NOTHING = _sha256(b"")


def _line(row: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


class CSVLog:
    """Write the history to a CSV file, a line after each epoch, which is on its way to the disk when the next begins.

    The columns are ``epoch``, counted from 1, and the names of the history; with members ``loss[0]``, ``loss[1]``, ...
    Numbers have all their digits: read back, they are those of the history.

    Parameters
    ----------
    path
        The file; its folder must exist.
    append
        Go on behind the lines of an earlier run, with the next epoch, if the columns are the same; a last line that was
        cut off is left out. False replaces the file when the first epoch is over. A training that is resumed from a
        checkpoint goes on behind the last epoch of that in either case, and later lines are left out.

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
        self.path, self.append = os.fsdecode(path), append
        self._file: TextIO | None = None
        self._columns: list[str] | None = None
        self._keep: int | None = None  # this much of the file, when it is opened
        self._begun, self._before, self._cut, self._bytes = False, 0, False, 0
        self._sum = hashlib.sha256()  # of these bytes
        self._start: tuple[int, str] = (0, NOTHING)  # bytes that others have written, and their SHA-256
        self._done = 0  # epochs of the history whose lines are among those
        self._again = b""  # lines that the file has lost
        self._history = History()

    def on_begin(self, model: MLP, history: History) -> None:
        """Look at the file, and change nothing: OSError, ValueError if it is to go on with other columns."""
        self._begin(len(history.get("loss", ())), history.names)
        self._history = history

    def _begin(self, done: int, names: Sequence[str]) -> None:
        self._columns, self._before, self._cut = None, 0, False
        self._bytes, self._keep, self._again, self._sum = 0, None, b"", hashlib.sha256()
        if not os.path.isdir(os.path.dirname(os.path.abspath(self.path))):
            raise FileNotFoundError(f"CSVLog: the folder of {shown(self.path)} does not exist; make it first")
        if os.path.isfile(self.path) or os.path.isdir(self.path):  # not a pipe, whose reader would see an end
            open(self.path, "a", encoding="utf-8").close()
        if self.append and os.path.isfile(self.path):
            with open(self.path, "rb") as file:
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._bytes, self._cut, self._sum = len(whole), whole != text, hashlib.sha256(whole)
            try:
                lines = list(csv.reader(io.StringIO(whole.decode(), newline="")))
                if not lines and not b"epoch,".startswith(text[:6]):  # it may be a header that was cut off
                    message = "it has no end of a line"
                    raise ValueError(message)
            except (ValueError, csv.Error) as error:
                raise ValueError(
                    f"CSVLog: {shown(self.path)} is no log ({reason(error)}); choose another file, or append=False to "
                    "replace it"
                ) from None
            if lines:
                self._go_on(lines, done, names)
        self._start, self._done = (self._bytes, self._sum.hexdigest()), done
        self._begun = True

    def _go_on(self, lines: list[list[str]], done: int, names: Sequence[str]) -> None:
        """Take columns and epochs from the lines that are there."""
        self._columns = lines[0]
        missing = {"epoch", *names} - {name.partition("[")[0] for name in self._columns}
        if missing:
            self._differ(sorted(missing)[0])
        last = dict(zip(self._columns, lines[-1], strict=False)).get("epoch", "") if len(lines) > 1 else "0"
        if len(lines[-1]) != len(self._columns) or not last.isdecimal():
            raise ValueError(
                f"CSVLog: the last line of {shown(self.path)} has {len(lines[-1])} fields and the epoch {shown(last)}, "
                f"expected {len(self._columns)} and a number; correct it, or append=False to replace the file"
            )
        self._before = int(last) - done

    def state(self) -> dict[str, Any]:
        """Return what the file holds with the epochs so far, as lengths, SHA-256 and columns, for a checkpoint."""
        whole = self._sum.copy()
        whole.update(self._again)  # lines that are still to be written again
        file = {"bytes": self._bytes + len(self._again), "sha256": whole.hexdigest(), "start": list(self._start)}
        return {**file, "columns": self._columns, "before": self._before, "done": self._done}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on behind these lines; what the file has lost of them is written again, from the history.

        FormatError for a file that holds anything else.
        """
        columns, start = state["columns"], state["start"]
        texts = columns is None or (isinstance(columns, list) and all(isinstance(name, str) for name in columns))
        pair = isinstance(start, list) and [type(part) for part in start] == [int, str] and start[0] >= 0
        counts = all(type(state[name]) is int for name in ("bytes", "before", "done"))
        counts = counts and isinstance(state["sha256"], str)
        if not (texts and pair and counts) or state["bytes"] < start[0]:
            raise ValueError(f"CSVLog: this is not the state of a log: {shown(state)}")
        self._columns, self._before, self._done = columns, state["before"], state["done"]
        self._start, known, text, size = (start[0], start[1]), state["bytes"], b"", 0
        if os.path.isfile(self.path):
            size = os.path.getsize(self.path)
            with open(self.path, "rb") as file:
                text = file.read(min(known, size)).rstrip(b"\0")  # what a power cut may leave of a line
        if known == 0 and self.append and not self._is_of_one_epoch():
            self._refuse_other()
        self._again = b"" if len(text) == known else self._lost_of(text)
        if len(text) == known and _sha256(text) != state["sha256"]:
            self._refuse_other()
        self._keep = self._bytes = known if len(text) == known else text.rfind(b"\n") + 1
        self._sum = hashlib.sha256(text[: self._keep])

    def _lost_of(self, text: bytes) -> bytes:
        """Return the lines that a file which holds this has lost: it must be the beginning of what was written."""
        if not text:
            self._start = (0, NOTHING)
        begin, digest = self._start
        epochs = range(self._done + 1, len(self._history.get("loss", ())) + 1)
        rows = [self._columns or ()] if begin == 0 else []
        rows += [self._values(self._row(self._history, epoch)) for epoch in epochs]
        own = b"".join(map(_line, rows)) if self._columns else b""
        if _sha256(text[:begin]) != digest or not own.startswith(text[begin:]):
            self._refuse_other()
        return own[text.rfind(b"\n") + 1 - begin :]

    def _is_of_one_epoch(self) -> bool:
        """Whether a file holds at most what an epoch that was broken off before its save had written: it is made anew.

        That is the columns and one line. More are of another run.
        """
        if not os.path.isfile(self.path):
            return True
        with open(self.path, encoding="utf-8", errors="replace", newline="") as file:
            lines = list(itertools.islice(csv.reader(file), 3))
        epoch = str(self._before + self._done + 1)
        return len(lines) < 2 or (len(lines) == 2 and epoch.startswith(lines[1][0] if lines[1] else ""))

    def _refuse_other(self) -> NoReturn:
        raise OtherFile(
            f"CSVLog: {shown(self.path)} does not hold the lines that the checkpoint knows; name the file that does, "
            "or move this one away"
        )

    def _open(self) -> None:
        """Open the file for the first line of this training, and take off a cut-off one of another."""
        if self._cut or (self._keep is not None and os.path.isfile(self.path)):
            with open(self.path, "r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1 if self._keep is None else self._keep)
        going_on = self.append or self._keep is not None
        self._file = open(self.path, "a" if going_on else "w", encoding="utf-8", newline="")  # noqa: SIM115

    def __call__(self, model: MLP, history: History) -> None:
        """Write the line of this epoch."""
        n, first = len(history["loss"]), self._file is None
        if not self._begun:
            self._begin(n - 1, history.names)
        row = self._row(history, n)
        columns = self._columns or list(row)
        missing = {*columns} - {*row} if first else set()
        if other := sorted(({*row} - {*columns}) | missing):
            self._differ(other[0])
        if first:
            self._open()
        if self._columns is None:
            self._columns = columns
            self._write(_line(columns))
        self._write(self._again + _line(self._values(row)))
        self._again = b""

    def _values(self, row: dict[str, Any]) -> list[Any]:
        """Return what stands in the columns: nothing where a callback wrote nothing down."""
        return [row.get(name, "") for name in self._columns or ()]

    def _row(self, history: History, epoch: int) -> dict[str, Any]:
        """Return what stands in the line of an epoch: of all lists that have one entry for each."""
        n = len(history["loss"])
        entry = {k: v[epoch - 1] for k, v in history.items() if len(v) == n}
        # As a checkpoint gives them back, from which the line may have to be written again.
        return {"epoch": self._before + epoch, **flat({k: plain(v) for k, v in entry.items()})}

    def on_end(self, model: MLP, history: History) -> None:
        """Close the file."""
        self._begun = False
        if self._file is not None:
            file, self._file = self._file, None  # what is closed on a full disk says so once more
            file.close()

    def _write(self, lines: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(lines.decode())
            self._file.flush()
        except OSError as error:
            error.filename = self.path  # the system does not say which file had no room
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # of what is still to be written
                file.close()
            raise
        self._bytes += len(lines)
        self._sum.update(lines)

    def _differ(self, name: str) -> None:
        raise ValueError(
            f"CSVLog: the columns of {shown(self.path)} are not those of this training: {shown(name)} is in one only; "
            "choose another file, or append=False to replace it"
        )


class TensorBoard:
    """Write the history as scalars for TensorBoard: ``tensorboard --logdir LOG_DIR`` shows them as they come.

    ``loss/train`` and ``loss/validation`` stand side by side, and so do the accuracies; with members there is
    ``loss/train/member_0`` and so on. Needs tensorboardX, which needs neither TensorFlow nor PyTorch:
    ``python -m pip install tensorboardX``.

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
            message = "TensorBoard: tensorboardX is missing: python -m pip install tensorboardX"
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
