"""Members of an ensemble: one hyperparameter for all of them or one for each, and which of them an index means."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy
from array_api_compat import is_array_api_obj

from portnn.backends import get_backend
from portnn.errors import shown


def number(value: Any) -> Any:
    """Return a real number as a Python float, since a NumPy scalar would widen float32 arrays; all else as it is.

    NumPy's True and False become Python's.
    """
    if isinstance(value, numpy.bool_):
        return bool(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def entries(value: Any) -> Any:
    """Return a sequence or 1-D array, one entry per member, as a tuple; a number as :func:`number` does.

    Examples
    --------
    >>> entries(numpy.asarray([1, 2])), entries(3)
    ((1.0, 2.0), 3.0)

    """
    listed = _listed(value)
    return number(value) if listed is None else tuple(number(entry) for entry in listed)


def _listed(value: Any) -> Sequence[Any] | None:
    """Return the entries of a sequence or of a 1-D array of any library; None for all else."""
    if hasattr(value, "dtype") and len(getattr(value, "shape", ())) == 1:
        own = is_array_api_obj(value)  # a column of a table is none, but makes one
        listed: list[Any] = (get_backend(value).to_numpy(value) if own else numpy.asarray(value)).tolist()
        return listed
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


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


def chosen(index: Any, members: int | None) -> int | list[int]:
    """Return the number of the member at an index, or a list of the numbers that a slice or a sequence means.

    Examples
    --------
    >>> chosen(-1, 5), chosen(slice(3), 5), chosen([4, 0], 5)
    (4, [0, 1, 2], [4, 0])

    """
    if members is None:
        message = "MLP: the model is a single network, without members to choose from; make it with members=M"
        raise TypeError(message)
    listed = range(members)[index] if isinstance(index, slice) else _listed(index)
    if listed and all(isinstance(entry, bool) for entry in listed):
        message = "MLP: a mask of True and False chooses no members; give their numbers: model[numpy.flatnonzero(mask)]"
        raise TypeError(message)
    if listed is None:
        return _member(index, members)
    if not len(listed):
        raise IndexError(f"MLP: {shown(index)} chooses none of the {members} members")
    return [_member(i, members) for i in listed]


def _member(index: Any, members: int) -> int:
    if not isinstance(index, numbers.Integral) or isinstance(index, bool):
        raise TypeError(f"MLP: a member has a whole number, several a slice or a sequence of them; got {shown(index)}")
    i = operator.index(index)
    if not -members <= i < members:
        raise IndexError(f"MLP: there is no member {i}; the {members} members have the numbers 0 to {members - 1}")
    return i % members
