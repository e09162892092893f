"""What a checkpoint file holds, and how it is read without being trusted.

One safetensors file holds all of one moment: the tensors of the model as :meth:`portnn.MLP.save` writes them, and
under ``training/`` the optimizer's arrays, the sums of the epoch so far, the history, what schedules and callbacks
remember, and a record, which is JSON as Python reads it (it may say NaN and Infinity). Nothing random has to be kept:
the order of an epoch and the masks of dropout are pure functions of seed and epoch. The SHA-256 of all arrays is in the
metadata.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy

from portnn import model_file, storage
from portnn.backends import get_backend
from portnn.errors import FormatError, shown
from portnn.files import naming
from portnn.history import History

FORMAT = 1
OPTIMIZER, SUMS, HISTORY = (f"{model_file.TRAINING}{part}/" for part in ("optimizer", "sums", "history"))
_NAME = re.compile(r"checkpoint-(\d{12,15})\.safetensors")


class Kept(NamedTuple):
    """What a file holds, checked against its sum."""

    path: str
    arrays: dict[str, numpy.ndarray]
    metadata: dict[str, str]
    record: dict[str, Any]


def summary(path: str) -> dict[str, str]:
    """Return how far the training had come as ``{"checkpoint": text}``, nothing for a file that is only a model."""
    infos, _ = storage.read_safetensors_header(path)
    if model_file.RECORD not in infos:
        return {}
    kept = read(path, "checkpoint").record
    batches = f" and {kept['batch']} batches" if kept["row"] else ""
    made = " ".join(str(kept["made_with"][name]) for name in ("backend", "version") if name in kept["made_with"])
    return {"checkpoint": f"after {kept['epoch']} epochs{batches}, {kept['updates']:,} updates; made with {made}"}


def listed(folder: str) -> list[tuple[int, str]]:
    """Return (updates, path) of the checkpoints in a folder, the newest first; none where it is not there."""
    found = [(_NAME.fullmatch(name), name) for name in (os.listdir(folder) if os.path.isdir(folder) else ())]
    paths = ((int(m[1]), os.path.join(folder, name)) for m, name in found if m)
    return sorted(((number, path) for number, path in paths if os.path.isfile(path)), reverse=True)


def read(path: str, who: str) -> Kept:
    """Read a checkpoint; FormatError if it is none, is damaged, or is of a newer format."""
    arrays, metadata = storage.read_safetensors_file(path)
    with naming(who, path):
        if "checkpoint" not in metadata or model_file.RECORD not in arrays:
            message = "a safetensors file, but not a checkpoint; MLP.load reads models"
            raise FormatError(message)
        try:
            number = storage.parse_json(metadata["checkpoint"].encode(), "the position")["format"]
            if number > FORMAT:
                raise FormatError(f"checkpoint format {number} > {FORMAT}; update portnn")
            model_file.check_sum(arrays, metadata.get("sha256", "nothing"))
            record = json.loads(arrays[model_file.RECORD].tobytes())  # states of callbacks may be NaN
            if record["model"] != metadata["portnn"] or record["format"] != number:
                message = "its metadata are not those that were written: the file is damaged"
                raise FormatError(message)
            kept = Kept(path, arrays, metadata, record)
            _check(kept)
        except FormatError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise FormatError(f"not a checkpoint of portnn ({type(error).__name__}: {error})") from error
        return kept


def _check(kept: Kept) -> None:
    """Take hold of everything that is used later; an error of any kind means that it is not there.

    A file may come from anywhere: its parts must fit each other.
    """
    record = kept.record
    numbers = [record[name] for name in ("epoch", "row", "updates", "chunk_rows")]
    _demand(all(type(number) is int and number >= 0 for number in numbers), "a position is not a whole number")
    epoch, row, config, history = record["epoch"], record["row"], record["configuration"], history_of(kept)
    _demand(isinstance(config, dict) and isinstance(record["made_with"], dict), "the configuration is no object")
    n, batch_size, members = int(config["x"]["shape"][0]), int(config["batch_size"]), config["members"]
    _demand(row == n or (row < n and row % batch_size == 0), f"it stands at sample {row} of {n}, where no batch ends")
    sums = under(SUMS, kept)
    _demand(("loss" in sums) == (row > 0), "the sums of its epoch are missing, or of no samples")
    shape = () if members is None else (members,)
    _demand(all(a.shape == shape and numpy.isfinite(a).all() for a in sums.values()), "a sum of its epoch is no number")
    _demand(len(history.get("loss", ())) == epoch, f"its history is not of {epoch} epochs")
    _demand(set(record["gone"]) <= set(history), "its history lacks lists that it names")
    float(record["seconds"]), bool(record["ended"])
    for entry in (*record["callbacks"], *record["schedules"]):
        unpacked(entry["state"], kept), str(entry["type"])


def _demand(so: bool, otherwise: str) -> None:
    if not so:
        raise ValueError(otherwise)


def newest(folder: str, who: str, stacklevel: int = 3) -> tuple[Kept | None, list[str]]:
    """Return the newest valid checkpoint in a folder, and the paths of newer ones that are not, with a warning.

    None if there is none at all; FormatError if none is valid.
    """
    bad: dict[str, str] = {}
    for _, path in listed(folder):
        try:
            kept = read(path, who)
        except FileNotFoundError:  # another process has just written a newer one
            return newest(folder, who, stacklevel + 1)
        except (FormatError, OSError) as error:  # a disk that cannot read it is a reason to go back, too
            bad[path] = str(error)
            continue
        if bad:
            why = next(iter(bad.values())).removeprefix(f"{who}: ")
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            warnings.warn(f"{who}: going back to {shown(path)}, since {why}{more}", stacklevel=stacklevel)
        return kept, list(bad)
    if bad:
        why = next(iter(bad.values())).removeprefix(f"{who}: ")
        raise FormatError(f"{who}: none of the {len(bad)} checkpoints in {shown(folder)} is valid: {why}"[:480])
    return None, []


def under(prefix: str, kept: Kept) -> dict[str, numpy.ndarray]:
    """Return the arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): a for name, a in kept.arrays.items() if name.startswith(prefix)}


