"""The loop: order and visits of the samples, history, interruptions, and where the data are."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same, assert_within, first_gradient, trajectory

import portnn
from portnn import MLP, SGD, Adam, NonFiniteError, evaluation, feed, loop, random, schedules, training
from portnn.backends import namespace
from portnn.feed import Feed, plan, split
from portnn.history import History

N = 40
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")
LABELS = (X @ np.random.default_rng(1).normal(size=(4, 3))).argmax(axis=1)
WEIGHTS = np.random.default_rng(2).uniform(0.5, 2.0, N)


def network(library: Any, *sizes: int, **options: Any) -> MLP:
    return MLP(sizes or (4, 6, 3), **{**library.where, "activation": "tanh", **options})


# Nearly all batches have 20 samples: JAX compiles every operation, or every fit, anew for every shape.
def fit(model: MLP, x: Any = X, t: Any = LABELS, **options: Any) -> training.History:
    defaults = {"optimizer": SGD(0.1), "epochs": 2, "batch_size": 20, "progress": False}
    return portnn.fit(model, x, t, **{**defaults, **options})


def without_times(history: dict[str, list]) -> dict[str, list]:
    return {name: values for name, values in history.items() if name != "epoch_seconds"}


@contextlib.contextmanager
def uncompiled(library: Any):
    """Let JAX run a step as it is written, so that a spy inside it is called at every step."""
    if library.backend_name != "jax":
        yield
        return
    import jax

    with jax.disable_jit():
        yield


class Sum:
    """An optimizer that adds up: params += sum of the gradients it was given; a spy on what a step sees.

    With a linear model, the loss ``ones`` below and x the rows of a unit matrix, the parameters count the visits.
    """

    learning_rate = 1.0

    def __init__(self) -> None:
        self.rows: list[int] = []

    def init(self, params: Any) -> dict[str, Any]:
        return {}

    def row(self, step: int) -> tuple[float, ...]:
        self.rows.append(step)
        return (1.0,)

    def rate(self, step: int) -> float:
        return 1.0

    def update(self, params: Any, grad: Any, state: dict[str, Any], h: Sequence[Any], decayed: Any = None) -> Any:
        return params + grad, state


def ones(y: Any, t: Any) -> Any:
    """A loss whose gradient is 1 for each sample of the batch, whatever its size: the sum of y, not the mean."""
    xp = namespace(y)
    return xp.sum(y), lambda dvalue: (xp.ones_like(y) * dvalue,)


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_falls_and_history_is_complete(library, dtype):
    model = network(library, dtype=dtype)
    x = library.make(X, dtype)
    history = fit(model, x, library.make(LABELS), epochs=5, optimizer=Adam(0.05), validation_split=0.5)
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > history["accuracy"][0]
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds"}
    assert all(len(values) == 5 for values in history.values())
    assert all(type(value) is float for values in history.values() for value in values)
    assert all(0.0 <= value <= 1.0 for value in history["accuracy"] + history["val_accuracy"])
    assert all(value > 0.0 for value in history["epoch_seconds"])
    assert history["learning_rate"] == [0.05] * 5
    assert not history.interrupted
    assert library.dtype_name(model.params) == dtype
    assert library.backend.owns(model.params)


@pytest.mark.parametrize(
    ("loss", "outputs", "t", "keys"),
    [
        ("cross_entropy", 3, LABELS, {"loss", "accuracy"}),
        ("cross_entropy", 3, np.eye(3)[LABELS], {"loss", "accuracy"}),
        ("binary_cross_entropy", 1, LABELS > 1, {"loss", "accuracy"}),
        ("binary_cross_entropy", 3, np.eye(3)[LABELS], {"loss", "accuracy"}),
        ("mse", 2, X[:, :2] * 2, {"loss"}),
        ("huber", 1, X[:, 0], {"loss"}),
        ("poisson", 1, abs(X[:, 0]), {"loss"}),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_every_kind_of_target(library, loss, outputs, t, keys):
    model = network(library, 4, outputs)
    history = fit(model, X, t, loss=loss, epochs=3, validation_data=(X, t))
    assert set(history) == keys | {f"val_{key}" for key in keys} | {"learning_rate", "epoch_seconds"}
    assert history["loss"][-1] < history["loss"][0]
    assert {f"val_{k}": v for k, v in portnn.evaluate(model, X, t, loss=loss).items()} == {
        name: values[-1] for name, values in history.items() if name.startswith("val_")
    }


def test_history_is_what_the_steps_saw(library):
    """The loss of an epoch is the mean over its batches before each update: with a rate of 0, that of evaluate."""
    model = network(library)
    for options in ({}, {"sample_weight": WEIGHTS}, {"class_weight": [1.0, 2.0, 0.5]}):
        with uncompiled(library):
            history = fit(model, epochs=1, optimizer=SGD(schedules.constant(0.0)), **options)
        expected = portnn.evaluate(model, X, LABELS, **options)
        bound = first_gradient(expected["loss"], "float32")
        assert_within(history["loss"][0], expected["loss"], bound)
        assert history["accuracy"][0] == expected["accuracy"]


# -- order and visits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "shuffle"), [(1, False), (15, True), (15, False), (N - 1, True), (N, True)])
def test_every_sample_once_per_epoch(library, batch_size, shuffle):
    """Each row of a unit matrix feeds one weight, which counts how often the row has come."""
    spy, epochs = Sum(), 2
    model = MLP([N, 1], init="zeros", bias=False, **library.where)
    options = {"epochs": epochs, "batch_size": batch_size, "shuffle": shuffle}
    fit(model, np.eye(N), np.zeros(N), loss=ones, optimizer=spy, **options)
    assert_same(library.to_numpy(model.params), np.full(N, epochs, "float32"))
    assert spy.rows == list(range(epochs * -(-N // batch_size)))


@pytest.mark.parametrize("n", [1, 2, 40, 8192, 8193, 100_000])
@pytest.mark.parametrize("batch_size", [1, 3, 128, 10_000])
def test_plan_covers_all_rows_in_order(n, batch_size):
    batch_size = min(batch_size, n)
    seen, rows = [], 0
    for start, steps, size in plan(n, batch_size):
        assert start == rows
        seen += [size] * steps
        rows += steps * size
        assert steps * size <= max(feed.CHUNK_ROWS, batch_size)
    assert rows == n
    assert seen == [batch_size] * (n // batch_size) + ([n % batch_size] if n % batch_size else [])
    shapes = {(steps, size) for _, steps, size in plan(n, batch_size)}
    assert len(shapes) <= 3, "each shape is compiled once"


def orders(library: Any, seed: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows that fit asks for, epoch by epoch."""
    asked: list[int] = []
    chunk = Feed.chunk
    with monkeypatch.context() as patch:
        patch.setattr(Feed, "chunk", lambda self, rows: asked.extend(rows.tolist()) or chunk(self, rows))
        with uncompiled(library):
            fit(MLP([4, 3], **library.where), epochs=epochs, seed=seed)
    return [asked[i : i + N] for i in range(0, len(asked), N)]


