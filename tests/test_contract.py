"""What users may rely on beyond the numbers: dtypes, copies, slips that get a sentence, and what needs no ceremony."""

from __future__ import annotations

import copy
import functools
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same

import portnn
from portnn import MLP, losses
from portnn.activations import elu, leaky_relu
from portnn.backends import HOST, get_backend
from portnn.backends.base import Backend
from portnn.feed import Feed

X = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
T = np.arange(60) % 3
fit = functools.partial(portnn.fit, progress=False)


def test_nothing_is_wider_than_the_parameters(library):
    model = MLP([4, 5, 3], activation="tanh", **library.where)
    wide = library.make(X, "float64")
    assert library.dtype_name(model.apply(model.params, wide)) == "float32"
    y, vjp = model.vjp(wide)
    assert {library.dtype_name(a) for a in (y, *vjp(library.make(np.ones((60, 3)), "float64")))} == {"float32"}


@pytest.mark.parametrize("part", ["activation", "loss"])
def test_a_function_of_the_users_that_widens_is_named(part):
    def widening(z: Any) -> Any:
        return z * np.float64(2.0), lambda dy: (dy * np.float64(2.0),)

    def widening_loss(y: Any, t: Any) -> Any:
        return ((y - t) ** 2).sum(-1) * np.float64(2.0), lambda d: (d,)

    model = MLP([4, 3], activation=[widening] if part == "activation" else "relu")
    with pytest.raises(TypeError, match=f"{part}.* turns float32 into float64; use Python numbers"):
        model.loss_and_grad(X, X[:, :3], loss=widening_loss if part == "loss" else "mse")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1000,), (5, 4)), r"shapes \(1000,\) and \(5, 4\), expected \(\.\.\., 18\) and \(\.\.\., batch, 4\)"),
        (((18,), (4,)), r"shapes \(18,\) and \(4,\)"),
        (((18,), (5, 3)), r"shapes \(18,\) and \(5, 3\)"),
    ],
)
def test_apply_looks_at_shapes(library, shapes, message):
    model = MLP([4, 2, 2, 1], bias=[True, True, False], **library.where)
    params, x = (library.make(np.zeros(shape), "float32") for shape in shapes)
    with pytest.raises(ValueError, match=message):
        model.apply(params, x)


@pytest.mark.parametrize("shape", [(60, 1), (3,), (60, 4)])
def test_a_pullback_looks_at_the_shape_of_dy(library, shape):
    _, vjp = MLP([4, 3], activation=["tanh"], **library.where).vjp(library.make(X))
    with pytest.raises(ValueError, match=r"dy has shape .*, the outputs have \(60, 3\)"):
        vjp(library.make(np.ones(shape), "float32"))


def test_models_are_copied_and_pickled(library):
    model = MLP([4, 5, 3], activation="leaky_relu(0.1)", **library.where)
    y = library.to_numpy(model(library.make(X)))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(library.to_numpy(twin(library.make(X))), y)
        fit(twin, X, T, epochs=1)
        assert_same(library.to_numpy(model(library.make(X))), y)


def test_a_model_goes_to_the_library_of_an_array(library, tmp_path):
    model = MLP([4, 3])
    model.save(tmp_path / "m.safetensors")
    there = library.make(X)
    loaded = MLP.load(tmp_path / "m.safetensors", backend=there)
    for moved in (model.to(backend=there), loaded):
        assert_same(library.to_numpy(moved.params), model.params)


@pytest.mark.parametrize(
    ("activation", "kept"),
    [
        (functools.partial(leaky_relu, slope=np.float64(0.2)), True),
        (functools.partial(elu, alpha=0.5), True),
        (functools.partial(leaky_relu, slope=2.0), False),
        (functools.partial(elu, alpha=-1.0), False),
    ],
)
def test_what_is_saved_can_be_loaded(activation, kept, tmp_path):
    model = MLP([4, 5, 3], activation=activation, dtype="float64")
    if kept:
        model.save(tmp_path / "m.safetensors")
        assert_same(MLP.load(tmp_path / "m.safetensors")(X), model(X))
    else:
        with pytest.raises(ValueError, match="your own function"):
            model.save(tmp_path / "m.safetensors")


