"""A multilayer perceptron written once, against the Python Array API standard: NumPy, CuPy, PyTorch, JAX and others.

This file only hands names on.
"""

from portnn import (
    activations,
    autograd,
    backends,
    callbacks,
    datasets,
    distributed,
    exchange,
    initializers,
    losses,
    onnx,
    optimizers,
    primitives,
    random,
    schedules,
    testing,
)
from portnn.checkpoints import Checkpoints, load_checkpoint
from portnn.errors import BackendError, FormatError, NonFiniteError, RankError
from portnn.evaluation import ensemble_predict, evaluate, predict
from portnn.history import History
from portnn.hosts import scipy_objective, scipy_residuals
from portnn.mlp import MLP
from portnn.optimizers import LAMB, LARS, SGD, Adagrad, Adam, AdamW, RMSprop
from portnn.scaling import Rescale, Standardize
from portnn.training import fit

__version__ = "0.1.0"
__all__ = [
    "LAMB",
    "LARS",
    "MLP",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BackendError",
    "Checkpoints",
    "FormatError",
    "History",
    "NonFiniteError",
    "RMSprop",
    "RankError",
    "Rescale",
    "Standardize",
    "activations",
    "autograd",
    "backends",
    "callbacks",
    "datasets",
    "distributed",
    "ensemble_predict",
    "evaluate",
    "exchange",
    "fit",
    "initializers",
    "load_checkpoint",
    "losses",
    "onnx",
    "optimizers",
    "predict",
    "primitives",
    "random",
    "schedules",
    "scipy_objective",
    "scipy_residuals",
    "testing",
]
