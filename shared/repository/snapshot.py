"""Snapshots: one point in time of one source. Stored sealed, named by the SHA-256 of their stored bytes.

What Holdfast must find again stands in tags (`hf.*`), because tags survive stock `restic tag` and
`rewrite`, and unknown fields do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.repository.errors import Damaged
from shared.repository.gojson import json_string, parse_time, time_string

TAG_PREFIX = "hf."


class Told:
    """What a snapshot's tags and its time say, whoever has them: a `Snapshot`, or `status.Fact`."""

    __slots__ = ()

    id: str
    time: int
    tags: list[str]

    def tag(self, name: str) -> str:
        """The value of `hf.<name>=`, or "" where it has none."""
        start = f"{TAG_PREFIX}{name}="
        return next((tag[len(start) :] for tag in self.tags if tag.startswith(start)), "")

    @property
    def source(self) -> str:
        """The source it is of; "" for a snapshot that is not Holdfast's."""
        return self.tag("source")

    @property
    def complete(self) -> bool:
        """Whether nothing was unreadable. An incomplete one serves its slot, but does not count for the RPO."""
        return not self.unreadable

    @property
    def unreadable(self) -> int:
        """How much could not be read; at least 1 where somebody has made the tag into what is no number."""
        text = self.tag("unreadable")
        return int(text) if text.isdecimal() else int(bool(text))

    @property
    def began(self) -> int | None:
        """The run's start by the source's clock in nanoseconds since 1970; None where it is not known."""
        try:
            return parse_time(self.tag("began"))
        except Damaged:
            return None

    @property
    def serves(self) -> str:
        """The slot that it serves, as text that compares as times do; without one (--direct) when it began."""
        return self.tag("slot") or time_string((self.began or self.time) // 10**9 * 10**9)

    @property
    def serves_full(self) -> str:
        """The slot of the newest full one that it knows of, itself included; "" for none."""
        return max(self.tag("lastfull"), self.serves if self.tag("kind") == "full" else "")


@dataclass(slots=True)
class Snapshot(Told):
    """A snapshot's fields. `time` is nanoseconds since 1970 by the store's clock; `tree` a blob id of 32 bytes."""

    time: int
    tree: bytes
    paths: list[bytes]
    hostname: str = ""
    username: str = ""
    uid: int = 0
    gid: int = 0
    excludes: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    parent: str = ""
    original: str = ""
    program_version: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    id: str = ""  # hex; known once it is stored
    size: int = field(default=0, compare=False)  # bytes as it is stored, where they are known


def make_tags(
    *, source: str, run: str, kind: str, slot: str, last_full: str, unreadable: int, began: int, more: list[str]
) -> list[str]:
    """The tags of a new snapshot. `began`: nanoseconds by the source's clock. Raises ValueError for a comma."""
    tags = [f"hf.source={source}", f"hf.run={run}", f"hf.kind={kind}", f"hf.began={time_string(began)}"]
    tags += [f"hf.slot={slot}"] if slot else []
    tags += [f"hf.lastfull={last_full}"] if last_full else []
    tags += [f"hf.unreadable={unreadable}"] if unreadable else []
    tags += more
    for tag in tags:
        if "," in tag:
            raise ValueError(f"the tag {tag!r} holds a comma, which restic takes as a separator")
    return tags


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The JSON of a snapshot, its fields in restic's order."""
    parts = [f'"time":"{time_string(snapshot.time)}"']
    if snapshot.parent:
        parts.append(f'"parent":"{snapshot.parent}"')
    parts.append(f'"tree":"{snapshot.tree.hex()}"')
    parts.append(f'"paths":[{",".join(json_string(path) for path in snapshot.paths)}]')
    for name, text in (("hostname", snapshot.hostname), ("username", snapshot.username)):
        if text:
            parts.append(f'"{name}":{_text(text)}')
    parts += [f'"{name}":{number}' for name, number in (("uid", snapshot.uid), ("gid", snapshot.gid)) if number]
    for name, values in (("excludes", snapshot.excludes), ("tags", snapshot.tags)):
        if values:
            parts.append(f'"{name}":[{",".join(_text(value) for value in values)}]')
    if snapshot.original:
        parts.append(f'"original":"{snapshot.original}"')
    if snapshot.program_version:
        parts.append(f'"program_version":{_text(snapshot.program_version)}')
    if snapshot.summary:
        parts.append(f'"summary":{orjson.dumps(snapshot.summary).decode()}')
    return f"{{{','.join(parts)}}}".encode()


def _text(value: str) -> str:
    return json_string(value.encode("utf-8", "surrogateescape"))


def decode_snapshot(raw: bytes, snapshot_id: str) -> Snapshot:
    """Read a snapshot's JSON, ours or restic's. Raises Damaged."""
    try:
        data = orjson.loads(raw)
        get = data.get
        tree = bytes.fromhex(data["tree"])
        if len(tree) != 32:
            raise Damaged(f"snapshot {snapshot_id[:8]}: expected a tree id of 32 bytes, got {len(tree)}")
        return Snapshot(
            time=parse_time(data["time"]),
            tree=tree,
            paths=[path.encode() for path in data["paths"] or []],
            hostname=get("hostname", ""),
            username=get("username", ""),
            uid=get("uid", 0),
            gid=get("gid", 0),
            excludes=get("excludes") or [],
            tags=get("tags") or [],
            parent=get("parent", ""),
            original=get("original", ""),
            program_version=get("program_version", ""),
            summary=get("summary") or {},
            id=snapshot_id,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"snapshot {snapshot_id[:8]}: not the JSON that was expected ({error!r})") from error
