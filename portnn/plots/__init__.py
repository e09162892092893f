"""Pictures of a training run and of a classifier: curves, confusion, calibration, mistakes, weights, regions.

Every function takes NumPy arrays and returns a ``matplotlib.figure.Figure`` that belongs to the caller alone:
``pyplot`` is never imported, so nothing needs a display and nothing stays open. Write it with
``figure.savefig(path)``; a notebook shows it. matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from portnn.plots.classes import calibration, class_report, confusion_matrix, decision_boundary
from portnn.plots.curves import learning_curves
from portnn.plots.images import misclassified, weight_images

__all__ = [
    "calibration",
    "class_report",
    "confusion_matrix",
    "decision_boundary",
    "learning_curves",
    "misclassified",
    "save_all",
    "weight_images",
]


def save_all(
    folder: str | Path,
    *,
    history: Mapping[str, Sequence[Any]],
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
