"""A chunk of steps as one CUDA graph: captured once over memory that stays where it is, then launched as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy

from portnn.backends.base import Array, Backend, Batch, Metrics, Rows, State, Step, dtype_name, table

LONGEST = 256  # steps in one graph: some 12,000 nodes
AGREEMENT = 1e-4  # of a replay with the same steps run one by one, relative to the largest number; products may differ

Capture = Callable[[Callable[[], None]], Callable[[], None]]


class GraphError(RuntimeError):
    """Steps cannot be captured, or a replay of them gives other numbers."""


class GraphChunk:
    """Steps over static memory. ``capture`` turns a function without arguments into one that replays what it did.

    It may run the function: the state is put back afterwards. A graph that does not do what the steps do is refused.
    """

    def __init__(self, backend: Backend, step: Step, steps: int, batch_size: int, capture: Capture) -> None:
        self.backend, self.step, self.capture = backend, step, capture
        self.steps, self.batch_size = steps, batch_size
        self.length = max(k for k in range(1, min(steps, LONGEST) + 1) if steps % k == 0)
        self.launch: Callable[[], None] | None = None
        self.state: State = {}
        self.inputs: Batch = {}
        self.totals: Metrics = {}
        self.table: Array = None

    def __call__(self, state: State, chunk: dict[str, Rows], rows: Sequence[Sequence[float]]) -> tuple[State, Metrics]:
        """Run all steps; what is returned is overwritten by the next run."""
        scalars = self.backend.asarray(table(rows, dtype_name(state["params"].dtype)))
        if self.launch is None:
            self._prepare(state, chunk, scalars)
        else:
            for name, a in state.items():
                if a is not self.state[name]:
                    self.state[name][...] = a
        for total in self.totals.values():
            total *= 0.0
        for start in range(0, self.steps, self.length):
            self._load(chunk, scalars, start)
            assert self.launch is not None
            self.launch()
        return dict(self.state), self._copies(self.totals)

    def _load(self, chunk: dict[str, Rows], scalars: Array, start: int) -> None:
        """Bring the samples and scalars of some steps to their memory."""
        stop = start + self.length
        for name, rows in chunk.items():
            self.inputs[name][...] = rows.at(start * self.batch_size, stop * self.batch_size)
        self.table[...] = scalars[start:stop, ...]

    def _run(self, state: State) -> tuple[State, Metrics]:
        """Run the steps over the memory of the inputs, one after the other."""
        total: Metrics = {}
        for k in range(self.length):
            here = slice(k * self.batch_size, (k + 1) * self.batch_size)
            batch = {name: a[here, ...] for name, a in self.inputs.items()}
            state, metrics = self.step(state, batch, self.table[k, ...])
            total = {name: total[name] + m for name, m in metrics.items()} if total else metrics
        return state, total

    def _captured(self) -> None:
        """What the graph holds: steps that end in the memory they began in."""
        state, metrics = self._run(dict(self.state))
        for name, a in state.items():
            if a is not self.state[name]:
                self.state[name][...] = a
        for name, m in metrics.items():
            self.totals[name] += m

    def _prepare(self, state: State, chunk: dict[str, Rows], scalars: Array) -> None:
        self.state = dict(state)
        n = self.length * self.batch_size
        self.inputs = self._copies({name: rows.at(0, n) for name, rows in chunk.items()})
        self.table = self._copies({"": scalars[: self.length, ...]})[""]
        before = self._copies(self.state)
        expected, metrics = self._run(self._copies(self.state))
        self.totals = {name: self.backend.xp.zeros_like(m) for name, m in metrics.items()}
        self.launch = self.capture(self._captured)
        self._put_back(before)
        self.launch()
        for name, a in expected.items():
            ours, theirs = (self.backend.to_numpy(b).astype("float64") for b in (self.state[name], a))
            largest = numpy.max(numpy.abs(theirs), initial=0.0)
            if not numpy.allclose(ours, theirs, rtol=0.0, atol=AGREEMENT * largest, equal_nan=True):
                raise GraphError(f"a captured graph gives other numbers than its steps, in {name}")
        self._put_back(before)

    def _put_back(self, before: State) -> None:
        for name, a in before.items():
            self.state[name][...] = a

    def _copies(self, arrays: dict[str, Array]) -> dict[str, Array]:
        return {name: self.backend.xp.asarray(a, copy=True) for name, a in arrays.items()}
