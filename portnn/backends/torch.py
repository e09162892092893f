"""PyTorch, used as an array library: no autograd, no modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy

from portnn.backends.base import Array, Backend, Chunk, Step
from portnn.errors import BackendError, reason


class TorchBackend(Backend):
    """PyTorch on the CPU or on a GPU."""

    name = "torch"
    cure = 'pip install "portnn[torch]"'

    @classmethod
    def open(cls, device: Any = None) -> Backend:
        """Import the library; ``device`` is anything ``torch.device`` takes, default torch's own default."""
        try:
            import array_api_compat.torch as xp
            import torch
        except ImportError as error:
            raise BackendError(f"torch cannot be imported ({reason(error)}): {cls.cure}") from error
        try:
            chosen = torch.get_default_device() if device is None else torch.device(device)
        except (RuntimeError, TypeError):
            raise BackendError(f"torch knows no device {device!r}; try 'cpu' or 'cuda:0'") from None
        if chosen.type == "cuda":
            if not torch.cuda.is_available():
                raise BackendError(
                    f"torch {torch.__version__} sees no CUDA GPU for device {device!r}: "
                    "install a CUDA build of torch and check `nvidia-smi`, or use device='cpu'"
                )
            chosen = torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)
            if chosen.index >= torch.cuda.device_count():
                raise BackendError(f"torch has {torch.cuda.device_count()} CUDA device(s), no {device!r}")
        try:
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise BackendError(f"torch cannot use device {str(device)!r} here: {reason(error)}") from None
        return cls(xp, chosen)

    @property
    def version(self) -> str:
        """PyTorch's own version."""
        import torch

        return str(torch.__version__)

    def devices(self) -> list[str]:
        """``cpu`` and every CUDA device."""
        import torch

        return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]

    def dtypes(self) -> list[str]:
        """Both, except on Apple's GPUs."""
        return ["float32"] if self.device.type == "mps" else ["float32", "float64"]

    def synchronize(self) -> None:
        """Wait for the CUDA device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def free_memory(self) -> int | None:
        """Bytes free on a CUDA device."""
        import torch

        return int(torch.cuda.mem_get_info(self.device)[0]) if self.device.type == "cuda" else None

    @contextlib.contextmanager
    def scope(self, matmul_precision: str = "float32") -> Iterator[None]:
        """Pin the precision of float32 products, whatever the process has set, and put it back."""
        import torch

        # torch has one switch per kind of device, and an older one over all, which refuses to be read beside the others
        switches: Any = torch.backends
        switch = switches.cuda.matmul if self.device.type == "cuda" else switches.mkldnn.matmul
        wanted, before = "tf32" if matmul_precision == "tf32" else "ieee", switch.fp32_precision
        if before == wanted or (before == "none" and wanted == "ieee"):
            yield
            return
        switch.fp32_precision = wanted
        try:
            yield
        finally:
            switch.fp32_precision = before

    def owns(self, x: object) -> bool:
        """Whether ``x`` is a tensor."""
        import torch

        return isinstance(x, torch.Tensor)

    def refuse(self, x: Array, who: str, argument: str) -> None:
        """A tensor that records a graph would be updated or copied behind autograd's back."""
        if x.is_sparse or x.layout is not self.xp.strided:
            raise TypeError(f"{who}: Sparse data was passed for {argument}, expected dense: {argument}.to_dense()")
        if x.requires_grad:
            raise TypeError(f"{who}: {argument} is a torch tensor with requires_grad=True; pass {argument}.detach()")

    def asarray(self, x: Any, dtype: Any = None, *, copy: bool | None = None) -> Array:
        """As the base class, with a copy where NumPy's memory cannot be written: torch would warn."""
        if isinstance(x, numpy.ndarray) and not x.flags.writeable:
            x, copy = x.copy(), None
        return super().asarray(x, dtype, copy=copy)

    def ran_out_of_memory(self, error: BaseException) -> bool:
        """On the CPU torch raises a RuntimeError like any other; only its text tells."""
        import torch

        return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)

    def to_numpy(self, x: Array) -> numpy.ndarray:
        """Through the CPU."""
        return x.detach().cpu().numpy()

    def compile_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """Return the plain loop, without autograd's bookkeeping."""
        import torch

        run = super().compile_chunk(step, steps, batch_size)
        return torch.no_grad()(run)
