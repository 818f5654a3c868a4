"""What the index cache promises to those who ask it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.repository.errors import Damaged
from shared.repository.indexcache import IndexCache, Location
from shared.repository.pack import Blob, BlobType, pack_size
from shared.storage import Transient
from tests.support.indexes import IndexSite, Packs, assert_true, name, some_packs


@pytest.fixture
def site() -> IndexSite:
    """Three index files."""
    made = IndexSite()
    for tag in "abc":
        made.put(tag, some_packs(tag, packs=4, blobs=5))
    return made


@pytest.fixture
def directory(tmp_path: Path) -> str:
    """Where caches lie; made by the cache itself."""
    return str(tmp_path / "cache")


def files(directory: str) -> list[str]:
    """The paths of all segments."""
    return sorted(str(path) for path in Path(directory).rglob("*.segment"))


def test_answers_what_the_index_files_say(site: IndexSite, directory: str) -> None:
    """Every blob is found where its index file says, by id and type; others are missing."""
    cache = site.open(directory)
    assert_true(cache, site)
    cache.close()


def test_answers_in_the_order_of_the_question(site: IndexSite, directory: str) -> None:
    """Answers come in the order of the ids, also where one is asked twice."""
    cache = site.open(directory)
    pack, blob = next((pack, blob) for pack, blob in site.blobs() if blob.type == BlobType.DATA)
    there = Location(pack, blob.offset, blob.length, blob.uncompressed)
    got = cache.lookup(BlobType.DATA, [blob.id, name("nowhere"), blob.id])
    assert got == [there, None, there]
    assert cache.missing(BlobType.DATA, [name("nowhere"), blob.id]) == [True, False]
    cache.close()


def test_a_second_open_loads_nothing(site: IndexSite, directory: str) -> None:
    """What was loaded once stays in the cache: a warm open loads no index file and writes nothing."""
    site.open(directory).close()
    before = [(path, os.stat(path).st_mtime_ns) for path in files(directory)]
    site.loaded.clear()
    cache = site.open(directory)
    assert site.loaded == []
    assert [(path, os.stat(path).st_mtime_ns) for path in files(directory)] == before
    assert_true(cache, site)
    cache.close()


def test_loads_only_what_is_new_and_drops_what_is_gone(site: IndexSite, directory: str) -> None:
    """A refresh loads the index files that came and forgets those that went, in the open cache and the next one."""
    cache = site.open(directory)
    site.loaded.clear()
    new = site.put("new", some_packs("new", packs=2, blobs=3))
    del site.files[next(iter(site.files))]
    cache.refresh()
    assert site.loaded == [new]
    assert_true(cache, site, also=[name("a 0 0")])
    cache.close()
    cache = site.open(directory)
    assert site.loaded == [new]
    assert_true(cache, site, also=[name("a 0 0")])
    cache.close()


def test_an_index_file_that_comes_back_is_not_loaded_again_while_its_records_are_kept(
    site: IndexSite, directory: str
) -> None:
    """Dropping filters by source and rewrites later, so a listing that missed a file for once costs little."""
    for number in range(10):
        site.put(str(number), some_packs(str(number), packs=4, blobs=5))
    site.open(directory).close()
    index, packs = next(iter(site.files.items()))
    del site.files[index]
    site.open(directory).close()
    site.loaded.clear()
    site.files[index] = packs
    cache = site.open(directory)
    assert site.loaded == []
    assert_true(cache, site)
    cache.close()


def test_records_of_dropped_index_files_are_removed_once_they_are_many(site: IndexSite, directory: str) -> None:
    """When more than a quarter of a segment is of no use it is rewritten without that."""
    site.open(directory).close()
    (before,) = files(directory)
    size = os.path.getsize(before)
    for index in list(site.files)[:2]:
        del site.files[index]
    cache = site.open(directory)
    (after,) = files(directory)
    assert os.path.getsize(after) < size * 0.6
    assert_true(cache, site)
    cache.close()


def test_a_blob_in_two_packs_is_present_while_one_of_them_counts(directory: str) -> None:
    """A pack that is absent hides only its own copy; with all of them absent the blob is missing."""
    site = IndexSite()
    blob = Blob(name("twice"), BlobType.DATA, 0, 50, 0)
    site.put("one", [(name("pack 1"), [blob])])
    site.put("two", [(name("pack 2"), [blob])])
    cache = site.open(directory)
    for absent, packs in (
        ([], {"pack 1", "pack 2"}),
        (["pack 1"], {"pack 2"}),
        (["pack 2"], {"pack 1"}),
        (["pack 1", "pack 2"], set()),
    ):
        gone = frozenset(map(name, absent))
        (got,) = cache.lookup(BlobType.DATA, [blob.id], gone)
        assert (got is None) == (not packs)
        assert got is None or got.pack in {name(pack) for pack in packs}
        assert cache.missing(BlobType.DATA, [blob.id], gone) == [not packs]
    cache.close()


def test_data_and_tree_of_one_id_are_two_blobs(directory: str) -> None:
    """The type is a part of what is looked up."""
    site = IndexSite()
    site.put("one", [(name("pack"), [Blob(name("x"), BlobType.TREE, 0, 50, 0)])])
    cache = site.open(directory)
    assert cache.missing(BlobType.DATA, [name("x")]) == [True]
    assert cache.missing(BlobType.TREE, [name("x")]) == [False]
    cache.close()


def test_bytes_that_only_look_like_a_record_are_no_answer(directory: str) -> None:
    """An id whose bytes stand across two records is missing, or it would never be stored."""
    site = IndexSite()
    # The second half of this id, and what follows in its record, read like an id of type DATA.
    whole = b"same" + name("x")[4:16] + b"same" + name("y")[4:16]
    blob = Blob(whole, BlobType.DATA, 7, 50, 99)
    site.put("one", [(name("pack"), [blob])])
    cache = site.open(directory)
    across = whole[16:] + bytes(5) + (7).to_bytes(4, "little") + (50).to_bytes(4, "little") + (99).to_bytes(3, "little")
    assert cache.missing(BlobType.DATA, [across, whole]) == [True, False]
    cache.close()


def test_an_index_file_deleted_meanwhile_is_left_out(site: IndexSite, directory: str) -> None:
    """What is listed but gone when it is loaded does not count, and is no error."""
    site.vanishing = {name("gone").hex()}
    cache = site.open(directory)
    assert_true(cache, site)
    cache.close()


def test_what_loading_raises_reaches_the_caller(site: IndexSite, directory: str) -> None:
    """A damaged index file is an error that the caller must see, and what was cached before stays of use."""

    def damaged(index: str) -> Packs:
        raise Damaged(f"index {index}")

    site.open(directory).close()
    site.put("d", [])
    site.loaded.clear()
    working, site.load = site.load, damaged  # type: ignore[method-assign,assignment]
    with pytest.raises(Damaged):
        site.open(directory)
    site.load = working  # type: ignore[method-assign]
    cache = site.open(directory)
    assert len(site.loaded) == 1
    assert_true(cache, site)
    cache.close()


def test_after_a_failed_refresh_only_what_was_loaded_counts(site: IndexSite, directory: str) -> None:
    """An index file that could not be loaded is not among `index_ids`, and the next refresh takes it up."""
    cache = site.open(directory)
    before = dict(site.files)
    new = site.put("new", some_packs("new", packs=2, blobs=3))
    site.failing = {new}
    with pytest.raises(Transient):
        cache.refresh()
    whole, site.files = site.files, before
    assert_true(cache, site, also=[name("new 0 0")])
    site.files, site.failing = whole, set()
    cache.refresh()
    assert_true(cache, site)
    cache.close()


def test_other_names_below_index_are_ignored(site: IndexSite, directory: str) -> None:
    """Only names of 64 lowercase hexadecimal digits are index files."""
    true = dict(site.files)
    site.files.update({"README": [], "A" * 64: [], "ab": [], "٣" * 64: []})
    cache = site.open(directory)
    site.files = true
    assert_true(cache, site)
    cache.close()


def test_an_empty_repository_has_nothing(directory: str) -> None:
    """Without index files every blob is missing; an index file without packs changes nothing."""
    site = IndexSite()
    cache = site.open(directory)
    assert_true(cache, site)
    site.put("empty", [])
    site.put("no blobs", [(name("pack"), [])])
    cache.refresh()
    assert_true(cache, site)
    cache.close()


def test_an_id_of_another_length_is_refused(site: IndexSite, directory: str) -> None:
    """A shorter id could match the beginning of a longer one: that is the caller's error."""
    cache = site.open(directory)
    with pytest.raises(ValueError, match="32 bytes"):
        cache.missing(BlobType.DATA, [b"short"])
    cache.close()


