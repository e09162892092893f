"""Labels of classes as scikit-learn takes them, looked at."""

from __future__ import annotations

from typing import Any

import numpy
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import type_of_target, unique_labels

from portnn.errors import shown
from portnn.estimators import samples


def checked(y: numpy.ndarray, who: str) -> numpy.ndarray:
    """Return labels ``(n,)``, or ``(n, n_labels)`` of zeros and ones; ValueError, TypeError for anything else.

    Examples
    --------
    >>> checked(numpy.asarray(["cat", "dog"]), "fit").tolist()
    ['cat', 'dog']

    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    _of_one_kind(y, "y", who)
    kind = type_of_target(y, input_name="y")
    if kind.startswith("continuous") or kind == "unknown":
        raise ValueError(
            f"Unknown label type: {kind}. Maybe you are trying to fit a classifier, which expects discrete classes, "
            "on a regression target with continuous values"
        )
    if kind == "multiclass-multioutput":
        raise ValueError(
            f"{who}: y has {y.shape[1]} columns of several classes each; fit one classifier for each "
            "(sklearn.multioutput.MultiOutputClassifier), or give a matrix of zeros and ones"
        )
    if y.ndim == 2 and (other := numpy.setdiff1d(y, [0, 1])).size:
        raise ValueError(
            f"{who}: a matrix of labels holds zeros and ones, y has {shown(other[0].item())}; give "
            "(y == value).astype(int) of the value that stands for yes"
        )
    return y


def all_of(classes: Any, who: str) -> numpy.ndarray:
    """Return the labels that there will be, sorted."""
    classes = samples.apart(samples.to_host(classes, "classes"))
    if not isinstance(classes, numpy.ndarray):
        classes = numpy.asarray(classes)
    _of_one_kind(classes, "classes", who)
    kind = type_of_target(classes)
    if "continuous" in kind:
        raise ValueError(f"Unknown label type: {kind}. {who}: classes are labels, not quantities")
    found: numpy.ndarray = unique_labels(classes)
    return found


def _of_one_kind(labels: numpy.ndarray, argument: str, who: str) -> None:
    if labels.dtype == object and len({isinstance(label, str) for label in labels.flat}) > 1:
        raise TypeError(f"{who}: labels must be all strings or all numbers, {argument} has both")


def few(labels: numpy.ndarray) -> str:
    """Return labels as NumPy prints them, where they are few.

    Examples
    --------
    >>> few(numpy.arange(3)), len(few(numpy.arange(10**6))) < 100
    ('[0 1 2]', True)

    """
    text = str(labels)
    return text if len(text) <= 70 else shown(labels.tolist())
