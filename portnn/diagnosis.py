"""Where a NaN came from: a chunk that went wrong, played again one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from portnn.autograd import value_of
from portnn.backends import Array
from portnn.backends.base import Rows, State, Step, batch_at, summed
from portnn.layout import placed
from portnn.mlp import MLP
from portnn.primitives import linear


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
        if not _finite(model, loss) or not _finite(model, trial["params"]):
            off = _members_off(model, trial["params"], loss)
            before, after = state["params"], trial["params"]
            if off:
                before, after = before[off[0], ...], after[off[0], ...]
                loss = loss[off[0], ...] if loss.ndim else loss  # a loss of the user's may be one for all members
            return state, k, off, _where(model, before, after, loss, part["x"])
        state = trial
    return state, steps - 1, (), "a value was not finite, but not when the steps were run one by one"


def _members_off(model: MLP, params: Array, loss: Array) -> tuple[int, ...]:
    if model.members is None:
        return ()
    xp = model.backend.xp
    finite = model.backend.to_numpy(xp.logical_and(xp.isfinite(loss), xp.all(xp.isfinite(params), axis=-1)))
    return tuple(numpy.flatnonzero(~finite).tolist())


def _where(model: MLP, params: Array, updated: Array, loss: Array, x: Array) -> str:
    before, after = placed(model.layers, params)
    x = x if before is None else before(x)[0]
    if not _finite(model, x):
        return "the inputs are NaN or infinity behind their scaling"
    for i, (layer, weight) in enumerate(zip(model.layers, model.weights_of(params), strict=True)):
        z, _ = linear(x, weight, None if layer.bias is None else params[..., layer.bias])
        x = value_of(layer.activation(z), f"MLP: the activation of layer {i}")
        if after is not None and layer is model.layers[-1]:
            x, _ = after(x)
        if not _finite(model, z) or not _finite(model, x):
            return f"the outputs of layer {i} are NaN or infinity"
    if not _finite(model, loss):
        return "the loss is NaN or infinity"
    for i, layer in enumerate(model.layers):
        if not _finite(model, updated[..., layer.weight]):
            return f"the update of weights[{i}] (layer {i}) is NaN or infinity"
        if layer.bias is not None and not _finite(model, updated[..., layer.bias]):
            return f"the update of biases[{i}] (layer {i}) is NaN or infinity"
    return "a value is NaN or infinity"


def _finite(model: MLP, a: Array) -> bool:
    return bool(model.backend.xp.all(model.backend.xp.isfinite(a)))
