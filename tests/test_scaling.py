"""Scalings of inputs and outputs: the same numbers as scikit-learn's, and a network that has them folded in."""

import copy
import fractions
import json
import pickle

import mpmath
import numpy as np
import pytest
from libraries import LIBRARIES
from tolerances import assert_same, assert_within, few_steps, first_gradient

import portnn
from portnn import MLP, Rescale, Standardize
from portnn.errors import FormatError
from portnn.scaling import described, from_description

RNG = np.random.default_rng(3)
X = RNG.standard_normal((20, 3)) * [1.0, 50.0, 1e-3] + [0.0, 1000.0, 5.0]
T = RNG.standard_normal((20, 2)) * [10.0, 0.1] - [300.0, 0.0]


@pytest.mark.parametrize("x", [X, T, X[:, :1], np.full((5, 2), 0.1), X + 1e9], ids=["x", "t", "one", "constant", "far"])
def test_fitted_to_data_as_scikit_learn_does(library, x):
    preprocessing = pytest.importorskip("sklearn.preprocessing", reason="scikit-learn is not installed")
    with np.errstate(all="ignore"):
        expected = preprocessing.StandardScaler().fit_transform(x)
        ours = Standardize.fit(library.make(x)).placed(x)(x)[0]
    # the error of a mean, 20 roundings of numbers as large as max |x|, in units of the deviation
    bound = 20 * 2**-52 * np.max(abs(x)) / Standardize.fit(x).std + few_steps(1.0, "float64")
    assert_within(ours, expected, np.broadcast_to(bound, x.shape))
    expected = preprocessing.MinMaxScaler((-1, 1)).fit_transform(x)
    ours = Rescale.fit(library.make(x), low=-1.0, high=1.0).placed(x)(x)[0]
    size = np.max(abs(x)) / np.where(np.ptp(x, axis=0) > 0, np.ptp(x, axis=0), np.inf)
    assert_within(ours, expected, np.broadcast_to(8 * 2**-52 * (size + 1.0), x.shape))


EXTREMES = {
    "large": [1e300, -3e300, 2e300, 1.5e300],
    "the largest": [1.7976931348623157e308, -1.7976931348623157e308, 0.0, 1e308],
    "the largest alone": [1.7976931348623157e308] * 4,
    "mixed": [1e300, 1e-300, 1.0, -1e200],
    "small": [1e-300, -3e-300, 2e-300, 1.5e-300],
    "small beside an offset": [1e-200, 1.0000001e-200, 1.0000002e-200, 1.0000001e-200],
    "below the normal ones": [1e-310, -3e-310, 2e-310, 0.0],
    "the smallest": [5e-324, 1e-323, 0.0, 2e-323],
}


@pytest.mark.parametrize("name", EXTREMES)
def test_no_square_overflows_or_vanishes(library, name):
    """Exact mean and variance by fractions: the root is the only rounding of the reference."""
    values = [fractions.Fraction(v) for v in EXTREMES[name]]
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    with mpmath.workdps(50):
        std = float(mpmath.sqrt(mpmath.mpf(variance.numerator) / variance.denominator)) or 1.0
    found = Standardize.fit(library.make(np.stack([EXTREMES[name], np.ones(4)], axis=1), "float64"))
    # a sum of four numbers, of their squares, and the root: some roundings of the largest; and of the result itself
    # where it is below the normal numbers
    bound = 16 * 2**-53 * float(max(abs(v) for v in values)) + 5e-324
    assert_within(found.mean, (float(mean), 1.0), (bound, 0.0))
    assert_within(found.std, (std, 1.0), (bound if variance else 0.0, 0.0))


@pytest.mark.parametrize("power", [-900, -600, 600, 1000])
def test_powers_of_two_change_no_bit(library, power):
    near, far = (Standardize.fit(library.make(X * scale, "float64")) for scale in (1.0, 2.0**power))
    assert far == Standardize(np.ldexp(near.mean, power), np.ldexp(near.std, power))


def test_fitted_in_blocks(monkeypatch):
    whole = Standardize.fit(X), Rescale.fit(X)
    monkeypatch.setattr(portnn.scaling, "_BLOCK", 7)
    assert_within(np.asarray(Standardize.fit(X).std), np.asarray(whole[0].std), few_steps(whole[0].std, "float64"))
    assert Rescale.fit(X) == whole[1]


