"""Answers from elsewhere: optax, jax.nn, torch.nn, SciPy, scikit-learn, and steps worked by hand.

Where a definition differs from ours the difference stands beside the comparison. Those of torch.optim, of
torch.nn.functional, and of torch's schedules are in the files of the optimizers, losses, activations and schedules.
"""

import functools
import itertools
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import tolerances
from tolerances import Exact, assert_same, assert_ulps, assert_within

import portnn
from portnn import SGD, Adagrad, Adam, AdamW, RMSprop, random, schedules
from portnn.activations import ACTIVATIONS, get_activation
from portnn.clipping import clip_by_norm, clip_by_value
from portnn.losses import LOSSES, binary_cross_entropy, cross_entropy, huber, mse, poisson

rng = np.random.default_rng(17)


def within_few(actual, expected, dtype="float64"):
    assert_within(actual, expected, tolerances.few_steps(expected, dtype))


def jax_with(name):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    return jax, pytest.importorskip(name, reason=f"{name} is not installed")


# -- activations: jax.nn ----------------------------------------------------------------------------------------------

POINTS = np.concatenate([np.linspace(-30.0, 30.0, 61), np.linspace(-3.0, 3.0, 60), [-2e-3, 2e-3]])
IN_JAX = {
    "identity": lambda nn: nn.identity,
    "leaky_relu(0.2)": lambda nn: partial(nn.leaky_relu, negative_slope=0.2),
    "elu(0.5)": lambda nn: partial(nn.elu, alpha=0.5),
    "gelu": lambda nn: partial(nn.gelu, approximate=False),
    "gelu_tanh": lambda nn: partial(nn.gelu, approximate=True),
}


@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.2)", "elu(0.5)"])
def test_activations_are_those_of_jax_nn(name):
    """At z = 0 too, but for leaky_relu: there JAX has the slope from the right, ours and torch's is that from the left.

    Far out slopes are 1 and z times a difference from 1 that is lost in rounding: the bound is relative to z.
    """
    jax = pytest.importorskip("jax", reason="jax is not installed")
    z = POINTS[POINTS != 0.0] if name.startswith("leaky_relu") else POINTS
    f = IN_JAX.get(name, lambda nn: getattr(nn, name))(jax.nn)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(f)))(jax.numpy.asarray(z))
    ours, vjp = get_activation(name)(z)
    bound = [tolerances.few_steps(max(abs(point), 1.0), "float64") for point in z]
    assert_within(ours, np.asarray(value), bound)
    assert_within(vjp(np.ones_like(z))[0], np.asarray(slope), bound)


# -- losses: optax, SciPy, scikit-learn, autodiff of our own code -----------------------------------------------------

N, K = 8, 4
Y, TARGETS = 3.0 * rng.normal(size=(2, N, K))
LABELS = np.asarray([0, 3, 1, 1, 2, 0, 1, 3])
MIXED, SHARES = rng.dirichlet(np.ones(K), size=N), rng.random((N, K))
COUNTS = rng.integers(0, 6, size=(N, K)).astype(float)
WEIGHTS = np.asarray([1.0, 0.0, 2.5, 1.0, 0.5, 3.0, 0.0, 1.0])

# id -> (ours, targets, theirs: one value per sample)
IN_OPTAX = {
    "cross_entropy-labels": (
        cross_entropy,
        LABELS,
        lambda o, y, t: o.softmax_cross_entropy_with_integer_labels(y, t),
    ),
    "cross_entropy-probabilities": (cross_entropy, MIXED, lambda o, y, t: o.softmax_cross_entropy(y, t)),
    # smooth_labels takes the number of classes from the last axis, and alpha is our label_smoothing
    "cross_entropy-smoothed": (
        partial(cross_entropy, label_smoothing=0.2),
        MIXED,
        lambda o, y, t: o.softmax_cross_entropy(y, o.smooth_labels(t, 0.2)),
    ),
    "binary_cross_entropy": (
        binary_cross_entropy,
        SHARES,
        lambda o, y, t: o.sigmoid_binary_cross_entropy(y, t).mean(-1),
    ),
    # squared_error has no factor 1/2, l2_loss has one
    "mse": (mse, TARGETS, lambda o, y, t: o.squared_error(y, t).mean(-1)),
    "mse-l2": (mse, TARGETS, lambda o, y, t: 2.0 * o.l2_loss(y, t).mean(-1)),
    "huber": (huber, TARGETS, lambda o, y, t: o.huber_loss(y, t).mean(-1)),
    "huber-delta": (partial(huber, delta=2.5), TARGETS, lambda o, y, t: o.huber_loss(y, t, delta=2.5).mean(-1)),
}


@pytest.mark.parametrize(("ours", "t", "theirs"), IN_OPTAX.values(), ids=IN_OPTAX)
def test_losses_are_those_of_optax(ours, t, theirs):
    jax, optax = jax_with("optax")
    cotangent = np.linspace(-1.0, 2.0, N)
    expected, pullback = jax.vjp(jax.jit(lambda y: theirs(optax.losses, y, jax.numpy.asarray(t))), Y)
    values, vjp = ours(Y, t)
    within_few(values, np.asarray(expected))
    (dy,) = pullback(jax.numpy.asarray(cotangent))
    assert_within(vjp(cotangent)[0], np.asarray(dy), tolerances.first_gradient(dy, "float64"))


