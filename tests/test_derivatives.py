"""Tangents, Jacobians and products with Hessians against torch.func, which knows nothing of our formulas."""

import functools

import numpy as np
import pytest
from tolerances import STEP, assert_same, assert_within, central_difference, first_gradient

import portnn
from portnn.activations import ACTIVATIONS, get_activation
from portnn.backends import namespace
from portnn.curvature import curvature_of, loss_curvature
from portnn.losses import cross_entropy, get_loss

torch = pytest.importorskip("torch", reason="torch is not installed")
# torch.func.jvp makes use of torch.jit itself, and warns of that
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
F = torch.nn.functional

THEIRS = {
    "identity": lambda z: z,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
}
RNG = np.random.default_rng(11)
BATCH, INPUTS, OUTPUTS = 5, 3, 4
LABELS = np.asarray([0, 3, 1, 2, 3])


def network(activation, depth, members=None, **options):
    model = portnn.MLP(
        [INPUTS, *[6, 5, 7, 4][:depth], OUTPUTS], activation=activation, dtype="float64", members=members, **options
    )
    noise = np.random.default_rng(depth).standard_normal(tuple(model.params.shape))
    model.params = np.asarray(model.params) + 0.1 * noise  # biases that are not zero
    return model


def theirs(model, params, x, activation):
    """The same network in torch, of one flat vector."""
    y = x
    for i, layer in enumerate(model.layers):
        y = y @ params[layer.weight].reshape(layer.fan_in, layer.fan_out) + params[layer.bias]
        y = THEIRS[activation](y) if i < len(model.layers) - 1 else y
    return y


def singles(model):
    """The parameters of each member as tensors."""
    params = np.asarray(model.params)
    return [torch.tensor(p) for p in (params if params.ndim == 2 else [params])]


def stacked(model, values):
    a = np.stack([v.numpy() for v in values])
    return a if model.members else a[0]


EVERY = pytest.mark.parametrize("activation", ACTIVATIONS)
MANY = pytest.mark.parametrize("members", [None, 3])


# Each activation at each depth, and either of them with and without members.
KINDS = [(a, d, 3 if (i + d) % 2 else None) for i, a in enumerate(ACTIVATIONS) for d in range(5)]


@pytest.mark.parametrize(("activation", "depth", "members"), KINDS)
def test_jacobian_jvp_and_hvp_are_those_of_torch_func(activation, depth, members):
    model, rng = network(activation, depth, members), np.random.default_rng(depth)
    x, t = rng.standard_normal((BATCH, INPUTS)), torch.tensor(LABELS)
    xt, dx = torch.tensor(x), rng.standard_normal((BATCH, INPUTS))
    v = rng.standard_normal(tuple(model.params.shape))
    directions = [torch.tensor(d) for d in (v if members else [v])]
    net = functools.partial(theirs, model, activation=activation)

    def loss(p):
        return F.cross_entropy(net(p, xt), t)

    per_sample = [torch.func.vmap(torch.func.jacrev(lambda a, p=p: net(p, a)))(xt) for p in singles(model)]
    expected = stacked(model, per_sample)
    assert_within(model.jacobian(x), expected, first_gradient(expected, "float64"))

    pairs = [
        torch.func.jvp(net, (p, xt), (d, torch.tensor(dx))) for p, d in zip(singles(model), directions, strict=True)
    ]
    for ours, expected in zip(model.jvp(x, dx=dx, d_params=v), zip(*pairs, strict=True), strict=True):
        expected = stacked(model, expected)
        assert_within(ours, expected, first_gradient(expected, "float64"))

    products = [
        torch.func.jvp(torch.func.grad(loss), (p,), (d,))[1] for p, d in zip(singles(model), directions, strict=True)
    ]
    expected = stacked(model, products)
    assert_within(model.hvp(x, LABELS, v), expected, first_gradient(expected, "float64"))


