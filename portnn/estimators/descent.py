"""The solvers "sgd" and "adam": portnn.fit, with scikit-learn's rules for when to stop and what to remember."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from portnn.autograd.ordinary import value_of
from portnn.backends import Array, Backend
from portnn.callbacks import called, during
from portnn.errors import NonFiniteError
from portnn.estimators import samples
from portnn.estimators.updates import SGD, Adam, Rate
from portnn.estimators.watch import Watch, functions, watch
from portnn.history import History, Reached
from portnn.losses import Loss, counted
from portnn.mlp import MLP
from portnn.trace import rows_said
from portnn.training import fit

CALLER = 7  # frames up to the line of the user's, which a warning names: fit, scikit-learn's wrappers, _fit, _solve


class DivergedError(NonFiniteError, ValueError):
    """Training met a NaN or an infinity: portnn's exception, and the type that scikit-learn raises."""

    @classmethod
    def of(cls, error: NonFiniteError, said: str, rows: numpy.ndarray | None = None) -> DivergedError:
        """Return the error for one of portnn's, with its fields; ``rows`` are the caller's numbers of the samples."""
        # the first sentence is scikit-learn's, so that a search finds the answer
        words = "Solver produced non-finite parameter weights. The input data may contain large values and need to be"
        names = ("epoch", "batch", "array", "layer", "samples", "n_samples", "members")
        new = cls(f"{words} preprocessed. ({said})", **{name: getattr(error, name) for name in names})
        new.history = error.history
        if rows is not None and error.epoch is not None:  # those of held-out samples have numbers of their own
            new.samples = tuple(int(rows[i]) for i in error.samples)
        return new


class Problem(NamedTuple):
    """What is to be fitted: samples (dense), targets, weights, the loss; targets as they came; held-out samples.

    ``given`` are the weights of the samples as the user gave them, ``weight`` times those of their classes.
    """

    x: Array
    t: numpy.ndarray
    weight: numpy.ndarray | None
    given: numpy.ndarray | None
    loss: Loss
    y: numpy.ndarray
    held_out: tuple[Any, numpy.ndarray, numpy.ndarray | None] | None
    space: Backend
    incremental: bool
    rows: numpy.ndarray | None = None  # of the caller's samples, where some are held out of them


class Updates:
    """The optimizer of an estimator: its rule, the learning rate in force, and what it remembers between calls."""

    def __init__(self, estimator: Any) -> None:
        e = estimator
        self.solver = e.solver
        self.rate = Rate(e.learning_rate if e.solver == "sgd" else "constant", e.learning_rate_init, e.power_t)
        if e.solver == "sgd":
            self.rule: Any = SGD(self.rate, momentum=float(e.momentum), nesterov=bool(e.nesterovs_momentum))
        else:
            self.rule = Adam(self.rate, beta1=float(e.beta_1), beta2=float(e.beta_2), eps=float(e.epsilon))
        self.reached: Reached | None = None  # what a fit that goes on begins with

    @property
    def learning_rate(self) -> float:
        """The learning rate in force."""
        return self.rate.learning_rate

    def __getstate__(self) -> dict[str, Any]:
        """Keep the optimizer's arrays in host memory."""
        if self.reached is None:
            return vars(self)
        arrays = {name: numpy.array(samples.to_numpy(a)) for name, a in self.reached.arrays.items()}
        return {**vars(self), "reached": self.reached._replace(arrays=arrays)}


