"""Randomness as a pure function of (key, counter): the same bits on every array library, eager or compiled.

The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011), written in int32 arithmetic because that is the one integer type with the same wrap-around on all
libraries. Nothing has to be captured or restored: to draw the order of epoch 7 again, ask for it again.

A key is a pair of 32-bit words: Python integers, or integer arrays of one element where it is computed in a compiled
function. What is no key is a TypeError; a length that is negative or beyond the counter is a ValueError. Floating-point
numbers are made from integers by steps that are exact, so that it does not matter whether a compiler fuses a product
and a sum. Every function takes ``backend`` and ``device`` as :class:`portnn.MLP` does.
"""

from __future__ import annotations

import enum
import functools
import math
import operator
import os
from collections.abc import Iterable, Sequence
from typing import Any

from portnn.backends import HOST, Array, Backend, get_backend, namespace
from portnn.errors import shown

Key = tuple[Any, Any]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_MASK = 0xFFFFFFFF


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for; each has a key of its own, so that none disturbs another."""

    PARAMETERS = 1
    ORDER = 2
    SPLIT = 3
    DROPOUT = 4
    UNITS = 5
    BLOCKS = 6


def check_seed(seed: object, who: str = "seed") -> int:
    """Return ``seed`` as a Python integer in [0, 2**64); None draws one from the operating system.

    Examples
    --------
    >>> check_seed(7)
    7

    """
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ValueError(f"{who}: seed must be an integer in [0, 2**64) or None, got {shown(seed)}")
    try:
        number = operator.index(seed)
    except TypeError:
        raise ValueError(f"{who}: seed must be an integer in [0, 2**64) or None, got {shown(seed)}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"{who}: seed must be in [0, 2**64), got {shown(number)}")
    return number


def key(seed: int) -> Key:
    """Return the key of a seed: its high and low 32 bits, as ``jax.random.key`` has them.

    Examples
    --------
    >>> key(5)
    (0, 5)

    """
    seed = check_seed(seed, "random.key")
    return seed >> 32, seed & _MASK


def fold_in(base: Key, number: Any) -> Key:
    """Return a new key that depends on ``base`` and on ``number`` in [0, 2**32); equal to ``jax.random.fold_in``.

    A number that is an integer array of one element, a step counter in a compiled function for example, gives a key of
    int32 arrays. Raises ValueError for a number out of range.

    Examples
    --------
    >>> fold_in(key(0), 1)
    (928981903, 3453687069)

    """
    base = _key(base, "fold_in")
    if not _is_array(number) and (isinstance(number, bool) or not 0 <= operator.index(number) < 2**32):
        raise ValueError(f"random.fold_in: number must be in [0, 2**32), got {shown(number)}")
    counter = _word(number)
    like = next((a for a in (*base, counter) if _is_array(a)), None)
    if like is not None:
        zero = namespace(like).zeros_like(like)
        return threefry2x32(base, zero, zero + counter)
    zero = HOST.xp.zeros(1, dtype=HOST.xp.int32)
    x0, x1 = threefry2x32(base, zero, zero + counter)
    return int(x0[0]) & _MASK, int(x1[0]) & _MASK


def split(base: Key, n: int = 2) -> list[Key]:
    """Return ``n`` keys that are independent of one another; equal to ``jax.random.split``, its default since 0.5.

    Examples
    --------
    >>> split(key(0)) == [fold_in(key(0), 0), fold_in(key(0), 1)]
    True

    """
    return [fold_in(base, i) for i in range(_shape((n,), "split")[0])]


def threefry2x32(base: Key, counter0: Array, counter1: Array) -> tuple[Array, Array]:
    """Encrypt pairs of 32-bit counters with a key: 20 rounds of Threefry-2x32.

    Parameters
    ----------
    base
        The key.
    counter0, counter1
        int32 arrays of one shape, at least 1-D; the bits are what counts.

    Returns
    -------
    Two int32 arrays of that shape, holding 32 random bits each.

    Examples
    --------
    >>> zero = HOST.xp.zeros(1, dtype=HOST.xp.int32)
    >>> [hex(int(x[0]) & 0xFFFFFFFF) for x in threefry2x32((0, 0), zero, zero)]  # the vector of the paper's code
    ['0x6b200159', '0x99ba4efe']

    """
    k0, k1 = map(_word, base)
    keys = (k0, k1, _word(k0 ^ k1 ^ _PARITY))
    x0, x1 = counter0 + keys[0], counter1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << rotation) | _shifted(x1, 32 - rotation)
            x1 = x1 ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + _word(keys[(group + 2) % 3] + group + 1)
    return x0, x1


def words(base: Key, n: int, *, first: int = 0, backend: Any = HOST, device: Any = None) -> Array:
    """Return ``n`` random int32 words from number ``first`` on; word i depends on the key and on i alone.

    Examples
    --------
    >>> words(key(0), 3).tolist() == words(key(0), 5).tolist()[:3]
    True
    >>> words(key(0), 2, first=3).tolist() == words(key(0), 5).tolist()[3:]
    True

    """
    there, base, (n,) = get_backend(backend, device), _key(base, "words"), _shape((n,), "words")
    if not 0 <= first <= 2**32 - n:
        raise ValueError(f"random.words: expected words of numbers 0 to 2**32 - 1, got {n} from {first} on")
    skipped = first % 2
    with there.scope():
        pairs = there.xp.stack(_blocks(base, (skipped + n + 1) // 2, there, first // 2), axis=1)
        return there.xp.reshape(pairs, (-1,))[skipped : skipped + n]


def permutation(base: Key, n: int, *, backend: Any = HOST, device: Any = None) -> Array:
    """Return a random order of 0 .. n - 1 as a 1-D array of integers, of the width that the library's argsort gives.

    The words are sorted by a stable sort, so that the rare equal words fall the same way everywhere.

    Examples
    --------
    >>> sorted(permutation(key(3), 5).tolist())
    [0, 1, 2, 3, 4]

    """
    there, base, (n,) = get_backend(backend, device), _key(base, "permutation"), _shape((n,), "permutation")
    with there.scope():
        return there.xp.argsort(words(base, n, backend=there), stable=True)


def order(seed: int, epoch: int, n: int) -> Array:
    """Return the order in which epoch number ``epoch`` visits ``n`` samples: a pure function of its arguments.

    A host array, wherever the samples are: :func:`shuffled` with the key of the epoch.

    Examples
    --------
    >>> order(0, 0, 5).tolist() == order(0, 0, 5).tolist() != order(0, 1, 5).tolist()
    True

    """
    return shuffled(fold_in(fold_in(key(seed), Purpose.ORDER), epoch), n)


def shuffled(base: Key, n: int) -> Array:
    """Return the same as :func:`permutation` on the host, by a faster sort: of pairs (word, number).

    Examples
    --------
    >>> shuffled(key(3), 5).tolist() == permutation(key(3), 5).tolist()
    True

    """
    xp = HOST.xp
    pairs = xp.astype(words(base, n), xp.int64) * 2**32 + xp.arange(n, dtype=xp.int64)
    # no two pairs are equal, so the sort need not be stable: NumPy's quick sort takes a twentieth of the time
    return xp.bitwise_and(xp.sort(pairs, stable=False), 2**32 - 1)


def uniform(
    base: Key, shape: int | Sequence[int], *, dtype: str = "float32", backend: Any = HOST, device: Any = None
) -> Array:
    """Return numbers uniform on [0, 1): the multiples of 2**-24 (float32) or 2**-53 (float64) there.

    Number i, row by row, depends on the key and on i alone; the one in float32 is that in float64 rounded down.

    Parameters
    ----------
    base
        The key.
    shape
        A length, or one number per axis.
    dtype
        ``"float32"`` or ``"float64"``.

    Examples
    --------
    >>> u = uniform(key(1), (2, 3))
    >>> u.shape, u.dtype, bool((0 <= u).all() and (u < 1).all())
    ((2, 3), dtype('float32'), True)

    """
    there, base, shape = get_backend(backend, device), _key(base, "uniform"), _shape(shape, "uniform")
    kind, xp = there.float_dtype(dtype), there.xp
    with there.scope():
        high, low = _blocks(base, math.prod(shape), there)
        if dtype == "float32":
            u = xp.astype(_shifted(high, 8), kind) * 2.0**-24
        else:  # 27 and 26 bits: every step is exact
            u = (xp.astype(_shifted(high, 5), kind) * 2.0**26 + xp.astype(_shifted(low, 6), kind)) * 2.0**-53
        return xp.reshape(u, shape)


def normal(
    base: Key, shape: int | Sequence[int], *, dtype: str = "float32", backend: Any = HOST, device: Any = None
) -> Array:
    """Return standard normal numbers: the inverse of the normal distribution at uniform numbers of 32 bits.

    z is a multiple of 2**-28 within 2**-25 of the exact inverse, and |z| < 6.4; float32 is that number rounded. The
    inverse is a table of parabolas, 128 to each halving of the probability beyond z, evaluated in integers.

    Parameters
    ----------
    base
        The key.
    shape
        A length, or one number per axis.
    dtype
        ``"float32"`` or ``"float64"``.

    Examples
    --------
    >>> z = normal(key(1), 10000)
    >>> bool(abs(z.mean()) < 0.03) and bool(abs(z.std() - 1) < 0.03)
    True

    """
    there, base, shape = get_backend(backend, device), _key(base, "normal"), _shape(shape, "normal")
    kind, xp = there.float_dtype(dtype), there.xp
    with there.scope():
        word = words(base, math.prod(shape), backend=there)
        # The probability beyond |z| is (m + 1/2) 2^-32 with m of 31 bits. It is brought to m 2^-(32 + halvings) with
        # m in [2^30, 2^31); the 1/2 is kept as the lowest bit of the first doubling.
        m = 0x7FFFFFFF ^ xp.where(word < 0, ~word, word)
        small = m < 2**30
        m, halvings = xp.where(small, (m << 1) | 1, m), xp.astype(small, xp.int32)
        for bits in (16, 8, 4, 2, 1):
            small = m < 2 ** (31 - bits)
            m = xp.where(small, m << bits, m)
            halvings = xp.where(small, halvings + bits, halvings)
        piece = 128 * halvings + ((m >> 23) & 127)
        a, b, c = (xp.take(there.asarray(column, xp.int32), piece) for column in _parabolas())
        # a + (b + c t) t with t = (m mod 2^23) / 2^23, in products that 32 bits hold
        high, low = (m >> 11) & 4095, m & 2047
        b = b + ((c * high) >> 12)
        z = a + (((b >> 8) * high) >> 4) + (((b & 255) * high + (((b >> 8) * low) >> 3)) >> 12)
        z = xp.astype(xp.where(word < 0, -z, z), kind) * 2.0**-28
        return xp.reshape(z, shape)


def _blocks(base: Key, n: int, there: Backend, first: int = 0) -> tuple[Array, Array]:
    """Return the two words of ``n`` blocks."""
    counter = there.xp.arange(first, first + n, dtype=there.xp.int32, device=there.device)
    return threefry2x32(base, there.xp.zeros_like(counter), counter)


def _shifted(x: Array, bits: int) -> Array:
    """Shift to the right as unsigned words: int32 drags its sign along, so what came in from the left is masked."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


