"""What a restore test is asked to do, and what it says of what it did: both pass over a pipe as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from shared.errors import EXIT_INCOMPLETE, EXIT_OK
from shared.repository.errors import Damaged
from workers.backup.spec import SiteSpec
from workers.limits import EngineLimits
from workers.maintenance.scratch_server import ScratchSpec

FILES = 100
SIZE = 1 << 30  # bytes
_KEPT_PROBLEMS = 20
_KEPT_IDS = 100  # a report lies in Redis


@dataclass(slots=True)
class RestoreTestSpec:
    """One restore test of one source from one site. Nothing is written there but a shared lock."""

    site: SiteSpec
    repository: str
    source: str
    run: str  # with it the files are drawn: another run draws others, the same one the same again
    cache_dir: str  # the scratch folder is made below it
    passwords: list[str] = field(default_factory=list)  # tried in this order
    snapshot: str = "latest"  # an id, the beginning of one, or "latest": the newest complete one
    files: int = FILES  # at most so many are drawn
    size: int = SIZE  # bytes that they have together at most; a first one is drawn whatever its size
    whole: bool = False  # restore all of it instead
    lock: bool = True  # hold a shared repository lock, where the site can be written to
    helpers: int = 0  # 0: one per core
    limits: EngineLimits = field(default_factory=EngineLimits)
    state_dir: str = ""
    scratch: ScratchSpec | None = None  # a stream goes into a server of its own, in place of a file
    tag: str = ""  # what the hf.source of its snapshots says, where that is not its name

    @property
    def tagged(self) -> str:
        """What the `hf.source` of its snapshots says."""
        return self.tag or self.source

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RestoreTestSpec:
        """Read what `to_json` gave. Raises TypeError or KeyError for what is not a spec."""
        parts = {"site": SiteSpec(**data["site"]), "limits": EngineLimits(**data["limits"])}
        return cls(**{**data, **parts, "scratch": ScratchSpec.from_json(data["scratch"])})


@dataclass(slots=True)
class RestoreTestReport:
    """What was restored and how it compares. Sizes in bytes of content, times in seconds."""

    site: str = ""
    repository: str = ""
    source: str = ""
    snapshot: str = ""
    snapshot_time: str = ""  # RFC 3339
    whole: bool = False
    files: int = 0  # restored; everything that is no directory
    bytes: int = 0
    files_total: int = 0  # in the snapshot
    bytes_total: int = 0
    verified: int = 0  # files read again and found right
    duration: float = 0.0  # of the restore alone: without the draw, and without reading again
    rate: float = 0.0  # bytes a second
    errors: int = 0  # things of the snapshot that are not, or not rightly, restored
    problems: list[dict[str, str]] = field(default_factory=list)  # the first twenty: {"path", "message"}
    metadata_failed: int = 0  # owners and attributes that could not be set; no error, as nobody is to use the files
    damaged_packs: list[str] = field(
        default_factory=list
    )  # ids of packs that are missing or do not verify, the first hundred
    damaged_snapshots: list[str] = field(default_factory=list)  # ids of those that can't be read, the first hundred
    server: bool = False  # it went into a scratch server, in place of a file
    said: str = ""  # what the check of that server said
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0; 3 where something could not be restored; 24 where the repository is damaged."""
        if self.damaged_packs or self.damaged_snapshots:
            return Damaged.exit_code
        return EXIT_INCOMPLETE if self.errors else EXIT_OK

    def add(self, path: str, message: str) -> None:
        """Count an error, and keep it while there is room."""
        self.errors += 1
        if len(self.problems) < _KEPT_PROBLEMS:
            self.problems.append({"path": path, "message": message})

    def add_packs(self, packs: Iterable[str]) -> None:
        """Note packs that are damaged."""
        self.damaged_packs = sorted({*self.damaged_packs, *packs})[:_KEPT_IDS]

    def add_snapshot(self, name: str, message: str) -> None:
        """Note a snapshot that can't be read."""
        self.add(f"snapshots/{name}", message)
        if len(self.damaged_snapshots) < _KEPT_IDS:
            self.damaged_snapshots.append(name)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return {**asdict(self), "exit_code": self.exit_code}
