r"""What a restore is asked to do, and what it says of what it did: both pass over a pipe as JSON.

Paths are str with surrogate escapes where they are not UTF-8, as `os.fsdecode` gives them; JSON carries
them as `\udcXX`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from shared.errors import EXIT_INCOMPLETE, EXIT_OK
from shared.repository.errors import Damaged
from workers.backup.spec import SiteSpec
from workers.limits import EngineLimits
from workers.programs.program import ProgramSpec

# "" refuses a target that holds anything; in place it means if-changed.
Overwrite = Literal["", "always", "if-changed", "if-newer", "never"]


@dataclass(slots=True)
class RestoreSpec:
    """One restore of one snapshot from one site."""

    site: SiteSpec
    repository: str
    passwords: list[str] = field(default_factory=list)  # tried in this order
    snapshot: str = "latest"  # an id, the beginning of one, or "latest"
    source: str = ""  # only snapshots of this source; "" is any, those of restic itself too
    before: str = ""  # RFC 3339: only snapshots not later than this
    base: str = ""  # a directory of the snapshot whose content goes right into the target
    paths: list[str] = field(default_factory=list)  # absolute, in the snapshot; none is all of it
    includes: list[str] = field(default_factory=list)  # gitignore's patterns on paths in the snapshot
    excludes: list[str] = field(default_factory=list)
    target: str = ""
    into: ProgramSpec | None = None  # in place of a target: one file goes into it, that of `paths` or a stream's
    within: list[str] | None = None  # the folders below which it may write; None: anywhere
    in_place: bool = False  # to where it was; what is replaced is kept in a safety directory
    overwrite: Overwrite = ""
    dry_run: bool = False
    verify: bool = False  # read everything again afterwards and compare it with the snapshot
    lock: bool = True  # hold a shared repository lock, where the site can be written to
    helpers: int = 0  # 0: one per core
    limits: EngineLimits = field(default_factory=EngineLimits)
    cache_dir: str = ""
    state_dir: str = ""
    tag: str = ""  # what the hf.source of its snapshots says, where that is not its name

    @property
    def tagged(self) -> str:
        """What the `hf.source` of its snapshots says."""
        return self.tag or self.source

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RestoreSpec:
        """Read what `to_json` gave. Raises TypeError or KeyError for what is not a spec."""
        into = ProgramSpec(**data["into"]) if data.get("into") else None
        parts = {"site": SiteSpec(**data["site"]), "limits": EngineLimits(**data["limits"]), "into": into}
        return cls(**{**data, **parts})


@dataclass(slots=True)
class RestoreResult:
    """What a restore did. Sizes in bytes of content, times in seconds."""

    snapshot: str = ""
    source: str = ""
    target: str = ""
    resumed: bool = False  # it took up one that was interrupted
    dry_run: bool = False
    files: int = 0  # restored (dry run: to be restored); everything that is no directory
    bytes: int = 0
    unchanged: int = 0  # were there already, with the right size and time
    skipped: int = 0  # were there and were left, as the overwrite policy says
    dirs: int = 0
    links: int = 0  # of `files`, how many were made as hard links
    verified: int = 0  # files read again and found right
    metadata_failed: int = 0  # owners, modes, times, attributes that could not be set
    errors: int = 0  # things of the snapshot that are not, or not rightly, restored
    problems: list[dict[str, str]] = field(default_factory=list)  # the first hundred: {"path", "message"}
    metadata_problems: list[dict[str, str]] = field(default_factory=list)  # the first ten
    damaged_packs: list[str] = field(default_factory=list)  # ids of packs that are missing or do not verify
    undo: list[str] = field(default_factory=list)  # safety directories (in place)
    undo_hint: str = ""  # a command line for a shell that brings back what lies in all of them
    notes: list[str] = field(default_factory=list)
    duration: float = 0.0
    verify_duration: float = 0.0  # of `duration`: reading again

    @property
    def exit_code(self) -> int:
        """0; 3 where something was left out; 24 where the repository is damaged."""
        if self.damaged_packs:
            return Damaged.exit_code
        return EXIT_INCOMPLETE if self.errors or self.metadata_failed else EXIT_OK

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return {**asdict(self), "exit_code": self.exit_code}


@dataclass(slots=True)
class IntoResult:
    """What a restore into a program did. Sizes in bytes, times in seconds."""

    source: str
    snapshot: str
    time: str  # of the snapshot
    path: str  # of the file in it
    program: str  # without its arguments
    bytes: int = 0  # given to it; of a dry run the file's
    dry_run: bool = False
    complete: bool = True  # it took all of the file
    said: str = ""  # the last of what it said
    notes: list[str] = field(default_factory=list)
    duration: float = 0.0

    @property
    def exit_code(self) -> int:
        """0; 3 where it ended well before it had read all."""
        return EXIT_OK if self.complete else EXIT_INCOMPLETE

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return {**asdict(self), "exit_code": self.exit_code}
