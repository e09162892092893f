"""Files that are not what they claim to be: one exception type, where and why, and little memory before trust."""

import functools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import BAD_CSV, IDX, bomb, deep_model, entry, idx, peak_bytes, tensors, zipped

import portnn
from portnn import FormatError
from portnn.datasets import read_columns, read_csv, read_idx, read_safetensors
from portnn.storage import read_safetensors_file, write_safetensors_file

Reader = Callable[..., Any]


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def refused(reader: Reader, path: Path) -> str:
    """The message with which ``reader`` refuses a file: one line, of bounded length, naming reader and file."""
    with pytest.raises(FormatError) as caught:
        reader(path)
    message = str(caught.value)
    assert type(caught.value) is FormatError
    assert message.startswith(f"{reader.__name__}: ")
    assert path.name in message
    assert len(message) < 500
    assert "\n" not in message
    return message


def refused_cheaply(reader: Reader, path: Path) -> None:
    """Refused, with no more memory than twice the file and 16 MiB."""
    peak = peak_bytes(lambda: refused(reader, path))
    assert peak < 2 * path.stat().st_size + (16 << 20), (path.stat().st_size, peak)


def test_bool_bytes_are_checked(tmp_path: Path):
    path = write(tmp_path, tensors({"a": entry((2,), (0, 2), "BOOL")}, b"\1\2"))
    assert "other than 0 and 1" in refused(read_safetensors_file, path)


def test_unknown_names_are_refused(tmp_path: Path):
    path = write(tmp_path, tensors({"a": entry()}))
    refused(functools.update_wrapper(lambda p: read_safetensors_file(p, names=["b"]), read_safetensors_file), path)


def test_a_column_of_words_is_no_pickle(tmp_path: Path):
    for header in ("color", "(l", "class"):
        x, _ = read_csv(write(tmp_path, f"{header}\n5\n6\n".encode()), target=None)
        assert x.tolist() == [[5], [6]]


def test_the_canary_can_sing(tmp_path: Path):
    """The pickles above do run code when they are loaded: the test means something."""
    import pickle

    for protocol in (0, 2, 5):
        canary = tmp_path / str(protocol)
        pickle.loads(bomb(canary, protocol))
        assert canary.exists()


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_tables_cost_little_memory(tmp_path: Path, name: str):
    refused_cheaply(read_csv, write(tmp_path, BAD_CSV[name][0]))


def test_bombs_cost_little(tmp_path: Path):
    small = IDX[:8] + bytes(64 << 20)  # 64 MiB in 64 kB, where the header declares 1000 bytes
    path = write(tmp_path, zipped(small, 9))
    assert peak_bytes(lambda: refused(read_idx, path)) < 2 << 20
    path = write(tmp_path, zipped(b"1" * (64 << 20), 9))
    assert peak_bytes(lambda: refused(read_csv, path)) < 16 << 20
    path = write(tmp_path, zipped(struct.pack(">BBBBI", 0, 0, 8, 1, 2**32 - 1), 9))
    assert peak_bytes(lambda: refused(read_idx, path)) < 1 << 20
    declared = idx(8, 64 << 20, data=bytes(64 << 20))  # as long as it says, but for what is wrong at the end
    for spoiled in (zipped(declared, 9)[:-4], zipped(declared + b"x", 9), zipped(declared[:-1], 9)):
        refused_cheaply(read_idx, write(tmp_path, spoiled))
    path = write(tmp_path, zipped(declared, 9))
    assert read_idx(path).shape == (64 << 20,)


@pytest.mark.parametrize("reader", [read_csv, functools.partial(read_csv, dtype="float64"), read_columns])
def test_tables_of_short_numbers_cost_no_more_than_others(tmp_path: Path, reader: Reader):
    """As numbers they take several times the room of their text, and of gzip a thousand times."""
    text = b"a,b\n" + b"1,2\n" * 3_000_000
    name = getattr(reader, "func", reader).__name__
    for content in (text + b"1,1e999\n", zipped(text, 9)[:-4], zipped(text + b"3", 9)):
        named = functools.update_wrapper(lambda path: reader(path), getattr(reader, "func", reader))
        refused_cheaply(named, write(tmp_path, content))
    result = reader(write(tmp_path, zipped(text, 9)))
    values = result.values if name == "read_columns" else np.stack([result[1], result[0][:, 0]], axis=1)
    assert values.shape == (3_000_000, 2)
    assert (values == [1, 2]).all()


