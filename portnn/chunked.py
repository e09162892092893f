"""A network over an array that is computed later, chunk by chunk, such as Dask's: the result is such an array too.

Nothing here names a library: what is asked of the array is ``chunks``, ``rechunk`` and ``map_blocks``. A task of the
graph holds layers and a copy of the parameters, so that it can be sent to another process, and what is trained
afterwards does not change what was asked for before.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy

from portnn import checks
from portnn.backends import Array, dtype_name, get_backend, namespace
from portnn.guests import taken_in
from portnn.layout import Layer
from portnn.network import forward, running_for, zero_of
from portnn.trace import finite_rows, refused

ROWS = 8192  # of a chunk at a time: what lies between the layers of all of them would take more room than the chunk


def wants_chunks(params: Array, x: Any) -> bool:
    """Whether parameters that are at hand meet samples that are not."""
    return checks.is_lazy(x) and not checks.is_lazy(params)


def by_chunks(model: Any, params: Array, x: Any, who: str, *, finite: bool = False) -> Any:
    """Return the raw outputs for a lazy ``x``, ``(batch, n_features)``, as a lazy array with the same chunks of rows.

    Parameters
    ----------
    params
        ``(n_params,)`` or ``(members, n_params)``, of any library; they are copied.
    x
        Cut along its rows as it likes; along its features its chunks are joined. Chunks may be arrays of NumPy, of the
        library of ``params``, or of one that shares a device with it; those of the outputs are of the same library.
    finite
        Whether to refuse a chunk with a NaN or an infinity, which is found when it is computed.

    """
    checks.check_features(x, model.sizes[0], who)
    worker = Worker(model, params, who, finite=finite)
    if tuple(params.shape[-1:]) != (model.n_params,):
        raise ValueError(f"{who}: params have shape {tuple(params.shape)}, expected (..., {model.n_params})")
    x = x if len(x.chunks[-1]) == 1 else x.rechunk({1: -1})
    lead, dtype = tuple(params.shape[:-1]), dtype_name(params.dtype)
    chunks = (*((m,) for m in lead), x.chunks[0], (model.sizes[-1],))
    like = getattr(x, "_meta", None)
    xp = namespace(worker.params if like is None else like)
    return x.map_blocks(
        checked_outputs if finite else network_outputs,
        worker=worker,
        dtype=numpy.dtype(dtype),
        chunks=chunks,
        new_axis=list(range(len(lead))) or None,
        meta=xp.zeros((0,) * (len(lead) + 2), dtype=getattr(xp, dtype)),
    )


def network_outputs(block: Array, worker: Worker) -> Array:
    """Return the outputs for a chunk, in its library: a task of the graph."""
    return worker(block)


def checked_outputs(block: Array, worker: Worker, block_info: Any = None) -> Array:
    """Do what :func:`network_outputs` does, and say of what is refused where it stands in the whole array.

    ``block_info`` is what the library of the array hands to a function that has such an argument.
    """
    first = block_info[0]["array-location"][0][0] if block_info else math.nan
    return worker(block, None if math.isnan(first) else int(first))


class Worker:
    """What computes a chunk: all that it takes of a model, to be sent to where the chunk is."""

    def __init__(self, model: Any, params: Array, who: str, *, finite: bool) -> None:
        self.layers: tuple[Layer, ...] = model.layers
        self.backend = model.backend if model.backend.owns(params) else get_backend(params)
        self.params = self.backend.asarray(params, copy=True)
        self.running = running_for(model.running, self.params)
        self.precision, self.who, self.finite = model.matmul_precision, f"{who}, in a chunk", finite

    def __call__(self, block: Array, first: int | None = None) -> Array:
        """Return the outputs for a chunk, in its library, some rows at a time; ``first`` is its first row, if known."""
        backend, dtype = self.backend, dtype_name(self.params.dtype)
        who = self.who if first is not None else f"{self.who} (its rows count from 0)"
        with backend.scope(self.precision):
            x, leave = taken_in(backend, block, who)
            at_home = backend.owns(x)
            if self.finite:
                checks.check_finite(x, backend if at_home else get_backend(x), dtype, who, first or 0)
            outputs = []
            for start in range(0, max(x.shape[0], 1), ROWS):  # a chunk may be empty
                rows = x[start : start + ROWS, ...]
                rows = rows if at_home else backend.asarray(rows, self.params.dtype)
                y, _ = forward(self.layers, self.params, rows, running=self.running, zero=zero_of(self.params))
                if self.finite and not bool(backend.xp.all(backend.xp.isfinite(y))):
                    good = finite_rows(backend, y)
                    off = (first or 0) + start + numpy.flatnonzero(~good.reshape(-1, rows.shape[0]).all(axis=0))
                    network = (backend, self.layers, self.params, self.running)
                    error = refused(who, *network, rows, good, off, rows.shape[0])
                    error.samples = () if first is None else error.samples
                    raise error
                outputs.append(y if at_home else backend.to_numpy(y))
            y = outputs[0] if len(outputs) == 1 else namespace(outputs[0]).concat(outputs, axis=-2)
            return leave(y)

    def __getstate__(self) -> dict[str, Any]:
        """The parameters travel as host arrays."""
        return {**self.__dict__, **self._on_host()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put them back on their device."""
        self.__dict__.update(state)
        self.params = self.backend.asarray(self.params, copy=True)
        self.running = None if self.running is None else self.backend.asarray(self.running, copy=True)

    def _on_host(self) -> dict[str, Any]:
        running = None if self.running is None else self.backend.to_numpy(self.running)
        return {"params": self.backend.to_numpy(self.params), "running": running}

    def __sizeof__(self) -> int:
        """Bytes of the parameters: Dask sends what is large once, and not with every task."""
        return object.__sizeof__(self) + self.backend.to_numpy(self.params).nbytes

    def __dask_tokenize__(self) -> Any:
        """The same network gives the same names to the chunks, by which results are found again."""
        host = self.backend.to_numpy(self.params)
        layers = [
            (*layer[:2], layer.bias is None, layer.activation, *map(repr, layer[6:9]), layer.residual)
            for layer in self.layers
        ]
        bits = b"".join(b"" if a is None else a.tobytes() for a in self._on_host().values())
        return (
            "portnn",
            layers,
            hashlib.sha256(bits).hexdigest(),
            str(host.dtype),
            self.precision,
            self.finite,
        )
