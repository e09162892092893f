"""Trainings of many kinds, each a pure function of its name: what repetitions, threads and processes must agree on.

In a module of its own, so that other processes can import it by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

import numpy as np

import portnn
from portnn import files
from portnn.backends import namespace
from portnn.losses import Loss

N = 120


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return samples (120, 6) and labels of three classes."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((N, 6))
    return x, (x @ rng.standard_normal((6, 3))).argmax(axis=1)


def plain_loss(y: Any, t: Any) -> Any:
    """Return a loss without its derivative: portnn.autograd records it."""
    xp = namespace(y)
    return xp.sum(xp.abs(y - t) ** 1.5, axis=-1)


def _classes(**options: Any) -> dict[str, Any]:
    return {"targets": "labels", "options": options}


def _numbers(**options: Any) -> dict[str, Any]:
    return {"targets": "numbers", "options": options}


# model: arguments of MLP; the rest: arguments of fit. Optimizers are made anew: a plateau schedule remembers.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "sgd": ({"sizes": [6, 9, 3]}, _classes(batch_size=16), lambda: portnn.SGD(0.1, momentum=0.9, nesterov=True)),
    "adam-float64": (
        {"sizes": [6, 8, 8, 3], "activation": "tanh", "dtype": "float64"},
        _classes(batch_size=7, l2=1e-3, clip_norm=1.0),
        lambda: portnn.Adam(portnn.schedules.cosine(0.02, 60)),
    ),
    "dropout-batch-norm": (
        {"sizes": [6, 16, 3], "dropout": 0.3, "normalization": "batch"},
        _classes(batch_size=32, validation_split=0.25),
        lambda: portnn.AdamW(0.01),
    ),
    "members": (
        {"sizes": [6, 5, 3], "members": 3, "activation": "gelu"},
        _classes(batch_size=40, sample_weight=np.linspace(0.5, 2.0, N)),
        lambda: portnn.Adam([1e-3, 1e-2, 3e-2]),
    ),
    "plain-loss": (
        {"sizes": [6, 7, 3], "dtype": "float64", "activation": "softplus"},
        _numbers(loss=Loss("plain", plain_loss, "values"), compile=False, batch_size=30),
        lambda: portnn.RMSprop(0.01),
    ),
    "tf32": (
        {"sizes": [6, 9, 3], "matmul_precision": "tf32", "normalization": "layer"},
        _numbers(loss="huber", batch_size=30),
        lambda: portnn.SGD(portnn.schedules.ReduceOnPlateau(0.1, patience=1)),
    ),
}


def started(kind: str, backend: str) -> portnn.MLP:
    """Return the model of a training, at its start."""
    options = dict(KINDS[kind][0])
    device = None if backend in ("numpy", "array_api_strict") else "cpu"
    return portnn.MLP(options.pop("sizes"), backend=backend, device=device, seed=3, **options)


def trained(kind: str, backend: str, epochs: int = 4, **more: Any) -> tuple[portnn.MLP, portnn.History]:
    """Train, and return model and history."""
    _, how, optimizer = KINDS[kind]
    model, (x, labels) = started(kind, backend), data()
    t = labels if how["targets"] == "labels" else np.eye(3)[labels]
    options = {"optimizer": optimizer(), "epochs": epochs, "seed": 11, "progress": False, **how["options"], **more}
    return model, portnn.fit(model, x, t, **options)


def digest(model: portnn.MLP, history: portnn.History | None = None) -> str:
    """Return the SHA-256 of all parameters, running statistics and numbers of the history but the seconds."""
    found = hashlib.sha256()
    for a in (model.params, model.running):
        if a is not None:
            found.update(np.ascontiguousarray(model.backend.to_numpy(a)).tobytes())
    if history is not None:
        numbers = {name: values for name, values in history.to_dict().items() if name != "epoch_seconds"}
        found.update(json.dumps(numbers, sort_keys=True).encode())
    return found.hexdigest()


def outcome(kind: str, backend: str, **more: Any) -> str:
    """Return the digest of a training."""
    return digest(*trained(kind, backend, **more))


def outcome_of(case: tuple[str, str]) -> str:
    """Return the digest of a training (kind, backend): for functions that map."""
    return outcome(*case)


def outcome_in_a_process(case: tuple[str, str]) -> tuple[str, int]:
    """Return the digest, and the number of the process that has computed it."""
    return outcome(*case), os.getpid()


def in_use(folder: Any) -> bool:
    """Return whether a training of this process or another has a folder alone."""
    try:
        with files.alone(folder, "fit"):
            return False
    except BlockingIOError:
        return True


if __name__ == "__main__":  # python runs.py KIND BACKEND ...: the digests, one per line
    if "jax" in sys.argv:
        import jax

        jax.config.update("jax_enable_x64", True)
    for kind, backend in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        print(outcome(kind, backend))
