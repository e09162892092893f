"""Updates of the flat parameter vector, as the papers print them.

An optimizer holds hyperparameters only. ``init(params)`` makes its arrays; ``row(step)`` computes on the host, in
float64, the scalars that change from step to step; ``update(params, grad, state, h)`` applies one step with the row
``h`` and returns ``(params, state)``. What is handed to ``update`` is given up: arrays that can be changed are changed
in place, which is why the returned ones are the ones to use.

With members the learning rate may be a sequence, one number or schedule for each. ``row`` then gives vectors
``(members, 1)``, which go with ``params`` of shape ``(members, n_params)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from portnn.backends import Array, namespace, one_of
from portnn.layerwise import LAMB, LARS
from portnn.members import column, named
from portnn.optimizer import Optimizer, Rate, State, check_flag, check_range, one_minus_power

__all__ = [
    "LAMB",
    "LARS",
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "State",
    "get_optimizer",
]


@dataclass(frozen=True)
class SGD(Optimizer):
    """p <- p - rate v, with v <- momentum v + g; with Nesterov's step p <- p - rate (g + momentum v).

    The same as torch.optim.SGD. scikit-learn keeps rate * v in its velocity, which differs only while the rate changes.
    Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> sgd = SGD(0.5, momentum=0.9)
    >>> p, state = np.asarray([1.0]), sgd.init(np.asarray([1.0]))
    >>> for k in range(2):
    ...     p, state = sgd.update(p, np.asarray([1.0]), state, sgd.row(k))
    >>> p
    array([-0.45])

    """

    momentum: float = 0.0
    nesterov: bool = False

    def check(self, who: str) -> None:
        """Momentum in [0, 1); Nesterov only with it."""
        check_range(who, "momentum", self.momentum, 0.0, 1.0)
        check_flag(who, "nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError(f"{who}: nesterov=True wants momentum > 0, got momentum={self.momentum}")

    def init(self, params: Array) -> State:
        """Return the velocity v, where there is momentum."""
        return {"velocity": namespace(params).zeros_like(params)} if self.momentum else {}

    def update(
        self, params: Array, grad: Array, state: State, h: Sequence[Any], decayed: Array | None = None
    ) -> tuple[Array, State]:
        """One step; h = (rate,)."""
        if self.momentum:
            velocity = state["velocity"]
            velocity *= self.momentum
            velocity += grad
            state = {"velocity": velocity}
            if not self.nesterov:
                params -= velocity * h[0]
                return params, state
            grad += velocity * self.momentum
        grad *= h[0]
        params -= grad
        return params, state


@dataclass(frozen=True)
class Adam(Optimizer):
    """p <- p - rate m / (sqrt(v) + eps), with m, v the bias-corrected means of g and g^2.

    m_k = (1 - beta1) sum_j beta1^(k-j) g_j / (1 - beta1^k), and v_k likewise. ``eps`` stands outside the corrected
    root, as in torch and optax and in algorithm 1 of the paper; Keras and scikit-learn add it before the correction.
    ``amsgrad`` divides by the largest v so far (Reddi, Kale, Kumar, ICLR 2018) in torch's form.
    Source: Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> adam = Adam(0.1)
    >>> p, _ = adam.update(np.asarray([1.0, 1.0]), np.asarray([3.0, -1e-8]), adam.init(np.zeros(2)), adam.row(0))
    >>> [round(float(v), 9) for v in p]
    [0.9, 1.05]

    """

    learning_rate: Rate | Sequence[Rate] = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    amsgrad: bool = False

    def check(self, who: str) -> None:
        """Betas in [0, 1), eps positive."""
        check_range(who, "beta1", self.beta1, 0.0, 1.0)
        check_range(who, "beta2", self.beta2, 0.0, 1.0)
        check_range(who, "eps", self.eps, 0.0, math.inf, open_low=True)
        check_flag(who, "amsgrad", self.amsgrad)

    def init(self, params: Array) -> State:
        """Return the sums of g and g^2, without their factors 1 - beta, which ``row`` folds into two scalars."""
        names = ("m", "v", "largest_v") if self.amsgrad else ("m", "v")
        return {name: namespace(params).zeros_like(params) for name in names}

    def row(self, step: int) -> tuple[Any, ...]:
        """Return (a, e) such that the step is a m / (sqrt(v) + e) in terms of the bare sums.

        With c1 = 1 - beta1^k, c2 = 1 - beta2^k, k = step + 1, and r = sqrt((1 - beta2) / c2): a = rate (1 - beta1) /
        (c1 r), e = eps / r. That saves three passes over the vectors.
        """
        c1, c2 = (one_minus_power(beta, step + 1) for beta in (self.beta1, self.beta2))
        r = math.sqrt((1.0 - self.beta2) / c2)
        return column(self.rate(step)) * (1.0 - self.beta1) / (c1 * r), self.eps / r

    def update(
        self, params: Array, grad: Array, state: State, h: Sequence[Any], decayed: Array | None = None
    ) -> tuple[Array, State]:
        """One step; h = (a, e), see :meth:`row`."""
        xp = namespace(params)
        m, v = state["m"], state["v"]
        m *= self.beta1
        m += grad
        grad *= grad
        v *= self.beta2
        v += grad
        new = {"m": m, "v": v}
        if self.amsgrad:
            new["largest_v"] = v = xp.maximum(state["largest_v"], v)
        change = xp.sqrt(v)
        change += h[1]
        change = m / change
        change *= h[0]
        params -= change
        return params, new


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam, and apart from it p <- p - rate weight_decay p for weights; biases are exempt.

    torch.optim.AdamW decays all it is given. The decay, too, may be one number per member. Source: Loshchilov,
    Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> adamw, p = AdamW(0.1, weight_decay=0.5), np.asarray([1.0, 1.0])
    >>> adamw.update(p, np.zeros(2), adamw.init(p), adamw.row(0), decayed=np.asarray([1.0, 0.0]))[0]
    array([0.95, 1.  ])

    """

    per_member: ClassVar[tuple[str, ...]] = ("learning_rate", "weight_decay")

    _: KW_ONLY
    weight_decay: float | Sequence[float] = 0.01

    def check(self, who: str) -> None:
        """As Adam's, and decay at least 0."""
        super().check(who)
        for name, decay in named("weight_decay", self.weight_decay).items():
            check_range(who, name, decay, 0.0, math.inf)

    def row(self, step: int) -> tuple[Any, ...]:
        """Return Adam's row and rate * weight_decay."""
        return *super().row(step), column(self.rate(step)) * column(self.weight_decay)

    def update(
        self, params: Array, grad: Array, state: State, h: Sequence[Any], decayed: Array | None = None
    ) -> tuple[Array, State]:
        """One step; h = (a, e, rate * weight_decay)."""
        decay = params * h[2]
        params -= decay if decayed is None else decay * decayed
        return super().update(params, grad, state, h)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """p <- p - rate u, u <- momentum u + g / (sqrt(v) + eps), v <- decay v + (1 - decay) g^2; as torch.optim.RMSprop.

    Source: Tieleman, Hinton, lecture 6.5 of "Neural networks for machine learning", 2012.

    Examples
    --------
    >>> import numpy as np
    >>> rmsprop, p = RMSprop(0.1, decay=0.75), np.asarray([1.0])
    >>> rmsprop.update(p, np.asarray([3.0]), rmsprop.init(p), rmsprop.row(0))[0].round(6)
    array([0.8])

    """

    learning_rate: Rate | Sequence[Rate] = 1e-2
    decay: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0

    def check(self, who: str) -> None:
        """Decay and momentum in [0, 1), eps positive."""
        check_range(who, "decay", self.decay, 0.0, 1.0)
        check_range(who, "momentum", self.momentum, 0.0, 1.0)
        check_range(who, "eps", self.eps, 0.0, math.inf, open_low=True)

    def init(self, params: Array) -> State:
        """Return v, and u where there is momentum."""
        names = ("v", "velocity") if self.momentum else ("v",)
        return {name: namespace(params).zeros_like(params) for name in names}

    def update(
        self, params: Array, grad: Array, state: State, h: Sequence[Any], decayed: Array | None = None
    ) -> tuple[Array, State]:
        """One step; h = (rate,)."""
        v = state["v"]
        v *= self.decay
        square = grad * grad
        square *= 1.0 - self.decay
        v += square
        new = {"v": v}
        change = namespace(params).sqrt(v)
        change += self.eps
        change = grad / change
        if self.momentum:
            velocity = state["velocity"]
            velocity *= self.momentum
            velocity += change
            new["velocity"] = change = velocity
        params -= change * h[0]
        return params, new


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """p <- p - rate g / (sqrt(v) + eps), v <- v + g^2; as torch.optim.Adagrad.

    Source: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> adagrad, p = Adagrad(0.1), np.asarray([1.0])
    >>> adagrad.update(p, np.asarray([3.0]), adagrad.init(p), adagrad.row(0))[0].round(6)
    array([0.9])

    """

    learning_rate: Rate | Sequence[Rate] = 1e-2
    eps: float = 1e-10

    def check(self, who: str) -> None:
        """Eps positive."""
        check_range(who, "eps", self.eps, 0.0, math.inf, open_low=True)

    def init(self, params: Array) -> State:
        """Return the sum of squares."""
        return {"v": namespace(params).zeros_like(params)}

    def update(
        self, params: Array, grad: Array, state: State, h: Sequence[Any], decayed: Array | None = None
    ) -> tuple[Array, State]:
        """One step; h = (rate,)."""
        v = state["v"]
        v += grad * grad
        params -= (grad / (namespace(params).sqrt(v) + self.eps)) * h[0]
        return params, {"v": v}


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "lars": LARS,
    "lamb": LAMB,
}


def get_optimizer(spec: Any) -> Optimizer:
    """Return ``spec`` if it is an optimizer, else the one of that name with its default learning rate (SGD: 0.1).

    Examples
    --------
    >>> get_optimizer("sgd")
    SGD(learning_rate=0.1, momentum=0.0, nesterov=False)

    """
    if isinstance(spec, str):
        name = one_of("optimizer", spec, OPTIMIZERS)
        return SGD(0.1) if name == "sgd" else OPTIMIZERS[name]()
    if isinstance(spec, type):
        raise TypeError(f"optimizer must be an object, got the class; write {spec.__name__}(...)")
    if not (hasattr(spec, "init") and hasattr(spec, "row") and hasattr(spec, "update")):
        raise TypeError(f"optimizer must be a name or have init, row and update; got {type(spec).__name__}")
    return spec
