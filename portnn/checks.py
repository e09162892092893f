"""What users hand in, looked at once, before any kernel runs: shapes, dtypes, values, weights.

In hot code only metadata is looked at; the functions here that read values do so through one host copy of the targets
and one pass over the inputs. The wording is scikit-learn's where it has one, so that a search finds the answer.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from portnn.backends import HOST, Array, Backend, get_backend, namespace
from portnn.errors import reason, shown
from portnn.layout import Layer
from portnn.losses import Loss
from portnn.members import check_members, entries, named

_BLOCK = 8192  # rows looked at in one go: bounds the memory of a check


def check_array(x: Any, who: str, argument: str) -> Backend:
    """Return the backend that ``x`` belongs to; TypeError or ValueError where it cannot be computed with."""
    if hasattr(x, "tocsr"):
        raise TypeError(f"{who}: Sparse data was passed for {argument}, dense data is required: {argument}.toarray()")
    refusal = (
        f"{who}: {argument} is a {type(x).__name__}, which is not a supported array type; "
        f"convert it first, for example numpy.asarray({argument})"
    )
    if not hasattr(x, "dtype") or not hasattr(x, "shape") or hasattr(x, "columns"):
        raise TypeError(refusal)
    try:
        backend = get_backend(numpy.asarray(x) if isinstance(x, numpy.generic) else x)
    except TypeError:  # a Series has a dtype and a shape, too
        raise TypeError(refusal) from None
    backend.refuse(x, who, argument)
    if "complex" in str(x.dtype):
        raise ValueError(f"{who}: Complex data not supported: {argument} has dtype {x.dtype}")
    if getattr(x.dtype, "kind", "f") not in "biuf" and "float" not in str(x.dtype):  # bfloat16 is of kind "V"
        raise ValueError(
            f"{who}: could not convert string to float: {argument} has dtype {shown(x.dtype)}, numbers are expected"
        )
    return backend


def check_real(a: Any, who: str, argument: str, dtype: Any) -> None:
    """Raise TypeError unless ``a`` is an array, ValueError if it is complex; it may be traced or recorded."""
    if not hasattr(a, "dtype") or not hasattr(a, "shape"):
        raise TypeError(f"{who}: {argument} is a {type(a).__name__}, expected an array")
    if a.dtype != dtype and "complex" in str(a.dtype):
        raise ValueError(f"{who}: Complex data not supported: {argument} has dtype {a.dtype}")


def _to_host(x: Array, who: str, argument: str) -> numpy.ndarray:
    """Return a checked array as one of NumPy, which every reader of values below works on."""
    backend = check_array(x, who, argument)
    try:
        return backend.to_numpy(x)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise ValueError(f"{who}: {argument} cannot be copied to the host: {reason(error)}") from None


def check_features(x: Array, n_features: int, who: str, *, members: int | None = None) -> None:
    """Raise ValueError unless ``x`` is ``(batch, n_features)``, or ``(members, batch, n_features)`` with members."""
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise ValueError(
            f"{who}: Expected 2D array, got {len(shape)}D array instead (x has shape {shape}). Reshape your data: "
            "x.reshape(-1, 1) for one feature, x.reshape(1, -1) for one sample"
        )
    if len(shape) > 2 and not (members is not None and len(shape) == 3 and shape[0] == members):
        raise ValueError(
            f"{who}: Found array with dim 3 or more (x has shape {shape}), expected (batch, {n_features}); flatten "
            "each sample: x.reshape(x.shape[0], -1)"
        )
    if shape[-1] == 0:
        raise ValueError(f"{who}: Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required.")
    if shape[-1] != n_features:
        raise ValueError(
            f"{who}: X has {shape[-1]} features, but MLP is expecting {n_features} features as input: "
            f"x has {shape[-1]} features, the network expects {n_features} (x has shape {shape})"
        )


def is_lazy(x: object) -> bool:
    """Whether ``x`` is an array of chunks that are computed later, as Dask's are."""
    kind = type(x)
    return hasattr(kind, "map_blocks") and hasattr(kind, "rechunk")


