"""A stream on its way to the device: windows of it are read, mixed and looked at by threads, ahead of the training."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy

from portnn.backends import HOST, Backend
from portnn.backends.base import Batch, Rows, dtype_name
from portnn.checks import check_finite
from portnn.datasets.streams import AHEAD, Epoch, Stream, Window
from portnn.feed import CHUNK_ROWS, Feed, Visit, as_index, rows_per_chunk, totals_of
from portnn.group import ALONE, Group
from portnn.memory import enough


class StreamFeed(Feed):
    """Batches of a stream: what :class:`portnn.feed.Feed` is for arrays. Targets and weights are on the device."""

    from_files = True

    def __init__(
        self, backend: Backend, stream: Stream, others: dict[str, numpy.ndarray | None], dtype: Any, who: str
    ) -> None:
        super().__init__(backend, numpy.empty((0, stream.shape[1]), stream.dtype), others, dtype)
        self.stream, self.n, self.who, self.streamed = stream, len(stream), who, True
        self._sound = numpy.zeros(len(stream.blocks), dtype=bool)  # blocks that have been looked at

    def chunk_rows(self, n_params: int, batch_size: int) -> int:
        """Half a window, so that most chunks lie in one; never more than of samples in memory."""
        return max(1, min(rows_per_chunk(n_params), self.stream.window_rows // 2))

    def visited(self, epoch: int, order: Any, row: int, group: Group, batch_size: int) -> Visit:
        """Return the chunks of an epoch from a row on; see :class:`StreamVisit`."""
        self.stream.check_unchanged()
        return StreamVisit(self, order, row, group, batch_size)

    def chunk(self, rows: slice | numpy.ndarray) -> dict[str, Rows]:
        """Read rows at a slice."""
        assert isinstance(rows, slice)
        return self.chunk_of(_Sequential(self)(rows.start, rows.stop), numpy.arange(rows.start, rows.stop))

    def chunk_of(self, x: numpy.ndarray, rows: numpy.ndarray) -> dict[str, Rows]:
        """Return host rows on the device, and what goes with them by their numbers."""
        index = as_index(self.backend, rows, self.n)
        others = {name: Rows(self.backend, a, index) for name, a in self.others.items()}
        return {"x": Rows(self.backend, self._move(x), dtype=self.dtype), **others}

    def block(self, number: int) -> numpy.ndarray:
        """Read a block, and look at its numbers the first time."""
        start, stop = map(int, self.stream.blocks[number])
        rows = self.stream.read(start, stop)
        if not self._sound[number]:
            self._check(rows, start)
            self._sound[number] = True
        return rows

    def number_of(self, row: int) -> int:
        """Return the number of the block in which a row is."""
        return int(numpy.searchsorted(self.stream.blocks[:, 0], row, side="right")) - 1

    def _check(self, rows: numpy.ndarray, first: int) -> None:
        """ValueError, which names the file, for a number that a network cannot be given."""
        name = dtype_name(self.dtype)
        if rows.dtype.name == name and numpy.isfinite(numpy.sum(rows)):  # what one pass cannot rule out is looked at
            return
        try:
            check_finite(rows, HOST, name, self.who, first)
        except ValueError as error:
            bad = ~numpy.isfinite(rows.astype(name)) if rows.dtype.kind == "f" else abs(rows.astype("float64")) > 2**53
            place = self.stream.place_of(first + int(numpy.argmax(bad.any(axis=1))))
            raise ValueError(f"{error} ({place})") from None

    def in_order(self, rows: int = CHUNK_ROWS, group: Group = ALONE) -> Iterator[Batch]:
        """Go through all samples once, as they stand; the next rows are read while some are used."""
        self.stream.check_unchanged()
        rows = max(1, min(rows, self.stream.window_rows // AHEAD))
        starts, read = deque(range(group.rank * rows, self.n, group.size * rows)), _Sequential(self)
        with concurrent.futures.ThreadPoolExecutor(1, "portnn-stream") as pool:
            ahead: deque[Any] = deque()
            while starts or ahead:
                while starts and len(ahead) < AHEAD:
                    start = starts.popleft()
                    stop = min(start + rows, self.n)
                    ahead.append((start, stop, pool.submit(read, start, stop)))
                start, stop, reading = ahead.popleft()
                chunk = self.chunk_of(reading.result(), numpy.arange(start, stop))
                yield {name: of.at(0, stop - start) for name, of in chunk.items()}


class _Sequential:
    """Reads rows by their blocks and keeps the last one: what comes next is often in it."""

    def __init__(self, feed: StreamFeed) -> None:
        self._feed, self._number, self._rows = feed, -1, numpy.empty(0)

    def __call__(self, start: int, stop: int) -> numpy.ndarray:
        feed, pieces = self._feed, []
        with HOST.scope():
            while start < stop:
                number = feed.number_of(start)
                if number != self._number:
                    self._number, self._rows = number, feed.block(number)
                first, end = map(int, feed.stream.blocks[number])
                pieces.append(self._rows[start - first : min(stop, end) - first])
                start = min(stop, end)
        return pieces[0] if len(pieces) == 1 else numpy.concatenate(pieces)


class _Read:
    """A window that is read: this rank's rows of it in the order of the epoch, and their numbers."""

    def __init__(self, preparing: concurrent.futures.Future[Any]) -> None:
        self._preparing, self.taken = preparing, 0
        self.buffer = self.x = self.rows = numpy.empty(0)

    def wait(self) -> None:
        """Wait until it is there."""
        if self._preparing is not None:
            self.buffer, self.x, self.rows, reading = self._preparing.result()
            for part in reading:
                part.result()
            self._preparing = None  # type: ignore[assignment]


