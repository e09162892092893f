"""One training on several array libraries, step by step: where do two of them part, and is anything wrong there?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from portnn import random
from portnn.backends import HOST, Array
from portnn.backends.base import Rows
from portnn.error_bars import judged, reference, worst
from portnn.losses import Loss
from portnn.mlp import MLP
from portnn.optimizers import Optimizer
from portnn.step import Chunks, copied, make_step, parts_of

State = dict[str, Any]

APART = {"float32": 1e-5, "float64": 1e-13}


class Parting(NamedTuple):
    """Where two backends part in training: the first step and the place.

    ``difference`` is the largest one there, relative to max(1, the largest parameter there): above 1e-5 in float32,
    1e-13 in float64. ``fault`` says what is wrong, and is empty if from the same parameters and state both compute the
    same gradient and make the same update, within what rounding costs: then small differences have grown from step to
    step, as they do in float32 with Adam or at a high rate.
    """

    step: int
    place: str
    first: str
    second: str
    difference: float
    fault: str

    def __str__(self) -> str:
        """Return a sentence."""
        why = self.fault or "from the same state both make the same step, within rounding, so differences have grown"
        away = f"by {self.difference:.2g} of its size" if self.difference < numpy.inf else "where one is not finite"
        return f"{self.first} and {self.second} part at step {self.step} in {self.place}, {away}: {why}"


def first_parting(
    models: dict[str, MLP], x: Array, t: Array, loss: Loss, optimizer: Optimizer, steps: int, size: int, seed: int
) -> Parting | None:
    """Train all models side by side, as ``fit`` does it, and return where the first two part.

    Where rounding explains it, the second goes on from the state of the first, so that a fault further on is found; it
    is then returned in place of the first parting. None as well where all of them reach numbers that are not finite at
    the same step: there is nothing to compare then.
    """
    first, *others = models
    states, chunks, explained = {}, {}, None
    for name, model in models.items():
        params = model.backend.asarray(model.params, copy=True)
        states[name] = {"params": params, **optimizer.init(params)}
        chunks[name] = Chunks(model.backend, make_step(model, loss, optimizer), "auto", "compare_backends")
    per_epoch = -(-len(x) // size)
    for step in range(steps):
        epoch, batch = divmod(step, per_epoch)
        order = random.order(seed, epoch, len(x)) if size < len(x) else numpy.arange(len(x))
        rows = order[batch * size :][:size]
        before = _on_host(models[first], states[first])
        for name, model in models.items():
            with model.scope():
                home = model.backend
                arrays = {"x": home.asarray(x[rows], model.params.dtype), "t": home.asarray(t[rows])}
                here = {key: Rows(home, a) for key, a in arrays.items()}
                kept = copied(home, states[name])
                states[name], _ = chunks[name].run(1, len(rows), states[name], here, [optimizer.row(step)], kept)
        after = {name: _on_host(model, states[name])["params"] for name, model in models.items()}
        if not any(numpy.isfinite(params).all() for params in after.values()):
            return explained
        for second in others:
            place, difference = _farthest(models[second], after[first], after[second])
            if not difference <= APART[models[second].dtype]:
                pair = {name: models[name] for name in (first, second)}
                fault = _fault(pair, before, x[rows], t[rows], loss, optimizer, step)
                parting = Parting(step + 1, place, first, second, difference, fault)
                if fault:
                    return parting
                explained = explained or parting
                same = _on_host(models[first], states[first])
                states[second] = {k: models[second].backend.asarray(a, copy=True) for k, a in same.items()}
    return explained


def _fault(pair: dict[str, MLP], state: State, x: Array, t: Array, loss: Loss, optimizer: Optimizer, step: int) -> str:
    """Return what is wrong with a step from the same state; nothing if rounding explains it."""
    params = state["params"]
    if not numpy.isfinite(params).all():
        return "the parameters before it were not finite"
    copies = {name: model.to() for name, model in pair.items()}
    for copy in copies.values():
        copy.params = params
    try:
        exact = reference(next(iter(copies.values())), x, t, loss)
    except ValueError:
        return ""  # numbers beyond the dtype: whoever gets there first has not computed anything wrong
    for name, copy in copies.items():
        for place, error in judged(copy, x, t, loss, exact)[0].items():
            if not error <= 1.0:
                return f"from the same parameters, {name} has {place} off by {error:.3g} times what rounding costs"
    return (
        ""
        if _same_update(copies, state, x, t, loss, optimizer, step)
        else ("from the same parameters, state and gradient they make different updates")
    )


def _same_update(
    pair: dict[str, MLP], state: State, x: Array, t: Array, loss: Loss, optimizer: Optimizer, step: int
) -> bool:
    """Whether both make the same update from the same parameters, state and gradient: eight roundings each."""
    first, after = next(iter(pair.values())), []
    with first.scope():
        here = (first.backend.asarray(a) for a in (state["params"], x, t))
        grad = first.backend.to_numpy(first.objective(loss)(*here, None)[1]).copy()
    for model in pair.values():
        with model.scope():
            given = {name: model.backend.asarray(a, copy=True) for name, a in {**state, "grad": grad}.items()}
            params, g = given.pop("params"), given.pop("grad")
            more = {"parts": parts_of(model)} if getattr(optimizer, "by_layer", False) else {}
            params, given = optimizer.update(params, g, given, optimizer.row(step), model.decayed(), **more)
            after.append(_on_host(model, {"params": params, **given}))
    eps = float(numpy.finfo(first.dtype).eps)
    for name, old in state.items():
        a, b, old = (v.astype(numpy.float64) for v in (after[0][name], after[1][name], old))
        with HOST.scope():
            if not (abs(a - b) <= 8.0 * eps * (abs(old) + abs(a) + worst(abs(a - old)))).all():
                return False
    return True


def _on_host(model: MLP, state: State) -> State:
    return {name: model.backend.to_numpy(a).copy() for name, a in state.items()}


def _farthest(model: MLP, a: Array, b: Array) -> tuple[str, float]:
    """Return the place of the parameters where two vectors differ most, and by how much."""
    farthest = ("layer 0 weight", -1.0)
    for i, layer in enumerate(model.layers):
        for kind, place in (("weight", layer.weight), ("bias", layer.bias)):
            if place is not None:
                here, there = (v[..., place].astype(numpy.float64) for v in (a, b))
                finite = numpy.isfinite(here).all() and numpy.isfinite(there).all()
                difference = worst(abs(here - there)) / max(1.0, worst(abs(here))) if finite else numpy.inf
                farthest = max(farthest, (f"layer {i} {kind}", difference), key=lambda found: found[1])
    return farthest
