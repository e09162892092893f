"""What a training step costs on many ranks: measured here on a few, and by the model of docs/scaling.md on thousands.

    python benchmarks/scaling.py --ranks 1 2 4

Each number of ranks is a run of mpiexec with one thread for each rank, in turns. Weak scaling: each rank has the same
number of samples of a batch. The model takes what one rank costs, and what sums of few and of many numbers cost on two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import portnn
from portnn import preparation, reduced

RESULTS = Path(__file__).parent / "results" / "scaling-cpu.md"
SIZES, LOCAL, STEPS = [784, 128, 10], 128, 200


def seconds(n_params: int, ranks: int, alone: float, latency: float, bandwidth: float, width: int = 4) -> float:
    """Return the time of a step by the model: what a rank computes, and the sum of a gradient over all of them.

    A sum over P ranks takes 2 (P - 1) messages of n / P numbers in a ring, or 2 log2(P) messages of as many numbers in
    all by halving and doubling: with the latter there is never more to wait for.
    """
    if ranks == 1:
        return alone
    size = n_params * width
    return float(alone + 2 * np.ceil(np.log2(ranks)) * latency + 2 * (ranks - 1) / ranks * size / bandwidth)


def in_halves(ready: Any) -> Any:
    """Return what runs steps of a :class:`portnn.preparation.Preparation` in two halves, as ranks do, on one."""
    options: dict[str, Any] = {"clip_value": None, "clip_norm": None, "l1": 0.0, "l2": 0.0, "output_share": None}
    halves = reduced.Halves(ready.model, ready.loss, ready.optimizer, per_batch=False, **options)
    return reduced.Reduced(ready.model.backend, halves, "auto", ready.group, None)


def measure() -> dict[str, float]:
    """Return the seconds of a step with this number of ranks, and of sums of 16 and of all parameters."""
    comm = portnn.distributed.world()
    rank, size = comm.Get_rank(), comm.Get_size()
    rng = np.random.default_rng(0)
    n = LOCAL * size * STEPS
    x, t = rng.random((n, SIZES[0]), dtype="float32"), rng.integers(10, size=n)
    model = portnn.MLP(SIZES, seed=0)
    options: dict[str, Any] = {"optimizer": portnn.SGD(0.05), "batch_size": LOCAL * size, "progress": False}
    history = portnn.fit(model, x, t, epochs=4, comm=comm, **options)
    step = min(history["epoch_seconds"][1:]) / STEPS
    sums = {"halves": step}
    if size == 1:
        preparation.Preparation._compiled = in_halves  # type: ignore[method-assign]
        history = portnn.fit(model, x, t, epochs=4, **options)
        sums["halves"] = min(history["epoch_seconds"][1:]) / STEPS
    for name, length in (("few", 16), ("all", model.n_params)):
        a, times = np.zeros(length, dtype="float32"), []
        for _ in range(200):
            given = a.copy()
            comm.Barrier()
            began = time.perf_counter()
            comm.Allreduce(given, a)
            times.append(time.perf_counter() - began)
        sums[name] = statistics.median(times)
    return {"step": step, **sums} if rank == 0 else {}


def predicted() -> str:
    """Return the table for data-center GPUs: assumed, not measured, see docs/scaling.md."""
    rate, floor, rows = 50e12, 50e-6, []
    for name, n_params, first, b in (
        ("784-128-10", 101_770, 784 * 128, 128),
        ("784-4096-4096-10", 20_037_642, 784 * 4096, 1024),
    ):
        alone = max(floor, (6 * n_params - 2 * first) * b / rate)
        for ranks in (1, 8, 64, 1000, 10_000):
            latency, bandwidth = (5e-6, 100e9) if ranks <= 8 else (20e-6, 25e9)
            step = seconds(n_params, ranks, alone, latency, bandwidth)
            rows.append(f"| {name} | {ranks:,} | {b * ranks:,} | {1e3 * step:.3g} | {alone / step:.2f} |")
    head = "| network | workers | batch | step, ms | efficiency, weak scaling |\n|---|---|---|---|---|"
    return "\n".join([head, *rows])


def main() -> None:
    """Measure, compare, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="1 and 2 must be among them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--predict", action="store_true", help="print the table of docs/scaling.md for GPUs instead")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the results of record")
    args = parser.parse_args()
    if args.measure:
        if found := measure():
            print(json.dumps(found))
        return
    if args.predict:
        print(predicted())
        return
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    known = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    runs: dict[int, list[dict[str, float]]] = {ranks: [] for ranks in args.ranks}
    for _ in range(args.rounds):
        for ranks in args.ranks:
            command = [str(mpiexec), "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__, "--measure"]
            done = subprocess.run(command, env=known, capture_output=True, text=True, check=True)
            runs[ranks].append(json.loads(done.stdout.splitlines()[-1]))
    found = {
        ranks: {name: statistics.median(one[name] for one in of) for name in ("step", "halves", "few", "all")}
        for ranks, of in runs.items()
    }
    n_params, alone = portnn.MLP(SIZES).n_params, found[1]["step"]
    latency = found[2]["few"] / 2  # of a message: the sum over two ranks has two
    bandwidth = n_params * 4 / max((found[2]["all"] - found[2]["few"]), 1e-9)
    rows = []
    for ranks, of in found.items():
        expected = seconds(n_params, ranks, alone if ranks == 1 else found[1]["halves"], latency, bandwidth)
        each = [one["step"] / other["step"] for one, other in zip(runs[1], runs[ranks], strict=True)]
        rows.append(
            f"| {ranks} | {LOCAL * ranks} | {1e6 * of['step']:.0f} | {1e6 * of['all']:.0f} | "
            f"{statistics.median(each):.2f} ({min(each):.2f} - {max(each):.2f}) | {alone / expected:.2f} |"
        )
    text = f"""# Steps on several ranks

{"-".join(map(str, SIZES))} ({n_params:,} parameters), SGD, {LOCAL} samples per rank and step, NumPy with one thread per
rank, on {os.cpu_count()} cores: more ranks than cores share them. Medians of {args.rounds} rounds in turns.
Each round counts the fastest of three epochs; efficiency is the median of the rounds' ratios. Made by
`python benchmarks/scaling.py --ranks {" ".join(map(str, args.ranks))} --rounds {args.rounds} --write`.

| ranks | batch | step, us | sum of a gradient, us | efficiency (lowest - highest round) | predicted |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Efficiency: the time of a step on one rank over that on all. Predicted from a step on one rank in two halves, gradient
and update ({1e6 * found[1]["halves"]:.0f} us; in one it is {1e6 * alone:.0f} us), a message of few numbers
({1e6 * latency:.1f} us) and {bandwidth / 1e9:.2f} GB/s, both from the sums on two ranks.

portnn {portnn.__version__}, numpy {np.__version__}, Python {platform.python_version()}.
"""
    print(text)
    if args.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
