"""What the site needs beyond Markdown: source beside its formula, formulas as MathML, files from outside docs/.

Called by mkdocs; nothing here imports portnn or fetches anything.
"""

from __future__ import annotations

import ast
import html
import re
import textwrap
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^]]*)\]\((?P<path>(?:\.\./)+[\w./-]+)\)")
SOURCE = re.compile(r"<!-- source: ([\w.]+) -->")
FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):<code>~?(.*?)</code>")
# The kind and default of an argument, which two that are described together would share; the signature has them right.
KIND = re.compile(
    r'(<li class="doc-section-item field-body">\s*<b><code>[^<]*</code></b>)\s*\(.*?\)(?=\s*\u2013)', re.S
)
# What the converter leaves to the browser, which takes a sign after a bracket for a difference, and log p for logp.
SIGN = re.compile(r"(<mo[^>]*>(?:&#x00028;|&#x0002C;|&#x0003D;)</mo>)<mo>(?=&#x02212;|&#x000B1;)")
NAMED = re.compile(r"(<mi>(?:log|tanh|cos)</mi>)(?=<mi>)")
FOREIGN = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="https?://(?!localhost)[^"]*"')


def on_config(config: Any) -> Any:
    """Leave out what the navigation names and nobody has written."""
    config.nav = kept(config.nav, Path(config.docs_dir))
    return config


def kept(entries: list[Any], docs: Path) -> list[Any]:
    """Return the entries whose pages are there."""
    found: list[Any] = []
    for entry in entries:
        if isinstance(entry, str):
            found += [entry] if (docs / entry).exists() else []
            continue
        ((title, target),) = entry.items()
        if isinstance(target, list):
            target = kept(target, docs)
        elif not (docs / target).exists():
            continue
        found.append({title: target})
    return found


def outside(path: Path, docs: Path) -> Path | None:
    """Return the file of the repository that a link leads to, None within docs; PluginError where there is none."""
    path = path.resolve()
    if path.is_relative_to(docs):
        return None
    if not path.exists() or not path.is_relative_to(ROOT):
        raise PluginError(f"a link leads to {path}, which is not there")
    return path


def on_files(files: Any, config: Any) -> Any:
    """Take pictures into the site that pages show from elsewhere in the repository."""
    docs = Path(config.docs_dir)
    for page in docs.rglob("*.md"):
        for link in OUTSIDE_LINK.finditer(page.read_text(encoding="utf-8")):
            path = outside(page.parent / link["path"], docs) if link["picture"] else None
            if path and not files.get_file_from_path(f"images/{path.name}"):
                files.append(File.generated(config, f"images/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the source of a function where a page asks for it, and turn links out of docs/ into names of files."""
    docs, here = Path(config.docs_dir), Path(page.file.abs_src_path).parent

    def named(link: re.Match[str]) -> str:
        path = outside(here / link["path"], docs)
        if path is None:
            return link[0]
        if link["picture"]:
            return f"![{link['text']}]({'../' * page.file.src_uri.count('/')}images/{path.name})"
        name = path.relative_to(ROOT).as_posix()
        return f"`{name}`" if link["text"].strip("`") in name else f"{link['text']} (`{name}`)"

    markdown = OUTSIDE_LINK.sub(named, markdown)
    return SOURCE.sub(lambda match: source(match[1]), markdown)


def source(name: str) -> str:
    """Return the code of a function or class as a block, without its docstring, and where it stands."""
    module, _, rest = name.rpartition(".")
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():  # a method
        module, _, holder = module.rpartition(".")
        path, rest = ROOT / (module.replace(".", "/") + ".py"), f"{holder}.{rest}"
    text = path.read_text(encoding="utf-8")
    node: Any = ast.parse(text)
    for part in rest.split("."):
        node = next((n for n in node.body if getattr(n, "name", None) == part), None)
        if node is None:
            raise PluginError(f"a page wants the source of {name}, which is not there")
    lines = text.splitlines()
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    body = lines[first - 1 : node.end_lineno]
    if ast.get_docstring(node) is not None:
        doc = node.body[0]
        del body[doc.lineno - first : doc.end_lineno - first + 1]
        if len(body) > doc.lineno - first and not body[doc.lineno - first].strip():
            del body[doc.lineno - first]
    code = textwrap.dedent("\n".join(body)).rstrip()
    return f'```python title="{path.relative_to(ROOT).as_posix()}, line {first}"\n{code}\n```'


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Turn formulas into MathML and Sphinx's roles in docstrings into code; name arguments without their kinds."""

    def drawn(formula: re.Match[str]) -> str:
        display = "block" if formula["tag"] == "div" else "inline"
        drawing = SIGN.sub(r'\1<mo form="prefix">', convert(html.unescape(formula["tex"]), display=display))
        return NAMED.sub(r'\1<mspace width="0.17em"/>', drawing)

    return KIND.sub(r"\1", ROLE.sub(r"<code>\1</code>", FORMULA.sub(drawn, content)))


def on_post_build(config: Any) -> None:
    """Fail if a page would fetch something from elsewhere when it is read."""
    for page in Path(config.site_dir).rglob("*.html"):
        found = FOREIGN.search(page.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{page.name} fetches from elsewhere: {found[0]}")
