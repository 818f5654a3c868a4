"""Opening a source's repository for a command that only looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.repository.errors import WrongPassword
from shared.repository.repository import Repository
from workers.access import repository_store
from workers.backup.spec import SiteSpec


def open_place(place: dict[str, Any], recovery: Callable[[], str]) -> Repository:
    """The repository at what `cli.places.place_of` gave.

    The recovery password is asked for only where the machine password does not fit: it may be a question to a vault.
    Raises ConfigError, RepositoryError, StorageError.
    """
    store = repository_store(SiteSpec(**place["site"]), place["repository"])
    try:
        return Repository.open(store, place["password"])
    except WrongPassword:
        return Repository.open(store, recovery())
