"""A training step in two: the gradients of parts of a batch, which are added up, and the update that they make.

Parts are what a rank of a group has of each batch, and of that what is computed at a time. Each sample counts in its
part what it counts in the whole batch, so that the sum of the parts' gradients is the gradient of the batch, however
uneven they are. The penalty and its gradient, which belong to no sample, are part of the update.

Both halves are steps over a state like any other, which libraries compile, capture or record as they do whole ones; the
gradient is an array of that state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy

from portnn.backends import Array, Backend, namespace
from portnn.backends.base import Batch, Metrics, Rows, State, batch_at
from portnn.group import Group
from portnn.losses import Loss
from portnn.mlp import MLP
from portnn.network import Seen
from portnn.pure import Pure
from portnn.step import Chunks, Pieces, copied

GRADIENT = "gradient of the batch"
YOUNG = 7  # calls of a chunk after which it has been recorded and compared


class Halves:
    """The pure functions that a step consists of: ``first`` and ``more`` gradients, and the ``update``.

    The row of a gradient is (n, total): the number of samples of the whole batch, and of its weights the sum. Behind
    the optimizer's row of an update stand what a penalty is multiplied by, and by what it then counts in the loss.
    """

    def __init__(self, model: MLP, loss: Loss, optimizer: Any, **options: Any) -> None:
        pieces = Pieces(model, loss, optimizer, **options)
        losses, whole, penalty = pieces.unpenalized, ("params", GRADIENT, *pieces.own), pieces.penalty

        def derived(state: State, batch: Batch, seen: Seen | None = None, total: Any = None) -> Any:
            training = pieces.training(state, batch)
            return losses(state["params"], batch["x"], batch["t"], batch.get("weight"), training, seen, total)

        def gradient(state: State, batch: Batch, h: Any) -> tuple[Array, Metrics]:
            loss_of, _, grad, y, _ = derived(state, batch, None, h[1])
            return grad, pieces.per_sample(loss_of, y, batch, h[0], h[1])

        def first(state: State, batch: Batch, h: Any) -> tuple[State, Metrics]:
            grad, metrics = gradient(state, batch, h)
            return {**state, GRADIENT: grad}, metrics

        def more(state: State, batch: Batch, h: Any) -> tuple[State, Metrics]:
            grad, metrics = gradient(state, batch, h)
            so_far = state[GRADIENT]
            so_far += grad
            return {**state, GRADIENT: so_far}, metrics

        def update(state: State, batch: Batch, h: Any) -> tuple[State, Metrics]:
            params, grad, metrics = state["params"], state[GRADIENT], dict[str, Array]()
            rest = {name: a for name, a in state.items() if name not in whole}
            if penalty is not None:
                value, slope = penalty(params)
                grad, metrics["loss"] = grad + slope * h[-2], value[..., None] * h[-1]
            params, rest = pieces.updated(params, grad, rest, h[:-2])
            layers = {name: state[name] for name in pieces.own}
            return {"params": params, **rest, **layers, GRADIENT: state[GRADIENT]}, metrics

        key, made_of = pieces.key, (pieces.shapes, pieces.members)
        self.first = Pure(first, key and ("first", key), *made_of, shown=derived)
        self.more = Pure(more, key and ("more", key), *made_of)
        self.update = Pure(update, key and ("update", key), *made_of)
        self.own, self.per_batch = ("params", GRADIENT, *pieces.own), pieces.per_batch


HALVES = ("first", "more", "update")


class Reduced:
    """Runs chunks of steps as :class:`portnn.step.Chunks` does, each step in two, together with the ranks of a group.

    A chunk holds what is this rank's of every batch, one after the other. Of that, gradients of ``micro`` samples are
    computed at a time; None: of all at once.
    """

    def __init__(self, backend: Backend, halves: Halves, how: bool | str, group: Group, micro: int | None) -> None:
        self.backend, self.halves, self.group, self.micro = backend, halves, group, micro
        self.step = halves.first
        warns = group.rank == 0
        self._chunks = {name: Chunks(backend, getattr(halves, name), how, warns=warns) for name in HALVES}
        # some ranks have nothing of a batch smaller than the group, and would not learn what cannot be compiled
        self._small = {name: Chunks(backend, getattr(halves, name), False) for name in HALVES}
        self._calls: Counter[tuple[str, int]] = Counter()
        self._gradient: Array = None

    def run(
        self,
        steps: int,
        size: int,
        state: State,
        chunk: dict[str, Rows],
        rows: Sequence[Sequence[float]],
        before: State,
        totals: Sequence[float] = (),
    ) -> tuple[State, Metrics]:
        """Run ``steps`` steps of ``size`` samples in all; ``totals`` are the sums of the weights of their batches."""
        state, metrics, n = dict(state), dict[str, Array](), self.length(size)
        if self._gradient is None:
            self._gradient = namespace(state["params"]).zeros_like(state["params"])
        state[GRADIENT] = self._gradient
        for k, (row, total) in enumerate(zip(rows, totals, strict=True)):
            for i, here in enumerate(self._cuts(k * n, n)):
                part = {name: of.part(here.start, here.stop) for name, of in chunk.items()}
                held = {name: state[name] for name in self.halves.own}
                name, length = ("more" if i else "first"), here.stop - here.start
                held, seen = self._half(name, length, held, part, (float(size), total), size)
                state, metrics = {**state, **held}, _added(metrics, seen)
            if n == 0:  # a batch smaller than the group
                state[GRADIENT] = namespace(self._gradient).zeros_like(self._gradient)
            state[GRADIENT] = self.group.add(self.backend, state[GRADIENT])
            state, seen = self._half("update", 0, state, {}, (*row, *self._of_penalty(size, total)), size)
            metrics = _added(metrics, seen if self.group.rank == 0 else {})
        self._gradient = state.pop(GRADIENT)
        lead = state["params"].shape[:-1]
        return state, metrics or {"loss": self.backend.asarray(numpy.zeros(lead), state["params"].dtype)}

    def _half(
        self, name: str, n: int, state: State, part: dict[str, Rows], row: Sequence[Any], size: int
    ) -> tuple[State, Metrics]:
        """Run a half of a step; all of them by the loop from where one of them comes to that."""
        if size < self.group.size:
            return self._small[name].run(1, n, state, part, [row], state)
        self._calls[name, n] += 1
        # while it is recorded and compared it may fail, and must then find the state as it was
        before = copied(self.backend, state) if self._calls[name, n] <= YOUNG else state
        done = self._chunks[name].run(1, n, state, part, [row], before)
        if self._chunks[name].loops:
            for chunks in self._chunks.values():
                if not chunks.loops:
                    chunks.loop_from_now_on()
        return done

    def _of_penalty(self, size: int, total: float) -> tuple[float, float]:
        """Return what a penalty is multiplied by, and by what it then counts in the sum of the losses."""
        if not self.halves.per_batch:
            return 1.0, total
        part = 1.0 / total if total > 0.0 else 0.0
        return part, part * size

    def length(self, size: int) -> int:
        """Return how many samples of a batch of ``size`` are this rank's."""
        share = self.group.share(size)
        return share.stop - share.start

    def _cuts(self, start: int, n: int) -> Iterator[slice]:
        length = self.micro or max(n, 1)
        return (slice(start + a, start + min(a + length, n)) for a in range(0, n, length))

    def one(
        self,
        k: int,
        size: int,
        state: State,
        chunk: dict[str, Rows],
        rows: Sequence[Sequence[float]],
        totals: Sequence[float] = (),
    ) -> tuple[State, Metrics]:
        """Run step number ``k`` of a chunk by itself; ``state`` is kept, and what is returned has its own memory."""
        n = self.length(size)
        part = {name: each.part(k * n, (k + 1) * n) for name, each in chunk.items()}
        given = copied(self.backend, state)
        after, metrics = self.run(1, size, given, part, rows[k : k + 1], state, totals[k : k + 1])
        return copied(self.backend, after), metrics

    def parts(self, k: int, size: int, chunk: dict[str, Rows]) -> Iterator[Batch]:
        """Go through what step number ``k`` computes at a time here."""
        n = self.length(size)
        for here in self._cuts(k * n, n):
            yield batch_at(chunk, here.start, here.stop)


def _added(so_far: Metrics, more: Metrics) -> Metrics:
    return {**so_far, **{name: so_far[name] + m if name in so_far else m for name, m in more.items()}}
