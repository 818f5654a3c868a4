"""Packs, looked at whole, and replaced by the bytes that their name stands for where a site has them.

Invariant: what is put hashes to its name, and counts as healed only once it has been read back. A pack is called broken
only after it was read here just now and no site gave it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import TypeVar

from shared.repository.crypto import Sealer
from shared.repository.errors import Damaged
from shared.repository.pack import Blob, decode_header, header_length
from shared.repository.repository import Repository, pack_key
from shared.storage.api import MissingObject, Permanent
from workers.healing.others import Others, Taken
from workers.healing.putting import put_named

Answer = TypeVar("Answer")


class State(Enum):
    """What a pack is now."""

    SOUND = 1  # it was whole all the time
    HEALED = 2  # it is whole now, or would be
    BLOCKED = 3  # a site has it whole, and it can't be put here
    BROKEN = 4  # nobody has it whole


@dataclass(frozen=True, slots=True)
class Looked:
    """A pack that was looked at. `blobs` are those of its header; of one that is broken there may be none."""

    pack: bytes
    state: State
    blobs: list[Blob] = field(default_factory=list)
    by: str = ""  # the site that gave it
    size: int = 0  # bytes that were put
    why: str = ""  # it is not whole
    here: bool = True  # something lies under its name


class Packs:
    """For one thread, which has others work. `heed` is called now and then, and may raise."""

    def __init__(
        self, repo: Repository, others: Others, threads: ThreadPoolExecutor, heed: Callable[[], None], *, dry_run: bool
    ) -> None:
        self._repo = repo
        self._others = others
        self._threads = threads
        self._heed = heed
        self._dry_run = dry_run
        self._own = threading.local()

    def mend(self, packs: Iterable[bytes]) -> Iterator[Looked]:
        """Look at each whole, and replace it where need be. Raises StorageError of this site."""
        return self._each(self._mend, packs)

    def is_whole(self, pack: bytes) -> bool:
        """Whether it hashes to its name, here and now. Raises StorageError."""
        return hashlib.sha256(self._get(pack) or b"").digest() == pack

    def headers(self, packs: Iterable[bytes]) -> Iterator[Looked]:
        """What packs hold that lie here, by their headers; one whose header can't be read is looked at whole."""
        return self._each(self._header, packs)

    def _each(self, work: Callable[[bytes], Answer], packs: Iterable[bytes]) -> Iterator[Answer]:
        """As many at once as pay; memory holds no more packs than that."""
        left = iter(packs)
        while some := list(islice(left, self._repo.store.connections)):
            self._heed()
            yield from self._threads.map(work, some)

    def _get(self, pack: bytes) -> bytes | None:
        try:
            return self._repo.store.get(pack_key(pack))
        except (MissingObject, Permanent):
            return None

    def _mend(self, pack: bytes) -> Looked:
        data = self._get(pack)
        if data is not None and hashlib.sha256(data).digest() == pack:
            return Looked(pack, State.SOUND, self._blobs(data))
        taken = self._others.named(pack_key(pack), pack.hex())
        if isinstance(taken, Taken):
            blobs, size = self._blobs(taken.data), len(taken.data)
            problem = "" if self._dry_run else put_named(self._repo.store, pack_key(pack), taken.data, pack.hex())
            if problem:
                return Looked(pack, State.BLOCKED, why=f"{taken.site} has it whole; {problem}")
            return Looked(pack, State.HEALED, blobs, taken.site, size)
        return Looked(pack, State.BROKEN, self._blobs(data or b""), why=taken, here=data is not None)

    def _header(self, pack: bytes) -> Looked:
        own: Repository | None = getattr(self._own, "repo", None)
        if own is None:  # a repository is for one thread
            own = self._own.repo = Repository(self._repo.store, self._repo.key)
        try:
            return Looked(pack, State.SOUND, own.pack_header(pack))
        except (Damaged, MissingObject, Permanent):
            return self._mend(pack)

    def _blobs(self, data: bytes) -> list[Blob]:
        own: Sealer | None = getattr(self._own, "sealer", None)
        if own is None:
            own = self._own.sealer = self._repo.sealer()
        try:
            length = header_length(data, len(data))
            return decode_header(own.unseal(memoryview(data)[-length - 4 : -4]), len(data))
        except Damaged:
            return []
