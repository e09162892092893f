"""Weights from and to PyTorch, scikit-learn and Keras, none of which is imported.

What comes in is known by what it has: a mapping of arrays, ``coefs_`` and ``intercepts_``, a list of arrays; the arrays
may be of any library that portnn knows. What goes out are arrays. Numbers and dtype are kept to the bit, so that only
the order of the sums differs in what is predicted.

portnn's weight is (in_features, out_features), as in scikit-learn and Keras; torch's is (out_features, in_features).
portnn's networks return raw outputs: a softmax or sigmoid behind the last layer belongs to the loss, and is left out.
"""

from portnn.exchange.estimators import from_sklearn, to_sklearn
from portnn.exchange.kernels import from_keras, to_keras
from portnn.exchange.state_dicts import from_torch, to_torch

__all__ = ["from_keras", "from_sklearn", "from_torch", "to_keras", "to_sklearn", "to_torch"]