def packed_history(history: History, lengths: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """Return the first entries of a history: floats as arrays, exactly; what else callbacks wrote down as JSON."""
    lists: list[dict[str, Any]] = []
    arrays = {}
    for i, (name, n) in enumerate(lengths.items()):
        values = history[name][:n]
        shapes = {len(v) if isinstance(v, list) else None for v in values}
        flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
        if len(shapes) == 1 and all(isinstance(v, float) for v in flat):
            arrays[f"{HISTORY}{i}"] = numpy.asarray(values, dtype="float64")
            lists.append({"name": name, "tensor": f"{HISTORY}{i}"})
        else:
            plain = [v.item() if isinstance(v, numpy.generic) else v for v in values]
            lists.append({"name": name, "values": _as_json(plain, f"history[{name!r}]")})
    return {"lists": lists, "names": list(history.names), "epochs": history.epochs}, arrays


def history_of(kept: Kept) -> History:
    """Return the history in a checkpoint."""
    known, history = kept.record["history"], History()
    for entry in known["lists"]:
        values = kept.arrays[entry["tensor"]].tolist() if "tensor" in entry else list(entry["values"])
        history[str(entry["name"])] = values
    history.names, history.epochs = tuple(map(str, known["names"])), int(known["epochs"])
    return history


def packed(state: Any, prefix: str, who: str) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """Return what a callback or a schedule remembers, as JSON and as arrays of the host that nobody else holds."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise TypeError(f"fit: {who}.state() must return a dict with texts as keys, got {shown(state)}")
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    arrays: dict[str, numpy.ndarray] = {}
    for name, value in state.items():
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            a = numpy.asarray(value) if isinstance(value, numpy.generic) else get_backend(value).to_numpy(value)
            names[name] = f"{prefix}{len(arrays)}"
            arrays[names[name]] = numpy.array(a, copy=True)
            continue
        values[name] = _as_json(value, f"{who}.state()[{name!r}]")
    return {"values": values, "arrays": names}, arrays


def _as_json(value: Any, what: str) -> Any:
    """Return a value as it comes back from a file, in memory of its own; a tuple comes back as a list."""
    try:
        if not _has_texts_as_keys(value):
            raise TypeError
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        raise TypeError(
            f"fit: {what} is a {type(value).__name__}, or holds what a checkpoint cannot; expected numbers, texts, "
            "lists and dicts of them with texts as keys, in a state also arrays"
        ) from None


def _has_texts_as_keys(value: Any) -> bool:
    """Whether JSON would leave the keys of all dicts as they are."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _has_texts_as_keys(part) for key, part in value.items())
    return not isinstance(value, list | tuple) or all(map(_has_texts_as_keys, value))


def unpacked(packed: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
    """Return what was packed."""
    return {**packed["values"], **{name: kept.arrays[tensor] for name, tensor in packed["arrays"].items()}}
