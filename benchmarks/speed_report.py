"""What benchmarks/speed.py makes of raw times: medians, their ratios, bars, tables and pictures."""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Results = dict[str, Any]
Run = dict[str, Any]

# Microseconds per step of 784-64-10, batch 1, by the Rust program that the preset tiny-mnist succeeds. It was measured
# earlier, on a core of the same kind: not side by side, and not on every machine on which this file is run.
RUST_STEP = 39.0

NAMES = {
    "portnn-numpy": "portnn on NumPy",
    "portnn-cupy": "portnn on CuPy",
    "portnn-torch": "portnn on PyTorch",
    "portnn-jax": "portnn on JAX",
    "torch-eager": "PyTorch eager",
    "torch-compile": "PyTorch compiled",
    "torch-graph": "PyTorch, CUDA graph",
    "jax": "JAX jit + scan + optax",
    "scikit-learn": "scikit-learn",
    "matmul": "matrix products only",
    "torch-matmul": "matrix products only, by PyTorch",
    "torch-least": "samples gathered and matrix products, by PyTorch",
    "portnn-numpy-singles": "single fits on NumPy",
    "portnn-cupy-singles": "single fits on CuPy",
    "portnn-torch-singles": "single fits on PyTorch",
}
PAIRS = (
    *(("portnn-numpy", peer) for peer in ("torch-eager", "torch-compile", "jax", "scikit-learn", "matmul")),
    *(("portnn-cupy", peer) for peer in ("torch-eager", "torch-compile", "torch-graph", "jax", "matmul")),
    ("portnn-torch", "torch-eager"),
    ("torch-matmul", "torch-eager"),
    ("torch-least", "torch-eager"),
    ("portnn-torch", "torch-graph"),
    ("portnn-jax", "jax"),
    *((f"portnn-{library}", f"portnn-{library}-singles") for library in ("numpy", "cupy", "torch")),
)


