"""The readers and the data sets, against independent parsers, scikit-learn and bytes packed by hand."""

import functools
import gzip
import hashlib
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from portnn import FormatError
from portnn.datasets import (
    csv_table,
    load_digits,
    load_mnist,
    mnist,
    read_csv,
    read_idx,
    read_idx_pair,
    read_safetensors,
    write_idx,
)

zipped = functools.partial(gzip.compress, mtime=0)

IDX_TYPES = {
    "u1": (0x08, "B"),
    "i1": (0x09, "b"),
    "i2": (0x0B, "h"),
    "i4": (0x0C, "i"),
    "f4": (0x0D, "f"),
    "f8": (0x0E, "d"),
}


def identical(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------------------------------------- IDX


@pytest.mark.parametrize("dtype", IDX_TYPES)
@pytest.mark.parametrize("compress", [bytes, zipped], ids=["plain", "gzip"])
def test_idx_packed_by_hand(tmp_path: Path, dtype: str, compress):
    code, letter = IDX_TYPES[dtype]
    values = [1, 2, 3, 4, 5, 100]
    content = struct.pack(">BBBBII", 0, 0, code, 2, 2, 3) + struct.pack(f">6{letter}", *values)
    (tmp_path / "any-name").write_bytes(compress(content))
    array = read_idx(tmp_path / "any-name")
    assert array.dtype == np.dtype(dtype)
    assert array.dtype.isnative
    assert array.flags.writeable
    assert array.tolist() == [values[:3], values[3:]]
    write_idx(tmp_path / "again", array)
    assert (tmp_path / "again").read_bytes() == content
    write_idx(tmp_path / "again.gz", array)
    assert gzip.decompress((tmp_path / "again.gz").read_bytes()) == content


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    array=st.sampled_from([*IDX_TYPES, ">f4", ">i2"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    ),
    suffix=st.sampled_from(["", ".gz"]),
)
def test_idx_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, suffix: str):
    folder = tmp_path_factory.mktemp("idx")
    native = array.astype(array.dtype.newbyteorder("="))
    for name, given_array in (("a", array), ("b", np.asfortranarray(array)), ("c", array[::-1])):
        write_idx(folder / f"{name}{suffix}", given_array)
    assert identical(read_idx(folder / f"a{suffix}"), native)
    assert identical(read_idx(folder / f"c{suffix}"), np.ascontiguousarray(native[::-1]))
    assert (folder / f"a{suffix}").read_bytes() == (folder / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (np.zeros(3, "i8"), TypeError, "int64"),
        (np.zeros(3, "?"), TypeError, "bool"),
        ([1, 2], TypeError, "list"),
        (np.ma.masked_array(np.zeros(3, "u1")), TypeError, "MaskedArray"),
        (np.array(3, "u1"), ValueError, "shape ()"),
        (np.zeros((1,) * 9, "u1"), ValueError, "rank 9"),
        (np.empty((0, 2**31), "u1"), ValueError, "extent"),
    ],
)
def test_what_write_idx_refuses(tmp_path: Path, array, error, words: str):
    with pytest.raises(error, match=r"^write_idx: ") as caught:
        write_idx(tmp_path / "a", array)
    assert words in str(caught.value)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------------------- CSV


def csv_file(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "3,1,2\n4,5,6\n",
        "3,1,2\n4,5,6",
        "3,1,2\r\n4,5,6\r\n",
        "\ufeff3,1,2\n4,5,6\n",
        "\ufefflabel,a,b\r\n3,1,2\r\n4,5,6",
        "label,1x1,1x2\n3,1,2\n4,5,6\n",
        'label,"a, quoted",é\n3,1,2\n4,5,6\n',
        '"3","1","2"\n4,5,6\n',
        " 3,\t1,2\n4, 5,6 \n",
        "+3,1.,2e0\n4.0,.5e1,60E-1\n",
        zipped(b"3,1,2\n4,5,6\n"),
    ],
)
def test_csv_spellings(tmp_path: Path, content):
    x, t = read_csv(csv_file(tmp_path, content))
    assert identical(x, np.array([[1, 2], [5, 6]], "f4"))
    assert identical(t, np.array([3, 4]))


