"""What it costs to look for NaN and infinity: python benchmarks/non_finite.py [--backends numpy,torch,jax].

One ``portnn.fit`` with Adam trains on random pictures; from epoch to epoch it takes turns between three ways, the order
reversed every time: as it is; without the look at parameters and the optimizer's arrays at the end of each chunk (the
function is replaced); and without the copy of the state to go back to, either (which Ctrl-C and failures need, too).
The times are those of ``history["epoch_seconds"]``. The overhead is the median, over rounds, of the ratio of two epochs
of one round; the last column is the look by itself, timed alone, as a share of the chunk. The bar is 3 % of the step.

A chunk is an epoch here: 12,800 samples, which is little. There is one look per chunk, and chunks have up to 65,536
samples, so with MNIST it costs about a fifth.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import portnn
from portnn import loop

BAR = 0.03
NETWORKS = ([784, 128, 10], [784, 512, 512, 10])
BATCHES = (32, 128)
WAYS = ("as it is", "no look", "no look, no copy")
HEAD = "| network | batch | library | us per step | overhead of the look | of look and copy | the look alone |"
READ, COPIED = loop.read_back, loop.copied


def unread(backend: Any, metrics: Any, arrays: Any) -> tuple[Any, bool]:
    """Read what a chunk reports, and look at nothing else."""
    return READ(backend, metrics, ())


def uncopied(backend: Any, state: Any) -> Any:
    """Copy nothing of a whole state, which has Adam's arrays; what is handed to the model is copied as ever."""
    return state if {"params", "m"} <= set(state) else COPIED(backend, state)


def take(way: str) -> None:
    """Let fit go one of the ways."""
    loop.read_back = READ if way == "as it is" else unread
    loop.copied = uncopied if way == "no look, no copy" else COPIED


def measured(sizes: list[int], batch: int, backend: str, samples: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each epoch by its way, and those of the look by itself."""
    rng = np.random.default_rng(0)
    x, t = rng.random((samples, sizes[0]), dtype=np.float32), rng.integers(0, sizes[-1], size=samples)
    model = portnn.MLP(sizes, backend=backend)
    turns = itertools.chain.from_iterable(WAYS if k % 2 else WAYS[::-1] for k in range(rounds))
    plan = [WAYS[0]] * 2 + list(turns)  # two epochs to compile, record and warm up

    def next_way(model: portnn.MLP, history: portnn.History) -> None:
        if len(history["loss"]) < len(plan):
            take(plan[len(history["loss"])])

    take(plan[0])
    try:
        options = {"optimizer": portnn.Adam(1e-3), "batch_size": batch, "epochs": len(plan), "progress": False}
        history = portnn.fit(model, x, t, callbacks=next_way, **options)
    finally:
        take("as it is")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for way, spent in list(zip(plan, history["epoch_seconds"], strict=True))[2:]:
        seconds[way].append(spent)
    return {"seconds": seconds, "alone": alone(model, history)}


def alone(model: portnn.MLP, history: portnn.History, times: int = 60) -> float:
    """Return what the look takes beyond the read that a chunk needs anyway, in seconds."""
    backend = model.backend
    arrays = [model.params, *history.reached.arrays.values()]
    metrics = {"loss": backend.xp.sum(model.params), "accuracy": backend.xp.sum(model.params)}
    spent: dict[bool, list[float]] = {True: [], False: []}
    for k in range(times + 10):
        for looks in (True, False) if k % 2 else (False, True):
            began = time.perf_counter()
            READ(backend, metrics, arrays if looks else ())
            spent[looks].append(time.perf_counter() - began)
    return statistics.median(spent[True][10:]) - statistics.median(spent[False][10:])


def row(sizes: list[int], batch: int, backend: str, samples: int, found: dict[str, Any]) -> tuple[str, float]:
    """Return a row of the table, and the overhead of the look."""
    seconds, steps = found["seconds"], -(-samples // batch)
    bare = seconds["no look"], seconds["no look, no copy"]
    look, copy = (statistics.median(a / b for a, b in zip(seconds["as it is"], of, strict=True)) - 1 for of in bare)
    epoch = statistics.median(seconds["as it is"])
    cells = ["-".join(map(str, sizes)), str(batch), backend, f"{epoch / steps * 1e6:.0f}"]
    cells += [f"{look:+.1%}", f"{copy:+.1%}", f"{found['alone'] / epoch:.2%} ({found['alone'] * 1e6:.0f} us per chunk)"]
    return "| " + " | ".join(cells) + " |", look


def main() -> int:
    """Print the table; status 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backends", default="numpy,torch,jax", help="some of them, separated by commas")
    parser.add_argument("--samples", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    args = parser.parse_args()
    lines = [f"{args.samples} samples, {args.rounds} rounds; portnn {portnn.__version__}, numpy {np.__version__}"]
    lines += ["", HEAD, "|" + "---|" * 7]
    print("\n".join(lines), flush=True)
    missed = 0
    for sizes, batch, backend in itertools.product(NETWORKS, BATCHES, args.backends.split(",")):
        found = measured(list(sizes), batch, backend, args.samples, args.rounds)
        line, overhead = row(list(sizes), batch, backend, args.samples, found)
        missed += overhead > BAR
        lines.append(line)
        print(line, flush=True)
    lines += ["", f"{missed} of {len(lines) - 4} above the bar of {BAR:.0%}."]
    print(lines[-1])
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
