"""Measure every preset of examples/mnist.py on real MNIST beside the program it succeeds.

    python benchmarks/presets.py [--epochs 10] [--runs 1] [--output benchmarks/results/presets.json]

Each run is a process of its own with the example's ordinary command line; its peak memory is what the operating
system reports. The programs' figures were measured by building and running them on two x86-64 cores (release builds,
the better of two runs); ``same`` says whether their epoch is 60,000 samples like ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "mnist.py"

# test accuracy in %, seconds per epoch, peak memory in MiB, samples per epoch
PROGRAMS = {
    "tiny-mnist": {"accuracy": 94.36, "epoch": 29.5, "memory": 566, "samples": 60_000},
    "rustnist": {"accuracy": 97.21, "epoch": 0.445, "memory": 407, "samples": 50_000},
    "nn-rust": {"accuracy": 88.52, "epoch": 44.0, "memory": 429, "samples": 60_000},
    "mnist-in-rust": {"accuracy": 96.39, "epoch": 2.27, "memory": 223, "samples": 60_000},
}


def run(preset: str, epochs: int, backend: str) -> dict[str, object]:
    """Train one preset in a fresh process and return what it reports."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, str(EXAMPLE), "--preset", preset, "--epochs", str(epochs), "--backend", backend]
        command += ["--dataset", "mnist", "--quiet", "--report", str(report)]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{preset} failed with status {status}")
        result = json.loads(report.read_text())
    return {
        "preset": preset,
        "backend": backend,
        "versions": result["versions"],
        "test_accuracy": result["test_accuracy"],
        "train_accuracy": result["train_accuracy"],
        "epoch_seconds": result["epoch_seconds"],
        "fit_seconds": result["fit_seconds"],
        "peak_mib": usage.ru_maxrss / 1024,
        "configuration": result["configuration"],
    }


def main() -> None:
    """Run all presets and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--presets", nargs="*", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "presets.json")
    args = parser.parse_args()
    results = []
    print("| preset | test accuracy | s per 60,000 samples | peak MiB | program: accuracy | s per 60,000 | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for preset in args.presets:
        result, program = run(preset, args.epochs, args.backend), PROGRAMS[preset]
        results.append(result)
        seconds = statistics.median(result["epoch_seconds"])
        theirs = program["epoch"] * 60_000 / program["samples"]
        print(
            f"| {preset} | {100 * result['test_accuracy']:.2f} % | {seconds:.2f} | {result['peak_mib']:.0f} "
            f"| {program['accuracy']:.2f} % | {theirs:.2f} | {program['memory']} |",
            flush=True,
        )
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"machine": machine, "epochs": args.epochs, "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
