"""The key files of a repository: listed, added, removed.

Invariant: whatever is killed at whatever moment, and whoever else removes keys at the same time, every password that
is to go on opening the repository still has a key file that no one is removing. Order of a removal: look whether each
such password has another key; leave the tombstone, which marks the key as going; look again, now without all that are
going, and take the tombstone back where one of those passwords would be left without; only then delete the key file.
So of two that remove each other's last key at least one sees the other. A removal that was killed is finished by
asking for it again.

A tombstone stays for good: where repositories are merged, a key file that was removed at one site would come back
from another without it.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import orjson

from shared.errors import RepositoryError, UsageError
from shared.repository import keys
from shared.repository.crypto import MasterKey
from shared.repository.errors import Damaged
from shared.repository.gojson import time_string
from shared.storage.api import MissingObject, ObjectStore

TOMBSTONES = "holdfast/forgotten/"
_KEYS = "keys/"
_PREFIX_AT_LEAST = 4  # characters of an id that name a key


class KeyNeeded(RepositoryError):
    """A key that must stay: without it a password that is in use would open the repository no more."""

    exit_code: ClassVar[int] = 27


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One key file. `created` is as written, RFC 3339; `going`: its tombstone is there, it is being removed."""

    id: str
    raw: bytes = field(repr=False)
    created: str = ""
    username: str = ""
    hostname: str = ""
    n: int = 0
    going: bool = False
    problem: str = ""

    def opens(self, password: str) -> MasterKey | None:
        """The master key, if this is its password; None too where the file is damaged."""
        try:
            return None if self.problem else keys.open_key_file(self.raw, password)
        except Damaged:
            return None


def read_keys(store: ObjectStore) -> list[KeyFile]:
    """All key files, cheap ones first; damaged ones too, with their `problem`. Raises StorageError."""
    going = {info.key.rpartition("/")[2] for info in store.list(TOMBSTONES)}
    found = []
    for info in store.list(_KEYS):
        name = info.key.rpartition("/")[2]
        try:
            found.append(_decode(name, store.get(info.key), going=name in going))
        except MissingObject:
            continue  # removed since the listing
    return sorted(found, key=lambda one: (one.n, one.created, one.id))


def pick(files: Iterable[KeyFile], prefix: str) -> KeyFile:
    """The key whose id begins so. Raises UsageError where none or several do."""
    prefix = prefix.lower()
    matches = [one for one in files if one.id.startswith(prefix)]
    if len(prefix) < _PREFIX_AT_LEAST:
        raise UsageError(
            f'"{prefix}" is too short for the id of a key', hint=f"Give {_PREFIX_AT_LEAST} characters or more"
        )
    if len(matches) != 1:
        count = "no key" if not matches else f"{len(matches)} keys"
        raise UsageError(f"the repository has {count} of an id that begins with {prefix}", hint="`list` shows all")
    return matches[0]


def add_key(store: ObjectStore, key: MasterKey, password: str, *, n: int = keys.RECOVERY_N) -> str:
    """Store a key file for another password; its id. Raises UsageError for a low N with a password not derived."""
    raw = keys.make_key_file(key, password, n=n)
    name = hashlib.sha256(raw).hexdigest()
    store.put(f"{_KEYS}{name}", raw, sha256=name)
    return name


def remove_key(store: ObjectStore, key_id: str, *, keep: Sequence[str]) -> None:
    """Remove a key file (its whole id). Afterwards each password of `keep` still opens the repository.

    Raises KeyNeeded where one would not; nothing is changed then.
    """
    if not keep:
        raise KeyNeeded(f"key {key_id[:8]} stays: no password was named that is to go on opening the repository")
    _require(read_keys(store), key_id, keep)
    by = {"time": time_string(int(store.clock() * 1e9)), "username": keys.username(), "hostname": socket.gethostname()}
    new = store.put_if_absent(f"{TOMBSTONES}{key_id}", orjson.dumps({"key": key_id, **by}))
    try:
        _require(read_keys(store), key_id, keep)
    except KeyNeeded:
        if new:
            store.delete(f"{TOMBSTONES}{key_id}")
        raise
    store.delete(f"{_KEYS}{key_id}")


def _require(files: Sequence[KeyFile], leaving: str, keep: Sequence[str]) -> None:
    staying = [one for one in files if one.id != leaving and not one.going]
    for password in keep:
        if not any(one.opens(password) for one in staying):
            raise KeyNeeded(
                f"key {leaving[:8]} stays: no other opens with a password that is in use",
                hint="`holdfast keys SOURCE password` replaces it by a new one",
            )


def _decode(name: str, raw: bytes, *, going: bool) -> KeyFile:
    if hashlib.sha256(raw).hexdigest() != name:
        return KeyFile(name, raw, going=going, problem="damaged: its bytes do not hash to its name")
    try:
        fields = orjson.loads(raw)
        created, username, hostname = (str(fields[key]) for key in ("created", "username", "hostname"))
        return KeyFile(name, raw, created, username, hostname, int(fields["N"]), going)
    except (ValueError, KeyError, TypeError) as error:
        return KeyFile(name, raw, going=going, problem=f"damaged: not the JSON that was expected ({error!r})")


def opening(files: Iterable[KeyFile], passwords: Sequence[str]) -> Iterator[tuple[KeyFile, str, MasterKey]]:
    """The keys that these passwords open, each with the first that does, and the master key in it."""
    for one in files:
        for password in passwords:
            key = one.opens(password)
            if key is not None:
                yield one, password, key
                break
