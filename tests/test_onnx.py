"""The exported graph, run by onnxruntime: its activations against 40 digits, its networks against portnn on NumPy."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import tolerances
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from references import exact
from test_activations import NAMES, VALUES, bound_of
from tolerances import Exact, assert_same, assert_ulps, assert_within

import portnn
from portnn import MLP, Rescale, Standardize
from portnn.activations import ACTIVATIONS
from portnn.backends import namespace
from portnn.onnx import _tidy, to_onnx

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("ndonnx", reason="ndonnx is not installed")

rng = np.random.default_rng(0)
FLOATS = ("float32", "float64")
BATCHES = (0, 1, 7, 1000)
THREES = list(zip(*[iter(ACTIVATIONS)] * 3, strict=True))  # all twelve, three in a network


def opened(graph):
    """Return a session on one thread, from a ModelProto or a path."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    source = str(graph) if not hasattr(graph, "SerializeToString") else graph.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(graph, x, name="x"):
    (y,) = opened(graph).run(None, {name: x})
    return y


def trained_like(sizes, **options):
    """A network with biases that are not zero."""
    model = MLP(sizes, init="glorot_normal", **options)
    noise = np.random.default_rng(1).normal(size=model.params.shape) * 0.1
    model.params = (np.asarray(model.backend.to_numpy(model.params)) + noise).astype(model.dtype)
    return model


def bound(model, x):
    """How far two computations of the model may be apart."""
    wide = model.to(dtype="float64")
    values, h = [], x.astype("float64")
    for layer, weight, bias in zip(wide.layers, wide.weights, wide.biases, strict=True):
        h = layer.activation(h @ weight + (0.0 if bias is None else bias))[0]
        values.append(h)
    return 2.0 * tolerances.network(x, wide.weights, wide.biases, values, model.dtype)


def scaled_bound(model, x):
    """The same with scalings: of numbers up to some hundreds, which cost two roundings each."""
    wide, place = model.to(dtype="float64"), (lambda scaling, a: a if scaling is None else scaling.placed(a)(a)[0])
    first, last = wide.layers[0].before, wide.layers[-1].after
    inner = MLP(
        model.sizes,
        activation=[layer.activation for layer in model.layers],
        bias=[layer.bias is not None for layer in model.layers],
        dtype=model.dtype,
    )
    inner.params = model.params
    h = place(first, x.astype("float64"))
    steep = 1.0 if last is None else np.max(np.abs(place(last, np.ones(1)) - place(last, np.zeros(1))))
    incoming = 4.0 * tolerances.eps(model.dtype) * (np.abs(h).max() + 4.0)
    gain = np.prod([1.76 * np.abs(w).sum(axis=0).max() for w in wide.weights])
    y = np.abs(wide(x.astype("float64"))) + 4.0
    return steep * (bound(inner, h.astype(model.dtype)) + 2.0 * gain * incoming) + 8.0 * tolerances.eps(model.dtype) * y


# -- numbers ----------------------------------------------------------------------------------------------------------


@functools.cache
def alone(name, dtype):
    """Return a model that is one activation and nothing else, and a session of it."""
    model = MLP([1, 1], activation=[name], bias=False, dtype=dtype)
    model.params = np.ones(1, dtype)
    return model, opened(to_onnx(model))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_activation_is_exact_to_eight_ulp(name, dtype):
    z = VALUES.astype(dtype)
    reference = exact(name, z)
    kept = (reference.high == 0.0) | Exact(reference.high / np.maximum(np.abs(z), 1.0)).normal(dtype)
    z = z[kept]
    assert z.size > 0.6 * VALUES.size
    (y,) = alone(name, dtype)[1].run(None, {"x": z[:, None]})
    assert (y.dtype, y.shape) == (dtype, (z.size, 1))
    assert_ulps(y[:, 0], exact(name, z), bound_of(name, z))


@pytest.mark.parametrize("name", NAMES)
def test_nan_and_ten_thousand(name):
    model, session = alone(name, "float32")
    x = np.asarray([[np.nan], [1e4], [-1e4]], "float32")
    (y,) = session.run(None, {"x": x})
    assert np.isnan(y[:, 0]).tolist() == [True, False, False]
    assert_within(y[1:], model(x[1:]), tolerances.ULPS * tolerances.eps("float32") * np.abs(model(x[1:])))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("names", THREES, ids="-".join)
