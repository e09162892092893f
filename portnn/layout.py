"""Where each weight and bias stands in the flat vector of parameters, and the numbers it starts with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from portnn import random
from portnn.activations import COMPARE_WITH_ZERO, Activation, get_activation
from portnn.backends import HOST, Array
from portnn.errors import shown
from portnn.initializers import get_initializer
from portnn.scaling import Placed, Scaling, check_scaling


class Layer(NamedTuple):
    """Where a layer's parameters stand in the flat vector, and what follows its affine map.

    The first one may have a scaling of the inputs before it, and the last one a scaling of the outputs behind it.
    """

    fan_in: int
    fan_out: int
    weight: slice
    bias: slice | None
    activation: Activation
    compares_with_zero: bool
    before: Scaling | None = None
    after: Scaling | None = None


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


def layout(sizes: list[int], activation: Any, bias: Any, inputs: Any = None, outputs: Any = None) -> tuple[Layer, ...]:
    """Assign each layer its slices of the flat vector; the first and the last get the scalings."""
    n = len(sizes) - 1
    if isinstance(activation, Sequence) and not isinstance(activation, str):
        chosen = [*activation, "identity"] if len(activation) == n - 1 else list(activation)
        if len(chosen) != n:
            raise ValueError(f"MLP: {len(activation)} activations for {n - 1} hidden layers (or {n} with the output)")
    else:
        chosen = [activation] * (n - 1) + ["identity"]
        get_activation(activation)  # a wrong name is an error in a linear model too
    layers, start = [], 0
    for i, with_bias in enumerate(per_layer("bias", bias, n)):
        if not isinstance(with_bias, bool):
            raise ValueError(f"MLP: bias must be True, False or one of them per layer, got {shown(bias)}")
        fan_in, fan_out = sizes[i], sizes[i + 1]
        weight = slice(start, start + fan_in * fan_out)
        start = weight.stop + (fan_out if with_bias else 0)
        function = get_activation(chosen[i])
        plain = function.func if isinstance(function, functools.partial) else function
        place = slice(weight.stop, start) if with_bias else None
        layers.append(Layer(fan_in, fan_out, weight, place, function, plain in COMPARE_WITH_ZERO))
    layers[0] = layers[0]._replace(before=check_scaling(inputs, "inputs", sizes[0]))
    layers[-1] = layers[-1]._replace(after=check_scaling(outputs, "outputs", sizes[-1]))
    return tuple(layers)


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
            if layer.bias is not None:
                pieces.append(xp.zeros(layer.fan_out, dtype=xp.float64))
        rows.append(xp.concat(pieces))
    return xp.stack(rows)
