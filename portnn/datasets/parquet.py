"""Rows of a Parquet file, read a row group at a time by pyarrow."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np

from portnn.datasets.shards import WHO, check_kind, check_stamp, stamp_of
from portnn.errors import FormatError, reason, shown
from portnn.files import listing, naming


class ParquetShard:
    """Columns of a Parquet file as rows ``(n, features)``: numbers, or one column of lists of equal length.

    A row group is what is read at once, so it is a block. pyarrow reads what this wants of it; nothing in a file is
    executed.
    """

    named = True

    def __init__(self, path: str, columns: Sequence[str] | None, without: Sequence[str], what: str) -> None:
        self.path = path
        with naming(WHO, path), open(path, "rb") as file:
            self._stamp = stamp_of(file)
            table = _opened(file)
            names = table.schema_arrow.names
            for name in (*(columns or ()), *without):
                if names.count(name) != 1:
                    held = "no column" if name not in names else "more than one column"
                    raise FormatError(f"there is {held} {shown(name)}, the file has {listing(names)}")
            self.columns = list(columns or (name for name in names if name not in without))
            groups = range(table.metadata.num_row_groups)
            lengths = (table.metadata.row_group(i).num_rows for i in groups)
            self._metadata, self._starts = table.metadata, [0, *itertools.accumulate(lengths)]
            self.n = self._starts[-1]
            if self.n == 0 or not self.columns:
                raise FormatError(f"it has {self.n} rows and {len(self.columns)} columns for {what}, expected some")
            first = next(i for i in groups if self._starts[i + 1] > 0)
            one = self._read(lambda: next(table.iter_batches(1, row_groups=[first], columns=self.columns)), first)
            self.dtype, self._shape = one.dtype, tuple(one.shape[1:])
            self.row_shape = () if what == "t" and self._shape == (1,) else self._shape
            self.features = math.prod(self.row_shape)
            check_kind((self.n, *self.row_shape), self.dtype, what)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.features * self.dtype.itemsize

    def blocks(self, rows: int) -> np.ndarray:
        """Return the row groups, whatever ``rows`` says."""
        bounds = np.asarray(self._starts)
        return np.stack([bounds[:-1], bounds[1:]], axis=1)[bounds[1:] > bounds[:-1]]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read some rows, and what else is in their row groups."""
        pieces, i = [], bisect.bisect_right(self._starts, start) - 1
        with naming(WHO, self.path):
            while i + 1 < len(self._starts) and self._starts[i] < stop:
                a, b = self._starts[i], self._starts[i + 1]
                if max(a, start) < min(b, stop):
                    pieces.append(self._group(i)[max(a, start) - a : min(b, stop) - a])
                i += 1
        return np.concatenate(pieces) if len(pieces) != 1 else pieces[0]

    def check_unchanged(self) -> None:
        """FormatError where the file is another one by now."""
        with open(self.path, "rb") as file:
            check_stamp(file, self._stamp, self.path)

    def _group(self, i: int) -> np.ndarray:
        """Return a row group as one array."""
        with open(self.path, "rb") as file:
            check_stamp(file, self._stamp, self.path)
            table = _opened(file, self._metadata)
            found = self._read(lambda: table.read_row_group(i, columns=self.columns, use_threads=False), i)
        shape = (self._starts[i + 1] - self._starts[i], *self._shape)
        if found.shape != shape:
            raise FormatError(f"row group {i} makes an array of shape {found.shape}, expected {shape}")
        return found.astype(self.dtype, copy=False)

    def _read(self, read: Callable[[], Any], i: int) -> np.ndarray:
        """Return what is read of a row group as an array."""
        try:
            table = read()
            columns = {name: table.column(name) for name in self.columns}
            joined = {name: a.combine_chunks() if hasattr(a, "combine_chunks") else a for name, a in columns.items()}
        except MemoryError:
            raise
        except Exception as error:  # pyarrow has many
            raise FormatError(f"row group {i} cannot be read ({reason(error)})") from None
        arrays = [_numbers(name, a, self._starts[i]) for name, a in joined.items()]
        if len(arrays) > 1 and any(a.ndim > 1 for a in arrays):
            message = "a column of lists is all of x; name it alone"
            raise FormatError(message)
        if np.result_type(*arrays).kind == "f":
            for name, a in zip(self.columns, arrays, strict=True):
                beyond = a.dtype.kind in "iu" and a.dtype.itemsize > 4 and (a > 2**53) | (a < -(2.0**53))
                if np.any(beyond):
                    row = self._starts[i] + int(np.argmax(beyond))
                    raise FormatError(f"column {shown(name)} has a number beyond 2**53 in row {row}, among floats")
        return arrays[0] if arrays[0].ndim > 1 else np.stack(arrays, axis=1)


def _opened(file: BinaryIO, metadata: Any = None) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        message = f"{WHO}: pyarrow is missing, which reads Parquet: python -m pip install pyarrow"
        raise ImportError(message) from error
    try:
        return pyarrow.parquet.ParquetFile(file, metadata=metadata)
    except MemoryError:
        raise
    except Exception as error:  # pyarrow has many
        raise FormatError(f"not a Parquet file ({reason(error)})") from None


def _numbers(name: str, column: Any, first: int, per_row: int = 1) -> np.ndarray:
    """Return a column as NumPy has it: ``(rows,)``, or ``(rows, length)`` of lists."""
    if column.null_count:
        row = first + int(column.is_null().to_numpy(zero_copy_only=False).argmax()) // per_row
        raise FormatError(f"column {shown(name)} has no value in row {row}; fill or drop it")
    if (hasattr(column, "flatten") and hasattr(column.type, "list_size")) or hasattr(column, "value_lengths"):
        lengths = np.asarray(column.value_lengths()) if hasattr(column, "value_lengths") else [column.type.list_size]
        least, most = int(min(lengths, default=0)), int(max(lengths, default=0))
        if least != most or most == 0:
            raise FormatError(f"column {shown(name)} has lists of {least} to {most} numbers")
        values = _numbers(name, column.flatten(), first, most)
        if values.ndim > 1:
            raise FormatError(f"column {shown(name)} has lists of lists, expected lists of numbers")
        return values.reshape(len(column), most)
    found: np.ndarray = column.to_numpy(zero_copy_only=False)
    if found.dtype.kind not in "biuf":
        raise FormatError(f"column {shown(name)} is of {shown(str(column.type))}, expected numbers")
    return found
