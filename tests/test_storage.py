"""safetensors in and out, against the reference implementation; atomic writes, against a disk that fails."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from portnn import FormatError
from portnn.files import atomic_write, check_target
from portnn.storage import payload_sha256, read_safetensors_file, read_safetensors_header, write_safetensors_file

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
BASE = np.arange(24).reshape(2, 3, 4)


def identical(a: np.ndarray, b: np.ndarray) -> bool:
    """Same shape, dtype and bits: NaN payloads and signed zeros count."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------------------- against the reference


@pytest.mark.parametrize("metadata", [None, {"format": 'quotes " and é'}])
def test_bytes_equal_those_of_the_reference(tmp_path: Path, metadata: dict[str, str] | None):
    arrays = {f"layer.{i}/{dtype.replace('?', 'bool')}": BASE.astype(dtype) for i, dtype in enumerate(DTYPES)}
    arrays |= {"empty": np.empty((0, 3), "f4"), "scalar": np.array(1.5)}
    write_safetensors_file(tmp_path / "a", arrays, metadata)
    assert (tmp_path / "a").read_bytes() == safetensors.numpy.save(arrays, metadata)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_the_reference_writes(tmp_path: Path, dtype: str):
    expected = {"a.b": BASE.astype(dtype), "z": np.array(3).astype(dtype), "none": np.empty((2, 0), dtype)}
    (tmp_path / "a").write_bytes(safetensors.numpy.save(expected, {"k": "v"}))
    arrays, metadata = read_safetensors_file(tmp_path / "a")
    assert metadata == {"k": "v"}
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert identical(array, expected[name])
        assert array.flags.writeable
        assert array.flags.aligned


LAYOUTS = {
    "fortran": np.asfortranarray(BASE),
    "transposed": BASE.T,
    "strided": BASE[:, ::2, 1::2],
    "reversed": BASE[::-1, ::-1],
    "broadcast": np.broadcast_to(np.array([1, 2, 3]), (4, 3)),
    "scalar broadcast": np.broadcast_to(np.array(7), (5,)),
    "big-endian": BASE.astype(">i8"),
    "big-endian strided": BASE.astype(">f4")[..., ::-1],
    "0-d": np.array(2.5, dtype=">f8"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_memory_layout_is_stored_by_value(tmp_path: Path, name: str):
    array = LAYOUTS[name].view()
    array.flags.writeable = False
    before = array.tobytes()
    write_safetensors_file(tmp_path / "a", {"a": array})
    for loaded in (read_safetensors_file(tmp_path / "a")[0], safetensors.numpy.load_file(tmp_path / "a")):
        assert identical(
            loaded["a"], np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape)
        )
    assert array.tobytes() == before


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    arrays=st.dictionaries(
        st.from_regex(r"\A[A-Za-z0-9_]{1,8}([./-][a-z0-9]{1,4}){0,3}\Z"),
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
        ),
        max_size=5,
    ),
    metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, arrays, metadata):
    folder = tmp_path_factory.mktemp("round")
    write_safetensors_file(folder / "a", arrays, metadata)
    loaded, loaded_metadata = read_safetensors_file(folder / "a")
    assert loaded_metadata == metadata
    assert loaded.keys() == arrays.keys()
    assert all(identical(loaded[name], arrays[name]) for name in arrays)
    write_safetensors_file(folder / "b", dict(reversed(loaded.items())), dict(reversed(metadata.items())))
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_header_and_selected_names(tmp_path: Path):
    write_safetensors_file(tmp_path / "a", {"w": BASE.astype("f4"), "b": BASE.astype("u1")}, {"k": "v"})
    infos, metadata = read_safetensors_header(tmp_path / "a")
    assert metadata == {"k": "v"}
    assert {name: (info.dtype.str, info.shape) for name, info in infos.items()} == {
        "w": ("<f4", (2, 3, 4)),
        "b": ("|u1", (2, 3, 4)),
    }
    arrays, _ = read_safetensors_file(tmp_path / "a", names=["b"])
    assert list(arrays) == ["b"]
    assert identical(arrays["b"], BASE.astype("u1"))


