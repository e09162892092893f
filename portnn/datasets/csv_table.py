"""Tables of numbers as CSV text, such as MNIST with a label and 784 pixels to a line.

Blocks of whole lines are parsed by array operations. One that does not hold numbers alone is halved until a line is
left, which is then parsed field by field, to say where it went wrong.
"""

import csv
import os
import re
from collections.abc import Iterator
from io import BufferedReader
from typing import Any, BinaryIO, Literal, NamedTuple, NoReturn, cast

import numpy as np

from portnn.datasets.decimals import MAX_FIELD, MAX_LINE, bare, decimals
from portnn.datasets.gzipped import open_data
from portnn.errors import FormatError
from portnn.files import StrPath, listing, looks_like, shown

MAX_COLUMNS = 65_536
_BLOCK = 1 << 16
_UNSEEN = 1 << 23

# float() is laxer: it takes "nan", "1_000" and the digits of every script.
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_EXACT = 2.0**53


class _Layout(NamedTuple):
    """What all lines of a table share."""

    columns: int
    delimiter: bytes
    largest: float


def read_csv(
    path: StrPath,
    *,
    target: int | str | None = 0,
    header: bool | Literal["auto"] = "auto",
    delimiter: str = ",",
    dtype: str = "float32",
    max_rows: int = 10_000_000,
    max_bytes: int = 1 << 30,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a table of numbers, plain or gzip: ``(x, t)``, the features and the target column.

    Strict: every line has the same number of fields and every field is a finite decimal number, or the file is
    refused with the line and the column, both counted from 1. A byte order mark, CRLF, a missing last newline, quoted
    numbers and blanks around them are fine. Comments, blank lines and line breaks within quotes are not. A file of more
    than 8 MiB whose numbers take much more room than itself (digits, gzip) is seen to its end before any are kept.

    Parameters
    ----------
    path
        The file, UTF-8.
    target
        The column of ``t``: its position from 0 (negative from the end), its name in the header, or None
        for a table without targets.
    header
        Whether line 1 holds names; "auto" takes it for names if no field of it reads as a number.
    delimiter
        One ASCII character.
    dtype
        "float32" or "float64".
    max_rows
        Refuse longer tables.
    max_bytes
        Refuse longer texts (after inflating).

    Returns
    -------
    x of shape (rows, features) and ``dtype``; t of shape (rows,), int64 if all targets are whole numbers
    (up to 2**53 in magnitude), else of ``dtype``; None for t if ``target`` is None.

    Raises
    ------
    FormatError
        Anything about the file; the message has the line and the column.
    OSError
        FileNotFoundError, IsADirectoryError, PermissionError, as :func:`open` gives them.
    ValueError
        An argument.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "points.csv")
    ...     size = path.write_text("label,width,height\\n3,0.5,1e2\\n7,1,2\\n")
    ...     read_csv(path, target="label")
    (array([[  0.5, 100. ],
           [  1. ,   2. ]], dtype=float32), array([3, 7]))
    """
    element = np.dtype(dtype)
    _check_arguments(element, header, delimiter)
    with open_data("read_csv", path) as (stream, _):
        first = _first_line(stream)
        fields = _fields(first, 1, delimiter.encode())
        names = fields if header is True or (header == "auto" and _are_names(fields)) else None
        layout = _Layout(len(fields), delimiter.encode(), float(np.finfo(element).max))
        column = _target_column(target, names, len(fields))
        if len(fields) - (column is not None) == 0:
            _fail(1, 1, "the only column is the target; there are no features")

        def parsed() -> Iterator[np.ndarray]:
            line, size = (1 if names is None else 2), 0
            for block in _blocks(stream, first + b"\n" if names is None else b""):
                size += len(block)
                for values in _parsed(block, line, layout):
                    line += len(values)
                    if size > max_bytes or line - (names is not None) > max_rows + 1:
                        _fail(line - 1, 1, f"the table exceeds max_rows={max_rows} or max_bytes={max_bytes}")
                    yield values
            if not size:
                _fail(2, 1, "there are no data after the header")

        # Grown in place, so that the peak is the result and one block, not the result twice.
        x_bytes, t_bytes = bytearray(), bytearray()
        kept, room = True, room_for(path)
        for values in parsed():
            if kept:
                _append(values, column, element, x_bytes, t_bytes)
                if len(x_bytes) + len(t_bytes) > room:  # the rest is only looked at, before any of it is kept
                    kept, x_bytes, t_bytes = False, bytearray(), bytearray()
        if not kept:
            stream.seek(0)
            _first_line(stream)
            for values in parsed():
                _append(values, column, element, x_bytes, t_bytes)
    x = np.frombuffer(x_bytes, element).reshape(-1, layout.columns - (column is not None))
    if column is None:
        return x, None
    t = np.frombuffer(t_bytes, np.float64)
    whole = np.all(t == np.trunc(t)) and np.all(np.abs(t) <= _EXACT)
    return x, t.astype(np.int64 if whole else element)


def room_for(path: StrPath) -> int:
    """Return how many bytes of numbers are kept before the end of a file has been seen; some text takes less itself."""
    return _UNSEEN + os.path.getsize(path) * 7 // 4


def _append(values: np.ndarray, column: int | None, element: np.dtype[Any], x: bytearray, t: bytearray) -> None:
    """Put the target column of some rows behind ``t``, and the others behind ``x``."""
    if column is not None:
        t += np.ascontiguousarray(values[:, column]).data
        values = np.delete(values, column, axis=1)
    x += values.astype(element).reshape(-1).data


def _check_arguments(element: np.dtype[Any], header: object, delimiter: str) -> None:
    if element not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f"read_csv: dtype={shown(str(element))}, expected 'float32' or 'float64'")
    if not isinstance(header, bool) and header != "auto":
        raise ValueError(f"read_csv: header={shown(header)}, expected True, False or 'auto'")
    if not isinstance(delimiter, str) or not re.fullmatch(r"""[\t !#$%&'()*,/:;<=>?@\[\\\]^_`{|}~]""", delimiter):
        raise ValueError(f"read_csv: delimiter={shown(delimiter)}, expected one character such as ',' or '\\t'")


def _fail(line: int, column: int, what: str) -> NoReturn:
    raise FormatError(f"line {line}, column {column}: {what}")


def _first_line(stream: BinaryIO) -> bytes:
    head = cast(BufferedReader, stream).peek(512)
    if not head:
        _fail(1, 1, "the file is empty")
    if kind := looks_like(head[:512]):
        _fail(1, 1, f"not a table of numbers{kind}")
    line = stream.readline(MAX_LINE + 2)
    return line.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").removesuffix(b"\r")


def _blocks(stream: BinaryIO, start: bytes) -> Iterator[bytes]:
    """Yield whole lines, some ten kilobytes at a time, each ended by one line feed; one that is too long is cut."""
    while block := start + stream.read(_BLOCK):
        if not block.endswith(b"\n"):
            block += stream.readline(MAX_LINE)  # cut off, it is too long with what it began with
        start = b""
        block = block.replace(b"\r\n", b"\n")
        yield block if block.endswith(b"\n") else block + b"\n"


def halves(block: bytes) -> tuple[bytes, bytes] | None:
    """Cut lines in two, near the middle; None for a single line.

    Examples
    --------
    >>> halves(b"1\\n2\\n3\\n"), halves(b"1\\n")
    ((b'1\\n', b'2\\n3\\n'), None)

    """
    cut = block.rfind(b"\n", 0, len(block) // 2) + 1 or block.index(b"\n") + 1
    return (block[:cut], block[cut:]) if cut < len(block) else None


def _parsed(block: bytes, line: int, layout: _Layout) -> Iterator[np.ndarray]:
    """Yield the numbers of a block whose first line is number ``line``, in pieces where something is wrong in it."""
    pieces = [block]
    while pieces:
        piece = pieces.pop()
        values = _parse_fast(piece, layout)
        if values is None and (parts := halves(piece)):
            pieces += reversed(parts)
            continue
        if values is None:
            values = _parse_exactly(piece, line, layout)
        line += len(values)
        yield values


def _parse_fast(block: bytes, layout: _Layout) -> np.ndarray | None:
    """The float64 numbers, of shape (lines, columns), or None if the block needs a closer look."""
    others = block.translate(None, b"0123456789+-.eE\n" + layout.delimiter)
    if others.strip(b'" \t'):
        return None
    plain = bare(block, layout.columns, layout.delimiter) if others else block
    return None if plain is None else decimals(plain, layout.columns, layout.delimiter, layout.largest)


def _parse_exactly(block: bytes, line: int, layout: _Layout) -> np.ndarray:
    """The same numbers, one field at a time, or why not; ``line`` is the number of the first line."""
    rows = []
    for number, text in enumerate(block.split(b"\n")[:-1], line):
        fields = _fields(text, number, layout.delimiter)
        if len(fields) != layout.columns:
            column = min(len(fields), layout.columns) + 1
            _fail(number, column, f"{len(fields)} fields in this line, {layout.columns} in line 1")
        rows.append([_number(field, number, column, layout) for column, field in enumerate(fields, 1)])
    return np.array(rows, dtype=np.float64)


def _number(field: str, line: int, column: int, layout: _Layout) -> float:
    text = field.strip(" \t")
    if not _NUMBER.fullmatch(text):
        hint = "; if line 1 names the columns, pass header=True" if line == 1 else ""
        _fail(line, column, f"{shown(field, 40) if field else 'an empty field'} is not a decimal number{hint}")
    value = float(text)
    if abs(value) > layout.largest:
        _fail(line, column, f"{shown(text, 40)} is too large, at most {layout.largest:.3g} fits the dtype")
    return value


def _fields(text: bytes, line: int, delimiter: bytes) -> list[str]:
    """Split one line, which need not hold numbers."""

    def column(position: int) -> int:
        return text.count(delimiter, 0, position) + 1

    if len(text) > MAX_LINE:
        _fail(line, column(MAX_LINE), f"the line has more than {MAX_LINE} bytes")
    if text.count(delimiter) >= MAX_COLUMNS:
        _fail(line, MAX_COLUMNS + 1, f"the line has more than {MAX_COLUMNS} columns")
    if not text:
        _fail(line, 1, "the line is empty")
    if (position := text.find(b"\0")) >= 0:
        _fail(line, column(position), "a NUL byte: this is no text file, or it is UTF-16 (save it as UTF-8)")
    if (position := text.find(b"\r")) >= 0:  # that of CRLF is gone by now
        _fail(line, column(position), "a carriage return within the line (end lines with LF or CRLF)")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        _fail(line, column(error.start), f"byte 0x{text[error.start]:02X} is not UTF-8 (save the file as UTF-8)")
    if '"' in decoded:
        try:
            (fields,) = csv.reader([decoded], delimiter=delimiter.decode(), strict=True)
        except (csv.Error, ValueError) as error:
            if opened := _not_closed(decoded, delimiter.decode()):
                _fail(
                    *(line, opened),
                    "the quote that begins this field is not closed in its line; a field must not hold a line break: "
                    "replace it by a space",
                )
            _fail(line, column(text.rfind(b'"')), f"the quotes are wrong ({shown(str(error))})")
    else:
        fields = decoded.split(delimiter.decode())
    for index, field in enumerate(fields, 1):
        if len(field) > MAX_FIELD:
            _fail(line, index, f"a field of {len(field)} characters, at most {MAX_FIELD} are allowed")
    return fields


def _not_closed(text: str, delimiter: str) -> int:
    """Return the column of a field in quotes that does not end in this line, or 0."""
    column, opened = 1, 0
    for character in text:
        if character == '"':
            opened = 0 if opened else column
        elif character == delimiter and not opened:
            column += 1
    return opened


def _are_names(fields: list[str]) -> bool:
    """Whether no field is empty or a number even to float(), to which "nan" and "1_000" are numbers gone wrong."""

    def is_name(field: str) -> bool:
        try:
            float(field)
        except ValueError:
            return bool(field.strip())
        return False

    return all(is_name(field) for field in fields)


def _target_column(target: int | str | None, names: list[str] | None, columns: int) -> int | None:
    if target is None:
        return None
    if isinstance(target, str):
        if names is None or names.count(target) != 1:
            found = "has no header" if names is None else f"names {listing(names)}"
            _fail(1, 1, f"target={shown(target)} must be one of the names in the header, but the file {found}")
        return names.index(target)
    if isinstance(target, bool) or not isinstance(target, int):
        raise ValueError(f"read_csv: target={shown(target)}, expected a column's position or name, or None")
    if not -columns <= target < columns:
        _fail(1, columns, f"target={shown(target)}, but the file has {columns} columns")
    return target % columns
