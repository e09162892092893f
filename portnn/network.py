"""The network as a pure function of parameters and inputs: layers forward, their pullbacks in reverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from portnn.autograd import pair_of
from portnn.backends import Array, device, get_backend, namespace
from portnn.dropout import dropout, limit_of, mixed
from portnn.layout import Layer, Normalization, placed
from portnn.normalization import batch_norm, fixed_norm, layer_norm, moved
from portnn.primitives import Pair, Pullback, join, linear, only
from portnn.scaling import Placed

Scalings = tuple[Placed | None, Placed | None]
Seen = Callable[[str, int | None, Array], None]  # called with the name of an array, its layer and the array


class Training(NamedTuple):
    """What a batch in training brings beside x: arrays, or None where no layer asks for them.

    ``running`` are the running statistics, ``(..., n_running)``, ``units`` the words of all units with dropout, ``(...,
    n_units)``, ``samples`` those of the batch, ``(batch,)``, ``limits`` what :func:`limits_of` gives.
    """

    running: Array | None = None
    units: Array = None
    samples: Array = None
    limits: tuple[Any, ...] = ()


def limits_of(layers: tuple[Layer, ...], like: Array) -> tuple[Any, ...]:
    """Return the constants of each layer's dropout, made once: a step uploads nothing."""
    return tuple(None if a.dropout is None else limit_of(a.dropout.rate, like) for a in layers)


def running_for(running: Array | None, params: Array) -> Array | None:
    """Return running statistics in the library and dtype and on the device of ``params``, whatever theirs are."""
    if running is None:
        return None
    ours, theirs = get_backend(running), get_backend(params)
    if not (ours.owns(params) and theirs.device_of(params) in (None, ours.device_of(running))):
        xp = namespace(params)
        running = xp.asarray(ours.to_numpy(running), device=device(params), copy=True)
    return running if running.dtype == params.dtype else namespace(running).astype(running, params.dtype)


def weights_of(layers: tuple[Layer, ...], params: Array) -> tuple[Array, ...]:
    """Return the weights ``(in_features, out_features)`` as views of a flat vector (or one per member)."""
    xp, lead = namespace(params), params.shape[:-1]
    return tuple(xp.reshape(params[..., a.weight], (*lead, a.fan_in, a.fan_out)) for a in layers)


def check_shapes(layers: tuple[Layer, ...], params: Array, x: Array) -> None:
    """Raise ValueError unless parameters and inputs have the shapes that the layers expect."""
    n_params = layers[-1].stop
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
    running: Array | None = None,
    zero: Array | None = None,
    scalings: Scalings | None = None,
    input_gradient: bool = True,
) -> Pair:
    """Return raw outputs and their pullback ``d_params, dx = vjp(dy)``: the network in prediction.

    Parameters
    ----------
    params
        ``(..., n_params)``: whatever stands before the last axis are members.
    x
        ``(..., batch, n_features)``; another dtype than that of ``params`` is cast.
    running
        The running statistics of batch norm, ``(..., n_running)``, see :func:`running_for`; None where there is none.
    zero
        A 0-d zero in the dtype and on the device of ``params``, see :func:`zero_of`, where nobody else differentiates
        this code: some activations are faster with it.
    scalings
        What :func:`portnn.layout.placed` gives, for the same callers.
    input_gradient
        False leaves dx out (None stands in its place).

    """
    y, vjp, _ = passes(layers, params, x, running, None, zero, scalings, input_gradient=input_gradient)
    return y, vjp


