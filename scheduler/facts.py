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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from shared.ledger import sweep
from shared.ledger.guard import guarded, known
from shared.ledger.keys import BEAT_LOCK, BEAT_PREFIX
from shared.ledger.model import UPKEEP, RunKind, RunState, Upkept, slot_time
from shared.messaging.client import realms
from shared.messaging.names import CAPABILITIES, SCHEDULER, host_restore_queue, queue_of, redis_list

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

    from shared.config.fleet import Fleet
    from shared.ledger.keys import Keys
    from shared.ledger.ledger import Ledger

BATCH = 1000  # commands in one pipeline
TICK_ENTRY = f"{BEAT_PREFIX}tick"  # RedBeat's note of when it sent the tick last
_STEP = 50  # entries of a list that are read at a time
_FIELDS = ("id", "kind", "source", "state", "queue", "opened", "started", "ended", "lease", "exit_code", "result")
_REALMS_AT_ONCE = 500  # of one script: a few milliseconds of Redis's time

# KEYS: prefixes of realms; only reads. Answers in JSON: all their counts, added up, and how many workers that stay
# consume each queue. An agent writes its own realm as it likes, so what is no count or no list is passed over.
_COUNTS = """
local sums, queues = {}, {}
for _, prefix in ipairs(KEYS) do
  local fields = redis.pcall('HGETALL', prefix .. 'counts')
  for i = 1, #fields, 2 do
    local count = tonumber(fields[i + 1])
    if count and count >= 0 and count < 2 ^ 53 then sums[fields[i]] = (sums[fields[i]] or 0) + count end
  end
  for _, name in ipairs(redis.pcall('ZRANGE', prefix .. 'workers', 0, -1)) do
    local said = redis.pcall('HGET', prefix .. 'worker:' .. name, 'queues')
    local fine, list = pcall(cjson.decode, said)
    if fine and type(list) == 'table' and redis.call('EXISTS', prefix .. 'drain:' .. name) == 0 then
      for _, queue in ipairs(list) do
        if type(queue) == 'string' then queues[queue] = (queues[queue] or 0) + 1 end
      end
    end
  end
end
return cjson.encode({sums, queues})
"""
_DATE = ("year", "month", "day", "hour", "minute", "second", "microsecond")
_ACTIVE = (RunState.CLAIMED, RunState.RUNNING)


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
    last: dict[str, SeenRun] = field(default_factory=dict)  # by source: the backup run that ended last
    good: dict[str, dict[str, Good]] = field(default_factory=dict)  # by source and site
    upkeep: dict[str, dict[tuple[str, str], Upkept]] = field(default_factory=dict)  # by source, and site and kind
    open: list[SeenRun] = field(default_factory=list)
    queues: dict[str, int] = field(default_factory=dict)  # rings that wait
    workers: Counter[str] = field(default_factory=Counter)  # that consume a queue, and stay
    redis: RedisState = field(default_factory=RedisState)
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
        self._keys = {host: self._pools.realm(host).keys for host in hosts}
        waiting = sorted(_queues(fleet))
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.exists(BEAT_LOCK)
        pipe.hget(TICK_ENTRY, "meta")
        pipe.info()
        (seconds, micros), leads, meta, info = guarded(pipe.execute)
        lengths = self._each(waiting, lambda pipe, queue: pipe.llen(redis_list(queue)))
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
        facts.queues = {queue: length or 0 for queue, length in zip(waiting, lengths, strict=True)}

    def close(self) -> None:
        """Give up the connection."""
        self._client.close()

    def _count(self, hosts: Sequence[str]) -> None:
        """Read what has been counted: runs, failures, retries, bytes; and who is there."""
        pipe = self._client.pipeline(transaction=False)
        for start in range(0, len(hosts), _REALMS_AT_ONCE):
            some = [self._keys[host].prefix for host in hosts[start : start + _REALMS_AT_ONCE]]
            pipe.eval(_COUNTS, len(some), *some)
        ended: Counter[tuple[str, str]] = Counter()
        errors: Counter[int] = Counter()
        retries: Counter[str] = Counter()
        uploaded: Counter[str] = Counter()
        workers: Counter[str] = Counter()
        for answer in guarded(pipe.execute):
            sums, queues = json.loads(answer)
            workers.update(dict(queues))  # an empty table of Lua is an empty list of JSON, or mapping
            for name, count in dict(sums).items():
                what, _, of = name.partition("|")
                if what == "ended":
                    kind, _, state = of.partition("|")
                    ended[kind, state] += int(count)
                elif what == "error" and of.isdecimal():
                    errors[int(of)] += int(count)
                elif what == "retries":
                    retries[of] += int(count)
                elif what == "uploaded":
                    uploaded[of] += int(count)
        facts = self.facts
        facts.ended, facts.errors, facts.retries, facts.uploaded = ended, errors, retries, uploaded
        facts.workers = workers

    def _follow(self, heads: Mapping[str, tuple[float, str] | None]) -> None:
        """Learn from what ended since the last read."""
        for host, head in heads.items():
            if host not in self._marks:
                self._marks[host] = head  # what ended before stands in the histories
                continue
            mark = self._marks[host]
            if head == mark:
                continue
            fresh, met = self._since(host, mark)
            for one in reversed(fresh):
                self._learn(one, host)
            if not met:
                self._forget(host)  # wiped, or more ended than the list holds
            self._marks[host] = fresh[0].mark if fresh else (mark if met else None)

    def _since(self, host: str, mark: tuple[float, str] | None) -> tuple[list[SeenRun], bool]:
        """The runs that ended after `mark`, newest first, and whether the list led back to it."""
        fresh: list[SeenRun] = []
        start = 0
        while True:
            key, stop = self._keys[host].recent, start + _STEP - 1
            (found,) = self._each([key], lambda pipe, key, at=(start, stop): pipe.lrange(key, *at))
            ids = found or ()
            for run in self._runs([(host, one) for one in ids]):
                if run is None or not run.state.is_final:
                    continue
                if mark is not None and (run.mark == mark or run.ended < mark[0]):
                    return fresh, True
                fresh.append(run)
            if len(ids) < _STEP:
                return fresh, mark is None
            start += _STEP

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
        histories = self._each(unseen, lambda pipe, one: pipe.lrange(self._keys[one[0]].history(one[1]), 0, _STEP - 1))
        wanted = [(host, one) for (host, _), ids in zip(unseen, histories, strict=True) for one in ids or ()]
        for (host, _), run in reversed(list(zip(wanted, self._runs(wanted), strict=True))):  # the newest come first
            if run is not None and run.state.is_final:
                self._learn(run, host)
        self._known |= mine
        # No run is known: the ledger may have been wiped, and told again by the tick what exists. As soon as one is,
        # evidence says no more than it, since the slot of an incomplete snapshot stands there too.
        bare = sorted(one for one in mine if one[1] not in self.facts.last)
        told = self._each(bare, lambda pipe, one: pipe.hgetall(self._keys[one[0]].evidence(one[1])))
        for (_, source), fields in zip(bare, told, strict=True):
            slots = {name.rpartition("|")[0]: slot for name, slot in (fields or {}).items() if name.endswith("|last")}
            good = {site: Good(_slot(slot), 0.0) for site, slot in slots.items() if _slot(slot)}
            copies = self.facts.good.get(source, {})  # what replications have told, if any have
            self.facts.good[source] = {**good, **{site: one for site, one in copies.items() if one.snapshot}}

    def _look_at_upkeep(self, fleet: Fleet) -> None:
        changed = sorted(self._kept & fleet.sources.keys())
        told = self._each(changed, lambda pipe, source: pipe.hgetall(self._pools.keys.upkeep(source)))
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
        hashes = self._each(wanted, lambda pipe, one: pipe.hmget(self._keys[one[0]].run(one[1]), _FIELDS))
        return [_seen_run(dict(zip(_FIELDS, values, strict=True))) if values else None for values in hashes]

    def _each(self, items: Sequence[Any], ask: Any) -> list[Any]:
        """One answer per item, asked for in batches; None where what lies there is of another type."""
        answers: list[Any] = []
        for start in range(0, len(items), BATCH):
            pipe: Pipeline = self._client.pipeline(transaction=False)
            for item in items[start : start + BATCH]:
                ask(pipe, item)
            answers += [known(one) for one in guarded(partial(pipe.execute, raise_on_error=False))]
        return answers