def test_network_is_that_of_the_model_for_every_batch(names, dtype):
    model = trained_like([23, 37, 19, 11, 5], activation=names, dtype=dtype)
    session = opened(to_onnx(model))
    for n in BATCHES:
        x = rng.normal(size=(n, 23)).astype(dtype)
        (y,) = session.run(None, {"x": x})
        assert y.dtype == dtype
        assert_within(y, model(x), bound(model, x))


def test_gelu_network_of_784_inputs_predicts_the_same_digits():
    model = trained_like([784, 256, 64, 10], activation="gelu")
    x = rng.random((1000, 784)).astype("float32")
    y, ours = run(to_onnx(model), x), model(x)
    assert_within(y, ours, bound(model, x))
    apart = np.sort(ours, axis=1)
    clear = apart[:, -1] - apart[:, -2] > 2.0 * np.abs(y - ours).max()
    assert clear.mean() > 0.99
    assert_same(y.argmax(axis=1)[clear], ours.argmax(axis=1)[clear])


SCALINGS = {
    "vectors": lambda n, k: (Standardize([0.1 * i for i in range(n)], [1.0 + i for i in range(n)]), Rescale([2.0] * k)),
    "numbers": lambda n, k: (Rescale(0.5, 0.25), Standardize(0.3, 0.7)),
    "inputs": lambda n, k: (Standardize(0.1, 0.3), None),
    "outputs": lambda n, k: (None, Rescale(40.0, -3.0)),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", SCALINGS)
def test_scalings_go_with_the_model(kind, dtype):
    inputs, outputs = SCALINGS[kind](6, 3)
    for bias in (True, False):
        model = trained_like([6, 9, 3], activation="tanh", bias=bias, dtype=dtype, inputs=inputs, outputs=outputs)
        x = 2.0 * rng.random((5, 6)).astype(dtype)
        plain = model(x)
        assert_within(run(to_onnx(model), x), plain, scaled_bound(model, x))
        without = trained_like([6, 9, 3], activation="tanh", bias=bias, dtype=dtype)
        assert np.abs(without(x) - plain).max() > 0.01


def test_pixels_of_784_inputs_predict_the_same_digits():
    pixels = Standardize(33.3, 78.6)
    model = trained_like([784, 256, 64, 10], activation="gelu", inputs=pixels)
    x = np.floor(256.0 * rng.random((300, 784))).astype("float32")
    y, ours = run(to_onnx(model), x), model(x)
    assert_within(y, ours, scaled_bound(model, x))
    assert (y.argmax(axis=1) == ours.argmax(axis=1)).mean() > 0.99


@pytest.mark.parametrize("sizes", [[3, 4, 2], [1, 1, 1]])
@pytest.mark.parametrize("bias", [True, False])
def test_factors_stay_float64(sizes, bias):
    """onnxruntime merges a factor beside a product into it as a float32, unless something stands between them."""

    def doubled(z):
        return (z * 0.1) * 0.3, lambda dy: (dy * 0.03,)

    model = trained_like(sizes, activation=["selu", doubled], bias=bias, dtype="float64")
    x = rng.normal(size=(5, sizes[0]))
    graph = to_onnx(model)
    assert_within(run(graph, x), model(x), bound(model, x))
    assert "Sum" in {node.op_type for node in graph.graph.node}
    assert "Sum" not in {node.op_type for node in to_onnx(model.to(dtype="float32")).graph.node}


def test_members_come_out_one_by_one():
    team = trained_like([6, 9, 8, 4], activation=["relu", "gelu"], members=3)
    session = opened(to_onnx(team))
    for n in (0, 1, 8):
        x = rng.normal(size=(n, 6)).astype("float32")
        (y,) = session.run(None, {"x": x})
        assert y.shape == (3, n, 4)
        for member, its_own in zip(y, team, strict=True):
            assert_within(member, its_own(x), bound(its_own, x))


@pytest.mark.parametrize("bias", [False, [True, False]])
def test_biases_and_an_output_activation(bias):
    model = trained_like([4, 6, 3], activation=["relu", "sigmoid"], bias=bias)
    x = rng.normal(size=(5, 4)).astype("float32")
    assert_within(run(to_onnx(model), x), model(x), bound(model, x))


def test_a_linear_model():
    model = trained_like([4, 3])
    x = rng.normal(size=(5, 4)).astype("float32")
    assert_within(run(to_onnx(model), x), model(x), bound(model, x))


@settings(max_examples=6, phases=[Phase.generate], derandomize=True, deadline=None, database=None)
@given(st.data())
def test_any_network(data):
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=3), "sizes")
    n = len(sizes) - 1
    model = trained_like(
        sizes,
        activation=data.draw(st.lists(st.sampled_from(NAMES), min_size=n, max_size=n), "activation"),
        bias=data.draw(st.lists(st.booleans(), min_size=n, max_size=n), "bias"),
        dtype=data.draw(st.sampled_from(["float32", "float64"]), "dtype"),
        members=data.draw(st.sampled_from([None, 1, 2]), "members"),
        seed=data.draw(st.integers(0, 99), "seed"),
    )
    x = np.random.default_rng(model.seed).normal(size=(data.draw(st.integers(1, 5), "batch"), sizes[0]))
    x = x.astype(model.dtype)
    y = run(to_onnx(model), x)
    for theirs, ours in [(y, model)] if model.members is None else zip(y, model, strict=True):
        assert_within(theirs, ours(x), bound(ours, x))


