"""What a forget is asked to do, and what it says of what it did: both pass over a pipe as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from shared.retention import Rules
from workers.backup.spec import SiteSpec
from workers.limits import EngineLimits

TOMBSTONES = 90 * 86400.0  # seconds
SHOWN = 100  # ids in a report: it lies in the ledger


@dataclass(slots=True)
class ForgetSpec:
    """One forget of one source at one site."""

    site: SiteSpec
    repository: str
    source: str
    run: str  # the id that stands in the lock, and in tombstones
    passwords: list[str] = field(default_factory=list)  # tried in this order
    rules: Rules | None = None  # None: all is kept, but `snapshots`
    timezone: str = "UTC"  # whose days count
    snapshots: list[str] = field(default_factory=list)  # ids, or beginnings of some: these alone, whatever rules say
    dry_run: bool = False
    cache_dir: str = ""
    limits: EngineLimits = field(default_factory=EngineLimits)
    others: list[SiteSpec] | None = None  # where the repository may be besides; None: that can't be known
    tombstones: float = TOMBSTONES  # seconds for which they stay
    config: str = ""  # the configuration's path: what says which epoch it is
    epoch: list[Any] = field(default_factory=lambda: [0, ""])  # the one under which it began: number, claimant
    tag: str = ""  # what the hf.source of its snapshots says, where that is not its name

    @property
    def tagged(self) -> str:
        """What the `hf.source` of its snapshots says."""
        return self.tag or self.source

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ForgetSpec:
        """Read what `to_json` gave. Raises TypeError or KeyError for what is not a spec."""
        rules = Rules(**data["rules"]) if data["rules"] is not None else None
        more = {"site": SiteSpec(**data["site"]), "rules": rules, "limits": EngineLimits(**data["limits"])}
        others = data["others"]
        return cls(**{**data, **more, "others": None if others is None else [SiteSpec(**one) for one in others]})


@dataclass(slots=True)
class ForgetReport:
    """What was forgotten. Times in seconds."""

    source: str = ""
    repository: str = ""
    site: str = ""
    dry_run: bool = False
    kept: int = 0  # snapshots of the source that stay
    forgotten: int = 0
    snapshots: list[str] = field(default_factory=list)  # the ids of the first hundred that were forgotten
    finished: int = 0  # commits of snapshots that were forgotten by one that was broken off
    cleared: int = 0  # tombstones that have served
    notes: list[str] = field(default_factory=list)
    duration: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)
