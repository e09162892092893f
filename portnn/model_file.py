"""A model as a safetensors file: one tensor per weight and bias, the configuration as JSON in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy

from portnn import storage
from portnn.activations import describe_activation, get_activation
from portnn.errors import FormatError
from portnn.layout import Layer, check_sizes, layout
from portnn.scaling import described, from_description

FORMAT = 2  # 1, which has no scalings, is written where there are none
_CONFIG = ("sizes", "dtype", "members", "seed", "activation", "bias")


def activation_names(layers: tuple[Layer, ...], who: str) -> list[str]:
    """Return the names of the activations; ValueError for one of the user's own."""
    names = [describe_activation(layer.activation) for layer in layers]
    for i, name in enumerate(names):
        if name.startswith("<"):
            raise ValueError(
                f"{who}: the activation of layer {i} is your own function {name}, which a file cannot hold; "
                "save model.params instead"
            )
    return names


def write(
    path: str | os.PathLike[str],
    config: dict[str, Any],
    layers: tuple[Layer, ...],
    params: numpy.ndarray,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the flat vector (or one per member), cut into the tensors of its layers; ``metadata`` are other texts."""
    if "portnn" in (metadata or {}):
        message = "MLP.save: 'portnn' in the metadata is the model's own; choose another name"
        raise ValueError(message)
    names = activation_names(layers, "MLP.save")
    biases = [layer.bias is not None for layer in layers]
    scalings = {"inputs": described(layers[0].before), "outputs": described(layers[-1].after)}
    scalings = {name: scaling for name, scaling in scalings.items() if scaling is not None}
    whole = {"format": FORMAT if scalings else 1, **config, "activation": names, "bias": biases, **scalings}
    lead = params.shape[:-1]
    arrays = {
        name: params[..., place].reshape(*lead, *shape)
        for layer in range(len(layers))
        for name, place, shape in _tensors(layers, layer)
    }
    storage.write_safetensors_file(path, arrays, {**(metadata or {}), "portnn": json.dumps(whole)})


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts that were saved with a model, beside its own configuration under ``portnn``.

    Examples
    --------
    >>> import tempfile, portnn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     portnn.MLP([2, 1]).save(f"{folder}/m.safetensors", metadata={"unit": "kelvin"})
    ...     metadata(f"{folder}/m.safetensors")["unit"]
    'kelvin'

    """
    return storage.read_safetensors_header(path)[1]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], numpy.ndarray]:
    """Return the arguments of MLP and the flat vector; FormatError unless the file holds exactly such a model."""
    arrays, metadata = storage.read_safetensors_file(path)
    where = f"MLP.load: {os.fspath(path)!r}"
    if "portnn" not in metadata:
        raise FormatError(f"{where} is a safetensors file, but not of a portnn model (no 'portnn' in its metadata)")
    try:
        config = json.loads(metadata["portnn"])
        if config["format"] > FORMAT:
            raise FormatError(f"{where}: format {config['format']} > {FORMAT}; update portnn")
        scalings = {name: from_description(config[name]) for name in ("inputs", "outputs") if name in config}
        config = {name: config[name] for name in _CONFIG} | scalings
        for name in config["activation"]:
            get_activation(name)
        layers = layout(check_sizes(config["sizes"]), config["activation"], config["bias"], **scalings)
        lead = () if config["members"] is None else (config["members"],)
        wanted = [tensor for i in range(len(layers)) for tensor in _tensors(layers, i)]
    except FormatError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, ArithmeticError) as error:
        raise FormatError(f"{where}: the configuration is not one of a portnn model: {error}") from error
    pieces = []
    for name, _, shape in wanted:
        if name not in arrays:
            raise FormatError(f"{where}: tensor {name!r} is missing")
        if arrays[name].shape != (*lead, *shape) or arrays[name].dtype.name != config["dtype"]:
            got = f"{arrays[name].dtype.name} {arrays[name].shape}"
            raise FormatError(
                f"{where}: tensor {name!r} is {got}, the configuration says {config['dtype']} {(*lead, *shape)}"
            )
        pieces.append(arrays[name].reshape(*lead, -1))
    if len(arrays) != len(wanted):
        extra = sorted(set(arrays) - {name for name, *_ in wanted})
        raise FormatError(f"{where}: {len(extra)} tensors are not of this model, the first is {extra[0]!r}")
    return config, numpy.concatenate(pieces, axis=-1)


def _tensors(layers: tuple[Layer, ...], i: int) -> list[tuple[str, slice, tuple[int, ...]]]:
    """Return (name, place in the flat vector, shape) of the tensors of layer ``i``."""
    layer = layers[i]
    tensors: list[tuple[str, slice, tuple[int, ...]]] = [
        (f"layers.{i}.weight", layer.weight, (layer.fan_in, layer.fan_out))
    ]
    if layer.bias is not None:
        tensors.append((f"layers.{i}.bias", layer.bias, (layer.fan_out,)))
    return tensors
