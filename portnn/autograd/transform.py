"""Functions to their derivatives: ``vjp``, ``grad``, ``value_and_grad``, and the check by differences."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from portnn.autograd.array import Array
from portnn.autograd.graph import Node, backward, fitted
from portnn.autograd.namespace import Namespace, over_base
from portnn.backends import device, namespace
from portnn.differences import check_vjp

Argnums = int | Sequence[int] | None


class _Depth(threading.local):
    """How many derivatives are under way in this thread."""

    value = 0


_depth = _Depth()


@contextmanager
def _recording(level: int) -> Iterator[None]:
    before, _depth.value = _depth.value, level
    try:
        yield
    finally:
        _depth.value = before


def flatten(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Return the leaves of nested tuples, lists and dicts, and the function that puts others in their places.

    Examples
    --------
    >>> leaves, rebuilt = flatten({"a": [1, 2], "b": (3,)})
    >>> leaves, rebuilt([4, 5, 6])
    ([1, 2, 3], {'a': [4, 5], 'b': (6,)})

    """
    leaves: list[Any] = []
    shape = _shape_of(tree, leaves)
    return leaves, lambda values: _filled(shape, iter(values))


def _shape_of(tree: Any, leaves: list[Any]) -> Any:
    """Return what is left of a tree without its leaves, and append these: None, or (type, keys, parts)."""
    if isinstance(tree, dict):
        return dict, list(tree), [_shape_of(part, leaves) for part in tree.values()]
    if isinstance(tree, tuple | list):
        return type(tree), None, [_shape_of(part, leaves) for part in tree]
    leaves.append(tree)
    return None


def _filled(shape: Any, values: Iterator[Any]) -> Any:
    if shape is None:
        return next(values)
    kind, keys, parts = shape
    filled = [_filled(part, values) for part in parts]
    if kind is dict:
        return dict(zip(keys, filled, strict=True))
    return kind(*filled) if hasattr(kind, "_fields") else kind(filled)


def is_array(thing: Any) -> bool:
    """Whether something is an array of any library, a NumPy scalar included."""
    return hasattr(thing, "shape") and hasattr(thing, "dtype")


class Recording:
    """A function that was run once with recorded arguments: its outputs, and the leaves to differentiate for.

    ``space`` is the namespace of the recorded arrays; ``leaves`` are the nodes and values of those to differentiate
    for, argument by argument; ``outputs`` are the leaves of what the function returned; ``seen`` are the nodes
    and values of all that was recorded in that space meanwhile, where somebody wants to draw it.
    """

    def __init__(self, who: str, f: Callable[..., Any], args: tuple[Any, ...], argnums: Argnums, draw: bool = False):
        self.who = who
        numbers = range(len(args)) if argnums is None else (argnums,) if isinstance(argnums, int) else tuple(argnums)
        if any(not -len(args) <= i < len(args) for i in numbers):
            raise ValueError(f"{who}: argnums is {argnums!r}, the function got {len(args)} arguments")
        self.numbers = [i % len(args) for i in numbers]
        trees = [flatten(a) for a in args]
        arrays = [leaf for i in self.numbers for leaf in trees[i][0]]
        if not arrays:
            raise TypeError(f"{who}: there is no array to differentiate with respect to")
        for i in self.numbers:
            for leaf in trees[i][0]:
                _check_argument(who, i, leaf)
        self.space = _space(arrays)
        self.seen: list[tuple[Node, Any]] = []
        recorded: dict[int, list[tuple[Any, Any]]] = {}
        self.rebuild = [trees[i][1] for i in self.numbers]
        given = []
        for i, (leaves, rebuilt) in enumerate(trees):
            if i in self.numbers:
                name = f"x{i}"
                own = [self.space.leaf(a, name if len(leaves) == 1 else f"{name}[{j}]") for j, a in enumerate(leaves)]
                recorded[i] = [(a.node, a.value) for a in own]  # f may set parts of them
                given.append(rebuilt(own))
            else:
                given.append(rebuilt([Array(a, self.space) if is_array(a) else a for a in leaves]))
        self.leaves = [recorded[i] for i in self.numbers]
        for leaves in self.leaves:
            self.seen += leaves
        with _recording(self.space.level), self.space.watched(self.seen) if draw else nullcontext():
            result = f(*given)
        self.outputs, self.rebuild_outputs = flatten(result)
        for output in self.outputs:
            if not is_array(output):
                raise TypeError(
                    f"{who}: the function returned {type(output).__name__}, expected an array; float() and the like "
                    "lose the derivative"
                )

    def values(self) -> list[Any]:
        """Return the outputs as arrays of the library, or of an outer derivative."""
        return [y.value if type(y) is Array and y.space is self.space else y for y in self.outputs]


