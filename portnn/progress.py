"""The bar that shows how far training has come, where there is a terminal or a notebook, and tqdm."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from typing import Any, TextIO

import numpy


class Bar:
    """A bar over all samples of all epochs: loss, accuracy, samples per second, and the time that is left.

    There is none where it is not wanted, where tqdm is missing, and where the output is a file or a pipe: a log full of
    bars helps nobody, :class:`portnn.callbacks.EpochPrinter` writes a line per epoch.
    """

    def __init__(self, wanted: bool, epochs: int, n: int, done: int = 0) -> None:
        self.bar, self.epochs, self.n = None, epochs, n
        self.numbers: dict[str, str] = {}
        if wanted:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            # None: not unless the output is a terminal. The output of a notebook's cell says that it is none.
            disable = False if _in_notebook() else None
            options = {"unit": " samples", "unit_scale": True, "leave": False, "disable": disable}
            self.bar = tqdm(total=epochs * n, initial=done, **options)

    def advance(self, samples: int, means: Callable[[int], dict[str, Any]]) -> None:
        """Count samples, and show what ``means(samples of this epoch so far)`` gives."""
        if self.bar is None or self.bar.disable:
            return
        epoch, begun = divmod(int(self.bar.n), self.n)
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.numbers |= _shown(means(begun + samples))
        self.bar.set_postfix(self.numbers, refresh=False)
        self.bar.update(samples)  # draws, but no more than ten times a second: epochs may be short

    def ended(self, entry: dict[str, Any]) -> None:
        """Show, from now on, what validation said at the end of an epoch."""
        if self.bar is not None and not self.bar.disable:
            self.numbers |= _shown({name: value for name, value in entry.items() if name.startswith("val_")})
            self.bar.set_postfix(self.numbers, refresh=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.refresh()  # short trainings end before it is drawn
            self.bar.close()


def print_line(text: str, file: TextIO) -> None:
    """Print a line, above the bars if there are any on the screen."""
    tqdm = sys.modules.get("tqdm")
    with contextlib.nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(file=file):
        print(text, file=file, flush=True)


def _shown(values: dict[str, Any]) -> dict[str, str]:
    """Return what is finite with four digits; of members the mean."""
    numbers = {name: float(numpy.mean(value)) for name, value in values.items()}
    return {name: f"{number:.4f}" for name, number in numbers.items() if math.isfinite(number)}


def _in_notebook() -> bool:
    """Whether this runs in a kernel of Jupyter, which only a process that has loaded IPython can."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if find is None else find()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
