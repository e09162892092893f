"""Every array on the way through a network, shown to a function: the first that is not finite tells where a NaN arose.

:func:`portnn.network.passes` and what :func:`portnn.objective.make_losses` returns take such a function, ``seen(name,
layer, array)``. In the order of the computation they show ``scaled inputs``, of each layer ``pre-activations`` (which
are x weight + bias), ``normalized pre-activations`` and ``outputs``, then ``scaled outputs``, ``loss``, ``gradient of
the loss``, of each layer from the last to the first ``gradient of the outputs``, ``gradient behind the activation`` and
``gradient of the pre-activations``, and at last ``gradient``, ``penalty`` and ``gradient of the penalty``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy

from portnn.activations import identity
from portnn.backends import Array, Backend
from portnn.backends.base import State
from portnn.errors import NonFiniteError
from portnn.layout import Layer
from portnn.network import passes, zero_of

MOST = 5  # samples that an error names
KINDS = {"weight": "weights", "bias": "biases", "gain": "gains", "shift": "shifts"}
_VECTORS = ("gradient", "gradient of the penalty")  # of the shape of the parameters
# how many axes an array has without that of members, if it is not (batch, features)
_AXES = {"loss": 0, "penalty": 0, **dict.fromkeys(_VECTORS, 1)}


class Place(NamedTuple):
    """What is not finite: the name of an array, its layer, how to say so, and in which rows of the batch, of how many.

    ``rows`` is None where it is not an array of samples.
    """

    array: str
    layer: int | None = None
    words: str = ""
    rows: numpy.ndarray | None = None
    n: int = 0

    def __str__(self) -> str:
        """``the outputs of layer 1 are NaN or infinity``."""
        if self.words:
            return f"{self.words} NaN or infinity"
        several = self.array.split(" of ")[0].endswith("s") and self.array != "loss"
        of = "" if self.layer is None else f" of layer {self.layer}"
        return f"{'' if self.array == 'x' else 'the '}{self.array}{of} {'are' if several else 'is'} NaN or infinity"


class Watch:
    """Takes note of the first array it is shown that is not finite; of several members, in one of them.

    Examples
    --------
    >>> import numpy as np
    >>> from portnn.backends import HOST
    >>> watch = Watch(HOST, ())
    >>> watch("loss", None, np.asarray([0.0, np.inf, np.nan]))
    >>> watch.place.array, watch.place.rows
    ('loss', array([1, 2]))

    """

    def __init__(self, backend: Backend, layers: tuple[Layer, ...], member: int | None = None) -> None:
        self.backend, self.layers, self.member = backend, layers, member
        self.place: Place | None = None

    def __call__(self, array: str, layer: int | None, a: Array) -> None:
        """Look at one."""
        if self.place is not None:
            return
        host = self.backend.to_numpy(a)
        if self.member is not None and host.ndim > _AXES.get(array, 2):
            host = host[self.member]
        good = numpy.isfinite(host)
        if good.all():
            return
        if array in _VECTORS:
            for i, name, part in _parts(self.layers):
                if not good[..., part].all():
                    self.place = Place(f"{array} of {name}", i, f"the {array} of {name} (layer {i}) is")
                    return
        if layer is not None and array == "pre-activations" and _bare(self.layers[layer]):
            array = "outputs"
        rows = None if good.ndim == 0 else numpy.flatnonzero(~good.reshape(good.shape[0], -1).all(axis=1))
        self.place = Place(array, layer, rows=rows, n=0 if rows is None else good.shape[0])


def _bare(layer: Layer) -> bool:
    """Whether nothing stands behind the affine map."""
    return layer.activation is identity and layer.normalization is None and layer.dropout is None and not layer.residual


def _parts(layers: tuple[Layer, ...]) -> Iterator[tuple[int, str, slice]]:
    """Go through the parameters: layer, name and place in the vector."""
    for i, layer in enumerate(layers):
        for kind, (part, _) in layer.parts.items():
            yield i, f"{KINDS[kind]}[{i}]", part


def _statistics(layers: tuple[Layer, ...]) -> Iterator[tuple[int, str, slice]]:
    """Go through the running statistics in the same way."""
    for i, layer in enumerate(layers):
        norm = layer.normalization
        if norm is not None and norm.mean is not None and norm.variance is not None:
            yield i, "running mean", norm.mean
            yield i, "running variance", norm.variance


def stored(backend: Backend, layers: tuple[Layer, ...], arrays: State, member: int | None = None) -> Place | None:
    """Return the first that is not finite of ``params``, ``running`` and arrays of an optimizer; None if all are.

    Arrays of an optimizer may have any shape; in those of the shape of ``params`` the weight or bias is named.

    Examples
    --------
    >>> import numpy as np, portnn
    >>> model = portnn.MLP([2, 1])
    >>> stored(model.backend, model.layers, {"params": model.params, "v": np.asarray([0.0, 0.0, np.inf])})
    Place(array='v of biases[0]', layer=0, words="the optimizer's v of biases[0] (layer 0) is", rows=None, n=0)

    """
    xp = backend.xp
    for name, a in arrays.items():
        here = backend.memory_of(a) == (1, 0)  # of the host: to look there is nothing to compile
        good = numpy.isfinite(backend.to_numpy(a)) if here else None
        if bool(good.all()) if good is not None else bool(xp.all(xp.isfinite(a))):
            continue
        good = numpy.isfinite(backend.to_numpy(a)) if good is None else good
        parts: Iterator[tuple[int, str, slice]] = iter(())
        if name == "running":
            parts = _statistics(layers)
        elif tuple(a.shape) == tuple(arrays["params"].shape):
            parts = _parts(layers)
        good = good[member] if member is not None and tuple(a.shape[:1]) == tuple(arrays["params"].shape[:1]) else good
        for i, of, part in parts:
            if not good[..., part].all():
                if name in ("params", "running"):
                    where = "update of " if name == "params" else ""
                    behind = f"(layer {i})" if name == "params" else f"of layer {i}"
                    return Place(of, i, f"the {where}{of} {behind} is")
                return Place(f"{name} of {of}", i, f"the optimizer's {name} of {of} (layer {i}) is")
        if not good.all():
            return Place(name, None, f"the optimizer's {name} is")
    return None


def members_off(good: numpy.ndarray) -> tuple[int, ...]:
    """Return the numbers of the members, along the first axis, in which anything is False.

    Examples
    --------
    >>> members_off(numpy.asarray([[True, True], [True, False]]))
    (1,)

    """
    return tuple(numpy.flatnonzero(~good.reshape(good.shape[0], -1).all(axis=1)).tolist())


def error(
    head: str,
    place: Place,
    tail: str,
    numbers: numpy.ndarray | Sequence[int] = (),
    members: tuple[int, ...] = (),
    **fields: Any,
) -> NonFiniteError:
    """Return the error for a place: ``head``, what is not finite and for which samples, ``tail``.

    ``numbers`` are those of the samples with a NaN or an infinity, as the caller counts them; the first few are named.
    """
    samples = tuple(int(i) for i in numbers[:MOST])
    said = f" for {len(numbers)} of {place.n} samples ({rows_said(samples, len(numbers))})" if samples else ""
    return NonFiniteError(
        f"{head}{place}{said}; {tail}",
        array=place.array,
        layer=place.layer,
        samples=samples,
        n_samples=len(numbers),
        members=members,
        **fields,
    )


def rows_said(samples: Sequence[int], n: int) -> str:
    """Say which rows of x the first of ``n`` samples are.

    Examples
    --------
    >>> rows_said([7], 1), rows_said([7, 2], 9)
    ('row 7 of x', 'rows 7, 2, ... of x')

    """
    return f"row{'s' * (n > 1)} {', '.join(map(str, samples))}{', ...' * (n > len(samples))} of x"


def refused(
    who: str,
    backend: Backend,
    layers: tuple[Layer, ...],
    params: Array,
    running: Array | None,
    x: Array,
    good: numpy.ndarray,
    numbers: numpy.ndarray | Sequence[int],
    n: int,
    members: tuple[int, ...] = (),
    behind: Place | None = None,
    **fields: Any,
) -> NonFiniteError:
    """Return the error for outputs, or losses, in prediction that are not finite.

    Parameters
    ----------
    x, good
        A batch and, on the host, for which of its samples all is well: ``(batch,)`` or ``(members, batch)``.
    numbers, n
        Those of all samples that are off, as the caller counts them, and how many samples there are.
    members
        Those that are off; by default those that are in this batch.
    behind
        What is not finite if all outputs are.

    """
    members = members or (members_off(good) if good.ndim > 1 else ())
    off = numpy.flatnonzero(~(good[members[0]] if members else good))[:MOST]
    watch = Watch(backend, layers, members[0] if members else None)
    some = backend.take(x, backend.asarray(off.astype("int32")))  # in prediction samples have nothing to do with others
    passes(layers, params, some, running, None, zero_of(params), None, input_gradient=False, seen=watch)
    place = (watch.place or behind or Place("outputs", len(layers) - 1))._replace(n=n)
    tail = "look at these samples, at the activations and at the size of the weights"
    return error(f"{who}: {f'member {members[0]}: ' if members else ''}", place, tail, numbers, members, **fields)


def finite_rows(backend: Backend, y: Array) -> numpy.ndarray:
    """Return, on the host, which outputs ``(..., batch, n_outputs)`` are finite: ``(..., batch)``."""
    good: numpy.ndarray = numpy.isfinite(backend.to_numpy(y)).all(axis=-1)
    return good
