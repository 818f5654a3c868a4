"""Each slot is served by one committed run that began after it, or listed as dropped, whoever dies when.

A source, two schedulers that look and act at different moments, a worker, a ledger that may be wiped and a site that
keeps what was committed: their steps come in any order, over days with a change of the clocks in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.due import Due
from scheduler.forecast import account
from scheduler.standing import Scheduled, survey
from scheduler.timetable import Timetable, jitter_of
from shared.config.models import Policy
from shared.ledger.model import Evidence, Run, RunKind, RunRequest, RunState, run_id_for_slot, slot_text, slot_time
from shared.ledger.sweep import SourceState

START = slot_time("2026-03-27T10:00:00Z")  # two days before Berlin's clocks change
POLICIES: list[dict[str, Any]] = [
    {"full": "30 2 * * *"},
    {"full": "30 2 * * 0", "incremental": "30 2 * * *", "timezone": "Europe/Berlin"},
    {"full": "1d", "incremental": "2h", "jitter": "1h"},
    {"full": "0 3 * * 0", "incremental": "45m", "blackout": [{"hours": "01:30-09:00"}], "timezone": "Europe/Berlin"},
    {"incremental": "6h", "jitter": "30m", "blackout": [{"days": "sun"}]},
]
STEPS = st.tuples(
    st.sampled_from([0, 60, 1000, 7200, 40_000, 100_000]),
    st.sampled_from(["look a", "look b", "act a", "act b", "tick", "begin", "commit", "die", "fail", "cancel", "wipe"]),
)


@dataclass
class World:
    """All of it. A run of the ledger is queued, running, or over."""

    row: Scheduled
    now: datetime = START

    def __post_init__(self) -> None:
        self.ledger: dict[str, Run] = {}
        self.known = SourceState("", "")  # the ledger's cache of evidence
        self.site: dict[str, Run] = {}  # commits
        self.seen: dict[str, Due | None] = {}  # what each scheduler is about to open
        self.working: Run | None = None
        self.given_up: list[Run] = []

    def step(self, action: str) -> None:
        """One step of whoever."""
        name = action[-1]
        if action == "tick":
            self.look("t")
            self.act("t")
        elif action.startswith("look"):
            self.look(name)
        elif action.startswith("act"):
            self.act(name)
        elif action == "wipe":
            self.ledger, self.known = {}, SourceState("", "")
        elif action == "cancel":
            for run in self.open_runs():
                self.end(run, RunState.CANCELLED)
        elif action == "begin" and self.working is None:
            self.working = next(iter(self.open_runs()), None)
        elif self.working is not None and action in {"commit", "fail", "die"}:
            run, self.working = self.working, None
            if action == "commit":
                self.commit(run)
            elif action == "fail":
                self.end(run, RunState.FAILED)

    def look(self, scheduler: str) -> None:
        """What a scheduler learns; it may act on it much later, or never."""
        state = self.known._replace(backups="open" if self.open_runs() else "")
        standing = survey([(self.row, state)], self.now, {"s": self.evidence()})
        self.seen[scheduler] = standing.wanted[0].due if standing.wanted else None

    def act(self, scheduler: str) -> None:
        """Open a run as the ledger's script does: once, and not beside another backup of the source."""
        wanted = self.seen.pop(scheduler, None)
        if wanted is None:
            return
        run_id = run_id_for_slot("s", "p", wanted.kind, wanted.slot)
        known = self.ledger.get(run_id)
        if not self.open_runs() and (known is None or known.state is RunState.FAILED):
            request = RunRequest(run_id, wanted.kind, "s", "p", wanted.slot)
            self.ledger[run_id] = Run(request, RunState.QUEUED, opened=self.now.timestamp())

    def commit(self, run: Run) -> None:
        """Put if absent; then the evidence, and the ledger where it still knows the run."""
        self.site.setdefault(run.id, replace(run, state=RunState.SUCCEEDED, ended=self.now.timestamp()))
        slot, full = run.request.slot, run.request.kind is RunKind.FULL
        self.known = SourceState(max(self.known.last, slot), max(self.known.last_full, slot if full else ""))
        self.end(run, RunState.SUCCEEDED)

    def end(self, run: Run, state: RunState) -> None:
        """A run is over; one of a wiped ledger is noted again."""
        over = replace(run, state=state, ended=self.now.timestamp(), error="so it is")
        self.ledger[run.id] = over
        if state is not RunState.SUCCEEDED:
            self.given_up.append(over)

    def open_runs(self) -> list[Run]:
        """Those that are not over."""
        return [run for run in self.ledger.values() if not run.is_over]

    def evidence(self) -> Evidence | None:
        """What the site says."""
        slots = [run.request.slot for run in self.site.values()]
        full = [run.request.slot for run in self.site.values() if run.request.kind is RunKind.FULL]
        return Evidence(max(slots), max(full, default="")) if slots else None


@given(keys=st.sampled_from(POLICIES), steps=st.lists(STEPS, max_size=60))
def test_each_slot_is_served_once_or_listed_as_dropped(keys: dict[str, Any], steps: list[tuple[int, str]]) -> None:
    """No slot has two commits, none is served by a run that began before it, and none is passed over in silence."""
    policy = Policy.model_validate(keys)
    policy.give_id("p")
    jitter = jitter_of("s", "p", policy.jitter) if policy.jitter else 0.0
    world = World(Scheduled("s", "", "a", policy, "p", Timetable(policy), jitter))
    for seconds, action in steps:
        world.now += timedelta(seconds=seconds)
        world.step(action)
    commits = list(world.site.values())
    assert len({run.request.slot for run in commits}) == len(commits)
    assert [run for run in commits if run.opened < slot_time(run.request.slot).timestamp()] == []
    accounted = account(world.row, world.evidence(), [*commits, *world.given_up], world.now, START)
    full = {run.request.slot for run in commits if run.request.kind is RunKind.FULL}
    own = {RunKind.FULL: full, RunKind.INCREMENTAL: {run.request.slot for run in commits}}
    newest = {one.kind: one.slot for one in accounted}
    for one in accounted:
        if one.slot in own[one.kind]:
            assert one.dropped == "", one
        else:
            assert one.dropped or one.slot == newest[one.kind], one
        if one.run:
            assert world.site[one.run].opened >= slot_time(one.slot).timestamp()


@given(keys=st.sampled_from(POLICIES), idle=st.integers(0, 30 * 86400))
@example(keys=POLICIES[3], idle=999_000)  # it ends as a blackout begins, and the hour back is before that
def test_after_any_pause_one_run_catches_up(keys: dict[str, Any], idle: int) -> None:
    """However long nothing ran: one run, and then nothing until the next slot, also by a clock put back an hour.

    A blackout holds that run back; put before the blackout, the clock lets it begin.
    """
    policy = Policy.model_validate(keys)
    policy.give_id("p")
    world = World(Scheduled("s", "", "a", policy, "p", Timetable(policy), 0.0))
    for action in ("tick", "begin", "commit"):
        world.step(action)
    world.now += timedelta(seconds=idle)
    for _ in range(3):
        for action in ("tick", "begin", "commit"):
            world.step(action)
    assert len(world.site) <= 2
    count = len(world.site)
    held_back = world.row.timetable.closed_until(world.now) is not None
    world.now -= timedelta(hours=1)
    world.step("tick")
    assert len(world.open_runs()) <= (1 if held_back and count == 1 else 0)
    assert len(world.site) == count
    assert max(run.request.slot for run in world.site.values()) <= slot_text(START + timedelta(seconds=idle))
