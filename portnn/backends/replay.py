"""A training step recorded once and replayed: for libraries that run at once, what a CUDA graph is for a GPU.

The first step of a chunk is run with arrays that stand in for the library's own. They do what they are asked, so it is
a step like any other, and note each operation with the memory that its result went to. The steps after it run the list:
one call of the library per operation, written into that memory. There are no functions to go through, no namespaces to
look up, nothing to allocate; memory whose array nobody can reach any more is used again by the next of that shape.

While the second step is recorded in the same way, gradients go straight to their places in the joined vector. The
third is run both ways, and a replay that differs in any number is not used.

What a step may do is what the standard has, without looking at values: NotRecordedError says what stood in the way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from portnn.backends.base import Array, Backend, Chunk, Metrics, Rows, State, Step, dtype_name, table


class NotRecordedError(RuntimeError):
    """A step cannot be recorded, or does not give the same when it is replayed."""


class Replaying(Backend):
    """A library whose functions can be told where to write: chunks are replayed. Its file says how that is done."""

    compiles = replays = True

    def bind(self, call: Call) -> Callable[[], object]:
        """Return a function that does a call, its result written to ``call.out``, without allocating if possible."""
        raise NotImplementedError

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

    def compile_chunk(self, step: Step, steps: int, batch_size: int) -> Chunk:
        """Record the step and replay it."""
        return _Replay(self, step, steps, batch_size)


class Call:
    """One operation: ``out`` is the memory that its result goes to, ``pieces`` what a concat joins."""

    __slots__ = ("args", "kwargs", "name", "out", "pieces")

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Array) -> None:
        self.name, self.args, self.kwargs, self.out = name, args, kwargs, out
        self.pieces: list[Recorded] | None = None


class _Memory:
    """The memory of a result, the call that made it and the last that used it; pooled when no array reaches it."""

    __slots__ = ("array", "last", "made", "pool")

    def __init__(self, array: Array, made: int = -1, pool: list[Array] | None = None) -> None:
        self.array, self.made, self.last, self.pool = array, made, made, pool

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool.append(self.array)


class Recorded:
    """Stands in for an array of the library; knows its memory, and the tape that notes what is done with it."""

    __slots__ = ("memory", "tape", "value")
    __array_ufunc__ = None  # NumPy arrays leave their operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tape: Tape, value: Array, memory: _Memory) -> None:
        self.tape, self.value, self.memory = tape, value, memory

    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: math.prod(self.value.shape))
    T = property(lambda self: self.tape.run("matrix_transpose", (self,)))
    mT = T
    device = property(lambda self: self.tape.backend.device)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        """The tape."""
        return self.tape

    def __getitem__(self, key: Any) -> Recorded:
        """A view, in the same memory."""
        keys = key if isinstance(key, tuple) else (key,)
        if not all(
            k is None or k is Ellipsis or (isinstance(k, int | slice) and k is not True and k is not False)
            for k in keys
        ):
            raise NotRecordedError(f"an array indexed by {_types(keys)} is not recorded")
        # with the dots NumPy gives an array where it would give a number, which is no view
        return Recorded(self.tape, self.value[keys if Ellipsis in keys else (*keys, ...)], self.memory)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write over a part."""
        part = self[key]
        if not (isinstance(value, Recorded) and self.tape.same(part.value, value.value)):
            self.tape.write("asarray", (value,), part)

    def _read(self, *_: Any, **__: Any) -> Any:
        message = "the step looks at the values of an array"
        raise NotRecordedError(message)

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __array__ = __dlpack__ = __iter__ = _read


