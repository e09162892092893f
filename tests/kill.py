"""Trainings that are killed: ``python tests/kill.py saves 20`` and ``python tests/kill.py resumes 9 --backend numpy``.

``saves`` kills a training that saves all the time, with SIGKILL and at random moments, and looks at what it left: every
save that it had told of must be there, or a newer one. ``resumes`` kills trainings at random steps, lets a new process
finish each of them, and compares every bit with a training that nobody disturbed. Each training is a process of its
own, forked before any library computes. Needs what the tests need, and a system with fork.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import portnn
from portnn import MLP, SGD, Adam, AdamW, checkpoint_file, checkpoints, loop, saver, schedules, step
from portnn.callbacks import EarlyStopping
from portnn.feed import plan

EPOCHS, N, BATCH = 3, 92, 12
STEPS = EPOCHS * -(-74 // BATCH)  # a fifth of the samples is held out
CHUNKS = EPOCHS * 4  # of 2, 2, 2 and 1 batches
X = np.random.default_rng(0).normal(size=(N, 6)).astype("float32")
T = (X @ np.random.default_rng(1).normal(size=(6, 3))).argmax(axis=1)

SCHEDULES: dict[str, Callable[[float], Any]] = {
    "number": lambda rate: rate,
    "constant": schedules.constant,
    "step": lambda rate: schedules.step_decay(rate, every=5, factor=0.5),
    "exponential": lambda rate: schedules.exponential(rate, every=4, factor=0.7),
    "inverse-scaling": schedules.inverse_scaling,
    "cosine": lambda rate: schedules.cosine(rate, STEPS, warmup=4),
    "one-cycle": lambda rate: schedules.one_cycle(rate, STEPS),
    "plateau": lambda rate: schedules.ReduceOnPlateau(rate, factor=0.5, patience=0, threshold=0.2),
}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda rate: SGD(rate(0.1), momentum=0.9),
    "adam": lambda rate: Adam(rate(0.02)),
    "adamw": lambda rate: AdamW(rate(0.02), weight_decay=0.05),
}


@contextlib.contextmanager
def small_chunks() -> Iterator[None]:
    """Look at the host after every second step, in place of a second's worth of them."""
    before, loop.plan = loop.plan, lambda n, size, most: plan(n, size, 2 * size)
    try:
        yield
    finally:
        loop.plan = before


def run(folder: str | os.PathLike[str] | None, optimizer: str, schedule: str, **options: Any) -> dict[str, Any]:
    """Train a network with everything that remembers, or go on with it, and return all that it ends with."""
    where = {name: options.pop(name) for name in ("backend", "device") if name in options}
    hidden = {"dropout": 0.3, "normalization": ["batch", "layer"], "activation": "tanh"}
    model = MLP([6, 9, 7, 3], seed=3, **{**hidden, **options.pop("model", {})}, **where)
    stop = EarlyStopping(patience=EPOCHS)
    rule = OPTIMIZERS[optimizer](SCHEDULES[schedule])
    kept = {} if folder is None else {"checkpoint": checkpoints.Checkpoints(folder, seconds=0.0), "resume": True}
    told = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 5, "validation_split": 0.2, "progress": False}
    with small_chunks():
        history = portnn.fit(model, X, T, optimizer=rule, callbacks=[stop], **{**told, **kept, **options})
    arrays = {"params": model.params, "running": model.running, **history.reached.arrays}
    host = {name: model.backend.to_numpy(a) for name, a in arrays.items() if a is not None}
    return {
        "arrays": {name: hashlib.sha256(np.ascontiguousarray(a)).hexdigest() for name, a in host.items()},
        "history": {name: repr(values) for name, values in history.items() if name != "epoch_seconds"},
        "reached": list(history.reached[:2]),
        "best": repr((stop.best, stop.best_epoch)),
        "rate": repr(rule.rate(STEPS)),
    }


# -- moments to die at ------------------------------------------------------------------------------------------------

PHASES = ("step", "read", "write", "sync", "rename", "told")


