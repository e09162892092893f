"""A flat vector held in parts, for compilers.

All parameters are one vector, of which each weight is a slice, and gradients are joined to one. A compiler that has to
do so in every step copies the network twice, and runs the update through the seam of the joined parts. Inside a
compiled chunk a vector is therefore held in the parts that the network cuts it into. It is still one vector to the
step: a part is what a slice of it gives, joining the parts of a gradient costs nothing, and what acts on each number by
itself acts on each part. Whatever else is asked of it is done with the joined vector.
"""

from __future__ import annotations

import functools
import math
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
    """Vectors ``(..., n)`` as a list of arrays in order, each in the shape it is used in.

    ``lead`` is the number of leading axes, those of members: a part has them, and behind them one axis or two.
    """

    __slots__ = ("lead", "parts")
    __array_ufunc__ = None  # NumPy arrays on the left leave their operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parts: Sequence[Array], lead: int) -> None:
        self.parts, self.lead = tuple(parts), lead

    @classmethod
    def cut(cls, vector: Array, shapes: Sequence[tuple[int, ...]]) -> Parts:
        """Cut a vector into parts of these shapes."""
        xp, parts, start = array_namespace(vector), [], 0
        for shape in shapes:
            stop = start + math.prod(shape)
            parts.append(xp.reshape(vector[..., start:stop], (*vector.shape[:-1], *shape)))
            start = stop
        return cls(parts, vector.ndim - 1)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the parts, without the leading axes."""
        return tuple(tuple(part.shape[self.lead :]) for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the vector."""
        return (*self.parts[0].shape[: self.lead], sum(map(math.prod, self.shapes)))

    ndim = property(lambda self: self.lead + 1)
    dtype = property(lambda self: self.parts[0].dtype)
    device = property(lambda self: device(self.parts[0]))

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        """The functions of the library, which know parts."""
        return _namespace(array_namespace(self.parts[0]))

    def goes_with(self, a: Any) -> bool:
        """Whether an operand can be taken part by part: a number, a vector, or one number for each vector."""
        shape = getattr(a, "shape", None)  # which classes, dtypes among them, have as a descriptor
        if isinstance(a, Parts) or not isinstance(shape, tuple) or not shape:
            return True
        vector = shape[-1] == self.shape[-1] and len(shape) in (1, self.ndim)
        return vector or shape == (1,) or (shape[-1] == 1 and len(shape) == self.ndim)

    def flat(self) -> list[Array]:
        """Return the parts as vectors."""
        xp, lead = array_namespace(self.parts[0]), self.shape[:-1]
        return [part if part.ndim == len(lead) + 1 else xp.reshape(part, (*lead, -1)) for part in self.parts]

    def joined(self) -> Array:
        """Return the vector in one piece."""
        return array_namespace(self.parts[0]).concat(self.flat(), axis=-1)

    def __getitem__(self, key: Any) -> Any:
        """Return a part, where the slice is one; otherwise cut it from the joined vector."""
        if isinstance(key, tuple) and len(key) == 2 and key[0] is Ellipsis and isinstance(key[1], slice):
            start = 0
            for part, shape in zip(self.parts, self.shapes, strict=True):
                stop = start + math.prod(shape)
                if (key[1].start, key[1].stop, key[1].step) == (start, stop, None):
                    return part if len(shape) == 1 else Parts([part], self.lead)
                start = stop
        return self.joined()[key]

    def __neg__(self) -> Parts:
        """Minus every number."""
        return _each(operator.neg, (self,))

    def __abs__(self) -> Parts:
        """Return the size of every number."""
        return _each(operator.abs, (self,))


def _give_operators() -> None:
    for name in _OPERATORS:
        function = getattr(operator, name)
        setattr(Parts, f"__{name}__", lambda a, b, f=function: _each(f, (a, b)))
        setattr(Parts, f"__r{name}__", lambda a, b, f=function: _each(f, (b, a)))


_give_operators()


def _each(function: Callable[..., Array], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Apply what acts on each number by itself, part by part; vectors in one piece are cut like the others."""
    kwargs = kwargs or {}
    given = [a for a in args if isinstance(a, Parts)]
    first, shapes = given[0], given[0].shapes
    if any((a.shapes, a.lead) != (shapes, first.lead) for a in given) or not all(map(first.goes_with, args)):
        return function(*map(joined, args), **kwargs)
    n, lead = first.shape[-1], first.lead

    def of(a: Any) -> Sequence[Any]:
        shape = getattr(a, "shape", None)  # which classes, dtypes among them, have as a descriptor
        if isinstance(a, Parts):
            return a.parts
        if not isinstance(shape, tuple) or not shape:
            return [a] * len(shapes)
        if shape[-1] == n:
            return Parts.cut(a, shapes).parts
        # one number for all of a vector, or for that of each member
        return [a[(..., *[None] * (len(of_part) - 1))] for of_part in shapes]

    return Parts([function(*row, **kwargs) for row in zip(*map(of, args), strict=True)], lead)


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

    def reshape(self, a: Any, shape: tuple[int, ...]) -> Any:
        """Return a matrix as a vector in one part, and such a vector as the matrix that it is."""
        if isinstance(a, Parts):
            (part, *others) = a.parts
            return part if not others and tuple(part.shape) == tuple(shape) else self._xp.reshape(a.joined(), shape)
        flattened = len(shape) == a.ndim - 1 and shape[-1] == -1 and tuple(a.shape[: len(shape) - 1]) == shape[:-1]
        return Parts([a], len(shape) - 1) if flattened else self._xp.reshape(a, shape)

    def _call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name == "concat" and kwargs.get("axis") == -1:
            lead = args[0][0].ndim - 1
            return Parts([part for a in args[0] for part in (a.parts if isinstance(a, Parts) else (a,))], lead)
        given = any(isinstance(a, Parts) for a in args)
        if given and name in _ELEMENTWISE:
            return _each(function, args, kwargs)
        if given and name in _REDUCTIONS and len(args) == 1 and kwargs.get("axis") == -1:
            combine = getattr(self._xp, _REDUCTIONS[name])
            return functools.reduce(combine, [function(part, **kwargs) for part in args[0].flat()])
        return function(*map(joined, args), **{key: joined(value) for key, value in kwargs.items()})


_namespace = functools.lru_cache(maxsize=8)(_Namespace)
