"""Holds: what pins a snapshot, so that nothing forgets it.

    holdfast/holds/<snapshot>   sealed {"snapshot","source","reason","time","until"?,"username","hostname"}

Invariant: a snapshot whose hold was acknowledged is not forgotten while the hold counts. Whoever holds puts the hold,
then looks for a tombstone; whoever forgets puts the tombstone, then looks for holds, and only then deletes. So of two
that come at once at least one sees the other: the one that holds takes its hold back and says so, the one that forgets
takes its tombstone back and leaves the snapshot.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from shared.errors import RepositoryError
from shared.repository.committed import FORGOTTEN, SNAPSHOTS
from shared.repository.errors import Damaged
from shared.repository.gojson import parse_time, time_string
from shared.repository.keys import username
from shared.storage.api import MissingObject

if TYPE_CHECKING:
    from shared.repository.repository import Repository

HOLDS = "holdfast/holds/"
_ID = re.compile(r"[0-9a-f]{64}")


class SnapshotNeeded(RepositoryError):
    """A snapshot that must stay: the last good one of its source, or under a hold."""

    exit_code: ClassVar[int] = 28


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold. Times in nanoseconds since 1970 by the store's clock; `until` None: until it is removed."""

    snapshot: str
    source: str = ""
    reason: str = ""
    time: int = 0
    until: int | None = None
    username: str = ""
    hostname: str = ""
    problem: str = ""  # it can't be read, and counts for ever

    def counts(self, now: float) -> bool:
        """Whether it holds at `now`, in seconds since 1970 by the store's clock."""
        return self.until is None or self.until > now * 1e9

    @property
    def why(self) -> str:
        """The reason, and how long it counts, for people."""
        said = self.problem or self.reason
        return said if self.until is None else f"{said}, until {time_string(self.until // 10**9 * 10**9)}"


def read_holds(repo: Repository) -> dict[str, Hold]:
    """Every hold by its snapshot, those that count no more too. Raises StorageError."""
    names = (info.key.rpartition("/")[2] for info in repo.store.list(HOLDS))
    found = (read_hold(repo, name) for name in names if _ID.fullmatch(name))
    return {hold.snapshot: hold for hold in found if hold is not None}


def read_hold(repo: Repository, snapshot: str) -> Hold | None:
    """The hold of one snapshot; None where it has none. One that can't be read is one all the same."""
    try:
        sealed = repo.store.get(HOLDS + snapshot)
    except MissingObject:
        return None
    try:
        fields = orjson.loads(repo.open_small(sealed))
        until = fields.get("until")
        texts = {name: str(fields[name]) for name in ("source", "reason", "username", "hostname")}
        return Hold(snapshot, time=parse_time(fields["time"]), until=parse_time(until) if until else None, **texts)
    except (Damaged, ValueError, KeyError, TypeError, AttributeError) as error:
        return Hold(snapshot, problem=f"can't be read ({error})")


def add_hold(repo: Repository, snapshot: str, source: str, reason: str, until: int | None = None) -> Hold:
    """Hold a snapshot, or give its hold a new reason and end. `until`: nanoseconds since 1970.

    Raises MissingObject where it is being forgotten, or is not there; StorageError.
    """
    now = repo.store.clock()
    before = read_hold(repo, snapshot)
    hold = Hold(snapshot, source, reason, int(now * 1e9), until, username(), socket.gethostname())
    fields: dict[str, Any] = {"snapshot": snapshot, "source": source, "reason": reason, "time": time_string(hold.time)}
    fields |= {"until": time_string(until)} if until is not None else {}
    fields |= {"username": hold.username, "hostname": hold.hostname}
    repo.store.put(HOLDS + snapshot, repo.seal_small(orjson.dumps(fields)))
    if before is not None and before.counts(now):
        return hold  # it was held all the while
    if _exists(repo, FORGOTTEN + snapshot) or not _exists(repo, SNAPSHOTS + snapshot):
        repo.store.delete(HOLDS + snapshot)
        raise MissingObject(
            f"snapshot {snapshot[:8]} can't be held: it has been forgotten, or is being so just now",
            hint="Where a forget was broken off, ask again once the next one has ended",
        )
    return hold


def remove_hold(repo: Repository, snapshot: str) -> None:
    """Let go of a snapshot; no error where it is not held."""
    repo.store.delete(HOLDS + snapshot)


def _exists(repo: Repository, key: str) -> bool:
    try:
        repo.store.stat(key)
    except MissingObject:
        return False
    return True
