"""What all exchange of weights shares: arrays looked at one by one, then the layers in a row, then the model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from portnn.backends import dtype_name
from portnn.backends.base import FLOATS
from portnn.checks import check_array
from portnn.errors import reason
from portnn.layout import has_parts
from portnn.mlp import MLP, check_model
from portnn.scaling import Scaling


class Norm(NamedTuple):
    """A normalization as it came, ``(out_features,)`` each; that of a batch has running mean and variance, too."""

    name: str
    gain: numpy.ndarray
    shift: numpy.ndarray
    mean: numpy.ndarray | None = None
    variance: numpy.ndarray | None = None


class Given(NamedTuple):
    """One layer as it came: ``weight`` is (in_features, out_features), and ``name`` is what an error calls it.

    ``norm`` stands between the layer and its activation.
    """

    name: str
    weight: numpy.ndarray
    bias: numpy.ndarray | None
    norm: Norm | None = None

    @property
    def params(self) -> list[numpy.ndarray]:
        """Its arrays in the order of the flat vector."""
        of_norm = [] if self.norm is None else [self.norm.gain, self.norm.shift]
        return [a for a in (self.weight, self.bias, *of_norm) if a is not None]

    @property
    def running(self) -> list[numpy.ndarray]:
        """Its arrays in the order of the running statistics."""
        return [] if self.norm is None else [a for a in (self.norm.mean, self.norm.variance) if a is not None]


def check_single(model: MLP, who: str, *, norms: bool = False) -> None:
    """Raise ValueError where a list of weights, which may hold normalizations if ``norms``, cannot hold the model."""
    check_model(who, model)
    if model.members is not None:
        raise ValueError(f"{who}: the model has {model.members} members, expected a single network; pass model[i]")
    layers = tuple(layer._replace(normalization=None) for layer in model.layers) if norms else model.layers
    if has_parts(layers):
        what = "residuals" if norms else "normalizations or residuals"
        raise ValueError(
            f"{who}: the model has {what}, which a list of weights and biases cannot hold; write it with model.save or "
            "portnn.onnx.to_onnx"
        )
    scalings = {"inputs": model.layers[0].before, "outputs": model.layers[-1].after}
    there = [f"{name}={type(scaling).__name__}" for name, scaling in scalings.items() if scaling is not None]
    if there:
        raise ValueError(
            f"{who}: the model has {' and '.join(there)}, which a list of weights cannot hold; scale the data outside "
            "of a model made without, or write it with portnn.onnx.to_onnx"
        )


def to_host(value: Any, who: str, name: str, ndim: int, expected: str) -> numpy.ndarray:
    """Return an array of any library as one of NumPy, without a gradient; its dtype and number of axes are checked."""
    value = value.detach() if hasattr(value, "detach") else value
    backend = check_array(value, who, name)
    if dtype_name(value.dtype) not in FLOATS:
        raise ValueError(f"{who}: {name} has dtype {value.dtype}, expected float32 or float64; convert it first")
    if len(value.shape) != ndim:
        raise ValueError(f"{who}: {name} has shape {tuple(value.shape)}, expected {expected}")
    try:
        return backend.to_numpy(value)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise ValueError(f"{who}: {name} cannot be copied to the host: {reason(error)}") from None


def stacked(
    who: str,
    layers: Sequence[Given],
    activation: Any,
    backend: Any,
    device: Any,
    inputs: Scaling | None,
    outputs: Scaling | None,
) -> MLP:
    """Return the model, after every shape and dtype has been looked at."""
    dtypes = sorted({a.dtype.name for layer in layers for a in (*layer.params, *layer.running)})
    if len(dtypes) > 1:
        raise ValueError(f"{who}: the arrays have dtypes {' and '.join(dtypes)}, expected one of them for all")
    for name, weight, bias, norm in layers:
        if bias is not None and bias.shape != weight.shape[1:]:
            raise ValueError(f"{who}: the bias of {name} has shape {bias.shape}, its weight gives {weight.shape[1]}")
        if norm is None:
            continue
        for a in norm[1:]:
            if a is not None and a.shape != weight.shape[1:]:
                raise ValueError(f"{who}: {norm.name} has shape {a.shape}, {name} before it gives {weight.shape[1]}")
        if norm.variance is not None and not (norm.variance >= 0.0).all():
            raise ValueError(f"{who}: the running variance of {norm.name} is negative or NaN in places")
    if layers[-1].norm is not None:
        raise ValueError(
            f"{who}: {layers[-1].norm.name} stands behind the last layer, portnn normalizes hidden layers only"
        )
    for before, after in itertools.pairwise(layers):
        if before.weight.shape[1] != after.weight.shape[0]:
            raise ValueError(
                f"{who}: {before.name} gives {before.weight.shape[1]} numbers, {after.name} takes "
                f"{after.weight.shape[0]}; check the order of the layers"
            )
    model = MLP(
        [layers[0].weight.shape[0], *(layer.weight.shape[1] for layer in layers)],
        activation="identity" if activation is None else activation,
        init="zeros",
        bias=[layer.bias is not None for layer in layers],
        dtype=dtypes[0],
        backend=backend,
        device=device,
        inputs=inputs,
        outputs=outputs,
        normalization=[_kind(layer.norm) for layer in layers[:-1]],
    )
    model.params = numpy.concatenate([a.reshape(-1) for layer in layers for a in layer.params])
    if running := [a for layer in layers for a in layer.running]:
        model.running = numpy.concatenate(running)
    model.check_finite(who)
    return model


def _kind(norm: Norm | None) -> str | None:
    return None if norm is None else "layer" if norm.mean is None else "batch"
