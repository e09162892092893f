"""IDX files: the format of MNIST. Big-endian, no names, no checksum.

``0 0 type rank``, one byte each, then ``rank`` extents as unsigned 32-bit integers, then the elements in C order.

Source: https://web.archive.org/web/2021/http://yann.lecun.com/exdb/mnist/
"""

import math
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from portnn.datasets.gzipped import is_inflated, open_data
from portnn.errors import FormatError
from portnn.files import StrPath, atomic_write, check_shape, looks_like, shown

_DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_TYPES = {dtype: code for code, dtype in _DTYPES.items()}
_STEP = 1 << 20
_UNSEEN = 1 << 24  # bytes of a gzip stream that are kept before its end has been seen


def read_idx(path: StrPath) -> np.ndarray:
    """Read an IDX file, raw or gzip (told by its first bytes, not by its name).

    The extents are checked against the size of the file before anything is read, memory grows only with the bytes
    that are really there, and a gzip stream is never inflated further than the header declares. One that declares more
    than 16 MiB is inflated twice: a few kB may claim to be gigabytes, so its end is seen before any of it is kept.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Array of the declared shape and dtype (uint8, int8, int16, int32, float32 or float64), native byte order.

    Raises
    ------
    FormatError
        Not an IDX file, or one that is truncated, too long or damaged.
    OSError
        FileNotFoundError, IsADirectoryError, PermissionError, as :func:`open` gives them.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(f"{folder}/a.gz", np.array([[1, -2], [3, 4]], dtype="int16"))
    ...     read_idx(f"{folder}/a.gz")
    array([[ 1, -2],
           [ 3,  4]], dtype=int16)
    """
    with open_data("read_idx", path) as (stream, most):
        return parse_idx(stream, most)


def read_idx_pair(images_path: StrPath, labels_path: StrPath) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of images and the file of their labels: ``(images, labels)`` with one integer label per image.

    Raises
    ------
    FormatError, OSError
        As :func:`read_idx`, and when the two files do not belong together.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(f"{folder}/images", np.zeros((2, 3, 3), dtype="uint8"))
    ...     write_idx(f"{folder}/labels", np.array([7, 1], dtype="uint8"))
    ...     images, labels = read_idx_pair(f"{folder}/images", f"{folder}/labels")
    >>> images.shape, labels.tolist()
    ((2, 3, 3), [7, 1])
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    check_pair(images, labels, f"read_idx_pair: {shown(os.fspath(labels_path))}")
    return images, labels


def check_pair(images: np.ndarray, labels: np.ndarray, where: str) -> None:
    """FormatError unless ``labels`` holds one integer for each of ``images``."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images):
        raise FormatError(
            f"{where}: {labels.dtype} labels of shape {labels.shape} for images of shape {images.shape}, "
            f"expected {len(images)} integers"
        )


def parse_idx(stream: BinaryIO, most: int) -> np.ndarray:
    """The array in an open stream that can deliver at most ``most`` bytes."""
    shape, dtype, start = read_idx_header(stream)
    needed = math.prod(shape) * dtype.itemsize  # Python integers: 65536**4 does not wrap to 0
    if start + needed > most:
        what = f"IDX shape {shape} at offset 4"
        raise FormatError(f"{what} needs {start + needed} bytes, the file can hold at most {most}")
    if needed > _UNSEEN and is_inflated(stream):
        for _ in _body(stream, start, needed, shape):
            pass
        stream.seek(start)
    data = bytearray()
    for piece in _body(stream, start, needed, shape):
        data += piece
    array = np.frombuffer(data, dtype).reshape(shape)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def read_idx_header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and dtype, as stored, of the array in an open stream, and the offset of its first byte."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        kind = looks_like(head + stream.read(508))
        raise FormatError(f"an IDX file begins with two zero bytes, type and rank, found {head!r} at offset 0{kind}")
    if (dtype := _DTYPES.get(head[2])) is None:
        raise FormatError(f"IDX type 0x{head[2]:02X} at offset 2, expected 08, 09, 0B, 0C, 0D or 0E")
    if head[3] == 0:
        message = "IDX rank 0 at offset 3, expected at least 1"
        raise FormatError(message)
    extents = stream.read(4 * head[3])
    if len(extents) < 4 * head[3]:
        raise FormatError(f"the file ends at offset {4 + len(extents)}, within the {head[3]} IDX extents")
    shape = tuple(int.from_bytes(extents[i : i + 4], "big") for i in range(0, len(extents), 4))
    check_shape(shape, "the IDX array at offset 4")
    return shape, dtype, 4 + len(extents)


def _body(stream: BinaryIO, start: int, needed: int, shape: tuple[int, ...]) -> Iterator[bytes]:
    """Yield the ``needed`` bytes at offset ``start``, piece by piece; FormatError unless they are all there is."""
    end = start + needed
    while start < end:
        piece = stream.read(min(_STEP, end - start))
        if not piece:
            raise FormatError(f"the data ends at offset {start}, IDX shape {shape} needs {end}")
        yield piece
        start += len(piece)
    if stream.read(1):  # also brings a gzip stream to its checksum
        raise FormatError(f"there are bytes beyond offset {end}, where IDX shape {shape} ends")


def write_idx(path: StrPath, array: np.ndarray) -> None:
    """Write an IDX file, atomically; gzip if the name ends in ``.gz``, with no time stamp: equal arrays, equal bytes.

    Parameters
    ----------
    path
        The file to write; see :func:`portnn.files.atomic_write`.
    array
        Uint8, int8, int16, int32, float32 or float64, rank 1 to 8, any memory layout.

    Raises
    ------
    TypeError
        Another dtype, or not an array.
    ValueError
        Rank 0 or above 8, or an extent above 2**32 - 1.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(f"{folder}/a", np.array([[5, 6, 7]], dtype="uint8"))
    ...     pathlib.Path(folder, "a").read_bytes().hex(" ")
    '00 00 08 02 00 00 00 01 00 00 00 03 05 06 07'
    """
    plain = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    if not plain or array.dtype.newbyteorder(">") not in _TYPES:
        found = array.dtype if plain else type(array).__name__
        raise TypeError(
            f"write_idx: got {shown(str(found))}, expected an array of uint8, int8, int16, int32, float32 or float64; "
            "convert it with numpy.asarray(array, dtype=...)"
        )
    if array.ndim == 0 or max(array.shape) > 2**32 - 1:
        raise ValueError(f"write_idx: shape {array.shape}, expected 1 to 8 extents of at most 2**32 - 1")
    try:
        check_shape(array.shape, "the array")
    except FormatError as error:
        raise ValueError(f"write_idx: {error}") from None
    chunks = idx_chunks(array)
    atomic_write(path, _gzip(chunks) if os.fspath(path).endswith(".gz") else chunks)


def idx_chunks(array: np.ndarray) -> Iterator[bytes | memoryview]:
    """The bytes of an IDX file, which its array determines: header, then elements."""
    dtype = array.dtype.newbyteorder(">")
    yield bytes([0, 0, _TYPES[dtype], array.ndim]) + b"".join(extent.to_bytes(4, "big") for extent in array.shape)
    yield np.asarray(array, dtype=dtype, order="C").reshape(-1).view(np.uint8).data


def _gzip(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    deflater = zlib.compressobj(9, wbits=31)  # zlib's own gzip header has no time and no name
    for chunk in chunks:
        yield deflater.compress(chunk)
    yield deflater.flush()
