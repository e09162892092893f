"""JSON that may come from anywhere: strict, and in bounded memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from portnn.errors import FormatError, shown

MOST = 12 << 20  # bytes of memory that the objects of a text may take


def memory(text: bytes) -> int:
    """Return a bound on the memory, in bytes, that JSON takes while it is read: its text and the objects in it.

    A few bytes of text can be a list of 88 bytes or a dict of 184, so what begins a value is counted, in texts too; a
    character of a text takes up to 4 bytes, and stands there twice.

    Examples
    --------
    >>> memory(b"[]"), memory(b'{"a": [1, 2]}')
    (112, 478)

    """
    begun = sum(map(text.count, (b"[", b"{", b",", b":")))
    return 100 * begun + (6 if text.isascii() else 9) * len(text)


def parse_json(text: bytes, what: str, start: int = 0, *, constants: bool = False) -> Any:
    """Read JSON that may come from anywhere; FormatError says at which byte ``what`` is wrong, counted from ``start``.

    Stricter than :func:`json.loads`: no key twice, no NaN or Infinity unless ``constants``; what is nested too deep,
    or takes more than 12 MiB of memory, is an error like any other.

    Examples
    --------
    >>> parse_json(b'{"a": [1, 2]}', "the text")
    {'a': [1, 2]}
    >>> parse_json(b'{"a": 1, "a": 2}', "the text")
    Traceback (most recent call last):
    portnn.errors.FormatError: the text has the key 'a' twice, at byte 9
    """
    if (needed := memory(text)) > MOST:
        raise FormatError(
            f"{what} at byte {start} is nested too deep or holds too much: {len(text)} bytes of JSON that may take "
            f"{needed >> 20} MiB of memory, at most {MOST >> 20} are read"
        )

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            name = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise FormatError(f"{what} has the key {shown(name)} twice, at byte {start + mention(text, name)}")
        return result

    def refuse_constant(constant: str) -> None:
        raise FormatError(f"{what} has {constant} at byte {start + text.find(constant.encode())}, which is not JSON")

    try:
        decoded = text.decode("utf-8")
        refuse = None if constants else refuse_constant
        return json.loads(decoded, object_pairs_hook=without_duplicates, parse_constant=refuse)
    except FormatError:
        raise
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8 at byte {start + error.start}") from None
    except json.JSONDecodeError as error:
        place = start + len(decoded[: error.pos].encode())
        raise FormatError(f"{what} is not JSON at byte {place}: {error.msg}") from None
    except (RecursionError, ValueError):  # too deep; or an integer of more digits than Python converts
        message = f"{what} at byte {start} is nested too deep or has numbers that are too long"
        raise FormatError(message) from None


def mention(text: bytes, name: str) -> int:
    """Where JSON has a key for the last time; 0 where it is written with escapes of other characters than usual."""
    key = re.escape(json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass")) + rb"\s*:"
    return max((match.start() for match in re.finditer(key, text)), default=0)
