"""A run that is cut, and its shards, under any row of steps: it never waits for nobody, nor goes on early.

The real ledger is asked; what must hold is looked at after each step. In the end rings of the reaper alone bring all
to an end.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shared.ledger.lease import Lease
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunRequest, RunState, Word, run_id_for_slot, shard_run_id
from tests.support.ledgers import expire, own_ledger

SLOT = "2026-03-04T02:00:00Z"
RUN = RunRequest(run_id_for_slot("nas", "all", RunKind.FULL, SLOT), RunKind.FULL, "nas", "all", SLOT, "backup")
ENDS = [RunState.FAILED, RunState.SUCCEEDED, RunState.SUCCEEDED, RunState.INCOMPLETE]


def shards_of(plan: str) -> list[RunRequest]:
    """The shards of a plan."""
    options = {"of": 2, "plan": plan}
    return [
        RunRequest(shard_run_id(RUN.id, plan, n), RunKind.SHARD, "nas", options={**options, "shard": n}, parent=RUN.id)
        for n in range(2)
    ]


PLANS = {plan: shards_of(plan) for plan in ("p", "q")}
ALL = [RUN, *PLANS["p"], *PLANS["q"]]
anyone = st.sampled_from(ALL)
a_shard = st.sampled_from(PLANS["p"])


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One for all examples; each begins with an empty one."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey")), lease_seconds=3600) as (ledger, _):
        yield ledger


def test_no_row_of_steps_leaves_a_run_waiting_or_lets_it_go_on_early(ledger: Ledger) -> None:
    """Cut, cut anew, claim, die, end, cancel, forget, wipe, in any order."""

    class Machine(ShardMachine):
        def __init__(self) -> None:
            super().__init__(ledger)

    how = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=how)


class ShardMachine(RuleBasedStateMachine):
    """One run, two plans of two shards; each lease that was handed out is kept, and may be used when it is lost."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        ledger.client.flushall()
        ledger.open(RUN)
        self.leases: dict[str, Lease] = {}
        self.before = RunState.QUEUED  # the run's state before the last step
        self.forgotten = False  # a shard was, or Redis: then it is the reaper who notices

    def get(self, request: RunRequest) -> Run | None:
        """A run as it is now."""
        return self.ledger.get(request.id)

    @rule()
    def open(self) -> None:
        """A tick finds the slot due."""
        self.ledger.client.hset(self.ledger.keys.run(RUN.id), "retry", 0) if self.get(RUN) else None
        self.ledger.open(RUN)

    @rule(request=anyone)
    def claim(self, request: RunRequest) -> None:
        """A worker follows a ring, or a forged one."""
        lease = self.ledger.claim(request.id, "a@h:1").lease
        if lease is not None:
            self.leases[request.id] = lease

    @rule(plan=st.sampled_from("ppq"), anew=st.sets(st.integers(0, 1)))
    def cut(self, plan: str, anew: set[int]) -> None:
        """Who had the lease of the run once cuts it, by the old plan or by a new one."""
        if RUN.id in self.leases:
            shards = PLANS[plan]
            word = self.ledger.cut(self.leases[RUN.id], shards, {shards[number].id for number in anew})
            if word is Word.CUT:
                self.forgotten = False
                children = self.ledger.children(RUN.id)
                assert {run.id for run in children} == {shard.id for shard in shards}
                run = self.get(RUN)
                assert run is not None
                assert (run.state is RunState.WAITING) == any(not shard.is_over for shard in children)

    @rule(plan=st.sampled_from("ppq"))
    def claim_and_cut(self, plan: str) -> None:
        """A run is followed and cut at once, as it mostly is."""
        self.claim(RUN)
        self.cut(plan, set())

    @rule(shard=st.sampled_from(ALL[1:]), state=st.sampled_from(ENDS))
    def do(self, shard: RunRequest, state: RunState) -> None:
        """A shard is followed and done at once."""
        self.claim(shard)
        self.finish(shard, state)

    @rule(request=anyone, state=st.sampled_from(ENDS))
    def finish(self, request: RunRequest, state: RunState) -> None:
        """An attempt ends."""
        if request.id in self.leases:
            self.ledger.finish(self.leases[request.id], state)

    @rule(request=anyone, error=st.sampled_from(["", "died"]))
    def release(self, request: RunRequest, error: str) -> None:
        """A worker leaves, or its engine has died."""
        if request.id in self.leases:
            self.ledger.release(self.leases[request.id], error=error)

    @rule(request=anyone)
    def die(self, request: RunRequest) -> None:
        """A worker is gone, and the reaper notices."""
        run = self.get(request)
        if run is not None and run.state in {RunState.CLAIMED, RunState.RUNNING}:
            expire(self.ledger, request.id)
        self.ledger.reap()

    @rule(request=st.one_of(st.just(RUN), a_shard))
    def cancel(self, request: RunRequest) -> None:
        """A person has changed their mind."""
        word = self.ledger.cancel(request.id, "anna")
        if request is RUN and word is Word.CANCELLED:
            left = [run for run in self.ledger.children(RUN.id) if not run.is_over]
            assert all(run.cancel_by and run.state is not RunState.QUEUED for run in left)

    @rule(shard=a_shard)
    def forget(self, shard: RunRequest) -> None:
        """What Redis knew of a shard is gone."""
        self.ledger.client.delete(self.ledger.keys.run(shard.id))
        self.ledger.client.zrem(self.ledger.keys.open, shard.id)
        self.forgotten = True

    @invariant()
    def it_waits_while_there_is_something_to_wait_for(self) -> None:
        """A run waits for a shard that is not over; what ends is told of with the run alone."""
        run = self.get(RUN)
        assert run is not None
        shards = self.ledger.children(RUN.id)
        open_shards = [shard for shard in shards if not shard.is_over]
        if run.state is RunState.WAITING and not self.forgotten:
            assert open_shards
        if self.before is RunState.WAITING and run.state is RunState.QUEUED:
            assert not open_shards
        self.before = run.state
        assert {one.id for one in self.ledger.history("nas")} <= {RUN.id}
        assert {one.id for one in self.ledger.recent()} <= {RUN.id}
        waiting = set(self.ledger.client.zrange(self.ledger.keys.open, 0, -1))
        assert {shard.id for shard in open_shards} <= waiting
        assert (RUN.id in waiting) == (not run.is_over)

    def teardown(self) -> None:
        """Rings of the reaper bring all to an end: shards first, then the run, which is never left waiting."""
        for _ in range(4):
            for request in ALL:
                run = self.get(request)
                if run is not None and not run.is_over:
                    expire(self.ledger, request.id)
            for rung in self.ledger.reap():
                if not rung.is_over:
                    lease = self.ledger.claim(rung.id, "last@h:9").lease
                    if lease is not None:
                        assert self.ledger.finish(lease, RunState.SUCCEEDED) is Word.FINISHED
        assert self.ledger.open_runs() == []
        run = self.get(RUN)
        assert run is not None
        assert run.is_over
