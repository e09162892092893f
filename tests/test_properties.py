"""What holds for all networks, numbers and files, tried on examples that Hypothesis makes up, the same in every run.

Where a property is exact in floating point (a power of two, a maximum, an order) it is asked for bit by bit; elsewhere
the bound is relative to the terms that are added up, which may cancel.
"""

import functools
import math
import types

import numpy as np
import pytest
import tolerances
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mpmath import mp
from references import FORMULAS, SELU_ALPHA, SELU_SCALE
from tolerances import assert_same, assert_within

import portnn
from portnn import SGD, Adagrad, Adam, AdamW, RMSprop, random, schedules
from portnn.activations import ACTIVATIONS, get_activation
from portnn.backends import get_backend
from portnn.clipping import clip_by_norm, clip_by_value
from portnn.datasets import read_csv, read_safetensors
from portnn.layout import layout
from portnn.losses import LOSSES, binary_cross_entropy, cross_entropy, huber, mae, mse
from portnn.primitives import linear
from portnn.storage import write_safetensors_file

# A fixture of a test serves all of its examples; and nothing is remembered from run to run.
examples = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
usual = examples(max_examples=50)
few = examples(max_examples=15)

DTYPES = st.sampled_from(["float32", "float64"])
SEEDS = st.integers(0, 2**32 - 1)
# Below the normal numbers digits are lost, and some libraries have 0 there.
NORMAL = {"float32": 2.0**-126, "float64": 2.0**-1022}


def reals(size, dtype="float64"):
    """Return a strategy for numbers of ``dtype`` up to ``size`` in magnitude, without subnormal ones."""
    width, most = (32, np.float32) if dtype == "float32" else (64, np.float64)
    most = float(most(size))
    return st.floats(-most, most, width=width, allow_subnormal=False)


@st.composite
def typed(draw, *shapes, size):
    """Return (dtype, array, array, ...) of one dtype."""
    dtype = draw(DTYPES)
    return dtype, *(draw(hnp.arrays(dtype, shape, elements=reals(size, dtype))) for shape in shapes)


def opened(name):
    if name != "numpy":
        pytest.importorskip(name, reason=f"{name} is not installed")
    return get_backend(name)


@pytest.fixture(params=["numpy", "torch"])
def light(request):
    """Two libraries with mathematics of their own, for what is tried on many names: the strict one is NumPy's."""
    backend = opened(request.param)
    return types.SimpleNamespace(make=backend.asarray, to_numpy=backend.to_numpy)


# -- activations ------------------------------------------------------------------------------------------------------

N = 6
POINTS = typed((N,), size=1e4)
every_activation = pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.2)", "elu(0.5)"])


def evaluate(library, name, z, dy=None):
    """Return value and pullback, as NumPy arrays, at ``z``."""
    y, vjp = get_activation(name)(library.make(z))
    (dz,) = vjp(library.make(np.ones_like(z) if dy is None else dy))
    return library.to_numpy(y), library.to_numpy(dz)


def ulps(*values):
    """Eight ulp of each value, which is what test_activations.py allows it: for a sum or a difference of them."""
    return tolerances.ULPS * sum(np.spacing(np.abs(v)).astype(np.float64) for v in values)


def turning(name, near):
    """Return the extreme of the derivative near a point, from 40 digits."""
    f = FORMULAS[name]
    at = mp.findroot(lambda z: mp.diff(f, z, 2), near)
    return float(mp.diff(f, at))


def lowest(name, near):
    """Return the least value near a point, from 40 digits."""
    f = FORMULAS[name]
    return float(f(mp.findroot(lambda z: mp.diff(f, z), near)))


INF = math.inf
SELU_LOW = float(SELU_ALPHA * SELU_SCALE)


@functools.cache
def ranges():
    """Return, for every name, the ranges of value and of derivative."""
    return {
        "identity": (-INF, INF, 1.0, 1.0),
        "relu": (0.0, INF, 0.0, 1.0),
        "leaky_relu": (-INF, INF, 0.01, 1.0),
        "leaky_relu(0.2)": (-INF, INF, 0.2, 1.0),
        "elu": (-1.0, INF, 0.0, 1.0),
        "elu(0.5)": (-0.5, INF, 0.0, 1.0),
        "selu": (-SELU_LOW, INF, 0.0, SELU_LOW),
        "tanh": (-1.0, 1.0, 0.0, 1.0),
        "sigmoid": (0.0, 1.0, 0.0, 0.25),
        "softplus": (0.0, INF, 0.0, 1.0),
        "gelu": (lowest("gelu", -0.75), INF, turning("gelu", -1.4), turning("gelu", 1.4)),
        "gelu_tanh": (lowest("gelu_tanh", -0.75), INF, turning("gelu_tanh", -1.4), turning("gelu_tanh", 1.4)),
        "silu": (lowest("silu", -1.3), INF, turning("silu", -2.4), turning("silu", 2.4)),
        "mish": (lowest("mish", -1.2), INF, turning("mish", -2.3), turning("mish", 1.5)),
    }


@usual
@every_activation
@given(given=POINTS)
@example(given=("float64", np.asarray([-1.414213562373095, 1.414213562373095, 2.399357280520468, -0.0, 20.0, -20.0])))
def test_values_and_derivatives_stay_in_their_range(light, name, given):
    """A probability is never above 1, softplus never below 0: exactly, where a limit is a number of binary."""
    dtype, z = given
    y, dz = evaluate(light, name, z)
    low, high, least, most = ranges()[name]
    if name in ("relu", "tanh", "sigmoid", "softplus", "elu", "elu(0.5)"):
        assert (y >= low).all()
        assert (y <= high).all()
    else:
        assert (y >= low - tolerances.few_steps(low if np.isfinite(low) else 0.0, dtype)).all()
    if name in ("relu", "softplus"):
        assert (dz >= 0.0).all()
        assert (dz <= 1.0).all()
    slack = tolerances.few_steps(most, dtype)
    assert (dz >= least - slack).all()
    assert (dz <= most + slack).all()


