"""The solver "lbfgs": SciPy's L-BFGS-B on all samples at once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy
from sklearn.exceptions import ConvergenceWarning

from portnn.estimators.descent import CALLER, Problem
from portnn.estimators.watch import functions, watch
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

    start = wide.backend.to_numpy(wide.params).astype("float64")
    options = {"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol}
    found = scipy.optimize.minimize(f, start, jac=True, method="L-BFGS-B", options=options, callback=after)
    e.__dict__.pop("history_", None)  # of another solver: here are no epochs
    e.n_iter_ = min(int(found.nit), e.max_iter)
    if not (numpy.isfinite(found.x).all() and numpy.isfinite(found.fun)):
        raise ValueError(
            "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
            f"preprocessed. ({who}: solver='lbfgs', after {e.n_iter_} iterations)"
        )
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
