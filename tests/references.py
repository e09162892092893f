"""Formulas in 40 digits, written down from the literature and not from the code that they judge."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf
from tolerances import Exact

SELU_ALPHA = mpf("1.6732632423543772848170429916717")
SELU_SCALE = mpf("1.0507009873554804934193349852946")


def cdf(z: mpf) -> mpf:
    return mp.erfc(-z / mp.sqrt(2)) / 2


def pdf(z: mpf) -> mpf:
    return mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi)


def sigmoid(z: mpf) -> mpf:
    return 1 / (1 + mp.exp(-z))


def softplus(z: mpf) -> mpf:
    return mp.log1p(mp.exp(z))


def gelu_tanh_argument(z: mpf) -> mpf:
    return mp.sqrt(2 / mp.pi) * (z + mpf("0.044715") * z**3)


def gelu_tanh(z: mpf) -> mpf:
    return z / 2 * (1 + mp.tanh(gelu_tanh_argument(z)))


def elu(z: mpf, alpha: Any = 1) -> mpf:
    return z if z > 0 else alpha * mp.expm1(z)


# name -> value
FORMULAS = {
    "erf": mp.erf,
    "erfc": mp.erfc,
    "normal_cdf": cdf,
    "identity": lambda z: z,
    "relu": lambda z: max(z, mpf(0)),
    "leaky_relu": lambda z: z if z > 0 else mpf(0.01) * z,
    "leaky_relu(0.2)": lambda z: z if z > 0 else mpf(0.2) * z,
    "elu": elu,
    "elu(0.5)": lambda z: elu(z, mpf(0.5)),
    "selu": lambda z: SELU_SCALE * elu(z, SELU_ALPHA),
    "tanh": mp.tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "gelu": lambda z: z * cdf(z),
    "gelu_tanh": gelu_tanh,
    "silu": lambda z: z * sigmoid(z),
    "mish": lambda z: z * mp.tanh(softplus(z)),
}


@functools.cache
def _exact(name: str, points: tuple[float, ...]) -> Exact:
    # 1 + tanh(-500) and the like need more than 40 digits to keep 20 of them
    with mpmath.workdps(60 + int(max(map(abs, points)) if name == "gelu_tanh" else 0) * 10):
        return Exact([FORMULAS[name](mpf(p)) for p in points])


def exact(name: str, points: np.ndarray) -> Exact:
    """Return the formula at exactly these floating-point numbers."""
    return _exact(name, tuple(map(float, points)))


# -- a network, in the precision of what it is given ------------------------------------------------------------------


def longdouble(values: Any) -> np.ndarray:
    """Return mpmath numbers in NumPy's widest type."""
    return np.asarray([np.longdouble(mpmath.nstr(v, 25)) for v in np.ravel(values)]).reshape(np.shape(values))