def test_caches_of_two_repositories_or_sites_are_two(site: IndexSite, directory: str) -> None:
    """The cache is keyed by repository and site, and a segment carried to another cache is not believed."""
    site.open(directory).close()
    (here,) = files(directory)
    for repository_id, at in (("repository", "other"), ("other", "site"), ("repositorys", "ite")):
        other = IndexSite()
        other.put("a", some_packs("other", packs=1, blobs=1))  # the same index id with other contents
        other.open(directory, repository_id=repository_id, site=at).close()
        (there,) = [path for path in files(directory) if os.path.dirname(path) != os.path.dirname(here)]
        Path(there).with_name("carried.segment").write_bytes(Path(here).read_bytes())
        cache = other.open(directory, repository_id=repository_id, site=at)
        assert_true(cache, other, also=[blob.id for _, blob in site.blobs()])
        cache.close()
        for path in Path(there).parent.iterdir():
            path.unlink()


def test_pack_blobs_reads_the_index_files_of_these_packs_alone(site: IndexSite, directory: str) -> None:
    """What a pack holds comes from the index file that lists it, and no other is loaded."""
    cache = site.open(directory)
    site.loaded.clear()
    pack, blobs = site.files[name("index b").hex()][1]
    assert list(cache.pack_blobs([pack, name("nowhere")])) == [(pack, blobs)]
    assert site.loaded == [name("index b").hex()]
    cache.close()


