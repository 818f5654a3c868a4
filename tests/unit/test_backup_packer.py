"""Packing when memory runs out or the site fails: an error of the run, never of the file that is being read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shared.errors import BackupError, HoldfastError
from shared.repository import pack
from shared.repository.crypto import MasterKey
from shared.repository.pack import BlobType
from shared.storage import Permanent, StoreFull, Transient, open_store
from shared.storage.durable import DurableFile
from tests.support.backups import Shop, write
from workers.backup.engine.packer import Packer, Uploader


@pytest.mark.parametrize("size", [100, 6 << 20], ids=["small files", "a big file"])
def test_a_pack_without_memory_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The blobs were claimed: a file that is passed over as unreadable would take them from every other file.

    The snapshot once lacked them, with one file recorded as unreadable.
    """
    shop = Shop(str(tmp_path))
    content = os.urandom(size)
    for number in range(600 if size < 1000 else 1):
        write(f"{shop.source}/d/{number}", content + b"%d" % number)
        write(f"{shop.source}/e/{number}", content + b"%d" % number)
    coordinator, real = os.getpid(), pack.PackBuilder
    failed: list[int] = []

    class Failing(real):  # type: ignore[misc,valid-type] # the class as it was
        def __init__(self, *arguments: Any, **options: Any) -> None:
            if os.getpid() != coordinator and not failed:
                failed.append(1)
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            super().__init__(*arguments, **options)

    monkeypatch.setattr("workers.backup.engine.packer.PackBuilder", Failing)
    with pytest.raises(HoldfastError, match=r"a pack of .* can't be filled \(Cannot allocate memory\)") as raised:
        shop.backup()
    assert raised.value.exit_code == BackupError.exit_code
    assert shop.names("snapshots") == set()
    monkeypatch.undo()
    assert shop.backup().complete
    shop.check()


@pytest.mark.parametrize("size", [2000, 6 << 20], ids=["small files", "big files"])
@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("write", errno.EIO, Permanent.exit_code),
        ("write", errno.ENOSPC, StoreFull.exit_code),
        ("write", errno.ESTALE, Transient.exit_code),
        ("_finish", errno.EIO, Permanent.exit_code),
        ("_finish", errno.EDQUOT, StoreFull.exit_code),
    ],
)
def test_a_site_that_fails_under_a_pack_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, call: str, number: int, code: int
) -> None:
    """In mid-write or at its end, once, then never again: that pack is not published, and nothing of it is left.

    The next attempt goes on from the packs that were.
    """
    shop = Shop(str(tmp_path))
    for folder in range(60 if size == 2000 else 2):
        for name in range(10 if size == 2000 else 1):
            write(f"{shop.source}/{folder}/{name}", os.urandom(size))
    coordinator, real = os.getpid(), getattr(DurableFile, call)
    calls: list[int] = []

    def failing(self: DurableFile, *given: Any) -> Any:
        if os.getpid() != coordinator and ".holdfast-staged" in os.readlink(f"/proc/self/fd/{self._directory}"):
            calls.append(1)
            if len(calls) == 3:
                if call == "write":
                    real(self, memoryview(given[0])[:10])  # part of it arrived
                raise OSError(number, os.strerror(number))
        return real(self, *given)

    monkeypatch.setattr(DurableFile, call, failing)
    with pytest.raises(HoldfastError, match=rf"PUT .*{errno.errorcode[number]}") as raised:
        shop.backup(pack_size=16 << 10)
    assert raised.value.exit_code == code
    assert shop.names("snapshots") == set()
    assert [name for _, _, names in os.walk(shop.site) for name in names if name.startswith(".holdfast-")] == []
    shop.check()
    monkeypatch.undo()
    assert shop.backup().complete
    shop.check()


def test_a_packer_that_failed_takes_nothing_more(tmp_path: Path) -> None:
    """Threads that come after the failure get the same: else a pack with a gap might be filled and published."""
    store = open_store(str(tmp_path))
    uploader = Uploader(store, uploads=1, spool="")
    packer = Packer(MasterKey(b"e" * 32, b"k" * 16, b"r" * 16), uploader, BlobType.DATA, level=0, target=1 << 20)
    packer.add(b"1" * 32, bytes(300 << 10))
    assert packer._open is not None
    os.close(packer._open[1]._file._fd)  # type: ignore[attr-defined] # like NFS, it fails again when it is closed
    said = []
    for _ in range(3):
        with pytest.raises(Permanent, match="EBADF") as raised:
            packer.add(b"2" * 32, bytes(900 << 10))
        said.append(raised.value)
    assert said[0] is said[1] is said[2]
    with pytest.raises(Permanent, match="EBADF"):
        packer.flush()
    uploader.wait()
    assert (uploader.finished(), list(store.list(""))) == ([], [])
