"""A training step by portnn.autograd beside the hand-written one: python benchmarks/autograd.py [--rounds 300].

Loss and gradient of 784-128-10 at a batch of 128 in float32, in one process and in turns: the medians of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np

import portnn
from portnn.autograd import value_and_grad
from portnn.backends import get_backend


def cross_entropy(y, labels):
    """Return the mean cross-entropy, written against the array API."""
    xp = y.__array_namespace__()
    shifted = y - xp.max(y, axis=-1, keepdims=True)
    t = xp.astype(labels[:, None] == xp.arange(y.shape[-1], dtype=labels.dtype, device=labels.device), y.dtype)
    logarithm = xp.log(xp.sum(xp.exp(shifted), axis=-1))
    return xp.mean(logarithm - xp.sum(t * shifted, axis=-1))


def by_parts(weights, x, labels):
    """Return the loss of a network whose weights are handed in one by one."""
    (weight0, bias0), (weight1, bias1) = weights
    xp = x.__array_namespace__()
    hidden = xp.maximum(xp.matmul(x, weight0) + bias0, xp.zeros((), dtype=x.dtype, device=x.device))
    return cross_entropy(xp.matmul(hidden, weight1) + bias1, labels)


def steps(backend: str) -> dict[str, object]:
    """Return the functions to be timed; each gives (loss, gradient) of the same network and batch."""
    model = portnn.MLP([784, 128, 10], backend=backend)
    home = get_backend(backend)
    rng = np.random.default_rng(0)
    x = home.asarray(rng.random((128, 784)).astype("float32"))
    labels = home.asarray(rng.integers(0, 10, size=128).astype("int32"))
    objective = model.objective("cross_entropy")
    of_vector = value_and_grad(lambda params, x, t: cross_entropy(model.apply(params, x), t))
    of_parts = value_and_grad(by_parts)
    weights = [list(pair) for pair in zip(model.weights, model.biases, strict=True)]
    return {
        "hand-written": lambda: objective(model.params, x, labels, None)[:2],
        "autograd, of the flat vector": lambda: of_vector(model.params, x, labels),
        "autograd, of weights and biases": lambda: of_parts(weights, x, labels),
    }


def timed(run, synchronize) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Time them in turns and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    runs = steps(args.backend)
    home = get_backend(args.backend)
    losses = {name: float(run()[0]) for name, run in runs.items()}
    first, *others = losses.values()
    if any(abs(loss - first) > 1e-5 for loss in others):
        sys.exit(f"the losses differ: {losses}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            times[name].append(timed(run, home.synchronize))
    reference = times["hand-written"]
    print(f"784-128-10, batch 128, float32, {args.backend}: median of {args.rounds} steps in turns")
    for name, of in times.items():
        ratio = statistics.median(a / b for a, b in zip(of, reference, strict=True))
        print(f"{name:32} {1e6 * statistics.median(of):8.0f} us   {ratio:5.2f} times the hand-written step")


if __name__ == "__main__":
    main()
