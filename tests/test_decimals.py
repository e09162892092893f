"""Tables read by array operations: to the bit what float() and csv read, and refused with the words of the slow way."""

from __future__ import annotations

import csv
import math
import random
import re
from pathlib import Path
from typing import Any

import fuzz
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tolerances import assert_same

from portnn import FormatError
from portnn.datasets import columns, csv_table, read_columns, read_csv, table_file
from portnn.datasets.decimals import MAX_LINE, decimals

usual = settings(derandomize=True, deadline=None, database=None, max_examples=300)
# written down here once more: what the package reads must not define what it should read
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(allow_nan=False, allow_infinity=False).map("{:.18e}".format),
    st.floats(-1e6, 1e6).map("{:.3f}".format),
    st.integers(-(10**25), 10**25).map(str),
    st.from_regex(NUMBER, fullmatch=True).filter(lambda text: abs(float(text)) < math.inf),
)
HARD = [
    *("9007199254740992", "9007199254740993", "9007199254740993.0", "9007199254740991e22", "9007199254740993e-22"),
    *("1e22", "1e23", "1e-22", "1e-23", "123456789012345678", "1234567890123456789", "999999999999999999e22"),
    *(
        "0.1",
        ".1",
        "1.",
        "+1.e+1",
        "-0",
        "-0.0e5",
        "0e999",
        "0e99999999999999999999",
        "-.5E-1",
        "00000000000000000000001",
    ),
    *("4.9e-324", "2.4703282292062327e-324", "2.4703282292062328e-324", "2.2250738585072011e-308", "1e-400"),
    *("1.7976931348623157e308", "8.98846567431158e307", "0." + "0" * 400 + "1", "9" * 300, "1" + "0" * 22 + "e-22"),
    *("6.0221407600e23", "7450580596923828125e-27", "179769313486231570000e288", "1e0000000000000000000000000000022"),
]


@usual
@given(st.lists(numbers, min_size=1, max_size=12))
@example(HARD)
def test_every_number_is_that_of_float(texts: list[str]) -> None:
    found = decimals(("\n".join(texts) + "\n").encode(), 1, b",", math.inf)
    assert found is not None
    assert_same(found[:, 0], np.asarray([float(text) for text in texts]))
    assert np.array_equal(np.signbit(found[:, 0]), [text.startswith("-") for text in texts])


@usual
@given(st.text("0123456789+-.eE", min_size=0, max_size=7), st.sampled_from(["1", "-2.5e3"]))
@example("1e5e2", "1")
@example("1.e5.", "1")
@example("1e.5", "1")
@example("e5", "1")
@example("+", "1")
@example("1-", "1")
@example("1e", "1")
@example("1e+-5", "1")
@example("1..", "1")
@example("5e1-", "1")
def test_what_is_no_number_is_none(text: str, other: str) -> None:
    for row in ([text, other], [other, text]):
        found = decimals(f"{','.join(row)}\n".encode(), 2, b",", math.inf)
        assert (found is not None) == (NUMBER.fullmatch(text) is not None)


spelled = st.text('01.,; \t"e-\n', max_size=14)


@usual
@given(st.lists(spelled, min_size=1, max_size=3), st.integers(1, 3), st.sampled_from([",", ";", " ", "\t"]))
@example(['"1",2'], 2, ",")
@example(['" 1 ", 2\t'], 2, ",")
@example([' "1",2'], 2, ",")
@example(['"1" ,2'], 2, ",")
@example(['"1""2",0'], 2, ",")
@example(['"1,2",0'], 2, ",")
@example(['"1,0"'], 2, ",")
@example(["1 1,0"], 2, ",")
@example(['"1\t"\t"0"'], 2, "\t")
@example(['1"', '"0'], 1, ",")
def test_quotes_and_blanks_are_taken_as_field_by_field(texts: list[str], n: int, delimiter: str) -> None:
    """Lines are refused by both ways or read by both, and then to the same numbers."""
    block = ("\n".join(texts) + "\n").encode()
    layout = csv_table._Layout(n, delimiter.encode(), 1e300)
    try:
        slow = csv_table._parse_exactly(block, 1, layout)
    except FormatError:
        slow = None
    fast = csv_table._parse_fast(block, layout)
    if slow is not None and fast is not None:
        assert_same(fast, slow)
    if delimiter.strip():  # else a blank within quotes may be one, which is left to the slow way
        assert (fast is None) == (slow is None)
    assert fast is None or slow is not None


