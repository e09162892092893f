"""Callbacks: functions of (model, history) as portnn.fit has them, and objects that follow scikit-learn's protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sklearn.callback import FitCallback

from portnn.callbacks import check_callback
from portnn.mlp import MLP


def listed(callbacks: Any, who: str = "fit") -> list[Any]:
    """Return what was given as ``callbacks`` as a list; TypeError for what can be neither kind."""
    given = list(callbacks) if isinstance(callbacks, list | tuple) else [] if callbacks is None else [callbacks]
    for callback in given:
        if not _of_sklearn(callback):
            check_callback(callback, who, " or sklearn.callback")
    return given


def functions(callbacks: Any) -> list[Callable[..., object]]:
    """Return those that are functions of (model, history)."""
    return [callback for callback in listed(callbacks) if not _of_sklearn(callback)]


def _of_sklearn(callback: Any) -> bool:
    return isinstance(callback, FitCallback) and not isinstance(callback, type)


@contextlib.contextmanager
def joined(estimator: Any) -> Iterator[None]:
    """Let those of ``callbacks`` that are scikit-learn's stand beside those of ``set_callbacks``, for one fit."""
    theirs = [callback for callback in listed(estimator.callbacks, type(estimator).__name__) if _of_sklearn(callback)]
    before = getattr(estimator, "_skl_callbacks", [])
    if theirs:
        estimator.set_callbacks(*before, *theirs)
    try:
        yield
    finally:
        if theirs:
            estimator.set_callbacks(*before)


class Watch:
    """Tells scikit-learn's callbacks of a fit: one task for all of it, and within that one for each epoch."""

    def __init__(self, estimator: Any, x: Any, y: Any, weight: Any, name: str) -> None:
        self.e, self.name = estimator, name
        self.data = {"X": x, "y": y, "metadata": None if weight is None else {"sample_weight": weight}}
        self.whole = estimator._init_callback_context(max_subtasks=None)
        self.whole.call_on_fit_task_begin(estimator=estimator, **self.data)
        self.begin()

    def begin(self) -> None:
        """Say that a task begins."""
        self.task = self.whole.subcontext(task_name=self.name)
        self.task.call_on_fit_task_begin(estimator=self.e, **self.data)

    def end(self, shown: Callable[[], dict[str, Any]]) -> bool:
        """Say that a task is over; ``shown`` makes the attributes of an estimator that stops here."""
        return bool(self.task.call_on_fit_task_end(estimator=self.e, **self.data, reconstruction_attributes=shown))

    def epoch(self, model: MLP, *, last: bool) -> bool:
        """Say that an epoch is over, and unless it was the last that the next begins; return whether to stop."""
        stop = self.end(lambda: self.e._shown(model.to(), self.e._samples_space))
        if not (last or stop):
            self.begin()
        return stop

    def close(self, model: MLP) -> None:
        """Say that the fit is over."""
        self.whole.call_on_fit_task_end(
            estimator=self.e,
            **self.data,
            reconstruction_attributes=lambda: self.e._shown(model.to(), self.e._samples_space),
        )


def watch(estimator: Any, x: Any, y: Any, weight: Any, name: str) -> Watch | None:
    """Return what tells scikit-learn's callbacks; None where there are none, nor a search around this fit that has."""
    if not (hasattr(estimator, "_skl_callbacks") or hasattr(estimator, "_parent_callback_ctx")):
        return None
    return Watch(estimator, x, y, weight, name)
