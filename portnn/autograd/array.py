"""The array that records what is done with it."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from array_api_compat import to_device

from portnn.autograd import elementwise, indexing, linear_algebra, numpy_names
from portnn.autograd.graph import Node
from portnn.backends import device

if TYPE_CHECKING:
    from portnn.autograd.namespace import Namespace

_RULES = elementwise.RULES | linear_algebra.RULES
_NUMBERS = (bool, int, float, complex)
Operators = tuple[Callable[..., Any], Callable[..., Any]]


def _binary(name: str, operate: Callable[[Any, Any], Any]) -> Operators:
    """Return the operator of a differentiable function of two arguments, and the reflected one.

    What a namespace does for any function, written out: operators are most of what is recorded.
    """
    left: Any
    right: Any
    left, right = _RULES[name]

    def forward(self: Array, other: Any) -> Any:
        space, a, node = self.space, self.value, self.node
        if type(other) is Array:
            if other.space is not space:
                return space.meet(other).function(name)(self, other)
            b, other_node = other.value, other.node
        elif type(other) in _NUMBERS or hasattr(other, "dtype"):
            b, other_node = other, None
        else:
            return NotImplemented
        y = operate(a, b)
        edges: Any
        if node is None:
            if other_node is None:
                return Array(y, space)
            edges = ((other_node, right(space.under, y, a, b)),)
        elif other_node is None:
            edges = ((node, left(space.under, y, a, b)),)
        else:
            edges = ((node, left(space.under, y, a, b)), (other_node, right(space.under, y, a, b)))
        return space.recorded(y, edges, name)

    def reflected(self: Array, other: Any) -> Any:
        if not (type(other) in _NUMBERS or hasattr(other, "dtype")):
            return NotImplemented
        space, b, node = self.space, self.value, self.node
        y = operate(other, b)
        if node is None:
            return Array(y, space)
        return space.recorded(y, ((node, right(space.under, y, other, b)),), name)

    return forward, reflected


def _constant(name: str, operate: Callable[[Any, Any], Any]) -> Operators:
    """Return an operator whose derivative is 0, or which has none, and the reflected one."""

    def forward(self: Array, other: Any) -> Any:
        if type(other) is Array:
            if other.space is not self.space:
                return self.space.meet(other).function(name)(self, other)
            return Array(operate(self.value, other.value), self.space)
        if type(other) in _NUMBERS or hasattr(other, "dtype"):
            return Array(operate(self.value, other), self.space)
        return NotImplemented

    def reflected(self: Array, other: Any) -> Any:
        if type(other) in _NUMBERS or hasattr(other, "dtype"):
            return Array(operate(other, self.value), self.space)
        return NotImplemented

    return forward, reflected


def _unary(name: str, operate: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return the operator of a function of one argument."""
    (rule,) = _RULES.get(name, (None,))

    def run(self: Array) -> Array:
        y, node = operate(self.value), self.node
        if node is None or rule is None:
            return Array(y, self.space)
        return self.space.recorded(y, ((node, rule(self.space.under, y, self.value)),), name)

    return run


