"""Two steps are equal where they compute the same, and only there: what was compiled for one may serve the other."""

import functools
import gc
import weakref

import numpy as np
import pytest
from tolerances import assert_same, assert_within, few_steps

import portnn
from portnn.losses import cross_entropy, get_loss
from portnn.optimizers import get_optimizer
from portnn.step import Pieces, make_step

BASE = {
    "sizes": [4, 3, 2],
    "model": {},
    "loss": "cross_entropy",
    "optimizer": portnn.Adam(0.1),
    "step": {"output_share": None},
}
# what is different, and so makes another step
DIFFERENT = {
    "sizes": {"sizes": [4, 5, 2]},
    "deeper": {"sizes": [4, 3, 3, 2]},
    "activation": {"model": {"activation": "tanh"}},
    "slope": {"model": {"activation": "leaky_relu(0.2)"}},
    "another-slope": {"model": {"activation": "leaky_relu(0.3)"}},
    "bias": {"model": {"bias": False}},
    "dtype": {"model": {"dtype": "float64"}},
    "tf32": {"model": {"matmul_precision": "tf32"}},
    "loss": {"loss": "mse"},
    "smoothing": {"loss": functools.partial(cross_entropy, label_smoothing=0.1)},
    "more-smoothing": {"loss": functools.partial(cross_entropy, label_smoothing=0.2)},
    "optimizer": {"optimizer": portnn.SGD(0.1)},
    "adamw": {"optimizer": portnn.AdamW(0.1)},
    "beta1": {"optimizer": portnn.Adam(0.1, beta1=0.8)},
    "amsgrad": {"optimizer": portnn.Adam(0.1, amsgrad=True)},
    "clip_value": {"step": {"clip_value": 1.0}},
    "clip_norm": {"step": {"clip_norm": 1.0}},
    "l1": {"step": {"l1": 0.1}},
    "l2": {"step": {"l2": 0.1}},
    "class-weights": {"loss": "mse", "step": {"output_share": np.asarray([0.25, 0.75])}},
}


def step_of(**changes):
    given = {**BASE, **changes}
    model = portnn.MLP(given["sizes"], seed=changes.get("seed", 0), **given["model"])
    return make_step(model, get_loss(given["loss"]), get_optimizer(given["optimizer"]), **given["step"])


@pytest.mark.parametrize("changes", [{}, *DIFFERENT.values()], ids=["base", *DIFFERENT])
def test_the_same_makes_an_equal_step(changes):
    a, b = step_of(**changes), step_of(**changes)
    assert a is not b
    assert a == b
    assert hash(a) == hash(b)


def test_whatever_is_different_makes_another_step():
    steps = [step_of(), *(step_of(**changes) for changes in DIFFERENT.values())]
    assert len(set(steps)) == len(steps)


@pytest.mark.parametrize(
    "changes", [{"seed": 3}, {"optimizer": portnn.Adam(0.5)}, {"optimizer": portnn.Adam(lambda k: 0.1)}]
)
def test_parameters_and_rates_are_no_part_of_a_step(changes):
    assert step_of(**changes) == step_of()


def own_activation(z):
    return z * 1.0, lambda dy: (dy * 1.0,)


class OwnOptimizer(portnn.SGD):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"activation": own_activation}},
        {"loss": lambda y, t: cross_entropy(y, t)},
        {"loss": functools.partial(lambda y, t, f: f(y, t), f=cross_entropy)},
        {"optimizer": OwnOptimizer(0.1)},
    ],
    ids=["activation", "loss", "partial", "optimizer"],
)
def test_functions_of_the_user_may_change_their_minds(changes):
    """What they read from elsewhere is not seen here, so a step with one is equal to itself alone."""
    a, b = step_of(**changes), step_of(**changes)
    assert a == a
    assert a != b
    assert a != "a step"


def test_a_second_fit_compiles_nothing():
    pytest.importorskip("jax", reason="jax is not installed")
    from portnn.backends import jax as backend

    x, t = np.eye(4, dtype=np.float32), np.asarray([0, 1, 0, 1])

    def fitted(rate, **options):
        model = portnn.MLP([4, 3, 2], backend="jax")
        portnn.fit(model, x, t, optimizer=portnn.SGD(rate), epochs=2, batch_size=2, progress=False, **options)
        return np.asarray(model.params)

    first = fitted(0.1)
    before = backend._compiled.cache_info()
    assert_same(fitted(0.1), first)
    assert not np.array_equal(fitted(0.2), first)
    after = backend._compiled.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 2)
    fitted(0.1, l2=0.5)
    assert backend._compiled.cache_info().misses > after.misses


