"""The ledger: what is to run, who works on it, what came of it.

What it guards: at any time at most one holder has a run's lease, and only the holder moves the run on. Each step is one
script that looks first and then acts, so that a call made twice, late, or by someone who has lost the lease does
nothing. Nothing here is needed to recover data: a wiped ledger is filled again by the holders and the scheduler.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import ResponseError

from shared.errors import LedgerError
from shared.ledger import notescripts, scripts, sweep
from shared.ledger.calls import (
    HISTORY,
    JOINS_ANY,
    JOURNAL_KEPT,
    RETRY_AT_MOST,
    RETRY_FIRST,
    RING_AGAIN,
    open_arguments,
    opened,
    transition,
)
from shared.ledger.codec import encode_request, error_text, milliseconds
from shared.ledger.guard import guarded, known
from shared.ledger.keys import Keys
from shared.ledger.lease import LEASE_SECONDS, Lease, boot_clock
from shared.ledger.look import DUE_AT_MOST
from shared.ledger.model import Evidence, Opened, Run, RunKind, RunRequest, RunState, Word
from shared.ledger.unread import Unread

if TYPE_CHECKING:
    import redis
    from redis.commands.core import Script

_FOUND_AT_MOST = 20  # runs of one host whose ids begin alike


class Claim(NamedTuple):
    """What came of a claim: a lease, or the reason why there is none (HELD, DONE, UNKNOWN)."""

    word: Word
    lease: Lease | None


class Fence(NamedTuple):
    """A holder that works no more: at `at` (ms by Redis's clock), `since` seconds ago.

    With `pid` the engine of that number was killed, and its supervisor said so; 0: the lease ran out.
    """

    name: str
    run_id: str
    pid: int
    at: float
    since: float

    @classmethod
    def of(cls, name: str, at: float, since: float) -> Fence:
        """The fence by its name in Redis: a run's id, or that and a process with a colon between."""
        run_id, _, pid = name.partition(":")
        return cls(name, run_id, int(pid or 0), at, since)


class Ledger:
    """One realm of the ledger: the runs of one host, or (host empty) of the pools.

    Every method may raise LedgerAway (Redis does not answer: try again later) or LedgerError.
    """

    def __init__(
        self,
        client: redis.Redis,
        host: str = "",
        *,
        lease_seconds: float = LEASE_SECONDS,
        unread: Unread | None = None,
    ) -> None:
        self.client = client
        self.host = host
        self.keys = Keys(host)
        self.lease_seconds = lease_seconds
        self.unread = unread or Unread()  # what its reads have left out, in any realm
        self._scripts: dict[str, Script] = {}

    def realm(self, host: str) -> Ledger:
        """The ledger of another realm, by the same connections."""
        return Ledger(self.client, host, lease_seconds=self.lease_seconds, unread=self.unread)

    def ping(self) -> None:
        """Whether Redis answers: returns, or raises LedgerAway."""
        guarded(self.client.ping)

    def open(self, request: RunRequest, *, ring_again: float = RING_AGAIN) -> Opened:
        """Open a run, or join the one of the same id. The caller rings where OPENED or REOPENED.

        `ring_again` is the time in seconds after which the reaper rings.
        """
        return Opened(self._run(scripts.OPEN, request.id, open_arguments(request, "", ring_again)))

    def open_backup(
        self, request: RunRequest, *, joins: RunKind | None = None, ring_again: float = RING_AGAIN
    ) -> tuple[Opened, str]:
        """Open a backup, unless one of its source is queued or under way: then JOINED, and that one's id.

        It joins a run of any kind, or only of the one that `joins` names; never one that is being cancelled.
        """
        arguments = open_arguments(request, joins.value if joins else JOINS_ANY, ring_again)
        return opened(request, self._run(scripts.OPEN, request.id, arguments))

    def claim(self, run_id: str, owner: str, *, token: str = "") -> Claim:
        """Take the lease of a run. With `token`, the one held before, a lease that nobody else took is simply kept."""
        asked = boot_clock()
        arguments = [owner, milliseconds(self.lease_seconds), secrets.token_hex(8), token]
        word, got, attempt, deaths = self._run(scripts.CLAIM, run_id, arguments)
        if Word(word) is not Word.CLAIMED:
            return Claim(Word(word), None)
        return Claim(Word.CLAIMED, Lease(run_id, got, asked, self.lease_seconds, int(attempt), int(deaths)))

    def renew(
        self, lease: Lease, progress: Mapping[str, object] | None = None, *, running: bool = True
    ) -> tuple[Word, Lease]:
        """Keep the lease, and say how far the run is.

        RENEWED; CANCEL, renewed too, where somebody wants the run to end; or LOST or UNKNOWN with the lease as it was.
        """
        asked = boot_clock()
        state = RunState.RUNNING if running else RunState.CLAIMED
        said = json.dumps(dict(progress)) if progress is not None else ""
        arguments = [lease.token, milliseconds(lease.seconds), said, state.value]
        word = Word(self._run(scripts.RENEW, lease.run_id, arguments))
        return word, lease.renewed(asked) if word in {Word.RENEWED, Word.CANCEL} else lease

    def release(self, lease: Lease, *, ring_again: float = RING_AGAIN, error: str = "") -> Word:
        """Give the run back to the queue: RELEASED, or LOST or UNKNOWN. The caller rings, or the reaper does.

        CANCELLED where somebody had asked for that. An `error` says that the attempt died.
        """
        arguments = [lease.token, milliseconds(ring_again), error_text(error)]
        return Word(self._run(scripts.RELEASE, lease.run_id, arguments))

    def finish(
        self,
        lease: Lease,
        state: RunState,
        *,
        result: Mapping[str, object] | None = None,
        error: str = "",
        exit_code: int = 0,
        retries: tuple[str, int] = ("", 0),
    ) -> Word:
        """End the run. FINISHED (also the second time), DONE (by another), LOST or UNKNOWN.

        `retries`: a site, and how often it was asked again; for the metrics.
        """
        pause = min(RETRY_FIRST * 2 ** (lease.attempt - 1), RETRY_AT_MOST)
        said = [state.value, json.dumps(dict(result)) if result else "", error_text(error), exit_code]
        site, count = retries if retries[1] else ("", 0)
        return Word(self._run(scripts.FINISH, lease.run_id, [lease.token, *said, milliseconds(pause), site, count]))

    def cut(
        self, lease: Lease, shards: Sequence[RunRequest], anew: Collection[str] = (), *, ring_again: float = RING_AGAIN
    ) -> Word:
        """Open a run's shards, for which it waits: CUT, or LOST or UNKNOWN. The caller rings, or the reaper does.

        Those that are open, or over and not among `anew` (ids), stay as they are. CANCELLED where somebody had asked
        for that.
        """
        said = [[one.id, int(one.id in anew), encode_request(one)] for one in shards]
        return Word(self._run(scripts.CUT, lease.run_id, [lease.token, milliseconds(ring_again), json.dumps(said)]))

    def cut_runs(self) -> list[str]:
        """The runs that were cut whose kept lock is to be looked at now."""
        seconds, micros = guarded(self.client.time)
        now = seconds * 1000 + micros // 1000
        return list(guarded(lambda: self.client.zrangebyscore(self.keys.cut, "-inf", now)))

    def keep_lock(self, run_id: str, seconds: float) -> None:
        """Its kept lock was looked at, and is to be again in `seconds`; with 0 it is gone, and is not."""
        if not seconds:
            guarded(lambda: self.client.zrem(self.keys.cut, run_id))
            return
        now, _ = guarded(self.client.time)
        guarded(lambda: self.client.zadd(self.keys.cut, {run_id: milliseconds(now + seconds)}))

    def cancel(self, run_id: str, by: str) -> Word:
        """End a run before its time, and its shards with it. `by` says who asks, for people.

        CANCELLED: it is over (nobody worked on it). ASKED: its holder will be told, keeps what it has uploaded, and
        ends it. DONE: it had ended. UNKNOWN: there is none.
        """
        return Word(self._run(scripts.CANCEL, run_id, [error_text(by) or "somebody"]))

    def reap(self) -> list[Run]:
        """See after this realm's runs whose lease ran out, or whose last ring nobody followed: see `sweep.reap`."""
        return sweep.reap(self, [self.host]).runs

    def amend(self, run_id: str, state: RunState, result: Mapping[str, object]) -> Word:
        """A run that was given up, or cancelled when its worker was dead, had done its work: its snapshot stands.

        FINISHED; DONE where it is not called failed or cancelled (any more); UNKNOWN.
        """
        return Word(self._run(scripts.AMEND, run_id, [state.value, json.dumps(dict(result))]))

    def lock_left(self, run_id: str, pid: int) -> None:
        """The engine of a run's holder was killed, and may have left its repository lock: `pid` stands in that."""
        guarded(lambda: self._script(notescripts.LOCK_LEFT)(keys=[self.keys.fenced], args=[f"{run_id}:{pid}"]))

    def fenced(self) -> list[Fence]:
        """The runs whose holder was fenced, or lost its engine, and whose repository lock may still stand.

        Some, where there are very many; what is no run's is left out, and noted.
        """
        script = self._script(notescripts.FENCED)
        (seconds, micros), found, odd = guarded(lambda: script(keys=[self.keys.fenced], args=[DUE_AT_MOST]))
        if odd:
            self.unread.note(self.host, "fenced", odd)
        now = int(seconds) + int(micros) / 1e6
        times = map(int, found[1::2])
        return [Fence.of(name, at, max(0.0, now - at / 1000)) for name, at in zip(found[::2], times, strict=True)]

    def unfence(self, fence: Fence) -> None:
        """The lock of that holder is gone; a later fence stays to be done."""
        guarded(lambda: self._script(notescripts.UNFENCE)(keys=[self.keys.fenced], args=[fence.name, int(fence.at)]))

    def get(self, run_id: str) -> Run | None:
        """One run, or None."""
        found = self._load([run_id])
        return found[0] if found else None

    def places(self, first_digits: str) -> set[tuple[str, str]]:
        """The realm and id of each run, of any realm, whose id begins so. Walks over all keys: for people alone.

        Of one host there are so many at most: it may have any number.
        """
        pattern = re.compile(r"hf:(?:h:(?P<host>[^:]+):)?run:(?P<id>[0-9a-f]{32})")
        found: dict[str, set[str]] = {}
        for key in self._scan(f"hf:*run:{first_digits}*"):
            if match := pattern.fullmatch(key):
                theirs = found.setdefault(match["host"] or "", set())
                if len(theirs) < _FOUND_AT_MOST or not match["host"]:
                    theirs.add(match["id"])
        return {(host, run_id) for host, ids in found.items() for run_id in ids}

    def open_runs(self) -> list[Run]:
        """All runs that are not final; of one host some, where there are very many."""
        (head,) = sweep.heads(self, [self.host])
        return self._load(head.open)

    def recent(self, count: int = 50) -> list[Run]:
        """The runs that ended last, newest first."""
        return self._load(*sweep.listed(self, [(self.host, self.keys.recent)], 0, count - 1))

    def history(self, source: str, count: int = HISTORY) -> list[Run]:
        """The runs of one source that ended last, newest first; at most `HISTORY` are kept."""
        return self._load(*sweep.listed(self, [(self.host, self.keys.history(source))], 0, count - 1))

    def children(self, run_id: str) -> list[Run]:
        """The runs that one wanted, in the order in which they were opened. An agent's want none."""
        if self.host:
            return []
        ids = guarded(lambda: self.client.smembers(self.keys.children(run_id)))
        return sorted(self._load(sorted(ids)), key=lambda run: run.opened)

    def journal_append(self, run_id: str, packs: Iterable[str]) -> None:
        """Note packs (hex) that a run has uploaded."""
        names = list(packs)
        if not names:
            return
        pipe = self.client.pipeline()
        pipe.sadd(self.keys.packs(run_id), *names)
        pipe.expire(self.keys.packs(run_id), int(JOURNAL_KEPT))
        guarded(pipe.execute)

    def journal(self, run_id: str) -> list[str]:
        """The packs (hex, sorted) that former attempts of a run have uploaded, as far as the ledger knows."""
        return sorted(guarded(lambda: self.client.smembers(self.keys.packs(run_id))))

    def note_evidence(self, source: str, site: str, evidence: Evidence) -> bool:
        """Note the slots of snapshots that exist; what is older than what is known changes nothing.

        False where what lies there is something else.
        """
        said = [site, evidence.last, evidence.last_full]
        return bool(guarded(lambda: self._script(notescripts.EVIDENCE)(keys=[self.keys.evidence(source)], args=said)))

    def note_upkeep(
        self, source: str, site: str, kind: RunKind, slot: str, *, code: int = 0, figure: float = 0.0
    ) -> None:
        """Note upkeep of a source at a site that was done for a slot; an older one changes nothing.

        `code`: the exit code that says what came of it; `figure`: bytes/s of a restore test, or healed objects of a
        verification.
        """
        said = [site, kind.value, slot, str(code), f"{figure:.0f}"]
        guarded(lambda: self._script(notescripts.UPKEEP)(keys=[self.keys.upkeep(source)], args=said))

    def rename(self, source: str, name: str) -> str:
        """Let all that is known of a source here be known under another name: at once, or, where it is repeated, again.

        Nothing is done where a run of it is not over: its id, else empty.
        """
        said = [self.keys.prefix, source, name]
        return str(guarded(lambda: self._script(notescripts.RENAME)(keys=[], args=said)))

    def open_run_of(self, source: str) -> str:
        """The id of a run of a source that is not over; empty for none."""
        return next((run.id for run in self.open_runs() if run.request.source == source), "")

    def evidence(self, source: str, site: str) -> Evidence | None:
        """What is known of a source's snapshots at a site; None says nothing at all (look at the site)."""
        fields = [f"{site}|last", f"{site}|full"]
        last, full = guarded(lambda: self.client.hmget(self.keys.evidence(source), fields))
        return Evidence(last or "", full or "") if last or full else None

    def _load(self, ids: Sequence[str]) -> list[Run]:
        return sweep.load(self, [(self.host, run_id) for run_id in ids])

    def _scan(self, pattern: str) -> Iterator[str]:
        """The keys that match, a few thousand at a time."""
        cursor = 0
        while True:
            cursor, keys = guarded(partial(self.client.scan, cursor, match=pattern, count=10_000))
            yield from keys
            if not cursor:
                return

    def _script(self, text: str) -> Script:
        if text not in self._scripts:
            self._scripts[text] = self.client.register_script(text)
        return self._scripts[text]

    def _run(self, text: str, run_id: str, arguments: Sequence[object]) -> Any:
        """What a transition answers. LedgerError where what lies in a host's realm makes it impossible."""
        keys, texts = transition(self.keys, run_id, arguments)
        script = self._script(text)

        def call() -> Any:
            try:
                return script(keys=keys, args=texts)
            except ResponseError as error:
                if not self.host:
                    raise
                return known(error, self.host)

        answer = guarded(call)
        if answer is None or answer == "unread":
            whose = (
                f"the part of Redis that the agent of {self.host} writes" if self.host else "the pools' part of Redis"
            )
            raise LedgerError(
                f"run {run_id} can't be read: what lies in {whose} is no run", hint="docs/agents.md says what to do"
            )
        return answer
