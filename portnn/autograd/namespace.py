"""The namespace of arrays that record: the functions of the standard over those of another namespace.

Of each function one of five things is known: its rule, that it is written in others, that it has no derivative or one
of 0, that it makes arrays, or that it is about dtypes. What is not in the standard is not there.

Several derivatives may be under way at once, as in the gradient of a gradient. Each has a level of its own, and the
values of its arrays are arrays of the levels below, recorded there in turn: an operation goes to the highest level
among its arguments, and what comes from below is a constant to it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from portnn.autograd import composed, elementwise, indexing, linear_algebra, manipulation, reductions
from portnn.autograd.array import Array
from portnn.autograd.elementwise import Rule
from portnn.autograd.graph import Edge, Node
from portnn.backends import get_backend

RULES: dict[str, tuple[Rule | None, ...]] = {
    **elementwise.RULES,
    **reductions.RULES,
    **manipulation.RULES,
    **indexing.RULES,
    **linear_algebra.RULES,
}
COMPOSED: dict[str, Callable[..., Any]] = composed.FUNCTIONS
# The derivative is 0 wherever there is one, or the values are no real numbers.
CONSTANT = frozenset(
    (
        *("all", "any", "argmax", "argmin", "argsort", "bitwise_and", "bitwise_invert", "bitwise_left_shift"),
        *("bitwise_or", "bitwise_right_shift", "bitwise_xor", "ceil", "count_nonzero", "equal", "floor"),
        *("floor_divide", "greater", "greater_equal", "imag", "isfinite", "isin", "isinf", "isnan", "less"),
        *("less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "nonzero", "not_equal", "round"),
        *("searchsorted", "sign", "signbit", "trunc", "linalg.matrix_rank"),
    )
)
# There is one, and no rule: of constants only.
REFUSED = frozenset(
    (
        *("nextafter", "real", "unique_all", "unique_counts", "unique_inverse", "unique_values"),
        *("linalg.eig", "linalg.eigh", "linalg.eigvals", "linalg.pinv", "linalg.qr", "linalg.svd"),
        *(f"fft.{name}" for name in ("fft", "ifft", "fftn", "ifftn", "rfft", "irfft", "rfftn", "irfftn")),
        *(f"fft.{name}" for name in ("hfft", "ihfft", "fftshift", "ifftshift")),
    )
)
CREATING = frozenset(
    (
        *("arange", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like", "linspace", "ones"),
        *("ones_like", "zeros", "zeros_like", "fft.fftfreq", "fft.rfftfreq"),
    )
)
ABOUT_DTYPES = frozenset(("broadcast_shapes", "can_cast", "finfo", "iinfo", "isdtype", "result_type"))
FUNCTIONS = frozenset(("asarray", *RULES, *COMPOSED, *CONSTANT, *REFUSED, *CREATING, *ABOUT_DTYPES))

_OTHERS = frozenset(
    (
        *("e", "inf", "nan", "newaxis", "pi", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
        *("uint64", "float32", "float64", "complex64", "complex128", "__array_api_version__"),
        *("__array_namespace_info__", "__version__"),
    )
)
# those over modules last; one over a tape or the like lives as long as its arrays
_of_modules: dict[tuple[int, int], Namespace] = {}
_one_at_a_time = threading.RLock()
_of_others: weakref.WeakValueDictionary[tuple[int, int], Namespace] = weakref.WeakValueDictionary()


class Namespace:
    """The functions of the standard for arrays that record; see :func:`portnn.autograd.over`.

    Attributes
    ----------
    base
        The namespace of the library.
    level
        1, or how many derivatives are under way.
    under
        The namespace that the values of its arrays belong to: ``base``, or the one of the level below.

    """

    def __init__(self, base: Any, level: int) -> None:
        self.base, self.level = base, level
        self.under = base if level == 1 else over_base(base, level - 1)
        self.__name__ = f"portnn.autograd.over({getattr(base, '__name__', type(base).__name__)}, {level})"
        self._functions: dict[str, Callable[..., Any]] = {}
        self._seen: list[tuple[Node, Any]] | None = None  # what is recorded, while somebody wants to draw it

    def __repr__(self) -> str:
        """``portnn.autograd.over(numpy, 1)`` or the like."""
        return self.__name__

    def __getattr__(self, name: str) -> Any:
        """A function of the standard, made when it is first asked for; constants and dtypes are the library's own."""
        thing: Any
        if name in _OTHERS:
            thing = getattr(self.base, name)
        elif name in ("linalg", "fft"):
            getattr(self.base, name)  # AttributeError where the library has no such extension, or has it switched off
            return Extension(self, name)
        else:
            thing = self.function(name)
        self.__dict__[name] = thing
        return thing

    def __dir__(self) -> list[str]:
        """What there is."""
        return sorted(name for name in FUNCTIONS | _OTHERS if "." not in name and hasattr(self.base, name))

    def function(self, name: str) -> Callable[..., Any]:
        """Return a function by its name, ``"linalg.inv"`` for one of an extension."""
        if name not in FUNCTIONS:
            raise AttributeError(f"{self!r} has no {name!r}: it is not in the standard")
        if name not in self._functions:
            self._functions[name] = self._made(name)
        return self._functions[name]

    def _made(self, name: str) -> Callable[..., Any]:
        if name == "asarray":
            return self.asarray
        *extension, last = name.split(".")
        theirs = getattr(getattr(self.under, extension[0]) if extension else self.under, last)
        if name in RULES:
            return self._ruled(name, theirs, RULES[name])
        if name in COMPOSED:
            return self._composed(name, theirs, COMPOSED[name])
        if name in ABOUT_DTYPES:
            return lambda *args, **kwargs: theirs(*self.plain(args, lowest=True), **self.plain(kwargs, lowest=True))
        if name in CREATING:
            return self._creating(name, theirs)
        return self._constant(name, theirs)

    # -- what functions do ------------------------------------------------------------------------------------

    def _ruled(self, name: str, theirs: Callable[..., Any], rules: tuple[Rule | None, ...]) -> Callable[..., Any]:
        under = self.under

        def run(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                kwargs = self._keywords(name, kwargs)
            values, held = list(args), False
            nodes: list[Any] = []  # with the rules of their arguments
            for i, a in enumerate(args):
                if type(a) is Array:
                    if a.space is not self:
                        if self.meet(a) is not self:
                            return a.space.function(name)(*args, **kwargs)
                        continue
                    held = True
                    values[i] = a.value
                    if a.node is not None and rules[i] is not None:
                        nodes.append((a.node, rules[i]))
            y = theirs(*values, **kwargs)
            if not nodes:
                return Array(y, self) if held else y
            return self.recorded(y, tuple([(n, rule(under, y, *values, **kwargs)) for n, rule in nodes]), name)

        return run

    def _keywords(self, name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return keyword arguments without arrays that record; what is differentiated stands in its position."""
        for key, a in kwargs.items():
            if type(a) is Array and (a.node is not None or self.meet(a) is not self):
                raise TypeError(f"autograd: {name} got the recorded array {key} by keyword; pass it by position")
        return self.plain(kwargs, lowest=True)

    def _composed(self, name: str, theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            found = list(arrays_in((args, kwargs)))
            space = self.highest(found)
            if space is not self:
                return space.function(name)(*args, **kwargs)
            if any(a.node is not None for a in found if a.space is self):
                return ours(self, *args, **kwargs)
            y = theirs(*self.plain(args), **self.plain(kwargs))
            return self.wrapped(y) if found else y

        return run

    def _creating(self, name: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
        like = name.endswith("_like") or name == "from_dlpack"  # only asks the first argument what it is like

        def run(*args: Any, **kwargs: Any) -> Any:
            if any(a.node is not None for a in arrays_in((args[1:] if like else args, kwargs))):
                raise TypeError(
                    f"autograd: {name} makes constants, and got a recorded number; use broadcast_to or stack"
                )
            space = self.highest(list(arrays_in(args)))
            made = theirs(*self.plain(args, lowest=True), **self.plain(kwargs, lowest=True))
            return Array(made, space)

        return run

    def _constant(self, name: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            found = list(arrays_in((args, kwargs)))
            space = self.highest(found)
            if space is not self:
                return space.function(name)(*args, **kwargs)
            if name in REFUSED and any(a.node is not None for a in found if a.space is self):
                raise TypeError(
                    f"autograd: {name} has no derivative here, and its argument is recorded; leave it out, or take it "
                    "of portnn.autograd.constant(x)"
                )
            y = theirs(*self.plain(args), **self.plain(kwargs))
            return self.wrapped(y) if found else y

        return run

    def asarray(self, obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Array:
        """Return an array of this namespace; what is recorded stays recorded, numbers in a list too."""
        if type(obj) in (tuple, list) and next(arrays_in(obj), None) is not None:
            obj = self.stack([self.asarray(part, dtype=dtype, device=device) for part in obj])
        if type(obj) is Array:
            space = self.meet(obj)
            if space is not self:
                return space.asarray(obj, dtype=dtype, device=device, copy=copy)
            if obj.space is self and obj.node is not None:
                obj = obj if device is None or device == obj.device else obj.to_device(device)
                obj = obj if dtype is None or dtype == obj.dtype else self.astype(obj, dtype)
                return Array(obj.value, self, obj.node)
        return Array(self.under.asarray(self.plain(obj), dtype=dtype, device=device, copy=copy), self)

    def recorded(self, y: Any, edges: tuple[Edge, ...], name: str) -> Array:
        """Return a value with its node."""
        node = Node(edges, y.shape, y.dtype, name)
        if self._seen is not None:
            self._seen.append((node, y))
        return Array(y, self, node)

    @contextmanager
    def watched(self, seen: list[tuple[Node, Any]]) -> Iterator[None]:
        """Append the nodes and values of what is recorded here to a list; whoever comes second waits.

        What other threads record meanwhile is in it too.
        """
        with _one_at_a_time:
            self._seen = seen
            try:
                yield
            finally:
                self._seen = None

    def leaf(self, value: Any, name: str = "x") -> Array:
        """Return an array to differentiate with respect to."""
        return self.recorded(value, (), name)

    # -- levels -----------------------------------------------------------------------------------------------

    def meet(self, a: Array) -> Namespace:
        """Return the higher one of this and the namespace of an array; TypeError where the libraries differ."""
        if a.space is self or (a.space.level < self.level and a.space.base is self.base):
            return self
        if a.space.level > self.level and a.space.base is self.base:
            return a.space
        raise TypeError(f"autograd: arrays of {self!r} and of {a.space!r} cannot be combined")

    def highest(self, found: list[Array]) -> Namespace:
        """Return the highest namespace of some arrays, this one if they are all below."""
        space = self
        for a in found:
            space = space.meet(a)
        return space

    def plain(self, thing: Any, *, lowest: bool = False) -> Any:
        """Return the values in the place of arrays of this namespace; those of the library itself with ``lowest``."""
        if type(thing) is Array:
            if lowest:
                return self.plain(thing.value, lowest=True)
            return thing.value if thing.space is self else thing
        if type(thing) in (tuple, list):
            return type(thing)(self.plain(part, lowest=lowest) for part in thing)
        if type(thing) is dict:
            return {key: self.plain(part, lowest=lowest) for key, part in thing.items()}
        return thing

    def wrapped(self, thing: Any) -> Any:
        """Return constants in the place of arrays."""
        if isinstance(thing, tuple | list):
            parts = [self.wrapped(part) for part in thing]
            return type(thing)(*parts) if hasattr(thing, "_fields") else type(thing)(parts)
        return Array(thing, self) if hasattr(thing, "dtype") else thing

    # -- indexing ---------------------------------------------------------------------------------------------

    def index(self, k: Any) -> Any:
        """Return one index as it is understood below: an array of integers with no axes as an int."""
        if type(k) is Array and k.space is not self:
            self.meet(k)
        k = indexing.number(self.plain(k, lowest=True))
        dtype = getattr(k, "dtype", None)
        if dtype is not None and self.base.isdtype(dtype, "integral") and self.base.iinfo(dtype).bits < 32:
            return self.base.astype(k, self.base.int32)  # PyTorch takes 8 bits for a mask
        return k

    def indexed(self, x: Array, keys: tuple[Any, ...]) -> Array:
        """Return ``x[keys]`` where not all keys are ints, slices, None and dots."""
        node, isdtype = x.node, self.base.isdtype
        if node is None:
            return Array(x.value[keys if len(keys) != 1 else keys[0]], self)
        dtypes = [int if type(k) is int else getattr(k, "dtype", None) for k in keys]
        if len(keys) == 1 and dtypes[0] is not None and isdtype(dtypes[0], "bool"):
            back = indexing.masked(self.under, keys[0], tuple(x.shape))
            return self.recorded(x.value[keys[0]], ((node, back),), "getitem")
        if not all(d is int or (d is not None and isdtype(d, "integral")) for d in dtypes):
            message = (
                "autograd: integer arrays may be mixed with ints only, and a mask stands alone; index in two steps"
            )
            raise IndexError(message)
        first = tuple(x.shape[: len(keys)])
        numbers = indexing.linear_index(self.base, keys, first)
        rows = self.reshape(x, (-1, *x.shape[len(keys) :]))
        taken = self.take(rows, self.base.reshape(numbers, (-1,)), axis=0)
        return self.reshape(taken, (*numbers.shape, *x.shape[len(keys) :]))

    def replaced(self, x: Array, key: Any, new: Any) -> Array:
        """Return ``x`` with ``new`` at an index."""
        return composed.replaced(self, x, key, new)


class Extension:
    """The functions of ``linalg`` or ``fft``."""

    def __init__(self, space: Namespace, name: str) -> None:
        self._space, self._name = space, name

    def __getattr__(self, name: str) -> Any:
        """A function, made when it is first asked for."""
        thing = self._space.function(f"{self._name}.{name}")
        self.__dict__[name] = thing
        return thing


def arrays_in(thing: Any) -> Any:
    """Yield the arrays that record among arguments."""
    if type(thing) is Array:
        yield thing
    elif type(thing) in (tuple, list):
        for part in thing:
            yield from arrays_in(part)
    elif type(thing) is dict:
        for part in thing.values():
            yield from arrays_in(part)


def over_base(base: Any, level: int = 1) -> Namespace:
    """Return the namespace over that of a library, the same one for the same base and level."""
    table: Any = _of_modules if isinstance(base, ModuleType) else _of_others
    space = table.get((id(base), level))
    if space is None:
        space = table.setdefault((id(base), level), Namespace(base, level))  # another thread may have been faster
    return space


def over(library: Any) -> Namespace:
    """Return the namespace of arrays that record, over that of a library: its name, its namespace or one of its arrays.

    It has the functions of the standard, so that arrays can be made and computed with by hand; :func:`vjp` and its kin
    need no more than arrays of the library, and make their own.

    Examples
    --------
    >>> xp = over("numpy")
    >>> xp.sum(xp.arange(4))
    Array(6)

    """
    return over_base(get_backend(library).xp)
