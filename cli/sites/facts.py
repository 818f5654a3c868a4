"""How the sites stand: what the register says of each, and what would be lost if it died now.

What a site has is known from the ledger, and of sources of which that knows nothing from the site itself. `survey` is
pure; `gather` asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from shared import topology
from shared.errors import ConfigError, HoldfastError, LedgerError
from shared.topology.lag import from_ledger, newest, read_site
from shared.topology.moves import at_site, primaries_of
from shared.topology.register import Standing

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.health.observation import Observation
    from shared.topology.register import View

_READ_AT_MOST = 200  # sources of a site of which the ledger knows nothing and that are looked for there unasked

Have: TypeAlias = Mapping[str, Mapping[str, str | None]]  # site, source: newest slot; empty: none; None: not known


@dataclass(frozen=True, slots=True)
class Loss:
    """What only one site has. Slots; `elsewhere` is the newest at any other, empty for none."""

    source: str
    newest: str
    elsewhere: str


@dataclass(frozen=True, slots=True)
class Row:
    """One site. `behind`: sources of which its newest is older than the primary's; `unknown`: of which nobody knows."""

    site: str
    witness: bool
    standing: Standing
    error: str = ""
    primary_of: int = 0
    stands_in_for: tuple[str, ...] = ()
    replaced_by: str = ""
    newest: str = ""
    behind: int = 0
    unknown: int = 0
    lost: tuple[Loss, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All of them. `outside`: sites of the configuration that do not vote; `ledger`: whether Redis answered.

    `seen`: what was seen of the sites lately, as far as Redis tells.
    """

    epoch: int
    claimant: str
    voted: bool
    settled: bool
    ledger: bool
    rows: tuple[Row, ...]
    outside: tuple[str, ...] = ()
    seen: tuple[Observation, ...] = ()

    @property
    def is_well(self) -> bool:
        """Whether every member answers and agrees, and they have voted, where they are several."""
        if not self.voted:
            return len(self.rows) == 1 and self.rows[0].standing is not Standing.SILENT
        return all(row.standing is Standing.AGREES for row in self.rows)


def gather(fleet: Fleet, view: View, *, ask_all: bool = False) -> Report:
    """Ask the ledger, and the sites that answer, what there is of each source. Raises ConfigError."""
    state = view.state
    primaries = primaries_of(fleet)
    sources = list(primaries)
    keepers = [name for name in state.keepers if name in fleet.sites and not fleet.site(name).witness]
    have: dict[str, dict[str, str | None]] = {site: dict.fromkeys(sources) for site in keepers}
    known = not ask_all and _from_ledger(fleet, have, sources)
    problems = _from_sites(fleet, view, have, ask_all=ask_all)
    wanted = {site: _copies_at(fleet, sources, site) for site in keepers}
    return Report(
        epoch=state.epoch.number,
        claimant=state.epoch.claimant,
        voted=view.voted,
        settled=view.settled,
        ledger=known,
        rows=survey(view, primaries, have, wanted, problems),
        outside=tuple(name for name in fleet.sites if name not in state.members),
        seen=seen_of_sites(fleet),
    )


def survey(
    view: View,
    primaries: Mapping[str, str],
    have: Have,
    wanted: Mapping[str, frozenset[str]],
    problems: Mapping[str, str],
) -> tuple[Row, ...]:
    """A row for each member. `wanted`: of which sources each is to have copies; `problems`: why one can't say."""
    state = view.state
    first = {source: state.primary(configured) for source, configured in primaries.items()}
    rows = []
    for site in state.members:
        error = view.errors.get(site)
        own = have.get(site, {})
        expected = {*wanted.get(site, ()), *(source for source in own if site in {first[source], primaries[source]})}
        here = {source for source in own if source in expected or own[source]}
        rows.append(
            Row(
                site=site,
                witness=site in state.witnesses,
                standing=view.standing[site],
                error=str(error.args[0]) if error and view.voted else problems.get(site, ""),
                primary_of=len(at_site(state, primaries, site)),
                stands_in_for=tuple(name for name, to in sorted(state.stand_ins.items()) if to == site),
                replaced_by=state.stand_ins.get(site, ""),
                newest=max((slot for slot in own.values() if slot), default=""),
                behind=sum((own[one] or "") < (have.get(first[one], {}).get(one) or "") for one in here),
                unknown=sum(own[one] is None for one in here),
                lost=tuple(_lost(site, have)),
            )
        )
    return tuple(rows)


def _lost(site: str, have: Have) -> list[Loss]:
    found = []
    for source, slot in have.get(site, {}).items():
        elsewhere = max((of.get(source) or "" for name, of in have.items() if name != site), default="")
        if slot and slot > elsewhere:
            found.append(Loss(source, slot, elsewhere))
    return sorted(found, key=lambda one: (one.elsewhere, one.source))  # what is nowhere else first


def seen_of_sites(fleet: Fleet) -> tuple[Observation, ...]:
    """What was seen of them lately, by site and place; nothing where Redis is away."""
    from shared.health.events import looked_up
    from shared.messaging.client import ledger_of

    with suppress(LedgerError, ConfigError):
        found = looked_up(fleet, ledger_of(fleet)).values()
        return tuple(sorted(found, key=lambda one: (one.site, one.place, one.observer)))
    return ()


def _from_ledger(fleet: Fleet, have: Mapping[str, dict[str, str | None]], sources: Sequence[str]) -> bool:
    from shared.messaging.client import ledger_of

    for site, own in have.items():
        found = from_ledger(fleet, lambda: ledger_of(fleet), site, sources)
        if found is None:
            return False
        own.update(found)
    return True


def _from_sites(
    fleet: Fleet, view: View, have: Mapping[str, dict[str, str | None]], *, ask_all: bool
) -> dict[str, str]:
    """Fill in what is not known yet; gives why a site can't say."""
    problems: dict[str, str] = {}

    def read(site: str) -> None:
        asked = [source for source, slot in have[site].items() if slot is None]
        try:
            found = read_site(fleet, site, asked if ask_all else asked[:_READ_AT_MOST])
        except HoldfastError as error:
            problems[site] = str(error.args[0])
            return
        have[site].update({source: newest(points) for source, points in found.items()})

    answering = [site for site in have if view.standing.get(site) not in {None, Standing.SILENT}]
    with ThreadPoolExecutor(max(1, len(answering))) as threads:
        list(threads.map(read, answering))
    return problems


def _copies_at(fleet: Fleet, sources: Sequence[str], site: str) -> frozenset[str]:
    now = topology.current(fleet)
    return frozenset(source for source in sources if site in topology.copying(fleet, now, source))
