"""Weights from and to other libraries: to the bit, and the predictions beside those of the libraries themselves."""

from __future__ import annotations

import itertools
import types
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import tolerances
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_same, assert_within

from portnn import MLP, SGD, FormatError, Rescale, Standardize, fit
from portnn.exchange import from_keras, from_sklearn, from_torch, to_keras, to_sklearn, to_torch
from portnn.storage import read_safetensors_file, write_safetensors_file

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

rng = np.random.default_rng(0)
FLOATS = ("float32", "float64")
# our name -> the module
MODULES = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "leaky_relu(0.2)": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "elu(0.5)": lambda: nn.ELU(0.5),
    "selu": nn.SELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
}


def sequential(sizes, module=nn.ReLU, dtype="float32", bias=True):
    torch.manual_seed(0)
    steps = []
    for n, m in itertools.pairwise(sizes):
        steps += [nn.Linear(n, m, bias=bias, dtype=getattr(torch, dtype)), module()]
    return nn.Sequential(*steps[:-1])


def predicted(net, x):
    with torch.no_grad():
        return net(torch.asarray(x)).numpy()


def assert_alike(ours, theirs, sizes, dtype):
    """The bar of the issue: 4 sqrt(n) u, n the largest number of inputs."""
    assert ours.dtype == theirs.dtype == dtype
    assert_within(ours, theirs, tolerances.exchanged(theirs, max(sizes[:-1]), dtype))


# -- PyTorch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", MODULES)
def test_torch_there_and_back(name, dtype):
    sizes = [40, 30, 20, 10]
    net = sequential(sizes, MODULES[name], dtype)
    model = from_torch(net)
    assert repr(model) == repr(MLP(sizes, activation=name, dtype=dtype))
    x = rng.normal(size=(50, 40)).astype(dtype)
    assert_alike(model(x), predicted(net, x), sizes, dtype)
    state = to_torch(model.to(backend="torch"))
    theirs = net.state_dict()
    assert list(state) == list(theirs)
    for key, tensor in state.items():
        assert tensor.dtype == theirs[key].dtype
        assert tensor.is_contiguous()
        assert torch.equal(tensor, theirs[key])
    fresh = sequential(sizes, MODULES[name], dtype)
    nn.init.zeros_(fresh[0].weight)
    fresh.load_state_dict(state)
    assert_same(predicted(fresh, x), predicted(net, x))


@pytest.mark.parametrize("dtype", FLOATS)
def test_784_inputs_on_torch_itself(dtype):
    sizes = [784, 256, 64, 10]
    net = sequential(sizes, nn.GELU, dtype)
    x = rng.random((200, 784)).astype(dtype)
    model = from_torch(net.state_dict(), "gelu", backend="torch")
    assert model.backend.name == "torch"
    assert_alike(model(torch.asarray(x)).numpy(), predicted(net, x), sizes, dtype)
    host = from_torch(net)
    assert_alike(host(x), predicted(net, x), sizes, dtype)
    assert_same(host.params, model.backend.to_numpy(model.params))


@pytest.mark.parametrize("names", [None, ["fc1", "fc2", "head"], ["block.0.fc", "block.1.fc", "block.10.fc"]])
def test_ours_to_torch_under_any_names(names):
    model = MLP([5, 4, 3, 2], activation="tanh", seed=3)
    state = to_torch(model, names)
    assert next(iter(state)) == ("0.weight" if names is None else f"{names[0]}.weight")
    for i, key in enumerate(k for k in state if k.endswith("weight")):
        assert_same(state[key], np.ascontiguousarray(model.weights[i].T))
    again = from_torch(dict(sorted(state.items())), "tanh", names=names)  # as a safetensors file orders them
    assert_same(again.params, model.params)
    for array in state.values():
        array[...] = 7.0  # a copy
    assert not (model.params == 7.0).any()


def test_a_single_linear_layer():
    net = nn.Linear(3, 2)
    model = from_torch(net)
    assert (model.sizes, model.n_params) == ([3, 2], 8)
    net.load_state_dict(to_torch(model.to(backend="torch"), [""]))
    assert_same(from_torch(net).params, model.params)


