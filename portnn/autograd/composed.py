"""Functions of the standard that are written in others of it, for arguments that are recorded.

The first argument is the namespace that records, so that each of them is differentiated through its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from portnn.autograd import indexing, manipulation
from portnn.autograd.array import Array

if TYPE_CHECKING:
    from portnn.autograd.namespace import Namespace


def _joined(space: Namespace, arrays: Any, y: Any, backs: list[Any], name: str) -> Array:
    """Return a value made of several arrays, with an edge for each that is recorded here."""
    pairs = zip(arrays, backs, strict=True)
    edges = [(a.node, b) for a, b in pairs if type(a) is Array and a.space is space and a.node is not None]
    return space.recorded(y, tuple(edges), name)


def _concat(space: Namespace, arrays: Any, axis: int | None = 0) -> Array:
    values = space.plain(arrays)
    y = space.under.concat(values, axis=axis)
    backs = manipulation.concatenated(space.under, [tuple(v.shape) for v in values], axis)
    return _joined(space, arrays, y, backs, "concat")


def _stack(space: Namespace, arrays: Any, axis: int = 0) -> Array:
    values = space.plain(arrays)
    y = space.under.stack(values, axis=axis)
    return _joined(space, arrays, y, manipulation.stacked([tuple(v.shape) for v in values], axis), "stack")


def _unstack(space: Namespace, x: Array, axis: int = 0) -> tuple[Array, ...]:
    before = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, i, ...)] for i in range(x.shape[axis]))


def _astype(space: Namespace, x: Array, dtype: Any, copy: bool = True, **options: Any) -> Array:
    y = space.under.astype(x.value, dtype, copy=copy, **options)
    if not space.base.isdtype(dtype, ("real floating", "complex floating")):
        return Array(y, space)
    return space.recorded(y, ((x.node, lambda dy: dy),), "astype")  # type: ignore[arg-type]


def _broadcast_arrays(space: Namespace, *arrays: Any) -> tuple[Any, ...]:
    shape = tuple(space.under.broadcast_arrays(*space.plain(arrays))[0].shape)
    return tuple(space.broadcast_to(a, shape) for a in arrays)


def _clip(space: Namespace, x: Any, min: Any = None, max: Any = None) -> Any:
    """The minimum of the maximum: at a bound each side has half of the derivative (as in JAX)."""
    x = x if min is None else space.maximum(x, min)
    return x if max is None else space.minimum(x, max)


def _diff(space: Namespace, x: Any, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
    pieces = [a for a in (prepend, x, append) if a is not None]
    x = space.concat(pieces, axis=axis) if len(pieces) > 1 else x
    before = (slice(None),) * (axis % x.ndim)
    for _ in range(n):
        x = x[(*before, slice(1, None), ...)] - x[(*before, slice(None, -1), ...)]
    return x


def _meshgrid(space: Namespace, *arrays: Any, indexing: str = "xy") -> tuple[Any, ...]:
    n = len(arrays)
    places = [1, 0, *range(2, n)] if indexing == "xy" and n > 1 else list(range(n))
    shape = [0] * n
    for place, a in zip(places, arrays, strict=True):
        shape[place] = a.shape[0]
    grids = []
    for place, a in zip(places, arrays, strict=True):
        along = tuple(a.shape[0] if i == place else 1 for i in range(n))
        grids.append(space.broadcast_to(space.reshape(a, along), tuple(shape)))
    return tuple(grids)


def _trace(space: Namespace, x: Array, offset: int = 0, dtype: Any = None) -> Any:
    return space.sum(space.linalg.diagonal(x, offset=offset), axis=-1, dtype=dtype)


def _matrix_norm(space: Namespace, x: Array, keepdims: bool = False, ord: Any = "fro") -> Any:
    if ord in ("fro", None):
        return space.linalg.vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord in ("nuc", 2, -2):
        values = space.linalg.svdvals(x)
        reduced = {"nuc": space.sum, 2: space.max, -2: space.min}[ord](values, axis=-1)
        return space.reshape(reduced, (*reduced.shape, 1, 1)) if keepdims else reduced
    summed, left = (-2, -1) if abs(ord) == 1 else (-1, -2)
    sums = space.sum(space.abs(x), axis=summed, keepdims=True)
    reduced = (space.max if ord > 0 else space.min)(sums, axis=left, keepdims=True)
    return reduced if keepdims else space.reshape(reduced, reduced.shape[:-2])


def _matrix_power(space: Namespace, x: Array, n: int) -> Any:
    if n < 0:
        return _matrix_power(space, space.linalg.inv(x), -n)
    if n == 0:
        one = space.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return space.broadcast_to(one, tuple(x.shape)) + 0.0 * x
    half = x if n == 1 else _matrix_power(space, x, n // 2)
    if n == 1:
        return half
    whole = space.matmul(half, half)
    return space.matmul(whole, x) if n % 2 else whole


def _slogdet(space: Namespace, x: Array) -> Any:
    under, value = space.under, x.value
    found = under.linalg.slogdet(value)

    def back(dy: Any) -> Any:
        return dy[..., None, None] * under.matrix_transpose(under.linalg.inv(value))

    logarithm = space.recorded(found[1], ((x.node, back),), "linalg.slogdet")  # type: ignore[arg-type]
    parts = (Array(found[0], space), logarithm)
    return type(found)(*parts) if hasattr(found, "_fields") else type(found)(parts)


def replaced(space: Namespace, x: Array, key: Any, new: Any) -> Array:
    """Return ``x`` with ``new`` at an index: an array of its own, recorded if one of them is.

    Examples
    --------
    >>> import numpy as np
    >>> from portnn.autograd import over
    >>> xp = over(np)
    >>> replaced(xp, xp.zeros(4), slice(1, 3), 5.0)
    Array([0., 5., 5., 0.])

    """
    given = key if type(key) is tuple else (key,)
    keys = tuple(k if type(k) in indexing.BASIC else space.index(k) for k in given)
    new = space.asarray(new, device=x.device) if type(new) is not Array else new
    new = new if new.dtype == x.dtype else space.astype(new, x.dtype)
    shape = tuple(x.shape)
    if not indexing.is_basic(keys):
        if len(keys) > 1 or new.ndim or not hasattr(keys[0], "dtype") or not space.base.isdtype(keys[0].dtype, "bool"):
            message = "autograd: a part is set by ints, slices, dots and None, or by a mask to one number"
            raise IndexError(message)
        mask = space.base.reshape(keys[0], (*keys[0].shape, *(1 for _ in shape[keys[0].ndim :])))
        return space.where(mask, new, x)
    here = tuple(x.value[keys if len(keys) != 1 else keys[0]].shape)
    ones = space.base.ones(here, dtype=space.base.bool, device=x.device)
    whole = indexing.place(space, space.broadcast_to(new, here), keys, shape)
    return space.where(indexing.place(space.base, ones, keys, shape), whole, x)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "astype": _astype,
    "broadcast_arrays": _broadcast_arrays,
    "clip": _clip,
    "concat": _concat,
    "diff": _diff,
    "meshgrid": _meshgrid,
    "stack": _stack,
    "unstack": _unstack,
    "linalg.matrix_norm": _matrix_norm,
    "linalg.matrix_power": _matrix_power,
    "linalg.slogdet": _slogdet,
    "linalg.trace": _trace,
}
