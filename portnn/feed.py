"""Samples on their way to the device: kept there, or gathered on the host chunk by chunk where they do not fit."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from typing import Any

import numpy

from portnn import random
from portnn.backends import HOST, Array, Backend, dtype_name
from portnn.backends.base import Batch, Rows, batch_at
from portnn.errors import shown
from portnn.group import ALONE, Group

_MOVED = {"bool", "float32", "float64"} | {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
CHUNK_ROWS = 8192  # rows moved or evaluated at once: a few MB, so that memory stays bounded

LARGE, LONG = 1024, 44 * 10**9  # batches from which on a chunk's memory takes time, and the work of a chunk then


def rows_per_chunk(n_params: int, work: int = 16 * 10**9) -> int:
    """Return how many samples to train on between two looks of the host: fewer where a network takes longer.

    ``work`` is their number times that of parameters. Ctrl-C, the progress bar and a NaN wait for about a second with
    batches of a hundred and more, longer with small ones or with networks of millions of parameters; what a chunk costs
    by itself hardly shows.

    Examples
    --------
    >>> rows_per_chunk(100), rows_per_chunk(10**6), rows_per_chunk(10**9)
    (65536, 16000, 8192)

    """
    return max(CHUNK_ROWS, min(65536, work // n_params))


class Feed:
    """Batches of ``x`` (cast to the network's dtype) and of the arrays that go with it.

    Parameters
    ----------
    backend
        Where the batches go.
    x
        ``(n, features)``, an array of the backend's library (it stays where it is) or of NumPy. A NumPy array is moved
        once if it takes less than ``share`` of the device's free memory; otherwise each chunk is moved by itself.
    others
        Host arrays of n rows, such as targets and weights; None is left out.
    dtype
        Of the batches of x.
    one_pass
        The samples are gone through once only: host rows are moved chunk by chunk whatever the room.
    numbers
        What the caller calls the samples; None for 0, 1, ...

    """

    def __init__(
        self,
        backend: Backend,
        x: Array,
        others: dict[str, numpy.ndarray | None],
        dtype: Any,
        share: float = 0.6,
        *,
        one_pass: bool = False,
        numbers: numpy.ndarray | None = None,
    ) -> None:
        self.backend, self.dtype, self.n, self.numbers = backend, dtype, int(x.shape[0]), numbers
        free = backend.free_memory()
        elsewhere = not backend.owns(x)
        self.streamed = elsewhere and (one_pass or (free is not None and x.nbytes > share * free))
        try:
            self.x = x if self.streamed or backend.owns(x) else self._move(x)
        except Exception as error:
            if not backend.ran_out_of_memory(error):
                raise
            self.x, self.streamed = x, True  # there was less room than the library said
        self.others = {name: backend.asarray(a) for name, a in others.items() if a is not None}
        self.weight = others.get("weight")

    from_files = False  #: whether samples are read while they are asked for

    def chunk_rows(self, n_params: int, batch_size: int) -> int:
        """Return how many samples to train on between two looks of the host."""
        more = (LONG,) if self.backend.allocates and batch_size >= LARGE else ()
        return CHUNK_ROWS if self.streamed else rows_per_chunk(n_params, *more)

    def gather(self, rows: slice) -> Batch:
        """Return the rows at a slice, on the device, x in the network's dtype."""
        return batch_at(self.chunk(rows), 0, rows.stop - rows.start)

    def chunk(self, rows: slice | numpy.ndarray) -> dict[str, Rows]:
        """Return the rows at a slice or at host indices, on the device but not gathered; x in the network's dtype."""
        index = rows if isinstance(rows, slice) else as_index(self.backend, rows, self.n)
        chunk = {name: Rows(self.backend, a, index) for name, a in self.others.items()}
        if self.streamed:
            return {"x": Rows(self.backend, self._move(self.x[rows, ...]), dtype=self.dtype), **chunk}
        return {"x": Rows(self.backend, self.x, index, self.dtype), **chunk}

    def _move(self, x: numpy.ndarray) -> Array:
        """Bring host rows to the device, small integers as they are: they take less room there than floats.

        What is not in the standard (float16, longdouble) or wider than the network is rounded here, since not every
        library takes it: JAX without x64 would cut int64 to 32 bits.
        """
        name = dtype_name(self.dtype)
        if x.dtype.name not in _MOVED or x.dtype.itemsize > numpy.dtype(name).itemsize:
            with HOST.scope():
                x = x.astype(name)
        return self.backend.asarray(numpy.ascontiguousarray(x))

    def in_order(self, rows: int = CHUNK_ROWS, group: Group = ALONE) -> Iterator[Batch]:
        """Go through all samples once, as they stand; a rank of a group through every so many blocks of ``rows``."""
        for start in range(group.rank * rows, self.n, group.size * rows):
            yield self.gather(slice(start, min(start + rows, self.n)))

    def visited(self, epoch: int, order: Any, row: int, group: Group, batch_size: int) -> Visit:
        """Return the chunks of an epoch in some order, None for that of the data, from ``row`` on, for a rank."""
        return Visit(self, order, group)

    def numbers_of(self, rows: slice | numpy.ndarray) -> numpy.ndarray:
        """Return what the caller calls the samples at a slice or at host indices."""
        rows = numpy.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return rows if self.numbers is None else self.numbers[rows]


class Visit:
    """The samples of an epoch in its order, chunk by chunk: of every batch what is this rank's."""

    def __init__(self, feed: Any, order: numpy.ndarray | None, group: Group) -> None:
        self.feed, self.order, self.group = feed, order, group

    def __enter__(self) -> Visit:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End: nothing has to be let go."""

    def chunk(self, start: int, steps: int, size: int) -> dict[str, Rows]:
        """Return the samples of ``steps`` batches from place ``start`` of the order on."""
        found: dict[str, Rows] = self.feed.chunk(self.rows(start, steps, size))
        return found

    def rows(self, start: int, steps: int, size: int) -> slice | numpy.ndarray:
        """Return their numbers as rows of the feed."""
        places = places_of(start, steps, size, self.group)
        return places if self.order is None else self.order[places]

    def numbers(self, start: int, steps: int, size: int) -> numpy.ndarray:
        """Return what the caller calls them."""
        found: numpy.ndarray = self.feed.numbers_of(self.rows(start, steps, size))
        return found

    def totals(self, start: int, steps: int, size: int) -> list[float]:
        """Return the sums of the weights of the batches, those of other ranks included."""
        return totals_of(self.feed.weight, self._all(start, steps * size), steps, size)

    def _all(self, start: int, n: int) -> slice | numpy.ndarray:
        here = slice(start, start + n)
        return here if self.order is None else self.order[here]


def totals_of(weight: numpy.ndarray | None, rows: slice | numpy.ndarray, steps: int, size: int) -> list[float]:
    """Return the sums of the weights of ``steps`` batches that some rows make; their sizes without weights."""
    if weight is None:
        return [float(size)] * steps
    totals: list[float] = weight[rows].reshape(steps, size).sum(axis=1, dtype="float64").tolist()
    return totals


def places_of(start: int, steps: int, size: int, group: Group) -> slice | numpy.ndarray:
    """Return the places in an order of what a rank of a group has of ``steps`` batches.

    Examples
    --------
    >>> places_of(6, 2, 3, ALONE)
    slice(6, 12, None)

    """
    own = group.share(size)
    if group.size == 1:
        return slice(start, start + steps * size)
    return (start + size * numpy.arange(steps)[:, None] + numpy.arange(own.start, own.stop)).reshape(-1)


def as_index(backend: Backend, rows: numpy.ndarray, n: int) -> Array:
    """Bring numbers of rows, of ``n`` in all, to the device; in 32 bits where they suffice: not every device has 64."""
    return backend.index(rows.astype("int32") if n < 2**31 else rows)


def plan(n: int, batch_size: int, chunk_rows: int = CHUNK_ROWS) -> list[tuple[int, int, int]]:
    """Cut an epoch into chunks: (first row, steps, batch size), the last batch smaller where n is no multiple.

    The number of steps is the one in the upper half of what ``chunk_rows`` allows that leaves the least over, since a
    compiling library compiles each shape once.

    Examples
    --------
    >>> plan(10, 3, chunk_rows=6)
    [(0, 2, 3), (6, 1, 3), (9, 1, 1)]

    """
    full = n // batch_size
    longest = max(1, min(full, chunk_rows // batch_size))
    steps = min(range(longest, longest // 2, -1), key=lambda k: full % k)
    cut = [(k * batch_size, min(steps, full - k), batch_size) for k in range(0, full, steps)]
    return cut + ([(full * batch_size, 1, n % batch_size)] if n % batch_size else [])


def split(n: int, fraction: float, seed: int, who: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the indices of the training and of the validation samples: a pure function of (n, fraction, seed)."""
    if not isinstance(fraction, numbers.Real) or isinstance(fraction, bool):
        raise ValueError(f"{who}: validation_split must be a number in (0, 1), got {shown(fraction)}")
    held = -int(-fraction * n // 1) if 0.0 < fraction < 1.0 else 0
    if not 0 < held < n:
        raise ValueError(
            f"{who}: validation_split={fraction!r} of {n} samples leaves none for one side (the validation set is "
            "too small, or the training set); expected a fraction in (0, 1)"
        )
    order = random.permutation(random.fold_in(random.key(seed), random.Purpose.SPLIT), n)
    return numpy.sort(order[held:]), numpy.sort(order[:held])
