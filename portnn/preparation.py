"""What a training is asked for, looked at before the first step: on every rank alike."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy

from portnn import checks, random
from portnn.autograd import value_of
from portnn.callbacks import listed
from portnn.checkpoint_record import history_of
from portnn.checkpoints import Checkpoints
from portnn.datasets.streams import Stream
from portnn.diagnosis import watched
from portnn.errors import caller, shown
from portnn.evaluation import Data, checked, make_judge
from portnn.feed import Feed, split
from portnn.fingerprint import check_alike, configuration
from portnn.group import Group
from portnn.history import History, Reached
from portnn.loop import Loop, Order
from portnn.losses import Loss, get_loss
from portnn.members import entries
from portnn.memory import check_finite
from portnn.mlp import MLP
from portnn.network import forward, zero_of
from portnn.objective import share_of_losses, shares
from portnn.optimizers import Adam, get_optimizer
from portnn.reduced import Halves, Reduced
from portnn.saver import Position, Saver, remembers
from portnn.step import Chunks, beginning, make_step

WHO = "fit"


@dataclass
class Asked:
    """The arguments of :func:`portnn.fit`, which explains them, as the caller gave them."""

    loss: Any
    optimizer: Any
    epochs: Any
    batch_size: Any
    micro_batch_size: Any
    validation_data: Any
    validation_split: Any
    sample_weight: Any
    class_weight: Any
    l1: Any
    l2: Any
    clip_value: Any
    clip_norm: Any
    per_batch: Any
    shuffle: Any
    seed: Any
    checkpoint: Any
    resume: Any
    compile: Any
    callbacks: Any
    progress: Any


class Preparation:
    """A training that has been looked at: what it consists of, but for what is of the first rank alone."""

    def __init__(self, model: MLP, x: Any, t: Any, asked: Asked, group: Group) -> None:
        self.model, self.asked, self.group, self.loss = model, asked, group, get_loss(asked.loss)
        self.optimizer = get_optimizer(Adam() if asked.optimizer is None else asked.optimizer)
        self.epochs = checks.check_count(WHO, "epochs", asked.epochs)
        size, micro = (
            None if n is None else checks.check_count(WHO, name, n)
            for name, n in (("batch_size", asked.batch_size), ("micro_batch_size", asked.micro_batch_size))
        )
        self.seed = random.check_seed(asked.seed, WHO)
        self.clip_value, self.clip_norm = (
            None if limit is None else checks.check_number(WHO, name, limit, 0.0, open_low=True)
            for name, limit in (("clip_value", asked.clip_value), ("clip_norm", asked.clip_norm))
        )
        self.compile = bool(asked.compile) if isinstance(asked.compile, numpy.bool_) else asked.compile
        if not isinstance(self.compile, bool) and not (isinstance(self.compile, str) and self.compile == "auto"):
            raise ValueError(f"{WHO}: compile must be True, False or 'auto', got {shown(self.compile)}")
        for name, choice in (("progress", asked.progress), ("per_batch", asked.per_batch)):
            if not isinstance(choice, bool | numpy.bool_):
                raise ValueError(f"{WHO}: {name} must be True or False, got {shown(choice)}")
        self.callbacks = listed(asked.callbacks, WHO)
        self.where, self.earlier = _resumed(asked.checkpoint, asked.resume, WHO)
        check_finite(model, WHO)
        self.data, self.held = _samples(model, self.loss, x, t, asked, self.seed)
        n = self.data.t.shape[0]
        if size is not None and size > n and group.rank == 0:
            warnings.warn(
                f"{WHO}: batch_size {size} is larger than the {n} samples; it is clipped", stacklevel=caller()
            )
        self.batch_size = min(size or 128, n)
        self.micro = micro if micro is not None and micro < self.batch_size else None
        self.l1, self.l2 = asked.l1, asked.l2
        if asked.per_batch:
            self.l1, self.l2 = (
                _times(checks.check_penalty(WHO, *named, model.members), self.data.unit, WHO)
                for named in (("l1", asked.l1), ("l2", asked.l2))
            )
        _check_batch_norm(model, self.batch_size, self.micro, group)
        if self.micro is not None or group.size > 1:
            _check_parts(model, self.loss, self.data)
        self.compiled = self._compiled()
        self.order_of = _orders(asked.shuffle, self.seed, self.data.x, n, WHO)

    def _compiled(self) -> Chunks | Reduced:
        """Return what runs chunks of steps: each in one, or in two where there are parts of batches."""
        options = {
            "clip_value": self.clip_value,
            "clip_norm": self.clip_norm,
            "l1": self.l1,
            "l2": self.l2,
            "output_share": self.data.share,
            "per_batch": bool(self.asked.per_batch),
        }
        made_of = (self.model, self.loss, self.optimizer)
        if self.group.size == 1 and self.micro is None:
            return Chunks(self.model.backend, make_step(*made_of, **options), self.compile)
        return Reduced(self.model.backend, Halves(*made_of, **options), self.compile, self.group, self.micro)

    def configuration(self) -> dict[str, Any]:
        """Return all that decides the numbers of this training, up to how parts of batches are rounded."""
        told = {"batch_size": self.batch_size, "seed": self.seed}
        told |= {"clip_value": self.clip_value, "clip_norm": self.clip_norm}
        told |= {"l1": entries(self.l1), "l2": entries(self.l2), "per_batch": bool(self.asked.per_batch)}
        shuffle, x = self.asked.shuffle, self.data.x
        told |= {"shuffle": shuffle if callable(shuffle) else bool(shuffle)}
        if isinstance(x, Stream) and told["shuffle"]:
            told["shuffle"] = x.cut()
        remembering = [callback for callback in self.callbacks if remembers(callback)]
        return configuration(self.model, self.loss, self.optimizer, self.data, self.held, remembering, **told)

    def said(self) -> dict[str, Any]:
        """Return what all ranks must be given alike: beside the configuration what a resumed training may change."""
        more = {"epochs": self.epochs, "compile": self.compile, "library": self.model.backend.name}
        held = None if self.held is None else self.held.x
        more["samples in"] = "files" if isinstance(self.data.x, Stream) else "memory"
        more["validation samples in"] = held.cut() if isinstance(held, Stream) else "memory"
        return {**self.configuration(), **more, "resume": str(type(self.asked.resume or None).__name__)}

    def check_alike(self) -> None:
        """ValueError on all ranks unless all were given the same."""
        if self.group.size > 1:
            with self.group.together():
                mine = self.said()
            check_alike(self.group.gathered(mine), WHO)

    def begun(self, stack: contextlib.ExitStack) -> tuple[Loop, int, Any]:
        """Return the loop, the epochs that it is to finish, and the checkpoint from which it goes on or None.

        The folder of checkpoints is this training's until the stack is closed.
        """
        model, optimizer, first = self.model, self.optimizer, self.group.rank == 0
        names = _names(self.loss.kind, optimizer, self.held is not None)
        gone = [name for name in (self.earlier.names if self.earlier is not None else ()) if name not in names]
        callbacks, saver, kept = (self.callbacks if first else []), None, None
        if self.where is not None and first:
            metrics = _metrics(self.loss.kind, self.data.weight is not None and not self.asked.per_batch)
            saver = Saver(self.where, model, optimizer, callbacks, self.configuration(), gone, metrics)
            stack.enter_context(saver.alone())
            kept = saver.found(self.asked.resume is True)
        if saver is not None and kept is not None:
            history, position, last = history_of(kept), saver.position(kept), self.epochs
            history.epochs = self.epochs
        else:
            history = History({name: list(values) for name, values in (self.earlier or {}).items()})
            history.epochs = len(history.get("loss", ())) + self.epochs
            history.reached = None if self.earlier is None else self.earlier.reached
            _check_members(history, model)
            position = _begun(history.reached, model, optimizer)  # refuses what does not fit
            last = position.epoch + self.epochs
        history.names = names
        loop = Loop(
            history=history,
            model=model,
            compiled=self.compiled,
            judge=make_judge(model, self.loss, self.data.share),
            optimizer=optimizer,
            feed=self.data.feed(model, WHO),
            held_out=None if self.held is None else self.held.feed(model, WHO),
            batch_size=self.batch_size,
            order_of=self.order_of,
            ahead=not callable(self.asked.shuffle),
            gone=gone if saver is None else saver.gone,
            seed=self.seed,
            callbacks=callbacks,
            saver=saver,
            progress=bool(self.asked.progress),
            position=position,
            group=self.group,
        )
        return loop, last, kept


def _samples(model: MLP, loss: Loss, x: Any, t: Any, asked: Asked, seed: int) -> tuple[Data, Data | None]:
    """Return what is trained on and what is held out."""
    data = checked(model, loss, x, t, asked.sample_weight, asked.class_weight, WHO)
    given = asked.validation_data
    if asked.validation_split is not None:
        if given is not None:
            raise ValueError(f"{WHO}: give validation_data or validation_split, not both")
        train, rest = split(data.t.shape[0], asked.validation_split, seed, WHO)
        return data.rows(train, model, WHO), data.rows(rest, model, WHO)
    if given is None:
        return data, None
    pair = (given, None) if isinstance(given, Stream) else given
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{WHO}: validation_data must be a pair (x, t), got {type(given).__name__}")
    return data, checked(model, loss, pair[0], pair[1], None, data.classes, f"{WHO}: validation_data")


def _check_batch_norm(model: MLP, batch_size: int, micro: int | None, group: Group) -> None:
    if model.running is None:
        return
    if batch_size == 1:
        raise ValueError(f"{WHO}: batch norm needs at least 2 samples in a batch, batch_size is 1; raise it")
    if micro is not None or group.size > 1:
        what = "comm" if group.size > 1 else "micro_batch_size"
        raise ValueError(
            f"{WHO}: batch norm takes the statistics of whole batches, which {what} cuts into parts; make the network "
            "with normalization='layer'"
        )


def _check_parts(model: MLP, loss: Loss, data: Data) -> None:
    """ValueError for a loss that takes the mean of a batch itself, tried with its first sample."""
    x = data.x.read(0, 1) if isinstance(data.x, Stream) else data.x[:1, ...]
    batch = Feed(model.backend, x, {"t": data.t[:1]}, model.params.dtype).gather(slice(0, 1))
    y, _ = forward(model.layers, model.params, batch["x"], zero=zero_of(model.params))
    share = None if data.share is None else model.backend.asarray(data.share, model.params.dtype)
    values = value_of(loss.pair(y, batch["t"], **({} if share is None else {"output_share": share})), "loss")
    share_of_losses(values, y, None, shares(model.params), whole=True, total=1.0)


def _check_members(history: History, model: MLP) -> None:
    of_members = any(isinstance(loss, list) for loss in history.get("loss", ()))
    if history and of_members != (model.members is not None):
        kinds = ("one network", "networks with members")
        message = f"resume is the history of {kinds[of_members]}, the model is {kinds[not of_members]}"
        raise ValueError(f"{WHO}: {message}")


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


def _orders(shuffle: bool | Order, seed: int, x: Any, n: int, who: str) -> Order:
    """Return the function from an epoch to the order of its samples; None keeps that of the data."""
    if not callable(shuffle):
        if not isinstance(shuffle, bool | numpy.bool_):
            raise ValueError(f"{who}: shuffle must be True, False or a function of the epoch, got {shown(shuffle)}")
        if isinstance(x, Stream):
            return lambda epoch: x.epoch(seed if shuffle else None, epoch)
        return (lambda epoch: random.order(seed, epoch, n)) if shuffle else lambda epoch: None

    if isinstance(x, Stream):
        raise ValueError(f"{who}: the order of a Stream is its own, shuffle must be True or False")

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
