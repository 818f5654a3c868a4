"""The ledger from the sites: what their snapshots say of every source, noted where the tick looks for it.

    each site, a thread: does it answer? -> its repositories, so many at a time: a look, and its status written anew
    this thread: evidence into the ledger, some hundreds at a time, as it comes

Nothing has to be stopped for it, and it may be killed at any time, or run twice: what is noted is true by itself and
never replaces what is newer; of what is not noted the tick asks the site, as it would have without this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from scheduler.due import horizon
from shared import topology
from shared.config.looking import look_at
from shared.config.stores import open_site
from shared.errors import ConfigError, HoldfastError
from shared.evidence import evidence_in
from shared.ledger import refill
from shared.storage.api import Transient
from shared.storage.retry import Patience

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.looking import Look
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Evidence
    from shared.storage.api import ObjectStore

CONNECTIONS = 32  # to each site
PATIENCE = 15.0  # seconds for which a request that fails is tried again
_SOMEWHERE = "holdfast/probe/"  # a listing of it says that a site answers, and costs nothing

Row = tuple[str, str, str, "Evidence"]  # as the ledger takes it: host, source, site
OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class AtSite:
    """What was found at one site."""

    site: str
    repositories: int  # that may be there
    read: int = 0  # of these, those of which all is known now
    found: int = 0  # of these, those that are there
    snapshots: int = 0
    sources: int = 0  # that have a snapshot there
    behind: int = 0  # repositories whose status was missing or did not tell of what is there
    written: int = 0  # of these, those whose status does now
    away: str = ""  # why the site, or the rest of it, could not be read; empty: it was
    failed: dict[str, str] = field(default_factory=dict)  # repositories that could not be read, and why
    unwritten: dict[str, str] = field(default_factory=dict)  # those whose status could not be written, and why

    @property
    def is_whole(self) -> bool:
        """Whether all of it was read."""
        return self.read == self.repositories


def rebuild(
    fleet: Fleet,
    pools: Ledger | None,
    sites: Sequence[str],
    on_event: OnEvent,
    *,
    connections: int = CONNECTIONS,
    write: bool = True,
) -> list[AtSite]:
    """Read every repository at these sites, and note what they say in the ledger, unless there is none (`pools`).

    `write`: whether a status that is missing or behind is written anew. `on_event` gets {"event": "progress",
    "repositories", "repositories_total"}. What can't be read is told in what is returned. Raises ConfigError,
    LedgerError.
    """
    secret = fleet.secret.read()
    sharing: dict[str, list[str]] = {}
    for name in fleet.sources:
        sharing.setdefault(fleet.repository_of(name), []).append(name)
    readers = [_Reader(fleet, name, list(sharing), secret, connections, write=write) for name in sites]
    homes = _homes(fleet)
    rows: list[Row] = []
    total = len(sharing) * len(readers)
    for done, (reader, repository, evidence) in enumerate(_answers(readers), 1):
        for source in sharing[repository]:
            if (one := evidence.get(fleet.source(source).first_name)) is not None:
                reader.report.sources += 1
                home, primary = homes[source]
                rows.append((home if primary in ("", reader.site) else "", source, reader.site, one))
        if pools is not None and len(rows) >= refill.AT_ONCE:
            refill.note_evidence(pools, rows)
            rows.clear()
        on_event({"event": "progress", "repositories": done, "repositories_total": total})
    if pools is not None:
        refill.note_evidence(pools, rows)
    return [reader.report for reader in readers]


def _homes(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """By source: its host, and its primary, empty where that is not known.

    What is known of it at the primary lies in its host's realm; of copies, for which no agent speaks, in the pools'.
    """
    now = topology.current(fleet)
    homes = {}
    for name, source in fleet.sources.items():
        try:
            primary = now.primary(name)
        except ConfigError:
            primary = ""
        homes[name] = source.host or "", primary
    return homes


def _answers(readers: Sequence[_Reader]) -> Iterator[tuple[_Reader, str, dict[str, Evidence]]]:
    """What each reader learns of each repository, as it comes."""
    answers: SimpleQueue[tuple[_Reader, str, dict[str, Evidence]] | None] = SimpleQueue()

    def work(reader: _Reader) -> None:
        try:
            reader.read(lambda repository, evidence: answers.put((reader, repository, evidence)))
        finally:
            answers.put(None)

    threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in readers]
    for thread in threads:
        thread.start()
    try:
        left = len(threads)
        while left:
            answer = answers.get()
            if answer is None:
                left -= 1
            else:
                yield answer
    finally:
        for reader in readers:
            reader.stop.set()


class _Reader:
    """Reads one site, by so many threads as it may have connections. `report` is guarded by `_lock`."""

    def __init__(
        self, fleet: Fleet, site: str, names: Sequence[str], secret: bytes, connections: int, *, write: bool
    ) -> None:
        self.site = site
        self.stop = threading.Event()
        self.report = AtSite(site, len(names))
        self._fleet, self._names, self._secret = fleet, names, secret
        self._connections, self._write = connections, write
        self._latest = horizon(datetime.now(UTC))
        self._lock = threading.Lock()

    def read(self, tell: Callable[[str, dict[str, Evidence]], None]) -> None:
        """All of it; `tell` gets each repository that could be read, and what it says of its sources."""
        try:
            access = replace(self._fleet.site_access(self.site), connections=self._connections)
            with closing(open_site(access, patience=Patience(PATIENCE))) as store:
                next(iter(store.list(_SOMEWHERE)), None)
                with ThreadPoolExecutor(self._connections) as threads:
                    for _ in threads.map(lambda name: self._one(store, name, tell), self._names):
                        pass
        except HoldfastError as error:
            self.report.away = str(error)

    def _one(self, store: ObjectStore, name: str, tell: Callable[[str, dict[str, Evidence]], None]) -> None:
        if self.stop.is_set() or self.report.away:
            return
        try:
            look = look_at(self._fleet, name, self.site, store, self._secret, self._latest)
        except HoldfastError as error:
            with self._lock:
                if isinstance(error, Transient | ConfigError):  # the site itself, or what opens it: no use to go on
                    self.report.away = self.report.away or str(error)
                else:
                    self.report.failed[name] = str(error)
            return
        except Exception as error:  # noqa: BLE001 - a thread's end is seen by nobody
            with self._lock:
                self.report.failed[name] = f"{error!r}, which is a bug of Holdfast"
            return
        why = self._settle(look)
        with self._lock:
            report = self.report
            report.read += 1
            report.found += look.repository is not None
            report.snapshots += look.snapshots
            report.behind += look.gathered is not None
            report.written += why == ""
            if why:
                report.unwritten[name] = why
        tell(name, evidence_in(look.told, self._latest))

    def _settle(self, look: Look) -> str | None:
        """Let the status tell of what is there. Why that could not be; empty: it was done; None: nothing was to do."""
        from shared.repository.status import put_status

        if look.gathered is None or look.repository is None or not self._write:
            return None
        try:
            put_status(look.repository, look.gathered)
        except HoldfastError as error:
            return str(error)
        return ""
