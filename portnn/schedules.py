"""Learning rates as functions of the number of the step.

A schedule is any ``f(step) -> learning rate``; ``step`` counts the optimizer's updates from 0. It is evaluated on the
host in float64. A plain number is a constant one. One that has ``observe(loss)`` is shown the loss of every epoch; so
that a checkpoint can keep what it has seen, it must also have ``state()``, which returns a dict of arrays and JSON
values, and ``restore(state)``. Those of this module can be pickled, and optimizers with them.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from portnn.errors import shown
from portnn.members import number

Schedule = Callable[[int], float]


class Formula:
    """A schedule that is a pure function of the step, and says what it was made from.

    Examples
    --------
    >>> step_decay(1.0, every=10)
    step_decay(learning_rate=1.0, every=10, factor=0.1)

    """

    def __init__(self, f: Schedule, name: str, **arguments: float) -> None:
        self.f, self.name, self.arguments = f, name, arguments

    def __call__(self, step: int) -> float:
        """Return the rate of update number ``step``."""
        return self.f(step)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the call that made it: what it runs is a function within that function."""
        return _made, (self.name, self.arguments)

    def __repr__(self) -> str:
        """Show the call that made it."""
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


def _made(name: str, arguments: dict[str, float]) -> Schedule:
    schedule: Schedule = globals()[name](**arguments)
    return schedule


def constant(learning_rate: float) -> Schedule:
    """Return the schedule that is always ``learning_rate``.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1

    """
    learning_rate = _number("constant", "learning_rate", learning_rate)
    return Formula(lambda step: learning_rate, "constant", learning_rate=learning_rate)


