"""Optimizers step for step against torch.optim, and what each of them promises by itself."""

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

import portnn
from portnn import SGD, Adagrad, Adam, AdamW, RMSprop
from portnn.clipping import clip_by_norm, clip_by_value
from portnn.optimizers import OPTIMIZERS, get_optimizer

rng = np.random.default_rng(5)
STEPS, N = 50, 9
START = rng.normal(size=N)
GRADIENTS = rng.normal(size=(STEPS, N)) * np.logspace(-6, 2, N)  # sizes from below to far above 1

# id -> (ours, name in torch.optim, its options)
CASES = {
    "sgd": (SGD(0.1), "SGD", {"lr": 0.1}),
    "momentum": (SGD(0.1, momentum=0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (SGD(0.1, momentum=0.9, nesterov=True), "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (Adam(0.01), "Adam", {"lr": 0.01}),
    "adam-options": (
        Adam(0.01, beta1=0.8, beta2=0.9, eps=1e-3),
        "Adam",
        {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3},
    ),
    "adam-without-memory": (Adam(0.01, beta1=0.0, beta2=0.0), "Adam", {"lr": 0.01, "betas": (0.0, 0.0)}),
    "amsgrad": (Adam(0.01, beta2=0.5, amsgrad=True), "Adam", {"lr": 0.01, "betas": (0.9, 0.5), "amsgrad": True}),
    "adamw": (AdamW(0.01, weight_decay=0.3), "AdamW", {"lr": 0.01, "weight_decay": 0.3}),
    "rmsprop": (RMSprop(0.01, decay=0.9), "RMSprop", {"lr": 0.01, "alpha": 0.9}),
    "rmsprop-momentum": (RMSprop(0.01, momentum=0.5), "RMSprop", {"lr": 0.01, "momentum": 0.5}),
    "adagrad": (Adagrad(0.1), "Adagrad", {"lr": 0.1}),
}
OURS = {name: ours for name, (ours, *_) in CASES.items()}
every = pytest.mark.parametrize("optimizer", OURS.values(), ids=OURS)


def run(library, optimizer, gradients, start=START, dtype="float64", decayed=None):
    """Return the parameters after every step."""
    params = library.make(start, dtype, given_up=True)
    state = optimizer.init(params)
    path = []
    for step, gradient in enumerate(gradients):
        grad = library.make(gradient, dtype, given_up=True)
        params, state = optimizer.update(params, grad, state, optimizer.row(step), decayed)
        path.append(library.to_numpy(params).copy())
    return np.asarray(path)


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES.values(), ids=CASES)
def test_fifty_steps_are_those_of_torch(library, ours, theirs, options):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = torch.asarray(START.copy(), requires_grad=True)
    optimizer = getattr(torch.optim, theirs)([params], **options)
    expected = []
    for gradient in GRADIENTS:
        params.grad = torch.asarray(gradient.copy())
        optimizer.step()
        expected.append(params.detach().numpy().copy())
    assert_within(run(library, ours, GRADIENTS), expected, tolerances.trajectory(expected, STEPS))


@every
def test_members_move_as_each_would_alone(library, optimizer):
    together = run(
        library, optimizer, np.stack([GRADIENTS, -2.0 * GRADIENTS], axis=1)[:5], np.stack([START, START + 1.0])
    )
    for i, (start, factor) in enumerate([(START, 1.0), (START + 1.0, -2.0)]):
        assert_same(together[:, i], run(library, optimizer, factor * GRADIENTS[:5], start))


@every
def test_a_learning_rate_of_zero_changes_nothing(library, optimizer):
    still = type(optimizer)(**{**vars(optimizer), "learning_rate": lambda step: 0.0})
    assert_same(run(library, still, GRADIENTS[:3])[-1], START)


@every
def test_numpy_scalars_do_not_widen_float32(library, optimizer):
    wide = {k: np.float64(v) if isinstance(v, float) else v for k, v in vars(optimizer).items()}
    for rate in (wide["learning_rate"], lambda step: np.float64(0.1)):
        params = library.make(START, "float32", given_up=True)
        same = type(optimizer)(**{**wide, "learning_rate": rate})
        params, state = same.update(
            params, library.make(START, "float32", given_up=True), same.init(params), same.row(0)
        )
        assert {library.dtype_name(a) for a in (params, *state.values())} == {"float32"}


@every
def test_the_first_step_goes_downhill_in_every_entry(library, optimizer):
    moved = run(library, optimizer, GRADIENTS[:1], np.zeros(N))[0]
    assert (np.sign(moved) == -np.sign(GRADIENTS[0])).all()


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_corrects_its_bias_at_step_1_and_at_step_10_000(amsgrad):
    """With the same gradient every time both corrected means are exact: each step is rate g / (|g| + eps)."""
    gradient = np.asarray([1e-3, -2.0, 50.0])
    params, adam = np.zeros(3), Adam(1e-3, amsgrad=amsgrad)
    state = adam.init(params)
    step = 1e-3 * gradient / (np.abs(gradient) + 1e-8)
    for k in range(10_000):
        params, state = adam.update(params, gradient.copy(), state, adam.row(k))
        if k + 1 in (1, 2, 10, 10_000):
            assert_within(params, -(k + 1) * step, tolerances.trajectory(params, k + 1))


@pytest.mark.parametrize("k", [0, 1, 9_999, 10_000_000])
def test_the_scalars_of_adam_are_those_of_the_paper(k):
    """rate m^ / (sqrt(v^) + eps), in 50 digits, for sums m and v that lack the factors 1 - beta."""
    import mpmath

    with mpmath.workdps(50):
        b1, b2, m, v = (mpmath.mpf(x) for x in (0.9, 0.999, 0.3, 0.7))
        corrected_m = (1 - b1) * m / (1 - b1 ** (k + 1))
        corrected_v = (1 - b2) * v / (1 - b2 ** (k + 1))
        expected = float(mpmath.mpf(0.01) * corrected_m / (mpmath.sqrt(corrected_v) + mpmath.mpf(1e-8)))
    a, e = Adam(0.01).row(k)
    assert_within(a * 0.3 / (np.sqrt(0.7) + e), expected, tolerances.few_steps(expected, "float64"))


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        # |g| = eps: g / (|g| + eps) = 1/2.  With eps inside the root it would be 1e-4.
        (Adam(1.0, eps=1e-8), -0.5),
        (AdamW(1.0, eps=1e-8, weight_decay=0.0), -0.5),
        (RMSprop(1.0, eps=1e-8, decay=0.0), -0.5),
        (Adagrad(1.0, eps=1e-8), -0.5),
    ],
)
def test_eps_stands_outside_the_root(library, optimizer, expected):
    moved = run(library, optimizer, [[1e-8]], [0.0])[0]
    assert_within(moved, [expected], tolerances.few_steps(expected, "float64"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoupled_decay_shrinks_weights_and_spares_biases(library, dtype):
    """Without a gradient p <- p (1 - rate decay) for weights: 3 -> 1.5, whatever Adam's own scale is."""
    decayed = library.make([1.0, 0.0], dtype)
    moved = run(library, AdamW(0.5, weight_decay=1.0), [[0.0, 0.0]], [3.0, 3.0], dtype, decayed)[0]
    assert_same(moved, np.asarray([1.5, 3.0], dtype))


def test_decoupled_decay_does_not_enter_the_means():
    plain, decayed = Adam(0.1), AdamW(0.1, weight_decay=0.5)
    states = []
    for optimizer in (plain, decayed):
        params = START.copy()
        _, state = optimizer.update(params, GRADIENTS[0].copy(), optimizer.init(params), optimizer.row(0))
        states.append(state)
    for name in ("m", "v"):
        assert_same(states[0][name], states[1][name])


@every
@pytest.mark.parametrize("step", [0, 1, 1000])
def test_the_row_of_a_schedule_is_that_of_its_rate(optimizer, step):
    varying = type(optimizer)(**{**vars(optimizer), "learning_rate": lambda step: 0.25 / (step + 1)})
    constant = type(optimizer)(**{**vars(optimizer), "learning_rate": 0.25 / (step + 1)})
    assert varying.row(step) == constant.row(step)


@pytest.mark.parametrize("rate", [-1.0, np.inf, np.nan])
def test_a_rate_that_a_schedule_may_not_give(rate):
    with pytest.raises(ValueError, match=f"^RMSprop: the schedule gave learning rate {rate} at step 3$"):
        RMSprop(lambda step: rate).rate(3)


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (SGD(0.1), []),
        (SGD(0.1, momentum=0.9), ["velocity"]),
        (Adam(), ["m", "v"]),
        (Adam(amsgrad=True), ["largest_v", "m", "v"]),
        (RMSprop(), ["v"]),
        (RMSprop(momentum=0.9), ["v", "velocity"]),
        (Adagrad(), ["v"]),
    ],
    ids=repr,
)
def test_the_state_holds_what_the_update_needs_and_no_more(library, optimizer, names):
    params = library.make(START, given_up=True)
    state = optimizer.init(params)
    assert sorted(state) == names
    for array in state.values():
        assert_same(library.to_numpy(array), np.zeros(N))
    _, after = optimizer.update(params, library.make(GRADIENTS[0], given_up=True), state, optimizer.row(0))
    assert sorted(after) == names


