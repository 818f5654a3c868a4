"""What a source's paths come down to on this host, and which snapshot they are compared with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import orjson

from shared.errors import BackupError
from shared.repository.gojson import json_string
from shared.repository.snapshot import Snapshot
from workers.backup.engine.helper import device_id_for
from workers.backup.engine.selection import Filter, read_patterns
from workers.backup.spec import Selection, StreamSpec

MARGIN = 2 * 10**9  # nanoseconds before the parent's start within which times are not trusted
NETWORK_MARGIN = 120 * 10**9  # the same where another host's clock stamps the files
_NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "gluster", "lustre", "afs", "fuse.", "gpfs", "beegfs", "ocfs2", "gfs")


@dataclass(slots=True)
class Resolved:
    """`paths` are absolute, none inside another; `partial` says which entries of their ancestors are looked at."""

    selection: Selection
    paths: list[bytes]
    partial: dict[bytes, list[bytes]]


def resolve(selection: Selection, *, must_exist: bool = True) -> Resolved:
    """Make paths absolute and find their ancestors. Raises BackupError for a bad pattern, or where none of them exists.

    Unless they need not: a hook may be about to make them.

    A path that leads through a symbolic link is recorded under where it really lies; its last
    component is taken as it is.
    """
    real: list[bytes] = []
    for path in selection.paths:
        absolute: bytes = os.path.abspath(os.fsencode(path))
        absolute = b"/" + absolute.lstrip(b"/")  # POSIX lets two leading slashes stand
        parent, name = os.path.split(absolute)
        real.append(os.path.join(os.path.realpath(parent), name) if name else absolute)
    unique = sorted(set(real))
    paths = [path for path in unique if not any(path != other and _inside(path, other) for other in unique)]
    if must_exist and not any(os.path.lexists(path) for path in paths):
        listed = ", ".join(os.fsdecode(path) for path in paths) or "(none given)"
        raise BackupError(f"none of the paths exists: {listed}", hint="Correct the source's `paths`, or mount them")
    partial: dict[bytes, set[bytes]] = {}
    for source in paths:
        at: bytes = source
        while at != b"/":
            above, last = os.path.split(at)
            partial.setdefault(above, set()).add(last)
            at = above
    absolute_selection = replace(
        selection,
        paths=[os.fsdecode(path) for path in paths],
        excludes=[*selection.excludes, *read_patterns(selection.exclude_files)],
        exclude_files=[],
    )
    Filter(absolute_selection)  # a pattern that can't be understood is told here, not by a helper that dies of it
    return Resolved(absolute_selection, paths, {path: sorted(names) for path, names in partial.items()})


def of_stream(stream: StreamSpec) -> Resolved:
    """The one path of a stream, which is none of this host's."""
    return Resolved(Selection([]), [os.fsencode(stream.path)], {})


def _inside(path: bytes, other: bytes) -> bool:
    return path.startswith(other.rstrip(b"/") + b"/")


def find_parent(
    snapshots: Iterable[Snapshot], source: str, paths: list[bytes], look_after: Callable[[], None]
) -> Snapshot | None:
    """The newest snapshot of the source with these paths: what an incremental is compared with.

    `look_after` is called with each: a repository that many sources share has tens of thousands of them.
    """
    newest: Snapshot | None = None
    # A snapshot's JSON has no bytes that are not UTF-8: what is compared is what is left of a path in it.
    recorded = sorted(orjson.loads(json_string(path)).encode() for path in paths)
    for snapshot in snapshots:
        look_after()
        if (
            snapshot.source == source
            and sorted(snapshot.paths) == recorded
            and (newest is None or (snapshot.time, snapshot.id) > (newest.time, newest.id))
        ):
            newest = snapshot
    return newest


def cache_name(*parts: str) -> str:
    """A file name that stands for these parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def device_ids(paths: list[bytes]) -> dict[int, int]:
    """The identity of each file system that a source path lies on, by st_dev: the first path on it names it."""
    found: dict[int, int] = {}
    for path in paths:
        try:
            found.setdefault(os.lstat(path).st_dev, device_id_for(path))
        except OSError:
            continue  # it is recorded as a problem where it is scanned
    return found


def trusted_before(began: int) -> tuple[int, dict[int, int]]:
    """The time in nanoseconds before which file times are trusted: in general, and by st_dev of network mounts."""
    limits = {}
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                left, _, right = line.partition(" - ")
                if right.startswith(_NETWORK):
                    major, minor = left.split()[2].split(":")
                    limits[os.makedev(int(major), int(minor))] = began - NETWORK_MARGIN
    except OSError:
        return began - NETWORK_MARGIN, {}  # nothing is known of the mounts: the wider margin for all
    return began - MARGIN, limits
