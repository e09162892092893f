"""``compare_backends``: honest libraries agree, a wrong one is found, and the first wrong place is named."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf
from tolerances import assert_same, assert_within, few_steps, first_gradient

import portnn
from portnn import MLP, losses, random
from portnn.__main__ import main
from portnn.activations import ACTIVATIONS
from portnn.backends import HOST, get_backend, namespace
from portnn.backends.numpy import NumpyBackend
from portnn.error_bars import reference
from portnn.losses import LOSSES, get_loss
from portnn.storage import write_safetensors_file
from portnn.testing import assert_backends_agree, compare_backends

FLOATS = ("float32", "float64")
N = 9
rng = np.random.default_rng(11)
X = rng.normal(size=(N, 6))
LABELS = rng.integers(0, 3, N)
TARGETS = rng.uniform(0.1, 0.9, size=(N, 3))
SPREAD = TARGETS / TARGETS.sum(axis=1, keepdims=True)


def network(sizes=(6, 5, 4, 3), **options):
    """Return a model whose biases are not zero."""
    options = {"activation": "tanh", "seed": 4} | options
    model = MLP(sizes, **options)
    draw, params = np.random.default_rng(5), model.backend.to_numpy(model.params).copy()
    for layer in model.layers:
        if layer.bias is not None:
            params[..., layer.bias] = draw.normal(scale=0.3, size=params[..., layer.bias].shape)
    model.params = params
    return model


def all_errors(found):
    return np.asarray([error for errors in found.errors.values() for error in errors.values()])


# -- honest libraries agree -------------------------------------------------------------------------------------------

NETWORKS = {
    "linear": ({"sizes": (6, 3)}, "cross_entropy", LABELS),
    "no bias": ({"bias": False}, "cross_entropy", LABELS),
    "members, one-hot": ({"members": 2}, "cross_entropy", np.eye(3)[LABELS]),
    "members, one bias": ({"members": 2, "bias": [True, False, True]}, "mse", TARGETS),
    "distributions": ({}, "cross_entropy", SPREAD),
    "smoothed": ({}, functools.partial(losses.cross_entropy, label_smoothing=0.1), LABELS),
    "binary": ({}, "binary_cross_entropy", np.eye(3)[LABELS]),
    "mse": ({}, "mse", TARGETS),
    "mae": ({}, "mae", TARGETS),
    "huber": ({}, functools.partial(losses.huber, delta=0.3), TARGETS),
    "poisson": ({}, "poisson", np.round(5 * TARGETS)),
    "five hidden layers": (
        {"sizes": (6, 4, 4, 4, 4, 4, 3), "activation": ["relu", "leaky_relu(0.2)", "elu", "selu", "tanh"]},
        "cross_entropy",
        LABELS,
    ),
    "and the smooth ones": (
        {
            "sizes": (6, 4, 4, 4, 4, 4, 3),
            "activation": ["sigmoid", "softplus", "gelu", "gelu_tanh", "silu", "mish"],
        },
        "mse",
        TARGETS,
    ),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_library_agrees(library, name, dtype):
    options, loss, t = NETWORKS[name]
    found = assert_backends_agree(network(dtype=dtype, **options), X, t, [library.backend], loss=loss)
    assert found.agree
    errors = all_errors(found)
    assert (errors >= 0.0).all()
    assert (errors <= 1.0).all()
    assert errors.max() > 1e-3  # a bar that nothing comes near would hold anything
    if dtype == "float32":  # an error of 0 everywhere would mean that nothing was compared
        assert (errors > 0.0).mean() > 0.5


def test_every_activation_and_loss_takes_part():
    used = {str(a).partition("(")[0] for options, *_ in NETWORKS.values() for a in options.get("activation", ["tanh"])}
    assert used | {"identity"} == set(ACTIVATIONS)
    assert {get_loss(loss).name for _, loss, _ in NETWORKS.values()} == set(LOSSES)


def test_places_stand_in_the_order_of_the_computation():
    found = compare_backends(network((6, 4, 3), bias=[False, True]), X, LABELS, ["numpy"])
    order = "layer 0 output, layer 1 output, loss, layer 1 weight gradient, layer 1 bias gradient, "
    assert ", ".join(found.errors["numpy"]) == order + "layer 0 weight gradient"
    assert list(found.relative["numpy"]) == list(found.errors["numpy"])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "selu"])
def test_a_kink_within_rounding_is_not_an_error(library, activation, dtype):
    """Sample i puts unit i at 0 but for rounding, so that every library decides for itself which side it is on."""
    x = np.random.default_rng(1).normal(size=(20, 30)).astype(dtype)
    model = MLP([30, 20, 3], activation=activation, dtype=dtype, seed=2)
    params = np.array(model.params)
    bias = model.layers[0].bias
    params[bias] = -np.sum(x.astype(np.longdouble) * model.weights[0].astype(np.longdouble).mT, axis=1)
    model.params = params
    sums = x.astype(np.longdouble) @ model.weights[0].astype(np.longdouble) + params[bias]
    assert (abs(np.diagonal(sums)) <= few_steps(1.0, dtype)).all()
    for loss, t in (("cross_entropy", np.arange(20) % 3), ("mse", x[:, :3])):
        assert assert_backends_agree(model, x, t, [library.backend], loss=loss).agree


def repeated_samples():
    """5000 times one sample: its errors do not average out."""
    x = np.repeat(np.random.default_rng(1).normal(size=(1, 6)), 5000, axis=0)
    return network(seed=1), x, np.ones(5000, dtype=int), "cross_entropy"


def equal_terms():
    """Inputs of one, zero weights: the terms of a derivative are equal, and partial sums are all rounded alike."""
    t = np.broadcast_to(np.random.default_rng(4).uniform(size=16), (2000, 16))
    return MLP([16, 16], init="zeros", bias=False), np.ones((2000, 16)), t.copy(), "mse"


def met_targets():
    """Where y - t is 0 but for rounding, a library may come out on either side of the kink of |y - t|."""
    model = MLP([50, 1], seed=3)
    x = np.random.default_rng(2).normal(size=(40, 50)).astype("float32")
    return model, x, x.astype(np.float64) @ model.weights[0].astype(np.float64), "mae"


def below_the_smallest():
    """A derivative below the smallest float32 is 0, or keeps few digits, before large inputs make it large again."""
    model = MLP([1, 1, 1, 1], activation="identity", bias=False)
    model.params = np.asarray([1.0, 3e-22, 7e-23], dtype="float32")
    return model, np.full((2, 1), 1e20), np.ones((2, 1)), "mse"


def a_factor_below_the_smallest(activation, z):
    """z s(z), where s is below the smallest normal number, which some libraries take for 0."""
    model = MLP([1, 1, 1], activation=activation, bias=False)
    model.params = np.asarray([1.0, 1.0], dtype="float32")
    return model, np.full((3, 1), z), np.ones((3, 1)), "mse"


TAILS = {"silu": -88.0, "mish": -88.0, "gelu": -13.3, "gelu_tanh": -10.0}


@pytest.mark.parametrize("activation", TAILS)
def test_a_tail_that_is_flushed_to_zero_is_no_disagreement(library, activation):
    for away in (-0.5, -0.1, 0.0, 0.1, 0.5):
        model, x, t, loss = a_factor_below_the_smallest(activation, TAILS[activation] + away)
        assert assert_backends_agree(model, x, t, [library.backend], loss=loss).agree


@pytest.mark.parametrize("case", [repeated_samples, equal_terms, met_targets, below_the_smallest])
def test_errors_that_do_not_average_out_are_no_disagreement(library, case):
    model, x, t, loss = case()
    assert assert_backends_agree(model, x, t, [library.backend], loss=loss).agree


# -- the reference is right -------------------------------------------------------------------------------------------


def torch_network(model, x, t, loss):
    """Return the values of all places as float64 autograd has them; nothing of portnn's arithmetic takes part."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    f = torch.nn.functional
    functions = {
        "identity": lambda z: z,
        "gelu_tanh": lambda z: f.gelu(z, approximate="tanh"),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "leaky_relu(0.2)": lambda z: f.leaky_relu(z, 0.2),
    }
    objectives = {
        "cross_entropy": f.cross_entropy,
        "binary_cross_entropy": f.binary_cross_entropy_with_logits,
        "mse": f.mse_loss,
        "mae": f.l1_loss,
        "huber": functools.partial(f.huber_loss, delta=0.3),
        "poisson": functools.partial(f.poisson_nll_loss, log_input=True),
    }
    objective = (
        functools.partial(f.cross_entropy, label_smoothing=0.1)
        if isinstance(loss, functools.partial) and get_loss(loss).name == "cross_entropy"
        else objectives[get_loss(loss).name]
    )
    names = [portnn.activations.describe_activation(layer.activation) for layer in model.layers]
    leaves, found = {}, {}
    y = torch.as_tensor(x.astype(model.dtype).astype(np.float64))
    for i, (weight, bias, name) in enumerate(zip(model.weights, model.biases, names, strict=True)):
        leaves[f"layer {i} weight gradient"] = w = torch.tensor(weight.astype(np.float64), requires_grad=True)
        y = y @ w
        if bias is not None:
            leaves[f"layer {i} bias gradient"] = b = torch.tensor(bias.astype(np.float64), requires_grad=True)
            y = y + b[..., None, :]
        y = (functions.get(name) or getattr(f, name))(y)
        found[f"layer {i} output"] = y
    t = torch.as_tensor(t if t.dtype.kind == "i" else t.astype(model.dtype).astype(np.float64))
    members = [objective(z, t) for z in (y if y.ndim == 3 else y[None])]
    sum(members).backward()
    found["loss"] = torch.stack(members) if y.ndim == 3 else members[0]
    found = {place: a.detach().numpy() for place, a in found.items()}
    return found | {place: a.grad.numpy() for place, a in leaves.items()}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_is_what_autograd_says(name, dtype):
    options, loss, t = NETWORKS[name]
    model = network(dtype=dtype, **options)
    expected = torch_network(model, X, t, loss)
    t = t if t.dtype.kind == "i" else t.astype(dtype)
    found = reference(model, X.astype(dtype), t, get_loss(loss))
    assert set(found) == set(expected)
    for place, (value, bar) in found.items():
        assert_within(value, expected[place], first_gradient(expected[place], np.float64))
        assert value.shape == bar.shape
        assert (bar > 0.0).all()


