"""Ctrl-C at random moments of many fits, in a process of its own: python interrupts.py BACKEND TRIALS SEED.

Prints what came of them as JSON; an AssertionError where a fit has left something that is no good.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from typing import Any

import numpy as np
import runs

import portnn

EPOCHS, BATCH = 5, 10
STEPS = -(-runs.N // BATCH)
OPTIONS: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 5, "progress": False}
CLASSES = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds")


def network(backend: str) -> portnn.MLP:
    """Return a network with everything that training changes: parameters, and the running statistics of batch norm."""
    device = None if backend == "numpy" else "cpu"
    return portnn.MLP([6, 8, 3], backend=backend, device=device, seed=2, normalization="batch", dropout=0.1)


def train(model: portnn.MLP, **more: Any) -> portnn.History:
    """Train on all samples; an epoch is one chunk of steps."""
    x, t = runs.data()
    options = {"optimizer": portnn.Adam(0.01), "validation_data": (x[:30], t[:30]), **OPTIONS, **more}
    return portnn.fit(model, x, t, **options)


def undisturbed(backend: str) -> tuple[dict[int, str], dict[str, list[float]]]:
    """Return the digests of the model after each number of updates, and the history."""
    model = network(backend)
    after = {0: runs.digest(model)}
    history = train(
        model, callbacks=lambda model, history: after.update({STEPS * len(history["loss"]): runs.digest(model)})
    )
    return after, {name: values for name, values in history.items() if name != "epoch_seconds"}


def check(model: portnn.MLP, history: portnn.History | None, after: dict[int, str], complete: dict[str, list]) -> str:
    """Return what became of a fit that was perhaps interrupted; ``history`` is None where it has raised."""
    numbers = model.backend.to_numpy(model.params)
    assert np.isfinite(numbers).all()
    assert runs.digest(model) in after.values(), "the model is that of no whole number of epochs"
    if history is not None:
        assert set(map(len, history.values())) <= {history.reached.epochs}, {n: len(v) for n, v in history.items()}
        assert not history or sorted(history) == sorted(CLASSES)
        assert runs.digest(model) == after[history.reached.updates]
        assert history.reached.updates - STEPS * history.reached.epochs in (0, STEPS)
        assert history.interrupted or history.reached.epochs == EPOCHS
        for name, values in complete.items():
            assert history.get(name, []) == values[: history.reached.epochs], name
    x, _ = runs.data()
    assert np.isfinite(portnn.predict(model, x)).all()
    if (
        history is not None
        and history.interrupted
        and history.reached.updates == STEPS * history.reached.epochs < STEPS * EPOCHS
    ):
        rest = train(model, epochs=EPOCHS - history.reached.epochs, resume=history)
        assert runs.digest(model) == after[STEPS * EPOCHS], "what was interrupted does not go on as if it had not been"
        assert {name: values for name, values in rest.items() if name != "epoch_seconds"} == complete
    else:
        assert not train(model, epochs=1).interrupted
        assert np.isfinite(model.backend.to_numpy(model.params)).all()
    return "raised" if history is None else "interrupted" if history.interrupted else "late"


def trial(backend: str, delay: float) -> tuple[portnn.MLP, portnn.History | None]:
    """Train, with a Ctrl-C after ``delay`` seconds; one that comes later than the end is waited for."""
    model, history = network(backend), None
    came = threading.Event()

    def press() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGINT)
        came.set()

    thread = threading.Thread(target=press)
    try:
        thread.start()
        history = train(model)
        while not came.wait(0.001):
            pass
        time.sleep(0.01)
    except KeyboardInterrupt:
        pass
    thread.join()
    return model, history


def main(backend: str, trials: int, seed: int) -> None:
    """Try many times, and print how often what happened."""
    after, complete = undisturbed(backend)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        train(network(backend))
        times.append(time.perf_counter() - began)
    draw, found = random.Random(seed), collections.Counter()
    for _ in range(trials):
        model, history = trial(backend, draw.uniform(0.0, 1.1 * statistics.median(times)))
        found[check(model, history, after, complete)] += 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print(json.dumps(found))


if __name__ == "__main__":
    sys.setswitchinterval(1e-5)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
