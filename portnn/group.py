"""Who trains together: a process by itself, or many that hold equal parameters and share the samples of each batch.

The loop asks a group for what is of all: sums of gradients, what the first has read or decided, who has failed. Of one
process this is nothing, or what it has itself. :mod:`portnn.ranks` is the other case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy

from portnn.backends import Array, Backend


class Group:
    """A process by itself."""

    rank: int = 0
    size: int = 1
    heeded: bool = False  #: all have been told that Ctrl-C was pressed

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Work together: whatever ends the block on one ends it on all."""
        yield

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is raised in the block by some is raised by all, behind it."""
        yield

    def of_all(self, error: Any) -> Any:
        """Return an error that all raise."""
        return error

    def agreed(self, error: BaseException) -> bool:
        """Whether all have raised an error, each its own, and can go on together."""
        return False

    def gathered(self, value: Any) -> list[Any]:
        """Return the value of each, in their order; all wait for all."""
        return [value]

    def told(self, value: Any) -> Any:
        """Return the value of the first, which does not wait for the others."""
        return value

    def told_array(self, a: numpy.ndarray) -> numpy.ndarray:
        """Return the array of the first; all have one of its shape and dtype."""
        return a

    def add(self, backend: Backend, a: Array) -> Array:
        """Return the sum of the arrays of all, in the memory of ``a`` where that can be written to."""
        return a

    def pressed(self) -> bool:
        """Whether Ctrl-C was pressed here and is held back."""
        return False

    def heed(self) -> KeyboardInterrupt:
        """Return what all raise that have been told of Ctrl-C."""
        self.heeded = True
        error: KeyboardInterrupt = self.of_all(KeyboardInterrupt())
        return error

    def share(self, n: int) -> slice:
        """Return which of ``n`` things are for this one: as many as for any other, or one more or less.

        Examples
        --------
        >>> Group().share(5)
        slice(0, 5, None)

        """
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)


ALONE = Group()
