"""Samples in files: the same rows, in the order that is promised, in bounded memory, and a clear word for bad files."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same, assert_within, few_steps, first_gradient

import portnn
from portnn import MLP, FormatError, checkpoints, fingerprint, loop, random
from portnn.datasets import Stream, write_idx
from portnn.feed import plan
from portnn.storage import write_safetensors_file

N = 203
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 6)).astype("float32")
T = (X @ RNG.normal(size=(6, 3))).argmax(axis=1)
WEIGHTS = RNG.uniform(0.5, 2.0, N)
SMALL = {"block_rows": 10, "memory": 4 * (24 + 48) * 45}  # windows of 45 rows

needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="no pyarrow on this system")


def pieces(n: int = 4) -> list[np.ndarray]:
    return np.array_split(np.arange(N), n)


def npy(folder: Path) -> tuple[Any, ...]:
    for i, rows in enumerate(pieces()):
        np.save(folder / f"x{i}.npy", X[rows])
        np.save(folder / f"t{i}.npy", T[rows])
    return f"{folder}/x*.npy", f"{folder}/t*.npy"


def npy_and_array(folder: Path) -> tuple[Any, ...]:
    np.save(folder / "x.npy", X)
    return folder / "x.npy", T.tolist()


def idx(folder: Path) -> tuple[Any, ...]:
    for i, rows in enumerate(pieces(2)):
        write_idx(folder / f"x{i}.idx", X[rows].reshape(-1, 3, 2))
        write_idx(folder / f"t{i}.idx", T[rows].astype("uint8"))
    return [folder / "x0.idx", folder / "x1.idx"], [folder / "t0.idx", folder / "t1.idx"]


def safetensors(folder: Path) -> tuple[Any, ...]:
    for i, rows in enumerate(pieces(3)):
        arrays = {"x": X[rows].reshape(-1, 2, 3), "t": T[rows], "other": np.ones(5)}
        write_safetensors_file(folder / f"part-{i}.safetensors", arrays)
    return (f"{folder}/part-?.safetensors",)


def table(rows: np.ndarray) -> Any:
    import pyarrow

    return pyarrow.table({**{f"f{k}": X[rows, k] for k in range(6)}, "t": T[rows]})


def parquet(folder: Path) -> tuple[Any, ...]:
    import pyarrow.parquet

    for i, rows in enumerate(pieces(2)):
        pyarrow.parquet.write_table(table(rows), folder / f"part-{i}.parquet", row_group_size=17)
    return (f"{folder}/part-*.parquet",)


def parquet_of_lists(folder: Path) -> tuple[Any, ...]:
    import pyarrow.parquet

    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(X.reshape(-1)), 6)
    pyarrow.parquet.write_table(pyarrow.table({"x": lists, "t": T}), folder / "a.parquet", row_group_size=40)
    return (folder / "a.parquet",)


KINDS = [
    npy,
    npy_and_array,
    idx,
    safetensors,
    pytest.param(parquet, marks=needs_pyarrow),
    pytest.param(parquet_of_lists, marks=needs_pyarrow),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_holds_the_rows(tmp_path, kind):
    stream = Stream(*kind(tmp_path), **SMALL)
    assert (stream.shape, stream.dtype, len(stream)) == ((N, 6), np.dtype("float32"), N)
    assert_same(stream.t.astype("int64"), T)
    for start, stop in ((0, N), (0, 1), (49, 53), (150, 203), (7, 7)):
        assert_same(stream.read(start, stop), X[start:stop])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_training_is_that_of_the_samples_in_memory(tmp_path, kind, threads):
    """To the bit, validation included."""
    stream = Stream(*kind(tmp_path), **SMALL, threads=threads)
    options = {"batch_size": 16, "epochs": 3, "seed": 4, "progress": False, "sample_weight": WEIGHTS}
    made = {"dropout": 0.3, "normalization": "batch", "seed": 1}
    model, one = (MLP([6, 8, 3], **made) for _ in range(2))
    history = portnn.fit(model, stream, **options, validation_data=stream)
    orders = {"shuffle": lambda epoch: stream.order(4, epoch)}
    expected = portnn.fit(one, X, T, **options, **orders, validation_data=(X, T))
    assert_same(model.params, one.params)
    assert_same(model.running, one.running)
    assert history["accuracy"] == expected["accuracy"]
    for name in ("loss", "val_loss", "val_accuracy"):  # sums of other blocks and chunks
        assert_within(history[name], expected[name], few_steps(expected[name], "float32"))


def test_a_training_on_every_library(tmp_path, library):
    stream = Stream(*npy(tmp_path), **SMALL)
    model, one = (MLP([6, 8, 3], seed=1, **library.where) for _ in range(2))
    options = {"batch_size": 16, "epochs": 2, "progress": False}
    portnn.fit(model, stream, **options)
    portnn.fit(one, X, T, **options, shuffle=lambda epoch: stream.order(0, epoch))
    found, expected = library.to_numpy(model.params), library.to_numpy(one.params)
    if library.name == "jax":  # chunks of steps are compiled, and these are cut otherwise
        assert_within(found, expected, first_gradient(expected, "float32"))
    else:
        assert_same(found, expected)
    scores, expected = portnn.evaluate(model, stream), portnn.evaluate(model, X, T)
    assert scores["accuracy"] == expected["accuracy"]
    assert_within(scores["loss"], expected["loss"], few_steps(expected["loss"], "float32"))
    outputs = portnn.predict(model, X)
    assert_within(portnn.predict(model, stream), outputs, few_steps(outputs, "float32"))


def test_without_shuffling_it_is_the_order_of_the_files(tmp_path):
    stream = Stream(*npy(tmp_path), **SMALL)
    model, one = (MLP([6, 8, 3], seed=1) for _ in range(2))
    portnn.fit(model, stream, epochs=2, batch_size=30, shuffle=False, progress=False)
    portnn.fit(one, X, T, epochs=2, batch_size=30, shuffle=False, progress=False)
    assert_same(model.params, one.params)


# -- the order --------------------------------------------------------------------------------------------------------


def test_the_order_is_a_pure_function_of_seed_and_epoch_that_visits_every_row_once(tmp_path):
    stream, again = (Stream(*npy(tmp_path), **SMALL) for _ in range(2))
    orders = {(seed, epoch): stream.order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    for (seed, epoch), order in orders.items():
        assert_same(np.sort(order), np.arange(N))
        assert_same(order, again.order(seed, epoch))
    assert len({order.tobytes() for order in orders.values()}) == 6


def test_windows_are_of_whole_blocks_and_mixed(tmp_path):
    """Written down from what the documentation says, with nothing of the package but its random numbers."""
    stream = Stream(*npy(tmp_path), **SMALL)
    starts = [0, 51, 102, 153]
    blocks = [
        (a, min(a + 10, end)) for s, end in zip(starts, [51, 102, 153, 203], strict=True) for a in range(s, end, 10)
    ]
    key = random.fold_in(random.fold_in(random.key(9), random.Purpose.BLOCKS), 5)
    expected, window, number = [], [], 1
    for i in [*random.permutation(random.fold_in(key, 0), len(blocks)).tolist(), None]:
        rows = [] if i is None else list(range(*blocks[i]))
        if i is None or len(window) + len(rows) > 45:
            order = random.permutation(random.fold_in(key, number), len(window))
            expected += [window[j] for j in order]
            window, number = [], number + 1
        window += rows
    assert stream.order(9, 5).tolist() == expected


def test_rows_of_one_window_come_from_far_apart(tmp_path):
    order = Stream(*npy(tmp_path), **SMALL).order(0, 0)
    assert np.ptp(order[:40]) > N // 3
    assert (np.diff(order[:40]) != 1).sum() > 30


# -- going on ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a training at once."""


