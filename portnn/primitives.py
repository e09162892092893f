"""The affine map, with its derivative on the same screen.

A differentiable function returns its value and its *pullback*: ``y, vjp = f(x)``, then ``(dx,) = vjp(dy)``, where
``dy`` is the derivative of some scalar with respect to ``y`` and ``dx`` the one with respect to ``x``. The pullback is
pure, can be called twice, and returns one cotangent per differentiable argument, in argument order.

Features are axis -1, the batch is axis -2, and whatever stands before them are ensemble members. Everything sees only
``xp``, the namespace of its argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from portnn.backends import Array, device, namespace

Pullback = Callable[[Array], tuple[Array, ...]]
Pair = tuple[Array, Pullback]


def linear(x: Array, weight: Array, bias: Array | None = None, *, input_gradient: bool = True) -> Pair:
    """Return y = x weight + bias.

    Parameters
    ----------
    x
        ``(..., batch, in_features)``; with ``members`` axes in ``weight`` it may have none, and is then shared.
    weight
        ``(..., in_features, out_features)``: the transpose of what torch.nn.Linear stores.
    bias
        ``(..., out_features)`` or None.
    input_gradient
        False leaves dx out (None stands in its place): the first layer of a network needs none.

    Returns
    -------
    y
        ``(..., batch, out_features)``.
    vjp
        dx = dy weight^T, dweight = x^T dy, dbias = sum of dy over the batch. Keeps ``x`` and ``weight`` alive.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = linear(np.asarray([[1.0, 2.0]]), np.asarray([[3.0], [4.0]]), np.asarray([5.0]))
    >>> y
    array([[16.]])
    >>> dx, dweight, dbias = vjp(np.asarray([[1.0]]))
    >>> dx, dbias
    (array([[3., 4.]]), array([1.]))

    """
    xp, n = namespace(weight), x.shape[-2]
    y = xp.matmul(x, weight)
    if bias is not None:
        y += bias[..., None, :]

    def vjp(dy: Array) -> tuple[Array, ...]:
        dx = None
        if input_gradient:
            dx = xp.matmul(dy, xp.matrix_transpose(weight))
            if dx.ndim > x.ndim:  # members that shared x
                dx = xp.sum(dx, axis=tuple(range(dx.ndim - x.ndim)))
        # of one sample it is an outer product, for which NumPy's matmul takes four times as long
        dweight = xp.matrix_transpose(x) * dy if n == 1 else xp.matmul(xp.matrix_transpose(x), dy)
        return (dx, dweight) if bias is None else (dx, dweight, sum_rows(dy))

    return y, vjp


def sum_rows(x: Array) -> Array:
    """Return the sum of ``x`` over the batch, axis -2.

    Numerical stability: added one after the other, as ``xp.sum(axis=-2)`` does on some libraries, n rows lose up to
    n u (NumPy: 133 u at 60,000 float32 rows). A mini-batch of up to 256 rows is one matrix product; a longer one is
    folded, half upon half, until at most 16 rows are left, which costs log2(n) + 12 u at most.

    Examples
    --------
    >>> import numpy as np
    >>> sum_rows(np.asarray([[1.0, 2.0], [3.0, 4.0]]))
    array([4., 6.])

    """
    xp = namespace(x)
    *lead, n, features = x.shape
    if n > 256:
        folds = (n - 1).bit_length() - 4
        whole = n >> folds << folds
        half, left = whole // 2, n - whole
        y = x[..., :half, :] + x[..., half:whole, :]
        if left:  # fewer than 2^folds rows
            y = xp.concat([y[..., :left, :] + x[..., whole:, :], y[..., left:, :]], axis=-2)
        for _ in range(folds - 1):
            half = half // 2
            y = y[..., :half, :] + y[..., half:, :]
        x, n = y, half
    ones = xp.ones((1, n), dtype=x.dtype, device=device(x))
    return xp.reshape(xp.matmul(ones, x), (*lead, features))


def only(cotangents: Any) -> Array:
    """Return the one cotangent that a pullback gave, alone or in a tuple: people's own return either.

    Examples
    --------
    >>> only((3.0,)), only(3.0)
    (3.0, 3.0)

    """
    return cotangents[0] if isinstance(cotangents, tuple) else cotangents


def unpacked(pair: Any, what: str) -> Pair:
    """Return what a function of the user's gave if it is a value and its pullback; TypeError otherwise.

    Examples
    --------
    >>> unpacked((1.0, lambda dy: (dy,)), "square")[0]
    1.0

    """
    if isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1]):
        return pair
    raise TypeError(f"{what}: expected a pair (value, pullback), got {type(pair).__name__}; see portnn.primitives")


def join(xp: Any, pieces: list[Array]) -> Array:
    """Concatenate along the last axis, eight at a time: more would be an upload from the host on CuPy.

    Examples
    --------
    >>> import numpy as np
    >>> join(np, [np.asarray([1.0]), np.asarray([2.0, 3.0])])
    array([1., 2., 3.])

    """
    while len(pieces) > 1:
        pieces = [
            xp.concat(pieces[i : i + 8], axis=-1) if pieces[i + 1 : i + 8] else pieces[i]
            for i in range(0, len(pieces), 8)
        ]
    return pieces[0]
