"""Events that were ignored, counted in the ledger and logged: somebody forges them, or a clock is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.ledger.guard import guarded
from shared.observability.structured import structlog

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger
    from shared.messaging.signed import Judge

FIELD = "ignored"  # of the counts: "ignored|<reason>"

_log = structlog.get_logger("holdfast.health")


def count_ignored(ledger: Ledger, judge: Judge) -> None:
    """Add what a judge has ignored since the last time. Raises LedgerAway, LedgerError: counted the next time then."""
    counted = dict(judge.ignored)
    if not counted:
        return
    pipe = ledger.client.pipeline(transaction=False)
    for reason, number in counted.items():
        pipe.hincrby(ledger.keys.counts, f"{FIELD}|{reason}", number)
    guarded(pipe.execute)
    judge.ignored.subtract(counted)
    judge.ignored += type(judge.ignored)()  # what is left: above zero
    _log.warning("events were ignored", reasons=counted)
