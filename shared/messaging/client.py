"""What a command does with the job system: opens runs by hand, finds, follows, cancels, lists them; drains workers.

Invariant: what one host's agent has written into its own realm stands in nobody else's way. A run that it has planted
under the id of another's stands back behind that one; a worker of its realm, behind those of the pools.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.errors import LedgerError
from shared.ledger import sweep
from shared.ledger.calls import REMEMBERED
from shared.ledger.connect import connect
from shared.ledger.errors import AmbiguousRun, LedgerAway, RunNotOver, UnknownRun, UnknownWorker
from shared.ledger.ledger import Ledger
from shared.ledger.model import ATTEMPTS, Run, RunKind, RunRequest, RunState, Word, new_run_id, run_id_for_slot
from shared.ledger.roll import Roll, WorkerInfo, rolls, worker_of
from shared.messaging.bell import ring
from shared.messaging.broker import broker_url
from shared.messaging.names import host_queue, host_restore_queue, queue_of, realm_of

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.unread import Unread

_POLL_FIRST = 0.02  # seconds after a change, then slower: small runs end at once
_POLL = 0.2
_ID_LENGTH = 32
_PROGRESS = {  # of a shard that is under way, and what they are in the result of one that is done
    "files": ("files_new", "files_changed", "files_unmodified"),
    "bytes": ("bytes_processed",),
    "bytes_read": ("bytes_read",),
    "bytes_stored": ("bytes_stored",),
    "problems": ("unreadable",),
}
_ID = re.compile(r"[0-9a-f]{1,32}")


def ledger_of(fleet: Fleet, host: str = "") -> Ledger:
    """The fleet's ledger, in the realm of a host or (empty) of the pools."""
    return connect(broker_url(fleet), host)


def open_and_ring(
    fleet: Fleet, kind: RunKind, source: str, options: Mapping[str, object] | None = None, *, host: str = ""
) -> str:
    """Open a run by hand and ring for it; returns its id. A restore may be for another `host` than its source's.

    A backup of a source that is being backed up joins that run, and gets its id, unless it asks for something of its
    own (`options`, or a full one where an incremental is under way).
    `options` are JSON: what differs from the configuration (for a restore: what, and to where); no secrets, since they
    lie in Redis. Raises ConfigError (no such source or host) and LedgerAway (no Redis: is `holdfast up` running?).
    """
    facts = fleet.source(source)
    if host:
        fleet.require_host(host)
    ledger = ledger_of(fleet, host or realm_of(kind, facts))
    policy = fleet.policy_for(source)
    request = RunRequest(
        id=new_run_id(),
        kind=kind,
        source=source,
        policy=policy.id if policy else "",
        queue=host_restore_queue(host) if host else queue_of(kind, facts),
        options=dict(options or {}),
        attempts=policy.attempts if policy else ATTEMPTS,
    )
    if kind.is_backup and not options:
        _, run_id = ledger.open_backup(request, joins=RunKind.FULL if kind is RunKind.FULL else None)
        if run_id != request.id:  # else an answer was lost, and it joined itself
            return run_id
    else:
        ledger.open(request)
    _ring(ledger, request)
    return request.id


def retry(fleet: Fleet, run_id: str) -> str:
    """Ask again, by hand, for what a run that is over was to do; returns the new run's id.

    Raises UnknownRun, AmbiguousRun, RunNotOver and LedgerAway.
    """
    ledger, run = find(fleet, run_id)
    if run.request.kind is RunKind.SHARD:
        raise RunNotOver(
            f"run {run.id} is a shard of run {run.parent}, and is done with that alone",
            hint=f"holdfast runs retry {run.parent[:12]}",
        )
    if not run.state.is_final:
        raise RunNotOver(
            f"run {run.id} is {run.state.value}, so it can't be retried yet",
            hint=f"Wait for it, or cancel it: holdfast runs cancel {run.id[:12]}",
        )
    request = replace(run.request, id=new_run_id(), slot="", parent="")
    ledger.open(request)
    _ring(ledger, request)
    return request.id