def test_a_line_that_is_too_long_is_not_cut_into_two_that_are_not(tmp_path: Path) -> None:
    """Cut where its block ends, in the middle of a number, its parts would have as many fields as line 1 each."""
    line = "1," * 3099 + "1\n"
    start = 10 * line
    width, wider = divmod(csv_table._BLOCK - 9 * len(line) + MAX_LINE - 3099, 3100)
    fields = ["0" * (width + (k < wider)) for k in range(3100)]
    (tmp_path / "t.csv").write_text(start + ",".join(fields) + "2" + ",2" * 3099 + "\n")
    for reader in (read_csv, lambda path: read_columns(path, header=False)):
        with pytest.raises(FormatError, match=r"line 11, column 30\d\d: the line has more than 2097152 bytes"):
            reader(tmp_path / "t.csv")


# -- the slow way, line by line, is the reference ---------------------------------------------------------------------


def outcome(reader: Any, path: Path, **options: Any) -> tuple[str, Any]:
    try:
        result = reader(path, **options)
    except FormatError as error:
        return "refused", str(error)
    arrays = (result.values,) if hasattr(result, "values") else result
    others = (result.columns, result.left_out) if hasattr(result, "values") else ()
    return "read", (others, [(a.dtype, a.shape, a.tobytes()) for a in arrays if a is not None])


WORDS = ["1", "2.5", "red", "blue", '"a, b"', '"c""d"', " x ", "", "NA", "1e5", "7", "ä", "3,5", "\u2003y"]
DAMAGES = [
    b'"', b"\r", b"\0", b"\xff", b",", b"\n", b"\n\n", b"x", b"1e999", b'""', b"?", b" ", b'"1,2"', b"9" * 1001, b";",
]  # fmt: skip


BIG = "1,t1,9007199254740993\n"  # 2**53 + 1


def table(rng: random.Random) -> bytes:
    """Columns of numbers, texts or both, missing values, quotes, and damage or none."""
    kinds = [rng.choice(["number", "text", "quoted", "any", "slip"]) for _ in range(rng.randint(1, 5))]
    plain = rng.random() < 0.5

    def value(kind: str, row: int) -> str:
        if not plain and rng.random() < 0.01:
            return rng.choice(WORDS)
        if kind == "any":
            return rng.choice(WORDS[:6])
        if kind == "slip":
            return str(row % 50) if row % 97 else "-"
        return {"number": repr(row * 0.5), "text": f"t{row % 190}", "quoted": f'"{row % 7}, ""x"""'}[kind]

    rows = [[value(kind, row) for kind in kinds] for row in range(rng.randint(1, 300))]
    names = ",".join(f"c{k}" for k in range(len(kinds)))
    content = bytearray((names + "\n" + "".join(",".join(row) + "\n" for row in rows)).encode())
    if rng.random() < 0.5:
        place = rng.randrange(len(names) + 1, len(content) + 1)
        content[place : place + rng.choice([0, 0, 1])] = rng.choice(DAMAGES)
    return bytes(content)


@pytest.mark.parametrize("block", [200, csv_table._BLOCK])
def test_columns_are_those_of_the_slow_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """The same values or the same words, of 1,200 tables."""
    path, seen = tmp_path / "t.csv", set()
    monkeypatch.setattr(csv_table, "_BLOCK", block)
    for seed in range(600):
        path.write_bytes(table(random.Random(seed)))
        for options in ({"missing": "drop"}, {"categorical": ["c0"]} if seed % 3 else {}):
            fast = outcome(read_columns, path, **options)
            with monkeypatch.context() as patched:
                patched.setattr(columns, "_parse_fast", lambda *_: None)
                patched.setattr(table_file.TableFile, "columns", lambda *_: None)
                assert fast == outcome(read_columns, path, **options), seed
            seen.add(re.sub(r"'[^']*'|\d+", "", fast[1].partition("t.csv")[2]) if fast[0] == "refused" else "read")
    assert len(seen) > 12, seen  # ways to be refused


