"""Learning rates against torch.optim.lr_scheduler, and against numbers that one can see are right."""

import math
import pickle

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

import portnn
from portnn import schedules
from portnn.schedules import ReduceOnPlateau

RATE, STEPS = 0.3, 60

# id -> (ours, name in torch, its options)
CASES = {
    "step": (schedules.step_decay(RATE, every=7, factor=0.5), "StepLR", {"step_size": 7, "gamma": 0.5}),
    "exponential": (schedules.exponential(RATE, every=1, factor=0.9), "ExponentialLR", {"gamma": 0.9}),
    "exponential-slow": (schedules.exponential(RATE, every=10, factor=0.5), "ExponentialLR", {"gamma": 0.5**0.1}),
    "cosine": (schedules.cosine(RATE, STEPS, final=0.01), "CosineAnnealingLR", {"T_max": STEPS, "eta_min": 0.01}),
    "one-cycle": (schedules.one_cycle(RATE, STEPS), "OneCycleLR", {"max_lr": RATE, "total_steps": STEPS}),
    "one-cycle-options": (
        schedules.one_cycle(RATE, STEPS, rise=0.45, start=0.1, final=0.02),
        "OneCycleLR",
        {"max_lr": RATE, "total_steps": STEPS, "pct_start": 0.45, "div_factor": 10.0, "final_div_factor": 50.0},
    ),
    "constant": (schedules.constant(RATE), "ConstantLR", {"factor": 1.0}),
}


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES.values(), ids=CASES)
def test_every_step_is_that_of_torch(ours, theirs, options):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
    scheduler = getattr(torch.optim.lr_scheduler, theirs)(optimizer, **options)
    expected = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # torch multiplies from step to step, so that its roundings add up
    assert_within([ours(step) for step in range(STEPS)], expected, tolerances.trajectory(RATE, STEPS))


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (schedules.constant(0.5), {0: 0.5, 10**9: 0.5}),
        (schedules.step_decay(1.0, every=10, factor=0.5), {0: 1.0, 9: 1.0, 10: 0.5, 19: 0.5, 20: 0.25}),
        (schedules.exponential(1.0, every=2, factor=0.25), {0: 1.0, 1: 0.5, 2: 0.25, 4: 0.0625}),
        (schedules.inverse_scaling(1.0), {0: 1.0, 3: 0.5, 99: 0.1}),
        (schedules.inverse_scaling(2.0, power=1.0), {0: 2.0, 1: 1.0, 9: 0.2}),
        # three steps of warm-up, then half a cosine of six: its middle at step 6
        (
            schedules.cosine(1.0, 9, warmup=3),
            {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 5: 0.75, 6: 0.5, 7: 0.25, 9: 0.0, 99: 0.0},
        ),
        (schedules.cosine(1.0, 4, final=0.5), {0: 1.0, 2: 0.75, 4: 0.5, 5: 0.5}),
        (schedules.one_cycle(1.0, 12, rise=0.5, start=0.5, final=0.0), {0: 0.5, 5: 1.0, 8: 0.5, 11: 0.0, 50: 0.0}),
    ],
    ids=lambda x: "" if isinstance(x, dict) else x.name,
)
def test_values_by_hand(schedule, values):
    for step, value in values.items():
        assert_within(schedule(step), value, tolerances.few_steps(1.0, "float64"))
    assert all(isinstance(schedule(step), float) for step in range(5))


@pytest.mark.parametrize("threshold", [1e-4, 0.1])
@pytest.mark.parametrize("patience", [0, 2])
def test_reduce_on_plateau_is_that_of_torch(patience, threshold):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, threshold=threshold, min_lr=0.01, eps=0.0
    )
    ours = ReduceOnPlateau(RATE, factor=0.5, patience=patience, threshold=threshold, minimum=0.01)
    losses = [
        3.0,
        2.0,
        2.0,
        1.95,
        1.9,
        1.89999,
        1.9,
        2.0,
        0.5,
        *[0.5] * 10,
        0.1,
        0.1,
        math.nan,
        0.1,
        0.1,
        0.1,
        -1.0,
        -1.0,
    ]
    for loss in losses:
        assert ours(0) == optimizer.param_groups[0]["lr"]
        theirs.step(loss)
        ours.observe(loss)
    assert ours(0) < RATE


