"""Saving a training while it runs, and going on from what was saved, to the bit."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy

from portnn import json_text, model_file, storage
from portnn.backends.base import State, dtype_name
from portnn.checkpoint_file import listed, newest
from portnn.checkpoint_record import (
    FORMAT,
    OPTIMIZER,
    SUMS,
    Kept,
    packed_history,
    packed_states,
    under,
    unpacked_states,
)
from portnn.checkpoints import Checkpoints
from portnn.diagnosis import watched
from portnn.errors import FormatError, NonFiniteError, OtherFile, reason, shown
from portnn.files import alone, make_folder, naming, remove_leftovers
from portnn.fingerprint import check_same
from portnn.history import History
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


def observers(learning_rate: Any) -> list[Any]:
    """Return the schedules in a learning rate, or in those of members, that observe losses."""
    rates = learning_rate if isinstance(learning_rate, tuple) else (learning_rate,)
    return [rate for rate in rates if hasattr(rate, "observe")]


def remembers(thing: Any) -> bool:
    """Whether a schedule or a callback has a state that a checkpoint keeps."""
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
        metrics: Collection[str] | None = None,
    ) -> None:
        self.where, self.model, self.optimizer, self.configuration = where, model, optimizer, configuration
        self.gone = list(gone)  # see portnn.loop.Loop
        self.metrics = metrics  # what a step sums up, None for anything
        schedules = observers(getattr(optimizer, "learning_rate", None))
        for schedule in schedules:
            if not remembers(schedule):
                raise TypeError(
                    f"fit: the schedule {type(schedule).__name__} observes losses, but has no state() and "
                    "restore(state), which a checkpoint needs; add them, or train without checkpoint="
                )
        self.rememberers = {"schedules": schedules, "callbacks": [c for c in callbacks if remembers(c)]}
        self._spoiled: set[str] = set()
        self._settled: Settled = ({}, {}, {})
        self._before: list[tuple[Any, Any]] = []  # schedules, and what they remembered before this training
        self._saved, self._updates, self._clock = (-1, -1, -1, False), 0, time.monotonic()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have the folder alone, among trainings; OSError if it cannot be one, or is in use."""
        folder = self.where.folder
        bare = folder.rstrip(os.sep + (os.altsep or ""))
        parent = os.path.dirname(bare) or os.curdir
        if not os.path.isdir(parent):
            raise FileNotFoundError(f"fit: the folder {shown(parent)} of the checkpoints does not exist; make it first")
        if os.path.lexists(folder) and not os.path.isdir(folder):
            what = "a file" if os.path.exists(folder) else "a link to nothing"
            raise NotADirectoryError(f"fit: checkpoint={shown(folder)} is {what}, expected a folder; name another")
        if not os.access(folder if os.path.isdir(folder) else parent, os.W_OK | os.X_OK):
            raise PermissionError(f"fit: nothing can be written to checkpoint={shown(folder)}; name another folder")
        if not os.path.isdir(folder) and len(os.fsencode(os.path.basename(bare))) > NAME_MAX:
            raise OSError(f"fit: the name of checkpoint={shown(folder)} is longer than {NAME_MAX} bytes; shorten it")
        with alone(folder, "fit"):
            yield

    def found(self, resume: bool) -> Kept | None:
        """Return the checkpoint to go on from, if that is wanted and there is one, and clean up after a killed run.

        FileExistsError for a folder with checkpoints that are not wanted, FormatError if none of them is valid or they
        are of another network or optimizer, ValueError if another argument differs. Then nothing is changed.
        """
        folder = self.where.folder
        if not resume and (files := self.where.files()):
            raise FileExistsError(
                f"fit: {shown(folder)} holds {len(files)} checkpoint{'s' * (len(files) > 1)} of an earlier training; "
                "resume=True goes on from there, another folder starts anew"
            )
        kept, spoiled = newest(folder, "fit")
        if kept is not None:
            check_same(kept.record["configuration"], self.configuration, f"the checkpoint {shown(kept.path)}")
            for kind, things in self.rememberers.items():
                n = sum(entry.get("each", 1) for entry in kept.record[kind])
                if n != len(things):
                    raise FormatError(f"fit: {shown(kept.path)} has the states of {n} {kind}, expected {len(things)}")
        self._spoiled = {*spoiled}
        if os.path.isdir(folder):
            remove_leftovers(folder)
        return kept

    def position(self, kept: Kept) -> Position:
        """Return where a checkpoint stands, with its arrays on the model's device; FormatError if they are not its."""
        model, record, where = self.model, kept.record, f"fit: {shown(kept.path)}"
        lead = () if model.members is None else (model.members,)
        with naming("fit", kept.path):
            params, running = model_file.joined(model_file.weights(kept.arrays), model.layers, lead, model.dtype)
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
        sums = under(SUMS, kept)
        if sums and self.metrics is not None and set(sums) != set(self.metrics):
            raise FormatError(f"{where} has sums of {sorted(sums)}, expected {sorted(self.metrics)}")
        arrays = {"params": params, **({} if running is None else {"running": running}), **own}
        new = {name: model.backend.asarray(a, state[name].dtype, copy=True) for name, a in arrays.items()}
        place = {"backend": model.backend.name, "device": model.backend.device_name}
        here = all(record["made_with"].get(name) == value for name, value in place.items())
        position = Position(
            record["epoch"],
            record["row"],
            record["updates"],
            {**state, **new},
            {name: numpy.asarray(a)[()] for name, a in sums.items()} or None,
            float(record["seconds"]),
            record["chunk_rows"] if here else 0,
            bool(record["ended"]),
        )
        self._note(position)
        return position

    def restore(self, kept: Kept, epochs: int) -> None:
        """Give callbacks and schedules what they remembered; FormatError, and :meth:`put_back`, where one refuses.

        Of a training that is over after so many ``epochs`` nobody writes to the files that callbacks have.
        """
        over = kept.record["ended"] or kept.record["epoch"] >= epochs
        self._before = [(schedule, schedule.state()) for schedule in self.rememberers["schedules"]]
        for kind in ("callbacks", "schedules"):
            for thing, state in zip(self.rememberers[kind], unpacked_states(kept.record[kind], kept), strict=True):
                try:
                    thing.restore(state)
                except OtherFile:
                    if not over:
                        raise
                except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
                    raise FormatError(
                        f"fit: {shown(kept.path)} has a state that {type(thing).__name__}.restore refuses "
                        f"({type(error).__name__}: {reason(error)}); use another folder"
                    ) from error

    def put_back(self) -> None:
        """Give schedules, which are the caller's, what they remembered before :meth:`restore`."""
        for schedule, state in self._before:
            schedule.restore(state)

    def settled(self, history: History) -> Settled:
        """Return what changes between epochs only, as it is now: lengths of the lists, states, and arrays of these."""
        states: dict[str, Any] = {}
        arrays: dict[str, numpy.ndarray] = {}
        for kind, things in self.rememberers.items():
            whose = [type(thing).__name__ for thing in things]
            prefix = f"{model_file.TRAINING}{kind}/"
            states[kind], more = packed_states([thing.state() for thing in things], prefix, whose)
            arrays |= more
        for name, values in history.items():
            if not isinstance(values, list):
                raise TypeError(
                    f"fit: history[{name!r}] is a {type(values).__name__}, which a checkpoint does not keep; expected "
                    "a list with an entry per epoch"
                )
        return {name: len(values) for name, values in history.items()}, states, arrays

    def begin(self, position: Position, history: History) -> None:
        """Refuse what no file can hold before the first step: ValueError or TypeError."""
        for name, a in position.state.items():
            kind = dtype_name(a.dtype)
            if name not in ("params", "running", "units") and not (
                storage.is_name(f"{OPTIMIZER}{name}") and storage.can_hold(kind)
            ):
                raise TypeError(
                    f"fit: the optimizer keeps an array {shown(name)} of dtype {kind}, which a checkpoint does not; "
                    "expected a name of letters, digits and _ and a dtype of NumPy of up to 64 bits"
                )
        self.settle(self.settled(history))
        self._record(position, history)

    def settle(self, settled: Settled) -> None:
        """Save this from now on, until the next call."""
        self._settled = settled

    def due(self, updates: int) -> bool:
        """Whether it is time for a save within an epoch, after so many updates."""
        seconds, steps = self.where.seconds, self.where.steps
        passed = seconds is not None and time.monotonic() - self._clock >= seconds
        return passed or (steps is not None and updates - self._updates >= steps)

    def save(self, position: Position, history: History) -> None:
        """Write a position, unless it is on the disk already, and remove what is older than the files to keep.

        NonFiniteError if it holds NaN or infinity, OSError as the disk says; the files that are there are then as they
        were.
        """
        if self._saved == _key(position):
            return
        model = self.model
        host = {n: model.backend.to_numpy(a) for n, a in position.state.items() if n != "units"}
        for name in watched(self.optimizer, position.state):
            if not numpy.isfinite(host[name]).all():
                raise NonFiniteError(
                    f"fit: after {position.updates} updates {name!r} holds NaN or infinity, which no checkpoint keeps; "
                    "lower the learning rate, clip the gradient (clip_norm), or scale the data"
                )
        record, standing, described, named = self._record(position, history)
        arrays = {
            **model_file.cut(model.layers, host.pop("params"), host.pop("running", None)),
            **{f"{OPTIMIZER}{name}": a for name, a in host.items()},
            **{f"{SUMS}{name}": numpy.asarray(a) for name, a in (position.sums or {}).items()},
            **named,
            **self._settled[2],
            model_file.RECORD: numpy.frombuffer(record, dtype="uint8"),
        }
        metadata = {"portnn": described, "checkpoint": json.dumps({"format": FORMAT, **standing})}
        self._write(position.updates, arrays, {**metadata, "sha256": storage.payload_sha256(arrays)})
        self._note(position)

    def _record(self, position: Position, history: History) -> tuple[bytes, dict[str, int], str, dict[str, Any]]:
        """Return the record of a position, what of it the metadata say, the model's configuration, and their tensors.

        ValueError for a record that no reader would take.
        """
        model, (lengths, states, _) = self.model, self._settled
        lists, columns = packed_history(history, lengths)
        config = {"sizes": model.sizes, "dtype": model.dtype, "members": model.members, "seed": model.seed}
        whole, tensors = model_file.packed(model_file.described(config, model.layers), "fit")
        described = json.dumps(whole)
        batch = -(-position.row // self.configuration["batch_size"])
        standing = {"epoch": position.epoch, "row": position.row, "updates": position.updates, "batch": batch}
        record = {
            **standing,
            **{name: getattr(position, name) for name in ("seconds", "chunk_rows", "ended")},
            "history": lists,
            "gone": self.gone,
            **states,
            "configuration": self.configuration,
            "made_with": _made_with(model),
            "model": described,
        }
        text = json.dumps(record).encode()
        if json_text.memory(text) > json_text.MOST:
            longest = max(record, key=lambda name: len(json.dumps(record[name])))
            raise ValueError(
                f"fit: a checkpoint cannot hold so much text: {len(text)} bytes of JSON, most of them in {longest!r}; "
                "let callbacks append numbers to the history in place of texts, and return arrays from state()"
            )
        return text, standing, described, {**columns, **tensors}

    def _note(self, position: Position) -> None:
        self._saved, self._updates, self._clock = _key(position), position.updates, time.monotonic()

    def _write(self, updates: int, arrays: dict[str, numpy.ndarray], metadata: dict[str, str]) -> None:
        folder = self.where.folder
        make_folder(folder)
        path = os.path.join(folder, f"checkpoint-{updates:012d}.safetensors")
        storage.write_safetensors_file(path, arrays, metadata)
        # What is newer than this was found to be damaged: it does not count, and goes when it is no longer the newest.
        self._spoiled.discard(path)
        older = [p for number, p in listed(folder) if number <= updates]
        good = [p for p in older if p not in self._spoiled]
        for p in {*older} - {*good[: self.where.keep]}:
            with contextlib.suppress(OSError):  # the save is complete; this one may be gone, or in use
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