@pytest.mark.parametrize("block", [50, csv_table._BLOCK])
def test_wanted_columns_are_those_of_the_slow_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    path, kinds = tmp_path / "t.csv", set()
    monkeypatch.setattr(csv_table, "_BLOCK", block)
    known = columns.Column("c1", tuple(f"t{k}" for k in range(100)))
    for seed in range(300):
        rng = random.Random(seed)
        rows = [f"{k},t{k % rng.choice([9, 99])},{rng.choice(WORDS[:2])}\n" for k in range(40)]
        if rng.random() < 0.5:
            rows[rng.randrange(40)] = rng.choice(["1,t7,\n", "1,t101,2\n", "?,t1,1\n", "1,t3,x\n", "1,t1,1e999\n", BIG])
        path.write_text("c0,c1,c2\n" + "".join(rows))
        for options in (
            {"wanted": [columns.Column("c2"), known], "missing": "drop"},
            {"wanted": [columns.Column("c2")]},
        ):
            fast = outcome(read_columns, path, **options)
            with monkeypatch.context() as patched:
                patched.setattr(columns, "_parse_fast", lambda *_: None)
                patched.setattr(table_file.TableFile, "columns", lambda *_: None)
                assert fast == outcome(read_columns, path, **options), seed
            kinds.add(fast[0])
    assert kinds == {"read", "refused"}


def test_numbers_are_those_of_the_slow_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of damaged tables of some blocks: the same numbers or the same words."""
    path, refused = tmp_path / "t.csv", 0
    content = b"label,a,b\n" + b"".join(b"%d,%d,0.5\n" % (i % 10, i) for i in range(200))
    monkeypatch.setattr(csv_table, "_BLOCK", 300)
    for seed in range(400):
        path.write_bytes(fuzz.csv_mutant(content, random.Random(seed)))
        fast = outcome(read_csv, path)
        with monkeypatch.context() as patched:
            patched.setattr(csv_table, "_parse_fast", lambda *_: None)
            assert fast == outcome(read_csv, path), seed
        refused += fast[0] == "refused"
    assert 40 < refused < 360


@pytest.mark.parametrize("reader", [read_csv, read_columns])
@pytest.mark.parametrize(
    "row",
    [
        *(
            "{0},{0},0.5",
            '"{0}","{0}","0.5"',
            " {0} ,{0}\t,0.5",
            "{0}e1,-{0}.0e-3,5E22",
            "{0},0.12345678901234567,1e300",
        ),
        *("{0},red,0.5", '{0},"a, b","c""d"', "{0},\u00e4,x y"),
    ],
)
def test_one_line_in_a_megabyte_is_looked_at_closely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Any, row: str
) -> None:
    """What a refusal costs, counted: one line field by field, and no byte more than a few times."""
    if reader is read_csv and not NUMBER.fullmatch(next(csv.reader([row.format(1)]))[1].strip()):
        return  # texts
    options = {"dtype": "float64"} if reader is read_csv else {}
    lines = [row.format(k) for k in range(40_000)]
    lines[35_000] = f"{lines[35_000]},1"
    (tmp_path / "t.csv").write_text("label,a,b\n" + "\n".join(lines) + "\n")
    closely, seen = [], []
    original, parse, texts = csv_table._fields, csv_table._parse_fast, table_file.TableFile.columns

    def fields(text: bytes, line: int, delimiter: bytes) -> list[str]:
        closely.append(line)
        return original(text, line, delimiter)

    def fast(block: bytes, layout: Any) -> Any:
        seen.append(len(block))
        return parse(block, layout)

    def by_columns(self: Any, block: bytes) -> Any:
        seen.append(len(block))
        return texts(self, block)

    for module in (csv_table, table_file):
        monkeypatch.setattr(module, "_fields", fields)
    for module in (csv_table, columns):
        monkeypatch.setattr(module, "_parse_fast", fast)
    monkeypatch.setattr(table_file.TableFile, "columns", by_columns)
    with pytest.raises(FormatError, match="line 35002, column 4: 4 fields in this line, 3 in line 1"):
        reader(tmp_path / "t.csv", **options)
    assert {1, 35_002} <= set(closely) <= {1, *range(35_002 - 2 * columns.FEW, 35_003)}
    assert sum(seen) < 4 * (tmp_path / "t.csv").stat().st_size
