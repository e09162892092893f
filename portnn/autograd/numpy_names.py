"""NumPy's own spellings of functions of the standard, for functions that were written with ``np`` alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portnn.autograd.namespace import Namespace

_NAMES = {
    **{"absolute": "abs", "concatenate": "concat", "invert": "bitwise_invert", "power": "pow", "true_divide": "divide"},
    **{f"arc{name}": f"a{name}" for name in ("cos", "cosh", "sin", "sinh", "tan", "tan2", "tanh")},
    **{"amax": "max", "amin": "min", "cumsum": "cumulative_sum", "cumprod": "cumulative_prod"},
    **{"left_shift": "bitwise_left_shift", "right_shift": "bitwise_right_shift"},
}
_OPTIONS = {"a_min": "min", "a_max": "max", "ddof": "correction"}


def _transpose(space: Namespace, x: Any, axes: Any = None) -> Any:
    return space.permute_dims(x, tuple(range(x.ndim))[::-1] if axes is None else tuple(axes))


def _dot(space: Namespace, a: Any, b: Any) -> Any:
    """A number times, or the sum over the last axis of a and the last but one of b."""
    if not getattr(a, "ndim", 0) or not getattr(b, "ndim", 0):
        return space.multiply(a, b)
    return space.tensordot(a, b, axes=((a.ndim - 1,), (max(b.ndim - 2, 0),)))


def _norm(space: Namespace, x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Of a matrix with ``ord``, along two axes or with no axis named, the matrix norm, else that of vectors."""
    pair = isinstance(axis, tuple) and len(axis) == 2
    if ord is not None and (pair or (axis is None and x.ndim == 2)):
        x = space.moveaxis(x, axis, (-2, -1)) if pair else x
        if keepdims and pair:
            message = "autograd: np.linalg.norm of matrices does not take keepdims; use xp.linalg.matrix_norm"
            raise TypeError(message)
        return space.linalg.matrix_norm(x, ord=ord, keepdims=keepdims)
    if ord in ("fro", "nuc"):
        raise ValueError(f"autograd: np.linalg.norm with ord={ord!r} needs a matrix, the array has {x.ndim} axes")
    return space.linalg.vector_norm(x, axis=axis, keepdims=keepdims, ord=2 if ord is None else ord)


_WRITTEN: dict[str, Callable[..., Any]] = {"transpose": _transpose, "dot": _dot, "linalg.norm": _norm}


def answer(space: Namespace, function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return what a function of NumPy gives in a namespace that records, NotImplemented where it has none such.

    Examples
    --------
    >>> import numpy as np
    >>> from portnn.autograd import over
    >>> xp = over(np)
    >>> answer(xp, np.transpose, (xp.ones((2, 3)),), {}).shape, answer(xp, np.unwrap, (), {})
    ((3, 2), NotImplemented)

    """
    name = function.__name__
    if (getattr(function, "__module__", None) or "").startswith("numpy.linalg"):
        name = f"linalg.{name}"
    if name in _WRITTEN:
        return _WRITTEN[name](space, *args, **options)
    try:
        ours = space.function(_NAMES.get(name, name))
    except AttributeError:
        return NotImplemented
    return ours(*args, **{_OPTIONS.get(key, key): value for key, value in options.items()})
