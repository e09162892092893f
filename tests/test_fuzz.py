"""2,000 damaged files, and that the fuzzer would notice what it is there for; ``nox -s fuzz`` runs 100,000."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fuzz
import pytest

import portnn


@pytest.mark.parametrize("name", fuzz.READERS)
def test_mutants_are_refused_or_read_as_others_read_them(name: str) -> None:
    report = fuzz.run([name], 2000 // len(fuzz.READERS))[name]
    assert not report.wrong, report.first
    assert report.mutants == 200
    assert report.refused > 40
    assert report.read > 10 or name == "mnist"


@pytest.mark.parametrize("name", fuzz.READERS)
def test_what_is_not_damaged_is_read(tmp_path: Path, name: str) -> None:
    if name == "mnist":
        return  # which knows its own files by their SHA-256
    reader = fuzz.READERS[name]
    for content in (*reader.seeds, fuzz.large(name)):
        (tmp_path / "file").write_bytes(content)
        reader.agrees(content, reader.read(tmp_path / "file"))


def broken(kind: str) -> Any:
    """A reader of IDX files with a fault."""
    kept = []

    def read(path: Path) -> Any:
        content = path.read_bytes()
        if kind == "UnicodeDecodeError":
            content.decode()
        if kind == "too much memory":
            kept[:] = [bytes(20 << 20)]
        if kind == "a message that says no place":
            raise portnn.FormatError("no")  # noqa: EM101
        if kind == "a message that is too long":
            raise portnn.FormatError("byte 1 " * 100)
        a = fuzz.read_idx(path)
        return a + 1 if kind == "Disagreement" else a

    return read


@pytest.mark.parametrize(
    "kind",
    [
        "UnicodeDecodeError",
        "too much memory",
        "a message that says no place",
        "a message that is too long",
        "Disagreement",
    ],
)
def test_a_fault_is_noticed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(fuzz.READERS, "idx", fuzz.READERS["idx"]._replace(read=broken(kind)))
    report = fuzz.run(["idx"], 60)["idx"]
    assert report.wrong[kind] > 5, report
    assert kind in report.first


def test_mutants_are_always_the_same() -> None:
    assert fuzz.mutant_of("idx", 7) == fuzz.mutant_of("idx", 7)
    assert len({fuzz.mutant_of("csv", k) for k in range(200)}) > 150
    assert len(fuzz.large("idx")) > 2**20
    assert len(fuzz.mutant_of("idx.gz", fuzz.EVERY - 1)) > len(fuzz.mutant_of("idx.gz", 0))
