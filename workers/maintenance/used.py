"""The ids of all blobs that snapshots refer to, however many: in sorted runs on disk, read back a 256th at a time.

A helper collects ids and writes them when it has enough; whoever compares them with the index holds one part of all
runs at once. Ids of trees are few beside those of data, and whoever walks them holds them anyway. The file has no name,
so that nothing is left of it when its helper ends, however that comes.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterable
from typing import BinaryIO

from shared.errors import HoldfastError
from shared.repository.indexcache.scan import PARTS

_RUN = 200_000  # ids in memory before a run is written: some 20 MB
_ID = 32  # bytes
_AGAIN = "Nothing is lost by it; see to the disk under `cache_dir`, and prune again"

Run = tuple[str, list[int]]  # a file, and where each part begins in it, in bytes; the last is the end


class Collector:
    """Takes ids and writes them to a file in a folder. For one process; its file ends with it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._ids: set[bytes] = set()
        self._runs: list[Run] = []
        self._size = 0

    def add(self, ids: Iterable[bytes]) -> None:
        """Note that these are used. Raises HoldfastError where the disk takes no more."""
        self._ids.update(ids)
        if len(self._ids) >= _RUN:
            self._write()

    def take(self) -> list[Run]:
        """The runs since the last call."""
        if self._ids:
            self._write()
        runs, self._runs = self._runs, []
        return runs

    def close(self) -> None:
        """Give up the file: nothing of it can be read any more."""
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        ordered = sorted(self._ids)
        self._ids.clear()
        starts = [bisect_left(ordered, bytes((first,))) for first in range(PARTS)]
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - for as long as this process lives
            self._file.write(b"".join(ordered))
            self._file.flush()
        except OSError as error:
            raise HoldfastError(
                f"the ids of used blobs can't be kept in {self._folder}: {error.strerror}",
                hint="Some 32 bytes for each chunk and small file of all snapshots are needed there: see to the "
                "space and rights of `cache_dir`",
            ) from error
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        self._runs.append((path, [self._size + _ID * start for start in (*starts, len(ordered))]))
        self._size += _ID * len(ordered)


class UsedIds:
    """What is used, of all helpers together. Only grows: what a snapshot referred to once may count for longer."""

    def __init__(self) -> None:
        self.trees: set[bytes] = set()
        self._runs: list[Run] = []

    def extend(self, runs: Iterable[Run]) -> None:
        """Take over runs that a helper has written."""
        self._runs += runs

    def tree_parts(self) -> list[list[bytes]]:
        """The trees by the first byte of their ids."""
        parts: list[list[bytes]] = [[] for _ in range(PARTS)]
        for tree in self.trees:
            parts[tree[0]].append(tree)
        return parts

    def data(self, first: int) -> set[bytes]:
        """The data blobs whose ids begin with this byte. Raises HoldfastError where they can't be read back."""
        found: set[bytes] = set()
        for path, starts in self._runs:
            begin, size = starts[first], starts[first + 1] - starts[first]
            if size:
                found.update(_read(path, begin, size))
        return found


def _read(path: str, begin: int, size: int) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            raw = os.pread(file.fileno(), size, begin)
    except OSError as error:
        raise HoldfastError(f"the ids of used blobs can't be read at {path}: {error.strerror}", hint=_AGAIN) from error
    if len(raw) != size:  # what is not read would pass for unused
        raise HoldfastError(
            f"the ids of used blobs at {path} are cut: expected {size} bytes, got {len(raw)}", hint=_AGAIN
        )
    return [raw[at : at + _ID] for at in range(0, size, _ID)]
