"""The namespace that records conforms to the standard as far as the one under it: hypothesis draws arrays of any dtype.

The arrays are made in the recording namespace by hypothesis' own strategies for the array API, which the consortium's
array-api-tests are built on. What a function or an operator gives has to be what array-api-strict gives for the same
values, to the bit, dtype and shape included; where that refuses, so must ours.
"""

import operator
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.array_api import make_strategies_namespace

from portnn import autograd

strict = pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
XP = autograd.over("array_api_strict")
XPS = make_strategies_namespace(XP, api_version="2024.12")
SOME = hypothesis.settings(max_examples=25, deadline=None, database=None, derandomize=True)
SMALL = XPS.array_shapes(min_dims=0, max_dims=3, max_side=4)

UNARY = (
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bitwise_invert", "ceil", "conj", "cos", "cosh", "exp"),
    *("expm1", "floor", "imag", "isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2", "logical_not"),
    *("negative", "positive", "real", "reciprocal", "round", "sign", "signbit", "sin", "sinh", "sqrt", "square", "tan"),
    *("tanh", "trunc"),
)
BINARY = (
    *("add", "atan2", "bitwise_and", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor"),
    *("copysign", "divide", "equal", "floor_divide", "greater", "greater_equal", "hypot", "less", "less_equal"),
    *("logaddexp", "logical_and", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "nextafter"),
    *("not_equal", "pow", "remainder", "subtract"),
)
OPERATORS = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")},
    **{name: getattr(operator, name) for name in ("and_", "or_", "xor", "lshift", "rshift")},
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}
IN_PLACE = {name: getattr(operator, f"i{name.strip('_')}") for name in list(OPERATORS)[:13]}
REDUCTIONS = ("all", "any", "argmax", "argmin", "count_nonzero", "max", "mean", "min", "prod", "std", "sum", "var")
SHAPED = {
    "cumulative_sum": lambda xp, x: xp.cumulative_sum(x, axis=-1, include_initial=True),
    "cumulative_prod": lambda xp, x: xp.cumulative_prod(x, axis=0),
    "expand_dims": lambda xp, x: xp.expand_dims(x, axis=-1),
    "flip": lambda xp, x: xp.flip(x, axis=0),
    "matrix_transpose": lambda xp, x: xp.matrix_transpose(x),
    "moveaxis": lambda xp, x: xp.moveaxis(x, 0, -1),
    "permute_dims": lambda xp, x: xp.permute_dims(x, tuple(reversed(range(x.ndim)))),
    "repeat": lambda xp, x: xp.repeat(x, 2, axis=-1),
    "reshape": lambda xp, x: xp.reshape(x, (-1,)),
    "roll": lambda xp, x: xp.roll(x, 1, axis=0),
    "tile": lambda xp, x: xp.tile(x, (2, 1)),
    "tril": lambda xp, x: xp.tril(x),
    "triu": lambda xp, x: xp.triu(x, k=1),
    "sort": lambda xp, x: xp.sort(x, axis=0, descending=True),
    "argsort": lambda xp, x: xp.argsort(x),
    "diff": lambda xp, x: xp.diff(x, axis=0),
    "concat": lambda xp, x: xp.concat([x, x], axis=None),
    "stack": lambda xp, x: xp.stack([x, x], axis=-1),
    "unstack": lambda xp, x: xp.unstack(x, axis=-1),
    "meshgrid": lambda xp, x: xp.meshgrid(xp.reshape(x, (-1,)), xp.arange(2, dtype=x.dtype)),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x, (2, *x.shape)),
    "broadcast_arrays": lambda xp, x: xp.broadcast_arrays(x, x[..., :1]),
    "clip": lambda xp, x: xp.clip(x, 0, 1),
    "where": lambda xp, x: xp.where(x == x, x, xp.zeros_like(x)),
    "matmul": lambda xp, x: xp.matmul(x, xp.matrix_transpose(x)),
    "tensordot": lambda xp, x: xp.tensordot(x, x, axes=0),
    "vecdot": lambda xp, x: xp.vecdot(x, x),
    "nonzero": lambda xp, x: xp.nonzero(x),
    "unique_all": lambda xp, x: xp.unique_all(x),
    "unique_counts": lambda xp, x: xp.unique_counts(x),
    "unique_inverse": lambda xp, x: xp.unique_inverse(x),
    "unique_values": lambda xp, x: xp.unique_values(x),
    "take": lambda xp, x: xp.take(x, xp.asarray([0, -1]), axis=0),
    "searchsorted": lambda xp, x: xp.searchsorted(xp.sort(xp.reshape(x, (-1,))), x),
    "astype": lambda xp, x: xp.astype(x, xp.float32),
    "zeros_like": lambda xp, x: xp.zeros_like(x),
    "ones_like": lambda xp, x: xp.ones_like(x, dtype=xp.int16),
    "full_like": lambda xp, x: xp.full_like(x, 1),
    "asarray": lambda xp, x: xp.asarray(x, copy=True),
    "result_type": lambda xp, x: xp.zeros(1, dtype=xp.result_type(x, xp.float32)),
    "mT": lambda xp, x: x.mT,
    "T": lambda xp, x: x.T,
    "abs": lambda xp, x: abs(x),
    "neg": lambda xp, x: -x,
    "pos": lambda xp, x: +x,
    "invert": lambda xp, x: ~x,
}


