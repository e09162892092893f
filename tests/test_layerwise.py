"""LARS and LAMB are optax's, with masks that leave biases out; and the rate for large batches."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from tolerances import assert_within

import portnn
from portnn import LAMB, LARS, MLP, schedules

SHAPES = {"w0": (4, 3), "b0": (3,), "w1": (3, 2), "b1": (2,)}
WEIGHTS = {name: name[0] == "w" for name in SHAPES}
STEPS = 30


def cut(vector: np.ndarray) -> dict[str, np.ndarray]:
    found, start = {}, 0
    for name, shape in SHAPES.items():
        found[name] = vector[start : start + int(np.prod(shape))].reshape(shape)
        start += int(np.prod(shape))
    return found


def parts() -> list[tuple[slice, bool]]:
    found, start = [], 0
    for name, shape in SHAPES.items():
        found.append((slice(start, start + int(np.prod(shape))), WEIGHTS[name]))
        start += int(np.prod(shape))
    return found


def theirs(transformation, start: np.ndarray, grads: np.ndarray) -> np.ndarray:
    optax = pytest.importorskip("optax")
    import jax

    jax.config.update("jax_enable_x64", True)
    params = {name: jax.numpy.asarray(a) for name, a in cut(start).items()}
    state = transformation.init(params)
    for grad in grads:
        updates, state = transformation.update({n: jax.numpy.asarray(a) for n, a in cut(grad).items()}, state, params)
        params = optax.apply_updates(params, updates)
    return np.concatenate([np.asarray(params[name]).reshape(-1) for name in SHAPES])


def ours(optimizer, start: np.ndarray, grads: np.ndarray) -> np.ndarray:
    params, state = start.copy(), optimizer.init(start)
    decayed = np.concatenate([np.full(part.stop - part.start, float(weight)) for part, weight in parts()])
    for k, grad in enumerate(grads):
        params, state = optimizer.update(params, grad.copy(), state, optimizer.row(k), decayed, parts=parts())
    return params


def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    start = rng.normal(size=23)
    start[15:21] = 0.0  # a weight of length 0
    return start, rng.normal(size=(STEPS, 23)) * np.geomspace(1e-3, 10.0, STEPS)[:, None]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize(("trust", "eps"), [(1e-3, 0.0), (0.5, 1e-2)])
def test_lars_is_that_of_optax(nesterov, decay, trust, eps):
    optax = pytest.importorskip("optax")
    start, grads = drawn()
    options = {"trust_coefficient": trust, "eps": eps, "momentum": 0.9, "nesterov": nesterov}
    masks = {"weight_decay_mask": WEIGHTS, "trust_ratio_mask": WEIGHTS}
    expected = theirs(optax.lars(0.3, weight_decay=decay, **masks, **options), start, grads)
    found = ours(LARS(0.3, weight_decay=decay, trust=trust, eps=eps, nesterov=nesterov), start, grads)
    assert_within(found, expected, 8.0 * tolerances.trajectory(expected, STEPS))


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_lamb_is_that_of_optax(decay, eps):
    optax = pytest.importorskip("optax")
    start, grads = drawn()
    transformation = optax.chain(
        optax.scale_by_adam(0.9, 0.999, eps),
        optax.add_decayed_weights(decay, mask=WEIGHTS),
        optax.masked(optax.scale_by_trust_ratio(), WEIGHTS),
        optax.scale_by_learning_rate(0.05),
    )
    expected = theirs(transformation, start, grads)
    assert_within(
        ours(LAMB(0.05, eps=eps, weight_decay=decay), start, grads),
        expected,
        8.0 * tolerances.trajectory(expected, STEPS),
    )


@pytest.mark.parametrize("rule", [LARS(0.5, momentum=0.9, weight_decay=1e-3, trust=0.1), LAMB(0.01, weight_decay=1e-3)])
def test_every_library_makes_the_same_updates(library, rule):
    x = np.random.default_rng(1).normal(size=(96, 6)).astype("float32")
    t = (x[:, :3]).argmax(axis=1)
    made = {"normalization": "layer", "activation": "tanh", "seed": 1}
    options = {"epochs": 3, "batch_size": 32, "optimizer": rule, "progress": False}
    model, one = MLP([6, 9, 8, 7, 3], **made, **library.where), MLP([6, 9, 8, 7, 3], **made)
    history = portnn.fit(model, x, t, **options)
    portnn.fit(one, x, t, compile=False, **options)
    assert_within(library.to_numpy(model.params), one.params, tolerances.BARS["sgd"]["float32"] * abs(one.params).max())
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("rule", [LARS, LAMB])
def test_members_have_lengths_and_rates_of_their_own(rule):
    x = np.random.default_rng(1).normal(size=(64, 4))
    t = (x[:, 0] > 0).astype(int)
    rates = [0.01, 0.3]
    model = MLP([4, 5, 2], members=2, dtype="float64", seed=7)
    portnn.fit(model, x, t, optimizer=rule(rates), epochs=3, batch_size=16, progress=False)
    for i, rate in enumerate(rates):
        one = MLP([4, 5, 2], dtype="float64", seed=7 + i)
        portnn.fit(one, x, t, optimizer=rule(rate), epochs=3, batch_size=16, progress=False)
        assert_within(model[i].params, one.params, tolerances.first_gradient(one.params, "float64"))


def test_a_step_is_as_long_as_the_weight():
    """Whatever the gradient's size, far beyond what can be squared."""
    for size in (1e-30, 1.0, 1e30):
        grad = np.asarray([3.0, 4.0, 1.0], dtype="float32") * np.float32(size)
        p = np.asarray([0.0, 10.0, 0.0], dtype="float32")
        new, _ = LARS(0.1, momentum=0.0, trust=1.0).update(
            p.copy(), grad, {}, (0.1,), parts=[(slice(0, 2), True), (slice(2, 3), False)]
        )
        assert_within(np.linalg.norm(new[:2] - p[:2]), 1.0, tolerances.few_steps(10.0, "float32"))


