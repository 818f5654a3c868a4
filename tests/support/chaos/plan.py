"""What goes wrong, when, and to whom: drawn from a seed, so that a seed that failed can be run again.

Two tracks side by side. Redis suffers one thing at a time, with a pause after each, or nothing would ever be done; what
is done to processes falls into that at any moment. Each track goes through shuffled decks that hold every fault of it,
so that even a short run has each at least once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

LEASE = 15.0  # seconds, at pace 1
SOURCES, WORKERS = 200, 3


class Fault(StrEnum):
    """A kind of fault; the value is what the report calls it."""

    REDIS_ABSENT = "Redis absent for a while"
    REDIS_KILLED = "Valkey killed, back at once with its data"
    REDIS_EMPTY = "Redis restarted empty"
    REDIS_FULL = "Redis full"
    REDIS_READ_ONLY = "Redis read-only"
    REDIS_STOPPED = "Redis stopped (SIGSTOP)"
    REDIS_CUT = "connections cut in mid-transaction"
    REDIS_DEAF = "answers of Redis lost"
    WORKER_KILLED = "a worker's parent killed"
    CHILD_KILLED = "a pool child killed"
    ENGINE_KILLED = "an engine killed"
    HELPER_KILLED = "a helper killed"
    MACHINE_KILLED = "a worker killed with all that it started"
    WORKER_FROZEN = "a worker and its engines frozen past the lease"
    CHILD_FROZEN = "a pool child frozen past the lease, its engine not"
    WORKER_LEAVES = "a worker told to leave (SIGTERM)"
    BEAT_KILLED = "a beat killed"
    TICKER_KILLED = "a scheduler's worker killed"


# Seconds for which each lasts at pace 1. What is frozen stays so for longer than its lease.
_LASTS = {
    Fault.REDIS_ABSENT: 25.0,
    Fault.REDIS_FULL: 20.0,
    Fault.REDIS_READ_ONLY: 20.0,
    Fault.REDIS_STOPPED: 60.0,
    Fault.WORKER_FROZEN: 2 * LEASE,
    Fault.CHILD_FROZEN: 2 * LEASE,
}
_REDIS = [fault for fault in Fault if fault.name.startswith("REDIS")]
_PROCESSES = [fault for fault in Fault if fault not in _REDIS]
_REDIS_PAUSE = (8.0, 20.0)  # seconds after each, at pace 1
_PROCESS_PAUSE = (4.0, 16.0)


KILLS = tuple(fault for fault in Fault if fault.name.endswith("KILLED"))  # by SIGKILL


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the fleet is, and what it suffers."""

    sources: int = SOURCES
    workers: int = WORKERS
    faults: tuple[Fault, ...] = tuple(Fault)
    checked: int = SOURCES  # of so many repositories every byte is checked in the end, and of those that were hit


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: `at` and `lasts` in seconds; `pick`, in 0..1, chooses among the targets that there are then."""

    at: float
    fault: Fault
    pick: float
    lasts: float = 0.0

    @property
    def on_redis(self) -> bool:
        """Whether it is Redis's."""
        return self.fault in _REDIS


def draw_plan(seed: int, seconds: float, pace: float = 1.0, faults: tuple[Fault, ...] = tuple(Fault)) -> list[Planned]:
    """All faults of a run of that many seconds, in the order of their times. All times are divided by `pace`."""
    of_redis = [fault for fault in _REDIS if fault in faults]
    of_processes = [fault for fault in _PROCESSES if fault in faults]
    redis = _track(random.Random(f"{seed} redis"), of_redis, seconds, _REDIS_PAUSE, pace, waits=True)
    processes = _track(random.Random(f"{seed} processes"), of_processes, seconds, _PROCESS_PAUSE, pace, waits=False)
    return sorted(redis + processes, key=lambda planned: planned.at)


def _track(
    draw: random.Random,
    faults: list[Fault],
    seconds: float,
    pause: tuple[float, float],
    pace: float,
    *,
    waits: bool,
) -> list[Planned]:
    planned: list[Planned] = []
    at = draw.uniform(*pause) / pace
    while True:
        deck = list(faults)
        draw.shuffle(deck)
        for fault in deck:
            lasts = _LASTS.get(fault, 0.0) / pace
            if at + lasts > seconds:
                return planned
            planned.append(Planned(round(at, 3), fault, draw.random(), lasts))
            at += draw.uniform(*pause) / pace + (lasts if waits else 0.0)