@MANY
@EVERY
def test_the_pullback_of_outputs_and_derivatives_is_that_of_torch(activation, members):
    """A loss that contains dy/dx along a direction: reverse mode over forward mode."""
    model = network(activation, 2, members)
    x, dx = np.random.default_rng(12).standard_normal((2, BATCH, INPUTS))
    net = functools.partial(theirs, model, activation=activation)

    def loss(p, a):
        y, dy = torch.func.jvp(lambda b: net(p, b), (a,), (torch.tensor(dx),))
        return (torch.sin(y) * dy**2).sum()

    (y, dy), vjp = model.tangents(model.params, x, dx=dx)
    d_params, d_x = vjp(np.cos(y) * dy**2, 2.0 * np.sin(y) * dy)
    found = [torch.func.grad(loss, argnums=(0, 1))(p, torch.tensor(x)) for p in singles(model)]
    expected = stacked(model, [p for p, _ in found])
    assert_within(d_params, expected, first_gradient(expected, "float64"))
    expected = sum(a for _, a in found).numpy()  # members share x
    assert_within(d_x, expected, first_gradient(expected, "float64"))


@pytest.mark.parametrize("given", ["dx", "d_params", "both"])
def test_a_direction_of_inputs_of_parameters_or_both(library, given):
    """jvp is linear in its direction; and the same on every library."""
    model = portnn.MLP([INPUTS, 4, OUTPUTS], activation="tanh", dtype="float64", **library.where)
    rng = np.random.default_rng(8)
    x, dx = rng.standard_normal((2, BATCH, INPUTS))
    v = rng.standard_normal(tuple(model.params.shape))
    dx, v = dx / np.linalg.norm(dx), v / np.linalg.norm(v)  # central_difference is for directions of that length
    chosen = {"dx": dx, "d_params": v} if given == "both" else {given: {"dx": dx, "d_params": v}[given]}
    y, dy = model.jvp(library.make(x), **{name: library.make(a) for name, a in chosen.items()})
    h = STEP
    params = library.to_numpy(model.params)
    host = portnn.MLP([INPUTS, 4, OUTPUTS], activation="tanh", dtype="float64")
    up, down = (host.apply(params + s * chosen.get("d_params", 0.0), x + s * chosen.get("dx", 0.0)) for s in (h, -h))
    assert_within(library.to_numpy(y), host.apply(params, x), first_gradient(up, "float64"))
    assert_within(library.to_numpy(dy), (up - down) / (2 * h), central_difference(up))


LOSSES = {
    "cross_entropy": ("cross_entropy", LABELS, lambda y, t: F.cross_entropy(y, torch.tensor(LABELS), reduction="none")),
    "probabilities": (
        "cross_entropy",
        np.random.default_rng(1).dirichlet(np.ones(OUTPUTS), BATCH),
        lambda y, t: F.cross_entropy(y, t, reduction="none"),
    ),
    "smoothing": (
        functools.partial(cross_entropy, label_smoothing=0.2),
        LABELS,
        lambda y, t: F.cross_entropy(y, torch.tensor(LABELS), reduction="none", label_smoothing=0.2),
    ),
    "binary": (
        "binary_cross_entropy",
        (np.random.default_rng(2).random((BATCH, OUTPUTS)) > 0.5).astype("float64"),
        lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none").mean(-1),
    ),
    "mse": ("mse", RNG.standard_normal((BATCH, OUTPUTS)), lambda y, t: ((y - t) ** 2).mean(-1)),
    "mae": ("mae", RNG.standard_normal((BATCH, OUTPUTS)), lambda y, t: (y - t).abs().mean(-1)),
    "huber": (
        "huber",
        2 * RNG.standard_normal((BATCH, OUTPUTS)),
        lambda y, t: torch.where((y - t).abs() <= 1, (y - t) ** 2 / 2, (y - t).abs() - 0.5).mean(-1),
    ),
    "poisson": (
        "poisson",
        RNG.poisson(2.0, (BATCH, OUTPUTS)).astype("float64"),
        lambda y, t: F.poisson_nll_loss(y, t, reduction="none").mean(-1),
    ),
}


