"""Whether a site can vote: its store must replace an object only where nobody else has, and that is found by trying."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from shared.topology.errors import MoveRefused

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.topology.register import Register
    from shared.topology.state import State


def require_voters(fleet: Fleet, sites: Iterable[str]) -> list[str]:
    """Try each site; gives what else a probe found, for people. Raises MoveRefused, ConfigError, StorageError."""
    notes = []
    for site in sites:
        with closing(fleet.open_site(site)) as store:
            found = store.probe()
        if not (found.compare_and_swap and found.put_if_absent):
            raise MoveRefused(
                f"site {site} can't vote: {'; '.join(found.notes)}",
                hint="Without conditional writes two could be told yes at once. It may keep copies, and a directory or "
                "a MinIO as witness may vote in its place",
            )
        notes += [f"site {site}: {note}" for note in found.notes]
    return notes


def found(fleet: Fleet, register: Register) -> State:
    """Have the sites vote for the first time, where all of them answer and can. Raises as `require_voters`; NoMajority.

    It takes all, so it is done while all is well: when a site is gone it is too late.
    """
    require_voters(fleet, register.configured)
    return register.settle()
