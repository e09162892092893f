"""MLPRegressor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy
from sklearn.base import RegressorMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from portnn.backends import Array, get_backend, namespace
from portnn.estimators import losses, samples
from portnn.estimators.base import Perceptron
from portnn.losses import LOSSES, Loss, get_loss
from portnn.trace import Place, error, finite_rows


class MLPRegressor(RegressorMixin, Perceptron):
    """A multilayer perceptron for numbers, with the interface of ``sklearn.neural_network.MLPRegressor``.

    It minimizes the mean of (y - t)^2 / 2, summed over outputs, plus alpha / (2 n) times the sum of the squared
    weights, n the number of samples of the batch, or the sum of their weights.

    The first 24 parameters are scikit-learn's: same names, order, defaults and meaning. ``random_state`` draws the same
    numbers, so that the weights are those of scikit-learn, to rounding; with "lbfgs", whose line searches amplify
    rounding, for the first iterations.

    Parameters
    ----------
    loss
        ``"squared_error"``: half of it, reported as the mean over outputs; ``"poisson"``: half the deviance of counts,
        whose mean is the exponential of the output; ``"mse"``, ``"mae"``, ``"huber"`` of :mod:`portnn.losses`; or a
        function or :class:`portnn.losses.Loss` of (outputs, targets).
    hidden_layer_sizes, activation
        As for :class:`MLPClassifier`, and so are all others: solver, alpha, batch_size, learning_rate,
        learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum,
        nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun; and
        clip_norm, validation_data, callbacks, backend, device, dtype, compile, init, dropout, normalization, residual.
        Scores are R^2.

    Attributes
    ----------
    coefs_, intercepts_, loss_, best_loss_, loss_curve_, history_, validation_scores_, best_validation_score_
        As for :class:`MLPClassifier`.
    n_features_in_, feature_names_in_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, model_
        As for :class:`MLPClassifier`.

    Raises
    ------
    ValueError, TypeError
        Bad parameters or data; the estimator is as it was before.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 50)
    >>> regressor = MLPRegressor("huber", [10], "tanh", solver="lbfgs", random_state=0).fit(x[:, None], np.sin(3 * x))
    >>> regressor.score(x[:, None], np.sin(3 * x)) > 0.99
    True

    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Perceptron._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "mse", "mae", "huber"}), Loss, callable],
    }
    _numeric = True
    _score_name = "val_r2"

    def __init__(
        self,
        loss: Any = "squared_error",
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
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        targets = self._encoded(y)
        self._width = targets.shape[1]
        return targets

    def _encoded(self, y: numpy.ndarray) -> numpy.ndarray:
        targets = y.astype("float64").reshape(y.shape[0], -1)
        if losses.of_counts(self.loss) and (targets < 0.0).any():
            row = int(numpy.argwhere(targets < 0.0)[0][0])
            raise ValueError(f"{type(self).__name__}: loss='poisson' expects y >= 0, row {row} is negative")
        return targets

    def _chosen_loss(self) -> tuple[Loss, str, int]:
        ending = "exp" if losses.of_counts(self.loss) else "identity"
        if isinstance(self.loss, str):
            own = {**LOSSES, "squared_error": losses.SQUARED, "poisson": losses.POISSON}
            return own[self.loss], ending, self._width
        entry = get_loss(self.loss)
        if entry.kind != "values":
            raise ValueError(
                f"{type(self).__name__}: the loss {entry.name!r} is one of classes, expected one of values"
            )
        return entry, ending, self._width

    def _groups(self, targets: numpy.ndarray) -> None:
        """Return that there are no groups to keep the proportions of."""

    def _scored(self, y: Array, targets: numpy.ndarray, weight: numpy.ndarray | None) -> float:
        y = samples.to_numpy(self._of_outputs(y))
        return float(r2_score(targets, y, sample_weight=weight)) if numpy.isfinite(y).all() else float("nan")

    def _of_outputs(self, y: Array) -> Array:
        if self.out_activation_ != "exp":
            return y
        with get_backend(y).scope():
            return namespace(y).exp(y)

    # -- what users call --------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None) -> MLPRegressor:
        """Train the network on samples ``(n, n_features)`` and targets ``(n,)`` or ``(n, n_outputs)``.

        All arguments are as in :meth:`MLPClassifier.fit`. After an error the estimator is as it was.
        """
        return self._fit(X, y, sample_weight, incremental=False, held_out=(X_val, y_val))

    @available_if(lambda self: self._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """Make one pass over the samples, with what the optimizer remembers of earlier calls."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Return the predictions ``(n,)`` or ``(n, n_outputs)``, in the library of ``X``.

        NonFiniteError where one of ``loss="poisson"``, the exponential of an output, is beyond the dtype.
        """
        y = self._of_outputs(self._outputs(X, "predict"))
        off = numpy.flatnonzero(~finite_rows(get_backend(y), y)) if self.out_activation_ == "exp" else ()
        if len(off):
            place = Place("predictions", words="exp(outputs) is", n=int(y.shape[0]))
            tail = "look at these samples, and scale X as in training"
            raise error(f"{type(self).__name__}.predict: ", place, tail, off)
        return y[:, 0] if y.shape[1] == 1 else y

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2, the mean over outputs; on the host, since scikit-learn writes into arrays, which JAX refuses."""
        predicted, weight = samples.to_host(self.predict(X)), samples.to_host(sample_weight)
        return float(r2_score(samples.to_host(y), predicted, sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        """Several outputs are taken."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
