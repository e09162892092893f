"""The pages of docs/: every block of Python runs, in order, and prints what the page says; what they name is there."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import libraries  # noqa: F401  float64 in JAX, before its first array
import pytest

import portnn
from portnn import activations, initializers, losses, optimizers, schedules

DOCS = Path(__file__).parents[1] / "docs"
PACKAGE = DOCS.parent / "portnn"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md") if "```python" in p.read_text("utf-8"))
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


def hidden(text: str) -> list[str]:
    """Return the lines that open or close code in a way that is not run here."""
    fences = re.findall(r"^ *(?:```|~~~).*$|^ *>>>.*$", text, re.MULTILINE)
    return [line for line in fences if line not in ("```python", "```sh", "```text", "```")]


def test_no_block_of_python_is_hidden():
    """Written in any other way, code would not be run here, and would rot."""
    for wrong in ("~~~python", "```py", "``` python", "  ```python", "```python3", "```pycon", ">>> 1", "```Python"):
        assert hidden(f"text\n{wrong}\n1\n```\n") == [wrong]
    assert len(PAGES) > 10
    for page in DOCS.rglob("*.md"):
        assert hidden(page.read_text("utf-8")) == [], page


def unmeasured(text: str) -> list[str]:
    """Return the places of figures that are still to be measured."""
    return re.findall(r"<!--\s*measure\b.*?-->", text, re.DOTALL)


def test_every_figure_was_measured():
    """A page may be written before its figures are there, but not published."""
    assert unmeasured("a <!-- measure: kills --> b <!--measure\nthis-->") == [
        "<!-- measure: kills -->",
        "<!--measure\nthis-->",
    ]
    assert unmeasured("<!-- source: portnn.losses.mse --> measured") == []
    for page in DOCS.rglob("*.md"):
        assert unmeasured(page.read_text("utf-8")) == [], page


def names(text: str, kind: str) -> list[str]:
    return re.findall(rf"<!-- {kind}: ([\w.]+) -->", text)


def marked() -> set[str]:
    """Return the functions and modules of the package that take care of a numerical hazard and say so."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        for match in re.finditer("Numerical stability:", text):
            line = text.count("\n", 0, match.start()) + 1
            name, node = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts), ast.parse(text)
            while node:
                inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
                node = next((n for n in inner if n.lineno <= line <= n.end_lineno), None)
                name += f".{node.name}" if node else ""
            found.add(name)
    return found


def test_every_measure_of_numerical_stability_is_listed():
    page = (DOCS / "mathematics" / "stability.md").read_text("utf-8")
    assert sorted(re.findall(r"^\| `(portnn\.[\w.]+)` \|", page, re.MULTILINE)) == sorted(marked())


def test_every_mistake_names_a_test():
    page = (DOCS / "mathematics" / "mistakes.md").read_text("utf-8")
    named = re.findall(r"\| `(test_\w+)` \|$", page, re.MULTILINE)
    there = set(
        re.findall(
            r"^def (test_\w+)", Path(__file__).with_name("test_seed_mistakes.py").read_text("utf-8"), re.MULTILINE
        )
    )
    assert len(named) > 25
    assert set(named) <= there


def test_every_activation_loss_optimizer_schedule_and_start_is_on_its_page():
    for page, kinds in {
        "activations": activations.ACTIVATIONS,
        "losses": losses.LOSSES,
        "initialization": initializers.INITIALIZERS,
    }.items():
        text = (DOCS / "mathematics" / f"{page}.md").read_text("utf-8")
        rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(kinds), page
    text = (DOCS / "mathematics" / "optimizers.md").read_text("utf-8")
    own = {n for n, f in vars(schedules).items() if getattr(f, "__module__", "") == schedules.__name__ and n[0] != "_"}
    own.remove("Formula")  # what the others return
    for name in [*(cls.__name__ for cls in optimizers.OPTIMIZERS.values()), *own]:
        assert re.search(rf"^\| `{name}[`(]", text, re.MULTILINE), name


def test_api_pages_are_those_of_the_public_modules():
    """Every module that portnn hands on has a page, and so have plots and estimators; other names are on the first."""
    modules = {n for n in portnn.__all__ if isinstance(getattr(portnn, n), ModuleType)} | {"plots", "estimators"}
    pages = {path.stem for path in (DOCS / "api").glob("*.md")}
    assert pages == modules | {"index"}, "write docs/api/NAME.md, and its line in mkdocs.yml"
    index = (DOCS / "api" / "index.md").read_text("utf-8")
    for name in set(portnn.__all__) - modules - {"__version__"}:
        thing = getattr(portnn, name)
        told = f"::: portnn.{name}\n" in index or f"[portnn.optimizers.{name}]" in index
        assert told or thing.__module__ == "portnn.errors", name


def test_source_that_a_page_asks_for_is_there():
    """The site puts it there when it is built; here only its name is looked up."""
    asked = [name for page in DOCS.rglob("*.md") for name in names(page.read_text("utf-8"), "source")]
    assert len(asked) > 20
    for name in asked:
        thing: Any = portnn
        for part in name.split(".")[1:]:
            thing = getattr(thing, part)


def test_every_picture_is_shown_where_it_is_explained():
    """That examples/pictures.py draws them, see test_pictures_are_those_of_the_documents."""
    shown = set()
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"!\[[^\]]+\]\(([^)]+\.(?:png|svg))\)", page.read_text("utf-8")):
            assert (page.parent / name).is_file(), f"{page.name}: {name}"
            shown.add((page.parent / name).resolve())
    there = {path.resolve() for path in (DOCS / "images").iterdir()}
    assert len(there) > 8
    assert there <= shown, f"no page shows {sorted(path.name for path in there - shown)}"
