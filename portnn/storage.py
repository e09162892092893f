"""Named arrays in one file: safetensors, read without being trusted and written wholly or not at all.

A safetensors file is ``n`` as 8 bytes little-endian, ``n`` bytes of JSON, then the arrays back to back::

    {"__metadata__": {"key": "text"}, "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}

The bytes are written and parsed here rather than by the ``safetensors`` package, whose NumPy writer stores wrong
values for strided arrays and reads out of bounds for reversed ones (release 0.8.0). Nothing is ever executed.

Source: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from portnn.errors import FormatError
from portnn.files import StrPath, atomic_write, check_shape, listing, looks_like, looks_like_text, naming, shown
from portnn.json_text import MOST, memory, mention, parse_json

MAX_HEADER_BYTES = 1 << 19  # some 6000 tensors; the objects in it are held to 12 MiB by parse_json

# In the order in which the reference implementation lays arrays out: widest first, so that all are aligned.
_CODES = {
    "U64": "<u8", "I64": "<i8", "F64": "<f8", "F32": "<f4", "U32": "<u4", "I32": "<i4",
    "F16": "<f2", "U16": "<u2", "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "<b1",
}  # fmt: skip
_DTYPES = {name: np.dtype(code) for name, code in _CODES.items()}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LAYOUT = list(_DTYPES)

# A name may later be used as a path by someone else's tool, so "../x", "/x" and "a//b" are not names.
_NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9_.\-]+(?:/[A-Za-z0-9_.\-]+)*")


class TensorInfo(NamedTuple):
    """What a safetensors header says of one array: its dtype, its shape, and where its bytes lie."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def write_safetensors_file(
    path: StrPath,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    *,
    max_header_bytes: int = MAX_HEADER_BYTES,
) -> None:
    """Write named arrays to a safetensors file, atomically; equal arrays give equal bytes.

    Any memory layout is stored by value (Fortran order, strided, reversed, broadcast, read-only, big-endian),
    one array at a time, so that at most one copy exists. The file is laid out as by the reference implementation:
    widest dtype first, then by name.

    Parameters
    ----------
    path
        The file to write; see :func:`portnn.files.atomic_write`.
    arrays
        NumPy arrays of rank 0 to 8: float16/32/64, (u)int8/16/32/64 or bool.
    metadata
        Text by text, stored in the header.
    max_header_bytes
        Refuse to write a header that :func:`read_safetensors_file` would refuse to read.

    Raises
    ------
    TypeError
        Not an array, a dtype that the format or portnn does not know, metadata that is not text.
    ValueError
        A name outside ``[A-Za-z0-9_.-/]``, a rank over 8, a header that is too long.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/w.safetensors"
    ...     write_safetensors_file(path, {"w": np.arange(6.0).reshape(2, 3).T}, {"made": "here"})
    ...     arrays, metadata = read_safetensors_file(path)
    >>> arrays["w"].tolist(), metadata
    ([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], {'made': 'here'})
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"write_safetensors_file: arrays must map names to arrays, got {type(arrays).__name__}")
    for name, array in arrays.items():
        _check_writable(name, array)
    if not isinstance(metadata, Mapping | None) or not all(
        isinstance(text, str) for item in (metadata or {}).items() for text in item
    ):
        message = "write_safetensors_file: metadata must map str to str; encode the rest with json.dumps"
        raise TypeError(message)
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    order = _in_order(arrays)
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        shape = list(arrays[name].shape)
        header[name] = {"dtype": _dtype_name(arrays[name]), "shape": shape, "data_offsets": [begin, end]}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        message = "write_safetensors_file: metadata has half a surrogate pair, which no file can hold as text"
        raise ValueError(message) from None
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    if len(text) > max_header_bytes:
        raise ValueError(
            f"write_safetensors_file: the header takes {len(text)} bytes, more than max_header_bytes="
            f"{max_header_bytes}; store less metadata or raise the limit, in the reader too"
        )
    if (needed := memory(text)) > MOST:
        raise ValueError(
            f"write_safetensors_file: the header may take {needed >> 20} MiB of memory where it is read, at most "
            f"{MOST >> 20} are; store less metadata, or fewer tensors"
        )

    def chunks() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name in order:
            yield little_endian_bytes(arrays[name])

    atomic_write(path, chunks())


def payload_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of what :func:`write_safetensors_file` puts behind the header, as 64 hexadecimal digits.

    Examples
    --------
    >>> payload_sha256({"b": np.uint8([2]), "a": np.uint8([1])}) == hashlib.sha256(bytes([1, 2])).hexdigest()
    True
    """
    digest = hashlib.sha256()
    for name in _in_order(arrays):
        digest.update(little_endian_bytes(arrays[name]))
    return digest.hexdigest()


