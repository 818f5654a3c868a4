"""Index files are written in a thread: it must not outlive what allows it to write."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shared.errors import BackupError
from shared.repository.crypto import Sealer
from shared.repository.repository import Repository
from tests.support.backups import Shop, write
from workers.backup.engine.indexwriter import IndexWriter, Queued


def test_no_index_file_is_put_once_the_lock_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails while one is under way: whoever prunes then, with no lock in sight, may delete what it names."""
    shop = Shop(str(tmp_path))
    write(f"{shop.source}/file", os.urandom(3000))
    start, save = IndexWriter.start, Repository.save
    locked: list[bool] = []

    def start_and_fail(self: IndexWriter, packs: list[Queued]) -> None:
        start(self, packs)
        raise BackupError("something else goes wrong")

    def slow(self: Repository, kind: str, *json: bytes, sealer: Sealer | None = None) -> str:
        if kind == "index":
            time.sleep(0.3)  # longer than a run takes to end
            locked.append(bool(shop.names("locks")))
        return save(self, kind, *json, sealer=sealer)

    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "start", start_and_fail)
        patch.setattr(Repository, "save", slow)
        with pytest.raises(BackupError, match="something else goes wrong"):
            shop.backup()
    assert locked == [True]
    assert shop.names("locks") == set()
    assert shop.backup().complete
    shop.check()
