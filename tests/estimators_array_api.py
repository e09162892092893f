"""The estimators on arrays of other libraries; test_estimators_checks.py runs it with SCIPY_ARRAY_API=1.

Prints one line for each check: ``passed NAME`` or ``skipped NAME: REASON``; an error ends it.
"""

from __future__ import annotations

import sys
import unittest
import warnings

import libraries  # noqa: F401  float64 in JAX, before its first array
import numpy as np
import pytest
import sklearn
from array_api_compat import array_namespace, device
from sklearn.datasets import make_classification
from sklearn.utils._array_api import move_estimator_to
from sklearn.utils.estimator_checks import check_array_api_input_and_values, estimator_checks_generator
from tolerances import BARS, assert_within

from portnn.estimators import MLPClassifier, MLPRegressor

PLACES = [
    ("array_api_strict", "CPU_DEVICE", "float64"),
    ("array_api_strict", "device1", "float32"),
    ("torch", "cpu", "float64"),
    ("torch", "cpu", "float32"),
]


def of_jax(kind):
    """What scikit-learn asks of arrays, by values, for a library that is not in its list."""
    jnp = __import__("jax").numpy
    x, y = make_classification(n_samples=60, n_features=10, random_state=42)
    weight = np.linspace(0.5, 2.0, 60)
    for solver, early_stopping in (("adam", False), ("sgd", True), ("lbfgs", False)):
        estimator = kind(solver=solver, early_stopping=early_stopping, max_iter=15, random_state=0)
        host = sklearn.clone(estimator).fit(x, y, weight)
        with sklearn.config_context(array_api_dispatch=True):
            there = estimator.fit(jnp.asarray(x), y, jnp.asarray(weight))
            for method in ("predict", "predict_proba", "predict_log_proba"):
                if not hasattr(kind, method):
                    continue
                out = getattr(there, method)(jnp.asarray(x))
                assert array_namespace(out) is array_namespace(jnp.asarray(x))
                assert device(out) == device(jnp.asarray(x))
                expected = getattr(host, method)(x)
                assert out.dtype == expected.dtype
                scale = np.maximum(1.0, np.abs(expected))
                assert_within(np.asarray(out), expected, 10.0 * BARS["adam"]["float64"] * scale)
            assert_within(there.score(jnp.asarray(x), y), host.score(x, y), 10.0 * BARS["adam"]["float64"])
            assert type(there.score(jnp.asarray(x), jnp.asarray(y))) is float
            assert isinstance(there.coefs_[0], type(jnp.asarray(x)))
            if solver != "lbfgs":
                there.partial_fit(jnp.asarray(x), jnp.asarray(y)) if not early_stopping else None
            with pytest.raises(ValueError, match=rf"{kind.__name__}.predict\(\) must use the same namespace"):
                there.predict(x)
        assert isinstance(there.predict(x), np.ndarray)  # without dispatch, as always
    print(f"passed {kind.__name__} jax")


def between_libraries():
    """Samples of one library, a network of another: what is handed out is of the samples' library."""
    torch = __import__("torch")
    x, y = make_classification(n_samples=60, n_features=10, random_state=42)
    host = MLPClassifier(max_iter=15, random_state=0).fit(x, y)
    for backend in ("jax", "numpy"):
        with sklearn.config_context(array_api_dispatch=True):
            there = MLPClassifier(max_iter=15, random_state=0, backend=backend).fit(torch.asarray(x), torch.asarray(y))
            assert there.model_.backend.name == backend
            assert isinstance(there.coefs_[0], torch.Tensor)
            out = there.predict_proba(torch.asarray(x))
            assert isinstance(out, torch.Tensor)
            assert_within(out.numpy(), host.predict_proba(x), 10.0 * BARS["adam"]["float64"])
            moved = move_estimator_to(there, np, None)  # what scikit-learn's message names as the cure
            assert isinstance(moved.coefs_[0], np.ndarray)
            assert_within(moved.predict_proba(x), host.predict_proba(x), 10.0 * BARS["adam"]["float64"])
    without = MLPClassifier(max_iter=15, random_state=0).fit(torch.asarray(x), torch.asarray(y))
    assert isinstance(without.coefs_[0], np.ndarray)
    assert_within(without.predict_proba(torch.asarray(x)), host.predict_proba(x), 0.0)
    print("passed between libraries")


def main() -> None:
    warnings.simplefilter("ignore")  # scikit-learn's checks train for a few epochs
    for estimator in (MLPClassifier(max_iter=20), MLPRegressor(max_iter=20)):
        name = type(estimator).__name__
        checks = [
            (f"{name} {c.func.__name__} {c.args} {c.keywords}", c) for _, c in estimator_checks_generator(estimator)
        ]
        of_arrays = [(title, check, (estimator,)) for title, check in checks if "array_api" in title]
        for namespace, place, dtype in PLACES:
            for weighted in (False, True):
                title = f"{name} values {namespace} {place} {dtype} {'weighted' if weighted else ''}"
                given = (name, estimator, namespace, place, dtype, weighted)
                of_arrays.append((title, check_array_api_input_and_values, given))
        for title, check, given in of_arrays:
            try:
                check(*given)
            except unittest.SkipTest as reason:
                print(f"skipped {title}: {reason}")
            else:
                print(f"passed {title}")
    for kind in (MLPClassifier, MLPRegressor):
        of_jax(kind)
    between_libraries()


if __name__ == "__main__":
    sys.exit(main())
