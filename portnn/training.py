"""The loop: epochs, chunks of steps, and what is read back to the host once per chunk."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy

from portnn import checks, random
from portnn.backends import Array
from portnn.backends.base import Rows, State
from portnn.callbacks import Callback, during
from portnn.diagnosis import first_non_finite
from portnn.dropout import sample_words
from portnn.errors import NonFiniteError, shown
from portnn.evaluation import Judge, checked, judged, make_judge, means, read_back
from portnn.feed import CHUNK_ROWS, Feed, plan, rows_per_chunk, split
from portnn.history import History, Reached
from portnn.interrupts import uninterrupted
from portnn.losses import get_loss
from portnn.mlp import MLP
from portnn.optimizers import Adam, Optimizer, get_optimizer
from portnn.progress import Bar
from portnn.step import Chunks, beginning, copied, drops, make_step

Order = Callable[[int], Any]


def fit(
    model: MLP,
    x: Array,
    t: Array,
    *,
    loss: Any = "cross_entropy",
    optimizer: Any = None,
    epochs: int = 10,
    batch_size: int | None = None,
    validation_data: tuple[Array, Array] | None = None,
    validation_split: float | None = None,
    sample_weight: Array | None = None,
    class_weight: Any = None,
    l1: float | Sequence[float] = 0.0,
    l2: float | Sequence[float] = 0.0,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    per_batch: bool = False,
    shuffle: bool | Order = True,
    seed: int = 0,
    resume: History | None = None,
    compile: bool | str = "auto",
    callbacks: Callback | Sequence[Callback] = (),
    progress: bool = True,
) -> History:
    """Train ``model`` in place by mini-batches and return the history.

    Parameters
    ----------
    model
        The network; its ``params`` are replaced at the end of every epoch.
    x
        ``(n, n_features)``, of any real dtype: a NumPy array, one of the model's library on its device, or one of a
        third library, which is read where it lies if the model's library or NumPy can (DLPack).
    t
        Integer labels ``(n,)`` or targets ``(n, n_outputs)``.
    loss
        A name or a pair; see :mod:`portnn.losses`.
    optimizer
        An object of :mod:`portnn.optimizers` or a name; Adam(1e-3) by default. With members its learning rate may be
        a sequence of one number or schedule for each: ``Adam([1e-3, 1e-2])``.
    epochs
        A whole number of at least 1.
    batch_size
        A whole number of at least 1; by default 128, or all samples where they are fewer. The last batch of an epoch
        may be smaller. With batch norm at least 2; a last batch of one sample is normalized with the running statistics
        and leaves them as they are.
    validation_data, validation_split
        A pair (x, t), or the fraction of the samples that is held out, chosen by ``seed``. ``val_loss`` counts class
        weights as the training does, and the sample weights of held-out samples.
    sample_weight, class_weight, l1, l2
        As in :meth:`portnn.MLP.loss_and_grad`.
    clip_value, clip_norm
        Hold each entry of the gradient in [-clip_value, clip_value]; scale the whole gradient down to the Euclidean
        norm clip_norm. With both, by value first.
    per_batch
        True counts as scikit-learn does: l1 and l2 are divided by the number of samples of the batch, or by the sum of
        their weights, and the loss of an epoch is the mean of its batches' losses, each counted by its number of
        samples, whatever their weights.
    shuffle, seed
        The order of an epoch is a pure function of (seed, epoch), the same on every backend; False keeps the order
        of the data. A function of yours gives the order itself: ``shuffle(epoch)``, epochs counted from 0, returns the
        numbers of the rows, each once. The masks of dropout are such a function, too; members of an ensemble have masks
        of their own by their own seeds.
    resume
        The history of an earlier fit of this model with this optimizer: its epochs, updates and the optimizer's arrays
        are counted on, and the history that is returned begins with it.
    compile
        True: the steps are compiled (JAX), captured (CUDA graphs) or recorded and replayed (NumPy, torch on the CPU):
        functions of yours are then called once or a few times, and what stands in the way is raised. False: each
        step is run as it is written. ``"auto"``: compiled where that works, with a warning where it does not; but NumPy
        and torch on the CPU run steps with functions of yours as they are written. Under JAX and on GPUs such functions
        are compiled as well, and what they do besides returning arrays is done at most a few times.
    callbacks
        Functions ``f(model, history)``, called after every epoch; a true value ends the training. Those of
        :mod:`portnn.callbacks` stop early, keep the best, write logs; what has methods ``on_begin`` and ``on_end`` is
        told of both.
    progress
        Show a bar (needs tqdm) on a terminal or in a notebook; nothing where the output is a file or a pipe.

    Returns
    -------
    history
        Lists of one number per epoch; ``history.interrupted`` is True if Ctrl-C ended it. Model and history are
        then those of the last chunk of steps and the last epoch that were finished.

    Raises
    ------
    NonFiniteError
        A NaN or an infinity arose. The model keeps the last finite parameters; ``error.members`` are the members in
        which it did, ``error.history`` is what came before.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> model = MLP([1, 1], init="zeros", dtype="float64")
    >>> history = fit(model, x, 3 * x + 1, loss="mse", optimizer="sgd", epochs=200, batch_size=64)
    >>> model.params.round(3)
    array([3., 1.])

    """
    with model.scope():
        who, entry = "fit", get_loss(loss)
        optimizer = get_optimizer(Adam() if optimizer is None else optimizer)
        epochs = checks.check_count(who, "epochs", epochs)
        asked = batch_size if batch_size is None else checks.check_count(who, "batch_size", batch_size)
        seed = random.check_seed(seed, who)
        clip_value, clip_norm = (
            None if limit is None else checks.check_number(who, name, limit, 0.0, open_low=True)
            for name, limit in (("clip_value", clip_value), ("clip_norm", clip_norm))
        )
        if not isinstance(compile, bool) and compile != "auto":
            raise ValueError(f"{who}: compile must be True, False or 'auto', got {shown(compile)}")
        callbacks = [callbacks] if callable(callbacks) else list(callbacks)
        if resume is not None and not isinstance(resume, History):
            raise TypeError(f"{who}: resume must be the History of an earlier fit, got {type(resume).__name__}")
        model.check_finite(who)
        data, held = checked(model, entry, x, t, sample_weight, class_weight, who), None
        if validation_split is not None:
            if validation_data is not None:
                raise ValueError(f"{who}: give validation_data or validation_split, not both")
            train, rest = split(data.t.shape[0], validation_split, seed, who)
            data, held = data.rows(train, model, who), data.rows(rest, model, who)
        elif validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                raise ValueError(f"{who}: validation_data must be a pair (x, t), got {type(validation_data).__name__}")
            held = checked(model, entry, *validation_data, None, data.classes, f"{who}: validation_data")
        n = data.t.shape[0]
        if asked is not None and asked > n:
            warnings.warn(f"{who}: batch_size {asked} is larger than the {n} samples; it is clipped", stacklevel=2)
        if per_batch:
            l1, l2 = (
                _times(checks.check_penalty(who, *named, model.members), data.unit)
                for named in (("l1", l1), ("l2", l2))
            )
        if model.running is not None and min(asked or 128, n) == 1:
            raise ValueError(f"{who}: batch norm needs at least 2 samples in a batch, batch_size is 1; raise it")
        step = make_step(
            *(model, entry, optimizer),
            clip_value=clip_value,
            clip_norm=clip_norm,
            l1=l1,
            l2=l2,
            output_share=data.share,
            per_batch=per_batch,
        )
        history = History({name: list(entries) for name, entries in (resume or {}).items()})
        history.epochs = len(history.get("loss", ())) + epochs
        history.names = _names(entry.kind, optimizer, held is not None)
        history.reached = None if resume is None else resume.reached
        gone = [name for name in (resume.names if resume is not None else ()) if name not in history.names]
        of_members = any(isinstance(loss, list) for loss in history.get("loss", ()))
        if history and of_members != (model.members is not None):
            kinds = ("one network", "networks with members")
            message = f"{who}: resume is the history of {kinds[of_members]}, the model is {kinds[not of_members]}"
            raise ValueError(message)
        begun = _begun(history.reached, model, optimizer)  # refuses what does not fit
        with during(callbacks, model, history):
            return _run(
                history,
                begun,
                model,
                Chunks(model.backend, step, compile),
                make_judge(model, entry, data.share),
                optimizer,
                data.feed(model),
                None if held is None else held.feed(model),
                epochs,
                min(asked or 128, n),
                _orders(shuffle, seed, n, who),
                not callable(shuffle),
                gone,
                seed,
                callbacks,
                progress,
            )


def _times(penalty: float | tuple[float, ...], unit: float) -> float | tuple[float, ...]:
    """Return a penalty, or that of each member, in the unit of the weights whose sum it is divided by."""
    return tuple(each * unit for each in penalty) if isinstance(penalty, tuple) else penalty * unit


def _orders(shuffle: bool | Order, seed: int, n: int, who: str) -> Order:
    """Return the function from an epoch to the order of its samples; None keeps that of the data."""
    if not callable(shuffle):
        return (lambda epoch: random.order(seed, epoch, n)) if shuffle else lambda epoch: None

    def order(epoch: int) -> numpy.ndarray:
        rows = numpy.asarray(shuffle(epoch))
        whole = rows.shape == (n,) and rows.dtype.kind in "iu"
        if not whole or (numpy.sort(rows) != numpy.arange(n)).any():
            raise ValueError(f"{who}: shuffle({epoch}) must return the numbers 0 to {n - 1}, each once, in some order")
        return rows

    return order


def _run(
    history: History,
    begun: tuple[int, int, State],
    model: MLP,
    compiled: Chunks,
    judge: Judge,
    optimizer: Any,
    feed: Feed,
    held_out: Feed | None,
    epochs: int,
    batch_size: int,
    order_of: Order,
    ahead: bool,
    gone: Collection[str],
    seed: int,
    callbacks: Sequence[Callback],
    progress: bool,
) -> History:
    backend = model.backend
    first, count, state = begun
    before, finished, dropping = state, first, drops(model)
    most = CHUNK_ROWS if feed.streamed else rows_per_chunk(model.n_params * (model.members or 1))
    chunks = plan(feed.n, batch_size, most)
    bar = Bar(progress, epochs, feed.n)
    try:
        upcoming = order_of(first) if ahead else None
        for epoch in range(first, first + epochs):
            began, sums, order = time.perf_counter(), None, upcoming if ahead else order_of(epoch)
            words = sample_words(seed, epoch, feed.n) if dropping else None
            for start, steps, size in chunks:
                here = slice(start, start + steps * size)
                chunk = feed.chunk(here if order is None else order[here])
                if words is not None:
                    chunk["samples"] = Rows(backend, backend.asarray(words[here]))
                rows = _rows(optimizer, count, steps)
                # Kept aside: where the chunk is interrupted or meets a NaN, training has a good state to go back to.
                before = copied(backend, state)
                try:
                    state, metrics = compiled.run(steps, size, state, chunk, rows, before)
                    if ahead and here.stop == feed.n and order is not None and epoch + 1 < first + epochs:
                        upcoming = order_of(epoch + 1)  # while the device is at work
                    total, finite = read_back(backend, metrics, state["params"], state.get("running"))
                except Exception as error:
                    if backend.ran_out_of_memory(error):
                        raise MemoryError(_too_large(model, steps, size)) from error
                    raise
                if not finite:
                    seen = (model, compiled.step, before, chunk, rows, steps, size)
                    before, step_in_chunk, off, where = first_non_finite(*seen)
                    at, whose = start // batch_size + step_in_chunk, _whose(off, optimizer, count + step_in_chunk)
                    raise NonFiniteError(
                        f"fit: epoch {epoch + 1}, batch {at + 1}: {whose}{where}; the model keeps its last finite "
                        "parameters. Lower the learning rate, clip the gradient (clip_norm), or scale the data",
                        members=off,
                    )
                before, count = state, count + steps
                sums = total if sums is None else {name: sums[name] + value for name, value in total.items()}
                bar.advance(steps * size, functools.partial(means, sums))
            seconds = time.perf_counter() - began
            _hand_over(model, state)
            entry = means(sums or {}, feed.n)
            if held_out is not None:
                entry |= {f"val_{name}": value for name, value in judged(model, judge, held_out).items()}
            if hasattr(optimizer, "rate"):
                entry["learning_rate"] = optimizer.rate(count - 1)
            entry["epoch_seconds"] = seconds
            with uninterrupted():  # all lists of the history have this epoch, or none
                _write_down(history, entry, gone)
                _observe(getattr(optimizer, "learning_rate", None), entry.get("val_loss", entry["loss"]))
                finished = epoch + 1
            bar.ended(entry)
            ended = [callback(model, history) for callback in callbacks]
            state = before = {**state, **copied(backend, _held(model))}  # a callback may have set them
            if any(ended):
                break
    except KeyboardInterrupt:
        history.interrupted = True
    finally:
        with uninterrupted():
            _hand_over(model, before)
            kept = {name: a for name, a in before.items() if name not in ("params", "running", "units")}
            history.reached = Reached(finished, count, copied(backend, kept))  # memory that no later fit writes to
            bar.close()
    return history


def _write_down(history: History, entry: dict[str, Any], gone: Collection[str]) -> None:
    """Append the numbers of an epoch; NaN stands for what was not asked for in some epochs of a resumed training."""
    done = len(history.get("loss", ()))
    for name, value in entry.items():
        nothing = [numpy.nan] * len(value) if isinstance(value, list) else numpy.nan
        history.setdefault(name, [nothing] * done).append(value)
    for name in gone:
        last = history[name][-1]
        history[name].append([numpy.nan] * len(last) if isinstance(last, list) else numpy.nan)


def _names(kind: str, optimizer: Any, validated: bool) -> tuple[str, ...]:
    """Return what an epoch puts into the history, in its order."""
    seen = ["loss"] + ["accuracy"] * (kind in ("classes", "binary"))
    seen += [f"val_{name}" for name in seen] * validated + ["learning_rate"] * hasattr(optimizer, "rate")
    return (*seen, "epoch_seconds")


def _begun(reached: Reached | None, model: MLP, optimizer: Any) -> tuple[int, int, State]:
    """Return the epochs and updates so far, and the state to go on from, on the model's device."""
    state = beginning(model, optimizer)
    if reached is None:
        return 0, 0, state
    epochs, updates, arrays = reached
    shapes, dtype = [{name: tuple(a.shape) for name, a in of.items()} for of in (arrays, state)], model.params.dtype
    own = {name: shape for name, shape in shapes[1].items() if name not in ("params", "running", "units")}
    if shapes[0] != own:
        raise ValueError(f"fit: resume is of another optimizer or model: it kept {shapes[0]}, this one has {own}")
    return epochs, updates, {**state, **{k: model.backend.asarray(a, dtype, copy=True) for k, a in arrays.items()}}


