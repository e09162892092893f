"""Every layer of a network in higher precision, each value with the error that honest rounding may leave in it.

An error estimate in the sense of J. H. Wilkinson, "Rounding errors in algebraic processes", 1963, followed through the
network, with errors added as the root of their squares (N. J. Higham, T. Mary, SIAM J. Sci. Comput. 41, 2019). A
product of n terms costs 4 sqrt(n) u |A||B|, a function 8 units in the last place; an error before a layer comes out
multiplied by its weights and slopes. Where an argument is so near a kink that rounding decides the side, the whole step
of the slope is allowed. Errors ten times smaller than the bar are usual; a derivative wrong by one part in a thousand
is far outside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy

from portnn.activations import Activation
from portnn.backends import HOST, Array
from portnn.losses import Loss
from portnn.mlp import MLP
from portnn.network import forward

Exact = dict[str, tuple[Array, Array]]


def reference(model: MLP, x: Array, t: Array, loss: Loss) -> Exact:
    """Return, for each place, the value in higher precision and the bar that ``model``'s dtype is held to.

    A float64 model is held against NumPy's longdouble. Where that is no wider (not on x86), the bars are doubled.
    """
    xp, eps = HOST.xp, float(numpy.finfo(model.dtype).eps)
    wide = numpy.longdouble if model.dtype == "float64" else numpy.float64
    product_unit = 2.0**-11 if (model.dtype, model.matmul_precision) == ("float32", "tf32") else 0.5 * eps
    params = model.backend.to_numpy(model.params).astype(wide)
    found: Exact = {}

    def product(a: Array, ea: Array, b: Array, eb: Array | float = 0.0) -> tuple[Array, Array]:
        """Return a b and its error: theirs, and that of the sums of n products."""
        own = terms(a.shape[-1]) * product_unit * (abs(a) @ abs(b))
        carried = (ea * ea) @ (b * b) + (0.0 if isinstance(eb, float) else (a * a) @ (eb * eb))
        return a @ b, xp.sqrt(carried + own * own)

    def at(f: Callable[[Array], Array], z: Array, ez: Array) -> tuple[Array, Array]:
        """Return f(z) and how far f is from it at z - ez and z + ez."""
        y = f(z)
        return y, xp.maximum(abs(f(z + ez) - y), abs(f(z - ez) - y))

    a, ea, layers = x.astype(wide), xp.zeros(x.shape, dtype=wide), []
    with HOST.scope():
        for i, (layer, weight) in enumerate(zip(model.layers, model.weights_of(params), strict=True)):
            z, ez = product(a, ea, weight)
            if layer.bias is not None:
                bias = params[..., None, layer.bias]
                z, ez = z + bias, _root(ez, eps * (abs(z + bias) + abs(bias)))
            y, moved = at(functools.partial(_value, layer.activation), z, ez)
            slope, bent = at(functools.partial(_slope, layer.activation), z, ez)
            # A kink taken on the other side is no small error with room to spare: its effects, summed with the signs of
            # the weights, are of the size of the bar, so five standard deviations are allowed.
            bent = bent * xp.where(bent > 1e-3, 5.0, 1.0)
            layers.append((layer, weight, a, ea, slope, bent))
            a, ea = y, moved + 8.0 * eps * (abs(y) + abs(z * slope))
            found[f"layer {i} output"] = a, ea
        share = xp.full(a.shape[:-1], 1.0, dtype=wide) / a.shape[-2]
        values, dy = _differentiated(loss, a, t, share)
        change, turn = 0.0, 0.0
        for j in range(a.shape[-1]):  # what the error of one output does to the loss and to all of its derivatives
            step = xp.zeros_like(a)
            step[..., j] = ea[..., j]
            for sign in (1.0, -1.0):
                other_values, other_dy = _differentiated(loss, a + sign * step, t, share)
                change, turn = change + 0.5 * (other_values - values) ** 2, turn + 0.5 * (other_dy - dy) ** 2
        size = (loss.kind != "values") + abs(a) + (abs(t) if t.shape == a.shape[-t.ndim :] else 0.0)
        share = share[..., None]
        rounding = share * abs(values)[..., None] + xp.sum(abs(dy) * size, axis=-1, keepdims=True)
        rounding = xp.sum(rounding + (loss.kind != "values") * share, axis=(-1, -2))
        carried = xp.sqrt(xp.sum(change, axis=-1)) / a.shape[-2]
        found["loss"] = xp.mean(values, axis=-1), carried + 16.0 * eps * rounding
        d, ed = dy, xp.sqrt(turn) + 8.0 * eps * (abs(dy) + share * size)
        for i, (layer, weight, a, ea, slope, bent) in reversed(list(enumerate(layers))):
            ed = _root(ed * (abs(slope) + bent), abs(d) * bent, 8.0 * eps * abs(d) * xp.maximum(abs(slope), 1.0))
            d = d * slope
            across = xp.matrix_transpose
            found[f"layer {i} weight gradient"] = product(across(a), across(ea), d, ed)
            if layer.bias is not None:
                total = terms(min(d.shape[-2], 256)) * 0.5 * eps * xp.sum(abs(d), axis=-2)
                found[f"layer {i} bias gradient"] = xp.sum(d, axis=-2), _root(xp.sqrt(xp.sum(ed * ed, axis=-2)), total)
            d, ed = product(d, ed, across(weight))
    for place, (value, bar) in found.items():
        if not (worst(abs(value)) <= float(numpy.finfo(model.dtype).max) and numpy.isfinite(bar).all()):
            raise ValueError(f"compare_backends: {place} is beyond {model.dtype}: x or the parameters are too large")
    tiny = float(numpy.finfo(model.dtype).smallest_normal)
    factor = 1.0 if numpy.finfo(wide).eps < eps else 2.0
    return {place: (value, factor * bar + tiny) for place, (value, bar) in found.items()}


def judged(model: MLP, x: Array, t: Array, loss: Loss, exact: Exact) -> tuple[dict[str, float], dict[str, float]]:
    """Return for each place the worst error in units of the bar, and relative to the largest entry."""
    errors, relative = {}, {}
    for place, got in computed(model, x, t, loss).items():
        value, bar = exact[place]
        error = numpy.where(got == value, 0.0, abs(got - value))
        largest = float(numpy.max(abs(value)))
        errors[place] = worst(error / bar)
        relative[place] = worst(error) / largest if largest else worst(error)
    return errors, relative


def computed(model: MLP, x: Array, t: Array, loss: Loss) -> dict[str, Array]:
    """Return what the model's own backend computes for each place, as float64 host arrays."""
    backend, found = model.backend, {}
    there, dtype = model.params, model.params.dtype
    with model.scope():
        x, t = backend.asarray(x, dtype), backend.asarray(t)
        for i, layer in enumerate(model.layers):
            stop = (layer.weight if layer.bias is None else layer.bias).stop
            found[f"layer {i} output"] = forward(model.layers[: i + 1], there[..., :stop], x)[0]
        found["loss"], grad, _ = model.objective(loss)(there, x, t, None)
        for i, (layer, weight) in reversed(list(enumerate(zip(model.layers, model.weights_of(grad), strict=True)))):
            found[f"layer {i} weight gradient"] = weight
            if layer.bias is not None:
                found[f"layer {i} bias gradient"] = grad[..., layer.bias]
        return {place: backend.to_numpy(a).astype(numpy.float64) for place, a in found.items()}


