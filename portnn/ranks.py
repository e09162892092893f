"""Ranks of MPI that train together, through a communicator of mpi4py.

What can go wrong on one rank alone must not leave the others waiting. Where it is expected, as the arguments and the
callbacks of a training are, each rank tells the others whether it failed (:meth:`Ranks.together`). Anything else is
settled at the end of the work: who fails waits a moment for the others to end as well, and if they do not, it ends the
whole job, which mpiexec reports. Ctrl-C reaches ranks at different moments: it is held back until all agree on it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from portnn.backends import Array, Backend
from portnn.errors import NonFiniteError, RankError, reason, shown
from portnn.group import Group

PATIENCE = 3.0  # seconds that a rank which fails waits for the others to end as well
PRESSED = "KeyboardInterrupt"
FAILED = 1  # the tag of the message that a rank has failed
MOST = 2**26  # numbers of a message: some implementations count its bytes in 31 bits


class Ranks(Group):
    """The ranks of a communicator, of which this process is one."""

    def __init__(self, comm: Any, who: str) -> None:
        needed = ("Get_rank", "Get_size", "Allreduce", "Ibarrier", "Dup")
        if not all(callable(getattr(comm, name, None)) for name in needed):
            raise TypeError(
                f"{who}: comm must be a communicator of mpi4py, such as portnn.distributed.world(), got {shown(comm)}"
            )
        from mpi4py import MPI

        self._mpi, self._given, self._who, self._holds = MPI, comm, who, True
        if isinstance(comm, MPI.Intercomm) or comm == MPI.COMM_NULL:
            raise ValueError(f"{who}: comm must be an intracommunicator, got {shown(comm)}")
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._work: Any = None
        self._reduce: Callable[[Array], Array] | None = None
        self._pressed = self.heeded = False
        self._shouts: list[Any] = []  # what is on its way to the others
        self._agreed: BaseException | None = None

    # -- together -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Have communicators of one's own, which no message of the caller's can meet, until all have ended."""
        with self._holding_ctrl_c():
            self._work, ends = self._given.Dup(), self._given.Dup()
            try:
                yield
            except BaseException as error:
                self._settle(ends, error)
                raise
            else:
                self._settle(ends, None)
            finally:
                self._reduce = self._agreed = None
                self._work.Free()
                ends.Free()

    def _settle(self, ends: Any, error: BaseException | None) -> None:
        """Wait for the others to end; RankError where another failed, and the end of the job where they do not come."""
        request, began = ends.Ibarrier(), time.monotonic()
        while not request.Test():
            alone = error is not None and not self.agreed(error)
            if error is not None and alone and time.monotonic() - began > PATIENCE:
                said = "".join(traceback.format_exception(error))
                whose = f"{self._who}: rank {self.rank} of {self.size} ends the job:"
                print(f"{whose}\n{said}", file=sys.stderr, flush=True)
                sys.stdout.flush()
                time.sleep(0.2)  # mpiexec has to pass it on before it ends everything
                code = error.code if isinstance(error, SystemExit) else 1
                self._given.Abort(code if isinstance(code, int) and 0 < code < 256 else 1)
            time.sleep(0.001)
        each = ends.allgather((None if error is None else _packed(error), bool(self._shouts)))
        for rank, (_, shouted) in enumerate(each):
            if shouted and rank != self.rank:
                self._work.recv(source=rank, tag=FAILED)
        self._mpi.Request.waitall(self._shouts)
        if error is None:
            self._raise_first([packed for packed, _ in each])

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Raise on all ranks what is raised on some: their own error there, RankError on the others."""
        own: BaseException | None = None
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            own = error
        said = self._work.allgather(None if own is None else _packed(own))
        if isinstance(own, KeyboardInterrupt) and any(packed and packed[0] != PRESSED for packed in said):
            own = None  # what is worse is raised on all
        if own is not None:
            self.heeded = self.heeded or isinstance(own, KeyboardInterrupt)
            raise self.of_all(own)
        self._raise_first(said)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Do work of one's own, with Ctrl-C at once, and wait for the others; then it is as behind :meth:`together`.

        Who fails, or is told of Ctrl-C while it waits, lets the others know, who look with :meth:`heard`.
        """
        with self.together():
            own: BaseException | None = KeyboardInterrupt() if self._pressed else None
            try:
                if own is None:
                    self._holds = False
                    yield
                    self._holds = True
            except (Exception, KeyboardInterrupt) as error:
                self._holds, own = True, error
            arrived, there = self._work.Ibarrier(), False
            while not there:
                if own is not None or self._pressed:
                    self.shout()
                there = arrived.Test()
                time.sleep(0.0 if there else 0.002)
            if self._pressed and own is None:
                own = KeyboardInterrupt()
            if own is not None:
                raise own

    def _raise_first(self, said: list[Any]) -> None:
        failed = [rank for rank, packed in enumerate(said) if packed is not None]
        failed.sort(key=lambda rank: said[rank][0] == PRESSED)
        if failed:
            kind, text, fields = said[failed[0]]
            if kind == "NonFiniteError":
                raise self.of_all(NonFiniteError(text, **fields))
            if kind == PRESSED:
                raise self.heed()
            others = f" (and {len(failed) - 1} more)" if failed[1:] else ""
            message = f"{self._who}: rank {failed[0]} of {self.size}{others} ended with {kind}: {text}"
            raise self.of_all(RankError(message))

    def of_all(self, error: Any) -> Any:
        """Return an error that all ranks raise, and remember it."""
        self._agreed = error
        return error

    def agreed(self, error: BaseException) -> bool:
        """Whether all ranks have raised an error, each its own, at the same place."""
        return error is self._agreed

    # -- what is of all -----------------------------------------------------------------------------------------------

    def gathered(self, value: Any) -> list[Any]:
        """Return the value of each rank."""
        values: list[Any] = self._work.allgather(value)
        return values

    def told(self, value: Any) -> Any:
        """Return the value of rank 0, which does not wait for the others."""
        return self._work.bcast(value)

    def told_array(self, a: numpy.ndarray) -> numpy.ndarray:
        """Return the array of rank 0."""
        flat = numpy.array(a).reshape(-1)  # in memory of its own
        for start in range(0, flat.shape[0], MOST):
            self._work.Bcast(flat[start : start + MOST])
        return flat.reshape(a.shape)

    def add(self, backend: Backend, a: Array) -> Array:
        """Return the sum over ranks: by the library between its devices if it can, otherwise in host memory."""
        if self._reduce is None:
            between = backend.reducer(self)
            self._reduce = between if between is not None else lambda x: self._on_host(backend, x)
        return self._reduce(a)

    def _on_host(self, backend: Backend, a: Array) -> Array:
        host = backend.to_numpy(a)
        if not (host.flags.writeable and host.flags.c_contiguous):
            host = numpy.array(host, order="C")
        flat = host.reshape(-1)
        for start in range(0, flat.shape[0], MOST):
            self._work.Allreduce(self._mpi.IN_PLACE, flat[start : start + MOST])
        return backend.put_back(host, a)

    def shout(self) -> None:
        """Let the others know, where they listen, that this rank has failed."""
        if not self._shouts:
            others = (rank for rank in range(self.size) if rank != self.rank)
            self._shouts = [self._work.isend(None, rank, tag=FAILED) for rank in others]

    def heard(self) -> bool:
        """Whether another rank has shouted."""
        return bool(self._work.Iprobe(tag=FAILED))

    # -- Ctrl-C -------------------------------------------------------------------------------------------------------

    def pressed(self) -> bool:
        """Whether it was pressed here; that of all is known when they have been asked."""
        return self._pressed

    @contextlib.contextmanager
    def _holding_ctrl_c(self) -> Iterator[None]:
        """Take note of Ctrl-C; pressed again, it happens at once. What nobody has heeded happens at the end."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return

        def press(number: int, frame: Any) -> None:
            if self._pressed or not self._holds:
                signal.default_int_handler(number, frame)
            self._pressed = True

        signal.signal(signal.SIGINT, press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._pressed and not self.heeded:
                signal.raise_signal(signal.SIGINT)


def _packed(error: BaseException) -> tuple[str, str, dict[str, Any]]:
    """Return what others are told of an error: plain values, since not every exception can be sent."""
    if isinstance(error, NonFiniteError):
        return "NonFiniteError", str(error), error.fields
    kind = PRESSED if isinstance(error, KeyboardInterrupt) else type(error).__name__
    return kind, reason(error, 400), {}
