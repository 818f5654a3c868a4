"""A model of the ledger against the real one: any row of steps, by workers that may have been frozen for ever.

Each step's answer is foretold by the model, and what it did must be drawn in the table of `shared.ledger.model`. The
invariants are looked at after each step; in the end every run that was opened is brought to a final state by the
reaper's rings alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.ledger.lease import Lease
from shared.ledger.ledger import Ledger
from shared.ledger.model import Opened, RunKind, RunRequest, RunState, Word, run_id_for_slot
from tests.support.ledgers import drawn_table, own_ledger

RUNS = 5
ATTEMPTS = 3  # deaths after which the reaper gives up
NONE = "(none)"
LEASED = ("claimed", "running")
OPEN = ("queued", *LEASED)
ENDS = [RunState.FAILED, RunState.SUCCEEDED, RunState.INCOMPLETE, RunState.SUPERSEDED, RunState.CANCELLED]
TABLE = {(state, act): (drawn, note) for state, act, drawn, note in drawn_table()}
# What the footnotes allow besides what is drawn.
NOTES = {"1": {"claimed"}, "3": {"failed"}, "5": {"failed"}}
SAME = {"joined", "held", "lost", "done", "asked", "-"}
CANCELLING = {"release", "reap", "claim", "finish", "cancel"}

workers = st.sampled_from(["a@h:1", "b@h:2", "c@h:3"])


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One for all examples; each begins with an empty one."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey")), lease_seconds=3600) as (ledger, _):
        yield ledger


def test_no_row_of_steps_doubles_or_loses_a_run(ledger: Ledger) -> None:
    """Claim, renew, expire, release, finish, cancel, reap, open again and wipe, in any order, by several workers."""

    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(ledger)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=200,
            stateful_step_count=50,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@dataclass
class Known:
    """What the model knows of a run that the ledger has."""

    state: str = "queued"
    token: str = ""  # that may move it on
    expired: bool = False
    due: bool = False  # the reaper is to look at it
    cancel: bool = False
    deaths: int = 0
    finisher: str = ""
    pause_over: bool = False

    @property
    def final(self) -> bool:
        """Whether it is over."""
        return self.state not in OPEN

    def die(self) -> None:
        """Its lease ran out, and someone noticed."""
        self.token, self.expired = "", False
        self.deaths += 1

    def end(self, state: str) -> None:
        """It is over."""
        self.state, self.token, self.expired, self.due, self.pause_over = state, "", False, False, False


class LedgerMachine(RuleBasedStateMachine):
    """Some runs, three workers; a lease that was handed out once may be used at any later time."""

    runs = Bundle("runs")
    leases = Bundle("leases")

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        ledger.client.flushall()
        self.known: dict[str, Known] = {}
        self.tokens: set[str] = set()  # all that were ever handed out
        self.committed: dict[str, str] = {}  # who ended a run, by its id
        self.before: dict[str, str] = {}  # states before the step
        self.acts: tuple[str, ...] = ()
        self.requests: list[RunRequest] = []

    def act(self, *acts: str) -> None:
        """Which columns of the table the step that follows may use."""
        self.acts = acts

    @precondition(lambda self: len(self.requests) < RUNS)
    @rule(target=runs)
    def new_slot(self) -> RunRequest:
        """A slot is due for the first time."""
        self.act("open")
        slot = f"2026-03-04T02:{len(self.requests):02}:00Z"
        run_id = run_id_for_slot("web1", "all", RunKind.FULL, slot)
        request = RunRequest(run_id, RunKind.FULL, "web1", policy="all", slot=slot, queue="backup", attempts=ATTEMPTS)
        self.requests.append(request)
        assert self.ledger.open(request) is Opened.OPENED
        self.known[run_id] = Known()
        return request

    @rule(request=runs)
    def open(self, request: RunRequest) -> None:
        """A tick finds the slot due, still or again."""
        self.act("open")
        got = self.ledger.open(request)
        run = self.known.get(request.id)
        if run is None:
            assert got is Opened.OPENED
            self.known[request.id] = Known()
        elif run.state == "failed":
            assert got is (Opened.REOPENED if run.pause_over else Opened.WAITS)
            if run.pause_over:
                self.known[request.id] = Known(deaths=run.deaths)
                del self.committed[request.id]
        else:
            assert got is (Opened.DONE if run.final else Opened.JOINED)

    @rule(target=leases, request=runs, worker=workers)
    def claim(self, request: RunRequest, worker: str) -> object:
        """A worker follows a ring, a forged one too."""
        return self._claim(request.id, worker, "")

    @rule(target=leases, lease=leases, worker=workers)
    def claim_again(self, lease: Lease, worker: str) -> object:
        """A holder is back from a time in which Redis was away."""
        return self._claim(lease.run_id, worker, lease.token)

    def _claim(self, run_id: str, worker: str, token: str) -> object:
        self.act("claim")
        claim = self.ledger.claim(run_id, worker, token=token)
        run = self.known.get(run_id)
        if run is None or run.final:
            assert claim.word is (Word.DONE if run else Word.UNKNOWN)
            return multiple()
        mine = run.token != "" and run.token == token
        if run.token and not mine:
            if not run.expired:
                assert claim.word is Word.HELD
                return multiple()
            run.die()
            if run.cancel:
                assert claim.word is Word.DONE
                self._end(run_id, "cancelled", "nobody")
                return multiple()
        assert claim.word is Word.CLAIMED
        assert claim.lease is not None
        assert claim.lease.deaths == run.deaths
        run.expired = run.due = False
        if mine:
            assert claim.lease.token == token
        else:
            assert claim.lease.token not in self.tokens
            run.state, run.token = "claimed", claim.lease.token
        self.tokens.add(run.token)
        return claim.lease

    @rule(lease=leases, running=st.booleans())
    def renew(self, lease: Lease, running: bool) -> None:
        """A supervisor's heartbeat, perhaps of a worker that was frozen for long."""
        self.act("start" if running else "renew")
        run = self.known.get(lease.run_id)
        word, _ = self.ledger.renew(
            lease, {"files": 1}, running=running or (run is not None and run.state == "running")
        )
        if self._is_holder(lease, word):
            run = self.known[lease.run_id]
            assert word is (Word.CANCEL if run.cancel else Word.RENEWED)
            run.state = "running" if running else run.state
            run.expired = run.due = False

    @rule(lease=leases, error=st.sampled_from(["", "no word"]))
    def release(self, lease: Lease, error: str) -> None:
        """A worker leaves, or its engine died."""
        self.act("release")
        word = self.ledger.release(lease, error=error)
        if self._is_holder(lease, word):
            run = self.known[lease.run_id]
            run.token, run.expired, run.due = "", False, False
            if run.cancel:
                assert word is Word.CANCELLED
                self._end(lease.run_id, "cancelled", "nobody")
                return
            assert word is Word.RELEASED
            run.state = "queued"
            run.deaths += error != ""

    @rule(lease=leases, state=st.sampled_from([*ENDS, RunState.FAILED, RunState.FAILED]))
    def finish(self, lease: Lease, state: RunState) -> None:
        """An attempt ends."""
        self.act("finish")
        word = self.ledger.finish(lease, state, error="denied" if state is RunState.FAILED else "")
        run = self.known.get(lease.run_id)
        if run is not None and run.final:
            assert word is (Word.FINISHED if run.finisher == lease.token else Word.DONE)
        elif self._is_holder(lease, word):
            assert word is Word.FINISHED
            run = self.known[lease.run_id]
            run.finisher = lease.token
            cancelled = run.cancel and state is RunState.FAILED
            self._end(lease.run_id, "cancelled" if cancelled else state.value, lease.token)

    @precondition(lambda self: len(self.tokens) > 1)
    @rule(request=runs)
    def cancel(self, request: RunRequest) -> None:
        """A person has changed their mind."""
        self.act("cancel")
        run_id = request.id
        word = self.ledger.cancel(run_id, "anna")
        run = self.known.get(run_id)
        if run is None or run.final:
            assert word is (Word.DONE if run else Word.UNKNOWN)
            return
        run.cancel = True
        if run.token and not run.expired:
            assert word is Word.ASKED
            return
        assert word is Word.CANCELLED
        self._end(run_id, "cancelled", "nobody")

    @precondition(lambda self: any(run.due for run in self.known.values()))
    @rule()
    def reap(self) -> None:
        """A scheduler's tick; there may be two of them."""
        self.act("reap")
        expected = {}
        for run_id, run in self.known.items():
            if run.final or not run.due:
                continue
            run.due = False
            if run.token and not run.expired:
                continue
            if run.token:
                run.die()
                if run.cancel or run.deaths >= ATTEMPTS:
                    self._end(run_id, "cancelled" if run.cancel else "failed", "nobody")
                else:
                    run.state = "queued"
            expected[run_id] = run.state
        assert {run.id: run.state.value for run in self.ledger.reap()} == expected

    @precondition(lambda self: any(run.token for run in self.known.values()))
    @rule(lease=leases)
    def expire(self, lease: Lease) -> None:
        """Nobody has renewed the lease of a run for long."""
        self.act()
        run_id = lease.run_id
        run = self.known.get(run_id)
        if run and run.token:
            self.ledger.client.hset(self.ledger.keys.run(run_id), "lease", 0)
            self.ledger.client.zadd(self.ledger.keys.open, {run_id: 0})
            run.expired = run.due = True

    @rule(request=runs)
    def time_passes(self, request: RunRequest) -> None:
        """A ring was followed by nobody, or the pause of a failed slot is over; or the reaper is only early."""
        self.act()
        run_id = request.id
        run = self.known.get(run_id)
        if run and not run.final:
            self.ledger.client.zadd(self.ledger.keys.open, {run_id: 0})
            run.due = True
        if run and run.state == "failed":
            self.ledger.client.hset(self.ledger.keys.run(run_id), "retry", 0)
            run.pause_over = True

    @precondition(lambda self: any(run.token for run in self.known.values()) and len(self.tokens) % 4 == 0)
    @rule()
    def wipe(self) -> None:
        """Redis is empty; workers still have their leases."""
        self.act("wipe")
        self.ledger.client.flushall()
        self.known.clear()
        self.committed.clear()

    def _is_holder(self, lease: Lease, word: Word) -> bool:
        """Whether the lease stands; a word to anyone else must have been no."""
        run = self.known.get(lease.run_id)
        if run is not None and run.token == lease.token:
            return True
        assert word is (Word.LOST if run else Word.UNKNOWN)
        return False

    def _end(self, run_id: str, state: str, by: str) -> None:
        assert run_id not in self.committed, "a run ended twice"
        self.committed[run_id] = by
        self.known[run_id].end(state)

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        """States, and whose token counts; what is open stands where the reaper looks; what is over, in the lists.

        And whatever the last step did to any run stands in the table, or in the footnote of its cell.
        """
        keys = self.ledger.keys
        pipe = self.ledger.client.pipeline(transaction=False)
        pipe.zrange(keys.open, 0, -1)
        pipe.lrange(keys.recent, 0, -1)
        pipe.lrange(keys.history("web1"), 0, -1)
        for request in self.requests:
            pipe.hmget(keys.run(request.id), ["state", "token", "lease"])
        waiting, recent, history, *hashes = pipe.execute()
        over = sorted(run_id for run_id, run in self.known.items() if run.final)
        assert sorted(waiting) == sorted(run_id for run_id, run in self.known.items() if not run.final)
        assert (sorted(recent), sorted(history)) == (over, over)
        for request, (state, token, lease) in zip(self.requests, hashes, strict=True):
            run = self.known.get(request.id)
            assert (state or NONE, token or "") == ((run.state, run.token) if run else (NONE, ""))
            assert bool(token) == bool(lease) == (state in LEASED)
            before = self.before.get(request.id, NONE)
            allowed = self._drawn(request.id, before)
            assert (state or NONE) in allowed, f"{before} -> {state} by {self.acts} is not drawn"
            self.before[request.id] = state or NONE

    def _drawn(self, run_id: str, before: str) -> set[str]:
        """The states that the last step may have led to."""
        allowed = {NONE if "wipe" in self.acts else before}
        for act in self.acts:
            drawn, note = TABLE.get((before, act), ("-", ""))
            allowed |= NOTES.get(note, set())
            if drawn == "final":
                allowed |= {end.value for end in ENDS}
            elif drawn not in SAME:
                allowed.add(drawn)
            if before in OPEN and act in CANCELLING and self.known[run_id].cancel:
                allowed.add("cancelled")
        return allowed

    def teardown(self) -> None:
        """No run is lost: whoever holds one dies, and the reaper's rings bring each to its end."""
        for run_id, run in self.known.items():
            if run.token:
                self.ledger.client.hset(self.ledger.keys.run(run_id), "lease", 0)
            if not run.final:
                self.ledger.client.zadd(self.ledger.keys.open, {run_id: 0})
        for rung in self.ledger.reap():
            if not rung.state.is_final:
                lease = self.ledger.claim(rung.id, "last@h:9").lease
                assert lease is not None
                assert self.ledger.finish(lease, RunState.SUCCEEDED) is Word.FINISHED
        ended = [end for run_id in self.known if (end := self.ledger.get(run_id)) and end.state.is_final]
        assert len(ended) == len(self.known)
        assert self.ledger.open_runs() == []
