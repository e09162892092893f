"""MLPClassifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.metrics import accuracy_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

from portnn.activations import sigmoid, softplus
from portnn.backends import Array, get_backend, namespace
from portnn.checks import check_number
from portnn.errors import shown
from portnn.estimators import labels, losses, samples
from portnn.estimators.base import Perceptron
from portnn.evaluation import predicted
from portnn.losses import LOSSES, Loss, get_loss


class MLPClassifier(ClassifierMixin, Perceptron):
    """A multilayer perceptron for classes, with the interface of ``sklearn.neural_network.MLPClassifier``.

    It minimizes the mean of -log p(class) plus alpha / (2 n) times the sum of the squared weights, n the number of
    samples of the batch, or the sum of their weights. Two classes have one output, whose sigmoid is the probability of
    the second; more have a softmax; a matrix of zeros and ones as ``y`` (multilabel) has a sigmoid for each column.

    The first 23 parameters are scikit-learn's: same names, order, defaults and meaning. ``random_state`` draws the same
    numbers, so that the weights are those of scikit-learn, to rounding; with "lbfgs", whose line searches amplify
    rounding, for the first iterations.

    Parameters
    ----------
    hidden_layer_sizes
        Numbers of units of the hidden layers; ``()`` is a linear model.
    activation
        A name of :class:`portnn.MLP`, ``"logistic"`` (the same as ``"sigmoid"``), a function, or a list of one for each
        hidden layer.
    solver
        ``"adam"``, ``"sgd"``, or ``"lbfgs"`` (SciPy's, on all samples at once).
    alpha
        The penalty on the weights, see above.
    batch_size
        ``"auto"`` is min(200, n_samples).
    learning_rate, learning_rate_init, power_t
        Of "sgd": ``"constant"``, ``"invscaling"`` (divided by (t + 1)^power_t after t samples), or ``"adaptive"``
        (divided by 5 where training would end, until it is 1e-6). "adam" has a constant one.
    max_iter, tol, n_iter_no_change
        Epochs at most; training ends when for more than n_iter_no_change epochs the loss has not fallen by tol.
    shuffle, random_state
        The order of the samples in each epoch; an int, a RandomState or None.
    verbose, warm_start
        Print each epoch; begin where the last fit ended.
    momentum, nesterovs_momentum, beta_1, beta_2, epsilon, max_fun
        Of "sgd", of "adam" (epsilon is added before the root is corrected), and of "lbfgs".
    early_stopping, validation_fraction
        Hold out a fraction, of each class where labels are single; stop by its accuracy, and keep the best network.
    class_weight
        A mapping from class to weight, ``"balanced"``, a list of mappings for multilabel targets, or None.
    loss
        ``"cross_entropy"``, a :class:`portnn.losses.Loss` of kind "classes" or "binary", or a function of (outputs,
        labels) such as :func:`portnn.losses.cross_entropy` with ``label_smoothing``.
    clip_norm
        Scale the gradient of a batch down to this Euclidean norm.
    validation_data
        A pair (X, y) that is scored after every epoch, and held out in place of a fraction of the samples. No pipeline
        transforms it: behind a scaler give ``(scaler.transform(X), y)``, or ``X_val`` to :meth:`fit`.
    callbacks
        Functions f(model, history), called after every epoch, whose true value ends the training; or objects that
        follow ``sklearn.callback.FitCallback``, as for ``set_callbacks``. Of held-out samples the history has
        "val_loss", without the penalty, and "val_accuracy" (of a regressor "val_r2").
    backend, device
        Where the network is trained, see :class:`portnn.MLP`; None for where the samples are.
    dtype
        ``"float32"`` or ``"float64"``; None for float32 if X is, or where the device has no float64, as JAX has none
        before ``jax_enable_x64`` is set; else float64.
    compile
        As in :func:`portnn.fit`.
    init
        Initial weights as for :class:`portnn.MLP`, biases 0; None for scikit-learn's, uniform in
        +-sqrt(6 / (fan_in + fan_out)), with 2 for sigmoids, biases too.
    dropout, normalization, residual
        Handed on to :class:`portnn.MLP` where they are not at their defaults.

    Attributes
    ----------
    classes_
        ``(n_classes,)``, sorted.
    coefs_, intercepts_
        Weights ``(in_features, out_features)`` and biases of each layer, of the library of X.
    loss_, best_loss_, loss_curve_
        The loss of the last epoch, the lowest, and all of them.
    validation_scores_, best_validation_score_
        The accuracy of held-out samples after each epoch, and the best; None without such samples. ``sample_weight``
        counts in it, ``class_weight`` does not.
    history_
        The :class:`portnn.training.History` of the last call, of "sgd" and "adam": lists, a table, a picture.
    n_features_in_, feature_names_in_, n_iter_, t_, n_layers_, n_outputs_, out_activation_
        As in scikit-learn: ``n_iter_`` epochs of the last fit, ``t_`` samples seen in all.
    model_
        The :class:`portnn.MLP`.

    Raises
    ------
    ValueError, TypeError
        Bad parameters or data; the estimator is as it was before.

    Examples
    --------
    >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], ["even", "odd", "odd", "even"]
    >>> classifier = MLPClassifier([8], activation="gelu", solver="lbfgs", random_state=0).fit(X, y)
    >>> classifier.predict(X).tolist()
    ['even', 'odd', 'odd', 'even']

    """

    _score_name = "val_accuracy"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Perceptron._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
        "loss": [StrOptions({"cross_entropy"}), Loss, callable],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: Any = 0.001,
        power_t: Any = 0.5,
        max_iter: Any = 200,
        shuffle: Any = True,
        random_state: Any = None,
        tol: Any = 1e-4,
        verbose: Any = False,
        warm_start: Any = False,
        momentum: Any = 0.9,
        nesterovs_momentum: Any = True,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: Any = 15000,
        class_weight: Any = None,
        loss: Any = "cross_entropy",
        clip_norm: Any = None,
        validation_data: Any = None,
        callbacks: Any = None,
        backend: Any = None,
        device: Any = None,
        dtype: Any = None,
        compile: Any = "auto",
        init: Any = None,
        dropout: Any = 0.0,
        normalization: Any = None,
        residual: Any = False,
    ) -> None:
        self._keep(locals())

    # -- targets ----------------------------------------------------------------------------------------------

    def _targets(self, y: numpy.ndarray, first: bool, incremental: bool) -> numpy.ndarray:
        y = labels.checked(y, type(self).__name__)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._multilabel, self.classes_ = y.ndim == 2, unique_labels(y)
        elif self.warm_start and not incremental and y.ndim == 1 and set(numpy.unique(y)) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {labels.few(self.classes_)}, `y` has {labels.few(numpy.unique(y))}"
            )
        return self._numbered(y)

    def _encoded(self, y: numpy.ndarray) -> numpy.ndarray:
        return self._numbered(labels.checked(y, type(self).__name__))

    def _numbered(self, y: numpy.ndarray) -> numpy.ndarray:
        """Return labels that were looked at as portnn.fit takes them."""
        if (y.ndim == 2) != self._multilabel:
            raise ValueError(f"{type(self).__name__}: y is {y.ndim}-D, unlike the y of before")
        if self._multilabel:
            if y.shape[1] != len(self.classes_):
                n = len(self.classes_)
                raise ValueError(f"{type(self).__name__}: y has {y.shape[1]} columns, expected {n} as in training")
            return y.astype("float64")
        unknown = numpy.setdiff1d(y, self.classes_)
        if unknown.size:
            raise ValueError(
                f"`y` has classes not in `self.classes_`: {shown(unknown.tolist())}, `self.classes_` has "
                f"{shown(self.classes_.tolist())}"
            )
        index = numpy.searchsorted(self.classes_, y)
        return index if self._chosen_loss()[1] == "softmax" else (index == 1).astype("float64")[:, None]

    def _chosen_loss(self) -> tuple[Loss, str, int]:
        who, n = type(self).__name__, len(self.classes_)
        if isinstance(self.loss, str):
            if self._multilabel:
                return losses.LABELS, "logistic", n
            return (losses.LABELS, "logistic", 1) if n < 3 else (losses.CLASSES, "softmax", n)
        entry = get_loss(self.loss)
        if entry.kind == "values":
            if isinstance(self.loss, Loss) or any(losses.plain(entry) is ours.pair for ours in LOSSES.values()):
                raise ValueError(f"{who}: the loss {entry.name!r} is one of values, expected one of classes")
            entry = entry._replace(kind="classes")
        if entry.kind == "classes" and self._multilabel:
            raise ValueError(f"{who}: the loss {entry.name!r} is one of classes, multilabel targets want kind 'binary'")
        if entry.kind == "binary" and n > 2 and not self._multilabel:
            raise ValueError(f"{who}: the loss {entry.name!r} is of kind 'binary', y has {n} classes")
        one = entry.kind == "binary" and not self._multilabel
        return entry, "softmax" if entry.kind == "classes" else "logistic", 1 if one else n

    def _groups(self, targets: numpy.ndarray) -> numpy.ndarray | None:
        """Return what a split is to keep the proportions of."""
        if self._multilabel:
            return None
        return targets > 0.5 if targets.ndim == 2 else self.classes_[targets]

    def _weighted(self, weight: Any, y: numpy.ndarray, incremental: bool) -> numpy.ndarray | None:
        if self.class_weight is None:
            return weight
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                f"{type(self).__name__}: class_weight='balanced' wants all of the data; for partial_fit give a "
                "mapping, for example from sklearn.utils.class_weight.compute_class_weight"
            )
        if isinstance(self.class_weight, Mapping) and not self._multilabel:  # a batch need not have every class
            unknown = sorted(set(self.class_weight) - set(self.classes_.tolist()), key=str)
            if unknown:
                raise ValueError(
                    f"{type(self).__name__}: class_weight names {shown(unknown[0])}, the classes are "
                    f"{shown(self.classes_.tolist())}"
                )
            of_class = {
                label: check_number(type(self).__name__, f"class_weight of {shown(label)}", value, 0.0)
                for label, value in self.class_weight.items()
            }
            own = numpy.asarray([of_class.get(label, 1.0) for label in numpy.ravel(y).tolist()])
        else:
            own = compute_sample_weight(self.class_weight, labels.checked(y, type(self).__name__))
        weight = own if weight is None else weight * own
        return samples.weights(weight, y.shape[0], f"{type(self).__name__}: class_weight times sample_weight")

    def _scored(self, y: Array, targets: numpy.ndarray, weight: numpy.ndarray | None) -> float:
        if self._is_certain():
            return 1.0
        y = samples.to_numpy(y)
        right = y.argmax(axis=1) == targets if targets.ndim == 1 else ((y > 0.0) == (targets > 0.5)).all(axis=1)
        return float(numpy.average(right, weights=weight))

    def _is_certain(self) -> bool:
        """Whether there is one class, which all samples are predicted to be of."""
        return not self._multilabel and len(self.classes_) == 1

    # -- what users call --------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None) -> MLPClassifier:
        """Train the network on samples ``(n, n_features)`` and labels ``(n,)``, or ``(n, n_labels)`` of zeros and ones.

        ``X`` may be an array, a list, a data frame, a sparse matrix (which is made dense as a whole), or under
        ``sklearn.config_context(array_api_dispatch=True)`` an array of CuPy, PyTorch, JAX or another library, on whose
        device the network is then trained. ``sample_weight`` is ``(n,)``, not negative, or None.

        ``X_val`` and ``y_val`` are ``validation_data`` under the names that a pipeline hands on and can transform:
        ``Pipeline(steps, transform_input=["X_val"])``. After an error the estimator is as it was.
        """
        return self._fit(X, y, sample_weight, incremental=False, held_out=(X_val, y_val))

    @available_if(lambda self: self._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """Make one pass over the samples, with what the optimizer remembers of earlier calls.

        ``classes`` are all labels there will be, needed in the first call.
        """
        given, known = (
            None if classes is None else labels.all_of(classes, type(self).__name__),
            getattr(self, "classes_", None),
        )
        if known is not None and given is not None and not numpy.array_equal(known, given):
            raise ValueError(
                f"`classes={labels.few(given)}` is not the same as on last call to partial_fit, was: "
                f"{labels.few(known)}"
            )
        if known is None and given is None:
            message = "classes must be passed on the first call to partial_fit."
            raise ValueError(message)
        if known is not None:
            return self._fit(X, y, sample_weight, incremental=True)
        several = type_of_target(samples.to_host(y)).startswith("multilabel")
        self._multilabel, self.classes_ = several, given
        try:
            return self._fit(X, y, sample_weight, incremental=True)
        except BaseException:
            del self._multilabel, self.classes_
            raise

    def predict(self, X: Any) -> Any:
        """Return the labels ``(n,)``, or ``(n, n_labels)`` of zeros and ones, in the library of ``X``.

        Labels that are strings come as a NumPy array; a CSR matrix if ``y`` was sparse in ``fit``.
        """
        y = self._outputs(X, "predict")

        def answers(y: numpy.ndarray) -> numpy.ndarray:
            if self.out_activation_ == "softmax":
                return self.classes_[y.argmax(axis=1)]
            if self._multilabel:
                return (y > 0.0).astype(int)
            return self.classes_[numpy.zeros(len(y), int) if self._is_certain() else (y[:, 0] > 0.0).astype(int)]

        if self._multilabel and self.__dict__.get("_sparse_labels"):
            return samples.csr(answers(samples.to_numpy(y)))
        return samples.through_host(answers, y, get_backend(y))

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities ``(n, n_classes)``, in the order of ``classes_``; of one class alone they are 1."""
        return self._probabilities(self._outputs(X, "predict_proba"))

    def _probabilities(self, y: Array) -> Array:
        with get_backend(y).scope():
            return self._probable(y)

    def _probable(self, y: Array) -> Array:
        if self.out_activation_ == "softmax":
            return predicted("classes", y.shape[1], "predict_proba")(y) if y.shape[1] > 1 else namespace(y).ones_like(y)
        if self._multilabel:
            return sigmoid(y)[0]
        if self._is_certain():
            return namespace(y).ones_like(y)
        return namespace(y).concat([sigmoid(-y)[0], sigmoid(y)[0]], axis=1)

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of the probabilities.

        Numerical stability: they are taken from the outputs, so that they stay finite where a probability rounds to 0.
        """
        y = self._outputs(X, "predict_log_proba")
        xp = namespace(y)
        with get_backend(y).scope():
            if self.out_activation_ == "softmax":
                shifted = y - xp.max(y, axis=1, keepdims=True)
                return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
            if self._multilabel:
                return -softplus(-y)[0]
            return xp.zeros_like(y) if self._is_certain() else -xp.concat([softplus(y)[0], softplus(-y)[0]], axis=1)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, the fraction of samples (or of their weights) all of whose labels are right.

        It is computed on the host, in float64: of arrays of others scikit-learn takes the mean in their default dtype.
        """
        found, weight = samples.to_host(self.predict(X)), samples.to_host(sample_weight)
        return float(accuracy_score(samples.to_host(y), found, sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        """Multilabel targets are taken."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
