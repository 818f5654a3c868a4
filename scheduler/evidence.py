"""Evidence from the sites: what a repository's own snapshots say of its sources.

Only asked where the ledger knows nothing, beside the tick: a few threads a site, so that a site that is away, or slow,
holds up nobody else; so many repositories at once; and not more often than every half minute where one failed. An
answer that has not come yet is no answer: until then nothing of that source is due.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from scheduler.due import horizon
from shared.config.looking import look_at
from shared.errors import ConfigError, HoldfastError, StorageError
from shared.evidence import evidence_in
from shared.observability.structured import structlog
from shared.storage.api import Transient

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.model import Evidence
    from shared.storage.api import ObjectStore

AT_ONCE = 500  # repositories of a site that wait for their turn
_THREADS = 4  # a site
_AGAIN = 30.0  # seconds after which one that failed is asked again
_KNOWN = 60.0  # seconds for which an answer holds; a backup that is opened ends that
_LET_COME = 1.0  # seconds for which a tick waits for answers

_log = structlog.get_logger("holdfast.scheduler")


class StillAsking(Exception):
    """The site has not answered yet."""


class SiteEvidence:
    """Reads from sites, and remembers for a while what it read, failures too."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._sharing: dict[str, list[str]] = {}  # repositories, and their sources
        for name in fleet.sources:
            self._sharing.setdefault(fleet.repository_of(name), []).append(name)
        self._sites: dict[str, _Site] = {}

    def ask(self, sources: Iterable[tuple[str, str]], *, seconds: float = _LET_COME) -> None:
        """Begin to ask for sources, each (source, site), and give the answers so many seconds to come.

        Only what begins now is waited for: a site that hangs costs that time once, and not at each tick.
        """
        asked: dict[str, set[str]] = {}
        for source, site in sources:
            if site not in self._sites:
                self._sites[site] = _Site(self._fleet, site)
            repository = self._fleet.repository_of(source)
            if self._sites[site].ask(repository):
                asked.setdefault(site, set()).add(repository)
        until = time.monotonic() + seconds
        for site, repositories in asked.items():
            self._sites[site].wait(repositories, until - time.monotonic())

    def __call__(self, source: str, site: str) -> Evidence | None:
        """What the site says; None for a source that has no snapshot there, for certain.

        Raises StillAsking; StorageError, RepositoryError or ConfigError where it can't be known.
        """
        if site not in self._sites:
            raise StillAsking
        known = self._sites[site].answer(self._fleet.repository_of(source))
        return known.get(self._fleet.source(source).first_name)

    def drop(self, source: str) -> None:
        """Forget what was read of a source: a backup of it was opened, and the next answer will be another."""
        for site in self._sites.values():
            site.drop(self._fleet.repository_of(source))

    def close(self) -> None:
        """Ask nothing more. What is under way is left to end by itself."""
        for site in self._sites.values():
            site.close()


class _Site:
    """The questions to one site. Guarded by `_change`; a thread holds it only between two questions."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet, self._name = fleet, name
        self._change = threading.Condition()
        self._queue: deque[str] = deque()
        self._asked: set[str] = set()  # queued, or under way
        self._answers: dict[str, tuple[float, dict[str, Evidence] | HoldfastError]] = {}
        self._away: tuple[float, HoldfastError] | None = None
        self._threads = 0
        self._opening = threading.Lock()
        self._access: tuple[ObjectStore, bytes] | None = None

    def ask(self, repository: str) -> bool:
        """Whether it was not asked for yet, and is now."""
        with self._change:
            if repository in self._asked or len(self._asked) >= AT_ONCE or self._known(repository) is not None:
                return False
            self._asked.add(repository)
            self._queue.append(repository)
            if self._threads < min(_THREADS, len(self._asked)):
                self._threads += 1
                threading.Thread(target=self._work, name=f"evidence-{self._name}", daemon=True).start()
            return True

    def wait(self, repositories: set[str], seconds: float) -> None:
        with self._change:
            self._change.wait_for(lambda: not repositories & self._asked, max(0.0, seconds))

    def answer(self, repository: str) -> dict[str, Evidence]:
        with self._change:
            known = self._known(repository)
        if known is None:
            raise StillAsking
        if isinstance(known, HoldfastError):
            raise known
        return known

    def drop(self, repository: str) -> None:
        with self._change:
            self._answers.pop(repository, None)

    def close(self) -> None:
        with self._change:
            self._queue.clear()

    def _known(self, repository: str) -> dict[str, Evidence] | HoldfastError | None:
        now = time.monotonic()
        if self._away and now - self._away[0] < _AGAIN:
            return self._away[1]
        at, known = self._answers.get(repository, (0.0, None))
        holds = _AGAIN if isinstance(known, HoldfastError) else _KNOWN
        return known if known is not None and now - at < holds else None

    def _work(self) -> None:
        while True:
            with self._change:
                if not self._queue:
                    self._threads -= 1
                    return
                repository = self._queue.popleft()
            answer = self._read(repository)
            with self._change:
                self._asked.discard(repository)
                self._answers[repository] = (time.monotonic(), answer)
                if isinstance(answer, Transient | ConfigError):  # the site itself, or what opens it: no use to go on
                    self._away = (time.monotonic(), answer)
                    self._asked.difference_update(self._queue)
                    self._queue.clear()
                elif not isinstance(answer, StorageError):
                    self._away = None
                self._change.notify_all()

    def _opened(self) -> tuple[ObjectStore, bytes]:
        """The site, which its threads share, and the fleet's secret. Raises ConfigError, StorageError."""
        with self._opening:
            if self._access is None:
                self._access = self._fleet.open_site(self._name), self._fleet.secret.read()
            return self._access

    def _read(self, name: str) -> dict[str, Evidence] | HoldfastError:
        try:
            latest = horizon(datetime.now(UTC))
            store, secret = self._opened()
            return evidence_in(look_at(self._fleet, name, self._name, store, secret, latest).told, latest)
        except HoldfastError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a thread's end is seen by nobody
            _log.exception("a site can't be asked for evidence", site=self._name, repository=name)
            return HoldfastError(f"repository {name} at {self._name}: {error!r}")
