"""A repository that lost something, and the next backup of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.repository.pack import BlobType
from tests.support.backups import SECOND, Shop, write
from tests.support.compare import compare_trees
from workers.backup.engine import sources


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A source of one snapshot, whose times are trusted from now on."""
    monkeypatch.setattr(sources, "MARGIN", -3600 * SECOND)
    made = Shop(str(tmp_path))
    for number in range(30):
        write(f"{made.source}/d{number % 4}/f{number}", os.urandom(3000))
    made.backup(kind="full")
    return made


def pack_of(shop: Shop, kind: BlobType) -> str:
    """The one pack of this kind."""
    (pack,) = {pack.hex() for (found, _), (pack, _) in shop.blobs().items() if found is kind}
    return pack


def spoil(shop: Shop, pack: str, how: str) -> None:
    """Lose a pack, cut it, or note that verification found it damaged."""
    path = shop.packs()[pack]
    match how:
        case "lost":
            os.unlink(path)
        case "cut":
            os.truncate(path, os.stat(path).st_size - 5)
        case "quarantined" | "doomed":
            shop.store().put(f"holdfast/{'quarantine' if how == 'quarantined' else 'doomed'}/{pack}", b"{}")


@pytest.mark.parametrize("kind", [BlobType.DATA, BlobType.TREE])
@pytest.mark.parametrize("how", ["lost", "cut", "quarantined", "doomed"])
def test_a_full_stores_what_an_absent_pack_held(shop: Shop, how: str, kind: BlobType) -> None:
    """Missing, wrong-sized, in quarantine or doomed: its blobs are stored again, elsewhere, and all restores.

    With the index rebuilt from what is there, stock restic's check passes too. (The older snapshot's trees come
    back only where nothing above the source has changed either, and others may write into the folder above it.)
    """
    pack = pack_of(shop, kind)
    spoil(shop, pack, how)
    (older,) = shop.names("snapshots")
    done = shop.backup(kind="full")
    assert (done.complete, done.packs_stored >= 1) == (True, True)
    assert done.bytes_added >= (90_000 if kind is BlobType.DATA else 1000)
    path = shop.packs().get(pack)
    if path:
        os.unlink(path)
    shop.restic("0.18", "repair", "index")
    assert compare_trees(shop.source, shop.restore(snapshot=done.snapshot), top=False) == []
    shop.restic("0.18", "forget", older)
    shop.check()


@pytest.mark.parametrize("how", ["quarantined", "doomed"])
def test_an_incremental_reads_again_what_a_marked_pack_held(shop: Shop, how: str) -> None:
    """It lists no packs, but the marks; files that rely on a marked pack are read and stored anew."""
    pack = pack_of(shop, BlobType.DATA)
    spoil(shop, pack, how)
    done = shop.backup()
    assert (done.kind, done.bytes_read, done.bytes_added >= 90_000) == ("incremental", 90_000, True)
    os.unlink(shop.packs()[pack])
    shop.restic("0.18", "repair", "index")
    assert compare_trees(shop.source, shop.restore(snapshot=done.snapshot), top=False) == []


@pytest.mark.parametrize("cached", [True, False])
def test_a_blob_that_is_no_longer_indexed_is_stored_anew(shop: Shop, cached: bool) -> None:
    """Its pack lost and the index rebuilt: an incremental whose files are unchanged reads them again."""
    pack = pack_of(shop, BlobType.DATA)
    spoil(shop, pack, "lost")
    shop.restic("0.18", "repair", "index")
    done = shop.backup(cache="" if cached else os.path.join(shop.base, "other-cache"))
    assert (done.complete, done.bytes_read) == (True, 90_000)
    assert compare_trees(shop.source, shop.restore(snapshot=done.snapshot), top=False) == []
    assert "no errors were found" in shop.restic("0.18", "check", "--read-data")


def test_a_tree_that_is_no_longer_indexed_is_stored_anew(shop: Shop) -> None:
    """Also where the local cache knows it: the cache stands on index files that are gone."""
    spoil(shop, pack_of(shop, BlobType.TREE), "lost")
    shop.restic("0.18", "repair", "index")
    done = shop.backup()
    assert compare_trees(shop.source, shop.restore(snapshot=done.snapshot), top=False) == []


def test_a_parent_whose_trees_are_damaged_only_costs_reading(shop: Shop) -> None:
    """Without a cache the parent's trees come from the repository: where they do not verify all is read."""
    path = shop.packs()[pack_of(shop, BlobType.TREE)]
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(40)
        byte = file.read(1)
        file.seek(40)
        file.write(bytes((byte[0] ^ 1,)))
    done = shop.backup(cache=os.path.join(shop.base, "other-cache"))
    assert (done.complete, done.files_unmodified < 30) == (True, True)


def test_a_full_without_damage_stores_no_data(shop: Shop) -> None:
    """The listing is compared and fits."""
    assert shop.backup(kind="full").bytes_added < 10_000
