"""scikit-learn: MLPClassifier and MLPRegressor with its parameters, attributes and numbers, and what its own refuse.

``python -m pip install "scikit-learn>=1.9"``. Everything works as in sklearn.neural_network, whose parameters come
first and mean the same; with the same ``random_state`` the weights are the same, to rounding. What is more: any
activation and loss, class weights, validation data, clipping, callbacks, float32 and float64, any backend, and arrays
of CuPy, PyTorch or JAX in and out.
"""

try:
    import sklearn  # noqa: F401
    from sklearn.callback import CallbackSupportMixin as _  # noqa: F401
except ImportError as error:
    message = 'portnn.estimators needs scikit-learn 1.9 or later: python -m pip install "scikit-learn>=1.9"'
    raise ImportError(message) from error

from portnn.estimators.classifier import MLPClassifier
from portnn.estimators.conversion import from_sklearn
from portnn.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn"]
