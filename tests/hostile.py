"""Files that are not what they claim to be: the known attacks on every reader, by name, and how they are made.

Each entry is the content and the words with which it is refused; ``test_bad_inputs.py`` and ``test_hostile_files.py``
hand them to the readers, ``fuzz.py`` makes thousands of others.
"""

import functools
import gzip
import io
import json
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

zipped = functools.partial(gzip.compress, mtime=0)

# -- safetensors ------------------------------------------------------------------------------------------------------


def peak_bytes(action: Callable[[], object]) -> int:
    """Return the most memory that Python held while this ran."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def tensors(header: Any, data: bytes = bytes(24), length: int | None = None) -> bytes:
    """A safetensors file with any header, text or otherwise."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: Any = (2, 3), offsets: Any = (0, 24), dtype: Any = "F32", **others: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **others}


BAD_HEADERS = {
    "empty": b"",
    "7 bytes": bytes(7),
    "8 bytes": bytes(8),
    "n = 0": struct.pack("<Q", 0) + b"{}",
    "n beyond the file": tensors({}, length=1000),
    "n = 2**63": tensors({}, length=2**63),
    "n = 2**64 - 1": tensors({}, length=2**64 - 1),
    "n beyond the cap": tensors(b"{" + b" " * 600_000 + b"}"),
}


