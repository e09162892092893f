"""A multilayer perceptron written once against the Python Array API."""

from portnn.errors import BackendError, FormatError, NonFiniteError

__all__ = ["BackendError", "FormatError", "NonFiniteError"]
__version__ = "0.1.0"
