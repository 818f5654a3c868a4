"""A restore keeps its lock fresh also before the first file is looked at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shared.repository import absent, locks
from shared.repository.repository import Repository
from tests.support.backups import Shop, write
from tests.support.restores import restore


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Three snapshots, so three index files and six packs; locks are old at once."""
    made = Shop(str(tmp_path))
    for name in "abc":
        write(f"{made.source}/{name}", os.urandom(1000))
        made.backup(run=name)
    monkeypatch.setattr(locks, "REFRESH", 0.0)
    return made


def test_while_index_files_are_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of a large repository takes longer to fill than a lock lives."""
    found: list[set[str]] = []
    original = Repository.load_index

    def watched(self: Repository, name: str) -> Any:
        found.append(shop.names("locks"))
        return original(self, name)

    monkeypatch.setattr(Repository, "load_index", watched)
    assert restore(shop, cache_dir=f"{shop.base}/other").exit_code == 0
    assert [len(names) for names in found] == [1] * 3
    assert len(set.union(*found)) == 3


def test_while_packs_are_listed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large listing takes minutes: each of its pages refreshes the lock."""

    def pages(name: str) -> int:
        calls = 0

        def counted(self: locks.RepositoryLock, *, reader: bool = False) -> None:
            nonlocal calls
            assert reader
            calls += phases() == ["open"]

        def phases() -> list[str]:
            return sorted({event["phase"] for event in shop.events if event["event"] == "progress"}) or ["open"]

        shop.events.clear()
        monkeypatch.setattr(locks.RepositoryLock, "maintain", counted)
        assert restore(shop, name).exit_code == 0
        return calls

    few = pages("few")
    monkeypatch.setattr(absent, "_PAGE", 1)
    assert pages("many") - few == len(shop.packs())
