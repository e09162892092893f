"""Arrays of other people's: whose they are, and taking them in without a copy where two libraries share a memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from portnn.backends import HOST, Array, Backend, get_backend, namespace
from portnn.checks import check_array, check_place


def home(ours: Backend, params: Array, x: Array, who: str) -> Backend:
    """Return the backend that the arrays of a pure call belong to: ``ours``, or another library's.

    Metadata only is looked at: this runs in hot code, and tracers and tensors that record a graph must pass.

    Raises
    ------
    TypeError
        One of them is no array.
    ValueError
        They are of different libraries or on different devices; the message names both and the conversion.

    Examples
    --------
    >>> import numpy as np
    >>> home(HOST, np.ones(3), np.ones((1, 2)), "apply")
    Backend('numpy', device='cpu')

    """
    if not (ours.owns(params) and ours.owns(x)):
        spaces = [_namespace(a, who, name) for name, a in (("params", params), ("x", x))]
        if spaces[0] is not spaces[1]:
            raise ValueError(_apart(params, x, who, _conversion(params, x, *spaces)))
        ours = get_backend(params)
    here, there = ours.device_of(params), ours.device_of(x)
    if here is None or there is None:  # a library with one device, a tracer, an array on several devices
        return ours
    if here != there:
        move = "array_api_compat.to_device(x, array_api_compat.device(params))"
        raise ValueError(_apart(params, x, who, f"move x with {move}"))
    return ours if here == ours.device else get_backend(params)


def _namespace(x: Any, who: str, argument: str) -> Any:
    try:
        return namespace(x)
    except TypeError:
        raise TypeError(
            f"{who}: {argument} is a {type(x).__name__}, which is not a supported array type; "
            f"convert it first, for example numpy.asarray({argument})"
        ) from None


def _apart(params: Array, x: Array, who: str, cure: str) -> str:
    theirs, ours = (get_backend(a) for a in (params, x))
    return (
        f"{who}: params is a {theirs.library} array on {theirs.device_name}, x a {ours.library} array on "
        f"{ours.device_name}; both must be of one library, on one device: {cure}, or use model.to(backend=x).params"
    )


def _conversion(params: Array, x: Array, theirs: Any, ours: Any) -> str:
    """Return what makes of ``x`` an array of the library of ``params``."""
    name = getattr(theirs, "__name__", "xp").removeprefix("array_api_compat.")
    exchange = all(hasattr(a, "__dlpack__") for a in (params, x)) and hasattr(theirs, "from_dlpack")
    return f"convert x with {name}.{'from_dlpack' if exchange else 'asarray'}(x)"


def taken_in(ours: Backend, x: Array, who: str) -> tuple[Array, Callable[[Array], Array]]:
    """Return samples as a model can go through them, and the function that brings its outputs to their library.

    Samples of the model's library stay as they are, and so do NumPy's, whose outputs are NumPy's. Those of a third
    library are read where they lie, through DLPack: as arrays of the model's library if both share a device, else, if
    they lie in host memory, as arrays of NumPy.

    Raises
    ------
    TypeError, ValueError
        They cannot be computed with, or lie where the model's library does not reach; the message names the cure.

    """
    theirs = check_array(x, who, "x")
    if theirs.name == "numpy":
        return numpy.asarray(x), _as_it_is  # without the rules of a class that is made of NumPy's
    if ours.owns(x):
        check_place(x, theirs, ours, who)
        return x, _as_it_is
    shared = ours.shared(x, theirs)
    if shared is not None:
        return shared, lambda y: _returned(y, ours, theirs)
    on_host = HOST.shared(x, theirs)
    if on_host is not None:
        return on_host, lambda y: _returned(y, HOST, theirs)
    check_place(x, theirs, ours, who)
    return x, _as_it_is


def _as_it_is(y: Array) -> Array:
    return y


def _returned(y: Array, ours: Backend, theirs: Backend) -> Array:
    ours.synchronize()  # what reads the caller's memory has ended when the caller goes on to write into it
    shared = theirs.shared(y, ours)
    return theirs.asarray(ours.to_numpy(y)) if shared is None else shared
