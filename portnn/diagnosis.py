"""What the host looks at once per chunk of steps, and where a NaN came from: the chunk again, one step at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy

from portnn.backends import Array, Backend, namespace
from portnn.backends.base import Batch, Metrics, Rows, State
from portnn.errors import NonFiniteError
from portnn.feed import Feed
from portnn.group import ALONE, Group
from portnn.mlp import MLP
from portnn.optimizers import Optimizer
from portnn.pure import Pure
from portnn.trace import Place, Watch, error, members_off, refused, stored

CURE = "lower the learning rate, clip the gradient (clip_norm), or scale the data"


def watched(optimizer: Any, state: State) -> tuple[str, ...]:
    """Return which arrays of a state must stay finite: parameters, running statistics, and what our optimizers keep.

    What an optimizer of the user's keeps may be infinite on purpose, as the smallest of no numbers is.
    """
    ours = isinstance(optimizer, Optimizer) and type(optimizer).__module__.partition(".")[0] == "portnn"
    return tuple(name for name in state if name in ("params", "running") or (ours and name != "units"))


def read_back(backend: Backend, metrics: Metrics, arrays: Sequence[Array]) -> tuple[dict[str, Any], bool]:
    """Return the metrics as host float64, and whether the loss and all of some arrays are finite.

    The one read of a chunk.
    """
    *values, flag = backend.to_numpy(backend.compiled(_TO_READ)(metrics, arrays)).astype("float64")
    return dict(zip(sorted(metrics), values, strict=True)), bool(flag.all())


def _to_read(metrics: Metrics, arrays: Sequence[Array]) -> Array:
    """Return the metrics, and 1 where all is finite, as rows of one array, in the order of their names."""
    loss = metrics["loss"]
    xp = namespace(loss)
    finite = functools.reduce(xp.logical_and, (xp.all(xp.isfinite(a)) for a in arrays), xp.isfinite(loss))
    rows = [metrics[name] for name in sorted(metrics)] + [xp.astype(finite, loss.dtype)]
    return xp.stack([xp.broadcast_to(a, loss.shape) for a in rows])


_TO_READ = Pure(_to_read, ("what is read of a chunk",))


class Fault(NamedTuple):
    """A step that left the finite numbers: its number in the chunk, the state before it, the place, the members."""

    step: int
    before: State
    place: Place
    members: tuple[int, ...]

    def numbers(self, of_chunk: numpy.ndarray) -> numpy.ndarray | None:
        """Return what the caller calls the samples that are not finite, given that of all of the chunk."""
        place = self.place
        return None if place.rows is None else of_chunk[self.step * place.n + place.rows]

    def error(
        self, epoch: int, batch: int, numbers: numpy.ndarray | None, size: int, optimizer: Any, update: int
    ) -> NonFiniteError:
        """Return what is to be raised. ``numbers`` are those of the samples, of ``size``, that are not finite.

        ``epoch``, the ``batch`` that the chunk begins with, and the ``update`` at fault are counted from 0.
        """
        place, at, off = self.place._replace(n=size), batch + self.step + 1, () if numbers is None else numbers
        cure = CURE if place.rows is None or len(off) == place.n else f"look at these samples, {CURE}"
        if place.array == "x":
            cure = "it was changed after fit had looked at it; hand in a copy"
        return error(
            f"fit: epoch {epoch + 1}, batch {at}: {_whose(self.members, optimizer, update)}",
            place,
            f"the model keeps its last finite parameters. {cure[0].upper()}{cure[1:]}",
            off,
            self.members,
            epoch=epoch + 1,
            batch=at,
        )


def first_fault(
    model: MLP,
    chunks: Any,
    state: State,
    chunk: dict[str, Rows],
    rows: Sequence[Any],
    steps: int,
    size: int,
    names: Sequence[str],
    totals: Sequence[float] = (),
    group: Group = ALONE,
) -> Fault:
    """Run a chunk again, a step at a time, and return the first step after which something is not finite.

    ``chunks`` is the :class:`portnn.step.Chunks` that ran it: a step is compiled if it was then. The ranks of a group
    do so together; the place is that on the first of them where it is known.
    """
    seen, before = numpy.zeros(()), state
    for k in range(steps):
        after, metrics = chunks.one(k, size, state, chunk, rows, totals)
        total, finite = read_back(model.backend, metrics, [after[name] for name in names])
        if not all(group.gathered(finite)):
            kept = {name: after[name] for name in names}
            members: tuple[int, ...] = ()
            if model.members is not None:
                bad = [~numpy.isfinite(total["loss"])] + [_off_by_member(model, a) for a in kept.values()]
                off = numpy.logical_or.reduce(group.gathered(numpy.stack(bad, axis=-1)))
                members = members_off(~off)
            return Fault(k, state, _place(model, chunks, k, size, state, kept, chunk, members), members)
        before, state, seen = state, after, seen + sum(group.gathered(total["loss"]))
    overflow = f"the sum of the losses of {steps * size} samples is"
    place = Place("loss", words=overflow if (abs(seen) > _largest(model)).any() else "some value is")
    return Fault(steps - 1, before, place, ())


def _largest(model: MLP) -> float:
    return float(numpy.finfo(model.dtype).max)


def _off_by_member(model: MLP, a: Array) -> numpy.ndarray:
    """Return in which members an array is not finite; in none if it is not one of members."""
    host = model.backend.to_numpy(a)
    n = host.shape[0] if host.ndim else 0
    off: numpy.ndarray = ~numpy.isfinite(host).reshape(n or 1, -1).all(axis=1)
    return off if n == model.members else numpy.zeros(model.members or 0, dtype=bool)


def _place(
    model: MLP,
    chunks: Any,
    k: int,
    size: int,
    before: State,
    after: State,
    chunk: dict[str, Rows],
    members: tuple[int, ...],
) -> Place:
    """Return the first array of a step that is not finite, in the first of some members.

    Where a batch is computed in parts, that of the first part in which there is one, in all of them.
    """
    member, n, found = members[0] if members else None, 0, list[Place]()
    for batch in chunks.parts(k, size, chunk):
        watch = Watch(model.backend, model.layers, member)
        watch("x", None, batch["x"])
        if watch.place is None:
            chunks.step.shown(before, batch, watch)
        place = watch.place
        if place is not None and (not found or found[0][:2] == place[:2]):
            found.append(place if place.rows is None else place._replace(rows=place.rows + n))
        n += batch["x"].shape[0]
    if found and found[0].rows is not None:
        rows = numpy.concatenate([place.rows for place in found if place.rows is not None])
        return found[0]._replace(rows=rows, n=n)
    if found:
        return found[0]
    overflow = Place("loss", words=f"the sum of the losses of {size} samples is")
    return stored(model.backend, model.layers, after, member) or overflow


def _whose(members: Sequence[int], optimizer: Any, update: int) -> str:
    """Name the first of some members, and its learning rate if that is its own."""
    if not members:
        return ""
    rate = optimizer.rate(update) if hasattr(optimizer, "rate") else None
    its_own = f" (learning rate {rate[members[0]]:g})" if isinstance(rate, list) else ""
    return f"member {members[0]}{its_own}: "


def unsound(
    who: str,
    model: MLP,
    feed: Feed,
    good_of: Callable[[Batch], numpy.ndarray],
    behind: Place,
    *,
    mean: bool = False,
    **fields: Any,
) -> NonFiniteError:
    """Return the error for outputs or losses that are not finite, after going through all samples once more.

    ``good_of`` returns for which samples of a batch all is well: ``(batch,)`` or ``(members, batch)``, on the host.
    ``behind`` is what is not finite if all outputs are; with ``mean`` it is one number, the mean that a loss of the
    user's took, and belongs to no sample.
    """
    numbers: list[numpy.ndarray] = []
    first: tuple[Array, numpy.ndarray] | None = None
    members: set[int] = set()
    start = 0
    for batch in feed.in_order():
        good = good_of(batch)
        off = numpy.flatnonzero(~good.reshape(-1, good.shape[-1]).all(axis=0))
        if off.size:
            first = first or (batch["x"], good)
            numbers.append(feed.numbers_of(start + off))
            members |= set(members_off(good)) if good.ndim > 1 else set()
        start += good.shape[-1]
    if first is None and mean:
        tail = "it is the mean that the loss took itself: look at its function, at t and at the size of the outputs"
        return error(f"{who}: ", behind, tail, **fields)
    if first is None:
        place = Place("loss", words=f"the sum of the losses of {feed.n} samples is")
        return error(f"{who}: ", place, "use dtype='float64', or scale the targets", **fields)
    network = (model.backend, model.layers, model.params, model.running)
    off_members = tuple(sorted(members))
    return refused(who, *network, *first, numpy.concatenate(numbers), feed.n, off_members, behind, **fields)
