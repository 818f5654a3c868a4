"""What readers of the ledger have left out, by realm: counted, told to people, and never acted upon.

A server's agent writes its own realm as it likes. What is not what it should be says nothing of anybody, so it must
hold up nobody: whoever reads it notes it here and goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

_NAMES = 1000  # entries of a realm that are told apart
_AGAIN = 3600.0  # seconds between two lines on one realm


class Unread:
    """The entries that could not be read since they were taken last. Threads may share one."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._found: dict[str, dict[str, int]] = {}

    def note(self, host: str, entry: str, count: int = 1) -> None:
        """An entry of a realm (empty: the pools'), or so many in one place; again, it is the same one."""
        with self._turn:
            found = self._found.setdefault(host, {})
            if count > 0 and (entry in found or len(found) < _NAMES):
                found[entry] = max(count, found.get(entry, 0))

    def counts(self) -> dict[str, int]:
        """How many there are, by realm."""
        with self._turn:
            return {host: sum(found.values()) for host, found in sorted(self._found.items()) if found}

    def take(self) -> dict[str, int]:
        """The same, and begin anew."""
        counts = self.counts()
        with self._turn:
            self._found = {}
        return counts


class Told:
    """Says of which realms a line is to be written: of each once an hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at: dict[str, float] = {}

    def fresh(self, counts: Mapping[str, int]) -> list[tuple[str, int]]:
        """Those of which none was written lately, and what there is to be told of each."""
        now = self._clock()
        self._at = {host: at for host, at in self._at.items() if now - at < _AGAIN}
        found = [(host, entries) for host, entries in counts.items() if host not in self._at]
        self._at.update((host, now) for host, _ in found)
        return found
