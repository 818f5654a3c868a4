"""What the exporter knows of a fleet: read from the ledger in pipelined batches, and from nothing else.

A read costs a fixed number of commands per host, queue and open run, and a few for each run that ended since the read
before. A source's own history is looked at once, when it is first seen, and again where the ledger was wiped: so ten
thousand sources are cheap from the second read on.

What ended, failed or was asked again is counted in the ledger, by the scripts that end a run: the counts outlive every
exporter, are the same in all of them, and begin anew only where Redis was emptied. A failed slot that is opened again
and ends again counts twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from shared.ledger import bulk, sweep, tales
from shared.ledger.codec import NoRun, kind_of, queue_in, seconds, state_of, whole
from shared.ledger.guard import guarded
from shared.ledger.keys import BEAT_LOCK, BEAT_PREFIX
from shared.ledger.model import UPKEEP, RunKind, RunState, Upkept, slot_time
from shared.messaging.client import realms
from shared.messaging.ignored import FIELD as IGNORED
from shared.messaging.names import CAPABILITIES, SCHEDULER, host_restore_queue, queue_of, redis_list

if TYPE_CHECKING:
    from redis import Redis

    from shared.config.fleet import Fleet
    from shared.ledger.keys import Keys
    from shared.ledger.ledger import Ledger

TICK_ENTRY = f"{BEAT_PREFIX}tick"  # RedBeat's note of when it sent the tick last
_STEP = 50  # entries of a list that are read at a time
_FEW = 4  # entries that are read first: most realms are those of one server
_FIELDS = (
    "id",
    "kind",
    "source",
    "state",
    "queue",
    "opened",
    "started",
    "began",
    "ended",
    "lease",
    "exit_code",
    "result",
)
_CODE = 6  # digits of an exit code
_DATE = ("year", "month", "day", "hour", "minute", "second", "microsecond")


@dataclass(frozen=True, slots=True)
class SeenRun:
    """What the exporter reads of a run. Times in seconds since 1970 by Redis's clock, 0 for not yet."""

    id: str
    kind: RunKind
    source: str
    state: RunState
    queue: str
    opened: float
    started: float
    ended: float
    lease_until: float
    exit_code: int
    result: dict[str, Any]
    host: str = ""  # in whose realm it lies; empty: the pools'

    @property
    def mark(self) -> tuple[float, str]:
        """What tells one end of a run from another."""
        return self.ended, self.id


@dataclass(frozen=True, slots=True)
class Good:
    """A complete snapshot: when it was begun, when its run ended (0 for not known), its id (empty: not known)."""

    start: float
    end: float
    snapshot: str = ""


@dataclass(frozen=True, slots=True)
class RedisState:
    """What Redis says of itself."""

    persistent: bool = False  # it keeps its log on disk, and could write to it
    evicts: bool = False
    memory: int = 0  # bytes
    memory_limit: int = 0  # bytes; 0: none
    clients: int = 0
    clients_limit: int = 0


