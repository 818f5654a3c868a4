"""`holdfast/status`: whatever it says, and however old it is, what a look learns is what the snapshots say."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.evidence import evidence_in
from shared.repository import keys, status
from shared.repository.errors import Damaged
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot, encode_snapshot
from shared.repository.status import (
    LARGEST,
    NEWEST,
    STATUS,
    TEXTS_AT_MOST,
    Fact,
    Gathered,
    Status,
    decode_status,
    encode_status,
    put_status,
    read_known,
    settle_status,
)
from shared.storage.api import Denied, MissingObject, ObjectInfo
from shared.storage.directory import DirectoryStore

KEY = keys.derived_master_key(b"\x11" * 32, "web1")
DAY = 86_400 * 10**9


class InMemory:
    """As much of a store as a look takes; counts what it is asked."""

    url = "memory"
    connections = 1

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []

    def get(self, key: str) -> bytes:
        """One object."""
        self.asked.append(f"get {key}")
        if key not in self.objects:
            raise MissingObject(key)
        return self.objects[key]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Those below a prefix."""
        self.asked.append(f"list {prefix}")
        return (ObjectInfo(key, len(data), 0.0) for key, data in self.objects.items() if key.startswith(prefix))

    def put(self, key: str, data: bytes, *, sha256: str | None = None) -> None:  # noqa: ARG002 - as a store's
        """Store one."""
        self.objects[key] = bytes(data)


class Scene:
    """A repository whose snapshots differ in what the tests say of them."""

    def __init__(self) -> None:
        self.store: Any = InMemory()
        self.repo = Repository(self.store, KEY)

    def add(self, day: int, source: str = "web1", slot: str = "", *, full: bool = False, **tags: str) -> str:
        """Store one; its id."""
        text = slot or f"2026-01-{day % 28 + 1:02}T{day // 28:02}:00:00Z"
        told = {"source": source, "kind": "full" if full else "incremental", "slot": text, **tags}
        listed = [f"hf.{name}={value}" for name, value in told.items()]
        snapshot = Snapshot(1_760_000_000 * 10**9 + day * DAY, bytes(32), [b"/srv"], hostname="web1", tags=listed)
        return self.repo.save("snapshots", encode_snapshot(snapshot))

    def remove(self, name: str) -> None:
        """As a forget does, or stock restic."""
        del self.store.objects[f"snapshots/{name}"]

    def all(self) -> list[Snapshot]:
        """What is there, read one by one."""
        return list(self.repo.snapshots())

    def write_status(self, snapshots: Iterable[Snapshot] | None = None) -> None:
        """Let it tell of these, or of all."""
        gathered = Gathered()
        for one in self.all() if snapshots is None else snapshots:
            gathered.add(one)
        put_status(self.repo, gathered)

    def look(self, latest: str = "") -> tuple[status.Known | None, list[str]]:
        """What a look finds, and what it has asked the store for."""
        self.store.asked.clear()
        return read_known(self.repo, latest), [one.partition("/")[0] for one in self.store.asked]

    def put_json(self, data: object) -> None:
        """Seal something as the status."""
        self.store.put(STATUS, self.repo.seal_small(orjson.dumps(data)))


@pytest.fixture
def scene() -> Scene:
    """Without a snapshot."""
    return Scene()


def test_one_get_and_one_listing_say_it_all(scene: Scene) -> None:
    """Of however many snapshots: nothing is read but the object and the names."""
    for day in range(2 * NEWEST):
        scene.add(day, full=day % 30 == 0)
    scene.write_status()
    known, asked = scene.look()
    assert known is not None
    assert asked == ["get holdfast", "list snapshots"]
    assert (known.current, known.snapshots) == (True, 2 * NEWEST)
    assert evidence_in(known.facts) == evidence_in(scene.all())


def test_what_is_written_is_what_is_read(scene: Scene) -> None:
    """Each fact, the older ones' names, an empty one too."""
    for day in range(NEWEST + 9):
        scene.add(day, source=f"s{day % 3}", unreadable="2")
    gathered = Gathered()
    for one in scene.all():
        gathered.add(one)
    made = gathered.status()
    assert decode_status(encode_status(made)) == made
    assert (len(made.facts), len(made.older)) == (NEWEST, 9)
    assert not made.facts[0].complete
    assert {fact.hostname for fact in made.facts} == {"web1"}
    assert decode_status(encode_status(Status())) == Status()


