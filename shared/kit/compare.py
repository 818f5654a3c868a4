"""What has changed since a kit was made. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.config.document import parse
from shared.kit import archive
from shared.kit.archive import Kit

_SECTIONS = ("sites", "sources", "policies", "regions", "restore_into")


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One thing. `what` is a key of the configuration, or `topology`; `how`: new, gone, changed."""

    what: str
    how: str


def changes(kit: Kit, now: Kit) -> list[Change]:
    """All of them. Temporary credentials, which always differ, do not count."""
    return sorted({*_configuration(kit, now), *_files(kit, now), *_topology(kit, now)})


def _configuration(kit: Kit, now: Kit) -> Iterator[Change]:
    old, new = _data(kit), _data(now)
    for section in _SECTIONS:
        yield from _mapping(f"{section}.", old.pop(section, None) or {}, new.pop(section, None) or {})
    yield from _mapping("", old, new)


def _data(kit: Kit) -> dict[str, Any]:
    data: Any = parse(kit.files[archive.CONFIG].decode()).data
    return dict(data)


def _mapping(prefix: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[Change]:
    for name in {*old, *new}:
        if name not in new:
            yield Change(prefix + name, "gone")
        elif name not in old:
            yield Change(prefix + name, "new")
        elif old[name] != new[name]:
            yield Change(prefix + name, "changed")


def _files(kit: Kit, now: Kit) -> Iterator[Change]:
    passing = {f"secrets/{key}" for one in (kit, now) for key in one.manifest["temporary"]}
    old, new = ({name: data for name, data in one.files.items() if _counts(name)} for one in (kit, now))
    for change in _mapping("", old, new):
        if change.what not in passing:
            yield Change(change.what.partition("/")[2].replace("~", "/"), change.how)


def _counts(name: str) -> bool:
    return name.startswith(("secrets/", "files/"))


def _topology(kit: Kit, now: Kit) -> Iterator[Change]:
    if standing(kit.files.get(archive.TOPOLOGY, b"")) != standing(now.files.get(archive.TOPOLOGY, b"")):
        yield Change("topology", "changed")


def standing(raw: bytes) -> object:
    """What of a remembered topology tells where things are: its members, and which site stands in for which."""
    try:
        state = json.loads(raw or b"{}").get("state") or {}
        return sorted(state.get("members", [])), sorted(state.get("stand_ins", {}).items())
    except (ValueError, AttributeError, TypeError):
        return [], []
