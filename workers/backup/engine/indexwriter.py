"""Index files, written in a thread: to encode 50,000 entries takes long enough for every helper to run dry.

Invariant: one index file is under way at a time, and what is taken from here is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from shared.repository.index import encode_index
from shared.repository.pack import Blob, BlobType, from_records
from shared.repository.repository import Repository

Queued = tuple[bytes, list[tuple[BlobType, bytes]]]  # a pack and its blobs, as records by type
Prepare = Callable[[str, Iterable[tuple[bytes, list[Blob]]]], None]


class IndexWriter:
    """See the module. For one thread, beside its own."""

    def __init__(self, repo: Repository, prepare: Prepare) -> None:
        self._repo = repo
        self._sealer = repo.sealer()
        self._prepare = prepare
        self._thread: threading.Thread | None = None
        self._packs: list[Queued] = []
        self._name = ""
        self._failed: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether an index file was started and not taken yet."""
        return self._thread is not None

    def start(self, packs: list[Queued]) -> None:
        """Begin to write these. Nothing may be under way."""
        self._packs = packs
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, *, wait: bool) -> tuple[str, list[Queued]] | None:
        """The index file (hex) that has been stored, and its packs; None where there is none yet.

        Raises what storing it raised.
        """
        if self._thread is None or (not wait and self._thread.is_alive()):
            return None
        self._thread.join()
        self._thread = None
        packs, self._packs = self._packs, []
        if self._failed is not None:
            raise self._failed
        return self._name, packs

    def end(self) -> None:
        """Wait for what is under way, whatever comes of it: an index file is put only while our lock stands."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            # Pack by pack, both times: 50,000 entries as objects would be the most that a coordinator holds.
            parts = encode_index((pack, blobs_of(parts)) for pack, parts in self._packs)
            self._name = self._repo.save("index", *parts, sealer=self._sealer)
            del parts
            self._prepare(self._name, ((pack, blobs_of(parts)) for pack, parts in self._packs))
        except Exception as error:  # noqa: BLE001 -- carried to the thread that takes
            self._failed = error


def blobs_of(parts: list[tuple[BlobType, bytes]]) -> list[Blob]:
    """The blobs of one pack, in the order in which they lie in it."""
    listed = [blob for kind, records in parts for blob in from_records(kind, records)]
    return sorted(listed, key=lambda blob: blob.offset)
