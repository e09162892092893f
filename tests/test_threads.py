"""Fits in threads do not disturb each other: their results are those of the same fits one after the other."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import runs
import tolerances
from libraries import LIBRARIES
from tolerances import assert_same, assert_within

import portnn
from portnn import autograd
from portnn.backends.switch import Switch

BACKENDS = [name for name in ("numpy", "torch", "jax", "array_api_strict") if not LIBRARIES[name].why_not]
CASES = [(kind, backend) for kind in runs.KINDS for backend in BACKENDS if (kind, backend) != ("tf32", "jax")]
# CPUs with products of fewer bits give other numbers in TF32, which then depend on who else is at work
WITHOUT_TF32 = [case for case in CASES if case[0] != "tf32"]
THREADS = 6


@contextlib.contextmanager
def hurried(interval=1e-6):
    """Let threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(jobs, threads=THREADS):
    """Run functions in threads that all begin together, and return what they return, in order."""
    ready = threading.Barrier(min(threads, len(jobs)))
    first = threading.local()

    def run(job):
        if not hasattr(first, "done"):
            first.done = True
            ready.wait(timeout=60)
        return job()

    with hurried(), ThreadPoolExecutor(min(threads, len(jobs))) as pool:
        return list(pool.map(run, jobs))


@pytest.fixture(scope="module")
def serial():
    return {case: runs.outcome(*case) for case in CASES}


@pytest.mark.parametrize("schedule", range(4))
def test_all_kinds_on_all_libraries_at_once(serial, schedule):
    """Twice each, in another order in each schedule."""
    cases = 2 * WITHOUT_TF32
    random.Random(schedule).shuffle(cases)
    found = at_once([functools.partial(runs.outcome, *case) for case in cases])
    assert [case for case, one in zip(cases, found, strict=True) if one != serial[case]] == []


@pytest.mark.parametrize("schedule", range(3))
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_many_of_one_kind(serial, case, schedule):
    found = at_once([functools.partial(runs.outcome, *case)] * THREADS)
    assert set(found) == {serial[case]}


def test_one_data_set_and_one_optimizer_for_all():
    """What is handed in is only read, so threads may share it."""
    x, t = runs.data()
    x.flags.writeable = t.flags.writeable = False
    optimizer = portnn.Adam(0.01)

    def job(seed):
        model = portnn.MLP([6, 8, 3], seed=seed, dtype="float64")
        return runs.digest(model, portnn.fit(model, x, t, optimizer=optimizer, epochs=3, progress=False))

    alone = [job(seed) for seed in range(12)]
    assert len(set(alone)) == 12
    assert at_once([functools.partial(job, seed) for seed in range(12)]) == alone


def test_predictions_of_one_model():
    """Threads that ask one model at the same time, while nobody trains it."""
    x, t = runs.data()
    for backend in BACKENDS:
        model, _ = runs.trained("dropout-batch-norm", backend)

        def ask(model=model):
            return portnn.predict(model, x).tobytes(), tuple(portnn.evaluate(model, x, t).values())

        assert set(at_once([ask] * 12)) == {ask()}


def test_recordings_of_autograd():
    """Derivatives of every order in some threads, fits in others."""
    x = np.linspace(-1.0, 1.0, 50)

    def cubed(y):
        return y.__array_namespace__().sum(y**3)

    def first():
        return autograd.grad(cubed)(x)

    def second():
        slope = autograd.grad(cubed)
        return autograd.grad(lambda y: y.__array_namespace__().sum(slope(y)))(x)

    fit = functools.partial(runs.outcome, "plain-loss", "numpy")
    jobs = [first, second, fit]
    alone = [job() for job in jobs]
    assert_within(alone[0], 3.0 * x**2, tolerances.few_steps(3.0, "float64"))
    assert_within(alone[1], 6.0 * x, tolerances.few_steps(6.0, "float64"))
    for i, found in enumerate(at_once(8 * jobs, threads=8)):
        if i % 3 == 2:
            assert found == alone[2]
        else:
            assert_same(found, alone[i % 3])


