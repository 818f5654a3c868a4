"""What a repository's own snapshots say of its sources: which slots are served at that site."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared.ledger.model import Evidence, slot_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.repository.snapshot import Snapshot

_NEVER = Evidence()


def slot_served(snapshot: Snapshot) -> str:
    """The slot that a snapshot serves; of one without a slot (made with --direct) when it began."""
    began = datetime.fromtimestamp((snapshot.began or snapshot.time) // 1_000_000_000, UTC)
    return snapshot.tag("slot") or slot_text(began)


def evidence_of(source: str, snapshots: Iterable[Snapshot], latest: str = "") -> Evidence | None:
    """What a repository's snapshots say of a source; None where there is none of it.

    Slots later than `latest` don't count.
    """
    return evidence_in(snapshots, latest).get(source)


def evidence_in(snapshots: Iterable[Snapshot], latest: str = "") -> dict[str, Evidence]:
    """The same of each source that shares the repository."""
    found: dict[str, Evidence] = {}
    for snapshot in snapshots:
        slot = slot_served(snapshot)
        if latest and slot > latest:
            continue
        known = found.get(snapshot.source, _NEVER)
        full = max(snapshot.tag("lastfull"), slot if snapshot.tag("kind") == "full" else "")
        if not latest or full <= latest:
            known = Evidence(known.last, max(known.last_full, full))
        found[snapshot.source] = Evidence(max(known.last, slot), known.last_full)
    return found
