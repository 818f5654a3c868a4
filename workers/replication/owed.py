"""What is owed: the snapshots of a source that the other site should have and has not, the newest first.

Invariant: what was forgotten on purpose, at either end, is not brought back; and nothing is copied that the other
site's retention would forget again. Its rules are applied to all that both sites have, as if it had them: so what it
would keep does not depend on what arrived first, and a site that keeps less is sent nothing twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from shared.repository.committed import FORGOTTEN
from shared.repository.holds import read_holds
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.repository.status import Gathered
from shared.retention import Point, decide
from shared.storage.api import Denied, Permanent, StoreFull
from workers.replication.spec import ReplicateSpec


@dataclass(slots=True)
class Plan:
    """What is to be done, as it stands now."""

    owed: list[Snapshot] = field(default_factory=list)  # the newest first
    there: list[Snapshot] = field(default_factory=list)  # the source's, that the other site has
    damaged: dict[str, str] = field(default_factory=dict)  # snapshots of the origin that can't be read, and why
    forgotten: set[str] = field(default_factory=set)  # what tombstones name at the origin: snapshots and keys
    forgotten_there: set[str] = field(default_factory=set)
    gathered: Gathered = field(default_factory=Gathered)  # all that the other site has


def make_plan(origin: Repository, target: Repository | None, spec: ReplicateSpec) -> Plan:
    """Look at both ends; nothing is changed. Without a `target` there is no repository yet. Raises StorageError."""
    plan = Plan()
    forgotten = plan.forgotten = _forgotten(origin)
    here = {one.id: one for one in origin.snapshots(lambda name, why: _note(plan, name, why.args[0]))}
    there: dict[str, Snapshot] = {}
    holds: dict[str, str] = {}
    now = time.time()
    if target is not None:
        plan.forgotten_there = _forgotten(target)
        forgotten = plan.forgotten | plan.forgotten_there
        # One whose bytes are damaged there is not there: it is brought over again.
        there = {one.id: one for one in plan.gathered.through(target.snapshots(lambda *_: None))}
        now = _clock(target, now)
        holds = {name: hold.why for name, hold in read_holds(target).items() if hold.counts(now)}
    plan.there = [one for one in there.values() if one.source == spec.tagged]
    for name in [*there, *forgotten]:
        plan.damaged.pop(name, None)
    # Of stock restic's own, which bear no source, no rule forgets any.
    missing = [one for name, one in here.items() if name not in there and name not in forgotten]
    union = [*plan.there, *(one for one in missing if one.source == spec.tagged)]
    points = [Point(one.id, one.time, one.complete) for one in union]
    verdicts = decide(points, spec.rules, holds, now, ZoneInfo(spec.timezone))
    kept = {one.id for one in verdicts if one.kept}
    owed = [one for one in missing if one.id in kept or not one.source]
    plan.owed = sorted(owed, key=lambda one: (one.time, one.id), reverse=True)
    return plan


def _note(plan: Plan, name: str, why: str) -> None:
    plan.damaged[name] = why


def _forgotten(repo: Repository) -> set[str]:
    return {info.key.rpartition("/")[2] for info in repo.store.list(FORGOTTEN)}


def _clock(repo: Repository, otherwise: float) -> float:
    """The store's time; where it can't be written to, as a directory's takes, this host's."""
    try:
        return repo.store.clock()
    except (Denied, Permanent, StoreFull):
        return otherwise