def test_what_is_kept_compiled_keeps_no_model_alive():
    pytest.importorskip("jax", reason="jax is not installed")
    x, t = np.eye(4, dtype=np.float32), np.asarray([0, 1, 0, 1])
    alive = []
    for loss in ("cross_entropy", lambda y, t: cross_entropy(y, t)):
        model = portnn.MLP([4, 3, 2], backend="jax")
        loss = get_loss(loss)._replace(kind="classes")
        portnn.fit(model, x, t, loss=loss, optimizer=portnn.SGD(0.1), epochs=1, batch_size=2, progress=False)
        alive.append(weakref.ref(model))
        del model
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


TARGETS = np.random.default_rng(5).random((12, 3))
JUDGED = {
    "cross_entropy": (np.arange(12) % 3, None, None),
    "binary_cross_entropy": ((TARGETS > 0.5).astype("float64"), None, None),
    "mse": (TARGETS, None, np.asarray([0.5, 0.25, 0.25])),
    "huber": (TARGETS, np.linspace(0.0, 2.0, 12), None),
    "poisson": (TARGETS, np.linspace(0.5, 2.0, 12), np.asarray([0.5, 0.25, 0.25])),
}


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("loss", JUDGED)
def test_a_step_in_two_judges_as_the_step_does(loss, members):
    t, weight, share = JUDGED[loss]
    model = portnn.MLP([4, 3], dtype="float64", members=members, seed=1)
    step = make_step(model, get_loss(loss), portnn.SGD(0.1), output_share=share)
    batch = {"x": np.random.default_rng(6).standard_normal((12, 4)), "t": t}
    batch |= {} if weight is None else {"weight": weight}
    h = portnn.SGD(0.1).row(0)
    after, expected = step({"params": model.params.copy()}, batch, h)
    outputs, judge = step.split
    state, y = outputs({"params": model.params.copy()}, batch, h)
    assert_same(state["params"], after["params"])
    found = judge(y, {name: a for name, a in batch.items() if name != "x"})
    assert list(found) == list(expected)
    for name, a in expected.items():
        assert_same(found[name], a)


def test_a_step_with_a_penalty_or_a_function_of_the_users_is_in_one_piece():
    assert step_of().split is not None
    assert step_of(step={"l1": 0.1}).split is step_of(step={"l2": 0.1}).split is None
    assert step_of(model={"activation": own_activation}).split is None


@pytest.mark.parametrize("most", [0, 2**22])
def test_jax_judges_steps_at_once_or_one_by_one(most, monkeypatch):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    from portnn.backends import jax as driver

    at_once, vmap = [], jax.vmap
    monkeypatch.setattr(driver, "MOST_KEPT", most)
    monkeypatch.setattr(driver, "_compiled", functools.lru_cache(driver._compiled.__wrapped__))
    monkeypatch.setattr(jax, "vmap", lambda judge: at_once.append(judge) or vmap(judge))
    x, t = np.random.default_rng(7).standard_normal((50, 4)).astype("float32"), np.arange(50) % 3
    options = {"optimizer": portnn.Adam(0.01), "epochs": 2, "batch_size": 8, "sample_weight": np.linspace(0, 1, 50)}
    history = portnn.fit(portnn.MLP([4, 5, 3], backend="jax"), x, t, **options, progress=False)
    expected = portnn.fit(portnn.MLP([4, 5, 3]), x, t, **options, progress=False)
    assert bool(at_once) == (most > 0)
    assert history["accuracy"] == expected["accuracy"]
    assert_within(np.asarray(history["loss"]), np.asarray(expected["loss"]), few_steps(expected["loss"], "float32"))


@pytest.mark.parametrize(
    ("optimizer", "asks"),
    [
        *((portnn.SGD(0.1), False), (portnn.Adam(0.1), False), (portnn.AdamW(0.1, weight_decay=0.0), False)),
        *((portnn.AdamW(0.1), True), (portnn.LARS(0.1), False), (portnn.LARS(0.1, weight_decay=0.1), True)),
    ],
)
def test_a_step_holds_what_decays_only_for_those_who_ask(optimizer, asks):
    """It is a vector as long as the network, and steps that were compiled are kept for the next training."""
    pieces = Pieces(portnn.MLP([4, 3, 2]), get_loss("cross_entropy"), optimizer)
    assert (pieces.decayed is not None) == asks


def test_an_optimizer_of_the_user_is_told_what_decays():
    class Mine(portnn.SGD):
        pass

    assert Pieces(portnn.MLP([4, 3, 2]), get_loss("cross_entropy"), Mine(0.1)).decayed is not None
