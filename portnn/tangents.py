"""Derivatives of the network beyond one pullback: along a direction, of every output, and of those once more.

Every activation acts number by number, so its pullback is the multiplication by its slope, forwards as well as
backwards: the tangents of a network are its pullbacks put in the other order.
"""

from __future__ import annotations

from typing import Any

from portnn.activations import describe_activation, identity
from portnn.autograd import grad, pair_of
from portnn.backends import Array, device, namespace
from portnn.curvature import Curvature, curvature_of
from portnn.layout import Layer, has_parts, placed
from portnn.network import check_shapes, forward, join, of_params, weights_of
from portnn.primitives import linear, only


def tangents(
    layers: tuple[Layer, ...],
    params: Array,
    x: Array,
    d_params: Array | None,
    dx: Array | None,
    running: Array | None = None,
) -> tuple[tuple[Array, Array], Any]:
    """Return ``(y, dy), vjp``: outputs, their derivative along (d_params, dx), and the pullback of both.

    With a' = f(z) and z = a W + b of a layer: dz = da W + a dW + db, da' = f'(z) dz (Wengert, 1964). The pullback
    ``d_params, dx = vjp(cotangent of y, cotangent of dy)`` differentiates these lines once more, which is where f''
    comes in: z gets f'(z) A + f''(z) dz D for cotangents A of a' and D of da' (Pearlmutter, "Fast exact multiplication
    by the Hessian", Neural Computation 6, 1994). Directions are constants to it; None, for one of them, are zeros.
    """
    xp, dtype = namespace(params), params.dtype
    check_shapes(layers, params, x)
    for name, given, like, axes in (("dx", dx, x, 2), ("d_params", d_params, params, 1)):
        if given is not None and (given.ndim < axes or tuple(given.shape[-axes:]) != tuple(like.shape[-axes:])):
            raise ValueError(f"MLP: {name} has shape {tuple(given.shape)}, expected {tuple(like.shape)}")
    d_params = d_params if d_params is None or d_params.dtype == dtype else xp.astype(d_params, dtype)
    a, da = (v if v is None or v.dtype == dtype else xp.astype(v, dtype) for v in (x, dx))
    if has_parts(layers):
        return _recorded(layers, params, a, d_params, da, running)
    before, after = placed(layers, params)
    if before is not None:
        a, scale_back = before(a)
        da = None if da is None else _along(before, da)
    directions = [None] * len(layers) if d_params is None else weights_of(layers, d_params)
    steps = []
    for i, (layer, weight, d_weight) in enumerate(zip(layers, weights_of(layers, params), directions, strict=True)):
        bias, d_bias = (None if v is None or layer.bias is None else v[..., layer.bias] for v in (params, d_params))
        z, back = linear(a, weight, bias)
        dz, of_direction, of_weights = None, None, None
        if da is not None:
            dz, of_direction = linear(da, weight, None)
        if d_weight is not None:
            more, of_weights = linear(a, d_weight, d_bias)
            dz = more if dz is None else dz + more
        a, slope = pair_of(layer.activation, f"MLP: the activation of layer {i}", z)
        da = only(slope(dz))
        steps.append((layer, z, dz, back, of_direction, of_weights, slope))
    if after is not None:
        a, unscale_back = after(a)
        (da,) = unscale_back(da)

    shape = _shape(a)

    def vjp(y_bar: Array, dy_bar: Array) -> tuple[Array, ...]:
        for bar in (y_bar, dy_bar):
            if tuple(bar.shape) != shape:
                raise ValueError(f"MLP: a cotangent has shape {tuple(bar.shape)}, expected {shape}")
        y_bar, dy_bar = (v if v.dtype == dtype else xp.astype(v, dtype) for v in (y_bar, dy_bar))
        if after is not None:
            (y_bar,), (dy_bar,) = unscale_back(y_bar), unscale_back(dy_bar)
        pieces: list[Array] = []
        for layer, z, dz, back, of_direction, of_weights, slope in reversed(steps):
            curvature: Curvature | None = curvature_of(layer.activation)
            dz_bar, z_bar = only(slope(dy_bar)), only(slope(y_bar))
            if curvature is not None:
                z_bar = z_bar + curvature(z) * dz * dy_bar
            y_bar, weight_bar, *bias_bar = back(z_bar)
            if of_direction is not None:
                dy_bar, more = of_direction(dz_bar)
                weight_bar = weight_bar + more
            if of_weights is not None:
                y_bar = y_bar + of_weights(dz_bar)[0]
            pieces[:0] = [xp.reshape(weight_bar, (*weight_bar.shape[:-2], -1)), *bias_bar]
        if before is not None:
            (y_bar,) = scale_back(y_bar)
        return of_params(join(xp, pieces), params), y_bar

    return (a, da), vjp


