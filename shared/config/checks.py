"""What no single part of the file can see: that names refer to something, and that places do not overlap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shared.config.problems import Path, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.config.limits import SiteLimits
    from shared.config.models import FleetFile, Policy, Source

DEFAULT_REGION = "local"
RESTORES = ".restore"  # what the name of a host's restore queue ends with, and so no host's name may


def check(file: FleetFile) -> Iterator[tuple[Path, str]]:
    """Every contradiction between parts, as the path of its key and the reason."""
    yield from _sites(file)
    yield from _policies(file)
    yield from _repositories(file)
    for number, host in enumerate(file.hosts):
        yield from _host(("hosts", number), host)
    yield from _limits(file)
    for name, source in file.sources.items():
        yield from _host(("sources", name, "host"), source.host or "")
        if source.hooks is not None:
            # Left out in silence, a database would be read without the freeze that its owner relies on.
            yield ("sources", name, "hooks"), "this release runs no programs around a backup; take them out"


def not_done(file: FleetFile) -> Iterator[str]:
    """What the file asks for and this release does not do, though nothing is lost by it: for a person to know."""
    for name, policy in file.policies.items():
        if policy.copies is not None:
            yield f"policies.{name}.copies: this release makes no copies at other sites"


def policy_of(source: Source, policies: Iterable[Policy]) -> Policy | None:
    """The first policy of the file that selects this source."""
    return next((policy for policy in policies if policy.select.matches(source.labels)), None)


def _host(place: Path, host: str) -> Iterator[tuple[Path, str]]:
    if host.endswith(RESTORES):
        yield place, f'expected a name that does not end in "{RESTORES}", as the queues of restores do'


def _sites(file: FleetFile) -> Iterator[tuple[Path, str]]:
    regions = list(file.regions) or [DEFAULT_REGION]
    keeping = [name for name, site in file.sites.items() if not site.witness]
    if not keeping:
        yield ("sites",), "expected at least one site that is no witness"
    seen: dict[str, str] = {}
    for name, site in file.sites.items():
        if site.region and site.region not in regions:
            yield ("sites", name, "region"), _unknown("region", site.region, regions)
        elif not site.region and len(regions) > 1:
            yield ("sites", name), f"expected a region, since there are {len(regions)}: {', '.join(regions)}"
        url = site.url.rstrip("/")
        if url in seen:
            yield ("sites", name, "url"), f"is the place of site {seen[url]} too"
        seen.setdefault(url, name)


def _policies(file: FleetFile) -> Iterator[tuple[Path, str]]:
    keeping = [name for name, site in file.sites.items() if not site.witness]
    for name, policy in file.policies.items():
        place: Path = ("policies", name)
        if policy.primary:
            yield from _keeps_copies((*place, "primary"), policy.primary, file, keeping)
        elif len(keeping) > 1:
            yield place, f"expected a primary, since there are {len(keeping)} sites: {', '.join(keeping)}"
        if policy.copies and policy.copies.sites:
            for number, site in enumerate(policy.copies.sites):
                yield from _keeps_copies((*place, "copies", "sites", number), site, file, keeping)
        if policy.copies and policy.copies.number and policy.copies.number >= len(keeping):
            reason = f"expected at most {len(keeping) - 1}, with {len(keeping)} sites and one of them primary"
            yield (*place, "copies", "number"), reason
        for site in policy.retention.sites if policy.retention else ():
            yield from _keeps_copies((*place, "retention", "sites", site), site, file, keeping)
        if policy.timezone != "UTC" and not _is_timezone(policy.timezone):
            yield (*place, "timezone"), _no_timezone(policy.timezone)
    yield from _shadowed(file)


def _keeps_copies(place: Path, site: str, file: FleetFile, keeping: list[str]) -> Iterator[tuple[Path, str]]:
    if site not in file.sites:
        yield place, _unknown("site", site, keeping)
    elif file.sites[site].witness:
        yield place, f"{site} is a witness, which keeps no copies"


def _shadowed(file: FleetFile) -> Iterator[tuple[Path, str]]:
    """A policy whose every source an earlier one takes does nothing, and nobody would notice."""
    policies = list(file.policies.values())
    for number, (name, policy) in enumerate(file.policies.items()):
        meant = [source for source in file.sources.values() if policy.select.matches(source.labels)]
        takers = [taker.id for source in meant if (taker := policy_of(source, policies[:number])) is not None]
        if meant and len(takers) == len(meant):
            reason = f"each source that it selects is taken by a policy above it ({', '.join(sorted(set(takers)))})"
            yield ("policies", name), f"{reason}: the first policy counts, so put this one first"


def _repositories(file: FleetFile) -> Iterator[tuple[Path, str]]:
    """No repository may lie inside another: `repos/db/data/` is a folder of repository db."""
    ids = {source.repository or name: name for name, source in file.sources.items()}
    for repository, name in ids.items():
        parts = repository.split("/")
        for count in range(1, len(parts)):
            outer = "/".join(parts[:count])
            if outer in ids:
                key: Path = ("sources", name, "repository") if file.sources[name].repository else ("sources", name)
                yield key, f"repository {repository} would lie inside repository {outer} of source {ids[outer]}"


def _limits(file: FleetFile) -> Iterator[tuple[Path, str]]:
    places: list[tuple[Path, SiteLimits]] = [(("limits",), file.limits)]
    places += [(("sites", name, "limits"), site.limits) for name, site in file.sites.items()]
    for place, limits in places:
        for key, line in (("upload", limits.upload), ("download", limits.download)):
            if line is not None and line.timezone and not _is_timezone(line.timezone):
                yield (*place, key, "timezone"), _no_timezone(line.timezone)


def _no_timezone(name: str) -> str:
    return f'expected a time zone as "Europe/Berlin", found "{name}"'


def _is_timezone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        return False
    return True


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    return f'there is no {what} "{name}"{nearest(name, known)}; there are: {", ".join(known) or "none"}'
