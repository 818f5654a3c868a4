"""A chaos run from start to end: begin, suffer, heal, drain, compare, dismiss, judge."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from shared.ledger.connect import connect
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunState
from shared.messaging.client import realms
from tests.support.attempts import run_restic
from tests.support.chaos import oracles
from tests.support.chaos.crew import Crew
from tests.support.chaos.evidence import Found, Stored, all_runs, check_all, look
from tests.support.chaos.grounds import Grounds, Mutator
from tests.support.chaos.people import People, Wishes
from tests.support.chaos.plan import KILLS, Fault, Planned, Scale, draw_plan
from tests.support.chaos.processes import descriptors
from tests.support.chaos.saboteur import Done, Saboteur
from tests.support.proxy import FaultProxy
from tests.support.stores import make_bucket
from tests.support.tools import MinioServer, ValkeyServer

_WARM_UP = 60.0  # seconds at pace 1 in which nothing goes wrong: then there is something to restore and to verify
# Seconds at pace 1: a ring that was lost is repeated after ten minutes at most, and then there is work to do.
_DRAINED_WITHIN = 800.0
_SAMPLE = 10  # sources that are restored and compared in the end, two of those that are medium
_DESCRIPTORS_AT_MOST = 64
_SAID = 300  # characters of a failure in the report
_OF_RUNS = set(KILLS) - {Fault.REDIS_KILLED, Fault.BEAT_KILLED, Fault.TICKER_KILLED}  # kill what works on one


@dataclass(slots=True)
class Outcome:
    """What came of it. `wrong`: by oracle, what is not as it should be."""

    seed: int
    seconds: float
    pace: float
    scale: Scale = field(default_factory=Scale)
    plan: list[Planned] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    wishes: Wishes = field(default_factory=Wishes)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    resumes: list[float] = field(default_factory=list)  # seconds from a kill to the next attempt
    snapshots: int = 0
    locks: int = 0
    temporary: int = 0
    descriptors: int = 0
    changes: int = 0
    restarts: int = 0
    stages: dict[str, float] = field(default_factory=dict)  # seconds

    @property
    def failures(self) -> list[str]:
        """What is wrong, a line each."""
        return [f"{name}: {one[:_SAID]}" for name, ones in self.wrong.items() for one in ones]


def run_chaos(
    directory: str, seed: int, seconds: float, pace: float, say: Callable[[str], None], scale: Scale | None = None
) -> Outcome:
    """One run: `seconds` of faults, then the judgement. `say` hears how far it is."""
    scale = scale or Scale()
    outcome = Outcome(seed, seconds, pace, scale, draw_plan(seed, seconds, pace, scale.faults))
    with ExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer(os.path.join(directory, "valkey"), append_only=True))
        proxy = stack.enter_context(FaultProxy(("127.0.0.1", valkey.port)))
        minio = stack.enter_context(MinioServer(os.path.join(directory, "minio")))
        brokers = (f"redis://127.0.0.1:{proxy.port}/0", valkey.url)
        grounds = Grounds(directory, brokers, minio, make_bucket(minio), seed, pace, scale.sources)
        own = connect(valkey.url)
        stack.callback(own.client.close)
        crew = Crew(grounds, pace, scale.workers)
        stack.callback(crew.kill)
        _Scene(outcome, grounds, crew, own, valkey, proxy, say).play()
    return outcome


class _Scene:
    """The steps, with what they share."""

    def __init__(
        self,
        outcome: Outcome,
        grounds: Grounds,
        crew: Crew,
        ledger: Ledger,
        valkey: ValkeyServer,
        proxy: FaultProxy,
        say: Callable[[str], None],
    ) -> None:
        self.outcome = outcome
        self.grounds = grounds
        self.crew = crew
        self.ledger = ledger
        self.valkey = valkey
        self.proxy = proxy
        self.say = say
        self.people = People(grounds, crew.mark, outcome.seed)
        self._since = time.monotonic()
        self._seen: dict[str, Run] = {}  # all runs that were ever looked at, as they were then

    def play(self) -> None:
        """All of them."""
        outcome = self.outcome
        mutator = Mutator(self.grounds, outcome.seed)
        mutator.start()
        time.sleep(_WARM_UP / outcome.pace)
        self._stage("warm-up")
        self.people.start()
        saboteur = Saboteur(outcome.plan, self.crew, self.valkey, self.proxy, self._remember)
        saboteur.start()
        saboteur.join()
        self.people.stop()
        outcome.done, outcome.wishes = saboteur.done, self.people.wishes
        outcome.wrong["every fault was made"] = saboteur.failures
        outcome.wrong["people are told, and see no traceback"] = self.people.wishes.failures
        self._stage("faults")
        self.crew.quieten()
        drained = self._drain(_DRAINED_WITHIN / outcome.pace)
        outcome.wrong["all work ends"] = drained
        self._stage("drain")
        mutator.stop()
        outcome.changes = mutator.changes
        if not drained:
            outcome.wrong["the newest snapshot holds what is there"] = self._compare()
        self._stage("compare")
        self._dismiss()
        self._stage("dismiss")
        self._judge(look(self.grounds, self.ledger), saboteur.wiped)
        self._stage("judge")

    def _remember(self) -> None:
        """What the ledger knows and is about to forget."""
        self._seen |= {run.id: run for run in all_runs(self.grounds, self.ledger)}

    def _drain(self, seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        while True:
            left = self._open()
            if not left:
                return []
            if time.monotonic() > deadline:
                return left
            time.sleep(0.6)

    def _open(self) -> list[str]:
        left = []
        for host in realms(self.grounds.fleet):
            realm = self.ledger.realm(host)
            left += [
                f"{run.request.kind.value} {run.id} of {run.request.source}: {run.state.value}, attempt {run.attempt}, "
                f"rung {run.rings} times, opened {time.time() - run.opened:.0f} s ago, {run.owner}, {run.error}"
                for run in realm.open_runs()
            ]
            left += [f"the lock of {fence.name} is to be removed" for fence in realm.fenced()]
            evidence = {name for name in self.grounds.names if self.grounds.host_of(name) == host}
            left += [
                f"{name} has no backup" for name in evidence if realm.evidence(name, self.grounds.site_of(name)) is None
            ]
        return left

    def _compare(self) -> list[str]:
        """One last backup of a sample, and what stock restic brings back of it against what is there."""
        names = self.grounds.names
        step = len(names) // _SAMPLE
        # Every site, host and clock has its part in these: the last digit of the number says which.
        sample = [*self.grounds.medium[:2], *(names[number * step + number] for number in range(_SAMPLE - 2))]
        asked = {name: self.people.ask(RunKind.INCREMENTAL, name) for name in sample}
        wrong = self._drain(60.0)
        for name, run_id in asked.items():
            run = self.ledger.realm(self.grounds.host_of(name)).get(run_id)
            if run is None or run.state is not RunState.SUCCEEDED:
                wrong.append(f"the last backup of {name}: {run.state.value if run else 'gone'}, {run and run.error}")
                continue
            target = os.path.join(self.grounds.directory, "compared", name)
            run_restic(
                self.grounds.repository_url(name),
                *("restore", str(run.result["snapshot"]), "--target", target, "--no-lock"),
                password=self.grounds.fleet.machine_password(name),
                environment=self.grounds.s3_environment,
            )
            wrong += oracles.same(self.grounds.place(name), target + self.grounds.place(name))
        return wrong

    def _dismiss(self) -> None:
        outcome = self.outcome
        held = {process: descriptors(process) for process in self.crew.processes()}
        outcome.descriptors = max(held.values(), default=0)
        outcome.wrong["no descriptors leak"] = [
            f"{process.command} ({process.member}) holds {count} descriptors"
            for process, count in held.items()
            if count > _DESCRIPTORS_AT_MOST
        ]
        outcome.restarts = sum(member.restarts for member in self.crew.members.values())
        outcome.wrong["no process is left"] = [
            f"{process.command} (pid {process.pid}, parent {process.parent}, of {process.member})"
            for process in self.crew.dismiss()
        ]
        time.sleep(0.5)
        count = self.proxy.open
        outcome.wrong["no connection is left"] = [f"{count} connections to Redis stand"] if count else []

    def _judge(self, found: Found, wiped: list[float]) -> None:
        outcome, grounds, ledger, wishes = self.outcome, self.grounds, self.ledger, self.people.wishes
        self._seen |= {run.id: run for run in found.runs}
        outcome.runs = [run for run in self._seen.values() if run.state.is_final]
        outcome.snapshots = sum(len(stored.snapshots) for stored in found.stored.values())
        outcome.locks = sum(len(stored.locks) for stored in found.stored.values())
        outcome.temporary = len(found.temporary)
        outcome.resumes = resume_times(list(self._seen.values()), outcome.done)
        killed = sum(len(done.pids) for done in outcome.done)
        check_all(grounds, self._to_be_checked(list(found.stored.values())))
        outcome.wrong |= {
            "every run has ended": oracles.all_final(found),
            "every end is true": oracles.all_true(found),
            "every end is explained": oracles.all_explained(found, wishes),
            "nothing fails but by a fault": oracles.no_reason_but_faults(found),
            "restores bring back": oracles.restored(found, grounds, wishes),
            "a slot and a run have one snapshot at most": oracles.one_snapshot_a_slot(found),
            "nothing is lost": oracles.nothing_lost(found, wishes, wiped),
            "the ledger claims no snapshot that is not there": oracles.evidence_is_true(found, grounds, ledger),
            "restic check --read-data passes everywhere": oracles.repositories_whole(found),
            "no lock is left": oracles.no_locks(found, killed, wiped),
            "no file is left": oracles.no_files(found, killed),
            "no key is left": oracles.no_keys(found, ledger, killed),
        }

    def _to_be_checked(self, stored: list[Stored]) -> list[Stored]:
        """Those in which a run was hit or cancelled, those that were backed up beside all others, and some."""
        step = max(1, len(stored) // self.outcome.scale.checked)
        hit = {run.request.source for run in self.outcome.runs if run.attempt > 1 or run.state is RunState.CANCELLED}
        hit |= {direct.source for direct in self.people.wishes.direct}
        return [one for number, one in enumerate(stored) if number % step == 0 or one.source in hit]

    def _stage(self, name: str) -> None:
        now = time.monotonic()
        self.outcome.stages[name] = now - self._since
        self._since = now
        states = Counter(run.state.value for run in self.ledger.recent(1000))
        self.say(f"{name}: {self.outcome.stages[name]:.0f} s, the last thousand runs {dict(states)}")


def resume_times(runs: list[Run], done: list[Done]) -> list[float]:
    """Seconds from each kill of what worked on a run until the next attempt at it began."""
    found = []
    kills = [one for one in done if one.planned.fault in _OF_RUNS]
    for run in runs:
        starts = [attempt.started for attempt in run.attempts[1:]] + [run.started]
        for attempt, again in zip(run.attempts, starts, strict=False):
            hits = [one.at for one in kills if attempt.started <= one.at <= attempt.ended and _works_for(attempt, one)]
            if attempt.error and hits and again > hits[0]:
                found.append(again - hits[0])
    return sorted(found)


def _works_for(attempt: object, done: Done) -> bool:
    owner = str(getattr(attempt, "owner", ""))
    name, _, child = owner.rpartition(":")
    return any(f"worker-{pid}@" in name or str(pid) == child for pid in done.pids)
