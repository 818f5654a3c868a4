"""How the fleet stands: a pure function of facts and the time, and nothing else.

Of each source the worst that is true is said. From the worst on:

    damaged    the last verification or restore test found damage
    never      no backup exists, for certain: a run of its schedule failed or waits, and the scheduler opens the first
               one only after it has looked at the site
    late       the newest good backup is older than the policy's `rpo`
    failing    the last try failed; the target is still met, or there is none
    unserved   nobody serves the queue on which it is rung (said once for each queue)
    incomplete the last backup could not read some files
    overdue    it was not verified, or not test-restored, for half as long again as its policy says
    gone       it left the inventory, so nothing backs it up any more; its snapshots stay
    resting    it is paused, or retired
    unplanned  no policy backs it up
    unknown    the ledger knows nothing of it yet: Redis was emptied, or it is new. The scheduler asks the site
    first      its first backup is under way
    good       none of these

`damaged`, `never` and `late` need somebody now: BAD. So does a fleet that has schedules and no scheduler, or no worker
at all. `good`, `first` and `resting` are OK, and the others are a WARNING. The report is as bad as the worst of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from shared.ledger.model import RunKind, RunState, Upkept, slot_time
from shared.ledger.overview import Ended, OpenRun, Overview, SourceView
from shared.repository.errors import Damaged

_LATE_UPKEEP = 6 * 3600.0  # seconds: one that was missed comes within so long
TICKS_WAITING = 10  # ticks nobody took: the scheduler's worker hangs or is gone


class Level(IntEnum):
    """How bad it is; the exit code of `holdfast status`."""

    OK = 0
    WARNING = 1
    BAD = 2


class Condition(StrEnum):
    """How a source stands; worst first."""

    DAMAGED = "damaged"
    NEVER = "never"
    LATE = "late"
    FAILING = "failing"
    UNSERVED = "unserved"
    INCOMPLETE = "incomplete"
    OVERDUE = "overdue"
    GONE = "gone"
    RESTING = "resting"
    UNPLANNED = "unplanned"
    UNKNOWN = "unknown"
    FIRST = "first"
    GOOD = "good"

    @property
    def level(self) -> Level:
        """How bad it is."""
        if self in {Condition.DAMAGED, Condition.NEVER, Condition.LATE}:
            return Level.BAD
        return Level.OK if self in {Condition.FIRST, Condition.GOOD, Condition.RESTING} else Level.WARNING


class Target(StrEnum):
    """Whether a source's RPO is met."""

    MET = "met"
    LATE = "late"
    NEVER = "never"
    UNKNOWN = "unknown"
    NONE = "none"  # it has no target


@dataclass(frozen=True, slots=True)
class Source:
    """What the configuration says of a source."""

    id: str
    queue: str
    owner: str = ""
    rpo: float | None = None  # seconds
    scheduled: bool = True
    verify: float | None = None  # seconds between two verifications of the repository; None: not asked of it
    restore_test: float | None = None  # seconds between two
    rests: str = ""  # why nothing of it becomes due
    gone: bool = False  # that is so because it left the inventory
    host: str = ""  # in whose part of the ledger its backups lie; empty: the pools'


