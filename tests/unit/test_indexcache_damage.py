"""Deleted or corrupted at any time without harm: the same answers as the truth, and never an error."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.repository.indexcache import IndexCache, layout
from shared.storage import durable
from tests.support.indexes import IndexSite, assert_true, shrink, some_packs


@pytest.fixture
def site() -> IndexSite:
    """Two index files of some blobs."""
    made = IndexSite()
    for tag in "ab":
        made.put(tag, some_packs(tag, packs=3, blobs=2))
    return made


def only_segment(directory: Path) -> Path:
    """The one segment of the one cache."""
    (path,) = directory.rglob("*.segment")
    return path


def spoil(path: Path, whole: bytes, at: int) -> None:
    """Change one byte in place, as a failing disk would."""
    path.write_bytes(whole[:at] + bytes((whole[at] ^ 0xFF,)) + whole[at + 1 :])


def cut(path: Path, whole: bytes, at: int) -> None:
    """Leave only the first bytes."""
    path.write_bytes(whole[:at])


@pytest.mark.parametrize("harm", [spoil, cut])
@pytest.mark.parametrize("small_blocks", [False, True])
def test_any_byte_changed_or_cut_anywhere_before_opening(
    site: IndexSite,
    tmp_path: Path,
    harm: Callable[[Path, bytes, int], None],
    small_blocks: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each byte of a segment changed in turn, and the file cut at each length: an open gives the true answers."""
    if small_blocks:
        shrink(monkeypatch)
    site.open(str(tmp_path)).close()
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        harm(path, whole, at)
        cache = site.open(str(tmp_path))
        assert_true(cache, site)
        cache.close()
        for left in path.parent.iterdir():
            left.unlink()


@pytest.mark.parametrize("harm", [spoil, cut])
def test_any_byte_changed_or_cut_anywhere_under_an_open_cache(
    site: IndexSite, tmp_path: Path, harm: Callable[[Path, bytes, int], None]
) -> None:
    """The same in place, while a cache has the file open: it builds anew what it can no longer trust."""
    site.open(str(tmp_path)).close()
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        cache = site.open(str(tmp_path))
        harm(path, whole, at)
        assert_true(cache, site)
        cache.close()
        for left in path.parent.iterdir():
            left.unlink()
        path.write_bytes(whole)


def test_a_byte_changed_during_a_merge(site: IndexSite, tmp_path: Path) -> None:
    """A segment that turns out corrupt while it is merged is built anew, and never carried on."""
    site.open(str(tmp_path)).close()
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    tables = layout.header_size(2)  # the header is verified when the file is opened
    new = site.put("new", some_packs("new", packs=2, blobs=2))
    for at in range(tables, len(whole), 7):
        spoil(path, whole, at)
        cache = site.open(str(tmp_path))
        assert_true(cache, site)
        cache.close()
        for left in path.parent.iterdir():
            left.unlink()
    assert new in site.loaded