def test_many_names_take_no_quadratic_time(tmp_path: Path):
    """Each of these took minutes when every name was compared with every other."""
    names = ",".join(f"{i:x}" for i in range(65_000))
    with pytest.raises(FormatError, match=r"line 1, column 65001: the name '0' is there twice"):
        read_columns(write(tmp_path, f"{names},0\n".encode()))
    with pytest.raises(FormatError, match="there is no column 'x'"):
        read_columns(write(tmp_path, f"{names}\n".encode()), drop=["x"])
    words = [f"{split}{'' if i % 2 else '_'}{word}" for split in ("train", "TRAIN", "Train") for i in range(2)
             for word in ("x", "X", "y", "Y")]  # fmt: skip
    many = {f"{''.join(c.upper() if k >> i & 1 else c for i, c in enumerate('features'))}": k for k in range(256)}
    many |= {f"{''.join(c.upper() if k >> i & 1 else c for i, c in enumerate('targets'))}": k for k in range(128)}
    header = {name: entry((1, 0), (0, 0)) for name in [*many, *words]}
    with pytest.raises(FormatError, match="more than one pair of tensors"):
        read_safetensors(write(tmp_path, tensors(header, b"")))


def test_a_model_file_is_held_to_its_numbers(tmp_path: Path):
    """Whatever the configuration claims costs no more than the tensors that are there."""
    path = tmp_path / "file"
    portnn.MLP([2, 3, 1], seed=3).save(path)
    arrays, metadata = read_safetensors_file(path)
    config = json.loads(metadata["portnn"])
    assert config["sha256"] == portnn.storage.payload_sha256(arrays)
    for change, words in (
        ({"members": 10**12}, r"tensor 'layers.0.weight' is float32 \(2, 3\), the configuration says float32 \(10000"),
        ({"members": True}, "members must be an int"),
        ({"members": 2.0}, "members must be an int"),
        ({"sizes": [10**9, 10**9, 10**9]}, "the configuration says float32"),
        ({"sizes": [2.0, 3, 1]}, "all sizes must be positive integers"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"dtype": ["float32"]}, "unknown dtype"),
        ({"seed": -1}, "seed must be"),
        ({"seed": [1, 2]}, "2 seeds for members=None"),
        ({"format": "3"}, "format must be an int"),
        ({"format": 0}, "format must be an int"),
        ({"format": [3]}, "format must be an int"),
        ({"activation": "relu"}, "unknown activation 'r'"),
        ({"activation": [["relu"]]}, "not one of a portnn model"),
        ({"activation": None}, "not one of a portnn model"),
        ({"inputs": [1]}, "not one of a portnn model"),
        ({"inputs": {"kind": []}}, "not one of a portnn model"),
        ({"sha256": "0" * 64}, "sha256 mismatch"),
        ({"sha256": 3}, "sha256 mismatch"),
        ({"sha256": None}, ""),
    ):
        write_safetensors_file(path, arrays, {"portnn": json.dumps({**config, **change})})
        if words:
            with pytest.raises(FormatError, match=words) as caught:
                portnn.MLP.load(path)
            assert str(caught.value).startswith("MLP.load: ")
            assert len(str(caught.value)) < 500
        else:
            assert portnn.MLP.load(path).seed == 3
    for text in ("[]", "3", '"x"', "{", '{"format": 1, "format": 2}', '{"format": NaN}', "[" * 100_000):
        write_safetensors_file(path, arrays, {"portnn": text})
        with pytest.raises(FormatError, match=r"^MLP\.load: .*the configuration"):
            portnn.MLP.load(path)


def test_layers_without_tensors_cost_little_memory(tmp_path: Path):
    path = write(tmp_path, deep_model())
    load = functools.update_wrapper(lambda path: portnn.MLP.load(path), portnn.MLP.load, updated=())
    load.__name__ = "MLP.load"
    peak = peak_bytes(lambda: refused(load, path))
    assert peak < 2 * path.stat().st_size + (16 << 20), peak
    with pytest.raises(FormatError, match="sizes has 15000 layers, the file holds 0 tensors"):
        portnn.MLP.load(path)


@pytest.mark.parametrize("line", [1, 2, 5000])
def test_csv_error_far_into_the_file(tmp_path: Path, line: int):
    lines = ["1,2.5,3" if i % 2 else "4,5,6" for i in range(60_000)]
    lines[line * 10 - 1] = "1,x,3"
    content = "\r\n".join(["a,b,c", *lines]).encode()
    assert f"line {line * 10 + 1}, column 2: 'x'" in refused(read_csv, write(tmp_path, content))


def test_json_bombs_cost_little_memory(tmp_path: Path):
    for piece in (b"[],", b"{},", b"9999,", b"1.5,", b'"ab",'):
        text = b'{"a": [' + piece * ((500_000) // len(piece)) + b"0]}"
        refused_cheaply(read_safetensors_file, write(tmp_path, tensors(text)))