MONOTONE = ["identity", "relu", "leaky_relu", "elu", "selu", "tanh", "sigmoid", "softplus"]


@usual
@pytest.mark.parametrize("name", MONOTONE)
@given(given=POINTS)
def test_what_never_falls_never_falls(light, name, given):
    """But for the ulp that each of two neighboring values may be off."""
    _, z = given
    y, _ = evaluate(light, name, np.sort(z))
    wide = y.astype(np.float64)
    assert (np.diff(wide) >= -ulps(y[1:], y[:-1])).all()


@usual
@pytest.mark.parametrize("name", ["softplus", "silu", "gelu", "gelu_tanh", "relu"])
@given(given=POINTS)
def test_a_smooth_relu_less_its_mirror_image_is_the_argument(light, name, given):
    """f(z) - f(-z) = z, and f'(z) + f'(-z) = 1 (relu: but for z = 0).

    gelu_tanh is off by more ulp on the left, where it is smaller by more than that.
    """
    dtype, z = given
    (y, dz), (mirrored, dz_mirrored) = evaluate(light, name, z), evaluate(light, name, -z)
    largest = np.maximum(np.abs(y), np.abs(mirrored))
    assert_within(y.astype(np.longdouble) - mirrored, z, ulps(largest, largest) + NORMAL[dtype])
    total = np.where((z == 0.0) & (name == "relu"), 0.0, 1.0)
    assert_within(dz.astype(np.longdouble) + dz_mirrored, total, tolerances.few_steps(1.13, dtype))


@usual
@given(given=POINTS)
def test_tanh_is_odd_and_sigmoid_its_half(library, given):
    """tanh(-z) = -tanh(z) bit by bit; s(z) + s(-z) = 1; s(z) = (1 + tanh(z/2))/2; slopes are even bit by bit."""
    dtype, z = given
    (y, dz), (mirrored, dz_mirrored) = evaluate(library, "tanh", z), evaluate(library, "tanh", -z)
    assert_same(mirrored, -y)
    assert_same(dz_mirrored, dz)
    (s, ds), (rest, ds_rest) = evaluate(library, "sigmoid", z), evaluate(library, "sigmoid", -z)
    assert_within(s.astype(np.longdouble) + rest, np.ones(N), ulps(s, rest))
    assert_same(ds_rest, ds)
    half, _ = evaluate(library, "tanh", (z / 2).astype(dtype))
    assert_within(s, (1.0 + half.astype(np.longdouble)) / 2.0, ulps(s, half / 2) + NORMAL[dtype])


@usual
@given(given=POINTS)
def test_softplus_lies_above_relu_by_at_most_log_2(library, given):
    _, z = given
    (above, slope), (relu, _) = evaluate(library, "softplus", z), evaluate(library, "relu", z)
    assert (above >= relu).all()
    gap = above.astype(np.longdouble) - relu
    assert (gap <= np.log(2.0) + ulps(above)).all()
    sigmoid, _ = evaluate(library, "sigmoid", z)
    assert_same(slope, sigmoid)


@usual
@given(given=typed((N,), size=1e4), factor=st.floats(2.0**-20, 2.0**20, width=32))
def test_relu_goes_through_positive_factors(library, given, factor):
    """relu(a z) = a relu(z) for every a > 0, bit by bit: a maximum rounds nothing."""
    dtype, z = given
    scaled = z * np.asarray(factor, dtype)
    # compiled code of JAX takes numbers below the smallest normal one for zero
    assume(all((abs(a[a != 0.0]) >= np.finfo(dtype).tiny).all() for a in (z, scaled)))
    (y, dz), (y_scaled, dz_scaled) = evaluate(library, "relu", z), evaluate(library, "relu", scaled)
    assert_same(y_scaled, y * np.asarray(factor, dtype))
    assume(((z == 0.0) == (scaled == 0.0)).all())
    assert_same(dz_scaled, dz)


@usual
@every_activation
@given(given=typed((N,), (N,), (N,), size=50.0), power=st.integers(-20, 20))
def test_pullbacks_of_activations_are_linear(light, name, given, power):
    """A power of two passes bit by bit (no product is so small); a sum but for four roundings of its terms."""
    dtype, z, a, b = given
    scale, tiny = 2.0**power, 2.0**-60
    a, b = (np.where(np.abs(v) < tiny, 0.0, v).astype(dtype) for v in (a, b))
    (_, of_a), (_, of_b), (_, of_sum), (_, slope) = (evaluate(light, name, z, dy) for dy in (a, b, a + b, None))
    _, of_scaled = evaluate(light, name, z, (scale * a).astype(dtype))
    large = np.abs(slope) > tiny  # the slopes of far points fall below all numbers
    assert_same(of_scaled[large], (scale * of_a).astype(dtype)[large])
    size = np.abs(slope) * (np.abs(a) + np.abs(b)).astype(np.float64)
    assert_within(of_sum, of_a.astype(np.longdouble) + of_b, 4.0 * tolerances.rounded(size, dtype) + NORMAL[dtype])


# -- losses -----------------------------------------------------------------------------------------------------------

ROWS, K = 3, 4
BATCH = (ROWS, K)
every_loss = pytest.mark.parametrize("name", LOSSES)
# exp(y) of poisson is kept in range
LOGITS = typed(BATCH, BATCH, BATCH, size=20.0)


