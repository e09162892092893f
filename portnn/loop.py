"""The loop: epochs, chunks of steps, what is read back to the host once per chunk, and where a training stands."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from portnn.backends.base import Rows, State
from portnn.callbacks import Callback, called, during
from portnn.checkpoint_record import Kept
from portnn.diagnosis import first_fault, read_back, watched
from portnn.dropout import sample_words
from portnn.evaluation import Judge, judged, means
from portnn.feed import CHUNK_ROWS, Feed, plan, rows_per_chunk
from portnn.history import History, Reached
from portnn.interrupts import uninterrupted
from portnn.memory import checkpoint_wants, enough, state_wants, training_wants
from portnn.mlp import MLP
from portnn.optimizers import Optimizer
from portnn.progress import Bar
from portnn.saver import Position, Saver, observers
from portnn.step import Chunks, beginning, copied, drops

Order = Callable[[int], Any]


@dataclass
class Loop:
    """One training: what it consists of, and where it stands.

    ``order_of`` gives the order of an epoch, ahead of time where ``ahead``; ``gone`` are the names of what an earlier
    training wrote down and this one does not; ``saver`` is None without checkpoints.
    """

    history: History
    model: MLP
    compiled: Chunks
    judge: Judge
    optimizer: Any
    feed: Feed
    held_out: Feed | None
    batch_size: int
    order_of: Order
    ahead: bool
    gone: Collection[str]
    seed: int
    callbacks: Sequence[Callback]
    saver: Saver | None
    progress: bool
    position: Position
    names: tuple[str, ...] = field(init=False)  # of the arrays that must stay finite
    written: int = field(init=False, default=0)  # epochs that are in the history
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
        try:
            if kept is not None:
                state = self.position.state  # what callbacks begin with
                self.model.params, self.model.running = state["params"], state.get("running")
            with during(self.callbacks, self.model, self.history):
                self._begin(kept)
                given = None
                return self._run(epochs)
        except BaseException:
            if given is not None:
                with uninterrupted():
                    self.model._adopt(given["params"], given.get("running"))
                    if self.saver is not None:
                        self.saver.put_back()
            raise

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

    def _run(self, epochs: int) -> History:
        self.written = self.position.epoch
        bar = Bar(self.progress, epochs, self.feed.n, self.position.epoch * self.feed.n + self.position.row)
        try:
            while self.position.epoch < epochs and not self.position.ended:
                self._train(epochs, bar)
                self._finish(bar)
        except KeyboardInterrupt:
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
        order = self._next[1] if self._next[0] == epoch else self.order_of(epoch)
        words = sample_words(self.seed, epoch, feed.n) if drops(model) else None
        for start, steps, size in self._chunks():
            here = slice(start, start + steps * size)
            state, count = self.position.state, self.position.updates
            rows = _rows(self.optimizer, count, steps)
            with enough(backend, functools.partial(training_wants, model, steps, size)):
                # Kept aside: where the chunk is interrupted or meets a NaN, training has a good state to go back to.
                before = copied(backend, state)
                self.position = self.position._replace(state=before)
                chunk = feed.chunk(here if order is None else order[here])
                if words is not None:
                    chunk["samples"] = Rows(backend, backend.asarray(words[here]))
                state, metrics = self.compiled.run(steps, size, state, chunk, rows, before)
                if self.ahead and here.stop == feed.n and order is not None and epoch + 1 < epochs:
                    self._next = epoch + 1, self.order_of(epoch + 1)  # while the device is at work
                total, finite = read_back(backend, metrics, [state[name] for name in self.names])
            if not finite:
                fault = first_fault(model, self.compiled, before, chunk, rows, steps, size, self.names)
                self.position = self.position._replace(state=fault.before, updates=count + fault.step)
                numbers = feed.numbers_of(here if order is None else order[here])
                raise fault.error(epoch, start // self.batch_size, numbers, self.optimizer, count + fault.step)
            sums = total if sums is None else {name: sums[name] + value for name, value in total.items()}
            # In one assignment: Ctrl-C comes before it or after it.
            self.position = self.position._replace(
                row=here.stop,
                updates=count + steps,
                state=state,
                sums=sums,
                seconds=seconds + time.perf_counter() - began,
            )
            bar.advance(steps * size, functools.partial(means, sums))
            if self.saver is not None and here.stop < feed.n and self.saver.due(self.position):
                saving = time.perf_counter()
                self._save()
                began += time.perf_counter() - saving

    def _finish(self, bar: Bar) -> None:
        """Validate, write down, and call the callbacks."""
        model, position = self.model, self.position
        with enough(model.backend, functools.partial(state_wants, model, "fit")):
            model.params, model.running = position.state["params"], position.state.get("running")
        entry = means(position.sums or {}, self.feed.n)
        if self.held_out is not None:
            where, fewer = f"fit: epoch {position.epoch + 1}, validation data", "validation_data=(x[:{0}], t[:{0}])"
            scores = judged(model, self.judge, self.held_out, where, fewer, epoch=position.epoch + 1)
            entry |= {f"val_{name}": value for name, value in scores.items()}
        if hasattr(self.optimizer, "rate"):
            entry["learning_rate"] = self.optimizer.rate(position.updates - 1)
        entry["epoch_seconds"] = position.seconds
        with uninterrupted():  # all lists of the history have this epoch, or none
            _write_down(self.history, entry, self.gone)
            _observe(getattr(self.optimizer, "learning_rate", None), entry.get("val_loss", entry["loss"]))
            self.written = position.epoch + 1
        bar.ended(entry)
        state, ended = position.state, False
        try:
            for callback in self.callbacks:
                ended = bool(called(callback, model, self.history)) or ended
                with enough(model.backend, functools.partial(state_wants, model, "fit")):
                    state = {**state, **copied(model.backend, _held(model))}  # it may have set them
        except Exception:
            self.position = position._replace(state=state)
            raise
        settled = None if self.saver is None else self.saver.settled(self.history)
        begun = Position(*(position.epoch + 1, 0, position.updates, state), chunk_rows=position.chunk_rows, ended=ended)
        with uninterrupted():  # what is saved from now on is of one epoch
            self.position = begun
            if self.saver is not None and settled is not None:
                self.saver.settle(settled)
        self._save()

    def _chunks(self) -> list[tuple[int, int, int]]:
        """Return the chunks of this epoch that are still to be run, cut as they would be without an interruption."""
        feed, row = self.feed, self.position.row
        if not self.position.chunk_rows:
            n_params = self.model.n_params * (self.model.members or 1)
            most = CHUNK_ROWS if feed.streamed else rows_per_chunk(n_params)
            self.position = self.position._replace(chunk_rows=most)
        chunks = plan(feed.n, self.batch_size, self.position.chunk_rows)
        left = [chunk for chunk in chunks if chunk[0] >= row]
        if row < feed.n and (not left or left[0][0] != row):  # elsewhere chunks were cut in another way
            rest = plan(feed.n - row, self.batch_size, self.position.chunk_rows)
            left = [(row + start, steps, size) for start, steps, size in rest]
        return left

    def _save(self) -> None:
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
