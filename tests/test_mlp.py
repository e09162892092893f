"""The network's face: where its parameters stand, what it takes and gives, and how it moves between libraries."""

import copy
import itertools

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

import portnn
from portnn import MLP, FormatError, model_file
from portnn.activations import ACTIVATIONS

rng = np.random.default_rng(2)
X = rng.normal(size=(6, 3))


def network(library, dtype="float64", **options):
    return MLP([3, 4, 2], **{"activation": "tanh", "dtype": dtype, **library.where, **options})


# -- layout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "bias", "n"),
    [
        ([2, 4, 1], True, 17),
        ([2, 1], True, 3),
        ([2, 1], False, 2),
        ([784, 128, 10], True, 101_770),
        ([3, 4, 2], [True, False], 24),
        ((3, 4, 2), [False, True], 22),
    ],
)
def test_number_of_parameters(sizes, bias, n):
    model = MLP(sizes, bias=bias)
    assert model.n_params == n
    assert model.params.shape == (n,)
    assert MLP(sizes, bias=bias, members=2).params.shape == (2, n)


def test_weights_row_by_row_and_biases_follow_one_another(library):
    model = network(library)
    model.params = library.make(np.arange(26.0))
    first, second = (library.to_numpy(w) for w in model.weights)
    assert_same(first, np.arange(12.0).reshape(3, 4))
    assert_same(second, np.arange(16.0, 24.0).reshape(4, 2))
    assert_same(library.to_numpy(model.biases[0]), np.arange(12.0, 16.0))
    assert_same(library.to_numpy(model.biases[1]), np.asarray([24.0, 25.0]))


def test_members_come_before_everything(library):
    model = network(library, members=2, bias=[False, True])
    model.params = library.make(np.arange(44.0).reshape(2, 22))
    assert_same(library.to_numpy(model.weights[0]), np.stack([np.arange(12.0), np.arange(22.0, 34.0)]).reshape(2, 3, 4))
    assert model.biases[0] is None
    assert_same(library.to_numpy(model.biases[1]), np.asarray([[20.0, 21.0], [42.0, 43.0]]))


def test_weights_and_biases_are_views():
    model = MLP([3, 4, 2])
    assert all(np.shares_memory(a, model.params) for a in (*model.weights, *model.biases))


def test_decay_is_for_weights_and_not_for_biases(library):
    model = network(library)
    assert_same(library.to_numpy(model.decayed()), np.repeat([1.0, 0.0, 1.0, 0.0], [12, 4, 8, 2]))


def test_parameters_are_copied_in(library):
    model, values = network(library), np.arange(26.0)
    given = library.make(values, given_up=True)
    model.params = given
    given *= 0.0
    assert_same(library.to_numpy(model.params), values)
    with pytest.raises(ValueError, match=r"MLP.params: got shape \(25,\), expected \(26,\)"):
        model.params = library.make(np.arange(25.0))


# -- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_outputs_are_layer_after_layer(library, depth):
    """By the definition, one sample and one unit at a time."""
    model = MLP([3, *[4] * depth, 2], activation="tanh", dtype="float64", **library.where)
    model.params = library.make(rng.normal(size=model.n_params))
    expected = []
    for sample in X:
        values = list(sample)
        for i, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
            weight, bias = library.to_numpy(weight), library.to_numpy(bias)
            sums = [sum(v * weight[j, k] for j, v in enumerate(values)) + bias[k] for k in range(weight.shape[1])]
            values = sums if i == depth else [np.tanh(s) for s in sums]
        expected.append(values)
    y = library.to_numpy(model(library.make(X)))
    assert_within(y, np.asarray(expected), tolerances.few_steps(expected, "float64"))


def test_apply_is_the_pure_twin_of_the_call(library):
    model, x = network(library), library.make(X)
    assert_same(library.to_numpy(model.apply(model.params, x)), library.to_numpy(model(x)))
    other = library.make(rng.normal(size=26))
    y = library.to_numpy(model.apply(other, x))
    model.params = other
    assert_same(library.to_numpy(model(x)), y)


def test_members_answer_as_each_alone(library):
    members, x = network(library, members=3, seed=4), library.make(X)
    y = library.to_numpy(members(x))
    assert y.shape == (3, 6, 2)
    for i in range(3):
        alone = library.to_numpy(network(library, seed=4 + i)(x))
        assert_within(y[i], alone, tolerances.few_steps(alone, "float64"))
    each = library.to_numpy(members(library.make(np.stack([X, 2 * X, 3 * X]))))
    assert_within(each[0], y[0], tolerances.few_steps(y, "float64"))
    assert_within(each[2], library.to_numpy(members(library.make(3 * X)))[2], tolerances.few_steps(each, "float64"))


