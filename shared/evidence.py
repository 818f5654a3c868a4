"""What a repository's own snapshots say of its sources: which slots are served at that site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.ledger.model import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.repository.snapshot import Told

_NEVER = Evidence()


def evidence_of(source: str, snapshots: Iterable[Told], latest: str = "") -> Evidence | None:
    """What a repository's snapshots say of a source; None where there is none of it.

    Slots later than `latest` don't count.
    """
    return evidence_in(snapshots, latest).get(source)


def evidence_in(snapshots: Iterable[Told], latest: str = "") -> dict[str, Evidence]:
    """The same of each source that shares the repository."""
    found: dict[str, Evidence] = {}
    for snapshot in snapshots:
        slot = snapshot.serves
        if latest and slot > latest:
            continue
        known = found.get(snapshot.source, _NEVER)
        full = snapshot.serves_full
        if not latest or full <= latest:
            known = Evidence(known.last, max(known.last_full, full))
        found[snapshot.source] = Evidence(max(known.last, slot), known.last_full)
    return found