@pytest.mark.parametrize(
    ("arguments", "x", "t"),
    [
        ({"target": -1}, [[1, 2], [4, 5]], [3, 6]),
        ({"target": 1}, [[1, 3], [4, 6]], [2, 5]),
        ({"target": "b", "header": False}, None, "has no header"),
        ({"target": None}, [[1, 2, 3], [4, 5, 6]], None),
        ({"header": True}, [[5, 6]], [4]),
        ({"header": True, "target": "3"}, [[4, 5]], [6]),
        ({"header": True, "target": "7"}, None, "'1', '2', '3'"),
        ({"target": 3}, None, "3 columns"),
        ({"target": -4}, None, "3 columns"),
        ({"max_rows": 2}, [[2, 3], [5, 6]], [1, 4]),
        ({"max_rows": 1}, None, "max_rows=1"),
        ({"max_bytes": 11}, None, "max_bytes=11"),
        ({"max_bytes": 12}, [[2, 3], [5, 6]], [1, 4]),
        ({"delimiter": ";"}, None, "line 1, column 1: '1,2,3' is not a decimal number"),
        ({"dtype": "float64"}, [[2, 3], [5, 6]], [1, 4]),
    ],
)
def test_csv_arguments(tmp_path: Path, arguments: dict, x, t):
    path = csv_file(tmp_path, "1,2,3\n4,5,6\n")
    if x is None:
        arguments = {"header": False} | arguments
        with pytest.raises(FormatError, match=r"^read_csv: .*line \d+, column \d+: ") as caught:
            read_csv(path, **arguments)
        assert t in str(caught.value) or "only column" in str(caught.value)
    else:
        found_x, found_t = read_csv(path, **arguments)
        assert identical(found_x, np.array(x, arguments.get("dtype", "float32")))
        assert (found_t is None and t is None) or identical(found_t, np.array(t))


@pytest.mark.parametrize(
    "arguments",
    [{"dtype": "int64"}, {"header": 1}, {"delimiter": ",,"}, {"delimiter": "e"}, {"target": True}, {"target": 1.0}],
)
def test_csv_wrong_arguments(tmp_path: Path, arguments: dict):
    with pytest.raises(ValueError, match=rf"^read_csv: {next(iter(arguments))}="):
        read_csv(csv_file(tmp_path, "1,2,3\n"), **arguments)


def test_csv_targets(tmp_path: Path):
    for text, expected in (
        ("1,0\n2.0,0\n", np.array([1, 2])),
        ("-1,0\n2.5,0\n", np.array([-1, 2.5], "f4")),
        ("9007199254740992,0\n", np.array([2**53])),
        ("1e30,0\n", np.array([1e30], "f4")),
    ):
        assert identical(read_csv(csv_file(tmp_path, text), header=False)[1], expected)


def test_csv_of_many_blocks(tmp_path: Path):
    """Block limits fall anywhere within lines; whole numbers and others take different ways."""
    rng = np.random.default_rng(0)
    for values, form in ((rng.integers(0, 256, (3000, 60)), "%d"), (rng.normal(size=(1500, 30)), "%.17g")):
        path = tmp_path / "big.csv"
        np.savetxt(path, values, fmt=form, delimiter=",")
        assert path.stat().st_size > 2 * csv_table._BLOCK
        expected = np.loadtxt(path, delimiter=",")
        x, _ = read_csv(path, target=None, dtype="float64")
        assert identical(x, expected)
        assert identical(read_csv(path, target=None)[0], expected.astype("f4"))
        path.write_bytes(path.read_bytes() + b"1,x\n")
        with pytest.raises(FormatError, match=rf"line {len(values) + 1}, column 3: 2 fields"):
            read_csv(path)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.text("0123456789+-.eE", max_size=8), min_size=4, max_size=4))
def test_csv_fast_way_agrees_with_the_strict_grammar(fields: list[str]):
    """Whatever the fast way accepts, the exact way accepts with equal bits."""
    block = "{},{}\n{},{}\n".format(*fields).encode()
    layout = csv_table._Layout(2, b",", float(np.finfo("f8").max))
    fast = csv_table._parse_fast(block, layout)
    if fast is not None:
        assert identical(fast, csv_table._parse_exactly(block, 1, layout))


