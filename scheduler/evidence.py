"""Evidence from the sites: what a repository's own snapshots say of a source.

Only asked where the ledger knows nothing, and not more often than every half minute for one source: a site that is
gone must not hold up the tick for the others.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from scheduler.due import evidence_of
from shared.config.opening import open_repository
from shared.errors import HoldfastError
from shared.repository.errors import RepositoryMissing
from shared.storage.api import MissingObject

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.model import Evidence

_AGAIN = 30.0  # seconds


class SiteEvidence:
    """Reads from sites, and remembers for a while what it read, failures too."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seen: dict[tuple[str, str], tuple[float, Evidence | HoldfastError | None]] = {}

    def __call__(self, source: str, site: str) -> Evidence | None:
        """What the site says; None for a source that has no snapshot there, for certain.

        Raises StorageError, RepositoryError or ConfigError where that can't be known.
        """
        at, seen = self._seen.get((source, site), (0.0, None))
        if not at or time.monotonic() - at > _AGAIN:
            try:
                seen = self._read(source, site)
            except HoldfastError as error:
                seen = error
            self._seen[source, site] = (time.monotonic(), seen)
        if isinstance(seen, HoldfastError):
            raise seen
        return seen

    def _read(self, source: str, site: str) -> Evidence | None:
        name = self._fleet.repository_of(source)
        try:
            repository = open_repository(self._fleet, name, site).repository
        except (RepositoryMissing, MissingObject):
            return None
        return evidence_of(source, repository.snapshots())
