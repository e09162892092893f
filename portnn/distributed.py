"""Training on many processes: ranks of MPI that share the samples of every batch, or the members of an ensemble.

A script that calls ``portnn.fit(..., comm=portnn.distributed.world())`` runs on four ranks with

    mpiexec -n 4 python -m mpi4py script.py

All ranks run the whole script with the same data. ``-m mpi4py`` ends all of them when one ends with an error outside
``fit``; within it, portnn sees to that. What is printed and written by the script itself is for rank 0:
``if comm.Get_rank() == 0``. Of every batch each rank takes a part in the order that one process would have, and all add
up their gradients: up to rounding the training is that of one process, and so are its history and its checkpoints,
which another number of ranks can go on with.

``python -m pip install mpi4py mpich`` brings what it needs (on Windows: mpi4py and Microsoft MPI).
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy

from portnn.backends import Array
from portnn.errors import NonFiniteError, shown
from portnn.fingerprint import check_alike
from portnn.group import ALONE
from portnn.history import History, Reached
from portnn.members import entries
from portnn.mlp import MLP, check_model
from portnn.optimizers import Adam, get_optimizer
from portnn.preparation import Asked, Preparation
from portnn.ranks import Ranks
from portnn.saver import observers, remembers
from portnn.training import drawn, fit

__all__ = ["fit_members", "local_rank", "world"]

_OF_ALL = ("checkpoint", "resume", "callbacks", "comm")  # options of fit that are about all members at once


def world() -> Any:
    """Return the communicator of all processes that ``mpiexec`` started; of this one alone without it.

    ImportError, with the cure, where mpi4py or an MPI is missing.

    Examples
    --------
    >>> comm = world()
    >>> comm.Get_rank() < comm.Get_size()
    True

    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # which says that no MPI is found
        message = "distributed.world: mpi4py or an MPI is missing: python -m pip install mpi4py mpich"
        raise ImportError(message) from error
    return MPI.COMM_WORLD


def local_rank(comm: Any) -> int:
    """Return the number of this rank among those on its machine: which of its GPUs is for it. All ranks must ask.

    Examples
    --------
    >>> local_rank(world())
    0

    """
    from mpi4py import MPI

    here = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        number: int = here.Get_rank()
        return number
    finally:
        here.Free()


def fit_members(model: MLP, x: Any, t: Array | None = None, *, comm: Any, **options: Any) -> History:
    """Train the members of an ensemble, each on one of the ranks of ``comm``, and return the history of all of them.

    Members have nothing to do with each other, so ranks meet only at the start, where rank 0's parameters are sent, and
    in the end, when all are told the parameters and the history. Up to rounding each member is what it would be in
    ``fit(model, x, t, **options)``. Ctrl-C while they train is a KeyboardInterrupt, and the model is as it was.

    Parameters
    ----------
    model
        A network with members, the same on all ranks; rank 0's parameters are those that count. Rank r of R trains
        members M r // R to M (r + 1) // R - 1.
    x, t
        As in :func:`portnn.fit`, the same on all ranks.
    comm
        A communicator of mpi4py.
    options
        Those of :func:`portnn.fit` but checkpoint, resume and callbacks, which would be of some members only. Learning
        rates, decays and penalties of the members are given for all of them, as there.

    Returns
    -------
    history
        As :func:`portnn.fit` returns it, on every rank. ``epoch_seconds`` are those of the slowest rank.

    Raises
    ------
    RankError, NonFiniteError
        Training failed on another rank, or a member diverged; ranks are told at the end of the epoch that they are in,
        and the model and the schedules are as they were.

    Examples
    --------
    >>> import numpy as np, portnn
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> model = portnn.MLP([1, 1], members=3, seed=[0, 0, 0])
    >>> rates = portnn.SGD([0.1, 0.01, 0.001])
    >>> history = fit_members(model, x, 3 * x, comm=world(), loss="mse", optimizer=rates, epochs=5)
    >>> first, second, third = history["loss"][-1]
    >>> first < second < third
    True

    """
    who = "fit_members"
    group = Ranks(comm, who)
    with group.at_work():
        seed = drawn(options.get("seed", 0), group)
        with group.together():
            check_model(who, model)
            if model.members is None:
                raise ValueError(f"{who}: the model is a single network; make it with members=M, or use fit(comm=)")
            given = [name for name in _OF_ALL if options.get(name)]
            if given:
                raise ValueError(f"{who}: {given[0]} is about all members, of which a rank has some; leave it out")
            own, rule = group.share(model.members), _rule(options, who)
            asked = _asked({**options, "seed": seed, "optimizer": rule}, who)
            with model.scope():
                said = Preparation(model, x, t, asked, ALONE).said()
        check_alike(group.gathered(said), who)
        with model.scope():
            start = {name: group.told_array(a) for name, a in _on_host(model).items()}
        with _as_they_were(rule):
            with group.apart():
                mine = {**options, **_of_members(options, rule, own), "seed": seed}
                found = _trained(model, x, t, own, start, group, mine) if own.stop > own.start else None
            of_all = [one for one in group.gathered(found) if one is not None]
            with group.together():
                return _joined(model, rule, *zip(*of_all, strict=True))


