"""The ledger: what is to run, who works on it, what came of it.

What it guards: at any time at most one holder has a run's lease, and only the holder moves the run on. Each step is one
script that looks first and then acts, so that a call made twice, late, or by someone who has lost the lease does
nothing. Nothing here is needed to recover data: a wiped ledger is filled again by the holders and the scheduler.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import redis
from redis.exceptions import (
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from shared.errors import LedgerError
from shared.ledger import scripts
from shared.ledger.errors import LedgerAway
from shared.ledger.keys import Keys
from shared.ledger.lease import LEASE_SECONDS, Lease, boot_clock
from shared.ledger.model import Evidence, Opened, Run, RunKind, RunRequest, RunState, Word

if TYPE_CHECKING:
    from redis.commands.core import Script

RING_AGAIN = 15.0  # seconds after which a ring that nobody followed is repeated, doubled each time
RING_AGAIN_AT_MOST = 600.0
RETRY_FIRST = 30.0  # seconds before a failed slot is opened again, doubled with each attempt
RETRY_AT_MOST = 3600.0
REMEMBERED = 30 * 86400.0  # seconds for which an ended run is kept
JOURNAL_KEPT = 7 * 86400.0
RECENT = 1000

# Answers that say "not now". redis-py has classes for some, and keeps the word in front of others.
_AWAY = (OutOfMemoryError, ReadOnlyError, MasterDownError, TryAgainError)
_AWAY_WORDS = ("MISCONF", "BUSY", "NOREPLICAS")


class Claim(NamedTuple):
    """What came of a claim: a lease, or the reason why there is none (HELD, DONE, UNKNOWN)."""

    word: Word
    lease: Lease | None


class Ledger:
    """One realm of the ledger: the runs of one host, or (host empty) of the pools.

    Every method may raise LedgerAway (Redis does not answer: try again later) or LedgerError.
    """

    def __init__(self, client: redis.Redis, host: str = "", *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.client = client
        self.host = host
        self.keys = Keys(host)
        self.lease_seconds = lease_seconds
        self._scripts: dict[str, Script] = {}

    def realm(self, host: str) -> Ledger:
        """The ledger of another realm, by the same connections."""
        return Ledger(self.client, host, lease_seconds=self.lease_seconds)

    def ping(self) -> None:
        """Whether Redis answers: returns, or raises LedgerAway."""
        self._do(self.client.ping)

    def open(self, request: RunRequest, *, ring_again: float = RING_AGAIN) -> Opened:
        """Open a run, or join the one of the same id. The caller rings where OPENED or REOPENED.

        `ring_again` is the time in seconds after which the reaper rings.
        """
        fields = {
            "kind": request.kind.value,
            "source": request.source,
            "policy": request.policy,
            "slot": request.slot,
            "queue": request.queue,
            "options": json.dumps(dict(request.options)),
        }
        flat = [text for pair in fields.items() for text in pair]
        return Opened(self._run(scripts.OPEN, request.id, [], [request.id, _ms(ring_again), *flat]))

    def claim(self, run_id: str, owner: str, *, token: str = "") -> Claim:
        """Take the lease of a run. With `token`, the one held before, a lease that nobody else took is simply kept."""
        asked = boot_clock()
        arguments: list[str | int] = [run_id, owner, _ms(self.lease_seconds), secrets.token_hex(8), token]
        answer = self._run(scripts.CLAIM, run_id, [self.keys.ledger, self.keys.counter], arguments)
        word, got, attempt = answer
        if Word(word) is not Word.CLAIMED:
            return Claim(Word(word), None)
        return Claim(Word.CLAIMED, Lease(run_id, got, asked, self.lease_seconds, int(attempt)))

    def renew(
        self, lease: Lease, progress: Mapping[str, object] | None = None, *, running: bool = True
    ) -> tuple[Word, Lease]:
        """Keep the lease, and say how far the run is. RENEWED, or LOST or UNKNOWN with the lease as it was."""
        asked = boot_clock()
        state = RunState.RUNNING if running else RunState.CLAIMED
        said = json.dumps(dict(progress)) if progress is not None else ""
        arguments: list[str | int] = [lease.token, lease.run_id, _ms(lease.seconds), said, state.value]
        word = Word(self._run(scripts.RENEW, lease.run_id, [], arguments))
        return word, lease.renewed(asked) if word is Word.RENEWED else lease

    def release(self, lease: Lease, *, ring_again: float = RING_AGAIN, error: str = "") -> Word:
        """Give the run back to the queue: RELEASED, or LOST or UNKNOWN. The caller rings, or the reaper does."""
        arguments: list[str | int] = [lease.token, lease.run_id, _ms(ring_again), error]
        return Word(self._run(scripts.RELEASE, lease.run_id, [], arguments))

    def finish(
        self,
        lease: Lease,
        state: RunState,
        *,
        result: Mapping[str, object] | None = None,
        error: str = "",
        exit_code: int = 0,
    ) -> Word:
        """End the run. FINISHED (also the second time), DONE (by another), LOST or UNKNOWN."""
        pause = min(RETRY_FIRST * 2 ** (lease.attempt - 1), RETRY_AT_MOST)
        said: list[str | int] = [state.value, json.dumps(dict(result or {})), error, exit_code]
        keys = [self.keys.recent, self.keys.packs(lease.run_id)]
        arguments = [lease.token, lease.run_id, *said, _ms(pause), _ms(REMEMBERED), RECENT]
        return Word(self._run(scripts.FINISH, lease.run_id, keys, arguments))

    def reap(self) -> list[Run]:
        """The runs to be rung now: their lease ran out, or nobody followed the last ring. Marks them as rung."""
        seconds, micros = self._do(self.client.time)
        due = self._do(lambda: self.client.zrange(self.keys.open, 0, seconds * 1000 + micros // 1000, byscore=True))
        bounds = [_ms(RING_AGAIN), _ms(RING_AGAIN_AT_MOST)]
        ids = [run_id for run_id in due if self._run(scripts.REAP, run_id, [], [run_id, *bounds])]
        return self._load(ids)

    def get(self, run_id: str) -> Run | None:
        """One run, or None."""
        found = self._load([run_id])
        return found[0] if found else None

    def open_runs(self) -> list[Run]:
        """All runs that are not final."""
        return self._load(self._do(lambda: self.client.zrange(self.keys.open, 0, -1)))

    def recent(self, count: int = 50) -> list[Run]:
        """The runs that ended last, newest first."""
        return self._load(self._do(lambda: self.client.lrange(self.keys.recent, 0, count - 1)))

    def journal_append(self, run_id: str, packs: Iterable[str]) -> None:
        """Note packs (hex) that a run has uploaded."""
        names = list(packs)
        if not names:
            return
        pipe = self.client.pipeline()
        pipe.sadd(self.keys.packs(run_id), *names)
        pipe.expire(self.keys.packs(run_id), int(JOURNAL_KEPT))
        self._do(pipe.execute)

    def journal(self, run_id: str) -> list[str]:
        """The packs (hex, sorted) that former attempts of a run have uploaded, as far as the ledger knows."""
        return sorted(self._do(lambda: self.client.smembers(self.keys.packs(run_id))))

    def note_evidence(self, source: str, site: str, evidence: Evidence) -> None:
        """Note the slots of snapshots that exist; what is older than what is known changes nothing."""
        arguments = [site, evidence.last, evidence.last_full]
        self._do(lambda: self._script(scripts.EVIDENCE)(keys=[self.keys.evidence(source)], args=arguments))

    def evidence(self, source: str, site: str) -> Evidence | None:
        """What is known of a source's snapshots at a site; None says nothing at all (look at the site)."""
        fields = [f"{site}|last", f"{site}|full"]
        last, full = self._do(lambda: self.client.hmget(self.keys.evidence(source), fields))
        return Evidence(last or "", full or "") if last or full else None

    def _load(self, ids: Sequence[str]) -> list[Run]:
        if not ids:
            return []
        pipe = self.client.pipeline(transaction=False)
        for run_id in ids:
            pipe.hgetall(self.keys.run(run_id))
        hashes = cast("list[dict[str, str]]", self._do(pipe.execute))
        return [_decode(fields, self.host) for fields in hashes if "kind" in fields]

    def _script(self, text: str) -> Script:
        if text not in self._scripts:
            self._scripts[text] = self.client.register_script(text)
        return self._scripts[text]

    def _run(self, text: str, run_id: str, more_keys: list[str], arguments: Sequence[str | int]) -> Any:
        keys = [self.keys.run(run_id), self.keys.open, *more_keys]
        return self._do(lambda: self._script(text)(keys=keys, args=list(arguments)))

    def _do(self, call: Callable[[], Any]) -> Any:  # redis-py's answers are unions; each caller names its own
        try:
            return call()
        except ResponseError as error:
            if isinstance(error, _AWAY) or str(error).startswith(_AWAY_WORDS):
                raise LedgerAway(f"Redis answers: {error}") from error
            raise LedgerError(f"Redis refuses: {error}") from error
        except RedisError as error:
            raise LedgerAway(f"Redis does not answer: {error}") from error


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _decode(fields: Mapping[str, str], host: str) -> Run:
    def seconds(name: str) -> float:
        return int(fields.get(name, "0")) / 1000

    request = RunRequest(
        id=fields["id"],
        kind=RunKind(fields["kind"]),
        source=fields["source"],
        policy=fields["policy"],
        slot=fields["slot"],
        queue=fields["queue"],
        options=json.loads(fields["options"]),
    )
    return Run(
        request=request,
        state=RunState(fields["state"]),
        host=host,
        attempt=int(fields["attempt"]),
        rings=int(fields["rings"]),
        opened=seconds("opened"),
        started=seconds("started"),
        ended=seconds("ended"),
        owner=fields.get("owner", ""),
        lease_until=seconds("lease"),
        progress=json.loads(fields.get("progress", "{}")),
        result=json.loads(fields.get("result", "{}")),
        error=fields.get("error", ""),
        exit_code=int(fields.get("exit_code", "0")),
    )
