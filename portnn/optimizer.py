"""What an optimizer is: hyperparameters, the scalars of each step, and the update of the flat parameter vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from portnn.backends import Array
from portnn.errors import reason, shown
from portnn.members import column, entries, named, number
from portnn.schedules import Schedule

State = dict[str, Any]
Rate = float | Schedule


def check_range(who: str, name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    """Raise ValueError unless ``value`` is a finite number in [low, high), or (low, high).

    Examples
    --------
    >>> check_range("SGD", "momentum", 1.5, 0.0, 1.0)
    Traceback (most recent call last):
    ValueError: SGD: momentum must be a number in [0, 1), got 1.5

    """
    inside = isinstance(value, float) and low <= value < high and not (open_low and value == low)
    if not inside:
        left = "(" if open_low else "["
        raise ValueError(f"{who}: {name} must be a number in {left}{low:g}, {high:g}), got {shown(value)}")


def check_flag(who: str, name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is True or False: the text "no" would count as true.

    Examples
    --------
    >>> check_flag("SGD", "nesterov", "no")
    Traceback (most recent call last):
    ValueError: SGD: nesterov must be True or False, got 'no'

    """
    if not isinstance(value, bool):
        raise ValueError(f"{who}: {name} must be True or False, got {shown(value)}")


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers share: the learning rate, a positive number or a schedule ``f(step)``; or one per member."""

    per_member: ClassVar[tuple[str, ...]] = ("learning_rate",)  #: what may have one entry for each member
    by_layer: ClassVar[bool] = False  #: ``update`` also takes ``parts``: (slice, whether a weight) of each parameter

    learning_rate: Rate | Sequence[Rate]

    def __post_init__(self) -> None:
        """Check the hyperparameters; numbers become Python floats, and sequences of them tuples."""
        for name, value in vars(self).items():
            object.__setattr__(self, name, entries(value) if name in self.per_member else number(value))
        who, seen = type(self).__name__, dict[int, str]()
        for name, rate in named("learning_rate", self.learning_rate).items():
            if not callable(rate):
                check_range(who, name, rate, 0.0, math.inf, open_low=True)
            elif hasattr(rate, "observe") and seen.setdefault(id(rate), name) != name:
                first = seen[id(rate)]
                raise ValueError(
                    f"{who}: {first} and {name} are one schedule, which observes one loss; make one for each"
                )
        self.check(who)

    def check(self, who: str) -> None:
        """Check the hyperparameters of a subclass."""

    def rate(self, step: int) -> float | list[float]:
        """Return the learning rate of update number ``step``, counted from 0; a list where each member has its own."""
        if isinstance(self.learning_rate, tuple):
            return [self._rate(step, rate, f" of member {i}") for i, rate in enumerate(self.learning_rate)]
        return self._rate(step, self.learning_rate)

    def _rate(self, step: int, rate: Any, whose: str = "") -> float:
        if not callable(rate):
            return float(rate)
        try:
            value = float(rate(step))
        except (OverflowError, TypeError, ValueError) as error:  # such as a complex number, or one beyond float64
            said = f"{type(error).__name__}: {reason(error)}"
            message = f"{type(self).__name__}: the schedule{whose} gives no learning rate at step {step} ({said})"
            raise ValueError(message) from error
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{type(self).__name__}: the schedule{whose} gave learning rate {value} at step {step}")
        return value

    def init(self, params: Array) -> State:
        """Return the state at the start: arrays of the shape of ``params``."""
        return {}

    def row(self, step: int) -> tuple[Any, ...]:
        """Return the host scalars of update number ``step``, counted from 0; per member as vectors ``(members, 1)``."""
        return (column(self.rate(step)),)

    def rows(self, start: int, steps: int) -> list[tuple[Any, ...]]:
        """Return the rows of several updates from number ``start`` on."""
        rates = self.learning_rate if isinstance(self.learning_rate, tuple) else (self.learning_rate,)
        cls = type(self)
        own = cls.row is not Optimizer.row or cls.rate is not Optimizer.rate or cls._rate is not Optimizer._rate
        if not own and not any(map(callable, rates)):
            return [self.row(start)] * steps
        return [self.row(start + k) for k in range(steps)]

    def update(
        self, params: Array, grad: Array, state: State, h: Sequence[Any], decayed: Array | None = None
    ) -> tuple[Array, State]:
        """Return the next parameters and state.

        ``decayed`` is 1 for weights and 0 for biases (None: all are weights); only decoupled decay looks at it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update")  # pragma: no cover


def one_minus_power(beta: float, k: int) -> float:
    """Return 1 - beta^k.

    Numerical stability: through expm1, which keeps its digits when beta^k is near 1.

    Examples
    --------
    >>> round(one_minus_power(0.75, 1), 12), one_minus_power(0.0, 5)
    (0.25, 1.0)

    """
    return 1.0 if beta == 0.0 else -math.expm1(k * math.log(beta))
