"""Samples that stay in files and are read while a training goes on: for more than fits into memory."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from portnn import random
from portnn.datasets.parquet import ParquetShard
from portnn.datasets.shards import WHO, open_shard
from portnn.errors import FormatError, reason, shown
from portnn.files import StrPath, naming

BLOCK = 1 << 20  # bytes that are read at once
AHEAD = 2  # windows that are read while one is used
NUMBERS = 48  # bytes for the numbers of a row of a window: which it is, and where it goes


class Stream:
    """Samples in files, the shards, of which :func:`portnn.fit` reads a part at a time: ``fit(model, stream)``.

    An epoch visits the blocks of all files in an order that is a pure function of (seed, epoch), and mixes the rows of
    as many of them as ``memory`` has room for, a window. So samples far from each other meet only by their blocks:
    files whose rows are sorted by class should be shuffled once when they are written, or have small blocks.

    Parameters
    ----------
    files
        A path, a pattern such as ``"train-*.npy"``, which is sorted, or a sequence of paths. Each file is told by its
        first bytes: npy in C order, IDX, safetensors or Parquet (which needs pyarrow); none can be compressed as a
        whole. All hold rows of the same shape and dtype.
    targets
        Where npy or IDX files hold x: as many files of the targets, or an array ``(n,)`` or ``(n, n_outputs)``.
    x, t
        The names of both tensors in safetensors files, "x" and "t" by default (of several names for x the first that a
        file has), or of the columns of Parquet files: x is one column of lists of equal length or several of numbers,
        by default all but t.
    block_rows
        Rows that are read at once, by default a megabyte of them; of Parquet it is always a row group.
    memory
        Bytes for the samples that are held at a time: three windows, their rows' numbers, and a chunk of steps. Targets
        and weights of all samples, and blocks while they are read (of Parquet three times their size) come on top.
    threads
        How many read.

    Attributes
    ----------
    shape, dtype
        ``(n, n_features)`` of all files together, as in an array; other axes than the first are flattened.
    t
        The targets of all samples, in memory: ``(n,)`` or ``(n, n_outputs)``.

    Raises
    ------
    FormatError
        A file is none of these, or does not go with the others; when it is read, that it has changed.
    ValueError
        A block has no room, or targets are not of these samples; when it is read, a NaN or an infinity.
    FileNotFoundError, ImportError
        There is no such file; pyarrow is missing.

    Examples
    --------
    >>> import tempfile, numpy as np, portnn
    >>> x = np.linspace(-1.0, 1.0, 64, dtype="float32")[:, None]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i, name in enumerate(("a", "b")):
    ...         np.save(f"{folder}/x-{name}.npy", x[32 * i : 32 * i + 32])
    ...         np.save(f"{folder}/t-{name}.npy", 3 * x[32 * i : 32 * i + 32, 0])
    ...     stream = Stream(f"{folder}/x-*.npy", f"{folder}/t-*.npy", block_rows=8)
    ...     model, again = (portnn.MLP([1, 4, 1]) for _ in range(2))
    ...     history = portnn.fit(model, stream, loss="mse", epochs=2, batch_size=16)
    >>> orders = lambda epoch: stream.order(0, epoch)
    >>> in_memory = portnn.fit(again, x, 3 * x, loss="mse", epochs=2, batch_size=16, shuffle=orders)
    >>> stream.shape, bool((model.params == again.params).all())
    ((64, 1), True)

    """

    def __init__(
        self,
        files: StrPath | Sequence[StrPath],
        targets: Any = None,
        *,
        x: str | Sequence[str] | None = None,
        t: str | None = None,
        block_rows: int | None = None,
        memory: int = 192 << 20,
        threads: int = 2,
    ) -> None:
        for name, value in (("block_rows", block_rows), ("memory", memory), ("threads", threads)):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not (whole and value >= 1) and not (name == "block_rows" and value is None):  # type: ignore[operator]
                raise ValueError(f"{WHO}: {name} must be a whole number of at least 1, got {shown(value)}")
        names = ("x",) if x is None else (x,) if isinstance(x, str) else x
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{WHO}: x must be a name or a sequence of names, got {shown(x)}")
        paths = listed(files, "files")
        self.memory, self.threads = int(memory), int(threads)
        without = [t or "t"] if targets is None else [] if t is None else [t]
        self.shards: list[Any] = []
        for path in paths:
            chosen = None if x is None else list(names)
            self.shards.append(
                ParquetShard(path, chosen, without, "x") if _is_parquet(path) else open_shard(path, tuple(names), "x")
            )
        first = self.shards[0]
        for shard in self.shards:
            if (shard.row_shape, shard.dtype) != (first.row_shape, first.dtype):
                raise FormatError(
                    f"{WHO}: {shown(shard.path)} has rows of shape {shard.row_shape} and dtype {shard.dtype}, "
                    f"{shown(first.path)} of {first.row_shape} and {first.dtype}; all files must have the same"
                )
        self.starts = np.cumsum([0, *(shard.n for shard in self.shards)])
        self.shape, self.dtype = (int(self.starts[-1]), first.features), first.dtype
        self.t = self._targets(paths, targets, t or "t")
        self.window_rows = max(1, self.memory // ((AHEAD + 2) * (first.row_bytes + NUMBERS)))
        rows = max(1, min(BLOCK // first.row_bytes, self.window_rows)) if block_rows is None else int(block_rows)
        of_shards = zip(self.starts, self.shards, strict=False)
        self.blocks = np.concatenate([start + shard.blocks(rows) for start, shard in of_shards])
        longest = int((self.blocks[:, 1] - self.blocks[:, 0]).max())
        if longest > self.window_rows or first.row_bytes * (AHEAD + 2) > self.memory:
            held = longest * (first.row_bytes + NUMBERS) * (AHEAD + 2)
            cures = "" if longest == 1 else "choose fewer block_rows, " if block_rows else "write smaller row groups, "
            raise ValueError(
                f"{WHO}: a block of {longest} rows wants memory={held}, got {self.memory}; {cures}give more memory"
            )

    def _targets(self, paths: list[str], targets: Any, t: str) -> np.ndarray:
        if targets is not None and not isinstance(targets, str | os.PathLike) and not _are_paths(targets):
            return _as_targets(targets, self.shape[0])
        others, pieces = paths if targets is None else listed(targets, "targets"), []
        if len(others) != len(paths):
            raise ValueError(f"{WHO}: {len(others)} files of targets for {len(paths)} of samples")
        for path, shard in zip(others, self.shards, strict=True):
            if targets is None and not shard.named:
                raise ValueError(f"{WHO}: {shown(path)} holds samples alone; give targets, files or an array")
            own = ParquetShard(path, [t], [], "t") if _is_parquet(path) else open_shard(path, (t,), "t")
            if own.n != shard.n:
                where = f"{own.n} targets for the {shard.n} rows of {shown(shard.path)}"
                raise FormatError(f"{WHO}: {shown(path)} has {where}")
            pieces.append(own.read(0, own.n).reshape(own.n, *own.row_shape))
        if len({(piece.shape[1:], piece.dtype) for piece in pieces}) > 1:
            kinds = [f"{piece.dtype} {piece.shape[1:]}" for piece in pieces]
            raise FormatError(f"{WHO}: the targets are not of one kind: {shown(kinds)}")
        return np.concatenate(pieces)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.shape[0]

    def __repr__(self) -> str:
        """``Stream(2 files, 64 x 1 of float32)``."""
        files, (n, features) = len(self.shards), self.shape
        return f"Stream({files} file{'s' * (files > 1)}, {n} x {features} of {self.dtype})"

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the rows from ``start`` to ``stop``, counted through all files: ``(stop - start, n_features)``."""
        pieces = []
        while start < stop:
            i = int(np.searchsorted(self.starts, start, side="right")) - 1
            base, end = int(self.starts[i]), min(stop, int(self.starts[i + 1]))
            pieces.append(self.shards[i].read(start - base, end - base).reshape(end - start, self.shape[1]))
            start = end
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.empty((0, self.shape[1]), self.dtype)])

    def place_of(self, row: int) -> str:
        """Say where a row is: in which file, and at which row of it."""
        i = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"row {row - int(self.starts[i])} of {shown(self.shards[i].path)}"

    def check_unchanged(self) -> None:
        """FormatError where a file is another one than when the stream was made."""
        for shard in self.shards:
            shard.check_unchanged()

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the numbers of the rows in the order in which an epoch, counted from 0, visits them: ``(n,)``.

        A training on the same samples in memory, with ``shuffle=lambda epoch: stream.order(seed, epoch)``, makes the
        same updates, to the bit.
        """
        return np.concatenate([window.rows(window.mixed()) for window in self.epoch(seed, epoch).windows(0)])

    def epoch(self, seed: int | None, epoch: int) -> Epoch:
        """Return the order of an epoch, which is drawn a window at a time; None for that of the files."""
        return Epoch(self.blocks, self.window_rows, seed, epoch)

    def cut(self) -> str:
        """Return what tells how the rows are cut into blocks and windows from another way."""
        digest = hashlib.sha256(np.ascontiguousarray(self.blocks, dtype="<i8").data).hexdigest()
        return f"windows of {self.window_rows} rows of {len(self.blocks)} blocks, {digest[:16]}"

    def sample(self, bound: int) -> tuple[int, str]:
        """Return how many rows are in evenly spaced blocks, of some ``bound`` bytes in all, and their SHA-256."""
        row = self.shape[1] * self.dtype.itemsize
        n = max(1, min(len(self.blocks), bound // max(1, int((self.blocks[:, 1] - self.blocks[:, 0]).max()) * row)))
        digest, rows = hashlib.sha256(), 0
        for i in np.arange(n) * len(self.blocks) // n:
            start, stop = self.blocks[i]
            digest.update(np.ascontiguousarray(self.read(start, stop)).data)
            rows += int(stop - start)
        return rows, digest.hexdigest()


class Window(NamedTuple):
    """Blocks whose rows are visited one after the other, mixed: ``n`` of them, from ``first`` of the epoch on."""

    first: int
    n: int
    blocks: np.ndarray  # (k, 2): first row and the one behind the last
    key: random.Key | None  # None keeps the order of the blocks

    def mixed(self) -> np.ndarray:
        """Return place by place which row is visited, counted through these blocks."""
        return np.arange(self.n) if self.key is None else random.shuffled(self.key, self.n)

    def rows(self, mixed: np.ndarray) -> np.ndarray:
        """Return the numbers of the rows, place by place."""
        lengths = self.blocks[:, 1] - self.blocks[:, 0]
        before = np.cumsum(lengths) - lengths
        return (np.repeat(self.blocks[:, 0] - before, lengths) + np.arange(self.n))[mixed]


class Epoch:
    """The order of the rows in one epoch."""

    def __init__(self, blocks: np.ndarray, window_rows: int, seed: int | None, epoch: int) -> None:
        self._key = None
        if seed is not None:
            self._key = random.fold_in(random.fold_in(random.key(seed), random.Purpose.BLOCKS), epoch)
            blocks = blocks[random.shuffled(random.fold_in(self._key, 0), len(blocks))]
        self._blocks = blocks
        ends = np.cumsum(blocks[:, 1] - blocks[:, 0])
        # as many blocks as there is room for, and then the next
        cuts, behind = [0], 0
        while cuts[-1] < len(blocks):
            cuts.append(int(np.searchsorted(ends, behind + window_rows, side="right")))
            behind = int(ends[cuts[-1] - 1])
        self._cuts = cuts

    def windows(self, place: int) -> Iterator[Window]:
        """Go through the windows from that on in which a place of the order is."""
        first = 0
        for i, (a, b) in enumerate(zip(self._cuts, self._cuts[1:], strict=False)):
            blocks = self._blocks[a:b]
            n = int((blocks[:, 1] - blocks[:, 0]).sum())
            if first + n > place:
                yield Window(first, n, blocks, None if self._key is None else random.fold_in(self._key, i + 1))
            first += n


def listed(files: Any, argument: str) -> list[str]:
    """Return the paths that a path, a pattern or a sequence means; FileNotFoundError for a pattern without files."""
    if isinstance(files, str | os.PathLike):
        path = os.fspath(files)
        if isinstance(path, bytes):
            raise TypeError(f"{WHO}: {argument} must be a path as text, got {shown(files)}")
        if os.path.exists(path) or not glob.has_magic(path):
            return [path]
        folder, name = os.path.split(path)  # a folder that is there is no pattern, whatever it is called
        found = sorted(glob.glob(os.path.join(glob.escape(folder), name) if os.path.isdir(folder) else path))
        if not found:
            raise FileNotFoundError(f"{WHO}: no file is called {shown(path)}")
        return found
    if not _are_paths(files):
        raise TypeError(f"{WHO}: {argument} must be a path, a pattern or a sequence of paths, got {shown(files)}")
    return [os.fspath(path) for path in files]


def _are_paths(files: Any) -> bool:
    return isinstance(files, list | tuple) and len(files) > 0 and all(isinstance(p, str | os.PathLike) for p in files)


def _as_targets(targets: Any, n: int) -> np.ndarray:
    """Return targets that were handed in as an array."""
    if isinstance(targets, np.ma.MaskedArray):
        message = f"{WHO}: targets is a masked array, whose mask would be ignored; fill it with targets.filled(...)"
        raise TypeError(message)
    try:
        found = np.asarray(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{WHO}: targets cannot be made an array ({reason(error)})") from None
    if found.shape[:1] != (n,):
        raise ValueError(f"{WHO}: targets has shape {found.shape}, the files hold {n} rows")
    return found


def _is_parquet(path: str) -> bool:
    with naming(WHO, path), open(path, "rb") as file:
        return file.read(4) == b"PAR1"
