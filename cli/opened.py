"""Opening the repository of a source, as a command names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.opening import Opened


def open_source(fleet: Fleet, source: str, site: str = "") -> Opened:
    """The repository of a source at a site, by default the primary, with the password that opened it.

    Raises ConfigError, RepositoryError, StorageError.
    """
    from shared import topology
    from shared.config.opening import open_repository

    return open_repository(fleet, fleet.repository_of(source), site or topology.current(fleet).primary(source))
