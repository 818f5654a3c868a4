"""What is due: a pure function of a policy's slots, the evidence, and the time. No diary, no side effects.

A snapshot serves every slot up to its own. So, with the newest slot that has passed of each schedule (`timetable`):

    full         due where no full one serves the newest full slot; at once where there is none at all
    incremental  due where no snapshot serves the newest incremental slot, and no full one is due

Several missed slots are served by one run, which takes the newest of them; a full one takes the newest slot of either
schedule, so that the incremental is served with it. A run takes a slot that has passed, so it begins after each slot
that it serves.

Evidence that lies more than an hour ahead was made by a clock that was wrong, and says nothing: else one wrong day
would stop backups until that day came. What a clock does that is put back by an hour is nothing: its slots are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from scheduler.timetable import Slots, newest_slot
from shared.ledger.model import Evidence, RunKind, slot_text

if TYPE_CHECKING:
    from scheduler.timetable import Schedule

_TRUSTED = timedelta(hours=1)  # by which evidence may lie ahead
_NEVER = Evidence()


@dataclass(frozen=True, slots=True)
class Due:
    """A run that is wanted now."""

    kind: RunKind
    slot: str
    options: Mapping[str, object] = field(default_factory=dict)  # what its run is told besides


def newest_slots(full: Schedule | None, incremental: Schedule | None, now: datetime, timezone: str = "UTC") -> Slots:
    """What has passed of two schedules at `now`."""
    slots = [newest_slot(one, now, timezone) if one else None for one in (full, incremental)]
    return Slots(*(slot_text(slot) if slot else "" for slot in slots))


def horizon(now: datetime) -> str:
    """The latest slot that evidence may have at `now`."""
    return slot_text(now + _TRUSTED)


def due(slots: Slots, evidence: Evidence | None, now: datetime) -> Due | None:
    """The one run that is due now, if any. `evidence` None says that there is no snapshot, for certain."""
    known = evidence or _NEVER
    newest = max(slots.full, slots.incremental)
    if not known.last or (slots.full and not known.last_full):
        return Due(RunKind.FULL, newest or slot_text(now))
    if slots.full > known.last_full:
        return Due(RunKind.FULL, newest)
    if slots.incremental > known.last:
        return Due(RunKind.INCREMENTAL, slots.incremental)
    return None