class Array:
    """An array of any library, with the node of the graph that it came from.

    It has the operators, methods and attributes of the standard. What is done with a recorded one is recorded, by its
    operators and by the functions of its namespace alike; values that steer a computation (``if x > 0``, ``float(x)``)
    may be read. Arithmetic in place, ``y += x``, makes a new array and leaves the old one as it was for those that
    still hold it; ``y[key] = x`` changes this array alone, never another that shares its memory.

    Attributes
    ----------
    value
        What it holds: an array of the library, or a recorded array of an outer derivative.
    space
        Its namespace, see :func:`portnn.autograd.over`.
    node
        Its :class:`portnn.autograd.graph.Node`, None for a constant.

    Examples
    --------
    >>> import numpy as np
    >>> from portnn.autograd import over
    >>> xp = over(np.ones(1))
    >>> x = xp.asarray([1.0, 2.0])
    >>> 2 * x + 1
    Array([3., 5.])
    >>> x.__array_namespace__() is xp, float(xp.sum(x)), bool(x[0] == 1.0)
    (True, 3.0, True)

    """

    __slots__ = ("__weakref__", "node", "space", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Any, space: Namespace, node: Node | None = None) -> None:
        self.value, self.space, self.node = value, space, node

    dtype = property(lambda self: self.value.dtype, doc="The dtype of the value.")
    shape = property(lambda self: self.value.shape, doc="The shape of the value.")
    ndim = property(lambda self: self.value.ndim, doc="The number of axes.")
    size = property(lambda self: math.prod(self.value.shape), doc="The number of entries.")
    device = property(lambda self: device(self.value), doc="The device that the value lives on.")

    @property
    def T(self) -> Array:
        """The transpose of a matrix."""
        if self.ndim != 2:
            raise ValueError(f"Array.T: the array has {self.ndim} axes, expected 2; use mT or permute_dims")
        return self.space.matrix_transpose(self)

    @property
    def mT(self) -> Array:
        """The transpose of each matrix."""
        return self.space.matrix_transpose(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Array:
        """Copy the value; the copy was computed as the original was."""
        return Array(copy.deepcopy(self.value, memo), self.space, self.node)

    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        """The namespace that records, over that of the value."""
        return self.space

    def __repr__(self) -> str:
        """``Array([1., 2.])``, with the operation that made it if it is recorded."""
        text = repr(self.value)
        inner = text[text.find("(") + 1 : -1] if text.endswith(")") else text
        return f"Array({inner})" if self.node is None else f"Array({inner}, recorded by {self.node.name})"

    # -- operators --------------------------------------------------------------------------------------------

    __add__, __radd__ = _binary("add", operator.add)
    __sub__, __rsub__ = _binary("subtract", operator.sub)
    __mul__, __rmul__ = _binary("multiply", operator.mul)
    __truediv__, __rtruediv__ = _binary("divide", operator.truediv)
    __mod__, __rmod__ = _binary("remainder", operator.mod)
    __pow__, __rpow__ = _binary("pow", operator.pow)
    __matmul__, __rmatmul__ = _binary("matmul", operator.matmul)
    __neg__ = _unary("negative", operator.neg)
    __pos__ = _unary("positive", operator.pos)
    __abs__ = _unary("abs", operator.abs)
    __invert__ = _unary("bitwise_invert", operator.invert)
    __floordiv__, __rfloordiv__ = _constant("floor_divide", operator.floordiv)
    __and__, __rand__ = _constant("bitwise_and", operator.and_)
    __or__, __ror__ = _constant("bitwise_or", operator.or_)
    __xor__, __rxor__ = _constant("bitwise_xor", operator.xor)
    __lshift__, __rlshift__ = _constant("bitwise_left_shift", operator.lshift)
    __rshift__, __rrshift__ = _constant("bitwise_right_shift", operator.rshift)
    __lt__ = _constant("less", operator.lt)[0]
    __le__ = _constant("less_equal", operator.le)[0]
    __gt__ = _constant("greater", operator.gt)[0]
    __ge__ = _constant("greater_equal", operator.ge)[0]
    __eq__ = _constant("equal", operator.eq)[0]
    __ne__ = _constant("not_equal", operator.ne)[0]

    # -- indexing ---------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Array:
        """A part: by ints, slices, None and dots, by a mask, or by integer arrays for the first axes."""
        given = key if type(key) is tuple else (key,)
        keys = tuple(k if type(k) in indexing.BASIC else self.space.index(k) for k in given)
        if not indexing.is_basic(keys):
            return self.space.indexed(self, keys)
        y, node = self.value[keys if len(keys) != 1 else keys[0]], self.node
        if node is None:
            return Array(y, self.space)
        back = indexing.part(self.space.under, keys, tuple(self.value.shape))
        return self.space.recorded(y, ((node, back),), "getitem")

    def __setitem__(self, key: Any, new: Any) -> None:
        """Become the array with another part; recorded if either was."""
        changed = self.space.replaced(self, key, new)
        self.value, self.space, self.node = changed.value, changed.space, changed.node

    def __iter__(self) -> Iterator[Array]:
        """The parts along the first axis."""
        return iter(self.space.unstack(self))

    def __len__(self) -> int:
        """The length of the first axis."""
        return int(self.value.shape[0])

    # -- values -----------------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        """Read the value, as of any array."""
        return bool(self.value)

    def __float__(self) -> float:
        """Read the value, as of any array."""
        self._leaves("float()")
        return float(self.value)

    def __int__(self) -> int:
        """Read the value, as of any array."""
        self._leaves("int()")
        return int(self.value)

    def __complex__(self) -> complex:
        """Read the value, as of any array."""
        self._leaves("complex()")
        return complex(self.value)

    def __index__(self) -> int:
        """Read the value, as of any array."""
        self._leaves("an index")
        return operator.index(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Hand out a constant; the derivative of what is recorded would be lost without a word."""
        self._leaves("numpy.asarray")
        options = {} if copy is None else {"copy": copy}
        return self.value.__array__(*(() if dtype is None else (dtype,)), **options)

    def __dlpack__(self, **options: Any) -> Any:
        """Hand out a constant."""
        self._leaves("from_dlpack")
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        """As the value's own."""
        return self.value.__dlpack_device__()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        """Answer to NumPy's functions and arrays, with which many a function is written, by those of the standard."""
        if out is not None and not (len(out) == 1 and inputs and out[0] is inputs[0]):  # but for c += x
            raise TypeError(f"{ufunc.__name__}: out= is not recorded; use the result")
        return NotImplemented if method != "__call__" or options else numpy_names.answer(self.space, ufunc, inputs, {})

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """As ``__array_ufunc__``."""
        return numpy_names.answer(self.space, function, args, options)

    def to_device(self, device: Any, /, *, stream: Any = None) -> Array:
        """Return the array on another device; its cotangent travels back."""
        y, node, home = to_device(self.value, device, stream=stream), self.node, self.device
        if node is None:
            return Array(y, self.space)
        return self.space.recorded(y, ((node, lambda dy: to_device(dy, home)),), "to_device")

    def _leaves(self, what: str) -> None:
        if self.node is not None:
            raise TypeError(
                f"{what}: the array is recorded and its derivative would be lost; compute with "
                "x.__array_namespace__(), or hand in portnn.autograd.constant(x)"
            )