def test_kinds():
    model = trained_like([4, 3])
    x = 50.0 * rng.normal(size=(5, 4)).astype("float32")
    raw = model(x).astype("float64")
    shifted = np.exp(raw - raw.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    wanted = {"values": raw, "binary": 1.0 / (1.0 + np.exp(-raw)), "classes": probabilities}
    for kind, exact_values in wanted.items():
        # a probability's derivative by an output is 1 at most
        assert_within(run(to_onnx(model, kind=kind), x), exact_values, bound(model, x).max())
    assert raw.max() > 10.0 > 1.0 == wanted["classes"].max().round(3)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_it_is_valid_and_says_what_it_is(tmp_path):
    model = trained_like([4, 6, 3], activation="gelu")
    before = model.params.copy()
    graph = to_onnx(model, tmp_path / "a.onnx", input_name="pixels", output_name="logits")
    assert_same(model.params, before)
    written = onnx.load(tmp_path / "a.onnx")
    assert written.SerializeToString(deterministic=True) == graph.SerializeToString(deterministic=True)
    onnx.checker.check_model(written, full_check=True)
    assert (graph.producer_name, graph.producer_version) == ("portnn", portnn.__version__)
    assert graph.doc_string == repr(model)
    assert (graph.opset_import[0].version, graph.ir_version) <= (21, 10), "what onnxruntime has read since 1.18"
    (x,), (y,) = graph.graph.input, graph.graph.output
    assert (x.name, y.name) == ("pixels", "logits")
    for end, n in ((x, 4), (y, 3)):
        batch, features = end.type.tensor_type.shape.dim
        assert (batch.dim_param, batch.HasField("dim_value"), features.dim_value) == ("batch", False, n)
        assert end.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {node.domain for node in graph.graph.node} == {""}, "operations of the standard only"
    data = rng.normal(size=(2, 4)).astype("float32")
    assert_same(run(tmp_path / "a.onnx", data, "pixels"), run(graph, data, "pixels"))


def test_it_holds_the_weights_and_the_operations_of_the_network_alone():
    model = trained_like([64, 128, 10])
    graph = to_onnx(model).graph
    assert [node.op_type for node in graph.node] == ["MatMul", "Add", "Max", "MatMul", "Add", "Identity"]
    held = {tuple(a.shape): a for a in map(onnx.numpy_helper.to_array, graph.initializer)}
    assert held.keys() == {(64, 128), (1, 128), (), (128, 10), (1, 10)}
    for weight, bias in zip(model.weights, model.biases, strict=True):
        assert_same(held[weight.shape], weight)
        assert_same(held[1, *bias.shape][0], bias)
    gelu = to_onnx(trained_like([64, 128, 10], activation="gelu"))
    assert gelu.ByteSize() < 4 * model.n_params + 12_000


def test_branches_that_are_no_guards_stay():
    branches = {}
    for name, operation in (("then_branch", "Neg"), ("else_branch", "Exp")):
        out = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None])
        branches[name] = onnx.helper.make_graph([onnx.helper.make_node(operation, ["size"], [name])], name, [], [out])
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["h"]),
        onnx.helper.make_node("Abs", ["h"], ["again"]),
        onnx.helper.make_node("Identity", ["again"], ["size"]),  # which the branches alone read
        onnx.helper.make_node("ReduceMax", ["h"], ["top"], keepdims=0),
        onnx.helper.make_node("Greater", ["top", "zero"], ["positive"]),
        onnx.helper.make_node("If", ["positive"], ["y"], **branches),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in "xy"]
    zero = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [], [0.0])
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [zero])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    _tidy(model.graph, onnx)
    assert [node.op_type for node in model.graph.node] == ["Abs", "ReduceMax", "Greater", "If"]
    onnx.checker.check_model(model, full_check=True)
    assert_same(run(model, np.asarray([2.0], "float32")), np.asarray([-2.0], "float32"))
    assert_same(run(model, np.asarray([0.0], "float32")), np.asarray([1.0], "float32"))


