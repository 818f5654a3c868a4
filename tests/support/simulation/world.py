"""What is so, whoever knows it: which site works, who reaches whom, what lies where, what the clocks say."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.storage.api import Transient
from shared.topology.state import Epoch, State
from tests.support.voting import MemberStore

TICK = 2.0  # seconds
START = 1_750_000_000.0  # POSIX seconds


class Reached:
    """A member's store as it is seen from one place: the same bytes, or no answer."""

    def __init__(self, store: MemberStore, reaches: Callable[[], bool]) -> None:
        self._store = store
        self._reaches = reaches
        self.url = store.name

    def _enter(self) -> MemberStore:
        if not self._reaches():
            raise Transient(f"{self._store.name} can't be reached")
        return self._store

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """As a store does."""
        return self._enter().get_versioned(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """As a store does."""
        return self._enter().put_if_absent(key, data)

    def compare_and_swap(self, key: str, data: bytes, *, version: str) -> bool:
        """As a store does."""
        return self._enter().compare_and_swap(key, data, version=version)

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class Site:
    """One site. `snapshots`: what was committed there or copied there, in order of their numbers."""

    name: str
    store: MemberStore
    witness: bool = False
    works: bool = True
    dead: bool = False  # for good
    snapshots: set[int] = field(default_factory=set)


@dataclass
class World:
    """Everything. `cut`: (place, site) without a way; `silent`: places that hear nothing of others, until a tick."""

    draw: random.Random
    sites: dict[str, Site]
    places: list[str]
    tick: int = 0
    cut: set[tuple[str, str]] = field(default_factory=set)
    silent: dict[str, int] = field(default_factory=dict)
    skew: dict[str, float] = field(default_factory=dict)  # seconds by which a place's clock is ahead
    states: dict[Epoch, State] = field(default_factory=dict)  # all that were decided
    forgot: bool = False  # a member has lost its vote
    newest: State = field(default_factory=State)
    committed: dict[int, str] = field(default_factory=dict)  # snapshots, and the site of each
    deleted: set[int] = field(default_factory=set)  # by a forget under a valid epoch
    history: list[frozenset[tuple[str, str]]] = field(default_factory=list)  # by tick: (place, site) that had a way

    @property
    def clock(self) -> float:
        """Seconds since the beginning, by a clock that never jumps."""
        return self.tick * TICK

    def wall(self, place: str) -> float:
        """What a place's clock says."""
        return START + self.clock + self.skew.get(place, 0.0)

    def reaches(self, place: str, site: str) -> bool:
        """Whether a site answers somebody there."""
        return self.sites[site].works and (place, site) not in self.cut

    def store_of(self, place: str, site: str) -> Reached:
        """A member, from there."""
        return Reached(self.sites[site].store, lambda: self.reaches(place, site))

    def remember(self) -> None:
        """Note who reached whom in this tick."""
        pairs = {(place, site) for place in self.places for site in self.sites if self.reaches(place, site)}
        self.history.append(frozenset(pairs))

    @property
    def keepers(self) -> list[str]:
        """The sites that keep copies."""
        return [name for name, site in self.sites.items() if not site.witness]


def make_world(draw: random.Random) -> World:
    """Two or three sites that keep copies, and a witness where they are two; one to three places that look."""
    keepers = ["a", "b", "c"][: draw.choice([2, 3])]
    names = keepers if len(keepers) == 3 else [*keepers, "w"]
    sites = {name: Site(name, MemberStore(name), witness=name == "w") for name in names}
    return World(draw, sites, [f"p{number}" for number in range(draw.choice([1, 2, 3, 3]))])
