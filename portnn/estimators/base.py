"""What both estimators share: parameters and their limits, the network behind ``coefs_``, pickling."""

from __future__ import annotations

import itertools
from numbers import Real
from typing import Any, ClassVar

import numpy
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from portnn.backends import Array, Backend, get_backend
from portnn.errors import shown
from portnn.estimators import samples
from portnn.estimators.descent import Problem, descend
from portnn.estimators.parameters import Parameters
from portnn.estimators.quasi_newton import minimize
from portnn.estimators.watch import joined
from portnn.losses import Loss
from portnn.mlp import MLP

_OF_CALLBACKS = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


class Perceptron(Parameters):
    """Base of :class:`MLPClassifier` and :class:`MLPRegressor`."""

    # Fitted: coefs_ and intercepts_ are what counts; the network behind them is made anew where they were replaced.
    coefs_: list[Array]
    intercepts_: list[Array]
    loss_curve_: list[float]
    validation_scores_: list[float] | None

    # -- what the subclasses say ------------------------------------------------------------------------------

    def _targets(self, y: numpy.ndarray, first: bool, incremental: bool) -> numpy.ndarray:
        """Return targets as portnn.fit takes them, and take note of the classes."""
        raise NotImplementedError

    def _encoded(self, y: numpy.ndarray) -> numpy.ndarray:
        """Return targets as portnn.fit takes them, the classes being known."""
        raise NotImplementedError

    def _is_certain(self) -> bool:
        """Whether there is but one answer."""
        return False

    def _scored(self, y: Array, targets: numpy.ndarray, weight: numpy.ndarray | None) -> float:
        """Return the score of raw outputs: accuracy, or R^2."""
        raise NotImplementedError

    def _chosen_loss(self) -> tuple[Loss, str, int]:
        """Return the loss, the name of the output activation and the number of outputs, once targets are known."""
        raise NotImplementedError

    # -- fit --------------------------------------------------------------------------------------------------

    def _fit(self, x: Any, y: Any, sample_weight: Any, incremental: bool, held_out: Any = (None, None)) -> Any:
        before = {name: list(a) if isinstance(a, list) else a for name, a in self.__dict__.items()}
        updates: Any = before.get("_optimizer")
        rate = {} if updates is None else dict(vars(updates.rate))
        try:
            with joined(self):
                self._solve(x, y, sample_weight, incremental, held_out)
        except BaseException:  # nothing has changed, then, but what scikit-learn's callbacks are torn down by
            kept = {name: a for name, a in self.__dict__.items() if name in _OF_CALLBACKS}
            self.__dict__.clear()
            self.__dict__.update(before, **kept)
            if updates is not None:
                updates.rate.__dict__.update(rate)
            raise
        return self

    def _solve(self, x: Any, y: Any, sample_weight: Any, incremental: bool, given_apart: Any) -> None:
        who = type(self).__name__
        hidden = self._hidden()
        apart = samples.held_apart(who, given_apart, self.validation_data)
        self._refuse(incremental, apart)
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        if first:
            self._sparse_labels = hasattr(y, "tocsr")
        x, y, space = samples.checked(self, x, y, reset=first, numeric=self._numeric)
        weight = samples.weights(sample_weight, x.shape[0], who)
        targets = self._targets(y, first, incremental)
        given, weight = weight, self._weighted(weight, y, incremental)
        held_out = self._held_out(None if incremental else apart)
        loss, ending, n_outputs = self._chosen_loss()
        sizes = [x.shape[1], *hidden, n_outputs]
        self._random_state = check_random_state(self.random_state)
        model = None if first else vars(self).get("_model")  # a network that goes on keeps its dtype
        kind = str(x.dtype if first else self.coefs_[0].dtype) if model is None else model.dtype
        narrow = "float32" in kind or "float64" not in self._place(space).dtypes()
        dtype = self.dtype or ("float32" if narrow else "float64")
        if first:
            self._start(sizes, ending, dtype, space)
        model = self._network(sizes, dtype, space)
        self.out_activation_, self.n_outputs_, self.n_layers_ = ending, n_outputs, len(sizes)
        self._samples_space = space
        problem = Problem(samples.dense(x), targets, weight, given, loss, y, held_out, space, incremental)
        model = minimize(self, model, problem) if self.solver == "lbfgs" else descend(self, model, problem)
        self._hand_out(model, space)

    _numeric: ClassVar[bool] = False
    _score_name: ClassVar[str]  # of held-out samples, in the history

    def _weighted(self, weight: Any, y: numpy.ndarray, incremental: bool) -> numpy.ndarray | None:
        return weight

    def _held_out(self, apart: Any) -> tuple[Any, numpy.ndarray, None] | None:
        """Return the samples and targets of the pair to hold out."""
        if apart is None:
            return None
        who = type(self).__name__
        try:
            x, y, _ = samples.checked(self, *apart, reset=False, numeric=self._numeric)
            targets, width = self._encoded(y), self.__dict__.get("_width")
            if width is not None and targets.shape[1] != width:
                message = f"y has {targets.shape[1]} columns, expected {width} as in training"
                raise ValueError(message)
            return samples.dense(x), targets, None
        except ValueError as error:
            raise ValueError(f"{who}: validation_data: {error}") from None

    # -- the network ------------------------------------------------------------------------------------------

    def _start(self, sizes: list[int], ending: str, dtype: str, space: Backend) -> None:
        """Forget an earlier fit, and draw the weights that this one begins with.

        Uniform in [-b, b] with b = sqrt(6 / (fan_in + fan_out)), or sqrt(2 / ...) before sigmoids, biases too: the
        draws are scikit-learn's. Source: Glorot, Bengio, AISTATS 2010, equation 16.
        """
        names = self._activations()
        for name in ("_model", "_handed", "_optimizer", "_best"):
            self.__dict__.pop(name, None)
        self.n_iter_ = self.t_ = 0
        if self.init is None:
            draw, self.coefs_, self.intercepts_ = self._random_state.uniform, [], []
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
                behind = names[min(i, len(names) - 1)] if names else self.activation
                sigmoid = behind == "sigmoid" or behind == "logistic"  # it may be a function
                bound = numpy.sqrt((2.0 if sigmoid else 6.0) / (fan_in + fan_out))
                self.coefs_.append(draw(-bound, bound, (fan_in, fan_out)))
                self.intercepts_.append(draw(-bound, bound, fan_out))
        else:
            self._hand_out(self._made(sizes, dtype, space), space)
        if self.solver != "lbfgs":
            scored = self.early_stopping or self.validation_data is not None
            self.loss_curve_, self._no_improvement_count = [], 0
            self.best_loss_ = None if self.early_stopping else numpy.inf
            self.validation_scores_ = [] if scored else None
            self.best_validation_score_ = -numpy.inf if scored else None

    def _place(self, space: Backend) -> Backend:
        """Return the library and device of the network."""
        asked = self.backend is not None or self.device is not None
        return get_backend(space.name if self.backend is None else self.backend, self.device) if asked else space

    def _settings(self, sizes: list[int], dtype: str, space: Backend) -> dict[str, Any]:
        """Return the arguments of the network."""
        given = {name: _unpacked(getattr(self, name)) for name in ("dropout", "normalization", "residual")}
        extra = {name: value for name, value in given.items() if not _is_default(value)}
        named = {"sizes": sizes, "activation": self._activations(), "dtype": dtype}
        return {**named, "backend": self._place(space), **extra}

    def _made(self, sizes: list[int], dtype: str, space: Backend) -> MLP:
        if self.init is None:
            return MLP(**self._settings(sizes, dtype, space), init="zeros")
        seed = int(self._random_state.randint(2**31))
        return MLP(**self._settings(sizes, dtype, space), init=self.init, seed=seed)

    def _network(self, sizes: list[int], dtype: str, space: Backend) -> MLP:
        """Return the network to train: that of before if it is still the one asked for, with ``coefs_`` in it."""
        theirs = [tuple(w.shape) for w in self.coefs_]
        if theirs != list(itertools.pairwise(sizes)):
            name, cure = type(self).__name__, "set warm_start=False and call fit to begin anew"
            raise ValueError(f"{name}: coefs_ has shapes {theirs}, the layers now are {sizes}; {cure}")
        settings = self._settings(sizes, dtype, space)
        place = settings["backend"]
        asked = {**settings, "backend": place.name, "device": place.device_name}
        model = self.__dict__.get("_model")
        if model is None or self.__dict__.get("_made_with") != asked:
            before, model = model, MLP(**settings, init="zeros")
            if before is not None and before.n_params == model.n_params:
                model.params = before.backend.to_numpy(before.params)
                if before.running is not None and model.running is not None:
                    model.running = before.backend.to_numpy(before.running)
            elif before is not None:
                was, now = (m.params.shape[-1] for m in (before, model))
                raise ValueError(
                    f"{type(self).__name__}: normalization={shown(self.normalization)} makes a network of {now} "
                    f"parameters, the fitted one has {was}; set warm_start=False and call fit to begin anew"
                )
        self._made_with = asked
        return self._synced(model).to()  # a fit that fails leaves the network as it was

    def _synced(self, model: MLP) -> MLP:
        """Write ``coefs_`` and ``intercepts_`` into the network, unless they are the very arrays that it gave."""
        now = [*self.coefs_, *self.intercepts_]
        handed = self.__dict__.get("_handed", ())
        if model is self.__dict__.get("_model") and len(now) == len(handed) and all(map(_same, now, handed)):
            return model
        model, params = model.to(), numpy.array(model.backend.to_numpy(model.params))
        for i, (layer, weight, bias) in enumerate(zip(model.layers, self.coefs_, self.intercepts_, strict=True)):
            for name, a, expected in (
                ("coefs_", weight, (layer.fan_in, layer.fan_out)),
                ("intercepts_", bias, (layer.fan_out,)),
            ):
                if tuple(a.shape) != expected:
                    raise ValueError(
                        f"{type(self).__name__}: {name}[{i}] has shape {tuple(a.shape)}, expected {expected}; weights "
                        "are (in_features, out_features), PyTorch's are transposed"
                    )
            params[layer.weight] = samples.to_numpy(weight).reshape(-1)
            if layer.bias is not None:
                params[layer.bias] = samples.to_numpy(bias).reshape(-1)
        model.params = params
        return model

    def _hand_out(self, model: MLP, space: Backend) -> None:
        """Keep the network, and show its weights."""
        self.__dict__.update(self._shown(model, space))

    def _shown(self, model: MLP, space: Backend) -> dict[str, Any]:
        """Return the attributes of a network: its weights as arrays of the samples' library, views where they can be.

        Copies in another library cannot reach the network when they are written into; NumPy's are read-only then.
        """
        ours = space.name == model.backend.name and space.device_name == model.backend.device_name

        def out(a: Array) -> Array:
            if ours:
                return a
            copy = space.asarray(numpy.array(model.backend.to_numpy(a)))
            if isinstance(copy, numpy.ndarray):
                copy.flags.writeable = False
            return copy

        biases = [w[0, :] * 0.0 if b is None else b for w, b in zip(model.weights, model.biases, strict=True)]
        coefs, intercepts = [out(w) for w in model.weights], [out(b) for b in biases]
        shown = {"coefs_": coefs, "intercepts_": intercepts, "_handed": (*coefs, *intercepts)}
        return {**shown, "_model": model, "_samples_space": space}

    @property
    def model_(self) -> MLP:
        """A copy of the network of portnn behind ``coefs_``: to save, to move, or to embed."""
        return self._current().to()

    def _current(self) -> MLP:
        """Return the network behind ``coefs_`` itself."""
        check_is_fitted(self)
        model = self.__dict__.get("_model")
        if model is None:
            sizes = [self.coefs_[0].shape[0], *(w.shape[1] for w in self.coefs_)]
            dtype = "float32" if "float32" in str(self.coefs_[0].dtype) else "float64"
            model = MLP(**self._settings(sizes, dtype, samples.space_of(self.coefs_[0])), init="zeros")
        return self._synced(model)

    def _outputs(self, x: Any, method: str) -> Array:
        """Return the raw outputs for samples of the user's."""
        check_is_fitted(self)
        samples.same_space(self, x, method)
        x, _, _ = samples.checked(self, x, reset=False)
        return samples.outputs(self._current(), x)

    # -- scikit-learn's hooks ---------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there are weights."""
        return hasattr(self, "coefs_")

    def __sklearn_tags__(self) -> Any:
        """Sparse matrices and arrays of any library are taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def __getstate__(self) -> Any:
        """Pickle and copy the network once: coefs_ and intercepts_ are views of it, and are so again afterwards."""
        state = dict(super().__getstate__())
        if "_model" in state:
            state["_model"] = self._current()
            for name in ("coefs_", "intercepts_", "_handed"):
                state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Show the weights of the network that was read."""
        super().__setstate__(state)
        if "_model" in self.__dict__ and "coefs_" not in self.__dict__:
            self._hand_out(self._model, self._samples_space)

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            message = "partial_fit is there for solver='adam' and 'sgd'; solver='lbfgs' wants all of the data at once"
            raise AttributeError(message)
        return True


def _same(a: Array, b: Array) -> bool:
    return a is b


def _unpacked(value: Any) -> Any:
    """Return an array as lists, which can be compared as a whole; all else as it is."""
    return samples.to_numpy(value).tolist() if getattr(value, "shape", ()) else value


def _is_default(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, Real) and value == 0.0)
