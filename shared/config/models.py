"""The fleet's file as typed models, one class a mapping of the file. What refers to what is checked in `checks`.

A source has two halves. `SourceFacts` is what a scheduler knows. `SourceBody` is what only the executor knows, and is
all that an agent's own file holds of a source. In one file both stand in the same mapping: `Source`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from shared.config.around import Hooks, Into, Scratch
from shared.config.base import Model, Named
from shared.config.failover import Failover
from shared.config.health import Health
from shared.config.inventory import Inventory
from shared.config.limits import Limits, SiteLimits
from shared.config.programs import Variables
from shared.config.scheduling import PolicyDefaults, Scheduling
from shared.config.secrets import Credentials, FleetSecret, Secret
from shared.config.selector import Select, Selector
from shared.config.values import (
    NAME,
    AbsolutePath,
    BesidePath,
    Duration,
    FileName,
    Flag,
    Id,
    Labels,
    Listen,
    Moment,
    Name,
    OneOrMore,
    Program,
    Several,
    SiteUrl,
    Size,
    Text,
    When,
    choice,
    expected_secret,
    mapping_of,
    whole_number,
    wrong,
)
from shared.retention import Rules

_BROKERS = ("redis://", "rediss://", "unix://")
_ALL = Selector("*")


class Site(Named):
    """A place that keeps copies, or a witness that only votes."""

    url: SiteUrl  # a directory's path (taken from the file's directory), or s3:https://host[:port]/bucket[/prefix]
    kind: Annotated[Literal["directory", "s3", ""], choice("directory", "s3")] = ""  # empty: what the url says
    region: Annotated[str, NAME] = ""  # empty: the only region
    witness: Flag = False
    credentials: Credentials | None = None
    admin: Credentials | None = None  # of an administrator of MinIO, who gives agents their rights
    ca_file: BesidePath | None = None
    connections: Annotated[int, whole_number(" of connections", least=1, most=256)] = 8
    limits: Annotated[SiteLimits, mapping_of("limits")] = SiteLimits()

    @property
    def is_s3(self) -> bool:
        """Whether it is an S3 bucket; a directory else."""
        return self.url.startswith("s3:")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind and (self.kind == "s3") != self.is_s3:
            raise wrong(
                f'kind is {self.kind}, but url is "{self.url}" (s3 needs s3:https://host/bucket, a directory a path)'
            )
        if not self.is_s3 and (self.credentials or self.ca_file or self.admin):
            raise wrong("a directory needs neither credentials nor ca_file nor admin")
        if self.is_s3 and self.credentials is None:
            raise wrong("an s3 site needs credentials: one of env, file, command")
        return self


class Region(Named):
    """One control plane. Without a `broker`, `holdfast up` runs one of its own there (embedded)."""

    broker: str | Secret | None = Field(default=None, repr=False)  # a URL may hold a password
    admin: str | Secret | None = Field(default=None, repr=False)  # the same Redis, as a user who may make users

    @model_validator(mode="before")
    @classmethod
    def _urls(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, dict):
            for key in ("broker", "admin"):
                given = value.get(key)
                if isinstance(given, dict):
                    value = {**value, key: Secret.model_validate(given, context=info.context)}
                elif not (
                    given is None
                    or isinstance(given, Secret)
                    or (isinstance(given, str) and given.startswith(_BROKERS))
                ):
                    raise expected_secret(
                        f"{key} as redis://host:port/0, rediss://, unix://, or one of file, env, command"
                    )
        return value


class Copies(Model):
    """Where copies go besides the primary: sites by name, or a number of them."""

    sites: Annotated[tuple[Name, ...], OneOrMore] | None = None
    number: Annotated[int, whole_number(" of copies", least=1)] | None = None
    across: Annotated[Literal["sites", "regions"], choice("sites", "regions")] = "sites"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.sites is None) == (self.number is None):
            raise wrong("give either sites, or a number (with across: sites or regions)")
        return self


class Keep(Model):
    """How many snapshots stay, per kind of period: see `shared.retention`."""

    keep_last: Annotated[int, whole_number(" of snapshots")] | None = None
    keep_hourly: Annotated[int, whole_number(" of hours")] | None = None
    keep_daily: Annotated[int, whole_number(" of days")] | None = None
    keep_weekly: Annotated[int, whole_number(" of weeks")] | None = None
    keep_monthly: Annotated[int, whole_number(" of months")] | None = None
    keep_yearly: Annotated[int, whole_number(" of years")] | None = None
    keep_within: Duration | None = None

    @property
    def rules(self) -> Rules:
        """The same, for those who decide."""
        return Rules(
            last=self.keep_last or 0,
            hourly=self.keep_hourly or 0,
            daily=self.keep_daily or 0,
            weekly=self.keep_weekly or 0,
            monthly=self.keep_monthly or 0,
            yearly=self.keep_yearly or 0,
            within=self.keep_within or 0.0,
        )

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if self.rules.keeps_nothing and not getattr(self, "sites", None):
            raise wrong("keeps nothing: give a keep_... of 1 or more, or keep_within")
        return self


class Retention(Keep):
    """What stays at each site; without rules of its own only the `sites` that are named forget anything."""

    sites: Annotated[dict[Name, Keep], mapping_of("what to keep by site")] = Field(default_factory=dict)

    def rules_at(self, site: str) -> Rules | None:
        """The rules of a site: its own in place of the others; None where all is kept there."""
        rules = self.sites[site].rules if site in self.sites else self.rules
        return None if rules.keeps_nothing else rules


class Policy(Named, PolicyDefaults):
    """What sources chosen by label get. A source follows the most specific policy that selects it: see `choice`."""

    select: Select = _ALL
    primary: Name = ""  # empty: the only site
    copies: Copies | None = None
    full: When | None = None
    incremental: When | None = None
    retention: Retention | None = None

    @model_validator(mode="after")
    def _wants_something(self) -> Self:
        if self.full is None and self.incremental is None:
            raise wrong("has no schedule: give full, incremental or both")
        return self


class Renamed(Named):
    """What keeps its first name where it lasts, whatever it is called now."""

    formerly: Id | None = None  # what it was called first, where it has been renamed

    @property
    def first_name(self) -> str:
        """What its repository and the `hf.source` of its snapshots go by."""
        return self.formerly or self.id


class SourceFacts(Renamed):
    """The half that a scheduler knows."""

    labels: Labels = Field(default_factory=dict)
    owner: Text | None = None
    host: Name | None = None
    pool: Name | None = None
    repository: Id | None = None  # None: the name that it was given first
    paused_until: Moment | None = None  # no backup of it becomes due before, and no rule forgets any of it
    scratch: Scratch | None = None  # restore tests of a stream go into it
    retired: Moment | None = None  # it is backed up no more, and no rule forgets its snapshots before

    _left: float = PrivateAttr(default=0.0)

    @property
    def left(self) -> float:
        """Since when (POSIX seconds) the inventory names it no more; 0 where it does, or never has."""
        return self._left

    def leave(self, since: float) -> None:
        """Told once, by the loader."""
        self._left = since

    @property
    def is_over(self) -> bool:
        """Whether nothing of it becomes due ever again: it is retired, or gone from the inventory."""
        return self.retired is not None or self._left > 0

    def rests(self, now: float) -> str:
        """Why nothing of it becomes due at `now` (POSIX seconds), and nobody waits for it; else empty."""
        if self._left:
            return f"gone from the inventory since {_day(self._left)}; its snapshots stay"
        if self.retired is not None:
            return f"retired; its snapshots are kept until {_day(self.retired)} at least"
        if self.paused_until is not None and now < self.paused_until:
            return f"paused until {_day(self.paused_until)}"
        return ""


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


class SourceBody(Renamed):
    """The half that only the executor knows: what is read, and how."""

    paths: Annotated[tuple[AbsolutePath, ...], OneOrMore] | None = None
    command: Program | None = None
    preset: Name | None = None  # what `command`, `filename` and `env` were made of, where files are joined: `preset`
    options: Annotated[dict[str, Text | int], mapping_of("options of the preset")] = Field(default_factory=dict)
    filename: FileName | None = None  # None: the last part of the id
    env: Variables = Field(default_factory=dict)
    timeout: Duration = 86400.0  # seconds, of the command
    excludes: Annotated[tuple[Text, ...], Several] = ()
    exclude_files: Annotated[tuple[BesidePath, ...], Several] = ()
    exclude_caches: Flag = False
    exclude_if_present: Annotated[tuple[Text, ...], Several] = ()
    one_file_system: Flag = False
    exclude_larger_than: Size | None = None
    shards: Annotated[int, whole_number(" of shards", least=2, most=64)] | None = None  # None: in one piece
    hooks: Hooks | None = None

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.paths is not None and self.command is not None:
            raise wrong("has both paths and command: a source is one or the other")
        if self.command is None and self.filename is not None:
            raise wrong("has a filename and no command: it names the file of a command's output")
        if self.preset is None and self.options:
            raise wrong("has options and no preset that they could be for")
        return self

    @property
    def stream_path(self) -> str:
        """Where the command's output stands in a snapshot."""
        name = self.first_name
        return f"/stream/{name}/{self.filename or name.rpartition('/')[2]}"


