"""What the record of a checkpoint says, and how each entry of it is looked at before it is believed.

The record is JSON, in which NaN and Infinity may stand; what is long stands in tensors that it names. A file may come
from anywhere: what :func:`check` has passed can be used without asking again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from portnn import model_file, storage
from portnn.backends import get_backend
from portnn.errors import FormatError, reason, shown
from portnn.files import MAX_RANK
from portnn.history import History

FORMAT = 2  # 1 knew callbacks by their types alone
OPTIMIZER, SUMS, HISTORY = (f"{model_file.TRAINING}{part}/" for part in ("optimizer", "sums", "history"))
STANDING = ("epoch", "row", "updates", "batch")  # is in the metadata, too
MOST = 10**15 - 1  # updates: their number is in the name of the file
_KINDS = {float: "float64", int: "int64", bool: "bool"}  # lists of a history that are kept as tensors
_NUMBERS = (float, int)


class Kept(NamedTuple):
    """What a file holds, checked against its sum."""

    path: str
    arrays: dict[str, numpy.ndarray]
    metadata: dict[str, str]
    record: dict[str, Any]


def under(prefix: str, kept: Kept) -> dict[str, numpy.ndarray]:
    """Return the arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): a for name, a in kept.arrays.items() if name.startswith(prefix)}


# -- looked at --------------------------------------------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(of, value))


def _is_texts(value: Any) -> bool:
    return _is_list(value, lambda text: isinstance(text, str))


def _is_remark(value: Any) -> bool:
    return value is None or type(value) is int or (isinstance(value, str) and value.isprintable() and len(value) < 100)


_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("epoch", "row", "batch", "updates", "chunk_rows"), ("a whole number", _is_count)),
    "seconds": ("a number >= 0", lambda v: type(v) in _NUMBERS and 0 <= v <= MOST),
    "ended": ("true or false", lambda v: isinstance(v, bool)),
    "history": ("an object", lambda v: isinstance(v, dict)),
    "gone": ("a list of texts", _is_texts),
    "schedules": ("a list", lambda v: isinstance(v, list)),
    "callbacks": ("a list", lambda v: isinstance(v, list)),
    "configuration": ("an object", lambda v: isinstance(v, dict)),
    "made_with": ("an object of short texts", lambda v: isinstance(v, dict) and all(map(_is_remark, v.values()))),
    "model": ("a text", lambda v: isinstance(v, str)),
}
_OF_HISTORY: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lists": ("a list of objects", lambda v: _is_list(v, lambda entry: isinstance(entry, dict))),
    "names": ("a list of texts", _is_texts),
    "epochs": ("a whole number", _is_count),
}
_OF_CONFIGURATION: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "x": ("an object with a shape", lambda v: isinstance(v, dict) and _is_shape(v.get("shape"))),
    "batch_size": ("a whole number >= 1", lambda v: _is_count(v) and v > 0),
    "members": ("null or a whole number >= 1", lambda v: v is None or (_is_count(v) and v > 0)),
}


def _is_shape(value: Any) -> bool:
    return _is_list(value, _is_count) and len(value) > 0 and value[0] > 0


