"""Networks with dropout, normalization, residuals: training against torch step by step, derivatives, state, files."""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
import tolerances
from libraries import LIBRARIES
from tolerances import assert_same, assert_within

import portnn
from portnn import random
from portnn.dropout import limit_of, mixed, sample_words, unit_words
from portnn.normalization import EPS
from portnn.testing import check_vjp

rng = np.random.default_rng(4)
SIZES = [4, 6, 6, 6, 3]
X, LABELS = rng.normal(size=(37, 4)), rng.integers(0, 3, size=37)
CONFIGURATIONS = {
    "layer": {"normalization": "layer"},
    "batch": {"normalization": "batch"},
    "residual": {"residual": True},
    "no-bias": {"normalization": "batch", "bias": False},
    "all": {"normalization": ["batch", None, "layer"], "residual": [False, True, True], "dropout": [0.2, 0.0, 0.5]},
}
NUMPY = LIBRARIES["numpy"]


def network(library, configuration, dtype="float64", members=None, seed=5, **kwargs):
    """Return a network whose gains, shifts, biases and running statistics are off their start."""
    given = {"activation": "tanh", **CONFIGURATIONS[configuration], **kwargs}
    model = portnn.MLP(SIZES, dtype=dtype, members=members, seed=seed, **given, **library.where)
    draw = np.random.default_rng(seed)
    model.params = library.to_numpy(model.params) + 0.2 * draw.normal(size=tuple(model.params.shape))
    if model.running is not None:
        model.running = library.to_numpy(model.running) + 0.3 * draw.random(size=tuple(model.running.shape))
    return model


def fit(model, epochs=2, batch_size=8, **kwargs):
    options = {"optimizer": portnn.SGD(0.1), "seed": 3, "progress": False, **kwargs}
    return portnn.fit(model, X, LABELS, epochs=epochs, batch_size=batch_size, **options)


# -- an independent network, by torch ---------------------------------------------------------------------------------


def torch_parts(torch, model):
    """Return the parameters of each layer as tensors that require a gradient, and those of each running statistic."""
    params = [
        [None if a is None else torch.tensor(np.asarray(a), requires_grad=True) for a in layer]
        for layer in zip(model.weights, model.biases, model.gains, model.shifts, strict=True)
    ]
    running = {}
    for i, layer in enumerate(model.layers):
        norm = layer.normalization
        if norm is not None and norm.kind == "batch":
            running[i] = [torch.tensor(np.asarray(model.running)[place]) for place in (norm.mean, norm.variance)]
    return params, running


def torch_forward(torch, model, params, running, x, masks=None):
    """Return the outputs by torch's own layers; with masks, one per layer or None, in training."""
    nn, layers = torch.nn.functional, model.layers
    for i, ((weight, bias, gain, shift), layer) in enumerate(zip(params, layers, strict=True)):
        a = x
        x = x @ weight if bias is None else x @ weight + bias
        if layer.normalization is not None and layer.normalization.kind == "layer":
            x = nn.layer_norm(x, x.shape[-1:], gain, shift, EPS)
        elif layer.normalization is not None:
            x = nn.batch_norm(x, *running[i], gain, shift, training=masks is not None and len(x) > 1, eps=EPS)
        x = torch.tanh(x) if i + 1 < len(layers) else x
        if masks is not None and masks[i] is not None:
            x = x * masks[i] / (1.0 - layer.dropout.rate)
        x = x + a if layer.residual else x
    return x


def flat(params):
    return np.concatenate([a.detach().numpy().reshape(-1) for layer in params for a in layer if a is not None])


