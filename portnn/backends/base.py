"""What portnn asks of an array library beyond the Array API standard, and the answer that needs no library.

The mathematics sees only ``xp``. What is left over is small: getting arrays in and out of host memory, naming
devices, saying which dtypes work, and running many training steps as one *chunk*. :class:`Backend` does all of that
with the standard alone, so a namespace nobody has heard of works as it is; each known library overrides, in one file
of its own, what it does differently.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy
from array_api_compat import array_namespace

from portnn.errors import BackendError

Array = Any
State = dict[str, Any]
Batch = dict[str, Any]
Metrics = dict[str, Any]
Step = Callable[[State, Batch, Any], tuple[State, Metrics]]
Chunk = Callable[[State, "dict[str, Rows]", Sequence[Sequence[float]]], tuple[State, Metrics]]

FLOATS = ("float32", "float64")
REFUSALS = (
    BufferError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)  # of DLPack, by one library or another


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an array in the order of a chunk, gathered batch by batch: what is used at once stays in the cache.

    Parameters
    ----------
    backend
        Whose array it is.
    source
        ``(n, ...)``.
    index
        Numbers of rows, an array of the library, or a slice with a start.
    dtype
        Of what is gathered; None for that of ``source``.

    """

    backend: Backend
    source: Array
    index: Any = field(default_factory=lambda: slice(0, None))
    dtype: Any = None

    def at(self, start: int, stop: int) -> Array:
        """Return the rows from ``start`` to ``stop``, counted in this order."""
        rows = self.backend.take(self.source, self._here(start, stop))
        return rows if self.dtype is None or rows.dtype == self.dtype else self.backend.xp.astype(rows, self.dtype)

    def part(self, start: int, stop: int) -> Rows:
        """Return the rows from ``start`` to ``stop``, counted in this order, not gathered yet."""
        return replace(self, index=self._here(start, stop))

    def _here(self, start: int, stop: int) -> Any:
        index = self.index
        return slice(index.start + start, index.start + stop) if isinstance(index, slice) else index[start:stop]


def summed(metrics: Metrics) -> Metrics:
    """Sum metrics over the samples, which are the last axis."""
    return {name: array_namespace(m).sum(m, axis=-1) for name, m in metrics.items()}


def batch_at(chunk: dict[str, Rows], start: int, stop: int) -> Batch:
    """Gather one batch of a chunk."""
    return {name: rows.at(start, stop) for name, rows in chunk.items()}


