"""One look at many realms and sources at once, for the tick: thousands of hosts in a handful of round trips.

Scripts that only read look at some hundreds of realms or sources each and answer in JSON; what is then to be done goes
out in one pipeline of the same atomic transitions that everybody uses. So nothing here decides: between the look and
the act anything may have happened, and the transition looks again.

What an agent has made of its realm costs that realm alone: what can't be read there is left out and noted (`look`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from shared.ledger import notescripts, scripts, sweepscripts
from shared.ledger.calls import HISTORY, JOINS_ANY, RECENT, open_arguments, opened, reap_arguments, transition
from shared.ledger.codec import FIELDS, NoRun, decode_run, milliseconds
from shared.ledger.guard import guarded, known
from shared.ledger.keys import Keys
from shared.ledger.lease import LEASE_SECONDS
from shared.ledger.look import RUNS
from shared.ledger.model import Evidence, Opened, Run, RunRequest

if TYPE_CHECKING:
    from redis.client import Pipeline

    from shared.ledger.ledger import Ledger

Item = TypeVar("Item")

_LOOKED_AT = 500  # realms or sources of one script: a few milliseconds of Redis's time
_ACTED_ON = 1000  # transitions of one pipeline
_OPENED_AT = 100  # runs of one script
_LOADED_AT = 200
_LONG = 60.0  # seconds after which a run that nobody claimed has no worker, it seems
_UNREAD = "unread"  # what a script answers where it can't


class SourceState(NamedTuple):
    """What the ledger knows of a source at one site."""

    last: str  # the slots of its newest snapshot and its newest full one, empty for none
    last_full: str
    backups: str = ""  # "open" where one is queued or under way, "waits" where none was claimed for long
    upkeep: str = ""  # the slots of its last upkeep, by `UPKEEP`, with spaces between; empty: none is known

    @property
    def evidence(self) -> Evidence | None:
        """The same; None: nothing at all (look at the site)."""
        return Evidence(self.last, self.last_full) if self.last or self.last_full else None

    @property
    def busy(self) -> bool:
        """Whether a backup of it is queued or under way."""
        return self.backups != ""

    @property
    def waits(self) -> bool:
        """Whether it is only queued, and has been for long: there is no worker for it."""
        return self.backups == "waits"


@dataclass(frozen=True, slots=True)
class Head:
    """The top of one realm."""

    host: str
    newest: str  # the id of the run that ended last; empty: none that is remembered
    ended: float  # when that was, in seconds since 1970 by Redis's clock; 0 for none
    open: tuple[str, ...]  # the ids of the runs that are not over


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a reaper's look found."""

    runs: list[Run]  # QUEUED: to be rung now, and marked as rung. Others are over: FAILED or CANCELLED
    fenced: list[str]  # hosts in whose realm a holder was fenced, so that its repository lock may still stand


def reap(pools: Ledger, hosts: Sequence[str]) -> Reaped:
    """See after the runs of these realms whose lease ran out, or whose last ring nobody followed.

    A run fails after as many attempts that died as its request allows, and is CANCELLED where somebody had asked for
    that.

    Where nobody has looked for long, as Redis or the scheduler was away, their holders could not renew either: they
    get the time of a lease to do so first, or a minute's outage would end every backup under way.
    Raises LedgerAway and LedgerError.
    """
    spares = [milliseconds(LEASE_SECONDS), milliseconds(pools.lease_seconds)]
    pulse = pools.client.register_script(notescripts.PULSE)
    spared = bool(guarded(lambda: pulse(keys=[pools.keys.pulse], args=spares)))
    waiting = _waiting(pools, hosts)
    due = [(host, run_id) for host, ids, _ in waiting for run_id in ids]
    own = reap_arguments(spared=spared)
    script = pools.client.register_script(scripts.REAP)

    def act(pipe: Pipeline, one: tuple[str, str]) -> None:
        keys, arguments = transition(Keys(one[0]), one[1], own)
        script(keys=keys, args=arguments, client=pipe)

    acted = []
    for (host, run_id), done in zip(due, _each(pools, due, act, host_of=lambda one: one[0]), strict=True):
        if done is None or done == _UNREAD:
            pools.unread.note(host, f"run:{run_id}")
        elif done:
            acted.append((host, run_id))
    marked = {host for host, _, has_fence in waiting if has_fence} | {host for host, _ in acted}
    return Reaped(load(pools, acted), sorted(marked))


