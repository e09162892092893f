"""What the command line prints: summaries and tables, by rich on a terminal where it is installed, else as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def summary(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and what there is to say about each, one below the other."""
    _table(None, [(name, _clean(text)) for name, text in rows], bold=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first are numbers, and stand to the right."""
    _table([_clean(name) for name in header], [[_clean(cell) for cell in row] for row in rows], bold=False)


def _table(header: Sequence[str] | None, rows: Sequence[Sequence[str]], *, bold: bool) -> None:
    rich = _rich()
    if rich is None:
        everything = [*([] if header is None else [header]), *rows]
        widths = [max(len(row[k]) for row in everything) for k in range(len(everything[0]))]
        for row in everything:
            first, *others = row
            cells = [first.ljust(widths[0])]
            cells += others if header is None else [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
            print("  ".join(cells).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    drawn = Table(show_header=header is not None, box=rich, pad_edge=False)
    for k in range(len(rows[0])):
        name = Text("" if header is None else header[k])  # not a string, in which rich would look for markup
        drawn.add_column(name, justify="right" if k and header is not None else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style="bold" if bold and k == 0 else "") for k, cell in enumerate(row)))
    from rich.console import Console

    Console().print(drawn)


def _rich() -> Any:
    """Return the box that rich draws, or None: no terminal, or no rich."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich import box
    except ImportError:
        return None
    return box.SIMPLE_HEAD


def _clean(text: str) -> str:
    """Take out what could move the cursor of a terminal: names come from files."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def some(names: Sequence[str], most: int = 12) -> str:
    """Return the first names, and how many there are if that is not all of them.

    Examples
    --------
    >>> some(["a", "b", "c"]), some(["a", "b", "c"], most=2)
    ('a, b, c', 'a, b, ... (3)')

    """
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")


def many(n: int, what: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> many(1, "row"), many(2, "row")
    ('1 row', '2 rows')

    """
    return f"{n} {what}{'s' * (n != 1)}"
