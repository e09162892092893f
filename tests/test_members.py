"""Members of an ensemble: hyperparameters of their own, each as a network of its own, and what they say together."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tolerances
from test_training import LABELS, X, fit, network, uncompiled
from tolerances import assert_same, assert_within

import portnn
from portnn import SGD, Adagrad, Adam, AdamW, RMSprop, evaluation, schedules
from portnn.schedules import ReduceOnPlateau

SEED = 4

# -- hyperparameters of each member -----------------------------------------------------------------------------------

RATES = [0.2, 0.01, 0.05]
DECAYS = [0.0, 0.5, 2.0]


def plateaus() -> list[Any]:
    """Two that fall at different epochs, since no loss falls by half at once and the patience differs."""
    impatient, patient = (ReduceOnPlateau(0.1, factor=0.5, patience=p, threshold=0.5) for p in (0, 1))
    return [impatient, 0.1, patient]


# what fit is given, where each(values) stands for all of the values or for those of one member
CASES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "sgd": lambda each: {"optimizer": SGD(each(RATES))},
    "momentum": lambda each: {"optimizer": SGD(each(RATES), momentum=0.5, nesterov=True)},
    "adam": lambda each: {"optimizer": Adam(each(RATES), amsgrad=True)},
    "adamw": lambda each: {"optimizer": AdamW(each(RATES), weight_decay=each(DECAYS))},
    "decays": lambda each: {"optimizer": AdamW(0.01, weight_decay=each(DECAYS))},
    "rmsprop": lambda each: {"optimizer": RMSprop(each(RATES))},
    "adagrad": lambda each: {"optimizer": Adagrad(each(RATES))},
    "schedules": lambda each: {"optimizer": SGD(each([schedules.cosine(0.3, 15), 0.1, lambda step: 0.3 / (step + 1)]))},
    "plateaus": lambda each: {"optimizer": SGD(each(plateaus()))},
    "l1": lambda each: {"l1": each([0.0, 0.01, 0.1])},
    "l2": lambda each: {"l2": each(DECAYS)},
    "l1 and l2": lambda each: {"l1": each([0.0, 0.01, 0.1]), "l2": each(DECAYS), "optimizer": Adam(each(RATES))},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_hyperparameters_of_each_member_train_as_it_would_alone(library, case):
    team = network(library, members=3, seed=SEED, dtype="float64")
    with uncompiled(library):
        history = fit(team, epochs=4, validation_split=0.5, **case(lambda values: values))
    for i in range(3):
        single = network(library, seed=SEED + i, dtype="float64")
        with uncompiled(library):
            alone = fit(single, epochs=4, validation_split=0.5, **case(lambda values, i=i: values[i]))
        expected = library.to_numpy(single.params)
        bound = tolerances.BARS["adam"]["float64"] * np.abs(expected).max()
        assert_within(library.to_numpy(team.params)[i], expected, bound)
        for name in ("loss", "val_loss"):
            assert_within(np.asarray(history[name])[:, i], alone[name], bound * max(alone[name]))
        rates = np.broadcast_to(np.asarray(history["learning_rate"]).T, (3, 4))
        assert rates[i].tolist() == alone["learning_rate"]


def test_a_plateau_of_a_member_observes_its_own_loss():
    """A rate of 1e-9 learns nothing and is halved every epoch; beside it, a fast member keeps its rate."""
    team = portnn.MLP([4, 6, 3], activation="tanh", members=2, dtype="float64")
    own = [ReduceOnPlateau(rate, factor=0.5, patience=0) for rate in (1e-9, 0.5)]
    history = fit(team, optimizer=SGD(own), epochs=4)
    assert history["learning_rate"] == [[1e-9, 0.5], [1e-9, 0.5], [0.5e-9, 0.5], [0.25e-9, 0.5]]
    assert [plateau.best for plateau in own] == [history["loss"][0][0], history["loss"][3][1]]


def test_hyperparameters_of_each_member_leave_float32_as_it_is(library):
    team = network(library, members=2, dtype="float32")
    optimizer = AdamW(np.asarray([0.1, 0.2]), weight_decay=[0.1, 0.2])
    fit(team, optimizer=optimizer, epochs=1, l1=[0.1, 0.2], l2=np.asarray([0.1, 0.2], "float32"))
    assert library.dtype_name(team.params) == "float32"
    loss, grad = team.loss_and_grad(library.make(X), LABELS, l1=[0.1, 0.2], l2=[0.0, 1.0])
    assert library.dtype_name(loss) == library.dtype_name(grad) == "float32"


@pytest.mark.parametrize("l1", [0.0, 0.5, (0.5, 0.0)])
def test_loss_and_grad_take_the_penalty_of_each_member(library, l1):
    """l1 sum |w| + l2/2 sum w^2 over the weights of the member, added to what is there without it."""
    team, l2, x = network(library, members=2, dtype="float64"), [2.0, 0.25], library.make(X, "float64")
    loss, grad = (library.to_numpy(a) for a in team.loss_and_grad(x, LABELS))
    got, got_grad = (library.to_numpy(a) for a in team.loss_and_grad(x, LABELS, l1=l1, l2=l2))
    weights = library.to_numpy(team.params) * library.to_numpy(team.decayed())
    each = np.broadcast_to(l1, (2,))[:, None], np.asarray(l2)[:, None]
    extra = (each[0] * np.abs(weights) + each[1] / 2 * weights**2).sum(axis=1)
    slope = each[0] * np.sign(weights) + each[1] * weights
    assert_within(got, loss + extra, tolerances.few_steps(loss + extra, "float64"))
    assert_within(got_grad, grad + slope, tolerances.first_gradient(grad + slope, "float64"))


def test_rates_may_be_an_array_of_any_library(library):
    given = SGD(library.make([0.5, 0.25], "float64"))
    assert given == SGD([0.5, 0.25]) == SGD((np.float32(0.5), 0.25))
    assert given.learning_rate == (0.5, 0.25)
    assert hash(given) == hash(SGD([0.5, 0.25]))
    assert all(type(rate) is float for rate in given.learning_rate)
    assert_same(given.row(0)[0], np.asarray([[0.5], [0.25]]))
    assert given.rate(7) == [0.5, 0.25]


def test_rates_of_each_member_serve_what_is_compiled_for_other_rates():
    pytest.importorskip("jax", reason="jax is not installed")
    from portnn.backends import jax as backend

    fits = []
    for rates in ([0.1, 0.2], [0.3, 0.4], 0.1):
        team = portnn.MLP([4, 3, 3], backend="jax", members=2)
        before = backend._compiled.cache_info().misses
        fit(team, optimizer=SGD(rates), epochs=1)
        fits.append((np.asarray(team.params), backend._compiled.cache_info().misses - before))
    assert [new for _, new in fits] == [1, 0, 0]
    assert not np.array_equal(fits[0][0], fits[1][0])
    bound = tolerances.BARS["sgd"]["float32"] * np.abs(fits[2][0]).max()
    assert_within(fits[0][0][0], fits[2][0][0], bound)


def test_penalties_of_each_member_make_a_step_of_their_own():
    model = portnn.MLP([4, 3, 3], members=2)
    loss = portnn.losses.get_loss("cross_entropy")
    steps = [portnn.step.make_step(model, loss, SGD(0.1), l2=l2) for l2 in ([0.1, 0.2], np.asarray([0.1, 0.2]), 0.1)]
    assert steps[0] == steps[1] != steps[2]


@pytest.mark.parametrize(
    ("rates", "off", "words"),
    [
        ([0.1, 1e30, 0.1], (1,), r"member 1 \(learning rate 1e\+30\): the outputs of layer 1 are NaN or infinity"),
        (lambda step: 1e30, (0, 1, 2), "member 0: the outputs of layer 1 are NaN or infinity"),
        (
            [0.1, 0.1, lambda step: (0.1, 1e30, 7.0, 7.0)[step]],
            (2,),
            r"member 2 \(learning rate 7\): the outputs of layer 1",
        ),
    ],
    ids=["its-own", "all", "schedule"],
)
def test_a_nan_names_the_member_and_its_rate(library, rates, off, words):
    """A rate of 1e30 is survived by one step; what is named is the rate of the step that is not."""
    team = network(library, members=3, seed=SEED, activation="identity")
    match = rf"^fit: epoch \d, batch \d: {words}.*; the model keeps its last finite parameters\. "
    with uncompiled(library), pytest.raises(portnn.NonFiniteError, match=match) as caught:
        fit(team, epochs=2, optimizer=SGD(rates))
    assert caught.value.members == off
    assert np.isfinite(library.to_numpy(team.params)).all()
    assert pickle.loads(pickle.dumps(caught.value)).members == off


def test_a_nan_is_looked_for_in_the_member_that_is_named(library):
    """The penalty of member 0 overflows, though the outputs of member 1, an earlier place, do so as well."""
    team = network(library, members=2, activation="identity")
    params = np.array(library.to_numpy(team.params))
    params[1] = 1e30
    team.params = params
    with uncompiled(library), pytest.raises(portnn.NonFiniteError, match="member 0: the penalty is NaN") as caught:
        fit(team, l2=[3e38, 0.0])
    assert caught.value.members == (0, 1)
    assert_same(library.to_numpy(team.params), params)


def test_a_nan_of_a_single_network_is_in_no_member():
    with pytest.raises(portnn.NonFiniteError, match=r"^fit: epoch 1, batch 2: the outputs of") as caught:
        fit(portnn.MLP([4, 6, 3], activation="identity"), optimizer=SGD(1e30))
    assert caught.value.members == ()


# -- one member, or some ----------------------------------------------------------------------------------------------


@pytest.fixture
def team(library):
    """Three members with seeds of their own, and parameters that are no longer those of the start."""
    model = network(library, members=3, seed=[7, 2**64 - 1, 30], dtype="float64", bias=[True, False])
    model.params = np.random.default_rng(3).normal(size=model.params.shape)
    return model


def test_a_member_is_a_network_of_its_own(library, team):
    before, x = library.to_numpy(team.params), library.make(X, "float64")
    for i, member in enumerate(team):
        assert (member.members, member.seed, member.sizes, member.dtype) == (None, team.seed[i], [4, 6, 3], "float64")
        assert_same(library.to_numpy(member.params), before[i])
        expected = library.to_numpy(team(x))[i]
        assert_within(library.to_numpy(member(x)), expected, tolerances.few_steps(expected, "float64"))
        fit(member, epochs=1)
        assert not np.array_equal(library.to_numpy(member.params), before[i])
    for some in (team[1], team[1:]):
        some.params *= 0.0  # in place, where the library can
    assert_same(library.to_numpy(team.params), before)
    member = team[0]
    fit(team, epochs=1)
    assert_same(library.to_numpy(member.params), before[0])


@pytest.mark.parametrize(
    ("index", "numbers"),
    [
        (0, 0),
        (-1, 2),
        (np.int32(1), 1),
        (slice(2), [0, 1]),
        (slice(None, None, -2), [2, 0]),
        ([2, -3, 2], [2, 0, 2]),
        ((1,), [1]),
        (np.asarray([1, 0]), [1, 0]),
        (range(1, 3), [1, 2]),
    ],
    ids=repr,
)
def test_some_of_the_members(library, team, index, numbers):
    some = team[index]
    assert_same(library.to_numpy(some.params), library.to_numpy(team.params)[numbers])
    assert some.seed == (team.seed[numbers] if isinstance(numbers, int) else [team.seed[i] for i in numbers])
    assert some.members == (None if isinstance(numbers, int) else len(numbers))


def test_a_member_keeps_the_seed_that_it_started_from(library):
    team = network(library, members=3, seed=2**64 - 1)
    assert [member.seed for member in team] == [2**64 - 1, 0, 1]
    for some in (team[1], team[1:]):
        twin = network(library, seed=some.seed, members=some.members)
        assert_same(library.to_numpy(some.params), library.to_numpy(twin.params))


def test_a_member_is_saved_and_moved_like_any_network(library, team, tmp_path):
    for some in (team[1], team[[2, 0]]):
        some.save(tmp_path / "some.safetensors")
        read = portnn.MLP.load(tmp_path / "some.safetensors")
        assert_same(read.params, library.to_numpy(some.params))
        assert (read.members, read.seed) == (some.members, some.seed)
        there = some.to(backend="numpy", dtype="float32")
        assert_same(there.params, library.to_numpy(some.params).astype("float32"))
        assert library.backend.owns(some.params)


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        (3, IndexError, "^MLP: there is no member 3; the 3 members have the numbers 0 to 2$"),
        (-4, IndexError, "^MLP: there is no member -4; "),
        ([0, 3], IndexError, "^MLP: there is no member 3; "),
        (slice(3, 9), IndexError, r"^MLP: slice\(3, 9, None\) chooses none of the 3 members$"),
        ([], IndexError, r"^MLP: \[\] chooses none of the 3 members$"),
        *(
            (index, TypeError, "^MLP: a member has a whole number, several a slice or a sequence of them; got ")
            for index in (True, 1.0, "0", None, [True, 0], np.ones((1, 1), dtype=int))
        ),
        *(
            (
                mask,
                TypeError,
                r"^MLP: a mask .* chooses no members; give their numbers: model\[numpy.flatnonzero\(mask\)\]$",
            )
            for mask in ([True, False, True], (False, False, False), np.ones(3, dtype=bool))
        ),
    ],
    ids=repr,
)
def test_what_is_no_member(team, index, error, words):
    with pytest.raises(error, match=words):
        team[index]


def test_a_single_network_has_no_members_but_is_true(library, team):
    single = network(library)
    for use in (lambda: single[0], lambda: iter(single), lambda: len(single)):
        with pytest.raises(TypeError, match=r"^MLP: the model is a single network, .*; make it with members=M$"):
            use()
    assert all(map(bool, (single, team, team[0])))
    assert (len(team), len(team[1:]), len(list(team))) == (3, 2, 3)


# -- what they say together -------------------------------------------------------------------------------------------

KINDS = {
    "classes": lambda y: (
        np.exp(y - y.max(-1, keepdims=True)) / np.exp(y - y.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "binary": lambda y: 1.0 / (1.0 + np.exp(-y)),
    "values": lambda y: y,
}


def together(outputs: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and spread by their definition, from the raw outputs of the members."""
    p = KINDS[kind](outputs.astype(np.longdouble))
    return p.mean(axis=0), np.sqrt(((p - p.mean(axis=0)) ** 2).mean(axis=0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_host", [True, False], ids=["host", "device"])
def test_mean_and_spread_of_what_the_members_predict(library, monkeypatch, kind, dtype, on_host):
    monkeypatch.setattr(evaluation, "CHUNK_ROWS", 3 * 15)  # three blocks
    team = network(library, members=3, dtype=dtype)
    x = X if on_host else library.make(X)
    got = portnn.ensemble_predict(team, x, kind=kind)
    outputs = np.stack([portnn.predict(member, X) for member in team])
    for name, expected in zip(("mean", "spread"), together(outputs, kind), strict=True):
        a = getattr(got, name)
        a = a if on_host else library.to_numpy(a)
        assert a.dtype == dtype
        assert_within(a, expected, tolerances.few_steps(outputs, dtype))


def test_the_members_are_asked_for_few_samples_at_a_time(monkeypatch):
    """The outputs of all members together have as many rows as those of one network in predict."""
    team, asked, forward = portnn.MLP([4, 3], members=5), [], evaluation.forward
    monkeypatch.setattr(
        evaluation, "forward", lambda a, p, x, **zero: asked.append(x.shape[0]) or forward(a, p, x, **zero)
    )
    portnn.ensemble_predict(team, np.ones((4000, 4)), kind="values")
    assert asked == [1638, 1638, 724]
    monkeypatch.setattr(evaluation, "CHUNK_ROWS", 2)
    assert portnn.ensemble_predict(team, np.ones((3, 4)), kind="values").mean.shape == (3, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_agree_have_no_spread(library, kind):
    for members in (1, 3):
        team = network(library, members=members, seed=[9] * members)
        mean, spread = portnn.ensemble_predict(team, X, kind=kind)
        assert_same(spread, np.zeros((len(X), 3), "float32"))
        expected = KINDS[kind](portnn.predict(team[0], X).astype("float64"))
        assert_within(mean, expected, tolerances.few_steps(expected, "float32"))


def test_large_outputs_of_members_neither_overflow_nor_lose_their_spread(library):
    """Squares of 1e30 overflow float32; of 1e6 and 1e6 + 1 they have no digits left for the difference."""
    team = network(library, 1, 2, members=2, bias=False, activation="identity")
    for weights in ([[1e30, 1e4], [-1e30, 3e4]], [[1e6, 0.0], [1e6 + 1.0, 0.0]]):
        team.params = np.asarray(weights, "float32")
        one = np.ones((1, 1), "float32")
        for kind in KINDS:
            got = portnn.ensemble_predict(team, one, kind=kind)
            with np.errstate(over="ignore"):
                expected = together(np.asarray(weights)[:, None, :], kind)
            for a, b in zip(got, expected, strict=True):
                assert_within(a, b, 4.0 * tolerances.rounded(b, "float32"))


@pytest.mark.parametrize(
    ("options", "kind", "error", "words"),
    [
        ({}, "classes", TypeError, "^ensemble_predict: the model is a single network; use predict, or make it with "),
        ({"members": 2}, "class", ValueError, "^unknown kind of ensemble_predict 'class': .*; did you mean 'classes'"),
        (
            {"members": 2},
            None,
            ValueError,
            "^unknown kind of ensemble_predict None: expected one of 'classes', 'binary'",
        ),
    ],
)
def test_what_members_cannot_predict(options, kind, error, words):
    with pytest.raises(error, match=words):
        portnn.ensemble_predict(portnn.MLP([4, 3], **options), X, kind=kind)


def test_one_output_is_no_choice_of_classes():
    with pytest.raises(ValueError, match=r"wants an output per class, the network has 1 in all; use 'binary'$"):
        portnn.ensemble_predict(portnn.MLP([4, 1], members=2), X, kind="classes")
    assert portnn.ensemble_predict(portnn.MLP([4, 1], members=2), X, kind="binary").mean.shape == (len(X), 1)
