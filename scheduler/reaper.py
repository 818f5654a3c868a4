"""The reaper: sees after runs that nobody claimed, and after those whose worker has died.

In this order, for a run whose lease ran out:
1. Its holder is fenced, in the ledger, by one script: whatever it says from now on is `lost`.
2. It is rung again; or it has died too often, and is ended as failed with that for a reason.
3. Its repository lock is removed, so that nobody waits half an hour for a dead worker.

The third may take a while or fail, so it is noted with the first, done beside the tick, one thread a site, and tried
again until it is done. Only a lock of this very run goes, and only one that is older than the fence: the next attempt
writes one of the same name. Both ages are spans of time, each by one clock, so the clocks need not agree. Where an
engine was killed under a supervisor that lives, that says which process, and that one's lock goes, however young.

A host's agent writes its own realm as it likes. So what is fenced there counts for a backup of a source of that very
host, and for no other: else an agent could have the lock of another's live backup removed.

With it goes a look for the run's snapshot. A worker that died after it was put had done its work, and what exists is
not called cancelled or failed, whatever was said of the run meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared import topology
from shared.config.opening import open_repository
from shared.errors import ConfigError, HoldfastError, LedgerError
from shared.ledger.model import Evidence, RunState, Word
from shared.messaging.names import realm_of
from shared.observability import logs
from shared.observability.structured import structlog
from shared.repository.committed import committed
from shared.repository.errors import RepositoryMissing
from shared.repository.locks import STALE, LockInfo, read_locks
from shared.storage.api import MissingObject

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Fence, Ledger
    from shared.ledger.model import Run
    from shared.repository.repository import Repository

AGAIN = 30.0  # seconds after which a site that failed is asked again
_REASON_AT_MOST = 300  # characters: an agent may say anything, again and again
_SITE_AT_MOST = 100
_MARGIN = 2.0  # seconds by which a lock must be older than the fence: some stores count in whole ones

_log = structlog.get_logger("holdfast.scheduler")


def reap(
    fleet: Fleet, runs: Iterable[Run], ring: Callable[[Sequence[tuple[str, str]]], object]
) -> tuple[list[str], list[Run]]:
    """Ring for what `sweep.reap` found: the ids that were rung again, and the runs that were given up.

    Raises what `ring` raises.
    """
    rung, ended = [], []
    for run in runs:
        with _about(fleet, run):
            if run.state is RunState.QUEUED:
                _log.info("rung again", reason=run.error[:_REASON_AT_MOST] or "was not claimed")
                rung.append((run.id, run.request.queue))
            else:
                _log.warning("given up", state=run.state.value, reason=run.error[:_REASON_AT_MOST])
                ended.append(run)
    ring(rung)
    return [run_id for run_id, _ in rung], ended


def _about(fleet: Fleet, run: Run) -> AbstractContextManager[None]:
    request = run.request
    site = topology.site_of(fleet, request)[:_SITE_AT_MOST]
    about = {"source": request.source, "kind": request.kind.value, "site": site}
    return logs.about_run(run=run.id, **about, attempt=run.attempt)


@dataclass(frozen=True, slots=True)
class _Fenced:
    """A fence, as this process read it at `asked` (monotonic)."""

    ledger: Ledger
    run: Run
    fence: Fence
    repository: str
    asked: float
    sites: set[str]  # that are still to be looked at; a replication has a lock at two

    def left(self, lock: LockInfo) -> bool:
        """Whether the lock is its holder's."""
        if not lock.hostname.endswith(f"/holdfast/{self.fence.run_id}"):
            return False
        if self.fence.pid:
            return lock.pid == self.fence.pid
        return lock.age > self.fence.since + time.monotonic() - self.asked + _MARGIN


