"""A source, a site and what is done with them: Holdfast's engines in this process, stock restic beside them.

Opening with scrypt's high N takes a tenth of a second, so a repository is made once and copied.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from typing import Any

from shared.repository.index import decode_index
from shared.repository.keys import machine_password
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import Repository
from shared.repository.tree import Node, decode_tree
from shared.storage import ObjectStore, open_store
from tests.support.tools import key_hint, restic
from workers.backup.run import run_backup
from workers.backup.spec import BackupResult, BackupSpec, Selection, SiteSpec, StreamSpec
from workers.programs.program import ProgramSpec
from workers.restore.run import run_restore
from workers.restore.spec import RestoreResult, RestoreSpec

SECRET = b"\x11" * 32
REPOSITORY = "web1"
PASSWORD = machine_password(SECRET, REPOSITORY)
RECOVERY = "recover"
STREAM = "/stream/web1/dump"
SECOND = 10**9  # nanoseconds
OLD = 1_600_000_000 * SECOND  # a time long before any run


@dataclass(slots=True)
class Shop:
    """One repository on one site below `base`, and a folder `source` to back up."""

    base: str
    source: str = ""
    site: str = ""
    cache: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Copy the template's repository; make an empty source."""
        self.source = self.source or os.path.join(self.base, "source")
        self.site = self.site or os.path.join(self.base, "site")
        self.cache = self.cache or os.path.join(self.base, "cache")
        os.makedirs(self.source, exist_ok=True)
        if not os.path.exists(self.repository):
            shutil.copytree(_template(), self.site)

    @property
    def repository(self) -> str:
        """The directory that stock restic knows as the repository."""
        return os.path.join(self.site, "repos", REPOSITORY)

    # -- Holdfast ---------------------------------------------------------------------------------

    def backup(
        self,
        *paths: str,
        kind: str = "incremental",
        run: str = "",
        source: str = "web1",
        slot: str = "",
        labels: list[str] | None = None,
        cache: str = "",
        pack_size: int = 16 << 20,
        **selection: Any,
    ) -> BackupResult:
        """Back up `paths` (or the source folder); `selection` are fields of Selection."""
        spec = self.spec(run=run, source=source, cache=cache, pack_size=pack_size)
        spec.selection = Selection(list(paths) or [self.source], **selection)
        spec.kind = "full" if kind == "full" else "incremental"
        spec.slot, spec.labels = slot, labels or []
        return run_backup(spec, self.events.append)

    def stream(
        self, *argv: str, timeout: float = 0.0, run: str = "", env: dict[str, str] | None = None, pack_size: int = 0
    ) -> BackupResult:
        """Back up what a program prints, as the file `STREAM`."""
        spec = self.spec(run=run, pack_size=pack_size or 16 << 20)
        program = ProgramSpec(list(argv), {"PATH": os.environ["PATH"], **(env or {})}, timeout)
        spec.stream = StreamSpec(STREAM, program)
        return run_backup(spec, self.events.append)

    def spec(self, *, run: str = "", source: str = "web1", cache: str = "", pack_size: int = 16 << 20) -> BackupSpec:
        """An incremental backup that reads nothing yet."""
        return BackupSpec(
            site=SiteSpec("a", self.site),
            repository=REPOSITORY,
            source=source,
            run=run or os.urandom(8).hex(),
            selection=Selection([]),
            host="web1.example",
            passwords=[PASSWORD],
            fleet_secret=SECRET.hex(),
            recovery_password=RECOVERY,
            cache_dir=cache or self.cache,
            pack_size=pack_size,
            helpers=2,
        )

    def restore(self, name: str = "restored", *, snapshot: str = "latest", **options: Any) -> str:
        """Restore the source folder's content into a new folder below `base`, with nothing left out; its path."""
        target = os.path.join(self.base, name)
        self.restore_result(target, snapshot=snapshot, base=options.pop("of", self.source), **options)
        return target

    def restore_result(self, target: str, **options: Any) -> RestoreResult:
        """Restore as `options` (fields of RestoreSpec) say; nothing may be left out."""
        spec = RestoreSpec(
            site=SiteSpec("a", self.site),
            repository=REPOSITORY,
            passwords=[PASSWORD],
            target=target,
            cache_dir=self.cache,
            state_dir=os.path.join(self.base, "state"),
            helpers=2,
            **options,
        )
        result = run_restore(spec, self.events.append)
        assert (result.errors, result.problems, result.metadata_problems) == (0, [], []), result
        return result

    # -- stock restic -----------------------------------------------------------------------------

    def restic(self, version: str, *arguments: str, ok: tuple[int, ...] = (0,), **environment: str) -> str:
        """What stock restic prints; it must end with one of the exit codes `ok`."""
        return run_restic(version, self.repository, *arguments, ok=ok, **environment)

    def restic_json(self, version: str, *arguments: str) -> Any:
        """What stock restic prints with --json."""
        return json.loads(self.restic(version, *arguments, "--json"))

    def restic_backup(self, version: str, *arguments: str) -> dict[str, Any]:
        """The summary of a restic backup; without arguments of the source folder."""
        out = self.restic(version, "backup", "--json", "--host", "web1.example", *(arguments or (self.source,)))
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        return summary

    def check(self, version: str = "0.18") -> str:
        """`restic check --read-data`, which must find nothing."""
        out = self.restic(version, "check", "--read-data")
        assert "no errors were found" in out, out
        return out

    # -- looking inside ---------------------------------------------------------------------------

    def store(self) -> ObjectStore:
        """The repository's own part of the site."""
        return open_store(self.site, name="a").below(f"repos/{REPOSITORY}")

    def open(self) -> Repository:
        """The repository, opened."""
        return Repository.open(self.store(), PASSWORD)

    def blobs(self) -> dict[tuple[BlobType, bytes], tuple[bytes, Blob]]:
        """Every indexed blob: where it lies."""
        repo = self.open()
        found = {}
        for name in os.listdir(os.path.join(self.repository, "index")):
            for pack, blobs in decode_index(repo.load("index", name)):
                found.update({(blob.type, blob.id): (pack, blob) for blob in blobs})
        return found

    def nodes(self, tree: str | bytes, path: str = "") -> dict[bytes, Node]:
        """The nodes of the directory at `path` below a tree."""
        repo, blobs = self.open(), self.blobs()
        at = bytes.fromhex(tree) if isinstance(tree, str) else tree
        for part in [*filter(None, os.fsencode(path).split(b"/")), None]:
            listed = {node.name: node for node in decode_tree(repo.load_blob(*blobs[BlobType.TREE, at]))}
            if part is None:
                return listed
            below = listed[part].subtree
            assert below is not None, part
            at = below
        raise AssertionError(path)

    def tree_of(self, tree: str | bytes, path: str = "") -> bytes:
        """The id of the tree of `path` (the source folder); those of its ancestors change with what else is there."""
        above, name = os.path.split(path or self.source)
        found = self.nodes(tree, above)[os.fsencode(name)].subtree
        assert found is not None
        return found

    def packs(self) -> dict[str, str]:
        """The paths of all packs by their names."""
        return {
            name: os.path.join(folder, name)
            for folder, _, names in os.walk(os.path.join(self.repository, "data"))
            for name in names
        }

    def names(self, kind: str) -> set[str]:
        """The objects of a kind: "snapshots", "index", "keys", "locks", "holdfast/commits"."""
        folder = os.path.join(self.repository, kind)
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()


