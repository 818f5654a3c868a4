"""A backup keeps its lock fresh, and heeds a signal, also in stretches in which nothing is scanned."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Interrupted
from shared.repository import absent, locks
from shared.repository.absent import absent_packs
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import Repository, pack_key
from shared.storage.api import ObjectInfo
from tests.support.backups import REPOSITORY, Shop, write
from workers.access import open_index
from workers.backup import commit
from workers.backup.spec import SiteSpec


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A source of three directories; three snapshots, so three index files."""
    made = Shop(str(tmp_path))
    for name in "abc":
        write(f"{made.source}/{name}/f", os.urandom(1000))
        made.backup(run=name)
    return made


@pytest.fixture
def seen(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[set[str]]]:
    """What gives the list of lock objects at each call of a method of Repository; locks are old at once."""
    monkeypatch.setattr(locks, "REFRESH", 0.0)

    def watch(method: str, kind: str = "", do: Callable[[], object] = lambda: None) -> list[set[str]]:
        found: list[set[str]] = []
        original = getattr(Repository, method)

        def watched(self: Repository, *arguments: Any) -> object:
            if not kind or arguments[0] == kind:
                do()
                found.append(shop.names("locks"))
            return original(self, *arguments)

        monkeypatch.setattr(Repository, method, watched)
        return found

    return watch


def all_differ(found: list[set[str]], count: int) -> None:
    """There was one lock at each of so many times, and never the same."""
    assert [len(names) for names in found] == [1] * count
    assert len(set.union(*found)) == count


def test_while_index_files_are_read(shop: Shop, seen: Callable[..., list[set[str]]]) -> None:
    """An empty cache of a large repository takes longer to fill than a lock lives."""
    found = seen("load_index")
    shop.backup(cache=f"{shop.base}/other")
    all_differ(found, 3)


def test_while_the_parent_is_looked_for(shop: Shop, seen: Callable[..., list[set[str]]]) -> None:
    """Every snapshot of a repository that many sources share is read for it."""
    found = seen("_small", "snapshots")
    shop.backup()
    all_differ(found, 3)


def test_while_the_trees_of_an_earlier_attempt_are_walked(shop: Shop, seen: Callable[..., list[set[str]]]) -> None:
    """Killed between commit and snapshot: the next attempt finds all of it, tree by tree, and puts the snapshot."""
    (snapshot,) = (one for one in shop.open().snapshots() if one.tag("run") == "c")
    os.unlink(os.path.join(shop.repository, "snapshots", snapshot.id))
    found = seen("load_blob")
    result = shop.backup(run="c")
    assert (result.existed, result.snapshot) == (True, snapshot.id)
    all_differ(found, len(Path(shop.source).parts) + 3)


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_an_earlier_attempt_is_walked_tree_by_tree(shop: Shop, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """In whatever batches: each tree is read once, each blob looked up, and one that is missing is found."""
    monkeypatch.setattr(commit, "_WALK_BATCH", batch)
    monkeypatch.setattr(commit, "_DATA_BATCH", batch)
    repo = shop.open()
    snapshot = max(repo.snapshots(), key=lambda one: one.time)
    site = SiteSpec("a", shop.site)
    looked: list[bytes] = []
    read = Repository.load_blob

    def noting(self: Repository, pack: bytes, blob: Blob) -> bytes:
        looked.append(blob.id)
        return read(self, pack, blob)

    monkeypatch.setattr(Repository, "load_blob", noting)
    index = open_index(repo, site, REPOSITORY, f"{shop.base}/other")
    assert commit.is_whole(repo, snapshot, index, lambda: None)
    assert len(looked) == len(set(looked)) == len(Path(shop.source).parts) + 3
    (gone,) = shop.nodes(snapshot.tree, f"{shop.source}/b")[b"f"].content or [b""]
    (pack,) = (pack for (kind, blob), (pack, _) in shop.blobs().items() if (kind, blob) == (BlobType.DATA, gone))
    os.unlink(os.path.join(shop.repository, pack_key(pack)))
    assert not commit.is_whole(repo, snapshot, index, lambda: None)
    index.close()


@pytest.mark.parametrize("stretch", ["load_index", "_small"])
def test_a_signal_ends_it_there_too(shop: Shop, seen: Callable[..., list[set[str]]], stretch: str) -> None:
    """Not only once the scan has begun: nothing more is read, and the lock is given back."""
    found = seen(stretch, "snapshots" if stretch == "_small" else "", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="the backup was stopped"):
        shop.backup(cache=f"{shop.base}/other")
    assert (len(found), shop.names("locks")) == (1, set())


def test_a_large_listing_is_interrupted_each_thousand_packs() -> None:
    """That is one answer of S3; a full backup lists them all."""
    called: list[int] = []

    class Listing:
        """Three and a half thousand packs."""

        def list(self, prefix: str) -> list[ObjectInfo]:
            """They are all there."""
            assert prefix in ("data/", absent.QUARANTINE, absent.DOOMED)
            return [ObjectInfo(f"data/{n % 256:02x}/{n:064x}", 1, 0.0) for n in range(3500) if prefix == "data/"]

    packs = [(n.to_bytes(32, "big"), 1 if n else 2) for n in range(3500)]
    got = absent_packs(Listing(), packs, lambda: called.append(1))  # type: ignore[arg-type]
    assert (got, len(called)) == (frozenset({bytes(32)}), 3)
