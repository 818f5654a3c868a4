"""What every engine's spec has: a site, limits, and of a run's options those that it may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared.errors import ConfigError
from workers.backup.spec import SiteSpec
from workers.limits import EngineLimits

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

# What an option may not change: where a repository is, how it is opened, and what a worker keeps where.
_SECRET = {"passwords", "fleet_secret", "recovery_password"}
_FIXED = {"site", "origin", "repository", "run", "cache_dir", "state_dir", "limits", "tag", *_SECRET}
_FIXED |= {"others", "left_out"}  # which sites are asked
_FIXED |= {"within", "into"}  # where it may write, and what it may run


def site_spec(fleet: Fleet, site: str) -> SiteSpec:
    """A site as an engine opens it; may hold S3 keys. Raises ConfigError."""
    access = fleet.site_access(site)
    given = access.credentials or {}
    command = given.get("command")
    return SiteSpec(
        id=access.id,
        url=access.url,
        access_key=str(given.get("access_key", "")),
        secret_key=str(given.get("secret_key", "")),
        session_token=str(given.get("session_token", "")),
        credentials_file=str(given.get("file", "")),
        credentials_command=command if isinstance(command, list) else [],
        ca_file=access.ca_file or "",
        connections=access.connections,
        lines=fleet.lines(site),
    )


def engine_limits(fleet: Fleet) -> EngineLimits:
    """What the engines of this machine may take of it."""
    return EngineLimits(fleet.limits.cores, fleet.limits.nice, fleet.limits.io)


def allowed(options: Mapping[str, object], known: set[str], what: str) -> dict[str, object]:
    """The options of a run that change its spec, `known` ones; `what` names the run. Raises ConfigError."""
    unknown = sorted(set(options) - known)
    if unknown:
        there = ", ".join(sorted(known - _FIXED)) or "none"
        raise ConfigError(
            f"a {what} has no option {unknown[0]!r}", hint=f"There are: {there}. Is this worker of an older release?"
        )
    return {name: value for name, value in options.items() if name not in _FIXED}
