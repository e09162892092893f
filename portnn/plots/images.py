"""Rows of pixels as images: mistakes, and what the units of the first layer look for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from portnn.checks import check_count
from portnn.errors import shown
from portnn.plots.style import BLUE, HAIRLINE, MUTED, VERMILION, check_labels, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _tiles(
    title: str, subtitle: str, rows: np.ndarray, shape: tuple[int, int], captions: list[str], **how: Any
) -> Figure:
    """Draw each row as an image of that shape, all in one Axes and on one scale."""
    from matplotlib.patches import Rectangle

    ratio, columns = shape[0] / shape[1], max(5, math.ceil(math.sqrt(len(rows))))
    inches = max(0.6, 6.6 / columns)
    across, down = 1.1, ratio + (0.22 / inches if any(captions) else 0.1)
    depth = math.ceil(len(rows) / columns) * down
    figure = new_figure(columns * across * inches + (0.2 if any(captions) else 1.6), depth * inches + 0.8, title)
    axes = figure.subplots()
    for k, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top, left = (k // columns) * down, (k % columns) * across
        extent = (left, left + 1, top + ratio, top)
        axes.imshow(row.reshape(shape), extent=extent, interpolation="nearest", **how)
        axes.add_patch(Rectangle((left, top), 1, ratio, fill=False, ec=HAIRLINE, lw=0.7))
        axes.text(left + 0.5, top + ratio + 0.03, caption, ha="center", va="top", size=8.5)
    axes.set(xlim=(-0.01, columns * across - 0.09), ylim=(depth, -0.01), title=subtitle)
    axes.axis("off")
    if any(captions):  # the images end where the width does: no empty strip below
        figure.draw_without_rendering()
        if (box := axes.get_tightbbox()) is not None:
            figure.set_figheight(figure.get_figheight() + 0.1 - box.y0 / figure.dpi)
    return figure


def _shape(function: str, n: int, shape: tuple[int, int] | None) -> tuple[int, int]:
    try:
        height, width = (math.isqrt(n), math.isqrt(n)) if shape is None else shape
    except (TypeError, ValueError):
        raise ValueError(f"{function}: shape is {shown(shape)}, expected (height, width)") from None
    height, width = (check_count(function, *named) for named in (("height", height), ("width", width)))
    if height * width != n:
        got = f"cannot draw images of shape {(height, width)}"
        raise ValueError(f"{function}: {got}, expected height * width = {n} features")
    return height, width


@style("misclassified")
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
    size = _shape("misclassified", x.shape[1], shape)
    max_images = check_count("misclassified", "max_images", max_images)
    t_true, t_pred = check_labels("misclassified", x.shape[:1], t_true=t_true, t_pred=t_pred)
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
        figure = new_figure(6.6, 1.2, f"No mistakes in {len(x):,} images")
        axes = figure.subplots()
        axes.set_title("every predicted class is the true class")
        axes.axis("off")
        return figure
    some = f"{max_images} of " if wrong.size > max_images else ""
    title = f"{some}{wrong.size:,} mistake{'s' * (wrong.size > 1)} in {len(x):,} images"
    ink = x[wrong[:max_images]].astype(np.float64)
    how = {"cmap": "gray_r", "vmin": ink.min(), "vmax": ink.max()}
    return _tiles(title, subtitle, ink, size, captions[:max_images], **how)


@style("weight_images")
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
    size, n = _shape("weight_images", weight.shape[0], shape), weight.shape[1]
    max_units = check_count("weight_images", "max_units", max_units)
    drawn = weight.T[:max_units]
    sizes = np.nan_to_num(np.abs(drawn), nan=0.0, posinf=0.0)
    limit = float(np.quantile(sizes, 0.995) or sizes.max() or 1.0)
    stops = ["#00405f", BLUE, "white", VERMILION, "#6b2f00"]
    # An odd number of colors has one in the middle: zero is white itself, not nearly so.
    colors = LinearSegmentedColormap.from_list("weights", stops, N=257).with_extremes(bad=MUTED)
    title = f"First-layer weights of {f'{max_units} of ' * (n > max_units)}{n} unit{'s' * (n > 1)}"
    subtitle = "one image per unit: ink on vermilion raises the unit, ink on blue lowers it"
    figure = _tiles(title, subtitle, drawn, size, [""] * len(drawn), cmap=colors, vmin=-limit, vmax=limit)
    axes, extend = figure.axes[0], "both" if sizes.max() > limit else "neither"
    figure.colorbar(axes.images[0], label="weight", extend=extend, shrink=0.6, fraction=0.08, aspect=25)
    return figure
