"""Measure portnn beside its peers: the same network, samples, order, start, arithmetic, loss and number of threads.

    python benchmarks/speed.py                      everything; about an hour and a half on two cores
    python benchmarks/speed.py --check              what the bars need, and whether they are held
    python benchmarks/speed.py --growth             how the cost grows with width, depth, batch and members
    python benchmarks/speed.py --case 784-128-10 --batch 128 --optimizer sgd --only portnn-numpy,torch-eager

Every competitor lives in a process of its own with the same number of threads, and trains epoch after epoch; the
processes take turns, one epoch each, so that a slow minute of the machine falls on all. The first epoch, in which
libraries compile, is reported apart; who has another loss than the others after it is refused. Times are outer clocks
around whole epochs, with the device waited for. Written: raw times (JSON), tables (Markdown) and a picture (PNG).
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import speed_report
from speed_cases import Case
from speed_peers import competitors
from speed_process import UNPINNED, Process, bind, machine

HERE = Path(__file__).resolve().parent
NETWORKS = ("784-128-10", "784-512-512-10", "784-4096-4096-10", "784-64-10", "64-32-10")
BATCHES = (32, 128, 1024, 8192)
SAMPLES = 60_000
ROUNDS, MORE = 7, 15  # the second where an epoch is short, and what else the machine does hits one of them
REST = 0.2  # seconds before a turn: the threads of the one before spin for some 30 ms until they sleep (OpenBLAS)
LARGEST_DIFFERENCE = {"sgd": 1e-3, "adam": 5e-3}  # of losses, relative: Adam divides by small gradients


# -- rounds -----------------------------------------------------------------------------------------------------------


def odd_ones(losses: dict[str, float], limit: float) -> list[str]:
    """Return those whose loss does not agree with more than half of all, itself included.

    Of two that differ nobody knows which is right, so neither is timed.

    Examples
    --------
    >>> odd_ones({"a": 1.0, "b": 1.0001, "c": 1.2}, 1e-3), odd_ones({"a": 1.0, "b": 2.0}, 1e-3)
    (['c'], ['a', 'b'])

    """

    def agree(a: float, b: float) -> bool:
        return abs(a - b) <= limit * min(abs(a), abs(b))

    return [name for name, a in losses.items() if 2 * sum(agree(a, b) for b in losses.values()) <= len(losses)]


def refuse(case: Case, runs: dict[str, dict[str, Any]]) -> None:
    """Strike out who has another loss after the first epoch."""
    known = competitors(case)
    first = {name: run["losses"][0] for name, run in runs.items() if run["losses"] and not known[name].exempt}
    first = {name: math.nan if loss is None else loss for name, loss in first.items()}
    for name in odd_ones(first, LARGEST_DIFFERENCE[case.optimizer]):
        said = ", ".join(f"{other} {loss:.6g}" for other, loss in first.items())
        runs[name]["why_not"] = f"refused: it computes something else; losses after one epoch: {said}"


def measure(case: Case, names: Sequence[str], rounds: int, epochs: int, folder: str) -> list[dict[str, Any]]:
    """Let the competitors take turns; return their runs, the first epoch apart."""
    processes = {name: Process(name, case, 1 + rounds * epochs, folder) for name in names}
    runs = {name: p.result for name, p in processes.items()}

    def turn(p: Process, word: str) -> None:
        if p.here:
            time.sleep(REST)
            p.tell(word)
            report = p.hear()
            if "seconds" in report:
                p.result["seconds"].append(report["seconds"])
                p.result["losses"].append(report["loss"])
            p.result |= {k: report[k] for k in ("prepare_seconds", "peak_mib") if k in report}

    load = os.getloadavg()[0]
    try:
        for p in processes.values():  # they start and import at the same time, ...
            p.result["versions"] = p.hear().get("versions", {})
        for p in processes.values():  # ... and prepare and compile one after the other
            turn(p, "prepare")
            turn(p, "go")
        refuse(case, runs)
        for k in range(rounds):
            order = list(processes.values())
            for p in order[k % len(order) :] + order[: k % len(order)]:
                for _ in range(epochs):
                    turn(p, "go")
        for p in processes.values():
            if p.here:
                p.result |= {k: v for k, v in p.hear().items() if k == "peak_mib"}
    finally:
        for p in processes.values():
            p.close()
    for run in runs.values():
        run["first_epoch_seconds"] = run["seconds"][0] if run["seconds"] else None
        times = run["seconds"][1:]
        run["seconds"] = [sum(times[k : k + epochs]) / epochs for k in range(0, len(times), epochs)]
    about = {**dataclasses.asdict(case), "name": str(case), "network": case.network, "steps": case.steps}
    return [{"case": about, "competitor": name, **run, "load_before": load} for name, run in runs.items()]


# -- what to measure --------------------------------------------------------------------------------------------------


def cases(args: argparse.Namespace) -> list[Case]:
    """Return the cases that were asked for."""
    where = {"device": args.device, "threads": args.threads}
    if args.growth:
        return [dataclasses.replace(case, **where) for case in growth(args.samples)]
    asked = args.case or [n for n in NETWORKS if not (args.check and "4096" in n)]
    found = []
    for network in asked:
        sizes = tuple(int(n) for n in network.split("-"))
        if sizes[-1] < 10:
            raise SystemExit(f"--case {network}: the samples have 10 classes")
        if sizes[0] == 64:  # the digits: whole fits of many members
            found += [Case(sizes, 32, "sgd", args.samples, members=m, **where) for m in (1, 8, 64)]
            continue
        alone = network == "784-64-10"  # the program that takes a step for every sample
        large = args.device == "cpu" and max(sizes) > 2048
        for batch in args.batch or ((1,) if alone else tuple(b for b in BATCHES if not (large and b > 1024))):
            samples = min(args.samples, 10_000) if alone else args.samples
            short = large and args.samples == SAMPLES  # unless somebody asks for more
            samples = min(samples, max(3 * batch, 1024)) if short else max(samples, batch)
            for optimizer in args.optimizer or (("sgd",) if alone else ("sgd", "adam")):
                found.append(Case(sizes, batch, optimizer, samples, **where))
    return found


def usual_rounds(case: Case) -> int:
    """Return how often to repeat a case: more often where an epoch takes some tenths of a second."""
    parameters = sum((a + 1) * b for a, b in itertools.pairwise(case.sizes))
    return MORE if case.samples * parameters < 10**10 else ROUNDS


def growth(samples: int) -> list[Case]:
    """Change one thing at a time, from a network of 784-128-10 at batch 128 and SGD."""
    samples = min(samples, 12_288)
    widths = [Case((784, n, 10), 128, "sgd", samples) for n in (16, 32, 64, 128, 256, 512, 1024, 2048)]
    depths = [Case((784, *[128] * n, 10), 128, "sgd", samples) for n in (1, 2, 4, 8, 16)]
    batches = [Case((784, 128, 10), n, "sgd", min(samples, 256 * n)) for n in (1, 4, 16, 32, 128, 512, 2048, 8192)]
    members = [Case((64, 32, 10), 32, "sgd", samples, members=n) for n in (1, 2, 4, 8, 16, 32, 64)]
    return list(dict.fromkeys(case for case in widths + depths + batches + members if case.samples >= case.batch))


def load(inputs: int, samples: int, folder: Path) -> tuple[str, int]:
    """Write the samples into a folder; return where they come from and how many there are."""
    import portnn

    if inputs == 64:
        (x, t, _, _), source = portnn.datasets.load_digits(), "the embedded digits"
    else:
        try:
            if inputs != 784:
                raise FileNotFoundError
            (x, t, _, _), source = portnn.datasets.load_mnist(download=False), "MNIST"
        except OSError:
            noise = np.random.default_rng(0)
            bright = noise.random((SAMPLES, inputs), dtype=np.float32)
            x = bright * (noise.random((SAMPLES, inputs), dtype=np.float32) < 0.19)
            t = (x @ noise.standard_normal((inputs, 10), dtype=np.float32)).argmax(axis=1)
            source = "synthetic samples in [0, 1], of which 19 % are not 0, as in MNIST"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", np.ascontiguousarray(x[:samples], dtype=np.float32))
    np.save(folder / "t.npy", t[:samples].astype(np.int64))
    return source, min(samples, len(t))


def measure_all(args: argparse.Namespace) -> dict[str, Any]:
    """Measure case after case and return everything that is known."""
    asked = cases(args)
    bound = bind(args.threads)
    names = sorted({name for case in asked for name in competitors(case)})
    if args.growth:  # the compiler would take longer than all of it
        names = [name for name in names if name not in ("torch-compile", "scikit-learn")]
    only = [f"portnn-{n}" if n not in names else n for n in args.only.split(",")] if args.only else names
    if unknown := set(only) - set(names):
        raise SystemExit(f"--only: no {', '.join(sorted(unknown))} here; there are {', '.join(names)}")
    runs, sources, rounds = [], {}, []
    with tempfile.TemporaryDirectory() as work:
        folders = {inputs: Path(work) / str(inputs) for inputs in {case.sizes[0] for case in asked}}
        available = {}
        for inputs, folder in folders.items():
            most = max(case.samples for case in asked if case.sizes[0] == inputs)
            sources[f"{inputs} inputs"], available[inputs] = load(inputs, most, folder)
        for case in asked:
            samples = min(case.samples, available[case.sizes[0]])
            case = dataclasses.replace(case, samples=samples, batch=min(case.batch, samples))
            taking_part = [name for name in competitors(case) if name in only]
            rounds.append(args.rounds or usual_rounds(case))
            found = measure(case, taking_part, rounds[-1], args.epochs, str(folders[case.sizes[0]]))
            runs += found
            print(speed_report.one_line(found), flush=True)
    return {
        "what": "growth" if args.growth else "speed",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(args.device),
        "device": args.device,
        "threads": {"each": args.threads, "bound_to_cores": bound, "not_pinned": UNPINNED},
        "data": sources,
        "rounds": min(rounds),
        "epochs_per_round": args.epochs,
        "versions": {k: v for run in runs for k, v in run.get("versions", {}).items()},
        "runs": [{k: v for k, v in run.items() if k != "versions"} for run in runs],
    }


def together(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the figures of several runs on one machine, with the same number of threads: each case by its last."""
    first, *others = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    cases: dict[str, list[Any]] = {}  # whole, since who took turns is compared with each other alone
    for results in (first, *others):
        if any(results[key] != first[key] for key in ("what", "machine", "device", "threads")):
            raise SystemExit(f"--read: not the same machine, device or threads: {', '.join(map(str, paths))}")
        own: dict[str, list[Any]] = {}
        for run in results["runs"]:
            own.setdefault(run["case"]["name"], []).append(run)
        cases |= own
        for key in ("versions", "data"):
            first[key] |= results[key]
        first["rounds"] = min(first["rounds"], results["rounds"])
    first["runs"] = [run for runs in cases.values() for run in runs]
    return first


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog=f"Competitors: {', '.join(speed_report.NAMES)}"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--case", nargs="+", metavar="SIZES", help=f"networks, such as {', '.join(NETWORKS)}")
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="batch sizes; default 32 128 1024 8192")
    parser.add_argument("--optimizer", nargs="+", choices=("sgd", "adam"))
    parser.add_argument("--only", metavar="A,B", help="competitors; numpy is portnn-numpy")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="per epoch; default %(default)s")
    usual = f"repetitions of everything; default {ROUNDS}, {MORE} where an epoch is short"
    parser.add_argument("--rounds", type=int, help=usual)
    parser.add_argument("--epochs", type=int, default=1, help="epochs per turn; default %(default)s")
    parser.add_argument("--threads", type=int, default=cores, help="of every competitor; default %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--growth", action="store_true", help="how cost grows with width, depth, batch and members")
    parser.add_argument("--check", action="store_true", help="compare with the bars")
    parser.add_argument("--brief", action="store_true", help="print the times per step alone, as the README has them")
    parser.add_argument("--strict", action="store_true", help="with --check: end with status 1 where one is missed")
    parser.add_argument("--read", type=Path, nargs="+", metavar="JSON", help="measure nothing; read files")
    parser.add_argument("--out", type=Path, help="folder; default benchmarks/results, or out/speed for a selection")
    args = parser.parse_args(words)
    args.given_out = args.out is not None
    if args.out is None:  # a selection does not overwrite the results of record
        selection = args.case or args.batch or args.optimizer or args.only or args.check or args.samples != SAMPLES
        args.out = HERE.parent / "out" / "speed" if selection else HERE / "results"
    return args


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = parse(words)
    results = together(args.read) if args.read else measure_all(args)
    print("\n" + (speed_report.brief if args.brief else speed_report.markdown)(results))
    if not args.read or args.given_out:
        for path in speed_report.write(results, args.out):
            print(path)
    if not args.check:
        return 0
    verdicts = speed_report.verdicts(results)
    print("\n" + speed_report.bars_table(verdicts))
    return int(args.strict and not all(verdict.held for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
