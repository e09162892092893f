"""The parameters of the estimators: what each may be, what goes together, and what they say of the network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._param_validation import Interval, InvalidParameterError, Options, StrOptions

from portnn.activations import get_activation
from portnn.errors import shown


class _Count(Interval):
    """An integer of at least 1; True, which Python counts among them, is none."""

    def __init__(self) -> None:
        super().__init__(Integral, 1, None, closed="left")

    def is_satisfied_by(self, val: Any) -> bool:
        return not isinstance(val, bool | numpy.bool_) and super().is_satisfied_by(val)


_POSITIVE = _Count()
_FRACTION = Interval(Real, 0, 1, closed="left")


class Parameters(CallbackSupportMixin, BaseEstimator):
    """What both estimators are asked for."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", _POSITIVE],
        "activation": [str, callable, list, tuple],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), _POSITIVE],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [_POSITIVE],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [_FRACTION],
        "beta_1": [_FRACTION],
        "beta_2": [_FRACTION],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [_POSITIVE, Options(Real, {numpy.inf})],
        "max_fun": [_POSITIVE],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "validation_data": [tuple, list, None],
        "callbacks": "no_validation",
        "backend": "no_validation",
        "device": "no_validation",
        "dtype": [StrOptions({"float32", "float64"}), None],
        "compile": ["boolean", StrOptions({"auto"})],
        "init": [str, callable, list, tuple, None],
        "dropout": "no_validation",
        "normalization": "no_validation",
        "residual": "no_validation",
    }

    def _keep(self, given: dict[str, Any]) -> None:
        """Store the arguments of __init__ under their names, untouched, as scikit-learn asks.

        All of them, whatever a subclass of the user's calls its own.
        """
        self.__dict__.update({name: value for name, value in given.items() if name not in ("self", "__class__")})

    def _validate_params(self) -> None:
        """Look at the parameters as scikit-learn does; name the choice that may have been meant, and print no array."""
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            said = str(error).partition(". Got ")[0]
            name = said.split("'")[1]
            value = getattr(self, name)
            choices = [c.options for c in self._parameter_constraints[name] if isinstance(c, StrOptions)]
            near = difflib.get_close_matches(value, set().union(*choices), 1) if isinstance(value, str) else []
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidParameterError(f"{said}. Got {shown(value)} instead{hint or '.'}") from None

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        listed = list(sizes) if isinstance(sizes, Iterable) else [sizes]
        if any(not isinstance(n, Integral) or isinstance(n, bool) or n <= 0 for n in listed):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {shown(listed)}; expected positive integers")
        return [int(n) for n in listed]

    def _refuse(self, incremental: bool, apart: Any) -> None:
        """Say which parameters do not go together."""
        who, wanted = type(self).__name__, "use solver='adam' or 'sgd'"
        if incremental and self.early_stopping:
            message = "partial_fit does not support early_stopping=True: it makes one pass over the data"
            raise ValueError(message)
        if self.solver == "lbfgs":
            for name, value in (
                ("clip_norm", self.clip_norm),
                ("validation_data" if self.validation_data is not None else "X_val", apart),
                ("normalization", self.normalization),
            ):
                if value is not None:
                    raise ValueError(f"{who}: solver='lbfgs' takes no {name}; {wanted}")
            if any(numpy.ravel(self.dropout)):
                raise ValueError(f"{who}: solver='lbfgs' wants one function to minimize, dropout is many; {wanted}")

    def _activations(self) -> list[Any]:
        """Return one activation per hidden layer; "logistic" is what portnn calls sigmoid."""
        given, n = self.activation, len(self._hidden())
        several = isinstance(given, Sequence) and not isinstance(given, str)
        if several and len(given) != n:
            raise ValueError(f"{type(self).__name__}: {len(given)} activations for {n} hidden layers")
        names = ["sigmoid" if a == "logistic" else a for a in (given if several else [given] * max(n, 1))]
        for name in names:
            get_activation(name)
        return names[:n]