def test_the_reference_of_float64_is_longdouble():
    """A 2-2-1 network in 40 digits, by the chain rule."""
    model = network((2, 2, 1), dtype="float64")
    x, t = np.asarray([[0.3, -0.7]]), np.asarray([[0.2]])
    (v, w), (b, c) = model.weights, model.biases
    h = [mp.tanh(sum(mpf(x[0, k]) * mpf(v[k, j]) for k in range(2)) + mpf(b[j])) for j in range(2)]
    y = sum(h[j] * mpf(w[j, 0]) for j in range(2)) + mpf(c[0])
    dy = 2 * (y - mpf(t[0, 0]))
    dz = [dy * mpf(w[j, 0]) * (1 - h[j] ** 2) for j in range(2)]
    expected = {
        "layer 0 output": [h],
        "layer 1 output": [[y]],
        "loss": (y - mpf(t[0, 0])) ** 2,
        "layer 1 weight gradient": [[dy * h[0]], [dy * h[1]]],
        "layer 1 bias gradient": [dy],
        "layer 0 weight gradient": [[mpf(x[0, k]) * dz[j] for j in range(2)] for k in range(2)],
        "layer 0 bias gradient": dz,
    }
    found = reference(model, x, t, get_loss("mse"))
    for place, values in expected.items():
        exact = np.vectorize(lambda v: np.longdouble(mp.nstr(v, 30)), otypes=[np.longdouble])(values)
        assert_within(found[place][0], exact, few_steps(exact, np.longdouble))


