"""Key files follow: a password that was added at one site opens the repository at the other, too; one removed does not.

Invariant: a key that was removed on purpose at either end is put at neither, and no removal leaves a password that is
in use without a key (`keyring.remove_key`). Only names are compared; a file is read where it is to be put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.repository.keyring import KeyNeeded, remove_key
from shared.storage.api import MissingObject

if TYPE_CHECKING:
    from shared.storage.api import ObjectStore

_KEYS = "keys/"
_AT_ONCE = 16  # a site that makes up key files fills no other with them


@dataclass(slots=True)
class Followed:
    """The ids of key files that were put, and that were removed, at the site that follows."""

    put: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def follow_keys(
    origin: ObjectStore,
    target: ObjectStore,
    removed_there: Collection[str],
    removed_here: Collection[str],
    keep: Sequence[str],
) -> Followed:
    """Let the `target` have the key files that the `origin` has.

    `removed_there`, `removed_here`: what tombstones name at the origin, and at the target. `keep`: passwords that go on
    opening the repository. Safe to repeat from any step. Raises StorageError.
    """
    done = Followed()
    theirs, ours = _names(origin), _names(target)
    for name in sorted(ours & set(removed_there)):
        try:
            remove_key(target, name, keep=keep)
            done.removed.append(name)
        except KeyNeeded as error:
            done.notes.append(f"{error.args[0]}, at {target.url} too, though it was removed at {origin.url}")
    for name in sorted(theirs - ours - set(removed_there) - set(removed_here))[:_AT_ONCE]:
        try:
            raw = origin.get(_KEYS + name)
        except MissingObject:
            continue  # removed since the listing
        if hashlib.sha256(raw).hexdigest() != name:
            done.notes.append(f"key {name[:8]} at {origin.url} is damaged, and was not copied")
            continue
        target.put(_KEYS + name, raw, sha256=name)
        done.put.append(name)
    return done


def _names(store: ObjectStore) -> set[str]:
    return {info.key.rpartition("/")[2] for info in store.list(_KEYS)}
