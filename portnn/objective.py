"""What is minimized in training: the loss of a batch and its gradient, as one pure function of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from portnn.backends import Array, device, namespace
from portnn.layout import Layer
from portnn.losses import weighted_mean
from portnn.network import forward
from portnn.primitives import unpacked

Objective = Callable[..., tuple[Array, Array, Array]]


def make_objective(
    layers: tuple[Layer, ...],
    pair: Callable[..., Any],
    like: Array,
    extra: Callable[[Array], tuple[Array, Array]] | None,
) -> Objective:
    """Return the function (params, x, t, weight) -> (loss, grad, outputs).

    ``pair`` is the loss, ``like`` an array with the dtype and device of the parameters, ``extra`` gives the penalty on
    the parameters and its gradient. Constants are made here, once, so that a step makes no look-ups and no uploads.
    ``weight`` is ``(batch,)`` or None. Nothing is checked.
    """
    xp = namespace(like)
    zero = xp.zeros((), dtype=like.dtype, device=device(like))
    one = xp.ones((1,), dtype=like.dtype, device=device(like))
    tiny = float(xp.finfo(like.dtype).smallest_normal)

    def objective(params: Array, x: Array, t: Array, weight: Array | None) -> tuple[Array, Array, Array]:
        y, pullback = forward(layers, params, x, zero=zero, input_gradient=False)
        values, loss_pullback = unpacked(pair(y, t), "loss")
        if values.dtype != y.dtype:
            raise TypeError(f"the loss turns {y.dtype} into {values.dtype}; use Python numbers in it")
        if values.ndim == y.ndim - 1:
            if weight is None:
                value, share = weighted_mean(values, one, y.shape[-2])
            else:  # a batch whose weights are all 0 has loss 0 and no gradient
                value, share = weighted_mean(values, weight, namespace(weight).sum(weight) + tiny)
        elif weight is None:  # a user's loss that has taken the mean itself
            value, share = values, namespace(values).ones_like(values)
        else:
            raise ValueError(f"loss {pair!r} returns one number per batch: sample weights need one per sample")
        dy = loss_pullback(share)
        grad, _ = pullback(dy[0] if isinstance(dy, tuple) else dy)
        if extra is not None:
            penalty, slope = extra(params)
            value, grad = value + penalty, grad + slope
        return value, grad, y

    return objective