def test_bars_and_warnings_of_threads(monkeypatch):
    """Each fit has a bar of its own on a terminal, closed at its end, and each of them warns."""
    tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    x, t = runs.data()
    monkeypatch.setattr(sys, "stderr", Terminal())

    def job():
        model = portnn.MLP([6, 4, 3])
        history = portnn.fit(model, x, t, epochs=3, batch_size=500, progress=True)
        return runs.digest(model, history)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        alone = job()
        found = at_once([job] * 12)
    assert set(found) == {alone}
    said = "fit: batch_size 500 is larger than the 120 samples; it is clipped"
    assert [str(warning.message) for warning in caught] == [said] * 13
    assert not tqdm.tqdm._instances
    assert "epoch 3/3" in sys.stderr.getvalue()


def test_an_error_in_one_thread_is_its_own(serial):
    """A NaN, an interrupted callback and a refused argument beside fits that go well."""
    x, t = runs.data()

    def diverges():
        with pytest.raises(portnn.NonFiniteError):
            portnn.fit(portnn.MLP([6, 9, 3]), x, t, optimizer=portnn.SGD(1e30), progress=False)

    def fails(model, history):
        raise ZeroDivisionError

    def broken():
        with pytest.raises(ZeroDivisionError):
            portnn.fit(portnn.MLP([6, 9, 3]), x, t, callbacks=[fails], progress=False)

    def refused():
        with pytest.raises(ValueError, match="epochs"):
            portnn.fit(portnn.MLP([6, 9, 3]), x, t, epochs=0)

    good = functools.partial(runs.outcome, "sgd", "numpy")
    found = at_once([diverges, good, broken, good, refused, good] * 3)
    assert found[1::2] == [serial["sgd", "numpy"]] * 9


# -- what the libraries keep for the whole process, or for a thread ---------------------------------------------------


def test_autograd_of_torch_goes_on_beside():
    """Fits record nothing, and whoever records in another thread is not kept from it, nor told to."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def theirs():
        seen = []
        for _ in range(60):
            w = torch.ones(3, requires_grad=True)
            (w * w).sum().backward()
            seen.append((torch.is_grad_enabled(), w.grad.tolist()))
        return seen

    def without():
        with torch.no_grad():
            portnn.fit(portnn.MLP([6, 3], backend="torch", device="cpu"), *runs.data(), epochs=2, progress=False)
            return torch.is_grad_enabled()

    fit = functools.partial(runs.outcome, "adam-float64", "torch")
    alone = fit()
    found = at_once([theirs, fit, without] * 4)
    assert found == [[(True, [2.0, 2.0, 2.0])] * 60, alone, False] * 4
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("first_to_leave", [0, 1])
def test_the_precision_of_cupy_is_that_of_all_threads(monkeypatch, first_to_leave):
    """It is one setting of the process: nobody may get less than what was asked for, and it is put back in the end."""
    from portnn.backends import cupy

    position = [7]  # what the process has set, whatever it is
    settings = SimpleNamespace(COMPUTE_TYPE_DEFAULT=0, COMPUTE_TYPE_TF32=3)
    settings.get_compute_type = lambda dtype: position[0]
    settings.set_compute_type = lambda dtype, to: position.__setitem__(0, to)
    monkeypatch.setattr(cupy._Precision, "_settings", settings)
    asked = ["tf32", "float32"]
    threads, contexts = [ThreadPoolExecutor(1) for _ in asked], [cupy._precision.at(p) for p in asked]
    seen = []
    for thread, context in zip(threads, contexts, strict=True):
        thread.submit(context.__enter__).result()
        seen.append(position[0])
    for i in (first_to_leave, 1 - first_to_leave):
        threads[i].submit(contexts[i].__exit__, None, None, None).result()
        seen.append(position[0])
    assert seen == [3, 0, [0, 3][first_to_leave], 7]


class Fake(Switch):
    """A switch that notes its positions; it cannot be turned to one of them."""

    def __init__(self, broken=None):
        super().__init__()
        self.now, self.broken = "of the process", broken

    def read(self):
        return self.now

    def turn(self, position):
        if position == self.broken:
            raise UserWarning(position)
        self.now = position

    def position(self, precision):
        return precision


def test_who_does_not_get_the_precision_leaves_nothing_behind():
    switch = Fake(broken="tf32")
    for _ in range(2):
        with pytest.raises(UserWarning, match="tf32"), switch.at("tf32"):
            pytest.fail("is within")
        assert not switch.wanted
        with switch.at("float32"):
            assert switch.now == "float32"
        assert switch.now == "of the process"


FORKED = """
import os
from concurrent.futures import ThreadPoolExecutor
from test_threads import Fake

