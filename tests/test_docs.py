"""The code of docs/*.md: every block runs, in order, and prints what the page says that it prints."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import libraries  # noqa: F401  float64 in JAX, before its first array
import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["autograd.md", "embedding.md", "estimators.md", "training.md"]
BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>[\w ]+) -->\n)?```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
SAID = re.compile(r"# -> (.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A piece of code, the line of the page where it begins, and the libraries that it takes."""

    line: int
    code: str
    needs: list[str]


def blocks(text: str) -> list[Block]:
    """Return the blocks of Python in a page."""
    found = [
        Block(text.count("\n", 0, m.start("code")) + 1, m["code"], (m["needs"] or "").split())
        for m in BLOCK.finditer(text)
    ]
    assert len(found) == text.count("```python"), "a block that is not closed"
    return found


def run(block: Block, page: str, names: dict[str, Any]) -> None:
    """Run a block and compare what it prints with its comments."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)
    assert printed.getvalue().splitlines() == SAID.findall(block.code), f"{page}, line {block.line}"


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for the files that it writes
    names, missing = {"__name__": page}, []
    for block in blocks((DOCS / page).read_text(encoding="utf-8")):
        absent = [name for name in block.needs if importlib.util.find_spec(name) is None]
        missing += absent
        if not absent:
            run(block, page, names)
    if missing:
        pytest.skip(f"{page}: the blocks that need {', '.join(sorted(set(missing)))} did not run")


def test_a_wrong_page_is_noticed():
    (first, second) = blocks(
        "text\n```python\nprint(1)  # -> 1\n```\n<!-- needs: numpy dask -->\n```python\nprint(2)\n# -> 3\n```\n"
    )
    assert (first.line, first.needs, second.needs) == (3, [], ["numpy", "dask"])
    run(first, "page", {})
    with pytest.raises(AssertionError, match="page, line 7"):
        run(second, "page", {})
    with pytest.raises(AssertionError, match="not closed"):
        blocks("```python\nprint(1)\n")
    with pytest.raises(ZeroDivisionError):
        run(Block(1, "1 / 0", []), "page", {})


def test_no_block_of_python_is_hidden():
    """Other pages show commands and formulas; code that is not run here would rot."""
    others = [path.name for path in DOCS.glob("*.md") if "```python" in path.read_text(encoding="utf-8")]
    assert sorted(others) == sorted(PAGES)
