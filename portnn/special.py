"""Functions of mathematical physics that the standard lacks, from its elementary operations.

Rational approximations of W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of
Computation 23 (1969) 631-637, in three pieces joined by ``where``.
"""

from __future__ import annotations

import math

from portnn.backends import Array, namespace

_SMALL = (
    (3.20937758913846947e03, 3.77485237685302021e02, 1.13864154151050156e02, 3.16112374387056560e00)
    + (1.85777706184603153e-1,),
    (2.84423683343917062e03, 1.28261652607737228e03, 2.44024637934444173e02, 2.36012909523441209e01, 1.0),
)
_MIDDLE = (
    (1.23033935479799725e03, 2.05107837782607147e03, 1.71204761263407058e03, 8.81952221241769090e02)
    + (2.98635138197400131e02, 6.61191906371416295e01, 8.88314979438837594e00, 5.64188496988670089e-1)
    + (2.15311535474403846e-8,),
    (1.23033935480374942e03, 3.43936767414372164e03, 4.36261909014324716e03, 3.29079923573345963e03)
    + (1.62138957456669019e03, 5.37181101862009858e02, 1.17693950891312499e02, 1.57449261107098347e01, 1.0),
)
_LARGE = (
    (6.58749161529837803e-4, 1.60837851487422766e-2, 1.25781726111229246e-1, 3.60344899949804439e-1)
    + (3.05326634961232344e-1, 1.63153871373020978e-2),
    (2.33520497626869185e-3, 6.05183413124413191e-2, 5.27905102951428412e-1, 1.87295284992346725e00)
    + (2.56852019228982242e00, 1.0),
)


def _rational(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    """Return p(x) / q(x), coefficients from the lowest power up."""
    values = []
    for polynomial in coefficients:
        y = x * polynomial[-1] + polynomial[-2]
        for c in reversed(polynomial[:-2]):
            y = y * x + c
        values.append(y)
    return values[0] / values[1]


def _scaled_erfc(y: Array) -> Array:
    """Return erfc(y) exp(y^2) for y >= 0.46875."""
    xp = namespace(y)
    middle = _rational(xp.minimum(y, xp.full_like(y, 4.0)), _MIDDLE)
    # beyond 4; the argument is held in range where the other piece is used
    far = xp.maximum(y, xp.full_like(y, 4.0))
    inverse = 1.0 / (far * far)
    large = (1.0 / math.sqrt(math.pi) - inverse * _rational(inverse, _LARGE)) / far
    return xp.where(y <= 4.0, middle, large)


def _gauss(y: Array, scaled: Array, factor: float = 1.0) -> Array:
    """Return exp(-factor y^2) scaled, to a few ulp, for 0 <= y <= 64.

    Numerical stability: y^2 rounded once loses y^2 u in the exponential; with a = y rounded to 1/16, a^2 is exact and
    exp(-a^2) exp(-(y - a)(y + a)) keeps all digits. ``scaled`` stands between the two, since a compiler that knows
    exp(a) exp(b) = exp(a + b) would use it (XLA does).
    """
    xp = namespace(y)
    a = xp.round(y * 16.0) * 0.0625
    return (xp.exp((a * a) * (-factor)) * scaled) * xp.exp(((a - y) * (a + y)) * factor)


def _size(x: Array) -> Array:
    """Return |x|, held to 64: the tails have ended in either dtype, squares do not overflow, inf - inf is not met."""
    xp = namespace(x)
    return xp.minimum(xp.abs(x), xp.full_like(x, 64.0))


def erf(x: Array) -> Array:
    """Return the error function 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x, to a few ulp.

    Examples
    --------
    >>> import numpy as np
    >>> bool(abs(erf(np.asarray([0.5]))[0] - math.erf(0.5)) < 1e-15)
    True

    """
    xp = namespace(x)
    y = _size(x)
    tail = xp.maximum(y, xp.full_like(y, 0.46875))
    large = 1.0 - _gauss(tail, _scaled_erfc(tail))
    return xp.where(y <= 0.46875, _small_erf(x), xp.sign(x) * large)


def erfc(x: Array) -> Array:
    """Return 1 - erf(x), to a few ulp on the right too, where the difference would leave nothing.

    Examples
    --------
    >>> import numpy as np
    >>> bool(abs(erfc(np.asarray([10.0]))[0] / math.erfc(10.0) - 1) < 1e-14)
    True

    """
    xp = namespace(x)
    y = _size(x)
    tail = xp.maximum(y, xp.full_like(y, 0.46875))
    return _upper(x, y, _gauss(tail, _scaled_erfc(tail)))


def normal_cdf(x: Array) -> Array:
    """Return Phi(x) = erfc(-x / sqrt(2)) / 2, the distribution of the standard normal, to a few ulp on the left too.

    Numerical stability: the exponential is taken of x itself; x / sqrt(2), rounded, would lose x^2 u.

    Examples
    --------
    >>> import numpy as np
    >>> normal_cdf(np.asarray([0.0]))
    array([0.5])

    """
    xp = namespace(x)
    size = _size(x)
    y = size * math.sqrt(0.5)
    tail = xp.maximum(y, xp.full_like(y, 0.46875))
    return 0.5 * _upper(x * -math.sqrt(0.5), y, _gauss(size, _scaled_erfc(tail), 0.5))


def _small_erf(x: Array) -> Array:
    """Return erf(x) for |x| <= 0.46875; of x and not of |x|, so that autograd and jax.grad are right at 0 too."""
    xp = namespace(x)
    half = xp.full_like(x, 0.5)
    x = xp.minimum(xp.maximum(x, -half), half)
    return x * _rational(x * x, _SMALL)


def _upper(x: Array, y: Array, tail: Array) -> Array:
    """Return erfc at the signed ``x``, given y = |x| and erfc(y) for y > 0.46875."""
    xp = namespace(x)
    return xp.where(y <= 0.46875, 1.0 - _small_erf(x), xp.where(x < 0.0, 2.0 - tail, tail))
