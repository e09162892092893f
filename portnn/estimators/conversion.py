"""A fitted estimator of scikit-learn's becomes one of portnn's, and training can go on."""

from __future__ import annotations

import copy
from typing import Any

import numpy
import sklearn.neural_network
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted

from portnn.backends import HOST
from portnn.estimators.base import Perceptron
from portnn.estimators.classifier import MLPClassifier
from portnn.estimators.descent import Updates
from portnn.estimators.regressor import MLPRegressor
from portnn.history import Reached

_SHARED = (
    *("loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_", "t_", "n_iter_"),
    *("n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "feature_names_in_", "classes_"),
    "_no_improvement_count",
)


def from_sklearn(fitted: Any) -> MLPClassifier | MLPRegressor:
    """Return portnn's estimator with the parameters, weights and attributes of a fitted one of scikit-learn's.

    Its predictions are the same, to rounding, and ``partial_fit``, or ``fit`` with ``warm_start``, go on from there:
    what the optimizer remembers is taken over as well. Nothing is shared with ``fitted``. To have the network alone,
    see :func:`portnn.exchange.from_sklearn`.

    Parameters
    ----------
    fitted
        A ``sklearn.neural_network.MLPClassifier`` or ``MLPRegressor``. Of a pipeline pass the last step.

    Raises
    ------
    TypeError
        It is something else.
    sklearn.exceptions.NotFittedError
        It is not fitted yet.

    Examples
    --------
    >>> import sklearn.neural_network
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 2.0, 3.0]
    >>> theirs = sklearn.neural_network.MLPRegressor(hidden_layer_sizes=5, solver="lbfgs", random_state=0).fit(X, y)
    >>> from_sklearn(theirs).predict([[1.5]]).round(1)
    array([1.5])

    """
    kind = type(fitted).__name__
    if isinstance(fitted, Perceptron):
        raise TypeError(f"from_sklearn: this {kind} is one of portnn's already; copy.deepcopy makes another one of it")
    if not (is_classifier(fitted) or is_regressor(fitted)) or not hasattr(fitted, "hidden_layer_sizes"):
        raise TypeError(
            f"from_sklearn: expected a fitted MLPClassifier or MLPRegressor of scikit-learn, got {kind}; of a pipeline "
            "pass the last step, pipeline[-1], of a search best_estimator_"
        )
    check_is_fitted(fitted)
    cls = MLPClassifier if is_classifier(fitted) else MLPRegressor
    # by the names of theirs: a subclass may have other parameters and keep these as attributes, and their classifier
    # keeps a loss that is none
    names = getattr(sklearn.neural_network, cls.__name__)().get_params(deep=False)
    given = copy.deepcopy({name: getattr(fitted, name) for name in names if hasattr(fitted, name)})
    new: Perceptron = cls(**given)
    for name in _SHARED:
        if hasattr(fitted, name):
            value = getattr(fitted, name)
            setattr(new, name, value.copy() if isinstance(value, list | numpy.ndarray) else value)
    if is_classifier(fitted):
        new._multilabel = fitted._label_binarizer.y_type_.startswith("multilabel")
        new._sparse_labels = bool(fitted._label_binarizer.sparse_input_)
    else:
        new._width = fitted.n_outputs_
    new.coefs_ = [numpy.array(w) for w in fitted.coefs_]
    new.intercepts_ = [numpy.array(b) for b in fitted.intercepts_]
    new._hand_out(new.model_, HOST)
    if fitted.early_stopping and hasattr(fitted, "best_validation_score_"):
        new._best = new.model_.to()
    if hasattr(fitted, "_optimizer") and fitted.solver != "lbfgs":
        new._optimizer = _updates(new, fitted._optimizer)
    return new


def _updates(new: Perceptron, theirs: Any) -> Updates:
    """Return scikit-learn's optimizer as ours: Adam's means become bare sums, without their factors 1 - beta."""
    updates, model = Updates(new), new.model_
    n = len(model.layers)

    def flat(parts: list[numpy.ndarray], factor: float = 1.0) -> numpy.ndarray:
        vector = numpy.zeros(model.n_params, dtype=model.dtype)
        for i, layer in enumerate(model.layers):
            vector[layer.weight], vector[layer.bias] = parts[i].reshape(-1) / factor, parts[n + i] / factor
        return vector

    if new.solver == "sgd":
        arrays, count = {"velocity": flat(theirs.velocities)}, 0
        updates.rate.learning_rate = float(theirs.learning_rate)
    else:
        m, v = flat(theirs.ms, 1.0 - new.beta_1), flat(theirs.vs, 1.0 - new.beta_2)
        arrays, count = {"m": m, "v": v}, int(theirs.t)
    updates.reached = Reached(0, count, arrays)
    return updates
