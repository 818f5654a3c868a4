"""Supervising one run: the lease is kept, progress passed on, the run ended; the work itself is the engine's.

The invariants, in the order in which they matter:
1. An engine works only while its supervisor does: the supervisor closes it on every way out.
2. Whoever learns that another holds the lease stops the engine. That Redis is away is no such news: the engine works
   on, and the lease is claimed again (and a wiped ledger told of the run) when Redis is back.
   One that deletes stops at once, and is given back: while nobody can tell it to stop, it must not go on.
3. Evidence is noted before the run is ended, so that no tick can find the slot without either.
4. When the worker is to stop, the engine flushes and ends, then the lease is released, then the bell is rung.
5. When somebody wants the run to end, the engine flushes and ends under the lease, then the run is ended as cancelled;
   unless the engine was done by then: what exists is not called cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from shared.ledger.errors import LedgerAway
from shared.ledger.lease import Lease, boot_clock
from shared.ledger.model import RunState, Word
from shared.observability.structured import structlog
from workers import sharding
from workers.helpers import HelperDied

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import RunRequest
    from workers.engine_process import EngineProcess, Event

POLL = 0.2  # seconds between looks at everything
PROGRESS_EVERY = 1.0  # seconds between two notes of progress
AWAY_EVERY = 2.0  # seconds between two tries while Redis is away
STOP_GRACE = 15.0  # seconds that an engine has to flush, after which its group is killed
_NO_RESULT = {"event", "store_retries"}
_CANCELLED_CODE = 130  # as of whoever is interrupted

_log = structlog.get_logger("holdfast.worker")  # the task has bound which run it is about


class Stop(Enum):
    """Why an engine was told to stop."""

    SHUTDOWN = auto()  # the worker ends: the run is given back
    AWAY = auto()  # Redis is away, and the run deletes: it is given back
    CANCELLED = auto()  # somebody wants the run to end
    OVERTAKEN = auto()  # another holds the lease, or has ended the run


@dataclass(slots=True)
class Outcome:
    """What came of one attempt."""

    word: Word  # FINISHED, RELEASED, CUT, CANCELLED (when it was to be released or cut), or LOST (another's now)
    state: RunState = RunState.QUEUED
    result: Mapping[str, object] = field(default_factory=dict)
    error: str = ""
    exit_code: int = 0
    site: str = ""  # at which an operation failed, where the engine could tell
    retries: int = 0  # requests to its site that were made again


class Supervisor:
    """One attempt at one run."""

    def __init__(
        self,
        ledger: Ledger,
        request: RunRequest,
        lease: Lease,
        engine: EngineProcess,
        *,
        owner: str,
        stopping: Callable[[], bool],
        note: Callable[[Mapping[str, object]], None] = lambda _: None,
        site: str = "",
        grace: float = STOP_GRACE,
    ) -> None:
        """`stopping` says whether the worker is to end; `note` puts a result's evidence into the ledger.

        `site` is the one that the engine works on.
        """
        self.ledger = ledger
        self.request = request
        self.lease = lease
        self.engine = engine
        self.owner = owner
        self._stopping = stopping
        self._note = note
        self._site = site
        self._grace = grace
        self._stop: Stop | None = None
        self._cancel_by = ""  # known even if the ledger is wiped
        self._kill_at = 0.0
        self._next_contact = 0.0
        self._running = False
        self._away = False
        self._noted = False
        self._progress: Mapping[str, object] | None = None
        self._packs: list[str] = []  # all of this attempt
        self._journaled = 0  # of these, how many the ledger has
        self._last: Event | None = None  # "done" or "error"

    def run(self) -> Outcome:
        """Supervise until the engine has ended and the ledger knows, or until nobody needs to know."""
        try:
            while not self.engine.ended:
                for event in self.engine.events(POLL):
                    self._hear(event)
                self._pass_on()
                self._step(boot_clock())
            self._pass_on()
            if self.engine.garbage:
                _log.warning("engine said what is no event", lines=self.engine.garbage)
            return self._end()
        finally:
            self.engine.close()

    def _hear(self, event: Event) -> None:
        kind = event["event"]
        self._running = True
        if kind in {"done", "error"}:
            self._last = event
        elif kind == "packed":
            self._packs.append(str(event.get("pack", "")))
        elif kind == "progress":
            first = self._progress is None
            self._progress = {name: value for name, value in event.items() if name != "event"}
            soon = boot_clock() + (0 if first else PROGRESS_EVERY)
            if not self._away:
                self._next_contact = min(self._next_contact, soon)

    def _pass_on(self) -> None:
        for text in self.engine.complaints():
            _log.warning("the engine complains", text=text)

    def _step(self, now: float) -> None:
        if self._stop is None and self._stopping():
            self._tell_to_stop(Stop.SHUTDOWN)
        if self._stop is not None and now >= self._kill_at:
            self.engine.kill()
        if now >= self._next_contact and self._stop is not Stop.OVERTAKEN:
            self._keep()

    def _tell_to_stop(self, why: Stop) -> None:
        self._stop = why
        self._kill_at = boot_clock() + self._grace
        self.engine.terminate()

    def _keep(self) -> bool:
        """Renew the lease, pass on what is new. False where Redis is away or the lease is another's."""
        try:
            if not self._renew():
                _log.warning("lease lost: another works on this run, or has ended it")
                self._tell_to_stop(Stop.OVERTAKEN)
                return False
            self.ledger.journal_append(self.request.id, self._packs[self._journaled :])
            self._journaled = len(self._packs)
        except LedgerAway as error:
            if not self._away:
                self._tell_away(str(error))
            self._away = True
            self._next_contact = boot_clock() + AWAY_EVERY
            return False
        if self._away:
            _log.info("Redis is back")
        self._away = False
        self._next_contact = boot_clock() + self.lease.seconds / 3
        return True

    def _tell_away(self, reason: str) -> None:
        if not self.request.kind.deletes:
            _log.warning("Redis is away; the work goes on", reason=reason)
            return
        _log.warning("Redis is away; what deletes stops", reason=reason)
        if self._stop is None:
            self._tell_to_stop(Stop.AWAY)

    def _renew(self) -> bool:
        if self.lease.held():
            word, self.lease = self.ledger.renew(self.lease, self._progress, running=self._running)
            if word is Word.CANCEL:
                self._hear_cancel()
            if word in {Word.RENEWED, Word.CANCEL}:
                return True
        # The lease may have run out, or the ledger may be a new one: it is still ours unless another took it.
        claim = self.ledger.claim(self.request.id, self.owner, token=self.lease.token)
        if claim.word is Word.UNKNOWN:
            self.ledger.open(self.request)
            self._journaled = 0
            claim = self.ledger.claim(self.request.id, self.owner)
        if claim.lease is None:
            return False
        self.lease = claim.lease
        return True

    def _hear_cancel(self) -> None:
        if not self._cancel_by:
            run = self.ledger.get(self.request.id)
            self._cancel_by = (run.cancel_by if run else "") or "somebody"
            _log.info("to be cancelled", by=self._cancel_by)
        if self._stop is None:
            self._tell_to_stop(Stop.CANCELLED)

    def _end(self) -> Outcome:
        if self._stop is Stop.OVERTAKEN:
            return Outcome(Word.LOST)
        if self._last is not None and self._last["event"] == "done":
            result = {name: value for name, value in self._last.items() if name not in _NO_RESULT}
            shards = sharding.handed_out(result)
            if shards is not None:
                word = self._settle(lambda: sharding.cut(self.ledger, self.request, self.lease, shards))
                return Outcome(word, RunState.WAITING)
            # A restore or a verification may be done and still have something to say: see its exit code.
            whole = result.get("complete", True) and not result.get("exit_code", 0)
            state = RunState.SUCCEEDED if whole else RunState.INCOMPLETE
            return self._finish(RunState.SUPERSEDED if result.get("superseded") else state, result, "", 0)
        if self._cancel_by:
            return self._finish(RunState.CANCELLED, {}, f"cancelled by {self._cancel_by}", _CANCELLED_CODE)
        if self._stop in {Stop.SHUTDOWN, Stop.AWAY}:
            return self._release("")
        error = f"the engine ended without a word (exit code {self.engine.exit_code})"
        if self._last is not None:
            code = self._last.get("exit_code", 1)
            error = str(self._last.get("message", "the engine gave no reason"))
            error = f"{error}. {hint}" if (hint := self._last.get("hint")) else error
            if code != HelperDied.exit_code:  # a helper that was killed is a death as the engine's own
                return self._finish(RunState.FAILED, {}, error, code if isinstance(code, int) else 1)
        died = self.lease.deaths + 1
        if died < self.request.attempts:
            return self._release(error, pause=2.0**died)
        return self._finish(RunState.FAILED, {}, f"given up after {died} attempts; the last: {error}", 1)

    def _finish(self, state: RunState, result: Mapping[str, object], error: str, exit_code: int) -> Outcome:
        said = self._last if self._last is not None else {}
        asked = said.get("store_retries")
        retries = asked if isinstance(asked, int) else 0

        def finish() -> Word:
            if state not in {RunState.FAILED, RunState.CANCELLED} and not self._noted:
                self._note(result)
                self._noted = True
            self._tell_of_lock()
            return self.ledger.finish(
                self.lease, state, result=result, error=error, exit_code=exit_code, retries=(self._site, retries)
            )

        word = self._settle(finish)
        if word is Word.FINISHED and state is RunState.FAILED:
            with suppress(LedgerAway):  # once more: who looked for a snapshot before the end has left it at that
                self._tell_of_lock()
        site = said.get("site") if said.get("event") == "error" else ""
        return Outcome(word, state, result, error, exit_code, str(site or ""), retries)

    def _release(self, error: str, pause: float = 0.0) -> Outcome:
        """Give the run back; without a pause the caller rings."""

        def release() -> Word:
            self._tell_of_lock()
            if pause:
                return self.ledger.release(self.lease, ring_again=pause, error=error)
            return self.ledger.release(self.lease, error=error)

        return Outcome(self._settle(release), RunState.QUEUED, {}, error)

    def _tell_of_lock(self) -> None:
        """An engine that has not said how it ended was killed, and may have left its repository lock."""
        if self._last is None and self.request.kind.locks_by_id:
            self.ledger.lock_left(self.request.id, self.engine.pid)

    def _settle(self, act: Callable[[], Word]) -> Word:
        """Do the last thing of an attempt: the lease is kept until Redis takes it, or the worker must go."""
        while True:
            if self._keep():
                try:
                    word = act()
                except LedgerAway:
                    self._away = True
                else:
                    if word not in {Word.LOST, Word.UNKNOWN}:
                        return word
            if self._stop is Stop.OVERTAKEN:
                return Word.LOST
            if self._stopping() and boot_clock() >= self._deadline():
                return Word.LOST  # the reaper finds it; a backup that was committed is found by the next attempt
            time.sleep(POLL)

    def _deadline(self) -> float:
        """Until when a worker that is to end still tries to reach Redis."""
        if self._kill_at == 0.0:
            self._kill_at = boot_clock() + self._grace
        return self._kill_at
