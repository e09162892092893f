"""The mistakes of the five Rust programs that portnn succeeds, each as a test that portnn does not make it.

tiny-mnist, rustnist, nn-rust, mnist-in-rust and tiny-ml were built and run; every docstring says what one of them does,
and the test asserts what is right, against a number that comes from elsewhere wherever there is one.
"""

import gc
import gzip
import hashlib
import importlib.util
import itertools
import math
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

import portnn
from portnn import activations, losses, optimizers
from portnn.datasets import mnist
from portnn.feed import CHUNK_ROWS

rng = np.random.default_rng(3)


def linear_model(weight, bias=None, **options):
    """Return a network of one layer with these numbers."""
    weight = np.asarray(weight, dtype=np.float64)
    model = portnn.MLP(weight.shape, bias=bias is not None, dtype="float64", **options)
    model.params = np.concatenate([weight.reshape(-1), [] if bias is None else np.asarray(bias, dtype=np.float64)])
    return model


def cross_entropy_by_hand(params, sizes, x, labels):
    """The mean loss of a leaky ReLU network, from the formulas: nothing of portnn takes part."""
    start = 0
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = params[start : start + fan_in * fan_out].reshape(fan_in, fan_out)
        start += fan_in * fan_out
        x = x @ weight + params[start : start + fan_out]
        start += fan_out
        x = x if i == len(sizes) - 2 else np.where(x > 0, x, 0.01 * x)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


def slopes(f, params):
    """Central differences of f."""
    steps = tolerances.STEP * np.eye(len(params))
    return np.asarray([(f(params + s) - f(params - s)) / (2 * tolerances.STEP) for s in steps])


def small_problem():
    """A 3-5-4-3 network, 7 samples of 3 classes, and the loss by hand as a function of the parameters."""
    sizes = [3, 5, 4, 3]
    x, labels = rng.normal(size=(7, 3)), np.asarray([0, 1, 2, 2, 1, 0, 2])
    model = portnn.MLP(sizes, activation="leaky_relu", dtype="float64")
    model.params = rng.normal(size=model.n_params)
    return model, x, labels, lambda params: cross_entropy_by_hand(params, sizes, x, labels)


def visits(n, batch_size, epochs=1, **options):
    """Train on targets 0, 1, 2, ... and return the targets of every batch, as the loss has seen them."""
    seen = []

    def watching(y, t):
        seen.append(t[:, 0].tolist())
        assert_same(y, t)  # the network returns x, and x is t: rows stay together
        return losses.mse(y, t)

    index = np.arange(float(n))[:, None]
    model = linear_model([[1.0]])
    portnn.fit(model, index, index, loss=watching, optimizer="sgd", epochs=epochs, batch_size=batch_size, **options)
    return seen


# -- tiny-mnist -------------------------------------------------------------------------------------------------------


def test_gradient_of_cross_entropy_is_softmax_minus_target(library):
    """tiny-mnist: logits - target, which is the gradient of squared errors."""
    y, t = np.asarray([[1.0, 2.0, -3.0]]), np.asarray([1])
    e = [math.exp(v) for v in y[0]]
    expected = [[e[0] / sum(e), e[1] / sum(e) - 1.0, e[2] / sum(e)]]
    _, vjp = losses.cross_entropy(library.make(y), library.make(t))
    (dy,) = vjp(library.make([1.0]))
    assert_within(library.to_numpy(dy), expected, tolerances.first_gradient(1.0, "float64"))


def test_loss_does_not_stall_where_logits_equal_the_targets():
    """tiny-mnist: at 94 % its loss stops at 1.40, near the ln(e + 9) - 1 of logits that equal the one-hot targets."""
    x, t = np.eye(10), np.arange(10)
    model = linear_model(np.eye(10))
    stall = math.log(math.e + 9.0) - 1.0
    loss, grad = model.loss_and_grad(x, t)
    assert_within(loss, stall, tolerances.first_gradient(stall, "float64"))
    assert np.abs(grad).max() > 0.07  # (1 - softmax) / 10
    history = portnn.fit(model, x, t, optimizer=portnn.SGD(10.0), epochs=100, batch_size=10)
    assert history["loss"][-1] < 0.02