def test_under_jit_targets_are_shaped_and_class_weights_refused():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model = MLP([4, 1], backend="jax")
    x, t = jax.numpy.asarray(X), jax.numpy.asarray(X[:, 0], dtype="float64")
    loss, grad = jax.jit(lambda x, t: model.loss_and_grad(x, t, loss="mse"))(x, t)
    eager, _ = model.loss_and_grad(x, t, loss="mse")
    assert (loss.dtype, grad.dtype) == ("float32", "float32")
    assert round(float(loss), 5) == round(float(eager), 5)
    with pytest.raises(ValueError, match="class_weight needs the values of t"):
        jax.jit(lambda x, t: model.loss_and_grad(x, t, loss="mse", class_weight=[2.0])[0])(x, t)


def test_apply_asks_jax_for_full_float32():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    model = MLP([4, 3], backend="jax")
    assert "HIGHEST" in jax.jit(model.apply).lower(model.params, jax.numpy.asarray(X)).as_text()


@pytest.mark.parametrize("how", ["split", "classes"])
def test_weights_that_leave_nothing_are_refused(how):
    weight = np.zeros(60)
    if how == "split":
        weight[3] = 1.0
        with pytest.raises(ValueError, match="weights of one side of the split are all zero"):
            fit(MLP([4, 3]), X, T, epochs=1, sample_weight=weight, validation_split=0.1)
    else:
        weight[T == 0] = 1.0
        with pytest.raises(ValueError, match="class_weight times sample_weight"):
            portnn.evaluate(MLP([4, 3]), X, T, sample_weight=weight, class_weight=[0.0, 1.0, 1.0])


def test_class_weights_count_in_validation_too():
    tiny = portnn.SGD(1e-12)  # the loss before and after one batch is the same
    for name, t in (("cross_entropy", T), ("mse", X[:, :3])):
        history = fit(
            MLP([4, 3], dtype="float64"),
            X,
            t,
            loss=name,
            optimizer=tiny,
            epochs=1,
            class_weight=[1.0, 9.0, 4.0],
            validation_data=(X, t),
        )
        assert round(history["loss"][0], 9) == round(history["val_loss"][0], 9)


def mean_loss(y: Any, t: Any) -> Any:
    d = y - t
    return (d * d).mean(), lambda s: (2.0 * s * d / d.size,)


def test_a_loss_of_the_users_and_weights():
    weights = {"sample_weight": np.full(60, 3.0)}
    for run in (portnn.evaluate, lambda *a, **k: fit(*a, epochs=1, **k), MLP.loss_and_grad):
        with pytest.raises(ValueError, match="sample weights need one per sample"):
            run(MLP([4, 3]), X, X[:, :3], loss=mean_loss, **weights)
        with pytest.raises(ValueError, match="class_weight means nothing to the loss 'mean_loss'"):
            run(MLP([4, 3]), X, X[:, :3], loss=mean_loss, class_weight=[1.0, 2.0, 3.0])
    smooth = losses.Loss("smooth", lambda y, t: losses.cross_entropy(y, t, 0.1), "classes")
    named = functools.partial(losses.cross_entropy, label_smoothing=0.1)
    for options in ({}, {"class_weight": [1.0, 2.0, 3.0]}):
        assert portnn.evaluate(MLP([4, 3]), X, T, loss=smooth, **options) == portnn.evaluate(
            MLP([4, 3]), X, T, loss=named, **options
        )


