"""Rows of arrays in files, of which a part is read at a time: npy, IDX, safetensors.

A shard says how many rows its file holds, of which shape and dtype, and reads some of them. Files are read by their
position and are not mapped: pages of a mapping count as memory of the process.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import Any, BinaryIO

import numpy as np

from portnn.datasets.idx import read_idx_header
from portnn.errors import FormatError, shown
from portnn.files import StrPath, check_shape, listing, looks_like, naming
from portnn.storage import MAX_HEADER_BYTES, read_header

WHO = "Stream"
KINDS = "biuf"  # of dtypes: what can be a sample
LONGEST = 10_000  # bytes of the header of an npy file


class Shard:
    """Rows ``(n, features)`` of one array in one file, one after the other.

    Parameters
    ----------
    file
        The file, open, and its path.
    shape
        ``(n, ...)``; what is behind the first axis is flattened.
    dtype
        As stored, in any byte order.
    offset
        Of the first byte of the array.
    named
        Whether the file holds arrays by name, so that targets may be in it, too.

    """

    def __init__(
        self, file: BinaryIO, path: str, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, named: bool
    ) -> None:
        self.path, self.n, self.row_shape, self.named = path, shape[0], tuple(shape[1:]), named
        self._stored, self.dtype, self._offset = dtype, dtype.newbyteorder("="), offset
        self.features = math.prod(self.row_shape)
        self._stamp = stamp_of(file)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.features * self.dtype.itemsize

    def blocks(self, rows: int) -> np.ndarray:
        """Cut the rows into pieces that are read at once: ``(k, 2)``, the first row and the one behind the last."""
        starts = np.arange(0, self.n, rows)
        return np.stack([starts, np.minimum(starts + rows, self.n)], axis=1)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read some rows."""
        rows = np.empty((stop - start, self.features), dtype=self._stored)
        view = rows.view("uint8").reshape(-1).data
        with open(self.path, "rb", buffering=0) as file:
            check_stamp(file, self._stamp, self.path)
            file.seek(self._offset + start * self.row_bytes)
            done = 0
            while done < len(view):
                more = file.readinto(view[done:])
                if not more:
                    raise FormatError(f"{WHO}: {shown(self.path)} ends within row {start + done // self.row_bytes}")
                done += more
        if self.dtype == np.bool_ and (other := rows.view("uint8") > 1).any():
            row = start + int(np.argwhere(other)[0][0])
            raise FormatError(f"{WHO}: {shown(self.path)} has a byte other than 0 and 1 for a truth value in row {row}")
        return rows if rows.dtype.isnative else rows.astype(self.dtype)

    def check_unchanged(self) -> None:
        """FormatError where the file is another one by now."""
        with open(self.path, "rb") as file:
            check_stamp(file, self._stamp, self.path)


Stamp = tuple[int, int, int, int]


def stamp_of(file: BinaryIO) -> Stamp:
    """Return what tells an open file from what it was: its size, the time of its last change, where it is."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev


def check_stamp(file: Any, stamp: Stamp, path: str) -> None:
    """FormatError where an open file is another than it was."""
    if stamp_of(file) != stamp:
        raise FormatError(f"{WHO}: {shown(path)} was changed since it was opened; make a new Stream")


def open_shard(path: StrPath, names: tuple[str, ...], what: str) -> Shard:
    """Return the shard of a file, told by its first bytes: of a safetensors file the first of ``names`` that it has.

    FormatError for what is none; ``what`` is x or t.
    """
    path = os.fspath(path)
    with naming(WHO, path), open(path, "rb") as file:
        head = file.read(512)
        file.seek(0)
        named = False
        if head.startswith(b"\x93NUMPY"):
            shape, dtype, offset = _npy(file)
        elif head[:2] == b"\0\0" and len(head) > 3 and head[3]:
            shape, dtype, offset = read_idx_header(file)
        elif head[8:9] == b"{":
            named = True
            shape, dtype, offset = _tensor(file, names, what)
        elif head[:2] == b"\x1f\x8b":
            message = "compressed as a whole: no part of it can be read; unpack it first"
            raise FormatError(message)
        else:
            raise FormatError(f"neither npy, IDX, safetensors nor Parquet{looks_like(head)}")
        check_kind(shape, dtype, what)
        shard = Shard(file, path, shape, dtype, offset, named)
        size, needed = os.fstat(file.fileno()).st_size, offset + shard.n * shard.row_bytes
        if size < needed or (size > needed and not named):  # a file with names holds more
            raise FormatError(f"{what} of shape {shape} makes {needed} bytes, the file has {size}")
    return shard


def check_kind(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> None:
    """FormatError unless an array can be samples, or targets: numbers, and at least one of them per row."""
    if min(shape, default=0) < 1 or (what == "x" and len(shape) < 2):
        raise FormatError(f"{what} has shape {tuple(shape)}, expected (n, ...) with at least one row and feature")
    if dtype.kind not in KINDS:
        raise FormatError(f"{what} has dtype {dtype}, expected real numbers")


def _npy(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, dtype and offset of the array in an npy file; nothing in it is executed."""
    head = file.read(12)
    if len(head) < 12 or head[6] not in (1, 2) or head[7] != 0:
        raise FormatError(f"npy format {'.'.join(map(str, head[6:8]))}, expected 1.0 or 2.0")
    length = int.from_bytes(head[8:10] if head[6] == 1 else head[8:12], "little")
    if length > LONGEST:
        raise FormatError(f"its npy header claims {length} bytes, at most {LONGEST} are read")
    file.seek(8)
    read = np.lib.format.read_array_header_1_0 if head[6] == 1 else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = read(file)
    except Exception as error:  # whatever a parser of Python's own literals may say
        raise FormatError(f"its npy header cannot be read ({shown(str(error), 200)})") from None
    check_shape(shape, "the npy array")
    if not shape or (fortran and len(shape) > 1):
        order = "column after column" if shape else "as a single number"
        raise FormatError(f"the array is stored {order}; save numpy.ascontiguousarray(x), whose rows can be read")
    return shape, dtype, file.tell()


def _tensor(file: BinaryIO, names: tuple[str, ...], what: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    infos, _, start = read_header(file, MAX_HEADER_BYTES)
    name = next((name for name in names if name in infos), None)
    if name is None:
        wanted = " or ".join(map(repr, names))
        raise FormatError(f"there is no tensor {wanted}, the file holds {listing(infos)}; give {what}=NAME")
    info = infos[name]
    return info.shape, np.dtype(info.dtype).newbyteorder("<"), start + info.begin