def test_output_layer_has_no_activation():
    """tiny-mnist: the leaky ReLU's slope 0.01 multiplies the gradient of every negative logit."""
    model = linear_model([[-1.0, -3.0]], activation="leaky_relu")
    assert_same(model(np.asarray([[1.0]])), np.asarray([[-1.0, -3.0]]))
    _, grad = model.loss_and_grad(np.asarray([[1.0]]), np.asarray([0]))
    p = 1.0 / (1.0 + math.exp(-2.0))
    assert_within(grad, [p - 1.0, 1.0 - p], tolerances.first_gradient(1.0, "float64"))


def test_gradient_goes_back_through_the_weights_before_the_update():
    """tiny-mnist: layer by layer, each through the matrix that has just been updated: 0.75 in place of 0.5 here."""
    model = portnn.MLP([1, 1, 1], activation="identity", bias=False, dtype="float64")
    model.params = np.asarray([1.0, 1.0])
    portnn.fit(model, np.ones((1, 1)), np.zeros((1, 1)), loss="mse", optimizer=portnn.SGD(0.25), epochs=1, batch_size=1)
    assert model.params.tolist() == [0.5, 0.5]


def test_training_step_follows_the_slope_of_the_loss():
    """tiny-mnist follows another loss, rustnist twice the gradient, tiny-ml a sum where it says a mean."""
    model, x, labels, loss = small_problem()
    before = model.params.copy()
    history = portnn.fit(model, x, labels, optimizer=portnn.SGD(1.0), epochs=1, batch_size=len(x))
    start = loss(before)
    assert_within(history["loss"], [start], tolerances.first_gradient(start, "float64"))
    assert_within(model.params, before - slopes(loss, before), tolerances.central_difference(start))


def test_he_start_goes_by_fan_in_with_a_root():
    """tiny-mnist takes the fan-out, rustnist N(0, 2 / fan_in) with 2 / fan_in as the standard deviation."""
    for weight in portnn.MLP([400, 100, 300]).weights:
        sigma = math.sqrt(2.0 / weight.shape[0])
        bound = tolerances.standard_error(sigma / math.sqrt(2.0), weight.size)
        assert_within(weight.std(dtype=np.float64), sigma, bound)


def test_biases_are_there_by_default_and_can_be_left_out():
    """tiny-mnist has none, nn-rust none on the output layer."""
    model = portnn.MLP([4, 3, 2])
    assert [bias.shape for bias in model.biases] == [(3,), (2,)]
    before = [bias.copy() for bias in model.biases]
    portnn.fit(model, np.eye(4), np.asarray([0, 1, 1, 1]), optimizer="sgd", epochs=1, batch_size=4)
    assert all((bias != start).any() for bias, start in zip(model.biases, before, strict=True))
    assert portnn.MLP([4, 3, 2], bias=[True, False]).biases[1] is None


def test_two_layers_of_one_shape_start_differently():
    """tiny-mnist: two layers draw from the same seed."""
    first, second = portnn.MLP([50, 50, 50]).weights
    assert (first != second).mean() > 0.99
    assert abs(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1]) < tolerances.standard_error(1.0, first.size)


@pytest.mark.parametrize(
    ("limits", "change"),
    [
        ({}, [6.0, 8.0]),
        ({"clip_value": 7.0}, [6.0, 7.0]),
        ({"clip_norm": 5.0}, [3.0, 4.0]),
        ({"clip_value": 6.0, "clip_norm": math.sqrt(18.0)}, [3.0, 3.0]),
    ],
)
def test_gradient_can_be_clipped_by_value_and_by_norm(limits, change):
    """tiny-mnist: by value alone, which turns the gradient."""
    model = linear_model([[0.0], [0.0]])
    x, t = np.asarray([[3.0, 4.0]]), np.asarray([[-1.0]])  # gradient 2 (0 + 1) x
    portnn.fit(model, x, t, loss="mse", optimizer=portnn.SGD(1.0), epochs=1, batch_size=1, **limits)
    assert_within(-model.params, change, tolerances.first_gradient(8.0, "float64"))


def test_accuracy_is_right_where_all_logits_are_negative(library):
    """tiny-mnist, rustnist: the search for the maximum starts at 0.0, so that all-negative logits count as class 0."""
    model = portnn.MLP([3, 3], bias=False, **library.where)
    model.params = np.asarray([-1.0, -5.0, -6.0, -5.0, -1.0, -6.0, -5.0, -6.0, -1.0])
    assert portnn.evaluate(model, np.eye(3), np.asarray([0, 1, 2]))["accuracy"] == 1.0
    assert portnn.evaluate(model, np.eye(3), np.asarray([0, 0, 0]))["accuracy"] == 1.0 / 3.0