BAD = {
    "momentum": (lambda: LARS(0.1, momentum=1.0), r"LARS: momentum must be a number in \[0, 1\), got 1.0"),
    "trust": (lambda: LARS(0.1, trust=0.0), r"LARS: trust must be a number in \(0, inf\), got 0.0"),
    "nesterov": (lambda: LARS(0.1, momentum=0.0, nesterov=True), "LARS: nesterov=True wants momentum > 0"),
    "decay": (lambda: LAMB(weight_decay=-1.0), r"LAMB: weight_decay must be a number in \[0, inf\), got -1.0"),
    "beta": (lambda: LAMB(beta1=1.0), r"LAMB: beta1 must be a number in \[0, 1\), got 1.0"),
    "batch": (
        lambda: schedules.linear_scaling(0.1, 0),
        "linear_scaling: batch_size must be a whole number of at least",
    ),
    "steps": (lambda: schedules.linear_scaling(0.1, 64, warmup=5, steps=5), "linear_scaling: steps must be a whole"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=f"^{words}"):
        make()


def test_a_large_batch_has_a_rate_in_proportion():
    f = schedules.linear_scaling(0.1, batch_size=8192, reference=256, warmup=100, steps=300)
    assert f(0) == 0.1
    assert_within([f(50), f(100), f(200), f(300), f(1000)], [1.65, 3.2, 1.6, 0.0, 0.0], 1e-12)
    assert schedules.linear_scaling(0.1, batch_size=8192)(7) == 0.1 * 8192 / 256
    assert "steps" not in repr(schedules.linear_scaling(0.1, batch_size=512))


@pytest.mark.parametrize("rule", [LARS(3000.0, trust=1.0), LAMB(30.0)])
def test_trainings_that_part_are_compared_update_by_update(rule):
    x = np.random.default_rng(1).normal(size=(64, 6))
    t = x[:, :3].argmax(axis=1)
    found = portnn.testing.compare_backends(
        MLP([6, 9, 3], seed=1), x, t, ["numpy", "array_api_strict"], optimizer=rule, steps=60
    )
    assert found
