"""NaN and infinity: the step, place, samples and members that are named are those that a slow loop finds.

The loop of this file makes one step at a time, as it is written, and looks at every number after each. What ``fit``
names must be the step at which the loop finds the first number that is not finite, and what it keeps must be, bit for
bit, the parameters before that step, however the steps were run. Where a NaN is born in certain samples, NumPy says in
which, from those parameters.
"""

from __future__ import annotations

import importlib.util
import itertools
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from libraries import LIBRARIES
from tolerances import assert_same

import portnn
from portnn import MLP, SGD, Adam, NonFiniteError, feed, loop, random
from portnn.backends import namespace
from portnn.dropout import sample_words
from portnn.feed import plan
from portnn.losses import get_loss
from portnn.optimizers import get_optimizer
from portnn.step import beginning, make_step

NAMES = [n for n in ("numpy", "array_api_strict", "torch", "jax") if not LIBRARIES[n].why_not]
N, BATCH = 30, 8  # the last batch of an epoch has 6 samples
rng = np.random.default_rng(7)
X = rng.normal(size=(N, 4)).astype("float32")
T = np.stack([X[:, 0] * X[:, 1], X[:, 2]], axis=1).astype("float32")
NAN = float("nan")


class Case(NamedTuple):
    """A training that goes wrong: model, what fit is given, what is named, and in which rows of the batch (or None).

    ``off(params, x)`` finds the rows from the parameters before the step and the samples of the batch, by NumPy.
    """

    model: dict[str, Any]
    options: dict[str, Any]
    array: str
    layer: int | None
    off: Callable[[Any, np.ndarray], Any] | None = None
    x: np.ndarray = X
    t: np.ndarray = T


