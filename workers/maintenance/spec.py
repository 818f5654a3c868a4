"""What a verification is asked to do, and what it says of what it found: both pass over a pipe as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from shared.errors import EXIT_OK
from shared.repository.errors import Damaged
from workers.backup.spec import SiteSpec
from workers.limits import EngineLimits

Severity = Literal["error", "warning"]
_KEPT_PROBLEMS = 200
_KEPT_PATHS = 20


@dataclass(slots=True)
class VerifySpec:
    """One verification of one repository at one site. Unless it heals, only a shared lock is written there."""

    site: SiteSpec
    repository: str
    passwords: list[str] = field(default_factory=list)  # tried in this order
    share: float = 0.0  # per cent of the packs that are read whole: 0 structure alone, 100 all data
    rotation: int = 0  # which share: as many as there are shares, one after the other, read every pack
    turns: int = 1  # so many shares, that one and those after it
    headers: bool = True  # compare each pack's own header with the index
    lock: bool = True  # hold a shared repository lock, where the site can be written to
    helpers: int = 0  # 0: one per core
    limits: EngineLimits = field(default_factory=EngineLimits)
    cache_dir: str = ""
    heal: bool = False  # bring back what is damaged, see workers.healing
    dry_run: bool = False  # only say what could be healed
    others: list[SiteSpec] = field(default_factory=list)  # other sites of the repository, the first to be asked first
    left_out: list[str] = field(default_factory=list)  # other sites that this machine can't open
    pack_size: int = 16 << 20  # of packs that healing writes
    patience: float = 120.0  # seconds for which healing waits for an exclusive lock

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VerifySpec:
        """Read what `to_json` gave. Raises TypeError or KeyError for what is not a spec."""
        sites = {"site": SiteSpec(**data["site"]), "others": [SiteSpec(**one) for one in data["others"]]}
        return cls(**{**data, **sites, "limits": EngineLimits(**data["limits"])})

    def reads(self, pack: bytes) -> bool:
        """Whether this pack is among those that are read whole: by its id, so that everybody picks alike."""
        if self.share <= 0:
            return False
        shares = max(1, round(100 / self.share))
        return (int.from_bytes(pack[:8], "big") - self.rotation) % shares < self.turns


@dataclass(slots=True)
class Problem:
    """One thing that is wrong. `paths`: the first of those that suffer, each `<snapshot>:<path>`."""

    severity: Severity
    object: str  # "pack 3f...", "index 7a...", "snapshot ..", "tree ...": the ids whole
    message: str
    paths: list[str] = field(default_factory=list)
    affected: int = 0  # how many paths suffer, counted in every snapshot


@dataclass(slots=True)
class Healing:
    """What came of healing. Objects are named by their keys below the repository."""

    dry_run: bool = False  # nothing was written: what could be healed
    found: int = 0  # errors at the first look
    healed_objects: int = 0  # are whole again, or were replaced
    healed: list[str] = field(default_factory=list)  # the first two hundred
    healed_from: dict[str, int] = field(default_factory=dict)  # how many by means of what: a site, "older version", ...
    blobs_healed: int = 0  # put into new packs, as their own were lost
    index_files_written: int = 0
    bytes_healed: int = 0  # put for all this, but for index files
    lost: list[str] = field(default_factory=list)  # "<key>: why" of what could not be healed; the first two hundred
    looked_at: int = 0  # objects whose versions were looked at

    def heal(self, key: str, by: str, size: int = 0) -> None:
        """Count an object that is whole again."""
        self.healed_objects += 1
        self.healed_from[by] = self.healed_from.get(by, 0) + 1
        self.bytes_healed += size
        self._forget(key)
        if len(self.healed) < _KEPT_PROBLEMS:
            self.healed.append(key)

    def lose(self, key: str, why: str) -> None:
        """Note an object that could not be healed, as it stands now."""
        self._forget(key)
        if len(self.lost) < _KEPT_PROBLEMS:
            self.lost.append(f"{key}: {why}")

    def _forget(self, key: str) -> None:
        self.lost = [one for one in self.lost if not one.startswith(f"{key}: ")]


@dataclass(slots=True)
class VerifyReport:
    """What was looked at and what is wrong. Sizes in bytes, times in seconds."""

    repository: str = ""
    site: str = ""
    snapshots: int = 0
    trees: int = 0
    files: int = 0  # in distinct trees
    index_files: int = 0
    packs: int = 0
    headers: int = 0  # packs whose header was compared with the index
    packs_read: int = 0  # packs of which every byte was verified
    bytes_read: int = 0
    errors: int = 0
    warnings: int = 0
    problems: list[Problem] = field(default_factory=list)  # the first two hundred, errors before warnings
    affected_snapshots: list[str] = field(default_factory=list)  # ids of those that can't be restored whole
    notes: list[str] = field(default_factory=list)
    duration: float = 0.0
    healing: Healing | None = None

    @property
    def exit_code(self) -> int:
        """24 (Damaged) where there is an error, else 0: a warning is about what does no harm."""
        return Damaged.exit_code if self.errors else EXIT_OK

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it while there is room; an error finds room at a warning's cost."""
        if problem.severity == "error":
            self.errors += 1
        else:
            self.warnings += 1
        if len(self.problems) >= _KEPT_PROBLEMS:
            if problem.severity == "warning":
                return
            at = next((i for i, known in enumerate(self.problems) if known.severity == "warning"), None)
            if at is None:
                return
            del self.problems[at]
        self.problems.append(problem)

    def blame(self, problem: Problem, snapshot: str, path: str) -> None:
        """Note a path that suffers from a problem."""
        problem.affected += 1
        if len(problem.paths) < _KEPT_PATHS:
            problem.paths.append(f"{snapshot[:8]}:{path}")
        if problem.severity == "error" and snapshot not in self.affected_snapshots:
            self.affected_snapshots.append(snapshot)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        self.problems.sort(key=lambda problem: problem.severity != "error")
        said = asdict(self)
        healing = said.pop("healing") or {}
        return {**said, **healing, "exit_code": self.exit_code}
