"""One training step as a pure function, and what makes two of them the same."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy

from portnn.backends import Array, device
from portnn.backends.base import Batch, Metrics, State
from portnn.evaluation import counter
from portnn.losses import Loss
from portnn.mlp import MLP
from portnn.optimizers import Optimizer, clip_by_norm, clip_by_value


class TrainingStep:
    """The function (state, batch, h) -> (state, metrics); equal to another that computes the same.

    A library that compiles can so use again what it has compiled for an earlier ``fit``. ``key`` holds all that the
    function depends on; None where that cannot be known, as with functions of the user's, and the step is then equal
    to itself alone.
    """

    def __init__(self, run: Callable[[State, Batch, Any], tuple[State, Metrics]], key: Hashable) -> None:
        self.run, self.key = run, key

    def __call__(self, state: State, batch: Batch, h: Any) -> tuple[State, Metrics]:
        """Run it."""
        return self.run(state, batch, h)

    def __eq__(self, other: object) -> bool:
        """Whether both have one key."""
        return self is other or (isinstance(other, TrainingStep) and self.key is not None and self.key == other.key)

    def __hash__(self) -> int:
        """Hash the key."""
        return hash(self.key) if self.key is not None else id(self)


def make_step(
    model: MLP,
    loss: Loss,
    optimizer: Any,
    *,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    output_share: numpy.ndarray | None = None,
    who: str = "fit",
) -> TrainingStep:
    """Return the pure training step (state, batch, h) -> (state, metrics).

    ``state`` holds ``params`` and the optimizer's arrays, ``batch`` x, t and perhaps weight, ``h`` the optimizer's row.
    """
    backend, like = model.backend, model.params
    xp, decayed, count = backend.xp, model.decayed(), counter(backend, loss)
    share = None if output_share is None else backend.asarray(output_share, like.dtype)
    objective = model.objective(loss, output_share=share, l1=l1, l2=l2, who=who)
    by_value, by_norm = (_limit(model, limit) for limit in (clip_value, clip_norm))

    def step(state: State, batch: Batch, h: Any) -> tuple[State, Metrics]:
        weight = batch.get("weight")
        params, rest = state["params"], {name: a for name, a in state.items() if name != "params"}
        value, grad, y = objective(params, batch["x"], batch["t"], weight)
        if by_value is not None:
            grad = clip_by_value(grad, by_value)
        if by_norm is not None:
            grad = clip_by_norm(grad, by_norm)
        params, rest = optimizer.update(params, grad, rest, h, decayed)
        total = y.shape[-2] if weight is None else xp.sum(weight)
        metrics = {"loss": value * total, **count(y, batch["t"])}
        if weight is not None:
            metrics["weight"] = total
        return {"params": params, **rest}, metrics

    network = tuple((a.fan_in, a.fan_out, a.bias is None, _name(a.activation)) for a in model.layers)
    numbers = (clip_value, clip_norm, l1, l2, None if output_share is None else output_share.tobytes())
    place = (model.dtype, backend.device_name, model.matmul_precision)
    parts = (network, _name(loss.pair), loss.kind, _update(optimizer), numbers, place)
    known = None not in (*(layer[-1] for layer in network), parts[1], parts[3])
    return TrainingStep(step, parts if known else None)


def _limit(model: MLP, limit: float | None) -> Array | None:
    """Return a clipping limit as a 0-d array of the parameters' dtype and device."""
    like = model.params
    return None if limit is None else model.backend.xp.full((), limit, dtype=like.dtype, device=device(like))


def _name(function: Any) -> Hashable:
    """Return what identifies a function of portnn's, with the arguments that it was bound to; None for another."""
    if isinstance(function, functools.partial):
        plain = _name(function.func)
        simple = all(isinstance(v, int | float | str) for v in (*function.args, *function.keywords.values()))
        return (plain, function.args, tuple(sorted(function.keywords.items()))) if plain and simple else None
    return function if getattr(function, "__module__", "").startswith("portnn.") else None


def _update(optimizer: Any) -> Hashable:
    """Return what identifies the update of an optimizer of ours: everything but its rate, which is in the rows."""
    ours = isinstance(optimizer, Optimizer) and type(optimizer).__module__ == Optimizer.__module__
    return replace(optimizer, learning_rate=1.0) if ours else None
