"""The gradient of every kind of network against central differences and against autodiff of portnn's own forward code.

Central differences see the value only: they would notice a forward and a backward pass that are wrong alike in what
they share. Autodiff is good to the last digits: it would notice a rounding to float32 on the way.
"""

import functools
import itertools

import numpy as np
import pytest
import tolerances
from tolerances import STEP, assert_same, assert_within

import portnn
from portnn.activations import ACTIVATIONS, get_activation
from portnn.losses import LOSSES
from portnn.primitives import linear
from portnn.testing import check_vjp

ROWS, INPUTS, OUTPUTS = 5, 3, 3
DEPTHS = [0, 1, 2, 3]
SAMPLE_WEIGHT = np.asarray([1.0, 0.0, 2.5, 0.5, 3.0])
CLASS_WEIGHT = np.asarray([0.5, 2.0, 1.0])
# name -> arguments of loss_and_grad
WEIGHTINGS = {
    "plain": {},
    "samples": {"sample_weight": SAMPLE_WEIGHT},
    "classes": {"class_weight": CLASS_WEIGHT},
    "both-l1-l2": {"sample_weight": SAMPLE_WEIGHT, "class_weight": CLASS_WEIGHT, "l1": 0.03, "l2": 0.2},
}
KINKS = 1e-3  # how near to a kink a derivative is not asked for: 100 steps of the difference


def sizes(depth):
    return [INPUTS, *[4] * depth, OUTPUTS]


def targets(loss, rng):
    return {
        "classes": rng.integers(0, OUTPUTS, size=ROWS),
        "binary": rng.random((ROWS, OUTPUTS)),
        "values": np.abs(rng.normal(size=(ROWS, OUTPUTS))),
    }[LOSSES[loss].kind]


def distance_to_kinks(model, x, t, loss):
    """Return how far every z is from 0, every weight from 0 and every deviation from the corners of its loss."""
    distances = [np.abs(model.params)] if model.n_params else []
    for layer, weight, bias in zip(model.layers, model.weights, model.biases, strict=True):
        z = x @ weight + (0.0 if bias is None else bias)
        distances.append(np.abs(z))
        x = layer.activation(z)[0]
    if t.ndim == 2:
        size = np.abs(x - t)
        distances += [size, np.abs(size - 1.0)]
    return min(float(a.min()) for a in distances)


@functools.cache
def problem(activation, depth, loss, bias=True):
    """Return a network with its biases off 0, inputs and targets, all of them away from kinks, as NumPy arrays."""
    for seed in itertools.count():
        rng = np.random.default_rng(seed)
        model = portnn.MLP(
            sizes(depth), activation=activation, bias=bias, init="lecun_normal", dtype="float64", seed=seed
        )
        model.params = model.params + 0.2 * rng.normal(size=model.n_params)
        x, t = rng.normal(size=(ROWS, INPUTS)), targets(loss, rng)
        if distance_to_kinks(model, x, t, loss) > KINKS:
            return model, x, t


def objective(model, xp, params, x, t, loss, sample_weight=None, class_weight=None, l1=0.0, l2=0.0):
    """Return the loss by its definition, from the forward code alone; ``params`` may carry a member axis."""
    y, kind = model.apply(params, x), LOSSES[loss].kind
    weight = np.ones(ROWS) if sample_weight is None else sample_weight
    if class_weight is not None and kind == "classes":
        weight = weight * class_weight[np.asarray(t)]
    per_output = np.ones(OUTPUTS) if class_weight is None or kind == "classes" else class_weight
    like = {"dtype": y.dtype}
    if kind == "classes":
        values = LOSSES[loss].pair(y, xp.asarray(t))[0]
    else:
        shares = (per_output / per_output.sum()).tolist()
        columns = [
            LOSSES[loss].pair(y[..., j : j + 1], xp.asarray(t, **like)[:, j : j + 1])[0] * shares[j]
            for j in range(OUTPUTS)
        ]
        values = columns[0] + columns[1] + columns[2]
    value = xp.sum(values * xp.asarray(weight / weight.sum(), **like), -1)
    for w in model.weights_of(params):
        value = value + l1 * xp.sum(xp.sum(xp.abs(w), -1), -1) + 0.5 * l2 * xp.sum(xp.sum(w * w, -1), -1)
    return value


def differences(f, p):
    """Return the central differences of f, which maps rows of parameters to one value each."""
    steps = STEP * np.eye(p.size)
    values = f(np.concatenate([p + steps, p - steps]))
    return (values[: p.size] - values[p.size :]) / (2.0 * STEP)


cases = pytest.mark.parametrize(
    ("activation", "depth", "loss", "weighting"), list(itertools.product(ACTIVATIONS, DEPTHS, LOSSES, WEIGHTINGS))
)


