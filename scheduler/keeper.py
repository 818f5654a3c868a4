"""Keeps the repository locks of runs that were cut in shards, while their shards wait for workers.

Each is looked at every minute, beside the tick, in one thread a site: refreshed where its run is open, removed where
it is over. That it is looked at is noted in the ledger with the cut itself, so another scheduler goes on with it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from shared import topology
from shared.config.opening import open_repository
from shared.errors import ConfigError, HoldfastError, LedgerError
from shared.observability import logs
from shared.observability.structured import structlog
from shared.repository.keptlock import KeptLock

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Run

EVERY = 60.0  # seconds between two looks at one lock

_log = structlog.get_logger("holdfast.scheduler")


class LockKeeper:
    """See the module. `fleet` may be replaced by a newer one."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._threads: dict[str, threading.Thread] = {}

    def __call__(self, pools: Ledger) -> None:
        """Begin with what is to be looked at, and don't wait for it. Raises LedgerAway and LedgerError."""
        work: dict[str, list[tuple[str, str, Run]]] = {}
        for run_id in pools.cut_runs():
            run = pools.get(run_id)
            place = self._place(run) if run is not None else None
            if run is None or place is None:
                pools.keep_lock(run_id, 0)  # it is forgotten: its lock counts no more in half an hour
                continue
            site, repository = place
            work.setdefault(site, []).append((run_id, repository, run))
        for site, runs in work.items():
            busy = self._threads.get(site)
            if busy is None or not busy.is_alive():
                thread = threading.Thread(target=self._keep, args=(pools, site, runs), name=f"keep-{site}", daemon=True)
                self._threads[site] = thread
                thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for what has been begun."""
        for thread in self._threads.values():
            thread.join(seconds)

    def _place(self, run: Run) -> tuple[str, str] | None:
        site = topology.site_of(self.fleet, run.request)
        try:
            return (site, self.fleet.repository_of(run.request.source)) if site in self.fleet.sites else None
        except ConfigError:
            return None  # the source is no longer configured

    def _keep(self, pools: Ledger, site: str, runs: list[tuple[str, str, Run]]) -> None:
        for run_id, repository, run in runs:
            about = {"source": run.request.source, "kind": run.request.kind.value, "site": site}
            with logs.about_run(run=run_id, **about, attempt=run.attempt):
                try:
                    pools.keep_lock(run_id, EVERY)  # first: where the site does not answer it is asked again then
                    lock = KeptLock(open_repository(self.fleet, repository, site).repository, run_id)
                    if not run.is_over:
                        lock.renew()
                    elif self._forget(pools, run_id):
                        lock.release()
                except LedgerError as error:
                    _log.warning("Redis is away; locks are kept by whoever works on a shard", reason=str(error))
                except HoldfastError as error:
                    _log.warning("the lock of a run that was cut can't be kept now", reason=str(error))
                except Exception:  # noqa: BLE001 - a thread's end is seen by nobody
                    _log.exception("the lock of a run that was cut can't be kept")

    def _forget(self, pools: Ledger, run_id: str) -> bool:
        """Whether the run is over for good: a failed slot may have been opened and cut again meanwhile."""
        pools.keep_lock(run_id, 0)
        run = pools.get(run_id)
        if run is None or run.is_over:
            return True
        pools.keep_lock(run_id, EVERY)
        return False
