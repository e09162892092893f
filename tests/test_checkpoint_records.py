"""The record of a checkpoint: each entry is looked at, memory is bounded, what no file can hold is refused at once."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kill
import ml_dtypes
import numpy as np
import pytest
from hostile import peak_bytes
from tolerances import assert_same

import portnn
from portnn import MLP, SGD, Adam, Checkpoints, FormatError, checkpoint_record, json_text, load_checkpoint, schedules
from portnn.__main__ import main
from portnn.callbacks import Checkpoint, CSVLog, EarlyStopping
from portnn.fingerprint import fingerprint, said
from portnn.history import History
from portnn.model_file import RECORD
from portnn.storage import payload_sha256, read_safetensors_file, write_safetensors_file

N = 40
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")
LABELS = (X @ np.random.default_rng(1).normal(size=(4, 3))).argmax(axis=1)


def fit(model: MLP, folder: Any = None, **options: Any) -> History:
    """Two chunks per epoch; everything is saved."""
    defaults = {"optimizer": Adam(0.02), "epochs": 2, "batch_size": 10, "progress": False}
    where = {} if folder is None else {"checkpoint": Checkpoints(folder, seconds=0.0), "resume": True}
    with kill.small_chunks():
        return portnn.fit(model, options.pop("x", X), LABELS, **{**defaults, **where, **options})


def network(**options: Any) -> MLP:
    return MLP([4, 6, 3], **{"activation": "tanh", "dropout": 0.25, **options})


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], Any]) -> None:
    """Change record and tensors of a file, and make all its sums right."""
    arrays, metadata = read_safetensors_file(path)
    record = json.loads(arrays[RECORD].tobytes())
    record = change(record, arrays) or record
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    arrays[RECORD] = np.frombuffer(text, dtype="uint8")
    if isinstance(record, dict) and {*checkpoint_record.STANDING} <= {*record}:
        standing = {name: record[name] for name in checkpoint_record.STANDING}
        metadata["checkpoint"] = json.dumps({"format": checkpoint_record.FORMAT, **standing})
    metadata["sha256"] = payload_sha256(arrays)
    write_safetensors_file(path, arrays, metadata)


# -- entries ----------------------------------------------------------------------------------------------------------


def options_of_all() -> dict[str, Any]:
    """Everything that remembers, anew."""
    rate = schedules.ReduceOnPlateau(0.02)
    return {"optimizer": Adam(rate), "callbacks": EarlyStopping("loss"), "validation_data": (X, LABELS)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a training in the middle of its second epoch; nobody may change it."""
    folder = tmp_path_factory.mktemp("trained") / "run"

    def cut() -> None:
        raise KeyboardInterrupt

    with kill.strike("step", 4, cut):
        assert fit(network(), folder, **options_of_all()).interrupted
    return Path(Checkpoints(folder).files()[0])


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every entry of a tree."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*at, key)
        yield from places(part, (*at, key))


def put(record: Any, at: tuple[Any, ...], value: Any) -> None:
    for key in at[:-1]:
        record = record[key]
    if value is ...:
        del record[at[-1]]
    else:
        record[at[-1]] = value


WRONG = (..., None, "\x1b[2J", 10**400, [[1], 2], {"tensor": "x"}, -1, 1.5, float("nan"), True, [])


def refusal(action: Callable[[], Any]) -> ValueError | None:
    """What is raised, if it is a ValueError; anything else is a mistake."""
    try:
        action()
    except ValueError as error:
        return error
    return None


