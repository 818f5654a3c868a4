"""Where a source's repository is and what opens it, as plain data: what a command asks the configuration apart."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.config.fleet import Fleet


def place_of(fleet: Fleet, source: str, site: str = "") -> dict[str, Any]:
    """The place of a source's repository, by default at the primary. Raises ConfigError.

    `site` is a SiteSpec's, `password` the machine password, `shared` says whether other sources are in it.
    """
    from shared import topology
    from workers.specs import site_spec

    repository = fleet.repository_of(source)
    return {
        "site": asdict(site_spec(fleet, site or topology.current(fleet).primary(source))),
        "repository": repository,
        "password": fleet.machine_password(repository),
        "shared": any(other != source and fleet.repository_of(other) == repository for other in fleet.sources),
    }


def recovery_of(fleet: Fleet) -> str:
    """The recovery password. Raises ConfigError."""
    return fleet.recovery_password.read("recovery password").decode()