@pytest.mark.parametrize("weighted", [False, True])
@MANY
@pytest.mark.parametrize("name", LOSSES)
def test_products_with_the_hessian_of_every_loss(name, members, weighted):
    loss, t, reference = LOSSES[name]
    model = network("gelu", 2, members)
    rng = np.random.default_rng(13)
    x, v = rng.standard_normal((BATCH, INPUTS)), rng.standard_normal(tuple(model.params.shape))
    weight = np.asarray([1.0, 0.0, 2.0, 0.5, 1.5]) if weighted else np.ones(BATCH)
    share, tt = torch.tensor(weight / weight.sum()), torch.tensor(t)
    decayed = torch.tensor(np.asarray(model.decayed()))

    def mean(p):
        y = theirs(model, p, torch.tensor(x), "gelu")
        return (reference(y, tt) * share).sum() + 0.05 * (decayed * p**2).sum()

    products = [
        torch.func.jvp(torch.func.grad(mean), (p,), (torch.tensor(d),))[1]
        for p, d in zip(singles(model), v if members else [v], strict=True)
    ]
    expected = stacked(model, products)
    options = {"sample_weight": weight} if weighted else {}
    assert_within(model.hvp(x, t, v, loss, l2=0.1, **options), expected, first_gradient(expected, "float64"))


def test_hessians_of_losses_with_shares_of_outputs():
    y, t, v = np.random.default_rng(14).standard_normal((3, BATCH, OUTPUTS))
    share = np.asarray([0.1, 0.2, 0.3, 0.4])
    expected = 2.0 * share * v
    assert_within(loss_curvature(get_loss("mse"), y, t, v, share), expected, first_gradient(expected, "float64"))


def test_gradients_of_inputs(library):
    model = portnn.MLP([INPUTS, 4, OUTPUTS], activation="mish", dtype="float64", **library.where)
    x = np.random.default_rng(15).standard_normal((BATCH, INPUTS))
    values, grad = model.input_gradient(library.make(x), library.make(LABELS))
    a = torch.tensor(x, requires_grad=True)
    params = torch.tensor(library.to_numpy(model.params))
    losses = F.cross_entropy(theirs(model, params, a, "mish"), torch.tensor(LABELS), reduction="none")
    losses.sum().backward()
    assert_within(library.to_numpy(values), losses.detach().numpy(), first_gradient(losses.detach().numpy(), "float64"))
    assert_within(library.to_numpy(grad), a.grad.numpy(), first_gradient(a.grad.numpy(), "float64"))


def test_value_and_grad_is_the_loss_and_its_gradient(library):
    model = portnn.MLP([INPUTS, 4, OUTPUTS], dtype="float64", **library.where)
    x, t = library.make(np.random.default_rng(16).standard_normal((BATCH, INPUTS))), library.make(LABELS)
    for options in ({}, {"l1": 0.1, "l2": 0.2}):
        value, grad = model.value_and_grad("cross_entropy", **options)(model.params, x, t)
        expected, gradient = model.loss_and_grad(x, t, **options)
        assert_same(library.to_numpy(value), library.to_numpy(expected))
        assert_same(library.to_numpy(grad), library.to_numpy(gradient))


