"""Opening a source's repository for a command that only looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.repository.repository import Repository


def open_repository(fleet: Fleet, source: str, site: str = "") -> Repository:
    """The repository of a source at a site, by default the primary.

    The recovery password is read only where the machine password does not fit: it may be a question to a vault.
    Raises ConfigError, RepositoryError, StorageError.
    """
    from shared import topology
    from shared.repository.errors import WrongPassword
    from shared.repository.repository import Repository

    repository = fleet.repository_of(source)
    place = site or topology.current(fleet).primary(source)
    store = fleet.open_site(place).below(f"repos/{repository}")
    try:
        return Repository.open(store, fleet.machine_password(repository))
    except WrongPassword:
        return Repository.open(store, fleet.recovery_password.read("recovery password").decode())
