"""The pictures of benchmarks/speed.py: time per sample beside batch size, and growth with one thing at a time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator
from speed_report import NAMES, Results, Run, measured, spread

_INK, _MUTED, _HAIRLINE, _GRAY = "#222222", "#666666", "#dcdcdc", "#8a8a8a"
_STYLE = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _MUTED),
    **{"text.color": _INK, "axes.titlecolor": _INK, "grid.color": _HAIRLINE, "grid.linewidth": 0.6},
    **{"axes.spines.right": False, "axes.spines.top": False, "axes.titlelocation": "left"},
    **{"axes.titlesize": 10.5, "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9},
}
# Okabe and Ito's colors, one per library: portnn on it is drawn solid with filled marks, its own way dashed and hollow.
_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
_LOOK = {
    "portnn-numpy": (_BLUE, "o", True),
    "portnn-cupy": (_BLUE, "o", True),
    "portnn-torch": (_VERMILION, "s", True),
    "portnn-jax": (_GREEN, "D", True),
    "torch-eager": (_VERMILION, "s", False),
    "torch-compile": (_ORANGE, "^", False),
    "torch-graph": (_PURPLE, "v", False),
    "jax": (_GREEN, "D", False),
    "scikit-learn": (_PURPLE, "v", False),
    "matmul": (_GRAY, "", False),
    "torch-matmul": (_GRAY, "x", False),
    "torch-least": (_GRAY, "+", False),
    "portnn-numpy-singles": (_BLUE, "o", False),
    "portnn-cupy-singles": (_BLUE, "o", False),
    "portnn-torch-singles": (_VERMILION, "s", False),
}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.style.context(["default", _STYLE]):
        yield


def _draw(axes: Any, name: str, points: list[tuple[float, list[float]]]) -> None:
    """Draw medians over x with the quartiles as bars."""
    color, mark, ours = _LOOK[name]
    points = sorted(points)
    x, middle = [p[0] for p in points], [statistics.median(p[1]) for p in points]
    ends = [spread(p[1]) for p in points]
    error = [[m - low for m, (low, _) in zip(middle, ends, strict=True)]]
    error += [[high - m for m, (_, high) in zip(middle, ends, strict=True)]]
    style = {"color": color, "marker": mark or None, "ms": 5, "lw": 2.0 if ours else 1.3, "zorder": 3 if ours else 2}
    style |= {"ls": "-" if ours else "--", "mfc": color if ours else "white", "label": NAMES[name]}
    if name == "matmul":  # the floor, under which nobody gets
        style |= {"ls": ":", "lw": 1.5}
        axes.fill_between(x, middle, 1e-12, color="#f4f4f4", lw=0, zorder=0)
    axes.errorbar(x, middle, yerr=error, elinewidth=1.0, capsize=0, **style)


def _log_axes(axes: Any, x: list[float], low: float, high: float) -> None:
    axes.set(xscale="log", yscale="log", ylim=(low / 1.35, high * 1.35))
    if len(x) > 1:
        axes.set_xlim(min(x) / 1.3, max(x) * 1.3)
    axes.xaxis.set_major_locator(FixedLocator(x))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,), numticks=20))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")


def _per_sample(run: Run) -> list[float]:
    return [1e6 * s / run["case"]["samples"] for s in run["seconds"]]


def _finish(figure: Figure, title: str, results: Results, grid: list[Any], top: float) -> Figure:
    """Put title, subtitle and one legend for all above the panels."""
    width, height = figure.get_size_inches()
    about, threads = results["machine"], results["threads"]["each"]
    where = about.get("gpu") or about["processor"]
    figure.text(0.12 / width, 1 - 0.3 / height, title, size=14, weight="bold", va="center")
    said = f"{where}, {threads} thread{'s' * (threads > 1)} each, {results['date'][:10]}; medians of "
    said += f"at least {results['rounds']} interleaved rounds, quartiles; logarithmic scales; lower is faster"
    figure.text(0.12 / width, 1 - 0.58 / height, said, size=9, color=_MUTED, va="center")
    shown = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = [label for label in NAMES.values() if label in shown]
    where = {"loc": "upper left", "bbox_to_anchor": (0.06 / width, 1 - 0.7 / height), "frameon": False}
    rows = -(-len(labels) // int(width / 1.9)) or 1
    columns = max(1, -(-len(labels) // rows))
    figure.legend([shown[k] for k in labels], labels, ncols=columns, fontsize=9, handlelength=2.6, **where)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (top + 0.22 * rows) / height), w_pad=0.12, h_pad=0.1)
    return figure


def speed(results: Results) -> Figure:
    """Draw time per sample beside batch size: a column per network, a row per optimizer."""
    runs = [run for run in results["runs"] if measured(run) and not run["case"]["members"]]
    single = [run for run in runs if run["case"]["batch"] == 1]  # nothing to draw a line through
    runs = [run for run in runs if run not in single] or runs
    networks = list(dict.fromkeys(run["case"]["network"] for run in runs))
    optimizers = list(dict.fromkeys(run["case"]["optimizer"] for run in runs))
    rows, columns = max(1, len(optimizers)), max(1, len(networks))
    with _style():
        figure = Figure(figsize=(max(8.6, 0.4 + 3.7 * columns), 1.2 + 3.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for j, network in enumerate(networks):
            here = [run for run in runs if run["case"]["network"] == network]
            all_times = [t for run in here for t in _per_sample(run)]
            batches = sorted({run["case"]["batch"] for run in here})
            for i, optimizer in enumerate(optimizers):
                axes = grid[i, j]
                for name in dict.fromkeys(run["competitor"] for run in here):
                    chosen = [r for r in here if (r["competitor"], r["case"]["optimizer"]) == (name, optimizer)]
                    if chosen:
                        _draw(axes, name, [(r["case"]["batch"], _per_sample(r)) for r in chosen])
                _log_axes(axes, batches, min(all_times), max(all_times))
                axes.set_title(f"{network}, {optimizer.upper() if optimizer == 'sgd' else 'Adam'}")
                if i == rows - 1:
                    axes.set_xlabel("batch size")
                if j == 0:
                    axes.set_ylabel("µs per sample")
        return _finish(figure, "Time per training sample", results, list(grid.flat), 0.75)


def growth(results: Results) -> Figure:
    """Draw cost beside width, depth, batch and members, one panel each."""
    runs = [run for run in results["runs"] if measured(run)]

    def hidden(run: Run) -> list[int]:
        return run["case"]["sizes"][1:-1]

    plain = [run for run in runs if not run["case"]["members"]]
    panels = [
        ("hidden width", "784-n-10, batch 128", lambda r: hidden(r)[0], lambda r: len(hidden(r)) == 1 and _at(r, 128)),
        (
            "hidden layers",
            "784-128-…-128-10, batch 128",
            lambda r: len(hidden(r)),
            lambda r: set(hidden(r)) == {128} and _at(r, 128),
        ),
        ("batch size", "784-128-10", lambda r: r["case"]["batch"], lambda r: list(hidden(r)) == [128]),
    ]
    with _style():
        figure = Figure(figsize=(10.5, 7.6), layout="constrained")
        grid = figure.subplots(2, 2)
        for axes, (label, title, x_of, fits) in zip(grid.flat, panels, strict=False):
            chosen = [run for run in plain if fits(run)]
            _panel(axes, chosen, x_of, _per_sample)
            axes.set(title=title, xlabel=label, ylabel="µs per sample")
        axes = grid[1, 1]
        _panel(axes, [r for r in runs if r["case"]["members"]], lambda r: r["case"]["members"], _seconds)
        axes.set(title="64-32-10, batch 32, the embedded digits", xlabel="members", ylabel="s for all fits")
        return _finish(figure, "Growth of cost, SGD", results, list(grid.flat), 0.75)


def _at(run: Run, batch: int) -> bool:
    return run["case"]["batch"] == batch


def _seconds(run: Run) -> list[float]:
    return run["seconds"]


def _panel(axes: Any, runs: list[Run], x_of: Any, y_of: Any) -> None:
    for name in dict.fromkeys(run["competitor"] for run in runs):
        _draw(axes, name, [(x_of(run), y_of(run)) for run in runs if run["competitor"] == name])
    if runs:
        times = [t for run in runs for t in y_of(run)]
        _log_axes(axes, sorted({x_of(run) for run in runs}), min(times), max(times))