@functools.cache
def _parabolas() -> tuple[Array, Array, Array]:
    """Return a, b, c in units of 2**-28: z = a + b t + c t^2, t in [0, 1), in each piece of the normal's inverse.

    Piece 128 j + k holds the probabilities (128 + k + t) 2**-(9 + j) beyond z; the parabola meets z at t = 0, 1/2, 1.
    """
    from statistics import NormalDist

    inverse, rows = NormalDist().inv_cdf, []
    for j in range(32):
        for k in range(128):
            z0, middle, z1 = (-inverse((128 + k + t) * 2.0 ** -(9 + j)) for t in (0.0, 0.5, 1.0))
            rows.append([round(v * 2.0**28) for v in (z0, 4 * middle - 3 * z0 - z1, 2 * (z0 - 2 * middle + z1))])
    a, b, c = (HOST.xp.asarray(column, dtype=HOST.xp.int32) for column in zip(*rows, strict=True))
    return a, b, c


def _word(word: Any) -> Any:
    """Return the signed 32-bit number with the low bits of ``word``: an array of one element becomes int32 and 1-D."""
    if _is_array(word):
        xp = namespace(word)
        return xp.astype(xp.reshape(word, (1,)), xp.int32)
    word = operator.index(word) & _MASK
    return word - 2**32 if word >= 2**31 else word