def test_a_snapshot_that_it_does_not_tell_of_is_read(scene: Scene) -> None:
    """Its writer was killed before, or another writer was later: that one is fetched, and no other."""
    scene.add(1, full=True)
    scene.write_status()
    late = scene.add(2)
    known, _ = scene.look()
    assert known is not None
    assert scene.store.asked == [f"get {STATUS}", "list snapshots/", f"get snapshots/{late}"]
    assert not known.current
    assert evidence_in(known.facts) == evidence_in(scene.all())


def test_one_that_is_gone_does_not_count(scene: Scene) -> None:
    """Though the status still tells of it: a backup that is missing is not hidden."""
    scene.add(1, full=True)
    newest = scene.add(2)
    scene.write_status()
    scene.remove(newest)
    known, _ = scene.look()
    assert known is not None
    assert not known.current
    assert evidence_in(known.facts) == evidence_in(scene.all())
    assert known.snapshots == 1


def test_one_of_another_size_is_read(scene: Scene) -> None:
    """What was cut short at the site is found out, as it was before there was a status."""
    name = scene.add(1)
    scene.write_status()
    scene.store.objects[f"snapshots/{name}"] = scene.store.objects[f"snapshots/{name}"][:-1]
    with pytest.raises(Damaged):
        scene.look()


def test_older_ones_are_read_once_one_that_it_tells_of_is_gone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of the older ones decides now, it can't say."""
    monkeypatch.setattr(status, "NEWEST", 2)
    names = [scene.add(day, full=day == 0) for day in range(6)]
    scene.write_status()
    for name in names[-3:]:
        scene.remove(name)
    known, asked = scene.look()
    assert known is not None
    assert asked.count("get snapshots") == 2  # the full one is told of
    assert evidence_in(known.facts) == evidence_in(scene.all())


def test_a_slot_far_ahead_does_not_hide_the_one_that_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock was wrong once: what decides is among the older ones, and is read."""
    monkeypatch.setattr(status, "NEWEST", 1)
    scene.add(0, slot="2099-01-01T00:00:00Z")
    for day in (1, 2):
        scene.add(day)
    scene.add(3, source="other")
    scene.write_status()
    known, _ = scene.look(latest="2027-01-01T00:00:00Z")
    assert known is not None
    assert evidence_in(known.facts, "2027-01-01T00:00:00Z") == evidence_in(scene.all(), "2027-01-01T00:00:00Z")


SNAPSHOTS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["web1", "db", ""]), st.booleans(), st.sampled_from(["", "2099"])),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(SNAPSHOTS, st.lists(st.booleans(), min_size=12, max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_however_old_it_is_the_evidence_is_that_of_the_snapshots(
    made: list[tuple[int, str, bool, str]], told: Sequence[bool], gone: Sequence[bool]
) -> None:
    """Any of them told of or not, any of them gone since, slots far ahead, sources that share: never a difference."""
    scene, latest = Scene(), "2027-01-01T00:00:00Z"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "NEWEST", 2)
        names = [scene.add(day, source, ahead, full=full) for day, source, full, ahead in made]
        names = list(dict.fromkeys(names))
        scene.write_status(one for one in scene.all() if told[names.index(one.id)])
        for name, is_gone in zip(names, gone, strict=False):
            if is_gone:
                scene.remove(name)
        known, _ = scene.look(latest)
    assert known is not None
    assert evidence_in(known.facts, latest) == evidence_in(scene.all(), latest)
    assert known.snapshots == len(scene.all())
    # And what is written after such a look is whole.
    gathered = Gathered(known.older)
    for one in known.facts:
        gathered.add(one)
    put_status(scene.repo, gathered)
    again, asked = scene.look()
    assert again is not None
    assert (again.current, "get snapshots" in asked) == (True, False)
    assert evidence_in(again.facts) == evidence_in(scene.all())


def _fact(**other: object) -> dict[str, object]:
    return {"id": "ab" * 32, "size": 1, "time": 1, "hostname": "h", "tags": [], **other}


@pytest.mark.parametrize(
    "data",
    [
        [],
        {},
        {"version": 2, "snapshots": [], "older": ""},
        {"version": 1, "snapshots": {}, "older": None},
        {"version": 1, "snapshots": [], "older": "abc"},
        {"version": 1, "snapshots": [1], "older": ""},
        *({"version": 1, "snapshots": [_fact(**other)], "older": ""} for other in (
            {"id": "x"}, {"id": 7}, {"size": -1}, {"size": True}, {"time": "now"}, {"time": 0.5},
            {"hostname": None}, {"tags": "ab"}, {"tags": [1]},
        )),
    ],
)  # fmt: skip
def test_garbage_is_as_good_as_none(scene: Scene, data: object) -> None:
    """It is sealed with the right key, and says what no release of this version writes."""
    scene.put_json(data)
    assert scene.look() == (None, ["get holdfast"])


def test_what_is_not_sealed_or_too_large_is_as_good_as_none(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes, another key's, too many of them, or few that unpack to too many."""
    other = Repository(scene.store, keys.derived_master_key(b"\x11" * 32, "web2"))
    content = encode_status(Status())
    for stored in (b"", b"garbage" * 9, other.seal_small(content), scene.repo.seal_small(b" " * LARGEST, content)):
        scene.store.put(STATUS, stored)
        assert scene.look() == (None, ["get holdfast"])
    scene.write_status()
    assert scene.look()[0] is not None
    monkeypatch.setattr(status, "LARGEST", 20)
    assert scene.look() == (None, ["get holdfast"])