def weights(params: np.ndarray, sizes: tuple[int, ...] = (4, 6, 2)) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut a flat vector by hand: weight 0 row by row, bias 0, ..."""
    found, start = [], 0
    for fan_in, fan_out in itertools.pairwise(sizes):
        stop = start + fan_in * fan_out
        found.append((params[start:stop].reshape(fan_in, fan_out), params[stop : stop + fan_out]))
        start = stop + fan_out
    return found


def root(z: Any) -> Any:
    """The square root of z + 6: NaN where z < -6."""
    xp = namespace(z)
    y = xp.sqrt(z + 6.0)
    return y, lambda dy: (dy / (y * 2.0),)


def below_minus_6(params: np.ndarray, x: np.ndarray) -> np.ndarray:
    weight, bias = weights(params)[0]
    return ((x @ weight + bias) < -6.0).any(axis=1)


def root_at_0(z: Any) -> Any:
    """The square root of the positive part: its slope is infinite at 0."""
    xp = namespace(z)
    y = xp.sqrt(xp.maximum(z, xp.zeros_like(z)))
    return y, lambda dy: (dy / (y * 2.0),)


def swallowing(z: Any) -> Any:
    """A ReLU that turns a NaN into 0, as where does."""
    xp = namespace(z)
    on = xp.astype(z > 0.0, z.dtype)
    zero = xp.zeros_like(z)
    return xp.where(z > 0.0, z, zero), lambda dy: (xp.where(z > 0.0, dy, zero) * on,)


def log_loss(y: Any, t: Any) -> Any:
    """log(6 - y0^2), which is least where |y0| is large: NaN for samples whose first output is beyond sqrt 6."""
    xp = namespace(y)
    first = y[..., 0]
    inner = 6.0 - first * first
    slope = xp.concat([(first * -2.0 / inner)[..., None], xp.zeros_like(y[..., 1:])], axis=-1)
    return xp.log(inner), lambda dv: (slope * dv[..., None],)


def outputs_beyond(params: np.ndarray, x: np.ndarray) -> np.ndarray:
    (w0, b0), (w1, b1) = weights(params)
    return (np.tanh(x @ w0 + b0) @ w1 + b1)[:, 0] ** 2 > 6.0


def mean_of_roots(y: Any, t: Any) -> Any:
    """One number per batch, the mean of sqrt|y - t|: its slope is infinite where y is t."""
    xp = namespace(y)
    d = y - t
    r = xp.sqrt(xp.abs(d))
    count = float(d.shape[-1] * d.shape[-2])
    return xp.sum(r, axis=(-2, -1)) / count, lambda dv: (xp.sign(d) / (r * (2.0 * count)) * dv[..., None, None],)


def with_row(i: int, values: Any, x: np.ndarray = X) -> np.ndarray:
    changed = x.copy()
    changed[i] = values
    return changed


TANH = {"activation": "tanh"}
LINEAR = {"activation": "identity"}
ONE = {"sizes": [4, 2], "init": "zeros"}  # a linear model
CASES = {
    "learning rate": Case(LINEAR, {"optimizer": SGD(1e12)}, "loss", None),
    "a rate from a schedule, float64": Case(
        {**LINEAR, "dtype": "float64"}, {"optimizer": SGD(lambda k: 0.01 if k < 6 else 1e100)}, "loss", None
    ),
    "an activation": Case({"activation": root}, {"optimizer": SGD(2.0)}, "outputs", 0, below_minus_6),
    "the first layer overflows": Case(
        {"activation": "relu"}, {"optimizer": SGD(0.1)}, "pre-activations", 0, lambda p, x: x[:, 0] > 1e37,
        with_row(11, 3e38),
    ),
    "a loss": Case(TANH, {"loss": log_loss, "optimizer": SGD(0.5)}, "loss", None, outputs_beyond),
    "the slope of a loss": Case(
        {**ONE, "bias": False}, {"loss": mean_of_roots, "optimizer": SGD(1e-3)}, "gradient of the loss", None,
        lambda p, x: (x == 0.0).all(axis=1), with_row(17, 0.0), with_row(17, 0.0, T),
    ),
    "the slope of a root": Case(
        {"activation": root_at_0, "bias": False, "sizes": [4, 6, 2]}, {"optimizer": SGD(1e-3)},
        "gradient behind the activation", 0, lambda p, x: (x @ p[:24].reshape(4, 6) <= 0.0).any(axis=1),
        np.abs(with_row(17, 0.0)), T,
    ),
    "Adam's second moment": Case(
        ONE, {"loss": "mae", "optimizer": Adam(1e-3)}, "v of weights[0]", 0, None, with_row(21, 1e21)
    ),
    "a running variance": Case(
        {"sizes": [4, 6, 2], "normalization": "batch"}, {"optimizer": SGD(1e-3)}, "running variance", 0, None,
        with_row(9, 1e25),
    ),
    "a weight behind a ReLU that hides it": Case(
        {"activation": swallowing}, {"optimizer": SGD(lambda k: 3e38 if k == 5 else 1e-3)}, "weights", None,
        None, X, 100.0 * T,
    ),
    "dropout": Case({**LINEAR, "dropout": 0.4}, {"optimizer": SGD(1e12)}, "loss", None),
    "batch norm": Case(
        {"normalization": "batch", "activation": "relu"},
        {"optimizer": SGD(lambda k: 0.1 if k < 5 else 1e38)}, None, None,
    ),
    "the ragged tail": Case(
        {"activation": root}, {"optimizer": SGD(1e-3), "shuffle": False}, "outputs", 0, below_minus_6,
        with_row(29, 1e4),
    ),
    "the last step of an epoch": Case(
        TANH, {"optimizer": SGD(lambda k: 3e38 if k == 7 else 0.1), }, "weights", None, None, X, 100.0 * T
    ),
    "a penalty": Case(TANH, {"l2": 3e38, "optimizer": SGD(1e-3)}, "penalty", None),
    "scaled inputs": Case(
        {"inputs": portnn.Rescale(1e37)}, {"optimizer": SGD(1e-3), "shuffle": False}, "scaled inputs", None,
        lambda p, x: (np.abs(x) > 34.0).any(axis=1), with_row(3, 40.0),
    ),
    "everything": Case(
        {"sizes": [4, 6, 6, 2], "dropout": 0.3, "normalization": ["batch", "layer"], "residual": [False, True],
         "activation": "tanh"},
        {"optimizer": Adam(lambda k: 0.1 if k < 6 else 1e38), "clip_norm": 1.0, "l1": 1e-3}, None, None,
    ),
}  # fmt: skip


def made(case: Case, name: str, **more: Any) -> MLP:
    options = {"sizes": [4, 6, 2], "seed": 3, **case.model, **more}
    return MLP(options.pop("sizes"), **LIBRARIES[name].where, **options)


def options_of(case: Case) -> dict[str, Any]:
    return {"loss": "mse", "epochs": 6, "batch_size": BATCH, "seed": 5, "progress": False, **case.options}


def slow(case: Case, name: str, **more: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the number of the first step that leaves the finite numbers, the parameters before it, and its rows."""
    model, library, options = made(case, name, **more), LIBRARIES[name], options_of(case)
    backend, optimizer = model.backend, get_optimizer(options["optimizer"])
    kept = {key: options[key] for key in ("l1", "l2", "clip_norm") if key in options}
    with model.scope(), np.errstate(all="ignore"):
        step = make_step(model, get_loss(options["loss"]), optimizer, **kept)
        state, per_epoch = beginning(model, optimizer), -(-N // BATCH)
        for k in range(options["epochs"] * per_epoch):
            epoch, batch = divmod(k, per_epoch)
            order = random.order(options["seed"], epoch, N) if options.get("shuffle", True) else np.arange(N)
            rows = order[batch * BATCH :][:BATCH]
            brought = {"x": library.make(case.x[rows], model.dtype), "t": library.make(case.t[rows], model.dtype)}
            if "units" in state:
                brought["samples"] = backend.asarray(sample_words(options["seed"], epoch, N)[batch * BATCH :][:BATCH])
            before = {key: np.array(backend.to_numpy(a)) for key, a in state.items()}
            state, metrics = step(state, brought, backend.scalars(optimizer.row(k), state["params"].dtype))
            numbers = [metrics["loss"], *state.values()]
            if not all(np.isfinite(library.to_numpy(a)).all() for a in numbers):
                return k, before["params"], rows
    pytest.fail("nothing went wrong")


def fails(case: Case, name: str, *, compile: Any = "auto", **more: Any) -> tuple[NonFiniteError, np.ndarray]:
    """Return the error of fit and the parameters that the model keeps."""
    model = made(case, name, **more)
    with pytest.raises(NonFiniteError) as caught:
        portnn.fit(model, case.x, case.t, compile=compile, **options_of(case))
    return caught.value, np.array(LIBRARIES[name].to_numpy(model.params))


def ways(name: str) -> list[Any]:
    return [False] if name == "array_api_strict" else [False, True]


@pytest.mark.parametrize(("name", "compile"), [(name, way) for name in NAMES for way in ways(name)])
@pytest.mark.parametrize("what", CASES)
def test_the_step_that_is_named_is_that_of_a_slow_loop(what, name, compile, monkeypatch):
    case = CASES[what]
    k, before, rows = slow(case, name)
    error, kept = fails(case, name, compile=compile)
    epoch, batch = divmod(k, -(-N // BATCH))
    assert (error.epoch, error.batch) == (epoch + 1, batch + 1)
    assert f"fit: epoch {epoch + 1}, batch {batch + 1}: " in str(error)
    assert len(str(error)) < 500
    assert np.isfinite(kept).all()
    if name == "jax" and compile:  # which rounds otherwise than the loop: chunks of one step are looked at one by one
        monkeypatch.setattr(loop, "plan", lambda n, size, most: plan(n, size, size))
        before = fails(case, name, compile=True)[1]
    assert_same(kept, before)
    if case.array == "weights":
        assert error.array.startswith(("weights[", "biases["))
        assert error.layer == int(error.array.partition("[")[2][:-1])
    elif case.array is not None:
        assert (error.array, error.layer) == (case.array, case.layer)
    if case.off is not None:
        with np.errstate(all="ignore"):
            off = rows[np.flatnonzero(case.off(before, case.x[rows]))]
        assert len(off) > 0
        assert error.samples == tuple(off[:5])
        assert error.n_samples == len(off)
        assert f"for {len(off)} of {len(rows)} samples (row{'s' * (len(off) > 1)} {off[0]}" in str(error)


# -- other places -----------------------------------------------------------------------------------------------------


def test_members_are_all_named_and_the_place_is_that_of_the_first():
    """Members 1 and 3 have a row of weights that overflows in sample 12; what is named is in member 1."""
    for name in NAMES:
        model = made(CASES["a loss"], name, members=4, activation="relu")
        params = LIBRARIES[name].to_numpy(model.params).copy()
        params[[1, 3], :6] = 1e30
        model.params = params
        x = with_row(12, [1e10, 0.0, 0.0, 0.0])
        with pytest.raises(
            NonFiniteError, match=r"member 1 \(learning rate 1e-40\): the pre-activations of layer 0"
        ) as caught:
            portnn.fit(model, x, T, loss="mse", optimizer=SGD([1e-40] * 4), batch_size=N, progress=False)
        error = caught.value
        assert (error.members, error.samples, error.layer, error.n_samples) == ((1, 3), (12,), 0, 1)
        assert_same(LIBRARIES[name].to_numpy(model.params), params)


@pytest.mark.parametrize("name", NAMES)
def test_a_member_whose_update_alone_overflows_is_named(name):
    """The losses of all members are finite, and so are those of the next step: it is the only one."""
    model = MLP([4, 2], members=3, seed=4, **LIBRARIES[name].where)
    before = np.array(LIBRARIES[name].to_numpy(model.params))
    match = (
        r"batch 1: member 1 \(learning rate 3e\+38\): the update of weights\[0\] \(layer 0\) is NaN or infinity; the"
    )
    with pytest.raises(NonFiniteError, match=match) as caught:
        portnn.fit(
            *(model, X, 100.0 * T),
            **{"loss": "mse", "optimizer": SGD([1e-3, 3e38, 1e-3]), "batch_size": N, "epochs": 1, "progress": False},
        )
    assert (caught.value.members, caught.value.array, caught.value.samples) == ((1,), "weights[0]", ())
    assert_same(LIBRARIES[name].to_numpy(model.params), before)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_rows_of_the_callers_x_behind_a_split(name):
    """A third is held out: whether the bad sample is trained on or judged, it is row 22."""
    x, wheres = with_row(22, [3e38, 3e38, 3e38, 3e38]), set()
    for seed in range(6):
        model = made(CASES["a loss"], name, activation="relu")
        with pytest.raises(NonFiniteError) as caught:
            portnn.fit(
                *(model, x, T),
                **{"loss": "mse", "epochs": 1, "batch_size": 10, "optimizer": SGD(1e-40), "progress": False},
                **{"validation_split": 0.4, "seed": seed},
            )
        error = caught.value
        held = 22 in feed.split(N, 0.4, seed, "")[1]
        wheres.add(held)
        assert (error.samples, error.n_samples, error.epoch) == ((22,), 1, 1)
        assert error.array == "pre-activations"
        assert (error.batch is None) == held == ("fit: epoch 1, validation data: the " in str(error))
    assert wheres == {True, False}


def test_validation_data_of_its_own_are_counted_by_themselves():
    model, held = made(CASES["a loss"], "numpy"), with_row(5, [1e38] * 4)
    model = MLP([4, 2], seed=1)
    before = model.params.copy()
    with pytest.raises(NonFiniteError, match=r"fit: epoch 1, validation data: the loss is .* \(row 5 of x\)") as caught:
        portnn.fit(model, X, T, loss="mse", epochs=3, optimizer=SGD(1e-3), validation_data=(held, T), progress=False)
    assert caught.value.samples == (5,)
    assert np.isfinite(model.params).all()
    assert (model.params != before).all(), "the epoch is kept"
    assert caught.value.history == {}


def test_what_is_changed_while_it_is_trained_on_is_named():
    """NumPy shares memory with the caller: a callback spoils x after epoch 2."""
    x = X.copy()

    def spoil(model: MLP, history: Any) -> None:
        if len(history["loss"]) == 2:
            x[[4, 9]] = np.nan

    match = "^fit: epoch 3, batch 1: x is NaN or infinity for 2 of 30 samples .* It was changed after fit had looked"
    with pytest.raises(NonFiniteError, match=match) as caught:
        portnn.fit(MLP([4, 2]), x, T, loss="mse", batch_size=N, callbacks=spoil, progress=False)
    assert (caught.value.array, caught.value.layer, sorted(caught.value.samples)) == ("x", None, [4, 9])


def test_a_callback_that_sets_a_nan_is_told():
    def spoil(model: MLP, history: Any) -> None:
        params = model.params.copy()
        params[8] = np.inf
        model.params = params

    model, twin = (MLP([4, 2], seed=2) for _ in range(2))
    said = r"^fit: epoch 1: the callback spoil left NaN or infinity in biases\[0\] of"
    with pytest.raises(NonFiniteError, match=said) as caught:
        portnn.fit(model, X, T, loss="mse", optimizer=SGD(0.1), callbacks=spoil, progress=False)
    assert (caught.value.epoch, caught.value.array, len(caught.value.history["loss"])) == (1, "biases[0]", 1)
    portnn.fit(twin, X, T, loss="mse", optimizer=SGD(0.1), epochs=1, progress=False)
    assert_same(model.params, twin.params)


def test_streamed_samples_are_counted_alike(monkeypatch):
    case = CASES["an activation"]
    expected, kept = fails(case, "torch" if "torch" in NAMES else "numpy", compile=False)
    name = "torch" if "torch" in NAMES else "numpy"
    monkeypatch.setattr(type(LIBRARIES[name].backend), "free_memory", lambda self: 10)
    error, again = fails(case, name, compile=False)
    assert str(error) == str(expected)
    assert_same(again, kept)


def test_losses_that_only_their_sum_overflows_are_told_so():
    """30 losses of 1e38 each: every one of them is finite."""
    model = MLP([4, 2], init="zeros")
    with pytest.raises(NonFiniteError, match=r"the sum of the losses of 30 samples is NaN or infinity") as caught:
        portnn.fit(model, X, 1e19 + 0 * T, loss="mse", optimizer=SGD(1e-30), batch_size=N, epochs=1, progress=False)
    assert (caught.value.array, caught.value.samples) == ("loss", ())
    many = np.repeat(X, 10, axis=0)
    with pytest.raises(NonFiniteError, match=r"epoch 1, batch 75: the sum of the losses of 300 samples is"):
        portnn.fit(model, many, 3e18 + np.zeros((300, 2), "float32"), loss="mse", optimizer=SGD(1e-30), batch_size=4)


def test_resume_counts_on_from_the_step_that_is_kept():
    """Adam's corrections follow the count of updates: what is kept of a broken training is the state it belongs to."""
    case = Case(TANH, {"optimizer": Adam(lambda k: 1e-2 if k != 6 else 1e300)}, "", None)
    k, before, _ = slow(case, "numpy")
    model = made(case, "numpy")
    with pytest.raises(NonFiniteError) as caught:
        portnn.fit(model, case.x, case.t, **options_of(case))
    assert caught.value.history.reached.updates == k
    assert_same(model.params, before)


# -- prediction -------------------------------------------------------------------------------------------------------

HUGE = with_row(3, [3e38] * 4, with_row(21, [-3e38] * 4))


def predictor(name: str, **more: Any) -> MLP:
    model = made(CASES["a loss"], name, activation="relu", **more)
    model.params = np.abs(LIBRARIES[name].to_numpy(model.params)) + 1.0
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("on_host", [True, False])
def test_predict_and_evaluate_refuse_outputs_that_are_not_finite(name, on_host):
    model = predictor(name)
    x = HUGE if on_host else LIBRARIES[name].make(HUGE)
    words = r"the pre-activations of layer 0 are NaN or infinity for 1 of 30 samples \(row 3 of x\); look at these"
    for who, call in (("predict", lambda: portnn.predict(model, x)), ("evaluate", lambda: evaluated(model, x))):
        with pytest.raises(NonFiniteError, match=f"^{who}: {words}") as caught:
            call()
        error = caught.value
        assert (error.epoch, error.batch, error.array, error.layer) == (None, None, "pre-activations", 0)
        assert (error.samples, error.n_samples, error.members) == ((3,), 1, ())
    assert not np.isfinite(LIBRARIES[name].to_numpy(model(LIBRARIES[name].make(HUGE)))[3]).any(), "it looks at nothing"


def evaluated(model: MLP, x: Any, t: Any = T, **options: Any) -> Any:
    return portnn.evaluate(model, x, t, loss="mse", **options)


def test_evaluate_names_the_loss_where_outputs_are_finite():
    model = MLP([4, 2], seed=1)
    with pytest.raises(
        NonFiniteError, match=r"^evaluate: the loss is NaN or infinity for 1 of 30 .*row 8 of x"
    ) as caught:
        evaluated(model, with_row(8, 1e30))
    assert (caught.value.array, caught.value.layer, caught.value.samples) == ("loss", None, (8,))
    with pytest.raises(NonFiniteError, match="the sum of the losses of 30 samples is"):
        evaluated(MLP([4, 2], init="zeros"), X, 1e19 + 0 * T)


def test_far_rows_of_large_data_are_found():
    x = np.zeros((20_000, 4), "float32")
    x[[9000, 17_000]] = 3e38
    with pytest.raises(NonFiniteError, match=r"2 of 20000 samples \(rows 9000, 17000 of x\)"):
        portnn.predict(predictor("numpy"), x)


@pytest.mark.parametrize("name", NAMES)
def test_an_ensemble_names_its_members_and_what_overflows(name):
    model = predictor(name, members=3)
    params = LIBRARIES[name].to_numpy(model.params).copy()
    params[0] = 1e-3
    model.params = params
    with pytest.raises(NonFiniteError, match=r"^ensemble_predict: member 1: the pre-activations of layer 0") as caught:
        portnn.ensemble_predict(model, with_row(3, [3e38] * 4), kind="values")
    assert caught.value.members == (1, 2)
    linear = MLP([1, 1], members=2, init="zeros", bias=False, **LIBRARIES[name].where)
    linear.params = np.asarray([[3e38], [-3e38]], dtype="float32")
    one = np.ones((2, 1), "float32")
    assert np.isfinite(portnn.predict(linear, one)).all()
    with pytest.raises(
        NonFiniteError, match=r"^ensemble_predict: the mean or the spread of the outputs is NaN"
    ) as caught:
        portnn.ensemble_predict(linear, one, kind="values")
    assert caught.value.n_samples == 2


def test_a_lazy_chunk_refuses_outputs_that_are_not_finite():
    dask = pytest.importorskip("dask.array", reason="dask is not installed")
    y = portnn.predict(predictor("numpy"), dask.from_array(HUGE, chunks=(10, 4)))
    with pytest.raises(NonFiniteError, match=r"^predict, in a chunk: .*layer 0 .* 1 of 10 samples \(row 3 of x\)"):
        y.compute(scheduler="synchronous")


def test_an_estimator_refuses_outputs_that_are_not_finite():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from portnn.estimators import MLPRegressor

    b = MLPRegressor(
        hidden_layer_sizes=(6,), max_iter=2, random_state=0, activation="relu", solver="sgd", batch_size=10
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs do not suffice
        b.fit(X, T)
    b.coefs_ = [np.abs(w) + 1.0 for w in b.coefs_]
    with pytest.raises(NonFiniteError, match=r"^predict: .*layer 0 .* 1 of 30 samples \(row 3 of x\)"):
        b.predict(HUGE)
    b.coefs_[1][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"predict: weights\[1\] of the model holds NaN"):
        b.predict(X)


def test_an_estimator_that_holds_samples_out_counts_rows_of_its_x():
    """With this random state row 22 is one of the 27 that are trained on, and it is not the 22nd of them."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from portnn.estimators import MLPRegressor

    x = with_row(22, 1e300, X.astype("float64"))
    b = MLPRegressor(hidden_layer_sizes=(6,), early_stopping=True, random_state=0)
    with pytest.raises(NonFiniteError, match=r"fit: epoch 1, .* for 1 of 27 samples \(row 22 of x\)"):
        b.fit(x, T)


@pytest.mark.parametrize("name", NAMES)
def test_files_and_models_refuse_what_is_not_finite(name, tmp_path):
    model = made(CASES["batch norm"], name)
    model.save(tmp_path / "good.safetensors")
    good = (tmp_path / "good.safetensors").read_bytes()
    running = LIBRARIES[name].to_numpy(model.running).copy()
    running[8] = np.inf
    model.running = running
    words = "running variance of layer 0 of the model holds NaN or infinity; train or load it again"
    for call in (
        *(lambda: model.save(tmp_path / "good.safetensors"), lambda: portnn.predict(model, X)),
        *(lambda: evaluated(model, X), lambda: portnn.fit(model, X, T, loss="mse")),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert (tmp_path / "good.safetensors").read_bytes() == good
    spoiled = bytearray(good)
    spoiled[-4:] = np.float32(np.nan).tobytes()  # payload is last, and the last tensor is a running variance or a bias
    (tmp_path / "bad.safetensors").write_bytes(spoiled)
    with pytest.raises(ValueError, match="NaN"):
        MLP.load(tmp_path / "bad.safetensors")


def test_the_error_survives_a_pickle():
    error, _ = fails(CASES["an activation"], "numpy")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    for name in ("epoch", "batch", "array", "layer", "samples", "n_samples", "members"):
        assert getattr(again, name) == getattr(error, name), name


# -- the benchmark ----------------------------------------------------------------------------------------------------

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "non_finite.py"


@pytest.mark.skipif(not BENCHMARK.exists(), reason="needs benchmarks/ of the checkout")
def test_the_benchmark_takes_turns_and_puts_everything_back():
    spec = importlib.util.spec_from_file_location("non_finite", BENCHMARK)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    before, looks = (loop.read_back, loop.copied), []
    benchmark.READ = lambda backend, metrics, arrays: looks.append(len(arrays)) or before[0](backend, metrics, arrays)
    found = benchmark.measured([4, 3, 2], 8, "numpy", 64, 2)
    assert (loop.read_back, loop.copied) == (benchmark.READ, before[1])
    loop.read_back = before[0]
    assert {way: len(seconds) for way, seconds in found["seconds"].items()} == dict.fromkeys(benchmark.WAYS, 2)
    assert looks[:8] == [3, 3, 0, 0, 3, 3, 0, 0], "parameters, m and v; or nothing"
    assert benchmark.row([4, 3, 2], 8, "numpy", 64, found)[0].startswith("| 4-3-2 | 8 | numpy | ")
