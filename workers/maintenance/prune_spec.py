"""What a prune is asked to do, and what it says of what it did: both pass over a pipe as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from workers.backup.spec import SiteSpec
from workers.limits import EngineLimits

GRACE = 86400.0  # seconds
MAX_UNUSED = 5.0  # per cent


@dataclass(slots=True)
class PruneSpec:
    """One prune of one repository at one site. Times in seconds, by the store's clock; sizes in bytes."""

    site: SiteSpec
    repository: str
    run: str  # the id that stands in the lock, and in notes
    passwords: list[str] = field(default_factory=list)  # tried in this order
    grace: float = GRACE  # for which a pack that nobody needs stays before it is deleted
    max_unused: float = MAX_UNUSED  # per cent of the repository that may be unused blobs in packs that are used
    max_repack: int = 0  # at most so much is copied to new packs by one run; 0: no limit
    pack_size: int = 16 << 20
    spare: float = 7200.0  # a pack that no index lists is left to a resumed run for so long after it was stored
    slice: float = 300.0  # for which the lock is held at most
    pause: float = 60.0  # between two slices: longer than a backup waits before its second try
    patience: float = 120.0  # for which it waits for the lock
    dry_run: bool = False
    helpers: int = 0  # 0: one per core
    limits: EngineLimits = field(default_factory=EngineLimits)
    cache_dir: str = ""
    config: str = ""  # the configuration's path: what says which epoch it is
    epoch: list[Any] = field(default_factory=lambda: [0, ""])  # the one under which it began: number, claimant

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PruneSpec:
        """Read what `to_json` gave. Raises TypeError or KeyError for what is not a spec."""
        return cls(**{**data, "site": SiteSpec(**data["site"]), "limits": EngineLimits(**data["limits"])})


@dataclass(slots=True)
class PruneReport:
    """What was found and done. Sizes in bytes, times in seconds."""

    repository: str = ""
    site: str = ""
    dry_run: bool = False
    snapshots: int = 0
    packs: int = 0  # that an index lists, at the first look
    bytes: int = 0  # of these
    bytes_unused: int = 0  # of these, of blobs that no snapshot refers to
    packs_doomed: int = 0  # noted: they are deleted after the grace period
    bytes_doomed: int = 0
    packs_repacked: int = 0  # of these: the used blobs were copied out of them first
    bytes_repacked: int = 0  # copied
    packs_written: int = 0  # the new ones that they were copied into
    packs_deleted: int = 0
    bytes_deleted: int = 0
    packs_saved: int = 0  # they were doomed, and are needed again
    packs_waiting: int = 0  # doomed ones whose time has not come
    bytes_waiting: int = 0
    index_files_written: int = 0
    index_files_deleted: int = 0
    slices: int = 0  # how often the lock was taken
    done: bool = True  # False: a limit ended it, or a backup that held the lock; the next prune goes on
    notes: list[str] = field(default_factory=list)
    duration: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)