def check(kept: Kept) -> None:
    """Raise FormatError unless each entry of the record is there, is what it should be, and fits the others."""
    record = kept.record
    _check_entries(record, _ENTRIES, "its record")
    _check_entries(record["configuration"], _OF_CONFIGURATION, "its configuration")
    _check_entries(record["history"], _OF_HISTORY, "its history")
    config, epoch, row = record["configuration"], record["epoch"], record["row"]
    n, batch_size, members = config["x"]["shape"][0], config["batch_size"], config["members"]
    _demand(row == n or (row < n and row % batch_size == 0), f"it stands at sample {row} of {n}, where no batch ends")
    _demand(record["batch"] == -(-row // batch_size), f"{record['batch']} batches are not {row} samples")
    sums = under(SUMS, kept)
    _demand(("loss" in sums) == (row > 0), "the sums of its epoch are missing, or of no samples")
    shape = () if members is None else (members,)
    right = (a.shape == shape and a.dtype == "float64" and numpy.isfinite(a).all() for a in sums.values())
    _demand(all(right), "a sum of its epoch is no number")
    _check_history(kept, epoch)
    for kind in ("schedules", "callbacks"):
        for entry in record[kind]:
            _check_state(entry, kept, f"a state of its {kind}")


def _check_entries(of: Any, entries: dict[str, tuple[str, Callable[[Any], bool]]], where: str) -> None:
    _demand(isinstance(of, dict), f"{where} is no object")
    for name, (expected, good) in entries.items():
        _demand(name in of, f"the entry {name!r} of {where} is missing")
        _demand(good(of[name]), f"the entry {name!r} of {where} is {shown(of[name])}, expected {expected}")


def _check_history(kept: Kept, epoch: int) -> None:
    """Look at the lists without making them: as Python's they take several times the room."""
    lengths: dict[str, int] = {}
    numeric = set()
    for entry in kept.record["history"]["lists"]:
        name, what = entry.get("name"), "a list of its history"
        _demand(isinstance(name, str) and name not in lengths, f"{what} has no name of its own")
        _demand(("tensor" in entry) != ("values" in entry), f"{what}, {shown(name)}, has no values")
        if "tensor" in entry:
            a = _tensor(entry["tensor"], kept, f"{what}, {shown(name)},")
            _demand(a.ndim in (1, 2) and a.dtype in _KINDS.values(), f"{what}, {shown(name)}, is {a.dtype} {a.shape}")
            lengths[name] = a.shape[0]
        else:
            values = entry["values"]
            _demand(isinstance(values, list), f"{what}, {shown(name)}, is {shown(values)}, expected a list")
            lengths[name] = len(values)
        if "tensor" in entry or all(_is_number(value) for value in entry["values"]):
            numeric.add(name)
    _demand(lengths.get("loss", 0) == epoch, f"its history is not of {epoch} epochs")
    gone, names = kept.record["gone"], kept.record["history"]["names"]
    _demand(set(gone) <= set(lengths), "its history lacks lists that it names")
    own = {*gone, *(name for name in names if name in lengths)}
    _demand(all(lengths[name] == epoch for name in own), f"a list of its history is not of {epoch} epochs")
    _demand(own <= numeric, "a list of its history does not hold numbers")


def _is_number(value: Any) -> bool:
    """Whether an entry of a history is a number, or one for each member."""
    return _is_list(value, _is_float) or _is_float(value)


def _is_float(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= MOST)


def _check_state(entry: Any, kept: Kept, what: str) -> None:
    _demand(isinstance(entry, dict), f"{what} is no object")
    values, arrays, each = entry.get("values"), entry.get("arrays"), entry.get("each")
    _demand(isinstance(values, dict) and isinstance(arrays, dict), f"{what} has no values and arrays")
    found = [_tensor(name, kept, what) for name in arrays.values()]
    if "each" in entry:
        _demand(_is_count(each) and not values, f"{what} is of {shown(each)} schedules")
        _demand(all(a.shape == (each,) for a in found), f"{what} is not of {each} schedules")


def _tensor(name: Any, kept: Kept, what: str) -> numpy.ndarray:
    _demand(isinstance(name, str) and name in kept.arrays, f"{what} names the tensor {shown(name)}, which is not there")
    return kept.arrays[name]


def _demand(so: bool, otherwise: str) -> None:
    if not so:
        raise FormatError(f"not a checkpoint of portnn: {otherwise}")


# -- the history ------------------------------------------------------------------------------------------------------


def packed_history(history: History, lengths: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """Return the first entries of a history: numbers as arrays, exactly; what else callbacks wrote down as JSON."""
    lists: list[dict[str, Any]] = []
    arrays = {}
    for i, (name, n) in enumerate(lengths.items()):
        values = [v.item() if isinstance(v, numpy.generic) else v for v in history[name][:n]]
        shapes = {len(v) if isinstance(v, list) else None for v in values}
        flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
        kinds = {float if isinstance(v, float) else type(v) for v in flat}
        a = _as_tensor(values, *kinds) if len(shapes) == len(kinds) == 1 else None
        if a is not None:
            arrays[f"{HISTORY}{i}"] = a
            lists.append({"name": name, "tensor": f"{HISTORY}{i}"})
        else:
            lists.append({"name": name, "values": _as_json(values, f"history[{name!r}]")})
    return {"lists": lists, "names": list(history.names), "epochs": history.epochs}, arrays


def _as_tensor(values: list[Any], kind: type) -> numpy.ndarray | None:
    try:
        return numpy.asarray(values, dtype=_KINDS[kind]) if kind in _KINDS else None
    except OverflowError:  # beyond 64 bits: as JSON
        return None


def history_of(kept: Kept) -> History:
    """Return the history in a checkpoint."""
    known, history = kept.record["history"], History()
    for entry in known["lists"]:
        history[entry["name"]] = kept.arrays[entry["tensor"]].tolist() if "tensor" in entry else list(entry["values"])
    history.names, history.epochs = tuple(known["names"]), known["epochs"]
    return history


# -- what schedules and callbacks remember ----------------------------------------------------------------------------


def packed_states(
    states: Sequence[Any], prefix: str, whose: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, numpy.ndarray]]:
    """Return what schedules or callbacks remember, as JSON and as arrays of the host that nobody else holds.

    Where all of several remember the same numbers, as the schedules of members do, each number is one array for all.
    """
    if len(states) > 1 and all(isinstance(state, dict) for state in states):
        names = list(states[0])
        columns = {name: [state.get(name) for state in states] for name in names}
        alike = all(list(state) == names for state in states)
        if alike and all(len(kinds := set(map(type, c))) == 1 and kinds <= set(_NUMBERS) for c in columns.values()):
            arrays = {name: _as_tensor(column, type(column[0])) for name, column in columns.items()}
            if not any(a is None for a in arrays.values()):
                whole, tensors = packed(arrays, f"{prefix}all/", whose[0])
                return [{**whole, "each": len(states)}], tensors
    entries, tensors = [], dict[str, numpy.ndarray]()
    for i, (state, who) in enumerate(zip(states, whose, strict=True)):
        entry, more = packed(state, f"{prefix}{i}/", who)
        entries.append(entry)
        tensors |= more
    return entries, tensors


def unpacked_states(entries: Sequence[Mapping[str, Any]], kept: Kept) -> list[dict[str, Any]]:
    """Return what was packed, one state after the other."""
    states: list[dict[str, Any]] = []
    for entry in entries:
        state = unpacked(entry, kept)
        n = entry.get("each")
        states += [state] if n is None else [{name: a[i].item() for name, a in state.items()} for i in range(n)]
    return states


def packed(state: Any, prefix: str, who: str) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """Return what one of them remembers; TypeError, which names it and the entry, for what a file cannot hold."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise TypeError(f"fit: {who}.state() must return a dict with texts as keys, got {shown(state)}")
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    arrays: dict[str, numpy.ndarray] = {}
    for name, value in state.items():
        what = f"{who}.state()[{name!r}]"
        if hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, str):
            names[name] = f"{prefix}{len(arrays)}"
            arrays[names[name]] = _on_host(value, what)
        else:
            values[name] = _as_json(value, what)
    return {"values": values, "arrays": names}, arrays


def _on_host(value: Any, what: str) -> numpy.ndarray:
    """Return a copy of an array of any library, of a dtype and a rank that a file can hold."""
    try:
        a = numpy.asarray(value) if isinstance(value, numpy.generic) else get_backend(value).to_numpy(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"fit: {what} cannot be copied to the host, as a checkpoint needs: {reason(error)}") from None
    masked = isinstance(value, numpy.ma.MaskedArray)
    if masked or a.ndim > MAX_RANK or not storage.can_hold(a.dtype.name):
        raise TypeError(
            f"fit: {what} is an array of {'a mask and ' * masked}dtype {shown(str(a.dtype))} and {a.ndim} axes, which "
            f"a checkpoint does not keep; expected integers, floats of 16 to 64 bits or truth values, and at most "
            f"{MAX_RANK} axes"
        )
    return numpy.array(a, copy=True)


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
