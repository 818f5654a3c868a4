"""What one process saw of one site at one time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Whether backups and restores can go on there."""

    UP = "up"
    SLOW = "slow"  # it answers, and takes longer than the configuration puts up with
    REFUSED = "refused"  # it answers, and does not let us: credentials, a missing bucket, a full disk
    DOWN = "down"  # it does not answer, or not in time

    @property
    def works(self) -> bool:
        """Whether backups go on, if slowly."""
        return self in {Verdict.UP, Verdict.SLOW}


@dataclass(frozen=True, slots=True)
class Observation:
    """`observer`: the process that saw it; `place`: from where, so that two of one place count once.

    `at` in POSIX seconds of the observer's clock; `latency` in seconds; `why` for people, empty where all is well: it
    may be up and say something all the same. None is what nobody could tell, or has not asked.
    """

    site: str
    observer: str
    place: str
    at: float
    verdict: Verdict
    why: str = ""
    latency: float = 0.0
    free: int | None = None  # bytes that may still be written there; no S3 store tells
    certificate: float | None = None  # when the server's own runs out, POSIX seconds
    clock: float | None = None  # seconds by which the site's clock is ahead of the observer's
