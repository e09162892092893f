"""Derivatives of reductions, cumulative sums and products, and of sorting; see :mod:`portnn.autograd.elementwise`."""

from __future__ import annotations

import math
from typing import Any

from portnn.autograd.elementwise import Rule
from portnn.autograd.graph import Back
from portnn.backends import Array, device

Axis = int | tuple[int, ...] | None


def axes_of(axis: Axis, ndim: int) -> tuple[int, ...]:
    """Return the axes as numbers of at least 0: all of them for None.

    Examples
    --------
    >>> axes_of(-1, 3), axes_of(None, 2)
    ((2,), (0, 1))

    """
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim if ndim else a for a in ((axis,) if isinstance(axis, int) else axis))


def kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape with 1 in the place of the axes that are reduced."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _spread(xp: Any, dy: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Return ``dy``, a cotangent of a reduction over these axes, for each of the terms."""
    return xp.broadcast_to(xp.reshape(dy, kept(shape, axes)), shape)


def _sum(xp: Any, y: Array, x: Array, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Back:
    shape, axes = tuple(x.shape), axes_of(axis, x.ndim)
    return lambda dy: _spread(xp, dy, shape, axes)


def _mean(xp: Any, y: Array, x: Array, axis: Axis = None, keepdims: bool = False) -> Back:
    shape, axes = tuple(x.shape), axes_of(axis, x.ndim)
    n = math.prod(shape[a] for a in axes)
    return lambda dy: _spread(xp, dy / n, shape, axes)


def _deviation(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    return x - xp.mean(x, axis=axes, keepdims=True)


def _var(xp: Any, y: Array, x: Array, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Back:
    shape, axes = tuple(x.shape), axes_of(axis, x.ndim)
    n = math.prod(shape[a] for a in axes) - correction
    return lambda dy: xp.reshape(dy * (2.0 / n), kept(shape, axes)) * _deviation(xp, x, axes)


def _std(xp: Any, y: Array, x: Array, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Back:
    shape, axes = tuple(x.shape), axes_of(axis, x.ndim)
    n = math.prod(shape[a] for a in axes) - correction
    return lambda dy: xp.reshape(dy / (y * n), kept(shape, axes)) * _deviation(xp, x, axes)


def _extreme(xp: Any, y: Array, x: Array, axis: Axis = None, keepdims: bool = False) -> Back:
    """Each of those that are equal to the largest gets the same share (as in JAX and torch's amax)."""
    shape, axes = tuple(x.shape), axes_of(axis, x.ndim)

    def back(dy: Array) -> Array:
        here = xp.astype(x == xp.reshape(y, kept(shape, axes)), dy.dtype)
        # a NaN is equal to nothing: 0 / 0 tells of it
        return here * (xp.reshape(dy, kept(shape, axes)) / xp.sum(here, axis=axes, keepdims=True))

    return back


def _before(xp: Any, x: Array) -> Array:
    """Return the products of what stands before each entry of the last axis."""
    one = xp.ones((*x.shape[:-1], 1), dtype=x.dtype, device=device(x))
    return xp.cumulative_prod(xp.concat([one, x[..., :-1]], axis=-1), axis=-1)


def _prod(xp: Any, y: Array, x: Array, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Back:
    """The product of all others, from both sides: y / x would be NaN where a factor is 0."""
    shape, axes = tuple(x.shape), axes_of(axis, x.ndim)
    order = (*(i for i in range(x.ndim) if i not in axes), *axes)

    def back(dy: Array) -> Array:
        if not math.prod(shape):
            return xp.zeros_like(x)
        flat = xp.reshape(xp.permute_dims(x, order), (*(shape[i] for i in order[: x.ndim - len(axes)]), -1))
        others = _before(xp, flat) * xp.flip(_before(xp, xp.flip(flat, axis=-1)), axis=-1)
        others = xp.permute_dims(xp.reshape(others, tuple(shape[i] for i in order)), inverse(order))
        return xp.reshape(dy, kept(shape, axes)) * others

    return back


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Return the permutation that undoes another.

    Examples
    --------
    >>> inverse((2, 0, 1))
    (1, 2, 0)

    """
    return tuple(order.index(i) for i in range(len(order)))


def _cumulative_sum(
    xp: Any, y: Array, x: Array, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Back:
    axis = -1 if axis is None else axis

    def back(dy: Array) -> Array:
        dy = _without_first(xp, dy, axis) if include_initial else dy
        return xp.flip(xp.cumulative_sum(xp.flip(dy, axis=axis), axis=axis), axis=axis)

    return back


def _cumulative_prod(
    xp: Any, y: Array, x: Array, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Back:
    """dx_i = (product before i) s_i, s_i = dy_i + x_(i+1) s_(i+1): no quotient, so factors of 0 are right too."""
    axis = -1 if axis is None else axis

    def back(dy: Array) -> Array:
        dy = _without_first(xp, dy, axis) if include_initial else dy
        last, dy = xp.moveaxis(x, axis, -1), xp.moveaxis(dy, axis, -1)
        if last.shape[-1] == 0:
            return dy
        rest = [dy[..., -1]]
        for i in range(last.shape[-1] - 2, -1, -1):
            rest.append(dy[..., i] + last[..., i + 1] * rest[-1])
        return xp.moveaxis(_before(xp, last) * xp.stack(rest[::-1], axis=-1), -1, axis)

    return back


def _without_first(xp: Any, x: Array, axis: int) -> Array:
    return xp.moveaxis(xp.moveaxis(x, axis, -1)[..., 1:], -1, axis)


def _sort(xp: Any, y: Array, x: Array, axis: int = -1, descending: bool = False, stable: bool = True) -> Back:
    places = xp.argsort(xp.argsort(x, axis=axis, descending=descending, stable=True), axis=axis, stable=True)
    return lambda dy: xp.take_along_axis(dy, places, axis=axis)


RULES: dict[str, tuple[Rule | None, ...]] = {
    "cumulative_prod": (_cumulative_prod,),
    "cumulative_sum": (_cumulative_sum,),
    "max": (_extreme,),
    "mean": (_mean,),
    "min": (_extreme,),
    "prod": (_prod,),
    "sort": (_sort,),
    "std": (_std,),
    "sum": (_sum,),
    "var": (_var,),
}
