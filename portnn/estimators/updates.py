"""SGD and Adam as scikit-learn writes them, and its learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from portnn import optimizers
from portnn.backends import Array, namespace
from portnn.members import column
from portnn.optimizers import Optimizer, State


@dataclass(frozen=True)
class SGD(Optimizer):
    """u <- momentum u - rate g; p <- p + u, or with Nesterov's step p <- p + momentum u - rate g.

    :class:`portnn.SGD` keeps v = -u / rate, which differs while the rate changes.

    Examples
    --------
    >>> import numpy as np
    >>> sgd, p = SGD(0.5, momentum=0.9, nesterov=False), np.asarray([1.0])
    >>> sgd.update(p, np.asarray([1.0]), sgd.init(p), sgd.row(0))[0]
    array([0.5])

    """

    momentum: float = 0.9
    nesterov: bool = True

    def init(self, params: Array) -> State:
        """Return the velocity u."""
        return {"velocity": namespace(params).zeros_like(params)}

    def update(
        self, params: Array, grad: Array, state: State, h: Sequence[Any], decayed: Array | None = None
    ) -> tuple[Array, State]:
        """One step; h = (rate,)."""
        velocity = state["velocity"]
        grad *= h[0]
        velocity *= self.momentum
        velocity -= grad
        if self.nesterov:
            params += velocity * self.momentum
            params -= grad
        else:
            params += velocity
        return params, {"velocity": velocity}


@dataclass(frozen=True)
class Adam(optimizers.Adam):
    """p <- p - rate sqrt(1 - beta2^k) / (1 - beta1^k) m / (sqrt(v) + eps), with m, v before their correction.

    :class:`portnn.Adam` adds eps to the corrected root, which is the same as eps / sqrt(1 - beta2^k) here.

    Examples
    --------
    >>> import numpy as np
    >>> adam, p = Adam(0.1, eps=1.0), np.asarray([1.0])
    >>> p, _ = adam.update(p, np.asarray([1.0]), adam.init(np.zeros(1)), adam.row(0))
    >>> bool(abs(p[0] - (1.0 - 0.1 * 0.001**0.5 / (0.001**0.5 + 1.0))) < 1e-15)
    True

    """

    def row(self, step: int) -> tuple[Any, ...]:
        """Return (a, e) such that the step is a m / (sqrt(v) + e) in terms of bare sums; see :meth:`portnn.Adam.row`.

        a = rate sqrt(c2) (1 - beta1) / (c1 r), e = eps / r, with r = sqrt(1 - beta2) and c = 1 - beta^k.
        """
        c1, c2 = (1.0 if b == 0.0 else -math.expm1((step + 1) * math.log(b)) for b in (self.beta1, self.beta2))
        r = math.sqrt(1.0 - self.beta2)
        return column(self.rate(step)) * math.sqrt(c2) * (1.0 - self.beta1) / (c1 * r), self.eps / r


class Rate:
    """The learning rate in force: a schedule that is changed between epochs, never within one.

    ``"constant"`` stays; ``"invscaling"`` is initial / (t + 1)^power after t samples; ``"adaptive"`` is divided by 5
    whenever training would end, until it is 1e-6 or less.

    Examples
    --------
    >>> rate = Rate("adaptive", 4e-6, 0.5)
    >>> rate.ends(), rate(0), rate.ends()
    (False, 8e-07, True)

    """

    def __init__(self, kind: str, initial: float, power: float) -> None:
        self.kind, self.initial, self.power, self.learning_rate = kind, float(initial), power, float(initial)

    def __call__(self, step: int) -> float:
        """Return the rate in force, whatever the step."""
        return self.learning_rate

    def seen(self, samples: int) -> None:
        """Take note of the end of an epoch, after so many samples in all."""
        if self.kind == "invscaling":
            self.learning_rate = self.initial / (samples + 1) ** self.power

    def ends(self) -> bool:
        """Return whether training ends where nothing has improved for long; if not, the rate is smaller now."""
        if self.kind != "adaptive" or self.learning_rate <= 1e-6:
            return True
        self.learning_rate /= 5.0
        return False