OWN = {
    **{name: (loss.pair, None) for name, loss in LOSSES.items()},
    "labels": (cross_entropy, LABELS),
    "smoothed": (partial(cross_entropy, label_smoothing=0.3), LABELS),
    "smoothed-probabilities": (partial(cross_entropy, label_smoothing=0.3), MIXED),
    "delta": (partial(huber, delta=0.4), TARGETS),
    "shares": (partial(mse, output_share=np.asarray([0.5, 0.25, 0.25, 0.0])), TARGETS),
}
BY_KIND = {"classes": MIXED, "binary": SHARES, "values": COUNTS}


@pytest.mark.parametrize("name", OWN)
def test_pullbacks_of_losses_are_jax_grad_of_their_values(name):
    """Same formula, derivative by somebody else: in float64 a wrong last digit shows."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    ours, t = OWN[name]
    t = BY_KIND[LOSSES[name].kind] if t is None else t
    cotangent = jax.numpy.linspace(-1.0, 2.0, N)
    _, pullback = jax.vjp(jax.jit(lambda y: ours(y, jax.numpy.asarray(t))[0]), jax.numpy.asarray(Y))
    (auto,) = pullback(cotangent)
    (dy,) = ours(Y, t)[1](np.asarray(cotangent))
    assert_within(dy, np.asarray(auto), tolerances.first_gradient(auto, "float64"))


def test_poisson_is_the_likelihood_of_scipy():
    """Ours leaves out log k!, which does not depend on y."""
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    special = pytest.importorskip("scipy.special", reason="SciPy is not installed")
    terms = -stats.poisson.logpmf(COUNTS, np.exp(Y)) - special.gammaln(COUNTS + 1.0)
    within_few(poisson(Y, COUNTS)[0], terms.mean(axis=-1))


def test_cross_entropy_is_entropy_and_divergence_of_scipy():
    special = pytest.importorskip("scipy.special", reason="SciPy is not installed")
    p = special.softmax(Y, axis=-1)
    expected = (special.entr(MIXED) + special.rel_entr(MIXED, p)).sum(axis=-1)
    within_few(cross_entropy(Y, MIXED)[0], expected)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
def test_the_mean_is_log_loss_of_scikit_learn(weight):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    special = pytest.importorskip("scipy.special", reason="SciPy is not installed")
    model = portnn.MLP([K, K], bias=False, dtype="float64")
    model.params = np.eye(K).reshape(-1)
    value, _ = model.loss_and_grad(Y, LABELS, sample_weight=weight)
    within_few(value, metrics.log_loss(LABELS, special.softmax(Y, axis=-1), sample_weight=weight))


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_class_weights_and_label_smoothing_differ_from_torch_on_purpose(smoothing):
    """Ours multiplies the whole loss of a sample by the weight of its label.

    torch weighs each term of the smoothed target by the weight of the term's own class, and divides by the sum of the
    labels' weights. Without smoothing the two are the same; with it torch's is ours with the smoothed part corrected.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weights = np.asarray([0.5, 2.0, 1.0, 4.0])
    model = portnn.MLP([K, K], bias=False, dtype="float64")
    model.params = np.eye(K).reshape(-1)
    loss = partial(cross_entropy, label_smoothing=smoothing)
    value, _ = model.loss_and_grad(Y, LABELS, loss, class_weight=weights)
    theirs = torch.nn.functional.cross_entropy(
        torch.asarray(Y), torch.asarray(LABELS), weight=torch.asarray(weights), label_smoothing=smoothing
    ).item()
    plain = -torch.log_softmax(torch.asarray(Y), dim=-1).numpy()  # one number for each class
    own = weights[LABELS]
    correction = smoothing / K * (plain @ weights - own * plain.sum(axis=-1)).sum() / own.sum()
    within_few(value, theirs - correction)
    assert (smoothing == 0.0) == (abs(correction) < 1e-9)


# -- the network: jax.vjp and jax.jvp of our forward code, torch.nn's own layers --------------------------------------

SIZES, ROWS = [3, 5, 4, 2], 6


