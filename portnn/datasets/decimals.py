"""Decimal numbers in text, a block of lines at a time by array operations: what ``float()`` gives, to the bit.

A number of up to 2**53, read as an integer without its point, times or by a power of ten up to 10**22 is one
correctly rounded operation on two exact operands (Clinger, 1990, "How to read floating point numbers accurately"); for
others ``float()`` is asked.
"""

import numpy as np

MAX_FIELD = 1_000
MAX_LINE = 1 << 21

_POWERS = 10 ** np.arange(19, dtype=np.int64)
_EXACT_POWERS = np.asarray([float(10**k) for k in range(23)])
_EXACT = 2**53
_SHORT = 15  # digits of which float64 holds all numbers
_LONGEST = 18  # digits of which int64 holds all numbers
_AT_ONCE = 1 << 18
_ZERO = np.uint8(ord("0"))
_LF, _QUOTE, _POINT, _PLUS, _MINUS, _E = (ord(character) for character in '\n".+-e')


def decimals(block: bytes, columns: int, delimiter: bytes, largest: float) -> np.ndarray | None:
    """Return the float64 numbers, ``(lines, columns)``, of lines that hold nothing else, or None.

    A number is ``[+-] digits [. digits] [e [+-] digits]``, with digits before or behind the point, and at most
    ``largest`` in magnitude. None says that some line has another number of fields, that some field is no such number,
    or that a line or a field is longer than it may be: not which.

    Parameters
    ----------
    block
        Lines, each ended by one line feed.
    columns
        The number of fields in each line.
    delimiter
        One byte, none of those that numbers are made of.
    largest
        The bound; infinity for none.

    Examples
    --------
    >>> decimals(b"1,2.5\\n-3e2,.5\\n", 2, b",", float("inf"))
    array([[   1. ,    2.5],
           [-300. ,    0.5]])
    >>> decimals(b"1,2\\n3,1_000\\n", 2, b",", float("inf"))

    """
    others = block.translate(None, b"0123456789\n" + delimiter)
    buffer = np.frombuffer(block, np.uint8)
    ends = None if others.strip(b"+-.eE") else _ends(buffer, columns, delimiter)
    if ends is None:
        return None
    if others or (values := _short(buffer, ends)) is None:
        values = _general(block, buffer, ends, delimiter)
    return values.reshape(-1, columns) if values is not None and np.abs(values).max() <= largest else None


