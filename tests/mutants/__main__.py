"""Make known mistakes in a copy of the package, one at a time: each must turn a test red.

``python tests/mutants`` runs all of them, ``python tests/mutants 3 14`` some. A patch begins with one line that says
what is wrong and a line ``tests: ...`` that names the tests that must notice; see README.md. Needs git and what the
tests need.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
COPIED = ("portnn", "tests", "data", "examples", "pyproject.toml", "README.md")
# What a test says that has noticed something: an assertion, an error that did not come, or a warning of NumPy's, which
# is an error in the tests. A mutant that ends in a TypeError has not been noticed: it does not run.
NOTICED = re.compile(r"assert |AssertionError|Failed: |RuntimeWarning: ")


class Broken(Exception):
    """Neither killed nor survived: the patch does not apply, or the tests could not be run."""


def tests_of(patch: Path) -> list[str]:
    """Return the tests that the head of a patch names, as pytest takes them."""
    head = patch.read_text(encoding="utf-8").partition("\n--- ")[0]
    lines = [line.removeprefix("tests:").split() for line in head.splitlines() if line.startswith("tests:")]
    if len(lines) != 1 or not lines[0]:
        raise Broken(f"{patch.name} has no line 'tests: ...' before the difference")
    return lines[0]


def copied(root: Path, work: Path) -> Path:
    """Return a fresh copy of the checkout."""
    copy = Path(tempfile.mkdtemp(dir=work))
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "mnist"))
        elif (root / name).exists():
            shutil.copy(root / name, copy)
    return copy


def apply(patch: Path, copy: Path) -> None:
    """Apply a patch to a copy; Broken unless it fits."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = kept | {"GIT_CEILING_DIRECTORIES": str(copy.parent)}  # a repository around the copy is none of ours
    done = subprocess.run(["git", "apply", str(patch)], cwd=copy, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise Broken(f"does not apply: {' '.join(done.stderr.split())}")


def run_tests(copy: Path, tests: list[str], limit: float) -> tuple[str, str]:
    """Run tests in a copy, on NumPy, and return the first that failed and what it said; nothing if all passed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    environment = kept | one_thread | {"PYTHONPATH": str(copy)}  # before an installed portnn
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    command += ["--backend", "numpy", *tests]
    try:
        done = subprocess.run(command, cwd=copy, env=environment, timeout=limit, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise Broken(f"not done after {limit:g} s") from None
    if done.returncode == 0:
        return "", ""
    report = copy / "report.xml"
    failed = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    failed = [case for case in failed if case.find("failure") is not None]
    if done.returncode != 1 or not failed:
        raise Broken("the tests could not be run:\n" + (done.stdout + done.stderr)[-2000:])
    name = f"{failed[0].get('classname', '').replace('.', '/')}.py::{failed[0].get('name')}"
    return name, failed[0].find("failure").get("message", "")


def judge(patch: Path, root: Path, work: Path, limit: float) -> tuple[bool, str]:
    """Return whether a test noticed the mutant, and the line to print."""
    number, _, name = patch.stem.partition("-")
    try:
        copy = copied(root, work)
        apply(patch, copy)
        began = time.perf_counter()
        test, said = run_tests(copy, tests_of(patch), limit)
        if test and not NOTICED.match(said):
            raise Broken(f"{test} ended in an error and not in an assertion: {said.partition(chr(10))[0]}")
    except Broken as error:
        return False, f"{number} {name}: BROKEN, {error}"
    if not test:
        return False, f"{number} {name}: SURVIVED {' '.join(tests_of(patch))}"
    return True, f"{number} {name}: killed by {test} in {time.perf_counter() - began:.1f} s"


def green(patches: list[Path], root: Path, work: Path) -> str:
    """Return what is wrong with the chosen tests where nothing is changed; nothing if they pass there."""
    try:
        tests = list(dict.fromkeys(test for patch in patches for test in tests_of(patch)))
        test, said = run_tests(copied(root, work), tests, 600.0)
    except Broken as error:
        return str(error)
    return f"{test} is red already: {said}" if test else ""


def main() -> int:
    """Return 0 if every mutant was killed."""
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int, help="only these mutants")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (1)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that each may take (60)")
    parser.add_argument("--root", type=Path, default=HERE.parents[1], help="the checkout")
    parser.add_argument("--patches", type=Path, default=HERE, help="the folder of the patches")
    options = parser.parse_args()
    patches = {int(path.name.partition("-")[0]): path for path in sorted(options.patches.resolve().glob("*.patch"))}
    unknown = sorted(set(options.numbers) - set(patches))
    if unknown or not patches:
        parser.error(f"no mutant {unknown} in {options.patches}")
    if not shutil.which("git"):
        parser.error("needs git to apply the patches")
    chosen = [path for number, path in patches.items() if not options.numbers or number in options.numbers]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        work = Path(folder).resolve()
        wrong = green(chosen, options.root, work)
        print(f"unchanged: {wrong or 'green'}", flush=True)
        if wrong:
            return 1
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            verdicts = []
            for killed, line in pool.map(lambda path: judge(path, options.root, work, options.limit), chosen):
                print(line, flush=True)
                verdicts.append(killed)
    print(f"{sum(verdicts)} of {len(verdicts)} mutants were killed")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
