"""`holdfast/status`: what a repository's snapshots say, in one object, so that who asks need not read each of them.

Invariant: it never says WHICH snapshots there are. That says the listing of `snapshots/`, read anew each time; the
object only says what a snapshot of a certain id holds, which can't change, as an id is the hash of its bytes. So one
GET and one LIST are enough, and however late, lost or overwritten the object is, no snapshot that is gone counts, and
none that is there is left out: what it does not tell of is read, and what is no more is passed over.

It tells of the newest `NEWEST` snapshots, and of older ones of those that decide which slots their source has served.
The others stand in it by name alone. That they decide nothing was true of all that it names: so as soon as one that it
tells of is gone, they are read after all.

So it needs no condition when it is put: of two writers the later one stays, and costs readers what it lacks, no more.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from shared.errors import RepositoryError, StorageError
from shared.repository.committed import SNAPSHOTS
from shared.repository.errors import Damaged
from shared.repository.snapshot import Snapshot, Told, decode_snapshot
from shared.storage.api import MissingObject

if TYPE_CHECKING:
    from shared.repository.repository import Repository

STATUS = "holdfast/status"
VERSION = 1
NEWEST = 64  # snapshots that it tells of, whatever they say
DECIDING_AT_MOST = 1024  # older ones that it tells of besides: two for each source of a repository that many share
OLDER_AT_MOST = 4096  # that stand in it by name
TEXTS_AT_MOST = 4096  # bytes of a snapshot's host and tags; one that has more is left to be read
LARGEST = 4 << 20  # bytes of it, sealed or not, that are looked at
READ_AT_MOST = 64  # snapshots that are read one by one; where it lacks more, it is as good as none
_SHORT = 16  # hex digits of the name of one that is only named: enough that no other has them
_ID = re.compile(r"[0-9a-f]{64}")
_TIME_AT_MOST = 1 << 63  # nanoseconds: what JSON's writers take


@dataclass(frozen=True, slots=True)
class Fact(Told):
    """What is told of one snapshot: `time` in nanoseconds by the store's clock, `size` in bytes as it is stored."""

    id: str
    size: int
    time: int
    hostname: str = ""
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Status:
    """The object's content. `older`: the short names of snapshots that it does not tell of."""

    facts: tuple[Fact, ...] = ()
    older: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Known:
    """What a look found: facts of every snapshot that is there, but for the older ones, which decide nothing."""

    facts: list[Snapshot | Fact]
    older: frozenset[str]
    snapshots: int  # that are there
    current: bool  # whether the object told of just these


class Gathered:
    """Snapshots as they pass by, each once, in any order; of them in the end the `status`."""

    def __init__(self, older: Iterable[str] = ()) -> None:
        """`older`: the short names of some that decide nothing."""
        self._newest: list[tuple[int, str, Fact]] = []  # a heap, the oldest first
        self._deciding: tuple[dict[str, Fact], dict[str, Fact]] = {}, {}  # by source, of the last slot; of a full one's
        self._older = set(older)

    def through(self, snapshots: Iterable[Snapshot]) -> Iterator[Snapshot]:
        """The same ones, gathered as they pass by."""
        for one in snapshots:
            self.add(one)
            yield one

    def add(self, one: Snapshot | Fact) -> None:
        """Take one that is there."""
        if not _can_be_told(one):
            return  # it is read
        fact = one if isinstance(one, Fact) else Fact(one.id, one.size, one.time, one.hostname, one.tags)
        last, full = self._deciding
        source, slot, full_slot = fact.source, fact.serves, fact.serves_full
        if source not in last or slot > last[source].serves:
            last[source] = fact
        if full_slot and (source not in full or full_slot > full[source].serves_full):
            full[source] = fact
        heapq.heappush(self._newest, (fact.time, fact.id, fact))
        if len(self._newest) > NEWEST:
            self._older.add(heapq.heappop(self._newest)[1][:_SHORT])

    def status(self) -> Status:
        """All of it. Where there are too many older ones, nothing is said of any: they are read."""
        newest = {fact.id: fact for _, _, fact in self._newest}
        deciding = {fact.id: fact for each in self._deciding for fact in each.values() if fact.id not in newest}
        older = self._older - {name[:_SHORT] for name in deciding}
        if len(deciding) > DECIDING_AT_MOST or len(older) > OLDER_AT_MOST:
            deciding, older = {}, set()
        facts = sorted([*newest.values(), *deciding.values()], key=lambda fact: (fact.time, fact.id), reverse=True)
        return Status(tuple(facts), frozenset(older))


def _can_be_told(one: Snapshot | Fact) -> bool:
    """Not what is long, nor what some other program has written in ways of its own."""
    try:
        texts = [one.hostname, *one.tags]
        return sum(map(len, map(str.encode, texts))) <= TEXTS_AT_MOST and abs(one.time) < _TIME_AT_MOST
    except (TypeError, ValueError):
        return False


