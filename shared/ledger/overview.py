"""The whole ledger at a glance, for `holdfast status`: many realms and sources in a handful of round trips.

Ten thousand sources may lie in ten thousand realms, one a host. Asked one by one they would take seconds; so scripts
that only read look at some hundreds of them each, answer in JSON (which costs a tenth of as many Redis strings), and
go out in one pipeline. Keys are named from the realm's prefix, as in `scripts`; what can't be read is counted (`look`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from shared.ledger import bulk, sweep
from shared.ledger.codec import NoRun, kind_of, queue_in, seconds, state_of, whole
from shared.ledger.guard import guarded
from shared.ledger.keys import BEAT_LOCK, Keys
from shared.ledger.look import LOOK, TEXT_AT_MOST
from shared.ledger.model import Evidence, RunKind, RunState, Upkept, slot_time
from shared.ledger.roll import rolls

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger

Item = TypeVar("Item")

_AT_ONCE = 500  # sources of one script: a few milliseconds of Redis's time
_LOOK_BACK = 20  # ended runs of a source among which its newest good backup is looked for
_AHEAD = 86400.0  # seconds by which a slot may lie ahead of Redis's clock
_FIELDS = ("state", "kind", "source", "queue", "opened", "started", "attempt", "error", "slot")

# KEYS: prefixes of realms; ARGV: how far to look back, then source and site for each; only reads. Answers per source:
# the slot of its last snapshot, the newest backup that ended (id, state, kind, ended, error, slot), when the newest
# good one started, what is noted of the last verification and of the last restore test, how much can't be read.
_SOURCES = (
    LOOK
    + f"""
local function seen(key)
  local run = {{}}
  for at, name in ipairs({{'state', 'kind', 'ended', 'error', 'slot', 'started', 'began'}}) do
    local found, bad = text({TEXT_AT_MOST}, key, name)
    if bad > 0 then return false end
    run[at] = found
  end
  for at = 3, 7 do
    if at ~= 4 and at ~= 5 and run[at] and not digits(run[at]) then return false end
  end
  return run
end

local all = {{}}
for i, prefix in ipairs(KEYS) do
  local source, site = ARGV[2 * i], ARGV[2 * i + 1]
  local newest, good = false, false
  local found, odd = listed(prefix .. 'history:' .. source, 0, ARGV[1] - 1)
  for _, id in ipairs(found) do
    local run = seen(prefix .. 'run:' .. id)
    if not run then
      odd = odd + 1
    elseif run[1] and run[2] and string.sub(run[2], 1, 7) == 'backup-' then
      newest = newest or {{id, run[1], run[2], run[3], run[4], run[5]}}
      if run[1] == 'succeeded' then
        good = run[7] or run[6]
        break
      end
    end
  end
  local kept = look({{}}, 'HMGET', 'hf:upkeep:' .. source, site .. '|verify|said', site .. '|restore-test|said')
  local last, bad = text(20, prefix .. 'evidence:' .. source, site .. '|last')
  all[i] = {{last, newest, good, kept[1] or false, kept[2] or false, odd + bad}}
end
return cjson.encode(all)
"""
)


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is not over. Times in seconds since 1970 by Redis's clock; 0 for not yet."""

    id: str
    state: RunState
    kind: RunKind
    source: str
    queue: str
    opened: float
    started: float = 0.0
    attempt: int = 0
    error: str = ""  # of the attempt before
    slot: str = ""
    host: str = ""  # in whose realm it lies; empty: the pools'


