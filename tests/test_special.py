"""erf, erfc and the normal distribution, to 8 ulp of 40 digits, in the tails too."""

import numpy as np
import pytest
import tolerances
from mpmath import mp
from references import FORMULAS, exact
from tolerances import assert_same, assert_ulps, assert_within

from portnn import special

# the pieces of the approximations meet at 0.46875 and 4, those of the distribution at sqrt(2) times that
SEAMS = [0.46875, 4.0, 0.46875 * np.sqrt(2.0), 4.0 * np.sqrt(2.0)]
POINTS = np.unique(
    np.concatenate(
        [
            np.linspace(-12.0, 12.0, 481),
            np.logspace(-30, 0, 40),
            -np.logspace(-30, 0, 40),
            [s * sign * (1.0 + k * 2.0**-22) for s in SEAMS for sign in (1, -1) for k in (-1, 0, 1)],
            np.linspace(12.0, 40.0, 57),
            np.linspace(-40.0, -12.0, 57),
        ]
    )
)
FUNCTIONS = ["erf", "erfc", "normal_cdf"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_exact_to_eight_ulp(library, name, dtype):
    z = POINTS.astype(dtype)
    reference = exact(name, z)
    z, keep = z[reference.normal(dtype)], reference.normal(dtype)
    y = library.to_numpy(getattr(special, name)(library.make(z)))
    assert y.dtype == dtype
    assert keep.sum() > POINTS.size // 2
    assert_ulps(y, exact(name, z))


# name -> value at (-inf, -0, 0, inf)
LIMITS = {"erf": (-1.0, 0.0, 0.0, 1.0), "erfc": (2.0, 1.0, 1.0, 0.0), "normal_cdf": (0.0, 0.5, 0.5, 1.0)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_limits_are_exact_and_nan_stays_nan(library, name, dtype):
    z = library.make([-np.inf, -0.0, 0.0, np.inf, np.nan], dtype)
    y = library.to_numpy(getattr(special, name)(z))
    assert_same(y, np.asarray([*LIMITS[name], np.nan], dtype=dtype))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_far_tail_ends_in_zero_and_not_in_nan(library, name):
    z = library.make([-1e300, -1e4, 1e4, 1e300], "float64")
    low, _, _, high = LIMITS[name]
    assert_same(library.to_numpy(getattr(special, name)(z)), np.asarray([low, low, high, high]))


@pytest.mark.parametrize("name", ["erf", "erfc", "normal_cdf"])
def test_autodiff_is_right_at_exactly_zero(name):
    f = getattr(special, name)
    expected = float(mp.diff(FORMULAS[name], 0))
    bound = tolerances.first_gradient(expected, "float64")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    assert_within(torch.autograd.grad(f(z).sum(), z)[0].numpy(), [expected], bound)
    jax = pytest.importorskip("jax", reason="jax is not installed")
    assert_within(np.asarray(jax.grad(lambda z: f(z).sum())(jax.numpy.zeros(1))), [expected], bound)


@pytest.mark.parametrize("shape", [(0,), (), (2, 0, 3), (2, 3)])
def test_shape_is_kept(library, shape):
    for name in FUNCTIONS:
        assert tuple(getattr(special, name)(library.make(np.zeros(shape), "float32")).shape) == shape