def test_an_optimizer_needs_no_more_than_it_says():
    class Plain:
        def init(self, params: Any) -> dict[str, Any]:
            return {}

        def row(self, step: int) -> tuple[float, ...]:
            return (0.1,)

        def update(self, params: Any, grad: Any, state: Any, h: Any, decayed: Any = None) -> Any:
            return params - h[0] * grad, state

    history = fit(MLP([4, 3]), X, T, optimizer=Plain(), epochs=2)
    assert "learning_rate" not in history
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fit(MLP([4, 3]), X, T, optimizer=portnn.Adam), TypeError, r"write Adam\(\.\.\.\)"),
        (lambda: fit(MLP([4, 3]), X, T, validation_data=X), ValueError, r"validation_data must be a pair \(x, t\)"),
        (lambda: fit(MLP([4, 3]), X, T, validation_data=(X, T, T)), ValueError, r"must be a pair \(x, t\)"),
        (lambda: MLP([4, 5, 3], activation=repr)(X), TypeError, r"activation of layer 0: expected a pair"),
        (lambda: MLP([4, 3]).loss_and_grad(X, X[:, :3], loss=lambda y, t: 1.0), TypeError, "loss: expected a pair"),
        (lambda: MLP([4, 3]).loss_and_grad(X, X[:, :3], loss=lambda y, t: y), ValueError, "expected one number per"),
        (lambda: MLP([4, 3], seed=np.array([3, 4])), ValueError, "seed must be an integer"),
        (lambda: MLP([4, 3], bias="no"), ValueError, "bias must be True, False"),
    ],
)
def test_slips_get_a_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_needs_no_ceremony(recwarn):
    builder, built = (MLP([4, 3], init=init) for init in (portnn.initializers.he_normal, "he_normal"))
    assert_same(builder.params, built.params)
    seen: list[int] = []
    fit(MLP([4, 3]), X, T, epochs=2, callbacks=lambda model, history: seen.append(len(history["loss"])))
    assert seen == [1, 2]
    assert not recwarn  # fewer samples than the default batch


def test_plateau_of_a_negative_loss():
    rate = portnn.schedules.ReduceOnPlateau(1.0, factor=0.5, patience=0)
    for _ in range(3):
        rate.observe(-100.0)
    assert rate(0) == 0.25
    rate.observe(-200.0)
    assert rate(0) == 0.25


def test_a_namespace_is_any_object_that_conforms():
    plain = SimpleNamespace(**{name: getattr(HOST.xp, name) for name in dir(HOST.xp) if name[0] != "_"})
    assert get_backend(plain).name == "numpy"


def test_arrays_without_array_protocol_come_home_through_dlpack():
    a = np.arange(3.0)
    bare = SimpleNamespace(__dlpack__=a.__dlpack__, __dlpack_device__=a.__dlpack_device__)
    assert_same(Backend(HOST.xp).to_numpy(bare), a)


def test_predict_and_evaluate_move_host_rows_in_chunks(library, monkeypatch):
    moved: list[int] = []
    move = Feed._move
    monkeypatch.setattr(Feed, "_move", lambda self, x: moved.append(x.shape[0]) or move(self, x))
    model, x = MLP([4, 3], **library.where), np.zeros((20_000, 4), dtype="float32")
    portnn.predict(model, x)
    portnn.evaluate(model, x, np.zeros(20_000, dtype="int64"))
    assert sum(moved) in (0, 40_000)
    assert max(moved, default=0) <= portnn.feed.CHUNK_ROWS


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("RESOURCE_EXHAUSTED: ")],
)
def test_out_of_memory_says_what_to_try(error):
    name = {"De": "torch", "RE": "jax"}.get(str(error)[:2], "numpy")
    if name != "numpy":
        pytest.importorskip(name, reason=f"{name} is not installed")

    class Full(portnn.SGD):
        def update(self, *arguments: Any, **options: Any) -> Any:
            raise error

    model = MLP([4, 3], backend=name)
    before = model.backend.to_numpy(model.params).copy()
    with pytest.raises(MemoryError, match=r"batches of 60 samples want about \d+ bytes; try batch_size=30"):
        fit(model, X, T, optimizer=Full(0.1), batch_size=60)
    assert_same(model.backend.to_numpy(model.params), before)
    fit(model, X, T, epochs=1)


def test_a_callback_may_set_the_parameters():
    model = MLP([4, 3])
    start = model.params.copy()

    def back(model: MLP, history: portnn.History) -> None:
        model.params = start

    history = fit(model, X, T, epochs=3, callbacks=back, shuffle=False)
    assert_same(model.params, start)
    assert history["loss"][0] == history["loss"][1]


def test_the_package_of_backends_is_a_function_too():
    import portnn.backends as backends

    assert backends is portnn.backends
    assert backends()["numpy"].usable