@dataclass(frozen=True, slots=True)
class Ended:
    """The newest backup of a source that is over, well or not."""

    id: str
    state: RunState
    kind: RunKind
    ended: float
    error: str = ""
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that was heard of lately."""

    name: str
    queues: tuple[str, ...]
    drained: bool = False


@dataclass(frozen=True, slots=True)
class SourceView:
    """What the ledger knows of one source at one site."""

    evidence: Evidence | None = None  # None: nothing at all
    newest: Ended | None = None
    good: float = 0.0  # when the newest backup that succeeded began, 0 where none is remembered
    verified: Upkept | None = None
    tested: Upkept | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, at one moment. `now` is Redis's clock."""

    now: float
    leading: bool  # whether a scheduler leads
    ticks: int  # ticks that wait for the scheduler's worker
    runs: tuple[OpenRun, ...]
    workers: tuple[Worker, ...]
    sources: tuple[SourceView, ...]  # as they were asked for
    unread: Mapping[str, int] = field(default_factory=dict)  # by host (empty: the pools): entries that were left out


def overview(ledger: Ledger, hosts: Sequence[str], sources: Sequence[tuple[str, str, str]], *, ticks: str) -> Overview:
    """Look at realms (hosts, empty for the pools') and at sources, each (host, source, site).

    `ticks` is the name of the scheduler's queue. Raises LedgerAway and LedgerError.
    """
    pipe = ledger.client.pipeline(transaction=False)
    pipe.time()
    pipe.exists(BEAT_LOCK)
    pipe.llen(ticks)
    batches = list(_batches(sources))
    for some in batches:
        names = [text for _, source, site in some for text in (source, site)]
        pipe.eval(_SOURCES, len(some), *(Keys(host).prefix for host, _, _ in some), _LOOK_BACK, *names)
    (whole_seconds, micros), leading, waiting, *answers = guarded(pipe.execute)
    now = whole_seconds + micros / 1e6
    views: list[SourceView] = []
    for some, answer in zip(batches, answers, strict=True):
        for (host, source, _), entry in zip(some, json.loads(answer), strict=True):
            views.append(_view(ledger, host, source, now, entry))
    return Overview(
        now=now,
        leading=bool(leading),
        ticks=int(waiting),
        runs=tuple(_open_runs(ledger, hosts)),
        workers=tuple(Worker(one.name, one.queues, bool(one.drained_by)) for one in rolls(ledger, hosts)),
        sources=tuple(views),
        unread=ledger.unread.counts(),
    )


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE))


def _open_runs(ledger: Ledger, hosts: Sequence[str]) -> Iterator[OpenRun]:
    places = [(head.host, run_id) for head in sweep.heads(ledger, hosts) for run_id in head.open]
    found = bulk.fields(ledger, tuple(Keys(host).run(run_id) for host, run_id in places), _FIELDS)
    for (host, run_id), values in zip(places, found, strict=True):
        try:
            if isinstance(values, int):
                if values:
                    raise NoRun(run_id)
                continue  # gone between two commands
            state, kind, source, queue, opened, started, attempt, error, slot = values
            yield OpenRun(
                run_id,
                state_of(state),
                kind_of(kind, host),
                source,
                queue_in(queue, host),
                seconds(opened),
                seconds(started),
                whole(attempt),
                error[:TEXT_AT_MOST],
                slot,
                host,
            )
        except NoRun:
            ledger.unread.note(host, f"run:{run_id}")


def _view(ledger: Ledger, host: str, source: str, now: float, entry: Sequence[Any]) -> SourceView:
    last, newest, good, verified, tested, odd = entry
    ended = None
    try:
        if newest:
            run_id, state, kind, when, error, slot = newest
            ended = Ended(run_id, state_of(state), kind_of(kind, host), seconds(when or ""), error or "", slot or "")
        began = seconds(good or "")
    except NoRun:
        odd, began = odd + 1, 0.0
    if last and not _is_slot(last, now):
        last, odd = "", odd + 1
    if odd:
        ledger.unread.note(host, f"history:{source}", odd)
    known = Evidence(last) if last else None
    return SourceView(known, ended, began, Upkept.parse(verified or ""), Upkept.parse(tested or ""))


def _is_slot(text: str, now: float) -> bool:
    """Whether it is the slot of a snapshot that may exist."""
    try:
        return slot_time(text).timestamp() < now + _AHEAD
    except ValueError:
        return False
