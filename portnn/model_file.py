"""A model as a safetensors file: one tensor per weight and bias, the configuration as JSON in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy

from portnn import storage
from portnn.activations import describe_activation, get_activation
from portnn.backends import one_of
from portnn.backends.base import FLOATS
from portnn.checks import check_count
from portnn.errors import FormatError, reason, shown
from portnn.files import naming
from portnn.layout import Layer, check_seeds, check_sizes, layout, options
from portnn.scaling import check_width, described, from_description

FORMAT = 3  # 2 has no parts of hidden layers, 1 no scalings: the oldest that can hold a model is written
_CONFIG = ("sizes", "dtype", "members", "seed", "activation", "bias")
T = TypeVar("T")
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
    whole["sha256"] = storage.payload_sha256(arrays)
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

    FormatError unless the file holds exactly such a model, with the very numbers that were saved: their SHA-256 is in
    the metadata, though not in files of releases before it was, which are read without.
    """
    arrays, metadata = storage.read_safetensors_file(path)
    with naming("MLP.load", path):
        if "portnn" not in metadata:
            message = "a safetensors file, but not of a portnn model (no 'portnn' in its metadata)"
            raise FormatError(message)
        whole = storage.parse_json(metadata["portnn"].encode(), "the configuration")
        config, layers = _configuration(whole)
        pieces = _pieces(arrays, config, layers)
        _or_format_error(lambda: check_seeds(config["seed"], config["members"]))  # as many as there are members
        saved = whole.get("sha256")
        if saved is not None and saved != (found := storage.payload_sha256(arrays)):
            raise FormatError(
                f"sha256 mismatch: the tensors have {found}, saved were {shown(saved)}; the file is damaged"
            )
    params, *running = (numpy.concatenate(each, axis=-1) for each in pieces.values() if each)
    return config, params, running[0] if running else None


def _configuration(whole: Any) -> tuple[dict[str, Any], tuple[Layer, ...]]:
    """Return the arguments of MLP and the layers that they make; FormatError unless all of them are good ones."""

    def parsed() -> tuple[dict[str, Any], tuple[Layer, ...]]:
        if check_count("MLP", "format", whole["format"]) > FORMAT:
            raise FormatError(f"format {shown(whole['format'])} > {FORMAT}; update portnn")
        scalings = {name: from_description(whole[name]) for name in ("inputs", "outputs") if name in whole}
        more = {name: whole[name] for name in _MORE if name in whole}
        config = {name: whole[name] for name in _CONFIG} | scalings | more
        for name in config["activation"]:
            get_activation(name)
        sizes, activation, bias, members = (config[name] for name in ("sizes", "activation", "bias", "members"))
        if members is not None:
            check_count("MLP", "members", members)
        layers = layout(check_sizes(sizes), activation, bias, **scalings, **more, members=members)
        one_of("dtype", config["dtype"], FLOATS)
        check_width(layers[0].before, layers[-1].after, config["dtype"])
        return config, layers

    return _or_format_error(parsed)


def _or_format_error(check: Callable[[], T]) -> T:
    try:
        return check()
    except FormatError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArithmeticError) as error:
        said = f"{type(error).__name__}: {reason(error)}"
        raise FormatError(
            f"the configuration is not one of a portnn model ('portnn' in the metadata): {said}"
        ) from error


def _pieces(
    arrays: Mapping[str, numpy.ndarray], config: dict[str, Any], layers: tuple[Layer, ...]
) -> dict[bool, list[numpy.ndarray]]:
    """Return the tensors of the parameters (False) and of the running statistics (True), each as vectors in order."""
    lead, wanted = () if config["members"] is None else (config["members"],), _tensors(layers)
    pieces: dict[bool, list[numpy.ndarray]] = {False: [], True: []}
    for name, _, shape, kept in wanted:
        what = f"tensor {shown(name)}"
        if name not in arrays:
            raise FormatError(f"{what} is missing")
        a = arrays[name]
        if a.shape != (*lead, *shape) or a.dtype.name != config["dtype"]:
            expected = f"{config['dtype']} {(*lead, *shape)}"
            raise FormatError(f"{what} is {a.dtype.name} {a.shape}, the configuration says {expected}")
        if name.endswith("variance") and not (a >= 0.0).all():
            raise FormatError(f"{what} holds a variance that is negative or NaN")
        if not numpy.isfinite(a).all():
            raise FormatError(f"{what} holds NaN or infinity")
        pieces[kept].append(a.reshape(*lead, -1))
    if len(arrays) != len(wanted):
        extra = sorted(set(arrays) - {name for name, *_ in wanted})
        raise FormatError(f"{len(extra)} tensors are not of this model, the first is {shown(extra[0])}")
    return pieces


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
