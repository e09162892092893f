"""Updates for large batches: the step of each weight is as long as the weight itself, times the learning rate.

Large batches want large learning rates, for which the gradients of some layers are too long beside their weights and
those of others too short. What is scaled are the weights, each as one vector over all its entries; biases, gains and
shifts, few and small, take the step as it is, and do not decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from portnn.backends import Array, namespace
from portnn.members import column
from portnn.optimizer import Optimizer, Rate, State, check_flag, check_range, one_minus_power
from portnn.primitives import join

Parts = Sequence[tuple[slice, bool]]


def trusted(params: Array, step: Array, parts: Parts, trust: float, eps: float) -> Array:
    """Return the step of each weight w times trust |w| / (|step| + eps), or as it is where a length is 0.

    Parameters
    ----------
    params, step
        ``(..., n)``.
    parts
        For each parameter, in order, the slice of it and whether it is a weight; the others are left as they are.

    Examples
    --------
    >>> import numpy as np
    >>> parts = [(slice(0, 2), True), (slice(2, 3), False)]
    >>> trusted(np.asarray([3.0, 4.0, 7.0]), np.asarray([0.0, 2.0, 2.0]), parts, 1.0, 0.0)
    array([0., 5., 2.])

    """
    pieces = []
    for here, weight in parts:
        piece = step[..., here]
        if weight:
            size, length = _length(params[..., here]), _length(piece)
            xp = namespace(size)
            known = xp.logical_and(size > 0.0, length > 0.0)
            ratio = xp.where(known, trust * size / (length + eps), xp.ones_like(size))
            piece = piece * ratio
        pieces.append(piece)
    return join(namespace(step), pieces)


def _length(a: Array) -> Array:
    """Return the Euclidean norm over the last axis, which is kept.

    Numerical stability: the numbers are divided by the largest before they are squared, so that no square overflows.
    """
    xp = namespace(a)
    largest = xp.max(xp.abs(a), axis=-1, keepdims=True)
    unit = namespace(largest).where(largest > 0.0, largest, namespace(largest).ones_like(largest))
    scaled = a / unit
    return namespace(unit).sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True)) * unit


@dataclass(frozen=True)
class LARS(Optimizer):
    """v <- momentum v + rate r u, p <- p - v, with u = g + weight_decay p and r = trust |w| / (|u| + eps) per weight.

    With Nesterov's step p <- p - (momentum v + rate r u). r is 1 for biases, gains and shifts, which do not decay, and
    for a weight or a step of length 0. As optax.lars with both masks leaving those out; the paper divides by
    |g| + weight_decay |w| in the place of |u|.

    Source: You, Gitman, Ginsburg, "Large batch training of convolutional networks", arXiv 1708.03888.

    Examples
    --------
    >>> import numpy as np
    >>> lars, p = LARS(1.0, trust=0.1, momentum=0.0), np.asarray([3.0, 4.0])
    >>> lars.update(p, np.asarray([0.0, 1e-3]), {}, lars.row(0), parts=[(slice(0, 2), True)])[0]
    array([3. , 3.5])

    """

    by_layer: ClassVar[bool] = True

    learning_rate: Rate | Sequence[Rate] = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    trust: float = 1e-3
    eps: float = 0.0
    nesterov: bool = False

    def check(self, who: str) -> None:
        """Momentum in [0, 1), decay and eps at least 0, trust positive."""
        check_range(who, "momentum", self.momentum, 0.0, 1.0)
        check_range(who, "weight_decay", self.weight_decay, 0.0, math.inf)
        check_range(who, "trust", self.trust, 0.0, math.inf, open_low=True)
        check_range(who, "eps", self.eps, 0.0, math.inf)
        check_flag(who, "nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError(f"{who}: nesterov=True wants momentum > 0, got momentum={self.momentum}")

    def init(self, params: Array) -> State:
        """Return the velocity v, where there is momentum."""
        return {"velocity": namespace(params).zeros_like(params)} if self.momentum else {}

    def update(
        self,
        params: Array,
        grad: Array,
        state: State,
        h: Sequence[Any],
        decayed: Array | None = None,
        parts: Parts = (),
    ) -> tuple[Array, State]:
        """One step; h = (rate,)."""
        step = _decayed(grad, params, decayed, self.weight_decay)
        step = trusted(params, step, parts, self.trust, self.eps) * h[0]
        if self.momentum:
            velocity = state["velocity"]
            velocity *= self.momentum
            velocity += step
            state = {"velocity": velocity}
            step = step + velocity * self.momentum if self.nesterov else velocity
        params -= step
        return params, state


@dataclass(frozen=True)
class LAMB(Optimizer):
    """p <- p - rate r u, u = m / (sqrt(v) + eps) + weight_decay p, r = |w| / |u| per weight; m, v are those of Adam.

    r is 1 for biases, gains and shifts, which do not decay, and for a weight or a step of length 0. As the parts of
    optax.lamb in a chain, with masks on decay and trust ratio; itself it scales biases, too. Source: You et al., "Large
    batch optimization for deep learning: training BERT in 76 minutes", ICLR 2020, algorithm 2 with the identity for its
    function of |w|.

    Examples
    --------
    >>> import numpy as np
    >>> lamb, p = LAMB(0.1, eps=1e-12), np.asarray([3.0, 4.0])
    >>> p, _ = lamb.update(p, np.asarray([7.0, -7.0]), lamb.init(p), lamb.row(0), parts=[(slice(0, 2), True)])
    >>> p.round(6)  # a step of length 0.5 along (1, -1)
    array([2.646447, 4.353553])

    """

    by_layer: ClassVar[bool] = True

    learning_rate: Rate | Sequence[Rate] = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.0

    def check(self, who: str) -> None:
        """Betas in [0, 1), eps positive, decay at least 0."""
        check_range(who, "beta1", self.beta1, 0.0, 1.0)
        check_range(who, "beta2", self.beta2, 0.0, 1.0)
        check_range(who, "eps", self.eps, 0.0, math.inf, open_low=True)
        check_range(who, "weight_decay", self.weight_decay, 0.0, math.inf)

    def init(self, params: Array) -> State:
        """Return the sums of g and g^2, without their factors 1 - beta, as Adam's."""
        return {name: namespace(params).zeros_like(params) for name in ("m", "v")}

    def row(self, step: int) -> tuple[Any, ...]:
        """Return (rate, a, e) such that Adam's step is a m / (sqrt(v) + e) in terms of the bare sums."""
        c1, c2 = (one_minus_power(beta, step + 1) for beta in (self.beta1, self.beta2))
        r = math.sqrt((1.0 - self.beta2) / c2)
        return column(self.rate(step)), (1.0 - self.beta1) / (c1 * r), self.eps / r

    def update(
        self,
        params: Array,
        grad: Array,
        state: State,
        h: Sequence[Any],
        decayed: Array | None = None,
        parts: Parts = (),
    ) -> tuple[Array, State]:
        """One step; h = (rate, a, e), see :meth:`row`."""
        m, v = state["m"], state["v"]
        m *= self.beta1
        m += grad
        v *= self.beta2
        v += grad * grad
        step = m / (namespace(v).sqrt(v) + h[2]) * h[1]
        step = _decayed(step, params, decayed, self.weight_decay)
        params -= trusted(params, step, parts, 1.0, 0.0) * h[0]
        return params, {"m": m, "v": v}


def _decayed(step: Array, params: Array, decayed: Array | None, weight_decay: float) -> Array:
    """Return a step with the decay of the weights."""
    if not weight_decay:
        return step
    decay = params * weight_decay
    return step + (decay if decayed is None else decay * decayed)
