"""One training step as a pure function, and chunks of them as the library runs them best."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy

from portnn.backends import Array, Backend, device, namespace
from portnn.backends.base import Batch, Chunk, Metrics, Rows, State, batch_at
from portnn.checks import check_penalty
from portnn.clipping import clip_by_norm, clip_by_value
from portnn.dropout import unit_words
from portnn.errors import caller, reason
from portnn.evaluation import counter
from portnn.layout import check_seeds
from portnn.losses import Loss, counted
from portnn.members import check_members
from portnn.memory import enough, state_wants
from portnn.mlp import MLP
from portnn.network import Seen, Training, limits_of
from portnn.objective import losses_of, penalty_of, shares
from portnn.optimizers import Optimizer
from portnn.pure import Pure, name_of, network_key


class Chunks:
    """Runs chunks of a step: compiled if ``how`` is True, by the plain loop if False, whichever works if ``"auto"``.

    ``"auto"`` takes the loop where compiling fails, with one warning; without one where the library has no other way,
    or where one that need not compile would call functions of the user's in the first steps only: they may do more
    than they return. ``loops`` tells whether it does, or has come to that.
    """

    def __init__(self, backend: Backend, step: Pure, how: bool | str, who: str = "fit", warns: bool = True) -> None:
        self.backend, self.step, self.how, self.who, self.warns = backend, step, how, who, warns
        why_loop = backend.why_loop(step)
        if how is True and why_loop:
            raise ValueError(f"{who}: compile=True, but {why_loop}; use compile='auto'")
        self.loops = how is False or bool(why_loop) or (how == "auto" and backend.replays and step.key is None)
        self._ready: dict[tuple[int, int], Chunk] = {}

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
        """Run ``steps`` steps of ``size`` samples; ``state`` is given up, ``before`` is a copy of it that is kept.

        ``totals``, of the weights of whole batches, are for those who compute parts of them.
        """
        shape, make = (steps, size), self.backend.loop_chunk if self.loops else self.backend.compile_chunk
        if shape not in self._ready:
            self._ready[shape] = make(self.step, steps, size)
        try:
            return self._ready[shape](state, chunk, rows)
        except Exception as error:
            if self.how is True:
                error.add_note(f"{self.who}: compile=True; compile='auto' or False runs steps as they are written")
            if self.loops or self.how is True or self.backend.ran_out_of_memory(error):
                raise
            self.loop_from_now_on()
            # what fails here as well has nothing to do with compiling
            done = self.run(steps, size, copied(self.backend, before), chunk, rows, before)
            said = f"{type(error).__name__}: {reason(error)}"
            if self.warns:
                warnings.warn(
                    f"{self.who}: steps run one by one, they cannot be compiled ({said}); compile=False says nothing",
                    RuntimeWarning,
                    stacklevel=caller(),
                )
            return done

    def loop_from_now_on(self) -> None:
        """Take the loop, whatever is compiled already."""
        self.loops, self._ready = True, {}

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
        part = {name: each.part(k * size, (k + 1) * size) for name, each in chunk.items()}
        after, metrics = self.run(1, size, copied(self.backend, state), part, rows[k : k + 1], state)
        return copied(self.backend, after), metrics

    def parts(self, k: int, size: int, chunk: dict[str, Rows]) -> Iterator[Batch]:
        """Go through what step number ``k`` computes at a time: all of its batch."""
        yield batch_at(chunk, k * size, (k + 1) * size)


def copied(backend: Backend, state: State) -> State:
    """Return the same arrays in memory of their own."""
    return {name: backend.asarray(a, copy=True) for name, a in state.items()}


def beginning(model: MLP, optimizer: Any, who: str = "fit") -> State:
    """Return copies of what a step carries on: parameters, what the optimizer keeps, and what the layers do.

    Those are the ``running`` statistics of batch norm and the words of the ``units`` with dropout, which never change.
    """
    with enough(model.backend, functools.partial(state_wants, model, who)):
        state = {"params": model.params, **optimizer.init(model.params)}
        more = {} if model.running is None else {"running": model.running}
        if drops(model):
            widths = [0 if a.dropout is None else a.fan_out for a in model.layers]
            words = numpy.stack([unit_words(seed, widths) for seed in check_seeds(model.seed, model.members)[1]])
            more["units"] = model.backend.asarray(words if model.members is not None else words[0])
        for name in more:
            if name in state:
                raise ValueError(
                    f"{who}: the optimizer keeps an array named {name!r}, which the model has; name it otherwise"
                )
        return copied(model.backend, {**state, **more})


def drops(model: MLP) -> bool:
    """Whether a layer has dropout: a batch must then bring the words of its samples, ``samples``."""
    return any(layer.dropout is not None for layer in model.layers)


class Pieces:
    """What a step is made of, looked at and made once: losses with their gradient, limits, the update, what is counted.

    ``own`` are the arrays of a state that the layers have: ``running`` and ``units``.
    """

    def __init__(
        self,
        model: MLP,
        loss: Loss,
        optimizer: Any,
        *,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        l1: float | Sequence[float] = 0.0,
        l2: float | Sequence[float] = 0.0,
        output_share: numpy.ndarray | None = None,
        per_batch: bool = False,
        who: str = "fit",
    ) -> None:
        backend, like = model.backend, model.params
        for name in getattr(optimizer, "per_member", ()):
            check_members(f"{who}: {type(optimizer).__name__}", name, getattr(optimizer, name), model.members)
        l1, l2 = (check_penalty(who, name, value, model.members) for name, value in (("l1", l1), ("l2", l2)))
        with enough(backend, functools.partial(state_wants, model, who)):
            # as long as the network: a step that is kept for the next training holds it
            self.decayed, self._count = model.decayed() if _decays(optimizer) else None, counter(loss)
        share = None if output_share is None else backend.asarray(output_share, like.dtype)
        self.losses = losses_of(model, loss, share, l1, l2, who, per_batch)
        self.unpenalized = losses_of(model, loss, share, 0.0, 0.0, who)
        self.penalty = penalty_of(model, l1, l2, who)
        self.share_of, self.per_batch = shares(like), per_batch
        self.pair = loss.pair if share is None else functools.partial(loss.pair, output_share=share)
        self._limits = limits_of(model.layers, like)
        own = (("running", model.running is not None), ("units", drops(model)))
        self.own = [name for name, there in own if there]
        self._by_value, self._by_norm = (_limit(model, limit) for limit in (clip_value, clip_norm))
        self._optimizer = optimizer
        self._parts = parts_of(model)
        numbers = (clip_value, clip_norm, l1, l2, per_batch, None if output_share is None else output_share.tobytes())
        network, name, update = network_key(model), name_of(loss.pair), _update(optimizer)
        self.key = (network, name, loss.kind, update, numbers) if network and name and update else None
        shapes = ([shape for _, shape in layer.parts.values()] for layer in model.layers)
        self.shapes, self.members = tuple(itertools.chain(*shapes)), model.members

    def training(self, state: State, batch: Batch) -> Training:
        """Return what the layers ask for beside x."""
        arrays = {name: state[name] for name in self.own}
        return Training(**arrays, samples=batch.get("samples"), limits=self._limits)

    def updated(self, params: Array, grad: Array, rest: State, h: Any) -> tuple[Array, State]:
        """Return parameters, and what the optimizer keeps, after an update with a gradient that is clipped first."""
        if self._by_value is not None:
            grad = clip_by_value(grad, self._by_value)
        if self._by_norm is not None:
            grad = clip_by_norm(grad, self._by_norm)
        more = {"parts": self._parts} if getattr(self._optimizer, "by_layer", False) else {}
        params, rest = self._optimizer.update(params, grad, rest, h, self.decayed, **more)
        return params, rest

    def per_sample(self, loss_of: Array, y: Array, batch: Batch, n: Any = None, total: Any = None) -> Metrics:
        """Return what is summed up; of a part of a batch, n and the total of the weights are those of the whole."""
        weight = batch.get("weight")
        if self.per_batch and weight is not None:
            n = y.shape[-2] if n is None else n
            loss_of, weight = loss_of * (self.share_of(weight, n, total) * n), None
        weighted = {"loss": loss_of} if weight is None else {"loss": loss_of * weight, "weight": weight}
        return {**weighted, **self._count(y, batch["t"])}


def parts_of(model: MLP) -> list[tuple[slice, bool]]:
    """Return where each parameter stands in the vector, and whether it is a weight."""
    return [(part, name == "weight") for layer in model.layers for name, (part, _) in layer.parts.items()]


def make_step(model: MLP, loss: Loss, optimizer: Any, **options: Any) -> Pure:
    """Return the pure training step (state, batch, h) -> (state, metrics); ``options`` are those of :class:`Pieces`.

    ``state`` is as in :func:`beginning`, ``batch`` holds x, t and perhaps weight and samples, ``h`` is the optimizer's
    row. Metrics are one number per sample, ``(..., batch)``. With ``per_batch`` those of a batch add up to its loss
    times its number of samples, whatever their weights; see :func:`portnn.fit`.
    """
    pieces = Pieces(model, loss, optimizer, **options)
    losses, own, pair, per_sample = pieces.losses, pieces.own, pieces.pair, pieces.per_sample

    def derived(state: State, batch: Batch, seen: Seen | None = None) -> Any:
        training = pieces.training(state, batch)
        return losses(state["params"], batch["x"], batch["t"], batch.get("weight"), training, seen)

    def advance(state: State, batch: Batch, h: Any) -> tuple[State, Array, Array]:
        params, rest = state["params"], {name: a for name, a in state.items() if name not in ("params", *own)}
        layers = {name: state[name] for name in own}
        loss_of, penalty, grad, y, running = derived(state, batch)
        if running is not None:
            layers["running"] = running
        params, rest = pieces.updated(params, grad, rest, h)
        if loss_of.ndim < y.ndim - 1:
            loss_of = namespace(y).broadcast_to(loss_of[..., None], y.shape[:-1])
        return {"params": params, **rest, **layers}, loss_of if penalty is None else loss_of + penalty[..., None], y

    def step(state: State, batch: Batch, h: Any) -> tuple[State, Metrics]:
        state, loss_of, y = advance(state, batch, h)
        return state, per_sample(loss_of, y, batch)

    def outputs(state: State, batch: Batch, h: Any) -> tuple[State, Array]:
        state, _, y = advance(state, batch, h)
        return state, y

    def judge(y: Array, batch: Batch) -> Metrics:
        values, weight = pair(y, batch["t"])[0], batch.get("weight")
        return per_sample(values if weight is None else counted(values, weight), y, batch)

    split = (outputs, judge) if pieces.key and pieces.penalty is None else None
    return Pure(step, pieces.key, pieces.shapes, pieces.members, split, derived)


def _limit(model: MLP, limit: float | None) -> Array | None:
    """Return a clipping limit as a 0-d array of the parameters' dtype and device; one beyond the dtype is its last."""
    if limit is None:
        return None
    like, xp = model.params, model.backend.xp
    info = xp.finfo(like.dtype)
    limit = min(max(limit, float(info.smallest_normal)), float(info.max))
    return xp.full((), limit, dtype=like.dtype, device=device(like))


def _update(optimizer: Any) -> Hashable:
    """Return what identifies the update of an optimizer of ours: everything but its rate, which is in the rows."""
    return replace(optimizer, learning_rate=1.0) if _is_ours(optimizer) else None


def _is_ours(optimizer: Any) -> bool:
    return isinstance(optimizer, Optimizer) and type(optimizer).__module__.partition(".")[0] == "portnn"


def _decays(optimizer: Any) -> bool:
    """Whether an optimizer asks which parameters decay; those of users may."""
    decay = getattr(optimizer, "weight_decay", 0.0)
    return not _is_ours(optimizer) or not isinstance(decay, int | float) or decay != 0.0
