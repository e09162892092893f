"""Opening a file that is either plain or gzip, told apart by its first two bytes, whatever its name says."""

import contextlib
import errno
import io
import os
import stat
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from portnn.errors import FormatError
from portnn.files import StrPath, naming

_GZIP = b"\x1f\x8b"
_MAX_RATIO = 1032  # deflate spends at least 2 bits on 258 bytes
_STEP = 1 << 18


@contextlib.contextmanager
def open_data(function: str, path: StrPath) -> Iterator[tuple[BinaryIO, int]]:
    """Yield ``(stream, most)``: the file's content, inflated if it is gzip, and how many bytes that can be.

    A FormatError raised inside is prefixed with ``function`` and ``path``. OSError for a pipe: nobody knows how much it
    holds, and it cannot be read twice.
    """
    if stat.S_ISFIFO(os.stat(path).st_mode):
        raise OSError(errno.ESPIPE, "a pipe, not a regular file; write what it brings to one first", os.fspath(path))
    with naming(function, path), open(path, "rb") as file:
        yield inflated(file, os.fstat(file.fileno()).st_size)


def inflated(file: BinaryIO, size: int) -> tuple[BinaryIO, int]:
    """What :func:`open_data` yields, for ``size`` bytes at the start of an open seekable file."""
    magic = file.read(2)
    file.seek(0)
    if magic == _GZIP:
        return cast(BinaryIO, io.BufferedReader(_Gzip(file), _STEP)), _MAX_RATIO * size
    return file, size


def is_inflated(stream: BinaryIO) -> bool:
    """Whether a stream of :func:`open_data` is inflated as it is read: how long it is only shows at its end."""
    return isinstance(getattr(stream, "raw", None), _Gzip)


class _Gzip(io.RawIOBase):
    """One gzip member, inflated as it is read; its end is reached only if the checksum is right and nothing follows.

    Python's gzip module reads on into further members and over trailing zeros, so that data can double unseen.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._inflater = zlib.decompressobj(wbits=31)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset of the content: what comes before is inflated again, and nothing of it kept."""
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence != io.SEEK_SET:
            message = "where a gzip stream ends is only known there"
            raise io.UnsupportedOperation(message)
        if offset < self._position:
            self._begin()
        scratch = memoryview(bytearray(_STEP))
        while self._position < offset and self.readinto(scratch[: offset - self._position]):
            pass
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflater.eof:
            data = self._inflater.unconsumed_tail or self._file.read(_STEP)
            try:
                piece = self._inflater.decompress(data, min(len(buffer), _STEP))
            except zlib.error as error:
                said, here = str(error).split(": ")[-1], self._file.tell()
                raise FormatError(f"the gzip stream is damaged ({said}) at byte {here} of the file or before") from None
            if piece:
                buffer[: len(piece)] = piece
                self._position += len(piece)
                return len(piece)
            if not data:
                raise FormatError(f"the gzip stream is truncated: the file ends before it, at byte {self._file.tell()}")
        rest = len(self._inflater.unused_data)
        if rest or self._file.read(1):
            here = self._file.tell() - (rest or 1)
            raise FormatError(
                f"something follows the gzip stream at byte {here} of the file: trailing bytes or a second member"
            )
        return 0
