"""JAX: arrays never change, and a chunk of steps is one compiled scan."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy

from portnn.backends.base import (
    Array,
    Backend,
    Batch,
    Chunk,
    Metrics,
    Rows,
    State,
    Step,
    dtype_name,
    silently,
    table,
    to_native,
)
from portnn.backends.parts import Parts
from portnn.errors import BackendError, reason

MOST_KEPT = 2**22  # outputs of a chunk
_used_in: list[int] = []  # the process that opened the library, or from which this one was forked


def _not_forked() -> None:
    """Raise BackendError in a process that was forked from one that used the library: it would wait there forever."""
    if _used_in and _used_in[0] != os.getpid():
        message = (
            "jax cannot be used in a process that was forked from one that has used it (its threads are gone, and it "
            "would wait for them); start processes with multiprocessing.get_context('spawn'), or with joblib's loky"
        )
        raise BackendError(message)


class JaxBackend(Backend):
    """JAX on the CPU or on an accelerator."""

    name = "jax"
    cure = "python -m pip install jax"
    compiles = True

    @property
    def allocates(self) -> bool:  # type: ignore[override]
        """On the CPU, where a compiled function gives its memory back to the system when it ends."""
        return bool(self.device.platform == "cpu")

    @classmethod
    def open(cls, device: Any = None) -> Backend:
        """Import the library; ``device`` is a JAX device or a name such as ``"cpu"`` or ``"cuda:0"``."""
        try:
            import jax
            import jax.numpy as xp
        except ImportError as error:
            raise BackendError(f"jax cannot be imported ({reason(error)}): {cls.cure}") from error
        _not_forked()
        _used_in[:] = [os.getpid()]
        if device is None:
            device = jax.devices()[0]
        elif isinstance(device, str):
            platform, _, index = device.partition(":")
            try:
                device = jax.devices(platform)[int(index or 0)]
            except (RuntimeError, ValueError, IndexError):
                have = ", ".join(sorted({f"{d.platform}:{d.id}" for d in jax.devices()}))
                raise BackendError(
                    f"jax has no device {device!r} here (it has {have}); for an NVIDIA GPU: "
                    'python -m pip install "jax[cuda13]"'
                ) from None
        return cls(xp, device)

    @property
    def version(self) -> str:
        """JAX's own version."""
        import jax

        return str(jax.__version__)

    @property
    def device_name(self) -> str:
        """``cpu:0``, ``gpu:0``."""
        return f"{self.device.platform}:{self.device.id}"

    def devices(self) -> list[str]:
        """Every device of the default platform, and the CPU."""
        import jax

        found = [*jax.devices(), *jax.devices("cpu")]
        return list(dict.fromkeys(f"{d.platform}:{d.id}" for d in found))

    def dtypes(self) -> list[str]:
        """float64 only with ``jax_enable_x64``: without it JAX hands out float32 under that name."""
        import jax

        return ["float32", "float64"] if jax.config.read("jax_enable_x64") else ["float32"]

    def float64_cure(self) -> str:
        """Return the switch, which must be thrown before the first array is made."""
        return (
            'enable jax_enable_x64 first: jax.config.update("jax_enable_x64", True), '
            "or JAX_ENABLE_X64=1 in the environment, or use dtype='float32'"
        )

    def synchronize(self) -> None:
        """Wait for everything dispatched so far: results that nobody holds any more are not waited for."""
        import jax

        jax.block_until_ready([a for a in jax.live_arrays() if not a.is_deleted()])

    def free_memory(self) -> int | None:
        """Bytes free on an accelerator."""
        stats = self.device.memory_stats() if self.device.platform != "cpu" else None
        return int(stats["bytes_limit"] - stats["bytes_in_use"]) if stats else None

    @contextlib.contextmanager
    def scope(self, matmul_precision: str = "float32") -> Iterator[None]:
        """Products in full float32 unless asked otherwise; JAX's own default on recent GPUs is TF32.

        And NumPy is silent: JAX rounds Python's numbers with it.
        """
        import jax

        _not_forked()
        with jax.default_matmul_precision("tensorfloat32" if matmul_precision == "tf32" else "highest"), silently():
            yield

    def owns(self, x: object) -> bool:
        """Whether ``x`` is a JAX array or a tracer of one."""
        import jax

        return isinstance(x, jax.Array)

    def device_of(self, x: Array) -> Any:
        """Return the one device of a committed array; None for a tracer, a sharded array and one that goes anywhere."""
        device = x.device if self.is_concrete(x) and getattr(x, "committed", True) else None
        return device if hasattr(device, "platform") else None

    def is_concrete(self, x: Array) -> bool:
        """Not inside ``jit``, ``grad`` or ``vmap``."""
        import jax

        return not isinstance(x, jax.core.Tracer)

    def reading(self) -> contextlib.AbstractContextManager[Any]:
        """Inside ``jit`` operations are traced, whatever their arguments are, unless they are asked for now."""
        import jax

        return jax.ensure_compile_time_eval()

    def ran_out_of_memory(self, error: BaseException) -> bool:
        """XLA puts it into the text."""
        return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)

    def asarray(self, x: Any, dtype: Any = None, *, copy: bool | None = None) -> Array:
        """As the base class; on the CPU NumPy casts and copies: JAX would compile each of both for every shape."""
        import jax

        on_host = self.device.platform == "cpu" and (not self.owns(x) or self.device_of(x) == self.device)
        if not on_host or x is None:
            return super().asarray(x, dtype, copy=copy)
        if self.owns(x):
            if not copy and dtype in (None, x.dtype):
                return x
            x = numpy.asarray(x)
        else:
            x = to_native(x)
        if dtype is not None and x.dtype.name != dtype_name(dtype):
            with silently():
                x = x.astype(dtype_name(dtype))
        # memory that nobody else writes to, which JAX may take over
        return jax.device_put(numpy.array(x, order="C"), self.device)

    def index(self, rows: numpy.ndarray) -> Any:
        """They stay on the host, where parts of them are cut in less than a microsecond."""
        return rows

    def to_numpy(self, x: Array) -> numpy.ndarray:
        """Copy to the host."""
        return numpy.asarray(x)

    def compiled(self, function: Any) -> Callable[..., Any]:
        """Compiled, unless there is a function of the user's in it, which may read values."""
        return function if function.key is None else _jitted(function)

    def compile_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """One compiled ``lax.scan`` over the steps; the state's memory is donated to its successor."""
        import jax

        shared = getattr(step, "key", None) is not None
        # an iteration of a loop costs microseconds on a GPU; on the CPU unrolling only takes longer to compile
        unroll = 1 if self.device.platform == "cpu" else 8
        compiled = (_compiled if shared else _compiled.__wrapped__)(step, steps, batch_size, unroll)

        def run(state: State, chunk: dict[str, Rows], rows: Sequence[Sequence[float]]) -> tuple[State, Metrics]:
            scalars = table(rows, state["params"].dtype)
            n, sources, index = steps * batch_size, {}, {}
            for name, part in chunk.items():
                sources[name], here = part.source, part.index
                here = numpy.arange(here.start, here.start + n, dtype="int32") if isinstance(here, slice) else here
                index[name] = jax.device_put(here, self.device)
            dtypes = tuple((name, part.dtype) for name, part in chunk.items() if part.dtype is not None)
            return compiled(state, sources, index, jax.device_put(scalars, self.device), dtypes)

        return run