@pytest.mark.parametrize("validation", [True, False])
def test_fit_shows_the_plateau_its_losses(validation):
    seen = []

    class Watch(ReduceOnPlateau):
        def observe(self, loss):
            seen.append(loss)
            super().observe(loss)

    x, t = np.ones((4, 1)), np.ones((4, 1))
    more = {"validation_data": (2.0 * x, t)} if validation else {}
    model = portnn.MLP([1, 1], dtype="float64")
    history = portnn.fit(
        model, x, t, loss="mse", optimizer=portnn.SGD(Watch(0.1)), epochs=3, batch_size=4, progress=False, **more
    )
    assert seen == history["val_loss" if validation else "loss"]


def test_update_number_k_takes_the_rate_of_step_k(library):
    """Three batches an epoch, the schedule counts updates from 0 over both epochs: rates 1/2, 1/4, ... 1/64."""
    model = portnn.MLP([1, 1], bias=False, init="zeros", dtype="float64", **library.where)

    def slope_one(y, t):
        return y[..., 0], lambda dvalues: (dvalues[..., None],)

    history = portnn.fit(
        model,
        library.make(np.ones((3, 1))),
        np.zeros((3, 1)),
        loss=slope_one,
        optimizer=portnn.SGD(lambda step: 0.5 ** (step + 1)),
        epochs=2,
        batch_size=1,
        progress=False,
    )
    assert_same(library.to_numpy(model.params), np.asarray([-(1.0 - 0.5**6)]))
    assert history["learning_rate"] == [0.5**3, 0.5**6]


def test_a_minimum_above_the_rate_does_not_raise_it():
    rate = ReduceOnPlateau(0.1, patience=0, minimum=1.0)
    for _ in range(3):
        rate.observe(1.0)
    assert rate(0) == 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: schedules.step_decay(1.0, every=0), "step_decay: every must be a whole number of at least 1, got 0"),
        (
            lambda: schedules.exponential(1.0, every=0, factor=0.5),
            "exponential: every must be a whole number of at least 1, got 0",
        ),
        (lambda: schedules.cosine(1.0, steps=3, warmup=3), "cosine: steps must be a whole number of at least 4, got 3"),
        (
            lambda: schedules.cosine(1.0, steps=3, warmup=-1),
            "cosine: warmup must be a whole number of at least 0, got -1",
        ),
        (lambda: schedules.one_cycle(1.0, steps=1), "one_cycle: steps must be a whole number of at least 2, got 1"),
        (lambda: schedules.one_cycle(1.0, steps=9, rise=1.0), r"one_cycle: rise must be a number in \(0, 1\), got 1.0"),
        (lambda: ReduceOnPlateau(1.0, factor=1.0), r"ReduceOnPlateau: factor must be a number in \(0, 1\), got 1.0"),
        (lambda: ReduceOnPlateau(1.0, factor="a"), r"ReduceOnPlateau: factor must be a number in \(0, 1\), got 'a'"),
        (lambda: portnn.SGD(lambda step: math.nan).row(3), "the schedule gave learning rate nan at step 3"),
        (lambda: portnn.SGD(lambda step: -1.0).row(0), "the schedule gave learning rate -1.0 at step 0"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: schedules.constant(0.1), lambda: schedules.step_decay(1.0, 3), lambda: schedules.one_cycle(1.0, 20)),
        *(lambda: schedules.exponential(1.0, 3, 0.5), lambda: schedules.inverse_scaling(1.0)),
        *(lambda: schedules.cosine(1.0, 20, 2, 0.1), lambda: schedules.ReduceOnPlateau(0.3)),
    ],
)
def test_a_schedule_can_be_pickled_and_an_optimizer_with_it(make):
    rates = [make()(step) for step in range(25)]
    assert [pickle.loads(pickle.dumps(make()))(step) for step in range(25)] == rates
    other = pickle.loads(pickle.dumps(portnn.Adam(make())))
    assert [other.rate(step) for step in range(25)] == rates
