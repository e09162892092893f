"""What a step does, noted: arrays that stand in for the library's own, and the list of calls that they leave.

They do what they are asked, so it is a step like any other, and note each operation with the memory that its result
went to; memory whose array nobody can reach any more is used again by the next of that shape.

What may be done is what the standard has, without looking at values: NotRecordedError says what stood in the way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from portnn.backends.base import Array

if TYPE_CHECKING:
    from portnn.backends.replay import Replaying

_ELEMENTWISE = frozenset(
    (
        *("abs", "add", "divide", "exp", "expm1", "log", "log1p", "maximum", "minimum", "multiply", "negative", "pow"),
        *("sign", "sqrt", "square", "subtract", "tanh"),
    )
)


class NotRecordedError(RuntimeError):
    """A step cannot be recorded, or does not give the same when it is replayed."""


class Call:
    """One operation: ``out`` is the memory that its result goes to, ``pieces`` what a concat joins.

    ``fixed`` are the places among the arguments of what is the same in every step.
    """

    __slots__ = ("args", "fixed", "kwargs", "name", "out", "pieces")

    def __init__(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Array, fixed: Collection[int] = ()
    ) -> None:
        self.name, self.args, self.kwargs, self.out, self.fixed = name, args, kwargs, out, fixed
        self.pieces: list[Recorded] | None = None


class _Memory:
    """The memory of a result, the call that made it and the last that used it; pooled when no array reaches it."""

    __slots__ = ("array", "last", "made", "pool")

    def __init__(self, array: Array, made: int = -1, pool: list[Array] | None = None) -> None:
        self.array, self.made, self.last, self.pool = array, made, made, pool

    def __del__(self) -> None:
        pool = getattr(self, "pool", None)  # Ctrl-C may have come before it was there
        if pool is not None:
            pool.append(self.array)


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
        if not hasattr(value, "shape"):
            value = self.tape.backend.asarray(value, part.dtype)
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

    ``before`` is the tape of the same step, if there is one: the pieces of its concats are then made in their places,
    and what is computed number by number is written over an array that is not needed any more. Results that have
    nothing to do with products are kept out of their memory: their threads leave that in the caches of all cores, and
    to write to it takes several times as long.
    """

    def __init__(self, backend: Replaying, before: Tape | None = None) -> None:
        self.backend, self.xp = backend, backend.xp
        self.calls: list[Call] = []
        self.places, self.left = ({}, {}) if before is None else before.places_of_pieces()
        self.pools: dict[Any, list[Array]] = {}
        self.of_products: set[int] = set()  # the numbers of the calls whose memory products read or write
        self.last: dict[int, int] = {}  # of the memory that a call made, the last call that used it
        self.before = before

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
        given_args, given_kwargs = plain(args), {key: plain(value) for key, value in kwargs.items()}
        result = getattr(self.xp, name)(*given_args, **given_kwargs)
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
        if name == "matmul":
            self.of_products |= {number, *(a.memory.made for a in given)}
        out = self.places.get(number)
        if out is None:
            out = result
            if name != "concat":
                pool = self.pools.setdefault((tuple(result.shape), result.dtype, self._for_products(number)), [])
                out = self._left_by(name, given, result, number)
                if out is None:
                    out = pool.pop() if pool else result
        fixed = [i for i, a in enumerate(args) if not isinstance(a, Recorded | tuple | list)]
        call = Call(name, given_args, given_kwargs, out, fixed)
        along_last = kwargs.get("axis", 0) in (-1, result.ndim - 1)
        if name == "concat" and along_last and all(isinstance(piece, Recorded) for piece in args[0]):
            call.pieces = list(args[0])
        if out is not result:
            self.backend.copy_into(out, result)
        self.calls.append(call)
        return Recorded(self, out, _Memory(out, number, pool))

    def _for_products(self, number: int) -> bool:
        return self.before is not None and number in self.before.of_products

    def _left_by(self, name: str, given: Sequence[Recorded], result: Array, number: int) -> Array:
        """Return the memory of an argument that nothing uses after this call, to write the result over it."""
        if self.before is None or name not in _ELEMENTWISE:
            return None
        for memory in dict.fromkeys(a.memory for a in given):
            if not all(self.same(a.value, memory.array) for a in given if a.memory is memory):
                continue  # a part, or a view in another order, is read at other times than it is written
            fits = tuple(memory.array.shape) == tuple(result.shape) and memory.array.dtype == result.dtype
            dies = memory.pool is not None and self.before.last.get(memory.made) == number
            if fits and dies and self._for_products(memory.made) == self._for_products(number):
                memory.pool = None  # it lives on
                return memory.array
        return None

    def write(self, name: str, args: tuple[Any, ...], to: Recorded) -> Recorded:
        """Do it with the result written over an array, and note it."""
        self._used((*args, to))
        self.calls.append(Call(name, plain(args), {}, to.value))
        self.backend.bind(self.calls[-1])()
        return to

    def _used(self, things: Any) -> list[Recorded]:
        """Return the recorded arrays among the arguments of the call that is to be noted."""
        found = []
        for thing in things:
            if isinstance(thing, Recorded):
                thing.memory.last = self.last[thing.memory.made] = len(self.calls)
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

    def forget(self) -> None:
        """Let go of arrays that know their tape: in a circle they would wait for the garbage collector."""
        for call in self.calls:
            call.pieces = None
        if self.before is not None:
            self.before.forget()
        self.pools, self.before = {}, None

    def program(self) -> list[Call]:
        """Return the calls in order, without the copies that are left out since the pieces lie in their places.

        What a library can do in one call, as comparing and casting what comes out, is one where nothing else sees what
        is in between.
        """
        calls: list[Call] = []
        for number, call in enumerate(self.calls):
            if number in self.left and call.pieces is not None:
                stops = list(itertools.accumulate(piece.shape[-1] for piece in call.pieces))
                for i in self.left[number]:
                    part = call.out[..., stops[i] - call.pieces[i].shape[-1] : stops[i]]
                    calls.append(Call("asarray", (call.pieces[i].value,), {}, part))
            else:
                follows = bool(calls) and calls[-1] is self.calls[number - 1] and self.last.get(number - 1) == number
                one = self.backend.fused(calls[-1], call) if follows else None
                if one is not None:
                    calls.pop()
                calls.append(call if one is None else one)
        return calls

    def in_turns(self, whole: Array) -> tuple[list[list[Call]], list[Array]]:
        """Return the programs of even and odd steps, which trade two places, and the places; one where that fails.

        A vector that products have read is in the caches of all cores, and to write over it takes longer than the
        update itself. So what a step makes of ``whole`` goes to the place of the gradient, which is not needed any more
        by then, and the next step makes its gradient where ``whole`` was.
        """
        calls, backend = self.program(), self.backend
        joined = [call.out for call in self.calls if call.name == "concat" and backend.writes_to(call.out, whole)]
        other = next((a for a in reversed(joined) if a.shape == whole.shape and a.dtype == whole.dtype), None)
        writers = [number for number, call in enumerate(calls) if backend.shares_memory(call.out, whole)]
        if other is None or len(writers) != 1 or not self.same(calls[writers[0]].out, whole):
            return [calls], [whole]
        number, last = writers[0], calls[writers[0]]
        used = [a for call in calls[number + 1 :] for a in (*_arrays(call.args), call.out)]
        used += [] if last.name in _ELEMENTWISE else list(_arrays(last.args))
        used += [a for a in _arrays(last.args) if backend.shares_memory(a, other) and not self.same(a, other)]
        if any(backend.shares_memory(a, other) for a in used):
            return [calls], [whole]

        def traded(thing: Any, pairs: Sequence[tuple[Array, Array]]) -> Any:
            if isinstance(thing, tuple | list):
                return type(thing)(traded(part, pairs) for part in thing)
            moves = (pair for pair in pairs if backend.owns(thing) and backend.shares_memory(thing, pair[0]))
            return next((backend.moved(thing, *pair) for pair in moves), thing)

        def all_traded(of: list[Call], *pairs: tuple[Array, Array]) -> list[Call]:
            return [Call(c.name, traded(c.args, pairs), c.kwargs, traded(c.out, pairs), c.fixed) for c in of]

        even = [*calls[:number], Call(last.name, last.args, last.kwargs, other, last.fixed)]
        even += all_traded(calls[number + 1 :], (whole, other))
        return [even, all_traded(even, (whole, other), (other, whole))], [whole, other]


def _arrays(things: Any) -> Iterator[Array]:
    for thing in things:
        if isinstance(thing, tuple | list):
            yield from _arrays(thing)
        elif hasattr(thing, "shape"):
            yield thing


def _types(things: Any) -> str:
    return ", ".join(type(thing).__name__ for thing in things)


def plain(thing: Any) -> Any:
    """Return the library's arrays in the place of those that stand in for them."""
    if isinstance(thing, Recorded):
        return thing.value
    return type(thing)(map(plain, thing)) if type(thing) in (tuple, list) else thing
