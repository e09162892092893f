"""Checkpoints of a training: when they are saved, which are kept, and how it goes on from one, to the bit."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from portnn import checkpoint_file, model_file, storage
from portnn.backends.base import State, dtype_name
from portnn.checkpoint_file import FORMAT, OPTIMIZER, SUMS, Kept, listed, newest, packed, under, unpacked
from portnn.checks import check_count, check_number
from portnn.diagnosis import watched
from portnn.errors import FormatError, NonFiniteError, shown
from portnn.files import StrPath, naming, remove_leftovers, sync_folder
from portnn.fingerprint import check_same
from portnn.history import History, Reached
from portnn.mlp import MLP
from portnn.step import beginning

NAME_MAX = 255  # bytes of a name, on all usual file systems
Settled = tuple[dict[str, int], dict[str, Any], dict[str, numpy.ndarray]]


class Position(NamedTuple):
    """Where a training stands between two chunks of steps.

    ``epoch`` are finished, ``row`` samples of the next one were trained on in ``seconds``; ``sums`` are those of their
    metrics, None before the first. ``state`` is what a step carries on. Chunks have up to ``chunk_rows`` samples, 0
    where that is not decided yet. ``ended``: a callback said so.
    """

    epoch: int
    row: int
    updates: int
    state: State
    sums: dict[str, Any] | None = None
    seconds: float = 0.0
    chunk_rows: int = 0
    ended: bool = False


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
    who, path = "load_checkpoint", os.fspath(path)
    kept = newest(path, who)[0] if os.path.isdir(path) else checkpoint_file.read(path, who)
    if kept is None:
        raise FormatError(f"{who}: there is no checkpoint in {shown(path)}; fit(..., checkpoint=folder) writes them")
    with naming(who, kept.path):
        config, params, running = model_file.parsed(kept.arrays, kept.metadata)
    model = MLP(**config, init="zeros")
    model.params, model.running = params, running
    model.check_finite(who)
    model = model.to(backend=backend, device=device, dtype=dtype)
    like, history = model.params.dtype, checkpoint_file.history_of(kept)
    with model.scope():
        arrays = {
            # of the parameters' dtype, where the file has that of its own parameters
            name: model.backend.asarray(a, like if a.dtype == params.dtype else None, copy=True)
            for name, a in under(OPTIMIZER, kept).items()
        }
    history.reached = Reached(kept.record["epoch"], kept.record["updates"], arrays)
    return model, history


def observers(learning_rate: Any) -> list[Any]:
    """Return the schedules in a learning rate, or in those of members, that observe losses."""
    rates = learning_rate if isinstance(learning_rate, tuple) else (learning_rate,)
    return [rate for rate in rates if hasattr(rate, "observe")]


def _remembers(thing: Any) -> bool:
    return callable(getattr(thing, "state", None)) and callable(getattr(thing, "restore", None))


class Saver:
    """Saves a training and finds what was saved: of one ``fit``, whose ``configuration`` decides its numbers."""

    def __init__(
        self,
        where: Checkpoints,
        model: MLP,
        optimizer: Any,
        callbacks: Sequence[Any],
        configuration: dict[str, Any],
        gone: Sequence[str] = (),
    ) -> None:
        self.where, self.model, self.optimizer, self.configuration = where, model, optimizer, configuration
        self.gone = list(gone)  # see portnn.loop.Loop
        schedules = observers(getattr(optimizer, "learning_rate", None))
        for schedule in schedules:
            if not _remembers(schedule):
                raise TypeError(
                    f"fit: the schedule {type(schedule).__name__} observes losses, but has no state() and "
                    "restore(state), which a checkpoint needs; add them, or train without checkpoint="
                )
        self.rememberers = {"schedules": schedules, "callbacks": [c for c in callbacks if _remembers(c)]}
        self._spoiled: set[str] = set()
        self._settled: Settled = ({}, {}, {})
        self._saved, self._updates, self._clock = (-1, -1, -1, False), 0, time.monotonic()

    def found(self, resume: bool) -> Kept | None:
        """Return the checkpoint to go on from, if that is wanted and there is one, and clean up after a killed run.

        FileExistsError for a folder with checkpoints that are not wanted, FormatError if none of them is valid or they
        are of another network or optimizer, ValueError if another argument differs. Then nothing is changed.
        """
        folder = self.where.folder
        parent = os.path.dirname(folder.rstrip(os.sep)) or os.curdir
        if not os.path.isdir(parent):
            raise FileNotFoundError(f"fit: the folder {shown(parent)} of the checkpoints does not exist; make it first")
        if os.path.lexists(folder) and not os.path.isdir(folder):
            what = "a file" if os.path.exists(folder) else "a link to nothing"
            raise NotADirectoryError(f"fit: checkpoint={shown(folder)} is {what}, expected a folder; name another")
        if not os.access(folder if os.path.isdir(folder) else parent, os.W_OK | os.X_OK):
            raise PermissionError(f"fit: nothing can be written to checkpoint={shown(folder)}; name another folder")
        if not os.path.isdir(folder) and len(os.fsencode(os.path.basename(folder.rstrip(os.sep)))) > NAME_MAX:
            raise OSError(f"fit: the name of checkpoint={shown(folder)} is longer than {NAME_MAX} bytes; shorten it")
        if not resume and (files := self.where.files()):
            raise FileExistsError(
                f"fit: {shown(folder)} holds {len(files)} checkpoint{'s' * (len(files) > 1)} of an earlier training; "
                "resume=True goes on from there, another folder starts anew"
            )
        kept, spoiled = newest(folder, "fit", 4)
        if kept is not None:
            check_same(kept.record["configuration"], self.configuration, f"the checkpoint {shown(kept.path)}")
            for kind, things in self.rememberers.items():
                was, now = [entry["type"] for entry in kept.record[kind]], [type(thing).__name__ for thing in things]
                if was != now:
                    raise ValueError(
                        f"fit: the checkpoint {shown(kept.path)} has the states of {kind} {was}, this training has "
                        f"{now}; give those that were given then, or another folder"
                    )
        self._spoiled = {*spoiled}
        if os.path.isdir(folder):
            remove_leftovers(folder)
        return kept

    def position(self, kept: Kept) -> Position:
        """Return where a checkpoint stands, with its arrays on the model's device; FormatError if they are not its."""
        model, record, where = self.model, kept.record, f"fit: {shown(kept.path)}"
        lead = () if model.members is None else (model.members,)
        with naming("fit", kept.path):
            params, running = model_file.joined(model_file.of_model(kept.arrays), model.layers, lead, model.dtype)
        state, own, self.gone = beginning(model, self.optimizer), under(OPTIMIZER, kept), list(record["gone"])
        shapes = {name: tuple(a.shape) for name, a in state.items() if name not in ("params", "running", "units")}
        if shapes != {name: a.shape for name, a in own.items()}:
            had = {name: a.shape for name, a in own.items()}
            raise FormatError(f"{where} is of another optimizer: it kept {shown(had)}, this one has {shown(shapes)}")
        off = [name for name in watched(self.optimizer, state) if name in own and not numpy.isfinite(own[name]).all()]
        if off or any(a.dtype.name != dtype_name(state[name].dtype) for name, a in own.items()):
            kinds = {name: f"{a.dtype.name}{' with NaN or infinity' * (name in off)}" for name, a in own.items()}
            expected = {name: dtype_name(state[name].dtype) for name in own}
            raise FormatError(f"{where}: arrays of the optimizer are {shown(kinds)}, expected {shown(expected)}")
        arrays = {"params": params, **({} if running is None else {"running": running}), **own}
        new = {name: model.backend.asarray(a, state[name].dtype, copy=True) for name, a in arrays.items()}
        place = {"backend": model.backend.name, "device": model.backend.device_name}
        here = all(record["made_with"].get(name) == value for name, value in place.items())
        position = Position(
            record["epoch"],
            record["row"],
            record["updates"],
            {**state, **new},
            {name: numpy.asarray(a)[()] for name, a in under(SUMS, kept).items()} or None,
            float(record["seconds"]),
            record["chunk_rows"] if here else 0,
            bool(record["ended"]),
        )
        self._note(position)
        return position

    def restore(self, kept: Kept) -> None:
        """Give schedules and callbacks what they remembered."""
        for kind, things in self.rememberers.items():
            for thing, entry in zip(things, kept.record[kind], strict=True):
                thing.restore(unpacked(entry["state"], kept))

    def settled(self, history: History) -> Settled:
        """Return what changes between epochs only, as it is now: lengths of the lists, states, and arrays of these."""
        states: dict[str, Any] = {}
        arrays: dict[str, numpy.ndarray] = {}
        for kind, things in self.rememberers.items():
            states[kind] = []
            for i, thing in enumerate(things):
                who = type(thing).__name__
                kept, more = packed(thing.state(), f"{model_file.TRAINING}{kind}/{i}/", who)
                states[kind].append({"type": who, "state": kept})
                arrays |= more
        for name, values in history.items():
            if not isinstance(values, list):
                raise TypeError(
                    f"fit: history[{name!r}] is a {type(values).__name__}, which a checkpoint does not keep; expected "
                    "a list with an entry per epoch"
                )
        return {name: len(values) for name, values in history.items()}, states, arrays

    def settle(self, settled: Settled) -> None:
        """Save this from now on, until the next call."""
        self._settled = settled

    def due(self, position: Position) -> bool:
        """Whether it is time for a save within an epoch."""
        seconds, steps = self.where.seconds, self.where.steps
        passed = seconds is not None and time.monotonic() - self._clock >= seconds
        return passed or (steps is not None and position.updates - self._updates >= steps)

    def save(self, position: Position, history: History) -> None:
        """Write a position, unless it is on the disk already, and remove what is older than the files to keep.

        NonFiniteError if it holds NaN or infinity, OSError as the disk says; the files that are there are then as they
        were.
        """
        if self._saved == _key(position):
            return
        model, (lengths, states, arrays) = self.model, self._settled
        host = {n: model.backend.to_numpy(a) for n, a in position.state.items() if n != "units"}
        for name in watched(self.optimizer, position.state):
            if not numpy.isfinite(host[name]).all():
                raise NonFiniteError(
                    f"fit: after {position.updates} updates {name!r} holds NaN or infinity, which no checkpoint keeps; "
                    "lower the learning rate, clip the gradient (clip_norm), or scale the data"
                )
        lists, columns = checkpoint_file.packed_history(history, lengths)
        config = {"sizes": model.sizes, "dtype": model.dtype, "members": model.members, "seed": model.seed}
        described = json.dumps(model_file.described(config, model.layers))
        standing = {"epoch": position.epoch, "row": position.row, "updates": position.updates}
        standing["batch"] = -(-position.row // self.configuration["batch_size"])
        record = {
            "format": FORMAT,
            **standing,
            **{name: getattr(position, name) for name in ("seconds", "chunk_rows", "ended")},
            "history": lists,
            "gone": self.gone,
            **states,
            "configuration": self.configuration,
            "made_with": _made_with(model),
            "model": described,
        }
        arrays = {
            **model_file.cut(model.layers, host.pop("params"), host.pop("running", None)),
            **{f"{OPTIMIZER}{name}": a for name, a in host.items()},
            **{f"{SUMS}{name}": numpy.asarray(a) for name, a in (position.sums or {}).items()},
            **columns,
            **arrays,
            model_file.RECORD: numpy.frombuffer(json.dumps(record).encode(), dtype="uint8"),
        }
        metadata = {"portnn": described, "checkpoint": json.dumps({"format": FORMAT, **standing})}
        self._write(position.updates, arrays, {**metadata, "sha256": storage.payload_sha256(arrays)})
        self._note(position)

    def _note(self, position: Position) -> None:
        self._saved, self._updates, self._clock = _key(position), position.updates, time.monotonic()

    def _write(self, updates: int, arrays: dict[str, numpy.ndarray], metadata: dict[str, str]) -> None:
        folder = self.where.folder
        if not os.path.isdir(folder):
            os.mkdir(folder)
            sync_folder(os.path.dirname(os.path.abspath(folder)))
        path = os.path.join(folder, f"checkpoint-{updates:012d}.safetensors")
        storage.write_safetensors_file(path, arrays, metadata)
        # What is newer than this was found to be damaged: it does not count, and goes when it is no longer the newest.
        self._spoiled.discard(path)
        older = [p for number, p in listed(folder) if number <= updates]
        good = [p for p in older if p not in self._spoiled]
        for p in {*older} - {*good[: self.where.keep]}:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(p)


def _key(position: Position) -> tuple[int, int, int, bool]:
    return position.epoch, position.row, position.updates, position.ended


def _made_with(model: MLP) -> dict[str, Any]:
    """Return what else the last bits depend on, for those who wonder: nothing of it is compared."""
    return {
        "portnn": sys.modules["portnn"].__version__,
        "backend": model.backend.name,
        "version": model.backend.version,
        "device": model.backend.device_name,
        "threads": model.backend.threads(),
        "python": sys.version.partition(" ")[0],
    }