@pytest.mark.parametrize("at", [1, 4, 9, 14])
@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_training_that_was_killed_goes_on_to_the_bit(tmp_path, monkeypatch, at, backend):
    pytest.importorskip(backend)
    (tmp_path / "data").mkdir()
    files = npy(tmp_path / "data")
    monkeypatch.setattr(loop, "plan", lambda n, size, most: plan(n, size, 2 * size))
    original, calls = loop.read_back, [0]

    def read_back(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise Killed
        return original(*args)

    def train(**more: Any) -> MLP:
        model = MLP([6, 8, 3], dropout=0.2, seed=1, backend=backend)
        kept = checkpoints.Checkpoints(tmp_path / "run", seconds=0.0)
        options = {"batch_size": 16, "epochs": 3, "checkpoint": kept, "resume": True, "progress": False, **more}
        portnn.fit(model, Stream(*files, **SMALL), **options)
        return model

    whole = train(checkpoint=None, resume=None)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "read_back", read_back)
        with pytest.raises(Killed):
            train()
    model = train()
    assert_same(model.backend.to_numpy(model.params), whole.backend.to_numpy(whole.params))


def test_a_checkpoint_is_of_these_files_in_these_windows(tmp_path):
    (tmp_path / "data").mkdir()
    files, options = npy(tmp_path / "data"), {"epochs": 1, "checkpoint": tmp_path / "run", "progress": False}
    portnn.fit(MLP([6, 3]), Stream(*files, **SMALL), **options)
    with pytest.raises(ValueError, match=r"with shuffle='windows of 45 rows of 23 blocks, [0-9a-f]{16}', this one"):
        portnn.fit(MLP([6, 3]), Stream(*files), resume=True, **options)
    spoiled = X.copy()
    spoiled[:51] += 1.0
    np.save(tmp_path / "data/x0.npy", spoiled[:51])
    with pytest.raises(ValueError, match="is of a training with x="):
        portnn.fit(MLP([6, 3]), Stream(*files, **SMALL), resume=True, **options)


