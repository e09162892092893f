"""Formulas in 40 digits, written down from the literature and not from the code that they judge."""

from __future__ import annotations

import functools
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