def test_tags_beyond_all_are_left_to_be_read(scene: Scene) -> None:
    """So are those that are none: the object stays one that can be read."""
    scene.add(1, full=True)
    scene.add(2, more="x" * TEXTS_AT_MOST)
    (one, *_) = scene.all()
    odd = [dataclasses.replace(one, hostname=7), dataclasses.replace(one, tags=[1])]  # type: ignore[arg-type, list-item]
    odd += [dataclasses.replace(one, time=1 << 64), dataclasses.replace(one, hostname="\udcff")]
    scene.write_status([*scene.all(), *odd])
    known, asked = scene.look()
    assert known is not None
    assert asked.count("get snapshots") == 1
    assert evidence_in(known.facts) == evidence_in(scene.all())


def test_of_very_many_older_ones_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is bounded, whatever the repository holds; then those are read."""
    monkeypatch.setattr(status, "OLDER_AT_MOST", 5)
    gathered = Gathered()
    for number in range(NEWEST + 6):
        gathered.add(Fact(f"{number:016x}" * 4, 1, number, "h", ["hf.source=web1", f"hf.slot={number:09}"]))
    made = gathered.status()
    assert (len(made.facts), made.older) == (NEWEST, frozenset())


def test_where_it_lacks_very_many_it_is_as_good_as_none(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then they are read as if there were none: by many at a time, and kept."""
    monkeypatch.setattr(status, "READ_AT_MOST", 3)
    scene.write_status()
    for day in range(4):
        scene.add(day)
    assert scene.look() == (None, ["get holdfast", "list snapshots"])


def test_settling_writes_only_what_is_not_told_of(scene: Scene) -> None:
    """None yet; current; behind; damaged at the site."""
    scene.add(1)
    assert settle_status(scene.repo) == []
    first = scene.store.objects[STATUS]
    assert settle_status(scene.repo) == []
    assert scene.store.objects[STATUS] is first
    name = scene.add(2)
    assert settle_status(scene.repo) == []
    known, _ = scene.look()
    assert known is not None
    assert (known.current, known.snapshots) == (True, 2)
    scene.store.objects[f"snapshots/{name}"] = b"damaged"
    assert settle_status(scene.repo) == []
    assert [one.serves for one in decode_status(scene.repo.open_small(scene.store.objects[STATUS])).facts] == [
        "2026-01-02T00:00:00Z"
    ]


def test_who_may_not_write_it_is_told_and_fails_nobody(tmp_path: Path) -> None:
    """An agent enrolled by an older release, say."""

    class Refusing(DirectoryStore):
        put: Callable[..., None] = lambda *_, **__: _refuse()  # type: ignore[assignment]

    (note,) = settle_status(Repository(Refusing(os.fspath(tmp_path)), KEY), Gathered())
    assert "holdfast/status was not written" in note
    assert "no right" in note


def _refuse() -> None:
    raise Denied("no right")
