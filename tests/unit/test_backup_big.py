"""How far a big file is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from shared.repository.crypto import MasterKey
from workers.backup.engine import big
from workers.backup.engine.big import WINDOW, BigFileReader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of a window and a bit."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(WINDOW + 5))
    return path


def read(path: Path, grew: Callable[[int], None]) -> tuple[list[bytes], int]:
    """Read it with a reader for which no blob is new."""
    reader = BigFileReader(MasterKey.from_bytes(b"k" * 64), MagicMock(), 0, ask=lambda ids: bytes(len(ids)), threads=1)
    fd = os.open(path, os.O_RDONLY)
    try:
        return reader.read(fd, grew)
    finally:
        os.close(fd)


def test_a_file_is_read_to_its_end(file: Path) -> None:
    """Every byte is in a blob, in order, and progress adds up to its size."""
    told: list[int] = []
    content, size = read(file, told.append)
    assert (size, sum(told), len(content) > 1) == (WINDOW + 5, WINDOW + 5, True)


def test_a_file_that_grows_faster_than_it_is_read_ends(file: Path) -> None:
    """What it held at first is read, and a window more: the reading does not go on as long as the writing."""
    first = os.path.getsize(file)
    steps: list[int] = []

    def grow(more: int) -> None:
        steps.append(more)
        assert len(steps) < 10, "it goes on"
        with file.open("ab") as out:
            out.write(os.urandom(2 * WINDOW))

    content, size = read(file, grow)
    assert first < size <= first + WINDOW
    with file.open("rb") as now:
        held = now.read(size)
    whole = file.with_name("whole")
    whole.write_bytes(held)
    assert read(whole, lambda _: None) == (content, size)


def test_a_file_without_a_true_size_is_read_to_its_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems tell 0 for what they make up as it is read."""
    monkeypatch.setattr(os, "fstat", lambda _: SimpleNamespace(st_size=0))
    assert read(file, lambda _: None)[1] == WINDOW + 5


def test_a_file_without_an_end_is_an_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not grow, and yet there is always more: it can't be backed up, and must not hold up the rest."""
    monkeypatch.setattr(big, "UNTOLD", WINDOW)
    with file.open("ab") as out:
        out.truncate(4 * WINDOW)
    monkeypatch.setattr(os, "fstat", lambda _: SimpleNamespace(st_size=0))
    with pytest.raises(OSError, match="it goes on for more than 0 GiB beyond its size"):
        read(file, lambda _: None)
