"""Other processes: forked and spawned after training, by joblib, and what travels there and back as a pickle."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
from libraries import LIBRARIES

import portnn

BACKENDS = [name for name in ("numpy", "torch", "jax") if not LIBRARIES[name].why_not]
HERE = Path(__file__).parent
needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")

# A parent that has trained with two threads starts children that do the same.
PARENT = """
import json, multiprocessing, os, sys, warnings
import portnn, runs

method, backend = sys.argv[1:]
if backend == "jax":
    import jax
    jax.config.update("jax_enable_x64", True)
    # what JAX itself says to a fork is no news: see the child
    warnings.filterwarnings("ignore", message="os.fork.. was called", category=RuntimeWarning)

def large():
    '''Layers wide enough for libraries to share the work among their threads.'''
    import numpy as np
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2048, 256)).astype("float32"), rng.integers(0, 10, 2048)
    model = portnn.MLP([256, 512, 10], backend=backend, device=None if backend == "numpy" else "cpu")
    history = portnn.fit(model, x, t, epochs=2, batch_size=512, progress=False)
    return [runs.digest(model, history), history["loss"][-1]]

def child(queue, model):
    try:
        own = runs.outcome("sgd", backend)
        inherited = runs.digest(model)
        history = portnn.fit(model, *runs.data(), epochs=1, progress=False)
        queue.put([own, inherited, runs.digest(model, history), large()])
    except BaseException as error:
        queue.put([type(error).__name__, str(error)])

if __name__ == "__main__":
    model, _ = runs.trained("sgd", backend)
    own, inherited, work = runs.outcome("sgd", backend), runs.digest(model), large()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=child, args=(queue, model), daemon=True) for _ in range(3)]
    for process in children:
        process.start()
    found = [queue.get(timeout=60) for _ in children]
    for process in children:
        process.join(60)
    history = portnn.fit(model, *runs.data(), epochs=1, progress=False)
    mine = [own, inherited, runs.digest(model, history), work]
    print(json.dumps({"parent": mine, "children": found, "codes": [process.exitcode for process in children]}))
"""


def family(method, backend, tmp_path, threads=2):
    """Run a parent with three children in a session of its own, and return what they report."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    many = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    many["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # each process compiles for itself
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), method, backend],
        env=os.environ | many | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("backend", BACKENDS)
def test_spawned_after_training(backend, tmp_path):
    """Models travel as pickles, and children compute what the parent does."""
    said = family("spawn", backend, tmp_path)
    assert said["children"] == [said["parent"]] * 3
    assert said["codes"] == [0, 0, 0]


@needs_fork
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "jax"])
def test_forked_after_training(backend, tmp_path):
    """Children train on, with the model as they have inherited it, whatever threads the parent had."""
    said = family("fork", backend, tmp_path)
    for own, inherited, later, (_, loss) in said["children"]:
        assert [own, inherited, later] == said["parent"][:3]
        assert abs(loss - said["parent"][3][1]) < said["parent"][3][1] * 2.0**-10  # on another number of threads
    assert said["codes"] == [0, 0, 0]


@needs_fork
def test_jax_says_that_it_cannot_be_forked(tmp_path):
    """One sentence in the place of a process that waits forever; the parent goes on."""
    if "jax" not in BACKENDS:
        pytest.skip("jax is not installed")
    said = family("fork", "jax", tmp_path)
    for kind, message in said["children"]:
        assert kind == "BackendError"
        assert message.startswith("jax cannot be used in a process that was forked from one that has used it")
        assert "get_context('spawn')" in message
        assert len(message) < 300
    assert said["codes"] == [0, 0, 0]


@pytest.mark.parametrize("prefer", ["loky", "threading"])
def test_joblib(prefer):
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    cases = [(kind, backend) for kind in ("sgd", "adam-float64", "members") for backend in BACKENDS if backend != "jax"]
    alone = [runs.outcome(*case) for case in cases]
    with joblib.parallel_config(backend=prefer, n_jobs=2, **({"inner_max_num_threads": 1} if prefer == "loky" else {})):
        found = joblib.Parallel()(joblib.delayed(runs.outcome_in_a_process)(case) for case in 2 * cases)
    assert [digest for digest, _ in found] == 2 * alone
    assert (os.getpid() in {number for _, number in found}) == (prefer == "threading")


