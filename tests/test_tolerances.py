"""Each tolerance lets honest arithmetic pass and finds an error ten times larger, in any one entry."""

import inspect

import mpmath
import numpy as np
import pytest
import tolerances
from tolerances import Exact, assert_same, assert_ulps, assert_within

rng = np.random.default_rng(0)
A, B, BIAS = rng.normal(size=(5, 300)), rng.normal(size=(300, 4)), rng.normal(size=4)
A32, B32, BIAS32 = (a.astype(np.float32) for a in (A, B, BIAS))
LONG = rng.normal(size=(3, 60_000)).astype(np.float32)
GRADIENT = rng.normal(size=20)
PATH = np.cumsum(np.full(500, 0.1))


def wide(a):
    return a.astype(np.float64)


HIDDEN = np.tanh(wide(A32) @ wide(B32))
HIDDEN_AND_OUT = [HIDDEN, HIDDEN @ wide(B32[:4]) + wide(BIAS32)]


# name -> (what float arithmetic gives, the exact value, the bound)
CASES = {
    "rounded": (A.astype(np.float32), A, tolerances.rounded(A, np.float32)),
    "product": (A32 @ B32, wide(A32) @ wide(B32), tolerances.product(A32, B32, np.float32)),
    "affine": (
        A32 @ B32 + BIAS32,
        wide(A32) @ wide(B32) + wide(BIAS32),
        tolerances.affine(A32, B32, BIAS32, np.float32),
    ),
    "network": (
        np.tanh(A32 @ B32) @ B32[:4] + BIAS32,
        np.tanh(wide(A32) @ wide(B32)) @ wide(B32[:4]) + wide(BIAS32),
        tolerances.network(A32, [B32, B32[:4]], [None, BIAS32], HIDDEN_AND_OUT, np.float32),
    ),
    "exchanged": (A32 @ B32, wide(A32) @ wide(B32), tolerances.exchanged(A32 @ B32, 300, np.float32)),
    "of_ranks": (
        A32[:, :250] @ B32[:250],
        A32[:, :120] @ B32[:120] + A32[:, 120:250] @ B32[120:250],
        tolerances.of_ranks(A32[:, :250].T, B32[:250], np.float32),
    ),
    "long_sum": (LONG.sum(axis=1), wide(LONG).sum(axis=1), tolerances.long_sum(LONG, 1, np.float32)),
    "few_steps": (GRADIENT * (1.0 + 2.0**-52), GRADIENT, tolerances.few_steps(GRADIENT, np.float64)),
    "first_gradient": (GRADIENT * (1.0 + 2.0**-52), GRADIENT, tolerances.first_gradient(GRADIENT, np.float64)),
    "composite": (GRADIENT * (1.0 + 2.0**-40), GRADIENT, tolerances.composite(GRADIENT)),
    "central_difference": (
        (np.sin(A + tolerances.STEP) - np.sin(A - tolerances.STEP)) / (2.0 * tolerances.STEP),
        np.cos(A),
        tolerances.central_difference(np.sin(A)),
    ),
    "trajectory": (np.asarray([PATH[-1]]), np.asarray([50.0]), tolerances.trajectory(50.0, 500)),
    "minimum": (GRADIENT + 5e-10, GRADIENT, tolerances.minimum(np.full(20, 1e-9), 2.0, 1.0)),
    "norm_limit": (np.asarray([1.0]), np.asarray([1.0]), tolerances.norm_limit(1.0, np.float32) - 1.0),
    "kolmogorov": (np.asarray([0.001]), np.asarray([0.0]), tolerances.kolmogorov(10_000)),
    "tabulated_normal": (A.round(8), A, tolerances.tabulated_normal()),
    "standard_error": (np.asarray([LONG.mean()]), np.asarray([0.0]), tolerances.standard_error(1.0, LONG.size)),
}


def test_every_bound_has_a_case():
    bounds = {
        name
        for name, f in inspect.getmembers(tolerances, inspect.isfunction)
        if f.__module__ == "tolerances" and not name.startswith("assert_") and name not in ("eps", "unit")
    }
    assert bounds == set(CASES)


def test_every_bound_says_why():
    assert all(len(getattr(tolerances, name).__doc__) > 60 for name in CASES)