@pytest.mark.parametrize("bias", [False, True])
def test_with_and_without_bias(bias):
    net = sequential([4, 5, 3], bias=bias)
    model = from_torch(net)
    assert model.n_params == sum(p.numel() for p in net.parameters())
    x = rng.normal(size=(6, 4)).astype("float32")
    assert_alike(model(x), predicted(net, x), [4, 5, 3], "float32")
    assert list(to_torch(model)) == list(net.state_dict())


def test_nested_shared_and_idle_modules():
    relu = nn.ReLU()
    body = nn.Sequential(nn.Linear(6, 5), relu, nn.Dropout(0.5), nn.Linear(5, 4), relu)
    net = nn.Sequential(nn.Flatten(), body, nn.Identity(), nn.Linear(4, 3), nn.Tanh()).eval()
    model = from_torch(net)
    x = rng.normal(size=(7, 6)).astype("float32")
    assert_alike(model(x), predicted(net, x), [6, 5, 4, 3], "float32")
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    net.load_state_dict(to_torch(model.to(backend="torch"), names))


def test_eleven_layers_are_in_the_order_of_their_numbers():
    net = sequential([2] * 12)
    state = {key: tensor.numpy() for key, tensor in sorted(net.state_dict().items())}
    assert list(state)[2] == "10.bias"
    assert_same(from_torch(state, "relu").params, from_torch(net).params)


def test_part_of_a_larger_network():
    first = {"conv": nn.Conv2d(1, 1, 3), "norm": nn.BatchNorm1d(9)}
    state = nn.Sequential(OrderedDict(**first, a=nn.Linear(9, 4), b=nn.Linear(4, 2))).state_dict()
    with pytest.raises(
        ValueError, match=r"^from_torch: names leaves out 'norm', which has a vector of weights, as a norm"
    ):
        from_torch(state, "relu", names=["a", "b"])
    state = {key: tensor for key, tensor in state.items() if not key.startswith("norm.")}
    model = from_torch(state, "relu", names=["a", "b"])
    assert_same(model.weights[1], state["b.weight"].numpy().T)


def test_parameters_that_require_a_gradient_are_taken_and_left_alone():
    net = sequential([3, 2, 1])
    parameters = dict(net.named_parameters())
    model = from_torch(parameters, "relu")
    assert_same(model.params, from_torch(net).params)
    model.params = np.zeros(model.n_params)
    assert not torch.equal(net[0].weight, torch.zeros(2, 3))
    assert net[0].weight.requires_grad


@pytest.mark.parametrize("dtype", FLOATS)
def test_safetensors_both_ways(tmp_path, dtype):
    from safetensors.torch import load_file, save_file

    net = sequential([4, 3, 2], nn.Tanh, dtype)
    save_file(net.state_dict(), tmp_path / "theirs.safetensors")
    arrays, _ = read_safetensors_file(tmp_path / "theirs.safetensors")
    model = from_torch(arrays, "tanh")
    assert_same(model.params, from_torch(net).params)
    write_safetensors_file(tmp_path / "ours.safetensors", to_torch(model))
    fresh = sequential([4, 3, 2], nn.Tanh, dtype)
    nn.init.zeros_(fresh[2].weight)
    fresh.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    x = rng.normal(size=(5, 4)).astype(dtype)
    assert_same(predicted(fresh, x), predicted(net, x))
    save_file(to_torch(model.to(backend="torch")), tmp_path / "again.safetensors")  # wants contiguous tensors
    with pytest.raises(FormatError):
        MLP.load(tmp_path / "theirs.safetensors")


@pytest.fixture
def normalized():
    """Return a function that makes a network of torch with normalizations whose numbers are off their start."""

    def make(dtype="float32", bias=True):
        torch.manual_seed(3)
        of = {"dtype": getattr(torch, dtype)}
        first = nn.Sequential(nn.Linear(8, 7, bias=bias, **of), nn.BatchNorm1d(7, **of), nn.Tanh())
        second = nn.Sequential(
            nn.Linear(7, 6, **of), nn.LayerNorm(6, **of), nn.GELU(), nn.Linear(6, 5, **of), nn.ReLU()
        )
        third = nn.Sequential(nn.Linear(5, 4, **of), nn.Dropout(0.0), nn.BatchNorm1d(4, **of), nn.Linear(4, 3, **of))
        net = nn.Sequential(first, second, third)
        with torch.no_grad():
            for name, a in net.state_dict().items():
                if "running" in name or (a.ndim == 1 and not name.endswith("batches_tracked")):
                    a.copy_(torch.rand_like(a) + 0.5)
        return net.eval()

    return make


