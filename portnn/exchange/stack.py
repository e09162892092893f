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
from portnn.mlp import MLP
from portnn.scaling import Scaling


class Given(NamedTuple):
    """One layer as it came: ``weight`` is (in_features, out_features), and ``name`` is what an error calls it."""

    name: str
    weight: numpy.ndarray
    bias: numpy.ndarray | None


def check_single(model: MLP, who: str) -> None:
    """Raise ValueError where a list of weights cannot hold the model."""
    if model.members is not None:
        raise ValueError(f"{who}: the model has {model.members} members, expected a single network; pass model[i]")
    if has_parts(model.layers):
        raise ValueError(
            f"{who}: the model has normalizations or residuals, which a list of weights and biases cannot hold; write "
            "it with model.save or portnn.onnx.to_onnx"
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
    dtypes = sorted({a.dtype.name for layer in layers for a in (layer.weight, layer.bias) if a is not None})
    if len(dtypes) > 1:
        raise ValueError(f"{who}: the arrays have dtypes {' and '.join(dtypes)}, expected one of them for all")
    for name, weight, bias in layers:
        if bias is not None and bias.shape != weight.shape[1:]:
            raise ValueError(f"{who}: the bias of {name} has shape {bias.shape}, its weight gives {weight.shape[1]}")
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
    )
    pieces = [a.reshape(-1) for layer in layers for a in (layer.weight, layer.bias) if a is not None]
    model.params = numpy.concatenate(pieces)
    model.check_finite(who)
    return model