def _recorded(
    layers: tuple[Layer, ...],
    params: Array,
    x: Array,
    d_params: Array | None,
    dx: Array | None,
    running: Array | None,
) -> tuple[tuple[Array, Array], Any]:
    """Return what :func:`tangents` does for layers that do not act number by number: norms, or with residuals.

    A pullback is linear in its cotangent u, so the derivative along a direction v is the gradient of its product with
    v in u, and the product of that derivative with a cotangent D is the product of the pullback of D with v. Both are
    differentiated by :mod:`portnn.autograd`.
    """
    xp, dtype = namespace(params), params.dtype

    def along(pulled: tuple[Array, ...]) -> Array:
        pairs = zip(pulled, (d_params, dx), strict=True)
        products = [namespace(d).sum(d * direction) for d, direction in pairs if direction is not None]
        return products[0] if len(products) == 1 else products[0] + products[1]

    def linear_in(u: Array, params: Array, x: Array) -> Array:
        return along(forward(layers, params, x, running=running)[1](u))

    y, _ = forward(layers, params, x, running=running)
    dy = grad(linear_in, 0)(xp.zeros_like(y), params, x)

    def vjp(y_bar: Array, dy_bar: Array) -> tuple[Array, ...]:
        for bar in (y_bar, dy_bar):
            if tuple(bar.shape) != tuple(y.shape):
                raise ValueError(f"MLP: a cotangent has shape {tuple(bar.shape)}, expected {tuple(y.shape)}")
        y_bar, dy_bar = (v if v.dtype == dtype else xp.astype(v, dtype) for v in (y_bar, dy_bar))

        def both(params: Array, x: Array) -> Array:
            y, pullback = forward(layers, params, x, running=running)
            return namespace(y).sum(y * y_bar) + along(pullback(dy_bar))

        of_both: tuple[Array, ...] = grad(both, (0, 1))(params, x)
        return of_both

    return (y, dy), vjp


def jacobian(layers: tuple[Layer, ...], params: Array, x: Array, running: Array | None = None) -> Array:
    """Return dy_k / dx_j of every sample, ``(..., batch, n_outputs, n_features)``.

    J <- J diag(f'(z)) W^T from the last layer to the first, for all samples and outputs in one product per layer. With
    an activation of the user's, which need not act number by number, and with norms and residuals, one pullback for
    each output.
    """
    xp, dtype = namespace(params), params.dtype
    if has_parts(layers) or any(describe_activation(layer.activation).startswith("<") for layer in layers):
        lead = params.shape[:-1] if x.ndim == 2 else ()  # members that share x
        y, pullback = forward(layers, params, xp.broadcast_to(x, (*lead, *x.shape)), running=running)
        eye = xp.eye(y.shape[-1], dtype=dtype, device=device(params))
        rows = [pullback(xp.broadcast_to(eye[k, :], y.shape))[1] for k in range(y.shape[-1])]
        return xp.stack(rows, axis=-2)
    before, after = placed(layers, params)
    a = x if x.dtype == dtype else xp.astype(x, dtype)
    if before is not None:
        a, scale_back = before(a)
    weights, slopes = weights_of(layers, params), list[Array]()
    for i, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
        z, _ = linear(a, weight, None if layer.bias is None else params[..., layer.bias])
        a, slope = pair_of(layer.activation, f"MLP: the activation of layer {i}", z)
        slopes.append(None if layer.activation is identity else only(slope(xp.ones_like(z))))
    lead, n_outputs = a.shape[:-1], a.shape[-1]
    last = xp.eye(n_outputs, dtype=dtype, device=device(params))
    if after is not None:
        last = last * only(after(a)[1](xp.ones((n_outputs,), dtype=dtype, device=device(params))))
    j = xp.broadcast_to(last, (*lead, n_outputs, n_outputs))
    for weight, diagonal in zip(reversed(weights), reversed(slopes), strict=True):
        if diagonal is not None:
            j = j * diagonal[..., None, :]
        fan_in, fan_out = weight.shape[-2:]
        rows = xp.reshape(j, (*lead[:-1], lead[-1] * n_outputs, fan_out))
        j = xp.reshape(xp.matmul(rows, xp.matrix_transpose(weight)), (*lead, n_outputs, fan_in))
    if before is not None:
        (j,) = scale_back(j)
    return j


def _along(scaling: Any, dx: Array) -> Array:
    """Return the derivative of a scaling along ``dx``: it is linear but for its offset."""
    return only(scaling(dx)[1](dx))


def _shape(a: Any) -> tuple[int, ...]:
    return tuple(a.shape)
