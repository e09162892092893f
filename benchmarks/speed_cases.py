"""What the competitors of benchmarks/speed.py have in common: the case, the samples, the start, and taking turns.

A competitor is a function ``(case, data, turns)``. It prepares whatever it wants off the clock; then every epoch stands
between ``turns.begin()``, which waits for its turn and starts the clock, and ``turns.end(loss)``, which stops it and
hands in the mean training loss of the epoch. What trains by the epoch is written as ``prepare(case, data)``, which
returns ``run_epoch(order) -> loss``; ``portnn.fit`` trains many epochs in one call and takes its turns in a callback.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import portnn

SEED = 0


@dataclass(frozen=True)
class Case:
    """One network, one batch size, one optimizer. With ``members`` whole fits are timed, not epochs."""

    sizes: tuple[int, ...]
    batch: int
    optimizer: str
    samples: int
    members: int | None = None
    device: str = "cpu"
    threads: int = 1

    @property
    def network(self) -> str:
        """Return the sizes as text: ``784-128-10``."""
        return "-".join(map(str, self.sizes))

    def __str__(self) -> str:
        """Name the case without the number of samples: ``784-128-10, batch 32, sgd``."""
        members = "" if self.members is None else f", {self.members} members"
        return f"{self.network}, batch {self.batch}, {self.optimizer}{members}"

    @property
    def steps(self) -> int:
        """Return the number of updates in an epoch."""
        return -(-self.samples // self.batch)

    @property
    def rate(self) -> float:
        """Return the learning rate: 0.001 for Adam, 0.1 for SGD, less at batch 1 and in deep networks.

        With a large one, roundings grow until libraries that compute the same end at other losses.
        """
        if self.optimizer == "adam":
            return 1e-3
        return 0.01 if self.batch == 1 else 0.1 / max(len(self.sizes) - 3, 1)

    def batches(self) -> Iterator[slice]:
        """Cut an epoch; the last batch may be smaller."""
        return (slice(i, min(i + self.batch, self.samples)) for i in range(0, self.samples, self.batch))


class Data(NamedTuple):
    """Samples on the host: x float32 ``(n, features)``, t int64 ``(n,)``."""

    x: np.ndarray
    t: np.ndarray

    def order(self, epoch: int) -> np.ndarray:
        """Return the order in which epoch number ``epoch`` visits the samples."""
        return portnn.random.order(SEED, epoch, len(self.t)).astype(np.int64)


class Turns:
    """Take every turn at once and keep (loss, seconds) of each: how the tests run a competitor."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.began = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def end(self, loss: float) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self.began)
        self.losses.append(float(loss))


Compete = Callable[[Case, Data, Turns], None]
RunEpoch = Callable[[np.ndarray], float]


class Competitor(NamedTuple):
    """A way to train, the packages it is made of, and why its loss is not compared, if it is not."""

    compete: Compete
    packages: tuple[str, ...]
    exempt: str = ""

    def versions(self) -> dict[str, str]:
        """Return the versions of its packages, as installed."""
        found = {"portnn": portnn.__version__, "numpy": np.__version__}
        for name in self.packages:
            for package in importlib.metadata.packages_distributions().get(name, [name]):
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    found[package] = importlib.metadata.version(package)
        return found


def by_epoch(prepare: Callable[[Case, Data], RunEpoch]) -> Compete:
    """Make a competitor of ``prepare(case, data) -> run_epoch(order) -> loss``."""

    @functools.wraps(prepare)
    def compete(case: Case, data: Data, turns: Turns) -> None:
        run_epoch = prepare(case, data)
        for epoch in range(turns.epochs):
            order = data.order(epoch)
            turns.begin()
            turns.end(run_epoch(order))

    return compete


def start(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (weight, bias) of every layer at the start: float32, weights ``(in, out)``."""
    model = portnn.MLP(case.sizes, dtype="float32", backend="numpy", seed=SEED)
    return [(w.copy(), b.copy()) for w, b in zip(model.weights, model.biases, strict=True)]