# ---------------------------------------------------------------------------------------------- safetensors data sets

IMAGES = np.arange(24, dtype="f4").reshape(3, 1, 2, 4)
ONE_HOT = np.eye(4, dtype="i8")[[2, 0, 3]]
FLAT = IMAGES.reshape(3, 8)


def tensors_file(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "set.safetensors"
    path.write_bytes(safetensors.numpy.save(arrays))
    return path


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("X", "y"), ("data", "target"), ("train_images", "train_labels"), ("x_test", "y_test")],
)
def test_tensors_found_by_name(tmp_path: Path, images: str, labels: str):
    x, t = read_safetensors(tensors_file(tmp_path, **{images: IMAGES, labels: ONE_HOT}))
    assert identical(x, FLAT)
    assert identical(t, np.array([2, 0, 3]))


@pytest.mark.parametrize(
    ("images", "x"),
    [
        (IMAGES.astype("f8"), FLAT.astype("f8")),
        (IMAGES.astype("u1"), FLAT.astype("u1")),
        (IMAGES.astype("f2"), FLAT),
    ],
)
def test_tensor_images(tmp_path: Path, images: np.ndarray, x: np.ndarray):
    assert identical(read_safetensors(tensors_file(tmp_path, x=images, y=ONE_HOT))[0], x)


@pytest.mark.parametrize(
    ("labels", "t"),
    [
        (np.array([1, 0, 7], "u1"), np.array([1, 0, 7])),
        (np.array([[1], [0], [7]], "i4"), np.array([1, 0, 7])),
        (np.array([True, False, True]), np.array([1, 0, 1])),
        (np.array([1.5, 0, 7]), np.array([1.5, 0, 7])),
        (np.array([1.5, 0, 7], "f2"), np.array([1.5, 0, 7], "f4")),
        (ONE_HOT.astype("f4"), np.array([2, 0, 3])),
        (ONE_HOT.astype("?"), np.array([2, 0, 3])),
        (ONE_HOT + 1, (ONE_HOT + 1).astype("f4")),
        (ONE_HOT * 0, (ONE_HOT * 0).astype("f4")),
        (np.array([[2**24, 1]] * 3, "i4"), np.array([[2**24, 1]] * 3, "f4")),
        (np.array([[2**24 + 1, 1]] * 3, "i4"), np.array([[2**24 + 1, 1]] * 3, "f8")),
        (np.array([[-(2**53), 2**53]] * 3, "i8"), np.array([[-(2**53), 2**53]] * 3, "f4")),
        (np.array([[-(2**53), 2**53 - 1]] * 3, "i8"), np.array([[-(2**53), 2**53 - 1]] * 3, "f8")),
        (
            np.array([[2**24 + 1, 2**64 - 1 - 2**24]] * 3, "u8") & (2**53 - 1),
            np.array([[2**24 + 1, 2**53 - 1 - 2**24]] * 3, "f8"),
        ),
        (np.full((3, 4), 0.25), np.full((3, 4), 0.25)),
        (np.ones((3, 1), "f4"), np.ones((3, 1), "f4")),
    ],
)
def test_tensor_labels(tmp_path: Path, labels: np.ndarray, t: np.ndarray):
    assert identical(read_safetensors(tensors_file(tmp_path, x=IMAGES, y=labels))[1], t)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
