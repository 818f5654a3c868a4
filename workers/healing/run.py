"""A healing from beginning to end: look, heal, look again, until all is whole or nothing more can be done.

    own older versions     of what was overwritten in a versioned bucket: they are the nearest
    keys and config        from another site, as nothing can be opened without them, see `access`
    look                   a verification, as it always is
    heal what was found    see `mending`; what was touched is read whole by the next look
    look again             ... the last look is the report

So whether something is healed is said by a verification, never by whoever has healed it. What no site has is named by
that, too, with the snapshots and files that suffer. A first look costs what a verification costs, each later one that
of the structure and of what was touched; there are two where packs are replaced by the same bytes, and three where
blobs had to be taken from other packs. Killed at any moment it leaves a repository that is no worse than it was.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from shared.errors import Interrupted, RepositoryError
from shared.repository.heal import heal
from shared.storage.api import Denied, ObjectStore, VersionedStore
from workers.access import is_remote, open_repository, preload, repository_store
from workers.careful import stop_at_sigterm
from workers.healing.access import Access
from workers.healing.mending import Mending
from workers.healing.others import Others
from workers.helpers import HelperPool
from workers.limits import obey
from workers.maintenance import verify_helper
from workers.maintenance.spec import Healing, Problem, VerifyReport, VerifySpec
from workers.maintenance.verify import Verify

OnEvent = Callable[[dict[str, Any]], None]

ROUNDS = 8  # at most: each but the last has healed something
_TICK = 0.25  # seconds between two words on progress


def run_healing(spec: VerifySpec, on_event: OnEvent) -> VerifyReport:
    """Verify what `spec` says, and heal what is found. To be called where there is one thread: it forks.

    The report is that of the last look, with `healing`. Raises what `run_verify` raises; Locked where a prune or a
    forget does not end.
    """
    began = time.monotonic()
    stop_at_sigterm()
    notes = obey(spec.limits)
    for site in (spec.site, *spec.others):
        preload(site)
    count = spec.helpers or len(os.sched_getaffinity(0)) * (2 if is_remote(spec.site) else 1)
    pool = HelperPool(count, verify_helper.main)
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-") as temporary:
            report = _Healing(spec, on_event, pool, temporary).run()
    except KeyboardInterrupt:
        raise Interrupted("the healing was interrupted", hint="What is healed stays so; run it again") from None
    finally:
        pool.close()
    report.notes = [*notes, *report.notes]
    report.duration = time.monotonic() - began
    return report


class _Healing:
    def __init__(self, spec: VerifySpec, on_event: OnEvent, pool: HelperPool, temporary: str) -> None:
        self._spec = spec
        self._on_event = on_event
        self._pool = pool
        self._temporary = temporary
        self._notes = [f"site {name} was not asked: its credentials can't be read here" for name in spec.left_out]
        self._done = Healing(dry_run=spec.dry_run)
        self._ticked = 0.0

    def run(self) -> VerifyReport:
        spec = self._spec
        cache_dir = spec.cache_dir or self._temporary
        store = repository_store(spec.site, spec.repository)
        others = Others(spec.others, spec.repository, cache_dir, self._note, lambda: False)
        try:
            self._older_versions(store)
            access = Access(store, others, spec.passwords, self._done)
            access.heal()
            report = self._only_access() if access.broken and spec.dry_run else self._rounds(others)
        finally:
            others.close()
            store.close()
        report.notes = [*dict.fromkeys(self._notes + report.notes)]
        report.healing = self._done
        return report

    def _rounds(self, others: Others) -> VerifyReport:
        try:
            repo = open_repository(self._spec.site, self._spec.repository, self._spec.passwords)
        except RepositoryError as error:
            if not self._done.lost:
                raise
            return self._only_access(str(error.args[0]))
        repo.require_writable()
        mending = Mending(repo, self._spec, others, self._done, self._progress)
        look = self._look(0)
        report = look.run()
        self._done.found += report.errors
        read = [report.packs_read, report.bytes_read]
        for number in range(1, ROUNDS + 1):
            if not report.errors or not mending.round(look.found) or self._spec.dry_run:
                break
            look = self._look(number, mending)
            report = look.run()
            read[0] += report.packs_read
            read[1] += report.bytes_read
        report.packs_read, report.bytes_read = read
        self._notes += mending.notes
        return report

    def _look(self, number: int, mending: Mending | None = None) -> Verify:
        """Damaged index files make what is cached worthless, so each look has a place of its own."""
        temporary = os.path.join(self._temporary, f"look-{number}")
        os.mkdir(temporary)
        if mending is None:
            return Verify(self._spec, self._on_event, self._pool, temporary)
        again = mending.touched | mending.broken
        return Verify(self._spec, self._on_event, self._pool, temporary, again=again, absent=mending.broken)

    def _older_versions(self, store: ObjectStore) -> None:
        try:
            if not isinstance(store, VersionedStore) or not store.keeps_versions():
                return
            found = heal(store, lambda: self._progress("versions", 0, 0), dry_run=self._spec.dry_run)
        except Denied as error:
            self._note(f"older versions were not looked at: {error.args[0]}")
            return
        self._done.looked_at = found.looked_at
        self._done.found += len(found.healed)
        for key in found.healed:
            self._done.heal(key, "older version")
        for key in found.lost:
            self._done.lose(key, "it was overwritten, and no older version of it is whole")

    def _only_access(self, why: str = "") -> VerifyReport:
        """Nothing else can be looked at before the repository opens. `why`: it was tried."""
        report = VerifyReport(repository=self._spec.repository, site=self._spec.site.id)
        if why:
            report.add(Problem("error", "repository", why))
        for key in [] if why else self._done.healed:
            report.add(Problem("error", key, "it is damaged or missing, and could be healed"))
        self._note("the rest can only be looked at once that is healed")
        return report

    def _note(self, text: str) -> None:
        self._notes.append(text)

    def _progress(self, phase: str, done: int, total: int) -> None:
        if time.monotonic() - self._ticked >= _TICK:
            self._ticked = time.monotonic()
            said = {"phase": phase, "done": done, "total": total, "errors": self._done.found}
            self._on_event({"event": "progress", **said})