class Source(SourceFacts, SourceBody):
    """Both halves in one mapping. Its body may be absent, where an agent's own file has it."""

    @model_validator(mode="after")
    def _one_executor(self) -> Self:
        if self.host is not None and self.pool is not None:
            raise wrong("has both host and pool: it is read by that host, or by any worker of that pool")
        if self.scratch is not None and self.paths is not None:
            raise wrong("has scratch and paths: only what a program prints goes into a server")
        if self.shards is not None:
            if self.pool is None:
                raise wrong("has shards and no pool: workers of a pool, which all mount its paths alike, share them")
            if self.command is not None:
                raise wrong("has shards and a command: its output is one file, which is read in one piece")
            if self.hooks is not None:
                raise wrong("has shards and hooks: those run on one machine around all of it, and shards on several")
        return self

    @property
    def has_body(self) -> bool:
        """Whether this file says what is read."""
        return self.paths is not None or self.command is not None


class Defaults(PolicyDefaults):
    """What backups use unless told otherwise, and policies that do not say."""

    compression: Annotated[
        Literal["off", "fastest", "default", "better", "max"], choice("off", "fastest", "default", "better", "max")
    ] = "default"
    pack_size: Size = 16 * 1024 * 1024
    read_concurrency: Annotated[int, whole_number(" of helpers", least=0, most=256)] = 0  # 0: one per core


