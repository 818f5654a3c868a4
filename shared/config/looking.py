"""What a site's repository has, by as few requests as will do: a look, for whoever asks of thousands.

The key of a repository that Holdfast made follows from the fleet's secret, so its `holdfast/status` is read without
opening it: what that key unseals is of that repository. Where there is none, or it is of no use, the repository is
opened and its snapshots are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.config.opening import open_repository

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.repository.repository import Repository
    from shared.repository.snapshot import Told
    from shared.repository.status import Gathered
    from shared.storage.api import ObjectStore


@dataclass(frozen=True, slots=True)
class Look:
    """What is there. `told`: facts of all snapshots that decide which slots are served."""

    told: Sequence[Told]
    snapshots: int
    repository: Repository | None = None  # None: there is none
    gathered: Gathered | None = None  # what its status is to tell of; None: it does tell of that


def look_at(fleet: Fleet, name: str, site: str, store: ObjectStore, secret: bytes, latest: str = "") -> Look:
    """Look at the repository of this name at a site, which `store` is. Slots later than `latest` count for nothing.

    Raises ConfigError, RepositoryError, StorageError.
    """
    from shared.repository.errors import Damaged, RepositoryMissing
    from shared.repository.keys import derived_master_key
    from shared.repository.repository import Repository
    from shared.repository.status import Gathered
    from shared.storage.api import MissingObject

    derived = Repository(store.below(f"repos/{name}"), derived_master_key(secret, name))
    try:
        if (look := _by_status(derived, latest)) is not None:
            return look
    except Damaged:
        pass  # of another key, or it is damaged indeed: that is found out by opening it
    try:
        repository = open_repository(fleet, name, site, store=store).repository
    except (RepositoryMissing, MissingObject):
        return Look([], 0)
    if repository.key != derived.key and (look := _by_status(repository, latest)) is not None:
        return look
    gathered = Gathered()
    told = list(gathered.through(repository.snapshots()))
    return Look(told, len(told), repository, gathered)


def _by_status(repository: Repository, latest: str) -> Look | None:
    from shared.repository.status import Gathered, read_known

    known = read_known(repository, latest)
    if known is None:
        return None
    gathered = None
    if not known.current:
        gathered = Gathered(known.older)
        for one in known.facts:
            gathered.add(one)
    return Look(known.facts, known.snapshots, repository, gathered)
