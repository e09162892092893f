"""The array libraries that the tests run on, each on one device and with the flags it runs under."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Several libraries and several workers share one GPU, so none may reserve it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# JAX writes a program in place, where another worker would read the half of it; it looks at this when it is imported.
if {"PYTEST_XDIST_WORKER", "JAX_COMPILATION_CACHE_DIR"} <= os.environ.keys():
    worker, folder = os.environ["PYTEST_XDIST_WORKER"], os.environ["JAX_COMPILATION_CACHE_DIR"]
    if os.path.basename(folder) != worker:  # a process that a worker started has that worker's already
        os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder, worker)
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
