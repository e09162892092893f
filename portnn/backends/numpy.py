"""NumPy: the host. It also holds whatever portnn computes before an array library is involved."""

from __future__ import annotations

import contextlib
from typing import Any

import array_api_compat.numpy as xp
import numpy

from portnn.backends.base import Backend
from portnn.errors import BackendError


class NumpyBackend(Backend):
    """NumPy on the CPU."""

    name = "numpy"
    cure = "pip install numpy"

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

    def scope(self, matmul_precision: str = "float32") -> contextlib.AbstractContextManager[Any]:
        """Silence floating-point warnings: portnn looks for non-finite values itself, on every library alike."""
        return numpy.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore")

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

    def device_of(self, x: Any) -> Any:
        """Return None: there is one device."""
        return None

    def dtypes(self) -> list[str]:
        """Both."""
        return ["float32", "float64"]


HOST = NumpyBackend(xp)
