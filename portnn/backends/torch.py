"""PyTorch, used as an array library: no autograd, no modules."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Callable
from typing import Any

import numpy

from portnn.backends.base import Array, Backend, Batch, Chunk, Rows, Step, own_device
from portnn.backends.graphs import GraphChunk
from portnn.backends.replay import Replaying
from portnn.backends.switch import Switch
from portnn.backends.tape import Call
from portnn.errors import BackendError, reason


class _Precision(Switch):
    """The precision of products on one kind of device."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    @property
    def _settings(self) -> Any:
        import torch

        # one per kind of device, and an older one over all, which refuses to be read beside the others
        kinds: Any = torch.backends
        return kinds.cuda.matmul if self.kind == "cuda" else kinds.mkldnn.matmul

    def read(self) -> str:
        """``"ieee"``, ``"tf32"``, ``"bf16"`` or ``"none"``."""
        return str(self._settings.fp32_precision)

    def turn(self, position: str) -> None:
        """For all threads."""
        self._settings.fp32_precision = position

    def position(self, precision: str) -> str:
        """Full float32 is ``"ieee"``, and ``"none"`` as well, which is what most processes have."""
        full = "none" if self.before == "none" else "ieee"
        return "tf32" if precision == "tf32" else full


_precisions = {kind: _Precision(kind) for kind in ("cpu", "cuda")}


def _one_thread() -> None:
    """Go on alone in a forked process: it does not have the threads that OpenMP would wait for forever."""
    import torch

    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)


