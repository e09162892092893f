"""Derivatives of products and of the extension ``linalg``; see :mod:`portnn.autograd.elementwise`.

Source: M. B. Giles, "Collected matrix derivative results for forward and reverse mode algorithmic differentiation",
2008; of the Cholesky factor: I. Murray, "Differentiation of the Cholesky decomposition", arXiv 1602.07527.
"""

from __future__ import annotations

import math
from typing import Any

from portnn.autograd.elementwise import Rule
from portnn.autograd.graph import Back
from portnn.autograd.reductions import axes_of, inverse, kept
from portnn.backends import Array, device


def _turned(xp: Any, x: Array) -> Array:
    return xp.matrix_transpose(x)


def _matmul_left(xp: Any, y: Array, a: Array, b: Array) -> Back:
    vector, by_vector = a.ndim == 1, b.ndim == 1

    def back(dy: Array) -> Array:
        if by_vector:
            return dy * b if vector else dy[..., None] * b
        if vector:
            return xp.matmul(dy[..., None, :], _turned(xp, b))[..., 0, :]
        return xp.matmul(dy, _turned(xp, b))

    return back


def _matmul_right(xp: Any, y: Array, a: Array, b: Array) -> Back:
    vector, by_vector = b.ndim == 1, a.ndim == 1

    def back(dy: Array) -> Array:
        if by_vector:
            return dy * a if vector else a[:, None] * dy[..., None, :]
        if vector:
            return xp.matmul(_turned(xp, a), dy[..., None])[..., 0]
        # of one sample it is an outer product, for which NumPy's matmul takes four times as long
        return _turned(xp, a) * dy if a.shape[-2] == 1 else xp.matmul(_turned(xp, a), dy)

    return back


