"""The network's functions, each with its derivative on the same screen.

A differentiable function returns its value and its *pullback*: ``y, vjp = f(x)``, then ``(dx,) = vjp(dy)``, where
``dy`` is the derivative of some scalar with respect to ``y`` and ``dx`` the one with respect to ``x``. The pullback is
pure, can be called twice, and returns one cotangent per differentiable argument, in argument order.

Features are axis -1, the batch is axis -2, and whatever stands before them are ensemble members. Everything sees only
``xp``, the namespace of its argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from portnn.backends import Array, namespace
from portnn.special import normal_cdf

Pullback = Callable[[Array], tuple[Array, ...]]
Pair = tuple[Array, Pullback]


def linear(x: Array, weight: Array, bias: Array | None = None, *, input_gradient: bool = True) -> Pair:
    """Return y = x weight + bias.

    Parameters
    ----------
    x
        ``(..., batch, in_features)``; with ``members`` axes in ``weight`` it may have none, and is then shared.
    weight
        ``(..., in_features, out_features)``: the transpose of what torch.nn.Linear stores.
    bias
        ``(..., out_features)`` or None.
    input_gradient
        False leaves dx out (None stands in its place): the first layer of a network needs none.

    Returns
    -------
    y
        ``(..., batch, out_features)``.
    vjp
        dx = dy weight^T, dweight = x^T dy, dbias = sum of dy over the batch. Keeps ``x`` and ``weight`` alive.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = linear(np.asarray([[1.0, 2.0]]), np.asarray([[3.0], [4.0]]), np.asarray([5.0]))
    >>> y
    array([[16.]])
    >>> dx, dweight, dbias = vjp(np.asarray([[1.0]]))
    >>> dx, dbias
    (array([[3., 4.]]), array([1.]))

    """
    xp = namespace(weight)
    y = xp.matmul(x, weight)
    if bias is not None:
        y = y + bias[..., None, :]

    def vjp(dy: Array) -> tuple[Array, ...]:
        dx = None
        if input_gradient:
            dx = xp.matmul(dy, xp.matrix_transpose(weight))
            if dx.ndim > x.ndim:  # members that shared x
                dx = xp.sum(dx, axis=tuple(range(dx.ndim - x.ndim)))
        dweight = xp.matmul(xp.matrix_transpose(x), dy)
        return (dx, dweight) if bias is None else (dx, dweight, sum_rows(dy))

    return y, vjp


def sum_rows(x: Array) -> Array:
    """Return the sum of ``x`` over the batch, axis -2.

    Numerical stability: added one after the other, as ``xp.sum(axis=-2)`` does on some libraries, n rows lose up to
    n u (NumPy: 133 u at 60,000 float32 rows). Here blocks of 256 rows are summed by a matrix product, then the blocks.

    Examples
    --------
    >>> import numpy as np
    >>> sum_rows(np.asarray([[1.0, 2.0], [3.0, 4.0]]))
    array([4., 6.])

    """
    xp = namespace(x)
    *lead, n, features = x.shape
    block = 256
    if n <= 2 * block:
        return xp.reshape(xp.matmul(_ones_row(xp, x, n), x), (*lead, features))
    whole = n // block * block
    parts = xp.reshape(x[..., :whole, :], (*lead, n // block, block, features))
    parts = xp.reshape(xp.matmul(_ones_row(xp, x, block), parts), (*lead, n // block, features))
    total = sum_rows(parts)
    return total if whole == n else total + sum_rows(x[..., whole:, :])


def _ones_row(xp: Any, like: Array, n: int) -> Array:
    return xp.ones((1, n), dtype=like.dtype, device=like.device)


def _zero(xp: Any, like: Array) -> Array:
    """Return a 0-d zero: a Python scalar in ``maximum`` becomes an upload from the host on torch."""
    return xp.zeros((), dtype=like.dtype, device=like.device)


# -- activations ----------------------------------------------------------------------------------------------------
# An activation maps (z) or (z, zero): those that compare with zero take the 0-d array made once by their caller.


def identity(z: Array) -> Pair:
    """Return y = z; dz = dy."""
    return z, lambda dy: (dy,)


def relu(z: Array, zero: Array | None = None) -> Pair:
    """Return y = max(z, 0); dz = dy where z > 0, else 0 (at z = 0 too, as torch and JAX have it).

    Numerical stability: ``maximum`` keeps a NaN; ``where(z > 0, z, 0)`` would turn it into 0 and hide a network that
    has diverged.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = relu(np.asarray([-1.0, 0.0, 2.0]))
    >>> y, vjp(np.asarray([5.0, 5.0, 5.0]))
    (array([0., 0., 2.]), (array([0., 0., 5.]),))

    """
    xp = namespace(z)
    zero = _zero(xp, z) if zero is None else zero
    y = xp.maximum(z, zero)
    return y, lambda dy: (dy * xp.astype(y > zero, y.dtype),)


def leaky_relu(z: Array, slope: float = 0.01) -> Pair:
    """Return y = z where z > 0, else slope z, for 0 <= slope <= 1.

    Numerical stability: a unit that is off for every sample still has a gradient, so it can come back.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = leaky_relu(np.asarray([-1.0, 2.0]), slope=0.25)
    >>> y, vjp(np.asarray([1.0, 1.0]))
    (array([-0.25,  2.  ]), (array([0.25, 1.  ]),))

    """
    xp = namespace(z)
    y = xp.maximum(z, z * slope)

    def vjp(dy: Array) -> tuple[Array, ...]:
        on = xp.astype(z > 0.0, z.dtype)
        return (dy * (on * (1.0 - slope) + slope),)

    return y, vjp


def elu(z: Array, zero: Array | None = None, *, alpha: float = 1.0, scale: float = 1.0) -> Pair:
    """Return y = scale z where z > 0, else scale alpha (exp(z) - 1).

    Source: Clevert, Unterthiner, Hochreiter, "Fast and accurate deep network learning by exponential linear units",
    ICLR 2016. Numerical stability: expm1 keeps the digits near 0, and its argument is at most 0, so that it cannot
    overflow where its value is not used.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = elu(np.asarray([-np.log(2.0), 2.0]))
    >>> y, vjp(np.asarray([1.0, 1.0]))
    (array([-0.5,  2. ]), (array([0.5, 1. ]),))

    """
    xp = namespace(z)
    zero = _zero(xp, z) if zero is None else zero
    below = xp.expm1(xp.minimum(z, zero))
    y = (xp.maximum(z, zero) + below * alpha) * scale

    def vjp(dy: Array) -> tuple[Array, ...]:
        on = xp.astype(z > zero, z.dtype)
        return (dy * ((on + (1.0 - on) * ((below + 1.0) * alpha)) * scale),)

    return y, vjp


def selu(z: Array, zero: Array | None = None) -> Pair:
    """Return elu with the alpha and scale that keep mean 0 and variance 1 from layer to layer.

    Source: Klambauer, Unterthiner, Mayr, Hochreiter, "Self-normalizing neural networks", NIPS 2017, equation 14.
    Start it with ``lecun_normal``.
    """
    return elu(z, zero, alpha=1.6732632423543772848170429916717, scale=1.0507009873554804934193349852946)


def tanh(z: Array) -> Pair:
    """Return y = tanh z; dz = dy (1 - y^2), written (1 - y)(1 + y), which keeps the digits where y is near 1.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = tanh(np.asarray([0.0]))
    >>> y, vjp(np.asarray([3.0]))
    (array([0.]), (array([3.]),))

    """
    y = namespace(z).tanh(z)
    return y, lambda dy: (dy * ((1.0 - y) * (1.0 + y)),)


def _sigmoid(xp: Any, z: Array) -> tuple[Array, Array]:
    """Return (sigmoid(z), sigmoid(-z)).

    Numerical stability: exp of -|z| cannot overflow, and neither value is taken as 1 minus the other.
    """
    e = xp.exp(-xp.abs(z))
    large = 1.0 / (1.0 + e)
    small = e * large
    positive = z >= 0.0
    return xp.where(positive, large, small), xp.where(positive, small, large)


def sigmoid(z: Array) -> Pair:
    """Return y = 1 / (1 + exp(-z)); dz = dy y (1 - y).

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = sigmoid(np.asarray([0.0, 100.0]))
    >>> y, vjp(np.asarray([4.0, 4.0]))[0][0]
    (array([0.5, 1. ]), np.float64(1.0))

    """
    y, rest = _sigmoid(namespace(z), z)
    return y, lambda dy: (dy * (y * rest),)


def softplus(z: Array) -> Pair:
    """Return y = log(1 + exp(z)) = max(z, 0) + log1p(exp(-|z|)); dz = dy sigmoid(z).

    Examples
    --------
    >>> import numpy as np
    >>> softplus(np.asarray([0.0, 1000.0]))[0]
    array([6.93147181e-01, 1.00000000e+03])

    """
    xp = namespace(z)
    y = 0.5 * (z + xp.abs(z)) + xp.log1p(xp.exp(-xp.abs(z)))
    return y, lambda dy: (dy * _sigmoid(xp, z)[0],)


def gelu(z: Array) -> Pair:
    """Return y = z Phi(z), Phi the distribution of the standard normal; dz = dy (Phi(z) + z phi(z)).

    Source: Hendrycks, Gimpel, "Gaussian error linear units", arXiv 1606.08415. Exact to a few ulp, in the left tail
    too, where 1 + erf would leave nothing.

    Examples
    --------
    >>> import numpy as np
    >>> float(round(gelu(np.asarray([1.0]))[0][0], 12))
    0.841344746069

    """
    xp = namespace(z)
    cdf = normal_cdf(z)

    def vjp(dy: Array) -> tuple[Array, ...]:
        density = xp.exp(-0.5 * (z * z)) * (1.0 / math.sqrt(2.0 * math.pi))
        return (dy * (cdf + z * density),)

    return z * cdf, vjp


def gelu_tanh(z: Array) -> Pair:
    """Return y = z/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))), the approximation of gelu that GPT-2 made common.

    Numerical stability: with a = sqrt(2/pi)(z + 0.044715 z^3), (1 + tanh a)/2 = sigmoid(2a), which does not cancel.

    Examples
    --------
    >>> import numpy as np
    >>> float(round(gelu_tanh(np.asarray([1.0]))[0][0], 6))
    0.841192

    """
    xp = namespace(z)
    c = 2.0 * math.sqrt(2.0 / math.pi)
    square = z * z
    s, rest = _sigmoid(xp, z * (c + (c * 0.044715) * square))

    def vjp(dy: Array) -> tuple[Array, ...]:
        slope = z * (c + (3.0 * c * 0.044715) * square)  # z times the derivative of 2a
        return (dy * (s + s * rest * slope),)

    return z * s, vjp


def silu(z: Array) -> Pair:
    """Return y = z sigmoid(z), also called swish; dz = dy (s + z s (1 - s)).

    Examples
    --------
    >>> import numpy as np
    >>> silu(np.asarray([0.0]))[1](np.asarray([2.0]))
    (array([1.]),)

    """
    s, rest = _sigmoid(namespace(z), z)
    return z * s, lambda dy: (dy * (s + z * (s * rest)),)


def mish(z: Array) -> Pair:
    """Return y = z tanh(softplus(z)); dz = dy (t + z (1 - t^2) sigmoid(z)), t = tanh(softplus(z)).

    Source: Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020.

    Examples
    --------
    >>> import numpy as np
    >>> float(round(mish(np.asarray([1.0]))[0][0], 6))
    0.865098

    """
    xp = namespace(z)
    p, _ = softplus(z)
    t = xp.tanh(p)

    def vjp(dy: Array) -> tuple[Array, ...]:
        return (dy * (t + z * (((1.0 - t) * (1.0 + t)) * _sigmoid(xp, z)[0])),)

    return z * t, vjp


ACTIVATIONS: dict[str, Callable[..., Pair]] = {
    "identity": identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "mish": mish,
}
COMPARE_WITH_ZERO = (relu, elu, selu)
