"""Runs as values: kinds, states, ids, and the transitions between states.

The transitions, each one atomic script of `scripts.py`. A run that is final stays as it is, but for `open`
of a failed slot, whose turn has come again:

    state      | open     | claim    | start   | renew   | release | cut     | finish   | reap          | cancel
    -----------+----------+----------+---------+---------+---------+---------+----------+---------------+-----------
    (none)     | queued   | -        | -       | -       | -       | -       | -        | -             | -
    queued     | joined   | claimed  | lost    | lost    | lost    | lost    | lost     | queued (4)    | cancelled
    claimed    | joined   | held (1) | running | claimed | queued  | waiting | final    | queued (5)    | asked (6)
    running    | joined   | held (1) | running | running | queued  | waiting | final    | queued (5)    | asked (6)
    waiting    | joined   | held     | lost    | lost    | lost    | lost    | lost     | waiting (7)   | cancelled
    succeeded  | done     | done     | lost    | lost    | lost    | lost    | done (2) | -             | done
    incomplete | done     | done     | lost    | lost    | lost    | lost    | done (2) | -             | done
    superseded | done     | done     | lost    | lost    | lost    | lost    | done (2) | -             | done
    cancelled  | done     | done     | lost    | lost    | lost    | lost    | done (2) | -             | done
    failed     | queued(3)| done     | lost    | lost    | lost    | lost    | done (2) | -             | done

    start, renew, release, cut and finish act only for the holder of the lease (equal token); others get `lost`,
    or `unknown` where there is no such run any more (Redis was wiped).
    (1) claimed, if the lease ran out, or is the claimer's own.  (2) `finished` for the one who finished it.
    (3) after a pause that doubles with each attempt; before that it `waits`.
    (4) rung again when due.  (5) if its lease ran out: then its holder is fenced. Failed after as many attempts
    that died as its policy allows.  (6) the holder is told by renew, flushes, and ends it as cancelled; cancelled at
    once if the lease ran out. Where cancel was asked for, release, reap, a claim of a lease that ran out, and a finish
    as failed all end in cancelled: nothing rings for it again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

ATTEMPTS = 5  # attempts that may die without a word before a run counts as failed, unless its policy says otherwise


class _Open(StrEnum):
    """A word of the ledger. One of a newer release is kept as it is, equal to none of ours: shown, and left alone."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = word._value_ = value
        return word

    @property
    def is_known(self) -> bool:
        """Whether this release knows what it means."""
        return type(self).__members__.get(self._name_) is self


class RunKind(_Open):
    """What a run does."""

    FULL = "backup-full"
    INCREMENTAL = "backup-incremental"
    RESTORE = "restore"
    VERIFY = "verify"
    FORGET = "forget"
    PRUNE = "prune"
    RESTORE_TEST = "restore-test"
    SHARD = "shard"  # a part of a backup that was cut
    REPLICATE = "replicate"

    @property
    def is_backup(self) -> bool:
        """Whether it ends in a snapshot."""
        return self.value.startswith("backup-")

    @property
    def reads_source(self) -> bool:
        """Whether it reads what is backed up, so that only who has that may do it."""
        return self.is_backup or self is RunKind.SHARD

    @property
    def deletes(self) -> bool:
        """Whether it deletes: then it stops at once where Redis is away, and no server's own agent may do it."""
        return self in {RunKind.FORGET, RunKind.PRUNE}

    @property
    def at_site(self) -> bool:
        """Whether it needs sites alone: then workers of the pools do it, and no server's own agent."""
        return self.deletes or self in {RunKind.VERIFY, RunKind.RESTORE_TEST, RunKind.REPLICATE}

    @property
    def locks_by_id(self) -> bool:
        """Whether its repository lock bears the run's id, so that the lock of a dead worker can be told and removed."""
        return self.reads_source or self.deletes or self is RunKind.REPLICATE


# What comes back by itself. The ledger's scripts know the order.
UPKEEP = (RunKind.FORGET, RunKind.PRUNE, RunKind.VERIFY, RunKind.RESTORE_TEST, RunKind.REPLICATE)


class RunState(_Open):
    """Where a run stands."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    WAITING = "waiting"  # it was cut, and its shards are to be done first
    SUCCEEDED = "succeeded"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it (but for a failed slot, which is opened again). Not known: no."""
        return self.is_known and self not in _UNFINISHED


_UNFINISHED = (RunState.QUEUED, RunState.CLAIMED, RunState.RUNNING, RunState.WAITING)


class Opened(StrEnum):
    """What `Ledger.open` found."""

    OPENED = "opened"  # a new run: ring
    REOPENED = "reopened"  # a failed slot whose pause is over: ring
    JOINED = "joined"  # it is queued or under way
    WAITS = "waits"  # it failed and its pause is not over
    DONE = "done"  # it ended well


