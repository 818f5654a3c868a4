"""What Redis answers, as Holdfast's errors: "not now" is told from "not so"."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
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
_NOT_OF_A_REALM = (*_AWAY, AuthenticationError, NoPermissionError, NoScriptError)
_AWAY_WORDS = ("MISCONF", "BUSY", "NOREPLICAS")
_PLACE = re.compile(r"\.? script: [0-9a-f]{40}.*$", re.DOTALL)  # where in a script of ours, which helps nobody
_WAYS_OUT: tuple[tuple[type[RedisError], str], ...] = (
    (OutOfMemoryError, "It is full: raise its maxmemory, or look at what else it holds"),
    (ReadOnlyError, "It is a replica: name the primary as the broker, or wait until this one is promoted"),
    (AuthenticationError, "The broker's URL in the configuration needs its password: redis://:PASSWORD@host"),
)


def guarded(call: Callable[[], Any]) -> Any:  # redis-py's answers are unions; each caller names its own
    """What `call` returns. Raises LedgerAway or LedgerError in place of redis-py's errors."""
    try:
        return call()
    except RedisError as error:
        said = _PLACE.sub("", str(error)).rstrip(".")
        hint = next((hint for kind, hint in _WAYS_OUT if isinstance(error, kind)), "")
        if isinstance(error, AuthenticationError):
            raise LedgerAway("Redis wants a password, or another one", hint=hint) from error
        if not isinstance(error, ResponseError):
            raise LedgerAway(f"Redis does not answer: {said}", hint=hint) from error
        if isinstance(error, _AWAY) or said.startswith(_AWAY_WORDS):
            raise LedgerAway(f"Redis answers: {said}", hint=hint) from error
        raise LedgerError(f"Redis refuses: {said}", hint=hint) from error


def known(answer: Any, host: str = "") -> Any:
    """One answer of a pipeline that raises nothing itself; None where what lies in a realm made Redis refuse.

    An agent writes its own realm as it likes, and must not hold up the look at the others: of its realm any refusal
    but "not now" and "you may not" says that something lies there which should not; of the pools' only another type
    does. Raises as `guarded` does.
    """
    if not isinstance(answer, Exception):
        return answer
    if isinstance(answer, ResponseError):
        if "WRONGTYPE" in str(answer):
            return None
        if host and not isinstance(answer, _NOT_OF_A_REALM) and not str(answer).startswith(_AWAY_WORDS):
            return None

    def fail() -> None:
        raise answer

    return guarded(fail)
