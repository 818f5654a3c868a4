"""The topology as the configuration gives it: epoch (0, ""), for ever.

The register that the sites vote on takes this place later. Then `current` reads it, and `guard` asks every member
before each batch of deletes; who calls these two has nothing to change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ConfigError, HoldfastError

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.model import RunRequest


class StaleEpoch(HoldfastError):
    """The topology has changed since the work began: deletes under the old epoch must not go on."""

    exit_code = 70


@dataclass(frozen=True, order=True, slots=True)
class Epoch:
    """A reign of a topology; ordered."""

    number: int = 0
    claimant: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """One view of it. `members` are the sites that vote, witnesses too; `regions` the control planes."""

    epoch: Epoch
    members: tuple[str, ...]
    regions: tuple[str, ...]
    _primary: Callable[[str], str]

    def primary(self, source: str) -> str:
        """The site to which a source is backed up, and from which it is restored first. Raises ConfigError."""
        return self._primary(source)


def current(fleet: Fleet) -> Topology:
    """The topology now."""
    return Topology(Epoch(), tuple(fleet.sites), tuple(fleet.regions), fleet.configured_primary)


def site_of(fleet: Fleet, request: RunRequest) -> str:
    """The site at which a run works, for people: empty where the configuration no longer says which."""
    chosen = "" if request.kind.is_backup else request.options.get("site")
    if isinstance(chosen, str) and chosen:
        return chosen
    try:
        return current(fleet).primary(request.source)
    except ConfigError:
        return ""


def guard(fleet: Fleet, repository: str, epoch: Epoch) -> None:
    """Stand before each batch of deletes in a repository: raises StaleEpoch unless `epoch` is the current one."""
    now = current(fleet).epoch
    if now != epoch:
        raise StaleEpoch(
            f"repository {repository}: nothing more is deleted: the epoch was {epoch.number}, and is {now.number} now",
            hint="Start again: the work goes on under the new epoch",
        )