@contextlib.contextmanager
def _as_they_were(rule: Any) -> Iterator[None]:
    """Have the schedules of members remember what they did before, if the block fails."""
    before = [(rate, rate.state()) for rate in observers(getattr(rule, "learning_rate", None))]
    try:
        yield
    except BaseException:
        for rate, state in before:
            rate.restore(state)
        raise


def _asked(options: dict[str, Any], who: str) -> Asked:
    """Return the options with what ``fit`` has for the others."""
    known = {name: of.default for name, of in inspect.signature(fit).parameters.items()}
    unknown = sorted({*options} - {*known})
    if unknown:
        raise TypeError(f"{who}: there is no option {unknown[0]!r}; they are those of portnn.fit")
    return Asked(**{field.name: options.get(field.name, known[field.name]) for field in dataclasses.fields(Asked)})


def _rule(options: dict[str, Any], who: str) -> Any:
    """Return the optimizer; ValueError for a schedule that would see the losses of some members only.

    TypeError for one that cannot tell the other ranks what it has seen.
    """
    rule: Any = get_optimizer(options.get("optimizer") or Adam())
    rate = getattr(rule, "learning_rate", None)
    if not isinstance(rate, tuple) and observers(rate):
        raise ValueError(f"{who}: {type(rate).__name__} would observe the mean of some members; give each its own")
    forgetful = [type(own).__name__ for own in observers(rate) if not remembers(own)]
    if forgetful:
        raise TypeError(
            f"{who}: the schedule {forgetful[0]} observes losses, but has no state() and restore(state), by which the "
            "other ranks would learn of them; add them"
        )
    return rule


def _trained(
    model: MLP, x: Any, t: Any, own: slice, start: dict[str, numpy.ndarray], group: Ranks, options: dict[str, Any]
) -> Any:
    """Train the members of this rank, and return their history, arrays, updates, and what their schedules have seen."""
    part = model[own]
    part.params, part.running = start["params"][own], start["running"][own] if "running" in start else None
    options |= {"progress": options.get("progress", True) and group.rank == 0, "callbacks": lambda *_: group.heard()}
    try:
        history = fit(part, x, t, **options)
    except NonFiniteError as error:
        fields = {**error.fields, "members": tuple(own.start + i for i in error.members)}
        said = f"fit_members: of members {own.start} to {own.stop - 1}, here counted from 0: {error}"
        raise NonFiniteError(said, **fields) from error
    if history.interrupted:
        raise KeyboardInterrupt
    assert history.reached is not None
    rates = getattr(options["optimizer"], "learning_rate", None)
    each = enumerate(rates if isinstance(rates, tuple) else ())
    seen = {own.start + i: rate.state() for i, rate in each if observers(rate)}
    return history.to_dict(), _on_host(part, history.reached.arrays), history.reached[:2], seen


def _of_members(options: dict[str, Any], rule: Any, own: slice) -> dict[str, Any]:
    """Return optimizer and penalties for some of the members; all have been looked at."""
    found: dict[str, Any] = {"optimizer": rule}
    for name in ("l1", "l2"):
        value = entries(options.get(name, 0.0))
        found[name] = value[own] if isinstance(value, tuple) else value
    names: Any = getattr(rule, "per_member", ())
    changed = {name: getattr(rule, name)[own] for name in names if isinstance(getattr(rule, name), tuple)}
    if changed and own.stop > own.start:
        if not dataclasses.is_dataclass(rule):
            raise TypeError(f"fit_members: {shown(rule)} is no dataclass, whose numbers could be divided among ranks")
        found["optimizer"] = dataclasses.replace(rule, **changed)  # type: ignore[type-var]
    return found


def _on_host(model: MLP, more: Mapping[str, Array] = MappingProxyType({})) -> dict[str, numpy.ndarray]:
    arrays = {"params": model.params, "running": model.running, **more}
    return {name: model.backend.to_numpy(a) for name, a in arrays.items() if a is not None}


def _joined(
    model: MLP,
    rule: Any,
    lists: Sequence[dict[str, Any]],
    arrays: Sequence[dict[str, numpy.ndarray]],
    updates: Sequence[tuple[int, int]],
    seen: Sequence[dict[int, Any]],
) -> History:
    """Put what all members have become into the model, and their schedules, and return their history."""
    history = History()
    for of in seen:
        for i, state in of.items():
            rule.learning_rate[i].restore(state)
    for name in lists[0]:
        epochs = zip(*(of[name] for of in lists), strict=True)
        if name == "epoch_seconds":
            history[name] = [max(values) for values in epochs]
        elif isinstance(lists[0][name][0], list):
            history[name] = [list(itertools.chain(*values)) for values in epochs]
        else:
            history[name] = list(lists[0][name])
    whole = {name: numpy.concatenate([of[name] for of in arrays]) for name in arrays[0]}
    with model.scope():
        model.params = whole.pop("params")
        model.running = whole.pop("running", None)
        kept = {name: model.backend.asarray(a, model.params.dtype, copy=True) for name, a in whole.items()}
    history.reached, history.names = Reached(*updates[0], kept), tuple(history)
    history.epochs = len(history["loss"])
    return history
