"""The losses against torch.nn.functional, means and weights against their definition, far logits against the truth."""

from functools import partial, wraps

import numpy as np
import pytest
import tolerances
from tolerances import Exact, assert_same, assert_ulps, assert_within

import portnn
from portnn.losses import (
    LOSSES,
    binary_cross_entropy,
    cross_entropy,
    get_loss,
    huber,
    mae,
    mse,
    one_hot,
    penalty,
    poisson,
    weighted_mean,
)

rng = np.random.default_rng(3)
N, K = 8, 4
Y = rng.normal(size=(N, K)) * 3.0
LABELS = np.asarray([0, 3, 1, 1, 2, 0, 1, 3])
ONE_HOT = np.eye(K)[LABELS]
MIXED = rng.dirichlet(np.ones(K), size=N)
TARGETS = rng.normal(size=(N, K)) * 3.0
YES_NO = (rng.random((N, K)) < 0.4).astype(float)
SHARES = rng.random((N, K))
COUNTS = rng.integers(0, 5, size=(N, K)).astype(float)
WEIGHTS = np.asarray([1.0, 0.0, 2.5, 1.0, 0.5, 3.0, 0.0, 1.0])


def torch_loss(name, y, t, **options):
    """Return one loss per sample from torch.nn.functional: the mean over outputs, as portnn has it."""
    import torch

    if t.dtype.kind == "i":
        t = t.astype(np.int64)
    values = getattr(torch.nn.functional, name)(y, torch.asarray(t), reduction="none", **options)
    return values if values.ndim == 1 else values.mean(dim=-1)


# id -> (ours, theirs, targets, their options)
CASES = {
    "cross_entropy-labels": (cross_entropy, "cross_entropy", LABELS, {}),
    "cross_entropy-one_hot": (cross_entropy, "cross_entropy", ONE_HOT, {}),
    "cross_entropy-probabilities": (cross_entropy, "cross_entropy", MIXED, {}),
    "cross_entropy-smoothed": (
        partial(cross_entropy, label_smoothing=0.1),
        "cross_entropy",
        LABELS,
        {"label_smoothing": 0.1},
    ),
    "cross_entropy-smoothed-probabilities": (
        partial(cross_entropy, label_smoothing=0.3),
        "cross_entropy",
        MIXED,
        {"label_smoothing": 0.3},
    ),
    "binary-labels": (binary_cross_entropy, "binary_cross_entropy_with_logits", YES_NO, {}),
    "binary-probabilities": (binary_cross_entropy, "binary_cross_entropy_with_logits", SHARES, {}),
    "mse": (mse, "mse_loss", TARGETS, {}),
    "mae": (mae, "l1_loss", TARGETS, {}),
    "huber": (huber, "huber_loss", TARGETS, {}),
    "huber-delta": (partial(huber, delta=2.5), "huber_loss", TARGETS, {"delta": 2.5}),
    "poisson": (poisson, "poisson_nll_loss", COUNTS, {}),
}
case = pytest.mark.parametrize(("ours", "theirs", "t", "options"), CASES.values(), ids=CASES)


