"""The array libraries that every test of the core runs on, each as one value of the fixture ``library``.

A library that is not there takes no part: it is named in the header of the report, and one test of
``test_libraries.py`` is skipped with the reason. ``--backend NAME`` restricts a run and then insists on NAME.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

# Several libraries and several workers share one GPU, so none may reserve it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
if importlib.util.find_spec("jax"):
    import jax

    jax.config.update("jax_enable_x64", True)  # must come before the first array; float32 arrays stay float32

import portnn
from portnn.backends import get_backend

FLOATS = ("float32", "float64")


@dataclass(frozen=True)
class Library:
    """One array library on one device, with the flags it runs under."""

    name: str
    backend_name: str
    device_name: str | None = None
    readonly: bool = False
    flags: dict[str, Any] = field(default_factory=dict, hash=False)

    @functools.cached_property
    def backend(self) -> Any:
        """The portnn backend."""
        return get_backend(self.backend_name, self.device_name)

    @property
    def xp(self) -> Any:
        """The namespace."""
        return self.backend.xp

    @property
    def where(self) -> dict[str, Any]:
        """Return the arguments that put a model here: ``MLP(sizes, **library.where)``."""
        return {"backend": self.backend_name, "device": self.device_name}

    def make(self, a: Any, dtype: str | None = None, *, given_up: bool = False) -> Any:
        """Return an array of this library with memory of its own; ``dtype`` is a name such as ``"float32"``.

        On ``numpy-readonly`` nothing can be written into it, unless it is ``given_up``: handed to a function that is
        allowed to change it, as the parameters and the state of an optimizer are.
        """
        host = np.array(a, dtype=dtype, copy=True)
        if self.backend_name == "numpy":
            host.flags.writeable = given_up or not self.readonly
            return host
        return self.xp.asarray(host, device=self.backend.device)

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return the numbers as a NumPy array; TypeError unless ``x`` is an array of this library on its device."""
        if self.backend_name == "numpy":
            if not isinstance(x, np.ndarray | np.generic):
                raise TypeError(f"expected a NumPy array, got {type(x).__name__}")
            return np.asarray(x)
        if not self.backend.owns(x):
            raise TypeError(f"expected an array of {self.backend_name}, got {type(x).__name__}")
        if self.backend.device_of(x) != self.backend.device_of(self.make(0.0)):
            raise TypeError(f"expected an array on {self.backend.device_name}, got one on {x.device}")
        return np.array(self.backend.to_numpy(x), copy=True)

    def dtype_name(self, x: Any) -> str:
        """Return ``"float32"`` and the like."""
        return str(getattr(x.dtype, "name", x.dtype)).rpartition(".")[2]

    def running(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the flags."""
        if not self.flags:
            return contextlib.nullcontext()
        import array_api_strict

        return array_api_strict.ArrayAPIStrictFlags(**self.flags)

    @functools.cached_property
    def why_not(self) -> str:
        """Say why it cannot be used here; empty where it can."""
        try:
            assert self.backend.xp is not None
        except portnn.BackendError as error:
            return f"{self.name}: not tested ({error})"
        return ""


LIBRARIES = {
    library.name: library
    for library in (
        Library("numpy", "numpy"),
        Library("numpy-readonly", "numpy", readonly=True),
        Library("array_api_strict", "array_api_strict"),
        Library("array_api_strict-device1", "array_api_strict", "device1"),
        Library(
            "array_api_strict-strictest",
            "array_api_strict",
            flags={
                "api_version": "2024.12",
                "boolean_indexing": False,
                "data_dependent_shapes": False,
                "enabled_extensions": (),
            },
        ),
        Library("torch", "torch", "cpu"),
        Library("jax", "jax", "cpu"),
        # on an NVIDIA GPU
        Library("cupy", "cupy"),
        Library("torch-cuda", "torch", "cuda"),
        Library("jax-cuda", "jax", "cuda"),
    )
}


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
