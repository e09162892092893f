"""Networks over Dask arrays: nothing is computed early, chunks stay, and the numbers are those in memory."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from libraries import LIBRARIES
from tolerances import assert_same, assert_within, first_gradient

import portnn
from portnn import MLP, chunked
from portnn.chunked import Worker

da = pytest.importorskip("dask.array", reason="dask is not installed")

X = np.random.default_rng(9).normal(size=(100, 4)).astype("float32")
CHUNKS = (40, 40, 20)
THERE = [
    x
    for name, x in LIBRARIES.items()
    if name in ("numpy", "array_api_strict-device1", "torch", "jax") and not x.why_not
]
WAYS = {
    "call": lambda model, x: model(x),
    "apply": lambda model, x: model.apply(model.params, x),
    "predict": portnn.predict,
}


def lazy(a: np.ndarray = X, chunks: Any = (40, 4)) -> Any:
    return da.from_array(a, chunks=chunks)


def compute(y: Any) -> np.ndarray:
    assert isinstance(y, da.Array)
    return y.compute(scheduler="sync")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("holder", THERE, ids=lambda x: x.name)
def test_a_lazy_array_gives_a_lazy_array_of_the_same_numbers(way, holder):
    model = MLP([4, 5, 3], **holder.where)
    y = WAYS[way](model, lazy())
    assert isinstance(y, da.Array)
    assert (y.chunks, y.dtype) == ((CHUNKS, (3,)), np.dtype("float32"))
    expected = np.concatenate([portnn.predict(model, X[a : a + 40]) for a in (0, 40, 80)])
    assert_same(compute(y), expected)
    assert_same(compute(y[60:90, 1]), expected[60:90, 1])


def test_nothing_is_computed_before_it_is_asked_for():
    seen: list[int] = []

    def chunk(block: np.ndarray) -> np.ndarray:
        seen.append(len(block))
        return block

    x = lazy().map_blocks(chunk, dtype="float32", meta=X[:0])
    y = MLP([4, 3])(x)
    assert not seen
    compute(y[:10])
    assert seen == [40]


def test_rows_of_a_chunk_are_gone_through_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(chunked, "ROWS", 16)
    model = MLP([4, 5, 3])
    pieces = [
        portnn.predict(model, X[a : min(a + 16, b + 40)]) for b in (0, 40, 80) for a in range(b, min(b + 40, 100), 16)
    ]
    assert_same(compute(model(lazy())), np.concatenate(pieces))


def test_members():
    team = MLP([4, 5, 3], members=2)
    y = team(lazy())
    assert y.chunks == ((2,), CHUNKS, (3,))
    assert_same(compute(y), np.concatenate([team(X[a : a + 40]) for a in (0, 40, 80)], axis=1))


def test_features_in_several_chunks_are_joined():
    model = MLP([4, 3])
    y = model(lazy(chunks=(40, 2)))
    assert y.chunks == (CHUNKS, (3,))
    assert_same(compute(y), compute(model(lazy())))


def test_numbers_of_rows_that_are_not_known():
    model, x = MLP([4, 3]), lazy()
    x = x[x[:, 0] > 0.0]
    y = model(x)
    assert np.isnan(y.shape[0])
    assert_same(compute(y), portnn.predict(model, compute(x)))
    none = compute(model(lazy()[lazy()[:, 0] > 1e9]))
    assert none.shape == (0, 3)


def test_other_dtypes_and_other_parameters():
    model = MLP([4, 3])
    for a in (X.astype("float64"), (X * 9).astype("int16"), X.astype("float16")):
        assert_same(
            compute(model(lazy(a))), np.concatenate([portnn.predict(model, a[i : i + 40]) for i in (0, 40, 80)])
        )
    wide = np.ones(model.n_params)
    assert compute(model.apply(wide, lazy())).dtype == np.float64
    assert_same(compute(model.apply(wide, lazy()))[:40], model.apply(wide, X[:40]))


def test_chunks_of_another_library():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = lazy().map_blocks(lambda block: torch.asarray(block.copy()), dtype="float32", meta=X[:0])
    for model in (MLP([4, 3]), MLP([4, 3], backend="torch")):
        (first, *_) = model(x).to_delayed().ravel()
        y = first.compute(scheduler="sync")
        assert isinstance(y, torch.Tensor)
        assert_same(y.numpy(), portnn.predict(model, X[:40]))


def test_what_is_trained_afterwards_changes_nothing():
    model = MLP([4, 3])
    expected = model(X[:40])
    y = model(lazy())
    model.params[...] = 0.0
    assert_same(compute(y)[:40], expected)


def test_the_same_network_gives_the_same_names():
    x, model = lazy(), MLP([4, 5, 3])
    assert model(x).name == model(x).name == MLP([4, 5, 3])(x).name
    others = [MLP([4, 5, 3], seed=1), MLP([4, 5, 3], activation="tanh"), MLP([4, 5, 3], matmul_precision="tf32")]
    names = {m(x).name for m in (model, *others)} | {portnn.predict(model, x).name}
    assert len(names) == 5


@pytest.mark.parametrize("holder", THERE, ids=lambda x: x.name)
def test_a_worker_is_sent_to_other_processes(holder):
    model = MLP([4, 5, 3], **holder.where)
    worker = pickle.loads(pickle.dumps(Worker(model, model.params, "MLP", finite=True)))
    assert_same(worker(X), portnn.predict(model, X))


def test_a_large_network_is_a_task_of_its_own():
    small, large = MLP([4, 3])(lazy()), MLP([4, 3000, 100, 3])(lazy())
    assert len(dict(large.dask)) == len(dict(small.dask)) + 1
    assert_same(compute(large)[:40], MLP([4, 3000, 100, 3])(X[:40]))


def test_values_are_looked_at_in_predict_only():
    bad = X.copy()
    bad[50, 2] = np.nan
    model = MLP([4, 3])
    assert np.isnan(compute(model(lazy(bad)))[50]).all()
    with pytest.raises(ValueError, match="predict, in a chunk: Input X contains NaN, first at row 50, feature 2"):
        compute(portnn.predict(model, lazy(bad)))
    model.params[0] = np.inf
    with pytest.raises(ValueError, match="predict: weights"):
        portnn.predict(model, lazy())


@pytest.mark.parametrize("members", [None, 2])
def test_rows_are_those_of_the_whole_array(members, monkeypatch):
    """Where the chunks have no known places, none are claimed."""
    monkeypatch.setattr(chunked, "ROWS", 16)
    bad, model = X.copy(), MLP([4, 3], members=members)
    bad[[77, 79]] = 3e38
    with pytest.raises(portnn.NonFiniteError, match=r"in a chunk: .* 2 of 8 samples \(rows 77, 79 of x\)") as caught:
        compute(portnn.predict(model, lazy(bad, chunks=(40, 2))))
    assert (caught.value.samples, caught.value.n_samples) == ((77, 79), 2)
    x = lazy(bad)
    with pytest.raises(
        portnn.NonFiniteError, match=r"in a chunk \(its rows count from 0\): .*rows 37, 39 of"
    ) as caught:
        compute(portnn.predict(model, x[da.ones(100, chunks=40, dtype=bool)]))
    assert (caught.value.samples, caught.value.n_samples) == ((), 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m(lazy()[:, :2]), ValueError, "MLP: X has 2 features, but MLP is expecting 4"),
        (lambda m: m(lazy()[:, 0]), ValueError, "MLP: Expected 2D array, got 1D"),
        (lambda m: m(lazy()[None]), ValueError, "MLP: Found array with dim 3"),
        (lambda m: m.apply(m.params[:3], lazy()), ValueError, r"params have shape \(3,\)"),
        (lambda m: portnn.fit(m, lazy(), np.zeros(100, int)), ValueError, r"x is a dask array, .* x\.compute\(\)"),
        (lambda m: m.vjp(lazy()), ValueError, r"MLP.vjp: x .* dask array, .*; compute it first: x\.compute\(\)"),
        (lambda m: m.forward(m.params, lazy()), ValueError, r"x a dask array .* convert x with numpy\.asarray\(x\)"),
    ],
)
def test_what_is_refused_at_once(call, error, words):
    with pytest.raises(error, match=words):
        call(MLP([4, 3]))


def test_parameters_may_be_lazy_too():
    """Then nothing is done chunk by chunk: the mathematics is Dask's own."""
    model = MLP([4, 5, 3], dtype="float64")
    params, x = da.from_array(model.params), lazy(X.astype("float64"))
    y, vjp = model.forward(params, x)
    d_params, dx = vjp(da.ones_like(y))
    expected, pullback = model.vjp(X.astype("float64"))
    for one, other in zip((y, d_params, dx), (expected, *pullback(np.ones_like(expected))), strict=True):
        assert_within(compute(one), other, first_gradient(other, "float64"))
