"""What there is when all is over, read from the sites, the ledger and the disk: what the oracles judge."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from shared.errors import RepositoryError
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run
from shared.messaging.client import realms
from shared.repository.locks import LockInfo, read_locks
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot
from shared.storage.durable import is_temporary
from tests.support.attempts import run_restic
from tests.support.chaos.grounds import Grounds
from workers.backup.engine.sources import cache_name

_AT_ONCE = 2
_RUN = re.compile(r"hf:(?:h:[^:]+:)?run:([0-9a-f]{32})")


@dataclass(slots=True)
class Stored:
    """One source's repository."""

    source: str
    snapshots: list[Snapshot] = field(default_factory=list)
    locks: list[LockInfo] = field(default_factory=list)
    journal_names: dict[str, str] = field(default_factory=dict)  # by run: what its journal file would be called
    check: str = ""  # what restic had against it


@dataclass(slots=True)
class Found:
    """All of it."""

    at: float  # when the locks were looked at, in seconds since 1970
    stored: dict[str, Stored]
    runs: list[Run]
    keys: dict[str, str]  # of Redis: name and type
    temporary: list[str]  # unfinished writes: at the site, in the cache, in the state
    journals: set[str]  # names of files


def look(grounds: Grounds, ledger: Ledger) -> Found:
    """Look at everything. Nothing may run meanwhile."""
    runs = all_runs(grounds, ledger)
    ids = {run.id for run in runs}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        stored = list(pool.map(lambda name: _stored(grounds, name, ids), grounds.names))
    folders = [os.path.join(grounds.directory, name) for name in ("site", "cache", "state")]
    return Found(
        at=time.time(),
        stored={one.source: one for one in stored},
        runs=runs,
        keys={str(key): str(ledger.client.type(key)) for key in ledger.client.scan_iter(count=1000)},
        temporary=[
            os.path.join(at, name)
            for folder in folders
            for at, _, names in os.walk(folder)
            for name in names
            if is_temporary(name)
        ],
        journals={os.path.basename(path) for path in glob.glob(os.path.join(folders[1], "journal", "*"))},
    )


def all_runs(grounds: Grounds, ledger: Ledger) -> list[Run]:
    """Every run that the ledger has, of all realms."""
    found: list[Run] = []
    for host in realms(grounds.fleet):
        realm = ledger.realm(host)
        ids = [match[1] for key in ledger.client.scan_iter(realm.keys.run("*")) if (match := _RUN.fullmatch(str(key)))]
        found += [run for run in map(realm.get, ids) if run is not None]
    return found


def check_all(grounds: Grounds, stored: Iterable[Stored]) -> None:
    """`restic check --read-data --no-lock` on every repository; what it finds stands in `check` afterwards."""

    def check(one: Stored) -> None:
        name = one.source
        try:
            said = run_restic(
                grounds.repository_url(name),
                "check",
                "--read-data",
                "--no-lock",
                password=grounds.fleet.machine_password(name),
                environment=grounds.s3_environment,
            )
        except AssertionError as error:
            one.check = str(error)
        else:
            one.check = "" if "no errors were found" in said else said

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(check, stored))


def _stored(grounds: Grounds, name: str, runs: set[str]) -> Stored:
    found = Stored(name)
    site = grounds.site_of(name)
    store = grounds.fleet.open_site(site).below(f"repos/{name}")
    with suppress(RepositoryError):  # no repository, no snapshot: an oracle says so
        repository = Repository.open(store, grounds.fleet.machine_password(name))
        found.snapshots = list(repository.snapshots())
        found.locks = read_locks(store, repository.load, now=store.clock(), stale=True)
        of_here = {snapshot.tag("run") for snapshot in found.snapshots}
        found.journal_names = {run: cache_name(repository.restic_id, site, run) for run in of_here | runs}
    return found