def target(name, raw):
    """Turn any numbers into targets of a loss: distributions, numbers in [0, 1], any, or counts."""
    wide = raw.astype(np.float64)
    if LOSSES[name].kind == "classes":
        e = np.exp(wide - wide.max(axis=-1, keepdims=True))
        wide = e / e.sum(axis=-1, keepdims=True)
    elif LOSSES[name].kind == "binary":
        wide = 0.5 + 0.5 * np.tanh(wide / 2.0)
    elif name == "poisson":
        wide = np.abs(np.round(wide))
    return np.where(np.abs(wide) < 1e-30, 0.0, wide).astype(raw.dtype)


def judge(library, pair, y, t, dvalues=None):
    values, vjp = pair(library.make(y), library.make(t))
    (dy,) = vjp(library.make(np.ones_like(y[:, 0]) if dvalues is None else dvalues))
    return library.to_numpy(values), library.to_numpy(dy)


def terms(name, y, t):
    """Return a bound of the terms that a value is the sum of, one for each sample."""
    y, t = y.astype(np.float64), t.astype(np.float64)
    size = 1.0 + np.abs(y).max(axis=-1) + np.abs(t).max(axis=-1)
    if name in ("mse", "mae", "huber"):
        return size * size
    return np.exp(y).max(axis=-1) + size * size if name == "poisson" else 2.0 * size + np.log(K)


@usual
@every_loss
@given(given=LOGITS)
def test_losses_are_not_negative(light, name, given):
    """Exactly: no rounding turns a sum of terms that are not negative. poisson has its least value at y = log t."""
    dtype, y, raw, _ = given
    t = target(name, raw)
    values, _ = judge(light, LOSSES[name].pair, y, t)
    if name != "poisson":
        assert (values >= 0.0).all()
        return
    wide = t.astype(np.float64)
    least = (wide - wide * np.log(np.maximum(wide, 1.0))).mean(axis=-1)
    slack = [tolerances.few_steps(size, dtype) for size in terms(name, y, t)]
    assert (values >= least - np.asarray(slack)).all()


@usual
@every_loss
@given(given=LOGITS)
def test_losses_are_convex(light, name, given):
    """Half way between two outputs no loss is above the mean of theirs."""
    dtype, a, b, raw = given
    t = target(name, raw)
    pair = LOSSES[name].pair
    middle = ((a.astype(np.float64) + b) / 2.0).astype(dtype)
    at_a, at_b, between = (judge(light, pair, y, t)[0].astype(np.float64) for y in (a, b, middle))
    slack = [tolerances.few_steps(size, dtype) for size in terms(name, a, t) + terms(name, b, t)]
    assert (between <= (at_a + at_b) / 2.0 + slack).all()


@usual
@every_loss
@given(given=typed(BATCH, BATCH, ROWS, ROWS, size=20.0), power=st.integers(-20, 20))
def test_pullbacks_of_losses_are_linear(light, name, given, power):
    """A power of two passes bit by bit; a sum but for four roundings of its terms."""
    dtype, y, raw, a, b = given
    t, pair = target(name, raw), LOSSES[name].pair
    tiny = 2.0**-60
    a, b = (np.where(np.abs(v) < tiny, 0.0, v).astype(dtype) for v in (a, b))
    of_a, of_b, of_sum, slope = (judge(light, pair, y, t, dvalues)[1] for dvalues in (a, b, a + b, None))
    _, of_scaled = judge(light, pair, y, t, (2.0**power * a).astype(dtype))
    large = np.abs(slope) > 2.0**-40
    assert_same(of_scaled[large], (2.0**power * of_a).astype(dtype)[large])
    size = np.abs(slope) * (np.abs(a) + np.abs(b)).astype(np.float64)[:, None]
    assert_within(of_sum, of_a.astype(np.longdouble) + of_b, 4.0 * tolerances.rounded(size, dtype) + NORMAL[dtype])


@usual
@given(given=typed(BATCH, BATCH, size=1e4), shift=reals(1e4, "float32"))
def test_cross_entropy_does_not_see_a_shift_of_all_logits(library, given, shift):
    """Rounding of y + c moves each logit by u |y + c|, and the value by at most twice the largest of these.

    The derivative of a softmax moves by at most twice that too. The rest is that of the formula itself, whose terms
    are y - max y and the logarithm of at most K.
    """
    dtype, y, raw = given
    t = target("cross_entropy", raw / 1e3)
    moved = (y + np.asarray(shift, dtype)).astype(dtype)
    (values, dy), (shifted, dy_shifted) = (judge(library, cross_entropy, logits, t) for logits in (y, moved))
    wide = y.astype(np.float64)
    rounding = 2.0 * tolerances.rounded(wide + shift, dtype).max(axis=-1)
    spread = wide.max(axis=-1) - wide.min(axis=-1) + np.log(K)
    own = np.asarray([tolerances.few_steps(s, dtype) for s in spread])
    assert_within(shifted, values.astype(np.longdouble), own + rounding)
    # the exponent of a softmax is y - max y, rounded
    assert_within(dy_shifted, dy.astype(np.longdouble), (own + rounding)[:, None])