class Word(StrEnum):
    """What a script answers to a worker."""

    CLAIMED = "claimed"
    HELD = "held"  # another holds the lease
    RENEWED = "renewed"
    CANCEL = "cancel"  # renewed, but somebody wants the run to end: flush, and finish it as cancelled
    ASKED = "asked"  # its holder will be told to cancel it
    CANCELLED = "cancelled"  # it is final now
    RELEASED = "released"
    CUT = "cut"  # its shards are open, and it waits for them
    FINISHED = "finished"
    LOST = "lost"  # the token is not (or no longer) the run's
    DONE = "done"  # the run is final
    UNKNOWN = "unknown"  # no such run


def slot_text(slot: datetime) -> str:
    """A slot as it stands in ids, tags and the ledger: UTC to the second, so that texts compare as times do."""
    return slot.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def slot_time(text: str) -> datetime:
    """The time of `slot_text`; raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def is_slot(text: str) -> bool:
    """Whether it is a `slot_text`."""
    try:
        return slot_text(slot_time(text)) == text
    except ValueError:
        return False


def run_id_for_slot(source: str, policy: str, kind: RunKind, slot: str) -> str:
    """The id (32 hex digits) of a slot's run: opened twice, or again after a wipe, it is the same run."""
    parts = ["holdfast run 1", source, policy, kind.value, slot]
    text = "\0".join(parts)
    if text.count("\0") != len(parts) - 1:
        raise ValueError("a source, policy or slot with NUL")
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def shard_run_id(run: str, plan: str, number: int) -> str:
    """The id (32 hex digits) of a shard of a run, by its plan (a digest of it): opened twice it is one."""
    return hashlib.sha256("\0".join(["holdfast shard 1", run, plan, str(number)]).encode()).hexdigest()[:32]


def new_run_id() -> str:
    """A random id (32 hex digits), of a run that a person asks for."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is to do; all of it survives in the holder's memory, so that a wiped ledger is told again."""

    id: str
    kind: RunKind
    source: str
    policy: str = ""
    slot: str = ""  # `slot_text`; empty: asked for by hand, counted from when it was opened
    queue: str = ""  # where it is rung
    options: Mapping[str, object] = field(default_factory=dict)  # JSON; what differs from the configuration; no secrets
    parent: str = ""  # the id of the run that wanted this one; empty: none
    attempts: int = ATTEMPTS  # that may die before it counts as failed: its policy's, when it was opened


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that is over. Times are seconds since 1970 by Redis's clock."""

    number: int
    owner: str
    started: float
    ended: float
    error: str  # empty: it ended well, or was given back by a worker that left


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the ledger has it. Times are seconds since 1970 by Redis's clock, 0 for not yet."""

    request: RunRequest
    state: RunState
    host: str = ""  # whose realm it lies in; empty: a pool's
    attempt: int = 0
    rings: int = 0
    opened: float = 0.0
    started: float = 0.0  # of the last attempt
    began: float = 0.0  # of one that was cut: when it was first
    lost: int = 0  # of a shard: how often it was done, and lost before its run was finished
    ended: float = 0.0
    owner: str = ""  # the last holder of its lease
    lease_until: float = 0.0
    progress: Mapping[str, object] = field(default_factory=dict)
    result: Mapping[str, object] = field(default_factory=dict)
    error: str = ""  # of the last attempt that failed
    exit_code: int = 0
    attempts: tuple[Attempt, ...] = ()  # those that are over, oldest first; the newest ten
    cancel_by: str = ""  # who asked for its end

    @property
    def id(self) -> str:
        """The run's id."""
        return self.request.id

    @property
    def is_over(self) -> bool:
        """Whether it has ended, be it in a state that this release does not know."""
        return self.state.is_final or self.ended > 0

    @property
    def since(self) -> float:
        """When its work began: of the last attempt, or of the first one where it was cut and goes on."""
        return self.began or self.started

    @property
    def parent(self) -> str:
        """The id of the run that wanted this one; empty for none."""
        return self.request.parent


@dataclass(frozen=True, slots=True)
class Upkept:
    """What came of upkeep of one kind, of a source at a site. Times in POSIX seconds by Redis's clock, 0 for never."""

    at: float  # when it was done last
    good: float  # when it was done last and all was well
    code: int = 0  # the exit code that says what came of the last one
    figure: float = 0.0  # bytes/s that a restore test has measured; objects that a verification has healed

    @classmethod
    def parse(cls, text: str | None) -> Upkept | None:
        """Read what the ledger has noted; None for nothing, or for what a newer release writes otherwise."""
        try:
            at, good, code, figure = (text or "").split(" ")
            return cls(float(at), float(good), int(code), float(figure))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a source's snapshots at one site: slots (`slot_text`), empty for none."""

    last: str = ""  # of the newest snapshot
    last_full: str = ""  # of the newest full one