def plain(thing):
    """The same numbers in array-api-strict."""
    return thing.value if isinstance(thing, autograd.Array) else thing


def outcome(call):
    """What a call gives, or the error that it raises."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return call()
        except (TypeError, ValueError, IndexError, OverflowError, AttributeError, RuntimeError) as error:
            return error


def assert_alike(ours, theirs):
    ours, theirs = outcome(ours), outcome(theirs)
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception), f"array-api-strict refuses ({theirs}), ours gives {ours!r}"
        return
    if isinstance(ours, Exception):
        raise AssertionError(f"array-api-strict gives {theirs!r}") from ours
    assert isinstance(ours, tuple | list) == isinstance(theirs, tuple | list)
    if not isinstance(theirs, tuple | list):
        ours, theirs = [ours], [theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert isinstance(a, autograd.Array), f"an array of the namespace below got out: {type(a)}"
        assert (a.dtype, a.shape, a.ndim, a.size, a.device) == (b.dtype, b.shape, b.ndim, b.size, b.device)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


ANY = XPS.arrays(XPS.scalar_dtypes(), SMALL)


@pytest.mark.parametrize("name", UNARY)
def test_elementwise_of_one(name):
    @SOME
    @hypothesis.given(ANY)
    def compare(x):
        assert_alike(lambda: getattr(XP, name)(x), lambda: getattr(strict, name)(plain(x)))

    compare()


@st.composite
def pairs(draw):
    """Two arrays that can be broadcast together, and mostly of dtypes that can be promoted."""
    shapes = draw(XPS.mutually_broadcastable_shapes(2, max_dims=3, max_side=3)).input_shapes
    dtypes = XPS.numeric_dtypes() if draw(st.integers(0, 4)) else XPS.scalar_dtypes()
    first = draw(dtypes)
    second = first if draw(st.booleans()) else draw(dtypes)
    return draw(XPS.arrays(first, shapes[0])), draw(XPS.arrays(second, shapes[1]))


@pytest.mark.parametrize("name", BINARY)
def test_elementwise_of_two(name):
    @SOME
    @hypothesis.given(pairs())
    def compare(given):
        assert_alike(lambda: getattr(XP, name)(*given), lambda: getattr(strict, name)(*map(plain, given)))

    compare()


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    scalars = st.one_of(st.booleans(), st.integers(-3, 3), st.floats(-2.0, 2.0), st.just(1j))

    @SOME
    @hypothesis.given(pairs(), scalars)
    def compare(given, scalar):
        operate, (a, b) = OPERATORS[name], given
        assert_alike(lambda: operate(a, b), lambda: operate(plain(a), plain(b)))
        assert_alike(lambda: operate(a, scalar), lambda: operate(plain(a), scalar))
        assert_alike(lambda: operate(scalar, b), lambda: operate(scalar, plain(b)))

    compare()


@pytest.mark.parametrize("name", IN_PLACE)
def test_operators_in_place(name):
    """Where the standard allows one, it gives the same; ours may also widen, since they make a new array.

    Allowed is what keeps dtype and shape (array-api-strict lets ``@=`` drop axes).
    """

    @SOME
    @hypothesis.given(pairs())
    def compare(given):
        operate, (a, b) = IN_PLACE[name], given
        before = np.asarray(a).copy()
        theirs = outcome(lambda: operate(strict.asarray(plain(a), copy=True), plain(b)))
        plainly = outcome(lambda: OPERATORS[name](plain(a), plain(b)))
        if not isinstance(theirs, Exception) and (plainly.dtype, plainly.shape) == (a.dtype, a.shape):
            assert_alike(lambda: operate(a, b), lambda: theirs)
        np.testing.assert_array_equal(np.asarray(a), before)

    compare()


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    @SOME
    @hypothesis.given(ANY, st.booleans(), st.data())
    def compare(x, keepdims, data):
        axes = [None, *range(-x.ndim, x.ndim)]
        axis = data.draw(st.sampled_from(axes if name.startswith("arg") else [*axes, *((0, -1),) * (x.ndim > 1)]))
        options = {"axis": axis, "keepdims": keepdims}
        assert_alike(lambda: getattr(XP, name)(x, **options), lambda: getattr(strict, name)(plain(x), **options))

    compare()


@pytest.mark.parametrize("name", SHAPED)
def test_functions_of_shape(name):
    @SOME
    @hypothesis.given(XPS.arrays(XPS.scalar_dtypes(), XPS.array_shapes(min_dims=1, max_dims=3, max_side=3)))
    def compare(x):
        assert_alike(lambda: SHAPED[name](XP, x), lambda: SHAPED[name](strict, plain(x)))

    compare()


@hypothesis.settings(SOME, max_examples=150)
@hypothesis.given(st.data())
def test_indexing(data):
    x = data.draw(XPS.arrays(XPS.scalar_dtypes(), SMALL))
    key = data.draw(XPS.indices(x.shape, allow_newaxis=True))
    assert_alike(lambda: x[key], lambda: plain(x)[key])
    key = data.draw(XPS.indices(x.shape))
    new = data.draw(XPS.arrays(x.dtype, ()))
    changed, theirs = XP.asarray(x, copy=True), strict.asarray(plain(x), copy=True)

    def put(array, number):
        array[key] = number
        return array

    assert_alike(lambda: put(changed, new), lambda: put(theirs, plain(new)))


@hypothesis.settings(SOME, max_examples=60)
@hypothesis.given(st.data())
def test_indexing_by_masks(data):
    x = data.draw(XPS.arrays(XPS.scalar_dtypes(), XPS.array_shapes(max_dims=3, max_side=3)))
    mask = data.draw(XPS.arrays(XP.bool, x.shape))
    assert_alike(lambda: x[mask], lambda: plain(x)[plain(mask)])


@hypothesis.settings(SOME, max_examples=60)
@hypothesis.given(XPS.arrays(XPS.scalar_dtypes(), ()))
def test_conversions(x):
    for kind in (bool, int, float, complex, operator.index):
        ours, theirs = outcome(lambda kind=kind: kind(x)), outcome(lambda kind=kind: kind(plain(x)))
        if isinstance(theirs, Exception):
            assert type(ours) is type(theirs)
        else:
            assert ours == theirs or ours != ours
            assert type(ours) is type(theirs)


@pytest.mark.parametrize(
    "name", [n for n in dir(strict.asarray(0)) if n[:2] == "__" and n not in dir(object()) and n != "__module__"]
)
def test_every_method_is_there(name):
    """All of array-api-strict's; in-place ones come by their plain twins, buffers by ``__array__`` and DLPack."""
    if name in ("__buffer__", "__slots__", "__weakref__", "__annotations__", "__dict__"):
        return
    plain_twin = (
        f"__{name[3:]}" if name[2] == "i" and name not in ("__int__", "__index__", "__invert__", "__iter__") else name
    )
    assert callable(getattr(XP.asarray(0), plain_twin))


def test_info_is_that_of_the_library():
    info = XP.__array_namespace_info__()
    assert info.default_dtypes()["real floating"] == strict.float64
    assert XP.__array_api_version__ == strict.__array_api_version__
    assert {"sum", "float32", "matmul", "pi"} <= set(dir(XP))