def oldest_waiting(runs: Iterable[SeenRun], now: float) -> dict[str, float]:
    """For how long (seconds) the oldest queued run of each queue has waited since it was opened or given back."""
    waits: dict[str, float] = {}
    for run in runs:
        if run.state is RunState.QUEUED:
            since = max(run.opened, run.started)
            waits[run.queue] = max(waits.get(run.queue, 0.0), now - since)
    return waits


def leases(runs: Iterable[SeenRun], now: float) -> Counter[str]:
    """How many runs of each queue are held."""
    return Counter(run.queue for run in runs if run.state in _ACTIVE and run.lease_until > now)


def oldest_open(runs: Iterable[SeenRun], now: float) -> dict[str, float]:
    """For how long (seconds) the oldest run of each kind is open."""
    ages: dict[str, float] = {}
    for run in runs:
        ages[run.kind.value] = max(ages.get(run.kind.value, 0.0), now - run.opened)
    return ages


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


def _queues(fleet: Fleet) -> set[str]:
    own = {queue_of(kind, source) for source in fleet.sources.values() for kind in RunKind}
    restores = {host_restore_queue(host) for host in fleet.hosts}  # also of those that have no source
    return {*own, *restores, *CAPABILITIES, SCHEDULER}


def _seen_run(fields: dict[str, str | None]) -> SeenRun | None:
    if not fields["kind"] or not fields["state"]:
        return None  # gone between two commands
    try:
        result = json.loads(fields["result"] or "{}")
        return SeenRun(
            id=fields["id"] or "",
            kind=RunKind(fields["kind"]),
            source=fields["source"] or "",
            state=RunState(fields["state"]),
            queue=fields["queue"] or "",
            opened=int(fields["opened"] or 0) / 1000,
            started=int(fields["started"] or 0) / 1000,
            ended=int(fields["ended"] or 0) / 1000,
            lease_until=int(fields["lease"] or 0) / 1000,
            exit_code=int(fields["exit_code"] or 0),
            result=result if isinstance(result, dict) else {},
        )
    except ValueError:
        return None  # of a release that writes it otherwise


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
