"""Derivatives of elementwise functions.

A rule turns ``(xp, y, *arguments)`` into the pullback of one argument, where y is the value: it is called only for an
argument that is recorded, and what it returns keeps only what it uses alive. ``RULES`` holds one rule for each
positional argument, None where the derivative is 0. A pullback may return its cotangent in the broadcast shape and the
promoted dtype: :func:`portnn.autograd.graph.fitted` sees to both.

An argument may be a Python number, so that arithmetic is written with operators, and only what is known to be an array
is handed to ``xp``. Written in ``xp`` throughout, a pullback is differentiable itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from portnn.autograd.graph import Back
from portnn.backends import Array

Rule = Callable[..., Back]


def _same(xp: Any, y: Array, *args: Any) -> Back:
    return lambda dy: dy


def _opposite(xp: Any, y: Array, *args: Any) -> Back:
    return lambda dy: -dy


def _slope(derivative: Callable[..., Array]) -> tuple[Rule]:
    """Return the rule of a function of one argument from its derivative ``(xp, x)``, taken in the pullback."""

    def rule(xp: Any, y: Array, x: Array) -> Back:
        return lambda dy: dy * derivative(xp, x)

    return (rule,)


def _of_value(derivative: Callable[..., Array]) -> tuple[Rule]:
    """Return the same from a derivative in terms of the value, ``(xp, y)``: the argument need not be kept."""

    def rule(xp: Any, y: Array, x: Array) -> Back:
        return lambda dy: dy * derivative(xp, y)

    return (rule,)


def _power_of_base(xp: Any, y: Array, a: Array, b: Any) -> Back:
    """b a^(b-1); 0 where b is 0, also at a = 0, where the formula has 0 times infinity (as in JAX)."""
    if isinstance(b, int | float):
        if b == 0:
            return lambda dy: xp.zeros_like(dy)
        if b == 1:
            return lambda dy: dy
        return (lambda dy: dy * (2.0 * a)) if b == 2 else lambda dy: dy * (b * a ** (b - 1))

    def back(dy: Array) -> Array:
        none = b == 0
        exponent = xp.where(none, xp.ones_like(b), b)
        return xp.where(none, xp.zeros_like(dy), dy * (exponent * a ** (exponent - 1)))

    return back


def _power_of_exponent(xp: Any, y: Array, a: Any, b: Array) -> Back:
    """a^b log a; 0 where a is 0 (as in JAX)."""
    if isinstance(a, int | float):
        logarithm = math.log(a) if a > 0 else 0.0 if a == 0 else math.nan
        return lambda dy: dy * (y * logarithm)
    return lambda dy: dy * (y * xp.log(xp.where(a == 0, xp.ones_like(a), a)))


def _larger(xp: Any, y: Array, a: Any, b: Any, dy: Array) -> Array:
    """dy where a > b, half of it where they are equal (as in JAX and torch), 0 elsewhere."""
    return dy * (0.5 * (xp.astype(a > b, dy.dtype) + xp.astype(a >= b, dy.dtype)))


def _share(xp: Any, y: Array, a: Any, b: Any) -> Array:
    """Return e^a / (e^a + e^b), 1/2 where they are equal, at infinity too.

    Numerical stability: written in exp of -|a - b|, which cannot overflow, and of arguments whose difference is known;
    -|d| with a slope at d = 0, since the second derivative is not 0 there.
    """
    none = xp.zeros_like(y)
    a, b = a + none, b + none  # of one shape, and arrays
    alike = xp.isinf(a) & (a == b)
    d = xp.where(alike, none, a) - xp.where(alike, none, b)
    ahead = d > 0.0
    e = xp.exp(xp.where(ahead, -d, d))
    return xp.where(ahead, xp.ones_like(e), e) / (1.0 + e)


def _copysign(xp: Any, y: Array, a: Array, b: Any) -> Back:
    def back(dy: Array) -> Array:
        return xp.where(xp.signbit(y) == xp.signbit(a), dy, -dy)

    return back


def _divisor(xp: Any, y: Array, a: Any, b: Array) -> Back:
    return lambda dy: -(dy * (y / b))


RULES: dict[str, tuple[Rule | None, ...]] = {
    "abs": _slope(lambda xp, x: xp.sign(x)),
    "acos": _slope(lambda xp, x: -1.0 / xp.sqrt((1.0 - x) * (1.0 + x))),
    "acosh": _slope(lambda xp, x: 1.0 / (xp.sqrt(x - 1.0) * xp.sqrt(x + 1.0))),
    "add": (_same, _same),
    "asin": _slope(lambda xp, x: 1.0 / xp.sqrt((1.0 - x) * (1.0 + x))),
    "asinh": _slope(lambda xp, x: 1.0 / xp.sqrt(x * x + 1.0)),
    "atan": _slope(lambda xp, x: 1.0 / (x * x + 1.0)),
    "atan2": (
        lambda xp, y, a, b: lambda dy: dy * (b / (a * a + b * b)),
        lambda xp, y, a, b: lambda dy: -(dy * (a / (a * a + b * b))),
    ),
    "atanh": _slope(lambda xp, x: 1.0 / ((1.0 - x) * (1.0 + x))),
    "conj": (_same,),
    "copysign": (_copysign, None),
    "cos": _slope(lambda xp, x: -xp.sin(x)),
    "cosh": _slope(lambda xp, x: xp.sinh(x)),
    "divide": (lambda xp, y, a, b: lambda dy: dy / b, _divisor),
    "exp": _of_value(lambda xp, y: y),
    "expm1": _of_value(lambda xp, y: y + 1.0),
    "hypot": (
        lambda xp, y, a, b: lambda dy: dy * (a / y),
        lambda xp, y, a, b: lambda dy: dy * (b / y),
    ),
    "log": _slope(lambda xp, x: 1.0 / x),
    "log10": _slope(lambda xp, x: 1.0 / (x * math.log(10.0))),
    "log1p": _slope(lambda xp, x: 1.0 / (x + 1.0)),
    "log2": _slope(lambda xp, x: 1.0 / (x * math.log(2.0))),
    "logaddexp": (
        lambda xp, y, a, b: lambda dy: dy * _share(xp, y, a, b),
        lambda xp, y, a, b: lambda dy: dy * _share(xp, y, b, a),
    ),
    "maximum": (
        lambda xp, y, a, b: lambda dy: _larger(xp, y, a, b, dy),
        lambda xp, y, a, b: lambda dy: _larger(xp, y, b, a, dy),
    ),
    "minimum": (
        lambda xp, y, a, b: lambda dy: _larger(xp, y, b, a, dy),
        lambda xp, y, a, b: lambda dy: _larger(xp, y, a, b, dy),
    ),
    "multiply": (lambda xp, y, a, b: lambda dy: dy * b, lambda xp, y, a, b: lambda dy: dy * a),
    "negative": (_opposite,),
    "positive": (_same,),
    "pow": (_power_of_base, _power_of_exponent),
    "reciprocal": _of_value(lambda xp, y: -(y * y)),
    # y = a - floor(a / b) b; at the steps, what holds on their right
    "remainder": (_same, lambda xp, y, a, b: lambda dy: -(dy * (a // b))),
    "sin": _slope(lambda xp, x: xp.cos(x)),
    "sinh": _slope(lambda xp, x: xp.cosh(x)),
    "sqrt": _of_value(lambda xp, y: 0.5 / y),
    "square": _slope(lambda xp, x: 2.0 * x),
    "subtract": (_same, _opposite),
    "tan": _of_value(lambda xp, y: y * y + 1.0),
    # Numerical stability: keeps the digits where y is near 1
    "tanh": _of_value(lambda xp, y: (1.0 - y) * (1.0 + y)),
    "where": (
        None,
        lambda xp, y, c, a, b: lambda dy: xp.where(c, dy, xp.zeros_like(dy)),
        lambda xp, y, c, a, b: lambda dy: xp.where(c, xp.zeros_like(dy), dy),
    ),
}
