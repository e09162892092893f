"""Activations, each with its derivative on the same screen, and the names by which they are asked for.

An activation maps ``z`` to ``y, vjp``, elementwise, where ``(dz,) = vjp(dy)``. Those that compare with zero also take
the 0-d zero that their caller has made once.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

from portnn.backends import Array, namespace, one_of
from portnn.primitives import Pair
from portnn.special import normal_cdf

Activation = Callable[..., Pair]


def _zero(xp: Any, like: Array) -> Array:
    """Return zeros where the caller has made none: in ``maximum`` torch uploads a Python scalar from the host."""
    return xp.zeros_like(like)


def identity(z: Array) -> Pair:
    """Return y = z; dz = dy.

    Examples
    --------
    >>> identity(3.0)[1](5.0)
    (5.0,)

    """
    return z, lambda dy: (dy,)


def relu(z: Array, zero: Array | None = None) -> Pair:
    """Return y = max(z, 0); dz = dy where z > 0, else 0 (at z = 0 too, as torch and JAX have it).

    Numerical stability: ``maximum`` keeps a NaN; ``where(z > 0, z, 0)`` would turn it into 0 and hide a network that
    has diverged. Without ``zero`` it is written with ``where`` all the same, the other way round, which keeps a NaN
    too: at z = 0 ``maximum`` has no slope, and autograd and jax.grad of this code would be wrong there.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = relu(np.asarray([-1.0, 0.0, 2.0]))
    >>> y, vjp(np.asarray([5.0, 5.0, 5.0]))
    (array([0., 0., 2.]), (array([0., 0., 5.]),))

    """
    xp = namespace(z)
    y = xp.where(z <= 0.0, xp.zeros_like(z), z) if zero is None else xp.maximum(z, zero)

    def vjp(dy: Array) -> tuple[Array, ...]:
        return (dy * xp.astype(y > (0.0 if zero is None else zero), y.dtype),)

    return y, vjp


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
    positive = z > 0.0
    y = xp.where(positive, z, z * slope)  # maximum has no slope at z = 0

    def vjp(dy: Array) -> tuple[Array, ...]:
        on = xp.astype(positive, z.dtype)
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
    positive = z > zero  # minimum and maximum have no slope at z = 0
    below = xp.expm1(xp.where(positive, zero, z))
    y = xp.where(positive, z, below * alpha) * scale

    def vjp(dy: Array) -> tuple[Array, ...]:
        on = xp.astype(positive, z.dtype)
        return (dy * ((on + (1.0 - on) * ((below + 1.0) * alpha)) * scale),)

    return y, vjp


def selu(z: Array, zero: Array | None = None) -> Pair:
    """Return elu with the alpha and scale that keep mean 0 and variance 1 from layer to layer.

    Source: Klambauer, Unterthiner, Mayr, Hochreiter, "Self-normalizing neural networks", NIPS 2017, equation 14.
    Start it with ``lecun_normal``.

    Examples
    --------
    >>> import numpy as np
    >>> selu(np.asarray([1.0]))[0]
    array([1.05070099])

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

    Numerical stability: exp of -|z| cannot overflow, and neither value is taken as 1 minus the other. Written with
    ``where``, -|z| has a slope at z = 0, without which autograd and jax.grad of this code would be wrong there.
    """
    positive = z >= 0.0
    e = xp.exp(xp.where(positive, -z, z))
    large = 1.0 / (1.0 + e)
    small = e * large
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


def softplus(z: Array, zero: Array | None = None) -> Pair:
    """Return y = log(1 + exp(z)) = max(z, 0) + log1p(exp(-|z|)); dz = dy sigmoid(z).

    Numerical stability: written with ``where``, since maximum and |z| have no slope at z = 0, where autograd and
    jax.grad of this code would then be wrong. A NaN stays one through the logarithm.

    Examples
    --------
    >>> import numpy as np
    >>> softplus(np.asarray([0.0, 1000.0]))[0]
    array([6.93147181e-01, 1.00000000e+03])

    """
    xp = namespace(z)
    zero = _zero(xp, z) if zero is None else zero
    positive = z >= 0.0
    y = xp.where(positive, z, zero) + xp.log1p(xp.exp(xp.where(positive, -z, z)))
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

    Numerical stability: with a = sqrt(2/pi)(z + 0.044715 z^3), (1 + tanh a)/2 = sigmoid(2a), which does not cancel. In
    the derivative z^2 is held where the sigmoid has ended: 0 times an infinite slope would be NaN.

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
        held = xp.minimum(square, xp.full_like(square, 1e30))
        return (dy * (s + s * rest * z * (c + (3.0 * c * 0.044715) * held)),)

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

    Numerical stability: with w = exp(-|z|), t = (1 + 2w) / (1 + 2w + 2w^2) on the right and (2w + w^2) / (2w + w^2 + 2)
    on the left: one exponential that cannot overflow, and 1 - t without a difference.

    Source: Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020.

    Examples
    --------
    >>> import numpy as np
    >>> float(round(mish(np.asarray([1.0]))[0][0], 6))
    0.865098

    """
    xp = namespace(z)
    positive = z >= 0.0
    w = xp.exp(xp.where(positive, -z, z))
    square, one = w * w, xp.ones_like(w)
    over = w + w + xp.where(positive, one, square)
    under = 2.0 * xp.where(positive, square, one)  # what is left to the denominator
    t = over / (over + under)

    def vjp(dy: Array) -> tuple[Array, ...]:
        rest = under / (over + under)  # 1 - t
        return (dy * (t + z * (rest * (1.0 + t) * _sigmoid(xp, z)[0])),)

    return z * t, vjp


