"""The exceptions of portnn. All of them are also one of Python's own, so ``except ValueError`` keeps working."""

import reprlib
import sys
from typing import Any


class BackendError(RuntimeError):
    """An array library, a device or a dtype that was asked for cannot be used here; the message names the cure."""


class FormatError(ValueError):
    """A file is not what it claims to be; the message says where and why. Nothing of it has been used."""


class OtherFile(FormatError):
    """A file that a callback is to go on with is not the one that it wrote."""


class RankError(RuntimeError):
    """Another rank of a training failed; the message names the rank and its error."""


class NonFiniteError(FloatingPointError):
    """A NaN or an infinity arose: in the training, or in outputs of :func:`portnn.predict` and :func:`portnn.evaluate`.

    After ``fit`` the model keeps the last parameters that were finite.

    Attributes
    ----------
    epoch, batch
        Where in the training, counted from 1; ``batch`` is None where it was no batch of the training: in the
        validation, or set by a callback. Both are None outside ``fit``.
    array
        The first array, in the order of the computation, that was not finite: ``"x"``, ``"pre-activations"`` (x weight
        + bias), ``"outputs"``, ``"loss"``, ``"gradient of weights[0]"``, after the update ``"weights[0]"``, ``"v of
        weights[0]"`` (the optimizer's), ``"running variance"``, ...
    layer
        The number of its layer, counted from 0; None where it is of no layer.
    samples, n_samples
        The first few of the samples for which it was not, as numbers of rows in the caller's x (of the validation data,
        where it arose there), and how many there were; none where it is not an array of samples, as parameters are.
    members
        The numbers of all members in which something was not finite; the place is that of the first. Empty without
        members.
    history
        What ``fit`` had written down by then.

    Examples
    --------
    >>> import numpy as np, portnn
    >>> def squeezed(z):
    ...     with np.errstate(invalid="ignore"):
    ...         y = np.sqrt(z)
    ...     return y, lambda dy: (0.5 * dy / y,)
    >>> x = np.asarray([[4.0], [-1.0], [1.0]])
    >>> model = portnn.MLP([1, 1, 1], activation=squeezed, init=lambda key, i, o: np.ones((i, o)))
    >>> try:
    ...     history = portnn.fit(model, x, x, loss="mse", progress=False)
    ... except portnn.NonFiniteError as error:
    ...     error.epoch, error.batch, error.array, error.layer, error.samples, error.n_samples
    (1, 1, 'outputs', 0, (1,), 1)

    """

    history: Any = None

    def __init__(
        self,
        message: str,
        *,
        epoch: int | None = None,
        batch: int | None = None,
        array: str = "",
        layer: int | None = None,
        samples: tuple[int, ...] = (),
        n_samples: int = 0,
        members: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message)
        self.epoch, self.batch, self.array, self.layer = epoch, batch, array, layer
        self.samples, self.n_samples, self.members = samples, n_samples, members

    @property
    def fields(self) -> dict[str, Any]:
        """What it was made with beside the message."""
        names = ("epoch", "batch", "array", "layer", "samples", "n_samples", "members")
        return {name: getattr(self, name) for name in names}


def shown(value: object, limit: int = 100) -> str:
    """Return the repr of something that came from outside, on one line of about ``limit`` characters; no array's.

    Examples
    --------
    >>> shown("x" * 50, limit=12)
    "'xxx...xxxx'"

    """
    if hasattr(value, "shape") and hasattr(value, "dtype") and value.shape:
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    return " ".join(short.repr(value).split())


def reason(error: BaseException, limit: int = 240) -> str:
    """Return what another library says in an exception, on one line and cut in the middle to ``limit`` characters.

    Examples
    --------
    >>> reason(ImportError("=====\\nno CUDA\\nhere"))
    'no CUDA here'

    """
    text = " ".join(word for word in str(error).split() if set(word) != {"="})
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


def caller() -> int:
    """Return the ``stacklevel`` by which ``warnings.warn``, called here, blames the code that called portnn."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "portnn":
        level, frame = level + 1, frame.f_back
    return level
