"""Every tolerance of the tests: a bound with its reason, and the comparisons that use it.

A bound is derived from the arithmetic, not from what happened to pass. It is absolute and has the shape of what is
compared: relative to |A||B| and the like, never to the result, which cancellation may have left small. References have
a higher precision than what they judge: float64 for float32, 40 digits for float64. ``test_tolerances.py`` shows for
each bound here that an error ten times larger is found.

Below, u = eps / 2 is the rounding unit: 6.0e-8 in float32, 1.1e-16 in float64.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np

mpmath.mp.dps = 40

DRAWN = 2e-5  # of an interval in a picture: 1.96 in place of 1.959964 moves its ends, in [0, 1], by 1e-5 at most
STEP = 1e-5  # of central differences: near (3 u)^(1/3), where truncation h^2 and rounding u / h are in balance


def eps(dtype: Any) -> float:
    """Return the distance from 1 to the next number of ``dtype``."""
    return float(np.finfo(dtype).eps)


def unit(dtype: Any) -> float:
    """Return u, the largest relative error of one rounding."""
    return 0.5 * eps(dtype)


# -- bounds -----------------------------------------------------------------------------------------------------------


def rounded(exact: Any, dtype: Any) -> np.ndarray:
    """Half an ulp, and a float64 reference's own: numbers that were rounded once, as in a cast to float32."""
    return 1.001 * unit(dtype) * np.abs(exact)


def product(a: Any, b: Any, dtype: Any) -> np.ndarray:
    """4 sqrt(n) u |A||B| for the product of matrices with n terms per entry.

    The errors of n roundings add up like a random walk: lambda sqrt(n) u |A||B| holds for every entry of 1e5 with
    probability 1 - 1e-6 at lambda = 7 (Ipsen, Zhou, arXiv 1906.10465) if added one by one; blocked as all libraries do
    it, at most 0.9 sqrt(n) u was seen. n u would be certain, but so wide that products in TF32 pass.
    """
    a, b = np.abs(np.asarray(a, dtype=np.float64)), np.abs(np.asarray(b, dtype=np.float64))
    return 4.0 * np.sqrt(a.shape[-1]) * unit(dtype) * (a @ b) + np.finfo(dtype).smallest_subnormal


def affine(x: Any, weight: Any, bias: Any, dtype: Any) -> np.ndarray:
    """As a product with one more term, and one rounding for the sum with the bias."""
    bound = product(x, weight, dtype)
    return (
        bound if bias is None else bound + 2.0 * unit(dtype) * np.abs(bias) + unit(dtype) * (np.abs(x) @ np.abs(weight))
    )


def network(x: Any, weights: Any, biases: Any, values: Any, dtype: Any) -> np.ndarray:
    """What a whole network may be off: each layer's own error, and those before it, carried on.

    ``values[i]`` is what layer i gives. Its affine map is off by :func:`affine` and by |W| times what came in was off;
    the activation multiplies that by its slope, 1.76 at most (selu on the left), and adds 8 ulp. Twice this for two
    computations of the same network. It is some 100 u for three layers of 100, where a wrong term is off by 1.
    """
    error: Any = 0.0
    for weight, bias, value in zip(weights, biases, values, strict=True):
        before = 0.0 if isinstance(error, float) else error @ np.abs(np.asarray(weight, dtype=np.float64))
        error = 1.76 * (before + affine(x, weight, bias, dtype)) + ULPS * eps(dtype) * np.abs(value)
        x = value
    return error


def exchanged(y: Any, n: int, dtype: Any) -> float:
    """4 sqrt(n) u max|y| for two libraries' predictions with the same weights, n the largest number of inputs.

    They differ by the order of their sums alone: as :func:`product`, at the size of the largest prediction, since small
    ones are differences of large terms. For networks in which no layer is much larger than the last.
    """
    return 4.0 * float(np.sqrt(n)) * unit(dtype) * float(np.max(np.abs(y)))


def of_ranks(x: Any, delta: Any, dtype: Any) -> np.ndarray:
    """16 u |X|^T|D| for the gradient X^T D of a few hundred samples, added up in parts on 2 to 4 ranks and by one.

    Two sums of the same n products, in another order: each is off by sqrt(n) u |X|^T|D| at most (see :func:`product`),
    16 u at n = 250; 6.1 u was seen. A mean of the means of uneven parts is off by a percent.
    """
    x, delta = np.abs(np.asarray(x, dtype=np.float64)), np.abs(np.asarray(delta, dtype=np.float64))
    return 16.0 * unit(dtype) * (x.T @ delta)