def test_a_large_stream_is_known_by_some_of_its_blocks(tmp_path, monkeypatch):
    stream = Stream(*npy(tmp_path), **SMALL)
    assert fingerprint.fingerprint(stream)["rows"] == N
    some = fingerprint.fingerprint(stream, bound=24 * 30)
    assert 20 <= some["rows"] <= 30
    assert some["shape"] == [N, 6]


# -- memory and threads -----------------------------------------------------------------------------------------------

BOUNDED = """
import sys, numpy as np, portnn
from portnn.datasets import Stream
folder, n, mib, features = sys.argv[1], *map(int, sys.argv[2:])
stream = Stream(folder + "/x.npy", np.arange(n) % 2, memory=mib << 20)
model = portnn.MLP([features, 2])
size = max(64, min(4096, 2**20 // features))
small = np.zeros((size, features), dtype="float32")
portnn.fit(model, small, np.arange(size) % 2, epochs=1, batch_size=size, progress=False)
def most():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
open("/proc/self/clear_refs", "w").write("5")  # from now on
before = most()
portnn.fit(model, stream, epochs=2, batch_size=size, progress=False, validation_data=stream)
print(most() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is not told here")
@pytest.mark.parametrize(("n", "features", "most"), [(196_608, 256, 24.0), (3072, 16_384, 24.0), (4_000_000, 4, 40.0)])
def test_memory_is_bounded_whatever_the_files_hold(tmp_path, n, features, most):
    """Some 192 MiB of samples (61 MiB in narrow rows) in 32 MiB; beside them targets, blocks and what a step takes."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype="float32", shape=(n, features))
    for start in range(0, n, 8192):
        x[start : start + 8192] = np.float32(start % 7)
    x.flush()
    command = [sys.executable, "-c", BOUNDED, str(tmp_path), str(n), "32", str(features)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 8.0 < float(done.stdout) < 32.0 + most + 3 * n * 4 / 2**20


def test_threads_end_with_the_epoch_whatever_ends_it(tmp_path):
    stream = Stream(*npy(tmp_path), **SMALL)

    def stop(*_: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        portnn.fit(MLP([6, 3]), stream, epochs=3, callbacks=stop, progress=False)
    with pytest.raises(portnn.NonFiniteError):
        portnn.fit(MLP([6, 3]), stream, epochs=3, optimizer=portnn.SGD(1e38), progress=False)
    next(portnn.stream_feed.StreamFeed(MLP([6, 3]).backend, stream, {}, np.dtype("float32"), "x").in_order(50))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("portnn-stream")]


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_number_that_is_not_finite_is_named_with_its_file(tmp_path):
    spoiled = X.copy()
    spoiled[120, 2] = np.nan
    for i, rows in enumerate(pieces()):
        np.save(tmp_path / f"x{i}.npy", spoiled[rows])
    stream, model = Stream(f"{tmp_path}/x*.npy", T, **SMALL), MLP([6, 3])
    before = model.params.copy()
    for call in (portnn.fit, portnn.evaluate):
        options = {"progress": False, "batch_size": 203} if call is portnn.fit else {}
        with pytest.raises(
            ValueError, match=r"Input X contains NaN, first at row 120, feature 2 \(row 18 of '.*x2\.npy'\)"
        ):
            call(model, stream, **options)
    assert_same(model.params, before)
    wide = Stream(npy_and_array(tmp_path)[0], T)
    np.save(tmp_path / "x.npy", X.astype("float64") * 1e39)
    wide = Stream(tmp_path / "x.npy", T)
    with pytest.raises(ValueError, match=r"a value too large for dtype\('float32'\)"):
        portnn.fit(model, wide, progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_is_refused(tmp_path, kind):
    stream, model = Stream(*kind(tmp_path), **SMALL), MLP([6, 3])
    path = stream.shards[0].path

    def touch(*_: Any) -> None:
        os.utime(path, (1, 1))

    with pytest.raises(FormatError, match="was changed since it was opened; make a new Stream"):
        portnn.fit(model, stream, epochs=2, callbacks=touch, progress=False)
    with pytest.raises(FormatError, match="was changed since it was opened"):
        portnn.evaluate(model, stream)


@pytest.mark.parametrize("kind", [npy, safetensors])
def test_a_file_that_changes_within_an_epoch_is_refused(tmp_path, monkeypatch, kind):
    """Another of the same size takes its place."""
    stream = Stream(*kind(tmp_path), **SMALL)
    original, calls = loop.read_back, [0]

    def read_back(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            for shard in stream.shards:
                Path(f"{shard.path}.new").write_bytes(Path(shard.path).read_bytes())
                os.replace(f"{shard.path}.new", shard.path)
        return original(*args)

    monkeypatch.setattr(loop, "read_back", read_back)
    monkeypatch.setattr(loop, "plan", lambda n, size, most: plan(n, size, size))
    with pytest.raises(FormatError, match="was changed since it was opened; make a new Stream"):
        portnn.fit(MLP([6, 3]), stream, epochs=1, batch_size=8, progress=False)


def test_the_same_rows_in_other_files_are_another_order(tmp_path):
    options = {"epochs": 1, "checkpoint": tmp_path / "run", "progress": False}
    for cut, more in (([15], {}), ([188], {"resume": True})):
        for i, rows in enumerate(np.split(np.arange(N), cut)):
            np.save(tmp_path / f"x{i}.npy", X[rows])
        stream = Stream(f"{tmp_path}/x*.npy", T, block_rows=10)
        if not more:
            portnn.fit(MLP([6, 3]), stream, **options)
        else:
            with pytest.raises(ValueError, match="is of a training with shuffle='windows of"):
                portnn.fit(MLP([6, 3]), stream, **options, **more)


def test_a_folder_that_is_called_like_a_pattern(tmp_path):
    for name, shift in (("data[1]", 0.0), ("data1", 1.0)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x-0.npy", X + np.float32(shift))
    assert_same(Stream(f"{tmp_path}/data[1]/x-*.npy", T).read(0, N), X)


def test_other_tools_for_samples_take_streams(tmp_path):
    stream, model = Stream(*npy(tmp_path), **SMALL), MLP([6, 3], dtype="float64", seed=1)
    (a, grad), (b, expected) = (portnn.scipy_objective(model, *of)(model.params) for of in ((stream, None), (X, T)))
    assert_within(a, b, few_steps(b, "float64"))
    assert_within(grad, expected, first_gradient(expected, "float64"))


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def saved(folder: Path, name: str, a: Any, **options: Any) -> Path:
    np.save(folder / name, a, **options)
    return folder / name


def cut(folder: Path) -> Path:
    path = saved(folder, "a.npy", X)
    path.write_bytes(path.read_bytes()[:-1])
    return path


def as_safetensors(path: Path, **arrays: Any) -> Path:
    write_safetensors_file(path, arrays)
    return path


def npy_of(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(96)


BAD_FILES: dict[str, Any] = {
    "text": (lambda d: written(d, "a.csv", b"1,2,3\n" * 100), "neither npy, IDX, safetensors nor Parquet"),
    "empty": (lambda d: written(d, "a", b""), "neither npy, IDX, safetensors nor Parquet"),
    "a page": (lambda d: written(d, "a", b"<html>" * 90), "looks like an HTML page"),
    "gzip": (lambda d: written(d, "a.gz", b"\x1f\x8b" + bytes(90)), "compressed as a whole: no part of it can be read"),
    "zip": (lambda d: written(d, "a.npz", b"PK\x03\x04" + bytes(90)), "neither npy, IDX"),
    "cut off": (cut, r"x of shape \(203, 6\) makes 5000 bytes, the file has 4999"),
    "more": (
        lambda d: written(d, "a", saved(d, "b.npy", X).read_bytes() + b"!"),
        "makes 5000 bytes, the file has 5001",
    ),
    "columns": (lambda d: saved(d, "a.npy", np.asfortranarray(X)), "stored column after column"),
    "a number": (lambda d: saved(d, "a.npy", np.float32(3.0)), "stored as a single number"),
    "a vector": (lambda d: saved(d, "a.npy", X[:, 0]), r"x has shape \(203,\), expected \(n, \.\.\.\)"),
    "no rows": (lambda d: saved(d, "a.npy", X[:0]), r"x has shape \(0, 6\), expected"),
    "objects": (
        lambda d: saved(d, "a.npy", np.asarray([[{}]]), allow_pickle=True),
        "x has dtype object, expected real",
    ),
    "complex": (lambda d: saved(d, "a.npy", X.astype("complex64")), "x has dtype complex64, expected real numbers"),
    "a bad header": (
        lambda d: written(d, "a.npy", b"\x93NUMPY\x01\x00\x08\x00{'a': 1}"),
        "its npy header cannot be read",
    ),
    "a new npy": (
        lambda d: written(d, "a.npy", b"\x93NUMPY\x09\x00" + bytes(90)),
        r"npy header cannot be read|npy format 9",
    ),
    "a long header": (
        lambda d: written(d, "a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(90)),
        "its npy header claims 2147483647 bytes, at most 10000 are read",
    ),
    "negative": (
        lambda d: written(d, "a.npy", npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3, -4)}")),
        r"x has shape \(2, -3, -4\), expected",
    ),
    "an odd dtype": (
        lambda d: written(d, "a.npy", npy_of("{'descr': (), 'fortran_order': False, 'shape': (2, 3)}")),
        "its npy header cannot be read",
    ),
    "a bracket": (lambda d: written(d, "a.npy", npy_of("{'descr': '<f4', 'fortran_order'[ False}")), "cannot be read"),
    "a bad IDX": (lambda d: written(d, "a", bytes([0, 0, 7, 2]) + bytes(90)), "IDX type 0x07"),
    "other tensors": (
        lambda d: as_safetensors(d / "a", y=X),
        "there is no tensor 'x', the file holds 'y'; give x=NAME",
    ),
    "no Parquet": (lambda d: written(d, "a", b"PAR1" + bytes(90)), "not a Parquet file|pyarrow is missing"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_one_sentence(tmp_path, name):
    make, words = BAD_FILES[name]
    path = make(tmp_path)
    with pytest.raises((FormatError, ImportError), match=words) as caught:
        Stream(path, T)
    text = str(caught.value)
    assert text.startswith("Stream: ")
    assert len(text) < 500
    assert "\n" not in text


@needs_pyarrow
@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"a": [1.0, None], "t": [0, 1]}, {}, "column 'a' has no value in row 1; fill or drop it"),
        ({"a": ["x", "y"], "t": [0, 1]}, {}, "column 'a' is of 'string', expected numbers"),
        ({"a": [[1.0], [1.0, 2.0]], "t": [0, 1]}, {}, "column 'a' has lists of 1 to 2 numbers"),
        ({"a": [[1.0], [2.0]], "b": [1.0, 2.0], "t": [0, 1]}, {}, "a column of lists is all of x; name it alone"),
        ({"a": [1.0, 2.0]}, {}, "there is no column 't', the file has 'a'"),
        ({"a": [1.0, 2.0], "t": [0, 1]}, {"x": ["a", "z"]}, "there is no column 'z'"),
        ({"t": [0, 1]}, {}, "it has 2 rows and 0 columns for x, expected some"),
    ],
)
def test_bad_tables_are_refused(tmp_path, columns, options, words):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(FormatError, match=f"^Stream: '.*a.parquet': {words}"):
        Stream(tmp_path / "a.parquet", **options).read(0, 2)


@needs_pyarrow
@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[1.0, 2.0]] * 4 + [[3.0]] * 4, r"row group 1 makes an array of shape \(4, 1\), expected \(4, 2\)"),
        ([[1.0, 2.0]] * 5 + [[3.0, None]] * 3, "column 'a' has no value in row 5; fill or drop it"),
    ],
)
def test_a_bad_row_group_is_found_when_it_is_read(tmp_path, lists, words):
    import pyarrow.parquet

    table = pyarrow.table({"a": lists, "t": [0, 1] * 4})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    stream = Stream(tmp_path / "a.parquet")
    for call in (portnn.fit, portnn.evaluate):
        with pytest.raises(FormatError, match=f"^Stream: '.*a.parquet': {words}"):
            call(MLP([2, 2]), stream)