@functools.cache
def network(activation, members=None, bias=True):
    """Return a network with its biases off 0, and inputs, as NumPy arrays."""
    model = portnn.MLP(
        SIZES, activation=activation, init="lecun_normal", bias=bias, dtype="float64", seed=3, members=members
    )
    shift = np.random.default_rng(5).normal(size=model.params.shape)
    model.params = model.params + 0.2 * shift
    return model, np.random.default_rng(6).normal(size=(ROWS, SIZES[0]))


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pullback_is_jax_vjp_and_the_transpose_of_jax_jvp(activation, members):
    """Backwards for parameters and inputs; and forwards: <dy, J v> = <J^T dy, v> for a direction v."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model, x = network(activation, members)
    lead = () if members is None else (members,)
    dy, v, w = (np.random.default_rng(8).normal(size=s) for s in ((*lead, ROWS, 2), model.params.shape, x.shape))

    @jax.jit
    def theirs(params, x, dy, v, w):
        y, pullback = jax.vjp(model.apply, params, x)
        return y, *pullback(dy), jax.jvp(model.apply, (params, x), (v, w))[1]

    y, d_params, dx, forwards = (np.asarray(a) for a in theirs(model.params, x, dy, v, w))
    ours, vjp = model.vjp(x)
    within_few(ours, y)
    for got, expected in zip(vjp(dy), (d_params, dx), strict=True):
        assert_within(got, expected, tolerances.first_gradient(expected, "float64"))
    got, expected = sum((a * b).sum() for a, b in zip(vjp(dy), (v, w), strict=True)), (dy * forwards).sum()
    size = np.abs(d_params * v).sum() + np.abs(dx * w).sum()  # the sums may cancel
    assert_within(got, expected, tolerances.first_gradient(size, "float64"))


IN_TORCH = {
    "identity": "Identity",
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "selu": "SELU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "gelu": "GELU",
    "gelu_tanh": "GELU",
    "silu": "SiLU",
    "mish": "Mish",
}


def torch_network(torch, model, activation):
    """Return torch's own layers with the model's weights, which torch keeps transposed."""
    layers = []
    for i, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        linear = torch.nn.Linear(*weight.shape, bias=bias is not None, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.asarray(np.ascontiguousarray(weight.T)))
            if bias is not None:
                linear.bias.copy_(torch.asarray(bias.copy()))
        layers.append(linear)
        if i < len(model.weights) - 1:
            options = {"approximate": "tanh"} if activation == "gelu_tanh" else {}
            layers.append(getattr(torch.nn, IN_TORCH[activation])(**options))
    return torch.nn.Sequential(*layers)


def flat(tensors):
    """Return weights and biases of torch's layers in our order: weight 0 row by row, bias 0, ..."""
    return np.concatenate([a.detach().numpy().T.reshape(-1) for a in tensors])