def test_a_model_of_another_library_gives_the_same_graph():
    model = trained_like([4, 3], activation=["mish"])
    graphs = [to_onnx(model.to(backend=backend)) for backend in ("numpy", "torch", "jax", "array_api_strict")]
    assert len({graph.SerializeToString(deterministic=True) for graph in graphs}) == 1


def test_an_activation_of_your_own():
    def cosine(z):
        xp = namespace(z)
        return xp.cos(z) + 0.5, lambda dy: (dy * -xp.sin(z),)

    model = trained_like([4, 6, 3], activation=cosine)
    x = rng.normal(size=(5, 4)).astype("float32")
    assert_within(run(to_onnx(model), x), model(x), bound(model, x))


# -- what is refused --------------------------------------------------------------------------------------------------


def test_an_activation_that_calls_numpy_is_refused():
    model = MLP([2, 3, 1], activation=lambda z: (np.tanh(z), lambda dy: (dy,)))
    with pytest.raises(TypeError, match=r"^to_onnx: ndonnx cannot note the forward pass .* portnn.backends.namespace"):
        to_onnx(model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"input_name": ""}, "input_name must be a text that is not empty, got ''"),
        ({"output_name": None}, "output_name must be a text that is not empty, got None"),
        ({"input_name": "y"}, "input_name and output_name are both 'y'"),
        ({"kind": "probabilities"}, "unknown kind of to_onnx 'probabilities'"),
        ({"kind": "classes"}, "kind 'classes' wants an output per class"),
    ],
)
def test_wrong_options(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        to_onnx(MLP([2, 1]), tmp_path / "a.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_parameters_that_are_not_finite():
    model = MLP([2, 1])
    model.params = np.asarray([1.0, np.nan, 0.0])
    with pytest.raises(ValueError, match=r"^to_onnx: weights\[0\] of the model holds NaN"):
        to_onnx(model)


def test_more_than_a_file_can_hold(monkeypatch):
    monkeypatch.setattr("portnn.onnx._LARGEST", 8)
    with pytest.raises(ValueError, match=r"^to_onnx: the parameters take 12 bytes, an ONNX file holds 2 GiB at most$"):
        to_onnx(MLP([2, 1]))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        to_onnx(MLP([2, 1]), tmp_path / "nowhere" / "a.onnx")


@pytest.mark.parametrize("missing", ["ndonnx", "onnx"])
def test_a_missing_package_is_named_with_the_cure(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"^to_onnx: needs ndonnx and onnx .*: pip install ndonnx onnx$"):
        to_onnx(MLP([2, 1]))


@pytest.mark.parametrize("names", [("Add_0_C", "MatMul_0_Y"), ("Reshape_0_reshaped", "Inline_0__If_0_outputs_0")])
def test_names_of_inner_values_can_be_asked_for(names):
    model = portnn.MLP([3, 4, 2], dtype="float64")
    x = np.linspace(-1.0, 1.0, 12).reshape(4, 3)
    written = to_onnx(model, input_name=names[0], output_name=names[1])
    (y,) = opened(written).run([names[1]], {names[0]: x})
    assert_within(y, model(x), 1e-14)