KINDS = {"normalization": ["batch", "layer", None, "batch"]}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_normalizations_there_and_back(normalized, dtype, bias):
    net, sizes = normalized(dtype, bias), [8, 7, 6, 5, 4, 3]
    model = from_torch(net)
    activation = ["tanh", "gelu", "relu", "identity", "identity"]
    whole = MLP(sizes, activation=activation, dtype=dtype, bias=[bias, True, True, True, True], **KINDS)
    assert repr(model) == repr(whole)
    assert model.n_params == sum(p.numel() for p in net.parameters())
    x = rng.normal(size=(40, 8)).astype(dtype)
    assert_alike(model(x), predicted(net, x), sizes, dtype)
    theirs = {key: a for key, a in net.state_dict().items() if not key.endswith("batches_tracked")}
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in theirs))
    state = to_torch(model.to(backend="torch"), names)
    assert list(state) == list(theirs)
    assert all(torch.equal(state[key], a) and state[key].is_contiguous() for key, a in theirs.items())
    fresh = normalized(dtype, bias)
    for a in fresh.parameters():
        nn.init.zeros_(a)
    assert fresh.load_state_dict(state).missing_keys == []  # torch counts the batches from 0, then
    assert_same(predicted(fresh, x), predicted(net, x))
    host = {key: a.numpy() for key, a in sorted(net.state_dict().items())}
    named = from_torch(host, activation, names=names)
    assert_same(named.params, model.params)
    assert_same(named.running, model.running)


@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_normalizations_in_the_places_of_a_sequential(kind):
    model = MLP([5, 4, 3, 2], activation="tanh", seed=3, normalization=kind)
    state = to_torch(model.to(backend="torch"))
    norm = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}[kind]
    net = nn.Sequential(
        *(m for n, k in ((5, 4), (4, 3)) for m in (nn.Linear(n, k), norm(k), nn.Tanh())), nn.Linear(3, 2)
    )
    net.load_state_dict(state)
    assert_same(from_torch(net).params, model.params)
    again = from_torch(dict(sorted(to_torch(model).items())), "tanh")
    assert_same(again.params, model.params)
    assert repr(again) == repr(model)
    state["1.bias"][...] = 7.0  # a copy
    assert not (model.shifts[0] == 7.0).any()


def test_normalizations_train_on_as_in_torch(normalized):
    """Three steps of the whole batch: the forward pass by its statistics, its derivative and the running ones."""
    net = normalized("float64")
    x, t = rng.normal(size=(40, 8)), rng.normal(size=(40, 3))
    model = from_torch(net)
    fit(model, x, t, loss="mse", optimizer=SGD(0.05), epochs=3, batch_size=40, shuffle=False, progress=False)
    optimizer, losses = torch.optim.SGD(net.train().parameters(), 0.05), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(torch.asarray(x)), torch.asarray(t))
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    trained = from_torch(net.eval())
    bar = tolerances.BARS["sgd"]["float64"]
    assert_within(model.params, trained.params, bar)
    assert_within(model.running, trained.running, bar)
    assert not np.array_equal(model.running, from_torch(normalized("float64")).running)
    assert_within(model(x), predicted(net, x), 10 * bar)


def other(key, value):
    """A good state_dict with one entry changed; None takes it away."""
    state = {k: v.numpy() for k, v in sequential([3, 4, 2]).state_dict().items()}
    return {k: v for k, v in {**state, key: value}.items() if v is not None}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.out = nn.Linear(3, 4), nn.Linear(4, 2)


def no_such(*modules):
    return lambda: from_torch(nn.Sequential(nn.Linear(3, 4), *modules))


