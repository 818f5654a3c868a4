"""The one helper for files that must survive a crash: its order, and what it leaves when it fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.storage.durable import (
    DurableFile,
    is_temporary,
    make_directories,
    write_durable,
    write_durable_if_absent,
)

_CALLS = ("open", "write", "fchmod", "fsync", "rename", "link", "unlink", "mkdir")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system calls that matter, in their order; an fsync says of what."""
    seen: list[str] = []

    def recording(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            what = ""
            if name == "fsync":
                what = " directory" if os.path.isdir(f"/proc/self/fd/{args[0]}") else " file"
            seen.append(name + what)
            return real(*args, **kwargs)

        return call

    for name in _CALLS:
        monkeypatch.setattr(os, name, recording(name, getattr(os, name)))
    return seen


def test_a_durable_write_keeps_the_order(tmp_path: Path, calls: list[str]) -> None:
    """Bytes and mode, fsync, then the name, then fsync of the directory: no crash shows half a file."""
    write_durable(str(tmp_path / "a"), b"data")
    assert calls == ["open", "open", "write", "fchmod", "fsync file", "rename", "fsync directory"]
    assert ((tmp_path / "a").read_bytes(), os.stat(tmp_path / "a").st_mode & 0o777) == (b"data", 0o400)


def test_a_name_given_once_keeps_the_order(tmp_path: Path, calls: list[str]) -> None:
    """The same with link(2); the loser leaves nothing and changes nothing."""
    assert write_durable_if_absent(str(tmp_path / "a"), b"data") is True
    assert calls == ["open", "open", "write", "fchmod", "fsync file", "link", "unlink", "fsync directory"]
    assert write_durable_if_absent(str(tmp_path / "a"), b"other") is False
    assert (os.listdir(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"data")


def test_without_sync_it_is_still_whole(tmp_path: Path, calls: list[str]) -> None:
    """For caches: no fsync, the mode that was asked for, and the rename all the same."""
    write_durable(str(tmp_path / "a"), b"data", mode=0o600, sync=False)
    assert calls == ["open", "open", "write", "fchmod", "rename"]
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o600


def test_each_new_directory_is_synced_into_its_parent(tmp_path: Path, calls: list[str]) -> None:
    """From the outermost in; nothing is done for what exists."""
    make_directories(str(tmp_path / "a/b"))
    made = [call for call in calls if call != "open"]
    assert made == ["mkdir", "mkdir", "fsync directory", "mkdir", "fsync directory"]
    make_directories(str(tmp_path / "a/b"))
    with pytest.raises(FileNotFoundError):
        make_directories(str(tmp_path / "gone/x/y"), root=str(tmp_path / "gone"))
    assert sorted(os.listdir(tmp_path)) == ["a"]


def test_parts_are_written_one_after_another(tmp_path: Path) -> None:
    """The streaming forms: an iterable, and a file that is written and published."""
    write_durable(str(tmp_path / "a"), (bytes([65 + n]) for n in range(3)))
    with DurableFile(str(tmp_path / "b")) as file:
        file.write(b"1")
        file.write(memoryview(b"23"))
        assert [is_temporary(name) for name in sorted(os.listdir(tmp_path))] == [True, False]
        file.publish()
    assert [(tmp_path / name).read_bytes() for name in ("a", "b")] == [b"ABC", b"123"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take less than it was given."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    write_durable(str(tmp_path / "a"), b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize("failing", ["write", "fchmod", "fsync", "rename"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Whatever step fails, the error goes up, the old bytes stand, no descriptor and no file is left."""
    write_durable(str(tmp_path / "a"), b"old")
    before = len(os.listdir("/proc/self/fd"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            write_durable(str(tmp_path / "a"), b"new")
    assert (os.listdir(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"old")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_not_published_is_discarded(tmp_path: Path) -> None:
    """Leaving the block without `publish`, by an error or not, leaves nothing."""
    with DurableFile(str(tmp_path / "a")) as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_cant_sync_directories_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFS and some FUSE answer EINVAL: all that can be done there has been done. EIO is an error anywhere."""
    real = os.fsync

    def fsync(fd: int, number: int = errno.EINVAL) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    write_durable(str(tmp_path / "a"), b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    monkeypatch.setattr(os, "fsync", lambda fd: fsync(fd, errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_durable(str(tmp_path / "a"), b"2")
