"""A process of its own for every competitor of benchmarks/speed.py, and the number of threads it may use.

The environment is set before anything is imported; words and reports are lines over the standard streams.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from speed_cases import Case, Data, Turns
from speed_peers import competitors

UNPINNED = (
    "XLA has no public setting for its number of threads on the CPU: it takes the number of cores that the process may "
    "run on, so every process is bound to that many cores (Linux only); torch's inter-op pool is not used here"
)


class Pipe(Turns):
    """Wait for the word of the other process before an epoch, and report after it."""

    def __init__(self, epochs: int, words: Any, reports: Any) -> None:
        super().__init__(epochs)
        self.words, self.reports, self.made = words, reports, time.perf_counter()

    def say(self, **report: Any) -> None:
        """Write one line."""
        self.reports.write(json.dumps(report) + "\n")
        self.reports.flush()

    def begin(self) -> None:
        """Wait; the first time, say how long the preparation took."""
        if not self.seconds:
            self.say(prepare_seconds=time.perf_counter() - self.made)
        if self.words.readline().strip() != "go":
            raise SystemExit(0)
        gc.collect()
        super().begin()

    def end(self, loss: float) -> None:
        """Stop the clock and report."""
        super().end(loss)
        self.say(seconds=self.seconds[-1], loss=self.losses[-1] if math.isfinite(loss) else None)


def work(name: str, order: dict[str, Any]) -> None:
    """Be a competitor: take turns over the standard streams, which belong to nobody else from here on."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    case = Case(**{**order["case"], "sizes": tuple(order["case"]["sizes"])})
    competitor = competitors(case)[name]
    turns = Pipe(order["epochs"], sys.stdin, reports)
    try:
        if "torch" in competitor.packages:
            import torch

            torch.set_num_threads(case.threads)
        data = Data(*(np.load(Path(order["folder"]) / f"{a}.npy")[: case.samples] for a in "xt"))
        turns.say(versions=competitor.versions())
        turns.words.readline()
        turns.made = time.perf_counter()
        competitor.compete(case, data, turns)
        turns.say(peak_mib=peak_memory())
    except Exception as error:  # whatever goes wrong in a library is said in the table
        text = (str(error).strip() or "no message").splitlines()[0]
        turns.say(failed=f"{type(error).__name__}: {text[:200]}")


def peak_memory() -> float | None:
    """Return the most memory that this process has held, in MiB, where Linux says so.

    ``ru_maxrss`` would begin with that of the process which started this one.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)
    return None


class Process:
    """The other end of :func:`work`."""

    def __init__(self, name: str, case: Case, epochs: int, folder: str) -> None:
        self.name, self.case, self.result = name, case, {"seconds": [], "losses": [], "why_not": ""}
        command = [sys.executable, str(Path(__file__).resolve()), name]
        environment = {**os.environ, **pinned(case), "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "inductor")}
        self.errors = Path(folder) / f"{name}.txt"
        with self.errors.open("w") as errors:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self.process = subprocess.Popen(command, env=environment, text=True, **streams)
        self.tell(json.dumps({"case": dataclasses.asdict(case), "epochs": epochs, "folder": folder}))

    @property
    def here(self) -> bool:
        """Whether it still takes part."""
        return not self.result["why_not"]

    def tell(self, word: str) -> None:
        """Say a word; a process that has ended does not hear it."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return the next report; one that says why not if there is none."""
        line = self.process.stdout.readline() if self.here else ""
        report = json.loads(line) if line else {"failed": self._last_words()}
        if self.here and "failed" in report:
            self.result["why_not"] = report["failed"]
        return report

    def _last_words(self) -> str:
        status = self.process.wait()
        said = self.errors.read_text(errors="replace").strip().splitlines()
        return f"the process ended with status {status}: {said[-1][:200] if said else 'no message'}"

    def close(self) -> None:
        """Let it go."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def pinned(case: Case) -> dict[str, str]:
    """Return the environment that gives every library the same number of threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
    variables = {name: str(case.threads) for name in names} | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if case.threads == 1:
        variables["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    if case.device == "cpu":
        variables |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return variables


def bind(threads: int) -> bool:
    """Bind this process and its children to as many cores as there are threads; False where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    return threads <= len(cores)


def machine(device: str) -> dict[str, Any]:
    """Describe the machine as far as it matters."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    found = {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version()}
    found |= {"system": platform.system()}
    if device == "cuda":
        with contextlib.suppress(OSError):
            query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
            found["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return found


if __name__ == "__main__":
    work(sys.argv[1], json.loads(sys.stdin.readline()))