def test_a_pack_listed_twice_comes_once_per_size(directory: str) -> None:
    """Two index files may list one pack; where their sizes differ, both are told, as one of them is wrong."""
    site = IndexSite()
    short = [Blob(name("x"), BlobType.DATA, 0, 50, 0)]
    long = [*short, Blob(name("y"), BlobType.DATA, 50, 60, 100)]
    site.put("one", [(name("same"), short), (name("other"), short)])
    site.put("two", [(name("same"), short), (name("other"), long)])
    cache = site.open(directory)
    expected = sorted([(name("same"), 123), (name("other"), 123), (name("other"), 224)])
    assert list(cache.packs()) == expected
    assert [pack_size(short), pack_size(long)] == [123, 224]
    assert cache.pack_count == 4
    cache.close()


def test_progress_counts_index_files(site: IndexSite, directory: str) -> None:
    """Progress is told as index files loaded, of those that have to be."""
    told: list[tuple[int, int]] = []
    cache = IndexCache.open(
        directory,
        store=site,  # type: ignore[arg-type]  # only `list` is used
        repository_id="r",
        site="s",
        load=site.load,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    cache.close()


def test_a_number_beyond_32_bits_is_damage(directory: str) -> None:
    """A pack of more than 4 GiB does not exist; an index that says so is damaged."""
    site = IndexSite()
    site.put("one", [(name("pack"), [Blob(name("x"), BlobType.DATA, 1 << 32, 50, 0)])])
    with pytest.raises(Damaged, match="32 bits"):
        site.open(directory)