def test_pixels_and_vectors():
    pixels = np.random.default_rng(6).integers(0, 256, (6, 4)).astype("uint8")
    y = MLP([4, 4], init=lambda key, a, b: np.eye(4), inputs=Rescale(1 / 255), dtype="float64")(pixels)
    assert_same(y, pixels * (1 / 255))
    assert Standardize.fit(np.asarray([1.0, 3.0])) == Standardize((2.0,), (1.0,))


@pytest.mark.parametrize("scaling", [Standardize.fit(X), Rescale((2.0, -1.0, 0.5), (0.0, 1.0, 2.0)), Rescale(3.0)])
def test_inverse_is_the_inverse_and_a_file_keeps_it(scaling):
    y, vjp = scaling.placed(X)(X)
    back, unvjp = scaling.inverse().placed(X)(y)
    assert_within(back, X, 4 * 2**-52 * (abs(X) + 2000.0 * (np.ptp(X, axis=0) / np.ptp(y, axis=0))))
    assert scaling.inverse().inverse() == scaling
    (dy,) = unvjp(*vjp(np.ones_like(X)))
    assert_within(dy, np.ones_like(X), few_steps(1.0, "float64"))
    assert from_description(json.loads(json.dumps(described(scaling)))) == scaling


def pair(members=None, activation="tanh", **where):
    """A network with scalings and one that has them folded into its weights, in float64."""
    inputs, outputs = Standardize.fit(X), Standardize.fit(T).inverse()
    options = {"activation": activation, "dtype": "float64", "members": members}
    model = MLP([3, 4, 2], **options, inputs=inputs, outputs=outputs, **where)
    folded, plain = MLP([3, 4, 2], **options), MLP([3, 4, 2], **options)
    first, last = folded.layers
    params = np.asarray(folded.params).copy() + 0.1
    plain.params = params
    mean, std = np.asarray(inputs.mean), np.asarray(inputs.std)
    w = plain.weights[0] / std[:, None]
    params[..., first.weight] = w.reshape(*params.shape[:-1], -1)
    params[..., first.bias] -= (mean[:, None] * w).sum(-2)
    w = plain.weights[1] * outputs.factor
    params[..., last.weight] = w.reshape(*params.shape[:-1], -1)
    params[..., last.bias] = params[..., last.bias] * outputs.factor + outputs.offset
    folded.params, model.params = params, plain.params
    return model, folded


def folded_bound(expected):
    """The bias of the folded network is a difference of terms that are mean / std times as large."""
    return float(np.max(np.abs(X.mean(axis=0)) / X.std(axis=0))) * first_gradient(expected, "float64")


@pytest.mark.parametrize("members", [None, 2])
def test_derivatives_are_those_of_the_folded_network(library, members):
    model, folded = pair(members, **library.where)
    make, host = library.make, library.to_numpy
    rng = np.random.default_rng(4)
    dx, dy = rng.standard_normal(X.shape), rng.standard_normal(tuple(folded(X).shape))
    y, vjp = model.vjp(make(X))
    expected, expected_vjp = folded.vjp(X)
    assert_within(host(y), expected, folded_bound(expected))
    assert_within(host(vjp(make(dy))[1]), expected_vjp(dy)[1], folded_bound(expected_vjp(dy)[1]))
    assert_within(host(model.jacobian(make(X))), folded.jacobian(X), folded_bound(folded.jacobian(X)))
    (_, tangent), (_, expected) = model.jvp(make(X), dx=make(dx)), folded.jvp(X, dx=dx)
    assert_within(host(tangent), expected, folded_bound(expected))
    expected = folded.input_gradient(X, T, "mse")[1]
    assert_within(host(model.input_gradient(make(X), make(T), "mse")[1]), expected, folded_bound(expected))
    (_, found), (_, expected) = (
        m.tangents(m.params, a, dx=d)[1](0.5 * e, e)
        for m, a, d, e in ((model, make(X), make(dx), make(dy)), (folded, X, dx, dy))
    )
    assert_within(host(found), expected, folded_bound(expected))


