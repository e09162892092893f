"""Bad inputs, all 70 of them: the type of the error, its words, and that nothing was changed by it.

One table. The rows bear the numbers of the list of bad inputs that the project keeps, and stand in three files by what
they are handed to: ``rows_core.py``, ``rows_estimators.py``, ``rows_files.py``. A row that must work says how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rows_core
import rows_estimators
import rows_files
from libraries import LIBRARIES
from rows_core import Case, Row, bits, check_message

TABLE = [*rows_core.ROWS, *rows_estimators.ROWS, *rows_files.ROWS]

# The cases that the list counts within a row.
CASES = {61: 6, 62: 5, 63: 6, 64: 11, 65: 4, 66: 4, 67: 7, 68: 8, 69: 11, 59: 3, 25: 2, 31: 3, 33: 4, 27: 4}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_bad_input(row: Row, library: Any, tmp_path: Path) -> None:
    if not row.where(library):
        return  # the row has nothing to say about this library
    case = Case(library, tmp_path, refused=row.error is not None)
    for arguments, call in row.attempts(case):
        if row.error is None:
            call()
            continue
        before = [case.state(), *map(bits, arguments.values())]
        with pytest.raises(row.error, match=row.words) as caught:
            call()
        kind = type(caught.value)
        assert kind is row.error or row.derived, f"{kind.__name__} is not {row.error.__name__} itself"
        check_message(str(caught.value), row.lines)
        after = [case.state(), *map(bits, arguments.values())]
        assert after == before, f"changed by a call that failed: {['state', *arguments]}"


def numbers() -> list[int]:
    return [int(row.name.split()[0]) for row in TABLE]


def test_all_seventy_are_there() -> None:
    assert sorted(set(numbers())) == list(range(1, 71))
    few = {number: numbers().count(number) for number in CASES if numbers().count(number) < CASES[number]}
    assert not few, f"rows with fewer cases than the list has: {few}"


def test_messages_are_looked_at() -> None:
    for message in ("x" * 501, "a\nb", f"got {np.ones(3)!r}", f"got {np.ones((2, 2)).tolist()}", f"got {[0.5] * 9}"):
        with pytest.raises(AssertionError):
            check_message(message)


def test_a_change_is_noticed(tmp_path: Path) -> None:
    def written() -> None:
        (tmp_path / "log.csv").write_text("epoch\n")

    def left_over() -> None:
        (tmp_path / ".portnn-0.tmp").write_bytes(b"")

    def counted_on() -> None:
        case.history["loss"].append(1.0)

    def moved() -> None:
        case.model.running = np.asarray(case.model.running) + 1.0

    def trained() -> None:
        case.model.params = np.asarray(case.model.params) * 2.0

    for change in (written, left_over, counted_on, moved, trained):
        case = Case(LIBRARIES["numpy"], tmp_path, refused=True)
        before = case.state()
        assert case.state() == before
        change()
        assert case.state() != before, change.__name__