@pytest.mark.filterwarnings("ignore:.*max_iter:sklearn.exceptions.ConvergenceWarning")
def test_grid_search_in_processes():
    """Estimators are cloned, sent to other processes and fitted there, with the scores of one process."""
    selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    from portnn.estimators import MLPClassifier

    x, t = runs.data()
    grid = {"hidden_layer_sizes": [(5,), (9,)], "alpha": [1e-4, 1e-1]}
    estimator = MLPClassifier(max_iter=15, random_state=0, tol=0.0, early_stopping=True, n_iter_no_change=20)
    scores = []
    for jobs in (1, 2):
        search = selection.GridSearchCV(estimator, grid, cv=3, n_jobs=jobs).fit(x, t)
        scores.append(search.cv_results_["mean_test_score"].tolist())
        weights = [w.tobytes() for w in search.best_estimator_.coefs_]
        scores[-1].append(weights)
    assert scores[0] == scores[1]


THERE = """
import pickle, sys
import numpy as np
if "jax" in sys.argv:
    import jax
    jax.config.update("jax_enable_x64", True)
with open(sys.argv[1], "rb") as file:
    thing = pickle.load(file)
result = FUNCTION(thing)
with open(sys.argv[2], "wb") as file:
    pickle.dump((thing, result), file)
"""


def there_and_back(thing, function, tmp_path, *words):
    """Return a thing and what a function makes of it in another process, by pickles."""
    (tmp_path / "there").write_bytes(pickle.dumps(thing))
    script = THERE.replace("FUNCTION", function)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, "there", "back", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return pickle.loads((tmp_path / "back").read_bytes())


@pytest.mark.parametrize("backend", BACKENDS)
def test_model_optimizer_and_history_travel(backend, tmp_path):
    """All three together: the training that goes on after the way there and back is the one that never left."""
    kinds = [kind for kind in runs.KINDS if kind != "plain-loss"]
    here = [(*runs.trained(kind, backend, epochs=2), runs.KINDS[kind][2]()) for kind in kinds]
    function = "(lambda all: [__import__('runs').digest(*each[:2]) for each in all])"
    back, digests = there_and_back(here, function, tmp_path, backend)
    for kind, mine, other, digest in zip(kinds, here, back, digests, strict=True):
        assert digest == runs.digest(*mine[:2]) == runs.digest(*other[:2])
        one, two = mine[1].reached, other[1].reached
        assert (one.epochs, one.updates, other[1].interrupted) == (two.epochs, two.updates, False)
        how, (x, labels) = runs.KINDS[kind][1], runs.data()
        options = {**how["options"], "epochs": 1, "seed": 11, "progress": False}
        t = labels if how["targets"] == "labels" else np.eye(3)[labels]
        ends = [
            runs.digest(model, portnn.fit(model, x, t, optimizer=optimizer, resume=so_far, **options))
            for model, so_far, optimizer in (mine, other)
        ]
        assert ends[0] == ends[1], kind


@pytest.mark.parametrize("backend", BACKENDS)
def test_fitted_estimators_travel(backend, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from portnn import estimators

    x, t = runs.data()
    options = {"hidden_layer_sizes": (7,), "max_iter": 5, "tol": 0.0, "random_state": 1, "backend": backend}
    here = [getattr(estimators, name)(**options) for name in ("MLPClassifier", "MLPRegressor")]
    for estimator in here:
        with pytest.warns(UserWarning, match="max_iter"):
            estimator.fit(x, t)
    np.save(tmp_path / "x.npy", x)
    function = "(lambda both: [e.predict(np.load('x.npy')) for e in both])"
    back, answers = there_and_back(here, function, tmp_path, backend)
    for estimator, other, answer in zip(here, back, answers, strict=True):
        assert answer.tobytes() == estimator.predict(x).tobytes() == other.predict(x).tobytes()
        assert other.get_params() == estimator.get_params()
