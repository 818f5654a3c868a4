"""Opening a repository as the configuration says: the one place that knows which passwords fit, and their order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.repository.repository import Repository
    from shared.storage.api import ObjectStore

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


def open_repository(fleet: Fleet, name: str, site: str, *, store: ObjectStore | None = None) -> Opened:
    """The repository of this name at a site, its snapshots kept in the configuration's cache.

    `store`: the site, where whoever asks has opened it already.

    The recovery password is read only where no key file opens with the machine password: it may be a question to a
    vault. Raises ConfigError, RepositoryError, StorageError.
    """
    from shared.repository.errors import Damaged, WrongPassword
    from shared.repository.repository import Repository

    store = (store or fleet.open_site(site)).below(f"repos/{name}")
    which, password = MACHINE, fleet.machine_password(name)
    try:
        repository = Repository.open(store, password)
    except (WrongPassword, Damaged) as error:  # Damaged: it may be the machine password's key file that is
        try:
            which, password = RECOVERY, recovery_password(fleet)
        except ConfigError:
            if isinstance(error, Damaged) or fleet.agent:
                raise error from None
            raise
        repository = Repository.open(store, password)
    return Opened(repository.cached(fleet.cache_dir, site), name, site, which, password)


def passwords(fleet: Fleet, name: str) -> list[str]:
    """What opens a repository, the cheap one first, for an engine, which has no configuration. Raises ConfigError."""
    machine = fleet.machine_password(name)
    return [machine] if fleet.agent else [machine, recovery_password(fleet)]


def recovery_password(fleet: Fleet) -> str:
    """The configured recovery password. Raises ConfigError."""
    return fleet.recovery_password.read(RECOVERY).decode()
