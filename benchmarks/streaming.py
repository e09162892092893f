"""Samples streamed from files in bounded memory, beside the same samples in memory: seconds, peak, bits.

    python benchmarks/streaming.py --gigabytes 10 --folder /somewhere/large

Makes the files where they are missing, and trains on them and on the same samples in memory in turns, each run in a
process of its own; then kills a training in the middle of the epoch and lets another finish it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import portnn

FEATURES, CLASSES, SHARDS = 784, 10, 10
RESULTS = Path(__file__).parent / "results" / "streaming-cpu.md"


def make(folder: Path, n: int) -> None:
    """Write ``n`` samples into ten files, each class around a mean of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    means = np.random.default_rng(0).random((CLASSES, FEATURES), dtype="float32")
    for i, rows in enumerate(np.array_split(np.arange(n), SHARDS)):
        path, rng = folder / f"x{i}.npy", np.random.default_rng(i + 1)
        if path.exists() and np.lib.format.open_memmap(path, mode="r").shape == (len(rows), FEATURES):
            continue
        t = rng.integers(CLASSES, size=len(rows)).astype("uint8")
        x = np.lib.format.open_memmap(path, mode="w+", dtype="float32", shape=(len(rows), FEATURES))
        for start in range(0, len(rows), 8192):
            here = t[start : start + 8192]
            x[start : start + 8192] = 0.25 * means[here] + rng.random((len(here), FEATURES), dtype="float32")
        x.flush()
        np.save(folder / f"t{i}.npy", t)


def peak() -> float:
    """Return the peak of the resident memory so far, in MiB."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def run(folder: Path, how: str, checkpoint: str | None) -> dict[str, Any]:
    """Train for an epoch, and say how long it took and what came of it."""
    stream = portnn.datasets.Stream(f"{folder}/x?.npy", f"{folder}/t?.npy")
    model = portnn.MLP([FEATURES, 128, CLASSES], seed=0)
    options: dict[str, Any] = {"optimizer": portnn.SGD(0.05), "epochs": 1, "batch_size": 128, "progress": False}
    if checkpoint:
        options |= {"checkpoint": portnn.Checkpoints(checkpoint, seconds=1.0), "resume": True}
    if how == "memory":
        x = np.empty(stream.shape, dtype=stream.dtype)
        for start, stop in zip(stream.starts, stream.starts[1:], strict=False):
            x[start:stop] = np.load(stream.shards[int(np.searchsorted(stream.starts, start))].path, mmap_mode="r")
        orders = {"shuffle": lambda epoch: stream.order(0, epoch)}
        history = portnn.fit(model, x, stream.t, **options, **orders)
    else:
        history = portnn.fit(model, stream, **options)
    digest = hashlib.sha256(np.ascontiguousarray(model.params)).hexdigest()
    return {"seconds": sum(history["epoch_seconds"]), "peak": peak(), "sha256": digest, "loss": history["loss"][-1]}


def in_process(folder: Path, how: str, threads: int, checkpoint: str | None = None) -> subprocess.Popen[str]:
    """Start a run with so many threads for the products."""
    known = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--folder", str(folder), "--run", how]
    command += ["--checkpoint", checkpoint] if checkpoint else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=known)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a run."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run ended with status {process.returncode}")
    found: dict[str, Any] = json.loads(out)
    return found


def killed(folder: Path, threads: int) -> tuple[int, dict[str, Any]]:
    """Kill a training in the middle of its epoch, finish it, and return the row it went on from and what came of it."""
    checkpoint = str(folder / "run")
    subprocess.run(["rm", "-rf", checkpoint], check=True)
    process = in_process(folder, "stream", threads, checkpoint)
    row = 0
    while row == 0 and process.poll() is None:
        time.sleep(0.5)
        for path in portnn.Checkpoints(checkpoint).files()[:1]:
            row = portnn.checkpoint_file.read(path, "streaming").record["row"]
    time.sleep(3.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in portnn.Checkpoints(checkpoint).files()[:1]:
        row = portnn.checkpoint_file.read(path, "streaming").record["row"]
    return row, finished(in_process(folder, "stream", threads, checkpoint))


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the products; reading has threads of its own")
    parser.add_argument("--run", choices=("stream", "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the results of record")
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args.folder, args.run, args.checkpoint)))
        return
    n = int(args.gigabytes * 1e9) // (4 * FEATURES)
    make(args.folder, n)
    runs: dict[str, list[dict[str, Any]]] = {"memory": [], "stream": []}
    for i in range(args.rounds):
        for how in ("memory", "stream") if i % 2 == 0 else ("stream", "memory"):
            runs[how].append(finished(in_process(args.folder, how, args.threads)))
            print(how, runs[how][-1], flush=True)
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(runs["memory"], runs["stream"], strict=True)]
    row, resumed = killed(args.folder, args.threads)
    same = {one["sha256"] for of in runs.values() for one in of} == {resumed["sha256"]}
    text = f"""# {args.gigabytes:g} GB of samples, streamed and in memory

{n:,} samples of {FEATURES} float32 in {SHARDS} npy files, 784-128-10, SGD, batch 128, one epoch; NumPy with
{args.threads} thread(s) for the products. The files fit into the system's cache: the speed of a disk is
not part of this. Made by
`python benchmarks/streaming.py --gigabytes {args.gigabytes:g} --folder F --rounds {args.rounds} --write`.

| | in memory | streamed |
|---|---|---|
| seconds per epoch, each round | {", ".join(f"{r['seconds']:.1f}" for r in runs["memory"])} | \
{", ".join(f"{r['seconds']:.1f}" for r in runs["stream"])} |
| peak of resident memory, MiB | {max(r["peak"] for r in runs["memory"]):.0f} | \
{max(r["peak"] for r in runs["stream"]):.0f} |

Throughput of the stream over that of memory: {", ".join(f"{r:.2f}" for r in ratios)}; median
{statistics.median(ratios):.2f}. Killed and resumed at row {row:,} of the epoch: {resumed["peak"]:.0f} MiB. All runs,
in memory, streamed and resumed, {"ended with the same bits" if same else "ENDED WITH DIFFERENT BITS"}.

portnn {portnn.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores.
"""
    print(text)
    if args.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