ACTIVATIONS: dict[str, Activation] = {
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
COMPARE_WITH_ZERO = (relu, elu, selu, softplus)


def get_activation(spec: Any) -> Activation:
    """Return the activation for a name, a name with its parameter such as ``"leaky_relu(0.2)"``, or a function.

    Examples
    --------
    >>> describe_activation(get_activation("leaky_relu(0.2)"))
    'leaky_relu(0.2)'

    """
    if callable(spec):
        return spec
    found = _parse_activation(spec) if isinstance(spec, str) else None
    if found is None and isinstance(spec, str) and re.fullmatch(r"leaky_relu\(-?[\d.]+(e\d+)?\)", spec):
        raise ValueError(f"MLP: the slope of leaky_relu must be in [0, 1], got {spec[11:-1]}")
    return found or ACTIVATIONS[one_of("activation", spec, ACTIVATIONS)]


def _parse_activation(text: str) -> Activation | None:
    match = re.fullmatch(r"(\w+)(?:\(([0-9.eE+-]+)\))?", text)
    name, number = match.groups() if match else ("", None)
    if number is None:
        return ACTIVATIONS.get(name)
    try:
        value = float(number)
    except ValueError:
        return None
    if name == "leaky_relu" and 0.0 <= value <= 1.0:
        return functools.partial(leaky_relu, slope=value)
    if name == "elu" and math.isfinite(value) and value > 0.0:
        return functools.partial(elu, alpha=value)
    return None


def describe_activation(activation: Activation) -> str:
    """Return the string that :func:`get_activation` turns into ``activation``, or the name of a user's function.

    Examples
    --------
    >>> describe_activation(relu), describe_activation(lambda z: (z, lambda dy: (dy,)))
    ('relu', '<<lambda>>')

    """
    if isinstance(activation, functools.partial) and len(activation.keywords) == 1 and not activation.args:
        ((name, value),) = activation.keywords.items()
        if (activation.func, name) in ((leaky_relu, "slope"), (elu, "alpha")):
            text = f"{activation.func.__name__}({value})"
            parsed = _parse_activation(text)
            if isinstance(parsed, functools.partial) and parsed.keywords[name] == value:
                return text
    for name, function in ACTIVATIONS.items():
        if function is activation:
            return name
    return f"<{getattr(activation, '__name__', type(activation).__name__)}>"