def descend(estimator: Any, model: MLP, problem: Problem) -> MLP:
    """Train a network for ``max_iter`` epochs, or for one if ``problem.incremental``, and return the one to keep."""
    e, who = estimator, type(estimator).__name__
    train, held_out = _split(e, problem)
    n = train.t.shape[0]
    asked = e.batch_size
    if asked != "auto" and asked > n:
        warnings.warn(f"{who}: batch_size {asked} is larger than the {n} samples; it is clipped", stacklevel=CALLER)
    batch_size = min(200 if asked == "auto" else asked, n)
    _begin(e, held_out is not None)
    if not problem.incremental or "_optimizer" not in vars(e) or e._optimizer.solver != e.solver:
        e._optimizer = Updates(e)
    if model.running is not None and batch_size == 1:
        raise ValueError(
            f"{who}: normalization='batch' needs at least 2 samples in a batch, got {n} samples and "
            f"batch_size={asked!r}; give more of them, or use normalization='layer'"
        )
    updates, resume = e._optimizer, History()
    resume.reached = updates.reached
    if e.early_stopping and "_best" not in vars(e):
        e._best = model.to()
    eyes = None if problem.incremental else watch(e, problem.x, problem.y, problem.weight, "epoch")
    epochs = Epochs(e, train, held_out, eyes)
    try:
        history = fit(
            *(model, train.x, train.t),
            loss=train.loss,
            optimizer=updates.rule,
            epochs=1 if problem.incremental else e.max_iter,
            batch_size=batch_size,
            sample_weight=train.weight,
            l2=float(e.alpha),
            clip_norm=e.clip_norm,
            per_batch=True,
            shuffle=_orders(e._random_state, n) if e.shuffle else False,
            seed=_seed(e),
            resume=resume,
            compile=_compiled(e, model, (1 if problem.incremental else e.max_iter) * -(-n // batch_size)),
            callbacks=[epochs],
            progress=False,
        )
    except NonFiniteError as error:
        said = _told(error, train)
        if not (e.early_stopping and held_out is not None and e.best_validation_score_ > -numpy.inf):
            raise DivergedError.of(error, said, train.rows) from error
        history = error.history if isinstance(error.history, History) else History()
        e.validation_scores_.append(numpy.nan)
        warnings.warn(
            f"{who}: training diverged, the best network is kept: {said}", ConvergenceWarning, stacklevel=CALLER
        )
    else:
        updates.reached = history.reached
        if history.interrupted:
            warnings.warn(f"{who}: training interrupted, the last finished steps are kept", stacklevel=CALLER)
        elif e.n_iter_ == e.max_iter and not epochs.stopped and not problem.incremental:
            warnings.warn(
                f"{who}: {e.max_iter} epochs (max_iter) are over and the training has not converged yet",
                ConvergenceWarning,
                stacklevel=CALLER,
            )
    e.history_ = history.copy()
    e.history_.reached = None  # what goes on is in _optimizer
    model = e._best.to() if e.early_stopping else model
    if eyes is not None:
        eyes.close(model)
    return model


def _compiled(e: Any, model: MLP, steps: int) -> Any:
    """Return how the steps are run: what is recorded in the first two, and compared in the next, pays after those."""
    return False if e.compile == "auto" and model.backend.replays and steps <= 4 else e.compile


def _begin(e: Any, scored: bool) -> None:
    """Make the records that parameters call for which were set after the last fit, and end those they do not."""
    if not e.early_stopping:
        vars(e).pop("_best", None)
    if not scored and not e.early_stopping:
        e.validation_scores_ = e.best_validation_score_ = None
    if e.early_stopping and "_best" not in vars(e):  # what an earlier kind of fit scored best is no network any more
        e.best_validation_score_ = None
    for name, there, start in (
        ("loss_curve_", True, []),
        ("_no_improvement_count", True, 0),
        ("best_loss_", not e.early_stopping, numpy.inf),
        ("validation_scores_", scored, []),
        ("best_validation_score_", scored, -numpy.inf),
    ):
        if there and getattr(e, name, None) is None:
            setattr(e, name, start)


def _seed(e: Any) -> int:
    """Return the seed of the masks of dropout: drawn where there is any, another one for each fit that goes on."""
    if not any(numpy.ravel(e.dropout)):
        return 0
    return int(e._random_state.randint(2**31)) + len(e.loss_curve_)


def _orders(random_state: numpy.random.RandomState, n: int) -> Callable[[int], numpy.ndarray]:
    """Return the orders of the epochs: each shuffles the one before, by the same draws as scikit-learn's."""
    rows = numpy.arange(n)

    def order(epoch: int) -> numpy.ndarray:
        nonlocal rows
        drawn = numpy.arange(n)
        random_state.shuffle(drawn)
        rows = rows[drawn]
        return rows

    return order


def _split(e: Any, problem: Problem) -> tuple[Problem, Any]:
    """Return what is trained on, and what is held out: (x, t, weight) or None."""
    if not e.early_stopping or problem.held_out is not None:
        return problem, problem.held_out
    n, who = problem.t.shape[0], type(e).__name__
    rows, groups = numpy.arange(n), e._groups(problem.t)
    halves = None
    if groups is not None:
        try:
            halves = _halves(e, rows, groups)
        except ValueError as error:
            if len(e.classes_) < 3:
                raise ValueError(
                    f"{who}: The validation set is too small, or the rest: {error} Increase 'validation_fraction', or "
                    "give validation_data"
                ) from None
            # scikit-learn does not stratify more than two classes; where that cannot be, do as it does
            warnings.warn(f"{who}: too few samples to hold out a fraction of each class", stacklevel=CALLER + 1)
    train, held = halves or _halves(e, rows, None)
    if held.size < 2:
        raise ValueError(
            f"{who}: The validation set is too small: {held.size} of {n} samples. Increase 'validation_fraction', or "
            "give validation_data"
        )
    x, t, weight, given = problem.x, problem.t, problem.weight, problem.given
    if weight is not None and not (weight[held].any() and weight[train].any()):
        raise ValueError(
            f"{who}: the weights of one side of the split are all zero ({held.size} of {n} samples are held out); "
            "change validation_fraction, or give validation_data"
        )
    parts = [
        (samples.rows_of(x, problem.space, side), t[side], None if of is None else of[side])
        for side, of in ((train, weight), (held, given))  # scores do not know what a class weighs, as scikit-learn's
    ]
    train_on = problem._replace(x=parts[0][0], t=parts[0][1], weight=parts[0][2], y=problem.y[train], rows=train)
    return train_on, parts[1]


def _told(error: NonFiniteError, train: Problem) -> str:
    """Return what an error says, its rows as the caller counts them; those of held-out samples by themselves."""
    if error.epoch is None:
        return f"held-out samples: {error}"
    if train.rows is None or not error.samples:
        return str(error)
    rows = [int(train.rows[i]) for i in error.samples]
    return str(error).replace(rows_said(error.samples, error.n_samples), rows_said(rows, error.n_samples))


def _halves(e: Any, rows: numpy.ndarray, groups: numpy.ndarray | None) -> Any:
    return train_test_split(rows, random_state=e._random_state, test_size=e.validation_fraction, stratify=groups)


def _loss(loss: Loss, model: MLP, y: Array, t: numpy.ndarray, weight: numpy.ndarray | None) -> float:
    """Return the mean loss of outputs, without the penalty on the weights."""
    backend = model.backend
    with model.scope():
        targets = backend.asarray(t.astype(model.dtype) if t.dtype.kind == "f" else t)
        y = y if backend.owns(y) else backend.asarray(samples.to_numpy(y))
        values = backend.to_numpy(value_of(loss.pair(y, targets), "loss")).astype("float64")
        values = counted(values, weight) if weight is not None and values.ndim else values
    return float(numpy.average(values, weights=weight) if values.ndim else values)


class Epochs:
    """What is done after each epoch: take note of it, score, judge whether to go on, call the user's callbacks."""

    def __init__(self, estimator: Any, problem: Problem, held_out: Any, eyes: Watch | None) -> None:
        self.e, self.problem, self.held_out, self.watch = estimator, problem, held_out, eyes
        self.stopped = False
        if not problem.incremental:
            estimator.n_iter_ = 0

    def on_begin(self, model: MLP, history: History) -> None:
        """Tell the user's callbacks; the score of held-out samples is in the history, too."""
        if self.held_out is not None:
            history.names = (*history.names, "val_loss", self.e._score_name)
        self.told = contextlib.ExitStack()
        self.told.enter_context(during(functions(self.e.callbacks), model, history))

    def on_end(self, model: MLP, history: History) -> None:
        """Tell them again."""
        self.told.close()

    def __call__(self, model: MLP, history: History) -> bool:
        """Return whether training ends here."""
        e = self.e
        e.n_iter_ = 1 if self.problem.incremental else e.n_iter_ + 1
        e.loss_ = history["loss"][-1]
        if e._is_certain():
            history["accuracy"][-1] = 1.0
        e.t_ += self.problem.t.shape[0]
        e.loss_curve_.append(e.loss_)
        if e.verbose:
            print(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")
        self._judge(model)
        rate = e._optimizer.rate
        rate.seen(e.t_)
        if e._no_improvement_count > e.n_iter_no_change:
            self.stopped = rate.ends()
            if e.verbose:
                what = "Validation score" if e.early_stopping else "Training loss"
                then = "Stopping." if self.stopped else f"Setting learning rate to {rate.learning_rate:f}"
                print(f"{what} did not improve by tol={e.tol:f} for {e.n_iter_no_change} epochs in a row. {then}")
            if not self.stopped:
                e._no_improvement_count = 0
        if self.held_out is not None:
            history.setdefault("val_loss", []).append(self.val_loss)
            history.setdefault(e._score_name, []).append(e.validation_scores_[-1])
        asked = [called(callback, model, history) for callback in functions(e.callbacks)]
        if self.watch is not None:
            asked.append(self.watch.epoch(model, last=self.stopped or any(asked) or e.n_iter_ == e.max_iter))
        self.stopped = self.stopped or any(asked)
        return self.stopped

    def _judge(self, model: MLP) -> None:
        """Count the epochs without improvement, by the score of held-out samples or else by the loss."""
        e = self.e
        if self.held_out is not None:
            x, t, weight = self.held_out
            y = samples.outputs(model, x)
            score, self.val_loss = e._scored(y, t, weight), _loss(self.problem.loss, model, y, t, weight)
            e.validation_scores_.append(score)
            if e.verbose:
                print(f"Validation score: {score:f}")
            before = e.best_validation_score_
            e.best_validation_score_ = max(before, score) if score == score else before
            if e.early_stopping:
                e._no_improvement_count = e._no_improvement_count + 1 if score < before + e.tol else 0
                if score > before:
                    e._best = model.to()
                return
        e._no_improvement_count = e._no_improvement_count + 1 if e.loss_ > e.best_loss_ - e.tol else 0
        e.best_loss_ = min(e.best_loss_, e.loss_)
