"""Randomness as a pure function of (seed, purpose, counter): the same bits on every array library.

The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011), written in int32 arithmetic because that is the one integer type with the same wrap-around on all
libraries. A key is a pair of 32-bit words, held as Python integers. Nothing has to be captured or restored: to draw
the order of epoch 7 again, ask for it again.
"""

from __future__ import annotations

import enum
import operator
import os
from typing import Any

from portnn.backends import HOST, Array
from portnn.errors import shown

Key = tuple[int, int]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_MASK = 0xFFFFFFFF


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for; each has a key of its own, so that none disturbs another."""

    PARAMETERS = 1
    ORDER = 2
    SPLIT = 3


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


def fold_in(base: Key, number: int) -> Key:
    """Return a new key that depends on ``base`` and on ``number`` in [0, 2**32); equal to ``jax.random.fold_in``.

    Examples
    --------
    >>> fold_in(key(0), 1)
    (928981903, 3453687069)

    """
    x0, x1 = threefry2x32(base, _host_words(0), _host_words(number))
    return int(x0[0]) & _MASK, int(x1[0]) & _MASK


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
    k0, k1 = _signed(base[0]), _signed(base[1])
    keys = (k0, k1, _signed(base[0] ^ base[1] ^ _PARITY))
    x0, x1 = counter0 + keys[0], counter1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            # int32 shifts right with the sign, so the bits that came in from the left are masked away
            x1 = (x1 << rotation) | ((x1 >> (32 - rotation)) & ((1 << rotation) - 1))
            x1 = x1 ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + _signed((keys[(group + 2) % 3] + group + 1) & _MASK)
    return x0, x1


def words(base: Key, n: int, *, xp: Any = HOST.xp, device: Any = None) -> Array:
    """Return ``n`` random int32 words; word i depends on the key and on i alone.

    Examples
    --------
    >>> words(key(0), 3).tolist() == words(key(0), 5).tolist()[:3]
    True

    """
    half = (n + 1) // 2
    counter = xp.arange(half, dtype=xp.int32, device=device)
    x0, x1 = threefry2x32(base, xp.zeros_like(counter), counter)
    return xp.reshape(xp.stack([x0, x1], axis=1), (2 * half,))[:n]


def permutation(base: Key, n: int) -> Array:
    """Return a random order of 0 .. n - 1 as a host array of integers.

    The words are sorted by a stable sort, so that the rare equal words fall the same way everywhere.

    Examples
    --------
    >>> sorted(permutation(key(3), 5).tolist())
    [0, 1, 2, 3, 4]

    """
    return HOST.xp.argsort(words(base, n), stable=True)


def order(seed: int, epoch: int, n: int) -> Array:
    """Return the order in which epoch number ``epoch`` visits ``n`` samples: a pure function of its arguments.

    Examples
    --------
    >>> order(0, 0, 5).tolist() == order(0, 0, 5).tolist() != order(0, 1, 5).tolist()
    True

    """
    return permutation(fold_in(fold_in(key(seed), Purpose.ORDER), epoch), n)


def uniform(base: Key, n: int, *, xp: Any = HOST.xp, device: Any = None) -> Array:
    """Return ``n`` float64 numbers uniform on the open interval (-1, 1), symmetric about 0.

    u = (2 w + 1) / 2**32 for a 32-bit word w read as a signed number: every value is exact.

    Examples
    --------
    >>> bool(abs(uniform(key(1), 1000)).max() < 1)
    True

    """
    w = xp.astype(words(base, n, xp=xp, device=device), xp.float64)
    return (2.0 * w + 1.0) * 2.0**-32


def normal(base: Key, n: int, *, xp: Any = HOST.xp, device: Any = None) -> Array:
    """Return ``n`` standard normal float64 numbers.

    The inverse of the normal distribution (M. J. Wichura, algorithm AS 241, PPND16, Applied Statistics 37, 1988)
    at a uniform number of 32 bits, so that |z| <= 6.4. Only sums, products and quotients are used, which every
    library rounds as IEEE 754 says; their logarithms differ, and so do square roots (torch's is not always rounded
    to the nearest).

    Examples
    --------
    >>> z = normal(key(1), 10000)
    >>> bool(abs(z.mean()) < 0.03) and bool(abs(z.std() - 1) < 0.03)
    True

    """
    q = 0.5 * uniform(base, n, xp=xp, device=device)  # the probability less one half
    r = 0.180625 - q * q
    center = q * _ratio(r, _CENTER)
    tail = 0.5 - xp.abs(q)
    r = _sqrt(-_log(tail, xp)) - 1.6
    outside = xp.sign(q) * _ratio(r, _TAIL)
    return xp.where(xp.abs(q) <= 0.425, center, outside)


def _ratio(r: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    over, under = (_polynomial(r, c) for c in coefficients)
    return over / under


def _polynomial(r: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's rule, lowest coefficient first."""
    y = coefficients[-1] + 0.0 * r
    for c in reversed(coefficients[:-1]):
        y = y * r + c
    return y


def _log(x: Array, xp: Any) -> Array:
    """Return log x for x in [2**-34, 1): x = m / 2**n with m in [1/2, 1), log m = 2 atanh((m - 1) / (m + 1))."""
    n = xp.zeros_like(x)
    for bits in (16, 8, 4, 2, 1, 1, 1, 1):
        small = x < 2.0**-bits
        x = xp.where(small, x * 2.0**bits, x)
        n = xp.where(small, n + bits, n)
    s = (x - 1.0) / (x + 1.0)
    # |s| <= 1/3: the terms left out are below 3**-37
    series = _polynomial(s * s, tuple(2.0 / (2 * k + 1) for k in range(18)))
    return s * series - n * 0.6931471805599453


def _sqrt(x: Array) -> Array:
    """Return the root of x in [0.5, 25] by Newton's method: the error 0.45 is squared, and halved, five times."""
    s = 1.0 + 0.25 * x
    for _ in range(5):
        s = 0.5 * (s + x / s)
    return s


def _signed(word: int) -> int:
    """Return the signed 32-bit number with the bits of ``word``."""
    word &= _MASK
    return word - 2**32 if word >= 2**31 else word


def _host_words(word: int) -> Array:
    return HOST.xp.asarray([_signed(word)], dtype=HOST.xp.int32)


# AS 241: numerator and denominator, lowest coefficient first.
_CENTER = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
_TAIL = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
