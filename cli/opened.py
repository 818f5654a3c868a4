"""A source's repository, opened, with the password that did: for commands that hand it on, or change it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.repository.repository import Repository

RECOVERY = "recovery password"
MACHINE = "machine password"


@dataclass(frozen=True, slots=True)
class Opened:
    """`name` is the repository's below the site's `repos/`; `which` says whose the password is."""

    repository: Repository
    name: str
    site: str
    which: str
    password: str = field(repr=False)


def open_with_password(fleet: Fleet, source: str, site: str = "") -> Opened:
    """The repository of a source at a site, by default the primary.

    The recovery password is read only where the machine password does not fit: it may be a question to a vault.
    Raises ConfigError, RepositoryError, StorageError.
    """
    from shared import topology
    from shared.repository.errors import WrongPassword
    from shared.repository.repository import Repository

    name = fleet.repository_of(source)
    place = site or topology.current(fleet).primary(source)
    store = fleet.open_site(place).below(f"repos/{name}")
    password = fleet.machine_password(name)
    try:
        return Opened(Repository.open(store, password), name, place, MACHINE, password)
    except WrongPassword:
        password = recovery_password(fleet)
        return Opened(Repository.open(store, password), name, place, RECOVERY, password)


def recovery_password(fleet: Fleet) -> str:
    """The configured recovery password. Raises ConfigError."""
    return fleet.recovery_password.read(RECOVERY).decode()
