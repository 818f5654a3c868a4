"""What no single part of the file can see: that names refer to something, and that places do not overlap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shared.config.choice import PolicyChoice
from shared.config.problems import Path, nearest
from shared.config.programs import hides_failures
from shared.config.scheduling import WEEK
from shared.retention import span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.config.limits import SiteLimits
    from shared.config.models import FleetFile, Policy
    from shared.config.values import Schedule

_LEAST = 3600.0  # seconds between two of the same upkeep
DEFAULT_REGION = "local"
_PIPE = (
    "a shell's pipe ends well where its last program does, so half {what} would pass for a whole one: "
    'begin with ["bash", "-o", "pipefail", "-c", ...]'
)
_PIPES = _PIPE.format(what="a dump") + ", or leave compressing to Holdfast"
RESTORES = ".restore"  # what the name of a host's restore queue ends with, and so no host's name may


def check(file: FleetFile) -> Iterator[tuple[Path, str]]:
    """Every contradiction between parts, as the path of its key and the reason."""
    yield from _secrets(file)
    yield from _sites(file)
    yield from _policies(file)
    yield from _repositories(file)
    for number, host in enumerate(file.hosts):
        yield from _host(("hosts", number), host)
    yield from _limits(file)
    for name, source in file.sources.items():
        yield from _host(("sources", name, "host"), source.host or "")
        if source.command is not None and hides_failures(source.command):
            yield ("sources", name, "command"), _PIPES
        for step in ("fill", "check") if source.scratch is not None else ():
            if hides_failures(getattr(source.scratch, step) or ()):
                yield ("sources", name, "scratch", step), _PIPE.format(what="a restore")
    if file.inventory is not None and hides_failures(file.inventory.command):
        yield ("inventory", "command"), _PIPE.format(what="an answer")


def _secrets(file: FleetFile) -> Iterator[tuple[Path, str]]:
    """A fleet's file has the fleet's secrets. An agent's has none of them, or a stolen server opens everything."""
    fleets = (("secret", file.secret), ("recovery_password", file.recovery_password))
    if not file.agent:
        for key, given in fleets:
            if given is None:
                yield (key,), "is missing"
        if file.machine_passwords is not None:
            yield ("machine_passwords",), "is for an agent's file alone, beside `agent`: here `secret` gives them"
        return
    yield from _host(("agent",), file.agent)
    for key, given in fleets:
        if given is not None:
            yield (key,), f"does not belong into the file of {file.agent}'s agent: it opens every repository"
    if file.machine_passwords is None:
        yield ("machine_passwords",), "is missing"
    if file.inventory is not None:
        yield ("inventory",), "is for a fleet's file: an agent's sources stand in its own file, or in its conf.d"
    for name, source in file.sources.items():
        if source.host != file.agent:
            yield ("sources", name, "host"), f"expected {file.agent}, whose agent's file this is"


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
        yield from _pauses(place, policy)
        yield from _upkeep(place, policy)
    yield from _ties(file)


def _pauses(place: Path, policy: Policy) -> Iterator[tuple[Path, str]]:
    for key in ("full", "incremental"):
        schedule: Schedule | None = getattr(policy, key)
        if policy.jitter and schedule and (gap := schedule.least_gap()) < policy.jitter:
            reason = f"is longer than the {gap:g} s between two slots of {key} ({schedule})"
            yield (*place, "jitter"), reason
    if policy.blackout and len(set[int]().union(*(one.minutes() for one in policy.blackout))) == WEEK:
        yield (*place, "blackout"), "leaves no time at all in which a backup may begin"


def _upkeep(place: Path, policy: Policy) -> Iterator[tuple[Path, str]]:
    for key in ("verify", "verify_data", "restore_test"):
        every: float | None = getattr(policy, key)
        if every is not None and every < _LEAST:
            yield (*place, key), f"is less than an hour ({span(every)}): that is more than upkeep is made for"
    if policy.verify_data and not policy.verify:
        yield (*place, "verify_data"), "needs verify, which says how often; a share of the data is read each time"
    if policy.heal and not policy.verify:
        yield (*place, "heal"), "needs verify, which says how often; what is not looked at is not healed"
    if policy.verify and policy.verify_data and policy.verify_data < policy.verify:
        yield (*place, "verify_data"), f"is shorter than verify ({span(policy.verify)}): a share is read only then"


def _keeps_copies(place: Path, site: str, file: FleetFile, keeping: list[str]) -> Iterator[tuple[Path, str]]:
    if site not in file.sites:
        yield place, _unknown("site", site, keeping)
    elif file.sites[site].witness:
        yield place, f"{site} is a witness, which keeps no copies"


def _ties(file: FleetFile) -> Iterator[tuple[Path, str]]:
    """Which of two policies counts is never left to their order."""
    choice = PolicyChoice(file.policies.values())
    tied: dict[tuple[str, str], list[str]] = {}
    for source in file.sources.values():
        best = choice.best(source.labels)
        for policy in best[1:]:
            tied.setdefault((best[0].id, policy.id), []).append(source.id)
    for (first, second), sources in tied.items():
        rank = file.policies[second].select.rank
        more = f" (and {len(sources) - 1} more)" if len(sources) > 1 else ""
        both = f"as specifically as policy {first} does, by {rank} term{'' if rank == 1 else 's'} each"
        reason = f"selects source {sources[0]}{more} {both}: add a term to the one that is to count"
        yield ("policies", second), reason


def _repositories(file: FleetFile) -> Iterator[tuple[Path, str]]:
    """No repository may lie inside another: `repos/db/data/` is a folder of repository db."""
    ids = {source.repository or source.first_name: name for name, source in file.sources.items()}
    first: dict[str, str] = {}
    for name, source in sorted(file.sources.items(), key=lambda one: one[1].formerly is not None):
        if source.first_name in first:
            other = first[source.first_name]
            yield ("sources", name, "formerly"), f"{source.first_name} is what source {other} is called, or was first"
        first.setdefault(source.first_name, name)
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
