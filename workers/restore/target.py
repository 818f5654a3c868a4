"""The target as it is found: empty, ours from an interrupted restore, or somebody's.

A target that was empty gets a marker file while it is written to. So a restore that was broken off is told
from files that somebody keeps there, and takes up where it ended; the marker goes last.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from shared.errors import RestoreError, UsageError
from shared.repository.snapshot import Snapshot
from workers.restore.places import open_target
from workers.restore.spec import RestoreSpec
from workers.restore.within import admit, enter

MARKER = ".holdfast-restore-"
_IGNORED = frozenset({"lost+found"})  # what a fresh file system holds


@dataclass(slots=True)
class Target:
    """Where a restore writes, and how."""

    path: str
    run: str  # the same for the same restore run again
    exists: bool
    holds: bool  # whether something is in it that must be looked at
    resumed: bool
    policy: str
    folder: str = ""  # the one of `spec.within` that holds it, as it really is; empty: anywhere will do

    @property
    def marker(self) -> str:
        """The path of the marker file."""
        return os.path.join(self.path, MARKER + self.run)

    def prepare(self) -> tuple[int, int]:
        """Make it where it is missing, and mark it; its identity (st_dev, st_ino). Raises RestoreError."""
        try:
            if self.folder:
                here = enter(self.folder, self.path)
            else:
                if not self.exists:
                    os.makedirs(self.path, mode=0o700, exist_ok=True)
                here = open_target(self.path)
            try:
                if not self.holds:
                    self._mark(here)
                found = os.fstat(here)
            finally:
                os.close(here)
        except OSError as error:
            raise RestoreError(f"the target {self.path} can't be written to: {error.strerror}") from error
        return found.st_dev, found.st_ino

    def _mark(self, here: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(MARKER + self.run, flags, 0o600, dir_fd=here)
        os.write(fd, b"A restore writes here. Where it was broken off, run the same restore again.\n")
        os.close(fd)

    def complete(self) -> None:
        """Take the marker away: nothing is left to be taken up."""
        if not self.holds or self.resumed:
            try:
                os.unlink(self.marker)
            except FileNotFoundError:
                return

    def require_space(self, planned: int, nodes: int) -> None:
        """Raise RestoreError where `planned` bytes or so many nodes do not fit."""
        place = self.path
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        found = os.statvfs(place)
        free = (found.f_bavail if os.geteuid() else found.f_bfree) * found.f_frsize
        if planned > free:
            raise RestoreError(
                f"the target {self.path} is too small: {planned} bytes are to be written, {free} are free",
                hint="Nothing was written. Choose another target, or restore less of it (paths, patterns)",
            )
        if found.f_files and nodes > found.f_ffree:
            raise RestoreError(
                f"the target {self.path} is too small: {nodes} files are to be made, {found.f_ffree} inodes are left",
                hint="Nothing was written. Choose another target, or restore less of it (paths, patterns)",
            )


def examine(spec: RestoreSpec, snapshot: Snapshot) -> Target:
    """Look at the target; nothing is written. Raises UsageError, RestoreError."""
    run = _run_id(spec, snapshot)
    if spec.in_place:
        if spec.target:
            raise UsageError("a restore in place takes no target")
        return Target("/", run, exists=True, holds=True, resumed=False, policy=spec.overwrite or "if-changed")
    if not spec.target:
        raise UsageError("the restore has no target", hint="Name a directory, or restore in place")
    path, folder = os.path.abspath(spec.target), ""
    if spec.within is not None:
        folder, path = admit(path, spec.within)
    target = _look(spec, path, run)
    target.folder = folder
    return target


def _look(spec: RestoreSpec, path: str, run: str) -> Target:
    try:
        names = set(os.listdir(path)) - _IGNORED
    except FileNotFoundError:
        return Target(path, run, exists=False, holds=False, resumed=False, policy="always")
    except NotADirectoryError:
        raise RestoreError(f"the target {path} is not a directory") from None
    except OSError as error:
        raise RestoreError(f"the target {path} can't be read: {error.strerror}") from error
    if not names:
        return Target(path, run, exists=True, holds=False, resumed=False, policy="always")
    if MARKER + run in names:
        return Target(path, run, exists=True, holds=True, resumed=True, policy="if-changed")
    other = any(name.startswith(MARKER) for name in names)
    if not spec.overwrite:
        raise RestoreError(
            f"the target {path} is not empty" + (": a restore of something else was broken off there" if other else ""),
            hint="Choose an empty or new directory, or say what is to become of what is there "
            "(overwrite: always, if-changed, if-newer, never)",
        )
    return Target(path, run, exists=True, holds=True, resumed=False, policy=spec.overwrite)


def _run_id(spec: RestoreSpec, snapshot: Snapshot) -> str:
    parts = (snapshot.id, spec.base, *spec.paths, "", *spec.includes, "", *spec.excludes)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
