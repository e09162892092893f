"""NumPy: the host. It also holds whatever portnn computes before an array library is involved."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import array_api_compat.numpy as xp
import numpy

from portnn.backends.base import Backend, Rows, silently
from portnn.backends.replay import Replaying
from portnn.backends.tape import Call
from portnn.errors import BackendError

MOST_BESIDE = 2**20  # bytes of the largest array that a call has beside its arguments and its result
_REDUCTIONS = {"sum": numpy.add, "max": numpy.maximum, "min": numpy.minimum}


class NumpyBackend(Replaying):
    """NumPy on the CPU."""

    name = "numpy"
    cure = "python -m pip install numpy"

    @classmethod
    def open(cls, device: Any = None) -> Backend:
        """NumPy has one device, the CPU."""
        if device not in (None, "cpu"):
            raise BackendError(f"numpy runs on device 'cpu' only, got {device!r}; use backend='cupy' for a GPU")
        return cls(xp)

    def __init__(self, xp: Any, device: Any = None) -> None:
        super().__init__(xp)
        self.device = None

    @property
    def version(self) -> str:
        """NumPy's own version (the compat namespace has none)."""
        return numpy.__version__

    def threads(self) -> int | None:
        """Those of OpenBLAS, if the environment sets them: NumPy does not know."""
        told = (os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
        return next((int(text) for text in told if text.isdecimal()), None)

    def scope(self, matmul_precision: str = "float32") -> contextlib.AbstractContextManager[Any]:
        """Silence floating-point warnings: portnn looks for non-finite values itself, on every library alike."""
        return silently()

    def owns(self, x: object) -> bool:
        """Whether ``x`` is a NumPy array."""
        return isinstance(x, numpy.ndarray | numpy.generic)

    def refuse(self, x: Any, who: str, argument: str) -> None:
        """Masks would be ignored, and the products of ``numpy.matrix`` are not those of arrays."""
        if hasattr(x, "mask") and isinstance(x, numpy.ma.MaskedArray):
            raise TypeError(
                f"{who}: masked arrays are not supported, {argument} is one; fill it with {argument}.filled(...)"
            )
        if isinstance(x, numpy.matrix):
            raise TypeError(f"{who}: {argument} is a numpy.matrix, expected an array: numpy.asarray({argument})")

    def take(self, a: Any, index: Any) -> Any:
        """As the base class, row by row in memory: the products of another layout may differ in their last bits.

        By indexing, since ``numpy.take`` would first copy all of an array of another layout.
        """
        return numpy.ascontiguousarray(a[index, ...])

    def put_back(self, host: numpy.ndarray, a: Any) -> Any:
        """Most often it is that array."""
        if host is not a:
            a[...] = host
        return a

    def device_of(self, x: Any) -> Any:
        """Return None: there is one device."""
        return None

    def dtypes(self) -> list[str]:
        """Both."""
        return ["float32", "float64"]

    # -- replay -----------------------------------------------------------------------------------------------

    def bind(self, call: Call) -> Callable[[], object]:
        """Ufuncs, their reductions and a few others can write where they are told; of the rest the result is copied."""
        name, args, kwargs, out = call.name, call.args, call.kwargs, call.out
        if name in ("asarray", "astype"):
            return functools.partial(numpy.copyto, out, args[0], casting="unsafe")
        if name == "concat":
            return functools.partial(numpy.concatenate, args[0], **kwargs, out=out)
        if name == "argmax" and len(args) == 1:
            return functools.partial(args[0].argmax, **kwargs, out=out)
        function = getattr(numpy, name, None)
        if name == "max" and len(args) == 1 and kwargs.keys() <= {"axis", "keepdims"} and _is_narrow(args[0], **kwargs):
            return _by_columns(args[0], out[..., 0] if kwargs.get("keepdims") else out)
        if name in _REDUCTIONS and len(args) == 1 and out.dtype == args[0].dtype:
            return functools.partial(_REDUCTIONS[name].reduce, args[0], **{"axis": None, **kwargs}, out=out)
        if isinstance(function, numpy.ufunc):
            dtype = next(a.dtype for a in args if isinstance(a, numpy.ndarray))
            if dtype.kind == "f":  # what is made of a number here need not be made in every call
                args = tuple(a if isinstance(a, numpy.ndarray) else numpy.asarray(a, dtype) for a in args)
                if name in ("maximum", "minimum"):
                    known = enumerate(args)
                    args = tuple(_spread(a, out) if i in call.fixed and a.ndim == 0 else a for i, a in known)
            return functools.partial(function, *args, **kwargs, out=out)
        function = functools.partial(getattr(self.xp, name), *args, **kwargs)
        return lambda: numpy.copyto(out, function())

    def copy_into(self, out: Any, a: Any) -> None:
        """Cast as the library does."""
        numpy.copyto(out, a, casting="unsafe")

    def take_into(self, out: Any, rows: Rows, start: int, stop: int) -> None:
        """Without a copy in between, where the dtype is the same."""
        source = rows.source
        if isinstance(rows.index, slice) or source.dtype != out.dtype or not source.flags.c_contiguous:
            super().take_into(out, rows, start, stop)
        else:  # the numbers of the rows are portnn's own; mode="raise" would gather into a buffer first
            source.take(rows.index[start:stop], axis=0, out=out, mode="clip")

    def memory(self, a: Any) -> tuple[int, Any]:
        """As NumPy says it."""
        return a.__array_interface__["data"][0], a.strides

    def writes_to(self, part: Any, instead_of: Any) -> bool:
        """Members are multiplied one after the other, wherever each of them lies."""
        return bool(part.strides[-2:] == instead_of.strides[-2:])

    def moved(self, part: Any, source: Any, target: Any) -> Any:
        """A view at the same offset."""
        offset = self.memory(part)[0] - self.memory(source)[0]
        return numpy.ndarray(part.shape, part.dtype, target, offset, part.strides)

    def shares_memory(self, a: Any, b: Any) -> bool:
        """By the bounds: what one operation has just allocated lies in nobody else's."""
        return numpy.may_share_memory(a, b)


def _is_narrow(a: Any, axis: Any = None, keepdims: bool = False) -> bool:
    return bool(a.ndim > 1 and axis in (-1, a.ndim - 1) and 0 < a.shape[-1] <= 32 and a.nbytes <= MOST_BESIDE)


def _by_columns(a: Any, out: Any) -> Callable[[], object]:
    """Return what takes the maxima of short rows: of their columns, several rows at a time.

    Of 128 rows of ten it takes a quarter of the time, of 1,024 a tenth. A maximum is the same in any order.
    """
    columns = numpy.empty((a.shape[-1], *a.shape[:-1]), a.dtype)
    turned = numpy.moveaxis(a, -1, 0)

    def maxima() -> None:
        numpy.copyto(columns, turned)
        numpy.maximum.reduce(columns, axis=0, out=out)

    return maxima


def _spread(number: Any, out: Any) -> Any:
    """Return an array of a number, beside which NumPy takes several maxima at a time; one by one beside the number."""
    return numpy.full(out.shape if out.nbytes <= MOST_BESIDE else out.shape[-1:], number)


HOST = NumpyBackend(xp)