@pytest.mark.parametrize("activation", ["elu(0.5)", "leaky_relu(0.2)", *ACTIVATIONS])
def test_second_derivatives_far_out_are_finite_and_right(activation):
    """Where exponentials could overflow, and where differences would leave nothing."""
    mpmath = pytest.importorskip("mpmath", reason="mpmath is not installed")
    z = np.asarray([-700.0, -40.0, -5.0, -1e-3, 1e-3, 5.0, 40.0, 700.0])
    curvature = curvature_of(get_activation(activation))
    found = np.zeros_like(z) if curvature is None else curvature(z)
    m, e = mpmath, mpmath.exp
    exact = {
        "tanh": m.tanh,
        "sigmoid": lambda v: 1 / (1 + e(-v)),
        "softplus": lambda v: m.log(1 + e(v)),
        "gelu": lambda v: v * m.erfc(-v / m.sqrt(2)) / 2,
        "gelu_tanh": lambda v: v / (1 + e(-2 * m.sqrt(2 / m.pi) * (v + m.mpf(0.044715) * v**3))),
        "silu": lambda v: v / (1 + e(-v)),
        "mish": lambda v: v * m.tanh(m.log(1 + e(v))),
        "elu": lambda v: v if v > 0 else m.expm1(v),
        "elu(0.5)": lambda v: v if v > 0 else m.expm1(v) / 2,
        "selu": lambda v: (
            m.mpf(1.0507009873554804934193349852946)
            * (v if v > 0 else m.mpf(1.6732632423543772848170429916717) * m.expm1(v))
        ),
    }.get(activation, lambda v: 0)
    with mpmath.workdps(700):
        expected = [float(mpmath.diff(exact, mpmath.mpf(float(v)), 2, h=mpmath.mpf(10) ** -100)) for v in z]
    # a polynomial of z times an exponential: the exponent is rounded, which costs |z| of its units
    bound = 64 * np.finfo("float64").eps * (1 + abs(z)) * abs(np.asarray(expected)) + 1e-300
    if activation in ("tanh", "sigmoid"):  # differences of numbers near 1 and near 1/2
        bound += 2.0**-52
    assert_within(found, expected, bound)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hosts_find_the_slopes_of_portnn_where_units_are_exactly_zero(activation):
    """A narrow network without biases yet: units switch off together, and what follows is exactly 0."""
    model = portnn.MLP([2, 3, 3, 1], activation=activation, dtype="float64", seed=1)
    x = np.concatenate([np.random.default_rng(18).standard_normal((40, 2)), np.zeros((3, 2))])
    _, vjp = model.vjp(x)
    d_params, dx = vjp(np.ones((43, 1)))
    there = model.to(backend="torch")
    params, a = there.params.clone().requires_grad_(), torch.tensor(x, requires_grad=True)
    there.apply(params, a).sum().backward()
    assert_within(params.grad.numpy(), d_params, first_gradient(d_params, "float64"))
    assert_within(a.grad.numpy(), dx, first_gradient(dx, "float64"))
    jax = pytest.importorskip("jax", reason="jax is not installed")
    there = model.to(backend="jax")
    found = jax.grad(lambda p, a: there.apply(p, a).sum(), argnums=(0, 1))(there.params, jax.numpy.asarray(x))
    for ours, expected in zip(found, (d_params, dx), strict=True):
        assert_within(np.asarray(ours), expected, first_gradient(expected, "float64"))


@pytest.mark.parametrize("activation", ["elu", "selu", "relu", "leaky_relu"])
def test_second_derivatives_at_kinks_are_those_of_torch(activation):
    z = torch.tensor([0.0, -0.0], dtype=torch.float64)
    expected = torch.func.vmap(torch.func.grad(torch.func.grad(THEIRS[activation])))(z).numpy()
    curvature = curvature_of(get_activation(activation))
    assert_same(np.zeros(2) if curvature is None else curvature(z.numpy()), expected)


def test_second_derivatives_do_not_overflow():
    assert_same(curvature_of(ACTIVATIONS["gelu"])(np.asarray([3e19, -3e19], dtype="float32")), np.zeros(2, "float32"))