def test_loss_of_an_epoch_is_that_of_all_its_batches():
    """tiny-mnist prints the loss of the first 100 samples."""
    model = linear_model([[1.0]])
    x, t = np.zeros((5, 1)), np.asarray([[1.0], [2.0], [3.0], [4.0], [5.0]])
    history = portnn.fit(model, x, t, loss="mse", optimizer="sgd", epochs=1, batch_size=2, shuffle=False)
    assert history["loss"] == [11.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_of_far_logits_is_exact(library, dtype):
    """tiny-mnist: no shift by the maximum, and ln(p + 1e-12) cannot exceed 27.6; mnist-in-rust: 0 ln(0) is NaN."""
    y = library.make([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]], dtype)
    values, vjp = losses.cross_entropy(y, library.make([0, 0, 1]))
    assert library.to_numpy(values).tolist() == [0.0, 2e4, 2e4]
    (dy,) = vjp(library.make([1.0, 1.0, 1.0], dtype))
    assert library.to_numpy(dy).tolist() == [[0.0, 0.0], [-1.0, 1.0], [1.0, -1.0]]
    one_hot = library.make([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype)
    assert library.to_numpy(losses.cross_entropy(y, one_hot)[0]).tolist() == [0.0, 2e4, 2e4]


def test_no_gradient_of_the_inputs_is_computed_in_training(monkeypatch):
    """tiny-mnist: a product of 784 x 100 numbers per batch is thrown away."""
    model, shapes, matmul = portnn.MLP([7, 5, 4, 3]), [], np.matmul

    def spy(a, b):
        shapes.append((*a.shape[:-1], b.shape[-1]))
        return matmul(a, b)

    monkeypatch.setattr(np, "matmul", spy)
    portnn.fit(model, np.ones((11, 7)), np.zeros(11, dtype=int), epochs=1, batch_size=11)
    assert {(11, 5), (11, 4), (7, 5)} <= set(shapes)
    assert (11, 7) not in shapes


# -- rustnist ---------------------------------------------------------------------------------------------------------


def test_glorot_start_has_its_variance():
    """rustnist: "Xavier" is N(0, 1)."""
    for weight in portnn.MLP([300, 200, 100], init="glorot_normal").weights:
        sigma = math.sqrt(2.0 / sum(weight.shape))
        bound = tolerances.standard_error(sigma / math.sqrt(2.0), weight.size)
        assert_within(weight.std(dtype=np.float64), sigma, bound)


def test_gradient_of_a_batch_is_the_mean_of_its_samples():
    """rustnist doubles it, tiny-ml adds up: a batch of copies must give the gradient of one."""
    model, x, labels, _ = small_problem()
    _, whole = model.loss_and_grad(x, labels)
    single = [model.loss_and_grad(x[i : i + 1], labels[i : i + 1])[1] for i in range(len(x))]
    bound = tolerances.first_gradient(single, "float64")
    assert_within(whole, np.mean(single, axis=0), bound)
    _, copies = model.loss_and_grad(np.tile(x, (3, 1)), np.tile(labels, 3))
    assert_within(copies, whole, bound)


FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """Return a folder with four files in the layout of MNIST: 3 images of every pixel value, then 2 of constants."""
    ramp = np.arange(784) % 256
    arrays = [np.stack([ramp, ramp[::-1], 0 * ramp]), [4, 0, 9], np.stack([0 * ramp + 255, 0 * ramp + 1]), [7, 2]]
    for name, array in zip(FILES, arrays, strict=True):
        array = np.asarray(array, dtype=np.uint8)
        shape = (len(array), 28, 28) if "images" in name else (len(array),)
        head = bytes([0, 0, 8, len(shape)]) + b"".join(extent.to_bytes(4, "big") for extent in shape)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(head + array.tobytes()))
        monkeypatch.setitem(mnist.SHA256, name, hashlib.sha256(head + array.tobytes()).hexdigest())
    return tmp_path


