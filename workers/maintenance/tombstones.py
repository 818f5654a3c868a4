"""Tombstones that have served: which of those at a site may go.

Invariant: a tombstone goes only when nothing can need it any more. It is 90 days old by the store's clock; what it
names, a snapshot or a key file, is at none of the repository's sites, each of which has answered just now; and no
commit stands that names the snapshot: `forget` deletes commits first, else a run that is looked at again would bring
back what was forgotten. What can't be read, asked or told for sure keeps the tombstone: it costs a few hundred bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from shared.errors import ConfigError, StorageError
from shared.repository.committed import COMMITS, FORGOTTEN, SNAPSHOTS
from shared.repository.errors import Damaged
from shared.repository.gojson import parse_time
from shared.storage.api import MissingObject, ObjectInfo
from workers.access import open_site, repository_store

if TYPE_CHECKING:
    from shared.repository.repository import Repository
    from shared.storage.api import ObjectStore
    from workers.backup.spec import SiteSpec

AT_ONCE = 1000  # of one forget, which holds an exclusive lock meanwhile
_KEYS = "keys/"
_ID = re.compile(r"[0-9a-f]{64}")


def old_enough(listed: Iterable[ObjectInfo], now: float, kept: float) -> list[str]:
    """Those that were written so long ago (seconds), by a listing alone."""
    names = ((info.key.rpartition("/")[2], info.modified) for info in listed)
    return sorted(name for name, at in names if _ID.fullmatch(name) and now - at >= kept)


def unneeded_elsewhere(
    names: Sequence[str], repository: str, others: Sequence[SiteSpec] | None, notes: list[str]
) -> list[str]:
    """Those whose thing is at none of the `others`; none at all where one of these can't be asked (None: none can)."""
    if others is None or not names:
        return []
    left = set(names)
    for site in others:
        try:
            left -= _there(site, repository)
        except (StorageError, ConfigError) as error:
            notes.append(f"no tombstone goes, as site {site.id} can't be asked: {error.args[0]}")
            return []
    return [name for name in names if name in left]


def unneeded_here(repo: Repository, names: Sequence[str], now: float, kept: float) -> list[str]:
    """Those that may go, of some that no other site needs: at most `AT_ONCE`. Raises StorageError."""
    there = _things(repo.store) if names else set()
    going = []
    for name in names:
        if name not in there and _has_served(repo, name, now, kept):
            going.append(name)
            if len(going) == AT_ONCE:
                break
    return going


def _there(site: SiteSpec, repository: str) -> set[str]:
    """What is there at a site. Raises StorageError, ConfigError, where that can't be told for sure too."""
    root = open_site(site)
    try:
        # An empty directory may be a mount point whose disk is away; a bucket is what it says.
        if not site.url.startswith("s3:") and next(iter(root.list("repos/")), None) is None:
            raise ConfigError("there is no repository at all: is it mounted?")
    finally:
        root.close()
    store = repository_store(site, repository)
    try:
        return _things(store)
    finally:
        store.close()


def _things(store: ObjectStore) -> set[str]:
    return {info.key.rpartition("/")[2] for prefix in (SNAPSHOTS, _KEYS) for info in store.list(prefix)}


def _has_served(repo: Repository, name: str, now: float, kept: float) -> bool:
    """Whether it says itself that it is so old, and no commit stands that it explains."""
    try:
        raw = repo.store.get(FORGOTTEN + name)
        told: Any = orjson.loads(raw if raw.startswith(b"{") else repo.open_small(raw))
        if now - parse_time(told["time"]) / 1e9 < kept:
            return False
        run = str(told.get("run", ""))
    except (MissingObject, Damaged, ValueError, LookupError, TypeError, AttributeError):
        return False
    try:
        return not run or hashlib.sha256(repo.store.get(COMMITS + run)).hexdigest() != name
    except MissingObject:
        return True
