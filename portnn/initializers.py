"""Initial weights: pure functions of a key, the same bits on every library, array and dtype.

An initializer is ``f(key, fan_in, fan_out) -> weight``, a float64 host array of shape ``(fan_in, fan_out)`` that is
rounded once, to the dtype of the network. The functions below build one; a name such as ``"he_normal"`` stands for the
builder called without arguments. Biases start at 0.

Numerical stability: the scale of the start decides whether signals and gradients keep their size from layer to layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from portnn.backends import HOST, Array, one_of
from portnn.random import Key
from portnn.random import normal as _draw_normal
from portnn.random import uniform as _draw_uniform

Initializer = Callable[[Key, int, int], Array]


def normal(std: float = 1.0, *, scale: float = 1.0) -> Initializer:
    """Return an initializer for N(0, (scale std)^2).

    Examples
    --------
    >>> from portnn.random import key
    >>> normal(0.1)(key(0), 3, 2).shape
    (3, 2)

    """
    return _scaled(_normal, lambda fan_in, fan_out: scale * std)


def uniform(low: float = -1.0, high: float = 1.0, *, scale: float = 1.0) -> Initializer:
    """Return an initializer for scale U(low, high).

    Examples
    --------
    >>> from portnn.random import key
    >>> w = uniform(0.0, 0.5)(key(0), 30, 20)
    >>> bool(0.0 < w.min() < 0.01 < 0.49 < w.max() < 0.5)
    True

    """

    def draw(key: Key, fan_in: int, fan_out: int) -> Array:
        return (low + (high - low) * _draw_uniform(key, (fan_in, fan_out), dtype="float64")) * scale

    return draw


def zeros(*, scale: float = 1.0) -> Initializer:
    """Return an initializer of zeros; for an output layer, or for a linear model.

    Examples
    --------
    >>> from portnn.random import key
    >>> float(abs(zeros()(key(0), 3, 2)).max())
    0.0

    """
    return lambda key, fan_in, fan_out: HOST.xp.zeros((fan_in, fan_out), dtype=HOST.xp.float64)


def he_normal(*, scale: float = 1.0, fan: str = "in") -> Initializer:
    """Return an initializer for N(0, scale^2 2 / fan_in), for relu and its kin.

    ``fan="in"`` keeps the size of signals from layer to layer, ``"out"`` (2 / fan_out) that of gradients.
    Source: He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, equations 10 and 14.

    Examples
    --------
    >>> from portnn.random import key
    >>> bool(abs(he_normal()(key(0), 200, 100).std() - 0.1) < 0.002)
    True

    """
    one_of("fan", fan, ("in", "out"))
    return _scaled(_normal, lambda fan_in, fan_out: scale * math.sqrt(2.0 / (fan_in if fan == "in" else fan_out)))


def he_uniform(*, scale: float = 1.0) -> Initializer:
    """Return an initializer for scale U(-a, a), a = sqrt(6 / fan_in): the variance of he_normal.

    Examples
    --------
    >>> from portnn.random import key
    >>> bool(0.999 < abs(he_uniform()(key(0), 6, 1000)).max() < 1.0)
    True

    """
    return _scaled(_uniform, lambda fan_in, fan_out: scale * math.sqrt(6.0 / fan_in))


def glorot_normal(*, scale: float = 1.0) -> Initializer:
    """Return an initializer for N(0, scale^2 2 / (fan_in + fan_out)), for tanh and for outputs; also called Xavier.

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.

    Examples
    --------
    >>> from portnn.random import key
    >>> bool(abs(glorot_normal()(key(0), 150, 50).std() - 0.1) < 0.002)
    True

    """
    return _scaled(_normal, lambda fan_in, fan_out: scale * math.sqrt(2.0 / (fan_in + fan_out)))


def glorot_uniform(*, scale: float = 1.0) -> Initializer:
    """Return an initializer for scale U(-a, a), a = sqrt(6 / (fan_in + fan_out)), equation 16 of Glorot and Bengio.

    Examples
    --------
    >>> from portnn.random import key
    >>> bool(0.09 < abs(glorot_uniform()(key(0), 300, 300)).max() < 0.1)
    True

    """
    return _scaled(_uniform, lambda fan_in, fan_out: scale * math.sqrt(6.0 / (fan_in + fan_out)))


def lecun_normal(*, scale: float = 1.0) -> Initializer:
    """Return an initializer for N(0, scale^2 / fan_in), for selu.

    Source: LeCun, Bottou, Orr, Mueller, "Efficient backprop", 1998, section 4.6.

    Examples
    --------
    >>> from portnn.random import key
    >>> bool(abs(lecun_normal()(key(0), 100, 100).std() - 0.1) < 0.002)
    True

    """
    return _scaled(_normal, lambda fan_in, fan_out: scale * math.sqrt(1.0 / fan_in))


def lecun_uniform(*, scale: float = 1.0) -> Initializer:
    """Return an initializer for scale U(-a, a), a = sqrt(3 / fan_in): the variance of lecun_normal.

    Examples
    --------
    >>> from portnn.random import key
    >>> bool(0.99 < abs(lecun_uniform()(key(0), 3, 1000)).max() < 1.0)
    True

    """
    return _scaled(_uniform, lambda fan_in, fan_out: scale * math.sqrt(3.0 / fan_in))


def orthogonal(*, scale: float = 1.0) -> Initializer:
    """Return an initializer of weights whose rows or columns (the fewer) are orthogonal, of length ``scale``.

    The Q of a normal matrix, with the signs of R's diagonal so that it is uniform among the orthogonal ones. Computed
    once on the host, so alike on all backends; the last bits are those of the machine's LAPACK.
    Source: Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning", ICLR 2014.

    Examples
    --------
    >>> from portnn.random import key
    >>> w = orthogonal()(key(0), 3, 5)
    >>> bool(abs(w @ w.T - [[1, 0, 0], [0, 1, 0], [0, 0, 1]]).max() < 1e-14)
    True

    """

    def draw(key: Key, fan_in: int, fan_out: int) -> Array:
        xp = HOST.xp
        rows, columns = max(fan_in, fan_out), min(fan_in, fan_out)
        q, r = xp.linalg.qr(_normal(key, rows, columns))
        q = q * xp.where(xp.linalg.diagonal(r) < 0.0, -scale, scale)
        return q if fan_in >= fan_out else xp.matrix_transpose(q)

    return draw


def _normal(key: Key, fan_in: int, fan_out: int) -> Array:
    return _draw_normal(key, (fan_in, fan_out), dtype="float64")


def _uniform(key: Key, fan_in: int, fan_out: int) -> Array:
    """Return weights uniform on [-1, 1)."""
    return 2.0 * _draw_uniform(key, (fan_in, fan_out), dtype="float64") - 1.0


def _scaled(draw: Initializer, factor: Callable[[int, int], float]) -> Initializer:
    return lambda key, fan_in, fan_out: draw(key, fan_in, fan_out) * factor(fan_in, fan_out)


INITIALIZERS: dict[str, Callable[..., Initializer]] = {
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "orthogonal": orthogonal,
    "normal": normal,
    "uniform": uniform,
    "zeros": zeros,
}


def get_initializer(spec: Any) -> Initializer:
    """Return the initializer for a name or for a function of the form given above.

    Examples
    --------
    >>> from portnn.random import key
    >>> get_initializer("zeros")(key(0), 1, 2)
    array([[0., 0.]])

    """
    if callable(spec):
        return spec() if spec in INITIALIZERS.values() else spec  # he_normal for he_normal()
    return INITIALIZERS[one_of("init", spec, INITIALIZERS)]()
