"""Every function of the standard over a recording namespace: what it returns, and its derivative by differences."""

import functools

import numpy as np
import pytest
import tolerances
from tolerances import assert_within

from portnn import autograd
from portnn.autograd import linear_algebra, namespace
from portnn.autograd.namespace import COMPOSED, CONSTANT, CREATING, FUNCTIONS, REFUSED, RULES
from portnn.backends import get_backend
from portnn.backends import namespace as namespace_of
from portnn.testing import check_vjp

rng = np.random.default_rng(7)
# of both signs, between 1/4 and 7/4, all apart from another: away from kinks, and no two are tied
MIXED = rng.choice([-1.0, 1.0], size=(3, 4)) * rng.permutation(np.linspace(0.25, 1.75, 12)).reshape(3, 4)
OTHER = rng.choice([-1.0, 1.0], size=(3, 4)) * rng.permutation(np.linspace(0.31, 1.68, 12)).reshape(3, 4)
INNER, POSITIVE, LARGE = 0.5 * MIXED, np.abs(MIXED), 1.0 + np.abs(MIXED)
ROW, COLUMN, VECTOR = OTHER[0], OTHER[:, :1], np.asarray([0.7, -1.2, 0.4])
CUBE = rng.permutation(np.linspace(0.27, 1.83, 24)) + 0.02 * rng.random(24)
CUBE = (rng.choice([-1.0, 1.0], size=24) * CUBE).reshape(2, 3, 4)
SQUARE = 0.5 * rng.normal(size=(2, 3, 3)) + 3.0 * np.eye(3)
POINTS = rng.normal(size=(4, 3))


def of(name, *args, **options):
    """The function itself, with the rest of its arguments."""
    return lambda xp, *given: functools.reduce(getattr, name.split("."), xp)(*given, *args, **options)


def both(name):
    """All ways to call a function of two arguments: of one shape, broadcast either way."""
    f = of(name)
    return [(f, (MIXED, OTHER)), (f, (ROW, CUBE)), (f, (MIXED, COLUMN)), (f, (CUBE, MIXED))]


def reduced(name, x=MIXED, **options):
    """All ways to call a reduction."""
    ways = [{}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 1)}]
    return [(of(name, **way, **options), (x,)) for way in ways] + [(of(name, axis=(0, 2), **options), (CUBE,))]


def indices(xp, *numbers):
    """Integers on the device of the test."""
    return xp.asarray(list(numbers), dtype=xp.int64, device=DEVICE["device"])


def symmetric(xp, x):
    return 0.5 * (x + xp.matrix_transpose(x))


