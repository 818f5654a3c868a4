"""Attempts at one run on one site: their spec, stock restic beside them, and what was uploaded twice.

A `Bench` is a directory with a site, a cache and a source; the source may be shared by many.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shared.repository.keys import MACHINE_N, machine_password
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.repository.tree import decode_tree
from shared.storage.directory import DirectoryStore
from tests.support.killing_store import Trap
from tests.support.tools import key_hint, restic
from workers.backup.spec import BackupSpec, Selection, SiteSpec

SECRET = bytes(range(32))
RECOVERY = "a password that a person keeps"
REPOSITORY = "web1"
MACHINE = machine_password(SECRET, REPOSITORY)
PACK_SIZE = 64 << 10  # bytes: small, so that there are many
HELPERS = 2
# Two creators aside nobody else is at the lock, so nobody needs 200 ms to be seen.
# A source is backed up in the very second in which a test wrote it: its times are trusted all the same.
# What a recovery key costs is no one's subject here, and it is made in each of hundreds of repositories.
QUICK = {
    "shared.repository.keys:RECOVERY_N": MACHINE_N,
    "shared.repository.locks:WAIT": 0.02,
    "workers.backup.engine.sources:MARGIN": -(10**15),
}


def make_source(path: str, *, files: int = 240, big: int = 12 << 20, seed: int = 7) -> str:
    """A tree of small files, one of 3 MiB and one of `big` bytes; half of the bytes compress. Returns `path`."""
    draw = random.Random(seed)
    for number in range(files):
        folder = os.path.join(path, f"d{number % 12}", f"e{number % 5}")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"f{number}"), "wb") as file:
            file.write(draw.randbytes(draw.randrange(1, 6000)) + b"text " * draw.randrange(1000))
    for name, size in (("middle", 3 << 20), ("big", big)):
        with open(os.path.join(path, name), "wb") as file:
            file.write(draw.randbytes(size // 2) + bytes(size - size // 2 - 1) + b"\n")
    return path


@dataclass
class Bench:
    """One site with one repository, and the cache of the host that backs up into it."""

    directory: str
    source: str
    repository: str = REPOSITORY
    site: str = field(init=False)
    cache: str = field(init=False)

    def __post_init__(self) -> None:
        """Make the directories."""
        self.site = os.path.join(self.directory, "site")
        self.cache = os.path.join(self.directory, "cache")
        os.makedirs(self.site, exist_ok=True)
        os.makedirs(self.cache, exist_ok=True)

    @property
    def path(self) -> str:
        """The repository's directory."""
        return os.path.join(self.site, "repos", self.repository)

    def spec(self, run: str, **more: Any) -> dict[str, Any]:
        """The spec of a backup of the source, as the pipe carries it."""
        spec = BackupSpec(
            site=SiteSpec("a", self.site),
            repository=self.repository,
            source="web1",
            run=run,
            selection=Selection([self.source]),
            kind="full",
            host="web1.example",
            passwords=[MACHINE],
            fleet_secret=SECRET.hex(),
            recovery_password=RECOVERY,
            cache_dir=self.cache,
            pack_size=PACK_SIZE,
            helpers=HELPERS,
        )
        return {**spec.to_json(), **more}

    def trap(self, *, slow: float = 0.004, **more: Any) -> Trap:
        """A trap with a fresh record; each put takes `slow` seconds longer."""
        record = os.path.join(self.directory, f"record-{os.urandom(4).hex()}")
        os.makedirs(record)
        return Trap(record, delay=slow, **more)

    def copy(self, directory: str) -> Bench:
        """A bench that starts where this one stands; objects are hard links, as none is ever written to."""
        shutil.copytree(self.site, os.path.join(directory, "site"), copy_function=os.link)
        shutil.copytree(self.cache, os.path.join(directory, "cache"))
        return Bench(directory, self.source)

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.directory)

    # -- what is there ----------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether there is a repository: it has a config."""
        return os.path.exists(os.path.join(self.path, "config"))

    def names(self, kind: str) -> set[str]:
        """The ids of the objects of a kind: "snapshots", "index", "locks", "keys", "data", "holdfast/commits"."""
        found: set[str] = set()
        for _, _, files in os.walk(os.path.join(self.path, kind)):
            found.update(name for name in files if not name.startswith("."))
        return found

    def journaled(self) -> set[str]:
        """The packs in the local journals."""
        found: set[str] = set()
        for folder, _, files in os.walk(os.path.join(self.cache, "journal")):
            for name in files:
                with open(os.path.join(folder, name)) as file:
                    found.update(file.read().split())
        return found

    def open(self) -> Repository:
        """The repository, opened."""
        return Repository.open(DirectoryStore(self.path), MACHINE)

    def snapshots(self, run: str = "") -> list[Snapshot]:
        """Its snapshots; those of one run where that is given."""
        return [found for found in self.open().snapshots() if run in ("", found.tag("run"))]

    def indexed(self) -> set[str]:
        """The packs that an index file lists."""
        repo = self.open()
        return {pack.hex() for name in self.names("index") for pack, _ in repo.load_index(name)}

    def blobs(self, packs: Iterable[str]) -> dict[tuple[BlobType, bytes], Blob]:
        """The blobs of these packs, by their headers."""
        repo = self.open()
        return {(blob.type, blob.id): blob for pack in packs for blob in repo.pack_header(bytes.fromhex(pack))}

    def source_tree(self, snapshot: Snapshot) -> str:
        """The tree of the source's own folder: unlike the root's it has no times of the folders above."""
        repo = self.open()
        places = {
            blob.id: (pack, blob)
            for name in self.names("index")
            for pack, blobs in repo.load_index(name)
            for blob in blobs
            if blob.type is BlobType.TREE
        }
        tree = snapshot.tree
        for part in os.fsencode(self.source).strip(b"/").split(b"/"):
            (tree,) = (
                node.subtree
                for node in decode_tree(repo.load_blob(*places[tree]))
                if node.name == part and node.subtree
            )
        return tree.hex()

    # -- stock restic -----------------------------------------------------------------------------

    def restic(self, *arguments: str, version: str = "0.18", password: str = MACHINE, code: int = 0) -> str:
        """What stock restic says; it must end with that exit code."""
        return run_restic(self.path, *arguments, version=version, password=password, code=code)

    def check(self, *, version: str = "0.18") -> None:
        """Restic's check of all data must pass, whoever holds a lock."""
        said = self.restic("check", "--read-data", "--no-lock", version=version)
        assert "no errors were found" in said, said

    def restore(self, snapshot: str, *, version: str = "0.18") -> str:
        """Restore with stock restic into a new directory; the path of the source's copy in it."""
        target = os.path.join(self.directory, f"restored-{os.urandom(4).hex()}")
        self.restic("restore", snapshot, "--target", target, "--no-lock", version=version)
        return target + self.source


def run_restic(
    repository: str,
    *arguments: str,
    version: str = "0.18",
    password: str = MACHINE,
    code: int = 0,
    environment: dict[str, str] | None = None,
) -> str:
    """What stock restic prints on a repository, stderr too; it must end with that exit code."""
    done = subprocess.run(
        [restic(version), "-r", repository, "--no-cache", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "RESTIC_PASSWORD": password,
            **(key_hint(repository) if password != RECOVERY else {}),
            **(environment or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, f"restic {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def restic_snapshots(repository: str, **more: Any) -> list[dict[str, Any]]:
    """The snapshots as stock restic lists them."""
    found: list[dict[str, Any]] = json.loads(run_restic(repository, "snapshots", "--json", "--no-lock", **more))
    return found


def digest(path: str) -> dict[str, str]:
    """SHA-256 of each file below, by relative path."""
    found = {}
    for folder, _, files in os.walk(path):
        for name in files:
            whole = os.path.join(folder, name)
            with open(whole, "rb") as file:
                found[os.path.relpath(whole, path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
