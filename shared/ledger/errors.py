"""What can go wrong with the ledger."""

from __future__ import annotations

from shared.errors import LedgerError


class LedgerAway(LedgerError):
    """Redis does not answer now: not reachable, loading, read-only, or full. Worth trying again."""

    exit_code = 61


class UnknownRun(LedgerError):
    """No run of this id: mistyped, long expired, or the ledger was wiped."""

    exit_code = 62


class AmbiguousRun(LedgerError):
    """Several runs begin with these digits."""

    exit_code = 63


class RunNotOver(LedgerError):
    """The run is queued or under way, or is a shard of one, and what was asked needs it to be over."""

    exit_code = 64


class UnknownWorker(LedgerError):
    """No worker of this name has been heard of lately."""

    exit_code = 65
