"""Do two array libraries compute the same network? Layers against their error bars, training steps side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from portnn import checks, random
from portnn.backends import Array, get_backend
from portnn.error_bars import judged, reference
from portnn.errors import shown
from portnn.layout import has_parts
from portnn.losses import Loss, get_loss
from portnn.mlp import MLP, check_model
from portnn.optimizers import SGD, get_optimizer
from portnn.side_by_side import Parting, first_parting


class Comparison(NamedTuple):
    """What :func:`portnn.testing.compare_backends` found; ``print`` it.

    ``errors[backend][place]`` is the worst error against float64 in units of the bar, ``relative[backend][place]`` the
    same relative to the largest entry there; places are such as ``"layer 0 output"``, ``"loss"``,
    ``"layer 0 weight gradient"``. ``parting`` is None where the backends stayed together for ``steps`` steps.
    """

    errors: dict[str, dict[str, float]]
    relative: dict[str, dict[str, float]]
    steps: int
    parting: Parting | None

    @property
    def agree(self) -> bool:
        """Whether every error is within its bar and no parting is left unexplained."""
        within = all(error <= 1.0 for errors in self.errors.values() for error in errors.values())
        return within and (self.parting is None or not self.parting.fault)

    def worst(self) -> tuple[str, str, float]:
        """Return the backend, the place and the size of the worst error in units of its bar.

        In the order of the computation the first that is outside counts, since the others follow from it.
        """
        each = [(b, place, error) for b, errors in self.errors.items() for place, error in errors.items()]
        return next((e for e in each if not e[2] <= 1.0), max(each, key=lambda e: e[2]))

    def __str__(self) -> str:
        """Return a table: a line per place, a column per backend, relative error and units of the bar."""
        names = list(self.errors)
        places = list(self.errors[names[0]])
        first, width = max(map(len, places)), max(18, *map(len, names)) + 2
        lines = [" " * first + "".join(f"{name:>{width}}" for name in names)]
        for place in places:
            cells = (f"{self.relative[n][place]:.1e} ({self.errors[n][place]:.2f})" for n in names)
            lines.append(f"{place:{first}}" + "".join(f"{cell:>{width}}" for cell in cells))
        lines.append("Error relative to the largest entry (in units of the bar: at most 1).")
        if self.parting is not None:
            lines.append(str(self.parting))
        elif self.steps:
            lines.append(f"Together over {self.steps} training steps.")
        return "\n".join(lines)


def compare_backends(
    model: MLP,
    x: Array,
    t: Array,
    backends: Sequence[Any],
    *,
    loss: Any = "cross_entropy",
    steps: int = 0,
    optimizer: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compute ``model`` on each backend and compare every layer, the loss and the gradient with float64 on the host.

    Parameters
    ----------
    model
        The network, in float32 or float64; it is copied, not changed.
    x, t
        Inputs ``(n, n_features)`` and targets, as for :meth:`portnn.MLP.loss_and_grad`; NumPy arrays or the model's.
    backends
        Names, namespaces or arrays, as for :class:`portnn.MLP`.
    loss
        A name or a pair.
    steps
        Training steps to follow as well; 0 for none.
    optimizer, batch_size, seed
        Of these steps: SGD(0.1) by default, all samples or batches in the order of ``seed``.

    Notes
    -----
    The bars are derived in :mod:`portnn.error_bars`. A float64 model is held against NumPy's longdouble, which has no
    fast product: give it some hundred samples.

    Examples
    --------
    >>> import portnn
    >>> x, t, *_ = portnn.datasets.load_digits()
    >>> found = compare_backends(portnn.MLP([64, 16, 10]), x[:50], t[:50], ["numpy"], steps=5)
    >>> found.agree, found.worst()[2] < 1, found.parting
    (True, True, None)

    """
    who, entry = "compare_backends", get_loss(loss)
    check_model(who, model)
    if has_parts(model.layers, training=True):
        raise ValueError(
            f"{who}: no bars are derived for dropout, normalization and residuals, which the model has; compare its "
            "outputs yourself: model.to(backend=...)(x)"
        )
    steps = checks.check_count(who, "steps", steps, 0)
    optimizer = get_optimizer(SGD(0.1) if optimizer is None else optimizer)
    seed = random.check_seed(seed, who)
    if isinstance(backends, str) or not isinstance(backends, Iterable):
        raise TypeError(f"{who}: backends must be a list such as ['numpy', 'torch'], got {shown(backends)}")
    places = [get_backend(b) for b in backends]
    names = _names(places)
    if not names:
        raise ValueError(f"{who}: backends is empty; name at least one, such as ['numpy']")
    model.check_finite(who)
    x, t = _on_host(model, x, t, entry, who)
    models = {name: model.to(backend=place) for name, place in zip(names, places, strict=True)}
    exact = reference(model, x, t, entry)
    errors, relative = {}, {}
    for name, copy in models.items():
        errors[name], relative[name] = judged(copy, x, t, entry, exact)
    parting = None
    if steps:
        size = len(x) if batch_size is None else checks.check_count(who, "batch_size", batch_size)
        parting = first_parting(models, x, t, entry, optimizer, steps, min(size, len(x)), seed)
    return Comparison(errors, relative, steps, parting)


def assert_backends_agree(
    model: MLP, x: Array, t: Array, backends: Sequence[Any] = ("numpy",), **options: Any
) -> Comparison:
    """Raise AssertionError unless each backend computes ``model`` as float64 does, within what rounding costs.

    Arguments and result are those of :func:`compare_backends`. The error names the backend and the layer that is the
    first to be wrong, and with ``steps`` the first step and layer at which two backends part.

    Examples
    --------
    >>> import numpy as np
    >>> import portnn
    >>> model = portnn.MLP([2, 3, 1], activation="tanh")
    >>> found = assert_backends_agree(model, np.eye(2), np.ones((2, 1)), ["numpy"], loss="mse")
    >>> sorted(found.errors["numpy"])[:2]
    ['layer 0 bias gradient', 'layer 0 output']

    """
    found = compare_backends(model, x, t, backends, **options)
    backend, place, error = found.worst()
    if not error <= 1.0:
        raise AssertionError(
            f"assert_backends_agree: {backend}: {place} is off by {error:.3g} times what rounding costs "
            f"({found.relative[backend][place]:.2g} of its largest entry)"
        )
    if not found.agree and found.parting is not None:
        raise AssertionError(f"assert_backends_agree: {found.parting}")
    return found


def _names(backends: list[Any]) -> list[str]:
    """Return a name for each backend: with the device where a library occurs twice."""
    plain = [b.name for b in backends]
    full = [b.name if plain.count(b.name) == 1 else f"{b.name} {b.device_name}" for b in backends]
    for name in full:
        if full.count(name) > 1:
            raise ValueError(f"compare_backends: backend {shown(name)} is named twice")
    return full


def _on_host(model: MLP, x: Array, t: Array, loss: Loss, who: str) -> tuple[Array, Array]:
    """Return inputs in the model's dtype and targets as checked host arrays."""
    theirs = checks.check_array(x, who, "x")
    checks.check_features(x, model.sizes[0], who)
    checks.check_finite(x, theirs, model.dtype, who)
    n = checks.check_samples(who, x=x)
    host = checks.check_targets(t, loss, n, model.sizes[-1], model.dtype, who)
    return theirs.to_numpy(x).astype(model.dtype), host
