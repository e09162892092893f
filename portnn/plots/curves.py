"""Curves over the epochs of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from portnn.errors import shown
from portnn.plots.style import BLUE, VERMILION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@style("learning_curves")
def learning_curves(history: Mapping[str, Sequence[Any]]) -> Figure:
    """Draw loss and accuracy after each epoch, training and validation, and mark the best validation epoch.

    ``history`` maps ``"loss"`` and, where there are any, ``"val_loss"``, ``"accuracy"``, ``"val_accuracy"``
    (fractions) and ``"epoch_seconds"`` to lists of one number per epoch. What is not finite leaves a gap. A
    loss that spans more than a factor of 20 gets a logarithmic axis; without any accuracy it stands alone.

    With members an entry is a list of one number each. The line is then their mean, the band goes from the lowest to
    the highest, and the best epoch is that of the mean. A member that is not finite is left out of its epoch.

    Examples
    --------
    >>> figure = learning_curves({"loss": [0.9, 0.4], "val_loss": [0.8, 0.5], "accuracy": [0.7, 0.9]})
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['loss  ○ best validation 0.5, epoch 2', 'accuracy']
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

    if not hasattr(history, "get"):  # a table of pandas has it too
        raise ValueError(f"learning_curves: history is {shown(history)}, expected what fit returns")
    curves, bands, members = {}, {}, 1
    n = len(history.get("loss", []))
    for key in ("loss", "val_loss", "accuracy", "val_accuracy", "epoch_seconds"):
        y = np.asarray(history.get(key, []), dtype=np.float64)
        if (y.ndim not in (1, 2) or len(y) != n or n == 0) and (y.size > 0 or key == "loss"):
            expected = f"({n or 'epochs'},): one number per epoch, or with members ({n or 'epochs'}, members)"
            raise ValueError(f'learning_curves: history["{key}"] has shape {y.shape}, expected {expected}')
        if np.isfinite(y).any():
            each = np.ma.masked_invalid(y.reshape(n, -1))
            curves[key] = each.mean(axis=1).filled(np.nan)
            if y.ndim == 2:
                members = y.shape[1]
                bands[key] = each.min(axis=1).filled(np.nan), each.max(axis=1).filled(np.nan)
    seconds = f" in {np.nansum(curves['epoch_seconds']):.3g} s" if "epoch_seconds" in curves else ""
    of_members = f"; mean and range of {members} members" if members > 1 else ""
    names = ["loss"] + ["accuracy"] * bool({"accuracy", "val_accuracy"} & curves.keys())
    figure = new_figure(0.6 + 5.2 * len(names), 4.2, f"Learning curves, {n} epoch{'s' * (n > 1)}{seconds}{of_members}")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        as_text = "{:.2%}".format if name == "accuracy" else "{:.3g}".format
        pad = 0.03 * (n - 1) or 0.5
        axes.set(title=name, xlabel="epoch", xlim=(max(0.5, 1 - pad), n + pad))
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        ends = []
        for label, key, color in (("training", name, BLUE), ("validation", f"val_{name}", VERMILION)):
            if key in curves:
                y = curves[key]
                axes.plot(range(1, n + 1), y, "o-", color=color, label=label, ms=4 if n <= 20 else 0)
                if key in bands:
                    axes.fill_between(range(1, n + 1), *bands[key], color=color, alpha=0.2, lw=0, label=f"{label} band")
                ends.append((y[np.isfinite(y)][-1], label, color))
        if f"val_{name}" in curves:
            best = int(np.nanargmin(y) if name == "loss" else np.nanargmax(y))
            axes.plot(best + 1, y[best], "o", ms=9, mfc="none", mec=VERMILION, mew=1.5, label="best")
            axes.set_title(f"{name}  ○ best validation {as_text(y[best])}, epoch {best + 1}")
        # Labels at the line ends spare the reader a legend; of two, the lower hangs and the upper stands.
        sides = ("top", "bottom") if len(ends) == 2 else ("center",)
        for side, (end, label, color) in zip(sides, sorted(ends), strict=False):
            where = {"transform": axes.get_yaxis_transform(), "va": side}
            axes.text(1.02, end, f"{label} {as_text(end)}", color=color, size=9.5, **where)
        low, high = axes.dataLim.intervaly
        if name == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif 0 < 20 * low < high:
            axes.set(yscale="log", ylabel="logarithmic scale")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
    return figure