# -- clipping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_by_value_holds_every_entry_and_keeps_nan(library, dtype):
    grad = library.make([-np.inf, -3.0, -0.5, 0.0, 0.5, 3.0, np.inf, np.nan], dtype)
    got = clip_by_value(grad, library.make(0.75, dtype))
    assert_same(library.to_numpy(got), np.asarray([-0.75, -0.75, -0.5, 0.0, 0.5, 0.75, 0.75, np.nan], dtype))


def norm(a):
    a = a.astype(np.longdouble)
    return np.sqrt((a * a).sum(axis=-1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e25, 1e36])
@pytest.mark.parametrize("limit", [1e-3, 0.5, 10.0])
def test_clipping_by_norm_keeps_the_direction_and_the_limit(library, dtype, size, limit):
    """Squares of 1e25 overflow float32: the norm of a gradient that has exploded is still right."""
    grad = (np.random.default_rng(0).normal(size=100) * size).astype(dtype)
    got = library.to_numpy(clip_by_norm(library.make(grad), library.make(limit, dtype)))
    assert got.dtype == dtype
    if norm(grad) <= limit:
        assert_same(got, grad)
        return
    limit = float(np.asarray(limit, dtype))
    assert norm(got) <= tolerances.norm_limit(limit, dtype)
    expected = grad.astype(np.longdouble) * (limit / norm(grad))
    assert_within(got, expected, tolerances.few_steps(expected, dtype))