def test_pixels_are_divided_by_255(tiny_mnist):
    """rustnist: by 256, so that white is 0.996."""
    x_train, _, x_test, _ = portnn.datasets.load_mnist(tiny_mnist)
    assert x_train.dtype == np.float32
    assert_same(x_train[0], (np.arange(784) % 256).astype(np.float32) / np.float32(255.0))
    assert (x_test[0] == 1.0).all()
    x, _, _, _ = portnn.datasets.load_digits()
    assert (x.min(), x.max()) == (0.0, 1.0)


def test_test_set_is_the_test_files(tiny_mnist):
    """rustnist: what it tests on comes from the training file."""
    x_train, t_train, x_test, t_test = portnn.datasets.load_mnist(tiny_mnist)
    assert (t_train.tolist(), t_test.tolist()) == ([4, 0, 9], [7, 2])
    assert (x_train.shape, x_test.shape) == ((3, 784), (2, 784))


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (12, 4), (5, 1), (6, 6)])
def test_epoch_visits_every_sample_once(n, batch_size):
    """rustnist: random windows, 63 % of the samples, the last one never; nn-rust drops the last partial batch."""
    seen = visits(n, batch_size, epochs=4)
    sizes = [len(batch) for batch in seen]
    assert sizes == ([batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)) * 4
    order = list(itertools.chain(*seen))
    for epoch in range(4):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_long_epoch_visits_every_sample_once():
    """The same where an epoch takes several chunks of steps."""
    n = 2 * CHUNK_ROWS + 77
    assert sorted(itertools.chain(*visits(n, 500))) == list(range(n))


def test_shuffling_changes_the_order():
    """rustnist's shuffle swaps two handles and no samples; tiny-mnist, nn-rust and mnist-in-rust have none."""
    epochs = visits(100, 100, epochs=5)
    assert len({tuple(order) for order in epochs}) == 5
    moved = [sum(a != b for a, b in zip(order, range(100), strict=True)) for order in epochs]
    assert min(moved) > 90
    assert visits(100, 100, epochs=5) == epochs
    assert visits(100, 100, epochs=2, seed=1) != epochs[:2]
    assert visits(100, 100, epochs=2, shuffle=False) == [list(range(100))] * 2


def test_softmax_takes_the_maximum_of_each_row(library):
    """rustnist: of the whole batch, so that a row far below the others becomes 0/0."""
    y = library.make([[0.0, 0.0], [-1e4, -1e4], [1e4, 1e4]])
    values, vjp = losses.cross_entropy(y, library.make([0, 1, 0]))
    (dy,) = vjp(library.make([1.0, 1.0, 1.0]))
    assert_within(library.to_numpy(values), [math.log(2.0)] * 3, tolerances.first_gradient(1.0, "float64"))
    assert library.to_numpy(dy).tolist() == [[-0.5, 0.5], [0.5, -0.5], [-0.5, 0.5]]


def test_evaluation_gives_the_same_figure_twice():
    """rustnist: 200 random windows of the test set, another figure each time."""
    x_train, t_train, x_test, t_test = portnn.datasets.load_digits()
    model = portnn.MLP([64, 10])
    portnn.fit(model, x_train, t_train, epochs=2)
    figures = portnn.evaluate(model, x_test, t_test)
    assert portnn.evaluate(model, x_test, t_test) == figures
    assert figures["accuracy"] == (model(x_test).argmax(axis=1) == t_test).sum() / len(t_test)


def test_training_can_be_repeated_and_need_not_be():
    """rustnist, nn-rust and mnist-in-rust cannot be seeded; tiny-mnist is always the same."""
    x, t, _, _ = portnn.datasets.load_digits()

    def trained(seed, fit_seed=0):
        model = portnn.MLP([64, 8, 10], seed=seed)
        history = portnn.fit(model, x, t, epochs=1, seed=fit_seed)
        return model.params, history["loss"]

    params, loss = trained(5)
    again, loss_again = trained(5)
    assert_same(again, params)
    assert loss_again == loss
    assert (trained(6)[0] != params).any()
    assert (trained(5, fit_seed=6)[0] != params).any()
    assert (portnn.MLP([64, 10], seed=None).params != portnn.MLP([64, 10], seed=None).params).any()


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_reported_loss_is_what_is_differentiated(penalty):
    """rustnist and nn-rust compute none; tiny-mnist reports one and follows the gradient of another."""
    model, x, labels, _ = small_problem()
    start = model.params.copy()

    def loss(params):
        model.params = params
        return float(model.loss_and_grad(x, labels, l1=0.5 * penalty, l2=penalty)[0])

    expected = slopes(loss, start)
    model.params = start
    value, grad = model.loss_and_grad(x, labels, l1=0.5 * penalty, l2=penalty)
    assert_within(grad, expected, tolerances.central_difference(value))
    history = portnn.fit(model, x, labels, epochs=1, batch_size=len(x), l1=0.5 * penalty, l2=penalty)
    assert_within(history["loss"], [float(value)], tolerances.first_gradient(value, "float64"))