class StreamVisit(Visit):
    """An epoch of a stream: windows are read ahead into buffers that take turns, chunks are taken from them in order.

    A chunk that lies in one window is a view of it, and is used up before the next chunk is asked for.
    """

    def __init__(self, feed: StreamFeed, epoch: Epoch, row: int, group: Group, batch_size: int) -> None:
        super().__init__(feed, None, group)
        self._batch_size, self._row = batch_size, row
        self._windows, self._threads = epoch.windows(row), feed.stream.threads
        self._free: deque[numpy.ndarray] = deque()
        self._ahead: deque[_Read] = deque()
        self._used: numpy.ndarray | None = None  # the buffer that the last chunk was the rest of
        self._rows = numpy.empty(0, dtype="int64")
        self._over = False

    def __enter__(self) -> StreamVisit:
        """Begin to read."""
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, "portnn-stream")
        self._read_ahead()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading, behind the blocks that are being read."""
        self._over = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read_ahead(self) -> None:
        while len(self._ahead) <= AHEAD:
            window = next(self._windows, None)
            if window is None:
                return
            self._ahead.append(_Read(self._pool.submit(self._begun, window)))

    def _begun(self, window: Window) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray, list[Any]]:
        """Draw the order of a window, and have its blocks read, by each thread a part of them."""
        mixed, own = window.mixed(), self._own(window)
        buffer = self._buffer(len(own))
        # of each row of the window, as it is read: where it goes, or n where it is another rank's
        places = numpy.full(window.n, window.n)
        places[mixed[own]] = numpy.arange(len(own))
        ends = numpy.cumsum(window.blocks[:, 1] - window.blocks[:, 0])
        x, numbers = buffer[: len(own)], [self.feed.number_of(int(start)) for start, _ in window.blocks]
        parts = [list(range(i, len(numbers), self._threads)) for i in range(self._threads)]
        reading = [self._pool.submit(self._fill, x, numbers, places, ends, part) for part in parts if part]
        return buffer, x, window.rows(mixed)[own], reading

    def _buffer(self, n: int) -> numpy.ndarray:
        """Return room for so many rows: one that was used before, if it is large enough."""
        stream = self.feed.stream
        try:
            buffer = self._free.popleft()
        except IndexError:
            buffer = None
        if buffer is not None and len(buffer) >= n:
            return buffer
        most = min(stream.window_rows, self.feed.n) // self.group.size + self._batch_size
        return numpy.empty((max(n, min(most, stream.window_rows)), stream.shape[1]), stream.dtype)

    def _fill(
        self, x: numpy.ndarray, numbers: list[int], places: numpy.ndarray, ends: numpy.ndarray, part: list[int]
    ) -> None:
        some = len(x) < len(places)
        with HOST.scope():
            for i in part:
                if self._over:
                    return
                rows = self.feed.block(numbers[i])
                here = places[ends[i] - len(rows) : ends[i]]
                if some:
                    mine = here < len(places)
                    rows, here = rows[mine], here[mine]
                x[here] = rows

    def _own(self, window: Window) -> numpy.ndarray:
        """Return which places of a window are this rank's and still to be visited."""
        places = numpy.arange(window.first, window.first + window.n)
        mine = places >= self._row
        if self.group.size > 1:
            whole = self.feed.n // self._batch_size * self._batch_size
            for size, there in ((self._batch_size, places < whole), (self.feed.n - whole, places >= whole)):
                share, at = self.group.share(size), places % self._batch_size
                mine &= ~there | ((share.start <= at) & (at < share.stop))
        return numpy.flatnonzero(mine)

    def chunk(self, start: int, steps: int, size: int) -> dict[str, Rows]:
        """Return the next samples; MemoryError with what windows want."""
        wanted = f"windows of the Stream want about {self.feed.stream.memory} bytes; give it less memory"
        with enough(self.feed.backend, lambda: f"{self.feed.who}: out of memory: {wanted}"):
            return self._next(steps, size)

    def _next(self, steps: int, size: int) -> dict[str, Rows]:
        share = self.group.share(size)
        n = steps * (share.stop - share.start)
        if self._used is not None:
            self._free.append(self._used)
        self._used, x, rows = None, None, []
        done = 0
        while done < n:
            self._read_ahead()
            read = self._ahead[0]
            read.wait()
            here = slice(read.taken, min(read.taken + n - done, len(read.rows)))
            piece, read.taken = read.x[here], here.stop
            rows.append(read.rows[here])
            if x is None and len(piece) == n:
                x = piece
            else:
                x = numpy.empty((n, piece.shape[1]), piece.dtype) if x is None else x
                x[done : done + len(piece)] = piece
            done += len(piece)
            if here.stop == len(read.rows):
                self._ahead.popleft()
                if x is piece:
                    self._used = read.buffer
                else:
                    self._free.append(read.buffer)
        if x is None:
            x = numpy.empty((0, self.feed.stream.shape[1]), self.feed.stream.dtype)
        self._rows = numpy.concatenate(rows or [self._rows[:0]])
        chunk: dict[str, Rows] = self.feed.chunk_of(x, self._rows)
        return chunk

    def rows(self, start: int, steps: int, size: int) -> numpy.ndarray:
        """Return the numbers of the rows of the chunk that was asked for last."""
        return self._rows

    def totals(self, start: int, steps: int, size: int) -> list[float]:
        """Return the sums of the weights of the batches of that chunk."""
        if self.feed.weight is None:
            return [float(size)] * steps
        mine = numpy.asarray(totals_of(self.feed.weight, self._rows, steps, len(self._rows) // steps))
        totals: list[float] = sum(self.group.gathered(mine)).tolist()
        return totals