def terms(n: int) -> float:
    """Return what the sum of n products costs, in units of u sum|a||b|: 4 sqrt(n), or for equal ones n / 2.

    The errors of n roundings add up like a random walk, unless the terms are equal: then all partial sums of a block
    (of some 256 at most, in every library) are rounded to one side.

    Examples
    --------
    >>> terms(16), terms(256), terms(10_000)
    (16.0, 128.0, 400.0)

    """
    return max(4.0 * n**0.5, 0.5 * min(n, 256))


def _value(activation: Activation, z: Array) -> Array:
    return activation(z)[0]


def _slope(activation: Activation, z: Array) -> Array:
    return _one(activation(z)[1](HOST.xp.ones_like(z)))


def _differentiated(loss: Loss, y: Array, t: Array, share: Array) -> tuple[Array, Array]:
    """Return one value per sample, and the derivatives of their mean."""
    t = t.astype(y.dtype) if t.dtype.kind == "f" else t
    values, pullback = loss.pair(y, t)
    if values.ndim < y.ndim - 1:  # a user's loss that has taken the mean itself
        return values[..., None] * HOST.xp.ones_like(share), _one(pullback(HOST.xp.ones_like(values)))
    return values, _one(pullback(share))


def _one(cotangents: Any) -> Array:
    return cotangents[0] if isinstance(cotangents, tuple) else cotangents


def _root(*errors: Array) -> Array:
    return HOST.xp.sqrt(sum(e * e for e in errors))


def worst(errors: Array) -> float:
    """Return the largest entry; infinity for a NaN."""
    return float(numpy.max(numpy.nan_to_num(errors, nan=numpy.inf, posinf=numpy.inf)))