def test_each_entry_of_a_record_that_is_missing_or_wrong_is_a_format_error(tmp_path, trained, capsys):
    """Whatever is in its place: ``load_checkpoint``, ``info`` and ``fit(resume=True)`` refuse it or do their work."""
    whole = json.loads(read_safetensors_file(trained)[0][RECORD].tobytes())
    path = tmp_path / "run" / trained.name
    path.parent.mkdir()
    for at in places(whole):
        told = at[0] == "configuration" and len(at) > 1 and at[-1] not in ("x", "shape", "batch_size", "members")
        counts, values = [0, 0, 0], (..., "x", {}) if told else WRONG if len(at) == 1 else WRONG[:5]
        for value in values:
            record = copy.deepcopy(whole)
            put(record, at, value)
            shutil.copy(trained, path)
            rewritten(path, lambda _, __, record=record: record)
            model, options = network(), options_of_all()
            before = model.params.copy()
            loaded = refusal(lambda: load_checkpoint(path))
            shown = main(["info", str(path)])
            resumed = refusal(lambda: fit(model, path.parent, **options))  # noqa: B023
            assert isinstance(loaded, FormatError | None), (at, value, loaded)
            assert isinstance(resumed, FormatError | None) or at[0] == "configuration", (at, value, resumed)
            assert shown == (0 if loaded is None else 2), (at, value)
            said = [*capsys.readouterr(), str(loaded), str(resumed)]
            assert not any("\x1b" in text or len(text) > 900 for text in said), (at, value, said)
            if resumed is not None:
                assert_same(model.params, before)
                assert options["optimizer"].learning_rate == schedules.ReduceOnPlateau(0.02), "put back"
            counts = [n + m for n, m in zip(counts, (loaded is not None, shown == 2, resumed is not None), strict=True)]
            for other in Checkpoints(path.parent).files():
                Path(other).unlink()
        if len(at) == 1:
            assert min(counts) >= 8, (at, counts)
        told_only = at[0] == "made_with" or at[:2] in (
            ("history", "names"),
            ("history", "epochs"),
            ("history", "lists"),
        )
        assert counts[2] > 0 or told_only, at


@pytest.mark.parametrize("text", [b"", b"[]", b"3", b"{", b'{"epoch": 1, "epoch": 1}', b"\xff", b"[" * 50_000])
def test_what_is_no_record(tmp_path, trained, text):
    path = tmp_path / trained.name
    shutil.copy(trained, path)
    rewritten(path, lambda record, arrays: text or b" ")
    with pytest.raises(FormatError, match="load_checkpoint: "):
        load_checkpoint(path)
    assert main(["info", str(path)]) == 2


@pytest.mark.parametrize(
    ("name", "a", "words"),
    [
        ("sums/accuracy", None, r"sums of \['loss'\], expected \['accuracy', 'loss'\]"),
        ("sums/more", np.ones(()), r"sums of \['accuracy', 'loss', 'more'\]"),
        ("sums/loss", np.ones((), "int64"), "a sum of its epoch is no number"),
        ("sums/loss", np.ones(2), "a sum of its epoch is no number"),
        ("history/0", np.ones(5), "history is not of 1 epochs"),
        ("history/0", np.ones((1, 1, 1)), "'loss', is float64"),
        ("history/2", np.ones((3,)), "a list of its history is not of 1 epochs"),
        ("callbacks/0/0", np.ones(7), "EarlyStopping.restore refuses"),
        ("callbacks/0/2", np.ones(7), "EarlyStopping.restore refuses"),
    ],
)
def test_tensors_that_do_not_fit_the_record(tmp_path, trained, name, a, words):
    path = tmp_path / "run" / trained.name
    path.parent.mkdir()
    shutil.copy(trained, path)
    name = f"training/{name}"
    rewritten(path, lambda _, arrays: arrays.update({name: a}) if a is not None else arrays.pop(name) and None)
    model = network()
    before = model.params.copy()
    with pytest.raises(FormatError, match=words):
        fit(model, path.parent, **options_of_all())
    assert_same(model.params, before)


