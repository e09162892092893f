"""Losses: one number per sample, and the pullback to the network's raw outputs.

A loss is a pair ``values, vjp = loss(y, t)``: ``y`` the outputs ``(..., batch, n_outputs)``, ``values`` the losses
``(..., batch)``, and ``(dy,) = vjp(dvalues)``. Targets are not differentiated. What is minimized and reported is the
mean over the batch, or with sample weights w the sum of w_i values_i divided by the sum of w_i, so that a weight of 2
is the same as the sample twice.

Softmax and sigmoid live inside their losses: the network returns logits.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from portnn.backends import Array, device, namespace, one_of
from portnn.errors import shown
from portnn.primitives import Pair


def cross_entropy(y: Array, t: Array, label_smoothing: float = 0.0) -> Pair:
    """Return -sum_c t_c log softmax(y)_c, in nats; dy = softmax(y) - t.

    Parameters
    ----------
    y
        Logits ``(..., batch, n_classes)``.
    t
        Integer labels ``(batch,)``, or probabilities ``(batch, n_classes)`` in the dtype of ``y``, one-hot or not.
        Labels out of range are not noticed here (checks cost a host read): ``fit`` looks at them beforehand.
    label_smoothing
        s in [0, 1): t is replaced by (1 - s) t + s / n_classes, as in torch.

    Notes
    -----
    Numerical stability: the largest logit of each row is subtracted before the exponential, which then cannot
    overflow, and the logarithm is taken of a sum of at least 1, so no epsilon is needed.

    Examples
    --------
    >>> import numpy as np
    >>> values, vjp = cross_entropy(np.asarray([[0.0, 0.0], [1e4, -1e4]]), np.asarray([1, 1]))
    >>> values
    array([6.93147181e-01, 2.00000000e+04])
    >>> vjp(np.asarray([1.0, 1.0]))
    (array([[ 0.5, -0.5],
           [ 1. , -1. ]]),)

    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1), got {label_smoothing!r}")
    xp = namespace(y)
    labels = t.dtype != y.dtype and xp.isdtype(t.dtype, "integral")
    t = one_hot(t, y.shape[-1], y.dtype) if labels else t
    if label_smoothing:
        t = t * (1.0 - label_smoothing) + label_smoothing / y.shape[-1]
    shifted = y - xp.max(y, axis=-1, keepdims=True)
    e = xp.exp(shifted)
    total = xp.sum(e, axis=-1, keepdims=True)
    logarithm = xp.log(total)
    # the rows of t add up to 1 where they were made here: log(sum) can be taken out of the sum over classes
    values = logarithm[..., 0] - xp.sum(t * shifted, axis=-1) if labels else -xp.sum(t * (shifted - logarithm), axis=-1)

    def vjp(dvalues: Array) -> tuple[Array, ...]:
        dy = e / total
        if not labels:  # probabilities that add up to 1 only nearly
            dy *= xp.sum(t, axis=-1, keepdims=True)
        dy -= t
        dy *= dvalues[..., None]
        return (dy,)

    return values, vjp


def one_hot(labels: Array, n_classes: int, dtype: Any) -> Array:
    """Return 1 where the column is the label, else 0: ``(..., batch)`` to ``(..., batch, n_classes)``.

    Examples
    --------
    >>> import numpy as np
    >>> one_hot(np.asarray([2, 0]), 3, np.float32)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)

    """
    xp = namespace(labels)
    classes = xp.arange(n_classes, dtype=labels.dtype, device=device(labels))
    return xp.astype(labels[..., None] == classes, dtype)


def binary_cross_entropy(y: Array, t: Array, output_share: Array | None = None) -> Pair:
    """Return the mean over outputs of -t log s(y) - (1 - t) log(1 - s(y)), s the sigmoid, in nats; dy ~ s(y) - t.

    ``t`` in [0, 1] has the shape of ``y``: several outputs are independent yes-or-no questions (multilabel).

    Numerical stability: written max(y, 0) - y t + log1p(exp(-|y|)), which takes no logarithm of a probability.

    Examples
    --------
    >>> import numpy as np
    >>> binary_cross_entropy(np.asarray([[0.0], [1e4]]), np.asarray([[1.0], [0.0]]))[0]
    array([6.93147181e-01, 1.00000000e+04])

    """
    xp = namespace(y)
    size = xp.abs(y)
    e = xp.exp(-size)
    terms = (0.5 * (y + size) - y * t) + xp.log1p(e)

    def derivative() -> Array:
        large = 1.0 / (1.0 + e)
        return xp.where(y >= 0.0, large, e * large) - t

    return _mean_over_outputs(xp, terms, derivative, output_share)


