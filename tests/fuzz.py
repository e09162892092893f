"""Thousands of damaged files for every reader: each is refused by FormatError, or read as others read it.

``python tests/fuzz.py --mutants 100000`` (``nox -s fuzz``) prints a line for each reader and ends with status 1 if any
mutant was answered otherwise: by another exception, by a message that is long or says no place, with more memory than
twice the file and 16 MiB, or with contents that the safetensors package, the standard library or NumPy read
differently. ``test_fuzz.py`` runs 2,000 of them. Mutant k of a reader is always the same: ``--only NAME --mutant K``
makes it again, and shows it.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import io
import json
import random
import re
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from hostile import CSV, entry, idx, tensors, zipped

import portnn
from portnn.datasets import mnist, read_columns, read_csv, read_idx, read_safetensors
from portnn.storage import payload_sha256, read_safetensors_file, read_safetensors_header


class Disagreement(Exception):
    """A file was read, but not as others read it."""


Random = random.Random
SLACK = 16 << 20  # bytes that a reader may take beside twice the file
# where something is wrong: a byte, a line and a column, or the tensor or the field of the configuration by its name
PLACE = re.compile(
    r"(byte|offset) \d+|line \d+, column \d+|tensors? '|among |first is '|"
    r"format|configuration|sha256|portnn model|of MNIST"
)

# -- what is done to bytes --------------------------------------------------------------------------------------------

SPICES = (
    *(
        b"\0",
        b"\xff",
        b"\n",
        b"\r",
        b"\r\n",
        b'"',
        b",",
        b"-",
        b"9" * 20,
        b"[",
        b"{",
        b"}",
        b"]",
        b":",
        b"e999",
        b"nan",
    ),
    *(
        b"\xff\xff\xff\xff",
        b" ",
        b"\x80\x04",
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"\xef\xbb\xbf",
        b"\xc3",
        b"\\u0000",
        b"1_000",
    ),
)
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63,
    2**64,
)


def damaged(content: bytes, rng: Random) -> bytes:
    """One to three small damages: bits flipped, stretches cut, doubled, moved or overwritten, the end missing."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice([0, 1, 1, 2, 8, 40]))
        match rng.randrange(7):
            case 0 | 1 if start < len(changed):
                changed[start] ^= 1 << rng.randrange(8)
            case 2:
                del changed[start:end]
            case 3:
                changed[start:start] = changed[start:end] * rng.randint(1, 3)
            case 4 if rng.randrange(3) == 0:
                del changed[start:]
            case 5:
                place, piece = rng.randrange(len(changed) + 1), bytes(changed[start:end])
                changed[place : place + len(piece)] = piece
            case _:
                changed[start:end] = rng.choice(SPICES)
    return bytes(changed)


def spliced(a: bytes, b: bytes, rng: Random) -> bytes:
    """The start of one file and the end of another."""
    return a[: rng.randrange(len(a) + 1)] + b[rng.randrange(len(b) + 1) :]


# -- safetensors ------------------------------------------------------------------------------------------------------


def odd(rng: Random) -> Any:
    """A value that a field of JSON should not have, most of the time."""
    good = (rng.choice(NUMBERS), -rng.choice(NUMBERS), rng.choice(NUMBERS) + 0.5, True, False, None, "", "F32", "a/b")
    more = ([], {}, [[]], [rng.choice(NUMBERS)], {"a": 1}, "../x", "\ud800", "é", 1e308, "x" * rng.choice((8, 300)))
    return rng.choice((*good, *more))