@pytest.mark.parametrize("bias", [True, (False, True, False)], ids=["bias", "some-bias"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_loss_and_gradient_are_those_of_torch_nn(activation, bias):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model, x = network(activation, None, bias)
    theirs, t = torch_network(torch, model, activation), np.asarray([0, 1, 1, 0, 1, 0])
    y = theirs(torch.asarray(x))
    expected = torch.nn.functional.cross_entropy(y, torch.asarray(t))
    expected.backward()
    within_few(model(x), y.detach().numpy())
    value, grad = model.loss_and_grad(x, t)
    within_few(value, expected.detach().numpy())
    expected = flat(a.grad for a in theirs.parameters())
    assert_within(grad, expected, tolerances.first_gradient(expected, "float64"))


SAMPLES, CLASSES, EPOCHS, BATCH = 20, 3, 3, 8
# id -> (ours, torch's name, its options, decay of the weights)
TRAINERS = {
    "sgd": (SGD(0.1), "SGD", {"lr": 0.1}, 0.0),
    "nesterov-l2": (
        SGD(0.05, momentum=0.9, nesterov=True),
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        0.1,
    ),
    # with an eps of 0.1 the step is a smooth function of the gradient, of slope rate / eps = 0.1: with 1e-8, rounding
    # in an entry near 0 would decide over its sign
    "adam": (Adam(0.01, eps=0.1), "Adam", {"lr": 0.01, "eps": 0.1}, 0.0),
    "adamw": (AdamW(0.01, eps=0.1, weight_decay=0.5), "AdamW", {"lr": 0.01, "eps": 0.1}, 0.5),
}


@pytest.mark.parametrize(("ours", "theirs", "options", "decay"), TRAINERS.values(), ids=TRAINERS)
def test_a_whole_training_is_that_of_torch(library, ours, theirs, options, decay):
    """Three epochs with a partial last batch, labels smoothed: torch's layers, loss, autograd, optimizer and decay.

    torch's weight_decay of SGD is our l2, and decay is for weights alone. Each step rounds as an optimizer does, plus
    at most 0.1 of the roundings of a gradient, and neither is enlarged by later steps of descent at such rates.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.random.default_rng(1).normal(size=(SAMPLES, 4))
    t = np.random.default_rng(2).integers(0, CLASSES, size=SAMPLES)
    model = portnn.MLP([4, 6, CLASSES], activation="tanh", dtype="float64", seed=1)
    net = torch_network(torch, model, "tanh")
    groups = [
        {"params": [p for p in net.parameters() if p.ndim == 2], "weight_decay": decay},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer, steps, largest = getattr(torch.optim, theirs)(groups, **options), 0, 0.0
    for epoch in range(EPOCHS):
        order = random.order(7, epoch, SAMPLES)
        for start in range(0, SAMPLES, BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad()
            y = net(torch.asarray(x[rows]))
            torch.nn.functional.cross_entropy(y, torch.asarray(t[rows]), label_smoothing=0.1).backward()
            largest = max(largest, np.abs(flat(p.grad for p in net.parameters())).max())
            optimizer.step()
            steps += 1
    expected = flat(net.parameters())
    model = model.to(**library.where)
    smoothed = partial(cross_entropy, label_smoothing=0.1)
    l2 = decay if theirs == "SGD" else 0.0
    portnn.fit(
        model,
        library.make(x),
        t,
        loss=smoothed,
        optimizer=ours,
        epochs=EPOCHS,
        batch_size=BATCH,
        l2=l2,
        seed=7,
        progress=False,
    )
    bound = tolerances.trajectory(expected, steps) + 0.1 * steps * tolerances.first_gradient(largest, "float64")
    assert_within(library.to_numpy(model.params), expected, bound)


# -- optimizers: optax ------------------------------------------------------------------------------------------------

STEPS, SIZE = 50, 9
START = rng.normal(size=SIZE)
GRADIENTS = rng.normal(size=(STEPS, SIZE)) * np.logspace(-6, 2, SIZE)
DECAYED = np.asarray([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
FALLING = schedules.exponential(0.1, every=7, factor=0.5)


def falling(optax):
    """Return optax's schedule; it divides the count, an int32, which without the cast would give float32."""
    schedule = optax.exponential_decay(0.1, 7, 0.5)
    return lambda count: schedule(count.astype("float64"))


# id -> (ours, theirs as a function of the module)
OPTIMIZERS = {
    "sgd": (SGD(0.1), lambda o: o.sgd(0.1)),
    "momentum": (SGD(0.1, momentum=0.9), lambda o: o.sgd(0.1, momentum=0.9)),
    "nesterov": (SGD(0.1, momentum=0.9, nesterov=True), lambda o: o.sgd(0.1, momentum=0.9, nesterov=True)),
    # the rate multiplies the velocity, not what enters it, on both sides
    "momentum-schedule": (
        SGD(FALLING, momentum=0.9),
        lambda o: o.sgd(falling(o), momentum=0.9),
    ),
    "adam": (Adam(0.01), lambda o: o.adam(0.01)),  # eps_root = 0 by default: eps stands outside the root
    "adam-options": (
        Adam(0.01, beta1=0.8, beta2=0.9, eps=1e-3),
        lambda o: o.adam(0.01, b1=0.8, b2=0.9, eps=1e-3),
    ),
    "adam-schedule": (Adam(FALLING), lambda o: o.adam(falling(o))),
    # optax's default decay is 1e-4, ours and torch's 0.01; what is exempt is said with a mask
    "adamw": (
        AdamW(0.01, weight_decay=0.3),
        lambda o: o.adamw(0.01, weight_decay=0.3, mask={"weights": True, "biases": False}),
    ),
    "adamw-schedule": (
        AdamW(FALLING, weight_decay=0.3),
        lambda o: o.adamw(falling(o), weight_decay=0.3, mask={"weights": True, "biases": False}),
    ),
    # optax takes the largest of the corrected v, ours and torch's correct the largest v: the same where beta2 = 0
    # leaves nothing to correct; see the test below
    "amsgrad": (Adam(0.01, beta2=0.0, amsgrad=True), lambda o: o.amsgrad(0.01, b2=0.0)),
    # optax's default has eps within the root
    "rmsprop": (RMSprop(0.01, decay=0.9, eps=1e-4), lambda o: o.rmsprop(0.01, 0.9, 1e-4, eps_in_sqrt=False)),
    # optax's velocity holds the rate too, which makes a difference only while the rate changes
    "rmsprop-momentum": (
        RMSprop(0.01, momentum=0.5),
        lambda o: o.rmsprop(0.01, 0.99, 1e-8, eps_in_sqrt=False, momentum=0.5),
    ),
    # optax starts from v = 0.1 and has eps within the root: the same where v starts from 0 and eps does not count
    "adagrad": (Adagrad(0.1, eps=1e-300), lambda o: o.adagrad(0.1, initial_accumulator_value=0.0, eps=0.0)),
}


@functools.cache
def path_in_optax(name):
    """Return the parameters after every step."""
    jax, optax = jax_with("optax")
    optimizer = OPTIMIZERS[name][1](optax)
    weights = np.flatnonzero(DECAYED)
    biases = np.flatnonzero(DECAYED == 0.0)

    def split(a):
        return {"weights": a[..., weights], "biases": a[..., biases]}

    def step(carry, grad):
        params, state = carry
        updates, state = optimizer.update(split(grad), state, params)
        params = optax.apply_updates(params, updates)
        whole = jax.numpy.zeros(SIZE).at[weights].set(params["weights"]).at[biases].set(params["biases"])
        return (params, state), whole

    start = split(jax.numpy.asarray(START))
    _, path = jax.jit(lambda grads: jax.lax.scan(step, (start, optimizer.init(start)), grads))(GRADIENTS)
    return np.asarray(path)


def run(library, optimizer, gradients, start=START, dtype="float64", decayed=DECAYED):
    """Return the parameters after every step."""
    params, decayed = library.make(start, dtype, given_up=True), library.make(decayed, dtype)
    state, path = optimizer.init(params), []
    for step, gradient in enumerate(gradients):
        grad = library.make(gradient, dtype, given_up=True)
        params, state = optimizer.update(params, grad, state, optimizer.row(step), decayed)
        path.append(library.to_numpy(params).copy())
    return np.asarray(path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_steps_are_those_of_optax(library, name):
    expected = path_in_optax(name)
    got = run(library, OPTIMIZERS[name][0], GRADIENTS)
    assert_within(got, expected, tolerances.trajectory(expected, STEPS))


def test_optax_takes_the_largest_of_the_corrected_moments():
    """Gradients 4, then 2, with beta1 = 0, beta2 = 1/2, eps aside: v = 8, then 4 + 2 = 6; corrections 1/2 and 3/4.

    Ours, as torch: the largest v is 8 both times: sqrt(8 / (3/4)) = sqrt(32/3). optax: 16 is larger than 6 / (3/4) = 8.
    """
    jax, optax = jax_with("optax")
    optimizer = optax.amsgrad(1.0, b1=0.0, b2=0.5, eps=1e-300)
    state = optimizer.init(jax.numpy.zeros(1))
    _, state = optimizer.update(jax.numpy.asarray([4.0]), state)
    update, _ = optimizer.update(jax.numpy.asarray([2.0]), state)
    within_few(np.asarray(update), [-2.0 / 4.0])
    ours, params, path = Adam(1.0, beta1=0.0, beta2=0.5, eps=1e-300, amsgrad=True), np.zeros(1), []
    state = ours.init(params)
    for step, gradient in enumerate([4.0, 2.0]):
        params, state = ours.update(params, np.asarray([gradient]), state, ours.row(step))
        path.append(params[0])
    within_few(path, [-1.0, -1.0 - 2.0 / np.sqrt(32.0 / 3.0)])


# -- clipping: optax, torch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e3])
def test_clipping_is_that_of_optax(library, limit):
    jax, optax = jax_with("optax")
    grad, ours_limit = jax.numpy.asarray(GRADIENTS[0]), library.make(limit, "float64")
    for ours, theirs in ((clip_by_norm, optax.clip_by_global_norm), (clip_by_value, optax.clip)):
        expected = np.asarray(theirs(limit).update(grad, None)[0])
        within_few(library.to_numpy(ours(library.make(GRADIENTS[0]), ours_limit)), expected)


@pytest.mark.parametrize("limit", [0.5, 3.0])
def test_clipping_by_norm_is_that_of_torch_but_for_its_millionth(library, limit):
    """torch divides by the norm + 1e-6, so that what it returns is a little below the limit."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    param = torch.zeros(SIZE, dtype=torch.float64)
    param.grad = torch.asarray(GRADIENTS[0].copy())
    norm = torch.nn.utils.clip_grad_norm_([param], limit).item()
    assert norm > limit
    expected = param.grad.numpy() * ((norm + 1e-6) / norm)
    within_few(library.to_numpy(clip_by_norm(library.make(GRADIENTS[0]), library.make(limit))), expected)


# -- schedules: optax -------------------------------------------------------------------------------------------------

RATE = 0.3
SCHEDULES = {
    "constant": (schedules.constant(RATE), lambda o: o.constant_schedule(RATE)),
    "step": (
        schedules.step_decay(RATE, every=7, factor=0.5),
        lambda o: o.exponential_decay(RATE, 7, 0.5, staircase=True),
    ),
    "exponential": (schedules.exponential(RATE, every=7, factor=0.5), lambda o: o.exponential_decay(RATE, 7, 0.5)),
    # alpha is a fraction of the rate, our final is a rate; the latter holds on after the last step
    "cosine": (schedules.cosine(RATE, 40, final=0.03), lambda o: o.cosine_decay_schedule(RATE, 40, alpha=0.1)),
    # optax's warm-up of w steps begins with a value of its own: ours is rate / (w + 1), so that no step is lost
    "warm-up": (
        schedules.cosine(RATE, 40, warmup=4, final=0.03),
        lambda o: o.warmup_cosine_decay_schedule(RATE / 5, RATE, 4, 40, 0.03),
    ),
    # optax has the peak at pct_start T and the end at T = steps - 1, ours and torch's the peak at rise steps - 1
    "one-cycle": (
        schedules.one_cycle(RATE, 41, rise=13 / 41, start=0.1, final=0.02),
        lambda o: o.cosine_onecycle_schedule(40, RATE, pct_start=0.3, div_factor=10.0, final_div_factor=50.0),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_are_those_of_optax(ours, theirs):
    _, optax = jax_with("optax")
    theirs = theirs(optax)
    expected = [float(np.asarray(theirs(np.float64(step)))) for step in range(STEPS)]
    assert_within([ours(step) for step in range(STEPS)], expected, tolerances.few_steps(RATE, "float64"))


def test_reduce_on_plateau_is_that_of_optax():
    """optax lowers the rate when ``patience`` epochs were bad, ours and torch's when more than that were."""
    jax, _ = jax_with("optax")
    contrib = pytest.importorskip("optax.contrib", reason="optax is not installed")
    theirs = contrib.reduce_on_plateau(factor=0.5, patience=3, min_scale=0.1)
    ours = schedules.ReduceOnPlateau(1.0, factor=0.5, patience=2, minimum=0.1)
    step = jax.jit(lambda state, loss: theirs.update(jax.numpy.ones(()), state, value=loss))
    state = theirs.init(jax.numpy.ones(()))
    rates = set()
    for loss in (3.0, 2.0, 2.0, 1.9999, 1.99, 1.9, *[1.9] * 12, 0.5, *[0.5] * 5, 0.1, 0.09995):
        rate, state = step(state, loss)
        ours.observe(loss)
        assert ours(0) == float(rate)
        rates.add(ours(0))
    assert rates == {1.0, 0.5, 0.25, 0.125, 0.1}


# -- one training step worked by hand ---------------------------------------------------------------------------------
#
# A 2-2-1 network with relu and mse, two samples of weights 1 and 3, and l2 = 1/2:
#
#   weight 0 = [[1, 2], [-1, 1/2]]   bias 0 = [1/2, -1]   weight 1 = [[2], [-1/2]]   bias 1 = [1/4]
#
# Forwards:
#                   sample 1                                       sample 2
#   x               [2, 1]                                         [1, 2]
#   z = x W0 + b0   [2 - 1 + 1/2, 4 + 1/2 - 1] = [3/2, 7/2]        [1 - 2 + 1/2, 2 + 1 - 1] = [-1/2, 2]
#   h = relu z      [3/2, 7/2]                                     [0, 2]
#   y = h W1 + b1   3 - 7/4 + 1/4 = 3/2                            0 - 1 + 1/4 = -3/4
#   t               1/2                                            5/4
#   d = y - t       1                                              -2
#   mse = d^2       1                                              4
#
# Loss: the weighted mean (1 * 1 + 3 * 4) / (1 + 3) = 13/4, and l2/2 = 1/4 of the squares of the weights, biases
# exempt: 1 + 4 + 1 + 1/4 + 4 + 1/4 = 21/2.  Together 13/4 + 21/8 = 47/8.
#
# Backwards, with the shares 1/4 and 3/4 of the samples:
#
#   dy = 2 d share  2 * 1/4 = 1/2                                  -4 * 3/4 = -3
#   dh = dy W1^T    [1/2 * 2, 1/2 * -1/2] = [1, -1/4]              [-6, 3/2]
#   dz              [1, -1/4]                                      [0, 3/2]   (relu is off at z = -1/2)
#   dx = dz W0^T    [1 - 1/2, -1 - 1/8] = [1/2, -9/8]              [3, 3/4]
#
#   dW1 = h^T dy = [3/2 * 1/2 + 0, 7/2 * 1/2 - 2 * 3] = [3/4, -17/4]            db1 = 1/2 - 3 = -5/2
#   dW0 = x^T dz = [[2 * 1 + 0, -2/4 + 3/2], [1 * 1 + 0, -1/4 + 2 * 3/2]]       db0 = [1 + 0, -1/4 + 3/2]
#                = [[2, 1], [1, 11/4]]                                              = [1, 5/4]
#
# The penalty adds l2 w = w/2 to those of weights:
#
#   dW0 = [[2 + 1/2, 1 + 1], [1 - 1/2, 11/4 + 1/4]] = [[5/2, 2], [1/2, 3]]
#   dW1 = [3/4 + 1, -17/4 - 1/4] = [7/4, -9/2]
#
# All of it is exact in binary, in whatever order it is added up.
#
# SGD at rate 1/4, p - g/4:
#
#   W0  1 - 5/8 = 3/8     2 - 1/2 = 3/2     -1 - 1/8 = -9/8     1/2 - 3/4 = -1/4
#   b0  1/2 - 1/4 = 1/4   -1 - 5/16 = -21/16
#   W1  2 - 7/16 = 25/16  -1/2 + 9/8 = 5/8
#   b1  1/4 + 5/8 = 7/8
#
# Adam at rate 1/2 with eps = 1: in the first step the corrected means are g and g^2, whatever the betas: p - (1/2) g /
# (|g| + 1):
#
#   W0  1 - 1/2 * (5/2)/(7/2) = 1 - 5/14 = 9/14     2 - 1/2 * 2/3 = 5/3
#       -1 - 1/2 * (1/2)/(3/2) = -1 - 1/6 = -7/6    1/2 - 1/2 * 3/4 = 1/8
#   b0  1/2 - 1/2 * 1/2 = 1/4                       -1 - 1/2 * (5/4)/(9/4) = -1 - 5/18 = -23/18
#   W1  2 - 1/2 * (7/4)/(11/4) = 2 - 7/22 = 37/22   -1/2 + 1/2 * (9/2)/(11/2) = -1/2 + 9/22 = -1/11
#   b1  1/4 + 1/2 * (5/2)/(7/2) = 1/4 + 5/14 = 17/28

HAND_START = [1.0, 2.0, -1.0, 0.5, 0.5, -1.0, 2.0, -0.5, 0.25]
HAND_X, HAND_T, HAND_WEIGHT = (np.asarray(a) for a in ([[2.0, 1.0], [1.0, 2.0]], [[0.5], [1.25]], [1.0, 3.0]))
HAND_Y, HAND_LOSS, HAND_DY = [[1.5], [-0.75]], 5.875, [[0.5], [-3.0]]
HAND_BARE = [2.0, 1.0, 1.0, 2.75, 1.0, 1.25, 0.75, -4.25, -2.5]  # before the penalty
HAND_DX = [[0.5, -1.125], [3.0, 0.75]]
HAND_GRADIENT = [2.5, 2.0, 0.5, 3.0, 1.0, 1.25, 1.75, -4.5, -2.5]
HAND_SGD = [0.375, 1.5, -1.125, -0.25, 0.25, -1.3125, 1.5625, 0.625, 0.875]
HAND_ADAM = ["9/14", "5/3", "-7/6", "1/8", "1/4", "-23/18", "37/22", "-1/11", "17/28"]


def numbers(texts):
    return np.asarray([float(Fraction(text)) for text in texts])


def by_hand(library, dtype):
    model = portnn.MLP([2, 2, 1], activation="relu", dtype=dtype, **library.where)
    model.params = library.make(HAND_START, dtype)
    return model, library.make(HAND_X, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forwards_and_backwards_by_hand(library, dtype):
    model, x = by_hand(library, dtype)
    y, vjp = model.vjp(x)
    d_params, dx = vjp(library.make(HAND_DY, dtype))
    loss, gradient = model.loss_and_grad(x, HAND_T, "mse", sample_weight=HAND_WEIGHT, l2=0.5)
    for got, expected in (
        (y, HAND_Y),
        (d_params, HAND_BARE),
        (dx, HAND_DX),
        (loss, HAND_LOSS),
        (gradient, HAND_GRADIENT),
    ):
        assert_same(library.to_numpy(got), np.asarray(expected, dtype))


def step_by_hand(library, dtype, optimizer):
    model, x = by_hand(library, dtype)
    history = portnn.fit(
        model,
        x,
        HAND_T,
        loss="mse",
        optimizer=optimizer,
        sample_weight=HAND_WEIGHT,
        l2=0.5,
        epochs=1,
        batch_size=2,
        progress=False,
    )
    assert history["loss"] == [HAND_LOSS]
    return library.to_numpy(model.params)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_of_sgd_by_hand(library, dtype):
    assert_same(step_by_hand(library, dtype, SGD(0.25)), np.asarray(HAND_SGD, dtype))


@pytest.mark.parametrize("betas", [{}, {"beta1": 0.5, "beta2": 0.75}], ids=["usual", "low"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_of_adam_by_hand(library, dtype, betas):
    """Seven roundings in the step and one in the difference: 8 u of each, though -1/2 + 9/22 leaves only -1/11."""
    expected = numbers(HAND_ADAM)
    sizes = np.abs(HAND_START) + np.abs(expected - HAND_START)
    got = step_by_hand(library, dtype, Adam(0.5, eps=1.0, **betas))
    assert_within(got, expected, tolerances.ULPS * tolerances.rounded(sizes, dtype))


# A 2-2-2 network with relu and cross entropy, one sample x = [2, 1] of class 0, no biases to speak of:
#
#   weight 0 = [[1, -1], [-1, 3]]   z = [2 - 1, -2 + 3] = [1, 1] = h
#   weight 1 = [[1, -1], [-1, 1]]   y = [1 - 1, -1 + 1] = [0, 0], softmax = [1/2, 1/2], loss = log 2
#
#   dy = [1/2 - 1, 1/2] = [-1/2, 1/2]   dh = dy W1^T = [-1/2 - 1/2, 1/2 + 1/2] = [-1, 1] = dz
#   dW1 = h^T dy = [[-1/2, 1/2], [-1/2, 1/2]]   dW0 = x^T dz = [[-2, 2], [-1, 1]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_by_hand(library, dtype):
    model = portnn.MLP([2, 2, 2], activation="relu", dtype=dtype, **library.where)
    model.params = library.make([1.0, -1.0, -1.0, 3.0, 0.0, 0.0, 1.0, -1.0, -1.0, 1.0, 0.0, 0.0], dtype)
    value, gradient = model.loss_and_grad(library.make([[2.0, 1.0]], dtype), np.asarray([0]))
    assert_ulps(library.to_numpy(value)[None], Exact([tolerances.mpmath.log(2)]))
    expected = [-2.0, 2.0, -1.0, 1.0, -1.0, 1.0, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5]
    assert_same(library.to_numpy(gradient), np.asarray(expected, dtype))


# Two steps of every optimizer by hand, from 4, for gradients g, then G. Numbers are such that roots come out whole.
#
#   SGD, rate 1/2, momentum 1/2: v = g, then g/2 + G
#     (1, 2)    4 - 1/2 = 7/2, then v = 1/2 + 2 = 5/2: 7/2 - 5/4 = 9/4
#     Nesterov  g + v/2 = 3/2: 4 - 3/4 = 13/4, then 2 + 5/4 = 13/4: 13/4 - 13/8 = 13/8
#   Adam, rate 1, betas 1/2, eps 1: means g and g^2, then (g/2 + G)/(3/2) and (g^2/2 + G^2)/(3/2) = (g^2 + 2 G^2)/3
#     (5, 1)    5/(5 + 1) = 5/6,   then (7/2)/(3/2) = 7/3,   root of 27/3 is 3:   (7/3)/(3 + 1) = 7/12
#     (-5, 1)   -5/6,              then (-3/2)/(3/2) = -1,   3:                   -1/4
#     (1, 11)   1/2,               then (23/2)/(3/2) = 23/3, root of 243/3 is 9:  (23/3)/(9 + 1) = 23/30
#   amsgrad with beta2 = 0: the larger of g^2 and G^2
#     (5, 1)    5/6,               then (7/3)/(5 + 1) = 7/18
#   AdamW, rate 1/2, betas 1/2, eps 1, decay 1/2: weights times 1 - 1/4, then half of Adam's steps
#     (5, 1)    4 * 3/4 - 5/12 = 31/12, then 31/12 * 3/4 - 7/24 = 93/48 - 14/48 = 79/48
#     a bias    4 - 5/12 = 43/12,       then 43/12 - 7/24 = 79/24
#   RMSprop, rate 1, decay 3/4, eps 1: v = g^2/4, then (3/4 g^2 + G^2)/4
#     (2, 1)    root 1: 2/(1 + 1) = 1,       then (3 + 1)/4 = 1, root 1: 1/2
#     (-4, 2)   root 2: -4/(2 + 1) = -4/3,   then (12 + 4)/4 = 4, root 2: 2/3
#     with momentum 1/2, (2, 1): 1, then 1/2 + 1/2 = 1
#   Adagrad, rate 1, eps 1: v = g^2, then g^2 + G^2
#     (3, 4)    3/4,   then root 5:  4/6 = 2/3
#     (-5, 12)  -5/6,  then root 13: 12/14 = 6/7

LOW = {"beta1": 0.5, "beta2": 0.5, "eps": 1.0}
# id -> (optimizer, g, G, 1 for a weight, after one step, after two)
TWO_STEPS = {
    "momentum": (SGD(0.5, momentum=0.5), 1, 2, 1, "7/2", "9/4"),
    "nesterov": (SGD(0.5, momentum=0.5, nesterov=True), 1, 2, 1, "13/4", "13/8"),
    "adam": (Adam(1.0, **LOW), 5, 1, 1, "19/6", "31/12"),  # 4 - 5/6, - 7/12
    "adam-turn": (Adam(1.0, **LOW), -5, 1, 1, "29/6", "61/12"),  # 4 + 5/6, + 1/4
    "adam-rise": (Adam(1.0, **LOW), 1, 11, 1, "7/2", "41/15"),  # 4 - 1/2, - 23/30
    "amsgrad": (Adam(1.0, beta1=0.5, beta2=0.0, eps=1.0, amsgrad=True), 5, 1, 1, "19/6", "25/9"),  # 57/18 - 7/18
    "adamw-weight": (AdamW(0.5, **LOW, weight_decay=0.5), 5, 1, 1, "31/12", "79/48"),
    "adamw-bias": (AdamW(0.5, **LOW, weight_decay=0.5), 5, 1, 0, "43/12", "79/24"),
    "rmsprop": (RMSprop(1.0, decay=0.75, eps=1.0), 2, 1, 1, "3", "5/2"),
    "rmsprop-turn": (RMSprop(1.0, decay=0.75, eps=1.0), -4, 2, 1, "16/3", "14/3"),
    "rmsprop-momentum": (RMSprop(1.0, decay=0.75, eps=1.0, momentum=0.5), 2, 1, 1, "3", "2"),
    "adagrad": (Adagrad(1.0, eps=1.0), 3, 4, 1, "13/4", "31/12"),
    "adagrad-turn": (Adagrad(1.0, eps=1.0), -5, 12, 1, "29/6", "167/42"),  # 4 + 5/6 - 6/7 = (168 + 35 - 36)/42
}


@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(TWO_STEPS, ["float32", "float64"])))
def test_two_steps_of_every_optimizer_by_hand(library, name, dtype):
    optimizer, first, second, decayed, *expected = TWO_STEPS[name]
    got = run(library, optimizer, [[first], [second]], [4.0], dtype, [decayed])
    within_few(got[:, 0], numbers(expected), dtype)