DEVICE = {"device": None}  # where the library of the test keeps its arrays
# name -> [(function of a namespace and arrays, the arrays)]
CASES = {
    **{name: [(of(name), (MIXED,))] for name in ("abs", "cos", "cosh", "exp", "expm1", "negative", "positive", "sin")},
    **{name: [(of(name), (MIXED,))] for name in ("sinh", "square", "tanh", "asinh", "atan", "conj")},
    **{name: [(of(name), (INNER,))] for name in ("acos", "asin", "atanh", "tan")},
    **{name: [(of(name), (POSITIVE,))] for name in ("log", "log10", "log2", "log1p", "sqrt", "reciprocal")},
    "acosh": [(of("acosh"), (LARGE,))],
    **{name: both(name) for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "atan2", "hypot")},
    "logaddexp": both("logaddexp"),
    "copysign": [(lambda xp, x: xp.copysign(x, xp.flip(x, axis=0)), (MIXED,))],
    "remainder": [(of("remainder"), (3.1 * LARGE, LARGE)), (of("remainder"), (2.9 * MIXED, 0.7 * COLUMN))],
    "pow": [
        (of("pow"), (POSITIVE, MIXED)),
        (of("pow"), (POSITIVE, COLUMN)),
        *((lambda xp, x, n=n: x**n, (POSITIVE,)) for n in (0, 1, 2, 3, -1, 0.5)),
        (lambda xp, x: 2.0**x, (MIXED,)),
    ],
    "where": [
        (lambda xp, a, b: xp.where(a > b, a * b, b), (MIXED, ROW)),
        (lambda xp, a: xp.where(a > 0, a, 1.0), (MIXED,)),
    ],
    "sum": [*reduced("sum"), (lambda xp, x: xp.sum(x, dtype=xp.float64), (MIXED,))],
    **{name: reduced(name) for name in ("mean", "max", "min", "prod")},
    "var": [*reduced("var"), *reduced("var", correction=1)],
    "std": [*reduced("std"), *reduced("std", correction=1)],
    "cumulative_sum": [
        *((of("cumulative_sum", axis=a), (CUBE,)) for a in (0, 1, -1)),
        (of("cumulative_sum"), (VECTOR,)),
        (of("cumulative_sum", axis=0, include_initial=True), (MIXED,)),
    ],
    "cumulative_prod": [
        *((of("cumulative_prod", axis=a), (CUBE,)) for a in (0, 1, -1)),
        (of("cumulative_prod", axis=-1, include_initial=True), (MIXED,)),
        (lambda xp, x: xp.cumulative_prod(x - x[1], axis=0), (VECTOR,)),
    ],
    "sort": [(of("sort"), (CUBE,)), (of("sort", axis=0, descending=True), (MIXED,))],
    "broadcast_to": [(of("broadcast_to", (2, 3, 4)), (MIXED,)), (of("broadcast_to", (3, 4)), (COLUMN,))],
    "expand_dims": [(of("expand_dims", axis=1), (MIXED,)), (of("expand_dims", axis=-1), (MIXED,))],
    "flip": [(of("flip"), (CUBE,)), (of("flip", axis=(0, 2)), (CUBE,)), (of("flip", axis=-1), (CUBE,))],
    "moveaxis": [(of("moveaxis", 0, -1), (CUBE,)), (of("moveaxis", (0, 1), (2, 0)), (CUBE,))],
    "permute_dims": [(of("permute_dims", (2, 0, 1)), (CUBE,))],
    "reshape": [(of("reshape", (4, -1)), (CUBE,)), (of("reshape", (24,)), (CUBE,))],
    "roll": [
        (of("roll", 2), (CUBE,)),
        (of("roll", -1, axis=1), (CUBE,)),
        (of("roll", (1, 2), axis=(0, 2)), (CUBE,)),
    ],
    "squeeze": [(of("squeeze", 1), (COLUMN,)), (lambda xp, x: xp.squeeze(x[None, :, None, :], (0, 2)), (MIXED,))],
    "tile": [(of("tile", (2, 3)), (MIXED,)), (of("tile", (2, 1, 2)), (MIXED,)), (of("tile", (2,)), (MIXED,))],
    "tril": [(of("tril"), (CUBE,)), (of("tril", k=1), (MIXED,))],
    "triu": [(of("triu"), (CUBE,)), (of("triu", k=-1), (MIXED,))],
    "repeat": [
        (of("repeat", 3), (MIXED,)),
        (of("repeat", 2, axis=1), (CUBE,)),
        (lambda xp, x: xp.repeat(x, indices(xp, 0, 2, 1), axis=0), (MIXED,)),
    ],
    "take": [
        (lambda xp, x: xp.take(x, indices(xp, 2, 0, 2, 2), axis=0), (MIXED,)),
        (lambda xp, x: xp.take(x, indices(xp, 3, 3), axis=-1), (CUBE,)),
    ],
    "take_along_axis": [
        (lambda xp, x: xp.take_along_axis(x, xp.argsort(x, axis=0)[:2, :], axis=0), (MIXED,)),
        (lambda xp, x: xp.take_along_axis(x, xp.reshape(indices(xp, 1, 1, 0), (1, 3, 1)), axis=-1), (CUBE[:1],)),
    ],
    "matmul": [
        (of("matmul"), (MIXED, POINTS)),
        (of("matmul"), (MIXED, ROW)),
        (of("matmul"), (VECTOR, MIXED)),
        (of("matmul"), (VECTOR, VECTOR[::-1].copy())),
        (of("matmul"), (CUBE, POINTS)),
        (of("matmul"), (POINTS, CUBE)),
        (of("matmul"), (VECTOR, CUBE)),
        (of("matmul"), (CUBE, ROW)),
        (of("matmul"), (CUBE[:, None, :1, :], rng.normal(size=(3, 4, 2)))),
    ],
    "matrix_transpose": [(of("matrix_transpose"), (CUBE,))],
    "tensordot": [
        (of("tensordot"), (CUBE, MIXED)),
        (of("tensordot", axes=1), (CUBE, POINTS)),
        (of("tensordot", axes=0), (VECTOR, MIXED)),
        (of("tensordot", axes=((2, 1), (1, 0))), (CUBE, rng.normal(size=(3, 4, 5)))),
        (of("tensordot", axes=((1, 2), (2, 0))), (CUBE, rng.normal(size=(4, 5, 3)))),
    ],
    "vecdot": [
        (of("vecdot"), (MIXED, OTHER)),
        (of("vecdot"), (CUBE, ROW)),
        (of("vecdot", axis=-2), (CUBE, MIXED)),
    ],
    "asarray": [
        (lambda xp, x: xp.asarray(x, dtype=xp.float64, copy=True) * x, (MIXED,)),
        (lambda xp, x: xp.asarray([[x[0], x[1]], [x[2] * x[0], x[1]]]), (VECTOR,)),
    ],
    "astype": [(lambda xp, x: xp.astype(x, xp.float64, copy=True), (MIXED,))],
    "broadcast_arrays": [(lambda xp, a, b: functools.reduce(xp.multiply, xp.broadcast_arrays(a, b)), (ROW, COLUMN))],
    "clip": [
        (of("clip", -0.8, 0.9), (MIXED,)),
        (of("clip", min=0.1), (MIXED,)),
        (lambda xp, x, low, high: xp.clip(x, low, high), (MIXED, -POSITIVE[0] * 0.5, COLUMN * 0 + 0.77)),
    ],
    "concat": [
        (lambda xp, a, b: xp.concat([a, b, a], axis=1), (MIXED, COLUMN)),
        (lambda xp, a, b: xp.concat((a, 2.0 * b), axis=-2), (CUBE, CUBE[:, :1])),
        (lambda xp, a, b: xp.concat([a, b], axis=None), (MIXED, VECTOR)),
    ],
    "diff": [
        (of("diff"), (CUBE,)),
        (of("diff", axis=0, n=2), (MIXED,)),
        (lambda xp, a, b: xp.diff(a, axis=1, prepend=b, append=2.0 * b), (MIXED, COLUMN)),
    ],
    "meshgrid": [
        (lambda xp, a, b: functools.reduce(xp.multiply, xp.meshgrid(a, b)), (VECTOR, ROW)),
        (lambda xp, a, b: xp.meshgrid(a, b, a, indexing="ij")[1] + 1.0, (VECTOR, ROW)),
    ],
    "stack": [
        (lambda xp, a, b: xp.stack([a, b, a]), (MIXED, OTHER)),
        (lambda xp, a, b: xp.stack((a, b), axis=-1), (MIXED, OTHER)),
    ],
    "unstack": [(lambda xp, x: xp.unstack(x, axis=1)[2] * xp.unstack(x, axis=1)[0], (CUBE,))],
    "linalg.cholesky": [
        (lambda xp, x: xp.linalg.cholesky(xp.matmul(x, xp.matrix_transpose(x))), (SQUARE,)),
        (lambda xp, x: xp.linalg.cholesky(xp.matmul(x, xp.matrix_transpose(x)), upper=True), (SQUARE[0],)),
    ],
    "linalg.cross": [(of("linalg.cross"), (POINTS, POINTS[::-1].copy())), (of("linalg.cross"), (VECTOR, POINTS))],
    "linalg.det": [(of("linalg.det"), (SQUARE,))],
    "linalg.diagonal": [(of("linalg.diagonal", offset=k), (CUBE,)) for k in (0, 1, -1, 3)],
    "linalg.eigvalsh": [(lambda xp, x: xp.linalg.eigvalsh(symmetric(xp, x)), (SQUARE,))],
    "linalg.inv": [(of("linalg.inv"), (SQUARE,))],
    "linalg.matmul": [(of("linalg.matmul"), (MIXED, POINTS))],
    "linalg.matrix_norm": [
        (of("linalg.matrix_norm", ord=k), (CUBE,)) for k in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)
    ]
    + [(of("linalg.matrix_norm", ord=k, keepdims=True), (CUBE,)) for k in ("fro", "nuc", 1, 2)],
    "linalg.matrix_power": [(of("linalg.matrix_power", n), (SQUARE,)) for n in (0, 1, 2, 3, -2)],
    "linalg.matrix_transpose": [(of("linalg.matrix_transpose"), (CUBE,))],
    "linalg.outer": [(of("linalg.outer"), (VECTOR, ROW))],
    "linalg.slogdet": [(lambda xp, x: xp.linalg.slogdet(x).logabsdet, (SQUARE,))],
    "linalg.solve": [(of("linalg.solve"), (SQUARE, CUBE)), (of("linalg.solve"), (SQUARE, VECTOR))],
    "linalg.svdvals": [(of("linalg.svdvals"), (CUBE,))],
    "linalg.tensordot": [(of("linalg.tensordot", axes=1), (CUBE, POINTS))],
    "linalg.trace": [(of("linalg.trace"), (CUBE,)), (of("linalg.trace", offset=1), (CUBE,))],
    "linalg.vecdot": [(of("linalg.vecdot"), (MIXED, OTHER))],
    "linalg.vector_norm": [
        *((of("linalg.vector_norm", axis=a), (CUBE,)) for a in (None, 1, (0, 2))),
        *((of("linalg.vector_norm", ord=k, axis=-1, keepdims=True), (CUBE,)) for k in (0, 1, 3, np.inf, -np.inf)),
    ],
}
# what has no derivative, or one of 0: (function, arrays)
PLAIN = {
    **{name: (of(name), (MIXED,)) for name in ("ceil", "floor", "round", "sign", "signbit", "trunc", "isfinite")},
    **{name: (of(name), (MIXED,)) for name in ("isinf", "isnan", "argmax", "argmin", "argsort", "nonzero")},
    **{name: (of(name), (MIXED > 0,)) for name in ("all", "any", "logical_not", "bitwise_invert")},
    "count_nonzero": (of("count_nonzero"), (MIXED,)),
    **{name: (of(name), (MIXED, OTHER)) for name in ("equal", "greater", "greater_equal", "less", "less_equal")},
    **{name: (of(name), (MIXED, OTHER)) for name in ("not_equal", "floor_divide", "nextafter")},
    **{name: (of(name), (MIXED > 0, OTHER > 0)) for name in ("logical_and", "logical_or", "logical_xor")},
    **{name: (of(name), (MIXED > 0, OTHER > 0)) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")},
    **{name: (of(name), (np.arange(4), np.arange(4))) for name in ("bitwise_left_shift", "bitwise_right_shift")},
    "isin": (of("isin"), (np.arange(4), np.arange(2, 9))),
    "real": (of("real"), (MIXED + 1j * OTHER,)),
    "searchsorted": (of("searchsorted"), (np.sort(ROW), VECTOR)),
    "imag": (of("imag"), (MIXED + 1j * OTHER,)),
    **{name: (of(name), (MIXED,)) for name in ("unique_all", "unique_counts", "unique_inverse", "unique_values")},
    "linalg.matrix_rank": (of("linalg.matrix_rank"), (SQUARE,)),
    **{f"linalg.{name}": (of(f"linalg.{name}"), (SQUARE,)) for name in ("qr", "pinv", "svd")},
    "linalg.eigh": (of("linalg.eigh"), (SQUARE + np.swapaxes(SQUARE, 1, 2),)),
}
WAYS = [(name, i) for name, ways in CASES.items() for i in range(len(ways))]


@pytest.mark.parametrize(("name", "way"), WAYS, ids=[f"{name}-{way}" for name, way in WAYS])
def test_derivative_agrees_with_differences(name, way):
    f, args = CASES[name][way]
    DEVICE["device"] = None
    autograd.check(lambda *given: f(namespace_of(given[0]), *given), args)


@pytest.mark.parametrize("name", CASES)
def test_derivative_is_the_same_on_every_library(library, name):
    strictest = library.name.endswith("strictest")
    ways = CASES[name][:1] if library.backend_name == "jax" else CASES[name]  # which compiles each of them
    for way, (f, args) in enumerate(ways):

        def derivatives(make, xp, f=f, args=args):
            y, pullback = autograd.vjp(lambda *given: f(namespace_of(given[0]), *given), *(make(a) for a in args))
            return y, pullback(xp.cos(y))

        DEVICE["device"] = None
        _, expected = derivatives(np.asarray, np)
        DEVICE["device"] = library.backend.device
        if strictest and ("linalg" in name or (name, way) == ("repeat", 2)):
            # the extension is switched off, and so are shapes that depend on data
            with pytest.raises((AttributeError, RuntimeError), match=r"linalg|data_dependent"):
                derivatives(library.make, library.xp)
            continue
        y, cotangents = derivatives(library.make, library.xp)
        library.to_numpy(y)  # of the library, on its device
        for a, b in zip(cotangents, expected, strict=True):
            assert_within(library.to_numpy(a), b, tolerances.first_gradient(b, np.float64))


# the rules of these use eigenvectors, which have none
FIRST_ONLY = {("linalg.eigvalsh", 0), ("linalg.svdvals", 0), *(("linalg.matrix_norm", i) for i in (1, 4, 5, 9, 11))}
TWICE = [way for way in WAYS if way not in FIRST_ONLY]


@pytest.mark.parametrize(("name", "way"), TWICE, ids=[f"{name}-{way}" for name, way in TWICE])
def test_second_derivative_agrees_with_differences(name, way):
    """The rules are differentiable themselves: of the gradient of a function, the derivative by differences."""
    f, args = CASES[name][way]
    DEVICE["device"] = None

    def slope(*given):
        def total(*given):
            xp = namespace_of(given[0])
            y = f(xp, *given)
            return xp.sum(y * xp.sin(y + 0.3))

        return autograd.value_and_grad(total, argnums=tuple(range(len(given))))(*given)[1]

    for i in range(len(args)):
        check_vjp(lambda *given, i=i: autograd.vjp(lambda *g: slope(*g)[i], *given), list(args), tolerance=1e-6)


RULED = [(name, i) for name, rules in RULES.items() for i, rule in enumerate(rules) if rule is not None]


@pytest.mark.parametrize(("name", "i"), RULED, ids=[f"{name}-{i}" for name, i in RULED])
def test_a_rule_off_by_a_tenth_of_a_percent_is_found(monkeypatch, name, i):
    """Each rule spoiled in turn: the differences notice, in one of the ways at least."""

    def wrong(*args, **kwargs):
        back = RULES_BEFORE[name][i](*args, **kwargs)
        return lambda dy: 1.001 * back(dy)

    monkeypatch.setitem(RULES, name, (*RULES[name][:i], wrong, *RULES[name][i + 1 :]))
    monkeypatch.setattr(namespace, "_of_modules", {})
    DEVICE["device"], found = None, 0
    for f, args in CASES[name]:
        try:
            autograd.check(lambda *given, f=f: f(namespace_of(given[0]), *given), args)
        except AssertionError:
            found += 1
    assert found, f"the tests of {name} do not notice a wrong derivative for argument {i}"


RULES_BEFORE = dict(RULES)


def same(a, b):
    """Whether two results, of several arrays perhaps, have the same dtype, shape and numbers."""
    if isinstance(b, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and bool(np.all((a == b) | (np.isnan(a) & np.isnan(b))))


EVERY = {**{f"{name}-{i}": CASES[name][i] for name, i in WAYS}, **PLAIN}


@pytest.mark.parametrize("name", EVERY)
def test_values_are_those_of_the_library(name):
    """Of constants, to the bit, and of what is recorded too where the library's own function gives the value."""
    import array_api_strict as strict

    f, args = EVERY[name]
    DEVICE["device"] = None
    arrays = [strict.asarray(a) for a in args]
    expected = f(strict, *arrays)
    xp = autograd.over("array_api_strict")
    found = f(xp, *(xp.asarray(a) for a in arrays))
    assert same(found, expected)
    first = found[0] if isinstance(found, tuple | list) else found
    assert isinstance(first, autograd.Array) or not hasattr(first, "dtype")
    if all(a.dtype == np.float64 for a in args) and name.split("-")[0] not in REFUSED:
        values, _ = autograd.vjp(lambda *given: list_of(f(namespace_of(given[0]), *given)), *arrays)
        expected = list_of(expected)
        assert all(np.asarray(a).dtype == np.asarray(b).dtype for a, b in zip(values, expected, strict=True))
        for a, b in zip(values, expected, strict=True):
            assert_within(np.asarray(a), np.asarray(b), tolerances.few_steps(np.asarray(b), np.float64))


def list_of(thing):
    return list(thing) if isinstance(thing, tuple | list) else [thing]


@pytest.mark.parametrize("name", sorted(CONSTANT & set(PLAIN)))
def test_no_derivative_goes_through(name):
    f, args = PLAIN[name]
    if any(a.dtype != np.float64 for a in args):
        return
    seen = []

    def total(*given):
        xp = namespace_of(given[0])
        seen.extend(list_of(f(xp, *given)))
        return xp.sum(given[0])

    assert np.all(autograd.grad(total)(*args) == 1.0)
    assert all(getattr(a, "node", None) is None for a in seen)


@pytest.mark.parametrize("name", sorted((REFUSED & set(PLAIN)) - {"real"}))
def test_what_has_no_rule_is_refused(name):
    f, args = PLAIN[name]
    with pytest.raises(TypeError, match=f"^autograd: {name} has no derivative here"):
        autograd.vjp(lambda *given: list_of(f(namespace_of(given[0]), *given))[0], *args)


def test_all_of_the_standard_is_there():
    import array_api_strict as strict

    no_functions = {"newaxis", "Device", "bool", "e", "inf", "nan", "pi"}
    theirs = {n for n in strict.__all__ if callable(getattr(strict, n)) and n[0] != "_" and n not in no_functions}
    theirs -= {n for n in theirs if "strict" in n.lower() or n in ("linalg", "fft")}
    for extension in ("linalg", "fft"):
        theirs |= {f"{extension}.{n}" for n in getattr(strict, extension).__all__}
    assert not theirs - FUNCTIONS
    assert len(theirs & FUNCTIONS) >= 172
    assert len(theirs & (FUNCTIONS - REFUSED)) >= 150  # also of what is recorded
    assert len((set(RULES) | set(COMPOSED) | {"asarray"}) & theirs) >= 93  # with a derivative of their own
    assert set(CASES) == set(RULES) | set(COMPOSED) | {"asarray"}, "a function that no test differentiates"
    groups = [set(RULES), set(COMPOSED), set(CONSTANT), set(REFUSED), set(CREATING), set(namespace.ABOUT_DTYPES)]
    assert sum(map(len, groups)) == len(set().union(*groups)), "a function is of two kinds"


def test_creation_and_dtypes(library):
    xp, base, where = autograd.over(library.xp), library.xp, {"device": library.backend.device}
    x = xp.asarray([1.0, 2.0], dtype=xp.float32, **where)
    assert xp.float32 is base.float32 or xp.float32 == base.float32
    assert xp.pi == base.pi
    assert xp.newaxis is None
    assert xp.isdtype(x.dtype, "real floating")
    assert xp.result_type(x, xp.float64) == base.float64
    assert xp.finfo(x.dtype).eps == base.finfo(base.float32).eps
    made = {
        "zeros": xp.zeros((2, 3), dtype=xp.float32, **where),
        "ones_like": xp.ones_like(x),
        "full": xp.full((2,), 3.0, dtype=xp.float64, **where),
        "full_like": xp.full_like(x, 2.0),
        "arange": xp.arange(1, 5, dtype=xp.int32, **where),
        "linspace": xp.linspace(0.0, 1.0, 3, dtype=xp.float64, **where),
        "eye": xp.eye(2, 3, dtype=xp.float32, **where),
        "empty": xp.empty((2,), dtype=xp.float32, **where),
    }
    for a in made.values():
        assert type(a) is autograd.Array
        assert a.__array_namespace__() is xp
        library.to_numpy(a.value)  # of the library, on its device
    assert library.to_numpy(made["linspace"].value).tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(AttributeError, match="'einsum': it is not in the standard"):
        xp.einsum  # noqa: B018


def test_rules_of_linalg_share_those_of_the_namespace():
    for name in ("matmul", "tensordot", "vecdot", "matrix_transpose"):
        assert linear_algebra.RULES[f"linalg.{name}"] is linear_algebra.RULES[name]


def test_get_backend_takes_the_namespace():
    assert get_backend(autograd.over("numpy")).xp is autograd.over("numpy")
