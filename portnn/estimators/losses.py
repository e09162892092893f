"""The losses of scikit-learn's MLP that differ from portnn's of nearly the same name by a factor or a constant."""

from __future__ import annotations

import functools
import math
from typing import Any

from portnn.backends import Array, namespace
from portnn.losses import Loss, binary_cross_entropy, cross_entropy, poisson
from portnn.primitives import Pair


def half_squared_error(y: Array, t: Array) -> Pair:
    """Return the sum over outputs of (y - t)^2 / 2; dy = y - t.

    Examples
    --------
    >>> import numpy as np
    >>> values, vjp = half_squared_error(np.asarray([[1.0, 4.0]]), np.asarray([[0.0, 2.0]]))
    >>> values, vjp(np.asarray([1.0]))
    (array([2.5]), (array([[1., 2.]]),))

    """
    d = y - t
    return 0.5 * namespace(y).sum(d * d, axis=-1), lambda dvalues: (d * dvalues[..., None],)


def reported_squared_error(y: Array, t: Array) -> Pair:
    """Return the mean over outputs of (y - t)^2 / 2, and all the same dy = y - t, the slope of the sum over outputs.

    So it is in scikit-learn, whose solvers descend along the slope of one and judge by the value of the other. With one
    output they are the same.

    Examples
    --------
    >>> import numpy as np
    >>> values, vjp = reported_squared_error(np.asarray([[1.0, 4.0]]), np.asarray([[0.0, 2.0]]))
    >>> values, vjp(np.asarray([1.0]))
    (array([1.25]), (array([[1., 2.]]),))

    """
    values, vjp = half_squared_error(y, t)
    return values / y.shape[-1], vjp


def half_poisson_deviance(y: Array, t: Array) -> Pair:
    """Return the sum over outputs of t log(t / r) - t + r at the rate r = exp(y); dy = r - t.

    It is 0 where r = t. Numerical stability: the logarithm is taken of 1 where t = 0, so that 0 log 0 is 0.

    Examples
    --------
    >>> import numpy as np
    >>> values, vjp = half_poisson_deviance(np.asarray([[0.0, 0.0]]), np.asarray([[1.0, 0.0]]))
    >>> values, vjp(np.asarray([1.0]))
    (array([1.]), (array([[0., 1.]]),))

    """
    xp, rate = namespace(y), namespace(y).exp(y)
    logarithm = xp.log(xp.where(t > 0.0, t, xp.ones_like(t)))
    return xp.sum(t * (logarithm - y) + (rate - t), axis=-1), lambda dvalues: ((rate - t) * dvalues[..., None],)


def log_loss_of_labels(y: Array, t: Array) -> Pair:
    """Return -log p summed over outputs, in nats: p the sigmoid, or 1 minus it, of what a sample is or is not.

    Each p counts as in :func:`log_loss_of_classes`.

    Examples
    --------
    >>> import numpy as np
    >>> log_loss_of_labels(np.asarray([[0.0, 0.0]]), np.asarray([[1.0, 0.0]]))[0]
    array([1.38629436])

    """
    values, vjp = binary_cross_entropy(y[..., None], t[..., None])
    return namespace(y).sum(_clipped(values), axis=-1), lambda dvalues: (vjp(dvalues[..., None])[0][..., 0],)


def log_loss_of_classes(y: Array, t: Array) -> Pair:
    """Return -log p of the class of a sample, in nats, with p in [eps, 1 - eps]; dy = softmax(y) - t.

    eps is the rounding unit of the dtype. So it is in scikit-learn: the value does not leave [eps, -log eps], 36 in
    float64, and the slope is that of the loss without such bounds.

    Examples
    --------
    >>> import numpy as np
    >>> values, vjp = log_loss_of_classes(np.asarray([[0.0, 0.0], [1e4, 0.0]]), np.asarray([0, 1]))
    >>> values.round(2), vjp(np.ones(2))[0][1]
    (array([ 0.69, 36.04]), array([ 1., -1.]))

    """
    values, vjp = cross_entropy(y, t)
    return _clipped(values), vjp


def _clipped(values: Array) -> Array:
    """Return -log p as it is where p is clipped into [eps, 1 - eps]."""
    xp = namespace(values)
    eps, one = float(xp.finfo(values.dtype).eps), xp.ones_like(values)
    return xp.minimum(xp.maximum(values, one * -math.log1p(-eps)), one * -math.log(eps))


def plain(spec: Any) -> Any:
    """Return the function itself that a Loss or a functools.partial stands for.

    Examples
    --------
    >>> plain(Loss("mine", functools.partial(poisson))) is poisson
    True

    """
    f = spec.pair if isinstance(spec, Loss) else spec
    return f.func if isinstance(f, functools.partial) else f


def of_counts(spec: Any) -> bool:
    """Return whether a loss is one of counts, whose mean is the exponential of the output.

    Examples
    --------
    >>> of_counts("poisson"), of_counts(functools.partial(poisson)), of_counts("mse")
    (True, True, False)

    """
    return spec == "poisson" if isinstance(spec, str) else plain(spec) in (poisson, half_poisson_deviance)


SQUARED = Loss("squared_error", reported_squared_error)
POISSON = Loss("poisson", half_poisson_deviance)
LABELS = Loss("log_loss", log_loss_of_labels, "binary")
CLASSES = Loss("log_loss", log_loss_of_classes, "classes")