def test_losses_of_other_epochs_are_refused_though_nothing_names_them(tmp_path, trained):
    def change(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        record["history"]["names"] = []
        arrays["training/history/0"] = np.ones(5)

    path = tmp_path / trained.name
    shutil.copy(trained, path)
    rewritten(path, change)
    with pytest.raises(FormatError, match="its history is not of 1 epochs"):
        load_checkpoint(path)


def test_an_older_format_is_named(tmp_path, trained):
    path = tmp_path / trained.name
    arrays, metadata = read_safetensors_file(trained)
    position = {**json.loads(metadata["checkpoint"]), "format": 1}
    write_safetensors_file(path, arrays, {**metadata, "checkpoint": json.dumps(position)})
    with pytest.raises(FormatError, match="checkpoint format 1 < 2; go on with the portnn that wrote it"):
        load_checkpoint(path)
    for number in ("2", None, True, 0, [2]):
        position["format"] = number
        write_safetensors_file(path, arrays, {**metadata, "checkpoint": json.dumps(position)})
        with pytest.raises(FormatError, match="its format is"):
            load_checkpoint(path)


# -- memory -----------------------------------------------------------------------------------------------------------


PIECES = (b"[],", b"{},", b"[[]],", b"[[[[[[[[]]]]]]]],", b'{"":0},', b'{"":{"":{}}},', b"9999,", b"1.5,", b'"ab",')


@pytest.mark.parametrize("piece", [*PIECES, '"é€",'.encode(), b'"\\ud83d\\ude00a",', None], ids=str)
def test_the_bound_of_the_memory_of_json_is_one(piece):
    """Against what Python takes for it."""
    if piece is None:  # one large object
        text = b"{" + b",".join(b'"%x":%d' % (i, 1000 + i) for i in range(20_000)) + b"}"
    else:
        text = b"[" + piece * (200_000 // len(piece)) + '"😀"]'.encode()
    found = peak_bytes(lambda: json.loads(text, object_pairs_hook=dict))
    assert 0 < found < json_text.memory(text)


@pytest.mark.parametrize("piece", PIECES, ids=str)
def test_a_record_that_is_a_bomb_costs_little_memory(tmp_path, trained, piece):
    path = tmp_path / trained.name
    for size in (500_000, 9_000_000):
        text = b'{"epoch": [' + piece * (size // len(piece)) + b"0]}"
        shutil.copy(trained, path)
        rewritten(path, lambda record, arrays, text=text: text)

        def refused() -> None:
            with pytest.raises(FormatError, match=r"the record|its record"):
                load_checkpoint(path)

        assert peak_bytes(refused) < 2 * path.stat().st_size + (16 << 20)


def test_a_history_that_is_refused_is_not_made(tmp_path, trained):
    """Its floats take four times the room of their tensor."""
    path = tmp_path / trained.name
    shutil.copy(trained, path)
    rewritten(path, lambda record, arrays: arrays.update({"training/history/0": np.zeros(2_000_000)}))

    def refused() -> None:
        with pytest.raises(FormatError, match="history is not of 1 epochs"):
            load_checkpoint(path)

    assert peak_bytes(refused) < 2 * path.stat().st_size + (16 << 20)


def test_what_a_reader_would_refuse_is_not_written(tmp_path):
    """Remarks of callbacks are JSON; numbers are not, and may be many."""

    def remark(model: MLP, history: History) -> None:
        history.setdefault("count", [10**6] * 100_000)
        history.setdefault("right", [True] * 100_000)
        if len(history["loss"]) == 2:
            history["remark"] = ["it goes on"] * 100_000

    words = "cannot hold so much text: .* most of them in 'history'; let callbacks append numbers"
    with pytest.raises(ValueError, match=words):
        fit(network(), tmp_path / "run", callbacks=remark, epochs=3)
    _, history = load_checkpoint(tmp_path / "run")
    assert history["count"] == [10**6] * 100_000
    assert history["right"] == [True] * 100_000
    history["remark"] = ["it goes on"] * 100_000
    rare = {"checkpoint": Checkpoints(tmp_path / "more", seconds=None), "resume": history}
    with pytest.raises(ValueError, match=words):  # before the first step
        fit(network(), **rare, callbacks=lambda *_: pytest.fail("trained"))
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(("n", "drops"), [(40_000, False), (600, True)])
def test_many_members_with_large_seeds_and_schedules_of_their_own(tmp_path, monkeypatch, capsys, n, drops):
    """Each has 20 digits of seed, a rate and what it remembers: more than the header of a file has room for."""
    seeds = [2**64 - 1 - i for i in range(n)]
    monkeypatch.setattr(portnn.mlp, "initial_params", lambda layers, init, seeds: np.zeros((len(seeds), 4)))
    rates, x = [0.01 + 1e-7 * i for i in range(n)], np.linspace(-1.0, 1.0, 4)[:, None]
    options = {"loss": "mse", "batch_size": 4, "progress": False, "seed": 2**64 - 1, "validation_data": (x, x)}
    dropout = [[0.5 + i / 10**6 for i in range(n)]] if drops else 0.0

    def started() -> MLP:
        return MLP([1, 1, 1], members=n, seed=seeds, dropout=dropout)

    def optimizer() -> SGD:
        return SGD([schedules.ReduceOnPlateau(rate, patience=0) for rate in rates])

    whole, half, model = started(), started(), started()
    expected = portnn.fit(whole, x, 3 * x, epochs=3, optimizer=optimizer(), **options)
    where = {"checkpoint": tmp_path / "run", "resume": True}
    portnn.fit(half, x, 3 * x, epochs=2, optimizer=optimizer(), **options, **where)
    history = portnn.fit(model, x, 3 * x, epochs=3, optimizer=optimizer(), **options, **where)
    assert_same(model.params, whole.params)
    assert history["learning_rate"] == expected["learning_rate"]
    loaded, _ = load_checkpoint(tmp_path / "run")
    assert (loaded.seed, loaded.layers[0].dropout) == (seeds, model.layers[0].dropout)
    model.save(tmp_path / "model")
    again = MLP.load(tmp_path / "model")
    assert (again.seed, again.layers[0].dropout) == (seeds, model.layers[0].dropout)
    for path in (tmp_path / "model", Checkpoints(tmp_path / "run").files()[0]):
        assert main(["info", str(path)]) == 0
        assert f"{n} members" in (out := capsys.readouterr().out)
        assert len(out) < 1500
    rates[7] = 0.5
    with pytest.raises(FormatError, match=r"optimizer=.*sha256.*, this one has optimizer=.*sha256") as caught:
        portnn.fit(started(), x, 3 * x, epochs=4, optimizer=optimizer(), **options, **where)
    assert len(str(caught.value)) < 500


def test_long_lists_of_a_model_file_are_held_to_it(tmp_path):
    path = tmp_path / "model"
    scale = tuple(np.random.default_rng(0).normal(size=50_000).tolist())
    MLP([50_000, 1], inputs=portnn.Standardize(scale, scale), init="zeros").save(path)
    same = MLP.load(path)
    assert (same.layers[0].before.mean, same.layers[0].before.std) == (scale, scale)
    MLP([300, 1], inputs=portnn.Standardize(scale[:300], scale[:300]), init="zeros").save(path)
    arrays, metadata = read_safetensors_file(path)
    config = json.loads(metadata["portnn"])
    assert (config["format"], config["inputs"]["mean"]) == (4, {"tensor": "configuration/inputs/mean"})
    name = "configuration/inputs/mean"
    for change, words in (
        ({name: None}, r"a list 'configuration/inputs/mean' that is not there"),
        ({name: np.zeros(300, "float32")}, "is not there, or is none"),
        ({name: np.zeros((300, 1))}, "is not there, or is none"),
        ({name: np.full(300, np.nan)}, "mean must be a finite number"),
        ({name: np.zeros(300_000)}, "hold 300300 numbers, at most 262144 are read"),
        ({"configuration/more": np.zeros(3)}, "1 tensors are not of this model"),
    ):
        other = {name: a for name, a in {**arrays, **change}.items() if a is not None}
        told = {**config, "sha256": payload_sha256(other)}
        write_safetensors_file(path, other, {"portnn": json.dumps(told)})
        with pytest.raises(FormatError, match=words):
            MLP.load(path)
    write_safetensors_file(path, {**arrays, name: arrays[name] + 1}, metadata)
    with pytest.raises(FormatError, match="sha256 mismatch"):
        MLP.load(path)
    large = MLP([200_000, 1], inputs=portnn.Standardize([0.5] * 200_000, [0.5] * 200_000), init="zeros")
    with pytest.raises(ValueError, match="lists of the configuration hold 400000 numbers, a file at most 262144"):
        large.save(path)


def test_a_header_that_no_reader_takes_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"the header may take 4. MiB of memory where it is read, at most 12 are"):
        write_safetensors_file(tmp_path / "a", {"a": np.zeros(1)}, {"a": "[" * 480_000})


# -- another dtype ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["training/optimizer/v", "layers.0.weight", "layers.0.running_mean"])
def test_numbers_too_large_for_the_dtype_are_refused(library, tmp_path, name):
    fit(network(dtype="float64", normalization="batch"), tmp_path / "run")
    path = Path(Checkpoints(tmp_path / "run").files()[0])
    rewritten(path, lambda _, arrays: arrays[name].reshape(-1).__setitem__(0, 1e300))
    kind = "'v'" if name.endswith("v") else "'running'" if "running" in name else "'params'"
    with pytest.raises(ValueError, match=rf"{kind} holds 1e\+300, which is too large for dtype 'float32'; load it as"):
        load_checkpoint(path, dtype="float32", **library.where)
    model, history = load_checkpoint(path, **library.where)
    if name.endswith("v"):
        small, before = network(normalization="batch", **library.where), None
        before = library.to_numpy(small.params).copy()
        with pytest.raises(ValueError, match="numbers too large for float32 in the optimizer's 'v'"):
            fit(small, resume=history)
        assert_same(library.to_numpy(small.params), before)
        fit(model, resume=history, epochs=1)


# -- what remembers ---------------------------------------------------------------------------------------------------


class Keeps:
    """A callback of a user's with a state that is whatever it is told."""

    def __init__(self, **state: Any) -> None:
        self.kept = state

    def __call__(self, model: MLP, history: History) -> None:
        pytest.fail("a step was made")

    def state(self) -> dict[str, Any]:
        return self.kept

    def restore(self, state: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array(["a"]), "dtype '<U1' and 1 axes"),
        (np.array([None]), "dtype 'object'"),
        (np.ones(2, "complex128"), "dtype 'complex128'"),
        (np.ones(2, "longdouble"), "dtype 'float128'"),
        (np.ones(2, "M8[s]"), "dtype 'datetime64"),
        (np.ones(2, ml_dtypes.bfloat16), "dtype 'bfloat16'"),
        (np.complex64(1), "dtype 'complex64' and 0 axes"),
        (np.ones((1,) * 9), "and 9 axes"),
        (np.ma.masked_array([1.0]), "a mask and dtype"),
        (np.zeros(2, "i4,f4"), "dtype"),
        ({1, 2}, "is a set, or holds what"),
        (b"a", "is a bytes, or holds what"),
    ],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
def test_states_that_no_file_can_hold_are_refused_before_the_first_step(tmp_path, value, words):
    model, rate = network(), schedules.ReduceOnPlateau(0.1)
    before = model.params.copy()
    rate.state = lambda: {"here": value}
    for who, options in (("Keeps", {"callbacks": Keeps(here=value)}), ("ReduceOnPlateau", {"optimizer": SGD(rate)})):
        with pytest.raises(TypeError, match=rf"fit: {who}\.state\(\)\['here'\] .*{words}"):
            fit(model, tmp_path / "run", **options)
    assert_same(model.params, before)
    assert not (tmp_path / "run").exists()


def test_states_of_other_libraries_are_refused_alike(library, tmp_path):
    a = library.make(np.ones(2, "complex64"))
    with pytest.raises(TypeError, match=r"Keeps\.state\(\)\['here'\] is an array of dtype 'complex64'"):
        fit(network(**library.where), tmp_path / "run", callbacks=Keeps(here=a))
    if library.name == "torch":
        import torch

        with pytest.raises(TypeError, match=r"Keeps\.state\(\)\['here'\] cannot be copied to the host"):
            fit(network(), tmp_path / "run", callbacks=Keeps(here=torch.ones(2, dtype=torch.bfloat16)))


def test_an_optimizer_that_no_file_can_hold_is_refused_before_the_first_step(tmp_path):
    class Own(SGD):
        def init(self, params):
            return {name: params * 1j if name == "z" else params}

        def update(self, *_: Any) -> Any:
            raise AssertionError

    for name, words in (("z", "'z' of dtype complex64"), ("my m", "'my m' of dtype float32")):  # noqa: B007
        with pytest.raises(TypeError, match=f"the optimizer keeps an array {words}, which a checkpoint does not"):
            fit(network(), tmp_path / "run", optimizer=Own(0.1))
        assert not (tmp_path / "run").exists()


# -- the same training ------------------------------------------------------------------------------------------------


def test_numbers_are_told_by_their_values():
    for one, other in (
        (schedules.step_decay(np.float64(0.1), every=3), schedules.step_decay(0.1, every=np.int32(3))),
        (schedules.ReduceOnPlateau(np.float64(0.5)), schedules.ReduceOnPlateau(0.5)),
        (schedules.cosine(1, 9), schedules.cosine(1.0, 9)),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        ({"a": np.float64(1.0)}, {"a": 1}),
        ((np.int64(1), 2.0), [1, 2]),
    ):
        assert said(one) == said(other), (one, other)
    assert said(2**60) != said(2**60 + 1)
    assert said(np.float32(0.1)) != said(0.1), "they are two numbers"
    assert said(schedules.step_decay(0.1, every=3)) != said(schedules.step_decay(0.1, every=4))


def test_a_rate_of_numpy_goes_on_as_one_of_python(tmp_path):
    fit(network(), tmp_path / "run", optimizer=SGD(schedules.step_decay(np.float64(0.1), every=3)))
    fit(network(), tmp_path / "run", optimizer=SGD(schedules.step_decay(0.1, every=3)), epochs=3, per_batch=np.False_)


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [
        (EarlyStopping("loss"), EarlyStopping("loss", mode="min"), True),
        (EarlyStopping("loss"), EarlyStopping("loss", patience=11), False),
        (EarlyStopping("loss"), EarlyStopping("loss", min_delta=0.1), False),
        (EarlyStopping("loss"), EarlyStopping("loss", restore_best=False), False),
        (EarlyStopping("loss", mode="max"), EarlyStopping("loss"), False),
        (EarlyStopping("loss"), EarlyStopping("accuracy"), False),
        (Checkpoint("a", "loss"), Checkpoint("b", "loss", every=2), True),
        (Checkpoint("a", "loss"), Checkpoint("a", "accuracy"), False),
        (Checkpoint("a", "loss"), Checkpoint("a"), False),
        (CSVLog("a"), CSVLog("b", append=True), True),
        (EarlyStopping("loss"), CSVLog("b"), False),
        (CSVLog("a"), None, False),
    ],
)
def test_callbacks_of_ours_must_have_the_same_arguments(tmp_path, monkeypatch, was, now, same):
    monkeypatch.chdir(tmp_path)
    fit(network(), "run", callbacks=was)
    model = network()
    before = model.params.copy()
    if same:
        assert len(fit(model, "run", callbacks=now, epochs=3)["loss"]) == 3
    else:
        with pytest.raises(
            ValueError, match=r"with callbacks=\[.*load_checkpoint and fit\(resume=history\) go on"
        ) as e:
            fit(model, "run", callbacks=now, epochs=3)
        assert type(e.value) is ValueError
        assert len(str(e.value)) < 500
        assert_same(model.params, before)
        loaded, history = load_checkpoint("run")
        fit(loaded, resume=history, callbacks=now, epochs=1)


