"""What may be done after every epoch of a training: stop in time, keep the best, write down how it goes.

A callback is a function ``f(model, history)`` that :func:`portnn.fit` calls after every epoch; a true value ends the
training. Whether it is a function of yours or an object of this module, it may also have the methods
``on_begin(model, history)``, called before the first step, and ``on_end(model, history)``, called after the last one
whatever ended it: the epochs, a callback, Ctrl-C, or an error. Callbacks are called in the order of the list.

``history.names`` says what ``fit`` writes down after each epoch, ``history.epochs`` how many epochs it was asked for. A
callback may set ``model.params``, to finite numbers, and append to a list of its own in the history,
``history.setdefault("f1", [])``, which those behind it see. What ``on_begin`` sets is what training starts from; where
it is resumed from a checkpoint, that is the checkpoint's. If one refuses in ``on_begin`` or ``restore``, the model is
put back as it was.

One that has ``state()`` and ``restore(state)`` is part of the checkpoints of :func:`portnn.fit`: ``state()`` returns a
dict of arrays and JSON values after an epoch, and before the first, so that what no file can hold is refused at once.
``restore`` is given it, arrays as those of NumPy, after ``on_begin`` of a training that is resumed, and raises an error
for what it cannot go on from. One that remembers nothing of earlier epochs needs neither. Those that remember must be
of the same types, in the same order, when a training is resumed, and ours must have the same arguments, but for paths
and ``every``.

A NaN needs no callback: ``fit`` raises :class:`portnn.NonFiniteError` by itself, the model keeps its last finite
parameters, ``error.history`` is the history, and every ``on_end`` is called. Nor does a rate that falls on a plateau:
it is a schedule, ``Adam(portnn.schedules.ReduceOnPlateau(1e-3))``.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from portnn import model_file
from portnn.backends import Array, one_of
from portnn.checks import check_count, check_number
from portnn.errors import NonFiniteError, shown
from portnn.files import check_target
from portnn.history import History
from portnn.logs import CSVLog, EpochPrinter, TensorBoard
from portnn.mlp import MLP
from portnn.trace import stored

__all__ = ["CSVLog", "Callback", "Checkpoint", "EarlyStopping", "EpochPrinter", "TensorBoard", "called", "during"]

Callback = Callable[[MLP, History], object]


def listed(callbacks: Any, who: str) -> list[Callback]:
    """Return what was handed in as ``callbacks``, one or several or None, as a list; TypeError for what is none."""
    if callbacks is None:
        return []
    many = not callable(callbacks) and isinstance(callbacks, Iterable) and not isinstance(callbacks, str | Mapping)
    given = list(callbacks) if many else [callbacks]
    for callback in given:
        check_callback(callback, who)
    return given


def check_callback(callback: Any, who: str, more: str = "") -> None:
    """Raise TypeError for what is no callback; ``more`` are other kinds that the caller takes."""
    if isinstance(callback, type):
        name = callback.__name__
        raise TypeError(f"{who}: callbacks has the class {name}, expected an object of it: {name}(...)")
    if not callable(callback):
        raise TypeError(
            f"{who}: callbacks has {shown(callback)}, expected functions f(model, history) or objects of "
            f"portnn.callbacks{more}; leave it out"
        )


def called(callback: Callback, model: MLP, history: History) -> bool:
    """Call a callback after an epoch, and return whether it ends the training; TypeError where its answer is neither.

    NonFiniteError, which names it, if it leaves a NaN or an infinity in the model. On a device with memory of its own
    that is looked at only where parameters or statistics were set; what lies in host memory is seen in any case.
    """
    before = model.params, model.running
    given = callback(model, history)
    _check_left(callback, model, before, len(history["loss"]))
    try:
        return bool(given)
    except (RuntimeError, TypeError, ValueError):  # an array of several numbers
        who = getattr(callback, "__name__", type(callback).__name__)
        message = f"fit: the callback {who} returned {shown(given)}, expected True to end the training, or None"
        raise TypeError(message) from None


def _check_left(callback: Any, model: MLP, before: tuple[Any, Any], epoch: int | None) -> None:
    """Raise NonFiniteError if a callback left NaN or infinity in the model; see :func:`called`."""
    untouched = model.params is before[0] and model.running is before[1]
    if untouched and model.backend.memory_of(model.params) != (1, 0):
        return
    arrays = {"params": model.params} | ({} if model.running is None else {"running": model.running})
    place = stored(model.backend, model.layers, arrays)
    if place is not None:
        who, off = getattr(callback, "__name__", type(callback).__name__), tuple[int, ...]()
        if model.members is not None:
            values = [numpy.isfinite(model.backend.to_numpy(a)).all(axis=-1) for a in arrays.values()]
            off = tuple(numpy.flatnonzero(~numpy.all(values, axis=0)).tolist())
        name = place.array if "[" in place.array else f"{place.array} of layer {place.layer}"
        when = "before the first step" if epoch is None else f"epoch {epoch}"
        message = f"fit: {when}: the callback {who} left NaN or infinity in {name} of the model, which keeps its last "
        message += "finite parameters; let it set finite numbers"
        raise NonFiniteError(message, epoch=epoch, array=place.array, layer=place.layer, members=off)


@contextlib.contextmanager
def during(callbacks: Sequence[Callback], model: MLP, history: History) -> Iterator[None]:
    """Tell callbacks when a training begins and ends, those that have begun, in their order, whatever happens."""
    begun: list[Any] = []
    with contextlib.ExitStack() as ends:
        try:
            for callback in callbacks:
                if hasattr(callback, "on_begin"):
                    before = model.params, model.running
                    callback.on_begin(model, history)
                    _check_left(callback, model, before, None)
                begun.append(callback)
            yield
        except NonFiniteError as error:
            error.history = history
            raise
        finally:
            for callback in reversed(begun):  # the stack turns them round again
                if hasattr(callback, "on_end"):
                    ends.callback(callback.on_end, model, history)


class EarlyStopping:
    """End the training when ``monitor`` has not improved for ``patience`` epochs, and put the best parameters back.

    An improvement is by more than ``min_delta``: v < best - min_delta for a loss, v > best + min_delta for an accuracy.
    As in Keras, training ends when the best is ``patience`` epochs ago; a NaN is no improvement.

    With members each has its own best and its own patience. What happens to a member after its patience is over no
    longer counts for it, and training ends when that of the last one is: each is what it would be by itself.

    Parameters
    ----------
    monitor
        A name of the history: ``"val_loss"``, ``"val_accuracy"``, ``"loss"``, or a list that a callback of yours adds.
    patience
        In epochs, at least 1.
    min_delta
        In the unit of ``monitor``, at least 0.
    mode
        ``"min"``, ``"max"``, or ``"auto"``: the larger the better for names that end in accuracy, the smaller for those
        that end in loss; others need one of the first two.
    restore_best
        At the end, also after Ctrl-C or a NaN, ``model.params`` become those of the best epoch, to the bit.

    Attributes
    ----------
    best, best_epoch
        The best value and the number of its epoch, counted from 1; lists with members.

    Examples
    --------
    >>> import portnn
    >>> x, t, x_test, t_test = portnn.datasets.load_digits()
    >>> model, stop = portnn.MLP([64, 10]), EarlyStopping("val_loss", patience=3, min_delta=0.01)
    >>> history = portnn.fit(model, x, t, epochs=500, optimizer=portnn.Adam(0.01), validation_split=0.2, callbacks=stop)
    >>> len(history["loss"]) == stop.best_epoch + 3 < 500
    True

    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        who = type(self).__name__
        self._best = _Best(who, monitor, mode, check_number(who, "min_delta", min_delta, 0.0), restore_best)
        self.patience = check_count(who, "patience", patience)

    @property
    def arguments(self) -> dict[str, Any]:
        """What it was made with, and a training that is resumed must have it made with again."""
        best = self._best
        told = {"monitor": best.monitor, "patience": self.patience, "min_delta": best.min_delta, "mode": best.mode}
        return {**told, "restore_best": best.keep}

    @property
    def best(self) -> Any:
        """The best value so far, or a list of them."""
        return self._best.values.tolist()

    @property
    def best_epoch(self) -> Any:
        """Its epoch, counted from 1, or a list of them."""
        return self._best.epochs.tolist()

    def on_begin(self, model: MLP, history: History) -> None:
        """Forget an earlier training; ValueError for what this one will not write down."""
        self._best.begin(history, model)

    def __call__(self, model: MLP, history: History) -> bool:
        """Return whether it is time to stop."""
        best = self._best
        epoch = best.epoch(history)
        best.see(model, history, epoch - best.epochs <= self.patience)
        return bool(numpy.all(epoch - best.epochs >= self.patience))

    def state(self) -> dict[str, Any]:
        """Return the best so far, for a checkpoint."""
        return self._best.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._best.restore(state)

    def on_end(self, model: MLP, history: History) -> None:
        """Put the best parameters back."""
        self._best.put_into(model)
        self._best.arrays = {}  # they may be large


