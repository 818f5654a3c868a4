"""Which paths a source may have, and how deep and how wide a tree may be."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import BackupError, StorageError
from tests.support.backups import SECOND, Shop, write
from tests.support.compare import compare_trees
from workers.backup.engine import sources


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty source."""
    return Shop(str(tmp_path))


def test_a_snapshot_mirrors_absolute_paths(shop: Shop) -> None:
    """From the root down, the ancestors with their own modes and times, and nothing of their other content."""
    write(f"{shop.source}/in/f", b"x")
    write(f"{shop.base}/beside", b"not asked for")
    result = shop.backup()
    folder = "/"
    for part in Path(shop.source).parts[1:]:
        (node,) = shop.nodes(result.tree, folder).values()
        st = os.lstat(os.path.join(folder, part))
        assert (node.name, node.type, node.inode, node.mode & 0o777) == (
            part.encode(),
            "dir",
            st.st_ino,
            stat.S_IMODE(st.st_mode) & 0o777,
        )
        folder = os.path.join(folder, part)
    assert (next(iter(shop.open().snapshots())).paths, len(shop.nodes(result.tree, folder))) == ([folder.encode()], 1)


def test_nested_paths_count_once(shop: Shop) -> None:
    """A path inside another one, a path twice, and trailing slashes change nothing."""
    write(f"{shop.source}/a/b/f", b"x")
    write(f"{shop.source}/c", b"y")
    given = [f"{shop.source}/a/b", f"{shop.source}/", shop.source, f"{shop.source}/c", f"{shop.source}/a/../c"]
    result = shop.backup(*given)
    assert [snapshot.paths for snapshot in shop.open().snapshots()] == [[shop.source.encode()]]
    assert (result.files_new, shop.backup().parent) == (2, result.snapshot)


def test_paths_side_by_side(shop: Shop) -> None:
    """Two directories and a single file below a common ancestor, which holds nothing else in the snapshot."""
    for name in ("a/1", "b/2", "b/not-this", "c", "d"):
        write(f"{shop.source}/{name}", name.encode())
    result = shop.backup(f"{shop.source}/a", f"{shop.source}/b/2", f"{shop.source}/c")
    assert sorted(shop.nodes(result.tree, shop.source)) == [b"a", b"b", b"c"]
    assert sorted(shop.nodes(result.tree, f"{shop.source}/b")) == [b"2"]
    assert (result.complete, result.files_new) == (True, 3)
    again = shop.backup(f"{shop.source}/c", f"{shop.source}/a", f"{shop.source}/b/2")
    assert (again.parent, again.files_gone) == (result.snapshot, 0)


def test_a_path_through_a_link_is_recorded_where_it_lies(shop: Shop) -> None:
    """The ancestors are real directories; a link as the last component is backed up as the link that it is."""
    write(f"{shop.source}/real/sub/f", b"x")
    os.symlink("real", f"{shop.source}/way")
    by_link = shop.backup(f"{shop.source}/way/sub")
    assert [one.paths for one in shop.open().snapshots()] == [[f"{shop.source}/real/sub".encode()]]
    assert list(shop.nodes(by_link.tree, f"{shop.source}/real/sub")) == [b"f"]
    the_link = shop.backup(f"{shop.source}/way", source="link")
    (node,) = shop.nodes(the_link.tree, shop.source).values()
    assert (node.name, node.type, node.linktarget) == (b"way", "symlink", b"real")


def test_one_missing_path_among_several(shop: Shop) -> None:
    """The rest is backed up; the snapshot is incomplete and says which path was not there."""
    write(f"{shop.source}/there", b"x")
    missing = f"{shop.source}/not/there"
    result = shop.backup(f"{shop.source}/there", missing)
    assert (result.complete, result.unreadable, len(result.problems), result.files_new) == (False, 1, 1, 1)
    assert f"{shop.source}/not" in result.problems[0]


@pytest.mark.parametrize("paths", [["missing"], ["missing", "other/missing"]])
def test_nothing_there_is_an_error(shop: Shop, paths: list[str]) -> None:
    """None of the paths exists, perhaps for want of a mount: an error, no snapshot of emptiness."""
    with pytest.raises(BackupError, match=r"none of the paths exists: .*missing.*mount them"):
        shop.backup(*[f"{shop.source}/{path}" for path in paths])
    assert shop.names("snapshots") == set()


