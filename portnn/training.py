"""The loop: epochs, chunks of steps, and what is read back to the host once per chunk."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from portnn import checks, random
from portnn.backends import Array
from portnn.backends.base import Rows, State
from portnn.diagnosis import first_non_finite
from portnn.dropout import sample_words
from portnn.errors import NonFiniteError, shown
from portnn.evaluation import Judge, checked, judged, make_judge, means, read_back
from portnn.feed import CHUNK_ROWS, Feed, plan, rows_per_chunk, split
from portnn.losses import get_loss
from portnn.mlp import MLP
from portnn.optimizers import Adam, Optimizer, get_optimizer
from portnn.progress import Bar
from portnn.step import Chunks, beginning, copied, drops, make_step

Callback = Callable[[MLP, "History"], object]


class History(dict[str, list[Any]]):
    """What happened: lists with one entry per epoch.

    ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``, ``learning_rate``, ``epoch_seconds``.

    ``accuracy`` is there for losses of classes, ``val_loss`` and ``val_accuracy`` with validation data. ``loss`` and
    ``accuracy`` are means over the epoch's batches, each taken before its update, with units dropped and batch norm by
    the statistics of the batch; the penalty of l1 and l2 is part of the loss, since that is what was differentiated.
    With members an entry is a list of one number per member (``learning_rate`` where each has its own).
    ``epoch_seconds`` is the time of training alone, in seconds.
    """

    interrupted: bool = False  #: Ctrl-C ended the training early


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
    shuffle: bool = True,
    seed: int = 0,
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
    shuffle, seed
        The order of an epoch is a pure function of (seed, epoch), the same on every backend; False keeps the order
        of the data. So are the masks of dropout; members of an ensemble have masks of their own by their own seeds.
    compile
        True: the steps are compiled (JAX), captured (CUDA graphs) or recorded and replayed (NumPy, torch on the CPU):
        functions of yours are then called once or a few times, and what stands in the way is raised. False: each
        step is run as it is written. ``"auto"``: compiled where that works, with a warning where it does not; but NumPy
        and torch on the CPU run steps with functions of yours as they are written. Under JAX and on GPUs such functions
        are compiled as well, and what they do besides returning arrays is done at most a few times.
    callbacks
        Functions ``f(model, history)``, called after every epoch; a true value ends the training.
    progress
        Show a bar (needs tqdm; silent when the output is not a terminal).

    Returns
    -------
    history
        Lists of one number per epoch; ``history.interrupted`` is True if Ctrl-C ended it. Model and history are
        then those of the last chunk of steps and the last epoch that were finished.

    Raises
    ------
    NonFiniteError
        A NaN or an infinity arose. The model keeps the last finite parameters; ``error.members`` are the members in
        which it did.

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
        if model.running is not None and min(asked or 128, n) == 1:
            raise ValueError(f"{who}: batch norm needs at least 2 samples in a batch, batch_size is 1; raise it")
        step = make_step(
            *(model, entry, optimizer),
            clip_value=clip_value,
            clip_norm=clip_norm,
            l1=l1,
            l2=l2,
            output_share=data.share,
        )
        return _run(
            model,
            Chunks(model.backend, step, compile),
            make_judge(model, entry, data.share),
            optimizer,
            data.feed(model),
            None if held is None else held.feed(model),
            epochs,
            min(asked or 128, n),
            shuffle,
            seed,
            callbacks,
            progress,
        )


def _run(
    model: MLP,
    compiled: Chunks,
    judge: Judge,
    optimizer: Any,
    feed: Feed,
    held_out: Feed | None,
    epochs: int,
    batch_size: int,
    shuffle: bool,
    seed: int,
    callbacks: Sequence[Callback],
    progress: bool,
) -> History:
    backend, history, count = model.backend, History(), 0
    state = beginning(model, optimizer)
    before, dropping = state, drops(model)
    most = CHUNK_ROWS if feed.streamed else rows_per_chunk(model.n_params * (model.members or 1))
    chunks = plan(feed.n, batch_size, most)
    bar = Bar(progress, epochs, feed.n)
    try:
        upcoming = random.order(seed, 0, feed.n) if shuffle else None
        for epoch in range(epochs):
            began, sums, order = time.perf_counter(), None, upcoming
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
                    if here.stop == feed.n and order is not None and epoch + 1 < epochs:
                        upcoming = random.order(seed, epoch + 1, feed.n)  # while the device is at work
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
            for name, value in entry.items():
                history.setdefault(name, []).append(value)
            _observe(getattr(optimizer, "learning_rate", None), entry.get("val_loss", entry["loss"]))
            ended = [callback(model, history) for callback in callbacks]
            state = before = {**state, **copied(backend, _held(model))}  # a callback may have set them
            if any(ended):
                break
    except KeyboardInterrupt:
        history.interrupted = True
    finally:
        _hand_over(model, before)
        bar.close()
    return history


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
