"""Derivatives of what moves numbers and does not compute with them; see :mod:`portnn.autograd.elementwise`."""

from __future__ import annotations

import math
from typing import Any

from portnn.autograd.elementwise import Rule
from portnn.autograd.graph import Back
from portnn.autograd.reductions import inverse
from portnn.backends import Array


def _same(xp: Any, y: Array, *args: Any, **kwargs: Any) -> Back:
    """The identity; what was broadcast or cast is summed and cast back by ``fitted``."""
    return lambda dy: dy


def _reshaped(xp: Any, y: Array, x: Array, *args: Any, **kwargs: Any) -> Back:
    shape = tuple(x.shape)
    return lambda dy: xp.reshape(dy, shape)


def _flip(xp: Any, y: Array, x: Array, axis: Any = None) -> Back:
    return lambda dy: xp.flip(dy, axis=axis)


def _moveaxis(xp: Any, y: Array, x: Array, source: Any, destination: Any) -> Back:
    return lambda dy: xp.moveaxis(dy, destination, source)


def _permute_dims(xp: Any, y: Array, x: Array, axes: tuple[int, ...]) -> Back:
    back = inverse(tuple(a % x.ndim for a in axes))
    return lambda dy: xp.permute_dims(dy, back)


def _roll(xp: Any, y: Array, x: Array, shift: Any, axis: Any = None) -> Back:
    opposite = tuple(-s for s in shift) if isinstance(shift, tuple) else -shift
    return lambda dy: xp.roll(dy, opposite, axis=axis)


def _tile(xp: Any, y: Array, x: Array, repetitions: tuple[int, ...]) -> Back:
    shape = tuple(x.shape)
    repetitions = (repetitions,) if isinstance(repetitions, int) else tuple(repetitions)  # NumPy takes a number too

    def back(dy: Array) -> Array:
        n = max(len(shape), len(repetitions))
        lengths, times = (1,) * (n - len(shape)) + shape, (1,) * (n - len(repetitions)) + tuple(repetitions)
        apart = xp.reshape(dy, tuple(k for pair in zip(times, lengths, strict=True) for k in pair))
        return xp.reshape(xp.sum(apart, axis=tuple(range(0, 2 * n, 2))), shape)

    return back


def _tril(xp: Any, y: Array, x: Array, k: int = 0) -> Back:
    return lambda dy: xp.tril(dy, k=k)


def _triu(xp: Any, y: Array, x: Array, k: int = 0) -> Back:
    return lambda dy: xp.triu(dy, k=k)


RULES: dict[str, tuple[Rule | None, ...]] = {
    "broadcast_to": (_same, None),
    "expand_dims": (_reshaped, None),
    "flip": (_flip,),
    "moveaxis": (_moveaxis, None, None),
    "permute_dims": (_permute_dims, None),
    "reshape": (_reshaped, None),
    "roll": (_roll, None),
    "squeeze": (_reshaped, None),
    "tile": (_tile, None),
    "tril": (_tril,),
    "triu": (_triu,),
}


def concatenated(xp: Any, shapes: list[tuple[int, ...]], axis: int | None) -> list[Back]:
    """Return the pullbacks of ``concat``, one for each array."""

    def of(shape: tuple[int, ...], start: int, stop: int) -> Back:
        if axis is None:
            return lambda dy: xp.reshape(dy[start:stop], shape)
        key = (*(slice(None),) * (axis % len(shape)), slice(start, stop), ...)
        return lambda dy: dy[key]

    backs, start = [], 0
    for shape in shapes:
        stop = start + (math.prod(shape) if axis is None else shape[axis])
        backs.append(of(shape, start, stop))
        start = stop
    return backs


def stacked(shapes: list[tuple[int, ...]], axis: int) -> list[Back]:
    """Return the pullbacks of ``stack``, one for each array."""

    def of(i: int, shape: tuple[int, ...]) -> Back:
        key = (*(slice(None),) * (axis % (len(shape) + 1)), i, ...)
        return lambda dy: dy[key]

    return [of(i, shape) for i, shape in enumerate(shapes)]
