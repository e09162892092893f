"""Input and output scaling as the first and the last layer of a network: raw pixels and physical units in and out.

They are fixed: fitted to data once, kept with the model, saved with it, and not trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy

from portnn.backends import Array, device, dtype_name, get_backend, namespace
from portnn.errors import shown
from portnn.primitives import Pair

Placed = Callable[[Array], Pair]
_BLOCK = 65536  # rows copied to the host in one go


@dataclass(frozen=True, slots=True)
class Standardize:
    """y = (x - mean) / std, feature by feature: mean 0 and standard deviation 1 of the data it was fitted to.

    ``inverse()`` brings outputs of mean 0 and standard deviation 1 to the units of the targets. The standard deviation
    is that of the population, as in sklearn.preprocessing.StandardScaler, and 1 for a feature that never changes.

    Examples
    --------
    >>> import numpy as np
    >>> scaling = Standardize.fit(np.asarray([[1.0, 5.0], [3.0, 5.0]]))
    >>> scaling
    Standardize(mean=(2.0, 5.0), std=(1.0, 1.0))
    >>> scaling.inverse()
    Rescale(factor=(1.0, 1.0), offset=(2.0, 5.0))

    """

    mean: float | Sequence[float]
    std: float | Sequence[float]

    def __post_init__(self) -> None:
        """Keep plain numbers, checked."""
        _keep(self, "mean", "std", nonzero="std")

    @classmethod
    def fit(cls, x: Array) -> Standardize:
        """Take mean and standard deviation of ``(n, n_features)`` or ``(n,)``, an array of any library, in float64.

        Numerical stability: the mean is taken of differences to the first sample, the deviation in a second pass, both
        of numbers divided by the power of two next to the largest, so that no square overflows, or vanishes.
        """
        largest = numpy.max([numpy.abs(block).max(axis=0) for block in _blocks(x, cls.__name__)], axis=0)
        scale = numpy.ldexp(1.0, numpy.clip(-numpy.frexp(largest)[1], -1024, 1000))  # 2**1024 is none that float64 has
        first, n = next(_blocks(x, cls.__name__))[:1] * scale, x.shape[0]
        mean = first[0] + sum((block * scale - first).sum(axis=0) for block in _blocks(x, cls.__name__)) / n
        std = numpy.sqrt(sum(((block * scale - mean) ** 2).sum(axis=0) for block in _blocks(x, cls.__name__)) / n)
        # neither is larger than the largest, but for rounding
        mean, std = (numpy.clip(a, -largest * scale, largest * scale) / scale for a in (mean, std))
        constant = std <= 8.0 * 2.0**-52 * numpy.abs(mean)  # but for rounding
        return cls(mean.tolist(), numpy.where(constant, 1.0, std).tolist())

    def inverse(self) -> Rescale:
        """Return what undoes it."""
        return Rescale(factor=self.std, offset=self.mean)

    def placed(self, like: Array) -> Placed:
        """Return ``y, vjp = f(x)`` with the numbers in the dtype and on the device of ``like``."""
        mean, std = _on(like, self.mean), _on(like, self.std)
        return lambda x: ((x - mean) / std, lambda dy: (dy / std,))


@dataclass(frozen=True, slots=True)
class Rescale:
    """y = factor x + offset, feature by feature; one number serves all of them.

    Examples
    --------
    >>> import numpy as np
    >>> Rescale(1 / 255)
    Rescale(factor=0.00392156862745098, offset=0.0)
    >>> Rescale.fit(np.asarray([[0.0], [4.0]]), low=-1.0, high=1.0)
    Rescale(factor=(0.5,), offset=(-1.0,))

    """

    factor: float | Sequence[float]
    offset: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        """Keep plain numbers, checked."""
        _keep(self, "factor", "offset", nonzero="factor")

    @classmethod
    def fit(cls, x: Array, low: float = 0.0, high: float = 1.0) -> Rescale:
        """Bring the smallest number of each feature to ``low`` and the largest to ``high``; one that never changes to
        ``low``.
        """
        numbers = all(isinstance(v, int | float) and numpy.isfinite(v) for v in (low, high))
        if not (numbers and low < high):
            raise ValueError(f"{cls.__name__}.fit: low must be < high, got {shown(low)} and {shown(high)}")
        least = numpy.min([block.min(axis=0) for block in _blocks(x, cls.__name__)], axis=0)
        most = numpy.max([block.max(axis=0) for block in _blocks(x, cls.__name__)], axis=0)
        with numpy.errstate(over="ignore", invalid="ignore"):
            factor = (high - low) / numpy.where(most > least, most - least, high - low)
            offset = low - factor * least
        bad = (factor == 0.0) | ~numpy.isfinite(factor) | ~numpy.isfinite(offset)
        if bad.any():
            k = int(bad.argmax())
            raise ValueError(
                f"{cls.__name__}.fit: feature {k} goes from {least[k]:g} to {most[k]:g}, and no float64 brings that to "
                f"{low:g} to {high:g}; multiply x before"
            )
        return cls(factor.tolist(), offset.tolist())

    def inverse(self) -> Standardize:
        """Return what undoes it."""
        return Standardize(mean=self.offset, std=self.factor)

    def placed(self, like: Array) -> Placed:
        """Return ``y, vjp = f(x)`` with the numbers in the dtype and on the device of ``like``."""
        factor, offset = _on(like, self.factor), _on(like, self.offset)
        return lambda x: (x * factor + offset, lambda dy: (dy * factor,))


Scaling = Standardize | Rescale
SCALINGS = {cls.__name__: cls for cls in (Standardize, Rescale)}


def check_scaling(scaling: Any, argument: str, n_features: int) -> Scaling | None:
    """Return a scaling whose numbers are one for all features or one for each, or None."""
    if scaling is None:
        return None
    if not isinstance(scaling, Scaling):
        raise TypeError(
            f"MLP: {argument} must be a portnn.Standardize or a portnn.Rescale, got {shown(scaling)}; fit one to data: "
            "portnn.Standardize.fit(x)"
        )
    for field in fields(scaling):
        value = getattr(scaling, field.name)
        if isinstance(value, tuple) and len(value) != n_features:
            raise ValueError(
                f"MLP: {argument}={type(scaling).__name__} has {len(value)} numbers in {field.name}, expected "
                f"{n_features}, one per feature"
            )
    return scaling


def check_width(before: Scaling | None, after: Scaling | None, dtype: str) -> None:
    """Raise ValueError for scalings whose numbers ``dtype`` cannot hold, or cannot tell apart.

    What is left of a difference of numbers much larger than it is their rounding: an offset may be up to 1 / (8 eps)
    times the spread, a million in float32.
    """
    info = numpy.finfo(dtype)
    for argument, scaling in (("inputs", before), ("outputs", after)):
        if scaling is None:
            continue
        offset, spread = (scaling.mean, scaling.std) if isinstance(scaling, Standardize) else (scaling.offset, 1.0)
        if isinstance(scaling, Rescale) and argument == "outputs":
            spread = scaling.factor
        sizes = [numpy.abs(numpy.asarray(getattr(scaling, f.name))) for f in fields(scaling)]
        held = all(((a == 0.0) | ((a >= info.smallest_normal) & (a <= info.max))).all() for a in sizes)
        if not held or (numpy.abs(offset) * info.eps > numpy.abs(spread) / 8.0).any():
            what = "numbers beyond its range" if not held else "an offset that is too large beside the spread"
            cure = "use dtype='float64', or " if dtype == "float32" else ""
            raise ValueError(
                f"MLP: {argument}={type(scaling).__name__} has, for {dtype}, {what}; {cure}subtract and divide before"
            )


def described(scaling: Scaling | None) -> dict[str, Any] | None:
    """Return what a file keeps of it: the numbers as JSON writes them, which is exact for float64."""
    if scaling is None:
        return None
    return {"kind": type(scaling).__name__, **{f.name: getattr(scaling, f.name) for f in fields(scaling)}}


def from_description(description: dict[str, Any] | None) -> Scaling | None:
    """Return the scaling that :func:`described` wrote; KeyError, TypeError or ValueError for anything else."""
    if description is None:
        return None
    numbers = dict(description)
    return SCALINGS[numbers.pop("kind")](**numbers)


def _keep(scaling: Any, *names: str, nonzero: str) -> None:
    for name in names:
        given = getattr(scaling, name)
        try:
            plain = numpy.asarray(given)
            a = plain.astype("float64") if plain.dtype.kind in "iuf" else numpy.asarray(numpy.nan)
        except (TypeError, ValueError, OverflowError):
            a = numpy.asarray(numpy.nan)
        who = type(scaling).__name__
        if a.ndim > 1 or a.size == 0 or not numpy.isfinite(a).all():
            raise ValueError(f"{who}: {name} must be a finite number or a sequence of them, got {shown(given)}")
        if name == nonzero and not a.all():
            raise ValueError(f"{who}: {name} must not be 0, got {shown(given)}; 1 leaves a constant feature as it is")
        object.__setattr__(scaling, name, float(a) if a.ndim == 0 else tuple(a.tolist()))


@functools.lru_cache(maxsize=64)
def _rounded(numbers: float | tuple[float, ...], dtype: str) -> numpy.ndarray:
    with numpy.errstate(over="ignore"):
        return numpy.asarray(numbers, dtype=dtype)


def _on(like: Array, numbers: float | Sequence[float]) -> Array:
    # rounded on the host: the device may lack the wider type
    xp, host = namespace(like), _rounded(numbers, "float32" if dtype_name(like.dtype) == "float32" else "float64")
    a = xp.asarray(host, device=device(like), copy=True)
    return a if a.dtype == like.dtype else xp.astype(a, like.dtype)


def _blocks(x: Array, who: str) -> Iterator[numpy.ndarray]:
    """Go through ``(n, n_features)``, or ``(n,)`` as one feature, in float64 on the host."""
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        raise TypeError(f"{who}.fit: x is a {type(x).__name__}, expected an array; numpy.asarray(x) makes one")
    if len(x.shape) not in (1, 2) or 0 in x.shape:
        raise ValueError(f"{who}.fit: x has shape {tuple(x.shape)}, expected (n, n_features) with n of at least 1")
    backend = get_backend(x)
    backend.refuse(x, f"{who}.fit", "x")
    if not backend.xp.isdtype(x.dtype, ("bool", "integral", "real floating")):
        raise TypeError(f"{who}.fit: x has dtype {x.dtype}, expected real numbers")
    for start in range(0, x.shape[0], _BLOCK):
        block = backend.to_numpy(x[start : min(start + _BLOCK, x.shape[0]), ...]).astype("float64")
        if not numpy.isfinite(block).all():
            row = int(numpy.argwhere(~numpy.isfinite(block))[0][0])
            raise ValueError(f"{who}.fit: x holds NaN or infinity, first at row {start + row}")
        yield block if block.ndim == 2 else block[:, None]