class Backend:
    """One array library on one device.

    Parameters
    ----------
    xp
        A namespace that follows the Array API standard, 2022.12 or newer.
    device
        A device object of that library, or None for its default.

    Attributes
    ----------
    name
        The name by which users ask for it, such as ``"numpy"``.
    xp
        As given.
    device
        As given, or the default one where the namespace tells it.

    """

    name: str = "array_api"
    cure: ClassVar[str] = ""  # how to get the library: the pip command
    compiles: bool = False  # whether compile_chunk does more than the loop
    allocates: bool = False  # whether each chunk asks the system for its memory anew, which takes time
    replays: bool = False  # whether it does so by calling the step in the beginning only, without being asked to

    def __init__(self, xp: Any, device: Any = None) -> None:
        self.xp = xp
        self.device = default_device(xp) if device is None else device

    @functools.cached_property
    def _array_type(self) -> type:
        return type(self.xp.zeros(()))

    @property
    def library(self) -> str:
        """What its arrays are called in messages: the name, or that of the package where it is one we do not know."""
        module = getattr(self.xp, "__name__", self.name).removeprefix("array_api_compat.")
        return self.name if self.name != Backend.name else module.partition(".")[0]

    def __repr__(self) -> str:
        """``Backend('torch', device='cuda:0')``."""
        return f"Backend({self.name!r}, device={self.device_name!r})"

    def __reduce__(self) -> Any:
        """Pickle by name: the module of a library is opened anew where the pickle is read."""
        from portnn.backends import reopen

        return reopen, (self.name, self.device_name)

    # -- the library ------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, device: Any = None) -> Backend:
        """Import the library and return its backend on ``device``, or raise BackendError with the cure."""
        raise BackendError(f"backend {cls.name!r} cannot be opened by name; hand in its namespace instead")

    @property
    def version(self) -> str:
        """The version of the library."""
        return str(getattr(self.xp, "__version__", "unknown"))

    def devices(self) -> list[str]:
        """Names of the devices of this library on this machine."""
        return [self.device_name]

    @property
    def device_name(self) -> str:
        """The device as the user would write it."""
        return "cpu" if self.device is None else str(self.device)

    def synchronize(self) -> None:
        """Wait until the device has done all it was given (before a clock is read)."""

    def free_memory(self) -> int | None:
        """Bytes free on the device where it has memory of its own, else None: host data need not be moved."""
        return None

    def threads(self) -> int | None:
        """How many threads its products use, where it says so: the last bits may depend on that."""
        return None

    def scope(self, matmul_precision: str = "float32") -> contextlib.AbstractContextManager[Any]:
        """Return the context in which portnn computes: current device, precision of matrix products, warnings."""
        return contextlib.nullcontext()

    # -- arrays -----------------------------------------------------------------------------------------------

    def owns(self, x: object) -> bool:
        """Whether ``x`` is an array of this library."""
        return isinstance(x, self._array_type)

    def device_of(self, x: Array) -> Any:
        """Return the device that ``x`` lives on; None where the library has one only and does not name it."""
        return getattr(x, "device", None)

    def is_concrete(self, x: Array) -> bool:
        """Whether ``x`` has values that can be read now (False inside a trace)."""
        return True

    def reading(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which values of concrete arrays can be read, even while something is traced."""
        return contextlib.nullcontext()

    def refuse(self, x: Array, who: str, argument: str) -> None:
        """Raise if ``x``, an array of this library, cannot be used as plain data."""

    def float_dtype(self, name: str) -> Any:
        """Return the dtype object for ``"float32"`` or ``"float64"``; ValueError where the device lacks it."""
        if name not in FLOATS:
            raise ValueError(f"dtype must be 'float32' or 'float64', got {name!r}")
        if name not in self.dtypes():
            raise ValueError(f"{self.name} on {self.device_name} has no {name}; {self.float64_cure()}")
        return getattr(self.xp, name)

    def dtypes(self) -> list[str]:
        """Names of the float dtypes that work on this device."""
        info = getattr(self.xp, "__array_namespace_info__", None)
        if info is None:
            return list(FLOATS)
        has = info().dtypes(device=self.device, kind="real floating")
        return [name for name in FLOATS if name in has]

    def float64_cure(self) -> str:
        """What to do where float64 is missing."""
        return "use dtype='float32' or another device"

    def asarray(self, x: Any, dtype: Any = None, *, copy: bool | None = None) -> Array:
        """Bring a NumPy array, or an array of this library, to this backend's device and to ``dtype``.

        ``copy=True`` promises memory of its own; None shares where the library can.
        """
        if isinstance(x, numpy.ndarray | numpy.generic) or not self.owns(x):
            x = to_native(x)
            if dtype is not None and x.dtype.name != dtype_name(dtype):
                with silently():  # before the move: the device may lack the wider type
                    x = x.astype(dtype_name(dtype))
        x = self.xp.asarray(x, device=self.device, copy=copy)
        return x if dtype is None or x.dtype == dtype else self.xp.astype(x, dtype)

    def memory_of(self, x: Array) -> tuple[int, int] | None:
        """Return kind and number of the device in whose memory ``x`` lies, as DLPack counts; None if it does not say.

        The host is (1, 0), the first CUDA device (2, 0); what a device reads of pinned host memory is the host's.
        """
        try:
            kind, number = map(int, x.__dlpack_device__())
        except (AttributeError, *REFUSALS):
            return None
        return (1, 0) if kind in (1, 3, 11) else (kind, number)

    @functools.cached_property
    def _memory(self) -> tuple[int, int] | None:
        return self.memory_of(self.asarray(numpy.zeros(1, dtype="float32")))

    def shared(self, x: Array, theirs: Backend) -> Array | None:
        """Return ``x``, an array of another backend, as one of this, without a copy (DLPack); None if it cannot be.

        It cannot be if it lies in another memory, or has a dtype that this library lacks. (On the CPU JAX copies what
        begins at no multiple of 64 bytes.) Writing into what is returned may write into ``x``.
        """
        if self._memory is None or theirs.memory_of(x) != self._memory:
            return None
        try:
            y = self.xp.from_dlpack(x)
        except (AttributeError, *REFUSALS):
            return None
        return y if dtype_name(y.dtype) == dtype_name(x.dtype) else None  # JAX without x64

    def received(self, x: Array, theirs: Backend, dtype: Any = None) -> Array:
        """Return an array of another backend in memory of its own: by DLPack if both share a device, else by the host.

        On the host numbers are rounded to ``dtype`` by NumPy, which keeps those that are too small for compiled code.
        """
        rounded = dtype is not None and dtype_name(dtype) != dtype_name(x.dtype)
        shared = None if rounded and theirs.memory_of(x) == (1, 0) else self.shared(x, theirs)
        return self.asarray(theirs.to_numpy(x) if shared is None else shared, dtype, copy=True)

    def index(self, rows: numpy.ndarray) -> Any:
        """Return numbers of rows as :meth:`take` and :class:`Rows` want them."""
        return self.asarray(rows)

    def take(self, a: Array, index: Array | slice) -> Array:
        """Return the rows of ``a`` at a slice or at an index array of its library."""
        return a[index, ...] if isinstance(index, slice) else self.xp.take(a, index, axis=0)

    def to_numpy(self, x: Array) -> numpy.ndarray:
        """Copy or view an array of this library as a NumPy array in host memory."""
        return numpy.asarray(x) if hasattr(x, "__array__") else numpy.from_dlpack(x)

    def put_back(self, host: numpy.ndarray, a: Array) -> Array:
        """Return host numbers as an array like ``a``: written to its memory, where that can be done."""
        return self.asarray(host, a.dtype)

    def reducer(self, ranks: Any) -> Callable[[Array], Array] | None:
        """Return what sums an array over ranks without the host, see :mod:`portnn.ranks`; None where nothing does."""
        return None

    def ran_out_of_memory(self, error: BaseException) -> bool:
        """Whether the library says in ``error`` that memory ran out."""
        return isinstance(error, MemoryError)

    def scalars(self, row: Sequence[Any], dtype: Any) -> list[Any]:
        """Return a row of host scalars as a step takes it: numbers as they are, vectors of one per member as arrays."""
        return [self.asarray(h, dtype) if isinstance(h, numpy.ndarray) else h for h in row]

    # -- speed ------------------------------------------------------------------------------------------------

    def compile_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """Return a function that runs ``steps`` training steps over one chunk of data, as fast as the library can.

        ``run(state, chunk, rows) -> (state, metrics)``: every entry of ``chunk`` has ``steps * batch_size`` rows,
        ``rows`` is one row of host scalars per step, and the metrics, of which a step returns one number per sample,
        come back summed over samples and steps. ``state`` is given up by the caller, and what is returned holds until
        the next run. This one is the plain loop.
        """
        return self.loop_chunk(step, steps, batch_size)

    def why_loop(self, step: Step) -> str:
        """Return why steps like this one are run by the plain loop, as they are written; empty where they are not."""
        return "" if self.compiles else f"{self.name} has nothing to compile with"

    def batch(self, chunk: dict[str, Rows], start: int, stop: int) -> Batch:
        """Return the samples of a step, as the loop hands them to it."""
        return batch_at(chunk, start, stop)

    def compiled(self, function: Any) -> Callable[..., Any]:
        """Return a :class:`portnn.pure.Pure` function as fast as the library can run it; this one as it is."""
        return function

    def loop_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """Return the same function as a plain loop, which any step can be run by."""

        def run(state: State, chunk: dict[str, Rows], rows: Sequence[Sequence[float]]) -> tuple[State, Metrics]:
            total: Metrics = {}
            for k in range(steps):
                h = self.scalars(rows[k], state["params"].dtype)
                state, metrics = step(state, self.batch(chunk, k * batch_size, (k + 1) * batch_size), h)
                total = {name: total[name] + m for name, m in metrics.items()} if total else metrics
            return state, summed(total)

        return run


def own_device(ranks: Any, device: Any) -> bool:
    """Whether each rank names a device, by what no other has on any machine: between those NCCL sums.

    ``device`` is None on a rank that has none. All ranks ask, and are told the same.
    """
    devices = [str(device) for device in ranks.gathered(device) if device is not None]
    return len(set(devices)) == ranks.size > 1


def table(rows: Sequence[Sequence[Any]], dtype: Any) -> numpy.ndarray:
    """Return rows of host scalars as one array ``(steps, m)``; ``(steps, m, members, 1)`` if any is one per member.

    Examples
    --------
    >>> table([(0.1, 0.5), (0.2, 0.5)], "float32").shape, table([(0.1, numpy.ones((3, 1)))], "float32").shape
    ((2, 2), (1, 2, 3, 1))

    """
    shape = numpy.broadcast_shapes(*(numpy.shape(h) for h in rows[0]))
    with silently():
        of_members = [[numpy.broadcast_to(h, shape) for h in row] for row in rows] if shape else rows
        return numpy.asarray(of_members, dtype=dtype)


def silently() -> contextlib.AbstractContextManager[Any]:
    """Return the context in which NumPy computes: portnn looks for non-finite values itself, on every library alike.

    A cast on the host, too, may round to 0 or to infinity, which a user's ``numpy.seterr`` would make an error of.
    """
    return numpy.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore")


def default_device(xp: Any) -> Any:
    """Return the device that a namespace uses unless told otherwise; None where it does not say."""
    info = getattr(xp, "__array_namespace_info__", None)
    return None if info is None else info().default_device()


def dtype_name(dtype: Any) -> str:
    """Return ``"float32"`` for that name, and for the dtype or scalar type of any library.

    Examples
    --------
    >>> dtype_name("float32"), dtype_name(numpy.float64), dtype_name(numpy.dtype("float64"))
    ('float32', 'float64', 'float64')

    """
    if isinstance(dtype, str):
        return dtype
    return str(getattr(dtype, "name", getattr(dtype, "__name__", dtype))).rpartition(".")[2]


def to_native(x: Any) -> numpy.ndarray:
    """Return a NumPy array that any library accepts: native byte order and no negative strides."""
    x = numpy.asarray(x)
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    if any(stride < 0 for stride in x.strides):  # torch refuses them
        x = x.copy()
    return x