class Checkpoint:
    """Write the model to a file after epochs: the newest, or with ``monitor`` the best so far.

    The file is a model that :meth:`portnn.MLP.load` reads, written whole or not at all: whatever happens in between,
    what is there is one of the states that were to be kept. Without ``monitor`` it is written once more at the end,
    also after Ctrl-C, and is then the model that ``fit`` leaves; behind an :class:`EarlyStopping` in the list, the one
    that this has put back. A training that ends before its first epoch, other than by Ctrl-C, leaves the file alone. Of
    members each has its own best.

    Parameters
    ----------
    path
        The file, such as ``"best.safetensors"``; its folder must exist. It is replaced.
    monitor, mode
        As for :class:`EarlyStopping`; None keeps the newest.
    every
        Look after every so many epochs, at least 1.

    Examples
    --------
    >>> import tempfile, numpy as np, portnn
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, keep = portnn.MLP([1, 1]), Checkpoint(f"{folder}/line.safetensors")
    ...     history = portnn.fit(model, x, 3 * x + 1, loss="mse", epochs=2, callbacks=[keep])
    ...     bool((portnn.MLP.load(f"{folder}/line.safetensors").params == model.params).all())
    True

    """

    def __init__(
        self, path: str | os.PathLike[str], monitor: str | None = None, every: int = 1, mode: str = "auto"
    ) -> None:
        who = type(self).__name__
        self.path, self.every = os.fsdecode(path), check_count(who, "every", every)
        if not self.path:
            message = f"{who}: path is empty; name a file, such as 'best.safetensors'"
            raise ValueError(message)
        self._best = None if monitor is None else _Best(who, monitor, mode, 0.0, True)
        self._before = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """What decides which epoch it keeps as the best."""
        return {} if self._best is None else {"monitor": self._best.monitor, "mode": self._best.mode}

    def on_begin(self, model: MLP, history: History) -> None:
        """Refuse, before the first step, what cannot be written to and a model that no file can hold."""
        if not Path(self.path).resolve().parent.is_dir():
            raise FileNotFoundError(f"Checkpoint: the folder of {shown(self.path)} does not exist; make it first")
        check_target(self.path)
        model_file.activation_names(model.layers, "Checkpoint")
        self._before = len(history.get("loss", ()))
        if self._best is not None:
            self._best.begin(history, model)

    def __call__(self, model: MLP, history: History) -> None:
        """Write the file if this epoch is one of those and, with ``monitor``, better."""
        if len(history["loss"]) % self.every:
            return
        if self._best is None:
            model.save(self.path)
        elif self._best.see(model, history).any():
            best = model.to()
            self._best.put_into(best)
            best.save(self.path)

    def state(self) -> dict[str, Any]:
        """Return the best so far, for a checkpoint."""
        return {} if self._best is None else self._best.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; at the end the file is written, since the run before may have died before that."""
        self._before = -1
        if self._best is not None:
            self._best.restore(state)

    def on_end(self, model: MLP, history: History) -> None:
        """Write what the model is now, unless the best is kept or nothing was trained."""
        if self._best is None and (len(history.get("loss", ())) > self._before or history.interrupted):
            model.save(self.path)


class _Best:
    """The best value of an entry of the history and the model of that epoch, for each member by itself."""

    def __init__(self, who: str, monitor: str, mode: str, min_delta: float, keep: bool) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"{who}: monitor must be a name of the history such as 'val_loss', got {shown(monitor)}")
        mode = one_of(f"mode of {who}", mode, ("auto", "min", "max"))
        if mode == "auto" and not monitor.endswith(("loss", "accuracy")):
            near = _near(monitor, _KNOWN)
            meant = f"did you mean {near!r}? For a list that a callback of yours adds, " if near else ""
            raise ValueError(
                f"{who}: mode='auto' does not know whether {shown(monitor)} should fall or rise; "
                f"{meant}say mode='min' or 'max'"
            )
        self.who, self.monitor, self.min_delta, self.keep = who, monitor, min_delta, keep
        self.mode = mode if mode != "auto" else "max" if monitor.endswith("accuracy") else "min"
        self.sign = -1.0 if self.mode == "max" else 1.0
        self.begin(None, None)

    def begin(self, history: History | None, model: MLP | None) -> None:
        """Start anew; ValueError if ``fit`` would write this name down, but has not got what it takes."""
        held = {} if model is None else {"params": model.params, "running": model.running}
        self.shapes = {name: tuple(a.shape) for name, a in held.items() if a is not None}
        self.values = self.epochs = numpy.asarray(0)
        self.arrays: dict[str, Array] = {}  # parameters, and the running statistics of batch norm
        if history is not None and self.monitor in _KNOWN and self.monitor not in history.names:
            self._missing(history.names)

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` takes."""
        return {"values": self.values, "epochs": self.epochs, **self.arrays}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the best of an earlier run; ValueError for what is not the best of such a model."""
        values, epochs = (numpy.asarray(state[name]) for name in ("values", "epochs"))
        arrays: dict[str, Any] = {name: state[name] for name in ("params", "running") if name in state}
        lead = {(), self.shapes["params"][:-1]}
        good = values.dtype.kind in "fi" and epochs.dtype.kind == "i" and {values.shape, epochs.shape} <= lead
        good &= all(a.shape == self.shapes.get(name) and numpy.isfinite(a).all() for name, a in arrays.items())
        if not good or (self.keep and epochs.any() and {*arrays} != {*self.shapes}):
            raise ValueError(f"{self.who}: this is not the best of such a model: {shown(list(state))}")
        self.values, self.epochs, self.arrays = values, epochs, arrays

    def epoch(self, history: History) -> int:
        """Return the number of this epoch, for which there must be a value."""
        if len(history.get(self.monitor, ())) != len(history["loss"]):
            self._missing(history)
        return len(history["loss"])

    def see(self, model: MLP, history: History, counts: Any = True) -> numpy.ndarray:
        """Return whether this epoch is the best so far, and take note of it where it ``counts``."""
        epoch, values = self.epoch(history), numpy.asarray(history[self.monitor][-1], dtype="float64")
        best = numpy.where(numpy.isnan(self.values), numpy.inf, self.sign * self.values)
        first = not self.epochs.any()
        better = numpy.asarray((self.sign * values < best - self.min_delta) & counts) | first
        self.values = numpy.where(better, values, self.values)
        self.epochs = numpy.where(better, epoch, self.epochs)
        if self.keep and better.any():
            backend = model.backend
            with model.scope():
                for name in ("params", "running"):
                    new, old = getattr(model, name), self.arrays.get(name)
                    if new is not None and (old is None or better.all()):
                        self.arrays[name] = backend.asarray(new, copy=True)
                    elif new is not None:
                        old = old if backend.owns(old) else backend.asarray(old, new.dtype)  # of a checkpoint
                        self.arrays[name] = backend.xp.where(backend.asarray(better[:, None]), new, old)
        return better

    def put_into(self, model: MLP) -> None:
        """Copy what was kept into a model; leave it alone if nothing was."""
        for name, a in self.arrays.items():
            setattr(model, name, a)

    def _missing(self, names: Any) -> None:
        near = _near(self.monitor, {*_KNOWN, *names})
        cure = "give validation_data or validation_split, or " if self.monitor.startswith("val_") else ""
        raise ValueError(
            f"{self.who}: monitor={shown(self.monitor)} is not in the history, which has {', '.join(names)}; {cure}"
            f"monitor one of these{f'; did you mean {near!r}?' if near else ''}"
        )


def _near(monitor: str, names: Iterable[str]) -> str | None:
    """Return the name that may have been meant; None for one of these, which lacks nothing but validation data."""
    close = difflib.get_close_matches(monitor, sorted(names), n=1)
    return close[0] if close and close[0] != monitor else None


_KNOWN = {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
