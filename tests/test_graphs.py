"""What a chunk as a CUDA graph does around the graph, with a capture that needs no GPU: it runs the steps again.

The captures of CuPy and PyTorch themselves are seen to work where there is a GPU, by the tests of training.
"""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from tolerances import assert_same, assert_within, few_steps

import portnn
from portnn.backends import HOST
from portnn.backends.base import Rows
from portnn.backends.cupy import CupyBackend
from portnn.backends.cupy_graph import _capturable_products
from portnn.backends.graphs import LONGEST, GraphChunk, GraphError
from portnn.losses import get_loss
from portnn.pure import Pure
from portnn.step import Chunks, make_step

BATCH = 4
RNG = np.random.default_rng(1)


def prepared(steps, optimizer):
    """Return the step, fresh arguments, and the rows."""
    model = portnn.MLP([3, 4, 2])
    step = make_step(model, get_loss("cross_entropy"), optimizer)
    x = RNG.standard_normal((steps * BATCH + 5, 3)).astype("float32")
    t = RNG.integers(0, 2, len(x))
    order = RNG.permutation(len(x))[: steps * BATCH]
    chunk = {name: Rows(HOST, a, order) for name, a in (("x", x), ("t", t))}
    rows = [optimizer.row(k) for k in range(steps)]
    return step, lambda: {"params": model.params.copy(), **optimizer.init(model.params)}, chunk, rows


def again(body):
    """A capture that runs the steps once, as a warm-up does, and then again at each launch."""
    body()
    return body


@pytest.mark.parametrize("optimizer", [portnn.SGD(0.1), portnn.Adam(0.01)], ids=["sgd", "adam"])
@pytest.mark.parametrize("steps", [1, 6, LONGEST + 1, 2 * LONGEST])
def test_a_graph_is_its_steps_one_by_one(steps, optimizer):
    step, fresh, chunk, rows = prepared(steps, optimizer)
    graph, loop = GraphChunk(HOST, step, steps, BATCH, again), HOST.loop_chunk(step, steps, BATCH)
    assert graph.length <= LONGEST
    state, plain = fresh(), fresh()
    for _ in range(3):  # the second run goes on from the memory of the first, the third from another
        state, metrics = graph(state, chunk, rows)
        plain, expected = loop(plain, chunk, rows)
        for name, a in plain.items():
            assert_same(state[name], a)
        assert metrics["accuracy"] == expected["accuracy"]
        assert_within(metrics["loss"], expected["loss"], few_steps(expected["loss"], "float32"))
        state = {name: a.copy() for name, a in state.items()}


def test_a_graph_that_does_something_else_is_refused():
    step, fresh, chunk, rows = prepared(6, portnn.SGD(0.1))
    with pytest.raises(GraphError, match="a captured step gives other numbers than the step itself, in params"):
        GraphChunk(HOST, step, 6, BATCH, lambda body: lambda: None)(fresh(), chunk, rows)


def test_a_graph_that_loses_the_metrics_is_refused():
    step, fresh, chunk, rows = prepared(6, portnn.SGD(0.1))
    graph = GraphChunk(HOST, step, 6, BATCH, again)

    def forgetful(body):
        def launch():
            body()
            for total in graph.totals.values():
                total[...] = 0.0

        return launch

    graph.capture = forgetful
    with pytest.raises(GraphError, match=r"in loss \(metric\)"):
        graph(fresh(), chunk, rows)


def test_numbers_that_are_not_finite_are_no_fault_of_the_graph():
    step, fresh, chunk, rows = prepared(2, portnn.SGD(0.1))
    state = fresh()
    state["params"][:2] = np.nan
    state, metrics = GraphChunk(HOST, step, 2, BATCH, again)(state, chunk, rows)
    assert np.isnan(metrics["loss"])


@pytest.mark.parametrize(
    ("steps", "lengths"), [(257, {129, 128}), (467, {234, 233}), (2 * LONGEST, {LONGEST}), (5, {5}), (1, {1})]
)
def test_any_number_of_steps_is_two_graphs_at_most(steps, lengths):
    step, fresh, chunk, rows = prepared(steps, portnn.SGD(0.1))
    graph = GraphChunk(HOST, step, steps, BATCH, again)
    graph(fresh(), chunk, rows)
    assert set(graph.launches) == lengths


def test_cupy_has_the_names_that_the_capture_uses():
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    cublas = pytest.importorskip("cupy_backends.cuda.libs.cublas", exc_type=ImportError, reason="there is no cuBLAS")
    assert callable(cublas.gemmEx)
    assert callable(cupy.cuda.device.get_cublas_handle)
    for name in ("begin_capture", "end_capture", "ptr"):
        assert hasattr(cupy.cuda.Stream, name)
    before = cublas.gemmEx
    cublas.gemmEx = before  # can be replaced


def test_threads_capture_one_after_the_other():
    """A capture changes things of the whole process, such as who collects garbage."""
    inside, most = [], []

    def slow(body):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return again(body)

    def run(_):
        step, fresh, chunk, rows = prepared(2, portnn.SGD(0.1))
        GraphChunk(HOST, step, 2, BATCH, slow)(fresh(), chunk, rows)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, range(3)))
    assert most == [1] * 6


def test_products_of_other_threads_are_not_captured(monkeypatch):
    """CuPy looks the function up anew in each call, whoever calls: without a GPU, with modules that note the calls."""
    captured, made, set_for = [], [], []
    cublas = SimpleNamespace(gemmEx=lambda *a: made.append(a))
    library = SimpleNamespace(
        cublasGemmEx=lambda *a: captured.append(a) or 0,
        cublasSetStream_v2=lambda handle, stream: set_for.append(stream.value) or 0,
        cublasSetWorkspace_v2=lambda *a: 0,
    )
    handles = SimpleNamespace(get_cublas_handle=lambda: 77)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(device=handles)))
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", SimpleNamespace(cublas=cublas))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", cublas)
    monkeypatch.setattr("portnn.backends.cupy_graph._cublas", lambda: library)
    workspace, before = SimpleNamespace(nbytes=64, data=SimpleNamespace(ptr=9)), cublas.gemmEx
    product = tuple(range(19))
    with _capturable_products(SimpleNamespace(ptr=5), workspace):
        cublas.gemmEx(*product)
        other = threading.Thread(target=lambda: cublas.gemmEx(*product))
        other.start()
        other.join()
    assert cublas.gemmEx is before
    assert set_for == [5, None]
    assert made == [product]
    assert [call[0].value for call in captured] == [77]
    assert [a.value or 0 for a in captured[0][1:]] == list(product[1:])


def test_members_on_cupy_are_not_captured():
    backend = CupyBackend.__new__(CupyBackend)
    with pytest.raises(
        ValueError, match="fit: compile=True, but CuPy cannot capture the products of members; use compile='auto'"
    ):
        Chunks(backend, Pure(None, "key", members=2), True)
    assert Chunks(backend, Pure(None, "key", members=2), "auto").loops
    assert not Chunks(backend, Pure(None, "key"), "auto").loops