def test_clipping_by_norm_leaves_zero_alone(library):
    assert_same(library.to_numpy(clip_by_norm(library.make(np.zeros(3)), library.make(1.0))), np.zeros(3))


def test_clipping_by_norm_takes_each_member_by_itself(library):
    got = library.to_numpy(clip_by_norm(library.make([[3.0, 4.0], [0.3, 0.4]]), library.make(1.0)))
    assert_within(got, [[0.6, 0.8], [0.3, 0.4]], tolerances.rounded(got, "float64") * tolerances.ULPS)


def test_clipping_by_norm_measures_each_member_by_its_own_largest(library):
    """Divided by the 1e30 of its neighbor, the square of 3 would be 0 in float32, and the member go unclipped."""
    grad, limit = library.make([[1e30, 0.0], [3.0, 4.0]], "float32"), library.make(1.0, "float32")
    expected = np.asarray([[1.0, 0.0], [0.6, 0.8]])
    assert_within(library.to_numpy(clip_by_norm(grad, limit)), expected, tolerances.few_steps(expected, "float32"))


def test_a_gradient_at_the_limit_is_left_as_it_is():
    """7 / 25 * 25 is not 7 in float64. On NumPy alone: with fused operations the norm may come out above 25."""
    assert_same(clip_by_norm(np.asarray([7.0, 24.0]), np.asarray(25.0)), np.asarray([7.0, 24.0]))


@pytest.mark.parametrize(
    "clip", [{"clip_norm": 0.01}, {"clip_value": 0.01}, {"clip_norm": 0.02, "clip_value": 0.01}], ids=str
)
def test_fit_clips_the_whole_gradient_and_not_layer_by_layer(library, clip):
    model = portnn.MLP([3, 4, 2], activation="tanh", dtype="float64", **library.where)
    x, t = library.make(10.0 * rng.normal(size=(6, 3))), np.full((6, 2), 50.0)
    before, (_, grad) = library.to_numpy(model.params), model.loss_and_grad(x, t, "mse")
    expected = library.to_numpy(grad)
    expected = np.clip(expected, -clip.get("clip_value", np.inf), clip.get("clip_value", np.inf))
    expected = expected * min(1.0, clip.get("clip_norm", np.inf) / float(norm(expected)))
    portnn.fit(model, x, t, loss="mse", optimizer=SGD(1.0), epochs=1, batch_size=6, progress=False, **clip)
    assert_within(before - library.to_numpy(model.params), expected, tolerances.few_steps(before, "float64"))


