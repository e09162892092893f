"""The solver "lbfgs": SciPy's L-BFGS-B on all samples at once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy
from sklearn.exceptions import ConvergenceWarning

from portnn.errors import NonFiniteError
from portnn.estimators.descent import CALLER, DivergedError, Problem
from portnn.estimators.watch import functions, watch
from portnn.evaluation import evaluate
from portnn.hosts import scipy_objective
from portnn.mlp import MLP


def minimize(estimator: Any, model: MLP, problem: Problem) -> MLP:
    """Return the network at the minimum that is found from where it stands.

    In float64 wherever the device has it: a float32 loss moves in steps that leave a line search no descent.
    """
    import scipy.optimize

    e, who = estimator, type(estimator).__name__
    if functions(e.callbacks):
        raise ValueError(
            f"{who}: solver='lbfgs' has no epochs for callbacks f(model, history); use solver='adam' or 'sgd', or "
            "callbacks of sklearn.callback"
        )
    wide = model.to(dtype="float64") if "float64" in model.backend.dtypes() else model
    total = float(problem.t.shape[0] if problem.weight is None else problem.weight.sum())
    l2 = float(e.alpha) / total
    f = scipy_objective(wide, problem.x, problem.t, problem.loss, sample_weight=problem.weight, l2=l2)
    eyes, done = watch(e, problem.x, problem.y, problem.weight, "iteration"), 0

    def after(intermediate_result: Any) -> None:
        nonlocal done
        done += 1
        if e.verbose:
            print(f"Iteration {done}, loss = {intermediate_result.fun:.8f}")
        if eyes is not None:
            wide.params = intermediate_result.x
            if eyes.epoch(wide.to(dtype=model.dtype), last=done == e.max_iter):
                raise StopIteration

    broken: numpy.ndarray | None = None  # finite parameters at which the loss or its gradient is not

    def looked_at(params: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        nonlocal broken
        value, grad = f(params)
        if numpy.isfinite(params).all() and not (numpy.isfinite(value) and numpy.isfinite(grad).all()):
            broken = params.copy()
        return value, grad

    start = wide.backend.to_numpy(wide.params).astype("float64")
    options = {"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol}
    found = scipy.optimize.minimize(looked_at, start, jac=True, method="L-BFGS-B", options=options, callback=after)
    for name in ("history_", "_best"):  # of another solver: here are no epochs, and nothing is scored
        vars(e).pop(name, None)
    e.n_iter_ = min(int(found.nit), e.max_iter)
    if not (numpy.isfinite(found.x).all() and numpy.isfinite(found.fun)):
        error = _cause(wide, problem, broken)
        said = f"{who}: solver='lbfgs', after {e.n_iter_} iterations: {error}"
        raise DivergedError.of(error, said) from error
    if found.status not in (0, 99):  # 99: a callback ended it
        warnings.warn(
            f"{who}: lbfgs failed to converge after {e.n_iter_} iterations (status={found.status}): {found.message}; "
            "raise max_iter or max_fun, or scale the data",
            ConvergenceWarning,
            stacklevel=CALLER,
        )
    wide.params = found.x
    e.loss_ = float(found.fun)
    if eyes is not None:
        eyes.close(wide)
    return wide.to(dtype=model.dtype)


def _cause(model: MLP, problem: Problem, params: numpy.ndarray | None) -> NonFiniteError:
    """Return the error for the first array that is not finite at some parameters; None: there are no such finite ones.

    Where the network in prediction and its loss are finite, that is the gradient.
    """
    if params is None:
        return NonFiniteError("the step of the line search is NaN or infinity", array="params")
    model.params = params
    try:
        evaluate(model, problem.x, problem.t, loss=problem.loss, sample_weight=problem.weight)
    except NonFiniteError as error:
        return error
    return NonFiniteError("the gradient or the penalty is NaN or infinity", array="gradient")
