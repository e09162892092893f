"""``python -m portnn``: train on a table, predict, look into a model, and compare array libraries."""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import Any

import portnn
from portnn.commands.options import parser
from portnn.files import shown

HINTS = {  # what the package says, and how the commands that have this option do it
    "declare the column categorical": ("categorical", "declare the column categorical (--categorical)"),
    "leave such rows out": ("missing", "leave such rows out (--missing drop)"),
    "leave it out": ("drop", "leave it out (--drop)"),
    "say no header": ("header", "pass --no-header"),
    "read it as such": ("header", "leave --no-header out"),
    "use dtype='float64'": ("dtype", "pass --dtype float64"),
    "read_columns: ": ("data", ""),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(arguments)
    if getattr(options, "delimiter", "") == "tab":
        options.delimiter = "\t"
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot write must not cut a report off
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (portnn.NonFiniteError, MemoryError) as error:
        return _say(options, error, 1)
    except (ValueError, TypeError, OSError, ImportError, portnn.BackendError) as error:
        return _say(options, error, 2)
    except KeyboardInterrupt:
        return _say(options, "interrupted", 130)
    return code


def _say(options: argparse.Namespace, error: Any, code: int) -> int:
    """Print one line to the standard error."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # of files they have the name
        where = "the standard output" if error.filename is None else shown(error.filename, 200)
        text = f"{error.strerror}: {where}"
    for words, (option, hint) in HINTS.items():
        if hasattr(options, option):
            text = text.replace(words, hint)
    text = " ".join(text.split()).removeprefix(f"{options.command}: ")
    print(f"portnn {options.command}: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
