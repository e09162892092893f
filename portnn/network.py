"""The network as a pure function of parameters and inputs: layers forward, their pullbacks in reverse."""

from __future__ import annotations

from typing import Any

from portnn.autograd import pair_of
from portnn.backends import Array, device, namespace
from portnn.layout import Layer, placed
from portnn.primitives import Pair, linear, only
from portnn.scaling import Placed

Scalings = tuple[Placed | None, Placed | None]


def weights_of(layers: tuple[Layer, ...], params: Array) -> tuple[Array, ...]:
    """Return the weights ``(in_features, out_features)`` as views of a flat vector (or one per member)."""
    xp, lead = namespace(params), params.shape[:-1]
    return tuple(xp.reshape(params[..., a.weight], (*lead, a.fan_in, a.fan_out)) for a in layers)


def check_shapes(layers: tuple[Layer, ...], params: Array, x: Array) -> None:
    """Raise ValueError unless parameters and inputs have the shapes that the layers expect."""
    last = layers[-1]
    n_params = (last.weight if last.bias is None else last.bias).stop
    if tuple(params.shape[-1:]) != (n_params,) or len(x.shape) < 2 or x.shape[-1] != layers[0].fan_in:
        expected = f"(..., {n_params}) and (..., batch, {layers[0].fan_in})"
        raise ValueError(
            f"MLP: params and x have shapes {tuple(params.shape)} and {tuple(x.shape)}, expected {expected}"
        )


def zero_of(params: Array) -> Array:
    """Return a 0-d zero in the dtype and on the device of an array."""
    return namespace(params).zeros((), dtype=params.dtype, device=device(params))


def forward(
    layers: tuple[Layer, ...],
    params: Array,
    x: Array,
    *,
    zero: Array | None = None,
    scalings: Scalings | None = None,
    input_gradient: bool = True,
) -> Pair:
    """Return raw outputs and their pullback ``d_params, dx = vjp(dy)``.

    Parameters
    ----------
    params
        ``(..., n_params)``: whatever stands before the last axis are members.
    x
        ``(..., batch, n_features)``; another dtype than that of ``params`` is cast.
    zero
        A 0-d zero in the dtype and on the device of ``params``, see :func:`zero_of`, where nobody else differentiates
        this code: some activations are faster with it.
    scalings
        What :func:`portnn.layout.placed` gives, for the same callers.
    input_gradient
        False leaves dx out (None stands in its place).

    """
    xp, dtype = namespace(params), params.dtype
    check_shapes(layers, params, x)
    if zero is None and not xp.isdtype(dtype, "real floating"):
        raise TypeError(f"MLP: params have dtype {dtype}, expected a real floating one: float32 or float64")
    before, after = placed(layers, params) if scalings is None else scalings
    y = x if x.dtype == dtype else xp.astype(x, dtype)
    if before is not None:
        y, scale_back = before(y)
    pullbacks = []
    for i, (layer, weight) in enumerate(zip(layers, weights_of(layers, params), strict=True)):
        bias = None if layer.bias is None else params[..., layer.bias]
        y, affine = linear(y, weight, bias, input_gradient=input_gradient or i > 0)
        z = (y, zero) if layer.compares_with_zero and zero is not None else (y,)
        y, activation = pair_of(layer.activation, f"MLP: the activation of layer {i}", *z)
        if y.dtype != dtype:  # an activation of the user's: a NumPy scalar in it is enough
            raise TypeError(f"MLP: the activation of layer {i} turns {dtype} into {y.dtype}; use Python numbers in it")
        pullbacks.append((affine, activation))
    if after is not None:
        y, unscale_back = after(y)

    def vjp(dy: Array) -> tuple[Array, ...]:
        if tuple(dy.shape) != tuple(y.shape):
            raise ValueError(f"MLP: dy has shape {tuple(dy.shape)}, the outputs have {tuple(y.shape)}")
        dy = dy if dy.dtype == dtype else xp.astype(dy, dtype)
        pieces: list[Array] = []
        if after is not None:
            (dy,) = unscale_back(dy)
        for affine, activation in reversed(pullbacks):
            dz = activation(dy)
            dy, dweight, *dbias = affine(only(dz))
            pieces[:0] = [xp.reshape(dweight, (*dweight.shape[:-2], -1)), *dbias]
        if before is not None and input_gradient:
            (dy,) = scale_back(dy)
        return of_params(join(xp, pieces), params), dy

    return y, vjp


def of_params(d_params: Array, params: Array) -> Array:
    """Return a gradient in the shape of the parameters: axes of x in front of the batch count as samples."""
    extra = d_params.ndim - params.ndim
    return namespace(d_params).sum(d_params, axis=tuple(range(extra))) if extra > 0 else d_params


def join(xp: Any, pieces: list[Array]) -> Array:
    """Concatenate along the last axis, eight at a time: more would be an upload from the host on CuPy."""
    while len(pieces) > 1:
        pieces = [
            xp.concat(pieces[i : i + 8], axis=-1) if pieces[i + 1 : i + 8] else pieces[i]
            for i in range(0, len(pieces), 8)
        ]
    return pieces[0]
