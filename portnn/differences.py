"""Is a pullback right? Central differences say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from portnn import random
from portnn.backends import Array, get_backend


def check_vjp(
    f: Callable[..., tuple[Array, Callable[[Array], Any]]],
    args: Sequence[Array],
    *,
    tolerance: float = 1e-7,
    step: float = 1e-5,
    directions: int = 3,
    seed: int = 0,
) -> float:
    """Check a pullback against central differences; return the worst deviation, or raise AssertionError.

    For random directions u and weights v, <v, (f(a + h u) - f(a - h u)) / 2h> is compared with <vjp(v), u>, one
    argument at a time, in units of the absolute sums |v||df| + |vjp(v)||u|. The entries of u are +1 or -1, so that an
    error in any entry of the pullback shows. The difference quotient is good to about h^2, so that a derivative wrong
    by 0.1 % is found with a wide margin; at kinks (relu at 0) it means nothing: keep ``step`` away from them.

    Parameters
    ----------
    f
        A function that returns ``y, vjp``; ``vjp(dy)`` returns one cotangent per argument, or a single array for one.
    args
        float64 arrays of one library.
    tolerance
        The deviation that is still right.

    Examples
    --------
    >>> import numpy as np
    >>> def square(x):
    ...     return x * x, lambda dy: (2 * x * dy,)
    >>> check_vjp(square, [np.asarray([1.0, 2.0])]) < 1e-9
    True
    >>> check_vjp(lambda x: (x * x, lambda dy: (2.002 * x * dy,)), [np.asarray([1.0, 2.0])])
    Traceback (most recent call last):
    ...
    AssertionError: check_vjp: argument 0: ...

    """
    args = list(args)
    backend = get_backend(args[0])
    xp = backend.xp
    for i, a in enumerate(args):
        if a.dtype != xp.float64:
            raise TypeError(
                f"check_vjp: argument {i} has dtype {a.dtype}, expected float64 (differences need the digits)"
            )
    y, vjp = f(*args)
    key, worst = random.key(seed), 0.0
    for direction in range(directions):
        v = _draw(backend, random.fold_in(key, direction), y.shape)
        first, again = (_as_tuple(vjp(v)) for _ in range(2))
        if len(first) != len(args):
            raise AssertionError(f"check_vjp: the pullback returned {len(first)} cotangents for {len(args)} arguments")
        for i, (a, da) in enumerate(zip(args, first, strict=True)):
            if tuple(da.shape) != tuple(a.shape):
                raise AssertionError(f"check_vjp: argument {i} has shape {a.shape}, its cotangent {da.shape}")
            if not bool(xp.all((da == again[i]) | ~xp.isfinite(da))):
                raise AssertionError(f"check_vjp: argument {i}: the pullback is not pure, a second call differs")
            u = xp.sign(_draw(backend, random.fold_in(random.fold_in(key, 1000 + i), direction), a.shape))
            plus, minus = (f(*args[:i], a + h * u, *args[i + 1 :])[0] for h in (step, -step))
            difference = (plus - minus) / (2.0 * step)
            numeric, analytic = float(xp.sum(v * difference)), float(xp.sum(da * u))
            scale = float(xp.sum(xp.abs(v * difference)) + xp.sum(xp.abs(da)))
            deviation = abs(numeric - analytic) / scale if scale else 0.0
            if not deviation <= tolerance:
                raise AssertionError(
                    f"check_vjp: argument {i}: the pullback says {analytic:.12g} along direction {direction}, the "
                    f"difference quotient {numeric:.12g}: deviation {deviation:.3g} > {tolerance:.3g}"
                )
            worst = max(worst, deviation)
    return worst


def _draw(backend: Any, key: random.Key, shape: Sequence[int]) -> Array:
    return random.normal(key, tuple(shape), dtype="float64", backend=backend)


def _as_tuple(cotangents: Any) -> tuple[Array, ...]:
    return cotangents if isinstance(cotangents, tuple) else (cotangents,)