def states(pools: Ledger, sources: tuple[tuple[str, str, str], ...]) -> list[SourceState]:
    """What is known of sources, each (host, source, site), in that order. Raises LedgerAway and LedgerError."""
    waits = milliseconds(_LONG)
    answers = _each(pools, _packed(sources), lambda pipe, packed: pipe.eval(sweepscripts.SOURCES, 0, packed, waits))
    texts = [text for answer in answers for text in json.loads(answer)]
    return list(map(SourceState, texts[::4], texts[1::4], texts[2::4], texts[3::4]))


def heads(pools: Ledger, hosts: Sequence[str]) -> list[Head]:
    """The top of each of these realms, in that order. Raises LedgerAway and LedgerError."""
    found = []
    entries = _look(pools, hosts, sweepscripts.HEADS)
    for host, (newest, ended, ids, odd) in zip(hosts, (one for batch in entries for one in batch), strict=True):
        if odd:
            pools.unread.note(host, "heads", odd)
        found.append(Head(host, newest, int(ended) / 1000, tuple(ids)))
    return found


def homes(pools: Ledger, hosts: Sequence[str], run_id: str) -> list[str]:
    """The hosts in whose realm there is a run of this id: one, or none, unless an agent has planted some.

    Raises LedgerAway and LedgerError.
    """
    found = _look(pools, hosts, sweepscripts.HOMES, run_id)
    return [batch[number] for batch, numbers in zip(_batches(hosts), found, strict=True) for number in numbers]


def load(pools: Ledger, runs: Sequence[tuple[str, str]]) -> list[Run]:
    """The runs, each (host, id), that there are, in that order; what can't be read is left out, and noted.

    Raises LedgerAway and LedgerError.
    """
    batches = list(_batches(runs, _LOADED_AT))
    asked = [json.dumps([Keys(host).run(run_id) for host, run_id in batch]) for batch in batches]
    names = json.dumps(FIELDS)
    answers = _each(pools, asked, lambda pipe, keys: pipe.eval(RUNS, 0, keys, names))
    found = []
    for (host, run_id), values in zip(runs, (one for batch in answers for one in json.loads(batch)), strict=True):
        if values == 0:
            continue
        try:
            if values == 1:
                raise NoRun(run_id)
            fields = dict(zip(FIELDS, values, strict=True))
            if fields["kind"] or host:
                found.append(decode_run(fields, host, run_id))
        except NoRun:
            pools.unread.note(host, f"run:{run_id}")
    return found


def listed(pools: Ledger, lists: Sequence[tuple[str, str]], first: int, last: int) -> list[list[str]]:
    """The ids from one place to another of lists in realms, each (host, key). Raises LedgerAway and LedgerError."""
    batches = list(_batches(lists))
    asked = [json.dumps([key for _, key in batch]) for batch in batches]
    answers = _each(pools, asked, lambda pipe, keys: pipe.eval(sweepscripts.LISTED, 0, keys, first, last))
    found = []
    for (host, key), (ids, odd) in zip(lists, (one for batch in answers for one in json.loads(batch)), strict=True):
        if odd:
            pools.unread.note(host, key, odd)
        found.append(list(ids))
    return found


def newest(pools: Ledger, heads: Sequence[Head], count: int) -> list[Run]:
    """The `count` runs of these realms that ended last, newest first. Raises LedgerAway and LedgerError."""
    # Whatever is among the newest lies in one of as many realms whose own newest are the newest.
    realms = sorted((head for head in heads if head.ended), key=lambda head: -head.ended)[:count]
    lists = listed(pools, [(head.host, Keys(head.host).recent) for head in realms], 0, min(count, RECENT) - 1)
    wanted = [(head.host, run_id) for head, ids in zip(realms, lists, strict=True) for run_id in ids]
    return sorted(load(pools, wanted), key=lambda run: -run.ended)[:count]


