"""A model as a safetensors file: one tensor per weight and bias, the configuration as JSON in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy

from portnn import scaling, storage
from portnn.activations import describe_activation, get_activation
from portnn.backends import one_of
from portnn.backends.base import FLOATS
from portnn.checks import check_count
from portnn.errors import FormatError, reason, shown
from portnn.files import naming
from portnn.json_text import parse_json
from portnn.layout import Layer, check_seeds, check_sizes, layout, options
from portnn.scaling import check_width

FORMAT = 4  # 3: no long lists, 2: no parts of hidden layers, 1: no scalings; the oldest that will do is written
LISTS = "configuration/"  # what the names of the tensors begin with that are long lists of the configuration
LONG = 256  # entries of a list; longer ones, such as the seeds of many members, are tensors
MOST = 1 << 18  # numbers in all these lists: as Python's they take some 40 bytes each
TRAINING = "training/"  # what the names of a checkpoint's other tensors begin with
RECORD = TRAINING + "record"  # the one that says it is a checkpoint
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
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"MLP.save: metadata must map str to str, got {type(metadata).__name__}")
    if "portnn" in (metadata or {}):
        message = "MLP.save: 'portnn' in the metadata is the model's own; choose another name"
        raise ValueError(message)
    activation_names(layers, "MLP.save")
    whole, lists = packed(described(config, layers), "MLP.save")
    arrays = {**cut(layers, params, running), **lists}
    whole = {**whole, "sha256": storage.payload_sha256(arrays)}
    storage.write_safetensors_file(path, arrays, {**(metadata or {}), "portnn": json.dumps(whole)})


def described(config: dict[str, Any], layers: tuple[Layer, ...]) -> dict[str, Any]:
    """Return the configuration that a file keeps, as JSON has it; an activation of the user's own is ``<its name>``."""
    names = [describe_activation(layer.activation) for layer in layers]
    biases = [layer.bias is not None for layer in layers]
    scalings = {"inputs": scaling.described(layers[0].before), "outputs": scaling.described(layers[-1].after)}
    scalings = {name: kept for name, kept in scalings.items() if kept is not None}
    more = options(layers)
    number = 3 if more else 2 if scalings else 1
    return {"format": number, **config, "activation": names, "bias": biases, **scalings, **more}


def packed(whole: dict[str, Any], who: str) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """Return a configuration whose long lists of numbers are ``{"tensor": name}``, and these tensors, exactly.

    Examples
    --------
    >>> packed({"format": 1, "seed": [2**63] * 1000}, "save")[0]
    {'format': 4, 'seed': {'tensor': 'configuration/seed'}}

    """
    arrays: dict[str, numpy.ndarray] = {}

    def out(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: out(part, f"{name}/{key}") for key, part in value.items()}
        if not isinstance(value, list | tuple):
            return value
        a = _as_tensor(value) if len(value) > LONG else None
        if a is None:
            return [out(part, f"{name}/{i}") for i, part in enumerate(value)]
        arrays[name] = a
        return {"tensor": name}

    plain = {key: out(value, f"{LISTS}{key}") for key, value in whole.items()}
    if (n := sum(a.size for a in arrays.values())) > MOST:
        raise ValueError(f"{who}: the lists of the configuration hold {n} numbers, a file at most {MOST}; use fewer")
    return (whole, {}) if not arrays else ({**plain, "format": FORMAT}, arrays)


def _as_tensor(values: Sequence[Any]) -> numpy.ndarray | None:
    kinds = set(map(type, values))
    if kinds == {float}:
        return numpy.asarray(values, dtype="float64")
    return numpy.asarray(values, dtype="uint64") if kinds == {int} and 0 <= min(values) <= max(values) < 2**64 else None


def _unpacked(whole: Any, arrays: dict[str, numpy.ndarray]) -> Any:
    """Return the configuration with the lists that are tensors; FormatError unless each of these is one of them."""
    lists = {name: a for name, a in arrays.items() if name.startswith(LISTS)}
    if (n := sum(a.size for a in lists.values())) > MOST:
        raise FormatError(f"the lists of the configuration hold {n} numbers, at most {MOST} are read")

    def back(value: Any) -> Any:
        if isinstance(value, list):
            return [back(part) for part in value]
        if not isinstance(value, dict):
            return value
        if set(value) != {"tensor"}:
            return {key: back(part) for key, part in value.items()}
        a = lists.pop(value["tensor"], None)
        if a is None or a.ndim != 1 or a.dtype.name not in ("float64", "uint64"):
            raise FormatError(f"the configuration names a list {shown(value['tensor'])} that is not there, or is none")
        return a.tolist()

    whole = back(whole)
    if lists:
        raise FormatError(f"{len(lists)} tensors are not of this model, the first is {shown(min(lists))}")
    return whole