# -- going downhill -------------------------------------------------------------------------------------------------


def descend(optimizer, gradient, start, steps):
    params = np.array(start)
    state = optimizer.init(params)
    for step in range(steps):
        params, state = optimizer.update(params, gradient(params), state, optimizer.row(step))
    return params


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(SGD(0.05), id="sgd"),
        pytest.param(SGD(0.02, momentum=0.9), id="momentum"),
        pytest.param(SGD(0.02, momentum=0.9, nesterov=True), id="nesterov"),
        pytest.param(Adam(0.05), id="adam"),
        pytest.param(Adam(0.05, amsgrad=True), id="amsgrad"),
        pytest.param(AdamW(0.05, weight_decay=0.0), id="adamw"),
        pytest.param(RMSprop(lambda step: 0.05 / (1.0 + step / 50)), id="rmsprop"),
        pytest.param(Adagrad(0.5), id="adagrad"),
    ],
)
class TestConverges:
    def test_on_a_quadratic(self, optimizer):
        scales = np.asarray([1.0, 5.0, 20.0])
        assert np.abs(descend(optimizer, lambda p: scales * (p - 1.0), [3.0, -2.0, 4.0], 2000) - 1.0).max() < 0.01

    def test_on_the_valley_of_rosenbrock(self, optimizer):
        """From 24.2 at (-1.2, 1) to near the minimum at (1, 1); steps 100 times smaller for those without a scale."""

        def gradient(p):
            a, b = p
            return np.asarray([-2.0 * (1.0 - a) - 400.0 * a * (b - a * a), 200.0 * (b - a * a)])

        if isinstance(optimizer, SGD):
            optimizer = SGD(optimizer.learning_rate / 50, optimizer.momentum, optimizer.nesterov)
        a, b = descend(optimizer, gradient, [-1.2, 1.0], 8000)
        assert (1.0 - a) ** 2 + 100.0 * (b - a * a) ** 2 < 0.02


# -- asking for one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [
        ("sgd", SGD, 0.1),
        ("adam", Adam, 1e-3),
        ("adamw", AdamW, 1e-3),
        ("rmsprop", RMSprop, 1e-2),
        ("adagrad", Adagrad, 1e-2),
        ("lars", portnn.LARS, 1.0),
        ("lamb", portnn.LAMB, 1e-3),
    ],
)
def test_every_name_stands_for_its_class(name, kind, rate):
    assert get_optimizer(name) == kind(rate)
    assert len(OPTIMIZERS) == 7


@pytest.mark.parametrize("missing", ["init", "row", "update"])
def test_an_object_that_lacks_a_method_is_no_optimizer(missing):
    methods = {name: lambda *_: None for name in ("init", "row", "update") if name != missing}
    with pytest.raises(TypeError, match=r"^optimizer must be a name or have init, row and update; got Half$"):
        get_optimizer(type("Half", (), methods)())


def test_an_optimizer_without_an_update_says_so():
    with pytest.raises(NotImplementedError, match=r"^Optimizer has no update$"):
        portnn.optimizers.Optimizer(0.1).update(START, START, {}, (0.1,))


def test_an_optimizer_of_ones_own_is_taken_as_it_is():
    class Signs:
        learning_rate = 0.25

        def init(self, params):
            return {}

        def rate(self, step):
            return self.learning_rate

        def row(self, step):
            return (self.learning_rate,)

        def update(self, params, grad, state, h, decayed=None):
            return params - np.sign(grad) * h[0], state

    model = portnn.MLP([1, 1], init="zeros", dtype="float64")
    portnn.fit(
        model,
        np.ones((2, 1)),
        np.full((2, 1), 9.0),
        loss="mse",
        optimizer=Signs(),
        epochs=4,
        batch_size=2,
        progress=False,
    )
    assert_same(model.params, np.asarray([1.0, 1.0]))
    with pytest.raises(TypeError, match="must be a name or have init, row and update; got float"):
        get_optimizer(0.1)