@functools.lru_cache(maxsize=32)
def _compiled(step: Step, steps: int, batch_size: int, unroll: int) -> Callable[..., tuple[State, Metrics]]:
    """Return the compiled chunk of a step, or of one equal to it: what was compiled is kept for the next ``fit``."""
    import jax

    # an optimizer of the user's may ask anything of the vector, so it gets one
    shapes = tuple(getattr(step, "shapes", ())) if getattr(step, "key", None) is not None else ()
    n_params = sum(map(math.prod, shapes))
    # losses and right answers of all steps at once are cheaper, if the outputs are not too many to be kept
    split = getattr(step, "split", None)
    kept = steps * batch_size * shapes[-1][-1] * (getattr(step, "members", None) or 1) if shapes else 0
    advance, judge = split if split and kept <= MOST_KEPT else (step, None)

    def in_parts(state: State) -> State:
        """Hold the vectors of the state in the parts that the network cuts them into."""
        return {name: parts(a) if len(shapes) > 1 and a.shape[-1:] == (n_params,) else a for name, a in state.items()}

    def whole(state: State) -> State:
        """Return them as vectors again, for the step to see."""
        return {
            name: Parts(a, a[-1].ndim - len(shapes[-1])) if isinstance(a, tuple) else a for name, a in state.items()
        }

    def parts(a: Any) -> tuple[Array, ...]:
        return (a if isinstance(a, Parts) else Parts.cut(a, shapes)).parts

    def written(a: Parts, vector: Array) -> Array:
        """Write parts over the vector that they were cut from: XLA joins parts number by number, which takes longer."""
        start = 0
        for part in a.flat():
            vector = jax.lax.dynamic_update_slice_in_dim(vector, part, start, axis=-1)
            start += part.shape[-1]
        return vector

    def gathered(sources: Batch, here: Batch, wanted: dict[str, Any]) -> Batch:
        batch = {name: a.at[here[name]].get(mode="promise_in_bounds") for name, a in sources.items()}
        return {name: a.astype(wanted.get(name, a.dtype)) for name, a in batch.items()}

    def scan(state: State, sources: Batch, index: Batch, rows: Array, dtypes: Any) -> tuple[State, Metrics]:
        wanted = dict(dtypes)

        def body(state: State, row: tuple[Batch, Array]) -> tuple[State, Any]:
            here, h = row
            batch = gathered(sources, here, wanted)
            h = jax.lax.optimization_barrier(h)  # or each number of an update would look its rate up in the table
            state, seen = advance(whole(state), batch, h)
            return in_parts(state), seen

        here = {name: a.reshape(steps, batch_size) for name, a in index.items()}
        before = state
        state, seen = jax.lax.scan(body, in_parts(state), (here, rows), unroll=min(unroll, steps))
        metrics = seen if judge is None else jax.vmap(judge)(seen, gathered(sources, here, wanted))
        after = {name: written(a, before[name]) if isinstance(a, Parts) else a for name, a in whole(state).items()}
        return after, {name: m.sum(axis=(0, -1)) for name, m in metrics.items()}

    return jax.jit(scan, donate_argnums=0, static_argnums=4)


@functools.lru_cache(maxsize=64)
def _jitted(function: Any) -> Callable[..., Any]:
    """Return the compiled function of all that are equal to it."""
    import jax

    return jax.jit(function.run)
