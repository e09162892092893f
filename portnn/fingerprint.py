"""What decides the numbers of a training, in words and sums that a file can keep: another is not its continuation."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy

from portnn import model_file
from portnn.backends import HOST, Array, Backend, dtype_name, get_backend
from portnn.callbacks import Checkpoint, EarlyStopping
from portnn.datasets.streams import Stream
from portnn.errors import FormatError, shown
from portnn.evaluation import Data
from portnn.feed import CHUNK_ROWS, as_index
from portnn.layout import check_seeds
from portnn.losses import Loss
from portnn.mlp import MLP
from portnn.schedules import Formula
from portnn.storage import can_hold, little_endian_bytes

BOUND = 64 * 2**20  # bytes of a large array that are looked at
LONG = 10_000  # characters of one entry of a configuration
_KIND = ("sizes", "activation", "bias", "members", "dropout", "normalization", "residual", "inputs", "outputs")


def fingerprint(a: Array, bound: int | None = BOUND) -> dict[str, Any]:
    """Return shape, dtype and SHA-256 of the numbers of an array, the same whatever library holds it.

    Of an array of more than ``bound`` bytes, evenly spaced rows of that size are looked at, ``rows`` of them; None
    looks at all; of a stream it is always some of its blocks. The bytes are those in C order, little-endian; of dtypes
    that NumPy lacks, such as bfloat16, those of the same numbers in float32, and of wider ones those of the nearest in
    float64: no network sees more.

    Examples
    --------
    >>> a = numpy.arange(6.0).reshape(2, 3)
    >>> fingerprint(a)["sha256"] == fingerprint(numpy.asfortranarray(a))["sha256"] == hashlib.sha256(a).hexdigest()
    True
    >>> fingerprint(a, bound=24)["rows"]
    1

    """
    if isinstance(a, Stream):
        looked_at, found = a.sample(BOUND if bound is None else bound)
        return {"shape": list(a.shape), "dtype": a.dtype.name, "rows": looked_at, "sha256": found}
    backend, n, digest = get_backend(a), int(a.shape[0]), hashlib.sha256()
    row = _on_host(backend, a[:1, ...]).nbytes
    rows = n if bound is None or n * row <= bound else max(1, bound // row)
    index = numpy.arange(rows, dtype="int64") * n // rows
    for start in range(0, rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, rows)
        here = slice(start, stop) if rows == n else as_index(backend, index[start:stop], n)
        digest.update(little_endian_bytes(_on_host(backend, backend.take(a, here))))
    shape = [int(extent) for extent in a.shape]
    return {"shape": shape, "dtype": dtype_name(a.dtype), "rows": rows, "sha256": digest.hexdigest()}


def _on_host(backend: Backend, a: Array) -> numpy.ndarray:
    """Return an array in host memory, in a dtype whose bytes are its numbers: longdouble has some of no meaning."""
    name = dtype_name(a.dtype)
    if not can_hold(name):
        wide = backend is HOST and a.dtype.kind == "f"
        a = backend.xp.astype(a, backend.xp.float64 if wide else backend.xp.float32)
    return backend.to_numpy(a)


def said(value: Any) -> str:
    """Return what tells an option from another: numbers in full, our schedules by their arguments, a user's by name.

    Examples
    --------
    >>> from portnn import schedules
    >>> said(schedules.step_decay(0.5, every=3)), said((0.5, None)), said(functools.partial(abs, 2)), said(len)
    ('step_decay(learning_rate=0.5, every=3.0, factor=0.1)', '(0.5, None)', 'abs(2.0)', 'len')

    """
    if isinstance(value, functools.partial):
        arguments = [*map(said, value.args), *(f"{k}={said(v)}" for k, v in sorted(value.keywords.items()))]
        return f"{said(value.func)}({', '.join(arguments)})"
    if isinstance(value, Formula):
        return f"{value.name}({', '.join(f'{k}={said(v)}' for k, v in value.arguments.items())})"
    if value is None or isinstance(value, bool | numpy.bool_):
        return str(value)
    if isinstance(value, str):
        return repr(str(value))
    if isinstance(value, numbers.Integral) and abs(int(value)) > 2**53:  # floats do not tell those from each other
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{said(k)}: {said(v)}' for k, v in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(said, value))})"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        host = get_backend(value).to_numpy(value)
        return f"{host.dtype.name} {host.shape} {hashlib.sha256(little_endian_bytes(host)).hexdigest()}"
    if is_dataclass(value) and not isinstance(value, type):
        options = (f"{f.name}={said(getattr(value, f.name))}" for f in fields(value) if f.init)
        return f"{type(value).__name__}({', '.join(options)})"
    return str(getattr(value, "__name__", type(value).__name__))


def said_of(callback: Any) -> str:
    """Return what tells a callback that remembers from another: ours by their arguments, a user's by its type.

    Examples
    --------
    >>> said_of(EarlyStopping("val_accuracy", patience=3))
    "EarlyStopping(monitor='val_accuracy', patience=3.0, min_delta=0.0, mode='max', restore_best=True)"

    """
    arguments = callback.arguments if isinstance(callback, EarlyStopping | Checkpoint) else {}
    told = ", ".join(f"{name}={said(value)}" for name, value in arguments.items())
    return type(callback).__name__ + (f"({told})" if told else "")


def configuration(
    model: MLP,
    loss: Loss,
    optimizer: Any,
    data: Data,
    held: Data | None,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> dict[str, Any]:
    """Return all that decides the numbers of a training, as JSON has it.

    The network, the samples, and what :func:`portnn.fit` is told. Functions of the user's are known by their names
    alone, and objects that are no dataclasses by that of their type. What is long, as what each of many members has, is
    known by its beginning and its SHA-256.
    """
    config = {"sizes": model.sizes, "members": model.members, "dtype": model.dtype}
    drops = any(layer.dropout is not None for layer in model.layers)
    what: dict[str, Any] = {
        **{name: value for name, value in model_file.described(config, model.layers).items() if name != "format"},
        **({"seed of the network": check_seeds(model.seed, model.members)[1]} if drops else {}),  # the masks' own
        "matmul_precision": model.matmul_precision,
        "loss": f"{said(loss.pair)} of {loss.kind}",
        "optimizer": said(optimizer),
        **{name: v if isinstance(v, int) else said(v) for name, v in options.items()},
        "callbacks": [said_of(callback) for callback in callbacks],
    }
    for side, of in (("", data), ("validation ", held)):
        what[f"{side}x"] = None if of is None else fingerprint(of.x)
        for name in ("t", "weight", "share"):
            a = None if of is None else getattr(of, name)
            what[f"{side}{name}"] = None if a is None else fingerprint(a, None)
    return {name: _shortened(json.loads(json.dumps(value))) for name, value in what.items()}


def _shortened(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= LONG:
        return value
    return f"{text[:60]}... sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def check_alike(each: Sequence[Mapping[str, Any]], who: str) -> None:
    """ValueError unless all ranks, which say here what decides the numbers of their trainings, say the same.

    Callbacks are those of the first.
    """
    first = each[0]
    for rank, of in enumerate(each):
        for name in (*first, *(name for name in of if name not in first)):
            if name != "callbacks" and of.get(name) != first.get(name):
                there, here = _shown(of.get(name), first.get(name))
                raise ValueError(f"{who}: rank {rank} has {name}={there}, rank 0 {here}; all must be given the same")


def check_same(was: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise unless two configurations are equal, with the first thing in which they differ.

    FormatError for another network or another optimizer, ValueError for all else.
    """
    names = [*now, *(name for name in was if name not in now)]
    different = [name for name in names if was.get(name) != now.get(name)]
    if not different:
        return
    name = different[0]
    before, after = _shown(was.get(name), now.get(name))
    what = name if name in now else shown(name)
    more = "; load_checkpoint and fit(resume=history) go on with others" * (name in ("callbacks", "optimizer"))
    raise (FormatError if name in (*_KIND, "optimizer") else ValueError)(
        f"fit: {where} is of a training with {what}={before}, this one has {what}={after}; give what was given then, "
        f"or another folder{more}"
    )


def _shown(*values: Any) -> list[str]:
    """Return two values as a sentence has room for them, from where they begin to differ if they are long."""
    if all(map(_is_fingerprint, values)):
        return [f"{_kind_of(v)} sha256 {v['sha256'][:12]}" for v in values]
    texts = [_kind_of(v) if _is_fingerprint(v) else str(v) for v in values]
    if max(map(len, texts)) <= 110:
        return texts
    at = next((i for i in range(min(map(len, texts))) if texts[0][i] != texts[1][i]), 0)
    start = max(0, math.floor(at / 10) * 10 - 40)
    return ["..." * (start > 0) + shown(text[start : start + 90], 100).strip("'\"") for text in texts]


def _kind_of(value: dict[str, Any]) -> str:
    return f"{value['dtype'][:30]} {shown(tuple(value['shape']))}"


def _is_fingerprint(value: Any) -> bool:
    kinds = {"dtype": str, "shape": list, "sha256": str}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())