@pytest.mark.parametrize("members", [1, 2])
def test_members_may_have_a_batch_each(library, members):
    """What is minimized is that of each member on its own rows; the number of samples is that of one batch."""
    model, t = network(library, members=members, seed=4), np.asarray([0, 1, 1, 0, 0, 1])
    batches = np.stack([X, 2.0 * X][:members])
    value, grad = (library.to_numpy(a) for a in model.loss_and_grad(library.make(batches), t))
    for i in range(members):
        alone, grad_alone = network(library, seed=4 + i).loss_and_grad(library.make(batches[i]), t)
        alone, grad_alone = library.to_numpy(alone), library.to_numpy(grad_alone)
        assert_within(value[i], alone, tolerances.few_steps(alone, "float64"))
        assert_within(grad[i], grad_alone, tolerances.first_gradient(grad_alone, "float64"))


def test_an_error_names_the_function_that_was_called(library):
    model, narrow = network(library), library.make(X[:, :2])
    t = np.asarray([0, 1, 1, 0, 0, 1])
    for who, call in (("MLP", model), ("MLP.vjp", model.vjp), ("loss_and_grad", lambda x: model.loss_and_grad(x, t))):
        with pytest.raises(ValueError, match=f"^{who}: X has 2 features, but MLP is expecting 3"):
            call(narrow)
    infinite = X.copy()
    infinite[2, 1] = np.inf
    with pytest.raises(ValueError, match=r"^loss_and_grad: Input X contains infinity, first at row 2, feature 1$"):
        model.loss_and_grad(library.make(infinite), t)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": [0, 1, 2, 0, 0, 1]}, r"label 2 at row 2 out of range \[0, 1\]"),
        ({"sample_weight": np.ones(5)}, r"sample_weight has shape \(5,\), expected \(6,\)"),
        ({"class_weight": [1.0, 2.0, 3.0]}, r"class_weight must be 2 non-negative finite numbers, not all zero"),
        ({"class_weight": [0.0, 1.0], "sample_weight": np.eye(6)[0]}, "class_weight times sample_weight must have"),
        ({"l1": -1.0}, "l1 must be a finite number >= 0, got -1.0"),
        ({"l2": -1.0}, "l2 must be a finite number >= 0, got -1.0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_error_of_loss_and_grad_says_so(library, options, message):
    arguments = {"t": [0, 1, 1, 0, 0, 1], **options}
    arguments = {name: np.asarray(value) if name == "t" else value for name, value in arguments.items()}
    with pytest.raises(ValueError, match=f"^loss_and_grad: {message}"):
        network(library).loss_and_grad(library.make(X), **arguments)


def test_rows_answer_by_themselves(library):
    model = network(library)
    order = np.asarray([3, 0, 5, 1, 4, 2])
    y = library.to_numpy(model(library.make(X)))
    assert_within(library.to_numpy(model(library.make(X[order]))), y[order], tolerances.few_steps(y, "float64"))


def test_every_layer_may_have_an_activation_of_its_own(library):
    shared, x = [["relu", "gelu"], ["relu", "gelu", "identity"]], library.make(X)
    a, b = (MLP([3, 4, 4, 2], activation=names, **library.where) for names in shared)
    x = library.make(X, "float32")
    assert_same(library.to_numpy(a(x)), library.to_numpy(b(x)))
    squashed = MLP([3, 4, 4, 2], activation=["relu", "gelu", "sigmoid"], **library.where)
    y = library.to_numpy(a(x)).astype("float64")
    assert_within(library.to_numpy(squashed(x)), 1.0 / (1.0 + np.exp(-y)), tolerances.few_steps(1.0, "float32"))
    with pytest.raises(ValueError, match="1 activations for 2 hidden layers"):
        MLP([3, 4, 4, 2], activation=["relu"])


def test_the_slope_in_a_name_is_the_slope(library):
    x = library.make(X)
    steep, none = (network(library, activation=f"leaky_relu({slope})") for slope in ("0.2", "0.0"))
    w, b, v, c = (library.to_numpy(a) for a in (steep.weights[0], steep.biases[0], steep.weights[1], steep.biases[1]))
    z = X @ w + b
    for model, slope in ((steep, 0.2), (none, 0.0)):
        expected = np.where(z > 0.0, z, slope * z) @ v + c
        assert_within(library.to_numpy(model(x)), expected, tolerances.few_steps(expected, "float64"))


def test_an_activation_of_ones_own(library):
    def square(z):
        return z * z, lambda dy: 2.0 * z * dy  # a bare array is as good as a tuple of one

    model, x = network(library, activation=square), library.make(X)
    w, b, v, c = (library.to_numpy(a) for a in (model.weights[0], model.biases[0], model.weights[1], model.biases[1]))
    expected = (X @ w + b) ** 2 @ v + c
    assert_within(library.to_numpy(model(x)), expected, tolerances.few_steps(expected, "float64"))
    _, vjp = model.vjp(x)
    _, dx = vjp(library.make(np.ones((6, 2))))
    by_hand = (2.0 * (X @ w + b) * v.sum(axis=1)) @ w.T
    assert_within(library.to_numpy(dx), by_hand, tolerances.first_gradient(by_hand, "float64"))
    assert "<square>" in repr(model)


# -- dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_changes_its_width(library, activation, dtype):
    model = network(library, dtype, activation=activation)
    x = library.make(X, dtype)
    y, vjp = model.vjp(x)
    loss, grad = model.loss_and_grad(x, np.asarray([0, 1, 1, 0, 0, 1]), sample_weight=np.ones(6), l1=0.1, l2=0.1)
    given = (model.params, *model.weights, *model.biases, model(x), y, *vjp(y), loss, grad)
    assert {library.dtype_name(a) for a in given} == {dtype}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", ["uint8", "int8", "int32", "int64", "bool", "float32", "float64"])
def test_inputs_of_other_types_are_cast_before_arithmetic(library, given, dtype):
    """255 + 255 in uint8 would be 254."""
    x = np.asarray([[0, 1, 2], [255, 255, 255]] if given == "uint8" else [[0, 1, 0], [1, 1, 1]], dtype=given)
    model, x_library = network(library, dtype, bias=False), library.make(x)
    exact = library.make(x.astype(dtype))
    assert_same(library.to_numpy(model(x_library)), library.to_numpy(model(exact)))
    for a, b in zip(model.vjp(x_library)[1](model(exact)), model.vjp(exact)[1](model(exact)), strict=True):
        assert_same(library.to_numpy(a), library.to_numpy(b))
    t = np.asarray([0, 1])
    for a, b in zip(model.loss_and_grad(x_library, t), model.loss_and_grad(exact, t), strict=True):
        assert_same(library.to_numpy(a), library.to_numpy(b))


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_a_dtype_may_be_named_in_several_ways(dtype):
    model = MLP([2, 1], dtype=getattr(dtype, "__name__", dtype))
    assert (model.dtype, model.params.dtype) == ("float32", np.float32)


# -- from library to library ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "to"), list(itertools.product(["float32", "float64"], repeat=2)))
def test_to_carries_numbers_over_exactly_or_rounds_once(library, dtype, to):
    host = MLP([3, 4, 2], activation="gelu", dtype=dtype, seed=1)
    there = host.to(**library.where, dtype=to)
    back = there.to(backend="numpy", device="cpu", dtype=dtype)
    assert_same(library.to_numpy(there.params), host.params.astype(to))
    assert_same(back.params, host.params.astype(to).astype(dtype))
    assert library.dtype_name(there(library.make(X, to))) == to
    assert repr(back) == repr(host)


def test_to_makes_a_copy_and_leaves_the_model_alone(library):
    model = network(library)
    before = library.to_numpy(model.params).copy()
    for moved in (model.to(), model.to(dtype="float64"), model.to(**library.where)):
        moved.params = library.make(np.zeros(26))
        assert_same(library.to_numpy(model.params), before)


def test_to_without_arguments_shares_no_memory():
    model = MLP([3, 4, 2])
    assert model.to().backend is model.backend
    assert not np.shares_memory(model.to().params, model.params)


def test_to_moves_between_libraries_and_devices(tmp_path):
    pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
    model = MLP([3, 4, 2])
    there = model.to(backend="array_api_strict", device="device1")
    model.save(tmp_path / "model.safetensors")
    loaded = MLP.load(tmp_path / "model.safetensors", backend="array_api_strict", device="device1")
    elsewhere = there.to(device="device2")
    home = there.to(backend="numpy")
    for moved, place in (
        (there, ("array_api_strict", "device1")),
        (there.to(), ("array_api_strict", "device1")),
        (loaded, ("array_api_strict", "device1")),
        (elsewhere, ("array_api_strict", "device2")),
        (home, ("numpy", "cpu")),
    ):
        assert (moved.backend.name, moved.backend.device_name) == place
        assert moved.backend.owns(moved.params)
        assert moved.backend.device_of(moved.params) == moved.backend.device
        assert_same(moved.backend.to_numpy(moved.params), model.params)


def test_a_copy_has_parameters_of_its_own():
    model = MLP([3, 4, 2])
    twin = copy.copy(model)
    assert not np.shares_memory(twin.params, model.params)
    assert_same(twin.params, model.params)


def test_a_pickle_holds_the_parameters_on_the_host(library):
    model = network(library)
    state = model.__getstate__()
    assert isinstance(state["_params"], np.ndarray)
    assert set(state) == set(vars(model))


def test_a_file_with_nan_is_refused_by_name(tmp_path):
    model = MLP([3, 4, 2])
    params = model.params.copy()
    params[13] = np.nan  # the first bias follows 12 weights
    config = {"sizes": model.sizes, "dtype": model.dtype, "members": None, "seed": 0}
    model_file.write(tmp_path / "model.safetensors", config, model.layers, params)
    with pytest.raises(FormatError, match=r"^MLP\.load: .*: tensor 'layers\.0\.bias' holds NaN or infinity$"):
        MLP.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_save_and_load_give_the_same_network(library, dtype, members, tmp_path):
    options = {"activation": ["leaky_relu(0.2)", "gelu", "identity"], "bias": [True, False, True]}
    model = MLP([3, 4, 4, 2], dtype=dtype, members=members, seed=3, **options, **library.where)
    file = tmp_path / "model.safetensors"
    model.save(file)
    again = MLP.load(file, **library.where)
    assert repr(again) == repr(model)
    assert_same(library.to_numpy(again.params), library.to_numpy(model.params))
    x = library.make(X, dtype)
    assert_same(library.to_numpy(again(x)), library.to_numpy(model(x)))
    host = MLP.load(file)
    assert_same(host.params, library.to_numpy(model.params))
    assert (host.seed, host.members, host.backend.name) == (3, members, "numpy")
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    other = "float64" if dtype == "float32" else "float32"
    assert_same(MLP.load(file, dtype=other).params, host.params.astype(other))


# -- inside other array code ----------------------------------------------------------------------------------------


def test_apply_under_jit_grad_and_vmap():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model = MLP([3, 4, 2], activation="gelu", dtype="float64", backend="jax")
    x = jax.numpy.asarray(X)
    y = model(x)
    assert_within(np.asarray(jax.jit(model.apply)(model.params, x)), np.asarray(y), tolerances.few_steps(y, "float64"))

    def total(params, x):
        return (model.apply(params, x) ** 2).sum()

    d_params, dx = jax.jit(jax.grad(total, argnums=(0, 1)))(model.params, x)
    for ours, theirs in zip(model.vjp(x)[1](2.0 * y), (d_params, dx), strict=True):
        assert_within(np.asarray(ours), np.asarray(theirs), tolerances.first_gradient(theirs, "float64"))

    one_by_one = jax.vmap(lambda row: model.apply(model.params, row[None, :])[0])(x)
    assert_within(np.asarray(one_by_one), np.asarray(y), tolerances.few_steps(y, "float64"))
    stacked = jax.numpy.stack([model.params, 2.0 * model.params])
    members = jax.vmap(model.apply, in_axes=(0, None))(stacked, x)
    assert_within(np.asarray(members), np.asarray(model.apply(stacked, x)), tolerances.few_steps(members, "float64"))


def test_the_model_itself_under_jit():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model = MLP([3, 4, 2], backend="jax")
    x, t = jax.numpy.asarray(X, dtype="float32"), jax.numpy.asarray([0, 1, 1, 0, 0, 1])
    bound = tolerances.few_steps(np.asarray(model(x)), "float32")
    assert_within(np.asarray(jax.jit(model)(x)), np.asarray(model(x)), bound)
    eager, compiled = model.loss_and_grad(x, t), jax.jit(model.loss_and_grad)(x, t)
    for a, b in zip(compiled, eager, strict=True):
        assert_within(np.asarray(a), np.asarray(b), tolerances.first_gradient(np.asarray(b), "float32"))


def test_targets_that_do_not_fit_are_refused_under_jit_too():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model, x = MLP([3, 4, 2], backend="jax"), jax.numpy.asarray(X)
    with pytest.raises(ValueError, match=r"^loss_and_grad: t has shape \(6, 3\), mse expects one row for each of 6"):
        jax.jit(lambda x, t: model.loss_and_grad(x, t, "mse"))(x, x)


def test_apply_takes_part_in_autograd():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = MLP([3, 4, 2], dtype="float64", backend="torch")
    params = model.params.clone().requires_grad_()
    y = model.apply(params, torch.asarray(X))
    y.sum().backward()
    d_params, _ = model.vjp(torch.asarray(X))[1](torch.ones_like(y))
    assert_within(d_params.numpy(), params.grad.numpy(), tolerances.first_gradient(params.grad.numpy(), "float64"))


def test_a_minimizer_that_knows_nothing_of_networks_can_fit_one():
    minimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed").minimize
    model = MLP([1, 5, 1], activation="tanh", dtype="float64", seed=1)
    x = np.linspace(-2.0, 2.0, 40)[:, None]

    def loss(params):
        model.params = params
        return model.loss_and_grad(x, np.sin(2.0 * x), "mse")

    before, _ = loss(model.params)
    assert minimize(loss, model.params, jac=True, method="BFGS").fun < 1e-3 * before


def test_repr_shows_what_was_asked_for():
    assert repr(MLP([3, 4, 2])) == "MLP([3, 4, 2], activation='relu', dtype='float32', backend='numpy', device='cpu')"
    assert "activation='leaky_relu(0.2)'" in repr(MLP([3, 4, 2], activation="leaky_relu(0.2)"))
    assert "activation=['relu', 'tanh', 'identity']" in repr(MLP([3, 4, 4, 2], activation=["relu", "tanh"]))
    assert repr(MLP([3, 2], members=2)).endswith("members=2)")
    assert "activation='identity'" in repr(MLP([3, 2]))
    assert "activation=['tanh']" in repr(MLP([3, 2], activation=["tanh"]))
    assert "activation=['relu', 'relu']" in repr(MLP([3, 4, 2], activation=["relu", "relu"]))


def test_everything_that_is_promised_is_there():
    assert all(hasattr(portnn, name) for name in portnn.__all__)


def test_the_seed_is_0_unless_another_is_given():
    assert MLP([3, 4, 2]).seed == 0
    assert_same(MLP([3, 4, 2]).params, MLP([3, 4, 2], seed=0).params)


def test_one_initializer_too_many():
    with pytest.raises(ValueError, match=r"^MLP: 3 entries in init for 2 layers"):
        MLP([3, 4, 2], init=["zeros"] * 3)


def test_targets_may_be_traced_while_the_inputs_are_not():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model = portnn.MLP([3, 2], dtype="float64", backend="jax")
    x, t = jax.numpy.asarray(X[:, :3]), jax.numpy.asarray(X[:, :2])
    value, grad = jax.jit(lambda t: model.loss_and_grad(x, t, "mse"))(t)
    expected_value, expected = model.loss_and_grad(x, t, "mse")
    assert_within(value, expected_value, tolerances.few_steps(expected_value, "float64"))
    assert_within(grad, expected, tolerances.first_gradient(expected, "float64"))


@pytest.mark.parametrize("metadata", ["abc", ["a"], {"a": 1}])
def test_metadata_that_are_no_texts_by_texts_are_refused(tmp_path, metadata):
    with pytest.raises(TypeError, match=r"metadata must map str to str"):
        MLP([2, 1]).save(tmp_path / "m.st", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


FUNCTIONS = {
    "fit": lambda model: portnn.fit(model, np.ones((2, 2)), np.ones(2)),
    "evaluate": lambda model: portnn.evaluate(model, np.ones((2, 2)), np.ones(2)),
    "predict": lambda model: portnn.predict(model, np.ones((2, 2))),
    "ensemble_predict": lambda model: portnn.ensemble_predict(model, np.ones((2, 2)), kind="values"),
    "scipy_objective": lambda model: portnn.scipy_objective(model, np.ones((2, 2)), np.ones(2)),
    "scipy_residuals": lambda model: portnn.scipy_residuals(model, np.ones((2, 2)), np.ones(2)),
    "to_torch": lambda model: portnn.exchange.to_torch(model),
    "to_keras": lambda model: portnn.exchange.to_keras(model),
    "to_sklearn": lambda model: portnn.exchange.to_sklearn(model, None),
    "to_onnx": lambda model: portnn.onnx.to_onnx(model),
    "compare_backends": lambda model: portnn.testing.compare_backends(model, np.ones((2, 2)), np.ones(2), ["numpy"]),
}


@pytest.mark.parametrize("who", FUNCTIONS)
def test_what_is_no_model_is_refused(who):
    for model, kind in ((None, "NoneType"), ("x", "str"), (MLP, "the class MLP itself"), (np.ones(3), "ndarray")):
        with pytest.raises(TypeError, match=f"^{who}: model must be a portnn.MLP, got {kind}$"):
            FUNCTIONS[who](model)
