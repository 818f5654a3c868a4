"""Repository locks, which stock restic sees and respects, by the STORE's clock.

    locks/<id>   sealed {"time","exclusive","hostname","username","pid"}

Order that makes it safe: look for others, write our own, wait 200 ms, look again, and step back
where a conflict is found; so of two that come at once at least one sees the other. A lock counts
for 30 minutes after its object was last written; its holder writes a fresh one every 5 minutes and
only then deletes the old. The host name is `<host>/holdfast/<run>`, so that no restic takes the
process id for one of its own host's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from shared.repository.errors import Damaged, Locked
from shared.repository.gojson import time_string
from shared.storage.api import MissingObject, ObjectStore

WAIT = 0.2  # seconds between the two looks
REFRESH = 300.0  # seconds after which the holder writes a fresh lock
STALE = 1800.0  # seconds after which a lock that was not refreshed counts no more
_STALE_MARGIN = 60.0  # seconds before that in which its holder trusts it no more: what it checks for takes a while

Save = Callable[[str, bytes], str]
Load = Callable[[str, str], bytes]


@dataclass(frozen=True, slots=True)
class LockInfo:
    """A lock of somebody's: who, whether alone, and its age in seconds by the store's clock."""

    id: str
    hostname: str
    pid: int
    exclusive: bool
    age: float

    def __str__(self) -> str:
        kind = "exclusive" if self.exclusive else "shared"
        return f"{kind} lock {self.id[:8]} of {self.hostname} (pid {self.pid}), {self.age:.0f} s old"


def read_locks(store: ObjectStore, load: Load, *, now: float, stale: bool = False) -> list[LockInfo]:
    """Every lock that counts at `now` (the store's clock), or with `stale` every one that there is.

    One that can't be read counts as exclusive while fresh.
    """
    found = []
    for info in store.list("locks/"):
        lock_id = info.key.rpartition("/")[2]
        age = now - info.modified
        if not stale and (age > STALE or not info.size):
            continue
        try:
            data = orjson.loads(load("locks", lock_id))
            found.append(
                LockInfo(lock_id, str(data["hostname"]), int(data.get("pid", 0)), bool(data["exclusive"]), age)
            )
        except MissingObject:
            continue
        except (Damaged, ValueError, KeyError, TypeError):
            found.append(LockInfo(lock_id, "somebody unknown (it can't be read)", 0, exclusive=True, age=age))
    return found


class RepositoryLock:
    """A lock that this process holds. `begin`, then other work for 200 ms, then `confirm`; `maintain` now and then."""

    def __init__(
        self, store: ObjectStore, save: Save, load: Load, *, holder: str, username: str, exclusive: bool
    ) -> None:
        self.exclusive = exclusive
        self._store = store
        self._save = save
        self._load = load
        self._fields = {"exclusive": exclusive, "hostname": holder, "username": username, "pid": os.getpid()}
        self._written = 0.0
        self._ids: set[str] = set()
        self._id = ""

    def begin(self) -> None:
        """Look for others, then write our own. Raises Locked."""
        self._check(())
        self._write()

    @property
    def settles_at(self) -> float:
        """When `confirm` need wait no more, in monotonic seconds."""
        return self._written + WAIT

    def confirm(self) -> None:
        """Wait for what is left of the 200 ms and look again; our lock is gone where this raises Locked."""
        time.sleep(max(0.0, self.settles_at - time.monotonic()))
        try:
            self._check(self._ids)
        except Locked:
            self.release()
            raise

    def maintain(self, *, reader: bool = False) -> None:
        """Write a fresh lock where the last is 5 minutes old. Cheap to call often.

        Raises Locked where the last one counts no more: a fresh one would hide that packs may have been pruned
        meanwhile. A `reader`, which verifies whatever it reads, takes it anew.
        """
        if time.monotonic() - self._written >= REFRESH:
            if not reader:
                self.ensure_held()
            old = self._id
            self._write()
            self._store.delete(f"locks/{old}")
            self._ids.discard(old)

    def ensure_held(self) -> None:
        """Raise Locked where our lock counts no more: what it protected may have been pruned meanwhile.

        Its object is gone, or it is so old (this process was stopped, its machine slept) that others pass over it.
        """
        try:
            modified = self._store.stat(f"locks/{self._id}").modified
        except MissingObject:
            what = "was removed from"
        else:
            age = self._store.clock() - modified
            if age <= STALE - _STALE_MARGIN:
                return
            what = f"counts no more ({age:.0f} s without a refresh) at"
        raise Locked(
            f"our own lock {self._id[:8]} {what} {self._store.url}",
            hint="Somebody unlocked the repository, or this process was stopped for almost 30 minutes; "
            "the next attempt takes up what was uploaded",
        )

    def release(self) -> None:
        """Remove our lock. Not an error where it is gone."""
        for lock_id in sorted(self._ids):
            self._store.delete(f"locks/{lock_id}")
        self._ids.clear()

    def _write(self) -> None:
        now = self._store.clock()
        fields = {"time": time_string(int(now * 1e9)), **self._fields}
        self._id = self._save("locks", orjson.dumps(fields))
        self._ids.add(self._id)
        self._written = time.monotonic()

    def _check(self, own: Iterable[str]) -> None:
        mine = set(own)
        for lock in read_locks(self._store, self._load, now=self._store.clock()):
            if lock.id not in mine and (self.exclusive or lock.exclusive):
                raise Locked(
                    f"the repository at {self._store.url} is locked: {lock}",
                    hint="Wait until its holder is done; if that one is dead, the lock counts no more "
                    f"after {STALE / 60:.0f} minutes, or remove it with `holdfast unlock SOURCE --all`",
                )
