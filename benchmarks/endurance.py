"""A thousand fits in one process: does its memory stay as it is? python benchmarks/endurance.py.

For each library a process of its own makes a network, trains it and drops it, again and again, and prints the resident
memory after every tenth of them. Twice: with networks of one shape, and, a fifth as often, with one of another width
each time, which JAX must compile anew. The first tenth is for what is loaded, cached and compiled once; growth is
counted from there. Results go to benchmarks/results/endurance.md, raw figures to endurance.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("numpy", "torch", "jax")
SHAPES = ("one", "many")


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(backend: str, shapes: str, fits: int) -> dict[str, Any]:
    """Fit many times in this process, and return the resident memory after every tenth of them."""
    import numpy as np

    import portnn

    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2000, 64), dtype="float32"), rng.integers(0, 10, 2000)
    device, memory, began = None if backend == "numpy" else "cpu", [], time.perf_counter()
    for k in range(fits):
        width = 32 if shapes == "one" else 32 + 389 * k % 1000  # no two of a thousand are the same
        model = portnn.MLP([64, width, 10], backend=backend, device=device, seed=k, dropout=0.1, normalization="batch")
        portnn.fit(model, x, t, optimizer=portnn.Adam(1e-3), epochs=1, batch_size=100, seed=k, progress=False)
        portnn.evaluate(model, x, t)
        if (k + 1) % (fits // 10) == 0:
            memory.append(round(resident(), 1))
            print(f"{backend:6} {shapes:5} {k + 1:5} fits  {memory[-1]:7.1f} MiB", file=sys.stderr, flush=True)
    library = portnn.backends()[backend]
    return {"fits": fits, "MiB": memory, "seconds": time.perf_counter() - began, "version": library.version}


def table(results: dict[str, Any]) -> str:
    """Return the results as a page."""
    from importlib.metadata import version

    lines = [
        "# A thousand fits in one process",
        "",
        f"`python benchmarks/endurance.py`, Python {platform.python_version()}, NumPy {version('numpy')}. Resident",
        "memory in MiB after each tenth of the fits; growth is from the first of them to the last.",
        "",
        "| library | networks | fits | " + " | ".join(f"{k}0 %" for k in range(1, 11)) + " | growth, MiB |",
        "|---|---|---|" + "---|" * 11,
    ]
    for name, one in results.items():
        backend, shapes = name.split()
        memory = one["MiB"]
        cells = [f"{backend} {one['version']}", {"one": "of one shape", "many": "each of another width"}[shapes]]
        cells += [str(one["fits"]), *(f"{m:.0f}" for m in memory), f"{memory[-1] - memory[0]:+.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure each library in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fits", type=int, default=1000, help="default 1000; at least 50")
    parser.add_argument("--only", nargs="*", default=LIBRARIES, choices=LIBRARIES)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, choices=SHAPES)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of endurance.md and endurance.json")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.fits)))
        return 0
    results = {}
    for backend in args.only:
        for shapes in args.shapes:
            fits = args.fits // 5 if shapes == "many" else args.fits  # each of which JAX compiles
            command = [sys.executable, __file__, "--fits", str(fits), "--measure", backend, shapes]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            results[f"{backend} {shapes}"] = json.loads(done.stdout)
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "endurance.json"
    results = {**(json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}), **results}
    record.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (args.out / "endurance.md").write_text(table(results), encoding="utf-8")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
