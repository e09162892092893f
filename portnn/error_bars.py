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
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from portnn.activations import Activation
from portnn.backends import HOST, Array
from portnn.layout import placed
from portnn.losses import Loss
from portnn.mlp import MLP
from portnn.network import forward
from portnn.scaling import Placed

# Errors of equal samples, or through units that are alike, are equal and do not average out. They are a tenth of their
# bars or less, so this share of their plain sum is added to the root of the squares: over units, and over samples.
ALIKE, ALIKE_SAMPLES = 0.1, 0.2
PROBES = 32  # outputs are varied one by one up to here; of more, random signs of all
Exact = dict[str, tuple[Array, Array]]


def reference(model: MLP, x: Array, t: Array, loss: Loss) -> Exact:
    """Return, for each place, the value in higher precision and the bar that ``model``'s dtype is held to.

    A float64 model is held against NumPy's longdouble. Where that is no wider (not on x86), the bars are doubled.
    """
    xp, eps = HOST.xp, float(numpy.finfo(model.dtype).eps)
    wide = numpy.longdouble if model.dtype == "float64" else numpy.float64
    # below the smallest normal number digits are lost, or all of it
    tiny = float(numpy.finfo(model.dtype).smallest_normal)
    # TF32 keeps 11 bits of each factor, and a library may cut the others off
    coarse = 2.0**-9 if (model.dtype, model.matmul_precision) == ("float32", "tf32") else 0.0
    across = xp.matrix_transpose

    def product(a: Array, ea: Array, b: Array, eb: Array | None = None) -> tuple[Array, Array]:
        """Return a b and its error: theirs, and that of the sums of n products."""
        size = abs(a) @ abs(b)
        own = (coarse + 0.5 * eps * terms(a, b)) * size + tiny * a.shape[-1] ** 0.5
        squares, plain, alike = (ea * ea) @ (b * b), ea @ abs(b), ALIKE
        if eb is not None:  # a sum over samples
            squares, plain, alike = squares + (a * a) @ (eb * eb), plain + abs(a) @ eb, ALIKE_SAMPLES
        return a @ b, xp.sqrt(squares + (alike * plain) ** 2 + own * own)

    found: Exact = {}
    params = model.backend.to_numpy(model.params).astype(wide)
    a, ea, layers = x.astype(wide), xp.zeros(x.shape, dtype=wide), []
    before, after = placed(model.layers, a)

    def scaled(scaling: Placed, a: Array, ea: Array) -> tuple[Array, Array]:
        """Return p a + q and its error; p and q have one of their own."""
        y, offset = scaling(a)[0], scaling(xp.zeros_like(a))[0]
        return y, abs(scaling(ea)[0] - offset) + 4.0 * eps * (abs(y - offset) + abs(offset))

    with HOST.scope():
        if before is not None:
            a, ea = scaled(before, a, ea)
        for i, (layer, weight) in enumerate(zip(model.layers, model.weights_of(params), strict=True)):
            z, ez = product(a, ea, weight)
            if layer.bias is not None:
                bias = params[..., None, layer.bias]
                z, ez = z + bias, _root(ez, eps * (abs(z + bias) + abs(bias)))
            y, moved = _around(functools.partial(_value, layer.activation), z, ez)
            slope, bent = _around(functools.partial(_slope, layer.activation), z, ez)
            layers.append((layer, weight, a, ea, slope, _kinked(bent, 1e-3)))
            # A factor of z below the smallest normal number, s(z) in z s(z), may count as 0.
            a, ea = y, moved + 8.0 * eps * (abs(y) + abs(z * slope)) + 2.0 * tiny * xp.maximum(abs(z), 1.0)
            if after is not None and layer is model.layers[-1]:
                a, ea = scaled(after, a, ea)
            found[f"layer {i} output"] = a, ea
        values, dy, changed, turned, rounded = _loss_and_errors(loss, a, ea, t)
        found["loss"] = xp.mean(values, axis=-1), changed + 16.0 * eps * rounded
        size = (loss.kind != "values") + abs(a) + (abs(t) if t.shape == a.shape[-t.ndim :] else 0.0)
        d, ed = dy, turned + 8.0 * eps * (abs(dy) + size / a.shape[-2]) + tiny
        if after is not None:
            (d,), (ed,) = (after(d)[1](v) for v in (d, ed))
            ed = abs(ed) + 4.0 * eps * abs(d)
        for i, (layer, weight, a, ea, slope, bent) in reversed(list(enumerate(layers))):
            ed = _root(ed * (abs(slope) + bent), abs(d) * bent, 8.0 * eps * abs(d) * xp.maximum(abs(slope), 1.0)) + tiny
            d = d * slope
            found[f"layer {i} weight gradient"] = product(across(a), across(ea), d, ed)
            if layer.bias is not None:
                one = xp.ones((1, d.shape[-2]), dtype=wide)
                total, error = product(one, 0.0 * one, d, ed)
                found[f"layer {i} bias gradient"] = total[..., 0, :], error[..., 0, :]
            d, ed = product(d, ed, across(weight))
    for place, (value, bar) in found.items():
        if not (worst(abs(value)) <= float(numpy.finfo(model.dtype).max) and numpy.isfinite(bar).all()):
            raise ValueError(f"compare_backends: {place} is beyond {model.dtype}: x or the parameters are too large")
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