def _is_array(word: Any) -> bool:
    """Whether a word is an array, traced perhaps, and not a number (NumPy's scalars have a shape too)."""
    return getattr(word, "ndim", 0) > 0 or (hasattr(word, "shape") and not HOST.owns(word))


def _key(base: Any, who: str) -> Key:
    """Return a key of signed 32-bit numbers or of int32 arrays of one element; TypeError where it is none."""
    try:
        first, second = base
        for word in (first, second):
            if _is_array(word):
                kind = namespace(word).isdtype(word.dtype, "integral") and math.prod(word.shape) == 1
            else:
                kind = not isinstance(word, bool) and -(2**31) <= operator.index(word) < 2**32
            if not kind:
                raise TypeError
    except (TypeError, ValueError, IndexError):
        message = f"random.{who}: expected a key, two 32-bit words such as random.key(0) gives, got {shown(base)}"
        raise TypeError(message) from None
    return _word(first), _word(second)


def _shape(shape: Any, who: str) -> tuple[int, ...]:
    """Return a shape as a tuple; ValueError where the counter, an int32, would not reach all of its entries."""
    try:
        found = tuple(map(operator.index, shape)) if isinstance(shape, Iterable) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"random.{who}: expected a length or a sequence of lengths, got {shown(shape)}") from None
    if min(found, default=0) < 0 or math.prod(found) >= 2**31:
        raise ValueError(f"random.{who}: expected lengths of 0 or more, fewer than 2**31 entries, got {shown(shape)}")
    return found
