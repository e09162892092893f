"""What happened in a training, epoch by epoch: as lists, as a table, as a picture."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from portnn import plots
from portnn.backends import Array, get_backend
from portnn.errors import reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Reached(NamedTuple):
    """Where a training stands: finished epochs, updates made, and the optimizer's arrays."""

    epochs: int
    updates: int
    arrays: dict[str, Array]


class History(dict[str, list[Any]]):
    """What happened: lists with one entry per epoch.

    ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``, ``learning_rate``, ``epoch_seconds``.

    ``accuracy`` is there for losses of classes, ``val_loss`` and ``val_accuracy`` with validation data. ``loss`` and
    ``accuracy`` are means over the epoch's batches, each taken before its update, with units dropped and batch norm by
    the statistics of the batch; the penalty of l1 and l2 is part of the loss, since that is what was differentiated.
    With members an entry is a list of one number per member (``learning_rate`` where each has its own).
    ``epoch_seconds`` is the time of training alone, in seconds.
    """

    interrupted: bool = False  #: Ctrl-C ended the training early
    #: where ``fit(..., resume=history)`` goes on: it holds the optimizer's arrays (of Adam twice ``n_params`` numbers)
    #: on their device for as long as the history lives; ``history.reached = None`` lets go of them
    reached: Reached | None = None
    epochs: int = 0  #: as many were asked for
    names: tuple[str, ...] = ()  #: what ``fit`` writes down after each epoch; a callback may add lists of its own

    def to_dict(self) -> dict[str, list[Any]]:
        """Return a plain dict of new lists of Python numbers, as ``json.dumps`` takes them.

        What callbacks append may be numbers of NumPy and arrays of any library, too.

        Examples
        --------
        >>> History(loss=[0.5, 0.25], f1=[numpy.float32(0.5), numpy.ones(2)]).to_dict()
        {'loss': [0.5, 0.25], 'f1': [0.5, [1.0, 1.0]]}

        """
        return {name: [plain(value) for value in values] for name, values in self.items()}

    def copy(self) -> History:
        """Return a History with the same lists, as ``dict.copy`` does."""
        return copy.copy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy the optimizer's arrays in host memory: ``resume`` takes them from there to any library."""
        if self.reached is None:
            return dict(vars(self))
        arrays = {name: numpy.array(get_backend(a).to_numpy(a)) for name, a in self.reached.arrays.items()}
        return {**vars(self), "reached": self.reached._replace(arrays=arrays)}

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row per epoch, counted from 1, and one column per number.

        With members there is a column for each: ``loss[0]``, ``loss[1]``, ... ImportError without pandas.

        Examples
        --------
        >>> table = History(loss=[[0.5, 1.5], [0.25, 0.75]], epoch_seconds=[2.0, 2.0]).to_pandas()
        >>> list(table), float(table.loc[2, "loss[1]"])
        (['loss[0]', 'loss[1]', 'epoch_seconds'], 0.75)

        """
        try:
            import pandas
        except ImportError as error:
            message = "History.to_pandas: pandas is missing: python -m pip install pandas"
            raise ImportError(message) from error
        n = max(map(len, self.values()), default=0)
        rows = [flat({name: values[k] for name, values in self.items() if k < len(values)}) for k in range(n)]
        return pandas.DataFrame(rows, index=pandas.RangeIndex(1, n + 1, name="epoch"))

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the learning curves (:func:`portnn.plots.learning_curves`), and write them to ``path`` if it is given.

        Examples
        --------
        >>> History(loss=[0.9, 0.4]).plot().get_suptitle()
        'Learning curves, 2 epochs'

        """
        figure = plots.learning_curves(self)
        if path is not None:
            figure.savefig(path)
        return figure


def plain(value: Any) -> Any:
    """Return numbers and arrays, in lists and tuples too, as Python's, NumPy's dates as texts; all else as it is.

    Examples
    --------
    >>> plain((numpy.float32(0.5), numpy.datetime64("2026-11-22", "ns"), "a remark"))
    [0.5, '2026-11-22T00:00:00.000000000', 'a remark']

    """
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, numpy.generic | numpy.ndarray):
        return value.astype(str).tolist() if value.dtype.kind in "mM" else value.tolist()
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return get_backend(value).to_numpy(value).tolist()
    return value


def sendable(history: Mapping[str, Any]) -> dict[str, Any]:
    """Return lists with Python's numbers, to be sent to other ranks; TypeError for what cannot be.

    Examples
    --------
    >>> sendable({"f1": [numpy.float32(0.5)]})
    {'f1': [0.5]}

    """
    lists = {name: plain(values) for name, values in history.items()}
    for name, values in lists.items():
        try:
            json.dumps(values)
        except (TypeError, ValueError) as error:
            message = (
                f"fit: history[{name!r}] holds what cannot be sent to other ranks ({reason(error)}); let callbacks "
            )
            message += "append numbers, texts, and lists and dicts of them"
            raise TypeError(message) from None
    return lists


def flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Give each number of one epoch a name of its own: those of members are counted from 0.

    Examples
    --------
    >>> flat({"loss": [0.5, 0.75], "epoch_seconds": 1.5})
    {'loss[0]': 0.5, 'loss[1]': 0.75, 'epoch_seconds': 1.5}

    """
    columns: dict[str, Any] = {}
    for name, value in entry.items():
        columns |= {f"{name}[{i}]": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
    return columns