class Prune(Model):
    """How a prune gives space back."""

    grace: Duration = 86400.0  # for which a pack that nobody needs stays before it is deleted
    max_unused: Annotated[int, whole_number(" per cent", least=0, most=100)] = 5  # of the repository, in used packs
    max_repack: Size | None = None  # copied to new packs by one run; None: no limit
    every: Duration = 604800.0  # a repository of which snapshots are forgotten by rules


class Exporter(Model):
    """The metrics that `holdfast up` serves, and where `holdfast exporter` does."""

    listen: Listen = "127.0.0.1:9321"  # or "off"
    ask_sites: Flag = True


class FleetFile(Model):
    """The whole file."""

    secret: FleetSecret | None = None  # these two are required, except in an agent's file
    recovery_password: Secret | None = None
    agent: Name = ""  # the host whose agent's file this is: it then has no secret of the fleet
    machine_passwords: Secret | None = None  # the only ones that an agent knows, a line each: repository, password
    include: Annotated[tuple[Text, ...], Several] = ()  # read, and taken out, where files are joined: `assembly`
    state_dir: BesidePath = ""
    cache_dir: BesidePath = ""
    hosts: Annotated[tuple[Name, ...], Several] = ()  # besides those that sources name: restores may go there
    restore_to: Annotated[tuple[AbsolutePath, ...], Several] | None = (
        None  # None: see docs/decisions/restore-targets.md
    )
    restore_into: Annotated[dict[Name, Into], mapping_of("programs by name")] = Field(default_factory=dict)
    defaults: Annotated[Defaults, mapping_of("defaults")] = Defaults()
    prune: Annotated[Prune, mapping_of("settings: {grace: 24h, max_unused: 5}")] = Prune()
    exporter: Annotated[Exporter, mapping_of("settings: {listen: ...}")] = Exporter()
    health: Annotated[Health, mapping_of("settings: {interval: 10s, timeout: 5s}")] = Health()
    failover: Annotated[Failover, mapping_of("settings: {mode: automatic}")] = Failover()
    limits: Annotated[Limits, mapping_of("limits")] = Limits()
    scheduling: Annotated[Scheduling, mapping_of("limits")] = Scheduling()
    inventory: Inventory | None = None  # a program that names sources; its answers are joined to `sources`
    promote_without_majority: Flag = False  # of two sites without a witness, one may take the other's place by itself
    regions: Annotated[dict[Name, Region], mapping_of("regions by name")] = Field(default_factory=dict)
    sites: Annotated[dict[Name, Site], mapping_of("sites by name")]
    policies: Annotated[dict[Name, Policy], mapping_of("policies by name")] = Field(default_factory=dict)
    sources: Annotated[dict[Id, Source], mapping_of("sources by id")] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        given = {key: getattr(self.defaults, key) for key in PolicyDefaults.model_fields}
        given = {key: value for key, value in given.items() if key in self.defaults.model_fields_set}
        for name, policy in self.policies.items():
            self.policies[name] = policy.model_copy(
                update={key: value for key, value in given.items() if key not in policy.model_fields_set}
            )
        return self
