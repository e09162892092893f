"""Layer norm and batch norm, each with its derivative on the same screen.

Both bring numbers to mean 0 and variance 1, y = gain (x - mean) / sqrt(variance + eps) + shift: layer norm the features
of each sample, batch norm each feature over the samples of a batch. The variance has no Bessel correction (n, not
n - 1), and eps is 1e-5, as in torch.

Numerical stability: the mean is subtracted before squares are taken, so that a large offset does not cancel.
"""

from __future__ import annotations

from collections.abc import Callable

from portnn.backends import Array, namespace
from portnn.primitives import Pair, sum_rows

EPS = 1e-5
MOMENTUM = 0.1  # of the running statistics: what a new batch counts


def layer_norm(x: Array, gain: Array, shift: Array) -> Pair:
    """Return y = gain (x - mean) / sqrt(variance + 1e-5) + shift, mean and variance over the features of a sample.

    Parameters
    ----------
    x
        ``(..., batch, features)``.
    gain, shift
        ``(..., features)``, with the leading axes of members.

    Returns
    -------
    y
        The shape of ``x``.
    vjp
        With h = (x - mean) / s, s = sqrt(variance + eps) and g = gain dy: dx = (g - mean(g) - h mean(g h)) / s, dgain =
        sum of dy h over the batch, dshift = sum of dy.

    Notes
    -----
    Source: Ba, Kiros, Hinton, "Layer normalization", arXiv 1607.06450, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = layer_norm(np.asarray([[1.0, 3.0]]), np.ones(2), np.zeros(2))
    >>> y.round(4), [d.round(4).tolist() for d in vjp(np.asarray([[1.0, 0.0]]))]
    (array([[-1.,  1.]]), [[[0.0, -0.0]], [-1.0, 0.0], [1.0, 0.0]])

    """
    xp, n = namespace(x), x.shape[-1]

    def mean(a: Array) -> Array:
        return xp.sum(a, axis=-1, keepdims=True) / n

    off = x - mean(x)
    scale = 1.0 / xp.sqrt(mean(off * off) + EPS)
    unit = off * scale

    def vjp(dy: Array) -> tuple[Array, ...]:
        g = dy * gain[..., None, :]
        dx = scale * (g - mean(g) - unit * mean(g * unit))
        return dx, sum_rows(dy * unit), sum_rows(dy)

    return unit * gain[..., None, :] + shift[..., None, :], vjp


def batch_norm(
    x: Array, gain: Array, shift: Array
) -> tuple[tuple[Array, Array, Array], Callable[[Array], tuple[Array, ...]]]:
    """Return y = gain (x - mean) / sqrt(variance + 1e-5) + shift, mean and variance over the samples of the batch.

    Parameters
    ----------
    x
        ``(..., batch, features)``, of two samples at least.
    gain, shift
        ``(..., features)``, with the leading axes of members.

    Returns
    -------
    y, mean, variance
        Of the shape of ``x``, and of that of ``gain`` twice.
    vjp
        Of y alone, since nothing is differentiated through the statistics that are kept: with h = (x - mean) / s and
        s = sqrt(variance + eps), dx = gain (dy - mean(dy) - h mean(dy h)) / s, means over the batch, dgain = sum of
        dy h over the batch, dshift = sum of dy.

    Notes
    -----
    Source: Ioffe, Szegedy, "Batch normalization", ICML 2015. All samples count alike, whatever their weights. A bias in
    front of it changes nothing, so its gradient is 0 but for rounding.

    Examples
    --------
    >>> import numpy as np
    >>> (y, mean, variance), vjp = batch_norm(np.asarray([[1.0], [3.0]]), np.ones(1), np.zeros(1))
    >>> y.round(4).tolist(), mean, variance
    ([[-1.0], [1.0]], array([2.]), array([1.]))

    """
    xp, n = namespace(x), x.shape[-2]
    mean = sum_rows(x) / n
    off = x - mean[..., None, :]
    variance = sum_rows(off * off) / n
    scale = 1.0 / xp.sqrt(variance + EPS)
    unit = off * scale[..., None, :]

    def vjp(dy: Array) -> tuple[Array, ...]:
        dgain, dshift = sum_rows(dy * unit), sum_rows(dy)
        dx = dy - (dshift / n)[..., None, :] - unit * (dgain / n)[..., None, :]
        return dx * (gain * scale)[..., None, :], dgain, dshift

    return (unit * gain[..., None, :] + shift[..., None, :], mean, variance), vjp


def fixed_norm(x: Array, gain: Array, shift: Array, mean: Array, variance: Array) -> Pair:
    """Return y = gain (x - mean) / sqrt(variance + 1e-5) + shift with given statistics: batch norm in prediction.

    Parameters
    ----------
    x
        ``(..., batch, features)``.
    gain, shift, mean, variance
        ``(..., features)``, with the leading axes of members.

    Returns
    -------
    y
        The shape of ``x``.
    vjp
        dx, dgain and dshift; mean and variance are constants.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> y, vjp = fixed_norm(np.asarray([[3.0]]), one, one, one, one - 1e-5)
    >>> y, vjp(np.asarray([[1.0]]))
    (array([[3.]]), (array([[1.]]), array([2.]), array([1.])))

    """
    scale = 1.0 / namespace(x).sqrt(variance + EPS)
    unit = (x - mean[..., None, :]) * scale[..., None, :]

    def vjp(dy: Array) -> tuple[Array, ...]:
        return dy * (gain * scale)[..., None, :], sum_rows(dy * unit), sum_rows(dy)

    return unit * gain[..., None, :] + shift[..., None, :], vjp


def moved(running: Array, batch: Array) -> Array:
    """Return 0.9 running + 0.1 batch: a running statistic after a batch, as torch keeps it.

    Examples
    --------
    >>> import numpy as np
    >>> moved(np.asarray([0.0]), np.asarray([1.0]))
    array([0.1])

    """
    return running * (1.0 - MOMENTUM) + batch * MOMENTUM
