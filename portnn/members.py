"""Members of an ensemble: one hyperparameter for all of them or one for each, and which of them an index means."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy

from portnn.backends import get_backend


def number(value: Any) -> Any:
    """Return a real number as a Python float, since a NumPy scalar would widen float32 arrays; all else as it is."""
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def entries(value: Any) -> Any:
    """Return a sequence or 1-D array, one entry per member, as a tuple; a number as :func:`number` does.

    Examples
    --------
    >>> entries(numpy.asarray([1, 2])), entries(3)
    ((1.0, 2.0), 3.0)

    """
    if hasattr(value, "dtype") and len(getattr(value, "shape", ())) == 1:
        value = get_backend(value).to_numpy(value).tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(number(entry) for entry in value)
    return number(value)


def named(name: str, value: Any) -> dict[str, Any]:
    """Return what is to be checked, under the name that an error calls it by.

    Examples
    --------
    >>> named("l2", 0.5), named("l2", (0.5, 1.0))
    ({'l2': 0.5}, {'l2[0]': 0.5, 'l2[1]': 1.0})

    """
    if isinstance(value, tuple) and value:
        return {f"{name}[{member}]": entry for member, entry in enumerate(value)}
    return {name: value}


def column(value: float | Sequence[float]) -> Any:
    """Return one number per member as a host vector ``(members, 1)``, to go with ``(members, n_params)``.

    A single number is returned as it is.

    Examples
    --------
    >>> column([1.0, 2.0])
    array([[1.],
           [2.]])

    """
    return numpy.asarray(value, dtype="float64")[:, None] if isinstance(value, Sequence) else value


def check_members(who: str, name: str, value: Any, members: int | None) -> None:
    """Raise ValueError if ``value`` is a tuple that does not have one entry for each member."""
    if isinstance(value, tuple) and len(value) != members:
        n = len(value)
        have, cure = (
            ("no members", f"make it with MLP(..., members={n})")
            if members is None
            else (f"{members} members", f"one entry for each of the {members}")
        )
        raise ValueError(f"{who}: {name} has {n} entries, the model has {have}; give one number, or {cure}")
