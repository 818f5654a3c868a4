"""Packing when memory runs out: an error of the run, never of the file that is being read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shared.errors import BackupError, HoldfastError
from shared.repository import pack
from tests.support.backups import Shop, write


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
