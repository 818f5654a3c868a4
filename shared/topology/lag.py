"""How far one site is behind another: what it lacks, source by source.

The sites themselves say it where they answer. Of a site that is gone the ledger knows the newest snapshot of each
source (its evidence); where Redis is gone too, nobody does, and that is said. The rest is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.config.opening import open_repository
from shared.errors import HoldfastError
from shared.ledger import sweep
from shared.ledger.model import is_slot, slot_time
from shared.repository.errors import RepositoryMissing

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Ledger
    from shared.repository.snapshot import Snapshot

_THREADS = 8  # repositories of a site that are read at once


@dataclass(frozen=True, slots=True)
class Point:
    """One snapshot. `slot`: its own, or when it began, as evidence counts.

    `same`: what it has in common with its copies, those of stock `restic copy` too, which have other ids.
    """

    id: str
    slot: str
    same: str


@dataclass(frozen=True, slots=True)
class Lack:
    """What a site lacks of one source that another has. `newest`: the other's newest slot, None where nobody knows.

    `has`: its own newest slot, empty for none. `snapshots`: those that it lacks, as far as they can be named.
    """

    source: str
    newest: str | None
    has: str
    snapshots: tuple[str, ...] = ()

    def within(self, rpo: float | None, now: float) -> bool:
        """Whether no more is lost than was agreed on: what the site has is no older than the RPO (seconds)."""
        return rpo is not None and bool(self.has) and now - slot_time(self.has).timestamp() <= rpo

    def describe(self) -> str:
        """For people, and for the history."""
        newest = "what the other has is not known" if self.newest is None else f"newest {self.newest}"
        count = f", {len(self.snapshots)} snapshots" if len(self.snapshots) > 1 else ""
        return f"{self.source}: {newest}{count}, here {self.has or 'none'}"


def points_of(snapshots: Iterable[Snapshot]) -> dict[str, list[Point]]:
    """What a repository has of each source, oldest first."""
    found: dict[str, list[Point]] = {}
    for one in snapshots:
        point = Point(one.id, one.serves, f"{one.time} {one.tree.hex()}")
        found.setdefault(one.source, []).append(point)
    return {source: sorted(points, key=lambda point: (point.slot, point.id)) for source, points in found.items()}


def lacking(theirs: Sequence[Point], ours: Sequence[Point]) -> list[Point]:
    """What they have after the newest that both have: what is older, retention may have taken away here."""
    here = {one.same for one in ours}
    common = max((one.slot for one in theirs if one.same in here), default="")
    return [one for one in theirs if one.same not in here and one.slot >= common]


def lacks(theirs: Mapping[str, Sequence[Point]], ours: Mapping[str, Sequence[Point]]) -> list[Lack]:
    """What we lack of each of their sources."""
    found = []
    for source, points in theirs.items():
        own = ours.get(source, ())
        if missing := lacking(points, own):
            found.append(Lack(source, points[-1].slot, newest(own), tuple(one.id for one in missing)))
    return found


def thought_lost(
    sources: Iterable[str], known: Mapping[str, str | None], ours: Mapping[str, Sequence[Point]]
) -> list[Lack]:
    """The same where the other can't be asked. `known`: its newest slots; empty: it has none; None: not known."""
    found = []
    for source in sources:
        theirs, own = known.get(source), newest(ours.get(source, ()))
        if theirs is None or theirs > own:
            found.append(Lack(source, theirs, own))
    return found


def newest(points: Sequence[Point]) -> str:
    """The newest slot; empty for none."""
    return points[-1].slot if points else ""


# -- asking -----------------------------------------------------------------------------------------


def read_site(fleet: Fleet, site: str, sources: Iterable[str]) -> dict[str, list[Point]]:
    """What a site has of each of these sources. Raises ConfigError, StorageError, RepositoryError."""
    sharing: dict[str, list[str]] = {}
    for source in sources:
        sharing.setdefault(fleet.repository_of(source), []).append(source)

    def read(repository: str) -> dict[str, list[Point]]:
        try:
            opened = open_repository(fleet, repository, site).repository
        except RepositoryMissing:
            return {}
        try:
            return points_of(opened.snapshots())
        finally:
            opened.store.close()

    with ThreadPoolExecutor(_THREADS, thread_name_prefix=f"lag-{site}") as threads:
        parts = threads.map(read, sharing)
        return {
            source: part.get(fleet.source(source).first_name, [])
            for part, names in zip(parts, sharing.values(), strict=True)
            for source in names
        }


def from_ledger(
    fleet: Fleet, ledger: Callable[[], Ledger], site: str, sources: Sequence[str]
) -> dict[str, str | None] | None:
    """The newest slots that the ledger knows at a site, None for a source of which it knows nothing.

    None altogether where Redis is away. What backups have left is known in the realm of the source's host, what
    replications have in the pools'.
    """
    places = [
        (host, source, site) for source in sources for host in dict.fromkeys((fleet.source(source).host or "", ""))
    ]
    try:
        states = sweep.states(ledger(), tuple(places))
    except HoldfastError:
        return None
    known = dict.fromkeys(sources, "")
    for (_, source, _), state in zip(places, states, strict=True):
        if is_slot(state.last):  # a host's agent says what it likes of its own source
            known[source] = max(known[source], state.last)
    return {source: slot or None for source, slot in known.items()}
