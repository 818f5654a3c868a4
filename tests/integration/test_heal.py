"""Bringing back what was overwritten, in a real versioned bucket."""

from __future__ import annotations

import hashlib

import pytest

from shared.repository.heal import heal
from shared.storage.api import MissingObject, VersionedStore
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer


def named(folder: str, data: bytes) -> str:
    """A key by the hash of its bytes."""
    return f"{folder}/{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def store(minio_server: MinioServer) -> VersionedStore:
    """A place in an empty versioned bucket."""
    store = open_bucket(minio_server, make_bucket(minio_server, versioned=True)).below("repos/web1")
    assert isinstance(store, VersionedStore)
    return store


def test_the_newest_version_that_is_whole_comes_back(store: VersionedStore) -> None:
    """Overwritten once or often; what is whole, what was put twice alike, and names that are no hash are left alone."""
    one, two, three = named("data/aa", b"one"), named("index", b"two"), named("snapshots", b"three")
    for key, *contents in (
        (one, b"one", b"x", b"y", b"z"),
        (two, b"x", b"two"),
        (three, b"three", b"three"),
        ("data/aa/readme", b"1", b"2"),
        ("config", b"1", b"2"),
    ):
        for content in contents:
            store.put(key, content)
    done = heal(store)
    assert (done.healed, done.lost) == ([one], [])
    assert [store.get(key) for key in (one, two, three)] == [b"one", b"two", b"three"]
    assert [store.get(key) for key in ("data/aa/readme", "config")] == [b"2", b"2"]
    assert heal(store).healed == []


def test_what_was_deleted_stays_so(store: VersionedStore) -> None:
    """Prune deletes; to bring that back would bring back what was forgotten."""
    key = named("data/aa", b"one")
    for content in (b"one", b"x"):
        store.put(key, content)
    store.delete(key)
    assert heal(store).healed == []
    with pytest.raises(MissingObject):
        store.get(key)


def test_a_dry_run_puts_nothing(store: VersionedStore) -> None:
    """It says what would come back."""
    key = named("data/aa", b"one")
    for content in (b"one", b"x"):
        store.put(key, content)
    assert (heal(store, dry_run=True).healed, store.get(key)) == ([key], b"x")


def test_what_has_no_whole_version_is_lost_and_nothing_is_put(store: VersionedStore) -> None:
    """Nothing is made up."""
    key = named("data/aa", b"one")
    for content in (b"x", b"y"):
        store.put(key, content)
    done = heal(store)
    assert (done.healed, done.lost, store.get(key)) == ([], [key], b"y")


def test_more_versions_than_a_page_holds(store: VersionedStore) -> None:
    """The first of 1,100 comes back."""
    key = named("data/aa", b"one")
    store.put(key, b"one")
    for number in range(1_100):
        store.put(key, b"%d" % number)
    assert heal(store).healed == [key]
    assert store.get(key) == b"one"
