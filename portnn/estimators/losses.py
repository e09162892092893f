"""The losses of scikit-learn's MLP that differ from portnn's of nearly the same name by a factor or a constant."""

from __future__ import annotations

from portnn.backends import Array, namespace
from portnn.losses import Loss, binary_cross_entropy
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
    """Return the sum over outputs of binary_cross_entropy, in nats: of the labels that a sample has or has not.

    Examples
    --------
    >>> import numpy as np
    >>> log_loss_of_labels(np.asarray([[0.0, 0.0]]), np.asarray([[1.0, 0.0]]))[0]
    array([1.38629436])

    """
    values, vjp = binary_cross_entropy(y, t)
    n_outputs = float(y.shape[-1])
    return values * n_outputs, lambda dvalues: vjp(dvalues * n_outputs)


SQUARED = Loss("squared_error", reported_squared_error)
POISSON = Loss("poisson", half_poisson_deviance)
LABELS = Loss("log_loss", log_loss_of_labels, "binary")
