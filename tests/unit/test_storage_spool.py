"""What waits to be sent: in a file without a name, in memory where there is none."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shared.storage import Permanent
from shared.storage.spool import Spool


def read(spool: Spool) -> bytes:
    """All of it."""
    return b"".join(bytes(piece) for piece in spool.pieces())


@pytest.mark.parametrize("size", [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 1_000_000])
def test_it_is_read_from_its_start_each_time(tmp_path: Path, size: int) -> None:
    """As often as a request is tried again, also when the try before broke off; its file has no name."""
    data = os.urandom(size)
    spool = Spool(str(tmp_path / "made"))
    spool.write(data[:1000])
    spool.write(data[1000:])
    assert (spool.size, os.listdir(tmp_path / "made")) == (size, [])
    next(spool.pieces(), None)
    assert (read(spool), read(spool)) == (data, data)
    spool.close()
    spool.close()


def test_where_no_file_without_a_name_can_be_made_its_name_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and older overlays have no O_TMPFILE."""
    real = os.open

    def opening(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", opening)
    spool = Spool(str(tmp_path))
    assert os.readlink(f"/proc/self/fd/{spool._fd}").startswith(f"{tmp_path}/.holdfast-tmp-")
    spool.write(b"data")
    assert (read(spool), os.listdir(tmp_path)) == (b"data", [])
    spool.close()


@pytest.mark.parametrize("directory", ["", "/proc/none/such"])
def test_without_a_directory_it_is_in_memory(directory: str) -> None:
    """A cache that can't be written to costs memory, and not the backup."""
    spool = Spool(directory)
    assert "memfd:" in os.readlink(f"/proc/self/fd/{spool._fd}")
    spool.write(b"data")
    assert read(spool) == b"data"
    spool.close()


def test_a_full_disk_moves_it_to_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before comes along; where memory is full too, that is an error."""
    before = len(os.listdir("/proc/self/fd"))
    spool = Spool(str(tmp_path))
    data = os.urandom(600_000)
    spool.write(data)
    real, full = os.pwrite, [spool._fd]

    def pwrite(fd: int, view: memoryview, at: int) -> int:
        if fd in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, view, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    spool.write(b"more")
    full.clear()
    assert "memfd:" in os.readlink(f"/proc/self/fd/{spool._fd}")
    assert read(spool) == data + b"more"
    full.append(spool._fd)
    with pytest.raises(OSError, match="No space left"):
        spool.write(b"x")
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cant_be_read_back_is_no_fault_of_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permanent, with the directory: to send it again would not help."""
    spool = Spool(str(tmp_path))
    spool.write(b"data")
    os.truncate(spool._fd, 2)
    with pytest.raises(Permanent, match=rf"can't be read back from {tmp_path} \(it ends after 2 of 4 bytes"):
        read(spool)

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(Permanent, match="Input/output error"):
        read(spool)
    spool.close()
