"""What a classifier takes for what: confusion, calibration, regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from portnn.plots.style import (
    BLUE,
    HAIRLINE,
    INK,
    MUTED,
    PALETTE,
    TINT,
    VERMILION,
    check_labels,
    new_figure,
    plain,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@style("confusion_matrix")
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

    The counts are those of ``sklearn.metrics.confusion_matrix``. ``ConfusionMatrixDisplay.from_predictions`` draws the
    same ones on one scale up to the diagonal, without the recalls; this picture needs no scikit-learn.

    Examples
    --------
    >>> confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], class_names=["cat", "dog"]).get_suptitle()
    'Confusion matrix: 3 of 4 correct (75.00%)'
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    t_true, t_pred = check_labels("confusion_matrix", np.shape(t_true)[:1], t_true=t_true, t_pred=t_pred)
    largest = int(max(t_true.max(), t_pred.max()))
    names = [] if class_names is None else [plain(name) for name in class_names]
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
    figure = new_figure(3.6 + cell * n, 1.5 + cell * n, title)
    matrix, recall = figure.subplots(1, 2, sharey=True, width_ratios=(cell * n, 1.5))

    mistakes = np.ma.masked_array(share, np.eye(n, dtype=bool))
    worst = max(float(mistakes.filled(0).max()), 0.04)
    colors = LinearSegmentedColormap.from_list("mistakes", ["white", VERMILION]).with_extremes(bad=TINT)
    matrix.imshow(mistakes, cmap=colors, norm=PowerNorm(0.6, 0, worst), aspect="auto")
    for i, j in np.argwhere(counts * (n <= 20)):
        matrix.text(j, i, counts[i, j], ha="center", va="bottom", weight="bold" if i == j else "normal")
        matrix.text(j, i + 0.06, f"{share[i, j]:.1%}", ha="center", va="top", size=7.5)
    for lines in (matrix.hlines, matrix.vlines):
        lines(np.arange(1, n) - 0.5, -0.5, n - 0.5, color=HAIRLINE, lw=min(0.6, cell))
    # Above 40 classes the names would lie on one another; every k-th is enough to find a row.
    every = math.ceil(n / 40)
    ticks, turned = range(0, n, every), 0.09 * max(map(len, names)) > 0.9 * cell * every  # inches, a letter has 0.09
    shown = [names[k] for k in ticks]
    matrix.set_yticks(ticks, shown)
    matrix.set_xticks(ticks, shown)
    if turned:
        matrix.set_xticklabels(shown, rotation=40, ha="right", rotation_mode="anchor")
    what = "count and share" if n <= 20 else "share"
    matrix.set_title(f"{what} of the true class, shaded from 0 to {worst:.0%}")
    matrix.set(xlabel="predicted class", ylabel="true class")
    matrix.tick_params(length=0)
    matrix.spines[:].set(visible=True, color=HAIRLINE)

    recalls, seen = np.diagonal(share)[totals > 0], np.flatnonzero(totals)
    low = max(0.0, math.floor(20 * float(recalls.min()) - 0.2) / 20)
    recall.plot(recalls, seen, "o", color=BLUE, ms=5 if n <= 20 else 3, clip_on=False)
    recall.set(xlim=(low, 1), xticks=[low, 1], xticklabels=[f"{low:.0%}", "100%"], title="recall")
    recall.grid(axis="y")
    recall.tick_params(axis="y", length=0, labelleft=False)
    recall.spines["left"].set_visible(False)
    return figure


def class_report(t_true: ArrayLike, t_pred: ArrayLike, class_names: Sequence[str] | None = None) -> str:
    """Return precision, recall, F1 and number of samples of each class, and their means, as a table of text.

    precision = right / predicted as it, recall = right / of it, F1 = 2 precision recall / (precision + recall); 0 where
    a class was never predicted. The labels are integers from 0, shape (batch,). It is scikit-learn's
    ``classification_report``; ImportError where that is missing.

    Examples
    --------
    >>> print(class_report([0, 0, 1, 1], [0, 1, 1, 1], ["cat", "dog"]).splitlines()[2])
             cat      1.000     0.500     0.667         2

    """
    try:
        from sklearn.metrics import classification_report
    except ImportError as error:
        message = "class_report: scikit-learn is missing: python -m pip install scikit-learn"
        raise ImportError(message) from error
    t_true, t_pred = check_labels("class_report", np.shape(t_true)[:1], t_true=t_true, t_pred=t_pred)
    n = int(max(t_true.max(), t_pred.max())) + 1
    names = [str(name) for name in class_names] if class_names is not None else [str(k) for k in range(n)]
    if len(names) < n:
        raise ValueError(f"class_report: labels reach {n - 1}, expected {n} class_names, got {len(names)}")
    labels = range(len(names))
    return str(classification_report(t_true, t_pred, labels=labels, target_names=names, digits=3, zero_division=0))


_SLACK = 0.01  # of the sum of a row of probabilities, which may have been rounded to two or three digits


@style("calibration")
def calibration(t_true: ArrayLike, probabilities: ArrayLike, n_bins: int = 10) -> Figure:
    """Draw how often a prediction is right over how sure it was: points on the diagonal are well calibrated.

    The predictions are sorted into ``n_bins`` bins of equal width by their confidence. Each point is a bin: its mean
    confidence and the share that was right, with Wilson's 95 % interval; below is the number of predictions per bin.
    The expected calibration error is sum_b n_b / n |confidence_b - share_b|.

    Parameters
    ----------
    t_true
        Labels ``(batch,)``, integers from 0.
    probabilities
        ``(batch, n_classes)``, fractions: the confidence is the largest of a row, right where that is the true class.
        Or ``(batch,)``, the probability of class 1: it is itself the confidence, right where the label is 1.
    n_bins
        At least 1.

    Notes
    -----
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Examples
    --------
    >>> calibration([0, 1, 1, 0], [[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.25, 0.75]]).get_suptitle()
    'Calibration: expected calibration error 0.00%'

    """
    from matplotlib.ticker import PercentFormatter

    p = np.asarray(probabilities, dtype=np.float64)
    (labels,) = check_labels("calibration", p.shape[:1], t_true=t_true)
    if p.ndim not in (1, 2) or (p.ndim == 2 and p.shape[1] <= labels.max()) or (p.ndim == 1 and labels.max() > 1):
        expected = f"({len(labels)}, n_classes), n_classes above the label {labels.max()}, or for two classes (batch,)"
        raise ValueError(f"calibration: probabilities has shape {p.shape}, expected {expected}")
    if not ((p >= 0.0) & (p <= 1.0 + 1e-6)).all():
        message = "calibration: probabilities must be fractions in [0, 1]; take the softmax of logits first"
        raise ValueError(message)
    off = np.abs(p.sum(axis=1) - 1.0) if p.ndim == 2 else np.zeros(1)
    if off.max() > _SLACK:
        row = int(off.argmax())
        raise ValueError(
            f"calibration: row {row} of probabilities adds up to {p[row].sum():.6g}, expected 1; divide each row by "
            "its sum, or take the softmax of logits"
        )
    if n_bins < 1:
        raise ValueError(f"calibration: n_bins must be at least 1, got {n_bins}")
    sure, right = (p, labels == 1) if p.ndim == 1 else (p.max(axis=1), p.argmax(axis=1) == labels)
    bins = np.minimum((sure * n_bins).astype(int), n_bins - 1)
    counts, used = np.bincount(bins, minlength=n_bins), np.unique(bins)
    n = counts[used]
    mean = np.bincount(bins, sure, n_bins)[used] / n
    share = np.bincount(bins, right, n_bins)[used] / n
    error = float((n * np.abs(mean - share)).sum() / n.sum())

    figure = new_figure(5.2, 5.6, f"Calibration: expected calibration error {error:.2%}")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], "--", color=MUTED, lw=1, label="ideal")
    z = 1.96
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    axes.vlines(mean, low, high, color=BLUE, lw=1.2, alpha=0.7)
    axes.plot(mean, share, "o-", color=BLUE, ms=5, lw=1, label="bins", clip_on=False)
    what = ("share of class 1", "probability of class 1") if p.ndim == 1 else ("share that is right", "confidence")
    axes.set(xlim=(0, 1), ylim=(0, 1), title=f"{what[0]}, with 95 % intervals; dashed: as it should be")
    axes.grid()
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.bar((np.arange(n_bins) + 0.5) / n_bins, counts, 0.9 / n_bins, color=BLUE, alpha=0.7)
    below.set(
        xlabel=what[1] if p.ndim == 1 else "confidence: the probability of the predicted class", title="predictions"
    )
    below.xaxis.set_major_formatter(PercentFormatter(1.0))
    below.grid(axis="y")
    return figure


@style("decision_boundary")
def decision_boundary(
    predict: Callable[[np.ndarray], Any],
    x: ArrayLike,
    t: ArrayLike,
    class_names: Sequence[str] | None = None,
    axis_names: Sequence[str] = ("feature 0", "feature 1"),
    resolution: int = 300,
) -> Figure:
    """Draw which class a network of two features gives to each point of the plane, and the samples, mistakes in rings.

    Parameters
    ----------
    predict
        A function from points ``(n, 2)``, float64, to logits or probabilities ``(n, n_classes)``, the largest of which
        is the class; or ``(n,)`` or ``(n, 1)`` logits of class 1, which it is above 0; a column of probabilities is
        refused. For a network of any library: ``lambda x: portnn.predict(model, x)``.
    x, t
        Samples ``(batch, 2)`` and labels ``(batch,)``, integers from 0.
    class_names, axis_names
        One name per class, up to 8; the names of the two features.
    resolution
        The plane is a grid of so many points in each direction.

    Examples
    --------
    >>> figure = decision_boundary(lambda x: x[:, :1], [[-1.0, 0.0], [2.0, 1.0], [3.0, 0.0]], [0, 1, 0])
    >>> figure.get_suptitle()
    'Decision boundary: 2 of 3 correct (66.67%)'

    """
    from matplotlib.colors import ListedColormap, to_rgb

    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != 2 or not np.isfinite(x).all():
        raise ValueError(f"decision_boundary: x has shape {x.shape}, expected (batch, 2), all finite")
    (labels,) = check_labels("decision_boundary", x.shape[:1], t=t)
    if resolution < 2:
        raise ValueError(f"decision_boundary: resolution must be at least 2, got {resolution}")
    low, high = x.min(axis=0), x.max(axis=0)
    pad = 0.08 * np.where(high > low, high - low, 1.0)
    across, up = (np.linspace(a, b, resolution) for a, b in zip(low - pad, high + pad, strict=True))
    plane = np.stack([a.ravel() for a in np.meshgrid(across, up)], axis=1)
    (here, n), (there, _) = _classes(predict, x), _classes(predict, plane, everywhere=True)
    n = len(class_names) if class_names is not None else max(n, int(labels.max()) + 1)
    if max(here.max(), there.max(), labels.max()) >= n or n > len(PALETTE):
        got = f"labels reach {labels.max()}, predictions {max(here.max(), there.max())}"
        raise ValueError(f"decision_boundary: {got}, expected them below {n}, and at most {len(PALETTE)} classes")
    names = [plain(name) for name in class_names] if class_names is not None else [f"class {k}" for k in range(n)]

    correct = int((here == labels).sum())
    figure = new_figure(6.6, 4.8, f"Decision boundary: {correct:,} of {len(x):,} correct ({correct / len(x):.2%})")
    axes = figure.subplots()
    tints = ListedColormap([tuple(1.0 - 0.25 * (1.0 - c) for c in to_rgb(color)) for color in PALETTE[:n]])
    regions = there.reshape(resolution, resolution)
    axes.pcolormesh(across, up, regions, cmap=tints, vmin=-0.5, vmax=n - 0.5, shading="nearest", rasterized=True)
    for k in range(n):  # between classes, not between their numbers
        if (regions == k).any() and (regions != k).any():
            axes.contour(across, up, regions == k, levels=[0.5], colors=[INK], linewidths=0.8)
    drawn = []
    for k, marker in zip(range(n), "os^Dv<>P", strict=False):
        mine = labels == k
        how: dict[str, Any] = {"marker": marker, "color": PALETTE[k], "edgecolor": "white", "label": names[k]}
        drawn.append(axes.scatter(x[mine, 0], x[mine, 1], s=24, lw=0.6, **how))
    wrong = here != labels
    if wrong.any():
        drawn.append(axes.scatter(x[wrong, 0], x[wrong, 1], s=110, fc="none", ec=INK, lw=1.4, label="mistake"))
        names.append("mistake")
    across_name, up_name = map(plain, axis_names)
    axes.set(xlabel=across_name, ylabel=up_name, xlim=across[[0, -1]], ylim=up[[0, -1]])
    # Afterwards, since a legend leaves out names that begin with an underscore.
    legend = axes.legend(
        drawn,
        [str(k) for k in range(len(drawn))],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        borderaxespad=0.0,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return figure


def _classes(
    predict: Callable[[np.ndarray], Any], points: np.ndarray, *, everywhere: bool = False
) -> tuple[np.ndarray, int]:
    """Return the class of each point, and how many there are; probabilities taken for logits show on many points."""
    y = np.asarray(predict(points))
    if y.ndim == 0 or len(y) != len(points) or y.ndim > 2 or not np.isfinite(y).all():
        got = f"shape {y.shape} for {len(points)} points" if y.ndim not in (1, 2) or len(y) != len(points) else "a NaN"
        raise ValueError(f"decision_boundary: predict gave {got}, expected finite (n, n_classes), (n, 1) or (n,)")
    if y.ndim == 1 and y.dtype.kind not in "fc":
        message = "decision_boundary: predict gave labels, expected logits or probabilities; use predict_proba"
        raise ValueError(message)
    if y.ndim == 1 or y.shape[1] == 1:
        fractions = ((y >= 0.0) & (y <= 1.0)).all()
        if everywhere and fractions and ((y > 0.0) & (y < 0.5)).any():  # as probabilities they would be class 0
            message = (
                "decision_boundary: predict gave one number in [0, 1] for each point, which looks like the probability "
                "of class 1, expected logits; give all of predict_proba, both its columns, or logits"
            )
            raise ValueError(message)
        return (y.reshape(-1) > 0.0).astype(np.int64), 2
    return y.argmax(axis=1), y.shape[1]
