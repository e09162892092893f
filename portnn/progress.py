"""The bar that shows how far training has come, where there is a terminal and tqdm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy


class Bar:
    """A bar over all samples of all epochs; nothing where it is not wanted, tqdm is missing or the output is a file."""

    def __init__(self, wanted: bool, epochs: int, n: int) -> None:
        self.bar, self.epochs, self.n = None, epochs, n
        if wanted:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=epochs * n, unit=" samples", unit_scale=True, leave=False, disable=None)

    def advance(self, samples: int, means: Callable[[int], dict[str, Any]]) -> None:
        """Count samples, and show what ``means(samples of this epoch so far)`` gives."""
        if self.bar is None or self.bar.disable:
            return
        epoch, begun = divmod(int(self.bar.n), self.n)
        self.bar.update(samples)
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}")
        shown = {name: float(numpy.mean(value)) for name, value in means(begun + samples).items()}
        self.bar.set_postfix({name: f"{value:.4f}" for name, value in shown.items() if math.isfinite(value)})

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.close()
