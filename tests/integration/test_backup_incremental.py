"""Which files an incremental takes as unchanged, and what a full looks at besides."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.repository.pack import BlobType
from tests.support.backups import OLD, SECOND, Shop, write
from tests.support.compare import compare_trees
from workers.backup.engine import sources
from workers.backup.spec import BackupResult


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty source."""
    return Shop(str(tmp_path))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a parent had started an hour later than it did: the files of a test are older than that."""
    monkeypatch.setattr(sources, "MARGIN", -3600 * SECOND)


def counts(result: BackupResult) -> tuple[int, int, int, int]:
    """Files new, changed, unmodified, gone."""
    return result.files_new, result.files_changed, result.files_unmodified, result.files_gone


def node(shop: Shop, result: BackupResult, name: bytes) -> bytes:
    """A file's content as the snapshot has it."""
    repo, blobs = shop.open(), shop.blobs()
    found = shop.nodes(result.tree, shop.source)[name]
    return b"".join(repo.load_blob(*blobs[BlobType.DATA, blob]) for blob in found.content or [])


def test_what_is_unchanged_is_not_read(shop: Shop, settled: None) -> None:
    """Nothing is read, nothing stored for the source's own folder, and its tree is the same."""
    for number in range(20):
        write(f"{shop.source}/d{number % 3}/f{number}", str(number).encode() * 100)
    first = shop.backup()
    again = shop.backup()
    assert (counts(first), counts(again)) == ((20, 0, 0, 0), (0, 0, 20, 0))
    assert (again.bytes_read, again.parent, again.kind) == (0, first.snapshot, "incremental")
    assert again.bytes_processed == first.bytes_processed
    assert shop.tree_of(again.tree) == shop.tree_of(first.tree)