def check_place(x: Array, theirs: Backend, ours: Backend, who: str, argument: str = "x") -> None:
    """Raise ValueError unless ``x`` is on the library and the device of the parameters."""
    if theirs.name != ours.name or not ours.owns(x):
        known = f"use model.to(backend={theirs.name!r}) or " if theirs.name != Backend.name else ""
        cure = f"compute it first: {argument}.compute()" if is_lazy(x) else f"{known}convert {argument}"
        raise ValueError(
            f"{who}: {argument} and the parameters must use the same namespace: {argument} is a {theirs.library} "
            f"array, the parameters are {ours.library} arrays on {ours.device_name}; {cure}"
        )
    device = ours.device_of(x)
    if device is not None and ours.device is not None and device != ours.device:
        there = get_backend(x).device_name
        raise ValueError(
            f"{who}: {argument} is on device {there}, the parameters are on {ours.device_name}; move one of them, for "
            f"example model.to(device={there!r})"
        )


def check_input(x: Any, params: Array, ours: Backend, n_features: int, who: str, *, members: int | None = None) -> None:
    """Look at all that the metadata of ``x`` tell: its kind, library, device and shape. This runs in hot code."""
    theirs = ours
    if ours.owns(x) and x.dtype == params.dtype:
        ours.refuse(x, who, "x")
    elif not ours.owns(x) or ours.is_concrete(x):
        theirs = check_array(x, who, "x")
    check_place(x, theirs, ours, who)
    check_features(x, n_features, who, members=members)


def check_samples(who: str, **arrays: Any) -> int:
    """Return the number of samples that the arrays (None is passed over) agree on, at least one."""
    lengths = {name: a.shape[0] if len(a.shape) else 0 for name, a in arrays.items() if a is not None}
    n = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        names = ", ".join(lengths)
        raise ValueError(
            f"{who}: Found input variables with inconsistent numbers of samples: {list(lengths.values())} ({names})"
        )
    if n == 0:
        x = next(iter(arrays.values()))
        raise ValueError(
            f"{who}: empty batch: Found array with 0 sample(s) (shape={tuple(x.shape)}) "
            "while a minimum of 1 is required."
        )
    return int(n)


def check_finite(x: Array, backend: Backend, dtype_name: str, who: str, first: int = 0) -> None:
    """Raise ValueError if ``x`` holds a NaN, an infinity or a number too large for the network's dtype.

    ``first`` is the number of its first row, where it is a part of what the caller has.
    """
    xp, dtype = backend.xp, backend.float_dtype(dtype_name)
    counts = xp.isdtype(x.dtype, "integral")
    if xp.isdtype(x.dtype, "bool") or (counts and xp.iinfo(x.dtype).bits < 64):
        return
    with backend.scope(), HOST.scope():
        for start in range(0, x.shape[0], _BLOCK):
            block = x[start : min(start + _BLOCK, x.shape[0]), ...]
            if not counts and bool(xp.all(xp.isfinite(xp.astype(block, dtype, copy=False)))):
                continue
            if not (counts or backend is HOST or x.dtype == xp.float64):
                block = xp.astype(block, dtype)  # NumPy knows no bfloat16
            _complain(backend.to_numpy(block), first + start, dtype_name, who)