def test_the_order_is_a_pure_function_of_seed_and_epoch(library, monkeypatch):
    first = orders(library, 0, 3, monkeypatch)
    assert first == [random.order(0, epoch, N).tolist() for epoch in range(3)], "the same on every library"
    assert all(sorted(order) == list(range(N)) for order in first)
    assert len({tuple(order) for order in first}) == 3
    assert orders(library, 0, 1, monkeypatch) == first[:1]
    assert orders(library, 1, 1, monkeypatch) != first[:1]


def test_the_order_itself_has_not_changed():
    """Pinned: a model trained with an older version can be trained again."""
    assert random.order(0, 0, 8).tolist() == [4, 7, 5, 6, 0, 1, 3, 2]
    assert random.order(7, 3, 8).tolist() == [4, 2, 6, 0, 7, 1, 5, 3]
    assert [part.tolist() for part in split(8, 0.25, 0, "fit")] == [[2, 3, 4, 5, 6, 7], [0, 1]]


# -- equivalences -----------------------------------------------------------------------------------------------------


def same_model(
    library: Any, one: dict[str, Any], other: dict[str, Any], **shared: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The parameters after two runs from the same start."""
    results = []
    for options in (one, other):
        model = network(library, **shared)
        with contextlib.nullcontext() if "batch_size" in options else uncompiled(library):
            fit(model, **options)
        results.append(library.to_numpy(model.params))
    return results[0], results[1]


def test_two_runs_give_the_same_bits(library):
    models = [network(library) for _ in range(2)]
    options = {"optimizer": Adam(0.01), "sample_weight": WEIGHTS, "validation_split": 0.5}
    histories = [without_times(fit(model, **options)) for model in models]
    assert histories[0] == histories[1]
    assert_same(library.to_numpy(models[0].params), library.to_numpy(models[1].params))


def test_a_split_is_those_rows_as_validation_data(library):
    train, held = split(N, 0.5, 5, "fit")
    assert sorted([*train, *held]) == list(range(N))
    assert len(held) == 20
    runs = []
    for options in (
        {"x": library.make(X), "validation_split": 0.5},
        {"x": X, "validation_split": 0.5},
        {"x": X[train], "t": LABELS[train], "validation_data": (X[held], LABELS[held])},
        {"x": library.make(X[train]), "t": library.make(LABELS[train]),
         "validation_data": (library.make(X[held]), library.make(LABELS[held]))},
    ):  # fmt: skip
        model = network(library)
        with uncompiled(library):
            runs.append((without_times(fit(model, seed=5, **options)), library.to_numpy(model.params)))
    for history, params in runs[1:]:
        assert history == runs[0][0]
        assert_same(params, runs[0][1])
    with pytest.raises(ValueError, match="validation_data or validation_split, not both"):
        fit(network(library), validation_split=0.5, validation_data=(X, LABELS))


def test_weight_2_is_the_sample_twice(library):
    counts = np.arange(N) % 3
    twice = np.repeat(np.arange(N), counts)
    one, other = same_model(
        library,
        {"sample_weight": counts.astype("float64"), "batch_size": N, "epochs": 5},
        {"x": X[twice], "t": LABELS[twice], "batch_size": len(twice), "epochs": 5},
        dtype="float64",
    )
    assert_within(one, other, trajectory(other, 5))
    weighted = portnn.evaluate(network(library, dtype="float64"), X, LABELS, sample_weight=counts)["loss"]
    repeated = portnn.evaluate(network(library, dtype="float64"), X[twice], LABELS[twice])["loss"]
    assert_within(weighted, repeated, first_gradient(repeated, "float64"))


@pytest.mark.parametrize(
    ("loss", "row", "target", "members"),
    [("mse", X[3], 9.96921e200, None), ("poisson", abs(X[3]) * 1e3, 1.0, 2)],
    ids=["a fill value as the target", "a rate that overflows"],
)
def test_a_sample_of_weight_0_is_as_if_it_were_not_there(library, loss, row, target, members):
    """Its loss is infinite: infinity times 0 would be NaN."""
    weights, x, t = WEIGHTS.copy(), X.astype("float64"), abs(X[:, :1]).astype("float64")
    weights[3], x[3], t[3] = 0.0, row, target
    there, without = {"x": x, "t": t}, {"x": np.delete(x, 3, axis=0), "t": np.delete(t, 3, axis=0)}
    options: dict[str, Any] = {"loss": loss, "optimizer": SGD(0.01), "shuffle": False}
    made = {"init": lambda key, i, o: np.full((i, o), 0.5), "dtype": "float64", "members": members}
    results: list[list[np.ndarray]] = []
    for given, weight in ((there, weights), (without, np.delete(weights, 3))):
        model, n = network(library, 4, 1, **made), len(weight)
        value, grad = model.loss_and_grad(library.make(given["x"]), given["t"], loss, sample_weight=weight)
        v = library.xp.ones_like(model.params)
        product = model.hvp(library.make(given["x"]), given["t"], v, loss, sample_weight=weight)
        judged = portnn.evaluate(model, **given, loss=loss, sample_weight=weight)["loss"]
        given = {**given, "sample_weight": weight}
        history = fit(model, **given, **options, batch_size=n)
        results.append([library.to_numpy(a) for a in (value, grad, product, model.params)])
        results[-1] += [np.asarray(judged), np.asarray(history["loss"])]
        again = network(library, 4, 1, **made)
        fit(again, **given, **options, batch_size=n, compile=False, per_batch=True)
        results[-1].append(library.to_numpy(again.params))
    for one, other in zip(*results, strict=True):
        assert np.isfinite(one).all()
        assert_within(one, other, trajectory(other, 2))


@pytest.mark.parametrize("limit", ["clip_norm", "clip_value"])
def test_a_limit_beyond_the_dtype_clips_nothing(library, limit):
    one, other = same_model(library, {limit: 1e300, "batch_size": 20}, {"batch_size": 20}, dtype="float32")
    assert_same(one, other)


def test_a_limit_below_the_dtype_is_none_of_0(library):
    """By which a gradient of 0 would be divided."""
    model = network(library, 4, 1, init="zeros", dtype="float32")
    fit(model, t=0.0 * X[:, :1], loss="mse", clip_norm=1e-300)
    assert_same(library.to_numpy(model.params), np.zeros(5, "float32"))


def test_what_is_rounded_on_the_host_heeds_no_settings_of_numpy(library):
    """A small number becomes 0 and a large one infinity, which is then found where it does harm."""
    small, weights = X.astype("float64") * 1e-300, np.where(np.arange(N) == 3, 1e-300, 1.0)
    model = network(library, dtype="float32")
    with np.errstate(all="raise"):
        assert_same(portnn.predict(model, small), portnn.predict(model, 0.0 * X))
        portnn.evaluate(model, small, LABELS, sample_weight=weights)
        model.loss_and_grad(library.make(X), LABELS, sample_weight=weights)
        fit(model, small, sample_weight=weights)
        for options in ({"optimizer": SGD(1e39)}, {"l2": 1e39}):
            with pytest.raises(portnn.NonFiniteError, match=r"epoch 1, batch 1: the (update|penalty)"):
                fit(network(library, dtype="float32"), **options)


def test_class_weight_is_the_weight_of_its_samples(library):
    per_class = {0: 0.5, 2: 3.0}
    balanced = N / (3 * np.bincount(LABELS))
    for spec, weights in ((per_class, [0.5, 1.0, 3.0]), ([0.5, 1.0, 3.0], [0.5, 1.0, 3.0]), ("balanced", balanced)):
        own = np.asarray(weights)[LABELS]
        for given in (None, WEIGHTS):
            total = own if given is None else own * given
            one, other = same_model(library, {"class_weight": spec, "sample_weight": given}, {"sample_weight": total})
            assert_within(one, other, first_gradient(other, "float32"))
            one, other = (
                portnn.evaluate(network(library), X, LABELS, **options)["loss"]
                for options in ({"class_weight": spec, "sample_weight": given}, {"sample_weight": total})
            )
            assert_within(one, other, first_gradient(other, "float32"))


def test_class_weight_of_a_loss_without_classes_is_the_share_of_an_output(library):
    model, t = network(library, 4, 2, dtype="float64"), X[:, :2].astype("float64")
    squares = (portnn.predict(model, X) - t) ** 2
    for spec in ([1.0, 3.0], {1: 3.0}):
        result = portnn.evaluate(model, X, t, loss="mse", class_weight=spec)["loss"]
        expected = float(np.mean(squares @ [0.25, 0.75]))
        assert_within(result, expected, first_gradient(expected, "float64"))


def test_members_train_like_single_networks(library):
    team = network(library, members=3, seed=4, dtype="float64")
    with uncompiled(library):
        history = fit(team, optimizer=SGD(0.1, momentum=0.5), epochs=3, validation_split=0.5)
    assert np.shape(history["loss"]) == np.shape(history["val_accuracy"]) == (3, 3)
    for i in range(3):
        single = network(library, seed=4 + i, dtype="float64")
        with uncompiled(library):
            alone = fit(single, optimizer=SGD(0.1, momentum=0.5), epochs=3, validation_split=0.5)
        expected = library.to_numpy(single.params)
        assert_within(library.to_numpy(team.params)[i], expected, trajectory(expected, 15))
        for name in ("loss", "val_loss"):
            assert_within(np.asarray(history[name])[:, i], alone[name], trajectory(alone[name], 15))
        assert [row[i] for row in history["accuracy"]] == alone["accuracy"]


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int32"])
def test_images_train_like_their_floats(library, dtype):
    pixels = (abs(X) * 100).astype(dtype)
    one, other = same_model(library, {"x": pixels}, {"x": pixels.astype("float32")})
    assert_same(one, other)
    one, _ = same_model(library, {"x": library.make(pixels)}, {"x": pixels})
    assert_same(one, other)


def test_evaluate_and_predict_in_chunks_are_the_direct_call(library, monkeypatch):
    model = network(library, dtype="float64")
    x = library.make(X, "float64")
    direct = library.to_numpy(model(x))
    loss = library.to_numpy(model.loss_and_grad(x, LABELS, sample_weight=WEIGHTS)[0])
    asked: list[int] = []
    gather, in_order = Feed.gather, Feed.in_order
    monkeypatch.setattr(Feed, "gather", lambda self, rows: asked.append(rows.stop - rows.start) or gather(self, rows))
    monkeypatch.setattr(Feed, "in_order", lambda self, rows=None, *of: in_order(self, 15, *of))
    assert_within(library.to_numpy(portnn.predict(model, x)), direct, first_gradient(direct, "float64"))
    assert_within(portnn.predict(model, X.astype("float64")), direct, first_gradient(direct, "float64"))
    result = portnn.evaluate(model, x, LABELS, sample_weight=WEIGHTS)
    assert_within(result["loss"], loss, first_gradient(loss, "float64"))
    assert result["accuracy"] == float(np.mean(direct.argmax(axis=1) == LABELS))
    assert asked == [15, 15, 10] * 3


# -- schedules, callbacks, interruptions ------------------------------------------------------------------------------


def test_schedules_step_once_per_update(library):
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.1 / (1 + step)

    model, twin = network(library), network(library)
    with uncompiled(library):
        history = fit(model, optimizer=SGD(schedule), epochs=3)
    assert sorted(set(asked)) == list(range(6))
    assert history["learning_rate"] == [0.1 / 2, 0.1 / 4, 0.1 / 6], "the rate of the last update of each epoch"
    params = library.to_numpy(twin.params)
    for step in range(6):
        rows = random.order(0, step // 2, N)[20 * (step % 2) : 20 * (step % 2) + 20]
        twin.params = library.make(params)
        grad = library.to_numpy(twin.loss_and_grad(library.make(X[rows]), LABELS[rows])[1])
        params = params - grad * np.float32(0.1 / (1 + step))
    assert_within(library.to_numpy(model.params), params, 6 * first_gradient(params, "float32"))


def test_reduce_on_plateau_is_told_every_epoch(library):
    rate = schedules.ReduceOnPlateau(0.5, factor=0.5, patience=0)
    told: list[float] = []
    observe = rate.observe
    rate.observe = lambda loss: told.append(loss) or observe(loss)  # type: ignore[method-assign]
    with uncompiled(library):
        history = fit(network(library), optimizer=SGD(rate), epochs=4, validation_data=(X, (LABELS + 1) % 3))
        assert told == history["val_loss"], "a set that training makes worse"
        assert history["learning_rate"][0] == 0.5 > history["learning_rate"][-1]
        told.clear()
        assert fit(network(library), optimizer=SGD(rate))["loss"] == told, "without validation data, the loss"


def test_callbacks_see_every_epoch_and_can_stop(library):
    seen: list[tuple[int, bool]] = []

    def look(model: MLP, history: dict[str, list]) -> bool:
        loss = portnn.evaluate(model, X, LABELS)["loss"]
        seen.append((len(history["loss"]), loss == history["val_loss"][-1]))
        return len(history["loss"]) == 3

    called: list[int] = []
    model = network(library)
    with uncompiled(library):
        history = fit(
            model,
            epochs=9,
            validation_data=(X, LABELS),
            callbacks=[look, lambda model, history: called.append(len(history["loss"]))],
        )
    assert seen == [(1, True), (2, True), (3, True)], "the model a callback sees is that of the end of the epoch"
    assert called == [1, 2, 3], "one callback that stops does not keep the others from being called"
    assert len(history["loss"]) == 3
    assert not history.interrupted
    twin = network(library)
    with uncompiled(library):
        fit(twin, epochs=3, validation_data=(X, LABELS))
    assert_same(library.to_numpy(model.params), library.to_numpy(twin.params))


def test_a_callback_may_set_the_parameters(library):
    """Training goes on from them, and they are the model's where the callback ends it."""
    model, twin = network(library), network(library, seed=9)
    start = library.to_numpy(twin.params)

    def restart(model: MLP, history: dict[str, list]) -> bool:
        if len(history["loss"]) in (1, 3):
            model.params = library.make(start)
        return len(history["loss"]) == 3

    with uncompiled(library):
        history = fit(model, epochs=9, shuffle=False, callbacks=[restart])
        expected = fit(twin, epochs=2, shuffle=False)
    assert history["loss"][1:] == expected["loss"]
    assert_same(library.to_numpy(model.params), start)


def test_ctrl_c_between_epochs_keeps_model_and_history(library):
    def interrupt(model: MLP, history: dict[str, list]) -> None:
        if len(history["loss"]) == 2:
            raise KeyboardInterrupt

    model, twin = network(library), network(library)
    with uncompiled(library):
        history = fit(model, epochs=9, callbacks=[interrupt])
        expected = fit(twin, epochs=2)
    assert history.interrupted
    assert without_times(history) == without_times(expected)
    assert_same(library.to_numpy(model.params), library.to_numpy(twin.params))
    with uncompiled(library):
        assert not fit(model).interrupted, "the model goes on training"


class Failing(SGD):
    """SGD that raises when it is asked for the update, or for the row, of a given step."""

    at, where, error = 7, "update", KeyboardInterrupt

    def __init__(self, where: str, error: type[BaseException]) -> None:
        super().__init__(0.1, momentum=0.5)
        for name, value in {"where": where, "error": error, "steps": [0]}.items():
            object.__setattr__(self, name, value)

    def row(self, step: int) -> tuple[float, ...]:
        if self.where == "row" and step == self.at:
            raise self.error
        return super().row(step)

    def update(self, params: Any, grad: Any, state: Any, h: Any, decayed: Any = None) -> Any:
        params, state = super().update(params, grad, state, h, decayed)
        self.steps[0] += 1
        if self.where == "update" and self.steps[0] > self.at:
            raise self.error  # after the arrays have been changed in place
        return params, state


@pytest.mark.parametrize("where", ["row", "update"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_happens_inside_an_epoch_keeps_the_last_whole_chunk(library, where, error, monkeypatch):
    """Steps 0 to 4 are epoch 1; step 7 is the third of epoch 2, the first of its second chunk."""
    monkeypatch.setattr(loop, "plan", lambda n, size, most: plan(n, size, 2 * size))
    model, twin = network(library), network(library)
    with uncompiled(library):
        if error is KeyboardInterrupt:
            history = fit(model, epochs=9, batch_size=8, optimizer=Failing(where, error))
            assert history.interrupted
            assert len(history["loss"]) == 1
        else:
            with pytest.raises(error):
                fit(model, epochs=9, batch_size=8, optimizer=Failing(where, error))
        optimizer, params = SGD(0.1, momentum=0.5), library.to_numpy(twin.params)
        state = {"velocity": np.zeros_like(params)}
        for step in range(7):  # six steps are whole chunks: 0, 1 | 2, 3 | 4 || 5, 6 |
            rows = random.order(0, step // 5, N)[8 * (step % 5) : 8 * (step % 5) + 8]
            twin.params = library.make(params)
            grad = library.to_numpy(twin.loss_and_grad(library.make(X[rows]), LABELS[rows])[1])
            params, state = optimizer.update(params.copy(), grad, state, optimizer.row(step))
    assert_within(library.to_numpy(model.params), params, 7 * first_gradient(params, "float32"))
    assert np.isfinite(portnn.evaluate(model, X, LABELS)["loss"])


def test_a_nan_names_its_place_and_the_model_is_that_of_the_step_before(library):
    """Rate 1e30 from step 6 on: step 6 is finite and kept, step 7, the third batch of epoch 2, is not."""
    rate = lambda step: 1e30 if step >= 6 else 0.1  # noqa: E731
    model, twin = (network(library, activation="identity") for _ in range(2))
    with pytest.raises(NonFiniteError, match=r"epoch 2, batch 3: the outputs of layer 1 .*last finite"):
        fit(model, epochs=9, batch_size=8, optimizer=SGD(rate))
    stop = [lambda model, history: True]
    fit(twin, epochs=1, batch_size=8, optimizer=SGD(rate), callbacks=stop)
    kept = library.to_numpy(model.params)
    assert np.isfinite(kept).all()
    assert np.abs(kept).max() > np.abs(library.to_numpy(twin.params)).max(), "step 6 took place"
    with pytest.raises(NonFiniteError, match=r"^predict: the outputs of layer 1 are NaN or infinity for 40 of 40"):
        portnn.predict(model, X)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("loss", "epoch 1, batch 1: the loss is NaN or infinity"),
        ("gradient", "epoch 1, batch 1: the gradient of the loss is NaN or infinity for 40 of 40"),
    ],
)
def test_a_nan_of_the_loss_or_of_its_gradient(library, spoil, words):
    def broken(y: Any, t: Any) -> Any:
        d = y - t
        xp = library.xp
        nan = xp.asarray(float("nan"), dtype=y.dtype, device=library.backend.device)
        values = xp.sum(d * d, axis=-1)
        if spoil == "loss":
            return values * nan, lambda dv: (xp.zeros_like(d),)
        return values, lambda dv: (d * dv[..., None] * nan,)

    model = network(library)
    before = library.to_numpy(model.params)
    with uncompiled(library), pytest.raises(NonFiniteError, match=words):
        fit(model, X, X[:, :3], loss=broken, batch_size=N)  # one step: no later loss shows what it did
    assert_same(library.to_numpy(model.params), before)


# -- where the data are -----------------------------------------------------------------------------------------------


def test_arrays_on_the_device_stay_there(library, monkeypatch):
    """After the targets, the host reads a handful of numbers per chunk of steps and nothing else."""
    model, x = network(library), library.make(X)
    kind, read = type(model.backend), []
    to_numpy = kind.to_numpy

    def counted(self: Any, a: Any) -> np.ndarray:
        host = to_numpy(self, a)
        read.append(host.size)
        return host

    monkeypatch.setattr(kind, "to_numpy", counted)
    monkeypatch.setattr(loop, "plan", lambda n, size, most: plan(n, size, 2 * size))
    with uncompiled(library):
        fit(model, x, LABELS, epochs=3, batch_size=8, validation_split=0.2)
    per_epoch = 3  # two chunks of two steps of 8 samples, and the 8 samples held out
    chunks = [size for size in read if size not in (N, model.n_params)]
    assert len(chunks) == 3 * per_epoch, f"reads of {read} numbers"
    assert max(chunks) <= 4
    assert read.count(N) <= 1, "only the targets are looked at as a whole"
    assert read.count(model.n_params) <= 1, "and the parameters once, where they lie in host memory"


def test_data_that_do_not_fit_are_streamed(library, monkeypatch):
    """The result is that of data which do fit, to the bit; only a chunk at a time is moved."""
    if library.backend_name == "numpy":
        return  # the host is the device
    runs = []
    for free in (None, 10):
        monkeypatch.setattr(type(library.backend), "free_memory", lambda self, free=free: free)
        model = network(library)
        with uncompiled(library):
            history = fit(model, X, LABELS, sample_weight=WEIGHTS, validation_split=0.5)
        moved = Feed(library.backend, X, {}, model.params.dtype)
        assert moved.streamed == (free == 10)
        assert library.backend.owns(moved.x) != moved.streamed
        runs.append((without_times(history), library.to_numpy(model.params), portnn.predict(model, X)))
    assert runs[0][0] == runs[1][0]
    assert_same(runs[0][1], runs[1][1])
    assert_same(runs[0][2], runs[1][2])


def test_what_is_handed_in_is_not_changed(library):
    x, t, w = library.make(X), library.make(LABELS), library.make(WEIGHTS)
    host = [X.copy(), LABELS.copy(), WEIGHTS.copy()]
    with uncompiled(library):
        fit(network(library), x, t, sample_weight=w, validation_split=0.5)
        fit(network(library), *host[:2], sample_weight=host[2])
    for given, original in zip([x, t, w], (X, LABELS, WEIGHTS), strict=True):
        assert_same(library.to_numpy(given), original)
    for given, original in zip(host, (X, LABELS, WEIGHTS), strict=True):
        assert_same(given, original)


def test_the_views_of_a_model_are_not_changed_by_training_it(library):
    """What was read off a model before stays what it was: the parameters are replaced, not overwritten."""
    model = network(library)
    params = model.params
    before = library.to_numpy(params)
    with uncompiled(library):
        fit(model)
    assert_same(library.to_numpy(params), before)


# -- the bar ----------------------------------------------------------------------------------------------------------


def test_the_bar_is_silent_where_there_is_no_terminal(capfd):
    fit(MLP([4, 3]), progress=True)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_the_bar_on_a_terminal(monkeypatch):
    pytest.importorskip("tqdm", reason="tqdm is not installed: no bar to look at")
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    fit(MLP([4, 3]), progress=True, epochs=2)
    assert "epoch 2/2" in screen.getvalue()
    assert "accuracy=" in screen.getvalue()
    before = len(screen.getvalue())
    fit(MLP([4, 3]), progress=False)
    assert len(screen.getvalue()) == before


def test_training_without_tqdm(monkeypatch):
    original = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("tqdm"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    assert len(fit(MLP([4, 3]), progress=True)["loss"]) == 2


# -- going on, orders of the user's, scikit-learn's way of counting ---------------------------------------------------


@pytest.mark.parametrize(
    "optimizer", [SGD(schedules.exponential(0.1, 5, 0.8), momentum=0.9), Adam(0.01)], ids=["sgd", "adam"]
)
def test_two_fits_with_resume_are_one(library, optimizer):
    whole, parts = network(library), network(library)
    expected = fit(whole, optimizer=optimizer, epochs=3)
    first = fit(parts, optimizer=optimizer, epochs=2)
    both = fit(parts, optimizer=optimizer, epochs=1, resume=first)
    assert_same(library.to_numpy(parts.params), library.to_numpy(whole.params))
    assert without_times(both) == without_times(expected)
    assert (len(first["loss"]), both.reached[:2]) == (2, (3, 6))
    anew = network(library)
    anew.params = whole.params
    fit(anew, optimizer=optimizer, epochs=1, resume=both)
    fit(whole, optimizer=optimizer, epochs=1, resume=both)  # into whose arrays the fit before has not written
    assert_same(library.to_numpy(anew.params), library.to_numpy(whole.params))


def test_two_fits_with_resume_are_one_with_dropout_and_batch_norm(library):
    """Masks are a function of the epoch, and the running statistics are the model's own."""
    rng = np.random.default_rng(5)
    x, t = rng.normal(size=(22, 4)), rng.integers(0, 3, size=22)
    options = {"optimizer": "adam", "batch_size": 8, "seed": 3, "progress": False}
    whole, parts = (
        MLP([4, 6, 5, 3], dropout=0.4, normalization=["batch", "layer"], dtype="float64", seed=7, **library.where)
        for _ in range(2)
    )
    expected = portnn.fit(whole, x, t, epochs=5, **options)
    first = portnn.fit(parts, x, t, epochs=2, **options)
    both = portnn.fit(parts, x, t, epochs=3, resume=first, **options)
    for name in ("params", "running"):
        assert_same(library.to_numpy(getattr(parts, name)), library.to_numpy(getattr(whole, name)))
    assert without_times(both) == without_times(expected)


def test_what_was_not_asked_for_before_is_nan_in_a_history_that_is_resumed():
    model, x, t = MLP([4, 3]), *small()
    first = portnn.fit(model, x, t, epochs=2, progress=False)
    both = portnn.fit(model, x, t, epochs=3, resume=first, validation_data=(x, t), progress=False)
    last = portnn.fit(model, x, t, epochs=1, resume=both, progress=False)
    assert np.isnan(last["val_loss"]).tolist() == [True, True, False, False, False, True]
    assert both.epochs == 5
    with pytest.raises(ValueError, match="resume is the history of one network, the model is networks with members"):
        portnn.fit(MLP([4, 3], members=2), x, t, optimizer=SGD(0.1), resume=portnn.fit(model, x, t, optimizer=SGD(0.1)))


def test_an_order_of_the_users_is_asked_for_when_its_epoch_begins():
    asked, (x, t) = [], small()

    def order(epoch):
        asked.append(epoch)
        return np.arange(len(t))

    portnn.fit(MLP([4, 3]), x, t, shuffle=order, epochs=9, callbacks=lambda m, h: len(h["loss"]) == 2, progress=False)
    assert asked == [0, 1]


def small():
    rng = np.random.default_rng(5)
    return rng.normal(size=(22, 4)), rng.integers(0, 3, size=22)


def test_what_cannot_be_resumed():
    model = MLP([4, 6, 3])
    history = fit(model, optimizer=Adam())
    before = model.params.copy()
    with pytest.raises(ValueError, match="of another optimizer or model"):
        fit(model, optimizer=SGD(0.1), resume=history)
    with pytest.raises(ValueError, match="of another optimizer or model"):
        fit(MLP([4, 3]), optimizer=Adam(), resume=history)
    with pytest.raises(TypeError, match="resume must be the History of an earlier fit, got dict"):
        fit(model, resume={})
    read = History(json.loads(json.dumps(history)))
    for gone in (read, history.copy()):
        gone.reached = None
        with pytest.raises(ValueError, match="this history no longer has the optimizer's arrays"):
            fit(model, optimizer=Adam(), resume=gone)
    assert_same(model.params, before)
    assert len(fit(model, optimizer=Adam(), epochs=1, resume=History())["loss"]) == 1


def test_in_memory_an_epoch_that_was_interrupted_begins_again(monkeypatch):
    """Its four steps have been made, and it is no epoch of the history: see docs/training.md."""
    validations = iter([None, KeyboardInterrupt])

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if error := next(validations, None):
            raise error
        return evaluation.judged(*arguments, **options)

    monkeypatch.setattr(loop, "judged", interrupted)
    model, options = MLP([4, 6, 3]), {"batch_size": N // 4, "validation_data": (X, LABELS)}
    history = fit(model, epochs=3, **options)
    assert (history.interrupted, len(history["loss"]), history.reached[:2]) == (True, 1, (1, 8))
    whole = fit(model, epochs=2, resume=history, **options)
    assert (len(whole["loss"]), whole.reached[:2]) == (3, (3, 16))


def test_an_order_of_the_user_is_followed(library):
    orders = [np.arange(N)[::-1], np.arange(N)]
    a, b = network(library), network(library)
    fit(a, shuffle=lambda epoch: orders[epoch])
    fit(b, X[::-1].copy(), LABELS[::-1].copy(), epochs=1, shuffle=False)
    fit(b, epochs=1, shuffle=False)
    assert_same(library.to_numpy(a.params), library.to_numpy(b.params))


@pytest.mark.parametrize("order", [np.zeros(N, int), np.arange(N - 1), np.arange(N) - 1, np.arange(N) + 1.0], ids=str)
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(ValueError, match=r"shuffle\(0\) must return the numbers 0 to 39, each once"):
        fit(MLP([4, 3]), shuffle=lambda epoch: order)


def test_per_batch_by_hand(library):
    """One linear layer, batches of 30 and 10: each loss is its weighted mean plus l2 |w|^2 / (2 sum of weights)."""
    for weight in (None, 100.0 * WEIGHTS):
        model = MLP([4, 1], init="normal", **{**library.where, "dtype": "float64"})
        w = library.to_numpy(model.params).copy()
        t = X[:, 0].astype("float64") + 1.0
        total, rate, l2 = 0.0, 0.01, 3.0
        for rows in (slice(0, 30), slice(30, 40)):
            x, v = X[rows].astype("float64"), np.ones(N)[rows] if weight is None else weight[rows]
            off = x @ w[:4] + w[4] - t[rows]
            total += v.size * ((v * off**2).sum() + 0.5 * l2 * (w[:4] @ w[:4])) / v.sum()
            w = w - rate * np.r_[2.0 * (v * off) @ x + l2 * w[:4], 2.0 * (v * off).sum()] / v.sum()
        options = {"loss": "mse", "optimizer": SGD(rate), "epochs": 1, "batch_size": 30, "shuffle": False}
        history = fit(model, t=t, l2=l2, per_batch=True, sample_weight=weight, **options)
        assert_within(library.to_numpy(model.params), w, first_gradient(w, np.float64))
        assert_within(history["loss"][0], total / N, first_gradient(total, np.float64))


def test_per_batch_counts_class_weights_too(library):
    a, b = network(library), network(library)
    classes = np.asarray([1.0, 3.0, 10.0])
    both = fit(a, l2=0.5, per_batch=True, sample_weight=WEIGHTS, class_weight=classes)
    weighted = fit(b, l2=0.5, per_batch=True, sample_weight=WEIGHTS * classes[LABELS])
    bound = first_gradient(library.to_numpy(b.params), np.float32)
    assert_within(library.to_numpy(a.params), library.to_numpy(b.params), bound)
    assert_within(both["loss"], weighted["loss"], first_gradient(weighted["loss"], np.float32))


def test_a_batch_without_weight_has_no_penalty(library):
    model = MLP([4, 1], **library.where)
    before = library.to_numpy(model.params).copy()
    weight = np.where(np.arange(N) < 20, 0.0, 1.0)
    seen = []
    fit(
        *(model, X, X[:, :1]),
        **{"loss": "mse", "l2": 1.0, "per_batch": True, "sample_weight": weight, "shuffle": False, "epochs": 1},
        callbacks=lambda model, history: seen.append(history["loss"][0]),
    )
    assert np.isfinite(seen).all()
    assert not np.array_equal(library.to_numpy(model.params), before)


def test_numbers_and_flags_of_numpy_and_columns_of_a_table_are_taken():
    """As a sweep over a grid hands them in."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: it has no columns to hand in")
    for one, other in (
        ({"class_weight": [1.0, 2.0, 0.5]}, {"class_weight": pandas.Series([1.0, 2.0, 0.5])}),
        ({"compile": False}, {"compile": np.bool_(False)}),
        ({"optimizer": SGD(0.1, 0.5, True)}, {"optimizer": SGD(0.1, np.float64(0.5), np.bool_(True))}),
        ({"optimizer": Adam(0.1, amsgrad=True)}, {"optimizer": Adam(0.1, amsgrad=np.bool_(True))}),
    ):
        models = [MLP([4, 3]), MLP([4, 3])]
        for model, options in zip(models, (one, other), strict=True):
            fit(model, **options)
        assert_same(models[1].params, models[0].params)


@pytest.mark.parametrize(
    ("backend", "batch_size", "rows"), [("numpy", 8192, 20_000), ("jax", 1023, 20_000), ("jax", 1024, 55_000)]
)
def test_chunks_are_longer_where_each_asks_for_its_memory_anew(backend, batch_size, rows):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    feed = portnn.feed.Feed(portnn.backends.get_backend(backend), np.zeros((4, 2), "float32"), {}, np.float32)
    assert feed.chunk_rows(800_000, batch_size) == rows
