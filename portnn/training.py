"""Training: what is asked for is looked at, put together, and run by the loop."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy

from portnn import checks, random
from portnn.backends import Array
from portnn.callbacks import Callback, listed
from portnn.checkpoint_record import history_of
from portnn.checkpoints import Checkpoints
from portnn.diagnosis import watched
from portnn.errors import shown
from portnn.evaluation import checked, make_judge
from portnn.feed import split
from portnn.fingerprint import configuration
from portnn.history import History, Reached
from portnn.loop import Loop, Order
from portnn.losses import get_loss
from portnn.members import entries
from portnn.memory import check_finite
from portnn.mlp import MLP, check_model
from portnn.optimizers import Adam, get_optimizer
from portnn.saver import Position, Saver, remembers
from portnn.step import Chunks, beginning, make_step


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
    checkpoint: str | os.PathLike[str] | Checkpoints | None = None,
    resume: History | bool | None = None,
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
    checkpoint
        A folder, or a :class:`portnn.Checkpoints` that also says how often and how many, for files from which this
        training can go on: to the bit on the same library, version and number of threads. A folder that holds
        checkpoints already is refused unless ``resume`` is True.
    resume
        True: go on from the newest valid file of ``checkpoint``, in the middle of an epoch if need be, until ``epochs``
        are finished in all; from the beginning if there is none. So one command starts a training, finishes one that
        was killed, and returns the history of one that is over. What decides the numbers must be what it was: samples,
        network, dtype, loss, optimizer, batch size, seed and the rest; functions of yours are compared by their names
        alone. So must callbacks that remember: ours with their arguments, the patience of early stopping among them
        (paths and ``every`` may change), yours by their types. To go on with others, load the checkpoint
        (:func:`portnn.load_checkpoint`) and resume its history. A history of an earlier fit of this model with this
        optimizer: ``epochs`` more in memory; its epochs, updates and the optimizer's arrays are counted on, and the
        history that is returned begins with it. An epoch that Ctrl-C ended is none of its
        epochs: it begins again, from its first sample, with the parameters that its steps have led to (``checkpoint``
        goes on in its middle).
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
        A NaN or an infinity arose: in the loss, the gradient, the parameters, the optimizer's arrays or the running
        statistics, for validation data, or a callback left one. The model keeps the last finite parameters; the error
        says in which step, layer, array, samples and members, see :class:`portnn.NonFiniteError`.
    FormatError
        No checkpoint is valid, or they are of another network or optimizer.
    OSError
        A checkpoint cannot be written; those before are as they were, and the model is that of the last steps. The
        folder is in use by another training (BlockingIOError); two are noticed where the system can lock a file, which
        Windows and some network file systems cannot.

    Where anything is refused before the first step, also by a callback, the model is as it was.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> model = MLP([1, 1], init="zeros", dtype="float64")
    >>> history = fit(model, x, 3 * x + 1, loss="mse", optimizer="sgd", epochs=200, batch_size=64)
    >>> model.params.round(3)
    array([3., 1.])

    """
    check_model("fit", model)
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
        compile = bool(compile) if isinstance(compile, numpy.bool_) else compile
        if not isinstance(compile, bool) and not (isinstance(compile, str) and compile == "auto"):
            raise ValueError(f"{who}: compile must be True, False or 'auto', got {shown(compile)}")
        for name, choice in (("progress", progress), ("per_batch", per_batch)):
            if not isinstance(choice, bool | numpy.bool_):
                raise ValueError(f"{who}: {name} must be True or False, got {shown(choice)}")
        callbacks = listed(callbacks, who)
        where, earlier = _resumed(checkpoint, resume, who)
        check_finite(model, who)
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
                _times(checks.check_penalty(who, *named, model.members), data.unit, who)
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
        batch_size, order_of = min(asked or 128, n), _orders(shuffle, seed, n, who)
        names = _names(entry.kind, optimizer, held is not None)
        gone = [name for name in (earlier.names if earlier is not None else ()) if name not in names]
        with contextlib.ExitStack() as stack:
            saver, kept = None, None
            if where is not None:
                told = {"batch_size": batch_size, "seed": seed, "clip_value": clip_value, "clip_norm": clip_norm}
                told |= {"l1": entries(l1), "l2": entries(l2), "per_batch": bool(per_batch)}
                told |= {"shuffle": shuffle if callable(shuffle) else bool(shuffle)}
                remembering = [callback for callback in callbacks if remembers(callback)]
                configured = configuration(model, entry, optimizer, data, held, remembering, **told)
                metrics = _metrics(entry.kind, data.weight is not None and not per_batch)
                saver = Saver(where, model, optimizer, callbacks, configured, gone, metrics)
                stack.enter_context(saver.alone())
                kept = saver.found(resume is True)
            if saver is not None and kept is not None:
                history, position, last = history_of(kept), saver.position(kept), epochs
                history.epochs = epochs
            else:
                history = History({name: list(values) for name, values in (earlier or {}).items()})
                history.epochs = len(history.get("loss", ())) + epochs
                history.reached = None if earlier is None else earlier.reached
                of_members = any(isinstance(loss, list) for loss in history.get("loss", ()))
                if history and of_members != (model.members is not None):
                    kinds = ("one network", "networks with members")
                    message = f"resume is the history of {kinds[of_members]}, the model is {kinds[not of_members]}"
                    raise ValueError(f"{who}: {message}")
                position = _begun(history.reached, model, optimizer)  # refuses what does not fit
                last = position.epoch + epochs
            history.names = names
            loop = Loop(
                history=history,
                model=model,
                compiled=Chunks(model.backend, step, compile),
                judge=make_judge(model, entry, data.share),
                optimizer=optimizer,
                feed=data.feed(model, who),
                held_out=None if held is None else held.feed(model, who),
                batch_size=batch_size,
                order_of=order_of,
                ahead=not callable(shuffle),
                gone=gone if saver is None else saver.gone,
                seed=seed,
                callbacks=callbacks,
                saver=saver,
                progress=progress,
                position=position,
            )
            return loop.run(last, kept)


