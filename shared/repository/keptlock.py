"""The lock of a run that is cut in shards: nobody holds it alone, and it stands from its first shard to its end.

    locks/<id>   as any shared lock; its host name is `shards/holdfast/<run>/shards`

Whoever works on a shard refreshes it, and so does the reaper while none is worked on. Its name ends otherwise than a
holder's, so that to remove the lock of a dead worker of the run leaves it. It only saves work: who finishes the run
looks, under a lock of his own, whether all is still there that the shards have stored.
"""

from __future__ import annotations

import os
import time

import orjson

from shared.repository.gojson import time_string
from shared.repository.keys import username
from shared.repository.locks import REFRESH, STALE, LockInfo, read_locks
from shared.repository.repository import Repository

_LOOK = 60.0  # seconds between two looks of whoever works on a shard
_ALIVE = STALE - 60.0  # seconds; an older one may count no more by the time at which a fresh one stands


class KeptLock:
    """The lock of one such run in one repository."""

    def __init__(self, repository: Repository, run: str) -> None:
        self._repository = repository
        self._holder = f"shards/holdfast/{run}/shards"
        self._looked = -_LOOK

    def ensure(self) -> None:
        """See that it stands. For whoever has a lock of his own on the repository; cheap to call often."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            self._refresh(self._found())

    def renew(self) -> None:
        """Refresh it where it still counts. For whoever has no lock of his own: what it protected may else be gone."""
        found = self._found()
        if found and min(lock.age for lock in found) <= _ALIVE:
            self._refresh(found)

    def release(self) -> None:
        """The run is over."""
        self._delete(self._found())

    def _found(self) -> list[LockInfo]:
        store = self._repository.store
        locks = read_locks(store, self._repository.load, now=store.clock(), stale=True)
        return [lock for lock in locks if lock.hostname == self._holder]

    def _refresh(self, found: list[LockInfo]) -> None:
        if found and min(lock.age for lock in found) < REFRESH:
            return
        fields = {
            "time": time_string(int(self._repository.store.clock() * 1e9)),
            "exclusive": False,
            "hostname": self._holder,
            "username": username(),
            "pid": os.getpid(),
        }
        self._repository.save("locks", orjson.dumps(fields))
        self._delete(found)

    def _delete(self, locks: list[LockInfo]) -> None:
        for lock in locks:
            self._repository.store.delete(f"locks/{lock.id}")