@dataclass(slots=True)
class Facts:
    """The fleet as it was read last. `last` and `good` outlive a Redis that is away: they are facts of the past."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and final state
    errors: Counter[int] = field(default_factory=Counter)  # by exit code
    retries: Counter[str] = field(default_factory=Counter)  # by site
    uploaded: Counter[str] = field(default_factory=Counter)  # bytes, by source
    ignored: Counter[str] = field(default_factory=Counter)  # events, by reason
    last: dict[str, SeenRun] = field(default_factory=dict)  # by source: the backup run that ended last
    good: dict[str, dict[str, Good]] = field(default_factory=dict)  # by source and site
    upkeep: dict[str, dict[tuple[str, str], Upkept]] = field(default_factory=dict)  # by source, and site and kind
    open: list[SeenRun] = field(default_factory=list)
    queues: dict[str, int] = field(default_factory=dict)  # rings that wait
    workers: Counter[str] = field(default_factory=Counter)  # that consume a queue, and stay
    redis: RedisState = field(default_factory=RedisState)
    unread: dict[str, int] = field(default_factory=dict)  # by host: entries of its realm that can't be read
    now: float = 0.0  # Redis's clock
    leader: bool = False
    tick: float = 0.0  # 0: never


class FactReader:
    """Keeps `facts` up to date. One thread at a time."""

    def __init__(self, pools: Ledger) -> None:
        self.facts = Facts()
        self._pools = pools
        self._client: Redis = pools.client
        self._keys: dict[str, Keys] = {}
        self._marks: dict[str, tuple[float, str] | None] = {}  # by realm: the end that was seen last
        self._known: set[tuple[str, str]] = set()  # realms and sources whose history was looked at
        self._kept: set[str] = set()  # sources of which upkeep has ended since it was looked at
        self._homes: dict[str, str] = {}  # by source: the realm in which its backups lie

    def read(self, fleet: Fleet) -> None:
        """Read the ledger once. Raises LedgerAway or LedgerError, and then leaves what was known before."""
        hosts = realms(fleet)
        self._homes = {name: source.host or "" for name, source in fleet.sources.items()}
        self._keys = {host: self._keys.get(host) or self._pools.realm(host).keys for host in hosts}
        waiting = queues_of(fleet)
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.exists(BEAT_LOCK)
        pipe.hget(TICK_ENTRY, "meta")
        pipe.info()
        (seconds, micros), leads, meta, info = guarded(pipe.execute)
        lengths = bulk.lengths(self._pools, tuple(waiting.values()))
        heads = sweep.heads(self._pools, hosts)
        running = self._runs([(head.host, one) for head in heads for one in head.open])
        self._follow({head.host: (head.ended, head.newest) if head.ended else None for head in heads})
        self._look_back(fleet)
        self._look_at_upkeep(fleet)
        facts = self.facts
        self._count(hosts)
        facts.redis = _redis_state(info)
        facts.now = seconds + micros / 1e6
        facts.leader, facts.tick = bool(leads), _tick_time(meta)
        facts.open = [run for run in running if run and not run.state.is_final]
        facts.queues = dict(zip(waiting, lengths, strict=True))
        facts.unread = self._pools.unread.take()

    @property
    def pools(self) -> Ledger:
        """What it reads."""
        return self._pools

    def close(self) -> None:
        """Give up the connection."""
        self._client.close()

    def _count(self, hosts: Sequence[str]) -> None:
        """Read what has been counted: runs, failures, retries, bytes; and who is there."""
        sums, workers, uploads, odd = bulk.counts(self._pools, tuple(self._keys[host].prefix for host in hosts))
        self._note(hosts, "counts", odd)
        ended: Counter[tuple[str, str]] = Counter()
        errors: Counter[int] = Counter()
        retries: Counter[str] = Counter()
        uploaded: Counter[str] = Counter()
        ignored: Counter[str] = Counter()
        for name, count in sums.items():
            what, _, of = name.partition("|")
            if what == "ended":
                kind, _, state = of.partition("|")
                ended[kind, state] += count
            elif what == "error" and of.isdecimal() and len(of) <= _CODE:
                errors[int(of)] += count
            elif what == "retries":
                retries[of] += count
            elif what == IGNORED:
                ignored[of] += count
        for place, source, count in uploads:
            if hosts[place] in ("", self._homes.get(source)):  # no agent speaks for another's source
                uploaded[source] += count
        facts = self.facts
        facts.ended, facts.errors, facts.retries, facts.uploaded = ended, errors, retries, uploaded
        facts.workers, facts.ignored = workers, ignored

    def _follow(self, heads: Mapping[str, tuple[float, str] | None]) -> None:
        """Learn from what ended since the last read: in each realm back to the run that was seen last."""
        left: dict[str, list[SeenRun]] = {}  # by realm: what is newer, newest first
        for host, head in heads.items():
            if head != self._marks.setdefault(host, head):  # what ended before the first look stands in the histories
                left[host] = []
        start, step = 0, _FEW
        while left:
            keys = tuple(self._keys[host].recent for host in left)
            lists, odd = bulk.slices(self._pools, keys, start, start + step - 1)
            self._note(list(left), "recent", odd)
            runs = iter(self._runs([(host, one) for host, ids in zip(left, lists, strict=True) for one in ids]))
            further = {}
            for (host, fresh), ids in zip(left.items(), lists, strict=True):
                ended = [run for run in islice(runs, len(ids)) if run is not None and run.state.is_final]
                newer = list(takewhile(partial(_is_after, mark=self._marks[host]), ended))
                fresh.extend(newer)
                if len(newer) < len(ended):
                    self._take(host, fresh, met=True)
                elif len(ids) == step:
                    further[host] = fresh
                else:
                    self._take(host, fresh, met=self._marks[host] is None)
            left, start, step = further, start + step, _STEP

    def _take(self, host: str, fresh: Sequence[SeenRun], *, met: bool) -> None:
        """Learn what ended in a realm. Without having `met` the run that was seen last, look at all of it anew."""
        for one in reversed(fresh):
            self._learn(one, host)
        if not met:
            self._forget(host)  # wiped, or more ended than the list holds
        if fresh:
            self._marks[host] = fresh[0].mark
        elif not met:
            self._marks[host] = None

    def _learn(self, run: SeenRun, host: str) -> None:
        """Keep what a run says of its source. Of runs that ended at once, the one that is learned later is the last.

        No agent speaks for another's source: what it writes into its own realm counts for those that lie there.
        """
        if run.kind in UPKEEP and host == "":
            self._kept.add(run.source)
        if run.kind is RunKind.REPLICATE and host == "" and run.source in self._homes:
            self._learn_copy(run)
        if not run.kind.is_backup or self._homes.get(run.source) != host:
            return
        before = self.facts.last.get(run.source)
        if before is None or before.ended <= run.ended:
            self.facts.last[run.source] = run
        site = run.result.get("site")
        if run.state is RunState.SUCCEEDED and isinstance(site, str):
            sites = self.facts.good.setdefault(run.source, {})
            # A snapshot that an earlier attempt had committed was begun at some time since the run was opened.
            start = run.opened if run.result.get("existed") else run.started
            if site not in sites or sites[site].start < start:
                snapshot = run.result.get("snapshot")
                sites[site] = Good(start, run.ended, snapshot if isinstance(snapshot, str) else "")

    def _learn_copy(self, run: SeenRun) -> None:
        """The newest complete snapshot that a replication has found, or brought, where it was to arrive."""
        site, snapshot, began = (run.result.get(name) for name in ("site", "good", "good_began"))
        if isinstance(site, str) and isinstance(snapshot, str) and snapshot and isinstance(began, int | float):
            sites = self.facts.good.setdefault(run.source, {})
            if site not in sites or sites[site].start < began:
                sites[site] = Good(float(began), run.ended, snapshot)

    def _forget(self, host: str) -> None:
        for realm, source in [one for one in self._known if one[0] == host]:
            self._known.discard((realm, source))
            self.facts.last.pop(source, None)
            self.facts.good.pop(source, None)

    def _look_back(self, fleet: Fleet) -> None:
        """Learn from the histories of sources that were not seen before; without any, from the evidence."""
        mine = {(source.host or "", name) for name, source in fleet.sources.items()}
        for _, source in self._known - mine:
            self.facts.last.pop(source, None)
            self.facts.good.pop(source, None)
        self._known &= mine
        unseen = sorted(mine - self._known)
        self._kept.update(source for _, source in unseen)
        unseen += [("", name) for host, name in unseen if host and _is_copied(fleet, name)]
        keys = tuple(self._keys[host].history(source) for host, source in unseen)
        histories, odd = bulk.slices(self._pools, keys, 0, _STEP - 1)
        self._note([host for host, _ in unseen], "history", odd)
        wanted = [(host, one) for (host, _), ids in zip(unseen, histories, strict=True) for one in ids]
        for (host, _), run in reversed(list(zip(wanted, self._runs(wanted), strict=True))):  # the newest come first
            if run is not None and run.state.is_final:
                self._learn(run, host)
        self._known |= mine
        # No run is known: the ledger may have been wiped, and told again by the tick what exists. As soon as one is,
        # evidence says no more than it, since the slot of an incomplete snapshot stands there too.
        bare = sorted(one for one in mine if one[1] not in self.facts.last)
        told, odd = bulk.hashes(self._pools, tuple(self._keys[host].evidence(source) for host, source in bare))
        self._note([host for host, _ in bare], "evidence", odd)
        for (_, source), fields in zip(bare, told, strict=True):
            slots = {name.rpartition("|")[0]: slot for name, slot in fields.items() if name.endswith("|last")}
            good = {site: Good(_slot(slot), 0.0) for site, slot in slots.items() if _slot(slot)}
            copies = self.facts.good.get(source, {})  # what replications have told, if any have
            self.facts.good[source] = {**good, **{site: one for site, one in copies.items() if one.snapshot}}

    def _look_at_upkeep(self, fleet: Fleet) -> None:
        changed = sorted(self._kept & fleet.sources.keys())
        told, _ = bulk.hashes(self._pools, tuple(map(self._pools.keys.upkeep, changed)))
        for source, fields in zip(changed, told, strict=True):
            found: dict[tuple[str, str], Upkept] = {}
            for name, text in fields.items():
                place, _, what = name.rpartition("|")
                if what == "said" and (kept := Upkept.parse(text)):
                    site, _, kind = place.rpartition("|")
                    found[site, kind] = kept
            self.facts.upkeep[source] = found
        self._kept.clear()

    def _runs(self, wanted: Sequence[tuple[str, str]]) -> list[SeenRun | None]:
        found = bulk.fields(self._pools, tuple(self._keys[host].run(run_id) for host, run_id in wanted), _FIELDS)
        return [self._seen(host, run_id, values) for (host, run_id), values in zip(wanted, found, strict=True)]

    def _seen(self, host: str, run_id: str, values: list[str] | int) -> SeenRun | None:
        if values == 0:
            return None  # gone between two commands
        try:
            if isinstance(values, int):
                raise NoRun(run_id)
            return _seen_run(values, host, run_id)
        except (ValueError, RecursionError):  # of a release that writes it otherwise, or of an agent that writes
            self._pools.unread.note(host, f"run:{run_id}")  # what it likes
            return None

    def _note(self, hosts: Sequence[str], what: str, odd: bulk.Odd) -> None:
        for place, count in odd:
            self._pools.unread.note(hosts[place], what, count)


def _is_after(run: SeenRun, mark: tuple[float, str] | None) -> bool:
    return mark is None or (run.mark != mark and run.ended >= mark[0])


def _redis_state(info: Mapping[str, Any]) -> RedisState:
    """What INFO says; a server that does not say a thing has it at its worst, or at 0."""
    return RedisState(
        persistent=bool(info.get("aof_enabled")) and info.get("aof_last_write_status") == "ok",
        evicts=info.get("maxmemory_policy") != "noeviction",
        memory=int(info.get("used_memory", 0)),
        memory_limit=int(info.get("maxmemory", 0)),
        clients=int(info.get("connected_clients", 0)),
        clients_limit=int(info.get("maxclients", 0)),
    )


def _is_copied(fleet: Fleet, source: str) -> bool:
    """Whether there may be replications of it, which lie in the pools' realm."""
    policy = fleet.policy_for(source)
    return policy is not None and policy.copies is not None


