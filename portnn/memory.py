"""What does not fit into memory: one exception whatever the library, which says how much was wanted and what to try."""

from __future__ import annotations

import contextlib
import itertools
import traceback
from collections.abc import Callable, Iterator

from portnn.backends import Backend
from portnn.mlp import MLP


@contextlib.contextmanager
def enough(backend: Backend, said: Callable[[], str]) -> Iterator[None]:
    """Raise MemoryError(said()) where the library runs out of memory: each has an exception, or a text, of its own.

    What the calls that failed have made is let go: kept alive by the traceback, it would leave no room to go on in.

    Examples
    --------
    >>> from portnn.backends import HOST
    >>> with enough(HOST, lambda: "fit: out of memory"):
    ...     raise MemoryError
    Traceback (most recent call last):
    MemoryError: fit: out of memory

    """
    try:
        yield
    except Exception as error:
        if not backend.ran_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        raise MemoryError(said()) from error


def check_finite(model: MLP, who: str) -> None:
    """As :meth:`portnn.MLP.check_finite`, where memory may run out."""
    wanted = model.n_params * _members(model)
    text = f"{who}: out of memory: looking at the parameters wants about {wanted} bytes; free what else is there"
    with enough(model.backend, lambda: text):
        model.check_finite(who)


def samples_want(model: MLP, x: object, who: str) -> str:
    """Say what looking at the samples, and bringing them to the device, wanted: they and their finiteness."""
    shape = tuple(map(int, getattr(x, "shape", ())))
    n = shape[0] if shape else 0
    wanted = n * model.sizes[0] * (_width(model) + 1)
    return (
        f"{who}: out of memory: {n} samples of {model.sizes[0]} numbers want about {wanted} bytes beside what they "
        f"take; {_cure('', n, ' samples at a time')}"
    )


def state_wants(model: MLP, who: str) -> str:
    """Say what a training wanted before its first step: the parameters, and what Adam, which keeps most, keeps."""
    wanted = 3 * model.n_params * _members(model) * _width(model)
    return (
        f"{who}: out of memory: the parameters and what the optimizer keeps want about {wanted} bytes; take a smaller "
        "network, fewer members, dtype='float32' or optimizer='sgd'"
    )


def checkpoint_wants(model: MLP) -> str:
    """Say what a checkpoint wanted in the memory of the host: a copy of what :func:`state_wants` counts."""
    wanted = 3 * model.n_params * _members(model) * _width(model)
    return (
        f"fit: out of memory: a checkpoint wants about {wanted} bytes of the host's memory; those before are as they "
        "were, and the model is that of the last finished steps"
    )


def training_wants(model: MLP, steps: int, batch_size: int) -> str:
    """Say what a chunk of steps that did not fit wanted: its rows, each layer's values there and back, parameters."""
    wanted = steps * batch_size * model.sizes[0] + 3 * batch_size * sum(model.sizes) * _members(model)
    wanted += 4 * model.n_params * _members(model)
    return (
        f"fit: out of memory: batches of {batch_size} samples want about {wanted * _width(model)} bytes; "
        f"{_cure('batch_size=', batch_size)}. The model is that of the last finished steps"
    )


def outputs_want(model: MLP, n: int, rows: int, who: str, example: str) -> str:
    """Say what going forward ``rows`` of ``n`` samples at a time wanted: two layers' values at once, and all outputs.

    ``example`` shows how fewer are handed in, {0} being their number.
    """
    rows = min(rows, n)
    layers = max(a + b for a, b in itertools.pairwise(model.sizes))
    wanted = (rows * (model.sizes[0] + layers) + n * model.sizes[-1]) * _members(model) * _width(model)
    such = f", such as {example.format(rows // 2)}" if rows > 1 else ""
    return (
        f"{who}: out of memory: {rows} of {n} samples at once want about {wanted} bytes; "
        f"{_cure('a batch size of ', rows)}{such}"
    )


def _members(model: MLP) -> int:
    return model.members or 1


def _width(model: MLP) -> int:
    return 4 if model.dtype == "float32" else 8


def _cure(name: str, size: int, what: str = "") -> str:
    if size > 1:
        return f"try {name}{size // 2}{what}"
    return "one sample is the least, so take a smaller network or fewer members"
