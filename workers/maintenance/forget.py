"""A forget, from the rules to the last deleted commit.

    plan, without a lock: where there is nothing to do, nobody is held up
    exclusive lock -> plan again -> in batches:
        epoch and lock are looked at
        tombstones holdfast/forgotten/<snapshot>, by put-if-absent
        holds of these are looked for again: what was held meanwhile gets its tombstone taken back and stays
        epoch and lock are looked at again, and from here on before each delete that comes 10 s after the last look
        snapshots/<snapshot>
        holdfast/commits/<run>
    tombstones of 90 days ago of what no site has any more (`tombstones`)

That order is what a crash leaves a sound state by. With the tombstone alone the snapshot is still there, and the next
forget decides anew. Without the snapshot, the commit and the tombstone say that its run is superseded: it is not done
again. With the commit gone nothing is left to do; the tombstone stays, for sites that have the snapshot still, and goes
last of all, when no site has it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import orjson

from shared.errors import Interrupted, UsageError
from shared.repository.committed import COMMITS, FORGOTTEN, SNAPSHOTS
from shared.repository.gojson import time_string
from shared.repository.holds import HOLDS, SnapshotNeeded, read_hold, read_holds
from shared.repository.locks import RepositoryLock
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.repository.status import settle_status
from shared.retention import LAST_GOOD, Point, Verdict, decide, protected
from shared.storage.api import Denied, MissingObject, Permanent, StoreFull
from workers.access import open_repository
from workers.careful import stop_signals
from workers.limits import obey
from workers.maintenance.forget_spec import SHOWN, ForgetReport, ForgetSpec
from workers.maintenance.tombstones import old_enough, unneeded_elsewhere, unneeded_here

OnEvent = Callable[[dict[str, Any]], None]
Guard = Callable[[], None]  # raises StaleEpoch

BATCH = 64  # snapshots whose tombstones are written before the first of them is deleted
LOOK = 10.0  # seconds after which a delete is preceded by another look at epoch and lock
_PREFIX_AT_LEAST = 4  # characters of an id that name a snapshot

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True)
class Plan:
    """What is to be done at a site, as it stands now."""

    snapshots: dict[str, Snapshot] = field(default_factory=dict)  # the source's, by id
    verdicts: list[Verdict] = field(default_factory=list)  # one each, newest last
    going: list[Snapshot] = field(default_factory=list)  # to be forgotten, oldest first
    taken_back: list[str] = field(default_factory=list)  # tombstones of snapshots that are there and stay
    leftovers: list[str] = field(default_factory=list)  # commits of runs whose snapshot was forgotten
    damaged: list[str] = field(default_factory=list)
    old: list[str] = field(default_factory=list)  # tombstones that are old enough to go, if nothing needs them
    now: float = 0.0  # by the store's clock

    @property
    def has_work(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self.going or self.taken_back or self.leftovers)


def run_forget(spec: ForgetSpec, on_event: OnEvent, guard: Guard) -> ForgetReport:
    """Forget what `spec` says. `guard` stands before each batch of deletes: it raises where the epoch has changed.

    `on_event` gets {"event": "progress", "phase", "done", "total"}. Raises StaleEpoch, Locked, SnapshotNeeded,
    UsageError, other RepositoryErrors, StorageError, Interrupted; what was begun is finished by the next one.
    """
    began = time.monotonic()
    notes = obey(spec.limits)
    repo = open_repository(spec.site, spec.repository, spec.passwords, cache_dir=spec.cache_dir)
    repo.require_writable()
    with stop_signals() as stopping:
        report = _Forget(spec, repo, on_event, guard, stopping).run()
    report.notes += notes
    report.duration = time.monotonic() - began
    return report


def make_plan(repo: Repository, spec: ForgetSpec) -> Plan:
    """What a forget would do now; nothing is changed. Raises SnapshotNeeded, UsageError, StorageError."""
    store, plan = repo.store, Plan()
    held = read_holds(repo)
    commits = {info.key.rpartition("/")[2] for info in store.list(COMMITS)}
    listed = list(store.list(FORGOTTEN))
    tombstones = {info.key.rpartition("/")[2] for info in listed}
    for snapshot in repo.snapshots(lambda _, error: plan.damaged.append(str(error))):
        commits.discard(snapshot.tag("run"))
        if snapshot.source == spec.tagged:
            plan.snapshots[snapshot.id] = snapshot
    plan.now = now = _clock(repo)
    plan.old = old_enough(listed, now, spec.tombstones)
    holds = {name: hold.why for name, hold in held.items() if hold.counts(now)}
    points = [Point(one.id, one.time, one.complete) for one in plan.snapshots.values()]
    plan.verdicts = decide(points, spec.rules, holds, now, ZoneInfo(spec.timezone))
    going = [one.id for one in plan.verdicts if not one.kept]
    if spec.snapshots:
        going = _named(plan, spec, points, holds, tombstones)
    plan.going = [plan.snapshots[name] for name in going]
    plan.taken_back = sorted(tombstones & (plan.snapshots.keys() - set(going)))
    plan.leftovers = [run for run in sorted(commits) if tombstones and _is_left(repo, run, tombstones)]
    return plan


def _named(
    plan: Plan, spec: ForgetSpec, points: Sequence[Point], holds: Mapping[str, str], tombstones: Iterable[str]
) -> list[str]:
    """The snapshots that a person has named. Raises UsageError, SnapshotNeeded."""
    found = set()
    for given in spec.snapshots:
        start = given.lower()
        names = [name for name in plan.snapshots if name.startswith(start)]
        if len(start) < _PREFIX_AT_LEAST or len(names) > 1:
            raise UsageError(f'"{given}" does not name one snapshot', hint="Give more of its id")
        if not names and not any(name.startswith(start) for name in tombstones):  # else it was forgotten before
            raise UsageError(
                f'source {spec.source} has no snapshot "{given}" at {spec.site.id}',
                hint=f"`holdfast snapshots {spec.source}` lists what is there",
            )
        found.update(names)
    needed = {name: f"under a hold ({why})" for name, why in holds.items()}
    needed |= {name: f"the {why} of its source" for name, why in protected(points).items() if why == LAST_GOOD}
    for name in sorted(found & needed.keys()):
        raise SnapshotNeeded(
            f"snapshot {name[:8]} stays: it is {needed[name]}; nothing was forgotten",
            hint=f"`holdfast retention preview {spec.source}` says why each one stays",
        )
    return [one.id for one in plan.verdicts if one.id in found]


def _is_left(repo: Repository, run: str, tombstones: set[str]) -> bool:
    """Whether a forget was broken off before this commit: its snapshot, which is gone, has a tombstone."""
    try:
        return hashlib.sha256(repo.store.get(COMMITS + run)).hexdigest() in tombstones
    except MissingObject:
        return False


def _clock(repo: Repository) -> float:
    """The store's time; where it can't be written to, as a directory's takes, this host's."""
    try:
        return repo.store.clock()
    except (Denied, Permanent, StoreFull):
        return time.time()


class _Forget:
    def __init__(
        self, spec: ForgetSpec, repo: Repository, on_event: OnEvent, guard: Guard, stopping: Callable[[], bool]
    ) -> None:
        self._spec = spec
        self._repo = repo
        self._on_event = on_event
        self._guard = guard
        self._stopping = stopping
        self._lock: RepositoryLock = repo.lock(holder=f"{os.uname().nodename}/holdfast/{spec.run}", exclusive=True)
        self._looked = 0.0
        self._total = 0
        self.report = ForgetReport(spec.source, spec.repository, spec.site.id, dry_run=spec.dry_run)

    def run(self) -> ForgetReport:
        spec, report = self._spec, self.report
        plan = make_plan(self._repo, spec)
        report.notes = [f"left alone: {problem}" for problem in plan.damaged]
        alone = unneeded_elsewhere(plan.old, spec.repository, spec.others, report.notes)
        served = unneeded_here(self._repo, alone, plan.now, spec.tombstones)
        if spec.dry_run or not (plan.has_work or served):
            report.cleared = len(served)
            report.kept = len(plan.snapshots) - len(plan.going)
            report.forgotten = len(plan.going)
            report.snapshots = [one.id for one in plan.going[:SHOWN]]
            return report
        self._guard()
        self._lock.begin()
        try:
            self._lock.confirm()
            plan = make_plan(self._repo, spec)
            self._total = len(plan.going)
            self._delete([FORGOTTEN + name for name in plan.taken_back])
            self._delete([COMMITS + run for run in plan.leftovers])
            report.finished = len(plan.leftovers)
            for at in range(0, len(plan.going), BATCH):
                self._batch(plan.going[at : at + BATCH])
            self._look()
            served = unneeded_here(self._repo, [name for name in alone if name in plan.old], plan.now, spec.tombstones)
            self._delete([FORGOTTEN + name for name in served])
            report.cleared = len(served)
            if report.forgotten:
                report.notes += settle_status(self._repo)
        finally:
            self._lock.release()
        report.kept = len(plan.snapshots) - report.forgotten
        return report

    def _batch(self, going: Sequence[Snapshot]) -> None:
        self._look()
        store = self._repo.store
        runs = {one.id: one.tag("run") for one in going}
        commits = dict(zip(runs, self._each(lambda name: self._commit_of(runs[name]), list(runs)), strict=True))
        # A snapshot that stock restic has tagged or rewritten has another id than its commit, which stands for both.
        also = {other: one for one, other in commits.items() if other and other != one and not self._is_there(other)}
        dead = {**{name: name for name in runs}, **also}
        now = time_string(int(store.clock() * 1e9))
        sealed = {name: self._tombstone(name, runs[one], now) for name, one in dead.items()}
        new = self._each(lambda name: store.put_if_absent(FORGOTTEN + name, sealed[name]), list(dead))
        written = {name for name, is_new in zip(dead, new, strict=True) if is_new}
        held = self._held(runs)
        self._look()
        back = [name for name, one in dead.items() if one in held and (name in written or name == one)]
        self._delete([FORGOTTEN + name for name in back])
        gone = [name for name in runs if name not in held]
        self._delete([SNAPSHOTS + name for name in gone])
        self._delete([COMMITS + runs[name] for name in gone if commits[name] in {name, *also}])
        self.report.forgotten += len(gone)
        self.report.snapshots += gone[: SHOWN - len(self.report.snapshots)]
        self._on_event({"event": "progress", "phase": "forget", "done": self.report.forgotten, "total": self._total})

    def _commit_of(self, run: str) -> str:
        """The snapshot that a run has committed; empty where there is no commit."""
        try:
            return hashlib.sha256(self._repo.store.get(COMMITS + run)).hexdigest() if run else ""
        except MissingObject:
            return ""

    def _is_there(self, snapshot: str) -> bool:
        try:
            self._repo.store.stat(SNAPSHOTS + snapshot)
        except MissingObject:
            return False
        return True

    def _held(self, names: Mapping[str, str]) -> set[str]:
        """Those of these snapshots that are held now."""
        listed = {info.key.rpartition("/")[2] for info in self._repo.store.list(HOLDS)}
        holds = [read_hold(self._repo, name) for name in names if name in listed]
        now = self._repo.store.clock() if holds else 0.0
        return {hold.snapshot for hold in holds if hold is not None and hold.counts(now)}

    def _tombstone(self, snapshot: str, run: str, now: str) -> bytes:
        fields = {"snapshot": snapshot, "time": now, "run": run}
        fields |= {"source": self._spec.source, "site": self._spec.site.id, "by": self._spec.run}
        return self._repo.seal_small(orjson.dumps(fields))

    def _look(self) -> None:
        """Whether it may go on: nobody has stopped it, the lock is ours, the epoch is what it was."""
        if self._stopping():
            raise Interrupted("the forget was stopped", hint="What was begun is finished by the next one")
        self._lock.maintain()
        self._lock.ensure_held()
        self._guard()
        self._looked = _boot_clock()

    def _delete(self, keys: Sequence[str]) -> None:
        self._each(self._repo.store.delete, keys)

    def _each(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """Do it with each, in order, by as many requests at once as pay; a look at least every 10 s."""
        store, answers = self._repo.store, []
        if store.connections == 1:
            for item in items:
                self._look_again()
                answers.append(work(item))
            return answers
        with ThreadPoolExecutor(store.connections) as threads:
            for at in range(0, len(items), store.connections):
                self._look_again()
                answers += threads.map(work, items[at : at + store.connections])
        return answers

    def _look_again(self) -> None:
        if _boot_clock() - self._looked > LOOK or self._stopping():
            self._look()


def _boot_clock() -> float:
    """Seconds that also pass while this process is frozen, or its machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
