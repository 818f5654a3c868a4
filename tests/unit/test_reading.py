"""How a small file comes into memory, whatever happens to it meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.backup.engine.big import BIG_FILE
from workers.backup.engine.reading import read_whole

CONTENT = bytes(range(256)) * 16


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """An open file that holds CONTENT."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("stated", [0, 1, len(CONTENT) - 1, len(CONTENT), len(CONTENT) + 1, 3 * len(CONTENT)])
@pytest.mark.parametrize("room", [0, 1, len(CONTENT) - 1, len(CONTENT), len(CONTENT) + 1, 4 * len(CONTENT)])
def test_a_file_is_read_to_its_end_whatever_size_was_stated(fd: int, stated: int, room: int) -> None:
    """It may have grown or shrunk since it was looked at, and may fit the memory that is there or not."""
    data = read_whole(fd, stated, memoryview(bytearray(room)))
    assert data is not None
    assert bytes(data) == CONTENT


def test_a_file_that_fits_lies_in_the_memory_that_was_given(fd: int) -> None:
    """Memory of its own for each file would be the dearest part of a backup of small files."""
    memory = bytearray(2 * len(CONTENT))
    data = read_whole(fd, len(CONTENT), memoryview(memory))
    assert isinstance(data, memoryview)
    assert data.obj is memory


@pytest.mark.parametrize("stated", [BIG_FILE, 10])
def test_a_big_file_is_not_held_in_memory(tmp_path: Path, stated: int) -> None:
    """Whether it was big when it was looked at, or has become so."""
    path = tmp_path / "big"
    with open(path, "wb") as file:
        file.truncate(BIG_FILE + 1)
    big = os.open(path, os.O_RDONLY)
    assert read_whole(big, stated, memoryview(bytearray(100))) is None
    os.close(big)
