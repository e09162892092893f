"""Ordinary functions where a pair (value, pullback) is asked for: they are differentiated."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from portnn.autograd.transform import is_array, vjp
from portnn.backends import Array, namespace
from portnn.errors import reason
from portnn.primitives import Pair, unpacked

_CURE = (
    "write it against the array API, with the functions of portnn.backends.namespace(y), or return a pair (value, "
    "pullback), see portnn.primitives"
)
# Functions that once returned an array: they need not be called to find out again.
_ordinary: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def pair_of(f: Callable[..., Any], what: str, *args: Any) -> Pair:
    """Return what ``f`` gives for ``args`` if that is a value and its pullback, else its value and the one of autograd.

    The pullback of a function that returns its value alone is that to the first argument, the others are constants. The
    first time it is called twice: as it is, and with an array that records.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = pair_of(lambda z: z * z, "square", np.asarray([1.0, 2.0]))
    >>> y, vjp(np.asarray([1.0, 1.0]))
    (array([1., 4.]), (array([2., 4.]),))

    """
    # on the tape of a step that is recorded twice, both times have to be alike
    if not (_ordinary and _remembered(f) and isinstance(namespace(args[0]), ModuleType)):
        try:
            result = f(*args)
        except (AttributeError, TypeError) as error:
            error.add_note(f"{what}: the function was called with arrays of type {type(args[0]).__name__}; {_CURE}")
            raise
        if not is_array(result):
            return unpacked(result, what)
        with contextlib.suppress(TypeError):  # it cannot be hashed, or not be referred to weakly
            _ordinary.add(f)
    try:
        return vjp(f, *args, argnums=0)
    except (AttributeError, TypeError) as error:  # a function of one library's own, or a method that is in no standard
        raise TypeError(
            f"{what}: the function returns no pullback, and fails with the arrays that record it for the derivative "
            f"({reason(error, 160)}); {_CURE}"
        ) from error
    except Exception as error:
        error.add_note(f"{what}: the function returns no pullback, so it was run with arrays that record; {_CURE}")
        raise


def value_of(result: Any, what: str) -> Array:
    """Return the value alone of what such a function gave.

    Examples
    --------
    >>> import numpy as np
    >>> value_of(np.float64(1.0), "one"), value_of((2.0, lambda dy: (dy,)), "two")
    (np.float64(1.0), 2.0)

    """
    return result if is_array(result) else unpacked(result, what)[0]


def _remembered(f: Callable[..., Any]) -> bool:
    try:
        return f in _ordinary
    except TypeError:
        return False