def long_sum(x: Any, axis: Any, dtype: Any) -> np.ndarray:
    """32 u sum|x| for a sum of 60,000 terms: folded down to 16 rows it costs log2(n) + 12 u at most, 28 u.

    One by one it would be n u: NumPy's sum over axis 0 of 60,000 float32 rows was off by 133 u and must fail. Blocks
    of 256 are not enough: equal numbers are rounded in one direction, and 58 u were lost on one library.
    """
    return 32.0 * unit(dtype) * np.sum(np.abs(np.asarray(x, dtype=np.float64)), axis=axis)


def few_steps(value: Any, dtype: Any) -> float:
    """64 eps max|value|: a formula of a dozen operations, two ways to write it, and a sum over a few terms of its size.

    For losses of a small batch. Relative to the largest, since the terms of a difference are of that size.
    """
    return 64.0 * eps(dtype) * float(np.max(np.abs(value)))


def first_gradient(gradient: Any, dtype: Any) -> float:
    """64 eps max|g|: two ways to compute one gradient in ``dtype``.

    Relative to the largest entry, since small ones are differences of large terms. A network of 4 layers makes some 50
    roundings from an input to a derivative; 2.6e-16 was seen in float64, and a factor 1.001 is wider by 1e10.
    """
    return 64.0 * eps(dtype) * float(np.max(np.abs(gradient)))


def composite(gradient: Any) -> float:
    """1e-10 max(1, |g|) for the gradient of up to a dozen functions one after the other, by two programs in float64.

    Each rounds to 1e-16 and may enlarge what it is given, by its slope, a few times; a wrong rule is off by a percent.
    """
    return 1e-10 * max(1.0, float(np.max(np.abs(gradient))))


def central_difference(value: Any) -> float:
    """1e-9 at h = 1e-5: u |f| / h = 1e-11 from rounding and h^2 f''' / 6 = 2e-11 |f'''| from the next term.

    ``value`` is the largest |f|, and of the order of 1 in all tests; above that the rounding grows with it.
    """
    return 1e-9 * max(1.0, float(np.max(np.abs(value))))


def trajectory(reference: Any, steps: int) -> np.ndarray:
    """8 eps per step: an optimizer makes about ten roundings a step, and nothing enlarges those of earlier steps.

    For a given sequence of gradients: they do not depend on the parameters, so that errors only add up.
    """
    return 8.0 * steps * eps(np.float64) * max(1.0, float(np.max(np.abs(reference))))


def norm_limit(limit: float, dtype: Any) -> float:
    """limit (1 + 4 u): a gradient clipped to a norm is scaled by a quotient of rounded numbers, then rounded."""
    return limit * (1.0 + 4.0 * unit(dtype))


def minimum(gradient: Any, curvature: float, terms: float) -> float:
    """|g| / c, plus what rounding leaves of g: how far a point with gradient g may lie from a minimum.

    Of a function whose curvature is at least c everywhere, in float64. A gradient of terms of the size ``terms`` that
    cancel is good to 64 eps of them, see few_steps.
    """
    return (float(np.linalg.norm(gradient)) + 64.0 * eps(np.float64) * terms) / curvature


def standard_error(sigma: float, n: int) -> float:
    """5 sigma / sqrt(n): a mean of n draws is outside once in 1.7 million seeds. The seeds of the tests are fixed."""
    return 5.0 * sigma / np.sqrt(n)


def kolmogorov(n: int) -> float:
    """2.2 / sqrt(n) for the largest deviation of n draws from their distribution: exceeded once in eight thousand."""
    return 2.2 / np.sqrt(n)


def tabulated_normal() -> float:
    """2^-25: parabolas through three points of the normal's inverse z(p), in integers of the unit 2^-28.

    A piece spans h = p / 128 at most: h^3 times the third derivative, (1 + 2 z^2) / density^3, over 72 sqrt(3) is one
    unit. The three coefficients are rounded, 1.5 units, and the products cut off, 4 more. 4.8 units were seen.
    """
    return 2.0**-25