def step_decay(learning_rate: float, every: int, factor: float = 0.1) -> Schedule:
    """Return learning_rate factor^floor(step / every).

    Examples
    --------
    >>> f = step_decay(1.0, every=10, factor=0.5)
    >>> f(9), f(10), f(25)
    (1.0, 0.5, 0.25)

    """
    who, every = "step_decay", _count("step_decay", "every", every, 1)
    learning_rate, factor = _number(who, "learning_rate", learning_rate), _number(who, "factor", factor)
    arguments = {"learning_rate": learning_rate, "every": every, "factor": factor}
    return Formula(lambda step: learning_rate * factor ** (step // every), who, **arguments)


def exponential(learning_rate: float, every: int, factor: float) -> Schedule:
    """Return learning_rate factor^(step / every).

    Examples
    --------
    >>> exponential(1.0, every=2, factor=0.25)(1)
    0.5

    """
    who, every = "exponential", _count("exponential", "every", every, 1)
    learning_rate, factor = _number(who, "learning_rate", learning_rate), _number(who, "factor", factor)
    arguments = {"learning_rate": learning_rate, "every": every, "factor": factor}
    return Formula(lambda step: learning_rate * factor ** (step / every), who, **arguments)


def inverse_scaling(learning_rate: float, power: float = 0.5) -> Schedule:
    """Return learning_rate / (step + 1)^power, scikit-learn's ``invscaling``.

    Examples
    --------
    >>> inverse_scaling(1.0)(3)
    0.5

    """
    who = "inverse_scaling"
    learning_rate, power = _number(who, "learning_rate", learning_rate), _number(who, "power", power)
    arguments = {"learning_rate": learning_rate, "power": power}
    return Formula(lambda step: learning_rate / (step + 1) ** power, who, **arguments)


def cosine(learning_rate: float, steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Return a linear rise over ``warmup`` steps, then half a cosine from ``learning_rate`` to ``final`` at ``steps``.

    With k = (step - warmup) / (steps - warmup): final + (learning_rate - final)(1 + cos(pi k)) / 2. The first step of
    a warm-up has learning_rate / (warmup + 1), not 0. Source: Loshchilov, Hutter, "SGDR", ICLR 2017, equation 5.

    Examples
    --------
    >>> f = cosine(1.0, steps=10, warmup=1)
    >>> f(0), f(1), f(10), f(99)
    (0.5, 1.0, 0.0, 0.0)

    """
    who, warmup = "cosine", _count("cosine", "warmup", warmup, 0)
    steps = _count(who, "steps", steps, warmup + 1)
    learning_rate, final = _number(who, "learning_rate", learning_rate), _number(who, "final", final)

    def f(step: int) -> float:
        if step < warmup:
            return learning_rate * (step + 1) / (warmup + 1)
        k = min((step - warmup) / (steps - warmup), 1.0)
        return final + (learning_rate - final) * 0.5 * (1.0 + math.cos(math.pi * k))

    return Formula(f, who, learning_rate=learning_rate, steps=steps, warmup=warmup, final=final)


def one_cycle(
    learning_rate: float, steps: int, rise: float = 0.3, start: float = 1 / 25, final: float = 1e-4
) -> Schedule:
    """Return half a cosine up to ``learning_rate`` over the fraction ``rise`` of ``steps``, then one down.

    It begins at start * learning_rate and ends, at step ``steps - 1``, at final * start * learning_rate, as
    torch's OneCycleLR does. Source: Smith, Topin, "Super-convergence", arXiv 1708.07120.

    Examples
    --------
    >>> f = one_cycle(1.0, steps=12, rise=0.5, start=0.5, final=0.0)
    >>> f(0), f(5), round(f(11), 12)
    (0.5, 1.0, 0.0)

    """
    who, steps = "one_cycle", _count("one_cycle", "steps", steps, 2)
    learning_rate, start, final = (
        _number(who, name, value)
        for name, value in (("learning_rate", learning_rate), ("start", start), ("final", final))
    )
    rise = _fraction(who, "rise", rise)
    peak = max(rise * steps - 1.0, 0.0)

    def f(step: int) -> float:
        low, high = start * learning_rate, learning_rate
        if step <= peak:
            k = step / peak if peak else 1.0
        else:
            low, k = low * final, 1.0 - min((step - peak) / (steps - 1.0 - peak), 1.0)
        return low + (high - low) * 0.5 * (1.0 - math.cos(math.pi * k))

    arguments = {"learning_rate": learning_rate, "steps": steps, "rise": rise, "start": start, "final": final}
    return Formula(f, who, **arguments)


def linear_scaling(
    learning_rate: float, batch_size: int, reference: int = 256, warmup: int = 0, steps: int | None = None
) -> Schedule:
    """Return a rate for large batches: learning_rate batch_size / reference, after a rise over ``warmup`` steps.

    The rise is linear, from ``learning_rate``, which suits batches of ``reference`` samples. With ``steps`` half a
    cosine follows, down to 0 at that step. Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in
    1 hour", arXiv 1706.02677, section 2.2.

    Examples
    --------
    >>> f = linear_scaling(0.1, batch_size=1024, warmup=3)
    >>> [round(f(step), 12) for step in range(5)]
    [0.1, 0.2, 0.3, 0.4, 0.4]

    """
    who, warmup = "linear_scaling", _count("linear_scaling", "warmup", warmup, 0)
    batch_size, reference = _count(who, "batch_size", batch_size, 1), _count(who, "reference", reference, 1)
    steps = None if steps is None else _count(who, "steps", steps, warmup + 1)
    learning_rate = _number(who, "learning_rate", learning_rate)
    peak = learning_rate * batch_size / reference

    def f(step: int) -> float:
        if step < warmup:
            return learning_rate + (peak - learning_rate) * step / warmup
        k = 0.0 if steps is None else min((step - warmup) / (steps - warmup), 1.0)
        return peak * 0.5 * (1.0 + math.cos(math.pi * k))

    arguments = {"learning_rate": learning_rate, "batch_size": batch_size, "reference": reference, "warmup": warmup}
    return Formula(f, who, **arguments, **({} if steps is None else {"steps": steps}))


@dataclass(repr=False)
class ReduceOnPlateau:
    """Multiply the rate by ``factor`` when the loss has not fallen for ``patience`` epochs.

    ``fit`` calls :meth:`observe` after each epoch with the validation loss, or the training loss where there is none.
    A fall counts when it is by more than threshold |best|. The rate does not go below ``minimum``, and never rises.

    Examples
    --------
    >>> rate = ReduceOnPlateau(1.0, factor=0.5, patience=0)
    >>> rate.observe(3.0), rate(0), rate.observe(3.0), rate(0)
    (None, 1.0, None, 0.5)

    """

    learning_rate: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    minimum: float = 0.0
    best: float = field(default=math.inf, init=False)
    bad_epochs: int = field(default=0, init=False)
    current: float = field(default=math.nan, init=False)

    def __post_init__(self) -> None:
        """Check the arguments, and start at the full rate."""
        who = type(self).__name__
        for name in ("learning_rate", "threshold", "minimum"):
            setattr(self, name, _number(who, name, getattr(self, name)))
        self.factor, self.patience = _fraction(who, "factor", self.factor), _count(who, "patience", self.patience, 0)
        self.current = self.learning_rate

    def __call__(self, step: int) -> float:
        """Return the rate in force."""
        return self.current

    def observe(self, loss: float) -> None:
        """Take note of the loss of an epoch."""
        if self.best == math.inf or loss < self.best - self.threshold * abs(self.best):
            self.best, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs > self.patience:
            self.current = min(self.current, max(self.current * self.factor, self.minimum))
            self.bad_epochs = 0

    def __repr__(self) -> str:
        """Show the call that made it, and not what it has seen since."""
        arguments = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.init)
        return f"ReduceOnPlateau({arguments})"

    def state(self) -> dict[str, Any]:
        """Return what it has seen, for a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.init}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Examples
        --------
        >>> seen, rate = ReduceOnPlateau(1.0, factor=0.5, patience=0), ReduceOnPlateau(1.0, factor=0.5, patience=0)
        >>> seen.observe(3.0), rate.restore(seen.state()), rate.observe(3.0), rate(0)
        (None, None, None, 0.5)

        """
        best, current, bad_epochs = float(state["best"]), float(state["current"]), int(state["bad_epochs"])
        if not (0.0 <= current < math.inf and bad_epochs >= 0):
            raise ValueError(f"ReduceOnPlateau: this is not what one has seen: {shown(state)}")
        self.best, self.current, self.bad_epochs = best, current, bad_epochs


def _count(who: str, name: str, value: object, least: int) -> int:
    """Return a whole number of at least ``least`` as a Python int."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < least:
        raise ValueError(f"{who}: {name} must be a whole number of at least {least}, got {shown(value)}")
    return int(value)


def _number(who: str, name: str, value: object) -> float:
    """Return a finite number of at least 0 as a Python float."""
    given = number(value)
    if not isinstance(given, float) or not math.isfinite(given) or given < 0.0:
        raise ValueError(f"{who}: {name} must be a finite number >= 0, got {shown(value)}")
    return given


def _fraction(who: str, name: str, value: object) -> float:
    """Return a number in (0, 1) as a Python float."""
    given = number(value)
    if not isinstance(given, float) or not 0.0 < given < 1.0:
        raise ValueError(f"{who}: {name} must be a number in (0, 1), got {shown(value)}")
    return given
