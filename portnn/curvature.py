"""Second derivatives, which products with Hessians need: of activations number by number, of losses times a vector."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from portnn.activations import (
    Activation,
    describe_activation,
    elu,
    gelu,
    gelu_tanh,
    identity,
    leaky_relu,
    mish,
    relu,
    selu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from portnn.autograd import grad, pair_of
from portnn.backends import Array, namespace
from portnn.losses import Loss, binary_cross_entropy, cross_entropy, huber, mae, mse, poisson
from portnn.primitives import only

Curvature = Callable[[Array], Array]


def curvature_of(activation: Activation) -> Curvature | None:
    """Return the second derivative of an activation, a function of z; None where it is 0 everywhere.

    At the kinks of relu, leaky_relu, elu and selu it is 0, as in torch. That of an activation of the user's, which has
    to act number by number, is what :mod:`portnn.autograd` makes of its pullback.

    Examples
    --------
    >>> import numpy as np
    >>> curvature_of(tanh)(np.asarray([1.0])).round(6)
    array([-0.6397])

    """
    plain = activation.func if isinstance(activation, functools.partial) else activation
    if plain in (identity, relu, leaky_relu):
        return None
    if plain not in _CURVATURES:
        return functools.partial(_bent, activation, f"the activation {describe_activation(activation)}")
    return functools.partial(_CURVATURES[plain], **getattr(activation, "keywords", {}))


def _bent(f: Callable[..., Any], what: str, z: Array, *args: Array, along: Array | None = None) -> Array:
    """Return the derivative in z of the sum of the cotangents that f(z, *args) pulls back, or of those times a vector.

    Number by number that is the second derivative; of losses, one for each sample, the product with each Hessian.
    """

    def slope(z: Array) -> Array:
        xp = namespace(z)
        y, vjp = pair_of(f, what, z, *args)
        dz = only(vjp(xp.ones_like(y)))
        return xp.sum(dz if along is None else dz * along)

    return grad(slope)(z)


def _elu(z: Array, alpha: float = 1.0, scale: float = 1.0) -> Array:
    """Return scale alpha exp(z) where z < 0, else 0."""
    xp = namespace(z)
    below = xp.where(z < 0.0, z, xp.zeros_like(z))  # exp of it cannot overflow
    return xp.astype(z < 0.0, z.dtype) * (xp.exp(below) * (alpha * scale))


def _tanh(z: Array) -> Array:
    """Return -2 y (1 - y^2)."""
    y, vjp = tanh(z)
    (slope,) = vjp(namespace(z).ones_like(z))
    return -2.0 * y * slope


def _halves(z: Array) -> tuple[Array, Array]:
    """Return (s, 1 - s) for s = sigmoid(z), neither as a difference."""
    return sigmoid(z)[0], sigmoid(-z)[0]


def _sigmoid(z: Array) -> Array:
    """Return s (1 - s) (1 - 2 s)."""
    s, rest = _halves(z)
    return s * rest * (rest - s)


def _softplus(z: Array) -> Array:
    """Return s (1 - s)."""
    s, rest = _halves(z)
    return s * rest


def _gelu(z: Array) -> Array:
    """Return phi(z) (2 - z^2).

    Numerical stability: |z| is held at 100, where phi is 0 already, so that nothing overflows beside it.
    """
    xp = namespace(z)
    near = xp.where(xp.abs(z) > 100.0, xp.full_like(z, 100.0), z)
    square = near * near
    return xp.exp(-0.5 * square) * (1.0 / math.sqrt(2.0 * math.pi)) * (2.0 - square)


def _gelu_tanh(z: Array) -> Array:
    """Return 2 s' u' + z (s'' u'^2 + s' u'') with y = z s(u), u = 2 sqrt(2/pi) (z + 0.044715 z^3)."""
    c, k = 2.0 * math.sqrt(2.0 / math.pi), 0.044715
    square = z * z
    s, rest = _halves(z * (c + (c * k) * square))
    du, ddu = c + (3.0 * c * k) * square, (6.0 * c * k) * z
    ds = s * rest
    return ds * (2.0 * du + z * ((rest - s) * (du * du) + ddu))


def _silu(z: Array) -> Array:
    """Return s (1 - s) (2 + z (1 - 2 s))."""
    s, rest = _halves(z)
    return s * rest * (2.0 + z * (rest - s))


def _mish(z: Array) -> Array:
    """Return 2 t' + z t'' with y = z t(z), t = tanh(softplus(z)), t' = (1 - t^2) s.

    Numerical stability: 1 - t = 2 / (1 + (1 + e^z)^2) = 2 r^2 / (r^2 + 1) with r = 1 - s, which does not cancel.
    """
    s, rest = _halves(z)
    square = rest * rest
    one_minus_t = 2.0 * square / (square + 1.0)
    t = s * (1.0 + rest) / (1.0 + square)
    bent = one_minus_t * (1.0 + t)  # 1 - t^2
    return bent * (2.0 * s + z * (s * rest - 2.0 * t * (s * s)))


_CURVATURES: dict[Activation, Callable[..., Array]] = {
    elu: _elu,
    selu: functools.partial(_elu, alpha=1.6732632423543772848170429916717, scale=1.0507009873554804934193349852946),
    tanh: _tanh,
    sigmoid: _sigmoid,
    softplus: _softplus,
    gelu: _gelu,
    gelu_tanh: _gelu_tanh,
    silu: _silu,
    mish: _mish,
}


def loss_curvature(loss: Loss, y: Array, t: Array, v: Array, output_share: Array | None = None) -> Array:
    """Return H v for each sample: H the Hessian of its loss with respect to its outputs, v of the shape of ``y``.

    Examples
    --------
    >>> import numpy as np
    >>> from portnn.losses import get_loss
    >>> y, v = np.asarray([[0.0, 0.0]]), np.asarray([[1.0, 0.0]])
    >>> loss_curvature(get_loss("cross_entropy"), y, np.asarray([0]), v)
    array([[ 0.25, -0.25]])

    """
    xp = namespace(y)
    pair = loss.pair
    plain, options = (pair.func, pair.keywords) if isinstance(pair, functools.partial) else (pair, {})
    if plain is cross_entropy:  # smoothing changes no sum of t
        e = xp.exp(y - xp.max(y, axis=-1, keepdims=True))
        p = e / xp.sum(e, axis=-1, keepdims=True)
        product = p * v
        product = product - p * xp.sum(product, axis=-1, keepdims=True)
        return product * xp.sum(t, axis=-1, keepdims=True) if t.dtype == y.dtype else product
    if plain not in (binary_cross_entropy, mse, mae, huber, poisson):
        share = {} if output_share is None else {"output_share": output_share}
        return _bent(functools.partial(pair, **share), f"loss {loss.name!r}", y, t, along=v)
    options = dict(options)
    output_share = options.pop("output_share", output_share)
    share = 1.0 / y.shape[-1] if output_share is None else output_share
    return _bend(xp, plain, y, t, **options) * share * v


def _bend(xp: Any, pair: Callable[..., Any], y: Array, t: Array, delta: float = 1.0) -> Array:
    """Return the second derivatives of the terms of a loss that is a mean over outputs."""
    if pair is binary_cross_entropy:
        s, rest = _halves(y)
        return s * rest
    if pair is poisson:
        return xp.exp(y)
    if pair is huber:
        return xp.astype(xp.abs(y - t) <= delta, y.dtype)
    return xp.full_like(y, 2.0 if pair is mse else 0.0)