class Pullback:
    """What of a recording is left to pull cotangents back: the nodes, and zeros where there is none."""

    def __init__(self, run: Recording) -> None:
        self.who, self.rebuild, self.rebuild_outputs = run.who, run.rebuild, run.rebuild_outputs
        self.leaves = run.leaves
        self.roots: list[Node | None] = [
            y.node if type(y) is Array and y.space is run.space else None for y in run.outputs
        ]
        self.shapes = [(tuple(y.shape), y.dtype) for y in run.outputs]
        self.level = run.space.level

    def __call__(self, dy: Any) -> tuple[Any, ...]:
        """Return the cotangents of the arguments for one of the output, or for an array that broadcasts to it."""
        given, _ = flatten(dy)
        if len(given) != len(self.roots):
            raise ValueError(f"{self.who}: the pullback got {len(given)} cotangents for {len(self.roots)} outputs")
        roots = []
        for node, (shape, dtype), cotangent in zip(self.roots, self.shapes, given, strict=True):
            if not is_array(cotangent) or not _stretches(tuple(cotangent.shape), shape):
                got = tuple(cotangent.shape) if is_array(cotangent) else type(cotangent).__name__
                raise ValueError(
                    f"{self.who}: the cotangent has shape {got}, the output {shape}; pass an array that can be "
                    "broadcast to it"
                )
            if type(cotangent) is Array and cotangent.space.level >= self.level:
                raise TypeError(
                    f"{self.who}: the pullback got a recorded cotangent, which it was made too early for; call vjp "
                    "within the function that is differentiated"
                )
            if tuple(cotangent.shape) != shape:
                cotangent = namespace(cotangent).broadcast_to(cotangent, shape)
            if node is not None:
                roots.append((node, fitted(cotangent, shape, dtype)))
        return self.pulled(roots)

    def pulled(self, roots: list[tuple[Node, Any]]) -> tuple[Any, ...]:
        """Return the cotangents of the arguments for those of nodes."""
        found = backward(roots)
        results = []
        for leaves, rebuilt in zip(self.leaves, self.rebuild, strict=True):
            parts = []
            for node, value in leaves:
                parts.append(found[node.number] if node.number in found else namespace(value).zeros_like(value))
            results.append(rebuilt(parts))
        return tuple(results)


def _stretches(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of a shape can be broadcast to another."""
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def _check_argument(who: str, i: int, leaf: Any) -> None:
    if not is_array(leaf):
        raise TypeError(
            f"{who}: argument {i} is {type(leaf).__name__}, expected an array or a list, tuple or dict of arrays"
        )
    if not namespace(leaf).isdtype(leaf.dtype, "real floating"):
        raise TypeError(
            f"{who}: argument {i} has dtype {leaf.dtype}, expected a real floating-point one; leave it out of argnums "
            "or cast it"
        )


def _space(arrays: Sequence[Any]) -> Namespace:
    """Return a namespace for arrays to be recorded in, a level above all derivatives that are under way."""
    level, bases = _depth.value, []
    for a in arrays:
        if type(a) is Array:
            level = max(level, a.space.level)
            bases.append(a.space.base)
        else:
            bases.append(namespace(a))
    if any(base is not bases[0] for base in bases):
        names = " and ".join(sorted({str(getattr(base, "__name__", base)) for base in bases}))
        raise TypeError(f"autograd: the arguments are arrays of {names}; bring them to one library")
    return over_base(bases[0], level + 1)


def vjp(f: Callable[..., Any], *args: Any, argnums: Argnums = None) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Return y = f(*args) and its pullback: ``dx, ... = pullback(dy)``, one cotangent per differentiated argument.

    The pair is what :mod:`portnn.primitives` calls a differentiable function's value, so that any function written
    against the array API is one.

    Parameters
    ----------
    f
        A function of arrays, or of nested lists, tuples and dicts of them, that returns an array or several. It is
        called once, with arrays that record, and has to use their operators, the functions of their namespace
        ``x.__array_namespace__()``, and what it closes over as constants.
    args
        Arrays of one library, float32 or float64 where they are differentiated.
    argnums
        The numbers of the arguments to differentiate for; None for all.

    Returns
    -------
    y
        As ``f`` returns it, in arrays of the library.
    pullback
        A pure function that can be called again; it keeps alive what the derivatives need. ``dx`` has the shape and
        dtype of its argument, zeros if y does not depend on it.

    Notes
    -----
    Where a maximum, ``max`` or ``clip`` is reached twice, each side has its share of the derivative, as in JAX; that of
    ``abs`` at 0 is 0, as in torch (JAX: 1). That of ``where`` comes from the branch that was taken, but 0 times an
    infinite derivative of the other is NaN. Complex numbers are not differentiated.

    Source: Griewank, Walther, "Evaluating derivatives", SIAM 2008, chapter 3.

    Examples
    --------
    >>> import numpy as np
    >>> y, pullback = vjp(lambda a, b: a @ b, np.asarray([[1.0, 2.0]]), np.asarray([[3.0], [4.0]]))
    >>> y
    array([[11.]])
    >>> pullback(np.asarray([[1.0]]))
    (array([[3., 4.]]), array([[1.],
           [2.]]))

    """
    run = Recording("vjp", f, args, argnums)
    return run.rebuild_outputs(run.values()), Pullback(run)


def value_and_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., tuple[Any, Any]]:
    """Return the function that gives f(*args) and its gradient; f returns a 0-d array, a loss for example.

    Parameters
    ----------
    f
        As for :func:`vjp`.
    argnums
        The argument to differentiate for, or several of them; the gradient is then a tuple.

    Raises
    ------
    ValueError
        f returns an array with axes: of what the gradient is sought has to be said, by a sum or by ``vjp``.
    TypeError
        An argument is not an array of floating-point numbers, or what f returns is not.

    Examples
    --------
    >>> import numpy as np
    >>> def loss(weights, x):
    ...     xp = x.__array_namespace__()
    ...     return xp.sum(xp.tanh(x * weights["w"] + weights["b"]))
    >>> weights = {"w": np.asarray(2.0), "b": np.asarray(0.0)}
    >>> value, gradient = value_and_grad(loss)(weights, np.asarray([0.0, 1.0]))
    >>> float(round(value, 4)), {name: float(round(g, 4)) for name, g in gradient.items()}
    (0.964, {'w': 0.0707, 'b': 1.0707})

    """

    def run(*args: Any) -> tuple[Any, Any]:
        who = "value_and_grad"
        recording = Recording(who, f, args, argnums)
        value, root = scalar(recording)
        results = Pullback(recording).pulled(root)
        return value, results[0] if isinstance(argnums, int) else results

    return run