@cases
def test_gradient_is_the_central_difference(activation, depth, loss, weighting):
    model, x, t = problem(activation, depth, loss)
    options = WEIGHTINGS[weighting]
    value, grad = model.loss_and_grad(x, t, loss, **options)
    f = functools.partial(objective, model, np, x=x, t=t, loss=loss, **options)
    assert grad.shape == (model.n_params,)
    assert_within(value, f(params=model.params), tolerances.few_steps(value, "float64"))
    bound = tolerances.central_difference(value)
    assert_within(grad, differences(lambda rows: f(params=rows), model.params), bound)


@cases
def test_gradient_is_that_of_torch_autograd(activation, depth, loss, weighting):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model, x, t = problem(activation, depth, loss)
    model, options = model.to(backend="torch", device="cpu"), WEIGHTINGS[weighting]
    x = torch.asarray(x)
    value, grad = model.loss_and_grad(x, t, loss, **options)
    params = model.params.clone().requires_grad_()
    auto_value = objective(model, torch, params, x, t, loss, **options)
    auto = torch.autograd.grad(auto_value, params)[0].numpy()
    assert_within(value.numpy(), auto_value.detach().numpy(), tolerances.few_steps(value.item(), "float64"))
    assert_within(grad.numpy(), auto, tolerances.first_gradient(auto, "float64"))


# every activation once and every loss and weighting three times
SOME = [
    (activation, depth, loss, weighting)
    for activation, depth, loss, weighting in zip(
        ACTIVATIONS, itertools.cycle([2, 1, 3]), itertools.cycle(LOSSES), itertools.cycle(WEIGHTINGS)
    )
]
some = pytest.mark.parametrize(("activation", "depth", "loss", "weighting"), SOME)


@some
def test_gradient_is_that_of_jax_grad(activation, depth, loss, weighting):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model, x, t = problem(activation, depth, loss)
    options = WEIGHTINGS[weighting]
    f = jax.jit(jax.grad(lambda params: objective(model, jax.numpy, params, jax.numpy.asarray(x), t, loss, **options)))
    auto = np.asarray(f(jax.numpy.asarray(model.params)))
    _, grad = model.loss_and_grad(x, t, loss, **options)
    assert_within(grad, auto, tolerances.first_gradient(auto, "float64"))