REFUSED = {
    "a list": (lambda: from_torch([1, 2]), TypeError, "expected a torch.nn.Sequential .* got a list"),
    "an optimizer": (
        lambda: from_torch(torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1), "relu"),
        ValueError,
        "'state' is not the weight or bias of a Linear layer",
    ),
    "nothing": (lambda: from_torch({}, "relu"), ValueError, "the state_dict is empty, expected 'NAME.weight'"),
    "no activation": (
        lambda: from_torch(sequential([3, 4, 2]).state_dict()),
        ValueError,
        "does not say what stands between its layers; give it: activation='relu'",
    ),
    "a wrong activation": (lambda: from_torch(other("x", None), "swish"), ValueError, "unknown activation 'swish'"),
    "two shapes": (
        lambda: from_torch(other("2.weight", np.zeros((2, 5), "float32")), "relu"),
        ValueError,
        "^from_torch: 0 gives 4 numbers, 2 takes 5; check the order of the layers$",
    ),
    "a bias of another layer": (
        lambda: from_torch(other("0.bias", np.zeros(3, "float32")), "relu"),
        ValueError,
        r"^from_torch: the bias of 0 has shape \(3,\), its weight gives 4$",
    ),
    "a bias alone": (lambda: from_torch(other("2.weight", None), "relu"), ValueError, "there is no '2.weight', the st"),
    "a convolution": (
        lambda: from_torch(nn.Sequential(nn.Conv2d(1, 1, 3)).state_dict(), "relu"),
        ValueError,
        r"0.weight has shape \(1, 1, 3, 3\), expected \(out_features, in_features\), as a Linear layer has it",
    ),
    "a normalization": (
        lambda: from_torch(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict(), "relu"),
        ValueError,
        "^from_torch: 1 stands behind the last layer, portnn normalizes hidden layers only$",
    ),
    "half precision": (
        lambda: from_torch(sequential([3, 4, 2]).half(), "relu"),
        ValueError,
        "0.weight has dtype torch.float16, expected float32 or float64; convert it first",
    ),
    "bfloat16": (lambda: from_torch(sequential([3, 4]).bfloat16()), ValueError, "0.weight has dtype torch.bfloat16"),
    "integers": (lambda: from_torch(other("0.bias", np.zeros(4, int)), "relu"), ValueError, "0.bias has dtype int64"),
    "two dtypes": (
        lambda: from_torch(other("0.bias", np.zeros(4)), "relu"),
        ValueError,
        "the arrays have dtypes float32 and float64, expected one of them for all",
    ),
    "a list of numbers": (lambda: from_torch(other("0.bias", [0.0] * 4), "relu"), TypeError, "0.bias is a list, which"),
    "a NaN": (
        lambda: from_torch(other("2.bias", np.full(2, np.nan, "float32")), "relu"),
        ValueError,
        r"^from_torch: biases\[1\] of the model holds NaN",
    ),
    "no values": (lambda: from_torch(nn.Linear(2, 2, device="meta")), ValueError, "weight cannot be copied to the h"),
    "names without an order": (
        lambda: from_torch(Net().state_dict(), "relu"),
        ValueError,
        r"the order of 'fc1', 'out' cannot be told from their names; give it: names=\[...\], first layer first",
    ),
    "names that are not there": (
        lambda: from_torch(Net().state_dict(), "relu", names=["fc1", "fc2"]),
        ValueError,
        "there is no 'fc2.weight', the state_dict holds 'fc1.bias', 'fc1.weight', 'out.bias', 'out.weight'",
    ),
    "names as a text": (
        lambda: from_torch(Net().state_dict(), "relu", names="fc1"),
        ValueError,
        r"names must be texts that differ, such as \['fc1', 'fc2'\], got 'fc1'",
    ),
    "the same name twice": (
        lambda: from_torch(Net().state_dict(), "relu", names=["fc1", "fc1"]),
        ValueError,
        r"names must be texts that differ, .*, got \['fc1', 'fc1'\]",
    ),
    "a module with code": (lambda: from_torch(Net()), TypeError, "only the code of Net knows the order of its layers"),
    "a softmax": (no_such(nn.Softmax(-1)), ValueError, "module '1' is a Softmax, expected Linear, .* leave a softmax"),
    "a norm of groups": (
        no_such(nn.GroupNorm(2, 4)),
        ValueError,
        "module '1' is a GroupNorm, expected Linear, LayerNorm",
    ),
    "a root mean square": (
        no_such(nn.RMSNorm(4)),
        ValueError,
        "module '1' is a RMSNorm, expected Linear, LayerNorm, Ba",
    ),
    "images": (
        no_such(nn.BatchNorm2d(4)),
        ValueError,
        "module '1' is a BatchNorm2d, expected Linear, LayerNorm, Batch",
    ),
    "a norm at the end": (
        no_such(nn.LayerNorm(4)),
        ValueError,
        "1 stands behind the last layer, portnn normalizes hid",
    ),
    "a late norm": (
        no_such(nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2)),
        ValueError,
        "module '2' is a LayerNorm that does not stand directly behind a Linear layer, before its activation",
    ),
    "an early norm": (
        lambda: from_torch(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))),
        ValueError,
        "module '0' is a BatchNorm1d that does not stand directly behind a Linear layer",
    ),
    "two norms": (
        no_such(nn.LayerNorm(4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        ValueError,
        "^from_torch: '2' normalizes what 1 has normalized already$",
    ),
    "eps of a layer": (
        no_such(nn.LayerNorm(4, eps=1e-6), nn.Linear(4, 2)),
        ValueError,
        "^from_torch: module '1' is a LayerNorm with eps=1e-06, portnn's has 1e-05$",
    ),
    "eps of a batch, the activation being given": (
        lambda: from_torch(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-3), nn.Linear(4, 2)), "relu"),
        ValueError,
        "^from_torch: module '1' is a BatchNorm1d with eps=0.001, portnn's has 1e-05$",
    ),
    **{
        f"{type(norm).__name__} with {setting}": (
            no_such(norm, nn.Linear(4, 2)),
            ValueError,
            f"module '1' is a {type(norm).__name__} with {setting}, portnn's has {ours}$",
        )
        for norm, setting, ours in (
            (nn.BatchNorm1d(4, momentum=None), "momentum=None", "0.1"),
            (nn.BatchNorm1d(4, track_running_stats=False), "track_running_stats=False", "True"),
            (nn.BatchNorm1d(4, affine=False), "affine=False", "True"),
            (nn.LayerNorm(4, elementwise_affine=False), "elementwise_affine=False", "True"),
            (nn.LayerNorm(4, bias=False), "bias=False", "True"),
            (nn.LayerNorm((2, 4)), "axes=2", "1"),
        )
    },
    "a slope of each unit": (
        lambda: from_torch(nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)).state_dict(), "relu"),
        ValueError,
        "'1' has weight and no bias: it is neither LayerNorm nor BatchNorm1d as portnn has them",
    ),
    "a norm of another width": (
        lambda: from_torch(
            nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(5), nn.Linear(4, 2)).state_dict(), "relu", names=["0", "1", "2"]
        ),
        ValueError,
        r"^from_torch: 1 has shape \(5,\), 0 before it gives 4$",
    ),
    "a negative variance": (
        lambda: from_torch(
            {
                **nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).state_dict(),
                "1.running_var": -torch.ones(4),
            },
            "relu",
        ),
        ValueError,
        "^from_torch: the running variance of 1 is negative or NaN in places$",
    ),
    "residuals to torch": (
        lambda: to_torch(MLP([2, 2, 1], residual=True)),
        ValueError,
        "the model has residuals, which",
    ),
    "too few names with norms": (
        lambda: to_torch(MLP([3, 4, 2], normalization="layer"), ["a", "b"]),
        ValueError,
        r"names must be 3 texts that differ, one for each layer and each normalization behind it, got \['a', 'b'\]",
    ),
    "two in a row": (no_such(nn.ReLU(), nn.Tanh()), ValueError, "module '2' is a Tanh, which does not follow a Linear"),
    "a sharper softplus": (no_such(nn.Softplus(2.0)), ValueError, "is a Softplus with options that portnn does not"),
    "a late flatten": (no_such(nn.Flatten()), ValueError, "module '1' is a Flatten, expected Linear"),
    "no linear layer": (lambda: from_torch(nn.Sequential(nn.Dropout())), ValueError, "there is no Linear layer in"),
    "members to torch": (
        lambda: to_torch(MLP([2, 1], members=3)),
        ValueError,
        r"^to_torch: the model has 3 members, expected a single network; pass model\[i\]$",
    ),
    "scaled inputs": (
        lambda: to_torch(MLP([2, 1], inputs=Rescale(0.5), outputs=Standardize(1.0, 2.0))),
        ValueError,
        "the model has inputs=Rescale and outputs=Standardize, which a list of weights cannot hold; scale the data",
    ),
    "too few names": (
        lambda: to_torch(MLP([2, 1]), ["a", "b"]),
        ValueError,
        r"names must be 1 texts that differ, one for each layer, got \['a', 'b'\]",
    ),
}


