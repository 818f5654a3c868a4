"""Looks at a site: writes a few bytes, reads them back, and says how it went.

Invariants: whoever asks has an answer within the time-out of the configuration, whatever the site does. So each look is
a thread of its own, and one that hangs (a dead NFS, a byte a second) is left behind. There is one such thread at most
for a site: as long as it hangs the site is down, and no other is begun. What counts is whether the bytes came back;
what is asked besides (clock, room, certificate, tidying up) may be late and then is not known.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared.errors import ConfigError, HoldfastError, StorageError
from shared.health.observation import Observation, Verdict
from shared.observability.structured import structlog
from shared.storage.api import Denied, MeasuredStore, MissingObject, Permanent, StoreFull
from shared.storage.certificates import expiry
from shared.storage.open import parse_url
from shared.storage.retry import Patience
from shared.topology.ballot import KEY

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.health import Health
    from shared.config.models import Site
    from shared.storage.api import ObjectStore

PLACE = "holdfast/probe/"  # of what probes write
_RARELY = 3600.0  # seconds between two looks at a certificate, and at what killed probes have left
_LEFT_AFTER = 86_400.0  # seconds, by the site's clock
_SWEPT_AT_MOST = 1000
_WHY_AT_MOST = 300

_log = structlog.get_logger("holdfast.health")


def verdict_of(error: StorageError, *, is_s3: bool) -> Verdict:
    """What an operation that failed says of its site."""
    if isinstance(error, Denied | StoreFull | MissingObject) or (is_s3 and isinstance(error, Permanent)):
        return Verdict.REFUSED
    return Verdict.DOWN  # of a directory also what would fail again: it is not mounted, or its disk is broken


class _Lies(Exception):
    """A site that says what is not so. No program of ours may count on it."""


@dataclass(frozen=True, slots=True)
class _Tried:
    verdict: Verdict
    why: str = ""
    latency: float = 0.0


@dataclass(slots=True)
class _Memory:
    """What is kept of a site from look to look."""

    asked: float = float("-inf")  # when what is asked rarely was asked last
    certificate: float | None = None
    left: bytes = b""  # lies there since then, as it could not be removed
    left_at: float = 0.0


class _Look:
    """One look at a site, in a thread."""

    def __init__(self, fleet: Fleet, site: Site, key: str, memory: _Memory) -> None:
        self.began = time.monotonic()
        self.tried: _Tried | None = None
        self.problem: HoldfastError | None = None  # of this machine, which says nothing of the site
        self.free: int | None = None
        self.clock: float | None = None
        self._fleet = fleet
        self._site = site
        self._key = key
        self._memory = memory
        self.thread = threading.Thread(target=self._run, name=f"probe-{site.id}", daemon=True)

    def _run(self) -> None:
        try:
            self._look()
        except Exception as error:  # noqa: BLE001 - a thread's end is seen by nobody
            _log.exception("a probe broke off", site=self._site.id)
            self.tried = self.tried or _Tried(Verdict.DOWN, f"the probe broke off: {error!r}"[:_WHY_AT_MOST])

    def _look(self) -> None:
        timeout = self._fleet.health.timeout
        try:
            store = self._fleet.open_site(self._site.id, patience=Patience(timeout, tries=1))
        except (StorageError, ConfigError) as error:
            if isinstance(error, ConfigError) or self._site.is_s3:  # nothing was asked of the site yet
                self.problem = error
            else:
                self.tried = self._failed(error)
            return
        try:
            tried = self._try(store)
            if self.problem is not None:
                return
            self.tried = tried
            if tried.verdict is not Verdict.DOWN:
                self._ask_besides(store, timeout)
        finally:
            store.close()

    def _try(self, store: ObjectStore) -> _Tried:
        try:
            why = self._read(store) if self._site.witness else self._write_and_read(store)
        except StorageError as error:
            if isinstance(error, Denied) and not error.site:
                self.problem = error  # its keys can't be read here
            return self._failed(error)
        except _Lies as error:
            return _Tried(Verdict.REFUSED, str(error), time.monotonic() - self.began)
        latency = time.monotonic() - self.began
        slow = latency > self._fleet.health.slow_after
        said = f"it took {latency:.1f} s to write and read a few bytes" if slow and not why else why
        return _Tried(Verdict.SLOW if slow else Verdict.UP, said, latency)

    def _failed(self, error: StorageError) -> _Tried:
        why = str(error.args[0])[:_WHY_AT_MOST]
        return _Tried(verdict_of(error, is_s3=self._site.is_s3), why, time.monotonic() - self.began)

    def _read(self, store: ObjectStore) -> str:
        with suppress(MissingObject):  # it has not voted yet
            store.get(KEY)
        return ""

    def _write_and_read(self, store: ObjectStore) -> str:
        data = self._memory.left
        if not data or time.monotonic() - self._memory.left_at > _RARELY:
            data = os.urandom(16).hex().encode()
            try:
                store.put(self._key, data)
            except Denied as error:
                if not self._site.is_s3:
                    raise
                next(iter(store.list(PLACE)), None)  # it may be this prefix alone: runs tell whether they may write
                return f"it can be read, and not probed by writing: {error.args[0]}"[:_WHY_AT_MOST]
            self._memory.left, self._memory.left_at = data, time.monotonic()
        try:
            found = store.get(self._key)
        except MissingObject as error:
            self._memory.left = b""
            raise _Lies(f"site {self._site.id}: it said that {self._key} was written, and does not have it") from error
        if found != data:
            self._memory.left = b""
            raise _Lies(f"site {self._site.id}: it gives back other bytes than were written to {self._key}")
        return ""

    def _ask_besides(self, store: ObjectStore, timeout: float) -> None:
        rarely = time.monotonic() - self._memory.asked > _RARELY
        with suppress(StorageError):
            before = time.time()
            clock = store.clock()
            # The Date of S3 is in whole seconds, rounded down.
            self.clock = clock + (0.5 if self._site.is_s3 else 0.0) - (before + time.time()) / 2
        if isinstance(store, MeasuredStore):
            with suppress(StorageError):
                self.free = store.room()
        if self._memory.left and not self._site.witness:
            with suppress(StorageError):  # where it may not, it is read again, and written anew once an hour
                store.purge(self._key)
                self._memory.left = b""
        if not rarely:
            return
        self._memory.asked = time.monotonic()
        if self._site.is_s3:
            with suppress(OSError):
                endpoint = parse_url(self._site.url).endpoint
                self._memory.certificate = expiry(endpoint, self._site.ca_file, timeout=timeout)
        if not self._site.witness and self.clock is not None:
            self._sweep(store, time.time() + self.clock - _LEFT_AFTER)

    def _sweep(self, store: ObjectStore, before: float) -> None:
        """Remove what killed probes have left: a few bytes each."""
        with suppress(StorageError):
            for number, one in enumerate(store.list(PLACE)):
                if number >= _SWEPT_AT_MOST:
                    return
                if one.modified < before:
                    store.purge(one.key)


class Prober:
    """One process's looks. For one thread. `fleet` may be replaced by a newer one."""

    def __init__(self, fleet: Fleet, observer: str, place: str) -> None:
        self.fleet = fleet
        self.observer = observer
        self.place = place
        self._key = f"{PLACE}{observer}-{os.urandom(4).hex()}"  # of this process: others of its name do not disturb
        self._memories: dict[tuple[str, str], _Memory] = {}  # by site and url
        self._looks: dict[tuple[str, str], _Look] = {}
        self._said: dict[str, str] = {}

    def probe(self, site: str) -> Observation | None:
        """Look at one site; None where this machine can't, for its own configuration. Takes a time-out at most."""
        return next(iter(self.look([site])), None)

    def look(self, sites: Sequence[str] | None = None) -> list[Observation]:
        """Look at sites (all of them) at once. Takes a time-out at most, whatever they do; raises nothing of theirs."""
        fleet = self.fleet
        at, until = time.time(), time.monotonic() + fleet.health.timeout
        named = [fleet.sites[name] for name in (fleet.sites if sites is None else sites) if name in fleet.sites]
        self._forget(named if sites is None else fleet.sites.values())
        begun = [(site, self._begin(site)) for site in named]
        found = []
        for site, (look, fresh) in begun:
            if fresh:
                look.thread.join(max(0.0, until - time.monotonic()))
            one = self._observed(site, look, at, fresh=fresh)
            if one is not None:
                found.append(one)
        return found

    def _forget(self, sites: Iterable[Site]) -> None:
        there = {(site.id, site.url) for site in sites}
        self._memories = {key: kept for key, kept in self._memories.items() if key in there}
        self._looks = {key: kept for key, kept in self._looks.items() if key in there}

    def _begin(self, site: Site) -> tuple[_Look, bool]:
        """The look that is under way, or a new one, and whether it is that."""
        key = (site.id, site.url)
        before = self._looks.get(key)
        if before is not None and before.thread.is_alive():
            return before, False
        look = _Look(self.fleet, site, self._key, self._memories.setdefault(key, _Memory()))
        self._looks[key] = look
        look.thread.start()
        return look, True

    def _observed(self, site: Site, look: _Look, at: float, *, fresh: bool) -> Observation | None:
        if look.problem is not None:
            if self._said.get(site.id) != str(look.problem):
                _log.warning("a site can't be probed from here", site=site.id, reason=str(look.problem))
            self._said[site.id] = str(look.problem)
            return None
        self._said.pop(site.id, None)
        health, age = self.fleet.health, time.monotonic() - look.began
        tried = look.tried
        if tried is None:
            why = f"site {site.id}: no answer within {health.timeout:g} s" if fresh else _hangs(site, age)
            tried = _Tried(Verdict.DOWN, why, age)
        elif not fresh and tried.verdict.works:  # the bytes came back, and what is asked besides still hangs
            verdict = Verdict.DOWN if age > health.interval + health.timeout else Verdict.SLOW
            tried = _Tried(verdict, _hangs(site, age), age)
        certificate = self._memories[site.id, site.url].certificate
        one = Observation(
            site=site.id,
            observer=self.observer,
            place=self.place,
            at=at,
            verdict=tried.verdict,
            why=tried.why,
            latency=tried.latency,
            free=look.free,
            certificate=certificate,
            clock=look.clock,
        )
        return one if one.why else replace(one, why=notable(one, health))


def notable(one: Observation, health: Health) -> str:
    """What is to be said of a site that works all the same."""
    said = []
    if one.free is not None and one.free < health.min_free:
        said.append(f"only {one.free:,} bytes are free, and {health.min_free:,} are wanted")
    if one.clock is not None and abs(one.clock) > health.clock_tolerance:
        said.append(f"its clock is {abs(one.clock):.0f} s {'ahead' if one.clock > 0 else 'behind'}")
    return "; ".join(said)


def _hangs(site: Site, age: float) -> str:
    return f"site {site.id}: a probe of {age:.0f} s ago hangs"