@dataclass(frozen=True, slots=True)
class Finding:
    """One source: how it stands and why. Times in POSIX seconds by Redis's clock, 0 for unknown."""

    source: str
    condition: Condition
    target: Target
    owner: str = ""
    last_good: float = 0.0
    rpo: float | None = None
    error: str = ""
    run: str = ""  # the run that tells more, empty for none
    running: bool = False
    verified: float = 0.0  # when the last verification that found all well has ended
    tested: float = 0.0  # and the last such restore test
    restore_rate: float = 0.0  # bytes/s that the last one measured
    rests: str = ""  # why nothing of it becomes due


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with what runs the backups. `command` is the way out, empty where there is none to give."""

    level: Level
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The runs that wait on one queue. `oldest` is when the first of them was opened."""

    queue: str
    runs: int
    oldest: float
    served: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The fleet, worst first."""

    now: float
    level: Level
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    waiting: tuple[Waiting, ...]
    running: int
    workers: int
    leading: bool

    def count(self, target: Target) -> int:
        """How many sources stand so against their target."""
        return sum(finding.target is target for finding in self.findings)

    @property
    def need_you(self) -> int:
        """How many things are BAD."""
        return sum(finding.condition.level is Level.BAD for finding in self.findings) + sum(
            problem.level is Level.BAD for problem in self.problems
        )


def judge(sources: Sequence[Source], seen: Overview, inventory: str = "", sites: Iterable[Problem] = ()) -> Report:
    """How the fleet stands at `seen.now`. `seen.sources` are those of `sources`, in the same order.

    `inventory`: what is wrong with the asking of it; `sites`: what is wrong with these.
    """
    served = {queue for worker in seen.workers if not worker.drained for queue in worker.queues}
    open_of: dict[tuple[str, str], list[OpenRun]] = {}
    for run in seen.runs:
        if run.kind.is_backup:
            open_of.setdefault((run.host, run.source), []).append(run)  # no host speaks for another's source
    findings = []
    for source, view in zip(sources, seen.sources, strict=True):
        is_served = source.queue in served or not seen.workers
        runs = open_of.get((source.host, source.id), [])
        findings.append(_finding(source, view, runs, seen.now, served=is_served))
    order = {condition: number for number, condition in enumerate(Condition)}
    findings.sort(key=lambda one: (order[one.condition], -_lateness(one, seen.now), one.source))
    waiting = _waiting(seen.runs, served)
    found = [*_problems(sources, seen, served, waiting), *sites]
    if inventory:
        found.append(Problem(Level.WARNING, inventory, "holdfast sources refresh"))
    problems = sorted(found, key=lambda problem: -problem.level)
    level = max((*(one.condition.level for one in findings), *(one.level for one in problems)), default=Level.OK)
    return Report(
        now=seen.now,
        level=level,
        findings=tuple(findings),
        problems=tuple(problems),
        waiting=waiting,
        running=sum(run.state not in {RunState.QUEUED, RunState.WAITING} for run in seen.runs),
        workers=len(seen.workers),
        leading=seen.leading,
    )


def _finding(source: Source, view: SourceView, runs: Iterable[OpenRun], now: float, *, served: bool) -> Finding:
    last = _last_good(view)
    queued = next((run for run in runs if run.state is RunState.QUEUED), None)
    under_way = next((run for run in runs if run.state is not RunState.QUEUED), None)
    failed = view.newest if view.newest and view.newest.state is RunState.FAILED else None
    retried = next((run for run in runs if run.error), None)
    never = not last and any(_is_certain(run) for run in (failed, queued))
    target = _target(source, last, now, never=never)
    if _is_damaged(view):
        condition = Condition.DAMAGED
    elif source.rests:
        condition = Condition.GONE if source.gone else Condition.RESTING
    elif never:
        condition = Condition.NEVER
    elif target is Target.LATE:
        condition = Condition.LATE
    elif failed or retried:
        condition = Condition.FAILING
    elif not source.scheduled:
        condition = Condition.UNPLANNED
    elif not served:
        condition = Condition.UNSERVED
    elif view.newest and view.newest.state is RunState.INCOMPLETE:
        condition = Condition.INCOMPLETE
    elif not last:
        condition = Condition.FIRST if under_way else Condition.UNKNOWN
    elif _is_overdue(source.verify, view.verified, now) or _is_overdue(source.restore_test, view.tested, now):
        condition = Condition.OVERDUE
    else:
        condition = Condition.GOOD
    telling: OpenRun | Ended | None = retried or failed or queued or under_way
    if condition is Condition.INCOMPLETE:
        telling = view.newest
    return Finding(
        source=source.id,
        condition=condition,
        target=target,
        owner=source.owner,
        last_good=last,
        rpo=source.rpo,
        error=retried.error if retried else failed.error if failed else "",
        run=telling.id if telling and condition is not Condition.GOOD else "",
        running=under_way is not None,
        verified=view.verified.good if view.verified else 0.0,
        tested=view.tested.good if view.tested else 0.0,
        restore_rate=view.tested.figure if view.tested else 0.0,
        rests=source.rests,
    )


def _is_damaged(view: SourceView) -> bool:
    return any(one is not None and one.code == Damaged.exit_code for one in (view.verified, view.tested))


def _is_overdue(every: float | None, last: Upkept | None, now: float) -> bool:
    """One that never was is not: a source may be new, or Redis was emptied."""
    return every is not None and last is not None and now - last.good > every + max(every / 2, _LATE_UPKEEP)


def _is_certain(run: OpenRun | Ended | None) -> bool:
    """Whether this run says that a source without evidence has no snapshot.

    The schedule opens a full one where there is none, and only after a look at the site. One by hand says nothing.
    """
    return run is not None and bool(run.slot) and run.kind is RunKind.FULL


def _target(source: Source, last: float, now: float, *, never: bool) -> Target:
    if source.rpo is None:
        return Target.NONE
    if not last:
        return Target.NEVER if never else Target.UNKNOWN
    return Target.MET if now - last <= source.rpo else Target.LATE


def _last_good(view: SourceView) -> float:
    """From when the newest good backup is: its slot, or its start where that is known and later.

    An incomplete one serves its slot, which is then evidence, but does not count for the RPO.
    """
    if view.newest and view.newest.state is RunState.INCOMPLETE:
        return view.good
    slot = 0.0
    if view.evidence and view.evidence.last:
        try:
            slot = slot_time(view.evidence.last).timestamp()
        except ValueError:
            slot = 0.0
    return max(slot, view.good)


def _lateness(finding: Finding, now: float) -> float:
    """How many times over its target a source is, to put the worst first."""
    if not finding.rpo or not finding.last_good:
        return 0.0
    return (now - finding.last_good) / finding.rpo


def _waiting(runs: Iterable[OpenRun], served: set[str]) -> tuple[Waiting, ...]:
    queued = [run for run in runs if run.state is RunState.QUEUED]
    depth = Counter(run.queue for run in queued)
    oldest: dict[str, float] = {}
    for run in queued:
        oldest[run.queue] = min(run.opened, oldest.get(run.queue, run.opened))
    found = [Waiting(queue, number, oldest[queue], queue in served) for queue, number in depth.items()]
    return tuple(sorted(found, key=lambda one: (one.served, one.oldest)))


def _problems(
    sources: Sequence[Source], seen: Overview, served: set[str], waiting: Iterable[Waiting]
) -> Iterable[Problem]:
    for host, entries in sorted(seen.unread.items()):
        whose = f"host {host}" if host else "the pools"
        said = f"{_count(entries, 'entry', 'entries')} of the ledger's part of {whose} can't be read, and are left out"
        yield Problem(Level.WARNING, said, "holdfast agent list; docs/agents.md says what to do" if host else "")
    planned = [source for source in sources if source.scheduled]
    if planned and not seen.leading:
        yield Problem(Level.BAD, "no scheduler runs: nothing becomes due", "holdfast up, or holdfast scheduler")
    elif seen.ticks > TICKS_WAITING:
        yield Problem(
            Level.BAD, f"the scheduler's worker does not take its ticks: {seen.ticks} wait", "holdfast up --status"
        )
    if not seen.workers:
        if planned or seen.runs:
            yield Problem(Level.BAD, "no worker runs: nothing is backed up", "holdfast up, or holdfast worker start")
        return
    waits = {one.queue: one.runs for one in waiting}
    unserved = Counter(source.queue for source in planned if source.queue not in served)
    for queue in sorted({*unserved, *(queue for queue in waits if queue not in served)}):
        said = f"{_count(unserved[queue], 'source')}, {_count(waits.get(queue, 0), 'run')} waiting"
        yield Problem(Level.WARNING, f"no worker serves {queue}: {said}", start_command(queue))


def start_command(queue: str) -> str:
    """The command that starts a worker for a queue."""
    kind, _, name = queue.partition(".")
    if kind == "host":
        return f"on that host: holdfast worker start --host {name.removesuffix('.restore')}"
    if kind == "pool":
        return f"holdfast worker start --pool {name.rpartition('.')[0]}"
    return "holdfast worker start"


def _count(number: int, what: str, several: str = "") -> str:
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"