def scalar(recording: Recording) -> tuple[Any, list[tuple[Node, Any]]]:
    """Return the one value of a recording, and its node with the cotangent 1; ValueError unless it is 0-d."""
    who = recording.who
    if len(recording.outputs) != 1:
        raise TypeError(f"{who}: the function returned {len(recording.outputs)} arrays, expected one; see vjp")
    (value,) = recording.values()
    if tuple(value.shape):
        raise ValueError(
            f"{who}: the function returned an array of shape {tuple(value.shape)}, expected a 0-d one; take the sum or "
            "the mean, or use vjp"
        )
    (y,) = recording.outputs
    node = y.node if type(y) is Array and y.space is recording.space else None
    if node is None:
        return value, []
    return value, [(node, namespace(value).ones((), dtype=value.dtype, device=device(value)))]


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Return the gradient of a function that returns a 0-d array: :func:`value_and_grad` without the value.

    Examples
    --------
    >>> import numpy as np
    >>> cube = lambda x: x**3
    >>> grad(cube)(np.asarray(2.0)), grad(grad(cube))(np.asarray(2.0))
    (np.float64(12.0), np.float64(12.0))

    """
    both = value_and_grad(f, argnums)
    return lambda *args: both(*args)[1]


def constant(x: Any) -> Any:
    """Return ``x`` as a constant: no derivative goes through it. Of an array that does not record, ``x`` itself.

    Examples
    --------
    >>> import numpy as np
    >>> grad(lambda x: x * constant(x))(np.asarray(3.0))
    np.float64(3.0)

    """
    return Array(constant(x.value), x.space) if type(x) is Array else x


def together(*arrays: Any) -> tuple[Any, ...]:
    """Return arrays as one function can take them: those of the library as constants where another one records.

    Examples
    --------
    >>> import numpy as np
    >>> from portnn.autograd import over
    >>> together(np.ones(2), over(np).ones(1))
    (Array([1., 1.]), Array([1.]))

    """
    recording = [a for a in arrays if type(a) is Array]
    if not recording or len(recording) == len(arrays):
        return arrays
    space = recording[0].space.highest(recording)
    return tuple(Array(a, space) if is_array(a) and namespace(a) is space.base else a for a in arrays)


def check(f: Callable[..., Any], args: Sequence[Any], **options: Any) -> float:
    """Compare the derivatives of a function with central differences; return the worst deviation.

    Raises AssertionError where they differ. Arguments and options as for :func:`portnn.testing.check_vjp`, but ``f``
    returns its value alone.

    Examples
    --------
    >>> import numpy as np
    >>> check(lambda x: x**3, [np.asarray([1.0, 2.0])]) < 1e-9
    True

    """
    return check_vjp(lambda *given: vjp(f, *given), args, **options)
