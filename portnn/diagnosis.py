"""Where a NaN came from: a chunk that went wrong, played again one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from portnn.activations import identity
from portnn.backends import Array
from portnn.backends.base import Batch, Rows, State, Step, batch_at, summed
from portnn.layout import placed
from portnn.mlp import MLP
from portnn.network import Training, limits_of, passes


def first_non_finite(
    model: MLP, step: Step, state: State, chunk: dict[str, Rows], rows: Sequence[Any], steps: int, batch_size: int
) -> tuple[State, int, tuple[int, ...], str]:
    """Return the last finite state, the number of the step in the chunk that left it, the members that did, and where.

    Of a single network there are no members; of several, the place is that of the first.
    """
    for k in range(steps):
        part = batch_at(chunk, k * batch_size, (k + 1) * batch_size)
        trial = {name: model.backend.xp.asarray(a, copy=True) for name, a in state.items()}
        trial, metrics = step(trial, part, model.backend.scalars(rows[k], trial["params"].dtype))
        loss = summed(metrics)["loss"]
        if not all(_finite(model, a) for a in (loss, trial["params"], trial.get("running")) if a is not None):
            off = _members_off(model, trial["params"], loss)
            return state, k, off, _where(model, state, trial, loss, part, off[:1])
        state = trial
    return state, steps - 1, (), "a value was not finite, but not when the steps were run one by one"


def _members_off(model: MLP, params: Array, loss: Array) -> tuple[int, ...]:
    if model.members is None:
        return ()
    xp = model.backend.xp
    finite = model.backend.to_numpy(xp.logical_and(xp.isfinite(loss), xp.all(xp.isfinite(params), axis=-1)))
    return tuple(numpy.flatnonzero(~finite).tolist())


def _where(model: MLP, state: State, trial: State, loss: Array, batch: Batch, member: tuple[int, ...]) -> str:
    """Name the first place that is not finite, in a member if there is one."""
    layers, params, x = model.layers, state["params"], batch["x"]

    def finite(a: Array, axes: int) -> bool:
        return _finite(model, a[member[0], ...] if member and a.ndim > axes else a)

    before, _ = placed(layers, params)
    if not finite(x if before is None else before(x)[0], 2):
        return "the inputs are NaN or infinity behind their scaling"
    limits = limits_of(layers, params)
    training = Training(state.get("running"), state.get("units"), batch.get("samples"), limits)
    for i, layer in enumerate(layers):
        bare = layer._replace(activation=identity, compares_with_zero=False, after=None, dropout=None, residual=False)
        for last in (bare, layer):  # z may be infinite where the activation of it is not
            here = (*layers[:i], last)
            y, *_ = passes(here, params[..., : layer.stop], x, None, training, None, None, input_gradient=False)
            if not finite(y, 2):
                return f"the outputs of layer {i} are NaN or infinity"
    if not finite(loss, 0):
        return "the loss is NaN or infinity"
    names = {"weight": "weights", "bias": "biases", "gain": "gains", "shift": "shifts"}
    for i, layer in enumerate(layers):
        for part, (place, _) in layer.parts.items():
            if not finite(trial["params"][..., place], 1):
                return f"the update of {names[part]}[{i}] (layer {i}) is NaN or infinity"
    if "running" in trial and not finite(trial["running"], 1):
        return "the running statistics are NaN or infinity"
    return "a value is NaN or infinity"


def _finite(model: MLP, a: Array) -> bool:
    return bool(model.backend.xp.all(model.backend.xp.isfinite(a)))