def _contracted(axes: Any, a: Array, b: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes of either argument that ``tensordot`` sums over."""
    if isinstance(axes, int):
        return tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    return axes_of(tuple(axes[0]), a.ndim), axes_of(tuple(axes[1]), b.ndim)


def _tensordot_left(xp: Any, y: Array, a: Array, b: Array, axes: Any = 2) -> Back:
    of_a, of_b = _contracted(axes, a, b)
    free_a, free_b = (tuple(i for i in range(x.ndim) if i not in of) for x, of in ((a, of_a), (b, of_b)))
    # the axes of b that are left over come in their own order, each standing for one of a
    order = inverse((*free_a, *(of_a[of_b.index(i)] for i in sorted(of_b))))

    def back(dy: Array) -> Array:
        last = tuple(range(len(free_a), len(free_a) + len(free_b)))
        return xp.permute_dims(xp.tensordot(dy, b, axes=(last, free_b)), order)

    return back


def _tensordot_right(xp: Any, y: Array, a: Array, b: Array, axes: Any = 2) -> Back:
    of_a, of_b = _contracted(axes, a, b)
    free_a, free_b = (tuple(i for i in range(x.ndim) if i not in of) for x, of in ((a, of_a), (b, of_b)))
    order = inverse((*(of_b[of_a.index(i)] for i in sorted(of_a)), *free_b))

    def back(dy: Array) -> Array:
        first = tuple(range(len(free_a)))
        return xp.permute_dims(xp.tensordot(a, dy, axes=(free_a, first)), order)

    return back


def _vecdot(other: int) -> Rule:
    def rule(xp: Any, y: Array, a: Array, b: Array, axis: int = -1) -> Back:
        kept_alive = (a, b)[other]

        def back(dy: Array) -> Array:
            dy, last = xp.expand_dims(dy, axis=-1), xp.moveaxis(kept_alive, axis, -1)
            return xp.moveaxis(dy * last, -1, axis)

        return back

    return rule


def _transposed(xp: Any, y: Array, x: Array) -> Back:
    return lambda dy: _turned(xp, dy)


def _outer(other: int) -> Rule:
    def rule(xp: Any, y: Array, a: Array, b: Array) -> Back:
        if other:
            return lambda dy: xp.matmul(dy, b)
        return lambda dy: xp.matmul(_turned(xp, dy), a)

    return rule


def _cross_left(xp: Any, y: Array, a: Array, b: Array, axis: int = -1) -> Back:
    return lambda dy: xp.linalg.cross(xp.broadcast_to(b, dy.shape), dy, axis=axis)


def _cross_right(xp: Any, y: Array, a: Array, b: Array, axis: int = -1) -> Back:
    return lambda dy: xp.linalg.cross(dy, xp.broadcast_to(a, dy.shape), axis=axis)


def _diagonal(xp: Any, y: Array, x: Array, offset: int = 0) -> Back:
    rows, columns = x.shape[-2:]

    def back(dy: Array) -> Array:
        along = rows if offset >= 0 else columns  # the numbers of which start at 0
        rest = xp.zeros((*dy.shape[:-1], along - dy.shape[-1]), dtype=dy.dtype, device=device(dy))
        dy = xp.concat([dy, rest], axis=-1)
        dy = dy[..., :, None] if offset >= 0 else dy[..., None, :]
        return dy * xp.eye(rows, columns, k=offset, dtype=dy.dtype, device=device(dy))

    return back


def _inv(xp: Any, y: Array, x: Array) -> Back:
    return lambda dy: -xp.matmul(xp.matmul(_turned(xp, y), dy), _turned(xp, y))


def _solved(xp: Any, a: Array, b_ndim: int, dy: Array) -> Array:
    """Return a^-T dy, the cotangent of b in y = a^-1 b."""
    if b_ndim == 1:
        return xp.linalg.solve(_turned(xp, a), dy[..., None])[..., 0]
    return xp.linalg.solve(_turned(xp, a), dy)


def _solve_matrix(xp: Any, y: Array, a: Array, b: Array) -> Back:
    b_ndim = b.ndim

    def back(dy: Array) -> Array:
        db = _solved(xp, a, b_ndim, dy)
        if b_ndim == 1:
            return -(db[..., :, None] * y[..., None, :])
        return -xp.matmul(db, _turned(xp, y))

    return back


def _solve_right(xp: Any, y: Array, a: Array, b: Array) -> Back:
    b_ndim = b.ndim
    return lambda dy: _solved(xp, a, b_ndim, dy)


def _det(xp: Any, y: Array, x: Array) -> Back:
    return lambda dy: (dy * y)[..., None, None] * _turned(xp, xp.linalg.inv(x))


def _cholesky(xp: Any, y: Array, x: Array, upper: bool = False) -> Back:
    def back(dy: Array) -> Array:
        factor, dy = (_turned(xp, y), _turned(xp, dy)) if upper else (y, dy)
        inner = xp.matmul(_turned(xp, factor), dy)
        inner = xp.tril(inner) - 0.5 * (xp.tril(inner) - xp.tril(inner, k=-1))  # half the diagonal
        below = xp.linalg.inv(factor)
        s = xp.matmul(xp.matmul(_turned(xp, below), inner), below)
        return 0.5 * (s + _turned(xp, s))

    return back


def _eigvalsh(xp: Any, y: Array, x: Array) -> Back:
    def back(dy: Array) -> Array:
        v = xp.linalg.eigh(x)[1]
        return xp.matmul(v * dy[..., None, :], _turned(xp, v))

    return back


def _svdvals(xp: Any, y: Array, x: Array) -> Back:
    def back(dy: Array) -> Array:
        u, _, vh = xp.linalg.svd(x, full_matrices=False)
        return xp.matmul(u * dy[..., None, :], vh)

    return back


def _vector_norm(xp: Any, y: Array, x: Array, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Back:
    """dy sign(x) (|x| / y)^(p-1); the slope of an infinite norm is shared by the largest, that of ord=0 is 0."""
    shape, axes = tuple(x.shape), axes_of(axis, x.ndim)

    def back(dy: Array) -> Array:
        dy, size = xp.reshape(dy, kept(shape, axes)), xp.reshape(y, kept(shape, axes))
        if ord == 0:
            return xp.zeros_like(x)
        if math.isinf(ord):
            here = xp.astype(xp.abs(x) == size, dy.dtype)
            return xp.sign(x) * here * (dy / xp.sum(here, axis=axes, keepdims=True))
        if ord == 1:
            return xp.sign(x) * dy
        return (x / size) * dy if ord == 2 else (xp.sign(x) * (xp.abs(x) / size) ** (ord - 1)) * dy

    return back


RULES: dict[str, tuple[Rule | None, ...]] = {
    "matmul": (_matmul_left, _matmul_right),
    "matrix_transpose": (_transposed,),
    "tensordot": (_tensordot_left, _tensordot_right),
    "vecdot": (_vecdot(1), _vecdot(0)),
    "linalg.cholesky": (_cholesky,),
    "linalg.cross": (_cross_left, _cross_right),
    "linalg.det": (_det,),
    "linalg.diagonal": (_diagonal,),
    "linalg.eigvalsh": (_eigvalsh,),
    "linalg.inv": (_inv,),
    "linalg.outer": (_outer(1), _outer(0)),
    "linalg.solve": (_solve_matrix, _solve_right),
    "linalg.svdvals": (_svdvals,),
    "linalg.vector_norm": (_vector_norm,),
}
RULES |= {f"linalg.{name}": RULES[name] for name in ("matmul", "matrix_transpose", "tensordot", "vecdot")}
