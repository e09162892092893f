"""The affine map and the sum over a batch: values, pullbacks, members, and long reductions in float32."""

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

from portnn import primitives
from portnn.primitives import linear, sum_rows, unpacked

rng = np.random.default_rng(1)
# lead of x, lead of weight and bias
LEADS = {"plain": ((), ()), "members": ((3,), (3,)), "shared-x": ((), (3,)), "two-axes": ((2, 3), (2, 3))}
BATCHES = [0, 1, 7]


def case(lead, dtype, n=7, fan_in=300, fan_out=5):
    """Return x, weight, bias, dy as rounded to dtype."""
    of_x, of_weight = LEADS[lead]
    shapes = [(*of_x, n, fan_in), (*of_weight, fan_in, fan_out), (*of_weight, fan_out), (*of_weight, n, fan_out)]
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def longer(a):
    """To the precision in which the reference is computed: 64 bits of mantissa, good enough for float64 too."""
    return a.astype(np.longdouble)


def transposed(a):
    return np.swapaxes(a, -1, -2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("n", BATCHES)
def test_linear_is_x_weight_plus_bias(library, lead, dtype, n):
    x, weight, bias, _ = case(lead, dtype, n)
    y, _ = linear(*(library.make(a) for a in (x, weight, bias)))
    y = library.to_numpy(y)
    bias = bias[..., None, :]
    assert y.dtype == dtype
    assert_within(y, longer(x) @ longer(weight) + bias, tolerances.affine(x, weight, bias, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("n", BATCHES)
def test_pullback_of_linear(library, lead, dtype, n):
    x, weight, bias, dy = case(lead, dtype, n)
    _, vjp = linear(*(library.make(a) for a in (x, weight, bias)))
    dx, dweight, dbias = (library.to_numpy(a) for a in vjp(library.make(dy)))
    assert {dx.dtype, dweight.dtype, dbias.dtype} == {np.dtype(dtype)}

    exact_dx = longer(dy) @ longer(transposed(weight))
    bound = tolerances.product(dy, transposed(weight), dtype)
    if lead == "shared-x":  # what the members give adds up
        exact_dx, bound = exact_dx.sum(axis=0), 2.0 * bound.sum(axis=0)
    assert_within(dx, exact_dx, bound)
    assert_within(
        dweight,
        longer(transposed(x)) @ longer(dy),
        tolerances.product(np.broadcast_to(transposed(x), (*dy.shape[:-2], x.shape[-1], n)), dy, dtype),
    )
    assert_within(dbias, longer(dy).sum(axis=-2), tolerances.long_sum(dy, -2, dtype))


def test_the_pullback_is_pure(library):
    x, weight, bias, dy = (library.make(a) for a in case("plain", "float32"))
    _, vjp = linear(x, weight, bias)
    first, again = ([library.to_numpy(a) for a in vjp(dy)] for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert_same(a, b)


def test_without_bias_there_is_no_cotangent_for_it(library):
    x, weight, _, dy = (library.make(a) for a in case("plain", "float32"))
    y, vjp = linear(x, weight)
    assert_same(library.to_numpy(y), library.to_numpy(library.xp.matmul(x, weight)))
    dx, dweight = vjp(dy)
    assert (tuple(dx.shape), tuple(dweight.shape)) == (x.shape, weight.shape)


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_input_gradient_can_be_left_out(library, with_bias):
    x, weight, bias, dy = (library.make(a) for a in case("members", "float32"))
    bias = bias if with_bias else None
    dx, *rest = linear(x, weight, bias, input_gradient=False)[1](dy)
    _, *expected = linear(x, weight, bias)[1](dy)
    assert dx is None
    assert len(rest) == len(expected) == (2 if with_bias else 1)
    for a, b in zip(rest, expected, strict=True):
        assert_same(library.to_numpy(a), library.to_numpy(b))


def test_members_compute_what_each_computes_alone(library):
    x, weight, bias, dy = case("members", "float64")
    y, vjp = linear(*(library.make(a) for a in (x, weight, bias)))
    together = [library.to_numpy(a) for a in (y, *vjp(library.make(dy)))]
    for i in range(3):
        y, vjp = linear(*(library.make(a[i]) for a in (x, weight, bias)))
        alone = [library.to_numpy(a) for a in (y, *vjp(library.make(dy[i])))]
        for a, b in zip(together, alone, strict=True):
            assert_within(a[i], b, tolerances.first_gradient(b, "float64"))


@pytest.mark.parametrize("n", [0, 1, 2, 255, 256, 512, 513, 1000])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_sum_rows_adds_every_row_once(library, n, lead):
    """Small whole numbers: every sum is exact in float32, so one row lost or counted twice shows."""
    x = rng.integers(-4, 5, size=(*lead, n, 2)).astype("float32")
    assert_same(library.to_numpy(sum_rows(library.make(x))), x.sum(axis=-2, dtype="float64").astype("float32"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_60_000_rows_lose_at_most_32_u(library, dtype, shift):
    x = (rng.normal(size=(60_000, 3)) + shift).astype(dtype)
    y = library.to_numpy(sum_rows(library.make(x)))
    assert y.dtype == dtype
    assert_within(y, longer(x).sum(axis=0), tolerances.long_sum(x, 0, dtype))


def test_the_bias_gradient_is_such_a_sum(library):
    """Equal numbers: the hardest case, since every rounding goes the same way."""
    dy = np.full((60_000, 3), 0.1, dtype="float32")
    _, vjp = linear(*(library.make(np.ones(s, "float32")) for s in ((60_000, 1), (1, 3), (3,))))
    assert_within(
        library.to_numpy(vjp(library.make(dy))[2]), longer(dy).sum(axis=0), tolerances.long_sum(dy, 0, "float32")
    )


def test_ones_are_counted_exactly_beyond_2_to_the_24():
    """One by one, float32 stays at 16,777,216: adding 1 to it changes nothing."""
    n = 2**24 + 2**12
    assert sum_rows(np.ones((n, 1), dtype="float32"))[0] == n


@pytest.mark.parametrize("n", [257, 511, 512, 513, 60_000])
def test_long_batches_are_folded_down_to_8_to_16_rows(monkeypatch, n):
    """What is left is added by one product, of which the bound of 12 u holds for 16 rows."""
    left = []

    class Spy:
        def __getattr__(self, name):
            return getattr(np, name)

        def matmul(self, a, b):
            left.append(b.shape[-2])
            return np.matmul(a, b)

    monkeypatch.setattr(primitives, "namespace", lambda x: Spy())
    assert sum_rows(np.ones((n, 1)))[0] == n
    assert len(left) == 1
    assert 8 <= left[0] <= 16


def test_a_pair_is_a_tuple_of_a_value_and_a_function():
    def vjp(dy):
        return (dy,)

    assert unpacked((1.0, vjp), "square") == (1.0, vjp)
    for wrong in ([1.0, vjp], (1.0,), (1.0, 2.0), (1.0, vjp, vjp), 1.0):
        kind = type(wrong).__name__
        with pytest.raises(TypeError, match=rf"^square: expected a pair \(value, pullback\), got {kind}; see portnn"):
            unpacked(wrong, "square")