def _held(model: MLP) -> State:
    return {"params": model.params} if model.running is None else {"params": model.params, "running": model.running}


def _hand_over(model: MLP, state: State) -> None:
    model.params, model.running = state["params"], state.get("running")


def _whose(members: Sequence[int], optimizer: Any, step: int) -> str:
    """Name the first of some members, and its learning rate if that is its own."""
    if not members:
        return ""
    rate = optimizer.rate(step) if hasattr(optimizer, "rate") else None
    its_own = f" (learning rate {rate[members[0]]:g})" if isinstance(rate, list) else ""
    return f"member {members[0]}{its_own}: "


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
    elif hasattr(learning_rate, "observe"):
        learning_rate.observe(float(numpy.mean(loss)))


def _too_large(model: MLP, steps: int, batch_size: int) -> str:
    """Say what a chunk that did not fit would have wanted: its rows, and each layer's values there and back."""
    width = 4 if model.dtype == "float32" else 8
    wanted = width * (steps * batch_size * model.sizes[0] + 3 * batch_size * sum(model.sizes) * (model.members or 1))
    wanted += 4 * width * model.n_params * (model.members or 1)
    return (
        f"fit: out of memory: batches of {batch_size} samples want about {wanted} bytes; try "
        f"batch_size={max(batch_size // 2, 1)}. The model is that of the last finished steps"
    )