def terms(a: Array, b: Array) -> Array:
    """Return what each sum of n products costs, in units of u |A||B|: 4 sqrt(n), or for m equal ones m / 2.

    The errors of n roundings add up like a random walk, unless the terms are equal: then all partial sums are rounded
    to one side. Up to 64 terms the random walk's bar is above that.

    Examples
    --------
    >>> import numpy as np
    >>> one, ramp = np.ones((1, 400)), np.arange(400.0)[None, :]
    >>> terms(one, one.T), terms(ramp, one.T), terms(one[:, :16], one[:, :16].T)
    (array([[200.]]), array([[80.]]), array(16.))

    """
    n = a.shape[-1]
    if n <= 64:
        return numpy.asarray(4.0 * n**0.5)
    rows, columns = _repeated(a)[..., :, None], _repeated(numpy.matrix_transpose(b))[..., None, :]
    return numpy.maximum(4.0 * n**0.5, 0.5 * numpy.minimum(rows, columns))


def worst(errors: Array) -> float:
    """Return the largest entry; infinity for a NaN."""
    return float(numpy.max(numpy.nan_to_num(errors, nan=numpy.inf, posinf=numpy.inf)))


def _loss_and_errors(loss: Loss, y: Array, ey: Array, t: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return the values, their mean's derivatives, and what the errors of the outputs do to the mean and to those.

    The last is what the mean's own rounding is proportional to.
    """
    n, n_outputs = y.shape[-2:]
    share = numpy.full(y.shape[:-1], 1.0, dtype=y.dtype) / n
    values, dy = _differentiated(loss, y, t, share)
    change, turn, steps = numpy.zeros_like(values), numpy.zeros_like(dy), 0
    for step in _variations(ey):
        around = [_differentiated(loss, y + sign * step, t, share) for sign in (1.0, -1.0)]
        change += numpy.maximum(*(abs(v - values) for v, _ in around)) ** 2
        turn += _kinked(numpy.maximum(*(abs(d - dy) for _, d in around)), 1e-3 / (n * n_outputs)) ** 2
        steps += 1
    many = steps if n_outputs > PROBES else 1
    change, turn = numpy.sqrt(change / many), numpy.sqrt(turn / many)
    changed = (numpy.sqrt(numpy.sum(change**2, axis=-1)) + ALIKE * numpy.sum(change, axis=-1)) / n
    bounded = loss.kind != "values"  # terms of the order of 1 may cancel in these
    size = bounded + abs(y) + (abs(t) if t.shape == y.shape[-t.ndim :] else 0.0)
    rounded = numpy.mean(abs(values), axis=-1) + numpy.sum(abs(dy) * size, axis=(-1, -2)) + bounded
    return values, dy, changed, turn, rounded


def _variations(ey: Array) -> Iterator[Array]:
    """Yield the errors of one output at a time; of many, random signs of all, whose mean square is the same."""
    if ey.shape[-1] > PROBES:
        signs = numpy.random.default_rng(0)
        yield from (ey * signs.choice([-1.0, 1.0], size=ey.shape) for _ in range(PROBES))
        return
    for j in range(ey.shape[-1]):
        step = numpy.zeros_like(ey)
        step[..., j] = ey[..., j]
        yield step


def _kinked(change: Array, smooth: float) -> Array:
    """Return changes of a slope, five times as large where rounding cannot have made them by a smooth curve.

    A kink taken on the other side is no small error with room to spare: its effects, summed with the signs of the
    weights, are of the size of the bar, so five standard deviations are allowed.
    """
    return change * numpy.where(change > smooth, 5.0, 1.0)


def _around(f: Callable[[Array], Array], z: Array, ez: Array) -> tuple[Array, Array]:
    """Return f(z) and how far f is from it at z - ez and z + ez."""
    y = f(z)
    return y, numpy.maximum(abs(f(z + ez) - y), abs(f(z - ez) - y))


def _repeated(a: Array) -> Array:
    """Return for each row the root of the sum of m^2, m how often each number but 0 stands there (to 12 bits)."""
    fraction, exponent = numpy.frexp(a.astype(numpy.float64))
    a = numpy.sort(numpy.ldexp(numpy.round(fraction * 4096.0), exponent), axis=-1)
    at = numpy.arange(a.shape[-1])
    new = numpy.concatenate([numpy.ones_like(a[..., :1], dtype=bool), a[..., 1:] != a[..., :-1]], axis=-1)
    start = numpy.maximum.accumulate(numpy.where(new, at, 0), axis=-1)
    return numpy.sqrt(numpy.sum(numpy.where(a != 0.0, 2.0 * (at - start) + 1.0, 0.0), axis=-1))


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
