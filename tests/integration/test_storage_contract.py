"""What every store promises, held against a directory and a real MinIO alike."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.storage import MissingObject, ObjectInfo, ObjectStore, Permanent, open_store, s3
from tests.support.fixtures import minio_server
from tests.support.processes import in_processes
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer

__all__ = ["minio_server"]


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[ObjectStore]:
    """An empty store of each kind."""
    if request.param == "directory":
        opened = open_store(str(tmp_path), name="fra")
    else:
        server: MinioServer = request.getfixturevalue("minio_server")
        opened = open_bucket(server, make_bucket(server))
    yield opened
    opened.close()


def _keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted(info.key for info in store.list(prefix))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_put_stores_any_buffer_and_replaces_whole(store: ObjectStore, kind: type) -> None:
    """What was put is what is got, for each kind of buffer; a second put leaves nothing of a longer first."""
    store.put("a/b/c", kind(b"a longer first content"))
    assert store.get("a/b/c") == b"a longer first content"
    store.put("a/b/c", kind(b"short"), sha256=hashlib.sha256(b"short").hexdigest())
    assert store.get("a/b/c") == b"short"


def test_an_empty_object_is_one(store: ObjectStore) -> None:
    """No bytes are stored, listed and read as no bytes."""
    store.put("empty", b"")
    assert (store.get("empty"), store.stat("empty").size, _keys(store)) == (b"", 0, ["empty"])


def test_what_is_staged_appears_whole_under_a_key_known_at_its_end(store: ObjectStore, tmp_path: Path) -> None:
    """Written in pieces from one buffer; nothing is listed before it is published; no descriptor is left."""
    part = store.below("repos/web1")
    part.put("data/ab/other", b"")
    before = len(os.listdir("/proc/self/fd"))
    for spool in ("", str(tmp_path.parent / f"{tmp_path.name}-spool/not/made")):
        staged = part.stage("data/", spool=spool)
        whole = bytearray()
        piece = bytearray(300_000)
        for number in range(10):
            piece[:] = os.urandom(len(piece))
            whole += piece[number:]
            staged.write(memoryview(piece)[number:])
        assert _keys(part, "data/") == ["data/ab/other"]
        digest = hashlib.sha256(whole).hexdigest()
        key = f"data/{digest[:2]}/{digest}"
        staged.publish(key, sha256=digest)
        staged.discard()
        staged.discard()
        assert part.get(key) == whole
        assert _keys(part, "data/") == sorted(["data/ab/other", key])
        part.delete(key)
        assert not os.path.isdir(spool) or os.listdir(spool) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_staged_and_discarded_leaves_nothing(store: ObjectStore) -> None:
    """Given up in the middle, or before its first byte."""
    assert _keys(store) == []  # that opens a connection
    before = len(os.listdir("/proc/self/fd"))
    for data in (b"", b"x" * 1000):
        staged = store.stage("data/")
        staged.write(data)
        staged.discard()
    assert _keys(store) == []
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(Permanent, match="not a prefix"):
        store.stage("data")


def test_a_large_object_arrives_unchanged(store: ObjectStore) -> None:
    """A pack of 20 MiB from a slice of a view, in many pieces."""
    data = os.urandom(20 << 20)
    store.put("data/3f/pack", memoryview(data)[3:])
    assert store.get("data/3f/pack") == data[3:]
    assert store.get_range("data/3f/pack", 5 << 20, 9 << 20) == data[3 + (5 << 20) : 3 + (14 << 20)]


@pytest.mark.parametrize("key", ["u né+ %41~(1)!*'&=?#", "a.b/..c/d:e", "x" * 200, "holdfast/locks/1"])
def test_odd_names_are_keys(store: ObjectStore, key: str) -> None:
    """A name that needs quoting in a URL is stored, listed, read and deleted as it is."""
    store.put(key, b"1")
    assert (store.get(key), _keys(store)) == (b"1", [key])
    store.delete(key)
    assert _keys(store) == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\0b", ".holdfast-tmp-1", "a/.holdfast-x"]
)
def test_a_key_that_could_leave_the_store_is_refused(store: ObjectStore, key: str) -> None:
    """No operation takes it, and nothing is written."""
    for use in (store.get, store.stat, store.delete, store.purge, store.get_versioned, lambda k: store.put(k, b"")):
        with pytest.raises(Permanent, match="not a key"):
            use(key)
    assert _keys(store) == []


def test_what_is_not_there_is_missing(store: ObjectStore) -> None:
    """Each way to read says which key of which site is missing; deleting it is no error."""
    message = r"site fra: missing: (GET|HEAD) a/b at "
    for read in (store.get, store.get_versioned, store.stat, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(MissingObject, match=message):
            read("a/b")
    store.put("dir/file", b"1")
    for key in ("dir", "dir/file/below"):
        with pytest.raises(MissingObject):
            store.get(key)
        store.delete(f"{key}/x")
    store.delete("a/b")


def test_what_is_purged_is_gone(store: ObjectStore) -> None:
    """The one key, whatever else begins like it; purging what is not there is no error."""
    for key in ("a/b", "a/bc", "a/b.d"):
        store.put(key, b"1")
    store.purge("a/b")
    store.purge("a/b")
    assert _keys(store) == ["a/b.d", "a/bc"]


def test_ranges_are_exact_or_an_error(store: ObjectStore) -> None:
    """A range inside is exactly that; one that ends beyond the object is an error that says by how much."""
    store.put("a", b"0123456789")
    assert store.get_range("a", 0, 10) == b"0123456789"
    assert store.get_range("a", 9, 1) == b"9"
    assert store.get_range("a", 4, 0) == b""
    with pytest.raises(Permanent, match="expected 5 bytes from 8, the object ends after 2"):
        store.get_range("a", 8, 5)
    with pytest.raises(Permanent, match="expected 5 bytes from 50, the object ends after 0"):
        store.get_range("a", 50, 5)


def test_stat_and_list_give_size_and_time(store: ObjectStore) -> None:
    """Both agree on the size, and on the time to the second, which is the store's own."""
    before = store.clock()
    store.put("a", b"12345")
    listed, found = next(store.list("")), store.stat("a")
    assert (listed.key, listed.size, found.key, found.size) == ("a", 5, "a", 5)
    assert abs(listed.modified - found.modified) < 1.0
    assert before - 1.0 <= found.modified <= store.clock() + 1.0