@pytest.mark.parametrize(
    ("arrays", "metadata", "error", "words"),
    [
        ({"a": BASE}, {"k": 1}, TypeError, "metadata must map str to str"),
        ({"a": BASE}, {1: "v"}, TypeError, "metadata must map str to str"),
        ({"a": BASE}, {"k": "\ud800"}, ValueError, "surrogate"),
        ({"a": BASE}, {"k": "v" * 600_000}, ValueError, "max_header_bytes"),
        ({"../x": BASE}, None, ValueError, "not a name"),
        ({"a/../x": BASE}, None, ValueError, "not a name"),
        ({"/x": BASE}, None, ValueError, "not a name"),
        ({"a b": BASE}, None, ValueError, "not a name"),
        ({"a\n": BASE}, None, ValueError, "not a name"),
        ({"": BASE}, None, ValueError, "not a name"),
        ({"__metadata__": BASE}, None, ValueError, "not a name"),
        ({"x" * 257: BASE}, None, ValueError, "not a name"),
        ({3: BASE}, None, ValueError, "not a name"),
        ({"a": [1, 2]}, None, TypeError, "list"),
        (None, None, TypeError, "arrays must map names to arrays, got NoneType"),
        ([BASE], None, TypeError, "arrays must map names to arrays, got list"),
        ({"a": BASE}, "abc", TypeError, "metadata must map str to str"),
        ({"a": BASE}, ["abc"], TypeError, "metadata must map str to str"),
        ({"a": np.ma.masked_array([1, 2])}, None, TypeError, "mask"),
        ({"a": BASE.astype("c16")}, None, TypeError, "complex128"),
        ({"a": np.array(["x"])}, None, TypeError, "<U1"),
        ({"a": np.array([None])}, None, TypeError, "object"),
        ({"a": BASE.astype(np.longdouble)}, None, TypeError, "float"),
        ({"a": np.zeros(2, "i4,f4")}, None, TypeError, "dtype"),
        ({"a": np.zeros((1,) * 9)}, None, ValueError, "rank 9"),
        ({"a": np.empty((0, 2**40), "u1")}, None, ValueError, "extent"),
    ],
)
def test_what_the_writer_refuses(tmp_path: Path, arrays, metadata, error, words):
    with pytest.raises(error, match=r"^write_safetensors_file: ") as caught:
        write_safetensors_file(tmp_path / "a", arrays, metadata)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500
    assert os.listdir(tmp_path) == []


def test_true_is_1_whatever_its_byte(tmp_path: Path):
    """A view of bytes as bool may hold others, which no reader has to take."""
    odd = np.array([[2, 0], [255, 1]], "u1").view(bool)
    plain = np.array([[True, False], [True, True]])
    write_safetensors_file(tmp_path / "odd", {"a": odd, "b": odd[::-1, 1:], "c": odd[0, :1].reshape(())})
    write_safetensors_file(tmp_path / "plain", {"a": plain, "b": plain[::-1, 1:], "c": np.array(True)})
    assert (tmp_path / "odd").read_bytes() == (tmp_path / "plain").read_bytes()
    arrays, _ = read_safetensors_file(tmp_path / "odd")
    assert arrays["a"].tolist() == plain.tolist()
    assert payload_sha256({"a": odd}) == payload_sha256({"a": plain})


# --------------------------------------------------------------------------------------------------- atomic writes


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_file_mode_follows_the_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "a", [b"x"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_order_of_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        assert calls[-1] == "fsync folder" or os.fstat(descriptor).st_size == 6, "synced before it was written"
        fsync(descriptor)

    def spy_replace(source: str, target: str) -> None:
        calls.append("replace")
        assert Path(source).parent == Path(target).parent
        assert Path(source).match(".portnn-*.tmp")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    atomic_write(tmp_path / "a", [b"abc", memoryview(b"def")])
    assert calls == ["fsync file", "replace", "fsync folder"]


@pytest.mark.parametrize("call", ["chunks", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), MemoryError()])
def test_any_error_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error):
    atomic_write(tmp_path / "a", [b"old"])

    def fail(*_: object) -> None:
        raise error

    def chunks():
        yield b"new"
        if call == "chunks":
            fail()

    if call != "chunks":
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        atomic_write(tmp_path / "a", chunks())
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_full_disk_names_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device.*model"):
        atomic_write(tmp_path / "model", [b"x"])