# -- nn-rust ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def presets():
    path = Path(__file__).parents[1] / "examples" / "presets.py"
    spec = importlib.util.spec_from_file_location("presets", path)
    sys.modules["presets"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.PRESETS
    del sys.modules["presets"]


@pytest.mark.parametrize(
    ("name", "hidden", "batch_size", "rate", "stds"),
    [
        ("tiny-mnist", (256, 64), 100, 0.03, None),
        ("rustnist", (128,), 100, 0.2, [math.sqrt(2 / 784), math.sqrt(2 / 138)]),
        ("nn-rust", (512,), 32, 1e-3, [1.0, 1.0]),
        ("mnist-in-rust", (64,), 1, 0.01, [math.sqrt(2 / 784), math.sqrt(2 / 74)]),
    ],
)
def test_preset_is_what_it_says(presets, name, hidden, batch_size, rate, stds):
    """nn-rust's document has 128 units and the rate 1e-4, its program 512 and 1e-3; mnist-in-rust's runs one epoch."""
    preset = presets[name]
    assert (preset.hidden, preset.batch_size, preset.learning_rate, preset.epochs) == (hidden, batch_size, rate, 10)
    model = portnn.MLP([784, *hidden, 10], activation=preset.activation, init=preset.init, bias=preset.bias)
    for weight, sigma in zip(model.weights, stds or [], strict=stds is not None):
        bound = tolerances.standard_error(sigma, weight.size)  # wide enough for uniform weights, too
        assert_within(weight.std(dtype=np.float64), sigma, bound)


def test_biases_start_at_zero():
    """nn-rust: N(0, 1), as its weights."""
    for init in ("normal", "he_normal", "uniform"):
        assert all((bias == 0.0).all() for bias in portnn.MLP([20, 30, 10], init=init).biases)


@pytest.mark.parametrize("n", [3, CHUNK_ROWS - 1, CHUNK_ROWS + 3])
def test_accuracy_counts_the_samples_of_the_last_partial_batch(n):
    """nn-rust: 312 batches of 32, 9,984 of the 10,000 test images."""
    t = np.arange(n) % 2
    x = np.eye(2)[t]
    x[-3:] = x[-3:, ::-1]  # the last three are taken for the other class
    assert portnn.evaluate(linear_model(np.eye(2)), x, t)["accuracy"] == (n - 3) / n


def test_cross_entropy_is_not_a_binary_one():
    """nn-rust: its loss, which is never called, adds (1 - t) log(1 - p) over all classes."""
    e = [math.exp(v) for v in (0.5, -1.0, 2.0)]
    (value,), _ = losses.cross_entropy(np.asarray([[0.5, -1.0, 2.0]]), np.asarray([1]))
    assert_within(value, -math.log(e[1] / sum(e)), tolerances.first_gradient(3.0, "float64"))


def test_bad_batch_is_refused_and_not_skipped():
    """nn-rust: an error within a batch is printed, and training goes on without it."""
    model = portnn.MLP([2, 3])
    before, x, t = model.params.copy(), np.ones((4, 2)), np.asarray([0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"fit: .*3"):
        portnn.fit(model, x, t, epochs=1, batch_size=2, shuffle=False)
    assert_same(model.params, before)
    model = linear_model([[0.0]])
    with pytest.raises(portnn.NonFiniteError, match=r"epoch 1, batch 2: .*keeps its last finite parameters"):
        portnn.fit(model, np.ones((4, 1)), np.ones((4, 1)), loss="mse", optimizer=portnn.SGD(1e300), batch_size=1)
    assert np.isfinite(model.params).all()


# -- mnist-in-rust ----------------------------------------------------------------------------------------------------


def test_csv_without_header_keeps_its_first_sample(tmp_path):
    """mnist-in-rust: the first line is always taken for a header."""
    path = tmp_path / "digits.csv"
    path.write_text("5,0,128\n0,255,7\n4,1,2\n")
    x, t = portnn.datasets.read_csv(path)
    assert (t.tolist(), x.tolist()) == ([5, 0, 4], [[0.0, 128.0], [255.0, 7.0], [1.0, 2.0]])
    path.write_text("label,pixel0,pixel1\n5,0,128\n0,255,7\n4,1,2\n")
    with_header = portnn.datasets.read_csv(path)
    assert_same(with_header[0], x)
    assert_same(with_header[1], t)


def test_nan_is_refused_with_a_sentence():
    """mnist-in-rust: partial_cmp().unwrap() panics on a NaN among the outputs."""
    model, x, t = linear_model([[math.nan, 1.0]]), np.ones((3, 1)), np.asarray([0, 1, 1])
    assert np.isnan(model(x)[:, 0]).all()
    for call in (
        lambda: portnn.predict(model, x),
        lambda: portnn.evaluate(model, x, t),
        lambda: portnn.fit(model, x, t),
    ):
        with pytest.raises(ValueError, match=r"weights\[0\] of the model holds NaN"):
            call()
    with pytest.raises(ValueError, match=r"predict: .*NaN"):
        portnn.predict(linear_model([[1.0, 1.0]]), x * math.nan)


def test_first_of_equal_logits_wins(library):
    """mnist-in-rust: the last one."""
    model = portnn.MLP([2, 4], init="zeros", **library.where)
    accuracies = [portnn.evaluate(model, np.ones((3, 2)), np.full(3, label))["accuracy"] for label in range(4)]
    assert accuracies == [1.0, 0.0, 0.0, 0.0]


def test_weight_is_inputs_by_outputs_as_documented():
    """mnist-in-rust: the document says 784 x 64, the program has 64 x 784."""
    model = portnn.MLP([784, 64, 10])
    assert [weight.shape for weight in model.weights] == [(784, 64), (64, 10)]
    assert linear_model([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])(np.asarray([[1.0, 5.0]])).tolist() == [[1.0, 2.0, 3.0]]


# -- tiny-ml ----------------------------------------------------------------------------------------------------------


def test_2_4_1_has_17_parameters():
    """tiny-ml's document says 21."""
    model = portnn.MLP([2, 4, 1])
    assert model.n_params == 2 * 4 + 4 + 4 * 1 + 1 == 17
    assert model.params.shape == (17,)
    assert sum(a.size for a in (*model.weights, *model.biases)) == 17


def test_first_loss_of_xor_is_that_of_its_outputs():
    """tiny-ml's document shows 3.256; over 24 runs the program gives 0.95 to 1.23."""
    x, t = np.asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.asarray([[0.0], [1.0], [1.0], [0.0]])
    for seed in range(10):
        model = portnn.MLP([2, 4, 1], activation=["tanh", "tanh"], init="glorot_uniform", dtype="float64", seed=seed)
        w, b = [np.array(a) for a in model.weights], [np.array(a) for a in model.biases]
        expected = float(((np.tanh(np.tanh(x @ w[0] + b[0]) @ w[1] + b[1]) - t) ** 2).sum())
        total = 4 * portnn.fit(model, x, t, loss="mse", epochs=1, batch_size=4)["loss"][0]
        assert_within(total, expected, tolerances.first_gradient(expected, "float64"))


def test_mse_is_a_mean():
    """tiny-ml: the document says mean, the program adds up, and its rate depends on the size of the set."""
    model = linear_model([[2.0]])
    x, t = np.asarray([[1.0], [2.0], [3.0], [0.0]]), np.asarray([[1.0], [4.0], [7.0], [2.0]])
    loss, grad = model.loss_and_grad(x, t, loss="mse")
    assert (float(loss), grad.tolist()) == (1.5, [(2.0 * 1.0 - 2.0 * 3.0) / 4.0])


def test_output_layer_has_an_activation_of_its_own():
    """tiny-ml: one activation for all layers, the outputs too: none of them can exceed 1 with tanh."""
    x = np.asarray([[1.0]])
    for activation, expected in (
        ("tanh", 5.0),
        (["tanh", "identity"], 5.0),
        (["tanh", "relu"], 5.0),
        (["tanh", "sigmoid"], None),
    ):
        model = portnn.MLP([1, 1, 1], activation=activation, dtype="float64")
        model.params = np.asarray([0.0, 0.0, 1.0, 5.0])
        expected = 1.0 / (1.0 + math.exp(-5.0)) if expected is None else expected
        assert_within(model(x), [[expected]], tolerances.first_gradient(1.0, "float64"))


def test_pullback_can_be_called_twice(library):
    """tiny-ml: the closures are dropped on the first backward, and a second one does nothing (6 for x x at 3)."""
    model = portnn.MLP([3, 4, 2], activation="tanh", dtype="float64", **library.where)
    y, vjp = model.vjp(library.make(rng.normal(size=(5, 3))))
    dy = library.make(np.ones(y.shape))
    first = [library.to_numpy(a) for a in vjp(dy)]
    second = [library.to_numpy(a) for a in vjp(dy)]
    twice = [library.to_numpy(a) for a in vjp(library.make(2.0 * np.ones(y.shape)))]
    for a, b, c in zip(first, second, twice, strict=True):
        assert np.abs(a).max() > 0.0
        assert_same(b, a)
        assert_same(c, 2.0 * a)


def test_forward_without_backward_keeps_no_memory():
    """tiny-ml: 300,000 forward passes without a backward grow from 2.4 MiB to 1.35 GiB."""
    model, x = portnn.MLP([2, 4, 1], activation="tanh"), np.ones((4, 2), dtype=np.float32)

    def forwards(n):
        for _ in range(n):
            model(x)
            model.vjp(x)  # the pullback is never called
        return tracemalloc.get_traced_memory()[0]

    gc.disable()  # nothing may wait for the collector of cycles either
    tracemalloc.start()
    try:
        before = forwards(2000)  # until the free lists are full
        assert forwards(2000) - before < 2000  # one byte for each
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_does_not_overflow(library, dtype):
    """tiny-ml: exp(100) / (1 + exp(100)) is NaN in its single precision."""
    z = library.make([100.0, 1000.0, -1000.0, 0.0, 80.0], dtype)
    y, vjp = activations.sigmoid(z)
    (dz,) = vjp(library.make(np.ones(5), dtype))
    assert library.to_numpy(y).tolist() == [1.0, 1.0, 0.0, 0.5, 1.0]
    *_, saturated, steepest, far = library.to_numpy(dz).tolist()
    assert (saturated, steepest) == (0.0, 0.25)
    assert 1.80e-35 < far < 1.81e-35  # exp(-80), where y (1 - y) would be 0


def test_deep_network_needs_no_recursion():
    """tiny-ml: backward calls itself along the graph and overflows the stack."""
    depth = 2000  # twice what Python allows
    model = portnn.MLP([1] * (depth + 1), activation="identity", init="zeros", bias=False, dtype="float64")
    model.params = np.ones(depth)
    y, vjp = model.vjp(np.asarray([[3.0]]))
    d_params, dx = vjp(np.asarray([[1.0]]))
    assert (y.tolist(), dx.tolist(), set(d_params.tolist())) == ([[3.0]], [[1.0]], {3.0})


def test_weights_start_with_both_signs():
    """tiny-ml: U[0, 1], no weight is negative."""
    for init in ("he_normal", "he_uniform", "glorot_uniform", "uniform"):
        (weight,) = portnn.MLP([100, 100], init=init).weights
        assert_within(weight.mean(dtype=np.float64), 0.0, tolerances.standard_error(float(weight.std()), weight.size))


def test_relu_has_slope_zero_at_zero(library):
    """Here tiny-ml is right, and torch and JAX agree."""
    _, vjp = activations.relu(library.make([-1.0, 0.0, 1.0]))
    assert library.to_numpy(vjp(library.make([7.0, 7.0, 7.0]))[0]).tolist() == [0.0, 0.0, 7.0]


def test_only_the_returned_state_counts():
    """tiny-ml: gradients of earlier steps add up until zero_gradients is called; here none are kept."""
    model, x, labels, _ = small_problem()
    grads = [model.loss_and_grad(x, labels)[1] for _ in range(3)]
    assert_same(grads[1], grads[0])
    assert_same(grads[2], grads[0])
    sgd = optimizers.SGD(1.0)
    params, state = sgd.update(np.ones(2), np.ones(2), sgd.init(np.ones(2)), sgd.row(0))
    params, state = sgd.update(params, np.zeros(2), state, sgd.row(1))
    assert params.tolist() == [0.0, 0.0]
