"""The exceptions of portnn. All of them are also one of Python's own, so ``except ValueError`` keeps working."""

import reprlib
from typing import Any


class BackendError(RuntimeError):
    """An array library, a device or a dtype that was asked for cannot be used here; the message names the cure."""


class FormatError(ValueError):
    """A file is not what it claims to be; the message says where and why. Nothing of it has been used."""


class NonFiniteError(FloatingPointError):
    """A NaN or an infinity arose in training; the message names epoch, batch and layer, and the member if any.

    The model keeps the last parameters that were finite. ``members`` are the numbers of all members that were not at
    that step, ``history`` is what ``fit`` had written down by then.
    """

    history: Any = None

    def __init__(self, message: str, members: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.members = members


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