def follow(fleet: Fleet, run_id: str, *, poll: float = _POLL) -> Iterator[Run]:
    """A run's views, each time that it changed; the last one is of a run that is over.

    Raises UnknownRun, also when the run is gone in between (Redis was wiped), AmbiguousRun and LedgerAway.
    """
    last: Run | None = None
    home: Ledger | None = None
    pause = _POLL_FIRST
    while last is None or not last.is_over:
        if home is None or last is None:
            home, run = find(fleet, run_id)
        else:
            found = home.get(last.id)
            if found is None:
                raise UnknownRun(f"run {last.id} is no longer in the ledger", hint="Was Redis emptied?")
            run = found
        run, _ = with_shards(home, run)
        if run != last:
            last, pause = run, _POLL_FIRST
            yield run
        if not run.is_over:
            time.sleep(min(pause, poll))
            pause *= 1.5


def with_shards(ledger: Ledger, run: Run) -> tuple[Run, list[Run]]:
    """A run that may have been cut, its progress that of its shards while it waits for them; and these by number.

    Raises LedgerAway.
    """
    if not run.began:
        return run, []
    shards = sorted(ledger.children(run.id), key=lambda shard: str(shard.request.options.get("shard", "")).zfill(3))
    if run.state is not RunState.WAITING:
        return run, shards
    progress: dict[str, object] = {"shards": len(shards), "shards_done": sum(shard.is_over for shard in shards)}
    for name, in_result in _PROGRESS.items():
        said = [shard.result.get(one, 0) for shard in shards if shard.is_over for one in in_result]
        said += [shard.progress.get(name, 0) for shard in shards if not shard.is_over]
        progress[name] = sum(one for one in said if isinstance(one, int))
    return replace(run, progress=progress), shards


def find(fleet: Fleet, run_id: str) -> tuple[Ledger, Run]:
    """A run, by its id or the first digits of it, and the realm it lies in.

    Raises UnknownRun, AmbiguousRun and LedgerAway.
    """
    pools = ledger_of(fleet)
    if not _ID.fullmatch(run_id):
        raise UnknownRun(f"{run_id[:40]!r} is no run's id", hint="An id is 32 digits of 0-9a-f; its first ones will do")
    whole = len(run_id) == _ID_LENGTH
    places = [(host, run_id) for host in sweep.homes(pools, realms(fleet), run_id)] if whole else pools.places(run_id)
    found = sweep.load(pools, sorted(places))
    if not found:
        if unread := pools.unread.counts():
            hosts = ", ".join(host or "the pools" for host in unread)
            raise UnknownRun(
                f"run {run_id} can't be read: what lies there, in the part of {hosts}, is no run",
                hint="docs/agents.md says what to do with an agent that writes such things",
            )
        hint = f"Ended runs are kept for {REMEMBERED / 86400:.0f} days; `holdfast runs` lists them"
        raise UnknownRun(f"there is no run {run_id}", hint=hint)
    first = min(_standing(fleet, run) for run in found)
    runs = [(pools.realm(run.host), run) for run in found if _standing(fleet, run) == first]
    if len(runs) > 1:
        some = ", ".join(f"{run.id}{f' of {run.host}' if run.host else ''}" for _, run in runs[:4])
        raise AmbiguousRun(f"{len(runs)} runs begin with {run_id}", hint=f"Give more digits: {some}")
    return runs[0]


def _standing(fleet: Fleet, run: Run) -> int:
    """How well a run proves that its id is its own: 0 best. An agent may plant in its realm a run of any id."""
    if not run.host:
        return 0
    request = run.request
    facts = fleet.sources.get(request.source)
    if facts is None or realm_of(request.kind, facts) != run.host:
        return 3 if request.kind is not RunKind.RESTORE else 2
    if request.slot and run.id == run_id_for_slot(request.source, request.policy, request.kind, request.slot):
        return 1  # nobody else's can have it
    return 2


