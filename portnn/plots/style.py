"""How all pictures look, and the one place where matplotlib is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from portnn.errors import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's blue and vermilion stay apart under the common color blindnesses, and in gray print too.
BLUE, VERMILION = "#0072B2", "#D55E00"
PALETTE = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999900", "#000000")  # one for each class
INK, MUTED, HAIRLINE, TINT = "#222222", "#666666", "#dcdcdc", "#e3eef5"
LOOK = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    **{"text.color": INK, "axes.titlecolor": MUTED, "grid.color": HAIRLINE, "grid.linewidth": 0.6},
    **{"axes.spines.right": False, "axes.spines.top": False, "axes.titlelocation": "left"},
    **{"axes.titlesize": 9.5, "figure.titlesize": 13, "figure.titleweight": "bold", "figure.dpi": 150},
    **{"figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": 0.1},
}


@contextmanager
def style(function: str) -> Iterator[None]:
    """Our look on top of matplotlib's defaults, whatever the caller's settings are; those are put back."""
    try:
        import matplotlib.style
    except ImportError as error:
        message = f"{function}: drawing needs matplotlib, which is missing: pip install matplotlib"
        raise ImportError(message) from error
    with matplotlib.style.context(["default", LOOK]):
        yield


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.suptitle(title, x=0.1 / width, ha="left")
    return figure


def plain(text: object) -> str:
    """Return a text that matplotlib draws as it is: a pair of dollar signs would be TeX."""
    return str(text).replace("$", r"\$")


def check_labels(function: str, rows: tuple[int, ...], **labels: ArrayLike) -> list[np.ndarray]:
    """Return labels that count from 0, one per row, as int64."""
    for name, t in labels.items():
        t = np.asarray(t)
        if t.shape != rows or t.ndim != 1 or t.size == 0:
            expected = f"({rows[0]},)" if any(rows) else "(batch,)"
            raise ValueError(f"{function}: {name} has shape {t.shape}, expected {expected}")
        if t.dtype.kind not in "iub" or t.min() < 0:
            wrong = "a negative label" if t.dtype.kind == "i" else f"dtype {t.dtype}"
            raise ValueError(f"{function}: {name} has {wrong}, expected integer labels that count from 0")
    return [np.asarray(t).astype(np.int64) for t in labels.values()]


def check_names(function: str, names: Iterable[object] | None) -> list[str]:
    """Return the names of classes as texts, none for None."""
    try:
        return [] if names is None else [str(name) for name in names]
    except TypeError:
        message = f"{function}: class_names is {shown(names)}, expected a sequence of texts, one for each class"
        raise ValueError(message) from None
