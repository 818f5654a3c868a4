"""What is due: a pure function of a policy's schedules, the evidence, and the time. No diary, no side effects.

A slot is a time at which a schedule wants a run: each time of a cron line (in the policy's time zone, right across
daylight saving), or each multiple of an interval since 1970. A snapshot serves every slot up to its own. So, with the
newest slot that has passed of each schedule:

    full         due where no full one serves the newest full slot; at once where there is none at all
    incremental  due where no snapshot serves the newest incremental slot, and no full one is due

Several missed slots are served by one run, which takes the newest of them; a full one takes the newest slot of either
schedule, so that the incremental is served with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim

from shared.ledger.model import Evidence, RunKind, slot_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.repository.snapshot import Snapshot

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = Evidence()


class Schedule(Protocol):
    """A cron line of five or six fields (interval None), or an interval in seconds."""

    @property
    def text(self) -> str:
        """The cron line."""

    @property
    def interval(self) -> float | None:
        """Seconds, or None for a cron line."""


@dataclass(frozen=True, slots=True)
class Due:
    """A run that is wanted now."""

    kind: RunKind
    slot: str


def newest_slot(schedule: Schedule, now: datetime, timezone: str = "UTC") -> datetime | None:
    """The newest slot that is not after `now` (which has a time zone), in UTC; None for a line that never came true."""
    if schedule.interval is not None:
        passed = (now - _EPOCH).total_seconds() // schedule.interval
        return _EPOCH + timedelta(seconds=passed * schedule.interval)
    # CronSim gives what lies strictly before its start, to the second or minute: start just after now.
    start = now.astimezone(ZoneInfo(timezone)).replace(microsecond=0) + timedelta(seconds=1)
    for slot in CronSim(schedule.text, start, reverse=True):
        found: datetime = slot.astimezone(UTC)
        if found <= now:
            return found
    return None


@dataclass(frozen=True, slots=True)
class Slots:
    """The newest slot that has passed of each schedule of a policy, as `slot_text`; empty where there is none."""

    full: str
    incremental: str
    scheduled: bool  # whether the policy has any schedule


def newest_slots(full: Schedule | None, incremental: Schedule | None, now: datetime, timezone: str = "UTC") -> Slots:
    """What has passed of a policy's schedules at `now`."""
    return Slots(_text(full, now, timezone), _text(incremental, now, timezone), bool(full or incremental))


def due(slots: Slots, evidence: Evidence | None, now: datetime) -> Due | None:
    """The one run that is due now, if any. `evidence` None says that there is no snapshot, for certain."""
    known = evidence or _NEVER
    newest = max(slots.full, slots.incremental)
    if not known.last or (slots.full and not known.last_full):
        return Due(RunKind.FULL, newest or slot_text(now)) if slots.scheduled else None
    if slots.full > known.last_full:
        return Due(RunKind.FULL, newest)
    if slots.incremental > known.last:
        return Due(RunKind.INCREMENTAL, slots.incremental)
    return None


def evidence_of(source: str, snapshots: Iterable[Snapshot]) -> Evidence | None:
    """What a repository's snapshots say of a source; None where there is none of it.

    A snapshot without a slot (made with --direct) counts from when it began.
    """
    last = last_full = ""
    for snapshot in snapshots:
        if snapshot.source != source:
            continue
        began = datetime.fromtimestamp((snapshot.began or snapshot.time) // 1_000_000_000, UTC)
        slot = snapshot.tag("slot") or slot_text(began)
        last = max(last, slot)
        last_full = max(last_full, snapshot.tag("lastfull"), slot if snapshot.tag("kind") == "full" else "")
    return Evidence(last, last_full) if last else None


def _text(schedule: Schedule | None, now: datetime, timezone: str) -> str:
    slot = newest_slot(schedule, now, timezone) if schedule else None
    return slot_text(slot) if slot else ""
