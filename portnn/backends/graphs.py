"""A chunk of steps as one CUDA graph: captured once over memory that stays where it is, then launched as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy

from portnn.backends.base import Array, Backend, Batch, Metrics, Rows, State, Step, dtype_name, summed, table

LONGEST = 256  # steps in one graph: some 12,000 nodes
AGREEMENT = 1e-4  # of a replayed step with the step itself, relative to the largest number; products may differ

_one_at_a_time = threading.Lock()  # captures, in all threads: they change things of the whole process

Capture = Callable[[Callable[[], None]], Callable[[], None]]


class GraphError(RuntimeError):
    """Steps cannot be captured, or a replay of them gives other numbers."""


class GraphChunk:
    """Steps over static memory. ``capture`` turns a function without arguments into one that replays what it did.

    It may run the function: the state is put back afterwards. The graph of one step is tried first, and refused if it
    does not do what the step does: in many steps the rounding of another algorithm could grow. The steps of a chunk
    are graphs of equal length and one of what is left over.
    """

    def __init__(self, backend: Backend, step: Step, steps: int, batch_size: int, capture: Capture) -> None:
        self.backend, self.step, self.capture = backend, step, capture
        self.steps, self.batch_size = steps, batch_size
        graphs = -(-steps // LONGEST)
        self.length = -(-steps // graphs)
        self.launches: dict[int, Callable[[], None]] = {}
        self.state: State = {}
        self.inputs: Batch = {}
        self.totals: Metrics = {}
        self.table: Array = None

    def __call__(self, state: State, chunk: dict[str, Rows], rows: Sequence[Sequence[float]]) -> tuple[State, Metrics]:
        """Run all steps; what is returned is overwritten by the next run."""
        scalars = self.backend.asarray(table(rows, dtype_name(state["params"].dtype)))
        if not self.state:
            self._prepare(state, chunk, scalars)
        for name, a in state.items():
            if a is not self.state[name]:
                self.state[name][...] = a
        for total in self.totals.values():
            total[...] = 0.0
        for start in range(0, self.steps, self.length):
            length = min(self.length, self.steps - start)
            self._load(chunk, scalars, start, length)
            self.launches[length]()
        return dict(self.state), summed(self.totals)

    def _load(self, chunk: dict[str, Rows], scalars: Array, start: int, length: int) -> None:
        """Bring the samples and scalars of some steps to their memory."""
        first, n = start * self.batch_size, length * self.batch_size
        for name, rows in chunk.items():
            self.inputs[name][:n, ...] = rows.at(first, first + n)
        self.table[:length, ...] = scalars[start : start + length, ...]

    def _steps(self, length: int) -> None:
        """What a graph holds: steps over the memory of the inputs that end in the memory of the state."""
        state: State = dict(self.state)
        for k in range(length):
            here = slice(k * self.batch_size, (k + 1) * self.batch_size)
            batch = {name: a[here, ...] for name, a in self.inputs.items()}
            state, metrics = self.step(state, batch, self.table[k, ...])
            for name, m in metrics.items():
                self.totals[name] += m
        for name, a in state.items():
            if a is not self.state[name]:
                self.state[name][...] = a

    def _prepare(self, state: State, chunk: dict[str, Rows], scalars: Array) -> None:
        """Give everything its memory, try a graph of one step, and capture those that are needed."""
        n = self.length * self.batch_size
        self.inputs = self._copies({name: rows.at(0, n) for name, rows in chunk.items()})
        self.table = self._copies({"": scalars[: self.length, ...]})[""]
        batch = {name: a[: self.batch_size, ...] for name, a in self.inputs.items()}
        expected, metrics = self.step(self._copies(state), batch, self.table[0, ...])
        self.totals = {name: self.backend.xp.zeros_like(m) for name, m in metrics.items()}
        before, self.state = self._copies(state), dict(state)
        one = self._capture(1, before)
        one()
        found = {**self.state, **{f"{name} (metric)": a for name, a in self.totals.items()}}
        for name, a in {**expected, **{f"{name} (metric)": m for name, m in metrics.items()}}.items():
            self._compare(found[name], a, name)
        for length in {self.length, self.steps % self.length} - {0}:
            self.launches[length] = one if length == 1 else self._capture(length, before)
        self._put_back(before)

    def _capture(self, length: int, before: State) -> Callable[[], None]:
        with _one_at_a_time:
            launch = self.capture(lambda: self._steps(length))
        self._put_back(before)
        return launch

    def _compare(self, ours: Array, theirs: Array, name: str) -> None:
        """Raise unless the numbers agree; what is not finite is for the training to notice."""
        found, expected = (self.backend.to_numpy(a).astype("float64") for a in (ours, theirs))
        finite = numpy.isfinite(expected)
        largest = numpy.max(numpy.abs(expected[finite]), initial=0.0)
        same = numpy.abs(found[finite] - expected[finite]) <= AGREEMENT * largest
        if not same.all() or numpy.isfinite(found[~finite]).any():
            raise GraphError(f"a captured step gives other numbers than the step itself, in {name}")

    def _put_back(self, before: State) -> None:
        for name, a in before.items():
            self.state[name][...] = a
        for total in self.totals.values():
            total[...] = 0.0

    def _copies(self, arrays: dict[str, Array]) -> dict[str, Array]:
        return {name: self.backend.xp.asarray(a, copy=True) for name, a in arrays.items()}