class Unlocker:
    """Removes the repository locks of holders that were fenced. A site that is away holds up nothing else.

    `fleet` may be replaced by a newer one; what has been begun goes on by the old one.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._threads: dict[str, threading.Thread] = {}
        self._failed: dict[str, float] = {}  # sites, and when they failed, in monotonic seconds

    def __call__(self, ledger: Ledger) -> None:
        """Begin with what a realm has to be unlocked, and don't wait for it. Raises LedgerAway and LedgerError."""
        work: dict[str, list[_Fenced]] = {}
        for fence in ledger.fenced():
            place = None if fence.since > STALE else self._place(ledger, fence.run_id)
            if place is None:
                ledger.unfence(fence)  # its lock counts no more, or it never had one
                continue
            sites, repository, run = place
            fenced = _Fenced(ledger, run, fence, repository, time.monotonic(), set(sites))
            for site in sites:
                work.setdefault(site, []).append(fenced)
        for site, theirs in work.items():
            busy = self._threads.get(site)
            if (busy and busy.is_alive()) or time.monotonic() - self._failed.get(site, -AGAIN) < AGAIN:
                continue
            thread = threading.Thread(target=self._unlock, args=(site, theirs), name=f"unlock-{site}", daemon=True)
            self._threads[site] = thread
            thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for what has been begun."""
        for thread in self._threads.values():
            thread.join(seconds)

    def _place(self, ledger: Ledger, run_id: str) -> tuple[list[str], str, Run] | None:
        """Sites, repository and run of one that locks under its id; None where it is gone, or is none of those."""
        run = ledger.get(run_id)
        if run is None or not run.request.kind.locks_by_id or not self._is_its_own(ledger.host, run):
            return None
        sites = [site for site in topology.sites_of(self.fleet, run.request) if site in self.fleet.sites]
        try:
            return (sites, self.fleet.repository_of(run.request.source), run) if sites else None
        except ConfigError:
            return None  # the source is no longer configured

    def _is_its_own(self, host: str, run: Run) -> bool:
        source = self.fleet.sources.get(run.request.source)
        return not host or (source is not None and realm_of(run.request.kind, source) == host)

    def _unlock(self, site: str, work: list[_Fenced]) -> None:
        try:
            for fenced in work:
                with _about(self.fleet, fenced.run):
                    repository = self._open(site, fenced.repository)
                    if repository is not None:
                        _remove(repository, fenced)
                        _amend(repository, site, fenced)
                fenced.sites.discard(site)
                if not fenced.sites:
                    fenced.ledger.unfence(fenced.fence)
        except LedgerError as error:
            _log.warning("Redis is away; locks are looked for again", site=site, reason=str(error))
        except HoldfastError as error:
            self._failed[site] = time.monotonic()
            _log.warning("locks of dead workers can't be removed now", site=site, runs=len(work), reason=str(error))
        except Exception:  # noqa: BLE001 - a thread's end is seen by nobody
            self._failed[site] = time.monotonic()
            _log.exception("locks of dead workers can't be removed", site=site)

    def _open(self, site: str, name: str) -> Repository | None:
        try:
            return open_repository(self.fleet, name, site).repository
        except (RepositoryMissing, MissingObject):
            return None


def _remove(repository: Repository, fenced: _Fenced) -> None:
    store = repository.store
    for lock in read_locks(store, repository.load, now=store.clock()):
        if fenced.left(lock):
            store.delete(f"locks/{lock.id}")
            _log.info("removed the lock of a dead worker", lock=str(lock))


def _amend(repository: Repository, site: str, fenced: _Fenced) -> None:
    """After its lock is gone: from then on nobody can put the snapshot any more."""
    run = fenced.ledger.get(fenced.fence.run_id)
    if run is None or run.state not in {RunState.FAILED, RunState.CANCELLED}:
        return
    snapshot = committed(repository, run.id)
    if snapshot is None:
        return
    result = {
        "snapshot": snapshot.id,
        "kind": snapshot.tag("kind"),
        "source": run.request.source,
        "repository": fenced.repository,
        "site": site,
        "complete": snapshot.complete,
        "unreadable": snapshot.unreadable,
        "existed": True,
    }
    slot = snapshot.tag("slot")
    evidence = Evidence(slot, slot if snapshot.tag("kind") == "full" else "")
    fenced.ledger.note_evidence(run.request.source, site, evidence)
    state = RunState.SUCCEEDED if snapshot.complete else RunState.INCOMPLETE
    if fenced.ledger.amend(run.id, state, result) is Word.FINISHED:
        _log.info("its snapshot stands: not failed, nor cancelled", was=run.state.value)