def _in_order(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names in the order in which the arrays stand in a file."""
    return sorted(arrays, key=lambda name: (_LAYOUT.index(_dtype_name(arrays[name])), name))


def little_endian_bytes(array: np.ndarray) -> memoryview:
    """The elements in C order, little-endian, whatever the layout of ``array``; a copy only where needed."""
    if array.dtype == np.bool_:
        array = array.view(np.uint8) != 0  # a view of bytes as bool may hold a 2, which readers refuse
    contiguous = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return contiguous.reshape(-1).view(np.uint8).data


def can_hold(dtype: str) -> bool:
    """Whether a file can hold arrays of a dtype of this name, in any byte order.

    Examples
    --------
    >>> can_hold(np.dtype(">f4").name), can_hold("complex64")
    (True, False)
    """
    return any(dtype == known.name for known in _DTYPE_NAMES)


def _dtype_name(array: np.ndarray) -> str:
    return _DTYPE_NAMES[array.dtype.newbyteorder("<")]


def _check_writable(name: str, array: np.ndarray) -> None:
    if not isinstance(name, str) or not is_name(name):
        raise ValueError(
            f"write_safetensors_file: {shown(name)} is not a name; use letters, digits, _ . - and / between"
        )
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"write_safetensors_file: {shown(name)} is a {type(array).__name__}, expected a numpy.ndarray "
            "without a mask; convert it with numpy.asarray"
        )
    if not can_hold(array.dtype.name):
        raise TypeError(
            f"write_safetensors_file: {shown(name)} has dtype {shown(str(array.dtype))}, "
            f"expected one of {', '.join(_DTYPES)}"
        )
    try:
        check_shape(array.shape, shown(name))
    except FormatError as error:
        raise ValueError(f"write_safetensors_file: {error}") from None


def is_name(name: str) -> bool:
    """Whether a tensor may be called so."""
    return len(name) <= 256 and name != "__metadata__" and _NAME.fullmatch(name) is not None


def read_safetensors_file(
    path: StrPath, *, names: Collection[str] | None = None, max_header_bytes: int = MAX_HEADER_BYTES
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file that may come from anywhere: ``(arrays by name, metadata)``.

    Everything the header claims is checked against the size of the file before a byte is allocated for it:
    arrays lie back to back up to the end of the file, each as long as its shape and dtype need.

    Parameters
    ----------
    path
        The file.
    names
        Read only these arrays; all if None.
    max_header_bytes
        Refuse longer headers unread.

    Returns
    -------
    Writable arrays of native byte order in the order of the file, and the metadata, maybe empty.

    Raises
    ------
    FormatError
        The file is malformed, of another kind, or has dtypes that NumPy lacks (BF16, F8_*).
    OSError
        FileNotFoundError, IsADirectoryError, PermissionError, as :func:`open` gives them.
    """
    with naming("read_safetensors_file", path), open(path, "rb") as file:
        infos, metadata, start = read_header(file, max_header_bytes)
        for name in names or ():
            if name not in infos:
                raise FormatError(f"there is no tensor {shown(name)}, the file holds {listing(infos)}")
        arrays = {}
        for name, info in infos.items():
            if names is None or name in names:
                file.seek(start + info.begin)
                arrays[name] = _read_tensor(file, name, info, start + info.begin)
        return arrays, metadata


def read_safetensors_header(
    path: StrPath, *, max_header_bytes: int = MAX_HEADER_BYTES
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """What :func:`read_safetensors_file` would read, without reading it: ``(TensorInfo by name, metadata)``.

    Raises
    ------
    FormatError, OSError
        As :func:`read_safetensors_file`.
    """
    with naming("read_safetensors_header", path), open(path, "rb") as file:
        infos, metadata, _ = read_header(file, max_header_bytes)
        return infos, metadata


def read_header(file: BinaryIO, max_header_bytes: int) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    """Return the tensors of an open file in the order of their bytes, the metadata, and where the bytes start."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(512)
    if len(head) < 9:
        raise FormatError(f"a safetensors header takes at least 10 bytes, the file ends at byte {len(head)}")
    length = int.from_bytes(head[:8], "little")
    # The first byte of the JSON tells kinds apart: the length alone may well look like the start of a pickle.
    if head[8:9] != b"{" and (kind := looks_like(head)):
        raise FormatError(f"no safetensors header at byte 0{kind}")
    if looks_like_text(head):  # eight bytes of a length are no text: the file would have terabytes
        message = "no safetensors header at byte 0 (it looks like text, such as a CSV table, not like a model)"
        raise FormatError(message)
    if not 2 <= length <= size - 8:
        raise FormatError(
            f"the header claims {length} bytes at byte 0, the file has {size}: cut off, or not safetensors"
        )
    if length > max_header_bytes:
        raise FormatError(f"the header claims {length} bytes at byte 0, more than max_header_bytes={max_header_bytes}")
    if head[8:9] != b"{":
        raise FormatError(f"the header must begin with '{{', found {head[8:9]!r} at byte 8")
    file.seek(8)
    text = file.read(length)
    header = parse_json(text, "the header", 8)  # begins with "{", so it is a dict
    infos = {}
    for name, entry in header.items():
        try:
            if name == "__metadata__":
                _check_metadata(entry)
            else:
                infos[name] = _checked_entry(name, entry)
        except FormatError as error:
            raise FormatError(f"{error} (at byte {8 + mention(text, name)})") from None
    infos = dict(sorted(infos.items(), key=lambda item: (item[1].begin, item[1].end)))
    start, end = 8 + length, 0
    for name, info in infos.items():
        if info.begin != end:
            kind = "a hole" if info.begin > end else "an overlap"
            where = f"at byte {start + min(info.begin, end)}"
            raise FormatError(f"tensor {shown(name)} has offset {info.begin}, expected {end}: {kind} {where}")
        end = info.end
    if end != size - start:
        raise FormatError(f"size: the tensors take {end} bytes, the file has {size - start} for them at byte {start}")
    return infos, header.get("__metadata__", {}), start


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        message = "the header's __metadata__ must map text to text"
        raise FormatError(message)
    try:
        "".join([*metadata, *metadata.values()]).encode()
    except UnicodeEncodeError:  # "\ud800" passes for JSON but could not be written back
        message = "the header's __metadata__ has half a surrogate pair, which is not text"
        raise FormatError(message) from None


def _checked_entry(name: str, entry: Any) -> TensorInfo:
    where = f"tensor {shown(name)}"
    if not is_name(name):
        raise FormatError(f"the header names a {where}; names are letters, digits, _ . - and / between parts")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        fields = listing(entry) if isinstance(entry, dict) else type(entry).__name__
        raise FormatError(f"{where} must have dtype, shape and data_offsets in the header, found {fields}")
    dtype_name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _DTYPES.get(dtype_name) if isinstance(dtype_name, str) else None
    if dtype is None:
        raise FormatError(f"{where} has dtype {shown(dtype_name)}, which is not one of {', '.join(_DTYPES)}")
    if not _are_counts(shape):
        raise FormatError(f"{where} has shape {shown(shape)}, expected a list of integers >= 0")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{where} has the offset pair {shown(offsets)}, expected 0 <= begin <= end")
    check_shape(shape, where)
    begin, end = offsets
    needed = math.prod(shape) * dtype.itemsize  # Python integers: 2**32 x 2**32 does not wrap to 0
    if needed != end - begin:
        raise FormatError(
            f"{where} of shape {shown(shape)} and dtype {dtype_name} has a size of {shown(needed)} bytes, "
            f"its offsets span {shown(end - begin)}"
        )
    return TensorInfo(dtype, tuple(shape), begin, end)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _read_tensor(file: BinaryIO, name: str, info: TensorInfo, start: int) -> np.ndarray:
    array = np.empty(info.shape, info.dtype)
    buffer = array.reshape(-1).view(np.uint8)
    if file.readinto(buffer.data) != array.nbytes:  # type: ignore[attr-defined]
        raise FormatError(f"size: the file became shorter while tensor {shown(name)} at byte {start} was read")
    if info.dtype == np.bool_ and array.size and buffer.max() > 1:
        place = start + int((buffer > 1).argmax())
        raise FormatError(f"tensor {shown(name)} is BOOL but has bytes other than 0 and 1, first at byte {place}")
    return array.astype(info.dtype.newbyteorder("="), copy=False)