def test_numbers_in_names_may_be_of_any_length():
    """Layers are put in the order of their numbers, which Python converts up to 4300 digits only."""
    long = "9" * 5000
    state = {f"{long}.weight": np.ones((1, 2)), "010.weight": np.full((2, 3), 2.0), "9.weight": np.full((3, 4), 3.0)}
    model = from_torch(state, "relu")
    assert model.sizes == [4, 3, 2, 1]
    assert [float(w[0, 0]) for w in model.weights] == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("case", REFUSED)
def test_torch_refused_in_one_sentence(case):
    call, error, sentence = REFUSED[case]
    with pytest.raises(error, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# -- scikit-learn -----------------------------------------------------------------------------------------------------


def fitted(kind, activation="relu", dtype="float64", classes=3, hidden=(12, 7)):
    neural_network = pytest.importorskip("sklearn.neural_network", reason="scikit-learn is not installed")
    x = np.random.default_rng(1).normal(size=(60, 20)).astype(dtype)
    t = np.arange(60) % classes + 5 if kind == "MLPClassifier" else x[:, :classes].astype(dtype)
    estimator = getattr(neural_network, kind)(
        hidden_layer_sizes=hidden, activation=activation, max_iter=20, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        estimator.fit(x, t)
    return estimator, x


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_sklearn_classifier(activation, dtype):
    estimator, x = fitted("MLPClassifier", activation, dtype)
    model = from_sklearn(estimator)
    assert (model.dtype, model.sizes) == (dtype, [20, 12, 7, 3])
    y = model(x)
    p = np.exp(y - y.max(axis=1, keepdims=True))
    # a probability's derivative by an output is 1 at most
    slack = 4.0 * tolerances.exchanged(np.abs(y).max() + 1.0, 20, dtype)
    assert_within(p / p.sum(axis=1, keepdims=True), estimator.predict_proba(x), slack)
    assert_same(estimator.classes_[y.argmax(axis=1)], estimator.predict(x))
    for ours, theirs in zip(model.weights, estimator.coefs_, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", FLOATS)
def test_sklearn_binary_classifier_has_one_output(dtype):
    estimator, x = fitted("MLPClassifier", "tanh", dtype, classes=2)
    y = from_sklearn(estimator, backend="torch")(torch.asarray(x)).numpy()
    assert y.shape == (60, 1)
    slack = tolerances.exchanged(np.abs(y).max() + 1.0, 20, dtype)
    assert_within(1.0 / (1.0 + np.exp(-y[:, 0])), estimator.predict_proba(x)[:, 1], slack)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("hidden", [(9,), (12, 7)])
def test_sklearn_regressor(outputs, hidden, dtype):
    estimator, x = fitted("MLPRegressor", "relu", dtype, outputs, hidden)
    y = from_sklearn(estimator)(x)
    assert_alike(y, estimator.predict(x).reshape(60, outputs), [20, 12, 7, outputs], dtype)


def test_a_pipeline_of_sklearn_with_its_scaler():
    pipeline = pytest.importorskip("sklearn.pipeline", reason="scikit-learn is not installed")
    from sklearn.preprocessing import StandardScaler

    estimator, x = fitted("MLPRegressor", "tanh", "float64")
    raw = 3.0 * x + 7.0
    both = pipeline.make_pipeline(StandardScaler().fit(raw), estimator)
    mean, scale = both[0].mean_.tolist(), both[0].scale_.tolist()
    model = from_sklearn(both[-1], inputs=Standardize(mean, scale))
    assert_alike(model(raw), both.predict(raw), [20, 12, 7, 3], "float64")
    net = sequential([3, 2], dtype="float64")
    model = from_torch(net, inputs=Rescale(2.0), outputs=Rescale(1.0, 5.0))
    assert_alike(model(x[:, :3]), predicted(net, 2.0 * x[:, :3]) + 5.0, [3, 2], "float64")
    model = from_keras(dense([3, 2], "float64"), inputs=Rescale(2.0), outputs=Rescale(1.0, 5.0))
    assert_alike(model(x[:, :3]), (2.0 * x[:, :3]) @ model.weights[0] + model.biases[0] + 5.0, [3, 2], "float64")


def test_into_sklearn_and_training_goes_on():
    estimator, x = fitted("MLPRegressor", "tanh", "float64")
    model = MLP([20, 12, 7, 3], activation="tanh", dtype="float64", seed=9)
    assert to_sklearn(model, estimator) is estimator
    assert_alike(estimator.predict(x), model(x), [20, 12, 7, 3], "float64")
    before = model.params.copy()
    estimator.partial_fit(x, x[:, :3])
    assert_same(model.params, before)  # copies
    assert not np.array_equal(from_sklearn(estimator).params, before)


def test_a_layer_without_a_bias_has_zeros_in_sklearn():
    estimator, x = fitted("MLPRegressor", "tanh", "float64")
    model = MLP([20, 12, 7, 3], activation="tanh", dtype="float64", bias=[True, False, True])
    assert_alike(to_sklearn(model, estimator).predict(x), model(x), [20, 12, 7, 3], "float64")


def test_sklearn_refused_in_one_sentence():
    neural_network = pytest.importorskip("sklearn.neural_network", reason="scikit-learn is not installed")
    estimator, _ = fitted("MLPRegressor", "tanh", "float64")
    model = MLP([20, 12, 7, 3], activation="tanh", dtype="float64")
    with pytest.raises(ValueError, match=r"^from_sklearn: this MLPClassifier is not fitted yet; call fit first$"):
        from_sklearn(neural_network.MLPClassifier())
    with pytest.raises(TypeError, match=r"expected a fitted MLPClassifier or MLPRegressor, got a dict; of a pipeline"):
        from_sklearn({})
    with pytest.raises(ValueError, match=r"estimator has layers of shapes \[\(20, 12\), .* the model \[\(20, 3\)\]"):
        to_sklearn(MLP([20, 3]), estimator)
    with pytest.raises(ValueError, match=r"^to_sklearn: the estimator has 'tanh' behind its hidden layers and nothing"):
        to_sklearn(MLP([20, 12, 7, 3], activation="relu"), estimator)
    with pytest.raises(ValueError, match="to_sklearn: the model has 2 members"):
        to_sklearn(MLP([20, 3], members=2), estimator)
    estimator.activation = "softmax"
    with pytest.raises(ValueError, match="unknown activation 'softmax', expected one of identity, logistic, tanh"):
        to_sklearn(model, estimator)
    odd = types.SimpleNamespace(coefs_=[np.ones((2, 1))], intercepts_=[], activation="relu")
    with pytest.raises(ValueError, match="1 coefs_ and 0 intercepts_, expected as many of both"):
        from_sklearn(odd)


# -- Keras ------------------------------------------------------------------------------------------------------------


def dense(sizes, dtype="float32", bias=True):
    """The arrays of a stack of Dense layers, as get_weights gives them."""
    shapes = [shape for n, m in itertools.pairwise(sizes) for shape in [(n, m), (m,)][: 1 + bias]]
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", [True, False])
def test_keras_there_and_back(dtype, bias):
    arrays, x = dense([6, 5, 4, 3], dtype, bias), rng.normal(size=(9, 6)).astype(dtype)
    model = from_keras(arrays, "relu")
    y, step = x, 1 + bias
    for i in range(0, len(arrays), step):
        y = y @ arrays[i] + (arrays[i + 1] if bias else 0)
        y = np.maximum(y, 0) if i + step < len(arrays) else y
    assert_alike(model(x), y, [6, 5, 4, 3], dtype)
    again = to_keras(model)
    assert len(again) == len(arrays)
    for ours, theirs in zip(again, arrays, strict=True):
        assert_same(ours, theirs)
        ours[...] = 0.0  # a copy
    assert_same(model.weights[0], arrays[0])


def test_a_keras_model_is_asked_for_its_arrays():
    arrays = dense([3, 2])
    assert_same(from_keras(types.SimpleNamespace(get_weights=lambda: arrays)).weights[0], arrays[0])


def test_some_layers_without_bias():
    arrays = [*dense([3, 4], bias=False), *dense([4, 5]), *dense([5, 2], bias=False)]
    assert [b is None for b in from_keras(arrays, "tanh").biases] == [True, False, True]


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        ([], ValueError, "the list is empty"),
        ({}, TypeError, r"expected a list of arrays \[kernel, bias, ...\], got a dict"),
        (dense([3, 4, 2]), ValueError, "a list of arrays does not say what stands between the layers; give it"),
        ([*dense([3, 4]), np.ones(4, "float32")], ValueError, r"array 2 has shape \(4,\), expected \(in_features"),
        ([np.ones(3)], ValueError, r"array 0 has shape \(3,\)"),
        ([np.ones((3, 3, 1, 4))], ValueError, r"array 0 has shape \(3, 3, 1, 4\)"),
        ([np.ones((3, 4)), np.ones(3)], ValueError, r"the bias of layer 0 has shape \(3,\), its weight gives 4"),
        ([[[1.0]]], TypeError, "array 0 is a list, which is not a supported array type"),
    ],
)
def test_keras_refused_in_one_sentence(source, error, sentence):
    with pytest.raises(error, match=f"^from_keras: .*{sentence}"):
        from_keras(source)


def test_members_to_keras():
    with pytest.raises(ValueError, match="to_keras: the model has 2 members"):
        to_keras(MLP([2, 1], members=2))


# -- all of them ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_any_network_survives_every_round_trip(data):
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=5), "sizes")
    n = len(sizes) - 1
    biases = data.draw(st.lists(st.booleans(), min_size=n, max_size=n), "bias")
    names = data.draw(st.lists(st.sampled_from(sorted(MODULES)), min_size=n, max_size=n), "activation")
    dtype = data.draw(st.sampled_from(FLOATS), "dtype")
    model = MLP(sizes, activation=names, bias=biases, dtype=dtype, seed=data.draw(st.integers(0, 99), "seed"))
    back = from_torch(to_torch(model), names)
    assert_same(back.params, model.params)
    assert repr(back) == repr(model)
    assert_same(from_keras(to_keras(model), names).params, model.params)
    steps = []
    for layer, name in zip(model.layers, names, strict=True):
        bias = layer.bias is not None
        steps += [nn.Linear(layer.fan_in, layer.fan_out, bias=bias, dtype=getattr(torch, dtype)), MODULES[name]()]
    net = nn.Sequential(*steps)
    net.load_state_dict(to_torch(model.to(backend="torch")))
    x = np.random.default_rng(1).normal(size=(4, sizes[0])).astype(dtype)
    values, h = [], x.astype("float64")
    for layer, weight, b in zip(model.layers, model.weights, model.biases, strict=True):
        h = layer.activation(h @ weight.astype("float64") + (0.0 if b is None else b))[0]
        values.append(h)
    bound = 2.0 * tolerances.network(x, model.weights, model.biases, values, dtype)
    assert_within(from_torch(net)(x), predicted(net, x), bound)


class Sequential(torch.nn.Sequential):
    """One of the same name with another forward."""

    def forward(self, x):
        return 2.0 * super().forward(x)


def hooked():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    net[0].register_forward_hook(lambda module, args, y: 2.0 * y)
    return net


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (lambda: Sequential(torch.nn.Linear(3, 2)), "is a Sequential of your own, whose forward is not known"),
        (hooked, "is a Linear with hooks, which portnn cannot take over"),
        (
            lambda: torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Softplus(1, 0.5)),
            "with options that portnn does",
        ),
    ],
)
def test_modules_that_do_something_else_are_refused(net, said):
    with pytest.raises(ValueError, match=said):
        from_torch(net())


def test_a_regressor_of_counts_is_refused():
    neural = pytest.importorskip("sklearn.neural_network", reason="scikit-learn is not installed")
    x = np.random.default_rng(9).standard_normal((40, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = neural.MLPRegressor(loss="poisson", hidden_layer_sizes=(4,), max_iter=5).fit(x, np.exp(x[:, 0]))
    with pytest.raises(ValueError, match="the outputs go through 'exp'"):
        from_sklearn(estimator)