def network_gradient(
    sizes: list[int], params: np.ndarray, x: np.ndarray, labels: np.ndarray, hidden: str = "relu"
) -> tuple[Any, np.ndarray]:
    """Return the mean cross-entropy of a classifier and its gradient, as a textbook has them.

    Rows of ``params`` are weight by weight, then bias, layer after layer; the arithmetic is that of ``params.dtype``.
    """
    layers, start = [], 0
    for n, m in itertools.pairwise(sizes):
        layers.append((params[start : start + n * m].reshape(n, m), params[start + n * m : start + (n + 1) * m]))
        start += (n + 1) * m
    inputs, sums, a = [], [], x.astype(params.dtype)
    for i, (weight, bias) in enumerate(layers):
        inputs.append(a)
        z = a @ weight + bias
        sums.append(z)
        a = z if i == len(layers) - 1 else np.tanh(z) if hidden == "tanh" else np.where(z > 0, z, 0)
    e = np.exp(a - a.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -(a[rows, labels] - a.max(axis=1) - np.log(e.sum(axis=1))).mean()
    p[rows, labels] -= 1
    delta, pieces = p / len(labels), []
    for i in reversed(range(len(layers))):
        pieces[:0] = [(inputs[i].T @ delta).ravel(), delta.sum(axis=0)]
        if i:
            slope = 1 - np.tanh(sums[i - 1]) ** 2 if hidden == "tanh" else sums[i - 1] > 0
            delta = (delta @ layers[i][0].T) * slope
    return loss, np.concatenate(pieces)


def nearest_kink(sizes: list[int], params: np.ndarray, x: np.ndarray) -> float:
    """Return the smallest |z| of any hidden unit of a relu network: below rounding, its side is a matter of chance."""
    a, start, nearest = x.astype(np.float64), 0, np.inf
    for n, m in itertools.pairwise(sizes[:-1]):
        z = a @ params[start : start + n * m].reshape(n, m) + params[start + n * m : start + (n + 1) * m]
        nearest, a, start = min(nearest, float(np.abs(z).min())), np.maximum(z, 0.0), start + (n + 1) * m
    return nearest


# -- optimizers, as the papers print them: ``gradient(params, k)`` is asked for update number k, from 0 ----------------

Gradient = Callable[[np.ndarray, int], np.ndarray]


def sgd(
    params: np.ndarray, gradient: Gradient, steps: int, rate: float, momentum: float = 0.0, nesterov: bool = False
) -> np.ndarray:
    """Sutskever et al., 2013, with the velocity free of the rate."""
    velocity = np.zeros_like(params)
    for k in range(steps):
        grad = gradient(params, k)
        velocity = momentum * velocity + grad
        params = params - rate * (grad + momentum * velocity if nesterov else velocity)
    return params


def adam(params: np.ndarray, gradient: Gradient, steps: int, rate: float, decay: float = 0.0) -> np.ndarray:
    """Kingma and Ba, 2015, algorithm 1; with Loshchilov and Hutter's decoupled decay."""
    m, v = np.zeros_like(params), np.zeros_like(params)
    wide = params.dtype.type
    b1, b2 = wide(0.9), wide(0.999)
    for k in range(steps):
        grad = gradient(params, k)
        m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad * grad
        params = params - rate * decay * params
        params = params - rate * (m / (1 - b1 ** (k + 1))) / (np.sqrt(v / (1 - b2 ** (k + 1))) + wide(1e-8))
    return params


def rmsprop(params: np.ndarray, gradient: Gradient, steps: int, rate: float) -> np.ndarray:
    """Hinton's lecture 6e, 2012, with the decay 0.99 and eps = 1e-8 outside the root."""
    v, wide = np.zeros_like(params), params.dtype.type
    for k in range(steps):
        grad = gradient(params, k)
        v = wide(0.99) * v + (1 - wide(0.99)) * grad * grad
        params = params - rate * grad / (np.sqrt(v) + wide(1e-8))
    return params


def adagrad(params: np.ndarray, gradient: Gradient, steps: int, rate: float) -> np.ndarray:
    """Duchi, Hazan, Singer, 2011, with eps = 1e-10 outside the root."""
    total = np.zeros_like(params)
    for k in range(steps):
        grad = gradient(params, k)
        total = total + grad * grad
        params = params - rate * grad / (np.sqrt(total) + params.dtype.type(1e-10))
    return params


# -- losses: value of a row of outputs, and its derivatives -----------------------------------------------------------


def loss_row(name: str, y: list[mpf], t: Any) -> tuple[mpf, list[mpf]]:
    """Return the loss of one sample and its derivative by each output; a label where ``name`` is cross_entropy."""
    n = len(y)
    if name == "cross_entropy":
        total = mp.fsum(mp.exp(v) for v in y)
        return mp.log(total) - y[t], [mp.exp(v) / total - (j == t) for j, v in enumerate(y)]
    d = [v - w for v, w in zip(y, t, strict=True)]
    terms, slopes = {
        "binary_cross_entropy": (
            lambda: [softplus(v) - v * w for v, w in zip(y, t, strict=True)],
            lambda: [sigmoid(v) - w for v, w in zip(y, t, strict=True)],
        ),
        "mse": (lambda: [v * v for v in d], lambda: [2 * v for v in d]),
        "mae": (lambda: [abs(v) for v in d], lambda: [mp.sign(v) for v in d]),
        "huber": (
            lambda: [v * v / 2 if abs(v) <= 1 else abs(v) - mpf(1) / 2 for v in d],
            lambda: [max(min(v, mpf(1)), mpf(-1)) for v in d],
        ),
        "poisson": (
            lambda: [mp.exp(v) - w * v for v, w in zip(y, t, strict=True)],
            lambda: [mp.exp(v) - w for v, w in zip(y, t, strict=True)],
        ),
    }[name]
    return mp.fsum(terms()) / n, [s / n for s in slopes()]