@case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_derivatives_are_those_of_torch(library, ours, theirs, t, options, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    y = Y.astype(dtype)
    t = t if t.dtype.kind == "i" else t.astype(dtype)
    reference = torch.asarray(y.astype("float64"), requires_grad=True)
    values = torch_loss(theirs, reference, t if t.dtype.kind == "i" else t.astype("float64"), **options)
    cotangent = np.linspace(-1.0, 2.0, N).astype(dtype)
    (dy,) = torch.autograd.grad(values, reference, torch.asarray(cotangent.astype("float64")))

    got, vjp = ours(library.make(y), library.make(t))
    got, (got_dy,) = library.to_numpy(got), vjp(library.make(cotangent))
    got_dy = library.to_numpy(got_dy)
    assert {got.dtype, got_dy.dtype} == {np.dtype(dtype)}
    values = values.detach().numpy()
    assert_within(got, values, tolerances.few_steps(values, dtype))
    assert_within(got_dy, dy.numpy(), tolerances.first_gradient(dy.numpy(), dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("total", [0.5, 1.0, 1.25])
def test_cross_entropy_of_rows_that_do_not_add_up_to_1(library, total, dtype):
    """dy = softmax(y) sum(t) - t: rounding leaves the sums of rows of quotients off 1, which must not show in dy."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    y, t = torch.asarray(Y.astype(dtype).astype("float64"), requires_grad=True), (total * MIXED).astype(dtype)
    expected = torch.nn.functional.cross_entropy(y, torch.asarray(t.astype("float64")), reduction="none")
    (expected_dy,) = torch.autograd.grad(expected.sum(), y)
    expected, expected_dy = expected.detach().numpy(), expected_dy.numpy()
    values, vjp = cross_entropy(library.make(Y, dtype), library.make(t))
    assert_within(library.to_numpy(values), expected, tolerances.few_steps(expected, dtype))
    dy = library.to_numpy(vjp(library.make(np.ones(N), dtype))[0])
    assert_within(dy, expected_dy, tolerances.first_gradient(expected_dy, dtype))


@case
def test_the_pullback_is_pure_and_nothing_is_written(library, ours, theirs, t, options):
    y, t, cotangent = library.make(Y), library.make(t), library.make(WEIGHTS)
    _, vjp = ours(y, t)
    first, again = (library.to_numpy(vjp(cotangent)[0]) for _ in range(2))
    assert_same(first, again)
    assert_same(library.to_numpy(y), Y)


@case
def test_derivatives_are_those_of_the_values(ours, theirs, t, options):
    (dy,) = ours(Y, t)[1](np.ones(N))
    for i, j in np.ndindex(N, K):
        step = np.zeros((N, K))
        step[i, j] = tolerances.STEP
        slope = (ours(Y + step, t)[0] - ours(Y - step, t)[0]).sum() / (2.0 * tolerances.STEP)
        assert_within(dy[i, j], slope, tolerances.central_difference(ours(Y, t)[0]))


@case
def test_members_and_an_empty_batch(library, ours, theirs, t, options):
    both = np.stack([Y, -Y])
    together, vjp = ours(library.make(both), library.make(t))
    assert tuple(together.shape) == (2, N)
    (dy,) = vjp(library.make(np.ones((2, N))))
    for i in range(2):
        alone, vjp_alone = ours(library.make(both[i]), library.make(t))
        assert_within(
            library.to_numpy(together)[i],
            library.to_numpy(alone),
            tolerances.rounded(library.to_numpy(alone), "float64"),
        )
        expected = library.to_numpy(vjp_alone(library.make(np.ones(N)))[0])
        assert_within(library.to_numpy(dy)[i], expected, tolerances.rounded(expected, "float64"))
    values, vjp = ours(library.make(Y[:0]), library.make(t[:0]))
    assert tuple(values.shape) == (0,)
    assert tuple(vjp(values)[0].shape) == (0, K)


# -- logits far out, where the value is known -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_logits_of_ten_thousand_is_exact(library, dtype):
    y = library.make([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype)
    values, vjp = cross_entropy(y, library.make([0, 1, 2]))
    assert_ulps(library.to_numpy(values), Exact([0.0, 2e4, np.log(3.0)]))
    (dy,) = vjp(library.make(np.ones(3), dtype))
    third = np.full(3, 1.0 / 3.0) - [0.0, 0.0, 1.0]
    expected = np.asarray([[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], third])
    assert_within(library.to_numpy(dy), expected, tolerances.first_gradient(expected, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_of_logits_of_ten_thousand_is_exact(library, dtype):
    y, t = library.make([[1e4], [1e4], [-1e4], [-1e4]], dtype), library.make([[1.0], [0.0], [1.0], [0.0]], dtype)
    values, vjp = binary_cross_entropy(y, t)
    assert_ulps(library.to_numpy(values), Exact([0.0, 1e4, 1e4, 0.0]))
    assert_same(
        library.to_numpy(vjp(library.make(np.ones(4), dtype))[0]), np.asarray([[0.0], [1.0], [-1.0], [0.0]], dtype)
    )


@pytest.mark.parametrize("loss", list(LOSSES.values()), ids=list(LOSSES))
def test_nan_stays_nan(library, loss):
    y = library.make([[np.nan, 0.0], [0.0, 0.0]])
    values, _ = loss.pair(y, library.make([[0.0, 1.0], [0.0, 1.0]]))
    assert np.isnan(library.to_numpy(values)).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_does_not_see_a_shift_of_all_logits(library, dtype):
    y = np.round(Y * 16.0) / 16.0  # so that adding the shift is exact in float32
    t = library.make(LABELS)
    values, shifted = (library.to_numpy(cross_entropy(library.make(y + c, dtype), t)[0]) for c in (0.0, 8192.0))
    assert_same(shifted, values)


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_where_outputs_and_targets_are_equal_there_is_no_gradient(library, name):
    values, vjp = LOSSES[name].pair(library.make(Y), library.make(Y))
    assert_same(library.to_numpy(values), np.zeros(N))
    assert_same(library.to_numpy(vjp(library.make(np.ones(N)))[0]), np.zeros((N, K)))


# -- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_one_hot_of_every_integer_type(library, dtype):
    assert_same(
        library.to_numpy(one_hot(library.make(LABELS, dtype), K, library.xp.float32)), ONE_HOT.astype("float32")
    )


def passing_on(library, dtype="float64", n=K):
    """Return a network whose outputs are its inputs, to reach the means through the public face."""
    model = portnn.MLP([n, n], bias=False, dtype=dtype, **library.where)
    model.params = library.make(np.eye(n).reshape(-1), dtype)
    return model


def loss_of(library, y, t, loss, dtype="float64", **options):
    value, _ = passing_on(library, dtype, y.shape[1]).loss_and_grad(library.make(y, dtype), t, loss, **options)
    assert library.dtype_name(value) == dtype
    return library.to_numpy(value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["uint8", "int32", "int64", "float32", "float64"])
def test_labels_and_one_hot_rows_of_any_type_mean_the_same(library, kind, dtype):
    model, x = passing_on(library, dtype), library.make(Y, dtype)
    formats = [LABELS.astype(kind)] if np.dtype(kind).kind in "iu" else [ONE_HOT.astype(kind)]
    formats += [library.make(formats[0])]
    expected, expected_grad = model.loss_and_grad(x, LABELS)
    for t in formats:
        value, grad = model.loss_and_grad(x, t)
        assert_same(library.to_numpy(value), library.to_numpy(expected))
        assert_same(library.to_numpy(grad), library.to_numpy(expected_grad))


# -- means ------------------------------------------------------------------------------------------------------------


@case
def test_the_loss_is_the_mean_and_with_weights_the_weighted_mean(library, ours, theirs, t, options):
    values, _ = ours(Y, t)
    for weight, expected in ((None, values.mean()), (WEIGHTS, (values * WEIGHTS).sum() / WEIGHTS.sum())):
        assert_within(
            loss_of(library, Y, t, ours, sample_weight=weight), expected, tolerances.few_steps(values, "float64")
        )


@case
def test_a_weight_of_two_is_the_sample_twice_and_zero_is_none(library, ours, theirs, t, options):
    twice = np.asarray([2, 0, 1, 1, 3, 1, 0, 1])
    rows = np.repeat(np.arange(N), twice)
    model = passing_on(library)
    a, grad_a = model.loss_and_grad(library.make(Y), t, ours, sample_weight=twice.astype(float))
    b, grad_b = model.loss_and_grad(library.make(Y[rows]), t[rows], ours)
    assert_within(library.to_numpy(a), library.to_numpy(b), tolerances.few_steps(ours(Y, t)[0], "float64"))
    expected = library.to_numpy(grad_b)
    assert_within(library.to_numpy(grad_a), expected, tolerances.first_gradient(expected, "float64"))


CLASS_WEIGHTS = np.asarray([0.5, 2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    "spec", [CLASS_WEIGHTS, list(CLASS_WEIGHTS), {0: 0.5, 1: 2.0, 3: 0.0}], ids=["array", "list", "mapping"]
)
def test_class_weights_are_those_of_torch(library, spec):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    expected = torch.nn.functional.cross_entropy(
        torch.asarray(Y), torch.asarray(LABELS), weight=torch.asarray(CLASS_WEIGHTS)
    ).numpy()
    got = loss_of(library, Y, LABELS, "cross_entropy", class_weight=spec)
    assert_within(got, expected, tolerances.few_steps(expected, "float64"))


def test_balanced_class_weights_are_those_of_scikit_learn(library):
    sklearn = pytest.importorskip("sklearn.utils.class_weight", reason="scikit-learn is not installed")
    weight = sklearn.compute_sample_weight("balanced", LABELS)
    got = loss_of(library, Y, LABELS, "cross_entropy", class_weight="balanced")
    expected = loss_of(library, Y, LABELS, "cross_entropy", sample_weight=weight)
    assert_within(got, expected, tolerances.few_steps(expected, "float64"))


def test_class_and_sample_weights_multiply(library):
    got = loss_of(library, Y, LABELS, "cross_entropy", class_weight=CLASS_WEIGHTS, sample_weight=WEIGHTS)
    both = WEIGHTS * CLASS_WEIGHTS[LABELS]
    expected = (cross_entropy(Y, LABELS)[0] * both).sum() / both.sum()
    assert_within(got, expected, tolerances.few_steps(expected, "float64"))


def test_class_weights_of_a_yes_or_no_question_weigh_the_samples(library):
    t = YES_NO[:, :1]
    weight = np.where(t[:, 0] > 0.5, 3.0, 1.0)
    expected = (binary_cross_entropy(Y[:, :1], t)[0] * weight).sum() / weight.sum()
    got = loss_of(library, Y[:, :1], t, "binary_cross_entropy", class_weight=[1.0, 3.0])
    assert_within(got, expected, tolerances.few_steps(expected, "float64"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["mse", "mae", "huber", "poisson", "binary_cross_entropy"])
def test_without_classes_a_class_weight_is_that_of_an_output(library, name, dtype):
    t = YES_NO
    per_output = np.stack([LOSSES[name].pair(Y[:, j : j + 1], t[:, j : j + 1])[0] for j in range(K)], axis=1)
    expected = (per_output @ CLASS_WEIGHTS / CLASS_WEIGHTS.sum()).mean()
    got = loss_of(library, Y, t, name, dtype, class_weight=CLASS_WEIGHTS)
    assert_within(got, expected, tolerances.few_steps(per_output, dtype))


def test_the_mean_of_60_000_float32_losses_loses_at_most_32_u(library):
    """0.1 squared 60,000 times: one by one the sum would be off by some 100 u."""
    x, t = np.full((60_000, 1), 0.1, "float32"), np.zeros((60_000, 1), "float32")
    values = x.astype("float64")[:, 0] ** 2
    bound = tolerances.long_sum(values, 0, "float32") / values.size + tolerances.rounded(0.01, "float32") * 2
    assert_within(loss_of(library, x, t, "mse", "float32"), values.mean(), bound)


def test_weighted_mean_is_a_pair(library):
    value, share = weighted_mean(library.make([1.0, 5.0]), library.make([3.0, 1.0]), library.make(4.0))
    assert_same(library.to_numpy(value), np.asarray(2.0))
    assert_same(library.to_numpy(share), np.asarray([0.75, 0.25]))


# -- penalties and users' own losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("l1", "l2", "value", "gradient"),
    [
        # weights 3, -4, 0 and a bias 9:  l1 (3 + 4) + l2 / 2 (9 + 16)
        (0.0, 0.0, 0.0, [0.0, 0.0, 0.0, 0.0]),
        (0.5, 0.0, 3.5, [0.5, -0.5, 0.0, 0.0]),
        (0.0, 2.0, 25.0, [6.0, -8.0, 0.0, 0.0]),
        (0.5, 2.0, 28.5, [6.5, -8.5, 0.0, 0.0]),
    ],
)
def test_the_penalty_by_hand(library, l1, l2, value, gradient):
    params, decayed = library.make([3.0, -4.0, 0.0, 9.0]), library.make([1.0, 1.0, 1.0, 0.0])
    got, grad = penalty(params, decayed, l1, l2)
    assert_same(library.to_numpy(got), np.asarray(value))
    assert_same(library.to_numpy(grad), np.asarray(gradient))


def test_every_member_has_a_penalty_of_its_own(library):
    params, decayed = library.make([[3.0, -4.0, 9.0], [1.0, 2.0, 9.0]]), library.make([1.0, 1.0, 0.0])
    got, grad = penalty(params, decayed, 0.5, 2.0)
    assert_same(library.to_numpy(got), np.asarray([28.5, 6.5]))  # 0.5 (3 + 4) + 9 + 16 and 0.5 (1 + 2) + 1 + 4
    assert_same(library.to_numpy(grad), np.asarray([[6.5, -8.5, 0.0], [2.5, 4.5, 0.0]]))


def test_the_penalty_is_added_to_loss_and_gradient_and_spares_biases(library):
    model = portnn.MLP([2, 2], dtype="float64", **library.where)
    model.params = library.make([1.0, -2.0, 3.0, 0.0, 7.0, 7.0])
    x, t = library.make([[1.0, 2.0]]), np.asarray([[0.5, 0.25]])
    plain, plain_grad = (library.to_numpy(a) for a in model.loss_and_grad(x, t, "mse"))
    value, grad = (library.to_numpy(a) for a in model.loss_and_grad(x, t, "mse", l1=0.25, l2=0.5))
    # 0.25 (1 + 2 + 3) + 0.25 (1 + 4 + 9);  0.25 sign w + 0.5 w
    assert_within(value - plain, 5.0, tolerances.few_steps(value, "float64"))
    assert_within(grad - plain_grad, [0.75, -1.25, 1.75, 0.0, 0.0, 0.0], tolerances.few_steps(plain_grad, "float64"))


@pytest.mark.parametrize(("l1", "l2", "extra"), [(0.25, 0.0, 1.5), (0.0, 0.5, 3.5)])
def test_one_penalty_does_not_need_the_other(library, l1, l2, extra):
    model = portnn.MLP([2, 2], dtype="float64", **library.where)
    model.params = library.make([1.0, -2.0, 3.0, 0.0, 7.0, 7.0])
    x, t = library.make([[1.0, 2.0]]), np.asarray([[0.5, 0.25]])
    plain, value = (library.to_numpy(model.loss_and_grad(x, t, "mse", **o)[0]) for o in ({}, {"l1": l1, "l2": l2}))
    assert_within(value - plain, extra, tolerances.few_steps(value, "float64"))


def test_the_objective_alone_has_no_penalty_and_says_its_name(library):
    model = portnn.MLP([K, K], dtype="float64", **library.where)
    x, t = library.make(Y), library.make(TARGETS)
    value, grad, y = model.objective("mse")(model.params, x, t, None)
    expected = ((library.to_numpy(model(x)) - TARGETS) ** 2).mean()
    assert_within(library.to_numpy(value), expected, tolerances.few_steps(expected, "float64"))
    assert_same(library.to_numpy(grad), library.to_numpy(model.loss_and_grad(x, t, "mse")[1]))
    assert_same(library.to_numpy(y), library.to_numpy(model(x)))
    with pytest.raises(ValueError, match=r"^objective: l1 must be a finite number >= 0, got -1.0"):
        model.objective("mse", l1=-1.0)


def fourth_power(y, t):
    """A user's loss, one value per sample."""
    d = y - t
    return (d * d * d * d)[..., 0], lambda dvalues: (4.0 * d * d * d * dvalues[..., None],)


def mean_fourth_power(y, t):
    """The same with the mean taken, and a pullback that returns a bare array."""
    d = y - t
    n = y.shape[-2]
    total = (d * d * d * d)[:, 0]
    mean = total[0] / n
    for i in range(1, n):
        mean = mean + total[i] / n
    return mean, lambda dmean: 4.0 * d * d * d * (dmean / n)


def test_a_loss_of_ones_own_may_return_values_or_their_mean(library):
    model = portnn.MLP([K, 1], dtype="float64", **library.where)
    x, t = library.make(Y), TARGETS[:, :1]
    value, grad = (library.to_numpy(a) for a in model.loss_and_grad(x, t, fourth_power))
    mean, mean_grad = (library.to_numpy(a) for a in model.loss_and_grad(x, t, mean_fourth_power))
    y = library.to_numpy(model(x))
    expected = ((y - t) ** 4).mean()
    assert_within(value, expected, tolerances.few_steps(expected, "float64"))
    assert_within(mean, expected, tolerances.few_steps(expected, "float64"))
    assert_within(mean_grad, grad, tolerances.first_gradient(grad, "float64"))
    weighted, _ = model.loss_and_grad(x, t, fourth_power, sample_weight=WEIGHTS)
    expected = (((y - t) ** 4)[:, 0] * WEIGHTS).sum() / WEIGHTS.sum()
    assert_within(library.to_numpy(weighted), expected, tolerances.few_steps(expected, "float64"))


def test_weights_for_a_loss_that_has_taken_the_mean_are_refused(library):
    model = portnn.MLP([K, 1], dtype="float64", **library.where)
    with pytest.raises(ValueError, match="sample weights need one per sample"):
        model.loss_and_grad(library.make(Y), TARGETS[:, :1], mean_fourth_power, sample_weight=WEIGHTS)


def test_a_loss_is_found_by_name_by_function_by_partial_and_by_itself():
    smoothed = partial(cross_entropy, label_smoothing=0.1)
    assert get_loss("huber").pair is huber
    assert get_loss(huber).name == "huber"
    assert (get_loss(smoothed).name, get_loss(smoothed).kind, get_loss(smoothed).pair) == (
        "cross_entropy",
        "classes",
        smoothed,
    )
    assert get_loss(LOSSES["mse"]) is LOSSES["mse"]
    assert (get_loss(fourth_power).name, get_loss(fourth_power).kind) == ("fourth_power", "values")

    class Nameless:
        def __call__(self, y, t):
            return fourth_power(y, t)

    assert get_loss(Nameless()).name == "custom"
    with pytest.raises(ValueError, match=r"unknown loss 'hubert'.* did you mean 'huber'"):
        get_loss("hubert")


def coupled(y, t):
    """Losses that depend on the whole batch: minus the log of what a softmax over the samples gives each of them."""
    xp = portnn.backends.namespace(y)
    z = y[..., 0]
    e = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
    p = e / xp.sum(e, axis=-1, keepdims=True)

    def vjp(dvalues):
        assert dvalues.shape == z.shape
        dz = p * xp.sum(dvalues, axis=-1, keepdims=True) - dvalues
        return (xp.stack([dz, xp.zeros_like(dz)], axis=-1),)

    return -xp.log(p), vjp


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("loss", [coupled, wraps(portnn.losses.mse)(lambda y, t: coupled(y, t))], ids=["", "named mse"])
def test_a_pullback_of_ones_own_is_handed_one_number_per_sample(library, members, weight, loss):
    """Against central differences of the weighted mean that is minimized."""
    model = portnn.MLP([3, 2], dtype="float64", members=members, seed=4, **library.where)
    x, t = np.random.default_rng(0).normal(size=(N, 3)), np.zeros((N, 2))
    w = np.full(N, 1.0 / N) if weight is None else weight / weight.sum()
    start = np.array(library.to_numpy(model.params))

    def value(params):
        copy = portnn.MLP([3, 2], dtype="float64", members=members)
        copy.params = params
        z = np.asarray(copy(x))[..., 0]
        p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
        return np.sum(-np.log(p) @ w)

    expected = np.zeros_like(start)
    for i in np.ndindex(start.shape):
        step = np.zeros_like(start)
        step[i] = tolerances.STEP
        expected[i] = (value(start + step) - value(start - step)) / (2.0 * tolerances.STEP)
    grad = model.loss_and_grad(library.make(x), library.make(t), loss=loss, sample_weight=weight)[1]
    assert_within(library.to_numpy(grad), expected, tolerances.central_difference(value(start)))


def test_functions_without_a_module_are_a_users():
    """As ``exec`` and sympy.lambdify make them."""
    names = {"np": np, "__name__": None}
    exec("def bent(z):\n    y = np.tanh(z)\n    return y, lambda dy: (dy * (1.0 - y * y),)", names)
    model = portnn.MLP([3, 4, 2], activation=names["bent"], dtype="float64")
    twin = portnn.MLP([3, 4, 2], activation="tanh", dtype="float64")
    x = np.random.default_rng(0).normal(size=(N, 3))
    assert names["bent"].__module__ is None
    histories = [portnn.fit(each, x, TARGETS[:, :2], loss="mse", epochs=2, progress=False) for each in (model, twin)]
    assert_within(histories[0]["loss"], histories[1]["loss"], tolerances.few_steps(histories[1]["loss"], "float64"))