def _complain(block: numpy.ndarray, start: int, dtype_name: str, who: str) -> None:
    """Raise ValueError for the first value, if any, of a block of rows that a network cannot be given."""
    counts = block.dtype.kind in "iu"
    if counts:  # an integer beyond 2**53 is an identifier or a time stamp, and as a float may equal its neighbor
        bad = (block > 2**53) | ((block < -(2**53)) if block.dtype.kind == "i" else False)
    else:
        bad = ~numpy.isfinite(block.astype(dtype_name))
    if not bad.any():
        return
    index = tuple(int(i) for i in numpy.argwhere(bad)[0])
    at, value = f"first at row {start + index[-2]}, feature {index[-1]}", block[index]
    if counts:
        raise ValueError(
            f"{who}: Input X loses precision as {dtype_name}: {value} is beyond 2**53, {at}; "
            "subtract an offset or encode identifiers as categories"
        )
    if numpy.isnan(value):
        raise ValueError(f"{who}: Input X contains NaN, {at}")
    if numpy.isinf(value):
        raise ValueError(f"{who}: Input X contains infinity, {at}")
    raise ValueError(
        f"{who}: Input X contains a value too large for dtype({dtype_name!r}), {at}: {value}; "
        "scale the data or use dtype='float64'"
    )


def check_targets(t: Any, loss: Loss, n_samples: int, n_outputs: int, dtype_name: str, who: str) -> numpy.ndarray:
    """Return the targets as a checked host array: int32 labels ``(n,)``, or floats ``(n, n_outputs)``.

    Labels are range-checked here because nothing below does it alike: an index out of range is an error on NumPy,
    wraps on torch and CuPy, gives NaN on JAX, and a silent row of zeros in a one-hot matrix.
    """
    if t is None:
        raise ValueError(f"{who}: requires y to be passed, but the target y is None (argument t)")
    t = _to_host(t, who, "t")
    if t.ndim == 0 or t.shape[0] != n_samples:
        got = [n_samples, t.shape[0] if t.ndim else 0]
        raise ValueError(f"{who}: Found input variables with inconsistent numbers of samples: {got} (x, t)")
    if t.dtype.kind == "f" and not numpy.isfinite(t).all():
        row = int(numpy.argwhere(~numpy.isfinite(t))[0][0])
        what = "NaN" if numpy.isnan(t[row]).any() else "infinity"
        raise ValueError(f"{who}: Input y contains {what} (argument t, first at row {row})")
    if loss.kind == "classes" and t.ndim == 1:
        return _check_labels(t, n_outputs, who)
    if t.ndim == 1 and n_outputs == 1:
        t = t[:, None]
    if t.shape != (n_samples, n_outputs):
        raise ValueError(
            f"{who}: t has shape {t.shape}, {loss.name} of a network with {n_outputs} outputs expects "
            + (f"integer labels ({n_samples},) or " if loss.kind == "classes" else "")
            + f"({n_samples}, {n_outputs})"
        )
    with HOST.scope():
        t = t.astype(dtype_name)
    if not numpy.isfinite(t).all():
        raise ValueError(f"{who}: Input y contains a value too large for dtype({dtype_name!r}) (argument t)")
    if loss.kind == "classes":
        slack = 8 * n_outputs * float(numpy.finfo(dtype_name).eps)  # rounding of a row of quotients
        off = numpy.flatnonzero((abs(t.sum(axis=1, dtype="float64") - 1.0) > slack) | (t < 0.0).any(axis=1))
        if off.size:
            row = int(off[0])
            total = float(t[row].sum(dtype="float64"))
            raise ValueError(
                f"{who}: row {row} of t is not a distribution over classes: "
                f"it sums to {total:.6g}, its lowest is {t[row].min():.6g}"
            )
    if loss.kind == "binary" and ((t < 0.0) | (t > 1.0)).any():
        row = int(numpy.argwhere((t < 0.0) | (t > 1.0))[0][0])
        raise ValueError(f"{who}: {loss.name} expects t in [0, 1], row {row} is outside")
    return t


def check_traced_targets(t: Array, loss: Loss, n_samples: int, n_outputs: int, dtype: Any, who: str) -> Array:
    """Return targets whose values cannot be read (inside ``jit``), by their metadata: shaped and cast."""
    xp = namespace(t)
    if loss.kind == "classes" and t.ndim == 1 and xp.isdtype(t.dtype, "integral"):
        good = t.shape == (n_samples,)
    else:
        t = t[:, None] if t.ndim == 1 and n_outputs == 1 else t
        good = tuple(t.shape) == (n_samples, n_outputs)
        t = t if t.dtype == dtype else xp.astype(t, dtype)
    if not good:
        raise ValueError(
            f"{who}: t has shape {tuple(t.shape)}, {loss.name} expects one row for each of {n_samples} samples"
        )
    return t