def test_the_error_is_the_distance_in_units_of_the_bar():
    """An activation that adds a known number on the library alone: nothing else of the error is left."""
    model = MLP([2, 2], activation=[lambda z: (z + (0.25 if z.dtype == np.float32 else 0.0), lambda dy: (dy,))])
    x = np.asarray([[1.0, 2.0], [-3.0, 0.5]], dtype=np.float32)
    exact, bar = reference(model, x, x, get_loss("mse"))["layer 0 output"]
    found = compare_backends(model, x, x, ["numpy"], loss="mse")
    error = abs(np.float32(x @ model.weights[0]) + np.float32(0.25) - exact)
    assert found.errors["numpy"]["layer 0 output"] == (error / bar).max()
    assert found.relative["numpy"]["layer 0 output"] == error.max() / abs(exact).max()


# -- a wrong library is found, and the place is named -----------------------------------------------------------------


def of(library, dtype):
    """Return what tells arrays of the library under test from those of the reference, which are wider."""
    return lambda z: library.backend.owns(z) and library.dtype_name(z) == dtype


def wrong_function(monkeypatch, library, dtype, name, change):
    """Let a function of the library's namespace be wrong in one dtype: ``change(right, *arguments)``."""
    right, here = getattr(library.xp, name), of(library, dtype)

    def wrong(a: Any, *rest: Any, **options: Any) -> Any:
        return change(right, a, *rest) if here(a) else right(a, *rest, **options)

    monkeypatch.setattr(library.xp, name, wrong)


def wrong_slope(here, activation="tanh", factor=1.001):
    """Return an activation whose pullback is wrong by a factor on the arrays that ``here`` picks."""

    def function(z: Any) -> Any:
        y, vjp = ACTIVATIONS[activation](z)
        return (y, lambda dy: (vjp(dy)[0] * factor,)) if here(z) else (y, vjp)

    return function


def wrong_loss(here, loss="cross_entropy", values=1.0, slope=1.0):
    """Return a loss whose values and derivatives are wrong by factors on the arrays that ``here`` picks."""
    right = LOSSES[loss]

    def pair(y: Any, t: Any) -> Any:
        found, vjp = right.pair(y, t)
        return (found * values, lambda d: (vjp(d)[0] * slope,)) if here(y) else (found, vjp)

    return right._replace(pair=pair)


def refused(library, place, model, x=X, t=LABELS, **options):
    """Assert that the first wrong place, and the library, are in the text of the error."""
    text = rf"^assert_backends_agree: {library.backend.name}: {place} is off by \S+ times what rounding costs \("
    with pytest.raises(AssertionError, match=text):
        assert_backends_agree(model, x, t, [library.backend], **options)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "activation", "place"), [("tanh", "tanh", 1), ("exp", "sigmoid", 1)])
