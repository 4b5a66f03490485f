"""The folder of files that may go at any time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hesse._base import saved_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "deep" / "files"
    monkeypatch.setenv(saved_files.VARIABLE, str(place))
    return place


def test_the_least_recently_used_file_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_files, "MOST_BYTES", 30)
    for number, name in enumerate(("a.x", "b.x", "c.x")):
        saved_files.write(name, bytes(10))
        os.utime(folder / name, (number, number))
    assert saved_files.read("a.x") == bytes(10)
    saved_files.write("d.x", bytes(10))
    assert sorted(path.name for path in folder.iterdir()) == ["a.x", "c.x", "d.x"]
    assert saved_files.read("b.x") is None
    (folder / "of.another").write_bytes(bytes(100))
    assert saved_files.clear(".x") == 3
    assert [path.name for path in folder.iterdir()] == ["of.another"]


def test_writers_at_once_leave_one_whole_file(folder: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: saved_files.write("a.x", content), contents))
    assert saved_files.read("a.x") in contents
    assert [path.name for path in folder.iterdir()] == ["a.x"]


def test_a_folder_that_cannot_be_written_holds_nothing(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_bytes(b"a file")
    saved_files.write("a.x", b"content")
    assert saved_files.read("a.x") is None
    assert saved_files.clear(".x") == 0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files")
def test_a_folder_that_others_can_write_is_not_read(folder: Path) -> None:
    saved_files.write("a.x", b"content")
    assert saved_files.read("a.x") == b"content"
    folder.chmod(0o777)
    assert saved_files.read("a.x") is None
