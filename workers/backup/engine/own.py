"""What Holdfast itself writes to on this machine, as far as it lies in a source: it is left out.

A backup that took in its own repository would make each one larger than the one before; caches and the logs,
too, change under it. Such a place is looked for under every path at which it can be met: where it really lies,
and through other mounts of its file system (a container, say, that sees the disk of its host below /host).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from shared.errors import BackupError
from shared.storage.durable import HIDDEN_PREFIX
from shared.storage.open import parse_url
from workers.backup.engine.selection import Filter
from workers.backup.spec import BackupSpec

_MOUNTS = "/proc/self/mountinfo"
_TOPS = (b"repos", b"holdfast")  # what a site holds


def leave_out(spec: BackupSpec, paths: list[bytes]) -> list[str]:
    """Leave such places out of the source, whose paths are these; notes for a person.

    None where the source's own patterns leave them out anyway. Raises BackupError where a path lies in one.
    """
    places = own_places(spec, paths)
    rules = Filter(spec.selection)
    told = [place for place in places if not any(_leaves_out(rules, path, place) for path in paths)]
    spec.selection.own = [os.fsdecode(place) for place in places]
    if not told:
        return []
    listed = ", ".join(os.fsdecode(place).encode(errors="backslashreplace").decode() for place in told)
    return [f"left out, as Holdfast itself writes there: {listed}"]


def own_places(spec: BackupSpec, paths: list[bytes]) -> list[bytes]:
    """What is to be left out of these source paths. Raises BackupError where one of them lies in such a place."""
    found: set[bytes] = set()
    for place in _written_to(spec):
        for seen in seen_as(place):
            for path in paths:
                if path == seen or _below(path, seen):
                    raise BackupError(
                        f"source {spec.source}: {os.fsdecode(path)} lies in {os.fsdecode(seen)}, where Holdfast itself "
                        "writes: a backup would back itself up",
                        hint="Correct the source's `paths`, or keep the site, `cache_dir` and `state_dir` elsewhere",
                    )
                if _below(seen, path):
                    found.add(seen)
    return sorted(place for place in found if not any(_below(place, other) for other in found))


def _written_to(spec: BackupSpec) -> Iterator[bytes]:
    yield from (os.fsencode(folder) for folder in (spec.cache_dir, spec.state_dir) if folder)
    site = parse_url(spec.site.url)
    if site.is_s3:
        return
    top = os.fsencode(site.path)
    try:
        names = set(os.listdir(top))
    except OSError:
        names = set()
    names = {name for name in names if not name.startswith(os.fsencode(HIDDEN_PREFIX))}
    if spec.repository and names - {*_TOPS, b"lost+found"}:  # somebody keeps other things there
        yield from (os.path.join(top, name) for name in _TOPS)
    else:
        yield top


def seen_as(place: bytes) -> set[bytes]:
    """The absolute paths, without symbolic links, at which this place is met; it need not exist."""
    real = os.path.realpath(place)
    found = {real}
    there, rest = real, b""
    while not os.path.lexists(there):
        there, name = os.path.split(there)
        rest = os.path.join(b"/" + name, rest.lstrip(b"/")) if rest else b"/" + name
    mounts = _mounts()
    around = [mount for mount in mounts if there == mount.point or _below(there, mount.point)]
    if not around:
        return found
    mount = max(reversed(around), key=lambda mount: len(mount.point))  # of those at one point the last is on top
    inside = _move(there, mount.point, mount.root)
    for other in mounts:
        if other.device != mount.device:
            continue
        if inside == other.root or _below(inside, other.root):
            seen = _move(inside, other.root, other.point)
            if _same(seen, there):  # else another mount hides it
                found.add(seen.rstrip(b"/") + rest)
        elif not rest and _below(other.root, inside) and _same(other.point, _move(other.root, inside, there)):
            found.add(other.point)  # a part of it
    return found


class _Mount(NamedTuple):
    device: bytes  # major:minor
    root: bytes  # what of its file system is mounted
    point: bytes


def _mounts() -> list[_Mount]:
    try:
        with open(_MOUNTS, "rb") as file:
            fields = [line.split(b" ", 5) for line in file]
    except OSError:
        return []
    return [_Mount(device, _unescape(root), _unescape(point)) for _, _, device, root, point, _ in fields]


def _unescape(path: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes((int(octal[1], 8),)), path)


def _below(path: bytes, other: bytes) -> bool:
    return path != other and path.startswith(other.rstrip(b"/") + b"/")


def _move(path: bytes, old: bytes, new: bytes) -> bytes:
    """`path`, which is `old` or lies below, as seen when `old` is at `new`."""
    rest = path[len(old.rstrip(b"/")) :].lstrip(b"/")
    return os.path.join(new, rest) if rest else new


def _same(path: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.stat(other))
    except OSError:
        return False


def _leaves_out(rules: Filter, path: bytes, place: bytes) -> bool:
    if not _below(place, path):
        return False
    at = path
    for name in place[len(path.rstrip(b"/")) + 1 :].split(b"/"):
        if rules.excluded(at, [name], lambda _: True):
            return True
        at = os.path.join(at, name)
    return False