BAD_JSON = {
    "not UTF-8": (b'{"a\xff": 1}', "UTF-8 at byte 11"),
    "not JSON": (b"{'a': 1}", "not JSON at byte 9"),
    "array": (b"[1, 2]", "begin with '{'"),
    "leading blank": (b' {"a": 1}', "begin with '{'"),
    "NUL tail": (b"{}\0\0", "not JSON at byte 10"),
    "two objects": (b"{}{}", "not JSON"),
    "nested lists": (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested"),
    "nested objects": (b'{"a": ' * 60_000 + b"1" + b"}" * 60_000, "nested"),
    "long integer": (b'{"a": ' + b"9" * 5000 + b"}", "too long"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "control character": (b'{"a\n": 1}', "not JSON"),
}


BAD_OFFSETS = {
    "overlap": ({"a": entry(), "b": entry((1,), (20, 24))}, 24, "offset 20, expected 24: an overlap"),
    "hole": ({"a": entry((1,), (0, 4)), "b": entry((1,), (8, 12))}, 12, "offset 8, expected 4: a hole"),
    "late start": ({"a": entry((1,), (4, 8))}, 8, "offset 4, expected 0"),
    "trailing byte": ({"a": entry()}, 25, "size: the tensors take 24 bytes, the file has 25"),
    "truncated": ({"a": entry()}, 23, "size: the tensors take 24 bytes, the file has 23"),
    "end < begin": ({"a": entry((2, 3), (24, 0))}, 24, "offset pair [24, 0]"),
    "negative": ({"a": entry((2, 3), (-24, 0))}, 24, "offset pair [-24, 0]"),
    "three": ({"a": entry((2, 3), (0, 24, 24))}, 24, "offset pair"),
    "float": ({"a": entry((2, 3), (0, 24.0))}, 24, "offset pair"),
    "missing": ({"a": {"dtype": "F32", "shape": [2, 3]}}, 24, "data_offsets"),
    "no tensors": ({}, 1, "size"),
}


BAD_ENTRIES = {
    "size": ({"a": entry((2, 4))}, "size of 32 bytes, its offsets span 24"),
    "2**32 x 2**32": ({"a": entry((2**32, 2**32), (0, 0))}, "size of 73786976294838206464 bytes"),
    "0 x 2**62": ({"a": entry((0, 2**62), (0, 0))}, "extent of 4611686018427387904"),
    "0 x 2**400": ({"a": entry((0, 2**400), (0, 0))}, "extent"),
    "0 x (2**31 - 1)**3": ({"a": entry((0, *(2**31 - 1,) * 3), (0, 0))}, "extents whose product is 9903520300447984"),
    "rank 70": ({"a": entry((1,) * 70, (0, 4))}, "rank 70"),
    "float dim": ({"a": entry((2.0, 3))}, "shape [2.0, 3]"),
    "bool dim": ({"a": entry((True, 6))}, "shape [True, 6]"),
    "negative dim": ({"a": entry((-2, -3))}, "shape [-2, -3]"),
    "shape not a list": ({"a": entry(6)}, "shape 6"),
    "unknown dtype": ({"a": entry(dtype="BF16", shape=(12,))}, "dtype 'BF16'"),
    "dtype not text": ({"a": entry(dtype=["F32"])}, "dtype ['F32']"),
    "duplicate key": (b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), "key 'a' twice, at byte 74"),
    "duplicate field": (b'{"a": {"dtype": "F32", "dtype": "F32"}}', "the key 'dtype' twice"),
    "extra field": ({"a": entry(extra=1)}, "'extra'"),
    "entry not an object": ({"a": 1}, "found int"),
    "path as name": ({"../x": entry()}, "'../x'"),
    "empty name": ({"": entry()}, "''"),
    "long name": ({"x" * 5000: entry()}, "xxx"),
    "metadata of numbers": ({"__metadata__": {"k": 1}, "a": entry()}, "__metadata__"),
    "metadata not an object": ({"__metadata__": ["k"], "a": entry()}, "__metadata__"),
    "backslashes as name": ({"..\\x": entry()}, "names are letters"),
    "half a surrogate": (b'{"__metadata__": {"k": "\\ud800"}}', "surrogate"),
}


def deep_model(n: int = 15_000) -> bytes:
    """A model file of 0.15 MB that claims n layers and holds no tensor: names and shapes of n layers take 30 MB."""
    config = {"format": 3, "sizes": [1] * (n + 1), "dtype": "float32", "members": None, "seed": 0}
    config |= {"activation": ["elu"] * n, "bias": True, "normalization": "batch", "residual": True, "dropout": 0.5}
    return tensors({"__metadata__": {"portnn": json.dumps(config, separators=(",", ":"))}}, b"")


# -- files of another kind --------------------------------------------------------------------------------------------


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02.")
    return buffer.getvalue()


def bomb(canary: Path, protocol: int) -> bytes:
    """A pickle that creates ``canary`` when it is loaded, written by hand."""
    text = f"touch {canary}".encode()
    if protocol == 0:
        return b"cos\nsystem\n(S'" + text + b"'\ntR."
    return bytes([0x80, protocol]) + b"cos\nsystem\nX" + struct.pack("<I", len(text)) + text + b"\x85R."


# Two formats at once: what another program takes for one kind of file, and this one for another.
POLYGLOTS = {
    "safetensors and zip": (tensors({"a": entry()}) + archive(), "size: the tensors take 24 bytes"),
    "zip and safetensors": (archive() + tensors({"a": entry()}), "looks like a zip"),
    "safetensors of the length of a pickle": (
        b"\x80\x02" + bytes(6) + b'{"a": ' + json.dumps(entry()).encode() + b"}" + bytes(580),
        "the header is not JSON at byte",
    ),
    "pickle and safetensors": (b"\x80\x04" + bytes(6) + b"." + bytes(2000), "looks like a pickle"),
    "two safetensors": (tensors({"a": entry()}) * 2, "size: the tensors take 24 bytes"),
    "HTML and safetensors": (b"<html></html>" + tensors({"a": entry()}), "looks like an HTML page"),
}

FOREIGN = {
    **{f"a pickle, protocol {p}": functools.partial(bomb, protocol=p) for p in (0, 2, 3, 4, 5)},
    "a zip": lambda canary: archive(),
    "a git-LFS pointer": lambda canary: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "an HTML page": lambda canary: b"\r\n<!DOCTYPE html><title>404</title>",
    "an HTML page, upper case": lambda canary: b"<HTML><BODY>moved</BODY></HTML>",
}


# -- gzip -------------------------------------------------------------------------------------------------------------

IDX = struct.pack(">BBBBI", 0, 0, 8, 1, 1000) + random.Random(0).randbytes(1000)
CSV = b"label,a,b\n" + b"".join(b"%d,%d,0.5\n" % (i % 10, i) for i in range(500))


def with_flipped_bit(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


BAD_GZIP = {
    "truncated in the trailer": (lambda content: zipped(content)[:-1], "truncated"),
    "truncated in the middle": (lambda content: zipped(content)[: len(zipped(content)) // 2], "truncated"),
    "truncated in the header": (lambda content: zipped(content)[:5], "truncated"),
    "CRC flip": (lambda content: with_flipped_bit(zipped(content), -8), "incorrect data check"),
    "length flip": (lambda content: with_flipped_bit(zipped(content), -1), "incorrect length check"),
    "empty": (lambda content: zipped(b""), ""),
    "junk tail": (lambda content: zipped(content) + b"junk", "something follows"),
    "zero tail": (lambda content: zipped(content) + bytes(10), "something follows"),
    "two members": (lambda content: zipped(content) * 2, "something follows"),
    "bad method": (lambda content: b"\x1f\x8b\x07" + zipped(content)[3:], "damaged"),
    "gzip within gzip": (lambda content: zipped(zipped(content)), "a gzip file"),
    "not gzip": (lambda content: b"\x1f\x8c" + zipped(content)[2:], ""),
}


# -- IDX --------------------------------------------------------------------------------------------------------------


def idx(code: int, *extents: int, rank: int | None = None, data: bytes = b"") -> bytes:
    rank = len(extents) if rank is None else rank
    return struct.pack(f">BBBB{len(extents)}I", 0, 0, code, rank, *extents) + data


BAD_IDX = {
    "bad magic": (b"\1\0\x08\1\0\0\0\1x", "two zero bytes"),
    "three bytes": (b"\0\0\x08", "two zero bytes"),
    "type 0x0A": (idx(0x0A, 1, data=b"x"), "type 0x0A"),
    "truncated": (idx(0x08, 2, 3, data=bytes(5)), "needs 18 bytes, the file can hold at most 17"),
    "truncated extents": (idx(0x08, 2, rank=2), "ends at offset 8"),
    "trailing": (idx(0x08, 2, 3, data=bytes(7)), "beyond offset 18"),
    "65536**4": (idx(0x08, *(65536,) * 4), "18446744073709551636 bytes"),
    "0 x huge": (idx(0x08, 0, 4294967295), "extent of 4294967295"),
    "0 x (2**31 - 1)**3": (idx(0x08, 0, *(2**31 - 1,) * 3), "extents whose product is 9903520300447984"),
    "rank 0": (idx(0x08, data=b"x"), "rank 0"),
    "rank 255": (idx(0x08, *(1,) * 255, data=b"x"), "rank 255"),
    "float64 too short": (idx(0x0E, 2, data=bytes(15)), "needs 24 bytes"),
}


# -- CSV --------------------------------------------------------------------------------------------------------------

BAD_CSV = {
    "ragged, short": (b"1,2,3\n4,5\n", "line 2, column 3: 2 fields"),
    "ragged, long": (b"1,2,3\n4,5,6\n7,8,9,10\n", "line 3, column 4: 4 fields"),
    "ragged, same total": (b"1,2,3\n4,5\n6,7,8,9\n", "line 2, column 3: 2 fields"),
    "empty": (b"", "line 1, column 1: the file is empty"),
    "only a BOM": (b"\xef\xbb\xbf", "line 1, column 1: the line is empty"),
    "header only": (b"label,a,b\n", "line 2, column 1: there are no data"),
    "header only, no newline": (b"label,a,b", "line 2, column 1: there are no data"),
    "one column": (b"1\n2\n", "line 1, column 1: the only column is the target"),
    "blank line": (b"1,2,3\n\n4,5,6\n", "line 2, column 1: the line is empty"),
    "blank last line": (b"1,2,3\n\n", "line 2, column 1: the line is empty"),
    "NUL": (b"1,2,3\n4,\x005,6\n", "line 2, column 2: a NUL byte"),
    "UTF-16": ("label,a\n1,2\n".encode("utf-16-le"), "line 1, column 1: a NUL byte"),
    "latin-1": (b"label,a\xe9,b\n1,2,3\n", "line 1, column 2: byte 0xE9 is not UTF-8"),
    "latin-1 in the data": (b"1,2,3\n4,5,\xb5\n", "line 2, column 3: byte 0xB5 is not UTF-8"),
    "# within a line": (b"1,2,3\n4,5#6,7\n", "line 2, column 2: '5#6'"),
    "# line": (b"1,2,3\n#4,5,6\n", "line 2, column 1: '#4'"),
    "empty field": (b"1,2,3\n4,,6\n", "line 2, column 2: an empty field"),
    "empty last field": (b"1,2,3\n4,5,\n", "line 2, column 3: an empty field"),
    "empty first field": (b",2,3\n4,5,6\n", "line 1, column 1: an empty field"),
    "blank field": (b"1,2,3\n4, ,6\n", "line 2, column 2: ' '"),
    "nan": (b"1,2,3\n4,nan,6\n", "line 2, column 2: 'nan'"),
    "nan first": (b"1,NaN,3\n4,5,6\n", "line 1, column 2: 'NaN'"),
    "all nan first": (b"nan,nan\n4,5\n", "line 1, column 1: 'nan'"),
    "inf": (b"1,2,3\n4,-inf,6\n", "line 2, column 2: '-inf'"),
    "1e999": (b"1,2,3\n4,5,1e999\n", "line 2, column 3: '1e999' is too large"),
    "1e39": (b"1,2,3\n4,5,-1e39\n", "line 2, column 3: '-1e39' is too large"),
    "1_000": (b"1,2,3\n4,1_000,6\n", "line 2, column 2: '1_000'"),
    "hexadecimal": (b"1,2,3\n4,0x10,6\n", "line 2, column 2: '0x10'"),
    "Arabic digits": ("1,2,3\n4,١٢,6\n".encode(), "line 2, column 2: '١٢'"),
    "text": (b"1,2,3\n4,=1+1,6\n", "line 2, column 2: '=1+1'"),
    "two numbers": (b"1,2,3\n4,5 5,6\n", "line 2, column 2: '5 5'"),
    "two signs": (b"1,2,3\n4,--5,6\n", "line 2, column 2: '--5'"),
    "half an exponent": (b"1,2,3\n4,5e,6\n", "line 2, column 2: '5e'"),
    "unclosed quote": (b'1,2,3\n4,"5,6\n7,8,9\n', "line 2, column 2: the quote that begins this field is not closed"),
    "text after quote": (b'1,2,3\n4,"5"5,6\n', "line 2, column 2: the quotes are wrong"),
    "lone carriage return": (b"1,2,3\r4,5,6\r", "line 1, column 3: a carriage return"),
    "lone carriage returns at the end": (b"1,2,3\n4,5,6\r\r\n", "line 2, column 3: a carriage return"),
    "200 kB field": (b"1,2,3\n4," + b"5" * 200_000 + b",6\n", "line 2, column 2: a field of 200000"),
    "200 kB name": (b"l," + b"x" * 200_000 + b"\n1,2\n", "line 1, column 2: a field of 200000"),
    "200 kB number": (b"1,2,3\n4,0." + b"0" * 200_000 + b"1,6\n", "line 2, column 2: a field of"),
    "1 MB of commas": (b"," * 1_000_000, "line 1, column 65537: the line has more than 65536 columns"),
    "1 MB of commas later": (b"1,2\n" + b"," * 1_000_000, "line 2, column 65537"),
    "3 MB line": (b"1,2\n" + b"1" * 3_000_000, "line 2, column 1: the line has more than"),
}