class Ratio(NamedTuple):
    """A ratio of medians, and the quartiles of the ratios of the rounds: how far to believe it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return ``0.52 (0.50-0.55)``."""
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def spread(values: list[float]) -> tuple[float, float]:
    """Return the quartiles, inclusive of the ends; of one value, that value.

    Examples
    --------
    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0]), spread([3.0])
    ((2.0, 4.0), (3.0, 3.0))

    """
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Return the ratio of medians; entry k of both comes from round k.

    Examples
    --------
    >>> ratio([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
    Ratio(value=0.5, low=0.375, high=0.625)

    """
    rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(ours) / statistics.median(theirs), *spread(rounds))


def by_case(results: Results) -> dict[str, dict[str, Run]]:
    """Return the runs as ``{case: {competitor: run}}``."""
    found: dict[str, dict[str, Run]] = {}
    for run in results["runs"]:
        found.setdefault(run["case"]["name"], {})[run["competitor"]] = run
    return found


def measured(run: Run | None) -> bool:
    """Whether a run has times that count."""
    return run is not None and not run["why_not"] and bool(run["seconds"])


def duration(seconds: float) -> str:
    """Return a time with three digits and its unit.

    Examples
    --------
    >>> duration(12.34), duration(0.01234), duration(3.9e-05)
    ('12.3 s', '12.3 ms', '39 us')

    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def one_line(runs: list[Run]) -> str:
    """Say the medians of one case."""
    times = [
        f"{run['competitor']} {duration(statistics.median(run['seconds'])) if measured(run) else 'no'}" for run in runs
    ]
    return f"{runs[0]['case']['name']} ({runs[0]['case']['samples']} samples): {', '.join(times)}"


# -- bars -------------------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """What is promised: in every case that fits, the fastest of ``ours`` takes at most ``limit`` times ``theirs``."""

    fits: Callable[[dict[str, Any]], bool]
    ours: tuple[str, ...]
    theirs: str
    limit: float


class Verdict(NamedTuple):
    """A bar in one case; without a ratio ``why_not`` says what is missing.

    ``least`` is the ratio of what every training on our library consists of: fetching samples and making products.
    """

    case: str
    ours: str
    theirs: str
    limit: float
    ratio: Ratio | None
    why_not: str = ""
    least: Ratio | None = None

    @property
    def held(self) -> bool:
        """Whether the bar is known to be held."""
        return self.ratio is not None and self.ratio.value <= self.limit


def of(network: str, batches: tuple[int, ...], optimizers: tuple[str, ...] = ("sgd", "adam")) -> Any:
    """Return whether a case is of this network, one of these batch sizes and one of these optimizers."""
    return lambda c: c["network"] == network and c["batch"] in batches and c["optimizer"] in optimizers


def _both(case: dict[str, Any]) -> bool:
    return case["network"] in ("784-128-10", "784-512-512-10")


RUST = "39 us per step"
LEAST = {"portnn-torch": "torch-least"}
BARS = (
    Bar(of("784-128-10", (32, 128)), ("portnn-numpy",), "torch-eager", 0.65),
    Bar(of("784-128-10", (32, 128)), ("portnn-numpy",), "scikit-learn", 0.6),
    Bar(of("784-128-10", (32, 128), ("sgd",)), ("portnn-numpy",), "jax", 1.5),
    Bar(of("784-128-10", (32,), ("adam",)), ("portnn-numpy",), "jax", 2.2),
    Bar(of("784-128-10", (128,), ("adam",)), ("portnn-numpy",), "jax", 1.6),
    Bar(of("784-512-512-10", (128, 1024)), ("portnn-numpy",), "torch-eager", 1.0),
    Bar(of("784-128-10", (128,), ("sgd",)), ("portnn-numpy",), "matmul", 1.8),
    Bar(_both, ("portnn-jax",), "jax", 1.1),
    Bar(_both, ("portnn-torch",), "torch-eager", 0.8),
    Bar(of("784-64-10", (1,), ("sgd",)), ("portnn-numpy", "portnn-jax"), RUST, 1.0),
    Bar(lambda c: c["network"] == "64-32-10" and c["members"] == 64, ("portnn-numpy",), "portnn-numpy-singles", 0.25),
)


def verdicts(results: Results, bars: tuple[Bar, ...] = BARS) -> list[Verdict]:
    """Judge every bar in every case that fits, measured or not."""
    return list(_verdicts(results, bars))


def _verdicts(results: Results, bars: tuple[Bar, ...]) -> Iterator[Verdict]:
    if results["device"] != "cpu":
        return
    for bar in bars:
        for name, runs in by_case(results).items():
            case = next(iter(runs.values()))["case"]
            if not bar.fits(case):
                continue
            there = [ours for ours in bar.ours if measured(runs.get(ours))]
            if bar.theirs == RUST and there:
                theirs: list[float] | None = [RUST_STEP * 1e-6 * case["steps"]] * len(runs[there[0]]["seconds"])
            else:
                theirs = runs[bar.theirs]["seconds"] if measured(runs.get(bar.theirs)) else None
            if not there or theirs is None:
                missing = [n for n in (*bar.ours, bar.theirs) if n != RUST and not measured(runs.get(n))]
                why = "; ".join(f"{n}: {runs[n]['why_not'] if n in runs else 'not asked for'}" for n in missing)
                yield Verdict(name, " or ".join(bar.ours), bar.theirs, bar.limit, None, why)
                continue
            best = min(there, key=lambda ours: statistics.median(runs[ours]["seconds"]))
            least = runs.get(LEAST.get(best, ""))
            floor = ratio(least["seconds"], theirs) if least is not None and measured(least) else None
            yield Verdict(name, best, bar.theirs, bar.limit, ratio(runs[best]["seconds"], theirs), least=floor)


def bars_table(judged: list[Verdict]) -> str:
    """Return the verdicts as a Markdown table, and how many are held."""
    lines = ["| case | | beside | ratio (quartiles) | bar | |", "|---|---|---|---|---|---|"]
    for v in judged:
        said = "not measured" if v.ratio is None else "held" if v.held else "**missed**"
        said += f"; samples and products alone: {v.least}" if v.least and not v.held else ""
        lines.append(f"| {v.case} | {v.ours} | {v.theirs} | {v.ratio or v.why_not} | <= {v.limit:g} | {said} |")
    held, known = sum(v.held for v in judged), sum(v.ratio is not None for v in judged)
    return "\n".join([*lines, "", f"{held} of {known} bars held; {len(judged) - known} not measured."])


# -- tables -----------------------------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """Return what was measured, on what, and the tables of ratios and of times."""
    threads, cases = results["threads"], by_case(results)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    about = results["machine"]
    cores = "" if threads["bound_to_cores"] else ", which XLA may not heed: the processes could not be bound to cores"
    lines = [
        f"{results['date']}, {about.get('gpu') or about['processor']}, {about['cores']} cores, device "
        f"{results['device']}, {threads['each']} thread(s) each{cores}. {versions}, Python {about['python']}. "
        f"Data: {'; '.join(f'{k}: {v}' for k, v in results['data'].items())}. at least {results['rounds']} rounds.",
        "",
        "Ratios of medians, time of the first over time of the second; in brackets the quartiles over the rounds. "
        "Below 1 the first is faster.",
        "",
    ]
    lines += _ratio_table(cases) + [""]
    lines += ["Medians per epoch (with members: per whole fit); once: preparation, compilation and first epoch.", ""]
    lines += ["| case | samples | competitor | median | quartiles | per step | once | peak memory |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, runs in cases.items():
        for competitor, run in runs.items():
            case = run["case"]
            row = [name, str(case["samples"]), competitor, *_times(run)]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def brief(results: Results) -> str:
    """Return a table of the median time per step: a row per case of single networks, a column per competitor."""
    cases = {k: v for k, v in by_case(results).items() if not next(iter(v.values()))["case"]["members"]}
    names = [n for n in NAMES if any(measured(runs.get(n)) for runs in cases.values())]
    lines = ["| time per step | " + " | ".join(NAMES[n] for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    for case, runs in cases.items():
        steps = next(iter(runs.values()))["case"]["steps"]
        times = [statistics.median(runs[n]["seconds"]) / steps if measured(runs.get(n)) else None for n in names]
        lines.append(f"| {case} | " + " | ".join("" if t is None else duration(t) for t in times) + " |")
    return "\n".join(lines) + "\n"


def _times(run: Run) -> list[str]:
    if not measured(run):
        return [f"not measured: {run['why_not'] or 'no rounds'}", "", "", "", ""]
    middle, (low, high) = statistics.median(run["seconds"]), spread(run["seconds"])
    once = run["prepare_seconds"] + run["first_epoch_seconds"]
    per_step = "" if run["case"]["members"] else duration(middle / run["case"]["steps"])
    memory = f"{run['peak_mib']:.0f} MiB" if run.get("peak_mib") else ""
    return [duration(middle), f"{duration(low)} - {duration(high)}", per_step, duration(once), memory]


def _ratio_table(cases: dict[str, dict[str, Run]]) -> list[str]:
    """Return a table with a row per case and a column per pair; a pair that was measured nowhere is left out."""
    tables: list[str] = []
    for members in (False, True):
        chosen = {
            name: runs for name, runs in cases.items() if bool(next(iter(runs.values()))["case"]["members"]) is members
        }
        pairs = [p for p in PAIRS if any(all(measured(runs.get(name)) for name in p) for runs in chosen.values())]
        if not pairs:
            continue
        tables += ["", f"| case | {' | '.join(f'{a} / {b}' for a, b in pairs)} |", "|---" * (1 + len(pairs)) + "|"]
        for name, runs in chosen.items():
            cells = [
                str(ratio(runs[a]["seconds"], runs[b]["seconds"]))
                if measured(runs.get(a)) and measured(runs.get(b))
                else "-"
                for a, b in pairs
            ]
            tables.append(f"| {name} | {' | '.join(cells)} |")
    absent = {f"{run['competitor']}: {run['why_not']}" for runs in cases.values() for run in runs.values()}
    return tables[1:] + [f"\nNot measured: {why}." for why in sorted(absent) if not why.endswith(": ")]


def write(results: Results, folder: Path) -> list[Path]:
    """Write raw times, tables and picture; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{results['what']}-{results['device']}"
    raw, table = folder / f"{stem}.json", folder / f"{stem}.md"
    raw.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    title = {"speed": "Speed", "growth": "Growth of cost"}[results["what"]]
    table.write_text(f"# {title}, device {results['device']}\n\n{markdown(results)}", encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
        return [raw, table]
    import speed_plots

    picture = folder / f"{stem}.png"
    draw = speed_plots.growth if results["what"] == "growth" else speed_plots.speed
    draw(results).savefig(picture, dpi=150)
    return [raw, table, picture]
