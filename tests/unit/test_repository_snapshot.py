"""Snapshots: the JSON that restic reads, and the tags that Holdfast finds again."""

from __future__ import annotations

import pytest

from shared.repository.errors import Damaged
from shared.repository.snapshot import Snapshot, decode_snapshot, encode_snapshot, make_tags

NS = 10**9
TREE = b"\xaa" * 32
FULL = Snapshot(
    time=1_600_000_000 * NS + 5,
    tree=TREE,
    paths=[b"/srv/<data>", "/é".encode()],
    hostname="web1",
    username="root",
    uid=0,
    gid=7,
    excludes=["*.log"],
    tags=["hf.source=web1", "env=prod"],
    parent="bb" * 32,
    original="cc" * 32,
    program_version="holdfast 1",
    summary={"files_new": 3},
)
GOLDEN = (
    f'{{"time":"2020-09-13T12:26:40.000000005Z","parent":"{"bb" * 32}","tree":"{"aa" * 32}",'
    '"paths":["/srv/\\u003cdata\\u003e","/é"],"hostname":"web1","username":"root","gid":7,"excludes":["*.log"],'
    f'"tags":["hf.source=web1","env=prod"],"original":"{"cc" * 32}","program_version":"holdfast 1",'
    '"summary":{"files_new":3}}'
)


def test_a_snapshot_has_these_bytes() -> None:
    """Fields in restic's order, empty ones left out; and it reads back."""
    assert encode_snapshot(FULL).decode() == GOLDEN
    got = decode_snapshot(GOLDEN.encode(), "dd")
    assert (got.id, encode_snapshot(got).decode()) == ("dd", GOLDEN)
    least = Snapshot(time=0, tree=TREE, paths=[])
    assert encode_snapshot(least).decode() == f'{{"time":"1970-01-01T00:00:00Z","tree":"{"aa" * 32}","paths":[]}}'


def test_what_restic_writes_is_read() -> None:
    """A local time zone, `null` lists, unknown fields."""
    raw = f'{{"time":"2020-09-13T14:26:40+02:00","tree":"{"aa" * 32}","paths":null,"tags":null,"future":[1]}}'
    got = decode_snapshot(raw.encode(), "dd")
    assert (got.time, got.paths, got.tags, got.source, got.began, got.complete) == (
        1_600_000_000 * NS, [], [], "", None, True,
    )  # fmt: skip


def test_tags_say_what_must_be_found_again() -> None:
    """Each once, the empty ones left out, others' tags behind."""
    tags = make_tags(
        source="web1",
        run="r",
        kind="full",
        slot="2026-01-01T00:00:00Z",
        last_full="x",
        unreadable=2,
        began=NS,
        more=["a"],
    )
    snapshot = Snapshot(time=0, tree=TREE, paths=[], tags=tags)
    assert tags == [
        "hf.source=web1", "hf.run=r", "hf.kind=full", "hf.began=1970-01-01T00:00:01Z", "hf.slot=2026-01-01T00:00:00Z",
        "hf.lastfull=x", "hf.unreadable=2", "a",
    ]  # fmt: skip
    assert (snapshot.source, snapshot.tag("run"), snapshot.began, snapshot.complete) == ("web1", "r", NS, False)
    least = make_tags(source="s", run="r", kind="full", slot="", last_full="", unreadable=0, began=0, more=[])
    assert [tag.partition("=")[0] for tag in least] == ["hf.source", "hf.run", "hf.kind", "hf.began"]


@pytest.mark.parametrize("field", ["source", "run", "slot", "last_full"])
def test_a_comma_is_no_part_of_a_tag(field: str) -> None:
    """Restic would take what follows for another tag."""
    fields = {"source": "s", "run": "r", "slot": "t", "last_full": "l"} | {field: "a,b"}
    with pytest.raises(ValueError, match="holds a comma"):
        make_tags(kind="full", unreadable=0, began=0, more=[], **fields)


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b"null", GOLDEN.replace("aa" * 32, "aa" * 31).encode(), GOLDEN.replace("aa", "zz").encode(),
     GOLDEN.replace("2020-", "x").encode(), GOLDEN.replace('"/é"', "5").encode(), GOLDEN[:-1].encode()],
)  # fmt: skip
def test_what_is_no_snapshot_is_damaged(raw: bytes) -> None:
    """The message names the snapshot, or the time that is none."""
    with pytest.raises(Damaged, match=r"snapshot dddddddd|time "):
        decode_snapshot(raw, "d" * 64)


@pytest.mark.parametrize(
    ("tag", "unreadable", "complete"), [("", 0, True), ("0", 0, True), ("3", 3, False), ("many", 1, False)]
)
def test_tags_that_somebody_edited_are_no_error(tag: str, unreadable: int, complete: bool) -> None:
    """Stock restic lets anybody change them: what is no number still says that something was left out."""
    tags = [f"hf.unreadable={tag}", "hf.began=yesterday"]
    snapshot = Snapshot(time=0, tree=TREE, paths=[], tags=tags)
    assert (snapshot.unreadable, snapshot.complete, snapshot.began) == (unreadable, complete, None)
