"""Checkpoints of a training: where they are kept, how often and how many, and what is loaded from them."""

from __future__ import annotations

import os
from typing import Any

import numpy

from portnn import checkpoint_file, model_file
from portnn.backends.base import FLOATS, dtype_name
from portnn.checkpoint_file import listed, newest
from portnn.checkpoint_record import OPTIMIZER, history_of, under
from portnn.checks import check_count, check_number
from portnn.errors import FormatError, shown
from portnn.files import StrPath, naming
from portnn.history import History, Reached
from portnn.mlp import MLP


class Checkpoints:
    """Where :func:`portnn.fit` keeps its state, how often, and how many files of it: ``fit(..., checkpoint=this)``.

    A save is made after every epoch, after Ctrl-C, when a callback ends the training, and within an epoch between two
    chunks of steps, which take about a second. A file ``checkpoint-<updates>.safetensors`` is one whole state; it is on
    the disk before an older one is removed.

    Parameters
    ----------
    folder
        Of this training alone; it is made if it is missing, the folder that it is in must exist.
    seconds
        Within an epoch, save when so many have passed since the last save; None does not.
    steps
        Within an epoch, also save after so many updates, at the end of their chunk; None does not.
    keep
        How many files are kept, the newest ones, at least 1. The second is what is left if a disk spoils the first.

    Examples
    --------
    >>> import tempfile, numpy as np, portnn
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"loss": "mse", "batch_size": 16, "checkpoint": f"{folder}/run", "resume": True}
    ...     half = portnn.fit(portnn.MLP([1, 1]), x, 3 * x, epochs=2, **options)
    ...     model = portnn.MLP([1, 1])
    ...     whole = portnn.fit(model, x, 3 * x, epochs=4, **options)  # two epochs more
    ...     [os.path.basename(path) for path in portnn.Checkpoints(f"{folder}/run").files()]
    ['checkpoint-000000000016.safetensors', 'checkpoint-000000000012.safetensors']
    >>> again = portnn.MLP([1, 1])
    >>> history = portnn.fit(again, x, 3 * x, loss="mse", batch_size=16, epochs=4)
    >>> history["loss"] == whole["loss"], bool((again.params == model.params).all())
    (True, True)

    """

    def __init__(self, folder: StrPath, seconds: float | None = 60.0, steps: int | None = None, keep: int = 2) -> None:
        who = type(self).__name__
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"{who}: the folder must be a path such as 'run', got {shown(folder)}")
        self.folder = os.fspath(folder)
        if not self.folder or "\0" in self.folder:
            raise ValueError(f"{who}: the folder must be a path such as 'run', got {shown(self.folder)}")
        self.seconds = None if seconds is None else check_number(who, "seconds", seconds, 0.0)
        self.steps = None if steps is None else check_count(who, "steps", steps)
        self.keep = check_count(who, "keep", keep)

    def files(self) -> list[str]:
        """Return the paths of the checkpoints, the newest first."""
        return [path for _, path in listed(self.folder)]


def load_checkpoint(
    path: StrPath, *, backend: Any = "numpy", device: Any = None, dtype: str | None = None
) -> tuple[MLP, History]:
    """Return the model and the history of a checkpoint, on any library, device and dtype.

    ``fit(model, ..., resume=history)`` then trains for further epochs in memory; the first one anew, if the file is of
    its middle. To go on in the middle, and to the bit, give the folder to ``fit(..., checkpoint=folder, resume=True)``.

    Parameters
    ----------
    path
        A file, or a folder of them, of which it is the newest that is valid; a UserWarning says so if it is not the
        newest of all.
    backend, device, dtype
        As for :meth:`portnn.MLP.load`; the optimizer's arrays follow.

    Raises
    ------
    FormatError
        There is no checkpoint, or none that is valid; an activation is a function of the user's.
    ValueError
        A number of it is too large for the dtype.
    OSError
        FileNotFoundError and others, as the system says.

    Examples
    --------
    >>> import tempfile, numpy as np, portnn
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = portnn.fit(portnn.MLP([1, 1]), x, x, loss="mse", epochs=2, checkpoint=f"{folder}/run")
    ...     model, same = load_checkpoint(f"{folder}/run", dtype="float64")
    >>> model.dtype, same == history, same.reached.updates
    ('float64', True, 2)

    """
    who, path = "load_checkpoint", os.fsdecode(path)
    kept = newest(path, who)[0] if os.path.isdir(path) else checkpoint_file.read(path, who)
    if kept is None:
        raise FormatError(f"{who}: there is no checkpoint in {shown(path)}; fit(..., checkpoint=folder) writes them")
    with naming(who, kept.path):
        config, params, running = model_file.parsed(kept.arrays, kept.metadata)
    own = under(OPTIMIZER, kept)
    if dtype is not None:
        for name, a in {"params": params, "running": running, **own}.items():
            if a is not None and a.dtype == params.dtype:
                _check_width(name, a, dtype_name(dtype), f"{who}: {shown(kept.path)}")
    model = MLP(**config, init="zeros")
    model.params, model.running = params, running
    model = model.to(backend=backend, device=device, dtype=dtype)
    like, history = model.params.dtype, history_of(kept)
    with model.scope():
        arrays = {
            # of the parameters' dtype, where the file has that of its own parameters
            name: model.backend.asarray(a, like if a.dtype == params.dtype else None, copy=True)
            for name, a in own.items()
        }
    history.reached = Reached(kept.record["epoch"], kept.record["updates"], arrays)
    return model, history


def _check_width(name: str, a: numpy.ndarray, dtype: str, where: str) -> None:
    """Raise ValueError if a number that is finite would be infinite in another dtype."""
    if dtype in FLOATS:
        with numpy.errstate(over="ignore"):
            lost = numpy.isfinite(a) & ~numpy.isfinite(a.astype(dtype))
        if lost.any():
            raise ValueError(
                f"{where}: {name!r} holds {a[lost][0]:g}, which is too large for dtype {dtype!r}; load it as "
                f"{a.dtype.name}"
            )
