"""What a replication is asked to do, and what it says of what it did: both pass over a pipe as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from shared.errors import EXIT_OK
from shared.repository.errors import Damaged
from shared.retention import Rules
from workers.backup.spec import SiteSpec
from workers.limits import EngineLimits

SHOWN = 100  # ids and problems in a report: it lies in the ledger


@dataclass(slots=True)
class ReplicateSpec:
    """One replication of one source's snapshots from a site, the `origin`, to another one."""

    site: SiteSpec  # where they are to arrive
    origin: SiteSpec
    repository: str
    source: str
    run: str  # the id that stands in the locks
    passwords: list[str] = field(default_factory=list)  # tried in this order
    rules: Rules | None = None  # of the site where they are to arrive; None: it keeps all
    timezone: str = "UTC"  # whose days count
    dry_run: bool = False
    cache_dir: str = ""
    limits: EngineLimits = field(default_factory=EngineLimits)
    tag: str = ""  # what the hf.source of its snapshots says, where that is not its name
    both_ways: bool = False  # first what the site has, and the origin has not
    origin_rules: Rules | None = None  # of the origin, for that

    def way_back(self) -> ReplicateSpec:
        """The same from the site to the origin."""
        ends = {"site": self.origin, "origin": self.site, "rules": self.origin_rules}
        return replace(self, **ends, both_ways=False)  # type: ignore[arg-type]

    @property
    def tagged(self) -> str:
        """What the `hf.source` of its snapshots says."""
        return self.tag or self.source

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ReplicateSpec:
        """Read what `to_json` gave. Raises TypeError or KeyError for what is not a spec."""
        sites = {name: SiteSpec(**data[name]) for name in ("site", "origin")}
        rules = {name: Rules(**data[name]) for name in ("rules", "origin_rules") if data[name] is not None}
        return cls(**{**data, **sites, **rules, "limits": EngineLimits(**data["limits"])})


@dataclass(slots=True)
class ReplicateReport:
    """What was owed, and what arrived. Sizes in bytes, times in seconds."""

    source: str = ""
    repository: str = ""
    site: str = ""  # where they were to arrive
    origin: str = ""
    dry_run: bool = False
    created: bool = False  # whether the repository was made there
    owed: int = 0  # snapshots, when it began
    snapshots: int = 0  # of these, that arrived
    arrived: list[str] = field(default_factory=list)  # ids, the first hundred; of a dry run: that are owed
    pending: int = 0  # of these, that did not
    packs: int = 0  # copied
    bytes: int = 0  # of these
    packs_there: int = 0  # that were needed, and lay there already
    index_files: int = 0  # written
    keys: int = 0  # key files that were put or removed there, as they were at the origin
    returned: list[str] = field(default_factory=list)  # the first hundred that the origin had not before
    last: str = ""  # the slot of the newest snapshot that is there now, as evidence has it; empty: there is none
    last_full: str = ""
    good: str = ""  # the newest complete snapshot that is there now
    good_began: float = 0.0  # when it was begun, POSIX seconds
    errors: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)  # the first hundred: `object`, `message`
    notes: list[str] = field(default_factory=list)
    duration: float = 0.0

    @property
    def exit_code(self) -> int:
        """24 (Damaged) where a snapshot could not be brought over, else 0."""
        return Damaged.exit_code if self.errors else EXIT_OK

    def take_back(self, back: ReplicateReport) -> None:
        """Count in what the way back has done."""
        self.returned = back.arrived
        self.keys += back.keys
        self.notes += back.notes
        self.errors += back.errors
        self.problems = [*back.problems, *self.problems][:SHOWN]

    def add(self, thing: str, message: str) -> None:
        """Count a problem, and keep it while there is room."""
        self.errors += 1
        if len(self.problems) < SHOWN:
            self.problems.append({"object": thing, "message": message})

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return {**asdict(self), "exit_code": self.exit_code}