def test_bytes_added_at_the_end(site: IndexSite, tmp_path: Path) -> None:
    """A file of another size than its header says is not believed."""
    site.open(str(tmp_path)).close()
    path = only_segment(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    site.loaded.clear()
    cache = site.open(str(tmp_path))
    assert len(site.loaded) == 2
    assert_true(cache, site)
    cache.close()


def test_blocks_that_changed_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is verified for its place too: two that are swapped do not pass."""
    shrink(monkeypatch)
    monkeypatch.setattr("shared.repository.indexcache.run.RUN_RECORDS", 1000)
    site = IndexSite()
    site.put("a", some_packs("a", packs=4, blobs=6))
    site.open(str(tmp_path)).close()
    path = only_segment(tmp_path)
    whole = bytearray(path.read_bytes())
    block = layout.BLOCK_MAX // layout.RECORD.size * layout.RECORD.size + layout.CRC.size
    packs = layout.Table(layout.header_size(1), layout.PACK.size, 4, 0)
    first, second = packs.end, packs.end + block
    whole[first:second], whole[second : second + block] = whole[second : second + block], whole[first:second]
    path.write_bytes(whole)
    site.loaded.clear()
    cache = site.open(str(tmp_path))
    assert_true(cache, site)
    assert len(site.loaded) == 1
    cache.close()


def test_deleted_under_an_open_cache(site: IndexSite, tmp_path: Path) -> None:
    """A cache whose directory was removed answers on, takes up new index files, and the next one builds again."""
    cache = site.open(str(tmp_path / "cache"))
    shutil.rmtree(tmp_path / "cache")
    assert_true(cache, site)
    site.put("new", some_packs("new", packs=2, blobs=2))
    cache.refresh()
    assert_true(cache, site)
    cache.close()
    cache = site.open(str(tmp_path / "cache"))
    assert_true(cache, site)
    cache.close()


def test_packs_go_on_where_they_were_when_corruption_is_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of packs that meets a corrupt block midway gives each pack once all the same."""
    shrink(monkeypatch)
    monkeypatch.setattr("shared.repository.indexcache.run.RUN_RECORDS", 1000)
    site = IndexSite()
    site.put("a", some_packs("a", packs=40, blobs=1))
    cache = site.open(str(tmp_path))
    packs = cache.packs()
    got = [next(packs) for _ in range(5)]
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    for at in range(layout.header_size(1), len(whole), 20):
        whole = whole[:at] + b"\xff" + whole[at + 1 :]
    path.write_bytes(whole)
    got += packs
    assert got == site.sizes()
    cache.close()


def test_a_place_that_can_not_be_written(site: IndexSite, tmp_path: Path) -> None:
    """Where no cache can be kept, this process does without, and says the same."""
    (tmp_path / "file").write_text("in the way of a directory")
    cache = site.open(str(tmp_path / "file" / "cache"))
    assert_true(cache, site)
    cache.close()


def test_a_disk_that_is_full(site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC while building or merging is no error, and leaves no partial file."""
    site.open(str(tmp_path)).close()
    whole = only_segment(tmp_path)
    site.put("new", some_packs("new", packs=2, blobs=2))

    def full(self: durable.DurableFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(durable.DurableFile, "write", full)
        cache = site.open(str(tmp_path))
        assert_true(cache, site)
        cache.close()
    assert sorted(path.name for path in whole.parent.iterdir()) == sorted([whole.name, "lock"])


def test_a_disk_that_never_keeps_what_is_written(
    site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each new segment is corrupt as well, what is loaded is held in memory in the end."""
    write = durable.DurableFile.write

    def spoiled(self: durable.DurableFile, data: bytes) -> None:
        raw = bytearray(data)
        if raw and not raw.startswith(layout.MAGIC):
            raw[len(raw) // 2] ^= 1
        write(self, raw)

    monkeypatch.setattr(durable.DurableFile, "write", spoiled)
    cache = site.open(str(tmp_path))
    assert_true(cache, site)
    assert len(site.loaded) <= 2 * 4
    cache.close()


def test_files_that_are_no_segments(site: IndexSite, tmp_path: Path) -> None:
    """Odd things under a segment's name do no harm: empty, zeros, a directory, a dangling link, a fifo."""
    site.open(str(tmp_path)).close()
    folder = only_segment(tmp_path).parent
    (folder / "empty.segment").write_bytes(b"")
    (folder / "zeros.segment").write_bytes(bytes(9000))
    (folder / "claims.segment").write_bytes(
        layout.HEADER.pack(layout.MAGIC, 1 << 31, 0, bytes(32), 1, 1, (1 << 32) - 1, 3)
    )
    (folder / "directory.segment").mkdir()
    (folder / "link.segment").symlink_to("nowhere")
    os.mkfifo(folder / "fifo.segment")
    site.loaded.clear()
    cache = site.open(str(tmp_path))
    assert site.loaded == []
    assert_true(cache, site)
    cache.close()


def test_two_segments_for_one_index_file(site: IndexSite, tmp_path: Path) -> None:
    """A copy of a segment, as a killed merge leaves it, changes no answer and no count, and is removed."""
    site.open(str(tmp_path)).close()
    path = only_segment(tmp_path)
    path.with_name("copy.segment").write_bytes(path.read_bytes())
    cache: IndexCache = site.open(str(tmp_path))
    assert_true(cache, site)
    cache.close()
    assert len(list(tmp_path.rglob("*.segment"))) == 1