@lru_cache(maxsize=2)
def queues_of(fleet: Fleet) -> Mapping[str, str]:
    """The queues of a fleet, in order, and the list in Redis that each is."""
    own = {queue_of(kind, source) for source in fleet.sources.values() for kind in RunKind}
    restores = {host_restore_queue(host) for host in fleet.hosts}  # also of those that have no source
    return {queue: redis_list(queue) for queue in sorted({*own, *restores, *CAPABILITIES, SCHEDULER})}


def _seen_run(values: Sequence[str], host: str, run_id: str) -> SeenRun:
    """Raises ValueError, and RecursionError."""
    name, kind, source, state, queue, opened, started, began, ended, lease, code, result = values
    if name != run_id:
        raise NoRun(run_id)
    found = kind_of(kind, host)
    return SeenRun(
        run_id,
        found,
        source,
        state_of(state),
        queue_in(queue, host),
        seconds(opened),
        seconds(began or started),  # of one that was cut: its first attempt
        seconds(ended),
        seconds(lease),
        whole(code),
        tales.result(result, host, found),
        host,
    )


@lru_cache(maxsize=1 << 15)
def _slot(text: str) -> float:
    try:
        return slot_time(text).timestamp()
    except ValueError:
        return 0.0


def _tick_time(meta: str | None) -> float:
    """When RedBeat sent the tick last (seconds since 1970), 0 where it never did."""
    try:
        said = json.loads(meta or "{}").get("last_run_at") or {}
        return datetime(**{name: int(said[name]) for name in _DATE}, tzinfo=UTC).timestamp()
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0.0
