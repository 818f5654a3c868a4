"""A chaos run told to people: a few lines for a terminal, and a page for docs/."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter, defaultdict

from shared.ledger.model import RunState
from tests.support.chaos.everything import Outcome
from tests.support.chaos.plan import Fault


def summary(outcome: Outcome) -> str:
    """What happened, in a few lines."""
    hit = Counter(done.planned.fault for done in outcome.done if done.target)
    states = Counter(run.state for run in outcome.runs)
    ended = ", ".join(f"{count} {state.value}" for state, count in sorted(states.items()))
    wishes = outcome.wishes
    lines = [
        f"chaos: --chaos-seed={outcome.seed}, {sum(outcome.stages.values()):.0f} s ({_stages(outcome)})",
        f"  {hit.total()} faults of {len(hit)} kinds; {states.total()} runs that ended: {ended}",
        f"  {outcome.snapshots} snapshots; from a kill to the next attempt: {spread(outcome.resumes)}",
        f"  {len(wishes.asked)} runs by hand, {wishes.refused} refused without Redis; {len(wishes.direct)} --direct",
        f"  {outcome.changes} changes of files, {outcome.restarts} restarts, {outcome.locks} locks of the dead",
    ]
    return "\n".join(lines + [f"  WRONG {line}" for line in outcome.failures])


def write_report(outcome: Outcome, path: str) -> None:
    """Write the page."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(_page(outcome)) + "\n")


def spread(seconds: list[float]) -> str:
    """How many, the middle one, and the worst."""
    if not seconds:
        return "none"
    return f"{len(seconds)}, median {statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s"


def _stages(outcome: Outcome) -> str:
    return ", ".join(f"{name} {seconds:.0f}" for name, seconds in outcome.stages.items())


def _page(outcome: Outcome) -> list[str]:
    return [
        *_about(outcome),
        *_faults(outcome),
        *_runs(outcome),
        *_judgement(outcome),
    ]


def _about(outcome: Outcome) -> list[str]:
    scale = outcome.scale
    soak = scale.faults != tuple(Fault)
    seed = f"--chaos-seconds={outcome.seconds:.0f} --chaos-seed={outcome.seed}"
    command = f'make soak ARGS="{seed} --soak-sources={scale.sources}"' if soak else f'make chaos ARGS="{seed}"'
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    what = "Whatever works is killed" if soak else "Everything that can die, freeze or go away does,"
    return f"""# {"Soak" if soak else "Chaos"}

{scale.sources:,} sources, nine in ten on a directory, one in ten on MinIO, with files that change all the time;
two schedulers; {scale.workers} workers of two slots each, one of which lives an hour ahead; a Valkey behind a proxy.
{what} at moments drawn from a seed, while people ask for backups, cancel, retry, restore, verify, and back up with
`--direct` beside. Then all is healed and left to drain, and judged.

CI does it in a short form, with leases and pauses a fifth as long. What follows was written by a long run:

```
{command}
```

Seed {outcome.seed}, {outcome.seconds:.0f} s of faults, on {machine}. {outcome.changes:,} changes of files.
All of it took {sum(outcome.stages.values()):.0f} s: {_stages(outcome)}.
""".splitlines()


def _faults(outcome: Outcome) -> list[str]:
    page = ["", "## Faults", "", "| fault | made | found nobody to hit | seconds each |", "|---|---|---|---|"]
    for fault in outcome.scale.faults:
        made = [done for done in outcome.done if done.planned.fault is fault]
        idle = sum(not done.target for done in made)
        lasts = f"{made[0].planned.lasts:.0f}" if made and made[0].planned.lasts else ""
        page.append(f"| {fault.value} | {len(made) - idle} | {idle or ''} | {lasts} |")
    more = f"{outcome.restarts} processes were started again."
    return [*page, "", f"All the time: a clock an hour ahead on one worker, two schedulers. {more}"]


def _runs(outcome: Outcome) -> list[str]:
    page = [
        "",
        "## Runs",
        "",
        "Those that had ended in the end, or when Redis was about to be emptied.",
    ]
    page += [
        "",
        f"| kind | {' | '.join(_FINAL)} | attempts: 1 | 2 | 3 | 4 and more |",
        "|---|" + "---|" * (len(_FINAL) + 4),
    ]
    states: dict[str, Counter[str]] = defaultdict(Counter)
    attempts: dict[str, Counter[int]] = defaultdict(Counter)
    for run in outcome.runs:
        states[run.request.kind.value][run.state.value] += 1
        attempts[run.request.kind.value][min(run.attempt, 4)] += 1
    for kind in sorted(states):
        cells = [*(states[kind][state] for state in _FINAL), *(attempts[kind][number] for number in (1, 2, 3, 4))]
        page.append(f"| {kind} | {' | '.join(map(str, cells))} |")
    errors = Counter(run.error for run in outcome.runs if run.state is RunState.FAILED)
    page += ["", f"{outcome.snapshots:,} snapshots. From a kill to the next attempt: {spread(outcome.resumes)}.", ""]
    page += [f"- failed, {count}: `{error}`" for error, count in errors.most_common(8)]
    wishes = outcome.wishes
    page += ["", f"People asked for {len(wishes.asked)} runs, were refused {wishes.refused} times as Redis was away,"]
    return [*page, f"cancelled {len(wishes.cancelled)}, and made {len(wishes.direct)} backups with `--direct`."]


def _judgement(outcome: Outcome) -> list[str]:
    page = ["", "## What was asked in the end", "", "| that | is so |", "|---|---|"]
    page += [f"| {name} | {f'NO: {len(wrong)}' if wrong else 'yes'} |" for name, wrong in outcome.wrong.items()]
    page += ["", *(f"- NO: {failure}" for failure in outcome.failures)]
    return [
        *page,
        f"{outcome.locks} repository locks of killed processes are left, which count no more after 30 minutes: of",
        "restores, verifications and `--direct`, and of backups that Redis knew no more, as it was emptied. So are",
        f"{outcome.temporary} unfinished writes, removed after a day.",
        f"No process held more than {outcome.descriptors} descriptors.",
    ]


_FINAL = [state.value for state in RunState if state.is_final]
