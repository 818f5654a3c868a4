"""A source's snapshots at a site, opened to look into: nothing is locked, nothing written but the index cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import click

from cli import format as show
from cli.app import App
from cli.terminal import echo
from cli.when import parse_when
from shared.errors import RepositoryError, UsageError

if TYPE_CHECKING:
    from cli.app import Command
    from cli.browse.trees import Trees
    from shared.config.fleet import Fleet
    from shared.repository.repository import Repository
    from shared.repository.snapshot import Snapshot
    from shared.repository.tree import Node
    from workers.access import WholeFirst
    from workers.restore.reading import Reader

_LATEST = re.compile(r"latest(?:~([0-9]{1,6}))?")
_ID = re.compile(r"[0-9a-f]{1,64}")


class NotStored(RepositoryError):
    """There is no such snapshot, or nothing at that path in it."""

    exit_code: ClassVar[int] = 26


@dataclass
class View:
    """One look at a source. What is wrong on the way is told as a warning, and counted in `problems`."""

    app: App
    source: str
    site: str = ""
    problems: list[str] = field(default_factory=list)

    def problem(self, line: str) -> None:
        """Something could not be read: it is told, and the command ends with code 3."""
        self.problems.append(line)
        self.app.warn(line)

    @property
    def fleet(self) -> Fleet:
        """The configuration."""
        return self.app.fleet

    @cached_property
    def place(self) -> str:
        """The site that is looked at. Raises ConfigError."""
        from shared import topology

        self.fleet.source(self.source)
        return self.site or topology.current(self.fleet).primary(self.source)

    @cached_property
    def repository(self) -> Repository:
        """The repository. Raises ConfigError, RepositoryError, StorageError."""
        from cli.opened import open_source

        return open_source(self.fleet, self.source, self.place).repository

    @cached_property
    def index(self) -> WholeFirst:
        """Where its blobs lie."""
        from shared.repository.absent import marked_packs
        from shared.repository.indexcache import IndexCache
        from workers.access import WholeFirst

        index = IndexCache.open(
            f"{self.fleet.cache_dir}/index",
            store=self.repository.store,
            repository_id=self.repository.restic_id or self.fleet.repository_of(self.source),
            site=self.place,
            load=self.repository.load_index,
        )
        return WholeFirst(index, marked_packs(self.repository.store))

    @cached_property
    def reader(self) -> Reader:
        """What reads blobs out of packs."""
        from workers.restore.reading import Reader

        return Reader(self.repository.store, self.repository.sealer(), remote=self.fleet.site(self.place).is_s3)

    @cached_property
    def trees(self) -> Trees:
        """Its trees."""
        from cli.browse.trees import Trees

        return Trees(self.index, self.reader, self.problem)

    @cached_property
    def snapshots(self) -> list[Snapshot]:
        """The source's snapshots, oldest first; one that is damaged is told."""

        def damaged(_: str, error: RepositoryError) -> None:
            self.problem(str(error))

        found = [one for one in self.repository.snapshots(damaged) if self._is_mine(one)]
        return sorted(found, key=lambda snapshot: (snapshot.time, snapshot.id))

    @cached_property
    def _sources(self) -> set[str]:
        fleet, repository = self.fleet, self.fleet.repository_of(self.source)
        shared = any(other != self.source and fleet.repository_of(other) == repository for other in fleet.sources)
        # What stock restic wrote bears no source: in a repository of its own it can only be this one's.
        tag = fleet.source(self.source).first_name
        return {tag} if shared else {tag, ""}

    def _is_mine(self, snapshot: Snapshot) -> bool:
        return snapshot.source in self._sources

    def choose(self, wanted: str = "latest", before: str | None = None) -> Snapshot:
        """The snapshot that is meant: `latest`, `latest~2` (the second before it), or the beginning of an id.

        `before`: a time as people write it; `latest` is the newest that is not later. Raises NotStored, UsageError.
        """
        latest = _LATEST.fullmatch(wanted)
        if before and not latest:
            raise UsageError("--snapshot and --before exclude each other")
        if latest:
            back = int(latest.group(1) or 0)
            if before:
                limit = parse_when(before, datetime.now(UTC)).timestamp() * 1e9
                listed = [snapshot for snapshot in self.snapshots if snapshot.time <= limit]
            else:
                listed = self.snapshots
            if back < len(listed):
                return listed[-1 - back]
            until = f" until {before}" if before else ""
            raise NotStored(
                f"there is no snapshot {wanted} of source {self.source}{until}: it has {len(listed)}",
                hint=f"`holdfast snapshots {self.source}` lists what is there",
            )
        return self._by_id(wanted.lower())

    def _by_id(self, start: str) -> Snapshot:
        from shared.repository.snapshot import decode_snapshot
        from shared.storage.api import MissingObject

        hint = f"`holdfast snapshots {self.source}` lists what is there"
        if not _ID.fullmatch(start):
            raise UsageError(f'"{start}" is no snapshot', hint="Write latest, latest~1, or the beginning of an id")
        names = [info.key.rpartition("/")[2] for info in self.repository.store.list("snapshots/")]
        names = [name for name in names if name.startswith(start)]
        if len(names) > 1:
            raise NotStored(f"{start} is the beginning of {len(names)} snapshots' ids", hint="Give more of the id")
        try:
            snapshot = decode_snapshot(self.repository.load("snapshots", names[0]), names[0]) if names else None
        except MissingObject:
            snapshot = None  # forgotten since the listing
        if snapshot is None:
            raise NotStored(f"there is no snapshot {start} of source {self.source}", hint=hint)
        if not self._is_mine(snapshot):
            of = f"is of source {snapshot.source}" if snapshot.source else "is of no source"
            raise NotStored(f"snapshot {start} {of}, and not of {self.source}", hint=hint)
        return snapshot

    def node(self, snapshot: Snapshot, path: bytes) -> Node:
        """What stands at `path` (relative, b"" for the top, which is made up). Raises NotStored, Damaged."""
        from cli.browse.names import absolute, shown
        from shared.repository.errors import Damaged
        from shared.repository.tree import Node

        node = Node(b"/", "dir", subtree=snapshot.tree)
        at = b""
        for name in path.split(b"/") if path else []:
            nodes = self.trees.nodes(node.subtree, at) if node.subtree else []
            if nodes is None:
                raise Damaged(
                    f"{shown(absolute(path))}: a directory above it can't be read in snapshot {snapshot.id[:8]}",
                    hint=f"Try another snapshot or --site; `holdfast verify {self.source}` tells what is damaged",
                )
            found = next((one for one in nodes if one.name == name), None)
            if found is None:
                moment = show.moment(snapshot.time / 1e9)
                raise NotStored(
                    f"snapshot {snapshot.id[:8]} of {moment} holds no {shown(absolute(path))}",
                    hint=f"holdfast find {self.source} looks in all snapshots",
                )
            node, at = found, at + b"/" + name if at else name
        return node

    def restore_command(self, path: bytes, snapshot: Snapshot) -> str:
        """The command that brings back what stands at `path`, from the same site by the same configuration."""
        from cli.browse.names import restore_command

        return restore_command(self.source, path, snapshot.id, site=self.site, config=self.app.config)

    def say_when(self, snapshot: Snapshot, now: float) -> None:
        """From when the data is: on stderr, since stdout is the listing."""
        if not self.app.json and not self.app.quiet:
            moment = snapshot.time / 1e9
            said = (
                f"{self.source} as it was {show.moment(moment)}, {show.ago(moment, now)} (snapshot {snapshot.id[:8]})"
            )
            echo(said, err=True)


def which_snapshot(command: Command) -> Command:
    """Give a command `--snapshot` and `--before`."""
    before = click.option(
        "--before", "--at", "before", metavar="TIME", help='As it was then: "14:05", "2026-03-01 02:00", "3h ago".'
    )
    wanted = click.option(
        "--snapshot",
        default="latest",
        show_default=True,
        metavar="ID",
        help="Which; the beginning of an id will do, and latest~1 is the one before.",
    )
    return wanted(before(command))


def which_site(command: Command) -> Command:
    """Give a command `--site`."""
    option: Callable[[Command], Command] = click.option(
        "--site", default="", metavar="SITE", help="The site to look at (else the primary)."
    )
    return option(command)