def test_gradients_of_parameters_are_checked_by_differences():
    model, _ = pair()
    value, grad = model.loss_and_grad(X, T, "mse")
    params, v, h = np.asarray(model.params).copy(), np.random.default_rng(5).standard_normal(model.params.shape), 1e-6
    f = model.value_and_grad("mse")
    up, down = (f(params + s * v, X, T)[0] for s in (h, -h))
    assert_within(grad @ v, (up - down) / (2 * h), 1e-7 * abs(value))
    product = model.hvp(X, T, v, "mse")
    up, down = (f(params + s * v, X, T)[1] for s in (h, -h))
    assert_within(product, (up - down) / (2 * h), 1e-6 * np.max(abs(product)))


def test_what_scipy_is_given_knows_scalings():
    model, folded = pair()
    residuals, jacobian = portnn.scipy_residuals(model, X, T)
    assert_within(residuals(model.params), (folded(X) - T).reshape(-1), folded_bound(folded(X)))
    params, v, h = np.asarray(model.params).copy(), np.random.default_rng(7).standard_normal(model.params.shape), 1e-6
    up, down = (residuals(params + s * v) for s in (h, -h))
    assert_within(jacobian(params) @ v, (up - down) / (2 * h), 1e-7 * np.max(abs(T)))


@pytest.mark.parametrize("how", [True, False, "auto"])
def test_training_in_physical_units(library, how):
    """Linear regression: the exact answer, which no step size finds without scaling."""
    t = X @ np.asarray([[1.0, 0.0], [0.02, 0.3], [-2000.0, 5.0]]) + [300.0, -4.0]
    model = MLP(
        [3, 2], dtype="float64", inputs=Standardize.fit(X), outputs=Standardize.fit(t).inverse(), **library.where
    )
    if how is True and not model.backend.compiles:
        pytest.skip(f"{library.name} has nothing to compile with")
    scale = float(np.mean(np.square(Standardize.fit(t).std)))
    options = {"loss": "mse", "epochs": 400, "batch_size": 20, "shuffle": False, "progress": False, "compile": how}
    history = portnn.fit(model, library.make(X), library.make(t), optimizer=portnn.Adam(0.05), **options)
    assert history["loss"][-1] < 1e-6 * scale
    y = library.to_numpy(portnn.predict(model, library.make(X)))
    assert_within(y, t, 1e-2 * np.std(t, axis=0) * np.ones_like(t))
    assert portnn.evaluate(model, library.make(X), t, loss="mse")["loss"] < 1e-6 * scale


@pytest.mark.parametrize("members", [None, 2])
def test_files_copies_members_and_moves_keep_scalings(tmp_path, members):
    model, _ = pair(members)
    model.save(tmp_path / "model.safetensors")
    loaded = MLP.load(tmp_path / "model.safetensors")
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to(backend="numpy")):
        assert_same(other(X), model(X))
        assert repr(other) == repr(model)
        assert "inputs=Standardize, outputs=Rescale" in repr(other)
    if members:
        assert_within(model[1](X), model(X)[1], few_steps(model(X), "float64"))