def test_a_link_is_followed(tmp_path: Path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", [b"new"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_output_may_be_the_input(tmp_path: Path):
    write_safetensors_file(tmp_path / "a", {"w": BASE})
    arrays, _ = read_safetensors_file(tmp_path / "a")
    write_safetensors_file(tmp_path / "a", {"w": arrays["w"] + 1})
    assert identical(read_safetensors_file(tmp_path / "a")[0]["w"], BASE + 1)


def test_refused_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        atomic_write(tmp_path / "nowhere" / "a", [b"x"])
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path, [b"x"])
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop") as caught:
        atomic_write(tmp_path / "loop", [b"x"])
    assert caught.value.errno == errno.ELOOP
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        atomic_write(tmp_path / "pipe", [b"x"])
    (tmp_path / "protected").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda *_: False)  # a mode would not stop the superuser
    with pytest.raises(PermissionError, match="protected"):
        atomic_write(tmp_path / "protected", [b"x"])
    assert (tmp_path / "protected").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["loop", "pipe", "protected"]


def test_extents_beyond_all_numbers_are_a_format_error(tmp_path: Path):
    """Their product has more digits than Python turns into text."""
    many = 10**3000
    header = json.dumps({"a": {"dtype": "U8", "shape": [many, many], "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(FormatError, match="claims an extent of 1000"):
        read_safetensors_file(path)


def test_who_may_read_a_file_stays_as_it_was(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    write_safetensors_file(path, {})
    path.chmod(0o600)
    write_safetensors_file(path, {"a": np.ones(1)})
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "chown"), reason="files have no groups here")
def test_the_group_of_a_file_stays_and_what_the_system_refuses_costs_no_save(tmp_path, monkeypatch):
    path, asked = tmp_path / "x.safetensors", []
    write_safetensors_file(path, {})
    path.chmod(0o660)
    real = os.stat

    def of_others(what: Any, **options: Any) -> Any:
        found = real(what, **options)
        if os.fspath(what) != str(path):
            return found
        return os.stat_result([*found[:5], found.st_gid + 1, *found[6:]])

    def refuse(*arguments: Any) -> None:
        asked.append(arguments[1:])
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), arguments[0])

    monkeypatch.setattr(os, "stat", of_others)
    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    write_safetensors_file(path, {"a": np.ones(1)})
    assert asked == [(-1, real(tmp_path).st_gid + 1), (0o660,)]
    assert list(read_safetensors_file(path)[0]) == ["a"]


def test_a_folder_that_cannot_be_written_to_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where the file itself can be: a new one takes its place. (The superuser may write everywhere.)"""
    (tmp_path / "x").touch()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != str(tmp_path) and access(path, mode))
    for name in ("x", "y"):
        with pytest.raises(PermissionError):
            check_target(tmp_path / name)
    with pytest.raises(OSError, match="too long"):
        check_target(tmp_path / ("x" * 300))


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="this system opens no folders")
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_costs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    """One that may not be read, and one of a file system that syncs no folders: the file is there all the same."""
    real = getattr(os, call)

    def refuse(what: Any, *rest: Any) -> Any:
        if call == "open" and os.fspath(what) == str(tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), what)
        if call == "fsync" and stat.S_ISDIR(os.fstat(what).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(what, *rest)

    monkeypatch.setattr(os, call, refuse)
    write_safetensors_file(tmp_path / "x.safetensors", {"a": np.ones(1)})
    assert read_safetensors_file(tmp_path / "x.safetensors")[0]["a"] == 1.0
