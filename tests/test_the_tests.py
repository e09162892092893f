"""Rules that keep the tests able to fail: tolerances stand in one place, and errors are asked for by name."""

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.rglob("*.py"))
TOLERANCES = {"rtol", "atol", "rel", "abs", "rel_tol", "abs_tol", "decimal", "significant", "maxulp", "nulp"}


def called(node):
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def loose_ends(source, name="test_x.py"):
    """Return what breaks a rule, as (line, rule)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        words = {keyword.arg: keyword.value for keyword in node.keywords}
        if name != "tolerances.py" and TOLERANCES & set(words):
            found.append((node.lineno, "a tolerance outside tolerances.py"))
        if called(node) in ("allclose", "isclose", "assert_allclose", "assert_close", "approx", "assert_almost_equal"):
            found.append((node.lineno, "a comparison with a tolerance of its own"))
        if called(node) == "raises":
            kinds = [k.id for a in node.args[:1] for k in ast.walk(a) if isinstance(k, ast.Name)]
            if {"Exception", "BaseException"} & set(kinds):
                found.append((node.lineno, "an error without a name"))
        if called(node) in ("skip", "xfail", "skipif") and not (node.args or "reason" in words):
            found.append((node.lineno, "a skip without a reason"))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_loose_ends(path):
    assert loose_ends(path.read_text(encoding="utf-8"), path.name) == []


@pytest.mark.parametrize(
    "source",
    [
        "np.testing.assert_allclose(a, b)",
        "f(a, b, rtol=1e-5)",
        "assert a == pytest.approx(b, rel=0.1)",
        "math.isclose(a, b, abs_tol=1)",
        "pytest.raises(Exception)",
        "pytest.raises((ValueError, BaseException), match='x')",
        "pytest.skip()",
        "xp.allclose(a, b)",
    ],
)
def test_a_loose_end_is_found(source):
    assert loose_ends(source)
