"""The loop: epochs, chunks of steps, what is read back to the host once per chunk, and where a training stands."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from portnn.alike import arrays_of_first, check_equal, error_of_all, history_of_first, remembered_by_first
from portnn.backends.base import Rows, State
from portnn.callbacks import Callback, called, during
from portnn.checkpoint_record import Kept
from portnn.diagnosis import first_fault, read_back, watched
from portnn.dropout import sample_words
from portnn.evaluation import Judge, added, judged, means
from portnn.feed import places_of, plan
from portnn.group import Group
from portnn.history import History, Reached, sendable
from portnn.interrupts import uninterrupted
from portnn.memory import checkpoint_wants, enough, state_wants, training_wants
from portnn.mlp import MLP
from portnn.optimizers import Optimizer
from portnn.progress import Bar
from portnn.saver import Position, Saver, observers
from portnn.step import beginning, copied, drops

Order = Callable[[int], Any]


@dataclass
class Loop:
    """One training: what it consists of, and where it stands.

    ``order_of`` gives the order of an epoch, ahead of time where ``ahead``; ``gone`` are the names of what an earlier
    training wrote down and this one does not; ``saver`` is None without checkpoints. Of a ``group`` the first alone has
    callbacks, a saver and a bar: the others are told what these have done.
    """

    history: History
    model: MLP
    compiled: Any  # portnn.step.Chunks, or Reduced
    judge: Judge
    optimizer: Any
    feed: Any  # portnn.feed.Feed, or what streams from files
    held_out: Any
    batch_size: int
    order_of: Order
    ahead: bool
    gone: Collection[str]
    seed: int
    callbacks: Sequence[Callback]
    saver: Saver | None
    progress: bool
    position: Position
    group: Group
    names: tuple[str, ...] = field(init=False)  # of the arrays that must stay finite
    written: int = field(init=False, default=0)  # epochs that are in the history
    called: bool = field(init=False, default=False)  # the first has callbacks
    _schedules: list[Any] = field(init=False, default_factory=list)  # of other ranks, and what they remembered
    _next: tuple[int, Any] = field(init=False, default=(-1, None))  # an epoch and its order

    def __post_init__(self) -> None:
        """Settle what is looked at."""
        self.names = watched(self.optimizer, self.position.state)

    def run(self, epochs: int, kept: Kept | None = None) -> History:
        """Train until so many epochs are finished, those before included, and return the history.

        ``kept`` is the checkpoint at which the position is. Where a callback or the saver refuses before the first
        step, the model and the schedules are as they were.
        """
        given: State | None = self.position.state if kept is None else copied(self.model.backend, _held(self.model))
        stack = contextlib.ExitStack()
        try:
            if kept is not None:
                state = self.position.state  # what callbacks begin with
                self.model.params, self.model.running = state["params"], state.get("running")
            with self.group.together():
                stack.enter_context(during(self.callbacks, self.model, self.history))
                self._begin(kept)
            self._be_as_the_first()
            given = None
            history = self._run(self.group.told(epochs))
            with self.group.together():
                stack.close()  # callbacks may put the best parameters back
            if self.called:
                self._hold_as_the_first()
            return history
        except BaseException as error:
            try:
                self._end(stack, error, telling=self.called and given is None)
            finally:
                if given is not None:
                    self._put_back(given)
            raise

    def _end(self, stack: contextlib.ExitStack, error: BaseException, *, telling: bool) -> None:
        """Tell callbacks of the end, which an error has brought, and then the other ranks what these have left."""
        try:
            with self.group.together() if self.group.agreed(error) else contextlib.nullcontext():
                stack.__exit__(type(error), error, error.__traceback__)
        except BaseException as worse:
            error = worse
            raise
        finally:
            if telling and self.group.agreed(error):
                self._hold_as_the_first()

    def _put_back(self, given: State) -> None:
        """Have the model, and the schedules, as they were."""
        with uninterrupted():
            self.model._adopt(given["params"], given.get("running"))
            if self.saver is not None:
                self.saver.put_back()
            for schedule, state in self._schedules:
                schedule.restore(state)

    def _begin(self, kept: Kept | None) -> None:
        """Start from what ``on_begin`` has left in the model, or from a checkpoint."""
        if kept is None and any(hasattr(callback, "on_begin") for callback in self.callbacks):
            state = beginning(self.model, self.optimizer)
            if self.history.reached is not None:  # the optimizer goes on
                own = ("params", "running", "units")
                state |= {name: a for name, a in self.position.state.items() if name not in own}
            self.position = self.position._replace(state=state)
        if self.saver is not None:
            if kept is not None:
                self.saver.restore(kept, self.history.epochs)
            self.saver.begin(self.position, self.history)

    def _be_as_the_first(self) -> None:
        """Stand where the first of the group stands, with what its callbacks and its checkpoint have led to."""
        group, place = self.group, self.position._replace(state={})
        if group.size == 1:
            return
        self.called = group.told(bool(self.callbacks))
        state = arrays_of_first(group, self.model.backend, self.position.state)
        self.position = group.told(place)._replace(state=state)
        changed = remembered_by_first(group, getattr(self.optimizer, "learning_rate", None))
        self._schedules = [(schedule, before) for schedule, before, _ in changed]
        for schedule, _, told in changed:
            schedule.restore(told)
        self.gone = history_of_first(group, self.history, self.gone)
        check_equal(group, self.model.backend, state, self.position.updates)

    def _hold_as_the_first(self) -> None:
        """Have the model of the first of the group, whose callbacks may have changed it in the end."""
        held = arrays_of_first(self.group, self.model.backend, _held(self.model))
        self.model._adopt(held["params"], held.get("running"))
        self.group.gathered(None)  # the first, which does not wait for the others, must not leave before them

    def _run(self, epochs: int) -> History:
        self.written = self.position.epoch
        bar = Bar(
            self.progress and self.group.rank == 0,
            epochs,
            self.feed.n,
            self.position.epoch * self.feed.n + self.position.row,
        )
        try:
            while self.position.epoch < epochs and not self.position.ended:
                self._train(epochs, bar)
                self._finish(bar)
        except KeyboardInterrupt:
            if self.group.size > 1 and not self.group.heeded:
                raise
            self.history.interrupted = True
            self._save()
        finally:
            with uninterrupted():
                state = self.position.state  # nothing here allocates: memory may be what has run out
                self.model._adopt(state["params"], state.get("running"))
                kept = {name: a for name, a in state.items() if name not in ("params", "running", "units")}
                self.history.reached = Reached(self.written, self.position.updates, kept)
                bar.close()
        return self.history

    def _train(self, epochs: int, bar: Bar) -> None:
        """Make the steps of an epoch that are still to be made."""
        model, feed, backend, began = self.model, self.feed, self.model.backend, time.perf_counter()
        epoch, seconds, sums = self.position.epoch, self.position.seconds, self.position.sums
        order = self._next[1] if self._next[0] == epoch else self._order(epoch)
        with contextlib.ExitStack() as stack:
            with self._reading():
                visit = stack.enter_context(feed.visited(epoch, order, self.position.row, self.group, self.batch_size))
            for start, steps, size in self._chunks():
                stop, state, count = start + steps * size, self.position.state, self.position.updates
                rows = self.group.told(_rows(self.optimizer, count, steps))
                wanted = functools.partial(training_wants, model, steps, size)
                with enough(backend, wanted):
                    # Kept aside: what training goes back to where the chunk is interrupted or meets a NaN.
                    before = copied(backend, state)
                    self.position = self.position._replace(state=before)
                with self._reading() if feed.from_files else enough(backend, wanted):
                    chunk = visit.chunk(start, steps, size)
                with enough(backend, wanted):
                    totals = visit.totals(start, steps, size)
                    if drops(model):
                        words = sample_words(self.seed, epoch, steps * size, start)
                        own = places_of(0, steps, size, self.group)
                        chunk["samples"] = Rows(backend, backend.asarray(words[own]))
                    state, metrics = self.compiled.run(steps, size, state, chunk, rows, before, totals)
                    if self.ahead and stop == feed.n and order is not None and epoch + 1 < epochs:
                        self._next = epoch + 1, self.order_of(epoch + 1)  # while the device is at work
                    total, finite = read_back(backend, metrics, [state[name] for name in self.names])
                due = self.saver is not None and stop < feed.n and self.saver.due(count + steps)
                each = self.group.gathered((total, finite, self.group.pressed(), due))
                if not all(finite for _, finite, _, _ in each):
                    made = (self.compiled, before, chunk, rows, steps, size, self.names, totals, self.group)
                    fault = first_fault(model, *made)
                    self.position = self.position._replace(state=fault.before, updates=count + fault.step)
                    numbers = visit.numbers(start, steps, size)
                    where = (epoch, start // self.batch_size, size, self.optimizer, count + fault.step)
                    raise error_of_all(self.group, fault, numbers, *where)
                sums = functools.reduce(added, (total for total, *_ in each), sums or {})
                # In one assignment: Ctrl-C comes before it or after it.
                self.position = self.position._replace(
                    row=stop,
                    updates=count + steps,
                    state=state,
                    sums=sums,
                    seconds=seconds + time.perf_counter() - began,
                )
                bar.advance(steps * size, functools.partial(means, sums))
                if any(pressed for _, _, pressed, _ in each):
                    raise self.group.heed()
                if any(due for _, _, _, due in each):
                    saving = time.perf_counter()
                    self._save()
                    began += time.perf_counter() - saving

    def _order(self, epoch: int) -> Any:
        """Return the order of an epoch: a function of the user's is called by the first alone."""
        if self.ahead or self.group.size == 1:
            return self.order_of(epoch)
        with self.group.together():
            order = self.order_of(epoch) if self.group.rank == 0 else None
        return self.group.told(order)

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which files are read, which may fail on one rank alone."""
        return self.group.together() if self.feed.from_files else contextlib.nullcontext()

    def _finish(self, bar: Bar) -> None:
        """Validate, write down, and call the callbacks."""
        model, position = self.model, self.position
        with enough(model.backend, functools.partial(state_wants, model, "fit")):
            model.params, model.running = position.state["params"], position.state.get("running")
        entry = means(position.sums or {}, self.feed.n)
        if self.held_out is not None:
            where, fewer = f"fit: epoch {position.epoch + 1}, validation data", "validation_data=(x[:{0}], t[:{0}])"
            place = {"epoch": position.epoch + 1}
            scores = judged(model, self.judge, self.held_out, where, fewer, self.group, **place)
            entry |= {f"val_{name}": value for name, value in scores.items()}
        if hasattr(self.optimizer, "rate"):
            entry["learning_rate"] = self.optimizer.rate(position.updates - 1)
        entry["epoch_seconds"] = position.seconds
        entry = self.group.told(entry)
        with uninterrupted():  # all lists of the history have this epoch, or none
            _write_down(self.history, entry, self.gone)
            _observe(getattr(self.optimizer, "learning_rate", None), entry.get("val_loss", entry["loss"]))
            self.written = position.epoch + 1
        bar.ended(entry)
        state, ended = position.state, False
        with self.group.together():
            try:
                for callback in self.callbacks:
                    ended = bool(called(callback, model, self.history)) or ended
                    with enough(model.backend, functools.partial(state_wants, model, "fit")):
                        state = {**state, **copied(model.backend, _held(model))}  # it may have set them
            except Exception:
                self.position = position._replace(state=state)
                raise
            settled = None if self.saver is None else self.saver.settled(self.history)
            more = self._lists_of_callbacks(entry)
        if self.called:
            ended, state = self._as_called(ended, state, more)
        begun = Position(*(position.epoch + 1, 0, position.updates, state), chunk_rows=position.chunk_rows, ended=ended)
        with uninterrupted():  # what is saved from now on is of one epoch
            self.position = begun
            if self.saver is not None and settled is not None:
                self.saver.settle(settled)
        check_equal(self.group, model.backend, self.position.state, self.position.updates)
        self._save()

    def _lists_of_callbacks(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return what callbacks have written down, for the other ranks."""
        if self.group.size == 1:
            return {}
        return sendable({n: v for n, v in self.history.items() if n not in entry and n not in self.gone})

    def _as_called(self, ended: bool, state: State, more: dict[str, Any]) -> tuple[bool, State]:
        """Have what callbacks, which the first of the group has called, left in the model and in the history."""
        ended, more = self.group.told((ended, more))
        held = {name: a for name, a in state.items() if name in ("params", "running")}
        state = {**state, **arrays_of_first(self.group, self.model.backend, held)}
        if self.group.rank:
            self.history.update(more)
            self.model.params, self.model.running = state["params"], state.get("running")
        return ended, state

    def _chunks(self) -> list[tuple[int, int, int]]:
        """Return the chunks of this epoch that are still to be run, cut as they would be without an interruption."""
        feed, row = self.feed, self.position.row
        if not self.position.chunk_rows:
            n_params = self.model.n_params * (self.model.members or 1)
            most = self.group.told(feed.chunk_rows(n_params, self.batch_size))
            self.position = self.position._replace(chunk_rows=most)
        chunks = plan(feed.n, self.batch_size, self.position.chunk_rows)
        left = [chunk for chunk in chunks if chunk[0] >= row]
        if row < feed.n and (not left or left[0][0] != row):  # elsewhere chunks were cut in another way
            rest = plan(feed.n - row, self.batch_size, self.position.chunk_rows)
            left = [(row + start, steps, size) for start, steps, size in rest]
        return left

    def _save(self) -> None:
        with self.group.together():
            if self.saver is not None:
                with enough(self.model.backend, functools.partial(checkpoint_wants, self.model)):
                    self.saver.save(self.position, self.history)


