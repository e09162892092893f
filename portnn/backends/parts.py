"""A flat vector held in parts, for compilers.

All parameters are one vector, of which each weight is a slice, and gradients are joined to one. A compiler that has to
do so in every step copies the network twice, and runs the update through the seam of the joined parts. Inside a
compiled chunk a vector is therefore held in the parts that the network cuts it into. It is still one vector to the
step: a part is what a slice of it gives, joining the parts of a gradient costs nothing, and what acts on each number by
itself acts on each part. Whatever else is asked of it is done with the joined vector.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from array_api_compat import array_namespace, device

from portnn.backends.base import Array

_ELEMENTWISE = frozenset(
    (
        *("abs", "add", "astype", "divide", "exp", "isfinite", "isnan", "log", "maximum", "minimum", "multiply"),
        *("negative", "ones_like", "pow", "sign", "sqrt", "square", "subtract", "where", "zeros_like"),
        *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
        *("logical_and", "logical_or", "logical_not"),
    )
)
_REDUCTIONS = {"sum": "add", "max": "maximum", "min": "minimum", "all": "logical_and", "any": "logical_or"}
_OPERATORS = ["add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne"]


class Parts:
    """Vectors ``(..., n)`` as a list of arrays ``(..., n_i)``, in order."""

    __slots__ = ("parts",)
    __array_ufunc__ = None  # NumPy arrays on the left leave their operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = tuple(parts)

    @classmethod
    def cut(cls, vector: Array, widths: Sequence[int]) -> Parts:
        """Cut a vector into parts of these widths."""
        stops = [sum(widths[: i + 1]) for i in range(len(widths))]
        return cls([vector[..., stop - width : stop] for width, stop in zip(widths, stops, strict=True)])

    @property
    def widths(self) -> tuple[int, ...]:
        """The lengths of the parts."""
        return tuple(part.shape[-1] for part in self.parts)

    shape = property(lambda self: (*self.parts[0].shape[:-1], sum(self.widths)))
    dtype = property(lambda self: self.parts[0].dtype)
    ndim = property(lambda self: self.parts[0].ndim)
    device = property(lambda self: device(self.parts[0]))

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        """The functions of the library, which know parts."""
        return _namespace(array_namespace(self.parts[0]))

    def joined(self) -> Array:
        """Return the vector in one piece."""
        return array_namespace(self.parts[0]).concat(self.parts, axis=-1)

    def __getitem__(self, key: Any) -> Array:
        """Return a part, where the slice is one; otherwise cut it from the joined vector."""
        if isinstance(key, tuple) and len(key) == 2 and key[0] is Ellipsis and isinstance(key[1], slice):
            start = 0
            for part in self.parts:
                if (key[1].start, key[1].stop, key[1].step) == (start, start + part.shape[-1], None):
                    return part
                start += part.shape[-1]
        return self.joined()[key]

    def __neg__(self) -> Parts:
        """Minus every number."""
        return Parts([-part for part in self.parts])

    def __abs__(self) -> Parts:
        """Return the size of every number."""
        return Parts([abs(part) for part in self.parts])


def _give_operators() -> None:
    for name in _OPERATORS:
        function = getattr(operator, name)
        setattr(Parts, f"__{name}__", lambda a, b, f=function: _each(f, (a, b)))
        setattr(Parts, f"__r{name}__", lambda a, b, f=function: _each(f, (b, a)))


_give_operators()


def _each(function: Callable[..., Array], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Apply what acts on each number by itself, part by part; vectors in one piece are cut like the others."""
    kwargs = kwargs or {}
    widths = {a.widths for a in args if isinstance(a, Parts)}
    if len(widths) > 1:
        return function(*map(joined, args), **kwargs)
    (cut,) = widths
    n = sum(cut)

    def of(a: Any) -> Sequence[Any]:
        if isinstance(a, Parts):
            return a.parts
        shape = getattr(a, "shape", None)  # which classes, dtypes among them, have as a descriptor
        whole = isinstance(shape, tuple) and shape[-1:] == (n,)
        return Parts.cut(a, cut).parts if whole else [a] * len(cut)

    return Parts([function(*row, **kwargs) for row in zip(*map(of, args), strict=True)])


def joined(a: Any) -> Any:
    """Return parts in one piece, in a list or tuple too, and anything else as it is."""
    if type(a) in (list, tuple):
        return type(a)(map(joined, a))
    return a.joined() if isinstance(a, Parts) else a


class _Namespace:
    """The namespace of vectors in parts."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        """The library's function; if it is given parts, part by part where that is the same."""
        thing = getattr(self._xp, name)
        return functools.partial(self._call, name, thing) if callable(thing) and not isinstance(thing, type) else thing

    def _call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name == "concat" and kwargs.get("axis") == -1:
            return Parts([part for a in args[0] for part in (a.parts if isinstance(a, Parts) else (a,))])
        given = any(isinstance(a, Parts) for a in args)
        if given and name in _ELEMENTWISE:
            return _each(function, args, kwargs)
        if given and name in _REDUCTIONS and len(args) == 1 and kwargs.get("axis") == -1:
            combine = getattr(self._xp, _REDUCTIONS[name])
            return functools.reduce(combine, [function(part, **kwargs) for part in args[0].parts])
        return function(*map(joined, args), **{key: joined(value) for key, value in kwargs.items()})


_namespace = functools.lru_cache(maxsize=8)(_Namespace)