@some
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_is_the_same_on_every_library(library, activation, depth, loss, weighting, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model, x, t = problem(activation, depth, loss)
    options = WEIGHTINGS[weighting]
    model = model.to(dtype=dtype)
    there = model.to(**library.where)
    value, grad = there.loss_and_grad(library.make(x, dtype), t, loss, **options)
    params = torch.asarray(model.params.astype("float64"), requires_grad=True)
    t = t if t.dtype.kind == "i" else t.astype(dtype).astype("float64")
    exact = objective(model, torch, params, torch.asarray(x.astype(dtype).astype("float64")), t, loss, **options)
    (auto,) = torch.autograd.grad(exact, params)
    assert {library.dtype_name(value), library.dtype_name(grad)} == {dtype}
    assert_within(library.to_numpy(value), exact.detach().numpy(), tolerances.few_steps(exact.item(), dtype))
    assert_within(library.to_numpy(grad), auto.numpy(), tolerances.first_gradient(auto.numpy(), dtype))


@pytest.mark.parametrize("bias", [False, [True, False, True], [False, True, False]], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_without_some_of_the_biases(loss, bias):
    model, x, t = problem("tanh", 2, loss, tuple(bias) if isinstance(bias, list) else bias)
    value, grad = model.loss_and_grad(x, t, loss, l2=0.1)
    f = functools.partial(objective, model, np, x=x, t=t, loss=loss, l2=0.1)
    assert_within(grad, differences(lambda rows: f(params=rows), model.params), tolerances.central_difference(value))


def test_gradient_with_an_activation_per_layer_and_on_the_outputs():
    model, x, t = problem(("relu", "gelu", "sigmoid"), 2, "mse")
    value, grad = model.loss_and_grad(x, t, "mse")
    f = functools.partial(objective, model, np, x=x, t=t, loss="mse")
    assert_within(grad, differences(lambda rows: f(params=rows), model.params), tolerances.central_difference(value))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_members_have_the_gradients_that_each_has_alone(library, loss, weighting):
    _, x, t = problem("tanh", 2, loss)
    together = portnn.MLP(sizes(2), activation="tanh", dtype="float64", seed=5, members=3, **library.where)
    values, grads = together.loss_and_grad(library.make(x), t, loss, **WEIGHTINGS[weighting])
    assert (tuple(values.shape), tuple(grads.shape)) == ((3,), (3, together.n_params))
    for i in range(3):
        alone = portnn.MLP(sizes(2), activation="tanh", dtype="float64", seed=5 + i, **library.where)
        value, grad = (
            library.to_numpy(a) for a in alone.loss_and_grad(library.make(x), t, loss, **WEIGHTINGS[weighting])
        )
        assert_within(library.to_numpy(values)[i], value, tolerances.few_steps(value, "float64"))
        assert_within(library.to_numpy(grads)[i], grad, tolerances.first_gradient(grad, "float64"))


# -- the pullback of the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pullback_gives_the_derivative_for_parameters_and_inputs(activation, depth):
    model, x, _ = problem(activation, depth, "cross_entropy")
    dy = np.random.default_rng(7).normal(size=(ROWS, OUTPUTS))
    y, vjp = model.vjp(x)
    d_params, dx = vjp(dy)
    assert_same(y, model(x))
    bound = tolerances.central_difference((np.abs(y) * np.abs(dy)).sum())
    numeric = differences(lambda rows: (model.apply(rows, x) * dy).sum(axis=(-2, -1)), model.params)
    assert_within(d_params, numeric, bound)
    rows = x.reshape(-1)
    numeric = differences(
        lambda moved: np.asarray([(model(row.reshape(x.shape)) * dy).sum() for row in moved]), rows
    ).reshape(x.shape)
    assert_within(dx, numeric, bound)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pullback_agrees_with_autograd_for_parameters_and_inputs(activation, depth):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model, x, _ = problem(activation, depth, "cross_entropy")
    model = model.to(backend="torch", device="cpu")
    dy = torch.asarray(np.random.default_rng(7).normal(size=(ROWS, OUTPUTS)))
    params, inputs = model.params.clone().requires_grad_(), torch.asarray(x, requires_grad=True)
    auto = torch.autograd.grad(model.apply(params, inputs), (params, inputs), dy)
    ours = model.vjp(torch.asarray(x))[1](dy)
    for a, b in zip(ours, auto, strict=True):
        assert_within(a.numpy(), b.numpy(), tolerances.first_gradient(b.numpy(), "float64"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("members", [None, 2])
def test_pullback_can_be_called_twice_and_writes_nothing(library, members, dtype):
    model = portnn.MLP([3, 4, 2], activation="gelu", dtype=dtype, members=members, **library.where)
    x = library.make(np.random.default_rng(0).normal(size=(5, 3)), dtype)
    before = library.to_numpy(model.params)
    y, vjp = model.vjp(x)
    dy = library.make(np.ones(tuple(y.shape)), dtype)
    first, again = ([library.to_numpy(a) for a in vjp(dy)] for _ in range(2))
    assert [a.shape for a in first] == [tuple(model.params.shape), (5, 3)]
    for a, b in zip(first, again, strict=True):
        assert a.dtype == dtype
        assert_same(a, b)
    assert_same(library.to_numpy(model.params), before)


def test_the_gradient_of_a_sum_is_the_sum_of_gradients_over_parts_of_the_batch():
    model, x, t = problem("silu", 2, "cross_entropy")
    _, whole = model.loss_and_grad(x, t)
    parts = [model.loss_and_grad(x[rows], t[rows])[1] * len(x[rows]) for rows in (slice(0, 2), slice(2, None))]
    assert_within(sum(parts) / ROWS, whole, tolerances.first_gradient(whole, "float64"))


# -- one training step worked by hand ---------------------------------------------------------------------------------
#
# A 2-2-2 network with relu and mse, a batch of two samples:
#
#   weight 0 = [[1, -1], [2, -0.5]]   bias 0 = [0, 1]       weight 1 = [[0.5, -1], [3, 1]]   bias 1 = [0.5, 0]
#
#                 sample 1                                  sample 2
#   x             [1, 2]                                    [0, 0]
#   z = xW + b    [1 + 4, -1 - 1 + 1] = [5, -1]             [0, 1]
#   h = relu z    [5, 0]                                    [0, 1]
#   y = hW + b    [2.5 + 0.5, -5] = [3, -5]                 [3 + 0.5, 1] = [3.5, 1]
#   t             [1, -3]                                   [3.5, 1]
#   mse           (2^2 + 2^2) / 2 = 4                       0
#
# Loss: (4 + 0) / 2 = 2. Backwards, with 1/2 from the mean over the batch and 2/2 from mse over two outputs:
#
#   dy            [2, -2] / 2 = [1, -1]                     [0, 0]
#   dh = dy W^T   [0.5 + 1, 3 - 1] = [1.5, 2]               [0, 0]
#   dz            [1.5, 0]   (relu is off at z = -1)        [0, 0]
#
#   dweight 1 = h^T dy = [[5, -5], [0, 0]]    dbias 1 = [1, -1]
#   dweight 0 = x^T dz = [[1.5, 0], [3, 0]]   dbias 0 = [1.5, 0]
#
# A step of SGD at rate 0.5 takes half of that away. All numbers are exact in binary.

HAND_PARAMS = [1.0, -1.0, 2.0, -0.5, 0.0, 1.0, 0.5, -1.0, 3.0, 1.0, 0.5, 0.0]
HAND_X, HAND_T = np.asarray([[1.0, 2.0], [0.0, 0.0]]), np.asarray([[1.0, -3.0], [3.5, 1.0]])
HAND_GRAD = [1.5, 0.0, 3.0, 0.0, 1.5, 0.0, 5.0, -5.0, 0.0, 0.0, 1.0, -1.0]
HAND_NEXT = [0.25, -1.0, 0.5, -0.5, -0.75, 1.0, -2.0, 1.5, 3.0, 1.0, 0.0, 0.5]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_worked_by_hand(library, dtype):
    model = portnn.MLP([2, 2, 2], activation="relu", dtype=dtype, **library.where)
    model.params = library.make(HAND_PARAMS)
    x = library.make(HAND_X, dtype)
    loss, grad = model.loss_and_grad(x, HAND_T, "mse")
    assert_same(library.to_numpy(model(x)), np.asarray([[3.0, -5.0], [3.5, 1.0]], dtype))
    assert_same(library.to_numpy(loss), np.asarray(2.0, dtype))
    assert_same(library.to_numpy(grad), np.asarray(HAND_GRAD, dtype))
    history = portnn.fit(
        model, x, HAND_T, loss="mse", optimizer=portnn.SGD(0.5), epochs=1, batch_size=2, progress=False
    )
    assert history["loss"] == [2.0]
    assert_same(library.to_numpy(model.params), np.asarray(HAND_NEXT, dtype))


# -- the checker of users' own pairs ----------------------------------------------------------------------------------


def network_loss(params):
    """Return the loss of a small network as a pair in its parameters."""
    model, x, t = problem("tanh", 1, "cross_entropy")
    model = model.to()
    model.params = params
    value, grad = model.loss_and_grad(x, t)
    return value, lambda dy: (grad * dy,)


rng = np.random.default_rng(11)
PAIRS = {
    "linear": (linear, [rng.normal(size=s) for s in ((4, 3), (3, 2), (2,))]),
    "gelu": (get_activation("gelu"), [rng.normal(size=(3, 2))]),
    "network": (network_loss, [problem("tanh", 1, "cross_entropy")[0].params]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_check_vjp_finds_a_derivative_wrong_by_one_per_mille_in_any_one_entry(name):
    f, args = PAIRS[name]
    assert check_vjp(f, args) < 1e-9
    for argument, a in enumerate(args):
        for entry in range(a.size):

            def wrong(*given, argument=argument, entry=entry):
                y, vjp = f(*given)

                def wrong_vjp(dy):
                    cotangents = [np.array(c) for c in vjp(dy)]
                    cotangents[argument].flat[entry] *= 1.001
                    return tuple(cotangents)

                return y, wrong_vjp

            with pytest.raises(AssertionError, match=rf"check_vjp: argument {argument}: the pullback says"):
                check_vjp(wrong, args)


@pytest.mark.parametrize("name", ["linear", "gelu"])
def test_check_vjp_works_on_every_library(library, name):
    f, args = PAIRS[name]
    args = [library.make(a) for a in args]
    assert check_vjp(f, args) < 1e-9
    with pytest.raises(AssertionError, match="the pullback says"):
        check_vjp(lambda *a: (f(*a)[0], lambda dy: tuple(c * 1.001 for c in f(*a)[1](dy))), args)


ONES = np.ones(3)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: (x, lambda dy: (dy, dy)), "returned 2 cotangents for 1 arguments"),
        (lambda x: (x, lambda dy: (dy[:1],)), r"has shape \(3,\), its cotangent \(1,\)"),
        (lambda x: (x, lambda dy: (dy * rng.random(),)), "not pure"),
        (lambda x: (x, lambda dy: (dy * np.nan,)), "deviation nan"),
    ],
)
def test_check_vjp_says_what_is_wrong(f, message):
    with pytest.raises(AssertionError, match=message):
        check_vjp(f, [ONES])


def test_check_vjp_wants_float64(library):
    with pytest.raises(TypeError, match=r"argument 0 has dtype .*float32, expected float64"):
        check_vjp(get_activation("tanh"), [library.make([1.0], "float32")])