def test_list_gives_what_begins_with_the_prefix(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several pages and directories, everything once; of a prefix that does not exist, nothing."""
    monkeypatch.setattr(s3, "_PAGE", "7")
    keys = [f"data/{n % 5:02x}/{n}" for n in range(30)] + ["data-not", "config", "snapshots/1"]
    for key in keys:
        store.put(key, b"")
    assert _keys(store) == sorted(keys)
    assert _keys(store, "data/") == sorted(keys[:30])
    assert _keys(store, "data/01/") == sorted(key for key in keys if key.startswith("data/01/"))
    assert _keys(store, "nothing/here/") == []
    assert _keys(store, "config/") == []
    with pytest.raises(Permanent, match="not a prefix"):
        store.list("data")


def test_a_listing_may_delete_as_it_goes(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting what a listing has just given neither breaks it nor makes it skip."""
    monkeypatch.setattr(s3, "_PAGE", "4")
    for n in range(10):
        store.put(f"locks/{n}", b"")
    for info in store.list("locks/"):
        store.delete(info.key)
    assert _keys(store) == []


def test_put_if_absent_puts_once(store: ObjectStore) -> None:
    """The first bytes stay; the same bytes again are there, which is what was asked; others are not."""
    assert store.put_if_absent("a/b", b"first") is True
    assert store.put_if_absent("a/b", b"first") is True
    assert store.put_if_absent("a/b", b"second") is False
    assert store.get("a/b") == b"first"
    store.delete("a/b")
    assert store.put_if_absent("a/b", b"second") is True


def test_compare_and_swap_replaces_only_what_was_read(store: ObjectStore) -> None:
    """A version is good for one swap; after it, after a put and after a delete it is stale."""
    store.put("epoch", b"1")
    _, first = store.get_versioned("epoch")
    assert store.compare_and_swap("epoch", b"2", version=first) is True
    assert store.compare_and_swap("epoch", b"3", version=first) is False
    data, second = store.get_versioned("epoch")
    assert data == b"2"
    store.put("epoch", b"4")
    assert store.compare_and_swap("epoch", b"5", version=second) is False
    store.delete("epoch")
    assert store.compare_and_swap("epoch", b"6", version=second) is False
    assert _keys(store) == []


def test_below_sees_a_part(store: ObjectStore) -> None:
    """Keys are relative to the prefix, nested too; the part's url names it; closing it leaves the whole usable."""
    part = store.below("repos/web1").below("data")
    part.put("3f/x", b"1")
    assert [info.key for info in part.list("")] == ["3f/x"]
    assert _keys(store) == ["repos/web1/data/3f/x"]
    assert part.url == f"{store.url}/repos/web1/data"
    part.close()
    assert store.get("repos/web1/data/3f/x") == b"1"
    with pytest.raises(Permanent, match="not a key"):
        store.below("../other")


def test_the_clock_goes_with_this_hosts(store: ObjectStore) -> None:
    """Here store and test share a machine, so the clocks differ by the resolution only; nothing is left."""
    assert abs(store.clock() - time.time()) < 2.0
    assert _keys(store) == []


def test_a_probe_finds_everything_and_leaves_nothing(store: ObjectStore) -> None:
    """A directory and a MinIO can do all that is asked of a site; the probe's own objects are gone."""
    found = store.probe()
    assert (found.put_if_absent, found.compare_and_swap, found.range_reads, found.notes) == (True, True, True, ())
    assert (found.versioned, abs(found.clock_skew) < 2.0) == (False, True)
    assert _keys(store) == []


def test_several_threads_share_a_store(store: ObjectStore) -> None:
    """Eight threads over four connections each read back what they wrote."""
    failures: list[str] = []

    def work(number: int) -> None:
        for n in range(6):
            data = os.urandom(100_000)
            store.put(f"{number}/{n}", data)
            if store.get(f"{number}/{n}") != data:
                failures.append(f"{number}/{n}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(_keys(store)) == 48


def _reopen(request: pytest.FixtureRequest, store: ObjectStore) -> ObjectStore:
    """The same place, opened in a forked child."""
    if not store.url.startswith("s3:"):
        return open_store(store.url)
    server: MinioServer = request.getfixturevalue("minio_server")
    return open_bucket(server, store.url.rpartition("/")[2])


def test_of_racing_puts_if_absent_one_wins(store: ObjectStore, request: pytest.FixtureRequest) -> None:
    """Eight processes put different bytes for the same ten keys: each key has one winner, whose bytes are there."""

    def race(number: int) -> list[bool]:
        mine = _reopen(request, store)
        return [mine.put_if_absent(f"commits/{n}", b"from %d" % number) for n in range(10)]

    results = in_processes(8, race)
    for n in range(10):
        winners = [number for number in range(8) if results[number][n]]
        assert len(winners) == 1
        assert store.get(f"commits/{n}") == b"from %d" % winners[0]


def test_swaps_by_several_processes_make_one_history(store: ObjectStore, request: pytest.FixtureRequest) -> None:
    """Four processes append to one object ten times each: nothing is lost, and each saw what it built on."""
    store.put("register", b"")

    def append(number: int) -> list[bytes]:
        mine, done = _reopen(request, store), []
        while len(done) < 10:
            data, version = mine.get_versioned("register")
            line = b"%d.%d\n" % (number, len(done))
            if mine.compare_and_swap("register", data + line, version=version):
                done.append(line)
        return done

    results = in_processes(4, append)
    lines = store.get("register").splitlines(keepends=True)
    assert sorted(lines) == sorted(line for done in results for line in done)
    for done in results:
        assert [line for line in lines if line in done] == done


def test_an_object_info_is_plain_data() -> None:
    """Two equal ones are equal: listings can be compared."""
    assert ObjectInfo("a", 1, 2.0) == ObjectInfo("a", 1, 2.0)