def test_a_function_off_by_a_thousandth(library, monkeypatch, dtype, name, activation, place):
    wrong_function(monkeypatch, library, dtype, name, lambda right, z: right(z) * 1.001)
    refused(library, f"layer {place} output", network(activation=["relu", activation], dtype=dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_exponential_that_only_the_loss_uses(library, monkeypatch, dtype):
    wrong_function(monkeypatch, library, dtype, "exp", lambda right, z: right(z) * 1.001)
    refused(library, "loss", network(activation="relu", dtype=dtype))


def truncated(library, a):
    """Return float32 with the 11 bits of TF32."""
    bits = np.array(library.backend.to_numpy(a)).view(np.uint32)
    return library.make(((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32))


def test_products_in_tf32(library, monkeypatch):
    def product(right: Any, a: Any, b: Any) -> Any:
        return right(truncated(library, a), truncated(library, b))

    wrong_function(monkeypatch, library, "float32", "matmul", product)
    x = np.random.default_rng(3).uniform(size=(20, 784))
    refused(library, "layer 0 output", MLP([784, 16, 3]), x, np.arange(20) % 3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_gradient_that_lost_a_row(library, monkeypatch, dtype):
    def product(right: Any, a: Any, b: Any) -> Any:
        lost = a.shape[-1] == N and a.shape[-2] > 1  # x^T dy, and not the sum over the rows
        return right(a[..., :, :-1], b[..., :-1, :]) if lost else right(a, b)

    wrong_function(monkeypatch, library, dtype, "matmul", product)
    refused(library, "layer 2 weight gradient", network(dtype=dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_derivative_off_by_a_thousandth(library, layer, dtype):
    activations: list[Any] = ["tanh", "tanh"]
    activations[layer] = wrong_slope(of(library, dtype))
    model = network(activation=activations, dtype=dtype)
    refused(library, f"layer {layer} weight gradient", model)
    found = compare_backends(model, X, LABELS, [library.backend])
    assert not found.agree
    (errors,) = found.errors.values()
    wrong = {place for place, error in errors.items() if error > 1.0}
    assert wrong == {f"layer {i} {kind} gradient" for i in range(layer + 1) for kind in ("weight", "bias")}


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_loss_off_by_a_thousandth(library, dtype):
    refused(library, "loss", network(dtype=dtype), loss=wrong_loss(of(library, dtype), values=1.001))
    last = "layer 2 weight gradient"
    refused(library, last, network(dtype=dtype), loss=wrong_loss(of(library, dtype), slope=1.001))


def test_a_sum_over_the_batch_that_lost_a_row(library, monkeypatch):
    def product(right: Any, a: Any, b: Any) -> Any:
        return right(a[..., :, :-1], b[..., :-1, :]) if a.shape[-2:] == (1, N) else right(a, b)

    wrong_function(monkeypatch, library, "float32", "matmul", product)
    refused(library, "layer 2 bias gradient", network())


def test_a_nan_is_infinitely_far(library):
    def sick(z: Any) -> Any:
        return (z * float("nan") if of(library, "float32")(z) else z), lambda dy: (dy,)

    model = network((6, 5, 3), activation=[sick])
    (errors,) = compare_backends(model, X, LABELS, [library.backend]).errors.values()
    assert errors["layer 0 output"] == float("inf")
    refused(library, "layer 0 output", model)


def test_of_several_libraries_the_wrong_one_is_named():
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    strict = get_backend("array_api_strict")
    model = network(activation=["relu", wrong_slope(strict.owns)])
    with pytest.raises(AssertionError, match="array_api_strict: layer 1 weight gradient is off"):
        assert_backends_agree(model, X, LABELS, ["numpy", "array_api_strict"])
    found = compare_backends(model, X, LABELS, ["numpy", "array_api_strict"])
    assert max(found.errors["numpy"].values()) <= 1.0
    assert found.worst()[:2] == ("array_api_strict", "layer 1 weight gradient")


# -- training ---------------------------------------------------------------------------------------------------------


class Twin(NumpyBackend):
    """NumPy under another name: something to compare NumPy with."""

    name = "twin"


@functools.cache
def digits(n=200):
    x, t, *_ = portnn.datasets.load_digits()
    return x[:n], t[:n]


@pytest.fixture
def strict():
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    return get_backend("array_api_strict")


@pytest.mark.parametrize("dtype", FLOATS)
def test_sgd_stays_together(library, dtype):
    other = Twin(HOST.xp) if library.backend_name == "numpy" else library.backend
    x, t = digits()
    model = MLP([64, 16, 10], dtype=dtype)
    found = assert_backends_agree(model, x, t, ["numpy", other], steps=100, batch_size=20)
    assert (found.parting, found.steps) == (None, 100)
    assert "Together over 100 training steps." in str(found)


def test_a_gradient_wrong_in_one_batch(strict):
    """The loss is wrong where a target is 5: only one sample's, whose batch is known."""
    t = TARGETS.copy()
    t[7, 0] = 5.0
    here = wrong_loss(strict.owns, "mse", slope=1.001)
    loss = here._replace(pair=lambda y, t: (here if bool(namespace(t).any(t == 5.0)) else LOSSES["mse"]).pair(y, t))
    for seed in range(3):
        found = compare_backends(
            network(), X, t, ["numpy", strict], loss=loss, steps=6, batch_size=2, optimizer=portnn.SGD(0.5), seed=seed
        )
        order = random.order(seed, 0, N).tolist()
        step, _, first, second, _, fault = found.parting
        assert (step, first, second) == (order.index(7) // 2 + 1, "numpy", "array_api_strict")
        assert re.match("from the same parameters, array_api_strict has layer 2 weight gradient off by", fault)


def test_where_two_libraries_part(strict):
    """The derivative is wrong once an output is not 0: from the second step on, and in the last layer alone."""
    wrong = wrong_loss(strict.owns, "mse", slope=1.5)
    loss = wrong._replace(pair=lambda y, t: (wrong if bool(namespace(y).any(y != 0.0)) else LOSSES["mse"]).pair(y, t))
    model = MLP([6, 3], init="zeros", bias=False)
    text = "^assert_backends_agree: numpy and array_api_strict part at step 2 in layer 0 weight, by .*off by"
    with pytest.raises(AssertionError, match=text):
        assert_backends_agree(model, X, TARGETS, ["numpy", strict], loss=loss, steps=5)
    found = compare_backends(model, X, TARGETS, ["numpy", strict], loss=loss, steps=5)
    assert not found.agree
    assert max(all_errors(found)) <= 1.0  # before training there is nothing to be seen
    assert found.parting[:2] == (2, "layer 0 weight")
    assert found.parting.fault
    assert "part at step 2 in layer 0 weight" in str(found)
    assert compare_backends(model, X, TARGETS, ["numpy", strict], loss=loss, steps=1).parting is None


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_layer_that_is_farthest_apart_is_named(strict, scale):
    """With a derivative of the loss that is doubled, the parameters part by one step of SGD."""
    model = network()
    model.params = model.params * np.float32(scale)
    found = compare_backends(
        model, X, TARGETS, ["numpy", strict], loss=wrong_loss(strict.owns, "mse", slope=2.0), steps=3
    )
    _, step = model.loss_and_grad(X.astype("float32"), TARGETS, loss="mse")
    after = model.params - np.float32(0.1) * step
    expected = {}
    for i, layer in enumerate(model.layers):
        for kind, place in (("weight", layer.weight), ("bias", layer.bias)):
            expected[f"layer {i} {kind}"] = 0.1 * abs(step[place]).max() / max(1.0, abs(after[place]).max())
    assert found.parting[:2] == (1, max(expected, key=expected.get))
    assert f"{found.parting.difference:.3g}" == f"{max(expected.values()):.3g}"


def reordered(strict, monkeypatch):
    """Let array-api-strict add up its products from the other end: as right as before, in other roundings."""
    flipped = (Ellipsis, slice(None), slice(None, None, -1)), (Ellipsis, slice(None, None, -1), slice(None))
    right = strict.xp.matmul
    monkeypatch.setattr(strict.xp, "matmul", lambda a, b: right(a[flipped[0]], b[flipped[1]]))


def test_rounding_that_grows_is_no_disagreement(strict, monkeypatch):
    """Where the targets are met, a gradient is nothing but rounding, and Adam takes whole steps in its direction."""
    reordered(strict, monkeypatch)
    model = network()
    options = {"loss": "mse", "steps": 5, "optimizer": portnn.Adam(0.05)}
    found = assert_backends_agree(model, X, model(X.astype("float32")), ["numpy", strict], **options)
    assert found.parting is not None
    assert found.parting.fault == ""
    assert found.agree
    assert "within rounding, so differences have grown" in str(found)


@pytest.mark.parametrize(
    "sick",
    [
        "numpy",
        "array_api_strict",
    ],
)
def test_a_nan_on_either_side_is_a_parting(strict, sick):
    def pair(y: Any, t: Any) -> Any:
        values, vjp = LOSSES["mse"].pair(y, t)
        wrong = get_backend(y).name == sick and str(y.dtype).endswith("float32") and bool(namespace(y).any(y != 0.0))
        return values, (lambda d: (vjp(d)[0] * float("nan"),)) if wrong else vjp

    model = MLP([6, 3], init="zeros")
    loss = LOSSES["mse"]._replace(pair=pair)
    with pytest.raises(AssertionError, match="part at step 2"):
        assert_backends_agree(model, X, TARGETS, ["array_api_strict", "numpy"], loss=loss, steps=5)


def test_training_that_diverges_alike_is_told_without_warnings(strict):
    found = compare_backends(
        network(activation="relu"), X, TARGETS, ["numpy", strict], loss="mse", steps=20, optimizer=portnn.SGD(1e9)
    )
    assert found.errors["numpy"] == found.errors["array_api_strict"]


class Slipping(portnn.SGD):
    """From the seventh step on, steps that are half as long again on one library."""

    def update(self, params: Any, grad: Any, state: Any, h: Any, decayed: Any = None) -> Any:
        longer = h[1] if get_backend(params).name == "array_api_strict" else 1.0
        return super().update(params, grad * longer, state, h, decayed)

    def row(self, step: int) -> tuple[float, ...]:
        return (self.rate(step), 1.5 if step >= 6 else 1.0)


class SlippingAdam(portnn.Adam):
    """As above, for Adam, from the ninth step on."""

    def update(self, params: Any, grad: Any, state: Any, h: Any, decayed: Any = None) -> Any:
        longer = h[2] if get_backend(params).name == "array_api_strict" else 1.0
        return super().update(params, grad * longer, state, h[:2], decayed)

    def row(self, step: int) -> tuple[float, ...]:
        return *super().row(step), 1.5 if step >= 8 else 1.0


def test_a_fault_behind_a_parting_that_rounding_explains_is_found(strict, monkeypatch):
    reordered(strict, monkeypatch)
    model = network()
    options = {"loss": "mse", "steps": 12, "optimizer": SlippingAdam(0.05)}
    y = model(X.astype("float32"))
    t = y + 1e-6 * np.sign(X[:, :3]).astype("float32")  # met but for rounding, on either library
    assert compare_backends(model, X, t, ["numpy", strict], **options | {"steps": 8}).parting.fault == ""
    found = compare_backends(model, X, t, ["numpy", strict], **options)
    assert found.parting.step == 9
    assert found.parting.fault == "from the same parameters, state and gradient they make different updates"
    assert not found.agree


def test_an_optimizer_that_is_wrong_parts_at_its_step(strict):
    found = compare_backends(network(), X, LABELS, ["numpy", strict], steps=10, optimizer=Slipping(0.1))
    assert found.parting.step == 7


def test_an_optimizer_that_is_wrong_is_not_explained_as_rounding(strict):
    with pytest.raises(AssertionError, match="step 7"):
        assert_backends_agree(network(), X, LABELS, ["numpy", strict], steps=10, optimizer=Slipping(0.1))


def test_batches_are_those_of_fit():
    """Two epochs of three batches, seen through the optimizer, end where fit ends."""
    seen: list[np.ndarray] = []

    class Watching(portnn.SGD):
        def update(self, params: Any, *rest: Any) -> Any:
            params, state = super().update(params, *rest)
            seen.append(np.array(params))
            return params, state

    model = network(dtype="float64")
    compare_backends(model, X, LABELS, ["numpy"], steps=6, optimizer=Watching(0.1), batch_size=3, seed=3)
    portnn.fit(model, X, LABELS, optimizer=portnn.SGD(0.1), epochs=2, batch_size=3, seed=3, progress=False)
    assert len(seen) == 6
    assert_within(seen[-1], model.params, first_gradient(model.params, np.float64))


# -- the rest of the interface ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 3])
def test_nothing_handed_in_is_changed(library, steps):
    model = network(**library.where)
    before = library.to_numpy(model.params).copy()
    x, t = library.make(X, "float32"), library.make(LABELS)
    other = Twin(HOST.xp) if library.backend_name == "numpy" else "numpy"
    found = assert_backends_agree(model, x, t, [library.backend, other], steps=steps)
    assert_same(library.to_numpy(model.params), before)
    assert_same(library.to_numpy(x), X.astype("float32"))
    assert_same(library.to_numpy(t), LABELS)
    host = compare_backends(network(), X.astype("float32"), LABELS, [library.backend, other], steps=steps)
    assert found == host


def test_devices_of_one_library_are_told_apart(strict):
    x, t = X.astype("float32"), LABELS
    backends = [strict, get_backend("array_api_strict", "device1"), "numpy"]
    found = assert_backends_agree(network(), x, t, backends, steps=2)
    assert list(found.errors) == ["array_api_strict cpu", "array_api_strict device1", "numpy"]


def test_names_do_not_touch_in_the_table(strict):
    backends = [strict, get_backend("array_api_strict", "device1")]
    head = str(compare_backends(network(), X, LABELS, backends)).splitlines()[0]
    assert head.split() == ["array_api_strict", "cpu", "array_api_strict", "device1"]


def test_names_namespaces_and_arrays_are_backends(strict):
    for backend in ("array_api_strict", strict.xp, strict.xp.zeros(2), strict):
        assert list(compare_backends(network(), X, LABELS, [backend]).errors) == ["array_api_strict"]


def test_what_is_printed():
    found = compare_backends(network((6, 4, 3)), X, LABELS, ["numpy", Twin(HOST.xp)], steps=2)
    head, *rows, unit, end = str(found).splitlines()
    assert head.split() == ["numpy", "twin"]
    assert [row.split("  ")[0] for row in rows] == list(found.errors["numpy"])
    assert {len(row) for row in (head, *rows)} == {len("layer 0 weight gradient") + 40}
    for row in rows:
        place, *cells = re.split(r" {2,}", row)
        assert cells == [f"{found.relative[n][place]:.1e} ({found.errors[n][place]:.2f})" for n in found.errors]
    assert "in units of the bar: at most 1" in unit
    assert end == "Together over 2 training steps."
    assert str(compare_backends(network(), X, LABELS, ["numpy"])).splitlines()[-1].startswith("Error relative to")


def test_worst_is_the_first_that_is_wrong_or_else_the_largest():
    right = compare_backends(network(), X, LABELS, ["numpy", Twin(HOST.xp)])
    name, place, error = right.worst()
    assert error == max(all_errors(right)) == right.errors[name][place]
    errors = {"a": {"p": 0.5, "q": 3.0, "r": 9.0}, "b": {"p": 5.0, "q": float("inf"), "r": 1.0}}
    wrong = right._replace(errors=errors)
    assert wrong.worst() == ("a", "q", 3.0)
    assert (right.agree, wrong.agree) == (True, False)
    assert not right._replace(errors={"a": {"p": float("nan")}}).agree


def test_a_single_output_takes_a_vector_of_targets():
    assert assert_backends_agree(network((6, 4, 1)), X, TARGETS[:, 0], loss="mse").agree
    assert assert_backends_agree(network((6, 4, 1)), X, LABELS.clip(0, 1), loss="binary_cross_entropy").agree


def test_a_loss_that_takes_the_mean_itself():
    def mean_square(y: Any, t: Any) -> Any:
        d = y - t
        return (d * d).mean(), lambda s: (2.0 * s * d / d.size,)

    found = assert_backends_agree(network(), X, TARGETS, loss=mean_square, steps=2)
    exact = compare_backends(network(), X, TARGETS, ["numpy"], loss="mse")
    assert set(found.errors["numpy"]) == set(exact.errors["numpy"])


def nan_in(a, *where):
    a = np.array(a)
    a[where] = np.nan
    return a


def sick_model():
    model = network()
    model.params = nan_in(model.params, 0)
    return model


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, LABELS, []), {}, ValueError, "backends is empty"),
        ((X, LABELS, ["nunpy"]), {}, ValueError, "unknown backend 'nunpy'.*did you mean 'numpy'"),
        ((X, LABELS, ["numpy", "numpy"]), {}, ValueError, "backend 'numpy cpu' is named twice"),
        ((X, LABELS, [3]), {}, TypeError, "int is not a supported array type, nor the name or namespace of a backend"),
        ((X[:, :5], LABELS, ["numpy"]), {}, ValueError, "compare_backends: X has 5 features, but MLP is expecting 6"),
        ((X, LABELS + 1, ["numpy"]), {}, ValueError, r"compare_backends: label 3 at row \d out of range \[0, 2\]"),
        ((X, LABELS[:8], ["numpy"]), {}, ValueError, r"compare_backends: .*inconsistent numbers of samples: \[9, 8\]"),
        ((X[:0], LABELS[:0], ["numpy"]), {}, ValueError, "compare_backends: empty batch"),
        ((nan_in(X, 3, 2), LABELS, ["numpy"]), {}, ValueError, "Input X contains NaN, first at row 3, feature 2"),
        ((X, nan_in(TARGETS, 1, 0), ["numpy"]), {"loss": "mse"}, ValueError, "Input y contains NaN"),
        ((X.tolist(), LABELS, ["numpy"]), {}, TypeError, "compare_backends: x is a list"),
        ((X, LABELS, "numpy"), {}, TypeError, r"backends must be a list such as \['numpy', 'torch'\], got 'numpy'"),
        ((X, LABELS, None), {}, TypeError, "backends must be a list"),
        ((X, LABELS, ["numpy"]), {"seed": -1}, ValueError, "compare_backends: seed must be in"),
        ((X, LABELS, ["numpy"]), {"optimizer": "zz"}, ValueError, "unknown optimizer 'zz'"),
        ((X, LABELS, ["numpy"]), {"steps": -1}, ValueError, "compare_backends: steps must be an int"),
        ((X, LABELS, ["numpy"]), {"steps": 2.5}, ValueError, "compare_backends: steps must be an int"),
        ((X, LABELS, ["numpy"]), {"steps": 1, "batch_size": 0}, ValueError, "batch_size must be an int"),
        ((X, LABELS, ["numpy"]), {"steps": 1, "optimizer": "sdg"}, ValueError, "unknown optimizer"),
        ((X, LABELS, ["numpy"]), {"loss": "crossentropy"}, ValueError, "unknown loss"),
        ((1e30 * X, TARGETS, ["numpy"]), {"loss": "mse"}, ValueError, "compare_backends: loss is beyond float32: x or"),
        ((1e39 * X, TARGETS, ["numpy"]), {"loss": "mse"}, ValueError, "value too large for dtype.'float32'"),
    ],
)
def test_slips_get_a_sentence(arguments, options, error, message):
    model = network(activation="relu")
    for function in (compare_backends, assert_backends_agree):
        with pytest.raises(error, match=message) as caught:
            function(model, *arguments, **options)
        assert "\n" not in str(caught.value)


def test_a_model_with_a_nan_is_refused():
    with pytest.raises(ValueError, match=r"compare_backends: weights\[0\] of the model holds NaN"):
        compare_backends(sick_model(), X, LABELS, ["numpy"])


# -- python -m portnn compare -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a model and a table of samples, and runs the command on them."""
    network(seed=8).save(tmp_path / "model.safetensors")
    network((6, 4, 1), seed=8).save(tmp_path / "one.safetensors")
    names = ",".join(f"f{i}" for i in range(6))
    rows = [",".join(map(str, (*row, label))) for row, label in zip(X.tolist(), LABELS.tolist(), strict=True)]
    (tmp_path / "named.csv").write_text("\n".join([f"{names},digit", *rows]) + "\n")
    rows = [",".join(map(str, (label, *row))) for row, label in zip(X.tolist(), LABELS.tolist(), strict=True)]
    (tmp_path / "plain.csv").write_text("\n".join(rows) + "\n")
    write_safetensors_file(tmp_path / "images.safetensors", {"images": (abs(X) * 80).astype("uint8"), "labels": LABELS})

    def run(data, *arguments, model="model.safetensors", backends="numpy"):
        return main(
            ["compare", str(tmp_path / model), "--backends", backends, "--data", str(tmp_path / data), *arguments]
        )

    return run


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("plain.csv", ()),
        ("named.csv", ("--target", "digit")),
        ("named.csv", ("--target", "-1")),
        ("images.safetensors", ()),
        ("plain.csv", ("--dtype", "float64")),
        ("plain.csv", ("--optimizer", "adamw", "--learning-rate", "0.001")),
    ],
)
def test_the_command_agrees(saved, capsys, data, options):
    assert saved(data, *options) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, head, *_, together, verdict = out.splitlines()
    dtype = "float64" if "float64" in options else "float32"
    assert first.startswith("MLP([6, 5, 4, 3], activation='tanh'")
    assert f"dtype='{dtype}'" in first
    assert first.endswith(": 9 samples, cross_entropy")
    assert head.split() == ["numpy"]
    assert together == "Together over 20 training steps."
    assert verdict == "They agree."


def test_the_command_compares_the_numbers_of_the_file(saved, capsys):
    assert saved("plain.csv", "--steps", "0") == 0
    model, x = network(seed=8), X.astype("float32")
    assert str(compare_backends(model, x, LABELS, ["numpy"])) in capsys.readouterr().out
    assert saved("images.safetensors", "--steps", "0") == 0
    x = (abs(X) * 80).astype("uint8").astype("float32") / np.float32(255)
    assert str(compare_backends(model, x, LABELS, ["numpy"])) in capsys.readouterr().out


def test_the_command_takes_a_loss_and_fewer_samples(saved, capsys):
    options = ("--loss", "mae", "--samples", "4", "--steps", "0")
    assert saved("plain.csv", *options, model="one.safetensors") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith(": 4 samples, mae")
    assert "training steps" not in out
    assert saved("plain.csv", model="one.safetensors") == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(": 9 samples, mse")


def test_the_command_on_two_libraries(saved, capsys, strict):
    assert saved("plain.csv", backends="numpy,array_api_strict") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["numpy", "array_api_strict"]


def test_the_command_says_1_where_they_do_not_agree(saved, capsys, strict, monkeypatch):
    right = strict.xp.tanh
    monkeypatch.setattr(strict.xp, "tanh", lambda z: right(z) * 1.001)
    assert saved("plain.csv", backends="numpy,array_api_strict") == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "They do NOT agree."
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("plain.csv",), {"backends": "nunpy"}, "unknown backend 'nunpy'"),
        (("plain.csv",), {"backends": "numpy,numpy"}, "named twice"),
        (("plain.csv", "--steps", "-1"), {}, "steps must be an int"),
        (("plain.csv", "--target", "digit"), {}, "digit"),
        (("absent.csv",), {}, "absent.csv"),
        (("plain.csv",), {"model": "absent.safetensors"}, "absent.safetensors"),
        (("plain.csv",), {"model": "plain.csv"}, "plain.csv"),
        (("plain.csv", "--loss", "mse"), {}, "t has shape"),
        (("plain.csv", "--samples", "0"), {}, "samples must be an int in the range [1, inf). Got 0"),
        (("plain.csv", "--samples", "-5"), {}, "Got -5"),
        (("plain.csv", "--learning-rate", "-1"), {}, "SGD: learning_rate"),
        (("plain.csv", "--learning-rate", "-1", "--optimizer", "adamw"), {}, "AdamW: learning_rate"),
    ],
)
def test_the_command_says_2_and_one_line_where_it_cannot_tell(saved, capsys, arguments, options, message):
    assert saved(*arguments, **options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("portnn compare: ")
    assert message in err


def test_the_command_line_itself(tmp_path):
    run = functools.partial(subprocess.run, capture_output=True, encoding="utf-8", timeout=60, cwd=tmp_path)
    command = [sys.executable, "-m", "portnn", "compare"]
    done = run([*command, "absent.safetensors", "--backends", "numpy", "--data", "absent.csv"])
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"portnn compare: .*absent\.safetensors.*\n", done.stderr)
    done = run([*command, "--help"])
    assert done.returncode == 0
    assert "--backends" in done.stdout