def _check_labels(t: numpy.ndarray, n_classes: int, who: str) -> numpy.ndarray:
    if t.dtype.kind not in "iub":
        raise TypeError(
            f"{who}: cross_entropy expects integer labels of shape (n,) or rows of probabilities, got dtype {t.dtype} "
            f"of shape {t.shape}; convert with t.astype('int64')"
        )
    bad = numpy.flatnonzero((t < 0) | (t >= n_classes))
    if bad.size:
        row = int(bad[0])
        raise ValueError(f"{who}: label {int(t[row])} at row {row} out of range [0, {n_classes - 1}]")
    return t.astype("int32")  # not every device has 64 bits


def check_sample_weight(weight: Any, n_samples: int, who: str) -> numpy.ndarray | None:
    """Return sample weights as a checked float64 host array ``(n,)``, or None."""
    if weight is None:
        return None
    w = _to_host(weight, who, "sample_weight")
    if w.shape != (n_samples,):
        raise ValueError(f"{who}: sample_weight has shape {w.shape}, expected ({n_samples},)")
    w = w.astype("float64")
    if not numpy.isfinite(w).all():
        raise ValueError(f"{who}: sample_weight contains NaN or infinity")
    if (w < 0.0).any():
        raise ValueError(f"{who}: sample_weight must be non-negative, got {w.min():g}")
    if not w.any():
        raise ValueError(f"{who}: sample_weight must have at least one non-zero number; all weights are zero")
    return w


def class_weights(spec: Any, t: numpy.ndarray, loss: Loss, n_outputs: int, who: str) -> numpy.ndarray | None:
    """Return one float64 weight per class, or per output of a loss without classes, from what the user gave.

    A mapping (classes left out count 1), a sequence, or ``"balanced"``: n / (n_classes * number of the class).
    """
    if spec is None:
        return None
    n_classes = 2 if loss.kind == "binary" and n_outputs == 1 else n_outputs
    if isinstance(spec, str):
        if spec != "balanced" or loss.kind == "values":
            raise ValueError(
                f"{who}: class_weight must be a mapping, a sequence or 'balanced' (classes only), got {spec!r}"
            )
        counts = _memberships(t, n_classes).sum(axis=0, dtype="float64")
        return t.shape[0] / (n_classes * numpy.maximum(counts, 1.0))
    if isinstance(spec, Mapping):
        unknown = [c for c in spec if c not in range(n_classes)]
        if unknown:
            raise ValueError(f"{who}: class_weight names class {unknown[0]!r}, the classes are 0 to {n_classes - 1}")
        spec = [spec.get(c, 1.0) for c in range(n_classes)]
    w, wrong = entries(spec), ""
    if not isinstance(w, tuple):
        wrong = f"got {shown(spec) if hasattr(spec, 'shape') else type(spec).__name__}"
    elif len(w) != n_classes:
        wrong = f"got {len(w)}"
    else:
        bad = [i for i, one in enumerate(w) if not (isinstance(one, float) and math.isfinite(one) and one >= 0.0)]
        wrong = f"entry {bad[0]} is {shown(w[bad[0]])}" if bad else "" if any(w) else "all are"
    if wrong:
        raise ValueError(f"{who}: class_weight must be {n_classes} non-negative finite numbers, not all zero; {wrong}")
    return numpy.asarray(w, dtype="float64")


def _memberships(t: numpy.ndarray, n_classes: int) -> numpy.ndarray:
    """Return how much each sample belongs to each class: ``(n, n_classes)``."""
    if t.ndim == 1:
        return (t[:, None] == numpy.arange(n_classes)).astype("float64")
    return numpy.concatenate([1.0 - t, t], axis=1) if t.shape[1] == 1 and n_classes == 2 else t


