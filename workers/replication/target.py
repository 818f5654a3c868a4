"""The repository at the other site: found, or made of the origin's own key files and config.

Invariant: a config that is there is never replaced, and keys never join another master key's: what is not the same
repository is an error that says so. Order: key files, then `config` by put-if-absent, as whoever creates one does; so
what is killed in between leaves no repository, and the next one goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

from shared.errors import RepositoryError
from shared.repository.errors import RepositoryMissing, WrongPassword
from shared.repository.keyring import read_keys
from shared.repository.repository import Repository
from shared.storage.api import MissingObject, ObjectStore


class AnotherRepository(RepositoryError):
    """At the other site there lies another repository under the same name."""

    exit_code: ClassVar[int] = 29


def find(store: ObjectStore, origin: Repository, passwords: Sequence[str]) -> Repository | None:
    """The repository at `store`; None where there is none.

    Raises AnotherRepository, WrongPassword, other RepositoryErrors, StorageError.
    """
    try:
        store.stat("config")
    except MissingObject:
        return None
    try:
        found = Repository.open(store, *passwords)
    except RepositoryMissing:
        return None  # there was a moment ago: somebody removes it
    except WrongPassword:
        raise WrongPassword(
            f"there is a repository at {store.url} that opens with no password of the one at {origin.store.url}",
            hint="Nothing was copied. It is another fleet's, or its keys were changed: give this one another place, "
            "or move that one away",
        ) from None
    if (found.restic_id, found.key) != (origin.restic_id, origin.key):
        raise AnotherRepository(
            f"{store.url} has another repository than {origin.store.url}: its config says {found.restic_id[:16]}, "
            f"expected {origin.restic_id[:16]}{'' if found.key == origin.key else ', and its master key is another'}",
            hint="Nothing was copied. Move it away, or give the site another url",
        )
    return found


def create(store: ObjectStore, origin: Repository, passwords: Sequence[str]) -> Repository:
    """Make it of the origin's keys and config; safe to repeat from any step. Raises what `find` raises."""
    there = read_keys(store)
    for one in there:
        for password in passwords:
            key = one.opens(password)
            if key is not None and key != origin.key:
                raise AnotherRepository(
                    f"{store.url} has no config, and key {one.id[:8]} there holds another master key than "
                    f"{origin.store.url}",
                    hint="It is left from another repository: move its `keys/` away",
                )
    have = {one.id for one in there if not one.problem}
    for one in read_keys(origin.store):
        if one.id not in have and not one.going and not one.problem:
            store.put(f"keys/{one.id}", one.raw, sha256=one.id)
    config = origin.store.get("config")
    store.put_if_absent("config", config)
    made = find(store, origin, passwords)
    if made is None:
        raise RepositoryMissing(
            f"the config that was put at {store.url} is not there (its bytes hash to "
            f"{hashlib.sha256(config).hexdigest()[:16]})",
            hint="The site does not keep what it says that it took: look at it before you trust it",
        )
    return made
