"""Which sites get copies of a source's snapshots, besides its primary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared.topology.current import Topology

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.models import Copies


def copying(fleet: Fleet, now: Topology, source: str) -> tuple[str, ...]:
    """The sites that get copies of a source under this topology; none without `copies`. Raises ConfigError."""
    policy = fleet.policy_for(source)
    if policy is None or policy.copies is None:
        return ()
    keeping = {name: site.region for name, site in fleet.sites.items() if not site.witness and name in now.members}
    configured = fleet.configured_primary(source)
    return copy_sites(policy.copies, keeping, source=source, configured=configured, primary=now.primary(source))


def copy_sites(
    copies: Copies, sites: Mapping[str, str], *, source: str, configured: str, primary: str
) -> tuple[str, ...]:
    """The same, purely. `sites`: those that keep copies, each with its region.

    Where another site stands in for the `configured` primary, that one gets copies in its place: it has most of them
    already. Sites that are drawn are drawn by a hash of source and site, so that a site more, or one less, moves as few
    copies as can be; across regions one of each region comes first.
    """
    if copies.sites is not None:
        named = dict.fromkeys((configured, *copies.sites))
        return tuple(name for name in named if name != primary and name in sites)
    drawn = sorted(
        (name for name in sites if name != primary), key=lambda name: (name != configured, _rank(source, name))
    )
    if copies.across == "regions":
        drawn = _spread(drawn, sites, sites.get(primary))
    return tuple(drawn[: copies.number])


def _rank(source: str, site: str) -> bytes:
    return hashlib.sha256(f"holdfast copies 1\0{source}\0{site}".encode()).digest()


def _spread(drawn: list[str], sites: Mapping[str, str], first: str | None) -> list[str]:
    """Those of regions that have none yet, then the others."""
    seen = {first}
    ahead: list[str] = []
    for name in drawn:
        if sites[name] not in seen:
            seen.add(sites[name])
            ahead.append(name)
    return [*ahead, *(name for name in drawn if name not in ahead)]