# Bars of the agreement table, each in the unit of its row.
BARS = {
    "product": 4.0,  # of sqrt(n) u |A||B|, see product
    "long sum": 32.0,  # of u sum|x|, see long_sum
    "formula": 64.0,  # of eps max|f|, see few_steps
    "gradient": 64.0,  # of u max|g|: half of first_gradient's, for two libraries that run the same formulas
    "update": 8.0,  # of eps |update|: about ten roundings
    # of max|d params| after 300 steps: a gradient's 1e-6 in every step, in all directions; 5e-7 and 1e-15 were seen
    "sgd": {"float32": 1e-5, "float64": 1e-13},
    # Adam divides small gradients by their size and so lets rounding grow, in float32 to 1e-3: no bar makes sense there
    "adam": {"float64": 1e-12},
    "accuracy": 0.3,  # of percentage points: five of the 1797 test samples, which lie on the border of two classes
    "repeats": 0.0,
}

# -- comparisons ------------------------------------------------------------------------------------------------------

ULPS = 8.0  # of an elementwise function: its argument and its last operations are rounded, its parts good to 1 or 2 ulp


def assert_within(actual: Any, exact: Any, bound: Any) -> None:
    """Raise unless the shapes are equal and |actual - exact| <= bound everywhere; a NaN is never within."""
    actual, exact = np.asarray(actual, dtype=np.longdouble), np.asarray(exact, dtype=np.longdouble)
    assert actual.shape == exact.shape, f"shape {actual.shape}, expected {exact.shape}"
    bound = np.broadcast_to(np.asarray(bound, dtype=np.longdouble), exact.shape)
    with np.errstate(invalid="ignore"):
        error = np.where(actual == exact, 0.0, np.abs(actual - exact))
    if not np.all(error <= bound):
        bad = np.unravel_index(
            np.argmax(np.where(error <= bound, -1.0, np.nan_to_num(error / bound, nan=np.inf))), error.shape
        )
        raise AssertionError(
            f"{int(np.sum(~(error <= bound)))} of {error.size} are out of bounds; the worst at {tuple(map(int, bad))}: "
            f"{actual[bad]!r}, expected {exact[bad]!r}: error {float(error[bad]):.3g} > {float(bound[bad]):.3g}"
        )


class Exact:
    """Values of higher precision: an unevaluated sum of two float64 numbers, of some 32 digits."""

    def __init__(self, values: Any) -> None:
        values = [mpmath.mpf(v) for v in values]
        self.high = np.asarray([float(v) for v in values])
        self.low = np.asarray([float(v - h) if np.isfinite(h) else 0.0 for v, h in zip(values, self.high, strict=True)])

    def ulps(self, actual: np.ndarray) -> np.ndarray:
        """Return the error of ``actual`` in units of the last place of its dtype, at the exact value."""
        wide = actual.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            spacing = np.spacing(np.abs(self.high).astype(actual.dtype)).astype(np.float64)
            error = np.where(wide == self.high, np.abs(self.low), np.abs((wide - self.high) - self.low))
            return np.where(error == 0.0, 0.0, error / spacing)

    def normal(self, dtype: Any) -> np.ndarray:
        """Return where the value is a normal number of ``dtype``: below, digits are lost, and some libraries give 0."""
        info, size = np.finfo(dtype), np.abs(self.high)
        return (size >= 2.0 * float(info.smallest_normal)) & (size <= float(info.max))


def assert_ulps(actual: np.ndarray, exact: Exact, bound: Any = ULPS) -> None:
    """Raise unless ``actual`` is within ``bound`` ulp of the exact values, all finite, or equal where those are 0."""
    error, bound = exact.ulps(actual), np.broadcast_to(bound, actual.shape)
    if not np.all(error <= bound):
        worst = int(np.argmax(np.nan_to_num(error / bound, nan=np.inf)))
        raise AssertionError(
            f"element {worst}: {actual[worst]!r}, expected {exact.high[worst]!r}: "
            f"{error[worst]:.3g} ulp > {bound[worst]:.3g}"
        )


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Raise unless dtype, shape and every bit that counts are equal (a NaN equals a NaN)."""
    np.testing.assert_array_equal(actual, expected, strict=True)
