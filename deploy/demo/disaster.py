"""The second half: the primary site is lost, another takes its place, the control plane is lost, and all come back."""

from __future__ import annotations

import os
import time

from grounds import DemoFailed, content, differences, mb, number, wait_for
from stage import OTHER, SITE, SOURCE, Stage

from shared import topology
from shared.ledger.model import Run, RunKind


class Disaster:
    """The steps, in order. Each says what it proves, and fails where it does not. `measures`: for the report."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.measures: dict[str, str] = {}
        self.killed = 0.0  # monotonic
        self.lost: set[str] = set()  # snapshots that only the lost site has

    def replicated(self) -> str:
        """Started again, with nothing to be told: what the second site lacks arrives there."""
        self.stage.up()
        count = wait_for(self._caught_up, "the second site to catch up")
        size = sum(self.stage.names(OTHER, "data").values())
        return f"site {OTHER} has caught up: all {count} snapshots, {mb(size)}, by replication"

    def primary_lost(self) -> str:
        """In the instant after a backup was committed: the worst one."""
        before = set(self.stage.names(SITE, "snapshots"))
        there = wait_for(lambda: self._names(SITE) - before, "a backup to be committed", every=0.01) | before
        place = self.stage.places[SITE]
        place.lose()
        self.killed, at = time.monotonic(), time.time()
        here = set(self.stage.names(OTHER, "snapshots"))
        self.lost = there - here
        wait_for(lambda: self._primary() == OTHER, f"site {OTHER} to take its place", every=0.02)
        seconds = time.monotonic() - self.killed
        newest = max(one.time for one in self.stage.repository(OTHER).snapshots()) / 1e9
        self.measures["from the loss of the primary to another in its place"] = f"{seconds:.1f} s"
        self.measures["RPO: age of the newest snapshot elsewhere when it was lost"] = f"{at - newest:.1f} s"
        self.measures["committed, and at no other site"] = f"{len(self.lost)} of {len(there)} snapshots"
        only = (
            f"{len(self.lost)} snapshot only there" if len(self.lost) == 1 else f"{len(self.lost)} snapshots only there"
        )
        return f"{place.lost}, the primary site: {OTHER} takes its place after {seconds:.1f} s; {only}"

    def goes_on(self) -> str:
        """Backups and restores, at the other site."""
        path = os.path.join(self.stage.files, "project", "README.md")
        with open(path, "a") as file:
            file.write("\nwritten while site a was lost\n")
        wanted = content(path)

        def has_it() -> Run | None:
            run = self.stage.newest_backup()
            found = run is not None and run.result.get("site") == OTHER and number(run, "files_changed")
            return run if found else None

        run = wait_for(has_it, f"a backup to site {OTHER}", 120)
        seconds = time.monotonic() - self.killed
        self.measures["RTO: from the loss to the first new backup elsewhere"] = f"{seconds:.1f} s"
        target = os.path.join(self.stage.root, "back-from-b")
        began = time.monotonic()
        self.stage.holdfast("restore", f"{SOURCE}:{path}", "--snapshot", str(run.result["snapshot"]), "--to", target)
        if content(os.path.join(target, "README.md")) != wanted:
            raise DemoFailed(f"{path} came back different from site {OTHER}")
        self.measures["a file restored from the other site"] = f"{time.monotonic() - began:.1f} s"
        return f"a backup to {OTHER} {seconds:.1f} s after the loss; a file restored from there: identical"

    def control_plane_lost(self) -> str:
        """Redis with all that it knew, scheduler, workers, failover worker: gone in one instant."""
        self.stage.kill_up()
        before = self._names(OTHER)
        self.stage.up()
        wait_for(self._redis_answers, "Redis", every=0.02)
        began = time.monotonic()
        self.stage.holdfast("rebuild", "--site", OTHER)
        seconds = time.monotonic() - began
        known = self.stage.ledger.evidence(SOURCE, OTHER)
        if known is None or not known.last_full:
            raise DemoFailed("the ledger does not know again what site b has")
        run = wait_for(self.stage.newest_backup, "the next backup")
        if run.request.kind is RunKind.FULL or not self._names(OTHER) > before:
            raise DemoFailed(f"expected an incremental, and found {run.request.kind.value}")
        self.measures["rebuild of an empty Redis"] = f"{seconds:.1f} s"
        return (
            f"kill -9 all of Holdfast, delete Redis's data: rebuilt from the sites in {seconds:.1f} s, no needless full"
        )

    def site_back(self) -> str:
        """With what only it had: that is copied here, what it missed is copied there."""
        began = time.monotonic()
        self.stage.places[SITE].come_back()
        wait_for(lambda: self.lost <= self._names(OTHER) and self._caught_up(), "the sites to be alike", 90)
        seconds = time.monotonic() - began
        self.measures["from its return until both sites had all"] = f"{seconds:.1f} s"
        found = f"{len(self.lost)} found only there" if self.lost else "nothing was only there"
        return f"site {SITE} is back: both ways in {seconds:.1f} s, {found}, nothing lost"

    def failed_back(self) -> str:
        """By hand, and only where it lacks nothing."""

        def given() -> bool:
            try:
                self.stage.holdfast("failback", SITE, "--yes", "--why", "it is back")
            except DemoFailed as error:
                if "lacks" not in str(error) and "does not know yet" not in str(error):
                    raise
                return False  # a backup was committed, or the site came back, a moment ago
            return True

        wait_for(given, "the failback", every=0.5)
        before = self._names(SITE)
        wait_for(lambda: self._primary() == SITE and self._names(SITE) - before, f"a backup to site {SITE}")
        return f"failback: backups go to {SITE} again"

    def both_whole(self) -> str:
        """Stock restic reads each site by itself, without Holdfast."""
        self.stage.stop_up()
        for site in (SITE, OTHER):
            self.stage.restic(site, "check", "--read-data", "--no-lock")
            target = os.path.join(self.stage.root, f"whole-{site}")
            self.stage.restic(site, "restore", "latest", "--target", target)
            different = differences(self.stage.files, target + self.stage.files)
            if different:
                raise DemoFailed(f"from site {site} {len(different)} entries differ, the first: {different[0]}")
        gone = self.lost - self._names(SITE) - self._names(OTHER)
        if gone:
            raise DemoFailed(f"committed, and now at no site: {', '.join(sorted(gone))}")
        return "Holdfast stopped; stock restic at each site: check --read-data clean, restored identical"

    def _redis_answers(self) -> bool:
        self.stage.ledger.ping()  # raises LedgerAway until then
        return True

    def _names(self, site: str) -> set[str]:
        return set(self.stage.names(site, "snapshots"))

    def _primary(self) -> str:
        return topology.current(self.stage.fleet).primary(SOURCE)

    def _caught_up(self) -> int:
        """How many snapshots both sites have, once the one that is not the primary lacks none of them; else 0."""
        primary = self._primary()
        have = self._names(primary)
        return len(have) if have <= self._names(OTHER if primary == SITE else SITE) else 0
