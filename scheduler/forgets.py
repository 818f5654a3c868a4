"""When the rules of a source's retention are to be applied: once a day, a pure function of source, evidence and time.

Each source has a time of the day of its own, a hash of its id, so that a fleet's forgets are spread over the day. For
an hour from then on it is due until one has been done. What was missed (the scheduler was down, the repository was
locked, Redis was emptied and nobody knows) is due in one minute of every six hours, by another hash: thousands that
were missed are spread, too, and a machine that is on for a working day comes to it. Doing one again is harmless.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache

from shared.ledger.model import slot_text

_DAY = 86400  # seconds, as are the next
_AT_FIRST = 3600
_ROUND = 360  # minutes, in one of which what was missed is due


def forget_due(source: str, done: str, now: float) -> str:
    """The slot of the forget that is due at `now` (POSIX seconds), empty where none is.

    `done`: that of the last one; empty: not known.
    """
    moment, minute = _places(source)
    since = int(now)
    late = (since - moment) % _DAY
    if late >= _AT_FIRST and since // 60 % _ROUND != minute:
        return ""
    slot = slot_text(datetime.fromtimestamp(since - late, UTC))
    return slot if slot > done else ""


@lru_cache(maxsize=1 << 16)
def _places(source: str) -> tuple[int, int]:
    """A source's second of the day, and its minute of the round."""
    digest = hashlib.sha256(f"holdfast forget 1\0{source}".encode()).digest()
    return int.from_bytes(digest[:8]) % _DAY, int.from_bytes(digest[8:16]) % _ROUND
