"""Rows of ``test_bad_inputs.py``: files that are not what they should be, and places that cannot be written to.

They have nothing to do with the array library, and run once.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hostile import (
    BAD_CSV,
    BAD_ENTRIES,
    BAD_GZIP,
    BAD_HEADERS,
    BAD_IDX,
    BAD_JSON,
    BAD_OFFSETS,
    CSV,
    FOREIGN,
    IDX,
    POLYGLOTS,
    idx,
    tensors,
    zipped,
)
from rows_core import Attempt, Case, Row

import portnn
from portnn import MLP, SGD, Adam, FormatError
from portnn.datasets import read_columns, read_csv, read_idx, read_idx_pair, read_safetensors, write_idx
from portnn.files import atomic_write
from portnn.storage import read_safetensors_file, read_safetensors_header, write_safetensors_file

Reader = Callable[..., Any]


TRAINING = {"epochs": 1, "batch_size": 6, "progress": False}


class Loader(NamedTuple):
    """What writes a model to a file, what reads it, and under which key of the metadata the format stands."""

    write: Callable[[MLP, Path], Any]
    read: Callable[[Path], Any]
    key: str = "portnn"


def _checkpoint(model: MLP, path: Path) -> None:
    x, t = np.ones((6, model.sizes[0])), np.zeros(6, dtype="int64")
    portnn.fit(model, x, t, **TRAINING, checkpoint=path.parent / "run")
    (written,) = (path.parent / "run").iterdir()
    written.rename(path)


LOADERS = {
    "MLP.load": Loader(lambda model, path: model.save(path), MLP.load),
    "load_checkpoint": Loader(_checkpoint, portnn.load_checkpoint, "checkpoint"),
}


def once(library: Any) -> bool:
    return library.name == "numpy"


def refused(number: str, readers: tuple[Reader, ...], content: Any, words: str | None) -> Row:
    """A file with this content (or what a function makes, of the path of a canary) is refused by each reader."""

    def attempts(case: Case) -> Iterator[Attempt]:
        canary = case.folder / "canary"
        (case.folder / "file").write_bytes(content(canary) if callable(content) else content)
        for reader in readers:

            def call(reader: Reader = reader) -> None:
                with pytest.raises(FormatError) as caught:
                    reader(case.folder / "file")
                names = (reader.__qualname__, "read_safetensors_file", "read_safetensors_header")
                assert str(caught.value).startswith(tuple(f"{name}: " for name in names)), str(caught.value)
                raise caught.value

            yield {}, call
            assert not canary.exists(), "something in the file was executed"

    return Row(number, attempts, FormatError, re.escape(words or "file"), once)


def fails(number: str, error: type[Exception], words: str, attempts: Callable[[Case], Iterator[Attempt]]) -> Row:
    return Row(number, attempts, error, words, once, derived=error is OSError)


def works(number: str, check: Callable[[Case], None]) -> Row:
    return Row(number, lambda case: iter([({}, partial(check, case))]), None, "", once)


TENSORS = (read_safetensors_file, read_safetensors_header, read_safetensors, MLP.load)
HEADERS = [
    *(refused(f"61 {name}", TENSORS, content, "header") for name, content in BAD_HEADERS.items()),
    *(refused(f"62 {name}", TENSORS, tensors(text), words) for name, (text, words) in BAD_JSON.items()),
    *(
        refused(f"63 {name}", TENSORS, tensors(header, bytes(size)), words)
        for name, (header, size, words) in BAD_OFFSETS.items()
    ),
    *(
        refused(f"64 {name}", TENSORS, tensors(header, b"" if "half" in name else bytes(24)), words)
        for name, (header, words) in BAD_ENTRIES.items()
    ),
    *(
        refused(f"64 {name}", TENSORS, content, words)
        for name, content, words in ((f"polyglot: {name}", *both) for name, both in POLYGLOTS.items())
    ),
]

# -- models -----------------------------------------------------------------------------------------------------------


def spoiled(number: str, loader: str, spoil: Callable[[Path, str], None], words: str) -> Row:
    """A model is saved, the file is spoiled, and the loader refuses it."""

    def attempts(case: Case) -> Iterator[Attempt]:
        write, read, key = LOADERS[loader]
        path = case.folder / "model.safetensors"
        write(MLP([4, 3, 2], seed=1), path)
        read(path)
        spoil(path, key)
        yield {}, partial(read, path)

    return Row(f"{number}, {loader}", attempts, FormatError, words, once)


def reconfigured(**changes: Any) -> Callable[[Path, str], None]:
    def spoil(path: Path, key: str) -> None:
        arrays, metadata = read_safetensors_file(path)
        config = {**json.loads(metadata[key]), **changes}
        write_safetensors_file(path, arrays, {**metadata, key: json.dumps(config)})

    return spoil


def with_flipped_bit(path: Path, key: str, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1  # of the lowest byte of a mantissa: a number like any other
    path.write_bytes(content)


def resumed(**other: Any) -> Callable[[Case], Iterator[Attempt]]:
    """A training goes on with the network and the optimizer that it began with: moments are not velocities."""

    def attempts(case: Case) -> Iterator[Attempt]:
        folder = case.folder / "run"
        options = {**TRAINING, "optimizer": Adam(0.1), "checkpoint": folder}
        x, t = np.ones((6, 4)), np.zeros(6, dtype="int64")
        portnn.fit(MLP([4, 3, 2]), x, t, **options)
        model = MLP(other.get("sizes", [4, 3, 2]))
        more = {name: value for name, value in other.items() if name != "sizes"}
        before = model.params.copy()
        yield {}, partial(portnn.fit, model, x, t, **{**options, "epochs": 2, "resume": True, **more})
        assert (model.params == before).all()

    return attempts


def _other_optimizer(case: Case) -> Iterator[Attempt]:
    """The same of a training that goes on in memory."""
    history = portnn.fit(case.model, case.x, case.t, optimizer=Adam(0.1), **TRAINING)
    before = history.to_dict(), history.reached
    other = {"optimizer": SGD(0.1, momentum=0.9), "resume": history}
    yield {}, partial(portnn.fit, case.model, case.x, case.t, **TRAINING, **other)
    assert (history.to_dict(), history.reached) == before


MODELS = [
    *(
        spoiled(f"65 {what}", loader, spoil, words)
        for loader in LOADERS
        for what, spoil, words in (
            ("a newer format", reconfigured(format=5), r"format 5 > [24]; update portnn"),
            ("a bit flipped", partial(with_flipped_bit, place=-4), "sha256 mismatch"),
            (
                "a bit flipped at the start",
                partial(with_flipped_bit, place=-4 * 23),
                "sha256 mismatch",
            ),
        )
    ),
    spoiled(
        "65 another architecture",
        "MLP.load",
        reconfigured(sizes=[5, 3, 2]),
        r"'layers.0.weight' is float32 \(4, 3\), the configuration says float32 \(5, 3\)",
    ),
    Row(
        "65 another architecture, fit",
        resumed(sizes=[4, 5, 2]),
        FormatError,
        r"sizes=\[4, 3, 2\], this one has sizes=\[4, 5, 2\]",
        once,
    ),
    Row(
        "65 another optimizer, fit",
        resumed(optimizer=SGD(0.1, momentum=0.9)),
        FormatError,
        r"optimizer=Adam\(.*\), .* optimizer=SGD\(",
        once,
    ),
    fails(
        "65 another optimizer",
        ValueError,
        r"resume is of another optimizer or model: it kept \{.*\}, this one has \{",
        _other_optimizer,
    ),
    *(
        refused(
            f"66 {name}",
            (
                read_safetensors_file,
                read_safetensors_header,
                read_idx,
                read_csv,
                read_columns,
                *(loader.read for loader in LOADERS.values()),
            ),
            content,
            f"looks like {name.split(',')[0]}",
        )
        for name, content in FOREIGN.items()
    ),
]

# -- data -------------------------------------------------------------------------------------------------------------


def _bomb(case: Case) -> Iterator[Attempt]:
    """64 MiB in 65 kB, of which the header declares 1000 bytes: no more than that is inflated."""
    (case.folder / "file").write_bytes(zipped(IDX[:8] + bytes(64 << 20), 9))
    assert (case.folder / "file").stat().st_size < 66_000
    produced: list[int] = []
    from portnn.datasets import gzipped

    with pytest.MonkeyPatch.context() as patch:
        inflate = gzipped._Gzip.readinto

        def counted(self: Any, buffer: Any) -> int:
            produced.append(inflate(self, buffer))
            return produced[-1]

        patch.setattr(gzipped._Gzip, "readinto", counted)
        yield {}, partial(read_idx, case.folder / "file")
    assert 0 < sum(produced) <= 1 << 20


def _pair(case: Case) -> Iterator[Attempt]:
    (case.folder / "images").write_bytes(idx(0x08, 2, 1, 1, data=b"ab"))
    for labels in (idx(0x08, 3, data=b"abc"), idx(0x08, 2, 1, data=b"ab"), idx(0x0D, 2, data=bytes(8))):
        (case.folder / "labels").write_bytes(labels)
        yield {}, partial(read_idx_pair, case.folder / "images", case.folder / "labels")


GOOD_CSV = {
    "BOM": b"\xef\xbb\xbflabel,a,b\n1,2,3\n4,5,6\n",
    "CRLF": b"label,a,b\r\n1,2,3\r\n4,5,6\r\n",
    "no trailing newline": b"label,a,b\n1,2,3\n4,5,6",
    "all three": b"\xef\xbb\xbflabel,a,b\r\n1,2,3\r\n4,5,6",
}


def _readable(case: Case, content: bytes) -> None:
    (case.folder / "file").write_bytes(content)
    x, t = read_csv(case.folder / "file")
    assert (x.tolist(), t.tolist()) == ([[2, 3], [5, 6]], [1, 4])
    table = read_columns(case.folder / "file")
    assert [column.name for column in table.columns] == ["label", "a", "b"]
    assert table.values.tolist() == [[1, 2, 3], [4, 5, 6]]


# read_columns takes texts, so that a field which is no number is wrong only where there are others that are
TEXTS = {"one column", "text", "blank field", "# within a line", "# line", "nan first", "all nan first", "1e39"}
NAMED = b"u,v,w\n"
DATA = [
    *(
        refused(f"67 {name}, {reader.__name__}", (reader,), spoil(content), words)
        for reader, content in ((read_idx, IDX), (read_csv, CSV))
        for name, (spoil, words) in BAD_GZIP.items()
    ),
    *(refused(f"67 nothing at all, {reader.__name__}", (reader,), b"", None) for reader in (read_idx, read_csv)),
    fails("67 bomb", FormatError, "there are bytes beyond offset 1008", _bomb),
    *(refused(f"68 {name}", (read_idx,), content, words) for name, (content, words) in BAD_IDX.items()),
    *(refused(f"68 {name}, gzip", (read_idx,), zipped(content), None) for name, (content, _) in BAD_IDX.items()),
    fails("68 labels and images differ", FormatError, r"labels of shape .* for images of shape \(2, 1, 1\)", _pair),
    *(refused(f"69 {name}", (read_csv,), content, words) for name, (content, words) in BAD_CSV.items()),
    *(
        refused(f"69 columns: {name}", (read_columns,), NAMED + content, "line ")
        for name, (content, _) in BAD_CSV.items()
        if content.startswith(b"1,2,3\n") and name not in TEXTS
    ),
    *(works(f"69 {name}", partial(_readable, content=content)) for name, content in GOOD_CSV.items()),
]

# -- paths ------------------------------------------------------------------------------------------------------------

ONE = np.ones((2, 2), "float32")
READERS = (read_safetensors_file, read_safetensors, read_idx, read_csv, read_columns, MLP.load)


def writers(model: MLP) -> tuple[Callable[[Path], Any], ...]:
    return (
        model.save,
        lambda path: write_safetensors_file(path, {"w": ONE}),
        lambda path: write_idx(path, ONE),
        lambda path: atomic_write(path, [b"x"]),
    )


def paths(
    number: str,
    error: type[Exception],
    words: str,
    place: Callable[[Path], Path],
    *,
    patch: Any = None,
    reads: bool = True,
) -> Row:
    """Every reader and every writer, given a path; ``patch`` is (module, name, what a system call says instead)."""

    def attempts(case: Case) -> Iterator[Attempt]:
        (case.folder / "old").write_bytes(b"old")
        (case.folder / "loop").symlink_to("loop")
        path = place(case.folder)
        for call in (*(READERS if reads else ()), *writers(case.model)):

            def tried(call: Callable[[Path], Any] = call) -> None:
                with pytest.MonkeyPatch.context() as patched:
                    if patch is not None:
                        patched.setattr(*patch)
                    call(path)

            yield {}, tried
        assert (case.folder / "old").read_bytes() == b"old"
        assert not list(case.folder.glob(".portnn-*"))

    return fails(number, error, words, attempts)


def _saying(code: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def _output_is_input(case: Case) -> None:
    path = case.folder / "model.safetensors"
    case.model.save(path)
    before = path.read_bytes()
    MLP.load(path).save(path)
    assert path.read_bytes() == before
    write_idx(case.folder / "a.gz", ONE)
    write_idx(case.folder / "a.gz", read_idx(case.folder / "a.gz") + 1)
    assert read_idx(case.folder / "a.gz").tolist() == [[2, 2], [2, 2]]
    assert sorted(p.name for p in case.folder.iterdir()) == ["a.gz", "model.safetensors"]


def _not_allowed(case: Case) -> Iterator[Attempt]:
    """A mode would not stop the superuser, so the system is made to say no."""
    (case.folder / "old").write_bytes(b"old")
    for reader in READERS:
        yield (
            {},
            functools.partial(_forbidden, partial(reader, case.folder / "old"), "builtins.open", _saying(errno.EACCES)),
        )
    for write in writers(case.model):
        yield {}, functools.partial(_forbidden, partial(write, case.folder / "old"), "os.access", lambda *_: False)
    assert (case.folder / "old").read_bytes() == b"old"


def _forbidden(call: Callable[[], Any], name: str, answer: Any) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(name, answer)
        call()


PATHS = [
    paths("70 missing", FileNotFoundError, "missing", lambda folder: folder / "missing" / "file"),
    paths("70 directory", IsADirectoryError, "directory", lambda folder: folder),
    fails("70 no permission", PermissionError, "ermi", _not_allowed),
    paths("70 symlink loop", OSError, "loop", lambda folder: folder / "loop"),
    *(
        paths(
            f"70 {name}",
            OSError,
            f"{words}.*old",
            lambda folder: folder / "old",
            patch=("os.fsync", _saying(code)),
            reads=False,
        )
        for name, words, code in (
            ("disk full", "No space left on device", errno.ENOSPC),
            ("too large for the file system", "File too large", errno.EFBIG),
        )
    ),
    works("70 output = input", _output_is_input),
]

ROWS = [*HEADERS, *MODELS, *DATA, *PATHS]