def encode_status(status: Status) -> bytes:
    """Its JSON."""
    told = [
        {"id": fact.id, "size": fact.size, "time": fact.time, "hostname": fact.hostname, "tags": fact.tags}
        for fact in status.facts
    ]
    return orjson.dumps({"version": VERSION, "snapshots": told, "older": "".join(sorted(status.older))})


def decode_status(raw: bytes) -> Status:
    """Read its JSON. Raises Damaged: for what another release writes, too."""
    try:
        data = orjson.loads(raw)
        if data["version"] != VERSION:
            raise Damaged(f"status: expected version {VERSION}, got {data['version']!r}")
        facts = tuple(map(_fact, data["snapshots"]))
        text = data["older"]
        if not re.fullmatch(rf"([0-9a-f]{{{_SHORT}}})*", text):
            raise Damaged(f"status: expected the older ones' names, of {_SHORT} hex digits each")
        return Status(facts, frozenset(text[at : at + _SHORT] for at in range(0, len(text), _SHORT)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"status: not the JSON that was expected ({error!r})") from error


def _fact(data: dict[str, object]) -> Fact:
    name, size, time, host, tags = (data[key] for key in ("id", "size", "time", "hostname", "tags"))
    if not (isinstance(name, str) and _ID.fullmatch(name) and isinstance(host, str) and isinstance(tags, list)):
        raise Damaged(f"status: expected a snapshot, got {str(data)[:80]}")
    if not (type(size) is int and type(time) is int and size >= 0):
        raise Damaged(f"status: snapshot {name[:8]}: expected size and time, got {str((size, time))[:80]}")
    if not all(isinstance(tag, str) for tag in tags):
        raise Damaged(f"status: snapshot {name[:8]}: expected texts as tags")
    return Fact(name, size, time, host, tags)


def read_known(repo: Repository, latest: str = "") -> Known | None:
    """What a repository has, by its status and the listing; None where it has none that is of use.

    `latest`: a slot later than that counts for nothing, so one that claims it decides nothing either. It takes no more
    of `repo` than its store and key. Raises StorageError, and Damaged where a snapshot that is to be read is.
    """
    status = _stored(repo)
    if status is None:
        return None
    listed = {info.key.rpartition("/")[2]: info.size for info in repo.store.list(SNAPSHOTS)}
    listed = {name: size for name, size in listed.items() if _ID.fullmatch(name)}
    facts: list[Snapshot | Fact] = [fact for fact in status.facts if listed.get(fact.id) == fact.size]
    told = {fact.id for fact in facts}
    whole = len(told) == len(status.facts)
    older = status.older if whole and not _is_late(status, latest) else frozenset()
    unknown = [name for name in listed if name not in told and name[:_SHORT] not in older]
    if len(unknown) > READ_AT_MOST:
        return None
    for name in unknown:
        try:
            facts.append(_read(repo, name))
        except MissingObject:
            del listed[name]  # forgotten since the listing
    current = whole and not unknown and len(listed) == len(told) + len(older)
    return Known(facts, older & {name[:_SHORT] for name in listed}, len(listed), current)


def _is_late(status: Status, latest: str) -> bool:
    """Whether one that decides says what counts for nothing, so that another one decides, which is not told of."""
    return bool(status.older and latest) and any(max(one.serves, one.serves_full) > latest for one in status.facts)


def _stored(repo: Repository) -> Status | None:
    try:
        sealed = repo.store.get(STATUS)
        if len(sealed) > LARGEST:
            return None
        return decode_status(repo.open_small(sealed, at_most=LARGEST))
    except (MissingObject, Damaged):
        return None


def _read(repo: Repository, name: str) -> Snapshot:
    stored = repo.store.get(SNAPSHOTS + name)
    snapshot = decode_snapshot(repo.open_small(stored, name), name)
    snapshot.size = len(stored)
    return snapshot


def put_status(repo: Repository, gathered: Gathered) -> None:
    """Replace the object by what was gathered: one request. Raises StorageError."""
    repo.store.put(STATUS, repo.seal_small(encode_status(gathered.status())))


def settle_status(repo: Repository, gathered: Gathered | None = None) -> list[str]:
    """Let the object tell of what was gathered, or (None) of what is there now, where it does not yet.

    Nobody fails for it: what kept it from that is what it answers, for a person.
    """
    try:
        if gathered is None:
            with suppress(Damaged):
                known = read_known(repo)
                if known is not None and known.current:
                    return []
            gathered = Gathered()
            for _ in gathered.through(repo.snapshots(lambda *_: None)):
                pass  # one that can't be read is not told of
        put_status(repo, gathered)
    except (StorageError, RepositoryError) as error:
        return [f"{STATUS} was not written, so that who asks reads each snapshot: {error}"]
    return []
