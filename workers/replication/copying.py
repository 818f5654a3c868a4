"""Packs, copied whole and byte for byte by several threads, so that as many are under way as pay.

Invariant: what does not hash to its name is not put. A pack that lies there already in its right size is not copied
again, if its own header, which is authenticated, can be read there: a put is whole or not at all, so this is what a
broken off replication has left. Memory: the packs that are under way, and no more than `IN_FLIGHT` bytes of them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from shared.repository.crypto import Sealer
from shared.repository.errors import Damaged
from shared.repository.pack import Blob, decode_header, header_length
from shared.repository.repository import Repository, pack_key
from shared.storage.api import MissingObject, Permanent
from workers.replication.walk import BadPack

IN_FLIGHT = 256 << 20  # bytes of packs
_TICK = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Arrived:
    """A pack that is at the other site now. `size` in bytes; `copied`: it was not there before."""

    pack: bytes
    blobs: list[Blob]
    size: int
    copied: bool


class Copier:
    """Copies packs from one repository to the same one at another site. For one thread, which has others copy."""

    def __init__(self, origin: Repository, target: Repository, threads: ThreadPoolExecutor) -> None:
        self._origin = origin
        self._target = target
        self._threads = threads
        self._own = threading.local()
        self._lying: Mapping[str, int] | None = None  # all packs of the target and their sizes, where they were listed

    def look_around(self) -> None:
        """List what lies at the target, once, instead of asking for each pack: for many packs. Raises StorageError."""
        if self._lying is None:
            listed = self._target.store.list("data/")
            self._lying = {info.key.rpartition("/")[2]: info.size for info in listed}

    def copy(
        self, packs: Mapping[bytes, int], suspect: Collection[bytes], heed: Callable[[], None]
    ) -> Iterator[Arrived | BadPack]:
        """Each of these packs (id, size in bytes by the origin's index) as it arrives, or what is wrong with it.

        Those that are `suspect` are copied though they lie there. `heed` is called now and then, and may raise. Raises
        StorageError; what is under way then ends by itself.
        """
        left = iter(packs.items())
        following = next(left, None)
        under_way: dict[Future[Arrived | BadPack], int] = {}
        held = 0
        try:
            while under_way or following is not None:
                while following is not None and (not under_way or held + following[1] <= IN_FLIGHT):
                    pack, size = following
                    under_way[self._threads.submit(self._one, pack, size, pack in suspect)] = size
                    held += size
                    following = next(left, None)
                done, _ = wait(under_way, _TICK, FIRST_COMPLETED)
                heed()
                for future in done:
                    held -= under_way.pop(future)
                    yield future.result()
        finally:
            for future in under_way:
                future.cancel()

    def _one(self, pack: bytes, size: int, suspect: bool) -> Arrived | BadPack:
        if not suspect:
            there = self._there(pack, size)
            if there is not None:
                return Arrived(pack, there, size, copied=False)
        key, name = pack_key(pack), pack.hex()
        where = f"pack {name} at {self._origin.store.url}"
        try:
            data = self._origin.store.get(key)
        except MissingObject:
            return BadPack(pack, f"{where} is missing")
        except Permanent as error:
            return BadPack(pack, f"{where} can't be read: {error.args[0]}")
        got = hashlib.sha256(data).hexdigest()
        if got != name:
            return BadPack(pack, f"{where} is damaged: its {len(data)} bytes hash to {got[:16]}")
        try:
            blobs = self._header(data)
        except Damaged as error:
            return BadPack(pack, f"{where} is damaged: {error.args[0]}")
        self._target.store.put(key, data, sha256=name)
        return Arrived(pack, blobs, len(data), copied=True)

    def _there(self, pack: bytes, size: int) -> list[Blob] | None:
        """What a pack that lies at the other site holds; None where it is to be copied."""
        if self._lying is not None and self._lying.get(pack.hex()) != size:
            return None
        own: Repository | None = getattr(self._own, "target", None)
        if own is None:  # a repository is for one thread
            own = self._own.target = Repository(self._target.store, self._target.key)
        try:
            if self._lying is None and own.store.stat(pack_key(pack)).size != size:
                return None
            return own.pack_header(pack)
        except (MissingObject, Damaged):
            return None

    def _header(self, data: bytes) -> list[Blob]:
        own: Sealer | None = getattr(self._own, "sealer", None)
        if own is None:
            own = self._own.sealer = self._origin.sealer()
        length = header_length(data, len(data))
        return decode_header(own.unseal(memoryview(data)[-length - 4 : -4]), len(data))
