"""What a model knows of the table that it was trained on, and how to read such a table: columns, categories, classes.

It is in the metadata of the model file, under ``portnn.table``.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy

from portnn import model_file
from portnn.datasets.columns import Column, Table, read_columns
from portnn.errors import FormatError, shown
from portnn.files import StrPath
from portnn.storage import MAX_HEADER_BYTES

KEY = "portnn.table"
FORMAT = 2  # 1: columns of numbers, too, had a name and no categories
# So large may numbers be: differences of them, and of float64 the squares of those, summed up, stay in range.
LIMITS = {"float32": 1e38, "float64": 1e140}


class Schema(NamedTuple):
    """What a model knows of its table: the columns of its inputs, and the target with its classes, or None."""

    columns: tuple[Column, ...]
    target: str
    classes: tuple[str, ...] | None

    def inputs(self, table: Table, dtype: str, *, training: bool = False) -> numpy.ndarray:
        """Return ``(rows, n_inputs)``, float64: numbers as they are, texts as 0 and 1.

        FormatError for numbers that are too large for a network in ``dtype``.
        """
        parts, places = [], {column.name: place for place, column in enumerate(table.columns)}
        for column in self.columns:
            known = column.name in places
            values = (table.values[:, places[column.name]] if known else table.column(column.name)[1])[:, None]
            if column.categories is None:
                check_range(column.name, values, dtype, training=training)
            else:
                values = (values == numpy.arange(len(column.categories))).astype("float64")
            parts.append(values)
        return numpy.concatenate(parts, axis=1)

    @property
    def n_inputs(self) -> int:
        """The number of inputs of the network."""
        return sum(1 if c.categories is None else len(c.categories) for c in self.columns)

    def described(self) -> str:
        """Return what the file keeps."""
        columns = [
            c.name if c.categories is None else {"name": c.name, "categories": c.categories} for c in self.columns
        ]
        known = {"format": FORMAT, "columns": columns, "target": self.target, "classes": self.classes}
        return json.dumps(known, ensure_ascii=False)

    def check_room(self) -> None:
        """Raise ValueError if a model file has no room for it."""
        size = len(json.dumps(self.described()).encode())
        if size > (room := MAX_HEADER_BYTES // 8 * 7):  # the rest is the model's
            raise ValueError(
                f"the names of {len(self.columns)} columns and their categories take {size} bytes, a model file has "
                f"room for {room}; leave columns out"
            )


def check_range(name: str, values: numpy.ndarray, dtype: str, *, training: bool) -> None:
    """Raise FormatError for numbers of a column that are too large to train on, or that training cannot have seen.

    Examples
    --------
    >>> check_range("mass", numpy.asarray([1.0, -2e300]), "float64", training=True)
    Traceback (most recent call last):
    portnn.errors.FormatError: column 'mass' holds -2e+300, too large for float64 (1e+140 at most): divide it before

    """
    largest = values.flat[int(numpy.abs(values).argmax())]
    if abs(largest) <= LIMITS[dtype]:
        return
    cure = "divide it before" if training else "nothing that the model was trained on was so large"
    if training and dtype == "float32" and abs(largest) <= LIMITS["float64"]:
        cure = f"use dtype='float64', or {cure}"
    message = f"holds {largest:g}, too large for {dtype} ({LIMITS[dtype]:g} at most): {cure}"
    raise FormatError(f"column {shown(name, 60)} {message}")


def schema_of(path: StrPath) -> Schema | None:
    """Return the schema in a model file, None for a model without one; FormatError if it is not what it should be."""
    text = model_file.metadata(path).get(KEY)
    if text is None:
        return None
    try:
        known = json.loads(text)
        if known["format"] > FORMAT:
            raise FormatError(f"{shown(str(path))}: table format {known['format']} > {FORMAT}; update portnn")
        columns = tuple(Column(c) if isinstance(c, str) else _column(c) for c in known["columns"])
        classes = None if known["classes"] is None else _texts({"categories": known["classes"]})
        schema = Schema(columns, known["target"], classes)
        if not columns or not all(isinstance(name, str) for name in (schema.target, *(c.name for c in columns))):
            raise ValueError("names are missing")  # noqa: EM101
    except FormatError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{shown(str(path))}: {KEY} in the metadata is not that of a table: {error}") from error
    return schema


def known_targets(path: StrPath, schema: Schema, options: dict[str, Any]) -> numpy.ndarray:
    """Return the labels or values of the target's column; classes that are numbers may be written otherwise."""

    def read(classes: tuple[str, ...] | None) -> numpy.ndarray:
        values = read_columns(path, wanted=[Column(schema.target, classes)], **options).values[:, 0]
        if classes is None:
            check_range(schema.target, values, "float64", training=False)
        return values

    try:
        return read(schema.classes)
    except FormatError:
        try:
            numbers = [float(name) for name in schema.classes or ()]
        except ValueError:
            numbers = []
        if not numbers or len(set(numbers)) < len(numbers):
            raise
        values = read(None)
        labels = (values[:, None] == numpy.asarray(numbers)).argmax(axis=1)
        if (numpy.asarray(numbers)[labels] != values).any():
            raise  # the first message has the line
        return labels.astype("float64")


def _column(entry: Any) -> Column:
    return Column(entry["name"], None if entry["categories"] is None else _texts(entry))


def _texts(entry: Any) -> tuple[str, ...]:
    texts = entry["categories"]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("categories are not a list of texts")  # noqa: EM101
    return tuple(texts)