@pytest.mark.parametrize("what", ["size", "mtime", "ctime", "inode"])
def test_each_number_that_is_trusted_counts(shop: Shop, settled: None, what: str) -> None:
    """A file with another size, mtime, ctime or inode than in the parent is read; its neighbour is not."""
    path = f"{shop.source}/f"
    write(path, b"before")
    write(f"{shop.source}/other", b"other")
    shop.backup()
    match what:
        case "size":
            write(path, b"before and after")
        case "mtime":
            os.utime(path, ns=(OLD, OLD + 1))
        case "ctime":
            os.chmod(path, 0o600)
        case "inode":
            shutil.copy2(path, f"{path}2")
            os.rename(f"{path}2", path)
    again = shop.backup()
    assert (again.bytes_read, again.files_new) == (os.stat(path).st_size, 0)
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_times_close_to_the_parents_start_are_not_trusted(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not 2 s before it: the file is read again; by the margin of a network file system it would be too."""
    assert (sources.MARGIN, sources.NETWORK_MARGIN) == (2 * SECOND, 120 * SECOND)
    write(f"{shop.source}/fresh", b"just written")
    shop.backup()
    assert shop.backup().bytes_read == 12
    monkeypatch.setattr(sources, "MARGIN", -SECOND)
    again = shop.backup()
    assert (again.bytes_read, counts(again)) == (0, (0, 0, 1, 0))
    assert sources.trusted_before(100 * SECOND)[0] == 101 * SECOND


def test_the_rule_goes_by_mtime_as_well_as_ctime(shop: Shop, settled: None) -> None:
    """A time in the future is never before the parent's start, so such a file is read each time."""
    later = OLD + 200 * 365 * 86400 * SECOND
    write(f"{shop.source}/future", b"future", mtime=later)
    write(f"{shop.source}/past", b"past")
    shop.backup()
    again = shop.backup()
    assert (again.bytes_read, counts(again)) == (6, (0, 0, 2, 0))


@pytest.fixture
def mapped(shop: Shop) -> Iterator[mmap.mmap]:
    """A file that is mapped and was written once: on tmpfs later stores change neither mtime nor ctime."""
    shop.source = tempfile.mkdtemp(dir="/dev/shm")
    with open(f"{shop.source}/mapped", "wb") as made:
        made.write(bytes(4096))
    with open(f"{shop.source}/mapped", "r+b") as file, mmap.mmap(file.fileno(), 4096) as view:
        view[0:6] = b"before"
        yield view
    shutil.rmtree(shop.source)


def _key(shop: Shop) -> tuple[int, ...]:
    st = os.stat(f"{shop.source}/mapped")
    return st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns


def test_a_change_that_no_time_shows_is_noticed_close_to_the_parents_start(shop: Shop, mapped: mmap.mmap) -> None:
    """Same size, mtime, ctime and inode, other bytes: the margin is what notices it."""
    first, key = shop.backup(), _key(shop)
    mapped[0:6] = b"after!"
    assert _key(shop) == key
    again = shop.backup()
    assert (node(shop, first, b"mapped")[:6], node(shop, again, b"mapped")[:6]) == (b"before", b"after!")


def test_a_change_that_no_time_shows_is_noticed_by_a_full(shop: Shop, mapped: mmap.mmap, settled: None) -> None:
    """Once the times are trusted an incremental takes it as unchanged; a full reads every byte."""
    shop.backup()
    mapped[0:6] = b"after!"
    trusting = shop.backup()
    full = shop.backup(kind="full")
    assert (counts(trusting), node(shop, trusting, b"mapped")[:6]) == ((0, 0, 1, 0), b"before")
    assert (counts(full), node(shop, full, b"mapped")[:6]) == ((0, 1, 0, 0), b"after!")


def test_a_full_reads_every_byte_and_stores_none_again(shop: Shop, settled: None) -> None:
    """Of unchanged files: they are read, found in the index, and the tree is the same."""
    for number in range(5):
        write(f"{shop.source}/f{number}", os.urandom(1000))
    first = shop.backup(kind="full")
    again = shop.backup(kind="full")
    assert (again.bytes_read, counts(again)) == (5000, (0, 0, 5, 0))
    data = [key for key in shop.blobs() if key[0] is BlobType.DATA]
    assert (len(data), shop.tree_of(again.tree)) == (5, shop.tree_of(first.tree))


def test_what_happens_to_files_is_followed(shop: Shop, settled: None) -> None:
    """Deleted, new, renamed, touched, emptied, a file that becomes a directory and a directory that becomes a link."""
    for name in ("gone", "old-name", "touched", "emptied", "to-dir", "d/inner", "kept"):
        write(f"{shop.source}/{name}", name.encode() * 10)
    shop.backup()
    os.unlink(f"{shop.source}/gone")
    os.rename(f"{shop.source}/old-name", f"{shop.source}/new-name")
    os.utime(f"{shop.source}/touched", ns=(OLD, OLD + SECOND))
    write(f"{shop.source}/emptied", b"")
    os.unlink(f"{shop.source}/to-dir")
    write(f"{shop.source}/to-dir/file", b"inside")
    shutil.rmtree(f"{shop.source}/d")
    os.symlink("kept", f"{shop.source}/d")
    write(f"{shop.source}/fresh", b"fresh")
    again = shop.backup()
    # New: fresh, new-name, to-dir/file. Gone: gone, old-name, to-dir as a file, d as a directory.
    assert counts(again) == (3, 2, 1, 4)
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_a_renamed_directory_is_found_again_by_its_content(shop: Shop, settled: None) -> None:
    """Its files are read, and not one blob of them is stored; the moved directory has its old tree."""
    for number in range(10):
        write(f"{shop.source}/old/sub/f{number}", os.urandom(2000))
    first = shop.backup()
    os.rename(f"{shop.source}/old", f"{shop.source}/new")
    again = shop.backup()
    assert shop.tree_of(again.tree, f"{shop.source}/new/sub") == shop.tree_of(first.tree, f"{shop.source}/old/sub")
    assert (again.files_new, sum(kind is BlobType.DATA for kind, _ in shop.blobs())) == (10, 10)


def test_only_metadata_that_changed_makes_a_new_tree(shop: Shop, settled: None) -> None:
    """A mode, an owner or an attribute alone: the next snapshot has it, of files and of directories."""
    write(f"{shop.source}/d/f", b"x")
    first = shop.backup()
    os.setxattr(f"{shop.source}/d/f", "user.new", b"1")
    os.chmod(f"{shop.source}/d", 0o700)
    again = shop.backup()
    assert shop.tree_of(again.tree) != shop.tree_of(first.tree)
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_a_snapshot_of_other_paths_is_no_parent(shop: Shop, settled: None) -> None:
    """Nor is one of another source: each is compared with its own."""
    write(f"{shop.source}/a/f", b"x")
    shop.backup()
    other = shop.backup(f"{shop.source}/a")
    foreign = shop.backup(source="db1")
    assert ((other.parent, counts(other)), foreign.parent) == (("", (1, 0, 0, 0)), "")


def test_sources_of_one_repository_share_what_they_have_in_common(shop: Shop) -> None:
    """The second source stores trees of its ancestors at most."""
    write(f"{shop.source}/f", os.urandom(100_000))
    shop.backup()
    assert shop.backup(source="web2").bytes_added < 10_000
