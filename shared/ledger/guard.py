"""What Redis answers, as Holdfast's errors: "not now" is told from "not so"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import (
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from shared.errors import LedgerError
from shared.ledger.errors import LedgerAway

# Answers that say "not now". redis-py has classes for some, and keeps the word in front of others.
_AWAY = (OutOfMemoryError, ReadOnlyError, MasterDownError, TryAgainError)
_AWAY_WORDS = ("MISCONF", "BUSY", "NOREPLICAS")


def guarded(call: Callable[[], Any]) -> Any:  # redis-py's answers are unions; each caller names its own
    """What `call` returns. Raises LedgerAway or LedgerError in place of redis-py's errors."""
    try:
        return call()
    except ResponseError as error:
        if isinstance(error, _AWAY) or str(error).startswith(_AWAY_WORDS):
            raise LedgerAway(f"Redis answers: {error}") from error
        raise LedgerError(f"Redis refuses: {error}") from error
    except RedisError as error:
        raise LedgerAway(f"Redis does not answer: {error}") from error