def mse(y: Array, t: Array, output_share: Array | None = None) -> Pair:
    """Return the mean over outputs of (y - t)^2; dy = 2 (y - t) / n_outputs. There is no factor 1/2.

    Examples
    --------
    >>> import numpy as np
    >>> values, vjp = mse(np.asarray([[1.0, 4.0]]), np.asarray([[0.0, 2.0]]))
    >>> values, vjp(np.asarray([1.0]))
    (array([2.5]), (array([[1., 2.]]),))

    """
    d = y - t
    return _mean_over_outputs(namespace(y), d * d, lambda: 2.0 * d, output_share)


def mae(y: Array, t: Array, output_share: Array | None = None) -> Pair:
    """Return the mean over outputs of |y - t|; dy = sign(y - t) / n_outputs, 0 where they are equal.

    Examples
    --------
    >>> import numpy as np
    >>> mae(np.asarray([[1.0, 4.0]]), np.asarray([[0.0, 2.0]]))[0]
    array([1.5])

    """
    xp, d = namespace(y), y - t
    return _mean_over_outputs(xp, xp.abs(d), lambda: xp.sign(d), output_share)


def huber(y: Array, t: Array, output_share: Array | None = None, delta: float = 1.0) -> Pair:
    """Return the mean over outputs of d^2/2 where |d| <= delta, else delta (|d| - delta/2), with d = y - t.

    The same as torch.nn.functional.huber_loss. Source: Huber, "Robust estimation of a location parameter", 1964.

    Examples
    --------
    >>> import numpy as np
    >>> huber(np.asarray([[1.0, 4.0]]), np.asarray([[0.0, 2.0]]))[0]
    array([1.])

    """
    if not delta > 0.0:
        raise ValueError(f"huber: delta must be > 0, got {delta!r}")
    xp, d = namespace(y), y - t
    size = xp.abs(d)
    near = size <= delta
    terms = xp.where(near, 0.5 * (d * d), delta * (size - 0.5 * delta))
    return _mean_over_outputs(xp, terms, lambda: xp.where(near, d, delta * xp.sign(d)), output_share)


def poisson(y: Array, t: Array, output_share: Array | None = None) -> Pair:
    """Return the mean over outputs of exp(y) - t y: minus the log likelihood of counts t at the rate exp(y).

    The term log t!, which does not depend on y, is left out, as in torch.nn.functional.poisson_nll_loss.

    Examples
    --------
    >>> import numpy as np
    >>> poisson(np.asarray([[0.0]]), np.asarray([[2.0]]))[1](np.asarray([1.0]))
    (array([[-1.]]),)

    """
    xp = namespace(y)
    rate = xp.exp(y)
    return _mean_over_outputs(xp, rate - t * y, lambda: rate - t, output_share)


def _mean_over_outputs(xp: Any, terms: Array, derivative: Callable[[], Array], output_share: Array | None) -> Pair:
    """Average terms over the outputs, each with its share (a vector that adds up to 1; None for equal ones)."""
    share = 1.0 / terms.shape[-1] if output_share is None else output_share
    values = xp.sum(terms * share, axis=-1)
    return values, lambda dvalues: ((derivative() * share) * dvalues[..., None],)


class Loss(NamedTuple):
    """A loss as the trainer sees it.

    ``kind`` says what the targets are: ``"classes"`` (labels or rows of probabilities), ``"binary"`` (each output in
    [0, 1]) or ``"values"``; it decides how they are checked and whether an accuracy can be counted. ``by_output`` says
    that the pair takes ``output_share``, the weights of the outputs.

    Examples
    --------
    A classification loss of your own takes labels and class weights once its kind is said:

    >>> Loss("smooth", lambda y, t: cross_entropy(y, t, 0.1), "classes").kind
    'classes'

    """

    name: str
    pair: Callable[..., Pair]
    kind: str = "values"
    by_output: bool = False


