"""Key files listed, added and removed; killed at each step, and by two at once. shared.repository.keyring."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from shared.errors import UsageError
from shared.repository import keyring
from shared.repository.committed import FORGOTTEN
from shared.repository.crypto import MasterKey
from shared.repository.keyring import KeyNeeded, add_key, pick, read_keys, remove_key
from shared.repository.keys import make_key_file
from shared.storage import ObjectStore, open_store

KEY = MasterKey.from_bytes(bytes(range(1, 65)))
A, B, C = ("a" * 64, "b" * 64, "c" * 64)  # as derived passwords look: a low N is allowed


class Meddled:
    """A store that calls `before` ahead of each write, with its number from 1; all else as it is."""

    def __init__(self, store: ObjectStore, before: Any) -> None:
        self._store, self._before, self.count = store, before, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name not in {"put", "put_if_absent", "delete"}:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            self._before(self.count)
            return real(*arguments, **options)

        return call


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A place for a repository, without one."""
    return open_store(str(tmp_path))


def add(store: ObjectStore, password: str) -> str:
    """A key file that is cheap to open."""
    return add_key(store, KEY, password, n=2)


def opened_by(store: ObjectStore) -> list[str]:
    """Which of the passwords open."""
    return [password[0] for password in (A, B, C) if any(one.opens(password) == KEY for one in read_keys(store))]


def test_keys_are_listed_with_what_they_say(store: ObjectStore) -> None:
    """Also those that are damaged: their name, and what is wrong."""
    one = add(store, A)
    store.put("keys/" + "0" * 64, b"{}")
    raw = b'{"no": "key"}'
    store.put(f"keys/{hashlib.sha256(raw).hexdigest()}", raw)
    listed = {key.id: key for key in read_keys(store)}
    assert (listed[one].n, listed[one].problem, listed[one].created[-1]) == (2, "", "Z")
    assert listed["0" * 64].problem == "damaged: its bytes do not hash to its name"
    assert "not the JSON" in listed[hashlib.sha256(raw).hexdigest()].problem
    assert [key.opens(A) == KEY for key in listed.values()].count(True) == 1


def test_a_low_n_is_refused_for_a_chosen_password(store: ObjectStore) -> None:
    """Nothing is written then; the default is high enough."""
    with pytest.raises(UsageError, match="too low"):
        add_key(store, KEY, "a chosen password", n=16384)
    assert read_keys(store) == []
    add_key(store, KEY, "a chosen password")
    assert read_keys(store)[0].n == 32768


def test_a_key_is_removed_with_its_tombstone(store: ObjectStore) -> None:
    """The tombstone stays, where those of snapshots are."""
    one, _ = add(store, A), add(store, B)
    remove_key(store, one, keep=[B])
    assert opened_by(store) == ["b"]
    assert [info.key for info in store.list("holdfast/")] == [f"{FORGOTTEN}{one}"]
    assert keyring.TOMBSTONES == FORGOTTEN


@pytest.mark.parametrize("keep", [[], [A], [A, B], [C]])
def test_the_last_key_of_a_password_stays(store: ObjectStore, keep: list[str]) -> None:
    """The only one that opens with a password in use, and any where none is named; nothing is left behind."""
    one, _ = add(store, A), add(store, B)
    with pytest.raises(KeyNeeded):
        remove_key(store, one, keep=keep)
    assert opened_by(store) == ["a", "b"]
    assert list(store.list("holdfast/")) == []


def test_a_second_key_of_a_password_may_go(store: ObjectStore) -> None:
    """It opens as before."""
    one, _ = add(store, A), add(store, A)
    remove_key(store, one, keep=[A])
    assert opened_by(store) == ["a"]


@pytest.mark.parametrize("at", [1, 2])
def test_a_removal_killed_at_any_write_is_finished_later(store: ObjectStore, at: int) -> None:
    """What is to stay opens at every moment; the half-removed key is marked so, and counts for nothing."""
    one, other = add(store, A), add(store, B)

    def die(count: int) -> None:
        if count == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remove_key(Meddled(store, die), one, keep=[B])  # type: ignore[arg-type]
    assert opened_by(store) == ["a", "b"]
    assert [key.going for key in read_keys(store) if key.id == one] == [at == 2]
    if at == 2:
        with pytest.raises(KeyNeeded):
            remove_key(store, other, keep=[A])
    remove_key(store, one, keep=[B])
    assert opened_by(store) == ["b"]


@pytest.mark.parametrize("at", [1, 2])
def test_two_that_remove_each_others_last_key(store: ObjectStore, at: int) -> None:
    """Whatever the order, a key stays, and one that stepped back leaves no tombstone."""
    one, other = add(store, A), add(store, B)
    said: list[str] = []

    def meanwhile(count: int) -> None:
        if count == at:
            try:
                remove_key(store, other, keep=[A])
            except KeyNeeded:
                said.append("the other stepped back")

    try:
        remove_key(Meddled(store, meanwhile), one, keep=[B])  # type: ignore[arg-type]
    except KeyNeeded:
        said.append("the first stepped back")
    assert said == [{1: "the first stepped back", 2: "the other stepped back"}[at]]
    assert len(opened_by(store)) == 1
    assert [key.going for key in read_keys(store)] == [False]


def test_a_key_is_named_by_the_beginning_of_its_id(store: ObjectStore) -> None:
    """Four characters or more that fit one key alone."""
    one = add(store, A)
    files = read_keys(store)
    assert pick(files, one[:8].upper()).id == one
    for prefix, said in ((one[:3], "too short"), ("fffff" if one[0] != "f" else "00000", "no key"), ("", "too short")):
        with pytest.raises(UsageError, match=said):
            pick(files, prefix)
    twins = [keyring.KeyFile("abcd1" + "0" * 59, b""), keyring.KeyFile("abcd2" + "0" * 59, b"")]
    with pytest.raises(UsageError, match="2 keys"):
        pick(twins, "abcd")


def test_a_key_of_another_repository_is_told_from_ours(store: ObjectStore) -> None:
    """It opens, with a master key that is not ours: `opening` gives it for comparison."""
    other = MasterKey.from_bytes(bytes(range(2, 66)))
    raw = make_key_file(other, A, n=2)
    store.put(f"keys/{hashlib.sha256(raw).hexdigest()}", raw)
    add(store, B)
    assert {password[0]: key == KEY for _, password, key in keyring.opening(read_keys(store), [A, B])} == {
        "a": False,
        "b": True,
    }
