"""scikit-learn's checks of estimators, and its own tests of its MLP, on portnn's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sklearn.neural_network
from sklearn.utils.estimator_checks import estimator_checks_generator

from portnn.estimators import MLPClassifier, MLPRegressor

HERE = Path(__file__).parent
CHECKS = [
    (estimator, check)
    for kind in (MLPClassifier(), MLPRegressor())
    for estimator, check in estimator_checks_generator(kind)
    if "array_api" not in check.func.__name__  # in a process of their own, below
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # the checks train for a few epochs
@pytest.mark.parametrize(
    ("estimator", "check"),
    CHECKS,
    ids=[f"{type(e).__name__}-{c.func.__name__}-{i}" for i, (e, c) in enumerate(CHECKS)],
)
def test_check_of_scikit_learn(estimator, check):
    """All of check_estimator, but what is for decision_function, which an MLP does not have; no failure is expected."""
    if "decision_function" in check.func.__name__ and isinstance(estimator, MLPClassifier):
        assert not hasattr(estimator, "decision_function")
        return
    check(estimator)


def test_pandas_is_there():
    """Without it two checks are skipped."""
    pytest.importorskip("pandas", reason="the checks with data frames need it")


def test_arrays_of_other_libraries():
    """scikit-learn's checks of the array API and the values on each library, JAX with checks of portnn's."""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / "estimators_array_api.py")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    counts = Counter(line.split()[0] for line in lines)
    skipped = [line for line in lines if line.startswith("skipped")]
    for reason in skipped:  # hardware and libraries that are not here
        assert re.search(r"cuda|cupy|dpnp|XPU|MPS", reason), reason
    assert counts["passed"] + counts["skipped"] == len(lines)
    assert counts["passed"] >= 7 + 7 + 16 + 3


OTHERWISE = {
    "test_gradient": "it calls a private function that hands lists of gradients from layer to layer",
    "test_predict_proba_multilabel": "logarithms come from the outputs: no ties where probabilities round to 1",
}


def test_the_tests_of_scikit_learn_s_own_mlp(tmp_path):
    """sklearn/neural_network/tests/test_mlp.py with portnn's classes in the place of theirs."""
    source = Path(sklearn.neural_network.__file__).parent / "tests" / "test_mlp.py"
    if not source.exists():
        pytest.skip("scikit-learn was installed without its tests")
    text = source.read_text(encoding="utf-8")
    old = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
    assert text.count(old) == 1
    (tmp_path / "test_theirs.py").write_text(
        text.replace(old, old.replace("sklearn.neural_network", "portnn.estimators"))
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", "-p", "sklearn.conftest"]
    done = subprocess.run([*command, "test_theirs.py", "-c", os.devnull], cwd=tmp_path, capture_output=True, text=True)
    failed = {
        line.split("::")[1].split()[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
    }
    assert failed == set(OTHERWISE), done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 57, done.stdout[-500:]
