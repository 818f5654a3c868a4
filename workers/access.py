"""From what a spec says of a site to its opened store, repository and index: the same for every engine.

Invariant: nothing here is called before the helpers are forked, but `preload`, which opens nothing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shared.errors import ConfigError
from shared.repository.indexcache import IndexCache, Location
from shared.repository.indexcache.assembly import Load
from shared.repository.pack import BlobType
from shared.repository.repository import Repository
from shared.storage.api import ObjectStore
from shared.storage.open import open_store, parse_url
from workers.backup.spec import SiteSpec

if TYPE_CHECKING:
    from shared.storage.throttled import Throttle

Look = Callable[[], bool]  # what whoever waits for a line looks at: whether to go on at once. It may raise


def is_remote(site: SiteSpec) -> bool:
    """Whether reading from the site waits for a network, so that more requests at once pay."""
    return parse_url(site.url).is_s3


def preload(site: SiteSpec) -> None:
    """Import what the site's kind of store needs before helpers are forked: they then share those pages."""
    importlib.import_module("shared.storage.s3" if is_remote(site) else "shared.storage.directory")
    importlib.import_module("shared.repository.indexcache")
    if site.lines:
        importlib.import_module("shared.storage.throttled")


def open_site(site: SiteSpec, *, connections: int = 0, look: Look | None = None) -> ObjectStore:
    """The site's store, at the pace of its lines. Raises StorageError."""
    from shared.storage.credentials import (
        CredentialsProvider,
        CredentialsSpec,
        credentials_from_command,
        credentials_from_file,
    )

    credentials: CredentialsProvider | CredentialsSpec | None = None
    if site.access_key:
        credentials = CredentialsSpec(site.access_key, site.secret_key, site.session_token or None)
    elif site.credentials_file:
        credentials = credentials_from_file(site.credentials_file)
    elif site.credentials_command:
        credentials = credentials_from_command(site.credentials_command)
    return open_store(
        site.url,
        credentials=credentials,
        ca_file=site.ca_file or None,
        connections=connections or site.connections,
        name=site.id,
        throttle=_throttle(site, look) if site.lines else None,
    )


def _throttle(site: SiteSpec, look: Look | None) -> Throttle:
    from shared.storage.bucket import Bucket
    from shared.storage.rates import Rates
    from shared.storage.throttled import Pacer, Throttle, wait_on

    def pacer(direction: str) -> Pacer | None:
        lines = [line for line in site.lines if line["direction"] == direction]
        buckets = [Bucket(line["bucket"], Rates.from_json(line)) for line in lines]
        return Pacer(buckets, look or wait_on) if buckets else None

    return Throttle(pacer("upload"), pacer("download"))


def repository_store(site: SiteSpec, repository: str, *, connections: int = 0, look: Look | None = None) -> ObjectStore:
    """The store as seen from below the repository; an empty id is a repository at the site's own top."""
    store = open_site(site, connections=connections, look=look)
    return store.below(f"repos/{repository}") if repository else store


def open_repository(site: SiteSpec, repository: str, passwords: list[str], *, cache_dir: str = "") -> Repository:
    """Open the repository; its snapshots are kept below `cache_dir`.

    Raises ConfigError without a password, RepositoryError, StorageError.
    """
    if not passwords:
        raise ConfigError(f"no password was given for repository {repository or site.url}")
    return Repository.open(repository_store(site, repository), *passwords).cached(cache_dir, site.id or site.url)


class WholeFirst:
    """Lookups for reading: a copy in a pack that is there before one in a pack that counts as absent.

    A full backup stores blobs of lost packs again and the old entries stay till a prune, so both are listed.
    Where only the absent one is, it is given, so that whoever reads it can name the pack that is damaged.
    """

    def __init__(self, index: IndexCache, absent: frozenset[bytes]) -> None:
        self._index = index
        self._absent = absent

    def lookup(self, blob_type: BlobType, ids: Sequence[bytes]) -> list[Location | None]:
        """As IndexCache.lookup."""
        found = self._index.lookup(blob_type, ids, self._absent)
        if self._absent and None in found:
            rest = self._index.lookup(blob_type, ids)
            found = [whole or other for whole, other in zip(found, rest, strict=True)]
        return found


def open_index(
    repo: Repository, site: SiteSpec, repository: str, cache_dir: str, *, load: Load | None = None
) -> IndexCache:
    """The index of the repository at this site, cached below `cache_dir`; `load` in place of the repository's own."""
    return IndexCache.open(
        os.path.join(cache_dir, "index"),
        store=repo.store,
        repository_id=repo.restic_id or repository,
        site=site.id or site.url,
        load=load or repo.load_index,
    )