switch = Fake()
with ThreadPoolExecutor(1) as pool:
    context = switch.at("tf32")
    pool.submit(context.__enter__).result()
    assert switch.now == "tf32"
    child = os.fork()
    if child == 0:
        os._exit(0 if (switch.now, switch.wanted) == ("of the process", {}) else 1)
    print(os.waitpid(child, 0)[1], switch.now)
    pool.submit(context.__exit__, None, None, None).result()
print(switch.now)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_forgets_what_other_threads_wanted():
    here = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", FORKED], cwd=here, capture_output=True, text=True, check=True)
    assert run.stdout.split("\n") == ["0 tf32", "of the process", ""]


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_the_switch_of_torch_comes_back(before, monkeypatch):
    """Scopes that overlap in time, as those of threads do: full float32 as long as anybody wants it, then as before."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    switch, backend = torch.backends.mkldnn.matmul, portnn.backends.get_backend("torch", "cpu")
    of_process = switch.fp32_precision
    switch.fp32_precision = before
    try:
        full = "none" if before == "none" else "ieee"
        fine_in, coarse_in, coarse_out = (threading.Event() for _ in range(3))
        seen = []

        def coarse():
            with backend.scope("tf32"):
                seen.append(switch.fp32_precision)
                coarse_in.set()
                assert fine_in.wait(60)
                seen.append(switch.fp32_precision)
            coarse_out.set()

        thread = threading.Thread(target=coarse)
        thread.start()
        assert coarse_in.wait(60)
        with backend.scope():
            fine_in.set()
            assert coarse_out.wait(60)
            seen.append(switch.fp32_precision)
        thread.join()
        assert seen == ["tf32", full, full]
        assert switch.fp32_precision == before
        with backend.scope("tf32"), backend.scope():
            assert switch.fp32_precision == full
        assert switch.fp32_precision == before
        at_once([functools.partial(runs.outcome, kind, "torch") for kind in ("tf32", "sgd", "adam-float64")] * 4)
        assert switch.fp32_precision == before
    finally:
        switch.fp32_precision = of_process


X64 = """
import functools, json, sys, threading
from concurrent.futures import ThreadPoolExecutor
import jax, portnn, runs

def wide():
    with jax.enable_x64(True):
        model, history = runs.trained("adam-float64", "jax")
        return runs.digest(model, history) + " " + str(model.params.dtype)

def narrow():
    model, history = runs.trained("sgd", "jax")
    try:
        portnn.MLP([2, 1], backend="jax", dtype="float64")
    except ValueError as error:
        assert "jax_enable_x64" in str(error), error
    else:
        raise AssertionError("float64 without x64")
    return runs.digest(model, history) + " " + str(model.params.dtype)

jobs = [wide, narrow] * 8
alone = [wide(), narrow()] * 8
sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(6) as pool:
    found = list(pool.map(lambda job: job(), jobs))
print(json.dumps({"same": found == alone, "dtypes": [line.split()[1] for line in alone[:2]]}))
"""


def test_float64_of_jax_is_a_matter_of_the_thread():
    """``with jax.enable_x64(True)`` in some threads, in a process where float32 is the widest."""
    pytest.importorskip("jax", reason="jax is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", X64],
        cwd=Path(__file__).parent,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},  # its threads compile at the same time
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"same": True, "dtypes": ["float64", "float32"]}