def passes(
    layers: tuple[Layer, ...],
    params: Array,
    x: Array,
    running: Array | None,
    training: Training | None,
    zero: Array | None,
    scalings: Scalings | None,
    *,
    input_gradient: bool,
    seen: Seen | None = None,
) -> tuple[Array, Pullback, Array | None]:
    """Return outputs, their pullback and the running statistics after this batch: :func:`forward`, in training too.

    ``seen`` is shown every array on the way there and back, see :mod:`portnn.trace`.
    """
    xp, dtype = namespace(params), params.dtype
    check_shapes(layers, params, x)
    if zero is None and not xp.isdtype(dtype, "real floating"):
        raise TypeError(f"MLP: params have dtype {dtype}, expected a real floating one: float32 or float64")
    before, after = placed(layers, params) if scalings is None else scalings
    y = x if x.dtype == dtype else xp.astype(x, dtype)
    if before is not None:
        y, scale_back = before(y)
        if seen:
            seen("scaled inputs", None, y)
    pullbacks, after_batch = [], list[Array]()
    for i, (layer, weight) in enumerate(zip(layers, weights_of(layers, params), strict=True)):
        a, bias, norm, drop = y, None if layer.bias is None else params[..., layer.bias], None, None
        y, affine = linear(y, weight, bias, input_gradient=input_gradient or i > 0)
        if seen:
            seen("pre-activations", i, y)
        if layer.normalization is not None:
            y, norm, statistics = _normalized(layer.normalization, y, params, running, training)
            after_batch += statistics
            if seen:
                seen("normalized pre-activations", i, y)
        z = (y, zero) if layer.compares_with_zero and zero is not None else (y,)
        y, activation = pair_of(layer.activation, f"MLP: the activation of layer {i}", *z)
        if y.dtype != dtype:  # an activation of the user's: a NumPy scalar in it is enough
            raise TypeError(f"MLP: the activation of layer {i} turns {dtype} into {y.dtype}; use Python numbers in it")
        if training is not None and layer.dropout is not None:
            word = mixed(training.samples, training.units[..., layer.dropout.units])
            y, drop = dropout(y, word, *training.limits[i])
        if layer.residual:
            y = a + y
        if seen:
            seen("outputs", i, y)
        pullbacks.append((affine, norm, activation, drop, a.ndim if layer.residual else None))
    if after is not None:
        y, unscale_back = after(y)
        if seen:
            seen("scaled outputs", None, y)

    def vjp(dy: Array) -> tuple[Array, ...]:
        if tuple(dy.shape) != tuple(y.shape):
            raise ValueError(f"MLP: dy has shape {tuple(dy.shape)}, the outputs have {tuple(y.shape)}")
        dy = dy if dy.dtype == dtype else xp.astype(dy, dtype)
        pieces: list[Array] = []
        if after is not None:
            (dy,) = unscale_back(dy)
        for i, (affine, norm, activation, drop, added) in reversed(list(enumerate(pullbacks))):
            if seen:
                seen("gradient of the outputs", i, dy)
            dz = only(activation(dy if drop is None else drop(dy)[0]))
            if seen:
                seen("gradient behind the activation", i, dz)
            dz, *of_norm = (dz,) if norm is None else norm(dz)
            da, dweight, *dbias = affine(dz)
            if added is not None and da is not None:
                da = da + of_shared(dy, added)
            if seen:
                seen("gradient of the pre-activations", i, dz)
            dy = da
            pieces[:0] = [xp.reshape(dweight, (*dweight.shape[:-2], -1)), *dbias, *of_norm]
        if before is not None and input_gradient:
            (dy,) = scale_back(dy)
        return of_params(join(xp, pieces), params), dy

    return y, vjp, join(namespace(y), after_batch) if after_batch else None


def _normalized(
    norm: Normalization, z: Array, params: Array, running: Array | None, training: Training | None
) -> tuple[Array, Pullback, list[Array]]:
    """Return z normalized, the pullback to z, gain and shift, and running mean and variance after this batch.

    A batch of one sample has no variance: it is normalized with the running statistics, and leaves them as they are.
    """
    gain, shift = params[..., norm.gain], params[..., norm.shift]
    if norm.kind == "layer":
        return *layer_norm(z, gain, shift), []
    running = running if training is None else training.running
    if running is None:
        message = "MLP: a network with batch norm needs its running statistics: model.running"
        raise ValueError(message)
    if running.ndim > params.ndim:
        raise ValueError(
            f"MLP: params have shape {tuple(params.shape)}, but each of the {running.shape[0]} members of the model "
            "has running statistics of its own; use model[i], or params of all members"
        )
    mean, variance = running[..., norm.mean], running[..., norm.variance]
    n = z.shape[-2]
    if training is None or n == 1:
        return *fixed_norm(z, gain, shift, mean, variance), [] if training is None else [mean, variance]
    (y, of_batch, spread), vjp = batch_norm(z, gain, shift)
    return y, vjp, [moved(mean, of_batch), moved(variance, spread * (n / (n - 1)))]


def of_shared(dy: Array, ndim: int) -> Array:
    """Return the cotangent of an array with ``ndim`` axes that all members share: the sum of theirs."""
    return namespace(dy).sum(dy, axis=tuple(range(dy.ndim - ndim))) if dy.ndim > ndim else dy


def of_params(d_params: Array, params: Array) -> Array:
    """Return a gradient in the shape of the parameters: axes of x in front of the batch count as samples."""
    extra = d_params.ndim - params.ndim
    return namespace(d_params).sum(d_params, axis=tuple(range(extra))) if extra > 0 else d_params