def run_restic(version: str, repository: str, *arguments: str, ok: tuple[int, ...] = (0,), **environment: str) -> str:
    """What stock restic prints on a repository (see Shop.restic)."""
    done = subprocess.run(
        [restic(version), "-r", repository, "--no-cache", "-q" if "--json" in arguments else "-v", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "RESTIC_PASSWORD": PASSWORD,
            **key_hint(repository),
            **environment,
        },
        capture_output=True,
        check=False,
        timeout=120,
    )
    out = done.stdout.decode(errors="surrogateescape")
    assert done.returncode in ok, (arguments, done.returncode, out, done.stderr.decode(errors="replace"))
    return out


def write(path: str | bytes, content: bytes = b"", *, mtime: int = OLD) -> None:
    """Write a file whose mtime (nanoseconds) is long ago; its directories are made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.utime(path, ns=(mtime, mtime))


@functools.cache
def _template() -> str:
    holder = tempfile.TemporaryDirectory(prefix="holdfast-template-")
    _kept.append(holder)
    site = os.path.join(holder.name, "site")
    os.makedirs(site)
    store = open_store(site, name="a").below(f"repos/{REPOSITORY}")
    Repository.create(store, repository_id=REPOSITORY, fleet_secret=SECRET, recovery_password=RECOVERY)
    return site


_kept: list[tempfile.TemporaryDirectory[str]] = []  # removed when the interpreter ends
