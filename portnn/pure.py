"""Pure functions that are known to be equal: what a library has compiled for one of them serves the other."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Hashable
from typing import Any

from portnn.activations import ACTIVATIONS
from portnn.losses import LOSSES
from portnn.mlp import MLP

_OWN = (*ACTIVATIONS.values(), *(loss.pair for loss in LOSSES.values()))


class Pure:
    """A function of arrays, equal to another that computes the same.

    ``key`` holds all that the function depends on; None where that cannot be known, as with functions of the user's,
    and the function is then equal to itself alone. Of a training step ``shapes`` are those of the weights and biases
    that the vector of parameters consists of, and ``members`` is the number of them, None for a single network.
    ``split`` is None, or the step in two: one that returns the outputs in the place of metrics, and the function
    (outputs, batch) -> metrics, which can then be called for many steps at once. ``shown`` is None, or the function
    (state, batch, seen) that computes loss and gradient of a step and shows ``seen`` every array on the way.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        key: Hashable | None,
        shapes: tuple[tuple[int, ...], ...] = (),
        members: int | None = None,
        split: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
        shown: Callable[..., Any] | None = None,
    ) -> None:
        self.run, self.key, self.shapes, self.members, self.split = run, key, shapes, members, split
        self.shown = shown

    def __call__(self, *args: Any) -> Any:
        """Run it."""
        return self.run(*args)

    def __eq__(self, other: object) -> bool:
        """Whether both have one key."""
        return self is other or (isinstance(other, Pure) and self.key is not None and self.key == other.key)

    def __hash__(self) -> int:
        """Hash the key."""
        return hash(self.key) if self.key is not None else id(self)


def network_key(model: MLP) -> Hashable | None:
    """Return what identifies the function of a model, its parameters apart; None with a function of the user's."""
    layers = tuple(
        (a.fan_in, a.fan_out, a.bias is None, a.before, a.after)
        + (a.normalization and a.normalization.kind, a.dropout and a.dropout.rate, a.residual, name_of(a.activation))
        for a in model.layers
    )
    place = (model.dtype, model.backend.device_name, model.matmul_precision)
    return None if None in (layer[-1] for layer in layers) else (layers, place)


def name_of(function: Any) -> Hashable | None:
    """Return what identifies a function of portnn's, with the arguments that it was bound to; None for another."""
    if isinstance(function, functools.partial):
        plain = name_of(function.func)
        simple = all(isinstance(v, int | float | str) for v in (*function.args, *function.keywords.values()))
        return (plain, function.args, tuple(sorted(function.keywords.items()))) if plain and simple else None
    if any(function is own for own in _OWN):
        return function
    module, name = (getattr(function, of, None) or "" for of in ("__module__", "__qualname__"))
    at_the_top = module.partition(".")[0] == "portnn" and getattr(sys.modules.get(module), name, None) is function
    return function if at_the_top else None
