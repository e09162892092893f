"""The exceptions of portnn. All of them are also one of Python's own, so ``except ValueError`` keeps working."""


class BackendError(RuntimeError):
    """An array library, a device or a dtype that was asked for cannot be used here; the message names the cure."""


class FormatError(ValueError):
    """A file is not what it claims to be; the message says where and why. Nothing of it has been used."""


class NonFiniteError(FloatingPointError):
    """A NaN or an infinity arose in training; the message names epoch, batch and layer.

    The model keeps the last parameters that were finite.
    """