@pytest.mark.parametrize("reader", [read_idx, read_csv])
def test_a_pipe_is_refused(tmp_path: Path, reader):
    """Its size says nothing, and it cannot be read twice."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)  # so that the reader has somebody to wait for
    try:
        with pytest.raises(OSError, match="a pipe, not a regular file") as caught:
            reader(path)
    finally:
        os.close(descriptor)
    assert (type(caught.value), caught.value.filename) == (OSError, str(path))


def test_tensors_of_two_splits(tmp_path: Path):
    path = tensors_file(
        tmp_path, train_images=IMAGES, train_labels=ONE_HOT, test_images=-IMAGES[:2], test_labels=ONE_HOT[1:]
    )
    with pytest.raises(FormatError, match="more than one pair") as caught:
        read_safetensors(path)
    assert all(name in str(caught.value) for name in ("train_images", "train_labels", "test_images", "test_labels"))
    for arguments in ({"images": "test_images"}, {"labels": "test_labels"}):
        x, t = read_safetensors(path, **arguments)
        assert identical(x, -FLAT[:2])
        assert identical(t, np.array([0, 3]))
    x, t = read_safetensors(path, images="train_images", labels="train_labels")
    assert identical(x, FLAT)
    assert identical(t, np.array([2, 0, 3]))


@pytest.mark.parametrize(
    ("arrays", "arguments", "words"),
    [
        ({"weight": IMAGES}, {}, "no pair"),
        ({"images": IMAGES}, {}, "no pair"),
        ({"images": IMAGES, "x": IMAGES, "labels": ONE_HOT}, {}, "more than one pair"),
        ({"images": IMAGES, "labels": ONE_HOT}, {"images": "pixels"}, "no tensor 'pixels'"),
        ({"images": IMAGES, "labels": ONE_HOT[:2]}, {}, "shape (2, 4), expected (3,)"),
        ({"images": IMAGES, "labels": np.ones((3, 2, 2))}, {}, "shape (3, 2, 2)"),
        ({"images": IMAGES.astype("i8"), "labels": ONE_HOT}, {}, "int64"),
        ({"images": IMAGES.reshape(-1), "labels": np.zeros(24, "i8")}, {}, "expected images (n, ...)"),
        ({"images": IMAGES[:0], "labels": ONE_HOT[:0]}, {}, "expected images (n, ...)"),
        ({"images": IMAGES, "labels": np.full(3, 2**63, "u8")}, {}, "int64"),
        ({"x": IMAGES, "y": np.array([[1, 2], [1, 2], [2**53 + 1, 2]])}, {}, "9007199254740993 in row 2, column 0"),
        ({"x": IMAGES, "y": np.array([[1, 2], [1, -(2**63)], [3, 2]])}, {}, "-9223372036854775808 in row 1, column 1"),
    ],
)
def test_tensors_refused(tmp_path: Path, arrays: dict, arguments: dict, words: str):
    with pytest.raises(FormatError, match=r"^read_safetensors: ") as caught:
        read_safetensors(tensors_file(tmp_path, **arrays), **arguments)
    assert words in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- digits


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits as reference

    x, t = reference(return_X_y=True)
    x_train, t_train, x_test, t_test = load_digits()
    assert identical(np.concatenate([x_train, x_test]), (x / 16).astype("f4"))
    assert identical(np.concatenate([t_train, t_test]), t.astype("i8"))
    assert len(x_train) == len(t_train) == 1437


def test_digits_script_writes_the_same_arrays(tmp_path: Path):
    data = Path(__file__).resolve().parents[1] / "data"
    (tmp_path / "make_digits.py").write_bytes((data / "make_digits.py").read_bytes())
    subprocess.run([sys.executable, "make_digits.py"], cwd=tmp_path, check=True)
    for path in (data / "digits").iterdir():
        assert identical(read_idx(tmp_path / "digits" / path.name), read_idx(path))


# ----------------------------------------------------------------------------------------------------------- MNIST


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files in the place of MNIST's, as the mirrors would send them."""
    monkeypatch.delenv("PORTNN_DATA", raising=False)
    files, hashes = {}, {}
    for name in mnist.SHA256:
        n = 5 if name.startswith("train") else 3
        shape = (n, 28, 28) if "images" in name else (n,)
        array = np.arange(np.prod(shape)).reshape(shape).astype("u1")
        content = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + array.tobytes()
        files[name] = zipped(content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(mnist, "SHA256", hashes)
    return files


class FakeMirrors:
    """Stands for pooch's downloader; ``answers`` maps the start of an address to bytes or an error."""

    def __init__(self, files: dict[str, bytes], answers: dict[str, bytes | Exception]):
        self.files, self.answers, self.asked = files, answers, []

    def __call__(self, url: str, output, pooch: None) -> None:
        self.asked.append(url)
        mirror, name = url.rsplit("/", 1)
        answer = self.answers.get(mirror + "/", self.files[name.removesuffix(".gz")])
        if isinstance(answer, Exception):
            output.write(b"\x1f\x8b partial")
            raise answer
        for start in range(0, len(answer), 1000):
            output.write(answer[start : start + 1000])


@pytest.fixture
def mirrors(tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> FakeMirrors:
    fake = FakeMirrors(tiny, {})
    monkeypatch.setattr(mnist, "_downloader", lambda folder: fake)
    return fake


def check_tiny(arrays: tuple[np.ndarray, ...]) -> None:
    x_train, t_train, x_test, t_test = arrays
    assert identical(t_train, np.arange(5))
    assert identical(t_test, np.arange(3))
    for x, n in ((x_train, 5), (x_test, 3)):
        pixels = np.arange(784 * n).reshape(n, 784) % 256
        assert identical(x, (pixels / 255).astype("f4"))


@pytest.mark.parametrize("subfolder", ["mnist", "."])
@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_on_the_disk(tmp_path: Path, tiny, monkeypatch, subfolder: str, spelling: str, suffix: str):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    for name, content in tiny.items():
        path = tmp_path / subfolder / (name.replace("-idx", spelling) + suffix)
        path.write_bytes(content if suffix else gzip.decompress(content))
    check_tiny(load_mnist(tmp_path, download=False))
    monkeypatch.setenv("PORTNN_DATA", str(tmp_path))
    check_tiny(load_mnist(download=False))
    x_train, t_train, _, _ = load_mnist(download=False, raw=True)
    assert (x_train.dtype, x_train.shape, t_train.dtype) == (np.uint8, (5, 28, 28), np.uint8)


def test_mnist_is_downloaded_once(tmp_path: Path, mirrors: FakeMirrors):
    check_tiny(load_mnist(tmp_path / "new"))
    assert mirrors.asked == [f"{mnist.MIRRORS[0]}{name}.gz" for name in mnist.SHA256]
    assert sorted(os.listdir(tmp_path / "new" / "mnist")) == sorted(f"{name}.gz" for name in mnist.SHA256)
    check_tiny(load_mnist(tmp_path / "new"))
    (tmp_path / "new" / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    check_tiny(load_mnist(tmp_path / "new"))
    assert len(mirrors.asked) == 5


@pytest.mark.parametrize(
    "answer",
    [
        ConnectionError("refused"),
        TimeoutError("slow"),
        b"<html>moved</html>",
        b"",
        zipped(b"\0\0\x08\1\0\0\0\0"),
    ],
    ids=["refused", "slow", "page", "empty", "other"],
)
def test_second_mirror_helps_out(tmp_path: Path, mirrors: FakeMirrors, answer):
    mirrors.answers = {mnist.MIRRORS[0]: answer}
    check_tiny(load_mnist(tmp_path))
    assert len(mirrors.asked) == 8


def test_no_network(tmp_path: Path, mirrors: FakeMirrors):
    mirrors.answers = dict.fromkeys(mnist.MIRRORS, ConnectionError("Max retries\nexceeded " * 100))
    with pytest.raises(ConnectionError, match=r"^load_mnist: no mirror has delivered train-images") as caught:
        load_mnist(tmp_path)
    message = str(caught.value)
    assert "PORTNN_DATA" in message
    assert "ubyte.gz" in message
    assert len(message) < 500
    assert "\n" not in message
    assert len(mirrors.asked) == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", ["sha256", "looks like an HTML page", "more than 16777216 bytes"])
def test_wrong_download(tmp_path: Path, mirrors: FakeMirrors, words: str):
    wrong = {
        "sha256": zipped(b"\0\0\x08\1\0\0\0\2ab"),
        "looks like an HTML page": b"<!DOCTYPE html>",
        "more than 16777216 bytes": bytes((16 << 20) + 1),
    }[words]
    mirrors.answers = dict.fromkeys(mnist.MIRRORS, wrong)
    with pytest.raises(FormatError, match=words) as caught:
        load_mnist(tmp_path)
    assert mnist.MIRRORS[0] in str(caught.value) or mnist.MIRRORS[1] in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_interrupted_download_leaves_nothing(tmp_path: Path, mirrors: FakeMirrors, monkeypatch):
    def interrupted(url: str, output, pooch: None) -> None:
        output.write(b"\x1f\x8b")
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist, "_downloader", lambda folder: interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_mnist(tmp_path)
    assert os.listdir(tmp_path) == []


def test_wrong_file_on_the_disk(tmp_path: Path, tiny: dict[str, bytes]):
    for name, content in tiny.items():
        (tmp_path / f"{name}.gz").write_bytes(content)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    write_idx(labels, np.array([0, 1, 2, 3, 5], "u1"))
    found = hashlib.sha256(gzip.decompress(labels.read_bytes())).hexdigest()
    with pytest.raises(FormatError, match="train-labels-idx1-ubyte") as caught:
        load_mnist(tmp_path)
    assert found in str(caught.value)
    assert mnist.SHA256["train-labels-idx1-ubyte"] in str(caught.value)


def test_missing_files_are_named(tmp_path: Path, tiny: dict[str, bytes]):
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(tiny["train-labels-idx1-ubyte"])
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte, t10k-images.*PORTNN_DATA"):
        load_mnist(tmp_path, download=False)


def test_without_pooch(tmp_path: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match="needs pooch: pip install pooch; or"):
        load_mnist(tmp_path)
    monkeypatch.setattr(mnist, "__file__", str(tmp_path / "site-packages" / "portnn" / "datasets" / "mnist.py"))
    assert mnist._default_folder() == Path.home() / ".cache" / "portnn"


def test_pooch_is_called_as_it_expects(tmp_path: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    """The real pooch downloader over a fake requests.get: no network, but pooch's own code."""
    requests = pytest.importorskip("requests")
    pytest.importorskip("pooch")

    class Response:
        def __init__(self, content: bytes):
            self.content, self.headers = content, {"content-length": str(len(content))}

        def raise_for_status(self) -> None:
            pass

        def iter_content(self, chunk_size: int):
            return (self.content[i : i + chunk_size] for i in range(0, len(self.content), chunk_size))

    asked = []

    def get(url: str, timeout: tuple[int, int], stream: bool, allow_redirects: bool) -> Response:
        asked.append((url, timeout, stream and not allow_redirects))
        if url.startswith(mnist.MIRRORS[0]):
            raise requests.exceptions.ConnectTimeout
        return Response(tiny[url.rsplit("/", 1)[1].removesuffix(".gz")])

    monkeypatch.setattr(requests, "get", get)
    check_tiny(load_mnist(tmp_path))
    assert len(asked) == 8
    assert all(url.startswith("https://") and timeout == (5, 30) and stream for url, timeout, stream in asked)


def test_default_folder_is_the_checkouts():
    checkout = Path(mnist.__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").exists():
        pytest.skip("portnn runs from an installed wheel, there is no checkout")
    assert mnist._default_folder() == checkout / "data"


def test_real_mnist():
    if not os.environ.get("PORTNN_DATA"):
        pytest.skip("PORTNN_DATA names no folder with MNIST")
    try:
        load_mnist(download=False, raw=True)
    except FileNotFoundError:
        pytest.skip("there is no MNIST in PORTNN_DATA")
    tracemalloc.start()
    arrays = load_mnist(download=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * sum(array.nbytes for array in arrays)
    x_train, t_train, x_test, t_test = arrays
    assert [a.shape for a in arrays] == [(60000, 784), (60000,), (10000, 784), (10000,)]
    assert t_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(t_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert x_train.min() == x_test.min() == 0
    assert x_train.max() == x_test.max() == 1


def test_pair_must_belong_together(tmp_path: Path):
    write_idx(tmp_path / "images", np.zeros((3, 2, 2), "u1"))
    for labels in (np.zeros(2, "u1"), np.zeros((3, 1), "u1"), np.zeros(3, "f4")):
        write_idx(tmp_path / "labels", labels)
        with pytest.raises(FormatError, match=r"^read_idx_pair: .*labels.*expected 3 integers"):
            read_idx_pair(tmp_path / "images", tmp_path / "labels")