DTYPES = {
    "numpy": ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", ">f4", ">i2"],
    "torch": ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"],
    "jax": ["bool", "uint8", "int8", "uint16", "int32", "uint32", "float16", "bfloat16", "float32"],
}


@pytest.mark.parametrize("name", DTYPES)
def test_samples_of_every_dtype_have_a_fingerprint(name, tmp_path):
    """Each goes on with itself, and not with other numbers; those that NumPy lacks are widened exactly."""
    values = np.random.default_rng(3).integers(0, 2, size=(N, 4))
    for k, dtype in enumerate(DTYPES[name]):
        if name == "numpy":
            made = values.astype(dtype)
        elif name == "torch":
            import torch

            made = torch.asarray(values).to(getattr(torch, dtype))
        else:
            import jax

            made = jax.numpy.asarray(values).astype(dtype)
        folder, other = tmp_path / f"{k}", made + made if dtype not in ("?", "bool") else made ^ True
        fit(network(backend=name), folder, x=made)
        whole, model = network(backend=name), network(backend=name)
        fit(whole, x=made, epochs=3)
        fit(model, folder, x=made, epochs=3)
        to_numpy = model.backend.to_numpy
        assert_same(to_numpy(model.params), to_numpy(whole.params))
        with pytest.raises(ValueError, match=r"with x=\w+ \(40, 4\) sha256"):
            fit(model, folder, x=other, epochs=4)