def history(pools: Ledger, heads: Sequence[Head], source: str, count: int) -> list[Run]:
    """The runs of a source that ended last, in whichever of these realms. Raises LedgerAway and LedgerError."""
    hosts = [head.host for head in heads if head.ended]
    lists = listed(pools, [(host, Keys(host).history(source)) for host in hosts], 0, min(count, HISTORY) - 1)
    found = load(pools, [(host, run_id) for host, ids in zip(hosts, lists, strict=True) for run_id in ids])
    return [run for run in found if run.request.source == source]


def open_runs(pools: Ledger, requests: Sequence[tuple[str, RunRequest]]) -> list[tuple[Opened, str]]:
    """Open runs, each (host, request); a backup joins as in `Ledger.open_backup`.

    Raises LedgerAway: some may be open then.
    """
    script = pools.client.register_script(scripts.OPEN_MANY)

    def act(pipe: Pipeline, some: Sequence[tuple[str, RunRequest]]) -> None:
        calls = [
            transition(Keys(host), one.id, open_arguments(one, JOINS_ANY if one.kind.is_backup else ""))
            for host, one in some
        ]
        script(args=[json.dumps(calls)], client=pipe)

    answers = [one for batch in _each(pools, list(_batches(requests, _OPENED_AT)), act) for one in json.loads(batch)]
    found = []
    for (host, request), answer in zip(requests, answers, strict=True):
        if answer == _UNREAD:
            pools.unread.note(host, f"run:{request.id}")
        found.append(opened(request, Opened.WAITS if answer == _UNREAD else answer))
    return found


def _waiting(pools: Ledger, hosts: Sequence[str]) -> list[tuple[str, list[str], bool]]:
    """Of each realm that has something: its host, the runs to look after, and whether it has a fence."""
    found = []
    for batch, answer in zip(_batches(hosts), _look(pools, hosts, sweepscripts.WAITING), strict=True):
        for number, ids, has_fence, odd in answer:
            found.append((batch[number], list(ids), bool(has_fence)))
            if odd:
                pools.unread.note(batch[number], "open", odd)
    return found


def _look(pools: Ledger, hosts: Sequence[str], script: str, *arguments: str) -> list[Any]:
    """What a script that only reads answers for each batch of realms."""
    packed = _packed(tuple((host,) for host in hosts))
    return [json.loads(one) for one in _each(pools, packed, lambda pipe, own: pipe.eval(script, 0, own, *arguments))]


@lru_cache(maxsize=8)
def _packed(rows: tuple[tuple[str, ...], ...]) -> list[bytes]:
    """Rows that begin with a host, which becomes its realm's prefix, for scripts: one text for each batch.

    The tick asks for the same ten thousand every two seconds: one argument costs a hundredth of as many.
    """
    return [
        json.dumps([text for host, *rest in batch for text in (Keys(host).prefix, *rest)]).encode()
        for batch in _batches(rows)
    ]


def _batches(items: Sequence[Item], size: int = _LOOKED_AT) -> Iterator[Sequence[Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _each(
    pools: Ledger,
    items: Sequence[Item],
    ask: Callable[[Pipeline, Item], object],
    host_of: Callable[[Item], str] = lambda _: "",
) -> list[Any]:
    """One answer per item, many in one round trip; None where Redis refuses for what lies in the realm of `host_of`."""
    answers: list[Any] = []
    for start in range(0, len(items), _ACTED_ON):
        pipe = pools.client.pipeline(transaction=False)
        some = items[start : start + _ACTED_ON]
        for item in some:
            ask(pipe, item)
        said = guarded(partial(pipe.execute, raise_on_error=False))
        answers += [known(one, host_of(item)) for one, item in zip(said, some, strict=True)]
    return answers
