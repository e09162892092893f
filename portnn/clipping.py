"""Limits on a gradient before it is used: on each entry, or on the length of the whole."""

from __future__ import annotations

from portnn.backends import Array, namespace


def clip_by_value(grad: Array, limit: Array) -> Array:
    """Return ``grad`` with every entry held in [-limit, limit]; ``limit`` is a 0-d array. A NaN stays one.

    Examples
    --------
    >>> import numpy as np
    >>> clip_by_value(np.asarray([-3.0, 0.5]), np.asarray(1.0))
    array([-1. ,  0.5])

    """
    xp = namespace(grad)
    return xp.minimum(xp.maximum(grad, -limit), limit)


def clip_by_norm(grad: Array, limit: Array) -> Array:
    """Return ``grad`` min(1, limit / |grad|), |grad| the Euclidean norm of the whole vector; ``limit`` is 0-d.

    Numerical stability: the entries are divided by the largest before they are squared, so the norm of a gradient that
    has exploded does not overflow just when it is needed.

    Examples
    --------
    >>> import numpy as np
    >>> clip_by_norm(np.asarray([3.0, 4.0]), np.asarray(1.0))
    array([0.6, 0.8])

    """
    xp = namespace(grad)
    largest = xp.maximum(xp.max(xp.abs(grad), axis=-1, keepdims=True), limit)
    scaled = grad / largest
    norm = xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True))  # |grad| / largest, at least 1 if it is clipped
    return xp.where(norm <= limit / largest, grad, scaled * (limit / xp.maximum(norm, xp.ones_like(norm))))