def test_bytes_of_no_meaning_are_not_looked_at():
    a = np.frombuffer(b"\x00" * 64, dtype="longdouble").copy()
    b = np.frombuffer((b"\x00" * 10 + b"\xff" * 6) * 4, dtype="longdouble").copy()
    assert (a == b).all()
    assert a.tobytes() != b.tobytes()
    assert fingerprint(a[:, None]) == fingerprint(b[:, None])


def test_a_difference_is_in_the_sentence_that_says_so(tmp_path):
    """Also one far behind the beginning of a long text; and a hostile one does not make the sentence long."""
    rate = schedules.ReduceOnPlateau(0.02, patience=10)
    fit(network(), tmp_path / "run", optimizer=Adam(rate))
    with pytest.raises(FormatError, match=r"patience=10.* this one .*patience=3") as caught:
        fit(network(), tmp_path / "run", optimizer=Adam(schedules.ReduceOnPlateau(0.02, patience=3)))
    assert len(str(caught.value)) < 600
    path = Path(Checkpoints(tmp_path / "run").files()[0])
    rewritten(path, lambda record, _: record["configuration"]["x"].update(dtype="f" * 100_000))
    with pytest.raises(ValueError, match="is of a training with x=fff") as caught:
        fit(network(), tmp_path / "run", optimizer=Adam(rate))
    assert len(str(caught.value)) < 600


def test_a_number_of_schedules_that_is_none(tmp_path):
    rates = [schedules.ReduceOnPlateau(0.02) for _ in range(3)]
    fit(network(members=3), tmp_path / "run", optimizer=Adam(rates))
    path = Path(Checkpoints(tmp_path / "run").files()[0])
    assert "each" in read_safetensors_file(path)[0][RECORD].tobytes().decode()

    def change(record: dict[str, Any], _: Any) -> None:
        record["schedules"][0]["each"] = None

    rewritten(path, change)
    with pytest.raises(FormatError, match="is of None schedules"):
        load_checkpoint(path)