KINDS = ("classes", "binary", "values")
LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", cross_entropy, "classes"),
        Loss("binary_cross_entropy", binary_cross_entropy, "binary", True),
        Loss("mse", mse, "values", True),
        Loss("mae", mae, "values", True),
        Loss("huber", huber, "values", True),
        Loss("poisson", poisson, "values", True),
    )
}


def is_ours(pair: Any) -> bool:
    """Whether a pair is one of portnn's losses, which see each sample by itself; arguments bound to it or not.

    Examples
    --------
    >>> is_ours(functools.partial(huber, delta=2.0)), is_ours(lambda y, t: (y - t) ** 2)
    (True, False)

    """
    plain = pair.func if isinstance(pair, functools.partial) else pair
    if plain is not pair:
        return is_ours(plain)
    module, name = (str(getattr(plain, of, None)) for of in ("__module__", "__qualname__"))
    # A function of the user's may carry the names of one of these, as functools.wraps copies them.
    return module.partition(".")[0] == "portnn" and getattr(sys.modules.get(module), name, None) is plain


def get_loss(spec: Any) -> Loss:
    """Return the loss for a name, for one of the functions above, for a partial of one, or for a user's own pair.

    A function of yours that returns its values alone, without a pullback, is differentiated by :mod:`portnn.autograd`.
    For a pair of yours with labels as targets hand in ``Loss(name, pair, "classes")``. A pair may also return the mean
    over the batch, a scalar, in place of one value per sample; sample weights then have nothing to act on and are
    refused.

    Examples
    --------
    >>> from functools import partial
    >>> get_loss(partial(cross_entropy, label_smoothing=0.1)).kind
    'classes'

    """
    if isinstance(spec, Loss):
        one_of(f"kind of the loss {shown(spec.name)}", spec.kind, KINDS)
        return spec
    if callable(spec):
        plain = spec.func if isinstance(spec, functools.partial) else spec
        for loss in LOSSES.values():
            if loss.pair is plain:
                return loss._replace(pair=spec)
        return Loss(getattr(plain, "__name__", "custom"), spec, "values")
    return LOSSES[one_of("loss", spec, LOSSES)]


def weighted_mean(values: Array, weight: Array | float, total: Array | float) -> tuple[Array, Array | float]:
    """Return (sum of weight * values / total, its derivative weight / total): the loss of a batch.

    Examples
    --------
    >>> import numpy as np
    >>> weighted_mean(np.asarray([1.0, 5.0]), np.asarray([1.0, 3.0]), 4.0)
    (np.float64(4.0), array([0.25, 0.75]))

    """
    share = weight / total
    return namespace(values).sum(values * share, axis=-1), share


def counted(values: Array, weight: Array) -> Array:
    """Return what is to be multiplied by weights, with 0 where the weight is 0: infinity times 0 would be NaN.

    So a sample of weight 0 may have a target that no loss can be computed of, such as the number that a file writes for
    a missing one.

    Examples
    --------
    >>> import numpy as np
    >>> counted(np.asarray([1.0, np.inf]), np.asarray([3.0, 0.0]))
    array([1., 0.])

    """
    return namespace(values).where(weight == 0.0, weight, values)


def penalty(params: Array, decayed: Array, l1: float | Array, l2: float | Array) -> tuple[Array, Array]:
    """Return (l1 sum |w| + l2/2 sum w^2, its gradient) over the weights w of a flat vector; biases are exempt.

    ``decayed`` is 1 where a parameter is a weight and 0 where it is a bias. l1 and l2 are numbers, or ``(members, 1)``
    in the dtype of ``params``. l2 is what torch calls weight_decay in SGD and scikit-learn alpha (there divided by the
    number of samples of the batch).

    Examples
    --------
    >>> import numpy as np
    >>> penalty(np.asarray([3.0, 4.0, 9.0]), np.asarray([1.0, 1.0, 0.0]), 0.0, 2.0)
    (np.float64(25.0), array([6., 8., 0.]))

    """
    xp = namespace(params)
    w = params * decayed
    gradient = w * l2
    value = 0.5 * xp.sum(w * gradient, axis=-1)
    if not isinstance(l1, float) or l1:
        slope = xp.sign(w) * l1
        value = value + xp.sum(w * slope, axis=-1)
        gradient = gradient + slope
    return value, gradient