def test_a_file_without_scalings_is_of_the_old_format(tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    for model, number in ((pair()[0], 2), (MLP([2, 1]), 1)):
        model.save(tmp_path / "model.safetensors")
        with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
            assert json.loads(file.metadata()["portnn"])["format"] == number


@pytest.mark.parametrize(
    "description",
    [
        {"kind": "Standardise", "mean": 0.0, "std": 1.0},
        {"kind": "Rescale"},
        {"kind": "Rescale", "factor": 0.0},
        {"kind": "Rescale", "factor": "abc"},
        {"kind": "Rescale", "factor": [1.0, 2.0]},
        {"kind": "Rescale", "factor": float("inf")},
        {"kind": "Rescale", "factor": 10**400},
        ["Rescale", 1.0],
        3,
    ],
    ids=lambda description: str(description)[:40],
)
def test_files_with_other_scalings_are_refused(tmp_path, description, monkeypatch):
    model = MLP([3, 1], inputs=Rescale(2.0))
    monkeypatch.setattr(portnn.scaling, "described", lambda scaling: scaling and description)
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"the configuration (is not one of a portnn model|has Infinity at byte)"):
        MLP.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: MLP([3, 1], inputs=Standardize((0.0, 1.0), 1.0)),
            "inputs=Standardize has 2 numbers in mean, expected 3",
        ),
        (lambda: MLP([3, 1], outputs=Rescale((1.0, 2.0))), "outputs=Rescale has 2 numbers in factor, expected 1"),
        (lambda: MLP([3, 1], inputs="standardize"), "inputs must be a portnn.Standardize or a portnn.Rescale, got"),
        (lambda: Standardize(0.0, (1.0, 0.0)), "Standardize: std must not be 0"),
        (lambda: Rescale(float("nan")), "Rescale: factor must be a finite number or a sequence of them"),
        (lambda: Rescale([[1.0]]), "Rescale: factor must be a finite number"),
        (lambda: Rescale("a"), "Rescale: factor must be a finite number"),
        (lambda: Rescale.fit(X, low=1.0, high=0.0), "Rescale.fit: low must be < high"),
        (lambda: Standardize.fit(X[:0]), "Standardize.fit: x has shape"),
        (lambda: Standardize.fit([[1.0]]), "Standardize.fit: x is a list"),
        (
            lambda: Standardize.fit(np.asarray([[1.0], [np.nan]])),
            "Standardize.fit: x holds NaN or infinity, first at r",
        ),
        (lambda: Rescale.fit(np.asarray([[np.inf]])), "Rescale.fit: x holds NaN or infinity, first at row 0"),
        (lambda: Standardize.fit(np.ma.masked_array([[1.0]], mask=[[True]])), "masked arrays are not supported"),
        (lambda: Standardize.fit(np.asarray([[1j]])), "Standardize.fit: x has dtype complex128, expected real numbers"),
        (lambda: Rescale.fit(X, low="a"), "Rescale.fit: low must be < high, got 'a' and 1.0"),
        (
            lambda: Rescale.fit(np.asarray([[1.0, 1e308], [2.0, -1e308]])),
            r"Rescale.fit: feature 1 goes from -1e\+308 to 1e\+308, and no float64 brings that to 0 to 1; mult",
        ),
        (lambda: Rescale.fit(np.asarray([0.0, 5e-324])), "feature 0 goes from 0 to 4.94066e-324, and no float64"),
        (lambda: Rescale.fit(X, low=-1e308, high=1e308), r"and no float64 brings that to -1e\+308 to 1e\+308"),
        (lambda: Standardize(10**400, 1.0), "Standardize: mean must be a finite number"),
        (lambda: Standardize("3", 1.0), "Standardize: mean must be a finite number"),
        (lambda: Rescale(factor=True), "Rescale: factor must be a finite number"),
        (
            lambda: MLP([1, 1], inputs=Standardize(1.7e9, 35.0)),
            "for float32, an offset that is too large beside the s",
        ),
        (lambda: MLP([1, 1], outputs=Rescale(35.0, 1.7e9)), "outputs=Rescale has, for float32, an offset that is too"),
        (lambda: MLP([1, 1], inputs=Rescale(1.0, -1e7)), "inputs=Rescale has, for float32, an offset that is too"),
        (lambda: MLP([1, 1], inputs=Standardize(0.0, 1e-50)), "numbers beyond its range; use dtype='float64'"),
        (lambda: MLP([1, 1], inputs=Rescale(1e39), dtype="float64").to(dtype="float32"), "numbers beyond its range"),
    ],
)
def test_bad_scalings_are_said_in_one_sentence(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_scalings_make_another_network_to_what_is_compiled():
    models = [
        MLP([3, 1]),
        MLP([3, 1], inputs=Rescale(2.0)),
        MLP([3, 1], inputs=Rescale(3.0)),
        MLP([3, 1], outputs=Rescale(2.0)),
    ]
    keys = [portnn.pure.network_key(model) for model in models]
    assert len(set(keys)) == 4
    assert portnn.pure.network_key(MLP([3, 1], inputs=Rescale(2.0))) == keys[1]


def test_the_comparison_of_libraries_knows_scalings():
    model, _ = pair()
    model = model.to(dtype="float32")
    names = [name for name in ("torch", "jax", "array_api_strict") if not LIBRARIES[name].why_not]
    report = portnn.testing.compare_backends(model, X.astype("float32"), T, backends=["numpy", *names], loss="mse")
    assert report.agree, str(report)


def test_a_nan_is_found_behind_a_scaling():
    model = MLP([3, 4, 2], inputs=Standardize.fit(X), outputs=Rescale(1e30))
    with pytest.raises(portnn.NonFiniteError, match=r"the outputs of layer 1|the loss is NaN or infinity"):
        portnn.fit(model, X, T * 1e30, loss="mse", optimizer=portnn.SGD(1e30), epochs=3, progress=False)
