"""CSV files with names in line 1, gone through block by block, and line by line where there is something wrong."""

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from portnn.datasets.csv_table import _are_names, _blocks, _fail, _fields, _first_line, _Layout, halves
from portnn.datasets.decimals import MAX_FIELD, MAX_LINE
from portnn.datasets.gzipped import open_data
from portnn.files import StrPath, shown

_DELIMITERS = ",;\t|"
_BLANK = re.compile(r"[^\S\n]")
_NO_NAME = "this column has no name; give it one, or write the table without an index"


class TableFile:
    """A file that can be gone through more than once, line by line."""

    def __init__(self, path: StrPath, delimiter: str, header: bool, max_rows: int, max_bytes: int) -> None:
        if delimiter != "auto" and delimiter not in tuple(_DELIMITERS):
            raise ValueError(f"read_columns: delimiter={shown(delimiter)}, expected one of , ; tab | or 'auto'")
        self.path, self.delimiter, self.header = path, delimiter, header
        self.max_rows, self.max_bytes = max_rows, max_bytes

    def names(self) -> list[str]:
        """Return the names in line 1, each once; it also settles the delimiter and the number of columns."""
        with open_data("read_columns", self.path) as (stream, _):
            first = _first_line(stream)
            if self.delimiter == "auto":
                self.delimiter = max(_DELIMITERS, key=first.decode("latin-1").count)
            fields = [field.strip() for field in _fields(first, 1, self.delimiter.encode())]
            self.layout = _Layout(len(fields), self.delimiter.encode(), float(np.finfo(np.float64).max))
            if not self.header:
                return [str(k) for k in range(1, len(fields) + 1)]
            if not any(_are_names([field]) for field in fields):
                _fail(1, 1, "a line of numbers where the names of the columns should be; give them, or say no header")
            seen: set[str] = set()  # of up to 65,536 names
            for place, name in enumerate(fields):
                if not name or name in seen:
                    what = f"the name {shown(name, 40)} is there twice" if name else _NO_NAME
                    _fail(1, place + 1, what)
                seen.add(name)
            return fields

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines and the number of the first, those of data only."""
        line, size = 1, 0
        with open_data("read_columns", self.path) as (stream, _):
            first = _first_line(stream)
            line += self.header
            for block in _blocks(stream, b"" if self.header else first + b"\n"):
                size += len(block)
                if line - 1 > self.max_rows or size > self.max_bytes:
                    _fail(line, 1, f"the table exceeds max_rows={self.max_rows} or max_bytes={self.max_bytes}")
                yield line, block
                line += block.count(b"\n")
            if line == 1 + self.header:
                _fail(1 + self.header, 1, "there are no data after the header")

    def go_through(self, many: Callable[[int, bytes], bool], one: Callable[[int, list[str]], None]) -> None:
        """Hand blocks to ``many`` with the number of their first line, and to ``one`` the fields of each line that ...

        ... ``many`` does not take: what it does not take comes again in halves, down to single lines.
        """
        for line, block in self.blocks():
            pieces = [(line, block)]
            while pieces:
                line, block = pieces.pop()
                if many(line, block):
                    continue
                if parts := halves(block):
                    pieces += (line + parts[0].count(b"\n"), parts[1]), (line, parts[0])
                else:
                    one(line, self.fields(line, block[:-1]))

    def fields(self, line: int, text: bytes) -> list[str]:
        """Return the fields of a line, as many as line 1 has."""
        fields = _fields(text, line, self.layout.delimiter)
        if len(fields) != self.layout.columns:
            place = min(len(fields), self.layout.columns) + 1
            _fail(line, place, f"{len(fields)} fields in this line, {self.layout.columns} in line 1")
        return [field.strip() for field in fields]

    def columns(self, block: bytes) -> list[Sequence[str]] | None:
        """Return the fields of lines column by column, or None if there is something wrong with one of them."""
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError:
            return None
        if "\0" in text or "\r" in text or (len(block) > MAX_LINE and max(map(len, block.split(b"\n"))) > MAX_LINE):
            return None
        lines, delimiter, n = text.split("\n")[:-1], self.layout.delimiter.decode(), self.layout.columns
        if '"' in text:
            try:
                rows = list(csv.reader(lines, delimiter=delimiter, strict=True))  # as many, if all quotes are closed
            except csv.Error:
                return None
            if len(rows) != len(lines) or any(len(row) != n for row in rows):
                return None
            fields = list(itertools.chain.from_iterable(rows))
        else:
            if any(line.count(delimiter) != n - 1 for line in lines) or "" in lines:
                return None
            fields = text[:-1].replace("\n", delimiter).split(delimiter)
        if max(map(len, lines)) > MAX_FIELD and max(map(len, fields)) > MAX_FIELD:
            return None
        if _BLANK.search(text):
            fields = [field.strip() for field in fields]
        return [fields[k::n] for k in range(n)]