def _write_down(history: History, entry: dict[str, Any], gone: Collection[str]) -> None:
    """Append the numbers of an epoch; NaN stands for what was not asked for in some epochs of a resumed training."""
    done = len(history.get("loss", ()))
    for name, value in entry.items():
        nothing = [numpy.nan] * len(value) if isinstance(value, list) else numpy.nan
        history.setdefault(name, [nothing] * done).append(value)
    for name in gone:
        last = history[name][-1]
        history[name].append([numpy.nan] * len(last) if isinstance(last, list) else numpy.nan)


def _held(model: MLP) -> State:
    return {"params": model.params} if model.running is None else {"params": model.params, "running": model.running}


def _rows(optimizer: Any, start: int, steps: int) -> list[Any]:
    """Return the host scalars of some updates; an optimizer of the user's need only know those of one."""
    if isinstance(optimizer, Optimizer):
        return optimizer.rows(start, steps)
    return [optimizer.row(start + k) for k in range(steps)]


def _observe(learning_rate: Any, loss: Any) -> None:
    """Show a plateau schedule the loss of an epoch: that of its member, or the mean where it is for all of them."""
    if isinstance(learning_rate, tuple):
        for rate, own in zip(learning_rate, loss, strict=True):
            _observe(rate, own)
    elif observers(learning_rate):
        learning_rate.observe(float(numpy.mean(loss)))
