"""A setting of the whole process that several threads want in several positions: the precision of products."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any


class Switch:
    """Products in full float32 or in TF32, as those want it who are within :meth:`at`.

    Where some want full float32 and others TF32 at the same time, all get full float32: nobody's products are coarser
    than what was asked for. The last one to leave finds the switch as it was before the first came. A library says how
    its switch is read and turned.
    """

    def __init__(self) -> None:
        self.before: Any = None  # its position while nobody is within
        self.wanted: dict[int, list[str]] = {}  # by thread; what it wanted last counts
        self.lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self.lock.acquire, after_in_parent=self.lock.release, after_in_child=self._alone)

    def read(self) -> Any:
        """Return the position."""
        raise NotImplementedError

    def turn(self, position: Any) -> None:
        """Turn it to a position."""
        raise NotImplementedError

    def position(self, precision: str) -> Any:
        """Return the position for ``"float32"`` or ``"tf32"``."""
        raise NotImplementedError

    @contextlib.contextmanager
    def at(self, precision: str) -> Iterator[None]:
        """Return the context in which products have this precision, or a finer one."""
        self._enter(precision)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, precision: str) -> None:
        with self.lock:
            if not self.wanted:
                self.before = self.read()
            self.wanted.setdefault(threading.get_ident(), []).append(precision)
            try:
                self._settle()
            except BaseException:  # a warning that is an error: who did not come in will not leave
                self._forget()
                raise

    def _leave(self) -> None:
        with self.lock:
            self._forget()
            self._settle()

    def _forget(self) -> None:
        mine = self.wanted[threading.get_ident()]
        mine.pop()
        if not mine:
            del self.wanted[threading.get_ident()]

    def _settle(self) -> None:
        last = {of_thread[-1] for of_thread in self.wanted.values()}
        position = self.position("tf32" if last == {"tf32"} else "float32") if last else self.before
        if self.read() != position:
            self.turn(position)

    def _alone(self) -> None:
        """Forget the threads that a forked process does not have."""
        me = threading.get_ident()
        others = self.wanted.keys() - {me}
        self.wanted = {thread: of_thread for thread, of_thread in self.wanted.items() if thread == me}
        try:
            if others:
                self._settle()
        finally:
            self.lock.release()
