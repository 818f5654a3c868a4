"""A verification finds each fault, most of which stock restic's check does not see, and names who suffers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.repository import locks
from shared.repository.errors import WrongPassword
from shared.repository.pack import Blob, BlobType
from shared.repository.tree import MODE_FIFO, Node, encode_node, join_tree
from shared.storage.api import ObjectInfo
from shared.storage.directory import DirectoryStore
from tests.support.backups import OLD, Shop, write
from tests.support.crafting import Crafted, change_object
from tests.support.restores import names_below, verify
from workers.maintenance import inventory
from workers.maintenance.spec import VerifyReport, VerifySpec


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty repository."""
    return Shop(str(tmp_path))


@pytest.fixture
def crafted(shop: Shop) -> Crafted:
    """The means to fill it."""
    return Crafted(shop)


def found(report: VerifyReport) -> list[tuple[str, list[str]]]:
    """What was found: the message and the paths without their snapshot."""
    return [(problem.message, [path.partition(":")[2] for path in problem.paths]) for problem in report.problems]


def test_a_sound_repository(shop: Shop) -> None:
    """Nothing is found in what Holdfast wrote, nothing is changed, and what was looked at is counted."""
    for name in ("a", "b/c", "b/d"):
        write(f"{shop.source}/{name}", os.urandom(5000))
    shop.backup()
    write(f"{shop.source}/b/e", b"more")
    shop.backup()
    before = names_below(shop.site)
    report = verify(shop, share=100)
    assert (report.exit_code, report.problems, report.notes) == (0, [], [])
    assert (report.snapshots, report.files, report.packs_read, report.headers) == (2, 7, report.packs, report.packs)
    assert report.bytes_read == sum(map(os.path.getsize, shop.packs().values()))
    assert names_below(shop.site) == before


def test_wrong_password(shop: Shop) -> None:
    """What can't be opened is an error, not a report."""
    with pytest.raises(WrongPassword):
        verify(shop, passwords=["wrong"])


def tree_with(crafted: Crafted, *nodes: Node) -> str:
    """A snapshot of a directory `d` that holds these nodes, in this order."""
    raw = join_tree(encode_node(node) for node in nodes)
    return crafted.snapshot(crafted.directory(b"d", subtree=crafted.blob(BlobType.TREE, raw)))


def file(crafted: Crafted, name: bytes, content: bytes = b"content", **fields: Any) -> Node:
    """A file of one blob."""
    return crafted.file(name, content, **fields)