@needs_pyarrow
def test_whole_numbers_beyond_what_floats_hold_are_refused_among_floats(tmp_path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2**60 + 1], "b": [0.5, 1.5]}), tmp_path / "a.parquet")
    with pytest.raises(FormatError, match=r"column 'a' has a number beyond 2\*\*53 in row 1, among floats"):
        Stream(tmp_path / "a.parquet", [0, 1]).read(0, 2)


@needs_pyarrow
def test_tables_may_have_targets_elsewhere_and_files_without_names_may_not(tmp_path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"a": X[:, 0], "b": X[:, 1]}), tmp_path / "a.parquet")
    assert_same(Stream(tmp_path / "a.parquet", T).read(0, N), X[:, :2])
    np.save(tmp_path / "x.npy", X[:, :2])
    with pytest.raises(ValueError, match=r"^Stream: '.*x\.npy' holds samples alone; give targets"):
        Stream([tmp_path / "x.npy", tmp_path / "a.parquet"], t="b", x=["a", "b"])


@needs_pyarrow
def test_columns_are_chosen_by_name(tmp_path):
    parquet(tmp_path)
    stream = Stream(f"{tmp_path}/part-*.parquet", x=["f3", "f1"], t="f0", **SMALL)
    assert_same(stream.read(0, N), X[:, [3, 1]])
    assert_same(stream.t, X[:, 0])


