"""What can go wrong with the ledger."""

from __future__ import annotations

from shared.errors import LedgerError


class LedgerAway(LedgerError):
    """Redis does not answer now: not reachable, loading, read-only, or full. Worth trying again."""

    exit_code = 61


class UnknownRun(LedgerError):
    """No run of this id: mistyped, long expired, or the ledger was wiped."""

    exit_code = 62