def json_changed(value: Any, rng: Random) -> Any:
    """The same JSON with one thing changed, somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != name}
            case 1:
                return {
                    **value,
                    rng.choice(("x", "y", "extra", "__metadata__", "../x", "", "layers.0.weight")): odd(rng),
                }
            case 2:
                return {(rng.choice(("a", "b", "é", "..")) if k == name else k): v for k, v in value.items()}
            case _:
                return {k: json_changed(v, rng) if k == name else v for k, v in value.items()}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, rng.choice(value)]
            case 2:
                return value[::-1]
            case _:
                return [json_changed(v, rng) if i == place else v for i, v in enumerate(value)]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-8, -4, -1, 1, 4, 8))
    return odd(rng)


def header_of(content: bytes) -> tuple[Any, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length], object_pairs_hook=each_once), content[8 + length :]


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        message = "a key is there twice, of which others may take the first"
        raise Disagreement(message)
    return dict(pairs)


def packed(header: Any, data: bytes, rng: Random) -> bytes:
    """A file with such a header, whose length is true, most of the time."""
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:  # a key twice
        text = re.sub(rb"^\{", b'{"x": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, ', text, count=1)
    text += b" " * rng.choice((0, 0, -len(text) % 8))
    length = len(text) if rng.random() < 0.9 else rng.choice((len(text) + rng.choice((-1, 1)), *NUMBERS[:-1]))
    return struct.pack("<Q", max(length, 0) % 2**64) + text + data


def laid_out(header: dict[str, Any], rng: Random) -> tuple[dict[str, Any], bytes]:
    """A header in which shapes and dtypes are new and the offsets fit them, with the bytes: a good file, often."""
    sizes = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "F16": 2, "I8": 1, "U8": 1, "BOOL": 1}
    new: dict[str, Any] = {k: v for k, v in header.items() if k == "__metadata__"}
    place = 0
    for name in header:
        if name != "__metadata__" and rng.random() < 0.9:
            dtype, shape = rng.choice(list(sizes)), [rng.choice((0, 1, 2, 3)) for _ in range(rng.randint(0, 4))]
            size = int(np.prod(shape, dtype=object)) * sizes[dtype] if shape else sizes[dtype]
            begin = max(0, place + (rng.choice((-8, -1, 1, 8)) if rng.random() < 0.1 else 0))  # an overlap or a hole
            new[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
            place = begin + size if rng.random() < 0.5 else place + size
    return new, rng.randbytes(place) if rng.random() < 0.5 else bytes(place)


def safetensors_mutant(content: bytes, rng: Random) -> bytes:
    header, data = header_of(content)
    match rng.randrange(5):
        case 0:
            return damaged(content, rng)
        case 1:
            return packed(*laid_out(header, rng), rng)
        case 2:
            return packed(header, damaged(data, rng), rng)
        case 3:
            for _ in range(rng.randint(1, 2)):
                header = json_changed(header, rng)
            return packed(header, data, rng)
        case _:
            return spliced(content, TENSORS, rng)


def model_mutant(content: bytes, rng: Random) -> bytes:
    """Also: the configuration in the metadata, with a checksum that is true."""
    if rng.random() < 0.5:
        return safetensors_mutant(content, rng)
    header, data = header_of(content)
    config = json.loads(header["__metadata__"]["portnn"])
    if rng.random() < 0.3:
        data = rng.choice((damaged(data, rng), struct.pack("<f", rng.choice((np.nan, np.inf, -1.0, 1e-45))) + data[4:]))
        data = data[: len(content)] if rng.random() < 0.5 else data
        if rng.random() < 0.5:
            config["sha256"] = __import__("hashlib").sha256(data).hexdigest()
    else:
        config = json_changed(config, rng)
    text = json.dumps(config)
    if rng.random() < 0.1:
        text = damaged(text.encode(), rng).decode("latin-1")
    header["__metadata__"]["portnn"] = text
    return packed(header, data, rng)


# -- IDX and gzip -----------------------------------------------------------------------------------------------------


def idx_mutant(content: bytes, rng: Random) -> bytes:
    match rng.randrange(4):
        case 0:
            return damaged(content, rng)
        case 1:  # a field of the header
            changed = bytearray(content)
            place = rng.choice((0, 1, 2, 3))
            if rng.random() < 0.5 and len(changed) >= 8:
                changed[4:8] = struct.pack(">I", rng.choice(NUMBERS) % 2**32)
            else:
                changed[place] = rng.choice((0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 255))
            return bytes(changed)
        case 2:  # one that is good, or nearly so
            code, size = rng.choice(((8, 1), (9, 1), (0x0B, 2), (0x0C, 4), (0x0D, 4), (0x0E, 8)))
            extents = [rng.choice((0, 1, 2, 3, 5)) for _ in range(rng.randint(1, 4))]
            data = rng.randbytes(max(0, int(np.prod(extents)) * size + rng.choice((0, 0, 0, -1, 1))))
            return idx(code, *extents, data=data)
        case _:  # huge extents, whose product may be 0 modulo 2**64
            extents = [rng.choice((0, 1, 2, 65536, 2**31, 2**32 - 1)) for _ in range(rng.randint(1, 6))]
            return idx(8, *extents, data=content[8:])


def gzip_mutant(inner: Callable[[bytes, Random], bytes]) -> Callable[[bytes, Random], bytes]:
    """Damage inside a good gzip stream, or to the stream."""

    def mutant(content: bytes, rng: Random) -> bytes:
        plain = gzip.decompress(content)
        match rng.randrange(6):
            case 0 | 1:
                return zipped(inner(plain, rng), rng.choice((0, 1, 9)))
            case 2:
                return content + rng.choice((b"\0" * 8, b"x", content, zipped(b"")))
            case 3:  # a field of gzip's header or trailer
                changed = bytearray(content)
                changed[rng.choice((2, 3, 3, 8, 9, -8, -5, -4, -1))] ^= 1 << rng.randrange(8)
                return bytes(changed)
            case 4:
                return content[: rng.randrange(len(content) + 1)]
            case _:
                return damaged(content, rng)

    return mutant


# -- CSV --------------------------------------------------------------------------------------------------------------

TOKENS = (
    *(
        "",
        " ",
        "1",
        "-2.5",
        "+3",
        ".5",
        "5.",
        "1e3",
        "1E-3",
        "1e38",
        "3.5e38",
        "1e39",
        "1e308",
        "1e309",
        "1e999",
        "-0",
        "007",
    ),
    *(
        "nan",
        "inf",
        "-Infinity",
        "NA",
        "?",
        "null",
        "1_000",
        "0x10",
        "1e",
        "--1",
        "1.2.3",
        "1,5",
        "٣",
        "\uff15",
        "½",
        "é",
        "\x00",
    ),
    *(
        '"',
        '"1"',
        '"1',
        '1"',
        '""',
        '"a""b"',
        "#1",
        "=1+1",
        "1;2",
        "1\t2",
        " 4 ",
        "\ufeff1",
        "true",
        "x" * 999,
        "x" * 1001,
    ),
    *("9" * 400, "0." + "0" * 400 + "1", "9" * 1001, "1e-400", "4.9e-324", "0.1", "16777217", "9007199254740993"),
)


def csv_mutant(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.3:
        return damaged(content, rng)
    rows = [line.split(",") for line in content.decode("utf-8-sig").replace("\r\n", "\n").splitlines()]
    for _ in range(rng.randint(1, 3)):
        row = rng.randrange(len(rows))
        column = rng.randrange(len(rows[row])) if rows[row] else 0
        match rng.randrange(9):
            case 0:
                rows.insert(row, list(rng.choice(rows)))
            case 1:
                del rows[row][column : column + 1]
            case 2:
                rows[row].insert(column, rng.choice(TOKENS))
            case 3:
                rows[row] = []
            case 4:
                for other in rows:
                    other[column : column + 1] = (
                        [rng.choice(TOKENS)] if rng.random() < 0.2 else other[column : column + 1]
                    )
            case _:
                rows[row][column : column + 1] = [rng.choice(TOKENS)]
    end = rng.choice(("\n", "\n", "\n", "\r\n", "\r", "\n\n"))
    text = end.join(",".join(row) for row in rows) + rng.choice((end, end, ""))
    return rng.choice((b"", b"", b"", b"\xef\xbb\xbf")) + text.encode(rng.choice(("utf-8",) * 9 + ("utf-16-le",)))


# -- what others read -------------------------------------------------------------------------------------------------


def same(ours: Any, theirs: Any) -> None:
    """The same shape, dtype and bits, zeros of either sign and NaN payloads apart from each other."""
    a, b = np.asarray(ours), np.asarray(theirs)
    if a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes():
        raise Disagreement(f"{a.dtype} {a.shape} here, {b.dtype} {b.shape} elsewhere")


def by_package(content: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(content)
    except Exception as error:
        raise Disagreement(f"the safetensors package refuses it: {type(error).__name__}: {error}") from error


def as_tensors(content: bytes, result: Any) -> None:
    arrays, metadata = result
    theirs = by_package(content)
    if set(arrays) != set(theirs) or metadata != header_of(content)[0].get("__metadata__", {}):
        message = "other names or metadata"
        raise Disagreement(message)
    for name, a in arrays.items():
        same(a, theirs[name])


def as_header(content: bytes, result: Any) -> None:
    infos, _ = result
    header_of(content)
    theirs = by_package(content) if not any(info.dtype == np.bool_ for info in infos.values()) else None
    for name, info in infos.items() if theirs is not None else ():
        if theirs[name].shape != info.shape or theirs[name].dtype != info.dtype.newbyteorder("="):
            raise Disagreement(f"{name} has another shape or dtype")


def as_data_set(content: bytes, result: Any) -> None:
    x, t = result
    flat = [a.reshape(len(a), -1) for a in by_package(content).values() if a.ndim >= 2 and a.size]
    widened = [a.astype("float32") if a.dtype == np.float16 else a for a in flat]
    if not any(a.shape == x.shape and a.dtype == x.dtype and a.tobytes() == x.tobytes() for a in widened):
        message = "x is none of the tensors"
        raise Disagreement(message)
    if len(t) != len(x):
        message = "t has another length"
        raise Disagreement(message)


def as_model(content: bytes, result: Any) -> None:
    theirs = by_package(content)
    for i, (weight, bias) in enumerate(zip(result.weights, result.biases, strict=True)):
        same(weight, theirs[f"layers.{i}.weight"])
        if bias is not None:
            same(bias, theirs[f"layers.{i}.bias"])
    saved = json.loads(header_of(content)[0]["__metadata__"]["portnn"]).get("sha256")
    if saved not in (None, payload_sha256(theirs)):
        message = "the checksum is another one"
        raise Disagreement(message)


def plain(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def as_idx(content: bytes, result: Any) -> None:
    content = plain(content)
    zero, code, rank = struct.unpack(">HBB", content[:4])
    extents = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    letter = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[code]
    a = np.frombuffer(content[4 + 4 * rank :], letter).reshape(extents)
    if zero:
        message = "the first two bytes are not 0"
        raise Disagreement(message)
    same(result, a.astype(a.dtype.newbyteorder("=")))


def fields_of(content: bytes) -> list[list[str]]:
    text = plain(content).decode("utf-8-sig")
    return [[field.strip(" \t") for field in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]


def is_number(text: str) -> bool:
    """By the digits alone, unlike float(), which reads those of every script and underscores."""
    rest = text.lstrip("+-").lower().replace(".", "", 1).replace("e", "", 1).replace("-", "", 1).replace("+", "", 1)
    try:
        return rest.isascii() and rest.isdigit() and np.isfinite(float(text))
    except ValueError:
        return False


def as_csv(content: bytes, result: Any) -> None:
    x, t = result
    rows = fields_of(content)
    try:
        values = np.asarray([[float(field) for field in row] for row in rows])
    except ValueError:
        values = np.asarray([[float(field) for field in row] for row in rows[1:]])
    if not all(is_number(field) for row in rows[len(rows) - len(values) :] for field in row):
        message = "a field is not a number"
        raise Disagreement(message)
    same(x, values[:, 1:].astype("float32"))
    same(np.asarray(t, "float64").astype("float32") + 0, values[:, 0].astype("float32") + 0)  # no -0 among integers


def as_columns(content: bytes, result: Any) -> None:
    names, *rows = fields_of(content)
    delimiter = max(",;\t|", key=plain(content).partition(b"\n")[0].decode("latin-1").count)
    if delimiter != ",":
        text = plain(content).decode("utf-8-sig")
        table = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        names, *rows = ([field.strip() for field in row] for row in table)
    if [column.name for column in result.columns] != [name.strip() for name in names] or len(result.values) != len(
        rows
    ):
        message = "other names, or another number of rows"
        raise Disagreement(message)
    for k, column in enumerate(result.columns):
        for row, value in zip(rows, result.values[:, k], strict=True):
            text = row[k].strip()
            if (column.categories is None and (float(text) != value or not is_number(text))) or (
                column.categories is not None and column.categories[int(value)] != text
            ):
                raise Disagreement(f"{text!r} was read as {value}")


def never(content: bytes, result: Any) -> None:
    message = "a file with another SHA-256 was read"
    raise Disagreement(message)


# -- the readers ------------------------------------------------------------------------------------------------------

TENSORS = tensors(
    {
        "__metadata__": {"k": "v"},
        "x": entry((2, 3), (0, 24)),
        "y": entry((2,), (24, 40), "I64"),
        "z": entry((0,), (40, 40)),
        "flag": entry((2,), (40, 42), "BOOL"),
    },
    bytes(40) + b"\0\1",
)
DATA_SET = tensors({"images": entry((2, 1, 3), (0, 24)), "labels": entry((2,), (24, 40), "I64")}, bytes(40))
SHORT_CSV = CSV[: CSV.index(b"\n", 120) + 1]
QUOTED_CSV = b'\xef\xbb\xbf"label",a\r\n1,"2"\r\n3, 4.5e-3\r\n'
COLUMNS_CSV = b"size,kind,n\n1.5,small,1\n7.5,large,2\n2.5,small,3\n6,large,4\n"


def model_file(*sizes: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        options = {"normalization": "batch", "dropout": 0.25, "seed": 1, "activation": "leaky_relu(0.1)"}
        model = portnn.MLP(sizes, inputs=portnn.Standardize(1.0, 2.0), **options)
        model.save(f"{folder}/m")
        return Path(folder, "m").read_bytes()


def mnist_labels(path: Path) -> np.ndarray:
    return mnist._load(path, "t10k-labels-idx1-ubyte")


class Reader(NamedTuple):
    """A reader, good files, what is done to them, and what holds its results against those of others."""

    read: Callable[[Path], Any]
    seeds: tuple[bytes, ...]
    mutant: Callable[[bytes, Random], bytes]
    agrees: Callable[[bytes, Any], None]


SMALL_IDX = idx(0x0B, 2, 3, data=bytes(range(12)))
READERS = {
    "safetensors": Reader(read_safetensors_file, (TENSORS, DATA_SET), safetensors_mutant, as_tensors),
    "header": Reader(read_safetensors_header, (TENSORS,), safetensors_mutant, as_header),
    "data set": Reader(read_safetensors, (DATA_SET,), safetensors_mutant, as_data_set),
    "model": Reader(portnn.MLP.load, (model_file(3, 4, 2),), model_mutant, as_model),
    "idx": Reader(read_idx, (SMALL_IDX, idx(8, 4, data=b"abcd")), idx_mutant, as_idx),
    "idx.gz": Reader(
        read_idx, (zipped(SMALL_IDX), zipped(idx(8, 1000, data=bytes(1000)))), gzip_mutant(idx_mutant), as_idx
    ),
    "csv": Reader(read_csv, (SHORT_CSV, QUOTED_CSV), csv_mutant, as_csv),
    "csv.gz": Reader(read_csv, (zipped(SHORT_CSV),), gzip_mutant(csv_mutant), as_csv),
    "columns": Reader(read_columns, (COLUMNS_CSV, SHORT_CSV), csv_mutant, as_columns),
    "mnist": Reader(mnist_labels, (zipped(idx(8, 9, data=bytes(range(9)))),), gzip_mutant(idx_mutant), never),
}


EVERY = 250  # one mutant in so many is made of a large file, which shows what a refusal costs


@functools.cache
def large(name: str) -> bytes:
    """A good file of about a megabyte, for the reader of this name."""
    table = b"label,a,b\n" + b"".join(b"%d,%d,0.5\n" % (i % 10, i) for i in range(60_000))
    match name:
        case "safetensors" | "header":
            return tensors({f"t{i}": entry((64,), (256 * i, 256 * i + 256)) for i in range(4000)}, bytes(1_024_000))
        case "data set":
            many = {"images": entry((1000, 1, 250), (0, 10**6)), "labels": entry((1000,), (10**6, 1_008_000), "I64")}
            return tensors(many, bytes(1_008_000))
        case "model":
            return model_file(200, 1000, 10)
        case "csv" | "columns":
            return table
        case "csv.gz":
            return zipped(table)
    content = idx(8, 1 << 20, data=Random(0).randbytes(1 << 20))
    return content if name == "idx" else zipped(content, 1)


def mutant_of(name: str, k: int) -> bytes:
    """Mutant ``k`` of a reader: always the same bytes."""
    rng, reader = Random(f"{name}:{k}"), READERS[name]
    return reader.mutant(large(name) if k % EVERY == EVERY - 1 else rng.choice(reader.seeds), rng)


@dataclass
class Report:
    """What became of the mutants of one reader."""

    mutants: int = 0
    read: int = 0
    refused: int = 0
    wrong: Counter[str] = field(default_factory=Counter)  #: answers that are none, by kind
    first: dict[str, str] = field(default_factory=dict)  #: of each kind
    peak: int = 0  #: bytes above those of the file, twice, at most
    memory: int = 0  #: bytes at the worst
    slowest: float = 0.0  #: seconds of the processor to refuse one, while its memory is watched
    which: int = 0  #: the slowest one


def judge(report: Report, name: str, k: int, path: Path) -> None:
    """Hand one mutant to its reader, and look at the answer."""
    reader, content = READERS[name], mutant_of(name, k)
    path.write_bytes(content)
    tracemalloc.reset_peak()
    before, began, kind, said = tracemalloc.get_traced_memory()[0], time.process_time(), "", ""
    try:
        result = reader.read(path)
    except portnn.FormatError as error:
        seconds, taken = time.process_time() - began, tracemalloc.get_traced_memory()[1] - before
        report.refused, said = report.refused + 1, str(error)
        if seconds > report.slowest:
            report.slowest, report.which = seconds, k
        if len(said) > 500 or "\n" in said:
            kind = "a message that is too long"
        elif not PLACE.search(said):
            kind = "a message that says no place"
        elif taken > 2 * len(content) + SLACK:
            kind, said = "too much memory", f"{taken} bytes for a file of {len(content)}"
        report.memory, report.peak = max(report.memory, taken), max(report.peak, taken - 2 * len(content))
    except Exception as error:
        kind, said = type(error).__name__, str(error)
    else:
        report.read += 1
        try:
            reader.agrees(content, result)
        except Exception as error:
            kind, said = "Disagreement", f"{type(error).__name__}: {error}"
    report.mutants += 1
    if kind:
        report.wrong[kind] += 1
        report.first.setdefault(kind, f"mutant {k}: {' '.join(said.split())[:200]}")


def run(names: list[str], mutants: int, first: int = 0) -> dict[str, Report]:
    """Go through so many mutants in all, as many of each reader."""
    reports = {name: Report() for name in names}
    tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                for k in range(first, first + -(-mutants // len(names))):
                    judge(reports[name], name, k, Path(folder, "file"))
    finally:
        tracemalloc.stop()
    return reports


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=100_000, help="of all readers together")
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutant of each")
    parser.add_argument("--only", choices=list(READERS), action="append", help="this reader only")
    parser.add_argument("--mutant", type=int, help="show one mutant of the reader, and what becomes of it")
    arguments = parser.parse_args()
    names = arguments.only or list(READERS)
    if arguments.mutant is not None:
        for name in names:
            print(f"{name}: {mutant_of(name, arguments.mutant)!r}")
        reports = run(names, len(names), arguments.mutant)
    else:
        began = time.perf_counter()
        reports = run(names, arguments.mutants, arguments.first)
        print(f"{sum(r.mutants for r in reports.values())} mutants in {time.perf_counter() - began:.0f} s")
    print(
        f"{'reader':12} {'mutants':>8} {'read':>8} {'refused':>8} {'wrong':>6} {'memory':>12} {'slowest refusal':>22}"
    )
    for name, r in reports.items():
        slowest = f"{1000 * r.slowest:.1f} ms (mutant {r.which})"
        print(f"{name:12} {r.mutants:8} {r.read:8} {r.refused:8} {r.wrong.total():6} {r.memory:12} {slowest:>22}")
    for name, r in reports.items():
        for kind, count in r.wrong.items():
            print(f"{name}: {count} x {kind}; {r.first[kind]}")
    worst = max(r.peak for r in reports.values())
    print(f"memory of a refusal beyond twice the file: at most {worst} bytes, the bar is {SLACK}")
    print(f"resident set of the whole process at its peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} kB")
    return int(any(r.wrong for r in reports.values()))


if __name__ == "__main__":
    sys.exit(main())