BAD_ARGUMENTS: dict[str, Any] = {
    "no such file": (("none.npy",), {}, FileNotFoundError, "none.npy"),
    "no such pattern": (("none-*.npy",), {}, FileNotFoundError, "^Stream: no file is called '.*none-.*npy'$"),
    "a number": ((3,), {}, TypeError, "^Stream: files must be a path, a pattern or a sequence of paths, got 3"),
    "no files": (([],), {}, TypeError, "^Stream: files must be a path"),
    "without targets": (("x*.npy",), {}, ValueError, r"^Stream: '.*x0\.npy' holds samples alone; give targets"),
    "fewer targets": (("x*.npy", ["t0.npy"]), {}, ValueError, "^Stream: 1 files of targets for 4 of samples"),
    "other targets": (
        ("x*.npy", np.zeros(5)),
        {},
        ValueError,
        r"^Stream: targets has shape \(5,\), the files hold 203",
    ),
    "swapped": (
        (["x0.npy", "x3.npy"], ["t3.npy", "t0.npy"]),
        {},
        FormatError,
        "t3.npy' has 50 targets for the 51 rows",
    ),
    "block_rows": (
        ("x*.npy", "t*.npy"),
        {"block_rows": 0},
        ValueError,
        "block_rows must be a whole number of at least 1",
    ),
    "memory": (
        ("x*.npy", "t*.npy"),
        {"memory": 2.5},
        ValueError,
        "memory must be a whole number of at least 1, got 2.5",
    ),
    "threads": (("x*.npy", "t*.npy"), {"threads": True}, ValueError, "threads must be a whole number of at least 1"),
    "no room": (
        ("x*.npy", "t*.npy"),
        {"block_rows": 50, "memory": 4000},
        ValueError,
        "a block of 50 rows wants memory=14400, got 4000; choose fewer block_rows, give more memory",
    ),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(tmp_path, monkeypatch, name):
    npy(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments, options, kind, words = BAD_ARGUMENTS[name]
    with pytest.raises(kind, match=words):
        Stream(*arguments, **options)


def test_files_of_another_kind_do_not_go_with_the_first(tmp_path):
    npy(tmp_path)
    np.save(tmp_path / "x4.npy", X.astype("float64"))
    with pytest.raises(
        FormatError, match=r"x4\.npy' has rows of shape \(6,\) and dtype float64, '.*x0\.npy' of \(6,\)"
    ):
        Stream(f"{tmp_path}/x*.npy", T)


def test_fit_says_what_a_stream_cannot_have(tmp_path):
    stream, model = Stream(*npy(tmp_path), **SMALL), MLP([6, 3])
    for options, words in (
        ({"t": T}, "fit: t must be left out, a Stream has its targets"),
        ({"validation_split": 0.2}, "fit: of a Stream no part is held out by validation_split; give validation_data"),
        (
            {"shuffle": lambda epoch: np.arange(N)},
            "fit: the order of a Stream is its own, shuffle must be True or False",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            portnn.fit(model, stream, **options, progress=False)
    with pytest.raises(ValueError, match="x has 6 features, the network expects 7"):
        portnn.fit(MLP([7, 3]), stream, progress=False)
    with pytest.raises(ValueError, match="fit: label 2 at row"):
        portnn.fit(MLP([6, 2]), stream, progress=False)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64", ">f4", ">i4", "bool", "float16"])
def test_every_dtype_is_what_it_is_in_memory(tmp_path, dtype):
    x = (np.abs(X) * 3).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    stream = Stream(tmp_path / "x.npy", T, **SMALL)
    assert_same(stream.read(0, N), x.astype(x.dtype.newbyteorder("=")))
    model, one = (MLP([6, 3], seed=1) for _ in range(2))
    portnn.fit(model, stream, epochs=2, progress=False)
    native = x.astype(x.dtype.newbyteorder("="))
    portnn.fit(one, native, T, epochs=2, progress=False, shuffle=lambda epoch: stream.order(0, epoch))
    assert_same(model.params, one.params)


def test_what_a_stream_says_of_itself(tmp_path):
    stream = Stream(*npy(tmp_path))
    assert repr(stream) == "Stream(4 files, 203 x 6 of float32)"
    assert stream.place_of(52) == f"row 1 of {str(tmp_path / 'x1.npy')!r}"
    assert json.loads(json.dumps(fingerprint.fingerprint(stream)))["rows"] == N
