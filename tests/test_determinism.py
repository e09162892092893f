"""The same training gives the same bits: time after time, and in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
from libraries import LIBRARIES

import portnn

BACKENDS = [name for name in ("numpy", "torch", "jax", "array_api_strict") if not LIBRARIES[name].why_not]
CASES = [(kind, backend) for kind in runs.KINDS for backend in BACKENDS]
ALONE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # each process compiles for itself


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_five_runs(case):
    assert len({runs.outcome(*case) for _ in range(5)}) == 1


def in_a_process(backend, **variables):
    """Return the digests of all kinds, computed by a new process."""
    arguments = [word for kind in runs.KINDS for word in (kind, backend)]
    done = subprocess.run(
        [sys.executable, str(Path(runs.__file__)), *arguments],
        env=os.environ | ALONE | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_every_process(backend):
    """Whatever the seed of Python's own hashes, and wherever memory happens to lie."""
    first, second = (in_a_process(backend, PYTHONHASHSEED=seed) for seed in ("0", "4711"))
    assert first == second
    assert len(set(first)) == len(runs.KINDS)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_has_been_trained_before_leaves_no_trace(case):
    """Neither NumPy's global generator nor other fits have a part in it."""
    alone = runs.outcome(*case)
    np.random.seed(1)
    runs.outcome("members", case[1])
    portnn.fit(portnn.MLP([6, 9, 3], seed=5), *runs.data(), seed=5, progress=False)
    assert runs.outcome(*case) == alone


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_another_seed_is_another_training(case):
    """Which the digests can tell: of the parameters, and of the history."""
    (model, history), (other, of_other) = (runs.trained(*case, seed=seed) for seed in (11, 12))
    assert runs.digest(model) != runs.digest(other)
    assert runs.digest(model, history) != runs.digest(model, of_other)
