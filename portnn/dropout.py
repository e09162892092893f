"""Dropout: which units are dropped is a pure function of seed, epoch, sample, layer, unit and member.

A sample has a random word for each epoch, a unit of a network has one for good; both come from :mod:`portnn.random`.
What decides is the two of them, mixed: so a mask is the same bits on every library, needs no state that would have to
be restored, and costs ten integer operations where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portnn import random
from portnn.backends import HOST, Array, device, namespace
from portnn.primitives import Pair

Rate = float | tuple[float, ...]  # of all members, or of each
Limit = tuple[Any, Any]


def sample_words(seed: int, epoch: int, n: int, first: int = 0) -> Array:
    """Return a random word for each of ``n`` samples, in the order in which the epoch visits them: int32, on the host.

    Those of the samples from number ``first`` of that order on, of up to 2**32.

    Examples
    --------
    >>> sample_words(0, 3, 5).tolist() == sample_words(0, 3, 9).tolist()[:5] != sample_words(0, 4, 5).tolist()
    True

    """
    return random.words(random.fold_in(random.fold_in(random.key(seed), random.Purpose.DROPOUT), epoch), n, first=first)


def unit_words(seed: int, widths: Sequence[int]) -> Array:
    """Return a random word for each unit of the layers with these widths: int32, on the host, layer after layer.

    ``seed`` is that of the network's initial weights, so members of an ensemble have their own. Width 0 stands for a
    layer without dropout: the words of the others do not depend on it.

    Examples
    --------
    >>> unit_words(0, [0, 2]).tolist() == unit_words(0, [3, 2]).tolist()[3:]
    True

    """
    base = random.fold_in(random.key(seed), random.Purpose.UNITS)
    return HOST.xp.concat([random.words(random.fold_in(base, i), width) for i, width in enumerate(widths)])


def mixed(sample: Array, unit: Array) -> Array:
    """Return a word for each sample and unit, of which the upper half is fit for use.

    Parameters
    ----------
    sample
        ``(batch,)``, int32.
    unit
        ``(..., units)``, int32, with the leading axes of members.

    Returns
    -------
    ``(..., batch, units)``, int32: the two words are added without carry and go through two rounds of C. Wellons'
    lowbias32 ("Prospecting for hash functions", nullprogram.com, 2018). Its last step is left out, since it changes
    the lower half only.

    Examples
    --------
    >>> import numpy as np
    >>> mixed(np.asarray([1, 2], dtype="int32"), np.asarray([0, 4, 8], dtype="int32")).shape
    (2, 3)

    """
    x = sample[:, None] ^ unit[..., None, :]
    x = (x ^ _shifted(x, 16)) * 0x7FEB352D
    return (x ^ _shifted(x, 15)) * _SECOND


def limit_of(rate: Rate, like: Array) -> Limit:
    """Return the largest word that keeps a unit, and 1 / (1 - rate), for :func:`dropout`.

    Numbers, or arrays ``(members, 1, 1)`` on the device of ``like`` and in its dtype, for one rate each. The
    probability of being kept is 1 - rate, rounded to a multiple of 2**-32.

    Examples
    --------
    >>> limit_of(0.5, HOST.xp.zeros(1)), limit_of(0.0, HOST.xp.zeros(1))
    ((-1, 2.0), (2147483647, 1.0))

    """
    if not isinstance(rate, tuple):
        return round((1.0 - rate) * 2**32) - 2**31 - 1, 1.0 / (1.0 - rate)
    xp, where = namespace(like), device(like)
    limits, scales = zip(*(limit_of(one, like) for one in rate), strict=True)
    return (
        xp.asarray([[[limit]] for limit in limits], dtype=xp.int32, device=where),
        xp.asarray([[[scale]] for scale in scales], dtype=like.dtype, device=where),
    )


def dropout(x: Array, word: Array, limit: Any, scale: Any) -> Pair:
    """Return y = x mask / (1 - rate): each number is 0 with probability ``rate``, and the expectation is x.

    Parameters
    ----------
    x
        ``(..., batch, units)``.
    word
        Random int32 of that shape, from :func:`mixed`: kept is what has one up to ``limit``.
    limit, scale
        From :func:`limit_of`; for training only: in prediction nothing is dropped.

    Returns
    -------
    y
        The shape of ``x``.
    vjp
        dx = dy mask / (1 - rate).

    Notes
    -----
    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014;
    scaled in training (inverted), so that prediction needs no scaling.

    Examples
    --------
    >>> import numpy as np
    >>> y, vjp = dropout(np.asarray([[3.0, 4.0]]), np.asarray([[-7, 7]], dtype="int32"), *limit_of(0.5, np.zeros(1)))
    >>> y, vjp(np.ones((1, 2)))
    (array([[6., 0.]]), (array([[2., 0.]]),))

    """
    mask = namespace(x).astype(word <= limit, x.dtype) * scale
    return x * mask, lambda dy: (dy * mask,)


_SECOND = 0x846CA68B - 2**32  # as a signed number, which int32 takes


def _shifted(x: Array, bits: int) -> Array:
    """Shift to the right as unsigned words: int32 drags its sign along."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)
