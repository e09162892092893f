"""Pictures of a training run: learning curves, confusion matrix, mistakes, first-layer weights.

Every function takes NumPy arrays and returns a ``matplotlib.figure.Figure`` that belongs to the caller alone:
``pyplot`` is never imported, so nothing needs a display and nothing stays open. Write it with
``figure.savefig(path)``; a notebook shows it. matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["confusion_matrix", "learning_curves", "misclassified", "save_all", "weight_images"]

# Okabe and Ito's blue and vermilion stay apart under the common color blindnesses, and in gray print too.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_INK, _MUTED, _HAIRLINE, _TINT = "#222222", "#666666", "#dcdcdc", "#e3eef5"
_STYLE = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _MUTED),
    **{"text.color": _INK, "axes.titlecolor": _MUTED, "grid.color": _HAIRLINE, "grid.linewidth": 0.6},
    **{"axes.spines.right": False, "axes.spines.top": False, "axes.titlelocation": "left"},
    **{"axes.titlesize": 9.5, "figure.titlesize": 13, "figure.titleweight": "bold", "figure.dpi": 150},
    **{"figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": 0.1},
}


@contextmanager
def _style(function: str) -> Iterator[None]:
    """Our look on top of matplotlib's defaults, whatever the caller's settings are; those are put back."""
    try:
        import matplotlib.style
    except ImportError as error:
        message = f'{function}: drawing needs matplotlib, which is missing: pip install "portnn[examples]"'
        raise ImportError(message) from error
    with matplotlib.style.context(["default", _STYLE]):
        yield


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.suptitle(title, x=0.1 / width, ha="left")
    return figure


@_style("learning_curves")
def learning_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss and accuracy after each epoch, training and validation, and mark the best validation epoch.

    ``history`` maps ``"loss"`` and, where there are any, ``"val_loss"``, ``"accuracy"``, ``"val_accuracy"``
    (fractions) and ``"epoch_seconds"`` to lists of one number per epoch. What is not finite leaves a gap. A
    loss that spans more than a factor of 20 gets a logarithmic axis; without any accuracy it stands alone.

    Examples
    --------
    >>> figure = learning_curves({"loss": [0.9, 0.4], "val_loss": [0.8, 0.5], "accuracy": [0.7, 0.9]})
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['loss  ○ best validation 0.5, epoch 2', 'accuracy']
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

    curves, n = {}, np.size(history.get("loss", []))
    for key in ("loss", "val_loss", "accuracy", "val_accuracy", "epoch_seconds"):
        y = np.asarray(history.get(key, []), dtype=np.float64)
        if (y.shape != (n,) or n == 0) and (y.size > 0 or key == "loss"):
            expected = f"({n or 'epochs'},): one number per epoch"
            raise ValueError(f'learning_curves: history["{key}"] has shape {y.shape}, expected {expected}')
        if np.isfinite(y).any():
            curves[key] = np.where(np.isfinite(y), y, np.nan)
    seconds = f" in {np.nansum(curves['epoch_seconds']):.3g} s" if "epoch_seconds" in curves else ""
    names = ["loss"] + ["accuracy"] * bool({"accuracy", "val_accuracy"} & curves.keys())
    figure = _figure(0.6 + 5.2 * len(names), 4.2, f"Learning curves, {n} epoch{'s' * (n > 1)}{seconds}")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        as_text = "{:.2%}".format if name == "accuracy" else "{:.3g}".format
        pad = 0.03 * (n - 1) or 0.5
        axes.set(title=name, xlabel="epoch", xlim=(max(0.5, 1 - pad), n + pad))
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        ends = []
        for label, key, color in (("training", name, _BLUE), ("validation", f"val_{name}", _VERMILION)):
            if key in curves:
                y = curves[key]
                axes.plot(range(1, n + 1), y, "o-", color=color, label=label, ms=4 if n <= 20 else 0)
                ends.append((y[np.isfinite(y)][-1], label, color))
        if f"val_{name}" in curves:
            best = int(np.nanargmin(y) if name == "loss" else np.nanargmax(y))
            axes.plot(best + 1, y[best], "o", ms=9, mfc="none", mec=_VERMILION, mew=1.5, label="best")
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


def _labels(function: str, rows: tuple[int, ...], **labels: ArrayLike) -> list[np.ndarray]:
    for name, t in labels.items():
        t = np.asarray(t)
        if t.shape != rows or t.ndim != 1 or t.size == 0:
            expected = f"({rows[0]},)" if any(rows) else "(batch,)"
            raise ValueError(f"{function}: {name} has shape {t.shape}, expected {expected}")
        if t.dtype.kind not in "iub" or t.min() < 0:
            wrong = "a negative label" if t.dtype.kind == "i" else f"dtype {t.dtype}"
            raise ValueError(f"{function}: {name} has {wrong}, expected integer labels that count from 0")
    return [np.asarray(t).astype(np.int64) for t in labels.values()]


@_style("confusion_matrix")
def confusion_matrix(
    t_true: ArrayLike,
    t_pred: ArrayLike,
    n_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw ``counts[i, j] = #{k : t_true[k] = i, t_pred[k] = j}`` and each recall.

    The labels are integers from 0, shape (batch,). Rows are true classes, as in scikit-learn; there are
    ``n_classes`` of them, by default as many as names or else the largest label + 1. Only mistakes are
    shaded, by their share of the true class: on a scale up to the diagonal all would look like zero.
    Numbers are written for up to 20 classes. A class without a row in ``t_true`` has no recall.

    Examples
    --------
    >>> confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], class_names=["cat", "dog"]).get_suptitle()
    'Confusion matrix: 3 of 4 correct (75.00%)'
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    t_true, t_pred = _labels("confusion_matrix", np.shape(t_true)[:1], t_true=t_true, t_pred=t_pred)
    largest = int(max(t_true.max(), t_pred.max()))
    names = [] if class_names is None else [str(name) for name in class_names]
    n = n_classes or len(names) or largest + 1
    names = names or [str(k) for k in range(n)]
    if largest >= n or len(names) != n:
        got = f"labels reach {largest} and class_names has {len(names)} names"
        raise ValueError(f"confusion_matrix: {got}, expected n_classes = {n} names and labels below {n}")
    counts = np.bincount(t_true * n + t_pred, minlength=n * n).reshape(n, n)
    totals, correct = counts.sum(axis=1), np.trace(counts)
    share = counts / np.maximum(totals, 1)[:, None]
    title = f"Confusion matrix: {correct:,} of {t_true.size:,} correct ({correct / t_true.size:.2%})"
    cell = min(max(0.62, 3.6 / n), 12 / n)
    figure = _figure(3.6 + cell * n, 1.5 + cell * n, title)
    matrix, recall = figure.subplots(1, 2, sharey=True, width_ratios=(cell * n, 1.5))

    mistakes = np.ma.masked_array(share, np.eye(n, dtype=bool))
    worst = max(float(mistakes.filled(0).max()), 0.04)
    colors = LinearSegmentedColormap.from_list("mistakes", ["white", _VERMILION]).with_extremes(bad=_TINT)
    matrix.imshow(mistakes, cmap=colors, norm=PowerNorm(0.6, 0, worst), aspect="auto")
    for i, j in np.argwhere(counts * (n <= 20)):
        matrix.text(j, i, counts[i, j], ha="center", va="bottom", weight="bold" if i == j else "normal")
        matrix.text(j, i + 0.06, f"{share[i, j]:.1%}", ha="center", va="top", size=7.5)
    for lines in (matrix.hlines, matrix.vlines):
        lines(np.arange(1, n) - 0.5, -0.5, n - 0.5, color=_HAIRLINE, lw=min(0.6, cell))
    # Above 40 classes the names would lie on one another; every k-th is enough to find a row.
    ticks, turned = range(0, n, math.ceil(n / 40)), max(map(len, names)) > 4
    shown = [names[k] for k in ticks]
    matrix.set_yticks(ticks, shown)
    matrix.set_xticks(ticks, shown)
    if turned:
        matrix.set_xticklabels(shown, rotation=40, ha="right", rotation_mode="anchor")
    what = "count and share" if n <= 20 else "share"
    matrix.set_title(f"{what} of the true class, shaded from 0 to {worst:.0%}")
    matrix.set(xlabel="predicted class", ylabel="true class")
    matrix.tick_params(length=0)
    matrix.spines[:].set(visible=True, color=_HAIRLINE)

    recalls, seen = np.diagonal(share)[totals > 0], np.flatnonzero(totals)
    low = max(0.0, math.floor(20 * float(recalls.min()) - 0.2) / 20)
    recall.plot(recalls, seen, "o", color=_BLUE, ms=5 if n <= 20 else 3, clip_on=False)
    recall.set(xlim=(low, 1), xticks=[low, 1], xticklabels=[f"{low:.0%}", "100%"], title="recall")
    recall.grid(axis="y")
    recall.tick_params(axis="y", length=0, labelleft=False)
    recall.spines["left"].set_visible(False)
    return figure


def _tiles(
    title: str, subtitle: str, rows: np.ndarray, shape: tuple[int, int], captions: list[str], **how: Any
) -> Figure:
    """Draw each row as an image of that shape, all in one Axes and on one scale."""
    from matplotlib.patches import Rectangle

    ratio, columns = shape[0] / shape[1], max(5, math.ceil(math.sqrt(len(rows))))
    inches = max(0.6, 6.6 / columns)
    across, down = 1.1, ratio + (0.22 / inches if any(captions) else 0.1)
    depth = math.ceil(len(rows) / columns) * down
    figure = _figure(columns * across * inches + (0.2 if any(captions) else 1), depth * inches + 0.8, title)
    axes = figure.subplots()
    for k, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top, left = (k // columns) * down, (k % columns) * across
        extent = (left, left + 1, top + ratio, top)
        axes.imshow(row.reshape(shape), extent=extent, interpolation="nearest", **how)
        axes.add_patch(Rectangle((left, top), 1, ratio, fill=False, ec=_HAIRLINE, lw=0.7))
        axes.text(left + 0.5, top + ratio + 0.03, caption, ha="center", va="top", size=8.5)
    axes.set(xlim=(-0.01, columns * across - 0.09), ylim=(depth, -0.01), title=subtitle)
    axes.axis("off")
    return figure


def _shape(function: str, n: int, shape: tuple[int, int] | None, at_most: int) -> tuple[int, int]:
    height, width = shape or (math.isqrt(n), math.isqrt(n))
    if height * width != n or height < 1 or at_most < 1:
        got = f"cannot draw {at_most} images of shape {(height, width)}"
        raise ValueError(f"{function}: {got}, expected at least 1 and height * width = {n} features")
    return height, width


@_style("misclassified")
def misclassified(
    x: ArrayLike,
    t_true: ArrayLike,
    t_pred: ArrayLike,
    probabilities: ArrayLike | None = None,
    shape: tuple[int, int] | None = None,
    max_images: int = 25,
) -> Figure:
    """Draw the images of a wrong predicted class, dark where ``x`` is large, most confident mistake first.

    ``x`` has shape (batch, n_features), the pixels row after row; the labels (batch,), integers from 0; the
    probabilities (batch, n_classes), fractions: without them the mistakes keep the order of ``x``. An image
    is square unless ``shape`` says (height, width).

    Examples
    --------
    >>> figure = misclassified([[0, 1, 1, 0], [1, 0, 0, 1]], [0, 1], [1, 1], [[0.2, 0.8], [0.1, 0.9]])
    >>> figure.get_suptitle(), figure.axes[0].texts[0].get_text()
    ('1 mistake in 2 images', '0 → 1 (80.00%)')
    """
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"misclassified: x has shape {x.shape}, expected (batch, n_features)")
    size = _shape("misclassified", x.shape[1], shape, max_images)
    t_true, t_pred = _labels("misclassified", x.shape[:1], t_true=t_true, t_pred=t_pred)
    wrong, subtitle = np.flatnonzero(t_true != t_pred), "true → predicted"
    captions = [f"{t_true[k]} → {t_pred[k]}" for k in wrong]
    if probabilities is not None:
        p = np.asarray(probabilities, dtype=np.float64)
        if p.ndim != 2 or len(p) != len(x) or p.shape[1] <= t_pred.max():
            expected = f"({len(x)}, n_classes), n_classes above the label {t_pred.max()}"
            raise ValueError(f"misclassified: probabilities has shape {p.shape}, expected {expected}")
        sure = p[wrong, t_pred[wrong]]
        order = np.argsort(-sure, kind="stable")
        wrong, captions = wrong[order], [f"{captions[k]} ({sure[k]:.2%})" for k in order]
        subtitle += " (probability of the predicted class), most confident first"
    if wrong.size == 0:
        figure = _figure(6.6, 1.2, f"No mistakes in {len(x):,} images")
        axes = figure.subplots()
        axes.set_title("every predicted class is the true class")
        axes.axis("off")
        return figure
    some = f"{max_images} of " if wrong.size > max_images else ""
    title = f"{some}{wrong.size:,} mistake{'s' * (wrong.size > 1)} in {len(x):,} images"
    ink = x[wrong[:max_images]].astype(np.float64)
    how = {"cmap": "gray_r", "vmin": ink.min(), "vmax": ink.max()}
    return _tiles(title, subtitle, ink, size, captions[:max_images], **how)


@_style("weight_images")
def weight_images(weight: ArrayLike, shape: tuple[int, int] | None = None, max_units: int = 64) -> Figure:
    """Draw what each unit of the first layer looks for: ``weight[:, k]`` as an image, white at zero.

    ``weight`` has shape (in_features, out_features), the transpose of torch's. An image is square unless
    ``shape`` says (height, width). One symmetric scale serves all; it ends at the 99.5th percentile, lest a
    single large weight fade the rest, and an arrow on the color bar says that there are larger ones.

    Examples
    --------
    >>> weight_images(np.eye(64)[:, :10]).get_suptitle()
    'First-layer weights of 10 units'
    """
    from matplotlib.colors import LinearSegmentedColormap

    weight = np.asarray(weight, dtype=np.float64)
    if weight.ndim != 2 or weight.shape[1] == 0:
        expected = "(in_features, out_features)"
        raise ValueError(f"weight_images: weight has shape {weight.shape}, expected {expected}")
    size, n = _shape("weight_images", weight.shape[0], shape, max_units), weight.shape[1]
    shown = weight.T[:max_units]
    sizes = np.nan_to_num(np.abs(shown), nan=0.0, posinf=0.0)
    limit = float(np.quantile(sizes, 0.995) or sizes.max() or 1.0)
    stops = ["#00405f", _BLUE, "white", _VERMILION, "#6b2f00"]
    # An odd number of colors has one in the middle: zero is white itself, not nearly so.
    colors = LinearSegmentedColormap.from_list("weights", stops, N=257).with_extremes(bad=_MUTED)
    title = f"First-layer weights of {f'{max_units} of ' * (n > max_units)}{n} unit{'s' * (n > 1)}"
    subtitle = "one image per unit: ink on vermilion raises the unit, ink on blue lowers it"
    figure = _tiles(title, subtitle, shown, size, [""] * len(shown), cmap=colors, vmin=-limit, vmax=limit)
    axes, extend = figure.axes[0], "both" if sizes.max() > limit else "neither"
    figure.colorbar(axes.images[0], label="weight", extend=extend, shrink=0.6, fraction=0.08, aspect=25)
    return figure


def save_all(
    folder: str | Path,
    *,
    history: Mapping[str, Sequence[float]],
    t_true: ArrayLike,
    t_pred: ArrayLike,
    x: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    weight: ArrayLike | None = None,
) -> list[Path]:
    """Write the pictures that what is given allows into a folder, as PNG files, and return their paths.

    ``learning_curves.png`` and ``confusion_matrix.png`` always; ``misclassified.png`` from ``x`` and
    ``first_layer_weights.png`` from ``weight`` if the features make a square of at least 8 x 8. The folder is
    made if need be, files of these names are replaced. If an argument is wrong, nothing is written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in save_all(folder, history={"loss": [0.7]}, t_true=[0, 1], t_pred=[0, 1])]
    ['learning_curves.png', 'confusion_matrix.png']
    """
    figures = {
        "learning_curves": learning_curves(history),
        "confusion_matrix": confusion_matrix(t_true, t_pred),
    }
    # Fewer pixels than 8 x 8 show nothing one could recognize; 4, 9 or 16 columns are likelier a table.
    squares = {(side * side,) for side in range(8, 4097)}
    if x is not None and np.shape(x)[-1:] in squares:
        figures["misclassified"] = misclassified(x, t_true, t_pred, probabilities)
    if weight is not None and np.shape(weight)[:1] in squares:
        figures["first_layer_weights"] = weight_images(weight)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(Path(folder, f"{name}.png"), dpi=150)
    return [Path(folder, f"{name}.png") for name in figures]