def _give_operators() -> None:
    """Give ``Recorded`` the operators of the standard: forward, reflected and in place."""
    binary = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide"}
    binary |= {"mod": "remainder", "pow": "pow", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or"}
    binary |= {"xor": "bitwise_xor", "lshift": "bitwise_left_shift", "rshift": "bitwise_right_shift"}
    compare = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
    compare |= {"eq": "equal", "ne": "not_equal"}
    unary = {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}
    for short, name in (unary | binary | compare).items():
        setattr(Recorded, f"__{short}__", lambda a, *b, name=name: a.tape.run(name, (a, *b)))
    for short, name in binary.items():
        setattr(Recorded, f"__r{short}__", lambda a, b, name=name: a.tape.run(name, (b, a)))
        setattr(Recorded, f"__i{short}__", lambda a, b, name=name: a.tape.write(name, (a, b), a))


_give_operators()


class Tape:
    """The namespace of recorded arrays: the library's functions, each of which notes what it does.

    ``before`` is the tape of the same step, if there is one: the pieces of its concats are then made in their places.
    """

    def __init__(self, backend: Replaying, before: Tape | None = None) -> None:
        self.backend, self.xp = backend, backend.xp
        self.calls: list[Call] = []
        self.places, self.left = ({}, {}) if before is None else before.places_of_pieces()
        self.pools: dict[Any, list[Array]] = {}

    def __getattr__(self, name: str) -> Any:
        """The library's own, noted if it is a function."""
        thing = getattr(self.xp, name)
        if isinstance(thing, ModuleType):
            raise NotRecordedError(f"functions of the extension {name} are not recorded")
        if name.startswith("_") or not callable(thing) or isinstance(thing, type):
            return thing
        return lambda *args, **kwargs: self.run(name, args, kwargs)

    def hold(self, array: Array) -> Recorded:
        """Return a stand-in for an array that exists before the step."""
        return Recorded(self, array, _Memory(array))

    def same(self, a: Array, b: Array) -> bool:
        """Whether two arrays are the same numbers in memory."""
        return tuple(a.shape) == tuple(b.shape) and self.backend.memory(a) == self.backend.memory(b)

    def run(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        """Do what the library's function does and note it; what reaches no recorded array is a constant."""
        kwargs = kwargs or {}
        plain, plain_kwargs = _plain(args), {key: _plain(value) for key, value in kwargs.items()}
        result = getattr(self.xp, name)(*plain, **plain_kwargs)
        given = self._used((args, *kwargs.values()))
        if not given:
            return result
        if not self.backend.owns(result):
            if isinstance(result, tuple | list):
                raise NotRecordedError(f"{name} returns several arrays")
            return result
        result = self.xp.asarray(result)  # NumPy gives scalars
        for a in given:
            if self.backend.shares_memory(result, a.value):
                return Recorded(self, result, a.memory)
        number, pool = len(self.calls), None
        out = self.places.get(number)
        if out is None:
            out = result
            if name != "concat":
                pool = self.pools.setdefault((tuple(result.shape), result.dtype), [])
                out = pool.pop() if pool else result
        call = Call(name, plain, plain_kwargs, out)
        along_last = kwargs.get("axis", 0) in (-1, result.ndim - 1)
        if name == "concat" and along_last and all(isinstance(piece, Recorded) for piece in args[0]):
            call.pieces = list(args[0])
        if out is not result:
            self.backend.copy_into(out, result)
        self.calls.append(call)
        return Recorded(self, out, _Memory(out, number, pool))

    def write(self, name: str, args: tuple[Any, ...], to: Recorded) -> Recorded:
        """Do it with the result written over an array, and note it."""
        self._used((*args, to))
        self.calls.append(Call(name, _plain(args), {}, to.value))
        self.backend.bind(self.calls[-1])()
        return to

    def _used(self, things: Any) -> list[Recorded]:
        """Return the recorded arrays among the arguments of the call that is to be noted."""
        found = []
        for thing in things:
            if isinstance(thing, Recorded):
                thing.memory.last = len(self.calls)
                found.append(thing)
            elif isinstance(thing, tuple | list):
                found += self._used(thing)
        return found

    def places_of_pieces(self) -> tuple[dict[int, Array], dict[int, list[int]]]:
        """Return where calls can write so that a later concat finds their results in place.

        By the numbers of the calls: the places, those of concats included, and what each concat is left to copy. A
        piece finds its place if it is the whole result of one call, and nothing looks at it after the concat.
        """
        places: dict[int, Array] = {}
        left: dict[int, list[int]] = {}
        for number in reversed(range(len(self.calls))):  # the last first: a concat may be a piece of another
            call = self.calls[number]
            if call.pieces is None:
                continue
            whole: Any = places.setdefault(number, call.out)
            left[number], stop = [], 0
            for i, piece in enumerate(call.pieces):
                memory, start = piece.memory, stop
                stop += piece.shape[-1]
                shape = tuple(memory.array.shape)
                whole_result = memory.made >= 0 and memory.made not in places
                if whole_result and memory.last <= number and math.prod(shape) == math.prod(piece.shape):
                    part = self.xp.reshape(whole[..., start:stop], shape)
                    if self.backend.shares_memory(part, whole) and self.backend.writes_to(part, memory.array):
                        places[memory.made] = part
                        continue
                left[number].append(i)
        return places, left

    def program(self) -> list[Callable[[], object]]:
        """Return what the calls do, in order."""
        calls = []
        for number, call in enumerate(self.calls):
            if number in self.left and call.pieces is not None:
                stops = list(itertools.accumulate(piece.shape[-1] for piece in call.pieces))
                for i in self.left[number]:
                    part = call.out[..., stops[i] - call.pieces[i].shape[-1] : stops[i]]
                    calls.append(Call("asarray", (call.pieces[i].value,), {}, part))
            else:
                calls.append(call)
        return [self.backend.bind(call) for call in calls]


def _types(things: Any) -> str:
    return ", ".join(type(thing).__name__ for thing in things)


def _plain(thing: Any) -> Any:
    """Return the library's arrays in the place of those that stand in for them."""
    if isinstance(thing, Recorded):
        return thing.value
    return type(thing)(map(_plain, thing)) if type(thing) in (tuple, list) else thing


class _Replay:
    """A chunk of steps: two are recorded, the third is run both ways, all others are replayed."""

    def __init__(self, backend: Replaying, step: Step, steps: int, batch_size: int) -> None:
        self.backend, self.step, self.steps, self.batch_size = backend, step, steps, batch_size
        self.state: State = {}
        self.totals: Metrics = {}
        self.inputs: dict[str, Array] = {}
        self.row: Array = None
        self.tape: Tape | None = None
        self.program: list[Callable[[], object]] = []
        self.checked, self.in_place = False, True

    def __call__(self, state: State, chunk: dict[str, Rows], rows: Sequence[Sequence[float]]) -> tuple[State, Metrics]:
        backend = self.backend
        scalars = backend.asarray(table(rows, dtype_name(state["params"].dtype)))
        self._load(state, chunk, scalars)
        for k in range(self.steps):
            start = k * self.batch_size
            for name, out in self.inputs.items():
                backend.take_into(out, chunk[name], start, start + self.batch_size)
            backend.copy_into(self.row, scalars[k, ...])
            if self.checked:
                for call in self.program:
                    call()
            elif self.program:
                self._check(rows[k])
            else:
                self._record()
        return dict(self.state), {name: backend.xp.asarray(a, copy=True) for name, a in self.totals.items()}

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
        after, metrics = self.step(dict(state), batch, row)
        if not second:
            self.totals = {name: self._copied(self.backend.xp.zeros_like(_plain(m))) for name, m in metrics.items()}
        for name, m in metrics.items():
            tape.write("add", (tape.hold(self.totals[name]), m), tape.hold(self.totals[name]))
        for name, a in after.items():
            if tape.same(_plain(a), self.state[name]):
                continue
            if any(self.backend.shares_memory(_plain(a), other) for other in self.state.values()):
                raise NotRecordedError(f"the step hands back another array of its state as {name!r}")
            tape.write("asarray", (a,), tape.hold(self.state[name]))
        if self.tape is not None:
            if [c.name for c in tape.calls] != [c.name for c in self.tape.calls]:
                message = "the step does not do the same thing every time"
                raise NotRecordedError(message)
            self.program = tape.program()
        self.tape = tape

    def _check(self, row: Sequence[float]) -> None:
        """Run one step plainly and replayed: all numbers must be the same."""
        totals = {name: self._copied(a) for name, a in self.totals.items()}
        state = {name: self._copied(a) for name, a in self.state.items()}
        h = self.backend.scalars(row, state["params"].dtype)
        state, metrics = self.step(state, dict(self.inputs), h)
        expected = {**state, **{f"{name} (metric)": totals[name] + m for name, m in metrics.items()}}
        for call in self.program:
            call()
        found = {**self.state, **{f"{name} (metric)": a for name, a in self.totals.items()}}
        different = [name for name, a in expected.items() if not self._same(found[name], a)]
        self.checked = not different
        if different and self.in_place:  # a library whose products depend on where they are written
            self.in_place, self.program = False, []
            for name, a in expected.items():
                self.backend.copy_into(found[name], a)
        elif different:
            raise NotRecordedError(f"a replayed step differs from the step itself in {', '.join(different)}")

    def _same(self, a: Array, b: Array) -> bool:
        xp = self.backend.xp
        return bool(xp.all((a == b) | (xp.isnan(a) & xp.isnan(b))))
