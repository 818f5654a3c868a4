"""When upkeep is due: forgets, prunes, verifications and restore tests. Pure.

Each has a moment of its own in its period, a hash of what it is about, so that a fleet's are spread over it. For an
hour from then on it is due until one has been done. What was missed (the scheduler was down, the repository was locked,
Redis was emptied and nobody knows) is due in one minute of every six hours, by another hash: thousands that were missed
are spread, too, and a machine that is on for a working day comes to it. Doing one again is harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from scheduler.due import Due
from shared.ledger.model import UPKEEP, RunKind, slot_text, slot_time

if TYPE_CHECKING:
    from shared.config.models import Policy

DAY = 86400.0  # seconds, between two forgets of a source
_AT_FIRST = 3600  # seconds
_ROUND = 360  # minutes, in one of which what was missed is due
_ALL = 100.0  # per cent


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Something to be done again and again. Times in seconds."""

    kind: RunKind
    every: int
    moment: int  # of the period
    minute: int  # of the round
    shares: int = 0  # a verification: how many of them read every pack, one after the other; 0: they read none
    heals: bool = False  # a verification: it mends what it finds

    def slot(self, now: float) -> int:
        """The newest one at `now` (POSIX seconds)."""
        since = int(now)
        return since - (since - self.moment) % self.every

    def is_its_time(self, now: float) -> bool:
        """Whether it is due at `now`, if it has not been done."""
        since = int(now)
        return (since - self.moment) % self.every < _AT_FIRST or since // 60 % _ROUND == self.minute


def upkeep(kind: RunKind, about: str, every: float, *, within: float = 0.0, heals: bool = False) -> Upkeep:
    """Of what `about` names. `within`: for how long verifications may take to read every pack; 0: they read none."""
    digest = hashlib.sha256(f"holdfast {kind.value} 1\0{about}".encode()).digest()
    period = max(1, int(every))
    moment, minute = int.from_bytes(digest[:8]) % period, int.from_bytes(digest[8:16]) % _ROUND
    return Upkeep(kind, period, moment, minute, max(1, int(within // period)) if within else 0, heals)


def upkeep_of(
    source: str, site: str, policy: Policy, *, repository: str, prune: float, leads: bool, copy: bool = False
) -> tuple[Upkeep, ...]:
    """What is wanted of a source at its site, or of a `copy`; where it `leads`, also what is of its whole repository.

    `prune`: seconds between two prunes. A copy is not test-restored: it is forgotten from, pruned and verified as its
    primary is.
    """
    wanted: list[Upkeep] = []
    place = f"{repository}\0{site}"
    forgets = policy.retention is not None and policy.retention.rules_at(site) is not None
    if forgets:
        wanted.append(upkeep(RunKind.FORGET, f"{source}\0{site}" if copy else source, DAY))
    if forgets and leads:
        wanted.append(upkeep(RunKind.PRUNE, place, prune))
    if policy.verify and leads:
        within = policy.verify_data or 0.0
        wanted.append(upkeep(RunKind.VERIFY, place, policy.verify, within=within, heals=policy.heal))
    if policy.restore_test and not copy:
        wanted.append(upkeep(RunKind.RESTORE_TEST, source, policy.restore_test))
    return tuple(wanted)


def upkeep_due(wanted: Iterable[Upkeep], done: str, now: float) -> Iterator[Due]:
    """What is due at `now` (POSIX seconds). `done`: the slots of the last ones, as `SourceState` has them."""
    for one in wanted:
        if not one.is_its_time(now):
            continue
        before = done.split(" ")[UPKEEP.index(one.kind)] if done else ""
        slot = one.slot(now)
        text = slot_text(datetime.fromtimestamp(slot, UTC))
        if text > before:
            healing: dict[str, object] = {"heal": True} if one.heals else {}
            yield Due(one.kind, text, {**(_reading(one, slot, before) if one.shares else {}), **healing})


def _reading(one: Upkeep, slot: int, before: str) -> dict[str, object]:
    """The shares of the packs that are due: this slot's, and those of slots that were missed."""
    missed = 1
    if before:
        missed = round((slot - slot_time(before).timestamp()) / one.every)
    turns = min(max(missed, 1), one.shares)
    return {"share": _ALL / one.shares, "rotation": slot // one.every - turns + 1, "turns": turns}
