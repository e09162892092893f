"""CuPy: NumPy's arrays on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from portnn.backends.base import Array, Backend, Chunk, Step, own_device
from portnn.backends.cupy_graph import capture
from portnn.backends.graphs import GraphChunk
from portnn.backends.switch import Switch
from portnn.errors import BackendError, reason


class _Precision(Switch):
    """What CuPy computes float32 products in, on all devices."""

    @property
    def _settings(self) -> Any:
        from cupy._core import _routines_linalg

        return _routines_linalg

    def read(self) -> int:
        """A number that CuPy has a name for."""
        return int(self._settings.get_compute_type(numpy.dtype("float32")))

    def turn(self, position: int) -> None:
        """For all threads."""
        self._settings.set_compute_type(numpy.dtype("float32"), position)

    def position(self, precision: str) -> int:
        """TF32, or CuPy's default, which is full float32."""
        return int(self._settings.COMPUTE_TYPE_TF32 if precision == "tf32" else self._settings.COMPUTE_TYPE_DEFAULT)


_precision = _Precision()


class CupyBackend(Backend):
    """CuPy on one CUDA device."""

    name = "cupy"
    cure = 'python -m pip install "cupy-cuda13x[ctk]" (CUDA 13) or "cupy-cuda12x[ctk]"'
    compiles = True

    @classmethod
    def open(cls, device: Any = None) -> Backend:
        """Import the library; ``device`` is a number, ``"cuda:1"``, ``"cuda"`` or a ``cupy.cuda.Device``."""
        try:
            import array_api_compat.cupy as xp
            import cupy
        except ImportError as error:
            raise BackendError(f"cupy cannot be imported ({reason(error)}): {cls.cure}") from error
        if not cupy.cuda.is_available():
            raise BackendError(
                f"cupy {cupy.__version__} is installed but sees no CUDA GPU: check `nvidia-smi` and "
                "CUDA_VISIBLE_DEVICES, or use backend='numpy'"
            )
        number = _number(device)
        if number >= cupy.cuda.runtime.getDeviceCount():
            raise BackendError(f"cupy has {cupy.cuda.runtime.getDeviceCount()} CUDA device(s), no {device!r}")
        chosen = cupy.cuda.Device(number)
        try:
            # cuBLAS is loaded at the first product only: ask for it now, where the answer can name the cure.
            with chosen:
                cupy.matmul(cupy.ones((2, 2), dtype=cupy.float32), cupy.ones((2, 2), dtype=cupy.float32))
        except (ImportError, RuntimeError) as error:
            raise BackendError(f"cupy finds no working CUDA toolkit ({reason(error)}): {cls.cure}") from error
        return cls(xp, chosen)

    @property
    def version(self) -> str:
        """CuPy's own version."""
        import cupy

        return str(cupy.__version__)

    @property
    def device_name(self) -> str:
        """``cuda:0``."""
        return f"cuda:{self.device.id}"

    def devices(self) -> list[str]:
        """Every CUDA device."""
        import cupy

        return [f"cuda:{i}" for i in range(cupy.cuda.runtime.getDeviceCount())]

    def dtypes(self) -> list[str]:
        """Both."""
        return ["float32", "float64"]

    def synchronize(self) -> None:
        """Wait for the device."""
        self.device.synchronize()

    def free_memory(self) -> int | None:
        """Bytes free on the device, and in CuPy's own pool."""
        import cupy

        return int(self.device.mem_info[0]) + int(cupy.get_default_memory_pool().free_bytes())

    @contextlib.contextmanager
    def scope(self, matmul_precision: str = "float32") -> Iterator[None]:
        """Make the device current (CuPy computes on the current device) and pin the precision of products."""
        with self.device, _precision.at(matmul_precision):
            yield

    def owns(self, x: object) -> bool:
        """Whether ``x`` is a CuPy array."""
        import cupy

        return isinstance(x, cupy.ndarray)

    def asarray(self, x: Any, dtype: Any = None, *, copy: bool | None = None) -> Array:
        """As the base class, on this backend's device."""
        with self.device:
            return super().asarray(x, dtype, copy=copy)

    def ran_out_of_memory(self, error: BaseException) -> bool:
        """CuPy's own exception is a MemoryError; cuBLAS has a status for it."""
        return isinstance(error, MemoryError) or "ALLOC_FAILED" in str(error)

    def to_numpy(self, x: Array) -> numpy.ndarray:
        """Copy to the host; CuPy never does so by itself."""
        return x.get()

    def put_back(self, host: numpy.ndarray, a: Array) -> Array:
        """Upload to its memory."""
        a.set(host)
        return a

    def reducer(self, ranks: Any) -> Callable[[Array], Array] | None:
        """NCCL, where each rank has a GPU of its own; its number is told over MPI."""
        import cupy
        from cupy.cuda import nccl

        if not own_device(ranks, cupy.cuda.runtime.getDeviceProperties(self.device.id)["uuid"].hex() or None):
            return None
        if not all(ranks.gathered(bool(nccl.available))):
            return None
        unique = ranks.told(nccl.get_unique_id() if ranks.rank == 0 else None)
        group = nccl.NcclCommunicator(ranks.size, unique, ranks.rank)
        kinds = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}

        def reduce(a: Array) -> Array:
            stream, here = cupy.cuda.get_current_stream(), a.data.ptr
            group.allReduce(here, here, a.size, kinds[a.dtype.name], nccl.NCCL_SUM, stream.ptr)
            return a

        return reduce

    def compile_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """Return the chunk as CUDA graphs of many steps."""
        return GraphChunk(self, step, steps, batch_size, capture)

    def why_loop(self, step: Step) -> str:
        """Members end in another function of cuBLAS than the one that is made capturable."""
        alone = getattr(step, "members", None) is None
        return super().why_loop(step) if alone else "CuPy cannot capture the products of members"


def _number(device: Any) -> int:
    if device is None:
        import cupy

        return int(cupy.cuda.Device().id)
    if isinstance(device, str):
        kind, _, index = device.partition(":")
        if kind not in ("cuda", "gpu") or not (index or "0").isdecimal():
            raise BackendError(f"cupy knows no device {device!r}; devices are named 'cuda:0', 'cuda:1', ...")
        return int(index or 0)
    return int(getattr(device, "id", device))