def cut(
    layers: tuple[Layer, ...], params: numpy.ndarray, running: numpy.ndarray | None = None
) -> dict[str, numpy.ndarray]:
    """Return the tensors of layers that flat vectors (or one per member) consist of."""
    lead, vectors = params.shape[:-1], (params, params if running is None else running)
    return {name: vectors[kept][..., place].reshape(*lead, *shape) for name, place, shape, kept in _tensors(layers)}


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

    FormatError unless the file holds exactly such a model, or a checkpoint of its training, with the very numbers that
    were saved: their SHA-256 is in the metadata, though not in files of releases before it was, which are read without.
    """
    arrays, metadata = storage.read_safetensors_file(path)
    with naming("MLP.load", path):
        if RECORD in arrays:
            check_sum(arrays, metadata.get("sha256", "nothing"))
        return parsed(arrays, metadata)


def check_sum(arrays: Mapping[str, numpy.ndarray], saved: object) -> None:
    """FormatError unless the arrays have the SHA-256 of those that were written."""
    if saved != (found := storage.payload_sha256(arrays)):
        raise FormatError(f"sha256 mismatch: the tensors have {found}, saved were {shown(saved)}; the file is damaged")


def parsed(
    arrays: dict[str, numpy.ndarray], metadata: Mapping[str, str]
) -> tuple[dict[str, Any], numpy.ndarray, numpy.ndarray | None]:
    """Return what :func:`read` does from the arrays and metadata of a file."""
    if "portnn" not in metadata:
        message = "a safetensors file, but not of a portnn model (no 'portnn' in its metadata)"
        raise FormatError(message)
    whole, model = parse_json(metadata["portnn"].encode(), "the configuration"), of_model(arrays)
    config, layers = _configuration(_or_format_error(lambda: _unpacked(whole, model)), len(weights(arrays)))
    lead = () if config["members"] is None else (config["members"],)
    params, running = joined(weights(arrays), layers, lead, config["dtype"])
    _or_format_error(lambda: check_seeds(config["seed"], config["members"]))  # as many as there are members
    if whole.get("sha256") is not None:
        check_sum(model, whole["sha256"])
    return config, params, running


def _configuration(whole: Any, n_tensors: int) -> tuple[dict[str, Any], tuple[Layer, ...]]:
    """Return the arguments of MLP and the layers that they make; FormatError unless all of them are good ones.

    Every layer has a weight: more of them than tensors in the file are refused before anything is made for them.
    """

    def parsed() -> tuple[dict[str, Any], tuple[Layer, ...]]:
        if check_count("MLP", "format", whole["format"]) > FORMAT:
            raise FormatError(f"format {shown(whole['format'])} > {FORMAT}; update portnn")
        scalings = {name: scaling.from_description(whole[name]) for name in ("inputs", "outputs") if name in whole}
        more = {name: whole[name] for name in _MORE if name in whole}
        config = {name: whole[name] for name in _CONFIG} | scalings | more
        sizes, activation, bias, members = (config[name] for name in ("sizes", "activation", "bias", "members"))
        sizes = check_sizes(sizes)
        if len(sizes) - 1 > n_tensors:
            raise FormatError(f"sizes has {len(sizes) - 1} layers, the file holds {n_tensors} tensors")
        for name in config["activation"]:
            if isinstance(name, str) and name.startswith("<"):
                raise FormatError(
                    f"the activation {shown(name)} is a function of the user's, which no file holds; make the model "
                    "and give it to fit(..., resume=True)"
                )
            get_activation(name)
        if members is not None:
            check_count("MLP", "members", members)
        layers = layout(sizes, activation, bias, **scalings, **more, members=members)
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


def of_model(arrays: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """Return the tensors of the model: all of them, unless they are those of a checkpoint."""
    return {name: a for name, a in arrays.items() if RECORD not in arrays or not name.startswith(TRAINING)}


def weights(arrays: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """Return those of the model's tensors that its vectors consist of."""
    return {name: a for name, a in of_model(arrays).items() if not name.startswith(LISTS)}


def joined(
    arrays: Mapping[str, numpy.ndarray], layers: tuple[Layer, ...], lead: tuple[int, ...], dtype: str
) -> tuple[numpy.ndarray, numpy.ndarray | None]:
    """Return the flat vectors that tensors of layers consist of; ``lead`` is (), or (members,)."""
    wanted = _tensors(layers)
    pieces: dict[bool, list[numpy.ndarray]] = {False: [], True: []}
    for name, _, shape, kept in wanted:
        what = f"tensor {shown(name)}"
        if name not in arrays:
            raise FormatError(f"{what} is missing")
        a = arrays[name]
        if a.shape != (*lead, *shape) or a.dtype.name != dtype:
            expected = f"{dtype} {(*lead, *shape)}"
            raise FormatError(f"{what} is {a.dtype.name} {a.shape}, the configuration says {expected}")
        if name.endswith("variance") and not (a >= 0.0).all():
            raise FormatError(f"{what} holds a variance that is negative or NaN")
        if not numpy.isfinite(a).all():
            raise FormatError(f"{what} holds NaN or infinity")
        pieces[kept].append(a.reshape(*lead, -1))
    if len(arrays) != len(wanted):
        extra = sorted(set(arrays) - {name for name, *_ in wanted})
        raise FormatError(f"{len(extra)} tensors are not of this model, the first is {shown(extra[0])}")
    params, *running = (numpy.concatenate(each, axis=-1) for each in pieces.values() if each)
    return params, running[0] if running else None


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