def cancel(fleet: Fleet, run_id: str, by: str) -> Word:
    """End a run before its time, and the runs that it wanted. `by` says who asks, for people.

    CANCELLED: it is over. ASKED: its holder is told within seconds, keeps what it has uploaded, and ends it. DONE: it
    had ended. Raises UnknownRun, AmbiguousRun, LedgerAway, and LedgerError where its state is of a newer release.
    """
    ledger, run = find(fleet, run_id)
    word = ledger.cancel(run.id, by)
    if word is Word.DONE and not run.state.is_known:
        raise LedgerError(
            f"run {run.id} is {run.state.value}, which this release does not know, so it can't cancel it",
            hint="The release that runs it can",
        )
    if word is Word.UNKNOWN:
        raise UnknownRun(f"run {run.id} is no longer in the ledger", hint="Was Redis emptied?")
    return word


def all_runs(
    fleet: Fleet, *, open_only: bool = False, source: str = "", count: int = 50, unread: Unread | None = None
) -> list[Run]:
    """The runs of the fleet: those that are not over, then those that ended last, newest first; `count` at most.

    With `source`, those of that source alone. `unread` takes what can't be read. Raises LedgerAway.
    """
    pools = ledger_of(fleet)
    pools.unread = unread or pools.unread
    heads = sweep.heads(pools, realms(fleet))
    under_way = sweep.load(pools, [(head.host, run_id) for head in heads for run_id in head.open])
    under_way = sorted((run for run in under_way if source in {"", run.request.source}), key=lambda run: -run.opened)
    ended: list[Run] = []
    if source and not open_only:
        ended = sweep.history(pools, heads, source, count)
    elif not open_only:
        ended = sweep.newest(pools, heads, count)
    known = {run.id for run in under_way}  # what ended between the two looks
    over = sorted((run for run in ended if run.id not in known), key=lambda run: -run.ended)
    return [*under_way, *over][:count]


def workers(fleet: Fleet) -> list[WorkerInfo]:
    """The workers that were heard of within half a minute, by name, with the runs whose lease they have.

    Raises LedgerAway.
    """
    pools = ledger_of(fleet)
    hosts = realms(fleet)
    runs: dict[tuple[str, str], list[str]] = {}
    places = [(head.host, run_id) for head in sweep.heads(pools, hosts) for run_id in head.open]
    for run in sweep.load(pools, places):
        if run.state is not RunState.QUEUED:
            runs.setdefault((run.host, worker_of(run.owner)), []).append(run.id)
    found = rolls(pools, hosts)
    # A worker of the pools' that serves a host, too, has runs in that host's realm.
    return [replace(one, runs=tuple(_held(one, runs))) for one in found]


def _held(worker: WorkerInfo, runs: Mapping[tuple[str, str], list[str]]) -> Iterator[str]:
    """The runs that a worker has: in its own realm, and one of the pools also in those of the hosts that it serves."""
    for (host, owner), ids in runs.items():
        if owner == worker.name and (host == worker.realm or (not worker.realm and host_queue(host) in worker.queues)):
            yield from ids


def drain(fleet: Fleet, worker: str, by: str = "") -> None:
    """Ask a worker to take no more runs, to give back those that it has, and to exit: within half a minute.

    One of the pools where there is one of this name; else that of a host, or of each host that has one. Raises
    UnknownWorker and LedgerAway.
    """
    pools = ledger_of(fleet)
    there = {one.realm for one in rolls(pools, realms(fleet)) if one.name == worker}
    chosen = [""] if "" in there else sorted(there)
    # Each is asked: a host's agent may have borrowed the name.
    if True not in [Roll(pools.realm(host)).drain(worker, by) for host in chosen]:
        names = ", ".join(one.name for one in workers(fleet)[:8])
        raise UnknownWorker(
            f"no worker {worker!r} has been heard of in the last half minute",
            hint=f"There are: {names}" if names else "There is none at all",
        )


def realms(fleet: Fleet) -> list[str]:
    """The hosts whose runs lie apart, after the empty one of the pools."""
    return ["", *fleet.hosts]


def _ring(ledger: Ledger, request: RunRequest) -> None:
    try:
        ring(ledger.client, [(request.id, request.queue)])
    except LedgerAway as error:
        raise LedgerAway(f"run {request.id} is noted, and rung for later: {error.args[0]}") from error
