"""Many fits in one process: memory stays as it is, and what was compiled for one serves the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from libraries import LIBRARIES

ROOT = Path(__file__).parents[1]
BACKENDS = [name for name in ("numpy", "torch", "jax") if not LIBRARIES[name].why_not]

MANY = """
import gc, json, sys, tracemalloc
sys.path.insert(0, sys.argv[1])
import endurance
backend, leaking = sys.argv[2], "leak" in sys.argv
if backend == "jax":
    import jax
    compiled = [0]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.__setitem__(0, compiled[0] + ("backend_compile" in event))
    )
kept = []
if leaking:
    import portnn
    fit = portnn.fit
    portnn.fit = lambda *a, **k: kept.append((a[1] + 1.0, fit(*a, **k)))
endurance.measure(backend, "one", 20)
first = compiled[0] if backend == "jax" else None
before = endurance.resident()
tracemalloc.start()
endurance.measure(backend, "one", 10)
gc.collect()
python = tracemalloc.get_traced_memory()[0]
endurance.measure(backend, "one", 20)
gc.collect()
python = tracemalloc.get_traced_memory()[0] - python
tracemalloc.stop()
endurance.measure(backend, "one", 20)
grown = endurance.resident() - before
last = compiled[0] if backend == "jax" else None
print(json.dumps({"resident": grown, "python": python / 2**20, "compiled": [first, last]}))
"""


def many(*words):
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(ROOT / "benchmarks"), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


# The samples of one fit are half a MiB, so that whoever keeps them, or a copy, in each of 50 fits takes 25 MiB more
# (20 fits under tracemalloc: 10 MiB). The parameters and the optimizer's state of 50 fits are 2 MiB.
RESIDENT, TRACED = 8.0, 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_stays_as_it_is(backend):
    """70 fits; ``benchmarks/endurance.py`` makes a thousand."""
    found = many(backend)
    assert found["resident"] < RESIDENT
    assert found["python"] < TRACED
    if backend == "jax":
        first, last = found["compiled"]
        assert 0 < first == last, "networks of one shape are compiled once"


def test_a_leak_is_found():
    found = many("numpy", "leak")
    assert found["resident"] > 2.0 * RESIDENT
    assert found["python"] > 10.0 * TRACED


def test_the_benchmark_writes_its_table(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks" / "endurance.py",
        "--fits",
        "50",
        "--only",
        "numpy",
        "--out",
        tmp_path,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    results = json.loads((tmp_path / "endurance.json").read_text())
    assert [len(one["MiB"]) for one in results.values()] == [10, 10]
    assert (tmp_path / "endurance.md").read_text().count("\n| numpy ") == 2
