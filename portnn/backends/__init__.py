"""The ground floor: one file per array library, and nothing above it names one.

A library is imported only when the user asks for it by name or brings one of its arrays.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from types import ModuleType
from typing import Any, NamedTuple

import array_api_compat
from array_api_compat import device

from portnn.backends.base import Array, Backend, dtype_name
from portnn.backends.numpy import HOST
from portnn.errors import BackendError, shown

__all__ = [
    "HOST",
    "Array",
    "Backend",
    "BackendInfo",
    "available",
    "device",
    "dtype_name",
    "get_backend",
    "namespace",
    "one_of",
]

_CLASSES = {
    "numpy": "portnn.backends.numpy:NumpyBackend",
    "cupy": "portnn.backends.cupy:CupyBackend",
    "torch": "portnn.backends.torch:TorchBackend",
    "jax": "portnn.backends.jax:JaxBackend",
    "array_api_strict": "portnn.backends.strict:StrictBackend",
}
_ROOTS = {"jaxlib": "jax", **{name: name for name in _CLASSES}}
_ITS_OWN = object()
_namespaces: dict[type, Any] = {}
_backends: dict[tuple[str, str], Backend] = {}


def _class(name: str) -> type[Backend]:
    module, _, cls = _CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def _opened(name: str, device: Any = None) -> Backend:
    """Return the backend of an array at hand, remembered: opening one anew may try out the device."""
    key = name, repr(device)  # not every library's devices can be hashed
    if key not in _backends:
        _backends[key] = _class(name).open(device)
    return _backends[key]


def reopen(name: str, device: str) -> Backend:
    """Return the backend that was pickled under these names."""
    return _class(name).open(device)


def _known(thing: object) -> str | None:
    """Return the name of the library that an array or a namespace module belongs to, if it is one of ours."""
    kinds = (thing,) if isinstance(thing, ModuleType) else type(thing).__mro__  # a user's class may be made of theirs
    for kind in kinds:
        path = kind.__name__ if isinstance(kind, ModuleType) else kind.__module__
        parts = (path or "").split(".")
        if parts[0] == "array_api_compat" and len(parts) > 1:
            parts = parts[1:]
        if parts[0] in _ROOTS:
            return _ROOTS[parts[0]]
    return None


def get_backend(spec: Any = "numpy", device: Any = None) -> Backend:
    """Return the backend for a name, a namespace module, an array or a Backend.

    Parameters
    ----------
    spec
        ``"numpy"``, ``"cupy"``, ``"torch"``, ``"jax"``, ``"array_api_strict"``; a module that follows the standard;
        or an array, whose library (and device, unless another is asked for) is taken.
    device
        A device of the library or its name; None for the default.

    Raises
    ------
    BackendError
        The library is missing, or the device is not there. The message names the cure.
    ValueError
        No such backend.
    TypeError
        ``spec`` is not a name, a namespace or an array.

    Examples
    --------
    >>> get_backend("numpy")
    Backend('numpy', device='cpu')

    """
    if isinstance(spec, Backend):
        return spec if device is None else get_backend(spec.name if spec.name in _CLASSES else spec.xp, device)
    if isinstance(spec, str):
        return _class(one_of("backend", spec, _CLASSES)).open(device)
    namespace_like = all(hasattr(spec, name) for name in ("asarray", "zeros", "matmul"))
    if isinstance(spec, ModuleType) or namespace_like:
        if not namespace_like:
            raise TypeError(f"module {spec.__name__} is not a namespace of arrays (it has no asarray, zeros or matmul)")
        known = _known(spec) or _known(spec.zeros(()))  # another name for arrays that we know
        return Backend(spec, device) if known is None else _class(known).open(device)
    known = _known(spec)
    if known is not None and hasattr(spec, "shape"):
        return _opened(known, _opened(known).device_of(spec)) if device is None else _class(known).open(device)
    if array_api_compat.is_array_api_obj(spec):
        return Backend(namespace(spec), array_api_compat.device(spec) if device is None else device)
    raise TypeError(f"{type(spec).__name__} is not a supported array type, nor the name or namespace of a backend")


def namespace(x: Array) -> Any:
    """Return the Array API namespace of ``x``.

    For the libraries we know the answer depends on the type alone, so it is remembered: array_namespace costs 1 to
    3 microseconds a call, as much as a small product. Arrays of others are asked one by one: those that record have a
    namespace each.
    """
    xp = _namespaces.get(type(x))
    if xp is _ITS_OWN:
        return x.__array_namespace__()
    if xp is None:
        xp = array_api_compat.array_namespace(x)
        if _known(x) is not None:
            _namespaces[type(x)] = xp
        elif hasattr(x, "__array_namespace__") and xp is x.__array_namespace__():
            _namespaces[type(x)] = _ITS_OWN
    return xp


class BackendInfo(NamedTuple):
    """What one array library can do on this machine; ``why_not`` says what is missing where it cannot be used."""

    name: str
    usable: bool
    version: str
    devices: list[str]
    dtypes: list[str]
    why_not: str


def available() -> dict[str, BackendInfo]:
    """Say which array libraries are installed and usable here, and why the others are not.

    Every library that is installed is imported to find out.

    Examples
    --------
    >>> import portnn
    >>> portnn.backends()["numpy"].usable
    True

    """
    found = {}
    for name in _CLASSES:
        try:
            backend = get_backend(name)
        except BackendError as error:
            found[name] = BackendInfo(name, False, "", [], [], str(error))
        else:
            why_not = "" if "float64" in backend.dtypes() else f"float64: {backend.float64_cure()}"
            found[name] = BackendInfo(name, True, backend.version, backend.devices(), backend.dtypes(), why_not)
    return found


def one_of(what: str, name: object, table: Any) -> Any:
    """Return ``name`` if it is in ``table``, else raise ValueError that lists what is, closest first."""
    if isinstance(name, str) and name in table:
        return name
    close = difflib.get_close_matches(str(name), list(table), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {what} {shown(name)}: expected one of {', '.join(map(repr, table))}{hint}")


class _Package(ModuleType):
    """This package, which is also the public function ``portnn.backends()``."""

    def __call__(self) -> dict[str, BackendInfo]:
        return available()


sys.modules[__name__].__class__ = _Package