def test_an_empty_directory_is_a_backup(shop: Shop) -> None:
    """It exists, so it is one."""
    result = shop.backup()
    assert (result.complete, shop.nodes(result.tree, shop.source)) == (True, {})
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_names_that_are_not_utf8_in_a_path(shop: Shop) -> None:
    """Of the source's own path: the snapshot names it, and the next run finds its parent."""
    folder = os.fsdecode(os.fsencode(shop.source) + b"/latin\xe9")
    write(f"{folder}/f", b"x")
    first = shop.backup(folder)
    again = shop.backup(folder)
    assert (first.complete, again.parent) == (True, first.snapshot)


@pytest.fixture
def deep() -> Iterator[Shop]:
    """A source 30 directories of 200 characters deep, with files at the end: paths of 6,000 bytes."""
    base = tempfile.mkdtemp(prefix="hf-deep-")
    made = Shop(base)
    fd = os.open(made.source, os.O_RDONLY)
    for level in range(30):
        name = f"{level:02}".ljust(200, "x")
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        file = os.open(f"file-{level}", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        os.write(file, b"level %d" % level)
        os.setxattr(file, "user.level", b"%d" % level)
        os.close(file)
    os.symlink("somewhere", "link", dir_fd=fd)
    os.link("file-29", "again", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)
    yield made
    shutil.rmtree(base)


def test_paths_beyond_path_max(deep: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """There and back with Holdfast's own restore; and unchanged in the next incremental."""
    monkeypatch.setattr(sources, "MARGIN", -3600 * SECOND)
    result = deep.backup()
    assert (result.complete, result.files_new) == (True, 31)
    assert compare_trees(deep.source, deep.restore(), top=False) == []
    again = deep.backup()
    assert (again.files_unmodified, again.bytes_read) == (31, 0)
    assert deep.tree_of(again.tree) == deep.tree_of(result.tree)
    deep.check()


@pytest.mark.parametrize("count", [512, 513, 1025])
def test_directories_around_what_one_helper_takes(shop: Shop, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """At 512 files a directory is shared out: none is lost, none is there twice, whoever reads it."""
    monkeypatch.setattr(sources, "MARGIN", -3600 * SECOND)
    os.makedirs(f"{shop.source}/d/sub")
    for number in range(count):
        write(f"{shop.source}/d/f{number:04}", b"%d" % number)
    first = shop.backup()
    assert (first.files_new, first.complete) == (count, True)
    assert sorted(shop.nodes(first.tree, f"{shop.source}/d")) == [*(b"f%04d" % n for n in range(count)), b"sub"]
    for number in range(0, count, 2):
        write(f"{shop.source}/d/f{number:04}", b"changed %d" % number)
    os.unlink(f"{shop.source}/d/f0001")
    again = shop.backup()
    assert (again.files_changed, again.files_unmodified, again.files_gone) == ((count + 1) // 2, count // 2 - 1, 1)
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_a_huge_flat_directory(shop: Shop) -> None:
    """20,000 files of a few bytes or none: one tree, all of it there."""
    for number in range(20_000):
        fd = os.open(f"{shop.source}/{number}", os.O_WRONLY | os.O_CREAT)
        if number % 10 == 0:
            os.write(fd, b"%d" % number)
        os.close(fd)
    result = shop.backup()
    assert (result.files_new, result.complete) == (20_000, True)
    nodes = shop.nodes(result.tree, shop.source)
    assert nodes.keys() == {b"%d" % number for number in range(20_000)}
    assert sum(node.size for node in nodes.values()) == result.bytes_read


def test_many_small_directories(shop: Shop) -> None:
    """A thousand of them, which helpers pass on to each other: the tree is the same in whatever order."""
    for number in range(1000):
        write(f"{shop.source}/{number % 10}/{number}/f", b"%d" % (number % 7))
    first, second = shop.backup(), shop.backup(kind="full")
    assert (first.files_new, shop.tree_of(first.tree)) == (1000, shop.tree_of(second.tree))
    shop.check()


def test_a_site_whose_directory_is_gone_is_not_made_anew(shop: Shop) -> None:
    """An unmounted disk must not become a new repository on the disk below its mount point."""
    write(f"{shop.source}/f", b"x")
    shutil.rmtree(shop.site)
    with pytest.raises(StorageError, match="no such directory"):
        shop.backup()
    assert not os.path.lexists(shop.site)


def test_a_full_by_hand_is_remembered_by_its_start(shop: Shop) -> None:
    """It serves no slot, and yet what comes later says when the last full was."""
    write(f"{shop.source}/f", b"x")
    shop.backup(kind="full")
    later = shop.backup()
    by_id = {snapshot.id: snapshot for snapshot in shop.open().snapshots()}
    full = by_id[by_id[later.snapshot].parent]
    assert by_id[later.snapshot].tag("lastfull") == full.tag("lastfull") == full.tag("began")
