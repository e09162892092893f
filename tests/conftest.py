"""The array libraries that every test of the core runs on, each as one value of the fixture ``library``.

A library that is not there takes no part: it is named in the header of the report, and one test of
``test_libraries.py`` is skipped with the reason. ``--backend NAME`` restricts a run and then insists on NAME.

No test reaches the network: see ``offline/sitecustomize.py``. Ctrl-C is Python's own, also where the runner is a job in
the background, which ignores it, as processes do that it starts.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libraries import LIBRARIES, Library

signal.signal(signal.SIGINT, signal.default_int_handler)
OFFLINE = str(Path(__file__).parent / "offline")
if not hasattr(sys.modules.get("sitecustomize"), "NetworkUsedError"):  # workers have it from the start
    runpy.run_path(str(Path(OFFLINE, "sitecustomize.py")), run_name="offline")
if OFFLINE not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))


def selected(config: pytest.Config) -> list[Library]:
    """Return the libraries that were asked for, there or not."""
    wanted = config.getoption("backend")
    if not wanted:
        return list(LIBRARIES.values())
    chosen = [x for x in LIBRARIES.values() if any(x.name == w or x.name.startswith(w + "-") for w in wanted)]
    unknown = [w for w in wanted if not any(x.name == w or x.name.startswith(w + "-") for x in chosen)]
    if unknown:
        raise pytest.UsageError(f"--backend {unknown[0]}: expected one of {', '.join(LIBRARIES)}")
    for name in wanted:
        if name in LIBRARIES and LIBRARIES[name].why_not:
            raise pytest.UsageError(f"--backend {LIBRARIES[name].why_not}")
    return chosen


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend", action="append", metavar="NAME", help=f"test on this library only: {', '.join(LIBRARIES)}"
    )


def pytest_configure(config: pytest.Config) -> None:
    selected(config)  # a wrong --backend is said before anything is collected


def pytest_report_header(config: pytest.Config) -> list[str]:
    libraries = selected(config)
    present = [f"{x.name} {x.backend.version}" for x in libraries if not x.why_not]
    return ["libraries: " + ", ".join(present), *(x.why_not for x in libraries if x.why_not)]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage among what lives until the end: modules and 22,000 tests, neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "library" in metafunc.fixturenames:
        there = [x for x in selected(metafunc.config) if not x.why_not]
        metafunc.parametrize("library", there, ids=lambda x: x.name, indirect=True)
    if "selected_library" in metafunc.fixturenames:
        metafunc.parametrize("selected_library", selected(metafunc.config), ids=lambda x: x.name)


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Any:
    """One array library after the other: ``library.make(a, "float32")``, ``library.to_numpy(x)``, ``library.xp``."""
    with request.param.running():
        yield request.param