@usual
@given(given=LOGITS, share=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_cross_entropy_is_linear_in_its_target_and_its_derivatives_add_up_to_0(library, given, share):
    dtype, y, first, second = given
    p, q = target("cross_entropy", first), target("cross_entropy", second)
    mixed = (share * p + (1.0 - share) * q).astype(dtype)
    (at_p, dy), (at_q, _), (at_mixed, _) = (judge(library, cross_entropy, y, t) for t in (p, q, mixed))
    bound = np.asarray([tolerances.few_steps(size, dtype) for size in terms("cross_entropy", y, p)])
    assert_within(at_mixed, share * at_p.astype(np.longdouble) + (1.0 - share) * at_q.astype(np.longdouble), bound)
    assert_within(dy.astype(np.longdouble).sum(axis=-1), np.zeros(ROWS), tolerances.few_steps(1.0, dtype))


@usual
@given(given=typed((ROWS, 1), (ROWS, 1), size=1e4))
def test_a_yes_or_no_question_is_one_of_two_classes(library, given):
    """Sigmoid of y is the softmax of (0, y); and the question turned around has the answer turned around."""
    dtype, y, raw = given
    t = target("binary_cross_entropy", raw)
    value, dy = judge(library, binary_cross_entropy, y, t)
    both = np.concatenate([1.0 - t, t], axis=1).astype(dtype)
    of_two, dy_of_two = judge(library, cross_entropy, np.concatenate([0.0 * y, y], axis=1), both)
    turned, dy_turned = judge(library, binary_cross_entropy, -y, both[:, :1])
    bound = np.asarray([tolerances.few_steps(1.0 + abs(v), dtype) for v in y[:, 0].astype(np.float64)])
    assert_within(of_two, value.astype(np.longdouble), bound)
    assert_within(turned, value.astype(np.longdouble), bound)
    slack = tolerances.few_steps(1.0, dtype)
    assert_within(dy_of_two[:, 1:], dy.astype(np.longdouble), slack)
    assert_within(dy_turned, -dy.astype(np.longdouble), slack)


@usual
@given(given=LOGITS, delta=st.floats(2.0**-6, 2.0**6, width=32))
def test_huber_lies_below_the_square_and_below_the_line(library, given, delta):
    """min(d^2/2, delta |d|) is above it, by at most delta^2/2; its derivative is held in [-delta, delta] / K."""
    dtype, y, t, _ = given
    value, dy = judge(library, functools.partial(huber, delta=delta), y, t)
    square, line = judge(library, mse, y, t)[0] / 2.0, delta * judge(library, mae, y, t)[0]
    slack = np.asarray(
        [tolerances.few_steps(delta * delta + size, dtype) for size in terms("huber", y, t) * (1 + delta)]
    )
    assert (value <= np.minimum(square, line) + slack).all()
    assert (value >= line - delta * delta / 2.0 - slack).all()
    assert (np.abs(dy) <= delta / K + tolerances.few_steps(delta / K, dtype)).all()


@usual
@pytest.mark.parametrize("name", ["mse", "mae", "huber", "poisson", "binary_cross_entropy"])
@given(given=LOGITS)
def test_losses_are_least_where_outputs_say_the_target(light, name, given):
    """There the derivative is 0: exactly where outputs are compared with targets, else up to rounding of the link."""
    dtype, y, _, _ = given
    wide = y.astype(np.float64)
    link = {"poisson": np.exp, "binary_cross_entropy": lambda v: 1.0 / (1.0 + np.exp(-v))}.get(name)
    t = y if link is None else link(wide).astype(dtype)
    values, dy = judge(light, LOSSES[name].pair, y, t)
    if link is None:
        assert not values.any()
        assert not dy.any()
    assert_within(dy, np.zeros(BATCH), [[tolerances.few_steps(v, dtype) for v in row] for row in t.astype(np.float64)])


# -- the affine map ---------------------------------------------------------------------------------------------------

# shapes change from example to example, for which JAX would compile everything anew
eager = pytest.mark.parametrize("backend", ["numpy", "torch"])


@usual
@eager
@given(
    data=st.data(),
    shape=st.tuples(st.integers(0, 300), st.integers(1, 6), st.integers(1, 6)),
    members=st.sampled_from([(), (1,), (3,)]),
    dtype=DTYPES,
)
def test_the_affine_map_of_whole_numbers_is_exact(backend, data, shape, members, dtype):
    """Products up to 64 and sums of 300: every partial sum is a whole number that float32 holds."""
    backend, (n, fan_in, fan_out) = opened(backend), shape
    draws = np.random.default_rng(data.draw(SEEDS))
    shapes = [(n, fan_in), (*members, fan_in, fan_out), (*members, fan_out), (*members, n, fan_out)]
    x, weight, bias, dy = (draws.integers(-8, 9, size=s).astype(dtype) for s in shapes)
    y, vjp = linear(*(backend.asarray(a) for a in (x, weight, bias)))
    assert_same(backend.to_numpy(y), x @ weight + bias[..., None, :])
    dx, dweight, dbias = (backend.to_numpy(a) for a in vjp(backend.asarray(dy)))
    assert_same(dx, (dy @ np.swapaxes(weight, -1, -2)).sum(axis=tuple(range(len(members)))))
    assert_same(dweight, x.T @ dy)
    assert_same(dbias, dy.sum(axis=-2))


# -- networks ---------------------------------------------------------------------------------------------------------

SMOOTH = ["identity", "elu", "tanh", "sigmoid", "softplus", "gelu", "gelu_tanh", "silu", "mish"]


@st.composite
def networks(draw, activations=SMOOTH, bias=None, members=None):
    """Return (sizes, options of MLP, seed of the numbers)."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    hidden = draw(st.lists(st.sampled_from(activations), min_size=len(sizes) - 2, max_size=len(sizes) - 2))
    with_bias = draw(st.lists(st.booleans(), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    options = {"activation": hidden, "bias": with_bias if bias is None else bias, "init": "lecun_normal"}
    return sizes, {**options, "members": members, "dtype": "float64"}, draw(SEEDS)


def built(backend, case, n):
    """Return a network with its biases off 0, and inputs and targets of ``n`` samples, as NumPy arrays."""
    sizes, options, seed = case
    opened(backend)
    model = portnn.MLP(sizes, backend=backend, seed=seed, **options)
    draws = np.random.default_rng(seed)
    shape = tuple(model.params.shape)
    model.params = model.backend.to_numpy(model.params) + 0.3 * draws.normal(size=shape)
    return model, draws.normal(size=(n, sizes[0])), draws


def targets_of(name, draws, n, outputs):
    return target(name, 2.0 * draws.normal(size=(n, outputs)))


def gradient(model, x, t, name, **options):
    value, grad = model.loss_and_grad(model.backend.asarray(x), t, name, **options)
    return model.backend.to_numpy(value), model.backend.to_numpy(grad)


def of_each(model, x, t, name):
    """Return losses and gradients of the samples one by one: what a mean is made of, and may cancel."""
    return zip(*(gradient(model, x[i : i + 1], t[i : i + 1], name) for i in range(len(x))), strict=True)


@usual
@eager
@every_loss
@given(case=networks(), n=st.integers(2, 9), data=st.data())
def test_the_gradient_of_a_batch_is_the_mean_of_its_parts(backend, name, case, n, data):
    """Wherever the batch is cut, each part counts by its size."""
    model, x, draws = built(backend, case, n)
    t = targets_of(name, draws, n, model.sizes[-1])
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=3)))
    value, grad = gradient(model, x, t, name)
    parts = [(len(a), *gradient(model, a, b, name)) for a, b in zip(np.split(x, cuts), np.split(t, cuts), strict=True)]
    values, grads = of_each(model, x, t, name)
    assert_within(sum(k * v for k, v, _ in parts) / n, value, tolerances.few_steps(values, "float64"))
    assert_within(sum(k * g for k, _, g in parts) / n, grad, tolerances.first_gradient(grads, "float64"))


@few
@eager
@every_loss
@given(case=networks(), weight=st.lists(st.integers(0, 3), min_size=2, max_size=6).filter(any))
def test_a_whole_weight_is_the_sample_that_often(backend, name, case, weight):
    n = len(weight)
    model, x, draws = built(backend, case, n)
    t, rows = targets_of(name, draws, n, model.sizes[-1]), np.repeat(np.arange(n), weight)
    value, grad = gradient(model, x, t, name, sample_weight=np.asarray(weight, dtype="float64"))
    again, grad_again = gradient(model, x[rows], t[rows], name)
    values, grads = of_each(model, x, t, name)
    assert_within(value, again, tolerances.few_steps(values, "float64"))
    assert_within(grad, grad_again, tolerances.first_gradient(grads, "float64"))


def size_of_outputs(model, x):
    """Return the largest sum of magnitudes an output is made of: |x| |W| + |b|, layer after layer.

    No activation here is steeper than 1.13 or above log 2 at 0, so that errors of earlier layers arrive no larger than
    this bound times theirs.
    """
    size = np.abs(x)
    for weight, bias in zip(model.weights, model.biases, strict=True):
        size = size @ np.abs(model.backend.to_numpy(weight))
        size = size if bias is None else size + np.abs(model.backend.to_numpy(bias))[..., None, :]
        size = 1.13 * size + math.log(2.0)
    return float(size.max())


@usual
@eager
@given(case=networks(), n=st.integers(1, 12), data=st.data())
def test_rows_that_change_places_take_their_outputs_along(backend, case, n, data):
    model, x, _ = built(backend, case, n)
    order = np.asarray(data.draw(st.permutations(range(n))))
    there, moved = (model.backend.to_numpy(model(model.backend.asarray(a))) for a in (x, x[order]))
    assert_within(moved, there[order], tolerances.few_steps(size_of_outputs(model, x), "float64"))


@few
@eager
@every_loss
@given(case=networks(members=3), n=st.integers(1, 6))
def test_members_compute_what_each_computes_alone(backend, name, case, n):
    model, x, draws = built(backend, case, n)
    t = targets_of(name, draws, n, model.sizes[-1])
    values, grads = gradient(model, x, t, name)
    y = model.backend.to_numpy(model(model.backend.asarray(x)))
    sizes, options, seed = case
    alone = portnn.MLP(sizes, backend=backend, seed=seed, **{**options, "members": None})
    for i in range(3):
        alone.params = model.params[i, :]
        value, grad = gradient(alone, x, t, name)
        each, grad_each = of_each(alone, x, t, name)
        own = model.backend.to_numpy(alone(model.backend.asarray(x)))
        assert_within(y[i], own, tolerances.few_steps(size_of_outputs(alone, x), "float64"))
        assert_within(values[i], value, tolerances.few_steps(each, "float64"))
        assert_within(grads[i], grad, tolerances.first_gradient(grad_each, "float64"))


# one architecture, so that it is cheap on every library
WIDTHS = [3, 5, 2]


def scaled_hidden_units(params, powers):
    """Return the parameters with W1 and b1 of unit j times 2^powers[j] and its row of W2 divided by that."""
    factors = 2.0 ** np.asarray(powers, dtype=np.float64)
    w1, b1, w2, b2 = np.split(params, [15, 20, 30])
    w1, w2 = w1.reshape(3, 5) * factors, w2.reshape(5, 2) / factors[:, None]
    return np.concatenate([w1.reshape(-1), b1 * factors, w2.reshape(-1), b2])


@few
@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.25)", "identity"])
@given(powers=st.lists(st.integers(-12, 12), min_size=5, max_size=5), seed=SEEDS, dtype=DTYPES)
def test_what_a_hidden_unit_gains_its_weights_may_lose(library, activation, powers, seed, dtype):
    """Powers of two round nothing: outputs are bit-equal, and gradients are those of the scaled parameters."""
    model = portnn.MLP(WIDTHS, activation=activation, dtype=dtype, **library.where)
    draws = np.random.default_rng(seed)
    params, x, dy = (draws.normal(size=s).astype(dtype) for s in (model.n_params, (4, 3), (4, 2)))
    results = []
    for values in (params, scaled_hidden_units(params, powers).astype(dtype)):
        y, vjp = model.forward(library.make(values, dtype), library.make(x))
        results.append([library.to_numpy(a) for a in (y, *vjp(library.make(dy)))])
    (y, grad, dx), (y_scaled, grad_scaled, dx_scaled) = results
    assert_same(y_scaled, y)
    assert_same(dx_scaled, dx)
    # what multiplies a parameter divides its derivative
    assert_same(grad_scaled, scaled_hidden_units(grad, [-p for p in powers]).astype(dtype))


@usual
@given(power=st.integers(-12, 12), seed=SEEDS, dtype=DTYPES)
def test_a_relu_network_without_biases_goes_through_powers_of_two(library, power, seed, dtype):
    model = portnn.MLP(WIDTHS, bias=False, dtype=dtype, **library.where)
    draws = np.random.default_rng(seed)
    params, x = (draws.normal(size=s).astype(dtype) for s in (model.n_params, (4, 3)))
    params = library.make(params)
    y, y_scaled = (library.to_numpy(model.apply(params, library.make(f * x, dtype))) for f in (1.0, 2.0**power))
    assert_same(y_scaled, (2.0**power * y).astype(dtype))


@few
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@given(power=st.integers(-12, 12), seed=SEEDS, dtype=DTYPES)
def test_the_pullback_of_a_network_is_linear(library, activation, power, seed, dtype):
    """Twice the cotangent, twice the gradient, bit by bit; no cotangent, no gradient."""
    model = portnn.MLP(WIDTHS, activation=activation, dtype=dtype, seed=seed, **library.where)
    draws = np.random.default_rng(seed)
    x, dy = (draws.normal(size=s).astype(dtype) for s in ((4, 3), (4, 2)))
    _, vjp = model.vjp(library.make(x))
    once, scaled, none = (
        [library.to_numpy(a) for a in vjp(library.make(f * dy, dtype))] for f in (1.0, 2.0**power, 0.0)
    )
    for a, b, zero in zip(once, scaled, none, strict=True):
        assert_same(b, (2.0**power * a).astype(dtype))
        assert not zero.any()


# -- optimizers and clipping ------------------------------------------------------------------------------------------

# name -> optimizer for a factor on rate, and one on eps
MAKERS = {
    "sgd": lambda rate, eps: SGD(0.1 * rate),
    "momentum": lambda rate, eps: SGD(0.1 * rate, momentum=0.9),
    "nesterov": lambda rate, eps: SGD(0.1 * rate, momentum=0.9, nesterov=True),
    "adam": lambda rate, eps: Adam(0.01, eps=1e-8 * eps),
    "amsgrad": lambda rate, eps: Adam(0.01, eps=1e-8 * eps, amsgrad=True),
    "adamw": lambda rate, eps: AdamW(0.01, eps=1e-8 * eps, weight_decay=0.1),
    "rmsprop": lambda rate, eps: RMSprop(0.01, eps=1e-8 * eps),
    "rmsprop-momentum": lambda rate, eps: RMSprop(0.01, eps=1e-8 * eps, momentum=0.5),
    "adagrad": lambda rate, eps: Adagrad(0.01, eps=1e-8 * eps),
}
every_optimizer = pytest.mark.parametrize("name", MAKERS)


def descend(library, optimizer, start, gradients):
    params = library.make(start, given_up=True)
    state = optimizer.init(params)
    for step, grad in enumerate(gradients):
        params, state = optimizer.update(params, library.make(grad, given_up=True), state, optimizer.row(step))
    return library.to_numpy(params)


@few
@every_optimizer
@given(given=typed((N,), (2, N), size=1e3), power=st.integers(-10, 10))
def test_optimizers_with_a_scale_of_their_own_do_not_see_that_of_the_loss(library, name, given, power):
    """A loss in other units: gradients times 2^k, eps with them; plain descent wants the rate divided by that.

    Bit by bit, as long as squares stay among the normal numbers.
    """
    _, start, gradients = given
    factor = 2.0**power
    gradients = np.where(np.abs(gradients) < 1e-12, 0.0, gradients).astype(gradients.dtype)
    plain = descend(library, MAKERS[name](1.0, 1.0), start, gradients)
    scaled = descend(library, MAKERS[name](1.0 / factor, factor), start, (factor * gradients).astype(start.dtype))
    assert_same(scaled, plain)


@few
@every_optimizer
@given(given=typed((N,), (2, N), size=1e18))
def test_a_rate_of_zero_changes_nothing(library, name, given):
    """Whatever the gradients are, as long as their squares can be held; a constant rate of 0 is refused."""
    _, start, gradients = given
    optimizer = MAKERS[name](1.0, 1.0)
    still = type(optimizer)(**{**vars(optimizer), "learning_rate": schedules.constant(0.0)})
    assert_same(descend(library, still, start, gradients), start)
    with pytest.raises(ValueError, match="learning_rate must be a number in"):
        type(optimizer)(**{**vars(optimizer), "learning_rate": 0.0})


@usual
@given(given=st.one_of(typed((4,), size=1e30), typed((4,), size=2.0)), limit=st.floats(2.0**-10, 2.0**10, width=32))
@example(given=("float32", np.asarray([3.0, 4.0, 0.0, 0.0], "float32")), limit=5.0)
@example(given=("float64", np.full(4, 0.1)), limit=2.0**-10)
@example(given=("float64", np.asarray([0.1, 0.2, 0.3, 0.7])), limit=3.0)
@example(given=("float32", np.asarray([0.1, 0.2, 0.3, 0.7], "float32")), limit=7.0)
def test_a_clipped_gradient_is_within_its_norm_and_points_the_same_way(library, given, limit):
    """Unless it was within the limit, when it stays as it is; squares of 1e30 would overflow float32."""
    dtype, grad = given
    got = library.to_numpy(clip_by_norm(library.make(grad), library.make(limit, dtype)))
    wide = grad.astype(np.longdouble)
    norm = np.sqrt((wide * wide).sum())
    length = np.sqrt((got.astype(np.longdouble) ** 2).sum())
    assert length <= tolerances.norm_limit(limit, dtype)
    if norm <= limit * (1.0 - tolerances.few_steps(1.0, dtype)):
        assert_same(got, grad)
    expected = wide * min(1.0, limit / norm) if norm else wide
    bound = [tolerances.few_steps(v, dtype) + NORMAL[dtype] for v in expected]
    assert_within(got, expected, bound)


@usual
@given(given=typed((N,), size=1e30), limit=st.floats(2.0**-10, 2.0**10, width=32))
def test_clipping_by_value_twice_is_once_and_spares_what_is_within(library, given, limit):
    dtype, grad = given
    limit = library.make(limit, dtype)
    once = clip_by_value(library.make(grad), limit)
    twice, once, most = (library.to_numpy(a) for a in (clip_by_value(once, limit), once, limit))
    assert_same(twice, once)
    assert (np.abs(once) <= most).all()
    assert_same(once[np.abs(grad) <= most], grad[np.abs(grad) <= most])
    assert (np.sign(once) == np.sign(grad)).all()


# -- schedules --------------------------------------------------------------------------------------------------------

RATES = st.floats(1e-6, 10.0)
PARTS = st.floats(0.0, 1.0)
COUNTS = st.integers(1, 10_000)
WHEN = st.lists(st.integers(0, 20_000), min_size=2, max_size=8)


def along(schedule, when):
    """Return the rates at steps in order, all of them Python floats."""
    rates = [schedule(step) for step in sorted(when)]
    assert all(type(rate) is float for rate in rates)
    return np.asarray(rates)


@usual
@given(rate=RATES, every=COUNTS, factor=st.floats(1e-3, 1.0), power=st.floats(0.0, 2.0), when=WHEN)
def test_schedules_that_fall_never_rise(rate, every, factor, power, when):
    for schedule in (
        schedules.step_decay(rate, every, factor),
        schedules.exponential(rate, every, factor),
        schedules.inverse_scaling(rate, power),
    ):
        rates = along(schedule, [0, *when])
        assert rates[0] == rate
        assert (rates >= 0.0).all()
        assert (np.diff(rates) <= tolerances.rounded(rates[:-1], "float64") * tolerances.ULPS).all()


@usual
@given(rate=RATES, part=PARTS, steps=COUNTS, share=PARTS, when=WHEN)
def test_a_cosine_rises_to_the_rate_and_falls_to_the_final_one(rate, part, steps, share, when):
    warmup, final = int(share * (steps - 1)), part * rate
    schedule, slack = schedules.cosine(rate, steps, warmup, final), tolerances.few_steps(rate, "float64")
    rates = along(schedule, when)
    up, down = rates[np.sort(when) < warmup], rates[np.sort(when) >= warmup]
    assert (np.diff(up) >= -slack).all()
    assert (np.diff(down) <= slack).all()
    assert (up >= rate / (warmup + 1) - slack).all()
    assert (up < rate + slack).all()
    assert (down >= final - slack).all()
    assert_within([schedule(warmup), schedule(steps), schedule(steps + 7)], [rate, final, final], slack)


@usual
@given(rate=RATES, steps=st.integers(2, 10_000), rise=st.floats(0.01, 0.99), start=PARTS, final=PARTS, when=WHEN)
def test_one_cycle_stays_between_its_end_and_its_peak(rate, steps, rise, start, final, when):
    schedule, slack = schedules.one_cycle(rate, steps, rise, start, final), tolerances.few_steps(rate, "float64")
    rates = along(schedule, when)
    peak = max(rise * steps - 1.0, 0.0)
    order = np.sort(when)
    assert (np.diff(rates[order <= peak]) >= -slack).all()
    assert (np.diff(rates[order > peak]) <= slack).all()
    assert (rates >= start * final * rate - slack).all()
    assert (rates <= rate + slack).all()
    assert_within(schedule(steps - 1), start * final * rate, slack)


@usual
@given(
    losses=st.lists(st.floats(-1e3, 1e3), max_size=30),
    patience=st.integers(0, 4),
    factor=st.floats(0.01, 0.99),
    part=PARTS,
)
def test_a_plateau_lowers_the_rate_and_keeps_the_minimum(losses, patience, factor, part):
    rates, schedule = [1.0], schedules.ReduceOnPlateau(1.0, factor, patience, minimum=part)
    for loss in losses:
        schedule.observe(loss)
        rates.append(schedule(0))
    assert (np.diff(rates) <= 0.0).all()
    assert min(rates) >= part
    assert len(set(rates)) <= 1 + len(losses) // (patience + 1)


# -- the order of the samples -----------------------------------------------------------------------------------------


@usual
@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**31), n=st.integers(0, 300))
def test_an_order_is_a_permutation_and_a_function_of_its_arguments(seed, epoch, n):
    order = random.order(seed, epoch, n)
    assert sorted(order.tolist()) == list(range(n))
    assert_same(random.order(seed, epoch, n), order)


@usual
@given(seed=st.integers(0, 2**64 - 2), epoch=st.integers(0, 2**31), later=st.integers(1, 1000))
def test_orders_of_epochs_and_seeds_are_independent(seed, epoch, later):
    """Ranks of one say nothing about those of another: the mean of their products, standardized, is a mean of n."""
    n = 400

    def standardized(order):
        return (order - (n - 1) / 2.0) / np.std(np.arange(n))

    first = standardized(random.order(seed, epoch, n))
    for other in (random.order(seed, epoch + later, n), random.order(seed + 1, epoch, n)):
        product = first * standardized(other)
        assert_within(product.mean(), 0.0, tolerances.standard_error(1.0, n))


# -- files ------------------------------------------------------------------------------------------------------------


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


KEPT = st.one_of(
    st.sampled_from(list(ACTIVATIONS)),
    st.floats(0.0, 1.0).map(lambda slope: f"leaky_relu({slope})"),
    st.floats(1e-300, 1e300).map(lambda alpha: f"elu({alpha})"),
)


@st.composite
def saved(draw):
    """Return the arguments of a network, and parameters of any finite value: subnormal, -0, the largest."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    layers = len(sizes) - 1
    members = draw(st.one_of(st.none(), st.integers(1, 3)))
    seed = st.integers(0, 2**64 - 1)
    seeds = seed if members is None else st.one_of(seed, st.lists(seed, min_size=members, max_size=members))
    options = {
        "activation": draw(st.lists(KEPT, min_size=layers, max_size=layers)),
        "bias": draw(st.lists(st.booleans(), min_size=layers, max_size=layers)),
        "dtype": draw(DTYPES),
        "members": members,
        "seed": draw(seeds),
    }
    last = layout(sizes, options["activation"], options["bias"])[-1]
    n = (last.weight if last.bias is None else last.bias).stop
    shape = (n,) if members is None else (members, n)
    width = 32 if options["dtype"] == "float32" else 64
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    return sizes, options, draw(hnp.arrays(options["dtype"], shape, elements=finite))


@usual
@given(case=saved())
def test_saved_loaded_and_saved_again_a_model_has_the_same_bytes(tmp_path_factory, case):
    sizes, options, params = case
    folder = tmp_path_factory.mktemp("model")
    model = portnn.MLP(sizes, init="zeros", **options)
    model.params = params
    model.save(folder / "a")
    loaded = portnn.MLP.load(folder / "a")
    loaded.save(folder / "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert same_bits(loaded.params, params)
    assert (repr(loaded), loaded.seed) == (repr(model), model.seed)


@usual
@given(
    x=hnp.arrays(st.sampled_from(["u1", "f4", "f8"]), hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4)),
    kind=st.sampled_from(["u1", "i4", "i8", "f4", "f8"]),
    outputs=st.sampled_from([None, 1, 3]),
    data=st.data(),
)
def test_a_data_set_comes_back_from_its_file(tmp_path_factory, x, kind, outputs, data):
    """Images flattened; whole labels (n,) or (n, 1) as int64, other rows as numbers: but for rows that are one-hot.

    Rows of integers are the least float that holds all of them, and refused where none does.
    """
    shape = (len(x),) if outputs is None else (len(x), outputs)
    t = data.draw(hnp.arrays(kind, shape))
    assume(outputs in (None, 1) or not ((t == 1).sum(axis=1) == 1).all())
    path = tmp_path_factory.mktemp("set") / "a"
    write_safetensors_file(path, {"train_images": x, "train_labels": t})
    of_rows = t.dtype.kind != "f" and outputs not in (None, 1)
    if of_rows and any(abs(int(v)) > 2**53 for v in t.flat):
        with pytest.raises(portnn.FormatError, match=r"beyond 2\*\*53"):
            read_safetensors(path)
        return
    got_x, got_t = read_safetensors(path)
    assert same_bits(got_x, x.reshape(len(x), -1))
    if t.dtype.kind == "f":
        expected = t
    else:
        narrow = all(int(np.float32(v)) == int(v) for v in t.flat)
        expected = t.astype("float32" if narrow else "float64") if of_rows else t.reshape(-1).astype("int64")
    assert same_bits(got_t, expected)


@usual
@given(
    table=hnp.arrays(
        "f8",
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=4),
        elements=st.one_of(st.floats(-1e30, 1e30), st.integers(-(2**60), 2**60).map(float)),
    ),
    dtype=DTYPES,
    delimiter=st.sampled_from([",", ";", "\t", " "]),
    ending=st.sampled_from(["\n", "\r\n"]),
    header=st.booleans(),
)
def test_a_table_comes_back_from_its_text(tmp_path_factory, table, dtype, delimiter, ending, header):
    """Python's shortest digits read back as the same float64, which a float32 table rounds once."""
    lines = [delimiter.join(map(repr, row)) for row in table.tolist()]
    if header:
        lines.insert(0, delimiter.join(f"column{i}" for i in range(table.shape[1])))
    path = tmp_path_factory.mktemp("table") / "a.csv"
    path.write_bytes(ending.join(lines).encode())
    x, t = read_csv(path, target=-1, header="auto" if header else False, delimiter=delimiter, dtype=dtype)
    assert_same(x, table[:, :-1].astype(dtype))
    whole = (table[:, -1] == np.trunc(table[:, -1])).all() and (np.abs(table[:, -1]) <= 2.0**53).all()
    assert_same(t, table[:, -1].astype("int64" if whole else dtype))
