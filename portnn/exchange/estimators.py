"""scikit-learn: ``coefs_`` and ``intercepts_`` of a fitted MLPClassifier or MLPRegressor."""

from __future__ import annotations

from typing import Any

import numpy

from portnn.activations import describe_activation
from portnn.errors import shown
from portnn.exchange.stack import Given, check_single, stacked, to_host
from portnn.mlp import MLP
from portnn.scaling import Scaling

_OF_SKLEARN = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


def from_sklearn(
    estimator: Any,
    *,
    backend: Any = "numpy",
    device: Any = None,
    inputs: Scaling | None = None,
    outputs: Scaling | None = None,
) -> MLP:
    """Return the model with the weights and the activation of a fitted ``MLPClassifier`` or ``MLPRegressor``.

    Parameters
    ----------
    estimator
        A fitted estimator. Of a pipeline pass the last step, and its StandardScaler, or what else stands before it, as
        ``inputs=portnn.Standardize(scaler.mean_.tolist(), scaler.scale_.tolist())``.
    backend, device
        Where the model is to live.
    inputs, outputs
        A scaling before the first layer and behind the last, as for :class:`MLP`.

    Returns
    -------
    A model in the dtype of ``coefs_`` (float64 unless X was float32). Its outputs are raw: ``out_activation_`` is left
    to the loss. Those of a regressor are its predictions; of a classifier of many classes, the softmax gives
    ``predict_proba`` and the largest is ``classes_[i]``; of two classes there is one output, whose sigmoid is the
    probability of ``classes_[1]``.

    Raises
    ------
    TypeError, ValueError
        ``estimator`` is something else or not fitted yet.

    Examples
    --------
    >>> import types
    >>> import numpy as np
    >>> fitted = types.SimpleNamespace(
    ...     coefs_=[np.ones((2, 1)), np.ones((1, 1))], intercepts_=[np.zeros(1), np.zeros(1)], activation="logistic"
    ... )
    >>> from_sklearn(fitted)
    MLP([2, 1, 1], activation='sigmoid', dtype='float64', backend='numpy', device='cpu')

    """
    who = "from_sklearn"
    weights, biases, activation = _fitted(estimator, who)
    ending = getattr(estimator, "out_activation_", "identity")
    if ending not in ("identity", "logistic", "softmax"):
        raise ValueError(f"{who}: the outputs go through {ending!r}, which portnn's losses do not hold")
    layers = [
        Given(
            f"layer {i}",
            to_host(w, who, f"coefs_[{i}]", 2, "(in_features, out_features)"),
            to_host(b, who, f"intercepts_[{i}]", 1, "(out_features,)"),
        )
        for i, (w, b) in enumerate(zip(weights, biases, strict=True))
    ]
    return stacked(who, layers, activation, backend, device, inputs, outputs)


def to_sklearn(model: MLP, estimator: Any) -> Any:
    """Put the parameters into a fitted ``MLPClassifier`` or ``MLPRegressor`` of the same layers, and return it.

    Only ``coefs_`` and ``intercepts_`` are replaced, by copies in the model's dtype; all else (classes, what the
    optimizer remembers) stays as it was fitted. A layer without a bias gets zeros.

    Raises
    ------
    TypeError, ValueError
        ``estimator`` is something else, not fitted yet, or has other layers or another activation.

    Examples
    --------
    >>> import types
    >>> import numpy as np
    >>> fitted = types.SimpleNamespace(coefs_=[np.zeros((2, 1))], intercepts_=[np.zeros(1)], activation="relu")
    >>> to_sklearn(MLP([2, 1], init="normal", dtype="float64"), fitted).coefs_[0].shape
    (2, 1)

    """
    who = "to_sklearn"
    check_single(model, who)
    weights, _, activation = _fitted(estimator, who)
    theirs = [tuple(w.shape) for w in weights]
    ours = [(layer.fan_in, layer.fan_out) for layer in model.layers]
    if theirs != ours:
        raise ValueError(f"{who}: the estimator has layers of shapes {shown(theirs)}, the model {shown(ours)}")
    names = [describe_activation(layer.activation) for layer in model.layers]
    expected = activation if isinstance(activation, list) else [activation] * (len(names) - 1)
    if names != [*expected, "identity"]:
        raise ValueError(
            f"{who}: the estimator has {shown(activation)} behind its hidden layers and nothing behind the last, the "
            f"model {shown(names)}"
        )
    host, layers = model.backend.to_numpy, model.layers
    estimator.coefs_ = [numpy.array(host(w), order="C") for w in model.weights]
    estimator.intercepts_ = [
        numpy.zeros(layer.fan_out, model.dtype) if bias is None else numpy.array(host(bias))
        for layer, bias in zip(layers, model.biases, strict=True)
    ]
    return estimator


def _fitted(estimator: Any, who: str) -> tuple[list[Any], list[Any], Any]:
    """Return coefs_, intercepts_ and our name of the activation, or a list of one for each hidden layer."""
    kind = type(estimator).__name__
    if not hasattr(estimator, "coefs_") or not hasattr(estimator, "intercepts_"):
        if hasattr(estimator, "hidden_layer_sizes"):
            raise ValueError(f"{who}: this {kind} is not fitted yet; call fit first")
        raise TypeError(
            f"{who}: expected a fitted MLPClassifier or MLPRegressor, got a {kind}; of a pipeline pass the last step, "
            "pipeline[-1], of a search best_estimator_"
        )
    own = getattr(estimator, "model_", None)
    if isinstance(own, MLP):  # of portnn's estimators, which can be more than theirs
        check_single(own, who)
        names = [describe_activation(layer.activation) for layer in own.layers[:-1]]
        if any(name.startswith("<") for name in names):
            raise ValueError(f"{who}: an activation of your own, {names}, is not known by name; take estimator.model_")
        return list(estimator.coefs_), list(estimator.intercepts_), names
    activation = getattr(estimator, "activation", None)
    if not isinstance(activation, str) or activation not in _OF_SKLEARN:
        raise ValueError(f"{who}: unknown activation {shown(activation)}, expected one of {', '.join(_OF_SKLEARN)}")
    if len(estimator.coefs_) != len(estimator.intercepts_) or not len(estimator.coefs_):
        counts = f"{len(estimator.coefs_)} coefs_ and {len(estimator.intercepts_)} intercepts_"
        raise ValueError(f"{who}: this {kind} has {counts}, expected as many of both")
    return list(estimator.coefs_), list(estimator.intercepts_), _OF_SKLEARN[activation]
