"""CUDA graphs with CuPy, whose own products refuse to be captured.

CuPy (14, cupy#6290) raises NotImplementedError for every cuBLAS call on a capturing stream, although cuBLAS allows it.
Its products of matrices end in ``cublas.gemmEx``, which is looked up anew in each call; while a chunk is captured it is
replaced by a call of the same function of the same library. Products of members, which end in another function, are not
captured. Everything that depends on this is in this file, and :mod:`portnn.backends.graphs` compares a replayed step
with the step itself before anything is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

from portnn.backends.graphs import GraphError

WORKSPACE = 32 << 20  # bytes: what cuBLAS asks for on Hopper


def capture(body: Callable[[], None]) -> Callable[[], None]:
    """Capture what ``body`` launches and return a function that launches it again on the current stream.

    The pool that the graph's memory comes from lives as long as that function; what ``body`` works on is the caller's.
    """
    import cupy

    pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with cupy.cuda.using_allocator(pool.malloc), stream:
        workspace = cupy.empty(WORKSPACE, dtype=cupy.uint8)
        body()  # compiles kernels and makes handles, which cannot be done within a capture
        stream.synchronize()
        gc.collect()
        enabled = gc.isenabled()
        gc.disable()  # a handle that is destroyed within a capture would end it
        try:
            with _capturable_products(stream, workspace):
                stream.begin_capture()
                try:
                    body()
                finally:
                    graph = stream.end_capture()
        finally:
            if enabled:
                gc.enable()
    stream.synchronize()
    kept = (pool, workspace)

    def launch() -> None:
        assert kept
        graph.launch()

    return launch


@contextlib.contextmanager
def _capturable_products(stream: Any, workspace: Any) -> Iterator[None]:
    """Let ``cublas.gemmEx`` call the library directly, on this stream and with this memory."""
    import cupy
    from cupy_backends.cuda.libs import cublas

    library, me, before = _cublas(), threading.get_ident(), cublas.gemmEx
    handle = ctypes.c_void_p(cupy.cuda.device.get_cublas_handle())

    def check(status: int, what: str) -> None:
        if status != 0:
            raise GraphError(f"cuBLAS refuses {what} while a graph is captured: status {status}")

    def gemm_ex(own: int, *product: int) -> None:
        if threading.get_ident() != me:  # a product that another thread makes meanwhile is none of the graph's
            before(own, *product)
            return
        transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, kind, algorithm = product
        check(
            library.cublasGemmEx(
                *(handle, ctypes.c_int(transa), ctypes.c_int(transb), ctypes.c_int(m), ctypes.c_int(n)),
                *(ctypes.c_int(k), ctypes.c_void_p(alpha)),
                *(ctypes.c_void_p(a), ctypes.c_int(a_type), ctypes.c_int(lda)),
                *(ctypes.c_void_p(b), ctypes.c_int(b_type), ctypes.c_int(ldb), ctypes.c_void_p(beta)),
                *(ctypes.c_void_p(c), ctypes.c_int(c_type), ctypes.c_int(ldc)),
                *(ctypes.c_int(kind), ctypes.c_int(algorithm)),
            ),
            "a product",
        )

    # the stream first: setting it takes the workspace away
    check(library.cublasSetStream_v2(handle, ctypes.c_void_p(stream.ptr)), "its stream")
    size = ctypes.c_size_t(workspace.nbytes)
    check(library.cublasSetWorkspace_v2(handle, ctypes.c_void_p(workspace.data.ptr), size), "its workspace")
    cublas.gemmEx = gemm_ex
    try:
        yield
    finally:
        cublas.gemmEx = before
        library.cublasSetStream_v2(handle, ctypes.c_void_p(0))


def _cublas() -> Any:
    """Return the cuBLAS that CuPy itself has loaded."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
    except ImportError as error:
        message = "cuda-pathfinder, which CuPy 14 brings with it, is not installed"
        raise GraphError(message) from error
    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