def _short(buffer: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """Return the whole numbers that end there, or None if some have no digit or more than 15."""
    widths = np.diff(ends, prepend=-1) - 1
    widest = int(widths.max())
    if widths.min() < 1 or widest > _SHORT:
        return None
    values = np.zeros(len(ends))
    for place in range(widest):
        digits = buffer[np.maximum(ends - 1 - place, 0)] - _ZERO
        values += np.where(widths > place, digits, 0) * _EXACT_POWERS[place]
    return values


def _general(block: bytes, buffer: np.ndarray, ends: np.ndarray, delimiter: bytes) -> np.ndarray | None:
    """Return the numbers that end there, or None if one is none; of characters that numbers are made of."""

    # an exponent is a number of its own, which follows the number that it belongs to
    letters, dots = (buffer | 0x20) == _E, buffer == _POINT
    if max(np.count_nonzero(letters), np.count_nonzero(dots)) > len(ends):
        return None
    cuts = np.flatnonzero(letters | (buffer == _LF) | (buffer == ord(delimiter)))
    begins = _starts(cuts)
    first, points = buffer[begins], np.flatnonzero(dots)
    negative, owners = first == _MINUS, np.searchsorted(cuts, points)
    signed = negative | (first == _PLUS)
    length = cuts - begins - signed
    length[owners] -= 1
    bases = np.flatnonzero(letters[cuts])
    exponents = bases + 1  # the last cut is a line feed
    mantissas = np.ones(len(cuts), bool)
    mantissas[exponents] = False
    if (
        length.min() < 1  # no digits
        or np.any(owners[1:] == owners[:-1])  # two points
        or np.any(bases[1:] == exponents[:-1])  # two exponents
        or not np.all(mantissas[owners])  # a point in an exponent
        or np.count_nonzero((buffer == _PLUS) | (buffer == _MINUS)) != np.count_nonzero(signed)  # one within a number
    ):
        return None

    exact = length <= _LONGEST
    if _many(length > _SHORT, ends):
        return _by_float(block, delimiter)
    digits = np.frombuffer(block.translate(None, b"+-.eE\n" + delimiter), np.uint8) - _ZERO
    whole = _integers(digits, length)
    power = np.zeros(len(cuts), np.int64)
    power[owners] = points + 1 - cuts[owners]
    power[bases] += np.where(negative[exponents], -whole[exponents], whole[exponents])
    exact[bases] &= exact[exponents]
    whole, power, exact, negative = whole[mantissas], power[mantissas], exact[mantissas], negative[mantissas]

    exact &= (whole <= _EXACT) & (np.abs(power) <= 22)
    values = whole * _EXACT_POWERS[np.clip(power, 0, 22)] / _EXACT_POWERS[np.clip(-power, 0, 22)]
    np.negative(values, out=values, where=negative)
    if _many(~exact, ends):
        return _by_float(block, delimiter)
    others = np.flatnonzero(~exact)
    places = zip(_starts(ends)[others].tolist(), ends[others].tolist(), strict=True)
    values[others] = [float(block[start:end]) for start, end in places]
    return values


def _many(numbers: np.ndarray, ends: np.ndarray) -> bool:
    """Whether so many numbers are long that it is faster to let the interpreter read all of them."""
    return bool(8 * np.count_nonzero(numbers) > len(ends))


def _by_float(block: bytes, delimiter: bytes) -> np.ndarray:
    """Return numbers as float() reads them, which is what NumPy calls."""
    lines = block.decode("ascii").splitlines()
    return np.loadtxt(lines, delimiter=delimiter.decode(), comments=None, ndmin=2).reshape(-1)


def _integers(digits: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the integers that have so many of the digits each, int64; those of more than 18 digits come out wrong."""
    last = np.cumsum(length)
    if len(digits) > _AT_ONCE and len(length) > 1:  # the line is long; what follows takes many times its memory
        half = len(length) // 2
        parts = ((digits[: last[half - 1]], length[:half]), (digits[last[half - 1] :], length[half:]))
        return np.concatenate([_integers(*part) for part in parts])
    places = np.repeat(last, length) - np.arange(1, len(digits) + 1)
    return np.add.reduceat(digits * _POWERS[np.minimum(places, _LONGEST)], last - length)


def bare(block: bytes, columns: int, delimiter: bytes) -> bytes | None:
    """Return lines without the quotes and the blanks around their fields, or None where one stands elsewhere.

    Blanks may stand within the quotes, not outside of them.

    Examples
    --------
    >>> bare(b'"1", 2\\n" 3",4 \\n', 2, b",")
    b'1,2\\n3,4\\n'
    >>> bare(b'"1,2",3\\n', 2, b",")
    >>> bare(b"1 2,3\\n", 2, b",")

    """
    buffer = np.frombuffer(block, np.uint8)
    ends = _ends(buffer, columns, delimiter)
    if ends is None:
        return None
    blank = bytes({ord(" "), ord("\t")} - {ord(delimiter)})
    solid = np.ones(256, bool)
    solid[list(blank + delimiter + b'"\n')] = False
    runs = solid[buffer]  # where one begins, in the end
    runs[1:] &= ~runs[:-1]
    quotes = buffer == _QUOTE
    if np.count_nonzero(runs) > len(ends) or np.count_nonzero(quotes) > 2 * len(ends):
        return None
    owners = np.searchsorted(ends, np.flatnonzero(runs))
    if np.any(owners[1:] == owners[:-1]):
        return None
    places = np.flatnonzero(quotes)
    opening, closing = places[::2], places[1::2]
    owners = np.searchsorted(ends, opening)
    if len(opening) != len(closing) or np.any(_starts(ends)[owners] != opening) or np.any(ends[owners] != closing + 1):
        return None
    return block.translate(None, blank + b'"')


def _ends(buffer: np.ndarray, columns: int, delimiter: bytes) -> np.ndarray | None:
    """Return where fields end, or None if not every line has so many, or if a line or a field is too long."""
    feeds = buffer == _LF
    cuts = feeds | (buffer == ord(delimiter))
    if np.count_nonzero(cuts) != columns * np.count_nonzero(feeds):
        return None
    ends = np.flatnonzero(cuts)
    lines = ends[columns - 1 :: columns]
    if not np.all(feeds[lines]):
        return None
    widest = (np.diff(places, prepend=-1).max() - 1 for places in (ends, lines))
    return ends if all(width <= most for width, most in zip(widest, (MAX_FIELD, MAX_LINE), strict=True)) else None


def _starts(ends: np.ndarray) -> np.ndarray:
    """Return where fields start, which end there."""
    return np.concatenate([np.zeros(1, ends.dtype), ends[:-1] + 1])
