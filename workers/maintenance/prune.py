"""A prune from beginning to end: the coordinator.

    until nothing is left to do:
        shared lock, for as long as it takes, as backups go on: the snapshots are walked, the packs at the site listed
        exclusive lock, five minutes at most: see `prune_slice`
        no lock, for a while, so that backups get their turn

Each slice looks anew at what there is, so it may be killed at any moment, and so may the next.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from shared.errors import Interrupted
from shared.repository.errors import Locked
from shared.repository.locks import RepositoryLock
from shared.repository.status import STATUS, settle_status
from shared.storage.api import Denied, VersionedStore
from workers.access import is_remote, open_index, open_repository, preload
from workers.careful import Guard, boot_clock, stop_signals
from workers.crew import Crew
from workers.helpers import HelperPool
from workers.limits import obey
from workers.maintenance import inventory, prune_helper
from workers.maintenance.prune_slice import Slice
from workers.maintenance.prune_spec import PruneReport, PruneSpec
from workers.maintenance.prune_tools import Tools
from workers.maintenance.prune_walk import Walk

OnEvent = Callable[[dict[str, Any]], None]

_TICK = 0.25  # seconds between two looks at signals and locks
_LITTLE = 0.2  # of a turn's time: what is new since the last walk must be walked in that under the lock
_AGAIN = 2.0  # seconds between two tries to get the lock


def run_prune(spec: PruneSpec, on_event: OnEvent, guard: Guard) -> PruneReport:
    """Prune what `spec` says. To be called in a process without threads or connections: it forks.

    `guard` stands before each batch of deletes: it raises where the epoch has changed. `on_event` gets
    {"event": "progress", "phase", "done", "total"} a few times a second. Raises StaleEpoch, Locked, Damaged where
    something that a snapshot needs is missing, other RepositoryErrors, StorageError, Interrupted; what was begun is
    finished by the next one.
    """
    began = time.monotonic()
    notes = obey(spec.limits)
    preload(spec.site)
    count = spec.helpers or len(os.sched_getaffinity(0)) * (2 if is_remote(spec.site) else 1)
    with stop_signals() as stopping:
        pool = HelperPool(count, prune_helper.main)
        try:
            with tempfile.TemporaryDirectory(prefix="holdfast-") as temporary:
                if spec.cache_dir:
                    os.makedirs(spec.cache_dir, exist_ok=True)
                cache_dir = spec.cache_dir or temporary
                report = _Prune(spec, on_event, guard, stopping, pool, cache_dir).run()
        finally:
            pool.close()
    report.notes += notes
    report.duration = time.monotonic() - began
    return report


class _Prune:
    def __init__(
        self,
        spec: PruneSpec,
        on_event: OnEvent,
        guard: Guard,
        stopping: Callable[[], bool],
        pool: HelperPool,
        cache_dir: str,
    ) -> None:
        self._spec = spec
        self._on_event = on_event
        self._guard = guard
        self._stopping = stopping
        self._said = ("", 0, 0)
        self._ticked = 0.0
        self._lock: RepositoryLock | None = None
        self._repo = repo = open_repository(spec.site, spec.repository, spec.passwords, cache_dir=spec.cache_dir)
        repo.require_writable()
        self._crew = Crew(pool, self._tick)
        self._cache_dir = cache_dir
        connections = max(1, spec.site.connections // len(pool)) if is_remote(spec.site) else 1
        more: dict[str, Any] = {"connections": connections, "pack_size": spec.pack_size, "cache_dir": cache_dir}
        site = asdict(spec.site)
        self._crew.broadcast(("setup", repo.key.to_bytes(), site, spec.repository, repo.restic_id, more))
        self._walk = Walk(repo, self._crew, self._progress)
        self.report = PruneReport(spec.repository, spec.site.id, spec.dry_run)

    def run(self) -> PruneReport:
        spec, report = self._spec, self.report
        if not spec.dry_run:
            self._guard()
        index = None
        try:
            self._take_lock(exclusive=False)
            index = open_index(self._repo, spec.site, spec.repository, self._cache_dir, load=self._load_index)
            tools = Tools(
                self._repo, index, self._crew, self._walk, spec, report, self._guard, self._heed, self._progress
            )
            if spec.dry_run:
                Slice(tools, self._lock, self._prepare()).only_look()
                return report
            while True:
                began = boot_clock()
                if not self._slice(tools):
                    self._clear_status()
                    return report
                # Whoever finds the lock taken tries again after a while: at least every second try must hit a pause.
                self._sleep(max(spec.pause, boot_clock() - began) if spec.pause else 0.0)
                self._take_lock(exclusive=False)
        finally:
            self._give_up_lock()
            if index is not None:
                index.close()

    def _clear_status(self) -> None:
        """Each commit has replaced it: where the store keeps what is replaced, let that go."""
        store = self._repo.store
        with suppress(Denied):  # told already, where there was anything to delete
            if isinstance(store, VersionedStore) and store.keeps_versions():
                store.purge(STATUS)
                self.report.notes += settle_status(self._repo)

    def _slice(self, tools: Tools) -> bool:
        """One turn under the lock; whether another one is wanted."""
        listed = self._prepare()
        self._give_up_lock()
        try:
            self._take_lock(exclusive=True)
        except Locked as error:
            if not self.report.slices:
                raise
            self.report.notes.append(f"left to the next prune: {error.args[0]}")
            self.report.done = False
            return False
        try:
            self.report.slices += 1
            return Slice(tools, self._lock, listed).run()
        finally:
            self._give_up_lock()

    def _prepare(self) -> dict[bytes, tuple[int, float]]:
        """What takes long, while backups go on: walk the snapshots, and list the packs."""
        while True:
            began = boot_clock()
            self._crew.broadcast(("look", []))
            self._walk.walk()
            if boot_clock() - began < _LITTLE * self._spec.slice:
                return self._list_packs()

    def _list_packs(self) -> dict[bytes, tuple[int, float]]:
        """The packs at the site: size in bytes, and when they were stored."""
        listed: dict[bytes, tuple[int, float]] = {}
        for name, info in inventory.named(self._repo.store, "data/", self._look_after):
            if info.key == f"data/{name[:2]}/{name}":
                listed[bytes.fromhex(name)] = info.size, info.modified
        return listed

    def _take_lock(self, *, exclusive: bool) -> None:
        holder = f"{os.uname().nodename}/holdfast/{self._spec.run}"
        give_up = boot_clock() + self._spec.patience
        while True:
            lock = self._repo.lock(holder=holder, exclusive=exclusive)
            try:
                lock.begin()
                self._lock = lock
                if exclusive:  # else it keeps others from disturbing, and nothing rests on it
                    lock.confirm()
            except Locked:
                self._lock = None
                if boot_clock() >= give_up:
                    raise
                self._sleep(_AGAIN)
            else:
                return

    def _give_up_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _load_index(self, name: str) -> Any:
        self._look_after()
        return self._repo.load_index(name)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._heed()
            time.sleep(min(_TICK, max(0.0, end - time.monotonic())))

    def _heed(self) -> None:
        if self._stopping():
            raise Interrupted("the prune was stopped", hint="The next one goes on where it was")

    def _progress(self, phase: str, done: int, total: int) -> None:
        self._said = phase, done, total
        self._look_after()

    def _look_after(self) -> None:
        """Tick, if it is time: for stretches in which the crew does not."""
        if time.monotonic() - self._ticked >= _TICK:
            self._tick()

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self._heed()
        if self._lock is not None:
            self._lock.maintain()
        phase, done, total = self._said
        self._on_event({"event": "progress", "phase": phase, "done": done, "total": total})
