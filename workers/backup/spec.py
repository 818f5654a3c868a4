"""What a backup is asked to do, and what it says of what it did: both pass over a pipe as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from workers.limits import EngineLimits
from workers.programs.program import ProgramSpec

Kind = Literal["full", "incremental"]


@dataclass(slots=True)
class SiteSpec:
    """A site as an engine needs it. `credentials` are those of S3; secrets travel over the pipe alone."""

    id: str
    url: str
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    credentials_file: str = ""
    credentials_command: list[str] = field(default_factory=list)
    ca_file: str = ""
    connections: int = 4
    lines: list[dict[str, Any]] = field(default_factory=list)  # its bandwidth, see `Fleet.lines`; none is no limit


@dataclass(slots=True)
class Selection:
    """Which files of a source belong to it. Patterns are gitignore's, relative to each of `paths`."""

    paths: list[str]
    excludes: list[str] = field(default_factory=list)
    exclude_files: list[str] = field(default_factory=list)  # files that list patterns, a line each
    exclude_caches: bool = False  # leave out what lies beside a CACHEDIR.TAG
    exclude_if_present: list[str] = field(default_factory=list)  # leave out what lies beside a file of this name
    one_file_system: bool = False
    exclude_larger_than: int = 0  # bytes; 0 is no limit
    own: list[str] = field(default_factory=list)  # places that Holdfast writes to, absolute; a run finds them itself
    plan: str = ""  # where only one shard of it is read: how it is cut, see `shards.plan`
    shard: int = 0  # and which one


@dataclass(slots=True)
class StreamSpec:
    """A source that is the output of a program: one file of the snapshot, at `path`, an absolute one."""

    path: str
    program: ProgramSpec


@dataclass(slots=True)
class HooksSpec:
    """Programs around a run; `timeout` in seconds, of each. With `private_mounts` only the run sees what they mount."""

    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 300.0
    private_mounts: bool = False
    secrets: list[str] = field(default_factory=list, repr=False)  # values of `env` that are never told on


@dataclass(slots=True)
class ShardsSpec:
    """What of a run that is cut in shards is to be done now.

    `number` >= 0: that shard of `plan`. Else the run itself: to be cut in `count` where there is no plan, or one that
    fits no more; to be finished where there is: then `done` are the results of its shards, in their order, None for
    those that are not done; of these `lost` are over, and are to be done again.
    """

    run: str  # the run that is cut
    count: int
    plan: str = ""
    number: int = -1
    done: list[dict[str, Any] | None] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


@dataclass(slots=True)
class BackupSpec:
    """One backup of one source to one site."""

    site: SiteSpec
    repository: str
    source: str
    run: str
    selection: Selection
    stream: StreamSpec | None = None  # in place of the selection's paths, of which there are none
    hooks: HooksSpec | None = None
    shards: ShardsSpec | None = None
    kind: Kind = "incremental"
    slot: str = ""
    host: str = ""
    labels: list[str] = field(default_factory=list)  # more tags for the snapshot
    passwords: list[str] = field(default_factory=list)  # tried in this order
    fleet_secret: str = ""  # hex; where it is given a missing repository is created
    recovery_password: str = ""  # for the creation alone
    cache_dir: str = ""
    state_dir: str = ""  # nothing is kept there: it is left out of the source
    journal: list[str] = field(default_factory=list)  # packs (hex) that earlier attempts of this run uploaded
    compression_level: int = 3
    pack_size: int = 16 << 20  # bytes
    helpers: int = 0  # 0: one per core
    limits: EngineLimits = field(default_factory=EngineLimits)
    tag: str = ""  # what the hf.source of its snapshots says, where that is not its name

    @property
    def tagged(self) -> str:
        """What the `hf.source` of its snapshots says."""
        return self.tag or self.source

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BackupSpec:
        """Read what `to_json` gave. Raises TypeError for what is not a spec."""
        site, selection = SiteSpec(**data["site"]), Selection(**data["selection"])
        stream = data.get("stream")
        if stream is not None:
            stream = StreamSpec(stream["path"], ProgramSpec(**stream["program"]))
        hooks = HooksSpec(**data["hooks"]) if data.get("hooks") else None
        shards = ShardsSpec(**data["shards"]) if data.get("shards") else None
        parts = {"site": site, "selection": selection, "stream": stream, "hooks": hooks, "shards": shards}
        return cls(**{**data, **parts, "limits": EngineLimits(**data["limits"])})


@dataclass(slots=True)
class BackupResult:
    """What a run left behind. Sizes in bytes, times in seconds."""

    snapshot: str
    kind: str
    source: str
    repository: str
    site: str
    time: str
    tree: str
    parent: str = ""
    complete: bool = True
    existed: bool = False  # an earlier attempt had committed already
    superseded: bool = False  # and that snapshot was forgotten since: it is not made again
    unreadable: int = 0
    problems: list[str] = field(default_factory=list)  # the first hundred of them
    warnings: list[str] = field(default_factory=list)  # of the repository, not of this snapshot
    notes: list[str] = field(default_factory=list)  # what a person should know and need not mend
    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    files_gone: int = 0
    dirs: int = 0
    bytes_processed: int = 0
    bytes_read: int = 0
    bytes_added: int = 0  # content of new blobs
    bytes_stored: int = 0  # bytes of packs uploaded
    packs_stored: int = 0
    packs_resumed: int = 0
    shards: int = 0  # in how many it was done; 0: in one piece
    duration: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for the pipe."""
        return asdict(self)