def torch_training(torch, model, optimizer, epochs, batch_size, seed):
    """Return parameters and running statistics after the epochs, with portnn's order and masks."""
    params, running = torch_parts(torch, model)
    optimizer = optimizer([a for layer in params for a in layer if a is not None])
    units = unit_words(model.seed, [a.fan_out if a.dropout is not None else 0 for a in model.layers])
    for epoch in range(epochs):
        order, of_samples = random.order(seed, epoch, len(X)), sample_words(seed, epoch, len(X))
        for start in range(0, len(X), batch_size):
            rows, words = order[start : start + batch_size], of_samples[start : start + batch_size]
            masks = [
                None
                if a.dropout is None
                else torch.tensor(mixed(words, units[a.dropout.units]) <= limit_of(a.dropout.rate, X)[0])
                for a in model.layers
            ]
            y = torch_forward(torch, model, params, running, torch.tensor(X[rows]), masks)
            loss = torch.nn.functional.cross_entropy(y, torch.tensor(LABELS[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return flat(params), np.concatenate([a.numpy() for pair in running.values() for a in pair] or [np.zeros(0)])


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("compiled", [False, "auto"])
def test_training_is_that_of_torch_step_by_step(library, configuration, compiled):
    """37 samples in batches of 9: three epochs of four batches and one of a single sample.

    A bias in front of batch norm changes nothing, so its gradient is rounding, which Adam would make as large as any.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = network(library, configuration)
    start = model.to(backend="numpy", device="cpu")
    if configuration in ("batch", "all"):
        ours, bar = portnn.SGD(0.1, momentum=0.9), tolerances.BARS["sgd"]["float64"]
        params, running = torch_training(torch, start, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 3, 9, 3)
    else:
        ours, bar = portnn.Adam(0.01), tolerances.BARS["adam"]["float64"]
        params, running = torch_training(torch, start, lambda p: torch.optim.Adam(p, 0.01), 3, 9, 3)
    fit(model, epochs=3, batch_size=9, optimizer=ours, compile=compiled)
    assert_within(library.to_numpy(model.params), params, bar)
    if model.running is not None:
        assert_within(library.to_numpy(model.running), running, bar)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_outputs_and_gradients_in_prediction_are_those_of_torch(library, configuration):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = network(library, configuration)
    start = model.to(backend="numpy", device="cpu")
    params, running = torch_parts(torch, start)
    x = torch.tensor(X, requires_grad=True)
    y = torch_forward(torch, start, params, running, x)
    loss = torch.nn.functional.cross_entropy(y, torch.tensor(LABELS))
    loss.backward()
    grad = np.concatenate([a.grad.numpy().reshape(-1) for layer in params for a in layer if a is not None])
    ours = library.make(X)
    got, got_grad = model.loss_and_grad(ours, LABELS)
    y = y.detach().numpy()
    assert_within(library.to_numpy(model(ours)), y, tolerances.first_gradient(y, "float64"))
    assert_within(library.to_numpy(got), loss.item(), tolerances.few_steps(loss.item(), "float64"))
    assert_within(library.to_numpy(got_grad), grad, tolerances.first_gradient(grad, "float64"))
    _, dx = model.input_gradient(ours, LABELS)
    right = x.grad.numpy() * len(X)
    assert_within(library.to_numpy(dx), right, tolerances.first_gradient(right, "float64"))


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_predict_and_evaluate_are_those_of_the_network_in_prediction(library, configuration, members):
    model = network(library, configuration, members=members)
    y = library.to_numpy(model(library.make(X)))
    assert_within(portnn.predict(model, X), y, tolerances.first_gradient(y, "float64"))
    loss, _ = model.loss_and_grad(library.make(X), LABELS)
    found = portnn.evaluate(model, X, LABELS)
    assert_within(found["loss"], library.to_numpy(loss), tolerances.few_steps(found["loss"], "float64"))
    assert_same(np.asarray(found["accuracy"]), (y.argmax(axis=-1) == LABELS).mean(axis=-1))


# -- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_pullbacks_are_those_of_central_differences(configuration, members):
    """On NumPy: that those of the other libraries are right to the last digits, torch has said above."""
    model = network(NUMPY, configuration, members=members)
    assert check_vjp(model.forward, [model.params, X[:3]]) < tolerances.central_difference(3.0)


def test_pullbacks_with_everything_are_those_of_central_differences(library):
    model = network(library, "all", members=2)
    x = library.make(X[:3])
    assert check_vjp(model.forward, [model.params, x]) < tolerances.central_difference(3.0)


@pytest.mark.parametrize("members", [None, 3])
def test_a_residual_of_the_first_layer_reaches_the_inputs_that_members_share(library, members):
    model = portnn.MLP([4, 4, 3], activation="tanh", residual=True, dtype="float64", members=members, **library.where)
    x = library.make(X[:3])
    assert check_vjp(model.forward, [model.params, x]) < tolerances.central_difference(3.0)
    weight, bias = (library.to_numpy(a[0]) for a in (model.weights, model.biases))
    hidden = X[:3] + np.tanh(X[:3] @ weight + bias[..., None, :])
    y = hidden @ library.to_numpy(model.weights[1]) + library.to_numpy(model.biases[1])[..., None, :]
    assert_within(library.to_numpy(model(x)), y, tolerances.first_gradient(y, "float64"))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_derivatives_along_a_direction_and_of_every_output_are_those_of_torch(library, configuration):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model, x = network(library, configuration), library.make(X[:5])
    theirs = model.to(backend="torch", device="cpu")
    direction, of_inputs = torch.tensor(rng.normal(size=model.n_params)), torch.tensor(X[5:10])
    params, inputs = theirs.params, torch.tensor(X[:5])
    right = torch.autograd.functional.jvp(theirs.apply, (params, inputs), (direction, of_inputs))[1].numpy()
    _, got = model.jvp(x, library.make(X[5:10]), library.make(direction.numpy()))
    assert_within(library.to_numpy(got), right, tolerances.first_gradient(right, "float64"))

    each = [torch.autograd.functional.jacobian(lambda x: theirs.apply(params, x)[0], row[None])[:, 0] for row in inputs]
    each = torch.stack(each).numpy()
    assert_within(library.to_numpy(model.jacobian(x)), each, tolerances.first_gradient(each, "float64"))

    def loss(params):
        return torch.nn.functional.cross_entropy(theirs.apply(params, inputs), torch.tensor(LABELS[:5]))

    right = torch.autograd.functional.hvp(loss, params, direction)[1].numpy()
    got = model.hvp(x, LABELS[:5], library.make(direction.numpy()))
    assert_within(library.to_numpy(got), right, tolerances.first_gradient(right, "float64"))


@pytest.mark.parametrize("configuration", ["layer", "batch", "all"])
@pytest.mark.parametrize("given", ["dx", "d_params", "both"])
def test_pullback_of_tangents(configuration, given):
    """Those of members that share x, too: against central differences of both outputs."""
    model = network(NUMPY, configuration, members=2)
    directions = {"dx": X[5:8], "d_params": rng.normal(size=model.params.shape)}
    directions = directions if given == "both" else {given: directions[given]}

    def both(params, x):
        (y, dy), vjp = model.tangents(params, x, **directions)
        return np.concatenate([y, dy], axis=-1), lambda d: vjp(d[..., :3], d[..., 3:])

    assert check_vjp(both, [model.params, X[:3]]) < tolerances.central_difference(10.0)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_residuals_for_scipy_have_the_jacobian_of_torch(library, configuration):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = network(library, configuration)
    targets = rng.normal(size=(37, 3))
    residuals, jacobian = portnn.scipy_residuals(model, X, targets)
    theirs, host = model.to(backend="torch", device="cpu"), library.to_numpy(model.params)
    exact = torch.autograd.functional.jacobian(lambda p: theirs.apply(p, torch.tensor(X)), theirs.params).numpy()
    exact = exact.reshape(37 * 3, model.n_params)
    assert_within(jacobian(host), exact, tolerances.first_gradient(exact, "float64"))
    f = portnn.scipy_objective(model, X, targets, "mse")
    loss, grad = f(host)
    assert_within(
        grad, 2 * jacobian(host).T @ residuals(host) / targets.size, tolerances.first_gradient(grad, "float64")
    )
    assert_within(loss, (residuals(host) ** 2).mean(), tolerances.few_steps(loss, "float64"))


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [portnn.SGD(0.1, momentum=0.9), portnn.Adam(0.01)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_replayed_steps_are_the_steps_to_the_bit(backend, dtype, optimizer):
    if LIBRARIES[backend].why_not:
        pytest.skip(LIBRARIES[backend].why_not)
    library, models = LIBRARIES[backend], []
    for compiled in (False, True):
        models.append(network(library, "all", dtype, members=2))
        fit(models[-1], epochs=3, optimizer=optimizer, compile=compiled)
    for one, other in ((m.params, n.params) for m, n in [models]):
        assert_same(library.to_numpy(one), library.to_numpy(other))
    assert_same(library.to_numpy(models[0].running), library.to_numpy(models[1].running))


def test_what_jax_compiled_serves_networks_with_other_seeds():
    """Words of units travel with the state, so that masks are no constants of the compiled chunk."""
    pytest.importorskip("jax", reason="jax is not installed")
    from portnn.backends import jax as backend

    misses = []
    for seed, rate in ((1, 0.5), (2, 0.5), (2, 0.25)):
        before = backend._compiled.cache_info().misses
        model = network(LIBRARIES["jax"], "batch", "float32", seed=seed, dropout=rate)
        fit(model, epochs=1, batch_size=37)
        portnn.evaluate(model, X, LABELS)
        misses.append(backend._compiled.cache_info().misses - before)
    assert misses == [1, 0, 1]


def test_a_plain_network_is_recorded_with_the_calls_that_it_had():
    """33 calls a step with SGD, 41 with Adam (docs/performance.md): parts that are not there cost nothing."""
    from portnn.backends import HOST
    from portnn.backends.base import Rows
    from portnn.losses import get_loss
    from portnn.step import beginning, make_step

    for optimizer, calls in ((portnn.SGD(0.1), 33), (portnn.Adam(0.1), 41)):
        model = portnn.MLP([4, 6, 3], dropout=0.0, normalization=None, residual=False)
        chunk = {"x": Rows(HOST, X.astype("float32")), "t": Rows(HOST, LABELS.astype("int32"))}
        run = HOST.compile_chunk(make_step(model, get_loss("cross_entropy"), optimizer), 4, 9)
        run(beginning(model, optimizer), chunk, optimizer.rows(0, 4))
        assert {len(program) for program in run.programs} == {calls}


def test_steps_are_captured_as_a_graph():
    """What a CUDA graph is captured from gives the loop's numbers, on the host where capturing is calling again."""
    from portnn.backends import HOST
    from portnn.backends.base import Rows
    from portnn.backends.graphs import GraphChunk
    from portnn.losses import get_loss
    from portnn.step import beginning, make_step

    def again(body):
        return body

    found = []
    for make in (GraphChunk, None):
        model = network(NUMPY, "all")
        step = make_step(model, get_loss("cross_entropy"), portnn.SGD(0.1))
        run = GraphChunk(HOST, step, 4, 9, again) if make else HOST.loop_chunk(step, 4, 9)
        chunk = {"x": X[:36], "t": LABELS[:36].astype("int32"), "samples": sample_words(0, 0, 36)}
        chunk = {name: Rows(HOST, a) for name, a in chunk.items()}
        state, _ = run(beginning(model, portnn.SGD(0.1)), chunk, [(0.1,)] * 4)
        found.append(state)
    assert set(found[0]) == {"params", "running", "units"}
    for name, a in found[0].items():
        assert_same(a, found[1][name])


@pytest.mark.parametrize("configuration", ["layer", "batch", "all"])
def test_each_member_trains_as_a_network_of_its_own(library, configuration):
    team = network(library, configuration, members=3)
    alone = list(team)
    assert [m.seed for m in alone] == [5, 6, 7]
    fit(team)
    for i, model in enumerate(alone):
        fit(model)
        assert_within(
            library.to_numpy(team.params)[i], library.to_numpy(model.params), tolerances.BARS["sgd"]["float64"]
        )
        if model.running is not None:
            bound = tolerances.BARS["sgd"]["float64"]
            assert_within(library.to_numpy(team.running)[i], library.to_numpy(model.running), bound)


def test_a_last_batch_of_one_sample_uses_the_running_statistics_and_leaves_them():
    """An epoch of 37 samples in batches of 36 with rate 0 for the single one: what is kept is that of 36."""
    models = [network(NUMPY, "batch") for _ in range(2)]
    order = random.order(3, 0, 37)
    fit(models[0], epochs=1, batch_size=36, optimizer=portnn.SGD(lambda step: (0.1, 1e-300)[step]))
    optimizer = portnn.SGD(0.1)
    portnn.fit(
        models[1],
        X[order[:36]],
        LABELS[order[:36]],
        epochs=1,
        batch_size=36,
        optimizer=optimizer,
        shuffle=False,
        progress=False,
    )
    assert_same(models[0].running, models[1].running)
    assert_same(models[0].params, models[1].params)


@pytest.mark.parametrize("n", [1, 37])
def test_batches_of_one_sample_have_no_statistics(n):
    model = network(NUMPY, "batch")
    before = model.params.copy(), model.running.copy()
    with pytest.raises(ValueError, match=r"^fit: batch norm needs at least 2 samples in a batch, batch_size is 1"):
        portnn.fit(model, X[:n], LABELS[:n], batch_size=1, epochs=1)
    assert_same(model.params, before[0])
    assert_same(model.running, before[1])


def test_nothing_but_weights_decays(library):
    model = network(library, "layer")
    decayed = model.to()
    mask = decayed.decayed()
    decayed.params = mask
    for views, value in ((decayed.weights, 1.0), (decayed.biases, 0.0), (decayed.gains, 0.0), (decayed.shifts, 0.0)):
        assert all((library.to_numpy(a) == value).all() for a in views if a is not None)
    assert [a is None for a in model.gains] == [False, False, False, True]


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("bad", [-1e-3, np.nan, -np.inf])
def test_running_variances_that_are_none_are_refused_where_they_are_set(library, members, bad):
    options = {"normalization": ["layer", "batch"], "members": members, "dtype": "float64", **library.where}
    model = portnn.MLP([3, 4, 5, 2], **options)
    before = library.to_numpy(model.running)
    for place, refused in ((7, True), (2, False)):  # a variance, and a mean, which may be negative
        new = before + 0.5
        new[..., place] = bad
        if refused:
            with pytest.raises(
                ValueError, match=r"^MLP\.running: the running variance of layer 1 is negative or NaN in"
            ):
                model.running = library.make(new)
            assert_same(library.to_numpy(model.running), before)
        else:
            model.running = library.make(new)
            assert_same(library.to_numpy(model.running), new)


def test_callbacks_see_and_set_the_running_statistics():
    seen, model = [], network(NUMPY, "batch")

    def callback(model, history):
        seen.append(model.running.copy())
        model.running = np.full_like(model.running, 0.5)

    fit(model, epochs=2, callbacks=callback)
    assert not np.array_equal(seen[0], np.full_like(seen[0], 0.5))
    again = network(NUMPY, "batch")
    again.params = model.params
    assert_same(model.running, np.full_like(model.running, 0.5))
    # five batches from 0.5: 0.9^5 of it is left
    assert np.abs(seen[1] - 0.5 * 0.9**5).max() < 10.0


def test_an_interrupted_fit_keeps_statistics_and_parameters_of_the_same_step():
    model, calls = network(NUMPY, "batch"), itertools.count()

    def interrupting(z):
        if next(calls) > 60:
            raise KeyboardInterrupt
        y = np.tanh(z)
        return y, lambda dy: (dy * (1 - y * y),)

    model = network(NUMPY, "batch")
    stopped = portnn.MLP(SIZES, activation=interrupting, dtype="float64", normalization="batch", seed=5)
    stopped.params, stopped.running = model.params, model.running
    history = fit(stopped, epochs=9)
    epochs = len(history["loss"])
    assert history.interrupted
    assert 0 < epochs < 9
    fit(model, epochs=epochs)
    assert_within(stopped.params, model.params, tolerances.BARS["sgd"]["float64"])
    assert_within(stopped.running, model.running, tolerances.BARS["sgd"]["float64"])


@pytest.mark.parametrize("configuration", ["layer", "batch", "all"])
def test_a_nan_is_named_and_the_last_finite_state_kept(library, configuration):
    model = network(library, configuration, activation="identity" if configuration == "all" else "relu")
    match = r"^fit: epoch \d+, batch \d+: the .* NaN or infinity.*; the model keeps its last finite parameters"
    with library.backend.scope(), pytest.raises(portnn.NonFiniteError, match=match):
        fit(model, epochs=50, optimizer=portnn.SGD(1e300), loss="cross_entropy")
    model.check_finite("test")


def test_a_network_that_learns_with_everything(library):
    """The digits, two epochs: the same seed on every library gives an accuracy that plain chance does not."""
    x, t, x_test, t_test = portnn.datasets.load_digits()
    model = portnn.MLP([64, 32, 32, 10], dropout=0.1, normalization="batch", residual=True, seed=1, **library.where)
    options = {"optimizer": portnn.Adam(1e-2), "epochs": 2, "batch_size": 64, "progress": False}
    portnn.fit(model, x.astype("float32"), t, **options)
    assert portnn.evaluate(model, x_test.astype("float32"), t_test)["accuracy"] > 0.85


# -- state and files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_copies_files_and_pickles_are_the_same_network(library, configuration, members, tmp_path):
    model = network(library, configuration, "float32", members=members)
    path = tmp_path / "model.safetensors"
    model.save(path)
    others = [
        portnn.MLP.load(path, **library.where),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        model.to(),
    ]
    y = library.to_numpy(model(library.make(X, "float32")))
    assert all(isinstance(model.__getstate__()[name], np.ndarray | None) for name in ("_params", "_running"))
    for other in others:
        assert repr(other) == repr(model)
        assert_same(library.to_numpy(other.params), library.to_numpy(model.params))
        assert_same(library.to_numpy(other(library.make(X, "float32"))), y)
        if model.running is not None:
            assert other.running is not model.running
            assert_same(library.to_numpy(other.running), library.to_numpy(model.running))
    if configuration == "all" or library is NUMPY:  # with everything there is to be carried over
        fit(others[0])
        fit(model)
        assert_same(library.to_numpy(others[0].params), library.to_numpy(model.params))


def test_a_file_says_its_format_and_names_its_tensors(tmp_path):
    from portnn.storage import read_safetensors_file

    path = tmp_path / "model.safetensors"
    for configuration, number in (("all", 3), ("batch", 3), ("residual", 3)):
        network(NUMPY, configuration).save(path)
        arrays, metadata = read_safetensors_file(path)
        assert json.loads(metadata["portnn"])["format"] == number
    network(NUMPY, "all").save(path)
    arrays, metadata = read_safetensors_file(path)
    of_norms = sorted(name for name in arrays if name.rpartition(".")[2] not in ("weight", "bias"))
    assert of_norms == [
        *("layers.0.gain", "layers.0.running_mean", "layers.0.running_variance", "layers.0.shift"),
        *("layers.2.gain", "layers.2.shift"),
    ]
    config = json.loads(metadata["portnn"])
    assert config["dropout"] == [0.2, 0.0, 0.5]
    assert config["normalization"] == ["batch", None, "layer"]
    assert config["residual"] == [False, True, True]
    portnn.MLP(SIZES).save(path)
    assert json.loads(read_safetensors_file(path)[1]["portnn"])["format"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": [2.0, 0.0, 0.5]}, "dropout must be a number"),
        ({"dropout": ["0.5"] * 3}, "dropout must be a number"),
        ({"normalization": "group"}, "unknown normalization 'group'"),
        ({"normalization": [None, None, "layer"]}, "2 tensors are not of this model|4 tensors are not of this model"),
        ({"normalization": "batch"}, r"tensor 'layers.1.gain' is missing"),
        ({"residual": [True, True, True]}, "hidden layer 0 is not as wide as its input"),
        ({"residual": 1}, "residual must be True, False"),
        ({"format": 5}, "format 5 > 4; update portnn"),
    ],
)
def test_files_that_lie_are_refused(tmp_path, change, message):
    from portnn.storage import read_safetensors_file, write_safetensors_file

    path = tmp_path / "model.safetensors"
    network(NUMPY, "all").save(path)
    arrays, metadata = read_safetensors_file(path)
    config = {**json.loads(metadata["portnn"]), **change}
    write_safetensors_file(path, arrays, {"portnn": json.dumps(config)})
    with pytest.raises(portnn.FormatError, match=message):
        portnn.MLP.load(path)


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_a_variance_that_is_none_is_refused(tmp_path, value):
    from portnn.storage import read_safetensors_file, write_safetensors_file

    path = tmp_path / "model.safetensors"
    network(NUMPY, "batch").save(path)
    arrays, metadata = read_safetensors_file(path)
    arrays["layers.1.running_variance"][2] = value
    write_safetensors_file(path, arrays, metadata)
    with pytest.raises(
        portnn.FormatError, match=r"'layers.1.running_variance' holds a variance that is negative or NaN"
    ):
        portnn.MLP.load(path)


def test_what_is_not_finite_is_named(tmp_path):
    for kind in ("gains", "shifts"):
        model = network(NUMPY, "layer")
        getattr(model, kind)[1][0] = np.nan
        for use in (lambda: model.save(tmp_path / "m"), lambda: portnn.predict(model, X), lambda: fit(model)):  # noqa: B023
            with pytest.raises(ValueError, match=rf": {kind}\[1\] of the model holds NaN or infinity"):
                use()
    model = network(NUMPY, "batch")
    model.running = np.full_like(model.running, np.inf)
    with pytest.raises(ValueError, match=r"running (mean|variance) of layer \d of the model holds NaN or infinity"):
        model.save(tmp_path / "m")


def test_running_statistics_are_set_as_parameters_are(library):
    model = network(library, "batch", "float32")
    values = rng.random(size=tuple(model.running.shape))
    model.running = values
    assert library.dtype_name(model.running) == "float32"
    assert_same(library.to_numpy(model.running), values.astype("float32"))
    with pytest.raises(ValueError, match=r"^MLP.running: got shape \(3,\), expected \(36,\)"):
        model.running = np.ones(3)
    with pytest.raises(TypeError, match=r"^MLP.running"):
        model.running = None
    plain = network(library, "layer")
    assert plain.running is None
    with pytest.raises(ValueError, match=r"^MLP.running: the model has no batch norm"):
        plain.running = np.ones(3)


def test_members_keep_their_statistics(library):
    team = network(library, "batch", members=3)
    x = library.make(X)
    y = library.to_numpy(team(x))
    for i in range(3):
        assert_within(library.to_numpy(team[i](x)), y[i], tolerances.first_gradient(y, "float64"))
    assert_within(library.to_numpy(team[[2, 0]](x)), y[[2, 0]], tolerances.first_gradient(y, "float64"))
    params = team.params[0, ...]
    with pytest.raises(ValueError, match="each of the 3 members of the model has running statistics of its own"):
        team.apply(params, x)


# -- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_apply_follows_its_arguments_to_every_library(library, configuration):
    model = network(NUMPY, configuration)
    expected = model(X)
    got = library.to_numpy(model.apply(library.make(model.params), library.make(X)))
    assert_within(got, expected, tolerances.first_gradient(expected, "float64"))
    model32 = network(NUMPY, configuration, "float32")
    got = library.to_numpy(model32.apply(library.make(model.params), library.make(X)))
    assert got.dtype == np.float64


def test_apply_under_jax():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model = network(LIBRARIES["jax"], "all", members=2)
    y = np.asarray(model(jax.numpy.asarray(X)))
    assert_within(
        np.asarray(jax.jit(model.apply)(model.params, jax.numpy.asarray(X))), y, tolerances.exchanged(y, 6, "float64")
    )
    one = model[1]
    rows = np.asarray(jax.vmap(one.apply, in_axes=(None, 0))(one.params, jax.numpy.asarray(X)[:, None, :]))
    assert_within(rows[:, 0, :], y[1], tolerances.exchanged(y, 6, "float64"))


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_an_onnx_file_predicts_alike(configuration, members):
    for name in ("ndonnx", "onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import onnxruntime

    model = network(NUMPY, configuration, members=members)
    session = onnxruntime.InferenceSession(portnn.onnx.to_onnx(model).SerializeToString())
    for rows in (X, X[:1]):
        (y,) = session.run(None, {"x": rows})
        assert_within(y, model(rows), tolerances.first_gradient(model(rows), "float64"))


def test_a_dask_array_goes_through_chunk_by_chunk():
    dask_array = pytest.importorskip("dask.array", reason="dask is not installed")
    model = network(NUMPY, "all")
    lazy = dask_array.from_array(X, chunks=(10, 4))
    y = model(lazy)
    assert_within(y.compute(scheduler="threads"), model(X), tolerances.first_gradient(model(X), "float64"))
    name = y.name
    assert model(lazy).name == name
    model.running = model.running + 1.0
    assert model(lazy).name != name


def test_what_cannot_hold_such_a_network_refuses_it():
    estimator = type("MLPClassifier", (), {"coefs_": [], "intercepts_": [], "activation": "tanh"})()
    for configuration, call in itertools.product(
        ("layer", "residual"),
        (portnn.exchange.to_torch, portnn.exchange.to_keras, lambda m: portnn.exchange.to_sklearn(m, estimator)),
    ):
        if configuration == "layer" and call is portnn.exchange.to_torch:
            continue  # torch has that module: see test_exchange.py
        model = network(NUMPY, configuration)
        with pytest.raises(
            ValueError,
            match=r"the model has (normalizations or )?residuals, which a list",
        ):
            call(model)
    for configuration in CONFIGURATIONS:
        with pytest.raises(ValueError, match=r"^compare_backends: no bars are derived for dropout, normalization and"):
            portnn.testing.compare_backends(network(NUMPY, configuration), X, LABELS, ["numpy"])


BAD = [
    (
        {"normalization": "batchnorm"},
        r"unknown normalization 'batchnorm': expected one of 'layer', 'batch'; did you mean",
    ),
    ({"normalization": ["layer"]}, r"MLP: 1 entries in normalization for 3 hidden layers: \['layer'\]"),
    ({"normalization": True}, r"unknown normalization True"),
    ({"residual": [True, False, False]}, r"MLP: residual adds .*, but hidden layer 0 is not as wide as its input"),
    ({"residual": "yes"}, r"MLP: residual must be True, False or one of them per hidden layer, got 'yes'"),
    ({"residual": [1, 0, 0]}, r"MLP: residual must be True, False or one of them per hidden layer, got \[1, 0, 0\]"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        portnn.MLP(SIZES, **given)


def test_a_residual_needs_a_layer_as_wide_as_its_input():
    for sizes in ([4, 6, 3], [4, 3]):
        with pytest.raises(ValueError, match=r"^MLP: residual adds .*, but no hidden layer is as wide as its input"):
            portnn.MLP(sizes, residual=True)


def test_repr_says_what_there_is():
    kwargs = {"dropout": 0.2, "normalization": "layer", "residual": True}
    assert repr(portnn.MLP([4, 4, 3], **kwargs)).endswith(", dropout=0.2, normalization='layer', residual=True)")
    assert "dropout=[0.0, 0.3]" in repr(portnn.MLP([4, 4, 4, 3], dropout=[0.0, 0.3]))