@pytest.mark.parametrize("name", CASES)
def test_honest_arithmetic_passes(name):
    assert_within(*CASES[name])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_error_ten_times_larger_fails_in_any_entry(name, sign):
    _, exact, bound = CASES[name]
    bound = np.broadcast_to(bound, exact.shape)
    for i in range(exact.size):
        wrong = exact.astype(np.longdouble)
        wrong.flat[i] += sign * 10.0 * bound.flat[i]
        with pytest.raises(AssertionError, match="out of bounds"):
            assert_within(wrong, exact, bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eight_ulp_pass_and_eighty_fail(dtype):
    exact = Exact([mpmath.sqrt(2) * mpmath.mpf(10) ** k for k in (-30, -5, 0, 5, 30)])
    right = exact.high.astype(dtype)
    step = np.spacing(right)
    assert_ulps(right, exact)
    assert_ulps(right + 7 * step, exact)
    for i in range(right.size):
        wrong = right.copy()
        wrong[i] += 10 * tolerances.ULPS * step[i]
        with pytest.raises(AssertionError, match="ulp"):
            assert_ulps(wrong, exact)


def test_bars_of_the_table_are_those_of_the_bounds():
    a, u = np.ones((1, 100)), tolerances.unit(np.float64)
    product = tolerances.BARS["product"] * 10.0 * u * 100.0
    assert_within(tolerances.product(a, a.T, np.float64), [[product]], 1e-12 * product)
    assert_within(tolerances.long_sum(a, 1, np.float64), [tolerances.BARS["long sum"] * u * 100.0], 0.0)
    assert tolerances.few_steps(1.0, np.float64) == tolerances.BARS["formula"] * 2.0 * u
    assert tolerances.first_gradient(1.0, np.float64) == 2.0 * tolerances.BARS["gradient"] * u


def test_half_an_ulp_is_seen_below_the_digits_of_float64():
    """1/3 in float64 is off by a third of an ulp, which no float64 reference could show."""
    assert 0.3 < Exact([mpmath.mpf(1) / 3]).ulps(np.asarray([1.0 / 3.0]))[0] < 0.35


def test_the_bound_of_products_is_narrower_than_tf32():
    """TF32 rounds the factors to 11 bits: with n <= 784 terms of like sign it breaks the bound of float32."""

    def tf32(a):
        return (a.view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)).view(np.float32)

    a, b = np.abs(rng.normal(size=(20, 784))).astype(np.float32), rng.normal(size=(784, 20)).astype(np.float32)
    exact, bound = wide(a) @ wide(b), tolerances.product(a, b, np.float32)
    assert_within(a @ b, exact, bound)
    with pytest.raises(AssertionError, match="out of bounds"):
        assert_within(tf32(a) @ tf32(b), exact, bound)


def test_the_bound_of_long_sums_is_narrower_than_adding_one_by_one():
    x = np.full((60_000, 2), 0.1, dtype=np.float32)
    with pytest.raises(AssertionError, match="out of bounds"):
        assert_within(np.cumsum(x, axis=0)[-1], wide(x).sum(axis=0), tolerances.long_sum(x, 0, np.float32))


def test_the_bound_of_central_differences_finds_one_per_mille():
    with pytest.raises(AssertionError, match="out of bounds"):
        assert_within(1.001 * GRADIENT, GRADIENT, tolerances.central_difference(1.0))


@pytest.mark.parametrize(
    ("actual", "exact"),
    [([np.nan], [1.0]), ([1.0], [np.nan]), ([np.inf], [1.0]), ([np.inf], [-np.inf]), ([1.0, 1.0], [1.0]), (1.0, [1.0])],
)
def test_nan_infinity_and_another_shape_are_never_within(actual, exact):
    with pytest.raises(AssertionError):
        assert_within(actual, exact, 1e300)


def test_equal_infinities_are_within():
    assert_within([np.inf], [np.inf], 0.0)


def test_nan_is_no_number_of_ulp():
    with pytest.raises(AssertionError, match="ulp"):
        assert_ulps(np.asarray([np.nan]), Exact([1.0]))


@pytest.mark.parametrize(
    "other", [np.asarray([1.0, 2.0], dtype=np.float32), np.asarray([[1.0, 2.0]]), np.asarray([1.0, 2.0 + 2.0**-51])]
)
def test_same_means_dtype_shape_and_value(other):
    with pytest.raises(AssertionError):
        assert_same(other, np.asarray([1.0, 2.0]))
