"""The topology as this machine knows it, and the question to the sites that stands before each batch of deletes.

`current` asks nobody: it goes by what was last seen of the register, which whoever follows it keeps up to date
(`follow`); a machine that has seen none has the configuration's, at epoch 0. That may be old, and does no harm: what
is written merges. Deletes do harm, so `guard` asks every member, each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from shared.errors import ConfigError
from shared.ledger.model import RunKind
from shared.topology.errors import StaleEpoch
from shared.topology.memory import Memory
from shared.topology.register import Register, View
from shared.topology.state import Epoch, State

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.model import RunRequest

_FILE = "topology.json"  # below the configuration's state_dir


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
    state = _seen(memory_path(fleet))
    if state is None:
        return Topology(Epoch(), tuple(fleet.sites), tuple(fleet.regions), fleet.configured_primary)

    def primary(source: str) -> str:
        return state.primary(fleet.configured_primary(source))

    return Topology(state.epoch, state.members, tuple(fleet.regions), primary)


def _seen(path: str) -> State | None:
    """What is remembered in a file, read again where that is another one than the last time."""
    try:
        found = os.stat(path)
    except OSError:
        return None  # a cache: not there, or not ours to read
    return _remembered(path, (found.st_ino, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=4)
def _remembered(path: str, _mark: tuple[int, int, int]) -> State | None:
    return Memory(path).state


def register(fleet: Fleet) -> Register:
    """The register of the fleet's sites, to be closed. Raises ConfigError in an agent's file, which has no secret."""
    secret = fleet.secret.read()
    witnesses = [name for name, site in fleet.sites.items() if site.witness]
    return Register(fleet.sites, fleet.open_site, secret, memory(fleet), witnesses=witnesses)


def memory(fleet: Fleet) -> Memory:
    """What this machine has seen of the register. It asks nobody."""
    return Memory(memory_path(fleet))


def memory_path(fleet: Fleet) -> str:
    """The file in which that lies."""
    return os.path.join(fleet.state_dir, _FILE)


def follow(fleet: Fleet) -> View:
    """Look at all members, and remember what they have decided. Raises ConfigError."""
    with closing(register(fleet)) as votes:
        return votes.look()


def site_of(fleet: Fleet, request: RunRequest) -> str:
    """The site at which a run works, for people: empty where the configuration no longer says which."""
    chosen = "" if request.kind.is_backup else request.options.get("site")
    if isinstance(chosen, str) and chosen:
        return chosen
    try:
        return current(fleet).primary(request.source)
    except ConfigError:
        return ""


def sites_of(fleet: Fleet, request: RunRequest) -> list[str]:
    """All the sites at which a run has a lock: a replication reads from another one."""
    sites = [site_of(fleet, request)]
    if request.kind is RunKind.REPLICATE:
        options = {name: value for name, value in request.options.items() if name != "site"}
        origin = options.get("origin")
        sites.append(str(origin) if origin else site_of(fleet, replace(request, options=options)))
    return [site for site in dict.fromkeys(sites) if site]


def guard(fleet: Fleet, repository: str, epoch: Epoch) -> None:
    """Stand before each batch of deletes in a repository: all members must agree that `epoch` is the current one.

    Raises NotAllAgree, StaleEpoch.
    """
    with closing(register(fleet)) as votes:
        now = votes.every().epoch
    if now != epoch:
        raise StaleEpoch(
            f"repository {repository}: nothing more is deleted: the epoch was {epoch.number}, and is {now.number} now",
            hint="Start again: the work goes on under the new epoch",
        )
