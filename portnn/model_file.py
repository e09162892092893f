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
from portnn.layout import Layer, check_sizes, layout, options
from portnn.scaling import described, from_description

FORMAT = 3  # 2 has no parts of hidden layers, 1 no scalings: the oldest that can hold a model is written
_CONFIG = ("sizes", "dtype", "members", "seed", "activation", "bias")
_MORE = ("dropout", "normalization", "residual")


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
    running: numpy.ndarray | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the flat vectors (or one per member), cut into the tensors of layers; ``metadata`` are other texts."""
    if "portnn" in (metadata or {}):
        message = "MLP.save: 'portnn' in the metadata is the model's own; choose another name"
        raise ValueError(message)
    names = activation_names(layers, "MLP.save")
    biases = [layer.bias is not None for layer in layers]
    scalings = {"inputs": described(layers[0].before), "outputs": described(layers[-1].after)}
    scalings = {name: scaling for name, scaling in scalings.items() if scaling is not None}
    more = options(layers)
    number = FORMAT if more else 2 if scalings else 1
    whole = {"format": number, **config, "activation": names, "bias": biases, **scalings, **more}
    lead, vectors = params.shape[:-1], (params, params if running is None else running)
    arrays = {name: vectors[kept][..., place].reshape(*lead, *shape) for name, place, shape, kept in _tensors(layers)}
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


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], numpy.ndarray, numpy.ndarray | None]:
    """Return the arguments of MLP, the flat vector and the running statistics.

    FormatError unless the file holds exactly such a model.
    """
    arrays, metadata = storage.read_safetensors_file(path)
    where = f"MLP.load: {os.fspath(path)!r}"
    if "portnn" not in metadata:
        raise FormatError(f"{where} is a safetensors file, but not of a portnn model (no 'portnn' in its metadata)")
    try:
        config = json.loads(metadata["portnn"])
        if config["format"] > FORMAT:
            raise FormatError(f"{where}: format {config['format']} > {FORMAT}; update portnn")
        scalings = {name: from_description(config[name]) for name in ("inputs", "outputs") if name in config}
        more = {name: config[name] for name in _MORE if name in config}
        config = {name: config[name] for name in _CONFIG} | scalings | more
        for name in config["activation"]:
            get_activation(name)
        sizes, activation, bias, members = (config[name] for name in ("sizes", "activation", "bias", "members"))
        layers = layout(check_sizes(sizes), activation, bias, **scalings, **more, members=members)
        lead = () if config["members"] is None else (config["members"],)
        wanted = _tensors(layers)
    except FormatError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, ArithmeticError) as error:
        raise FormatError(f"{where}: the configuration is not one of a portnn model: {error}") from error
    pieces: dict[bool, list[numpy.ndarray]] = {False: [], True: []}
    for name, _, shape, kept in wanted:
        if name not in arrays:
            raise FormatError(f"{where}: tensor {name!r} is missing")
        if arrays[name].shape != (*lead, *shape) or arrays[name].dtype.name != config["dtype"]:
            got = f"{arrays[name].dtype.name} {arrays[name].shape}"
            raise FormatError(
                f"{where}: tensor {name!r} is {got}, the configuration says {config['dtype']} {(*lead, *shape)}"
            )
        if name.endswith("variance") and not (arrays[name] >= 0.0).all():
            raise FormatError(f"{where}: tensor {name!r} holds a variance that is negative or NaN")
        pieces[kept].append(arrays[name].reshape(*lead, -1))
    if len(arrays) != len(wanted):
        extra = sorted(set(arrays) - {name for name, *_ in wanted})
        raise FormatError(f"{where}: {len(extra)} tensors are not of this model, the first is {extra[0]!r}")
    params, *running = (numpy.concatenate(each, axis=-1) for each in pieces.values() if each)
    return config, params, running[0] if running else None


def _tensors(layers: tuple[Layer, ...]) -> list[tuple[str, slice, tuple[int, ...], bool]]:
    """Return (name, place in its vector, shape, whether that is the running statistics) of all tensors, in order."""
    tensors: list[tuple[str, slice, tuple[int, ...], bool]] = []
    for i, layer in enumerate(layers):
        tensors += [(f"layers.{i}.{name}", *part, False) for name, part in layer.parts.items()]
        norm = layer.normalization
        if norm is not None and norm.mean is not None and norm.variance is not None:
            kept = {"running_mean": norm.mean, "running_variance": norm.variance}
            tensors += [(f"layers.{i}.{name}", place, (layer.fan_out,), True) for name, place in kept.items()]
    return tensors
