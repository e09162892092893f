"""array-api-strict: the standard and nothing else, on NumPy; its extra devices stand in for a GPU in tests."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy

from portnn.backends.base import Array, Backend
from portnn.errors import BackendError


class StrictBackend(Backend):
    """array-api-strict, on one of its simulated devices."""

    name = "array_api_strict"
    cure = "python -m pip install array-api-strict"

    @classmethod
    def open(cls, device: Any = None) -> Backend:
        """Import the library; ``device`` may be a name such as ``"device1"``."""
        try:
            import array_api_strict as xp
        except ImportError as error:
            raise BackendError(f"array_api_strict is not installed: {cls.cure}") from error
        if isinstance(device, str):
            name = "CPU_DEVICE" if device == "cpu" else device
            try:
                device = xp.Device(name)
            except ValueError as error:
                raise BackendError(f"array_api_strict has no device {device!r}: {error}") from None
        return cls(xp, device)

    def scope(self, matmul_precision: str = "float32") -> contextlib.AbstractContextManager[Any]:
        """As for NumPy, which does the arithmetic."""
        return numpy.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore")

    def devices(self) -> list[str]:
        """Return the CPU and the simulated devices."""
        return [_name(device) for device in self.xp.__array_namespace_info__().devices()]

    @property
    def device_name(self) -> str:
        """``cpu`` or the simulated device's own name."""
        return "cpu" if self.device is None else _name(self.device)

    def memory_of(self, x: Array) -> tuple[int, int] | None:
        """Those of the simulated devices cannot be read by others, as a GPU's could not."""
        return super().memory_of(x) if _name(x.device) == "cpu" else None

    def to_numpy(self, x: Array) -> numpy.ndarray:
        """Move to the CPU first: other devices refuse the conversion, as a GPU would."""
        return numpy.asarray(x.to_device(self.xp.Device("CPU_DEVICE")))


def _name(device: Any) -> str:
    name = str(getattr(device, "_device", device))
    return "cpu" if name == "CPU_DEVICE" else name
