"""What all turns of one prune share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.repository.indexcache import IndexCache
from shared.repository.repository import Repository
from workers.careful import Guard
from workers.crew import Crew
from workers.maintenance.prune_spec import PruneReport, PruneSpec
from workers.maintenance.prune_walk import Walk


@dataclass(slots=True)
class Tools:
    """`heed` raises where the prune is to stop; `progress` takes a phase, and how much of it is done, of how much."""

    repo: Repository
    index: IndexCache
    crew: Crew
    walk: Walk
    spec: PruneSpec
    report: PruneReport
    guard: Guard
    heed: Callable[[], None]
    progress: Callable[[str, int, int], None]
    purges: bool = True  # older versions may be deleted, as far as is known