def strike(phase: str, number: int, die: Callable[[], Any]) -> contextlib.ExitStack:
    """Call ``die`` in the chunk or save of that number, counted from 1, in a phase of it, until the stack is closed.

    Before or behind a chunk of steps; before the file of a save is written, synced or renamed; behind a save that is
    done, before anybody is told.
    """
    stack, seen = contextlib.ExitStack(), [0]

    def wrap(of: Any, name: str, when: Callable[..., bool] = lambda *_: True, after: bool = False) -> None:
        original = getattr(of, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            seen[0] += when(*args)
            hit = seen[0] == number and when(*args)
            if hit and not after:
                die()
            result = original(*args, **kwargs)
            if hit and after:
                die()
            return result

        setattr(of, name, called)
        stack.callback(setattr, of, name, original)

    if phase == "step":
        wrap(step.Chunks, "run")
    elif phase == "read":
        wrap(loop, "read_back", after=True)
    elif phase == "write":
        wrap(saver.Saver, "_write")
    elif phase == "sync":
        wrap(os, "fsync", lambda descriptor: not os.path.isdir(f"/proc/self/fd/{descriptor}"))
    elif phase == "rename":
        wrap(os, "replace")
    else:
        wrap(saver.Saver, "_write", after=True)
    return stack


def suicide() -> None:
    """End this process as a power cut would, as far as it can know."""
    os.kill(os.getpid(), signal.SIGKILL)


# -- processes --------------------------------------------------------------------------------------------------------


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Run ``work`` in a process of its own, which writes into a pipe; return its id and the end to read from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        os.close(reading)
        work(writing)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def read_all(descriptor: int) -> bytes:
    """Read until the other end is closed."""
    with open(descriptor, "rb") as file:
        return file.read()


def train_for_ever(folder: str, told: int) -> None:
    """Save after every second step, and say the number of updates when a save is done."""
    original = saver.Saver.save

    def save(self: Any, position: Any, history: Any) -> None:
        original(self, position, history)
        os.write(told, f"{position.updates}\n".encode())

    saver.Saver.save = save
    model = MLP([6, 400, 200, 3], seed=3)
    with small_chunks():
        where = checkpoints.Checkpoints(folder, seconds=0.0)
        portnn.fit(model, X, T, epochs=10**6, batch_size=8, checkpoint=where, resume=True, progress=False)


def saves(kills: int, seed: int) -> dict[str, Any]:
    """Kill a training so often; each goes on where the last one was killed."""
    moments, count = random.Random(seed), {"kills": 0, "told": 0, "newer than told": 0, "leftovers": 0}
    with tempfile.TemporaryDirectory(prefix="kill-") as work:
        folder, last = os.path.join(work, "run"), 0
        for _ in range(kills):
            pid, reading = forked(functools.partial(train_for_ever, folder))
            first = os.read(reading, 1)
            time.sleep(moments.uniform(0.0, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            told = [int(line) for line in (first + read_all(reading)).rpartition(b"\n")[0].split()] or [last]
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the newest file must be whole: nothing may be gone back to
                kept, _ = checkpoint_file.newest(folder, "kill")
                portnn.load_checkpoint(folder)
            assert kept is not None, "there is no checkpoint"
            assert kept.record["updates"] >= told[-1] >= last, f"{told[-1]} was told, {kept.record['updates']} is there"
            count["kills"] += 1
            count["told"] += len(told)
            count["newer than told"] += kept.record["updates"] > told[-1]
            count["leftovers"] += any(name.endswith(".tmp") for name in os.listdir(folder))
            last = kept.record["updates"]
    return {**count, "updates": last}


def resumes(kills: int, seed: int, backends: list[str]) -> dict[str, Any]:
    """Kill so many trainings at random moments, finish them in a new process, and compare."""
    for name in backends:  # before the first fork; nothing is computed with them here
        importlib.import_module(name)
    moments, expected, differ = random.Random(seed), {}, []
    cases = [(b, o, s) for o in OPTIMIZERS for s in SCHEDULES for b in backends]
    moments.shuffle(cases)
    for k in range(kills):
        backend, optimizer, schedule = case = cases[k % len(cases)]
        phase, number = moments.choice(PHASES), moments.randint(1, CHUNKS)
        with tempfile.TemporaryDirectory(prefix="kill-") as work:
            train = functools.partial(run, optimizer=optimizer, schedule=schedule, backend=backend)

            def finish(told: int, train: Any = train, folder: str | None = None) -> None:
                os.write(told, json.dumps(train(folder)).encode())

            def die(told: int, finish: Any = finish, folder: str = f"{work}/run") -> None:
                with strike(phase, number, suicide):  # noqa: B023  the process ends with this round
                    finish(told, folder=folder)

            if case not in expected:
                expected[case] = answer(finish)
            pid, reading = forked(die)
            _, status = os.waitpid(pid, 0)
            read_all(reading)
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            found = answer(functools.partial(finish, folder=f"{work}/run"))
        equal = found == expected[case] is not None
        print(f"{k + 1:4d} {backend:6} {optimizer:6} {schedule:16} {phase:7} {number:3d}", end="  ")
        print("equal" if equal else "DIFFERS", "" if killed else "(was not killed)", flush=True)
        if not equal or not killed:
            differ.append([*case, phase, number])
    return {"kills": kills, "cases": len(expected), "differ": differ}


def answer(work: Callable[[int], None]) -> Any:
    """Return what a process that nobody kills says; None if it fails."""
    pid, reading = forked(work)
    text = read_all(reading)
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if status == 0 else None


def main() -> int:
    """Return 0 if nothing was lost and nothing differed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("saves", "resumes"))
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", action="append", help="for resumes: numpy, torch, jax (all of them)")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.what == "saves":
        result = saves(options.kills, options.seed)
    else:
        result = resumes(options.kills, options.seed, options.backend or ["numpy", "torch", "jax"])
    print(json.dumps(result))
    return 1 if result.get("differ") else 0


if __name__ == "__main__":
    sys.exit(main())
