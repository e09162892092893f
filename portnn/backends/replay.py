"""A training step recorded once and replayed: for libraries that run at once, what a CUDA graph is for a GPU.

The first step of a chunk is recorded, see :mod:`portnn.backends.tape`. The steps after it run the list: one call of
the library per operation, written into the memory of the first. There are no functions to go through, no namespaces to
look up, nothing to allocate.

While the second step is recorded in the same way, gradients go straight to their places in the joined vector. Of the
list two are made, of even and of odd steps: parameters and gradient trade their places from step to step. The next
steps are run both ways, and a replay that differs in any number is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from portnn.backends.base import (
    Array,
    Backend,
    Batch,
    Chunk,
    Metrics,
    Rows,
    State,
    Step,
    dtype_name,
    summed,
    table,
)
from portnn.backends.tape import Call, NotRecordedError, Tape, plain


class Replaying(Backend):
    """A library whose functions can be told where to write: chunks are replayed. Its file says how that is done."""

    compiles = replays = True

    def bind(self, call: Call) -> Callable[[], object]:
        """Return a function that does a call, its result written to ``call.out``, without allocating if possible."""
        raise NotImplementedError

    def fused(self, first: Call, second: Call) -> Call | None:
        """Return one call that does what two do, of which the second alone reads what the first writes, or None."""
        return None

    def copy_into(self, out: Array, a: Array) -> None:
        """Write ``a`` to ``out``, cast to its dtype."""
        raise NotImplementedError

    def take_into(self, out: Array, rows: Rows, start: int, stop: int) -> None:
        """Gather rows into ``out``."""
        self.copy_into(out, rows.at(start, stop))

    def memory(self, a: Array) -> tuple[int, Any]:
        """Return the address of the first element, and the strides."""
        raise NotImplementedError

    def shares_memory(self, a: Array, b: Array) -> bool:
        """Whether two arrays, of which one may be a view of the other, have memory in common."""
        raise NotImplementedError

    def writes_to(self, part: Array, instead_of: Array) -> bool:
        """Whether functions give the same bits when they write to a part of another array."""
        return self.memory(part)[1] == self.memory(instead_of)[1]

    def moved(self, part: Array, source: Array, target: Array) -> Array:
        """Return the part of ``target`` that lies as ``part`` does in ``source``, an array of the same kind."""
        raise NotImplementedError

    def compile_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """Record the step and replay it."""
        return _Replay(self, step, steps, batch_size)


class _Replay:
    """A chunk of steps: two are recorded, then each program is compared with a step, all others are replayed."""

    def __init__(self, backend: Replaying, step: Step, steps: int, batch_size: int) -> None:
        self.backend, self.step, self.steps, self.batch_size = backend, step, steps, batch_size
        self.state: State = {}
        self.totals: Metrics = {}
        self.inputs: dict[str, Array] = {}
        self.row: Array = None
        self.tape: Tape | None = None
        self.programs: list[list[Callable[[], object]]] = []
        self.places: list[Array] = []  # of the parameters, before and after an even step
        self.turn, self.checked = 0, 0
        self.in_place = self.in_turns = True

    def __call__(self, state: State, chunk: dict[str, Rows], rows: Sequence[Sequence[float]]) -> tuple[State, Metrics]:
        backend = self.backend
        scalars = backend.asarray(table(rows, dtype_name(state["params"].dtype)))
        self._load(state, chunk, scalars)
        for k in range(self.steps):
            start = k * self.batch_size
            for name, out in self.inputs.items():
                backend.take_into(out, chunk[name], start, start + self.batch_size)
            backend.copy_into(self.row, scalars[k, ...])
            if not self.programs:
                self._record()
            elif self.checked < len(self.programs):
                self._check(rows[k], backend.batch(chunk, start, start + self.batch_size))
            else:
                self._replay()
        return dict(self.state), summed(self.totals)

    def __del__(self) -> None:
        """Let the memory go at once, where no check came to its end: a tape and its arrays hold each other."""
        tape = getattr(self, "tape", None)
        if tape is not None:
            tape.forget()

    def _load(self, state: State, chunk: dict[str, Rows], scalars: Array) -> None:
        """Bring the state to the memory that the program works on, which at first is its own."""
        if not self.state:
            self.state = dict(state)
            self.inputs = {name: self._copied(rows.at(0, self.batch_size)) for name, rows in chunk.items()}
            self.row = self._copied(scalars[0, ...])
        for name, a in state.items():
            if a is not self.state[name]:
                self.backend.copy_into(self.state[name], a)
        for total in self.totals.values():
            total[...] = 0.0

    def _copied(self, a: Array) -> Array:
        return self.backend.xp.asarray(a, copy=True)

    def _record(self) -> None:
        """Run a step and note what it does; the second time with what was learned from the first."""
        second = self.tape is not None
        tape = Tape(self.backend, self.tape if self.in_place else None)
        state = {name: tape.hold(a) for name, a in self.state.items()}
        batch = {name: tape.hold(a) for name, a in self.inputs.items()}
        row = [tape.hold(self.row[i, ...]) for i in range(self.row.shape[0])]
        try:
            after, metrics = self.step(dict(state), batch, row)
        except BaseException:
            tape.forget()
            raise
        if not second:
            self.totals = {name: self._copied(self.backend.xp.zeros_like(plain(m))) for name, m in metrics.items()}
        for name, m in metrics.items():
            tape.write("add", (tape.hold(self.totals[name]), m), tape.hold(self.totals[name]))
        for name, a in after.items():
            if tape.same(plain(a), self.state[name]):
                continue
            if any(self.backend.shares_memory(plain(a), other) for other in self.state.values()):
                raise NotRecordedError(f"the step hands back another array of its state as {name!r}")
            tape.write("asarray", (a,), tape.hold(self.state[name]))
        if self.tape is not None:
            if [c.name for c in tape.calls] != [c.name for c in self.tape.calls]:
                message = "the step does not do the same thing every time"
                raise NotRecordedError(message)
            self._prepare(tape)
        self.tape = tape

    def _prepare(self, tape: Tape) -> None:
        """Make the programs."""
        params = self.state["params"]
        programs, self.places = tape.in_turns(params) if self.in_turns else ([tape.program()], [params])
        self.programs = [[self.backend.bind(call) for call in calls] for calls in programs]
        self.turn = self.checked = 0

    def _replay(self) -> None:
        for call in self.programs[self.turn]:
            call()
        self.turn = (self.turn + 1) % len(self.programs)
        self.state["params"] = self.places[self.turn]

    def _check(self, row: Sequence[float], batch: Batch) -> None:
        """Run one step plainly, on a batch as the loop fetches it, and replayed: all numbers must be the same."""
        totals = {name: self._copied(a) for name, a in self.totals.items()}
        state = {name: self._copied(a) for name, a in self.state.items()}
        h = self.backend.scalars(row, state["params"].dtype)
        state, metrics = self.step(state, batch, h)
        expected = {**state, **{f"{name} (metric)": totals[name] + m for name, m in metrics.items()}}
        self._replay()
        found = {**self.state, **{f"{name} (metric)": a for name, a in self.totals.items()}}
        different = [name for name, a in expected.items() if not self._same(found[name], a)]
        self.checked += not different
        if not different:
            if self.checked == len(self.programs) and self.tape is not None:
                self.tape.forget()
            return
        if not self.in_place:
            raise NotRecordedError(f"a replayed step differs from the step itself in {', '.join(different)}")
        self.state["params"] = found["params"] = self.places[0]
        for name, a in expected.items():
            self.backend.copy_into(found[name], a)
        if len(self.programs) > 1 and self.tape is not None:  # products may depend on where they are written
            self.in_turns = False
            self._prepare(self.tape)
        else:
            self.in_place, self.programs = False, []
            if self.tape is not None:
                self.tape.forget()

    def _same(self, a: Array, b: Array) -> bool:
        xp = self.backend.xp
        return bool(xp.all((a == b) | (xp.isnan(a) & xp.isnan(b))))
