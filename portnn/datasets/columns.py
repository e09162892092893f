"""Tables of numbers and texts as CSV, column by column, such as measurements with the name of a species at the end.

The reader of :mod:`portnn.datasets.csv_table` with names, categories and missing values: the file is gone through
twice, once to learn what each column holds, once to fetch it.
"""

import decimal
import difflib
import itertools
import math
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from portnn.backends import one_of
from portnn.datasets.csv_table import _NUMBER, _fail, _parse_fast, room_for
from portnn.datasets.decimals import decimals
from portnn.datasets.table_file import TableFile
from portnn.errors import FormatError
from portnn.files import StrPath, listing, naming, shown

MAX_CATEGORIES = 200
_LONG = re.compile(rb"(?<![\d.])\d{16,}(?![\d.eE])")  # whole numbers of which float64 may not keep all digits
FEW = 8  # lines for which it does not pay to go through columns, of which there may be thousands
MISSING = frozenset({"", "?", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL"})


class Column(NamedTuple):
    """The name of a column and, for one of texts, all texts that occur in it, sorted; None for one of numbers."""

    name: str
    categories: tuple[str, ...] | None = None


class Table(NamedTuple):
    """Columns and ``values``, float64 ``(rows, columns)``: numbers, or positions in the categories of the column.

    ``left_out`` is the number of rows with missing values that were left out.
    """

    columns: tuple[Column, ...]
    values: np.ndarray
    left_out: int

    def column(self, name: str) -> tuple[Column, np.ndarray]:
        """Return a column and its values by name."""
        at = find(name, [column.name for column in self.columns])
        return self.columns[at], self.values[:, at]


def read_columns(
    path: StrPath,
    *,
    wanted: Sequence[Column] | None = None,
    categorical: Collection[str] = (),
    drop: Collection[str] = (),
    missing: str = "refuse",
    delimiter: str = "auto",
    header: bool = True,
    max_rows: int = 10_000_000,
    max_bytes: int = 1 << 30,
) -> Table:
    """Read a table of numbers and texts, plain or gzip, UTF-8.

    A column whose first value is a number holds numbers, all others must be numbers too; else it holds texts, of which
    there may be 200 different ones, and no more than half of them numbers, also with a decimal comma, unless it is
    among the categorical ones. A whole number of which float64 keeps not all digits, such as 9007199254740993, is
    refused: such numbers are names, most often, and then the column is categorical. What counts as missing: nothing, ?,
    NA, N/A, n/a, NaN, nan, null, NULL. For the rest it is as strict as :func:`portnn.datasets.read_csv`: as many fields
    in each line, no blank lines, lines and columns counted from 1 in every message.

    Parameters
    ----------
    path
        The file.
    wanted
        Read these columns, wherever they stand, and no others; a text that is none of their categories is refused. None
        reads all columns and finds out what they hold.
    categorical
        Names of columns whose numbers are names, such as postal codes.
    drop
        Names of columns to leave out.
    missing
        ``"refuse"`` a file with missing values, or ``"drop"`` the rows.
    delimiter
        One of , ; tab | or ``"auto"``: that which occurs most often in line 1.
    header
        Line 1 has the names; False names the columns "1", "2", ...
    max_rows, max_bytes
        Refuse longer tables.

    Raises
    ------
    FormatError
        Anything about the file.
    OSError
        FileNotFoundError, IsADirectoryError, PermissionError, as :func:`open` gives them.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "pets.csv")
    ...     size = path.write_text("kind,weight\\ndog,12.5\\ncat,4\\n")
    ...     table = read_columns(path)
    >>> table.columns
    (Column(name='kind', categories=('cat', 'dog')), Column(name='weight', categories=None))
    >>> table.values
    array([[ 1. , 12.5],
           [ 0. ,  4. ]])

    """
    one_of("missing of read_columns", missing, ("refuse", "drop"))
    file = TableFile(path, delimiter, header, max_rows, max_bytes)
    with naming("read_columns", path):
        names = file.names()
        if wanted is None:
            for name in (*drop, *categorical):
                find(name, names)
            places = [place for place, name in enumerate(names) if name not in drop]
            if not places:
                raise FormatError("all columns are left out")  # noqa: EM101
            wanted = _survey(file, names, places, categorical, missing)
        else:
            places = [find(column.name, names) for column in wanted]
        return _collect(file, tuple(wanted), places, missing, room_for(path))


def column_names(path: StrPath, *, delimiter: str = "auto", header: bool = True) -> list[str]:
    """Return the names of the columns, without reading the rest."""
    return TableFile(path, delimiter, header, 1, 1).names()


def find(name: str, names: Sequence[str]) -> int:
    """Return the place of a name, or raise FormatError with the one that may have been meant.

    Examples
    --------
    >>> find("spices", ["length", "species"])
    Traceback (most recent call last):
    portnn.errors.FormatError: there is no column 'spices'; did you mean 'species'?

    """
    if name in names:
        return list(names).index(name)
    few = names[:200]  # to compare with tens of thousands takes seconds
    near = difflib.get_close_matches(name, few, 1) or [n for n in names if n.strip().lower() == name.strip().lower()]
    cure = f"did you mean {shown(near[0], 60)}?" if near else f"the columns are {listing(names)}"
    raise FormatError(f"there is no column {shown(name, 60)}; {cure}")


def _survey(
    file: TableFile, names: Sequence[str], places: Sequence[int], categorical: Collection[str], missing: str
) -> tuple[Column, ...]:
    """Go through the file once to learn which columns hold numbers, and the categories of the others."""
    since: dict[int, int] = {}  # the line of the first number of a column of numbers
    texts: dict[int, dict[str, int]] = {place: {} for place in places if names[place] in categorical}  # and their lines
    declared = frozenset(texts)

    any_size = file.layout._replace(largest=math.inf)  # what is too large is refused when it is fetched

    def many(line: int, block: bytes) -> bool:
        if not texts and len(places) == len(names) and _parse_fast(block, any_size) is not None:
            for place in places:
                since.setdefault(place, line)
            return True
        found = file.columns(block) if block.count(b"\n") >= FEW else None
        rows = None if found is None else _present(found, places, missing)
        if found is None or rows is None:
            return False
        if not rows:
            return True
        columns = {place: _at(found[place], rows) for place in places}
        known = [place for place in places if place in texts or not (place in since or _is_number(columns[place][0]))]
        numbers = sorted(set(places) - set(known))
        new = {}
        for place in known:
            if not texts.get(place, {}).keys() >= set(columns[place]):
                new[place] = dict(zip(reversed(columns[place]), reversed(rows), strict=True))  # the first row of each
                if len(texts.get(place, {}).keys() | new[place].keys()) > MAX_CATEGORIES:
                    return False
        if numbers and _numbers([columns[place] for place in numbers], math.inf) is None:
            return False
        for place in numbers:
            since.setdefault(place, line + rows[0])
        for place, firsts in new.items():
            for text in sorted(firsts, key=firsts.__getitem__):
                texts.setdefault(place, {}).setdefault(text, line + firsts[text])
        return True

    def one(line: int, fields: list[str]) -> None:
        gone = _missing(fields, places)
        if gone is not None:
            if missing == "refuse":
                _refuse_missing(line, gone, names[gone], fields[gone])
            return
        for place in places:
            text, known = fields[place], texts.get(place)
            if known is not None:
                if text not in known:
                    known[text] = line
                    if len(known) > MAX_CATEGORIES:
                        if place not in declared:
                            _refuse_numbers(known, place, names[place], file.header)
                        _fail(line, place + 1, _too_many(names[place]))
            elif _is_number(text):
                since.setdefault(place, line)
            elif place in since:
                _fail(
                    *(line, place + 1),
                    f"{shown(text, 40)} in column {shown(names[place], 40)} is not a number{_comma(text)}, but "
                    f"line {since[place]} has one; correct it, or declare the column categorical",
                )
            else:
                texts[place] = {text: line}

    file.go_through(many, one)
    if not since and not texts:
        _fail(1 + file.header, 1, "every row has a missing value")
    for place in sorted(texts.keys() - declared):
        _refuse_numbers(texts[place], place, names[place], file.header)
    return tuple(Column(names[p], tuple(sorted(texts[p])) if p in texts else None) for p in places)


def _collect(file: TableFile, columns: tuple[Column, ...], places: Sequence[int], missing: str, room: float) -> Table:
    """Go through the file to fetch columns whose kinds are known; twice where they take more than ``room`` bytes."""
    codes = [None if c.categories is None else {text: float(k) for k, text in enumerate(c.categories)} for c in columns]
    plain = [k for k, known in enumerate(codes) if known is None]
    values, left_out = bytearray(), 0  # grown in place, so that the peak is the result and one block
    kept = True

    def keep(rows: np.ndarray) -> None:
        nonlocal values, kept
        values += np.ascontiguousarray(rows).data.cast("B")
        if len(values) > room:  # the rest is only looked at, before any of it is kept
            kept = False
        if not kept:
            values = bytearray()

    def many(line: int, block: bytes) -> bool:
        nonlocal left_out
        if not any(codes) and (parsed := _parse_fast(block, file.layout)) is not None:
            parsed = parsed[:, places]  # what is not asked for may hold anything
            if not _cut(parsed, block):
                keep(parsed)
                return True
        found = file.columns(block) if block.count(b"\n") >= FEW else None
        rows = None if found is None else _present(found, places, missing)
        if found is None or rows is None:
            return False
        result = np.empty((len(rows), len(columns)))
        if rows and plain:
            numbers = _numbers([_at(found[places[k]], rows) for k in plain], file.layout.largest)
            if numbers is None or _cut(numbers, block):
                return False
            result[:, plain] = numbers
        for k, known in enumerate(codes):
            if known is not None:
                try:
                    result[:, k] = [known[text] for text in _at(found[places[k]], rows)]
                except KeyError:
                    return False
        left_out += len(found[0]) - len(rows)
        keep(result)
        return True

    def one(line: int, fields: list[str]) -> None:
        nonlocal left_out
        gone = _missing(fields, places)
        if gone is not None:
            if missing == "refuse":
                _refuse_missing(line, gone, columns[list(places).index(gone)].name, fields[gone])
            left_out += 1
            return
        row = [
            _value(fields[place], line, place, column, known, file.layout.largest)
            for place, column, known in zip(places, columns, codes, strict=True)
        ]
        keep(np.asarray(row))

    file.go_through(many, one)
    if not kept:
        return _collect(file, columns, places, missing, math.inf)
    return Table(columns, np.frombuffer(values, np.float64).reshape(-1, len(columns)), left_out)


def _numbers(columns: Sequence[Sequence[str]], largest: float) -> np.ndarray | None:
    """Return columns of texts as numbers, ``(rows, columns)``, or None if one of the texts is none."""
    text = "\n".join(itertools.chain.from_iterable(columns)) + "\n"
    values = decimals(text.encode(), 1, b",", largest)
    return None if values is None else values.reshape(len(columns), -1).T


def _present(columns: Sequence[Sequence[str]], places: Sequence[int], missing: str) -> Sequence[int] | None:
    """Return the rows without missing values, or None if there are others that are to be refused."""
    rows = range(len(columns[0]))
    gaps = [place for place in places if not MISSING.isdisjoint(columns[place])]
    if gaps and missing == "refuse":
        return None
    gone = {row for place in gaps for row, text in enumerate(columns[place]) if text in MISSING}
    return [row for row in rows if row not in gone] if gone else rows


def _at(column: Sequence[str], rows: Sequence[int]) -> Sequence[str]:
    return column if len(rows) == len(column) else [column[row] for row in rows]


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _value(text: str, line: int, place: int, column: Column, codes: dict[str, float] | None, largest: float) -> float:
    if codes is not None:
        if text not in codes:
            known = listing(codes)
            _fail(line, place + 1, f"{shown(text, 40)} is none of the categories of {shown(column.name, 40)}: {known}")
        return codes[text]
    if not _NUMBER.fullmatch(text):
        name = shown(column.name, 40)
        _fail(line, place + 1, f"{shown(text, 40)} in column {name} is not a number{_comma(text)}")
    value = float(text)
    if abs(value) > largest:
        _fail(line, place + 1, f"{shown(text, 40)} is too large, at most {largest:.3g} fits")
    if _LONG.search(text.encode()) and _is_cut(text):
        _fail(
            *(line, place + 1),
            f"{shown(text, 40)} in column {shown(column.name, 40)} has more digits than a number keeps here, it would "
            f"become {value:.0f}; declare the column categorical, or leave it out",
        )
    return value


def _cut(values: np.ndarray, block: bytes) -> bool:
    """Whether a block may hold a whole number that float64 makes another one."""
    return bool(np.abs(values).max() >= 2.0**53) and any(_is_cut(found.decode()) for found in _LONG.findall(block))


def _is_cut(text: str) -> bool:
    """Whether a whole number has digits that its float64 has not; zeros at the end are none."""
    return decimal.Decimal(repr(float(text))) != decimal.Decimal(text)


def _missing(fields: list[str], places: Sequence[int]) -> int | None:
    """Return the first place with a missing value."""
    if MISSING.isdisjoint(fields):
        return None
    return next((place for place in places if fields[place] in MISSING), None)


def _refuse_missing(line: int, place: int, name: str, text: str) -> None:
    what = f"marked {shown(text)}" if text else "an empty field"
    cure = "fill it in, or leave such rows out"
    _fail(line, place + 1, f"the value of {shown(name, 40)} is missing ({what}); {cure}")


def _refuse_numbers(texts: dict[str, int], place: int, name: str, header: bool) -> None:
    """Refuse texts most of which are numbers: as categories, a slip would turn one input into many."""
    if 2 * sum(_NUMBER.fullmatch(text.replace(",", ".", 1)) is not None for text in texts) <= len(texts):
        return
    text, line = next((text, line) for text, line in texts.items() if not _NUMBER.fullmatch(text))
    names = "" if header or line > 1 else "; if line 1 has the names of the columns, read it as such"
    _fail(
        *(line, place + 1),
        f"{shown(text, 40)} in column {shown(name, 40)} is not a number{_comma(text)}, but most others are; "
        f"correct it, or declare the column categorical{names}",
    )


def _too_many(name: str) -> str:
    return (
        f"column {shown(name, 40)} has more than {MAX_CATEGORIES} different texts: it looks like free text, an "
        "identifier or dates, which a network cannot use; leave it out"
    )


def _comma(text: str) -> str:
    return " (decimal comma?)" if _NUMBER.fullmatch(text.replace(",", ".", 1)) else ""
