"""What ranks tell each other, so that all of them stand where the first does: arrays, schedules, histories, errors."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import numpy

from portnn.backends import Backend
from portnn.backends.base import State
from portnn.diagnosis import Fault
from portnn.errors import NonFiniteError
from portnn.group import Group
from portnn.history import History, sendable
from portnn.saver import observers, remembers


def arrays_of_first(group: Group, backend: Backend, state: State) -> State:
    """Return the arrays of the first of the group."""
    if group.size == 1:
        return state
    host = {name: group.told_array(backend.to_numpy(state[name])) for name in sorted(state)}
    return {name: backend.asarray(host[name], a.dtype, copy=True) for name, a in state.items()}


def remembered_by_first(group: Group, learning_rate: Any) -> list[tuple[Any, Any, Any]]:
    """Return the schedules that remember, what they do here, and what they are to remember: what the first's do."""
    schedules = [schedule for schedule in observers(learning_rate) if remembers(schedule)]
    mine = [schedule.state() for schedule in schedules]
    told = group.told(mine)
    return list(zip(schedules, mine, told, strict=True)) if group.rank else []


def history_of_first(group: Group, history: History, gone: Collection[str]) -> Collection[str]:
    """Have the history be that of the first of the group; return the names which are gone there."""
    with group.together():
        lists = sendable(history)
    lists, history.names, history.epochs, gone = group.told((lists, history.names, history.epochs, list(gone)))
    if group.rank:
        history.clear()
        history.update(lists)
    return gone


def check_equal(group: Group, backend: Backend, state: State, updates: int) -> None:
    """RuntimeError unless all ranks have the same numbers: they make the same updates, if they compute alike.

    KeyboardInterrupt on all where Ctrl-C was pressed since they asked for the last time.
    """
    digest = hashlib.sha256()
    for name in sorted(state) if group.size > 1 else ():
        digest.update(numpy.ascontiguousarray(backend.to_numpy(state[name])).tobytes())
    found = group.gathered((digest.hexdigest(), group.pressed()))
    other = next((rank for rank, (of, _) in enumerate(found) if of != found[0][0]), None)
    if other is not None:
        message = f"fit: after {updates} updates rank {other} has other numbers than rank 0: their "
        message += "libraries do not compute alike; install the same versions on machines of one kind"
        raise group.of_all(RuntimeError(message))
    if any(pressed for _, pressed in found):
        raise group.heed()


def error_of_all(
    group: Group, fault: Fault, numbers: numpy.ndarray, epoch: int, batch: int, size: int, optimizer: Any, update: int
) -> NonFiniteError:
    """Return one error for all ranks: that of the first which knows of samples, with those of all.

    ``numbers`` are those of the rank's own samples, the rest is as :meth:`portnn.diagnosis.Fault.error` has it.
    """
    mine = fault.numbers(numbers)
    each = group.gathered((mine, fault.place._replace(rows=None, n=0)))
    of_samples = [(found, place) for found, place in each if found is not None]
    place = (of_samples or each)[0][1]
    same = [found for found, other in of_samples if other[:2] == place[:2]]
    off = numpy.concatenate(same) if same else None
    fault = fault._replace(place=place._replace(rows=off))
    error: NonFiniteError = group.of_all(fault.error(epoch, batch, off, size, optimizer, update))
    return error