@pytest.mark.parametrize("members", [None, 2])
def test_jacobian_of_an_activation_that_mixes_units(members):
    def softmax(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
        return p, lambda dy: (p * (dy - (p * dy).sum(-1, keepdims=True)),)

    model = network(softmax, 1, members)
    x, h = np.random.default_rng(19).standard_normal((BATCH, INPUTS)), STEP
    slopes = [(model(x + h * e) - model(x - h * e)) / (2 * h) for e in np.eye(INPUTS)]
    assert_within(model.jacobian(x), np.stack(slopes, axis=-1), central_difference(model(x)))


def test_class_weights_count_in_products_with_hessians():
    model = network("tanh", 1)
    x, v = np.random.default_rng(20).standard_normal((2, BATCH, INPUTS))[0], np.ones(model.n_params)
    for loss, t, weights in (
        ("cross_entropy", LABELS, [1.0, 2.0, 3.0, 4.0]),
        ("mse", np.random.default_rng(21).standard_normal((BATCH, OUTPUTS)), [1.0, 2.0, 3.0, 4.0]),
    ):
        options, h = {"class_weight": weights}, 1e-6
        start, ends = np.asarray(model.params).copy(), []
        for s in (h, -h):
            model.params = start + s * v
            ends.append(model.loss_and_grad(x, t, loss, **options)[1])
        model.params = start
        assert_within(model.hvp(x, t, v, loss, **options), (ends[0] - ends[1]) / (2 * h), 1e-8)
        plain = model.hvp(x, t, v, loss)
        assert np.max(np.abs(plain - model.hvp(x, t, v, loss, **options))) > 1e-3


def test_a_share_of_outputs_may_be_bound_to_the_loss():
    model, share = network("tanh", 1), np.asarray([0.1, 0.2, 0.3, 0.4])
    x, t = np.ones((BATCH, INPUTS)), np.zeros((BATCH, OUTPUTS))
    bound = model.hvp(x, t, np.ones(model.n_params), functools.partial(portnn.losses.mse, output_share=share))
    expected = model.hvp(x, t, np.ones(model.n_params), "mse", class_weight=share)
    assert_within(bound, expected, first_gradient(expected, "float64"))


def test_products_with_hessians_in_what_jax_compiles():
    """Conjugate gradients, scans and vmap over directions, with the samples closed over."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model = portnn.MLP([INPUTS, 2, OUTPUTS], activation="tanh", dtype="float64", backend="jax")
    x, v = jax.numpy.asarray(np.random.default_rng(22).standard_normal((BATCH, INPUTS))), model.params
    expected = np.asarray(model.hvp(x, LABELS, v))
    found = jax.jit(lambda v: model.hvp(x, LABELS, v))(v)
    assert_within(np.asarray(found), expected, first_gradient(expected, "float64"))
    whole = jax.vmap(lambda v: model.hvp(x, LABELS, v))(jax.numpy.eye(model.n_params))
    assert_within(np.asarray(whole @ v), expected, 16 * first_gradient(expected, "float64"))
    along = jax.vmap(lambda v: model.jvp(x, d_params=v)[1])(jax.numpy.eye(model.n_params))
    assert along.shape == (model.n_params, BATCH, OUTPUTS)
    weight = jax.numpy.linspace(0.5, 1.5, BATCH)
    loss = jax.jit(lambda w: model.loss_and_grad(x, LABELS, sample_weight=w)[0])(weight)
    expected = np.asarray(model.loss_and_grad(x, LABELS, sample_weight=weight)[0])
    assert_within(np.asarray(loss), expected, first_gradient(expected, "float64"))


def test_axes_in_front_of_the_batch_are_samples_too():
    """Time, or another axis of data: the gradient has the shape of the parameters."""
    model, rng = network("tanh", 1), np.random.default_rng(23)
    x, dx = rng.standard_normal((2, 4, BATCH, INPUTS))
    dy = rng.standard_normal((4, BATCH, OUTPUTS))
    flat, flat_dx, flat_dy = x.reshape(-1, INPUTS), dx.reshape(-1, INPUTS), dy.reshape(-1, OUTPUTS)
    expected = model.forward(model.params, flat)[1](flat_dy)[0]
    assert_within(model.forward(model.params, x)[1](dy)[0], expected, first_gradient(expected, "float64"))
    expected = model.tangents(model.params, flat, dx=flat_dx)[1](flat_dy, flat_dy)[0]
    found = model.tangents(model.params, x, dx=dx)[1](dy, dy)[0]
    assert_within(found, expected, first_gradient(expected, "float64"))


def mean_square(y, t):
    return np.mean(y * y), lambda d: (2.0 * y / y.size * d,)


def own_tanh(z):
    y = np.tanh(z)
    return y, lambda dy: (1.0 - y * y) * dy


def own_entropy(y, t):
    e = np.exp(y - np.max(y, axis=-1, keepdims=True))
    p = e / np.sum(e, axis=-1, keepdims=True)
    hot = np.arange(y.shape[-1]) == t[..., None]
    return -np.sum(np.where(hot, np.log(p), 0.0), axis=-1), lambda d: (p - hot) * d[..., None]


TWINS = [
    (own_tanh, "tanh", "cross_entropy", "cross_entropy"),
    (lambda z: np.tanh(z), "tanh", "cross_entropy", "cross_entropy"),
    (lambda z: z / (1 + np.exp(-z)), "silu", "cross_entropy", "cross_entropy"),
    ("gelu", "gelu", portnn.losses.Loss("own", own_entropy, "classes"), "cross_entropy"),
    (own_tanh, "tanh", lambda y, t: np.mean((y - t) ** 2, axis=-1), "mse"),
    ("tanh", "tanh", lambda y, t: np.mean((y - t) ** 2, axis=(-2, -1)), "mse"),
    ("silu", "silu", lambda y, t: portnn.losses.mse(y, t), "mse"),
]


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize(("activation", "twin", "loss", "loss_twin"), TWINS)
def test_hessians_through_functions_of_the_users(activation, twin, loss, loss_twin, members):
    ours, theirs = (
        portnn.MLP([INPUTS, 4, 5, OUTPUTS], activation=a, dtype="float64", members=members) for a in (activation, twin)
    )
    rng = np.random.default_rng(3)
    x, v = rng.normal(size=(BATCH, INPUTS)), rng.normal(size=tuple(ours.params.shape))
    t = LABELS if loss_twin == "cross_entropy" else rng.normal(size=(BATCH, OUTPUTS))
    expected = theirs.hvp(x, t, v, loss_twin)
    assert np.max(np.abs(expected)) > 0.01
    assert_within(ours.hvp(x, t, v, loss), expected, first_gradient(expected, "float64"))


def test_hessians_of_a_mean_have_no_use_for_sample_weights():
    model, v = network("tanh", 1), np.ones(tuple(network("tanh", 1).params.shape))
    with pytest.raises(ValueError, match="one number per batch"):
        model.hvp(np.ones((BATCH, INPUTS)), np.ones((BATCH, OUTPUTS)), v, mean_square, sample_weight=np.ones(BATCH))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, x: m.jvp(x), "MLP.jvp: give a direction, dx of the shape of x or d_params"),
        (lambda m, x: m.tangents(m.params, x), "MLP.tangents: give a direction"),
        (lambda m, x: m.jvp(x, dx=x[:2]), r"MLP.jvp: dx has shape \(2, 3\), expected \(5, 3\)"),
        (lambda m, x: m.jvp(x, d_params=x), r"MLP.jvp: d_params has shape \(5, 3\), expected \(16,\)"),
        (lambda m, x: m.hvp(x, LABELS, m.params[:3]), r"MLP.hvp: v has shape \(3,\), expected \(16,\)"),
        (lambda m, x: m.jvp(x, dx=torch.tensor(x)), "MLP.jvp: dx and the parameters must use the same namespace"),
        (lambda m, x: m.jacobian(x[:, :2]), "MLP.jacobian: X has 2 features, but MLP is expecting 3"),
        (lambda m, x: m.jvp(x, dx=x.tolist()), "MLP.jvp: dx is a list"),
        (lambda m, x: m.tangents(m.params, x, dx=x[:1]), r"MLP: dx has shape \(1, 3\), expected \(5, 3\)"),
        (lambda m, x: m.tangents(m.params, x, d_params=np.ones(100)), r"MLP: d_params has shape \(100,\), expected"),
        (lambda m, x: m.tangents(np.ones(100), x, dx=x), r"MLP: params and x have shapes \(100,\) and \(5, 3\)"),
        (
            lambda m, x: m.tangents(m.params, x, dx=x)[1](x, x),
            r"a cotangent has shape \(5, 3\), expected \(5, 4\)",
        ),
        (lambda m, x: m.value_and_grad("mse")(m.params, x, x), r"t has shape \(5, 3\), mse expects one row for each"),
        (lambda m, x: m.value_and_grad()(m.params, x, LABELS, np.ones(2)), r"weight has shape \(2,\), expected \(5,\)"),
        (
            lambda m, x: m.value_and_grad()(torch.tensor(m.params), x, LABELS),
            "params is a torch array on cpu, x a n",
        ),
        (lambda m, x: m.apply(np.ones(16, dtype="int64"), x), "MLP: params have dtype int64, expected a real floating"),
        (
            lambda m, x: m.input_gradient(x, LABELS, portnn.losses.Loss("mine", mean_square, "classes")),
            "loss 'mine' returns a number per batch, not per sample",
        ),
    ],
)
def test_bad_directions_are_said_in_one_sentence(call, said):
    model = network("tanh", 0)
    with pytest.raises((ValueError, TypeError), match=said):
        call(model, np.ones((BATCH, INPUTS)))


def test_no_library_is_needed_to_differentiate(library):
    """A formula with the slope of the network in it, for whatever array comes."""
    model = portnn.MLP([1, 8, 1], activation="tanh", dtype="float64", seed=3)
    x = np.linspace(-1.0, 1.0, 7)[:, None]

    def residual(params, x):
        """u' + u for u(x) = 1 + x N(x), and the gradient of its mean square."""
        xp = namespace(x)
        (n, dn), vjp = model.tangents(params, x, dx=xp.ones_like(x))
        r = n + x * dn + 1.0 + x * n
        mean = xp.sum(r * r) / x.shape[0]
        return mean, vjp(2.0 * r * (1.0 + x) / x.shape[0], 2.0 * r * x / x.shape[0])[0]

    value, grad = residual(library.make(np.asarray(model.params)), library.make(x))
    expected, gradient = residual(np.asarray(model.params), x)
    assert library.backend.owns(grad)
    assert_within(library.to_numpy(value), expected, first_gradient(expected, "float64"))
    assert_within(library.to_numpy(grad), gradient, first_gradient(gradient, "float64"))
    h, v = 1e-6, np.random.default_rng(17).standard_normal(gradient.shape)
    up, down = (residual(np.asarray(model.params) + s * v, x)[0] for s in (h, -h))
    assert_within(gradient @ v, (up - down) / (2 * h), 1e-8)


@pytest.mark.parametrize(
    "name", ["vjp", "forward", "tangents, dx", "tangents, d_params", "tangents, bar", "t", "weight"]
)
def test_what_is_no_real_array_is_refused_by_name(name):
    """Nothing is cut: the imaginary part of a complex cotangent is not dropped."""
    model = portnn.MLP([2, 1], dtype="float64")
    x, p, one = np.ones((3, 2)), model.params, np.ones((3, 1))
    f = model.value_and_grad("mse")
    calls = {
        "vjp": ("dy", lambda bad: model.vjp(x)[1](bad)),
        "forward": ("dy", lambda bad: model.forward(p, x)[1](bad)),
        "tangents, dx": ("dx", lambda bad: model.tangents(p, x, dx=bad)),
        "tangents, d_params": ("d_params", lambda bad: model.tangents(p, x, dx=x, d_params=bad)),
        "tangents, bar": ("dy_bar", lambda bad: model.tangents(p, x, dx=x)[1](one, bad)),
        "t": ("t", lambda bad: f(p, x, bad)),
        "weight": ("weight", lambda bad: f(p, x, one, bad)),
    }
    argument, call = calls[name]
    for bad in ([1.0, 2.0], "x", *([None] if name in ("vjp", "forward", "tangents, bar", "t") else [])):
        with pytest.raises(TypeError, match=rf"^MLP\.\w+: {argument} is a {type(bad).__name__}, expected an array$"):
            call(bad)
    shapes = {"dx": (3, 2), "d_params": (3,), "weight": (3,)}
    with pytest.raises(ValueError, match=rf"^MLP\.\w+: Complex data not supported: {argument} has dtype complex128$"):
        call(np.ones(shapes.get(argument, (3, 1))) * 1j)