def fold_class_weights(
    weights: numpy.ndarray | None, t: numpy.ndarray, loss: Loss, sample_weight: numpy.ndarray | None, who: str
) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """Return (sample_weight, output_share): a class weighs its samples; without classes a weight is an output's."""
    if weights is None:
        return _scaled(sample_weight), None
    if loss.kind == "classes" or (loss.kind == "binary" and t.shape[1] == 1):
        own = _memberships(t, weights.shape[0]) @ _scaled(weights)
        own = own if sample_weight is None else own * _scaled(sample_weight)
        if not own.any():
            raise ValueError(f"{who}: class_weight times sample_weight must have at least one non-zero number")
        return _scaled(own), None
    if not loss.by_output:
        raise ValueError(
            f"{who}: class_weight means nothing to the loss {loss.name!r}; if its targets are labels, hand it in as "
            f"portnn.losses.Loss({loss.name!r}, function, 'classes')"
        )
    share = weights / weights.max()
    return _scaled(sample_weight), share / share.sum()


def _scaled(weights: numpy.ndarray | None) -> numpy.ndarray | None:
    """Return weights divided by the power of 2 that brings the largest into [1/2, 1).

    Numerical stability: only ratios of weights count, and a sum of large ones would be infinite in float32: a loss
    divided by it is 0, which nothing would notice.
    """
    if weights is None or not weights.any():
        return weights
    return numpy.ldexp(weights, -int(numpy.frexp(weights.max())[1]))


def unit_of(
    weight: numpy.ndarray, given: numpy.ndarray | None, classes: numpy.ndarray | None, t: numpy.ndarray
) -> float:
    """Return what weights were multiplied by, looking at the largest: sample weights times those of their classes."""
    at = slice(int(weight.argmax()), None)
    one = 1.0 if given is None else given[at][0]
    return float(
        weight[at][0] / (one if classes is None else one * (_memberships(t[at][:1], len(classes)) @ classes)[0])
    )


def check_running(running: numpy.ndarray, layers: Sequence[Layer], who: str) -> None:
    """Raise ValueError that names the first layer whose running variances, in ``(..., n_running)``, are none."""
    for i, layer in enumerate(layers):
        place = None if layer.normalization is None else layer.normalization.variance
        if place is not None and not (running[..., place] >= 0.0).all():
            raise ValueError(
                f"{who}: the running variance of layer {i} is negative or NaN in places, expected numbers >= 0 (1 in a "
                "new model); model.layers[i].normalization.variance says where it stands"
            )


def check_count(who: str, name: str, value: object, least: int = 1) -> int:
    """Return ``value`` as a Python int of at least ``least``; ValueError otherwise (True and 2.5 are no counts)."""
    ok = isinstance(value, numbers.Integral) and not isinstance(value, bool | numpy.bool_)
    if not ok or operator.index(value) < least:  # type: ignore[arg-type]
        raise ValueError(f"{who}: {name} must be an int in the range [{least}, inf). Got {shown(value)}")
    return operator.index(value)  # type: ignore[arg-type]


def check_penalty(who: str, name: str, value: Any, members: int | None) -> float | tuple[float, ...]:
    """Return a number of at least 0, or a tuple of one for each member, in which form it can be hashed."""
    weights: float | tuple[float, ...] = entries(value)
    check_members(who, name, weights, members)
    for entry, weight in named(name, weights).items():
        check_number(who, entry, weight, 0.0)
    return weights


def check_number(who: str, name: str, value: object, low: float, *, open_low: bool = False) -> float:
    """Return ``value`` as a Python float in [low, inf), or (low, inf)."""
    ok = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or value < low or (open_low and value == low):  # type: ignore[operator]
        sign = ">" if open_low else ">="
        raise ValueError(f"{who}: {name} must be a finite number {sign} {low:g}, got {shown(value)}")
    return float(value)  # type: ignore[arg-type]