class TorchBackend(Replaying):
    """PyTorch on the CPU or on a GPU."""

    name = "torch"
    cure = "python -m pip install torch"

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

    def threads(self) -> int | None:
        """As torch says it."""
        import torch

        return int(torch.get_num_threads())

    def scope(self, matmul_precision: str = "float32") -> contextlib.AbstractContextManager[Any]:
        """Pin the precision of float32 products, whatever the process has set, and put it back: see :class:`Switch`."""
        return _precisions["cuda" if self.device.type == "cuda" else "cpu"].at(matmul_precision)

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

    def batch(self, chunk: dict[str, Rows], start: int, stop: int) -> Batch:
        """As the base class, row by row in memory and, on the CPU, from a multiple of 64 bytes on.

        The last bits of a product may depend on both, and those of a step should not on how its samples were fetched.
        """
        batch = {name: a.contiguous() for name, a in super().batch(chunk, start, stop).items()}
        on_host = self.device.type == "cpu"
        return {name: a.clone() if on_host and a.data_ptr() % 64 else a for name, a in batch.items()}

    def ran_out_of_memory(self, error: BaseException) -> bool:
        """On the CPU torch raises a RuntimeError like any other; only its text tells."""
        import torch

        return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)

    def to_numpy(self, x: Array) -> numpy.ndarray:
        """Through the CPU."""
        return x.detach().cpu().numpy()

    def put_back(self, host: numpy.ndarray, a: Array) -> Array:
        """On the CPU the numbers most often are in its memory already."""
        there = self.xp.from_numpy(host)
        return a if there.data_ptr() == a.data_ptr() else a.copy_(there)

    def reducer(self, ranks: Any) -> Callable[[Array], Array] | None:
        """NCCL, where each rank has a GPU of its own: torch's, bootstrapped over MPI."""
        import torch
        import torch.distributed

        between: Any = torch.distributed
        here = self.device.type == "cuda" and between.is_available() and between.is_nccl_available()
        if not own_device(ranks, torch.cuda.get_device_properties(self.device).uuid if here else None):
            return None
        name = socket.gethostname()
        listening = between.TCPStore(name, 0, is_master=True) if ranks.rank == 0 else None
        where = ranks.told(None if listening is None else (name, listening.port))
        store = listening or between.TCPStore(*where, is_master=False)
        group = between.ProcessGroupNCCL(store, ranks.rank, ranks.size)  # of its own, beside any of the process

        def reduce(a: Array) -> Array:
            group.allreduce([a]).wait()
            return a

        return reduce

    def loop_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """Return the plain loop, without autograd's bookkeeping."""
        import torch

        return torch.no_grad()(super().loop_chunk(step, steps, batch_size))

    def compile_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """Return the recorded steps, replayed without autograd's bookkeeping; on a GPU, CUDA graphs of many steps."""
        import torch

        if self.device.type == "cuda":
            return torch.no_grad()(GraphChunk(self, step, steps, batch_size, self._capture).__call__)
        return torch.no_grad()(super().compile_chunk(step, steps, batch_size))

    @property
    def replays(self) -> bool:  # type: ignore[override]
        """On the CPU, where little is gained by a function of the user's being compiled."""
        return bool(self.device.type == "cpu")

    @functools.cached_property
    def _side(self) -> Any:
        """The stream of all captures: cuBLAS keeps a workspace for each stream that it has seen."""
        import torch

        return torch.cuda.Stream(self.device)

    def _capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """Capture what ``body`` launches; run once before on the same stream, as cuBLAS wants it."""
        import torch

        with torch.cuda.device(self.device):
            stream, current = self._side, torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                body()
            current.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    body()
            except BaseException:  # a capture that ends badly leaves its stream the current one
                del self._side
                torch.cuda.set_stream(current)
                torch.cuda.synchronize()
                raise
        return graph.replay

    # -- replay -----------------------------------------------------------------------------------------------

    def bind(self, call: Call) -> Callable[[], object]:
        """Most functions can write where they are told; of the rest the result is copied."""
        import torch

        name, args, kwargs, out = call.name, call.args, call.kwargs, call.out
        if name in ("asarray", "astype"):
            return functools.partial(out.copy_, args[0])
        if name == "concat":
            return functools.partial(torch.cat, args[0], dim=kwargs.get("axis", 0), out=out)
        arrays = [a for a in args if isinstance(a, torch.Tensor)]
        if name in _REDUCTIONS and len(args) == 1 and (name == "argmax" or out.dtype == args[0].dtype):
            axis = kwargs.get("axis")
            axis = tuple(range(args[0].ndim)) if axis is None and name != "argmax" else axis
            options = {"dim": axis, "keepdim": kwargs.get("keepdims", False)}
            return functools.partial(getattr(torch, _REDUCTIONS[name]), args[0], **options, out=out)
        if name == "matmul":
            return functools.partial(torch.mm if out.ndim == 2 and args[0].ndim == 2 else torch.matmul, *args, out=out)
        if (
            name in _ELEMENTWISE
            and not kwargs
            and (
                (all(a.dtype == arrays[0].dtype for a in arrays) and _takes(arrays[0].dtype, args))
                # with a number of another dtype torch takes that of the array, the standard that of both
                or (name in _COMPARISONS and len(arrays) == 2 and arrays[0].ndim and arrays[1].ndim)
            )
        ):
            args = tuple(
                a if isinstance(a, torch.Tensor) else self.xp.asarray(a, dtype=arrays[0].dtype, device=self.device)
                for a in args
            )
            return functools.partial(getattr(torch, _ELEMENTWISE[name]), *args, out=out)
        function = functools.partial(getattr(self.xp, name), *args, **kwargs)
        return lambda: out.copy_(function())

    def fused(self, first: Call, second: Call) -> Call | None:
        """Comparisons can write what they find as numbers, which takes a tenth of the time of a bool and a cast."""
        casts = second.name == "astype" and first.name in _COMPARISONS and second.args[0] is first.out
        if not casts or any(self.shares_memory(a, second.out) for a in first.args if self.owns(a)):
            return None
        return Call(first.name, first.args, first.kwargs, second.out, first.fixed)

    def copy_into(self, out: Array, a: Array) -> None:
        """Cast as the library does."""
        out.copy_(a)

    def take_into(self, out: Array, rows: Rows, start: int, stop: int) -> None:
        """Without a copy in between, where the dtype is the same."""
        if isinstance(rows.index, slice) or rows.source.dtype != out.dtype:
            super().take_into(out, rows, start, stop)
        else:
            import torch

            torch.index_select(rows.source, 0, rows.index[start:stop], out=out)

    def memory(self, a: Array) -> tuple[int, Any]:
        """As torch says it."""
        return a.data_ptr(), a.stride()

    def writes_to(self, part: Array, instead_of: Array) -> bool:
        """Products depend on how their memory is aligned, in the last bits (MKL)."""
        same = part.data_ptr() % 64 == instead_of.data_ptr() % 64
        return same and super().writes_to(part, instead_of)

    def moved(self, part: Array, source: Array, target: Array) -> Array:
        """A view at the same offset."""
        offset = target.storage_offset() + part.storage_offset() - source.storage_offset()
        return target.as_strided(part.shape, part.stride(), offset)

    def shares_memory(self, a: Array, b: Array) -> bool:
        """Whether they have one storage."""
        return bool(a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr())


def _takes(dtype: Any, args: tuple[Any, ...]) -> bool:
    """Whether the numbers among the arguments are what they are in that dtype: 0.5 is none of the integers."""
    kind = bool if str(dtype) == "torch.bool" else int
    return bool(dtype.is_floating_point) or all(hasattr(a, "layout") or type(a) is kind for a in args)


_REDUCTIONS = {"sum": "sum", "max": "amax", "min": "amin", "argmax": "argmax"}
_COMPARISONS = {
    **{"less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge"},
    **{"equal": "eq", "not_equal": "ne"},
}
_ELEMENTWISE = {
    **_COMPARISONS,
    **{"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "negative": "neg", "abs": "abs"},
    **{"maximum": "maximum", "minimum": "minimum", "sign": "sign", "sqrt": "sqrt", "tanh": "tanh"},
    **{"exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p"},
}
