"""Drawing a sample of files: the same for the same run, another for each other run. Pure."""

from __future__ import annotations

import hashlib
import heapq
from typing import NamedTuple


class Candidate(NamedTuple):
    """A file that may be drawn. Sizes in bytes."""

    path: bytes  # relative, without a leading slash
    size: int
    space: int  # that it takes on a disk that keeps holes
    mode: int  # the bits that chmod takes
    mtime: int  # nanoseconds since 1970


class Sample:
    """The `count` files whose hashes with the run's id are smallest, less those that are too much for `budget`.

    So each file has the same chance, whatever its size and wherever it lies, and memory holds `count` files.
    """

    def __init__(self, run: str, count: int, budget: int) -> None:
        """`budget`: bytes that the files have together at most; the first one is drawn whatever its size."""
        self._salt = hashlib.sha256(run.encode()).digest()
        self._count = count
        self._budget = budget
        self._heap: list[tuple[int, Candidate]] = []  # the largest hash, as a negative number, first

    def offer(self, candidate: Candidate) -> None:
        """Take it into account."""
        digest = hashlib.blake2b(candidate.path, key=self._salt, digest_size=16).digest()
        entry = -int.from_bytes(digest, "big"), candidate
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, entry)
        elif entry[0] > self._heap[0][0]:
            heapq.heapreplace(self._heap, entry)

    def drawn(self) -> list[Candidate]:
        """The files, in the order of their draw."""
        found: list[Candidate] = []
        left = self._budget
        for _, candidate in sorted(self._heap, reverse=True):
            if not found or candidate.size <= left:
                found.append(candidate)
                left -= candidate.size
        return found