def _resumed(checkpoint: Any, resume: Any, who: str) -> tuple[Checkpoints | None, History | None]:
    """Return where checkpoints are kept, and the history that is gone on with in memory."""
    where = checkpoint if isinstance(checkpoint, Checkpoints | None) else Checkpoints(checkpoint)
    if resume is None or isinstance(resume, bool):
        if resume and where is None:
            message = f"{who}: resume=True wants to know where from: give checkpoint=FOLDER, or resume=history"
            raise ValueError(message)
        return where, None
    if not isinstance(resume, History):
        raise TypeError(f"{who}: resume must be the History of an earlier fit, got {type(resume).__name__}, or True")
    if resume.reached is None and any(resume.values()):
        raise ValueError(
            f"{who}: this history no longer has the optimizer's arrays (history.reached is None, as in one read from "
            "JSON and in history_ of an estimator); give the one that fit returned, or begin anew without resume"
        )
    return where, resume


def _times(penalty: float | tuple[float, ...], unit: float, who: str) -> float | tuple[float, ...]:
    """Return a penalty, or that of each member, in the unit of the weights whose sum it is divided by."""
    each = [p * unit if p else 0.0 for p in (penalty if isinstance(penalty, tuple) else (penalty,))]
    if not numpy.isfinite(each).all():
        raise ValueError(
            f"{who}: sample_weight is so small that a penalty divided by the sum of the weights is no finite number; "
            "multiply all weights by the same number"
        )
    return tuple(each) if isinstance(penalty, tuple) else each[0]


def _orders(shuffle: bool | Order, seed: int, n: int, who: str) -> Order:
    """Return the function from an epoch to the order of its samples; None keeps that of the data."""
    if not callable(shuffle):
        if not isinstance(shuffle, bool | numpy.bool_):
            raise ValueError(f"{who}: shuffle must be True, False or a function of the epoch, got {shown(shuffle)}")
        return (lambda epoch: random.order(seed, epoch, n)) if shuffle else lambda epoch: None

    def order(epoch: int) -> numpy.ndarray:
        rows = numpy.asarray(shuffle(epoch))
        whole = rows.shape == (n,) and rows.dtype.kind in "iu"
        if not whole or (numpy.sort(rows) != numpy.arange(n)).any():
            raise ValueError(f"{who}: shuffle({epoch}) must return the numbers 0 to {n - 1}, each once, in some order")
        return rows

    return order


def _names(kind: str, optimizer: Any, validated: bool) -> tuple[str, ...]:
    """Return what an epoch puts into the history, in its order."""
    seen = ["loss"] + ["accuracy"] * (kind in ("classes", "binary"))
    seen += [f"val_{name}" for name in seen] * validated + ["learning_rate"] * hasattr(optimizer, "rate")
    return (*seen, "epoch_seconds")


def _metrics(kind: str, weighted: bool) -> tuple[str, ...]:
    """Return what a step sums up."""
    return ("loss", *("accuracy",) * (kind in ("classes", "binary")), *("weight",) * weighted)


def _begun(reached: Reached | None, model: MLP, optimizer: Any) -> Position:
    """Return where a training in memory stands, on the model's device."""
    state = beginning(model, optimizer)
    if reached is None:
        return Position(0, 0, 0, state)
    shapes = [{name: tuple(a.shape) for name, a in of.items()} for of in (reached.arrays, state)]
    own = {name: shape for name, shape in shapes[1].items() if name not in ("params", "running", "units")}
    if shapes[0] != own:
        raise ValueError(f"fit: resume is of another optimizer or model: it kept {shapes[0]}, this one has {own}")
    with numpy.errstate(over="ignore"):
        kept = {name: model.backend.asarray(a, state[name].dtype, copy=True) for name, a in reached.arrays.items()}
    for name in watched(optimizer, kept):
        if not numpy.isfinite(model.backend.to_numpy(kept[name])).all():
            raise ValueError(
                f"fit: resume holds NaN, infinity or numbers too large for {model.dtype} in the optimizer's {name!r}; "
                "train on in the dtype that it is of, or without resume"
            )
    return Position(reached.epochs, 0, reached.updates, {**state, **kept})
