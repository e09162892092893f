"""Where each weight and bias stands in the flat vector of parameters, and the numbers it starts with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from portnn import random
from portnn.activations import COMPARE_WITH_ZERO, Activation, get_activation
from portnn.backends import HOST, Array, get_backend, one_of
from portnn.dropout import Rate
from portnn.errors import shown
from portnn.initializers import get_initializer
from portnn.members import entries, named
from portnn.scaling import Placed, Scaling, check_scaling

NORMALIZATIONS = ("layer", "batch")


class Normalization(NamedTuple):
    """Where gain and shift stand in the flat vector, and mean and variance in that of the running statistics."""

    kind: str
    gain: slice
    shift: slice
    mean: slice | None
    variance: slice | None


class Dropout(NamedTuple):
    """What share of the units is dropped, and where their words stand in the vector of all units."""

    rate: Rate
    units: slice


class Layer(NamedTuple):
    """Where a layer's parameters stand in the flat vector, and what follows its affine map.

    The first one may have a scaling of the inputs before it, and the last one a scaling of the outputs behind it. A
    hidden one may have a normalization before its activation, dropout behind it, and its input added to what comes out.
    """

    fan_in: int
    fan_out: int
    weight: slice
    bias: slice | None
    activation: Activation
    compares_with_zero: bool
    before: Scaling | None = None
    after: Scaling | None = None
    normalization: Normalization | None = None
    dropout: Dropout | None = None
    residual: bool = False

    @property
    def parts(self) -> dict[str, tuple[slice, tuple[int, ...]]]:
        """What its parameters are called, where they stand and the shape of each, in the order of the vector."""
        norm, wide = self.normalization, (self.fan_out,)
        found: dict[str, tuple[slice, tuple[int, ...]]] = {"weight": (self.weight, (self.fan_in, self.fan_out))}
        found |= {} if self.bias is None else {"bias": (self.bias, wide)}
        return found | ({} if norm is None else {"gain": (norm.gain, wide), "shift": (norm.shift, wide)})

    @property
    def stop(self) -> int:
        """Where the next one begins."""
        return list(self.parts.values())[-1][0].stop


def check_sizes(sizes: Sequence[int]) -> list[int]:
    """Return the numbers of features as Python integers, at least two of them and all positive."""
    try:
        listed = list(sizes)
    except TypeError:
        raise TypeError(f"MLP: sizes must be a sequence such as [784, 128, 10], got {shown(sizes)}") from None
    if len(listed) < 2:
        raise ValueError(f"MLP: sizes must name inputs and outputs, such as [784, 10], got {shown(listed)}")
    for size in listed:
        if isinstance(size, bool) or not hasattr(size, "__index__") or size <= 0:
            raise ValueError(
                f"MLP: hidden_layer_sizes must be > 0, got {shown(listed[1:-1])}; all sizes must be positive integers: "
                f"{shown(listed)}"
            )
    return [int(size) for size in listed]


def check_seeds(seed: Any, members: int | None) -> tuple[Any, list[int]]:
    """Return the seed as kept on the model, and one seed per member (one in all for a single network)."""
    if isinstance(seed, Sequence) and not isinstance(seed, str):
        if members is None or len(seed) != members:
            raise ValueError(f"MLP: {len(seed)} seeds for members={members}; give one integer or one per member")
        seeds = [random.check_seed(s, "MLP") for s in seed]
        return seeds, seeds
    first = random.check_seed(seed, "MLP")
    return first, [(first + member) % 2**64 for member in range(members or 1)]


def per_layer(what: str, spec: Any, n: int) -> list[Any]:
    """Return one entry per layer from one for all or a sequence of them."""
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        if len(spec) != n:
            raise ValueError(f"MLP: {len(spec)} entries in {what} for {n} layers: {shown(list(spec))}")
        return list(spec)
    return [spec] * n


def layout(
    sizes: list[int],
    activation: Any,
    bias: Any,
    inputs: Any = None,
    outputs: Any = None,
    *,
    dropout: Any = 0.0,
    normalization: Any = None,
    residual: Any = False,
    members: int | None = None,
) -> tuple[Layer, ...]:
    """Assign each layer its slices of the flat vector; the first and the last get the scalings."""
    n = len(sizes) - 1
    kinds = [*_per_hidden("normalization", normalization, n - 1, _normalization), None]
    skips = [*_residual(residual, sizes), False]
    rates = [*_per_hidden("dropout", dropout, n - 1, lambda rate: _rate(rate, members), members), 0.0]
    if isinstance(activation, Sequence) and not isinstance(activation, str):
        chosen = [*activation, "identity"] if len(activation) == n - 1 else list(activation)
        if len(chosen) != n:
            raise ValueError(f"MLP: {len(activation)} activations for {n - 1} hidden layers (or {n} with the output)")
    else:
        chosen = [activation] * (n - 1) + ["identity"]
        get_activation(activation)  # a wrong name is an error in a linear model too
    layers, start, n_running, n_units = [], 0, 0, 0
    for i, with_bias in enumerate(per_layer("bias", bias, n)):
        if not isinstance(with_bias, bool):
            raise ValueError(f"MLP: bias must be True, False or one of them per layer, got {shown(bias)}")
        fan_in, fan_out = sizes[i], sizes[i + 1]
        weight = slice(start, start + fan_in * fan_out)
        start = weight.stop + (fan_out if with_bias else 0)
        function = get_activation(chosen[i])
        plain = function.func if isinstance(function, functools.partial) else function
        place = slice(weight.stop, start) if with_bias else None
        norm, drop = None, None
        if kinds[i] is not None:
            gain, start = slice(start, start + fan_out), start + 2 * fan_out
            statistics: Any = (None, None)
            if kinds[i] == "batch":
                stop = n_running + 2 * fan_out
                statistics, n_running = (slice(n_running, stop - fan_out), slice(stop - fan_out, stop)), stop
            norm = Normalization(kinds[i], gain, slice(gain.stop, start), *statistics)
        if rates[i] != 0.0:
            drop, n_units = Dropout(rates[i], slice(n_units, n_units + fan_out)), n_units + fan_out
        compares = plain in COMPARE_WITH_ZERO
        layers.append(Layer(fan_in, fan_out, weight, place, function, compares, None, None, norm, drop, skips[i]))
    layers[0] = layers[0]._replace(before=check_scaling(inputs, "inputs", sizes[0]))
    layers[-1] = layers[-1]._replace(after=check_scaling(outputs, "outputs", sizes[-1]))
    return tuple(layers)


def _unpacked(spec: Any) -> Any:
    """Return an array of any library as nested lists; all else as it is."""
    if not hasattr(spec, "dtype") or not getattr(spec, "shape", ()):
        return spec
    return get_backend(spec).to_numpy(spec).tolist()


def _per_hidden(what: str, spec: Any, n: int, checked: Callable[[Any], Any], members: int | None = None) -> list[Any]:
    """Return one checked entry per hidden layer, from one for all or a sequence or array of them."""
    spec = _unpacked(spec)
    listed = isinstance(spec, Sequence) and not isinstance(spec, str)
    if listed and len(spec) != n:
        layers = "1 hidden layer" if n == 1 else f"{n} hidden layers"
        cure = ""
        if what == "dropout" and len(spec) == members:
            every = shown([list(spec)] if n == 1 else [list(spec)] * n)
            cure = f"; one rate for each member is written per hidden layer: dropout={every}"
        raise ValueError(f"MLP: {len(spec)} entries in {what} for {layers}: {shown(list(spec))}{cure}")
    return [checked(entry) for entry in spec] if listed else [checked(spec)] * n


def _normalization(kind: Any) -> str | None:
    return None if kind is None else one_of("normalization", kind, NORMALIZATIONS)


def _rate(rate: Any, members: int | None) -> Rate:
    """Return the rate of a layer as a Python float, or as one for each member."""
    rates = entries(rate)
    if isinstance(rates, tuple) and len(rates) != members:
        have = "no members" if members is None else f"{members} members"
        raise ValueError(
            f"MLP: dropout has {len(rates)} rates for one layer of a network with {have}; an entry per hidden layer is "
            "one number, or one for each member"
        )
    for name, one in named("dropout", rates).items():
        if not isinstance(one, float) or not 0.0 <= one <= 1.0 - 2.0**-32:
            raise ValueError(f"MLP: {name} must be a number in [0, 1), got {shown(one)}")
    return 0.0 if isinstance(rates, tuple) and not any(rates) else rates


def _residual(spec: Any, sizes: list[int]) -> list[bool]:
    """Return for each hidden layer whether its input is added; one True for all means those that are as wide as it."""
    spec = _unpacked(spec)
    skips = _per_hidden("residual", spec, len(sizes) - 2, lambda skip: skip)
    fits = [sizes[i] == sizes[i + 1] for i in range(len(skips))]
    if not all(isinstance(skip, bool) for skip in (*skips, spec if not skips else True)):
        raise ValueError(f"MLP: residual must be True, False or one of them per hidden layer, got {shown(spec)}")
    each = isinstance(spec, Sequence)
    wrong = [i for i, (skip, fit) in enumerate(zip(skips, fits, strict=True)) if skip and not fit and each]
    if wrong or (not each and spec and not any(fits)):
        where = f"hidden layer {wrong[0]}" if wrong else "no hidden layer"
        verb = "is not" if wrong else "is"
        raise ValueError(f"MLP: residual adds a layer's input to its output, but {where} {verb} as wide as its input")
    return [skip and fit for skip, fit in zip(skips, fits, strict=True)]


def options(layers: tuple[Layer, ...]) -> dict[str, Any]:
    """Return the arguments of MLP that gave the hidden layers what they have, where it is anything.

    One entry where all of them have the same, else a list of one per hidden layer.
    """
    hidden = layers[:-1]
    found: dict[str, list[Any]] = {
        "dropout": [0.0 if a.dropout is None else a.dropout.rate for a in hidden],
        "normalization": [None if a.normalization is None else a.normalization.kind for a in hidden],
        "residual": [a.residual for a in hidden],
    }
    plain = {"dropout": 0.0, "normalization": None, "residual": False}
    found = {name: entries for name, entries in found.items() if any(entry != plain[name] for entry in entries)}
    alike = {name: not isinstance(e[0], tuple) and all(entry == e[0] for entry in e) for name, e in found.items()}
    return {name: entries[0] if alike[name] else entries for name, entries in found.items()}


def first_running(layers: tuple[Layer, ...], members: int | None) -> Array | None:
    """Return the running statistics that a network starts with, means 0 and variances 1, on the host in float64.

    ``(n_running,)`` or ``(members, n_running)``; None without batch norm.
    """
    xp, pieces = HOST.xp, []
    for layer in layers:
        if layer.normalization is not None and layer.normalization.mean is not None:
            pieces += [make(layer.fan_out, dtype=xp.float64) for make in (xp.zeros, xp.ones)]
    if not pieces:
        return None
    start = xp.concat(pieces)
    return start if members is None else xp.stack([start] * members)


def of_members(layers: tuple[Layer, ...], at: int | list[int]) -> tuple[Layer, ...]:
    """Return the layers of one member, or of several: what differs among them are rates of dropout."""

    def chosen(drop: Dropout | None) -> Dropout | None:
        if drop is None or not isinstance(drop.rate, tuple):
            return drop
        return drop._replace(rate=drop.rate[at] if isinstance(at, int) else tuple(drop.rate[i] for i in at))

    return tuple(layer._replace(dropout=chosen(layer.dropout)) for layer in layers)


def has_parts(layers: tuple[Layer, ...], *, training: bool = False) -> bool:
    """Whether a layer has a normalization or adds its input; or dropout, which only counts in training."""
    return any(a.normalization is not None or a.residual or (training and a.dropout is not None) for a in layers)


def placed(layers: tuple[Layer, ...], like: Array) -> tuple[Placed | None, Placed | None]:
    """Return the scalings of inputs and outputs with their numbers in the dtype and on the device of ``like``."""
    before, after = layers[0].before, layers[-1].after
    return (
        None if before is None else before.placed(like),
        None if after is None else after.placed(like),
    )


def initial_params(layers: tuple[Layer, ...], init: list[Any], seeds: list[int]) -> Array:
    """Return ``(len(seeds), n_params)`` on the host in float64: the same for every backend and dtype."""
    xp = HOST.xp
    initializers = [get_initializer(spec) for spec in init]
    rows = []
    for seed in seeds:
        key = random.fold_in(random.key(seed), random.Purpose.PARAMETERS)
        pieces = []
        for i, (layer, initializer) in enumerate(zip(layers, initializers, strict=True)):
            weight = initializer(random.fold_in(key, i), layer.fan_in, layer.fan_out)
            if tuple(weight.shape) != (layer.fan_in, layer.fan_out):
                expected = (layer.fan_in, layer.fan_out)
                raise ValueError(f"MLP: init of layer {i} gave shape {tuple(weight.shape)}, expected {expected}")
            pieces.append(xp.reshape(xp.asarray(weight, dtype=xp.float64), (-1,)))
            for name in list(layer.parts)[1:]:
                make = xp.ones if name == "gain" else xp.zeros
                pieces.append(make(layer.fan_out, dtype=xp.float64))
        rows.append(xp.concat(pieces))
    return xp.stack(rows)
