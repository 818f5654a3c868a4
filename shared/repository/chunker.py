"""Where a file is cut: FastCDC v2020 with a seed of the repository's own.

The seed comes from the master key, so that the lengths of chunks give nothing away about known
files, and from nothing else, so that every host of a repository cuts alike. The seam is `Chunker`:
an adopted repository will want restic's Rabin with its own polynomial.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Literal, Protocol

from shared.repository.crypto import MasterKey

MIN_SIZE, AVERAGE_SIZE, MAX_SIZE = 512 << 10, 1 << 20, 8 << 20
NORMALISATION: Literal[1] = 1


class Chunker(Protocol):
    """Finds cut points."""

    def cut(self, data: memoryview, *, final: bool) -> Iterator[int]:
        """Lengths of the chunks of `data`, in order.

        Unless `final`, the last one (at most MAX_SIZE bytes) is not given, as it may have been cut by
        the end of `data` alone: it is to be presented again with what follows it.
        """


class FastCdcChunker:
    """Ours. Safe for one thread."""

    def __init__(self, seed: int) -> None:
        from pyfastcdc import FastCDC  # a compiled module that a scan of unchanged files does not need

        self._cdc = FastCDC(
            avg_size=AVERAGE_SIZE,
            min_size=MIN_SIZE,
            max_size=MAX_SIZE,
            normalized_chunking=NORMALISATION,
            seed=seed,
        )

    def cut(self, data: memoryview, *, final: bool) -> Iterator[int]:
        """See Chunker."""
        left = len(data)
        for chunk in self._cdc.cut_buf(data):
            left -= chunk.length
            if final or left:
                yield chunk.length


def seed_for(key: MasterKey) -> int:
    """The chunker's seed of a repository: 63 bits of an HMAC over its master key, never 0."""
    digest = hmac.new(key.to_bytes(), b"holdfast chunker 1", hashlib.sha256).digest()
    # The HMAC's key is encrypt|k|r and its message the label: the domain of this one use.
    return int.from_bytes(digest[:8], "big") & (2**63 - 1) or 1
