"""More rows than memory: a network over a Dask array, on a local cluster: python examples/embed_dask.py [--rows N].

Ten million rows of 16 features are made, predicted and added up chunk by chunk by the processes of a cluster, none of
which ever holds more than a few chunks. Some chunks are then computed here as well, in memory, and compared.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

import portnn

FEATURES = 16


def peak() -> float:
    """Return the most memory that this process has held, in MiB."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024.0
    except OSError:  # not Linux: of all children of a fork, and in other units, but better than nothing
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Predict, and print throughput, memory and how far the result is from the one in memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--chunk", type=int, default=2**18, help="rows of a chunk")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="1GiB", help="limit of a worker")
    parser.add_argument("--check", type=int, default=4, help="chunks to compute here as well")
    args = parser.parse_args()
    try:
        import dask.array as da
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        sys.exit(f'{error}: pip install "dask[array,distributed]"')

    model = portnn.MLP([FEATURES, 64, 64, 1], activation="tanh", init="glorot_normal")
    rng = da.random.default_rng(0)
    x = rng.normal(size=(args.rows, FEATURES), chunks=(args.chunk, FEATURES)).astype("float32")
    y = model(x)  # nothing has been computed yet
    print(f"x {x.shape}, {x.nbytes / 2**20:.0f} MiB in {x.numblocks[0]} chunks; y {y.shape}")

    cluster = LocalCluster(
        n_workers=args.workers, threads_per_worker=1, memory_limit=args.memory, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        began = time.perf_counter()
        outputs, mean, mean_square = client.compute([y, y.mean(dtype="float64"), (y * y).mean(dtype="float64")])
        outputs, mean, mean_square = outputs.result(), mean.result(), mean_square.result()
        seconds = time.perf_counter() - began
        peaks = client.run(peak)
    print(f"mean {mean:.6f}, root mean square {mean_square**0.5:.6f}")
    print(f"{args.rows / seconds / 1e6:.2f} million rows per second, {seconds:.1f} s")
    print(f"peak memory: workers {', '.join(f'{m:.0f}' for m in peaks.values())} MiB, this process {peak():.0f} MiB")

    chunks = np.unique(np.linspace(0, x.numblocks[0] - 1, args.check).astype(int))
    worst, start = 0.0, np.concatenate([[0], np.cumsum(x.chunks[0])])
    for i in chunks:
        in_memory = portnn.predict(model, x.blocks[i].compute(scheduler="sync"))
        worst = max(worst, float(abs(outputs[start[i] : start[i + 1]] - in_memory).max()))
    print(f"{len(chunks)} chunks computed in memory: largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