CASES = {
    "unsorted": (
        lambda c: (file(c, b"b"), file(c, b"a")),
        ("tree: b'a' stands behind b'b', names must ascend", ["/d"]),
    ),
    "twice": (lambda c: (file(c, b"a"), file(c, b"a")), ("tree: the name b'a' stands in it twice", ["/d"])),
    "parent": (lambda c: (file(c, b".."),), ("tree: the name b'..' is not one of a directory entry", ["/d"])),
    "slash": (lambda c: (file(c, b"a/b"),), ("tree: the name b'a/b' is not one of a directory entry", ["/d"])),
    "empty": (lambda c: (file(c, b""),), ("tree: the name b'' is not one of a directory entry", ["/d"])),
    "size": (lambda c: (file(c, b"a", size=8),), ("its node says 8 bytes, its content has 7", ["/d/a"])),
    "null": (
        lambda c: (c.file(b"a", content=None),),
        ("tree: the file b'a' has no content list", ["/d"]),
    ),
    "type": (
        lambda _: (Node(b"a", "door", mtime=OLD),),
        ("its type 'door' is not known, so it can't be restored", ["/d/a"]),
    ),
    "mode": (
        lambda c: (file(c, b"a", mode=MODE_FIFO | 0o644),),
        ("its mode 0o200000644 is not one of a file", ["/d/a"]),
    ),
    "missing blob": (
        lambda c: (c.file(b"a", b"x", content=[b"\1" * 32]),),
        ("its blob 0101010101010101 is in no index, or only in a pack that is missing or damaged", ["/d/a"]),
    ),
    "link": (
        lambda _: (Node(b"a", "symlink", mode=1 << 27 | 0o777, mtime=OLD),),
        ("it is a symbolic link without a target", ["/d/a"]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_faults_in_trees(shop: Shop, crafted: Crafted, case: str) -> None:
    """Each fault of a node is an error that names the snapshot and the path."""
    make, expected = CASES[case]
    snapshot = tree_with(crafted, *make(crafted))
    report = verify(shop)
    assert found(report) == [expected]
    assert (report.exit_code, report.affected_snapshots) == (24, [snapshot])


def test_unknown_fields(shop: Shop, crafted: Crafted) -> None:
    """A field that this release does not know is a warning: nothing is lost."""
    raw = join_tree([encode_node(file(crafted, b"a"))[:-1] + b',"colour":"red"}'])
    crafted.snapshot(tree=crafted.blob(BlobType.TREE, raw))
    report = verify(shop)
    assert found(report) == [("tree: fields that this release does not know: colour", ["/"])]
    assert (report.exit_code, report.warnings, report.errors) == (0, 1, 0)


def test_hard_links_that_are_none(shop: Shop, crafted: Crafted) -> None:
    """Two files of one inode and different content in one snapshot are an error, in two snapshots they are not."""
    fields = {"links": 2, "inode": 7, "device_id": 9}
    one, two = file(crafted, b"one", **fields), file(crafted, b"two", b"other", **fields)
    crafted.snapshot(crafted.directory(b"x", one))
    crafted.snapshot(crafted.directory(b"y", two))
    assert verify(shop).errors == 0
    snapshot = crafted.snapshot(crafted.directory(b"x", one), crafted.directory(b"y", two))
    (problem,) = verify(shop).problems
    assert problem.object == f"snapshot {snapshot}"
    assert "share inode 7 of device 9, but not their content" in problem.message


def test_faults_of_packs(shop: Shop, crafted: Crafted) -> None:
    """Packs that are missing or of the wrong size are errors, and who needs them is named, in every snapshot."""
    gone = file(crafted, b"gone", os.urandom(3000))
    (missing,) = crafted.flush()
    short = file(crafted, b"short", os.urandom(3000))
    (cut,) = crafted.flush()
    folder = crafted.directory(b"d", gone, short, file(crafted, b"fine", b"fine"))
    snapshots = [crafted.snapshot(folder), crafted.snapshot(folder, file(crafted, b"more", b"more"))]
    os.unlink(crafted.pack_path(missing))
    change_object(crafted.pack_path(cut), lambda data: data[:-1])
    size = os.path.getsize(crafted.pack_path(cut))
    report = verify(shop)
    lost = "its blob {} is in no index, or only in a pack that is missing or damaged"
    assert {(problem.object, problem.message) for problem in report.problems} == {
        (f"pack {missing.hex()}", "it is missing"),
        (f"pack {cut.hex()}", f"expected {size + 1} bytes by the index, it has {size}"),
        *((f"tree {folder.subtree.hex()}", lost.format(node.content[0].hex()[:16])) for node in (gone, short)),  # type: ignore[union-attr,index]
    }
    assert sorted(report.affected_snapshots) == sorted(snapshots)
    assert {path for problem in report.problems for path in problem.paths} == {
        f"{snapshot[:8]}:/d/{name}" for snapshot in snapshots for name in ("gone", "short")
    }


def test_a_flipped_bit_is_found_by_data_alone(shop: Shop, crafted: Crafted) -> None:
    """A changed byte in a blob is found when data is read, with the one file that needs that blob."""
    crafted.snapshot(file(crafted, b"a", os.urandom(3000)), file(crafted, b"b", os.urandom(3000)))
    pack = next(path for path in shop.packs().values() if os.path.getsize(path) > 6000)

    def flip(data: bytearray) -> None:
        data[100] ^= 1

    change_object(pack, flip)
    assert verify(shop).errors == 0
    report = verify(shop, share=100)
    assert report.problems[0].message.startswith(f"its {os.path.getsize(pack)} bytes hash to ")
    assert "the authentication tag does not match" in report.problems[1].message
    assert [path.partition(":")[2] for problem in report.problems for path in problem.paths] == ["/a"]
    assert (report.exit_code, len(report.problems)) == (24, 3)


def test_a_damaged_header(shop: Shop, crafted: Crafted) -> None:
    """A pack whose own header can't be read is found by the structure: the index could not be rebuilt from it."""
    crafted.snapshot(file(crafted, b"a", os.urandom(3000)))
    pack = max(shop.packs().values(), key=os.path.getsize)

    def flip(data: bytearray) -> None:
        data[-10] ^= 1

    change_object(pack, flip)
    report = verify(shop)
    assert [problem.object for problem in report.problems] == [f"pack {os.path.basename(pack)}"]
    assert "its header can't be read" in report.problems[0].message
    assert verify(shop, headers=False).errors == 0


def changed_index(crafted: Crafted, change: Any) -> VerifyReport:
    """Verify a snapshot whose data pack the index lists as `change(blobs)` gives."""
    tree = crafted.tree(file(crafted, b"a", os.urandom(3000)), file(crafted, b"b", os.urandom(4000)))
    crafted.flush()
    listed = [(pack, change(blobs) if blobs[0].type == BlobType.DATA else blobs) for pack, blobs in crafted.packs]
    crafted.index(listed)
    crafted.snapshot(tree=tree)
    return verify(crafted.shop)


def test_index_past_the_end(crafted: Crafted) -> None:
    """An entry behind the end of its pack leaves a gap, and the header says otherwise."""

    def change(blobs: list[Blob]) -> list[Blob]:
        return [blobs[0], blobs[1]._replace(offset=1 << 20)]

    report = changed_index(crafted, change)
    assert report.exit_code == 24
    assert "leaves a gap before it (ends at 3032)" in report.problems[0].message
    assert report.problems[1].message == "its header says otherwise than the index lists of it"


def test_index_that_overlaps(crafted: Crafted) -> None:
    """Entries that overlap are told."""

    def change(blobs: list[Blob]) -> list[Blob]:
        return [blobs[0], blobs[1]._replace(offset=100)]

    assert "overlaps what is before it (ends at 3032)" in changed_index(crafted, change).problems[0].message


def test_index_files_that_do_not_agree(shop: Shop, crafted: Crafted) -> None:
    """A pack in two index files is a warning; if they say different things, an error."""
    tree = crafted.tree(file(crafted, b"a", os.urandom(3000)), file(crafted, b"b", os.urandom(4000)))
    crafted.flush()
    packs = list(crafted.packs)
    first = crafted.index(packs)
    crafted.snapshot(tree=tree)
    second = crafted.index([packs[0]] if packs[0][1][0].type == BlobType.DATA else [packs[1]])
    report = verify(shop)
    assert (report.errors, report.warnings, report.exit_code) == (0, 1, 0)
    assert report.problems[0].message.startswith("more than one index file lists it: ")
    os.unlink(os.path.join(shop.repository, "index", second))
    crafted.index([(pack, blobs[:1]) for pack, blobs in packs if blobs[0].type == BlobType.DATA])
    report = verify(shop)
    assert report.problems[0].message.startswith("index files do not agree on what it holds: ")
    assert (first[:8] in report.problems[0].message, report.exit_code) == (True, 24)


@pytest.mark.parametrize("kind", ["snapshots", "index"])
def test_a_damaged_small_file(shop: Shop, crafted: Crafted, kind: str) -> None:
    """A snapshot or index file that does not verify is told, and the rest is still looked at."""
    crafted.snapshot(file(crafted, b"a"))
    crafted.snapshot(file(crafted, b"b", b"other"))
    name = min(shop.names(kind))
    change_object(os.path.join(shop.repository, kind, name), lambda data: data[:-1])
    report = verify(shop)
    assert report.problems[0].object == f"{kind.rstrip('s')} {name}"
    assert "it can't be read" in report.problems[0].message
    assert (report.exit_code, len(report.affected_snapshots)) == (24, 1)


def test_an_index_read_with_gaps_is_not_kept(shop: Shop, crafted: Crafted) -> None:
    """After an index file was healed, nothing remembers that it could not be read."""
    crafted.snapshot(file(crafted, b"a"))
    path = os.path.join(shop.repository, "index", min(shop.names("index")))
    good = Path(path).read_bytes()
    change_object(path, lambda data: data[:-1])
    assert verify(shop).errors > 0
    change_object(path, lambda _: good)
    assert verify(shop).errors == 0


def test_packs_in_no_index(shop: Shop, crafted: Crafted) -> None:
    """Packs that no index lists, as a killed backup leaves them, are a warning; who only reads is not their writer."""
    crafted.snapshot(file(crafted, b"a"))
    crafted.file(b"b", b"never indexed")
    crafted.flush()
    for reader in ("verify", "restore"):
        shop.open().lock(holder=f"web1.example/holdfast/{reader}-17").begin()
    report = verify(shop)
    assert (found(report), report.notes) == ([("packs in no index: 1; the next prune removes them", [])], [])
    assert report.exit_code == 0


def test_packs_that_a_running_backup_will_index(shop: Shop, crafted: Crafted) -> None:
    """While another holds a lock they are no problem, and a note says whose lock it is."""
    crafted.snapshot(file(crafted, b"a"))
    crafted.file(b"b", b"not indexed yet")
    crafted.flush()
    lock = shop.open().lock(holder="web1.example/holdfast/1234")
    lock.begin()
    report = verify(shop)
    note = "packs in no index yet: 1, as is usual while others write; there are locks of web1.example/holdfast/1234 ("
    assert ([text[: len(note)] for text in report.notes], report.problems) == ([note], [])
    lock.release()
    assert verify(shop).warnings == 1


def test_a_backup_that_gets_on_between_the_steps(shop: Shop, crafted: Crafted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time something is listed, more packs have been stored and indexed: none is missing, none in no index."""
    crafted.snapshot(file(crafted, b"first", os.urandom(100)))
    listing = DirectoryStore.list
    steps: list[str] = []

    def get_on(self: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
        if prefix.startswith(("data/", "index/", "locks/", "snapshots/")):
            steps.append(prefix)
            crafted.snapshot(file(crafted, b"more", os.urandom(100)))
        return listing(self, prefix)

    monkeypatch.setattr(DirectoryStore, "list", get_on)
    report = verify(shop)
    assert (found(report), report.notes, report.exit_code) == ([], [], 0)
    assert {"data/", "index/"} < set(steps)


def test_a_lock_that_lapsed_is_told(shop: Shop, crafted: Crafted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept: what is missing may have been pruned meanwhile, so the report does not stand alone."""
    crafted.snapshot(file(crafted, b"a", os.urandom(100)))
    monkeypatch.setattr(locks, "REFRESH", 0.0)
    compare = inventory.faults

    def sleep_over_a_prune(*arguments: Any) -> Any:
        for name in shop.names("locks"):
            os.unlink(os.path.join(shop.repository, "locks", name))
        return compare(*arguments)

    monkeypatch.setattr(inventory, "faults", sleep_over_a_prune)
    report = verify(shop)
    (note,) = report.notes
    assert note.startswith("our own lock ")
    assert note.endswith("what is told as missing may have been pruned; verify again")
    assert shop.names("locks") == set()


def test_shares_rotate() -> None:
    """As many rotations as there are shares read every pack once, and everybody picks the same packs."""
    packs = [os.urandom(32) for _ in range(500)]
    spec = VerifySpec(site=None, repository="", share=20)  # type: ignore[arg-type]
    read: list[bytes] = []
    for rotation in range(5):
        spec.rotation = rotation
        read += [pack for pack in packs if spec.reads(pack)]
    assert sorted(read) == sorted(packs)
    spec.share = 0
    assert not any(map(spec.reads, packs))
    spec.share = 100
    assert all(map(spec.reads, packs))
