"""What is minimized in training: the losses of a batch and the gradient, as one pure function of the parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from portnn.autograd import pair_of
from portnn.backends import Array, device, namespace
from portnn.checks import check_penalty
from portnn.layout import Layer, placed
from portnn.losses import counted, get_loss, is_ours, penalty, weighted_mean
from portnn.members import column
from portnn.network import Seen, Training, passes
from portnn.primitives import only

Objective = Callable[..., tuple[Array, Array, Array]]
Losses = Callable[..., tuple[Array, Array | None, Array, Array, Array | None]]


def make_losses(
    layers: tuple[Layer, ...],
    pair: Callable[..., Any],
    like: Array,
    extra: Callable[[Array], tuple[Array, Array]] | None,
    per_batch: bool = False,
    running: Array | None = None,
) -> Losses:
    """Return the function (params, x, t, weight, training=None) -> (losses, penalty, grad, outputs, running).

    Without ``training`` it is the network as it predicts: nothing is dropped, and batch norm uses the ``running``
    statistics. With it, these come back as they are after the batch.

    ``losses`` is one number per sample, ``(..., batch)``, or one for all of them, ``(...)``, where a loss of the user's
    takes the mean itself; ``grad`` is the gradient of their weighted mean plus the penalty. ``pair`` is the loss,
    ``like`` an array with the dtype and device of the parameters, ``extra`` gives the penalty on the parameters and its
    gradient, which ``per_batch`` divides by the number of samples or the sum of their weights. Constants are made here,
    once, so that a step makes no look-ups and no uploads. ``weight`` is ``(batch,)`` or None. Nothing is checked.
    A sixth argument, ``seen``, is shown every array on the way, as in :func:`portnn.network.passes`. A seventh,
    ``total``, is for a part of a batch: the number of samples, or the sum of the weights, of the whole.
    """
    xp = namespace(like)
    zero = xp.zeros((), dtype=like.dtype, device=device(like))
    share_of, tiny = shares(like), float(xp.finfo(like.dtype).smallest_normal)
    scalings, whole = placed(layers, like), not is_ours(pair)

    def losses(
        params: Array,
        x: Array,
        t: Array,
        weight: Array | None,
        training: Training | None = None,
        seen: Seen | None = None,
        total: Any = None,
    ) -> tuple[Array, Array | None, Array, Array, Array | None]:
        arguments = (layers, params, x, running, training, zero, scalings)
        y, pullback, after = passes(*arguments, input_gradient=False, seen=seen)
        values, loss_pullback = pair_of(pair, "loss", y, t)
        if values.dtype != y.dtype:
            raise TypeError(f"the loss turns {y.dtype} into {values.dtype}; use Python numbers in it")
        share = share_of_losses(values, y, weight, share_of, whole, total)
        values = values if weight is None else counted(values, weight)
        if seen:
            seen("loss", None, values)
        dy = only(loss_pullback(share))
        if weight is not None and not whole:  # a loss of the user's may let a sample of weight 0 act on the others
            dy = counted(dy, weight[:, None])
        if seen:
            seen("gradient of the loss", None, dy)
        grad, _ = pullback(dy)
        if seen:
            seen("gradient", None, grad)
        if extra is None:
            return values, None, grad, y, after
        more, slope = extra(params)
        if per_batch:
            part = 1.0 / y.shape[-2]
            if weight is not None:  # one whose weights are all 0 has shares of 0, and so no penalty, either
                total = namespace(weight).sum
                part = total(share_of(weight, y.shape[-2])) / (total(weight) + tiny)
            more, slope = more * part, slope * part
        if seen:
            seen("penalty", None, more)
            seen("gradient of the penalty", None, slope)
        return values, more, grad + slope, y, after

    return losses


def share_of_losses(
    values: Array, y: Array, weight: Array | None, share_of: Callable[..., Array], whole: bool, total: Any = None
) -> Array:
    """Return what each number that a loss gave counts in the mean of the batch; see :func:`shares`.

    ``whole``: in the shape of the numbers, as a pullback may rely on; to those of ours one number for all is enough.
    """
    check_losses(values, y)
    if values.ndim == y.ndim - 1:
        share = share_of(weight, y.shape[-2], total)
        return namespace(values).broadcast_to(share, values.shape) if whole else share
    if weight is not None or total is not None:
        what = "parts of a batch (micro_batch_size, comm)" if weight is None else "sample weights"
        raise ValueError(f"the loss returns one number per batch: {what} need one per sample")
    return namespace(values).ones_like(values)


def check_losses(values: Array, y: Array) -> None:
    """Raise ValueError unless a loss gave one number per sample, or their mean."""
    if tuple(values.shape) not in (tuple(y.shape[:-1]), tuple(y.shape[:-2])):
        raise ValueError(
            f"the loss returns shape {tuple(values.shape)} for outputs {tuple(y.shape)}, expected one number per "
            "sample or their mean; take the mean over the last axis"
        )


def shares(like: Array) -> Callable[..., Array]:
    """Return the function (weight, n, total) -> what each sample counts in the mean: 1 / n, or its part of the weights.

    ``total`` is None, or what n or the sum of the weights is for a whole batch of which this is a part. A batch whose
    weights are all 0 has no gradient.
    """
    xp = namespace(like)
    one = xp.ones((1,), dtype=like.dtype, device=device(like))
    tiny = float(xp.finfo(like.dtype).smallest_normal)

    def share_of(weight: Array | None, n: Any, total: Any = None) -> Array:
        if weight is None:
            return one / (n if total is None else total)
        return weight / ((namespace(weight).sum(weight) if total is None else total) + tiny)

    return share_of


def losses_of(
    model: Any, loss: Any, output_share: Array | None, l1: Any, l2: Any, who: str, per_batch: bool = False
) -> Losses:
    """Return :func:`make_losses` for a model, with its penalty; what is returned keeps no model alive."""
    pair = get_loss(loss).pair
    if output_share is not None:
        pair = functools.partial(pair, output_share=output_share)
    extra = penalty_of(model, l1, l2, who)
    return make_losses(model.layers, pair, model.params, extra, per_batch, model.running)


def penalty_of(model: Any, l1: Any, l2: Any, who: str) -> Callable[[Array], tuple[Array, Array]] | None:
    """Return the function params -> (penalty, its gradient), or None where there is none."""
    l1, l2 = (check_penalty(who, name, value, model.members) for name, value in (("l1", l1), ("l2", l2)))
    if not (l1 or l2):
        return None
    l1, l2 = model.backend.scalars((column(l1), column(l2)), model.params.dtype)
    return functools.partial(penalty, decayed=model.decayed(), l1=l1, l2=l2)


def make_objective(losses: Losses, like: Array) -> Objective:
    """Return the function (params, x, t, weight) -> (loss, grad, outputs): the weighted mean of such losses."""
    xp = namespace(like)
    one = xp.ones((1,), dtype=like.dtype, device=device(like))
    tiny = float(xp.finfo(like.dtype).smallest_normal)

    def objective(params: Array, x: Array, t: Array, weight: Array | None) -> tuple[Array, Array, Array]:
        value, more, grad, y, _ = losses(params, x, t, weight)
        if value.ndim == y.ndim - 1:
            total = y.shape[-2] if weight is None else namespace(weight).sum(weight) + tiny
            value, _ = weighted_mean(value, one if weight is None else weight, total)
        return value if more is None else value + more, grad, y

    return objective
