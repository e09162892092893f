"""The patches of ``mutants/`` fit the source, and their runner tells a mutant that was noticed from all others."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
RUNNER = TESTS / "mutants"
PATCHES = sorted(RUNNER.glob("*.patch"))

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git to apply patches with")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the source the patches are made for."""
    if not (TESTS.parent / "portnn").is_dir():
        pytest.skip("there is no checkout around the tests, so no source to patch")
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(TESTS.parent / "portnn", copy / "portnn", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def git_apply(patch, folder):
    outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}  # of any repository around the folder
    done = subprocess.run(["git", "apply", patch], cwd=folder, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, f"{patch.name} does not apply any more, make the mistake again: {done.stderr}"


def test_every_number_is_there_once():
    assert [int(path.name[:2]) for path in PATCHES] == list(range(1, 29))
    assert len({path.name[3:] for path in PATCHES}) == len(PATCHES)


@needs_git
@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_patch_applies_and_is_python(patch, source):
    (name,) = re.findall(r"^\+\+\+ b/(.+)$", patch.read_text(), re.MULTILINE)
    before = (source / name).read_text()
    git_apply(patch, source)
    after = (source / name).read_text()
    (source / name).write_text(before)
    assert after != before
    compile(after, name, "exec")


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_patch_says_what_is_wrong_and_names_tests_of_behavior(patch):
    what, tests, blank, *_ = patch.read_text().splitlines()
    assert re.fullmatch(r"[A-Z].+\.", what)
    assert blank == ""
    names = re.fullmatch(r"tests:((?: tests/\w+\.py::\w+)+)", tests)[1].split()
    for path, _, test in (name.partition("::") for name in names):
        assert f"\ndef {test}(" in (TESTS.parent / path).read_text()
        assert path not in ("tests/test_house.py", "tests/test_plots.py", "tests/test_mutants.py")


# -- the runner, on a package of one line -----------------------------------------------------------------------------

LINE = "def twice(x): return 2 * x  # the double\n"
TOY_TEST = "from portnn import twice\n\n\ndef test_twice():\n    assert twice(3) == 6\n"
TOY_CONFTEST = "def pytest_addoption(parser):\n    parser.addoption('--backend')\n"
# name -> the line in place of LINE, and the one that the patch takes away
TOYS = {
    "01-killed": (LINE.replace("2", "3"), LINE),
    "02-survivor": (LINE.replace("double", "treble"), LINE),
    "03-unfit": (LINE.replace("2", "3"), LINE.replace("twice", "thrice")),
    "04-syntax": (LINE.replace(":", ""), LINE),
    "05-error": (LINE.replace("2 * x", "2 * y"), LINE),
    "06-endless": (LINE.replace("return 2 * x", "\n  while True: x"), LINE),
}
EXPECTED = {
    "01-killed": r"01 killed: killed by tests/test_toy\.py::test_twice in [\d.]+ s",
    "02-survivor": r"02 survivor: SURVIVED tests/test_toy\.py",
    "03-unfit": r"03 unfit: BROKEN, does not apply: .*patch does not apply.*",
    "04-syntax": r"04 syntax: BROKEN, the tests could not be run:",
    "05-error": r"05 error: BROKEN, .*::test_twice ended in an error and not in an assertion: NameError: .*",
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A package and its test, and a folder with a patch for every way in which a mutant can end."""
    root = tmp_path_factory.mktemp("toy")
    for name, text in {
        "pyproject.toml": "[tool.pytest.ini_options]\n",
        "portnn/__init__.py": LINE,
        "tests/conftest.py": TOY_CONFTEST,
        "tests/test_toy.py": TOY_TEST,
        **{f"patches/{name}.patch": toy_patch(*lines) for name, lines in TOYS.items()},
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def toy_patch(new, old):
    plus = "".join(f"+{line}" for line in new.splitlines(keepends=True))
    head = "What is wrong.\ntests: tests/test_toy.py\n\n--- a/portnn/__init__.py\n+++ b/portnn/__init__.py\n"
    return f"{head}@@ -1,1 +1,{len(new.splitlines())} @@\n-{old}{plus}"


def run(toy, *options):
    command = [sys.executable, RUNNER, "--root", toy, "--patches", toy / "patches", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@needs_git
def test_runner_is_content_where_every_mutant_is_killed(toy):
    code, (first, second, last) = run(toy, "1")
    assert (code, first, last) == (0, "unchanged: green", "1 of 1 mutants were killed")
    assert re.fullmatch(EXPECTED["01-killed"], second)


@needs_git
def test_runner_refuses_all_that_is_no_kill(toy):
    code, lines = run(toy, *[name[:2] for name in EXPECTED], "--jobs", "2")
    assert code == 1
    for line, pattern in zip([line for line in lines if re.match(r"\d\d ", line)], EXPECTED.values(), strict=True):
        assert re.fullmatch(pattern, line)
    assert lines[-1] == "1 of 5 mutants were killed"
    assert (toy / "portnn/__init__.py").read_text() == LINE


@needs_git
def test_runner_stops_a_mutant_that_does_not_end(toy):
    code, lines = run(toy, "6", "--limit", "2")
    assert (code, lines[1]) == (1, "06 endless: BROKEN, not done after 2 s")


@needs_git
def test_runner_wants_the_tests_green_where_nothing_is_changed(toy):
    (toy / "tests/test_toy.py").write_text(TOY_TEST.replace("6", "7"))
    code, lines = run(toy, "1")
    (toy / "tests/test_toy.py").write_text(TOY_TEST)
    assert code == 1
    assert re.match(r"unchanged: tests/test_toy\.py::test_twice is red already: assert 6 == 7", lines[0])
