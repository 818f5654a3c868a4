"""All snapshots of a repository, as they are stored: from the local cache what it has, the rest fetched in parallel.

Memory grows with the listing alone (some 200 bytes a snapshot): of stored bytes no more are held than are under way.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeAlias

from shared.repository.snapshotcache import SnapshotCache
from shared.storage.api import MissingObject, ObjectStore

SNAPSHOTS = "snapshots/"
_ID = re.compile(r"[0-9a-f]{64}")
_AHEAD = 4  # names that wait for each connection, so that none does

_Answers: TypeAlias = "SimpleQueue[tuple[str, bytes | BaseException]]"


def stored_snapshots(store: ObjectStore, cache: SnapshotCache | None = None) -> Iterator[tuple[str, bytes]]:
    """Id (hex) and stored bytes of every snapshot, in no set order. Whether bytes fetched fit the id is not looked at.

    A name that is no id is passed over, as stock restic does, and so is what vanishes meanwhile. What breaks it off
    leaves in the cache what was fetched. Raises StorageError.
    """
    listed = ((info.key.rpartition("/")[2], info.size) for info in store.list(SNAPSHOTS))
    wanted = {name: size for name, size in listed if _ID.fullmatch(name)}
    if cache is None:
        yield from _fetched(store, wanted)
        return
    try:
        yield from cache.take(wanted)
        for name, stored in _fetched(store, wanted):
            cache.add(name, stored)
            yield name, stored
    finally:
        cache.settle()


def _fetched(store: ObjectStore, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes, by as many threads as the store has connections; those that are there no more are left out."""
    for name, answer in _answers(store, iter(names)):
        if isinstance(answer, MissingObject):
            continue  # forgotten between the listing and the reading
        if isinstance(answer, BaseException):
            raise answer
        yield name, answer


def _answers(store: ObjectStore, names: Iterator[str]) -> Iterator[tuple[str, bytes | BaseException]]:
    asked: SimpleQueue[str | None] = SimpleQueue()
    answers: _Answers = SimpleQueue()
    threads: list[threading.Thread] = []
    under_way = 0
    try:
        while True:
            while under_way < _AHEAD * store.connections and (name := next(names, None)) is not None:
                if store.connections == 1:
                    yield name, _get(store, name)  # nothing to wait for meanwhile
                    continue
                under_way += 1
                asked.put(name)
                if len(threads) < min(store.connections, under_way):
                    # Ended by the process's end at the latest: a site that hangs must not hold that up.
                    threads.append(threading.Thread(target=_work, args=(store, asked, answers), daemon=True))
                    threads[-1].start()
            if not under_way:
                break
            yield answers.get()
            under_way -= 1
    finally:
        with contextlib.suppress(Empty):
            while True:
                asked.get_nowait()
        for _ in threads:
            asked.put(None)
    for thread in threads:
        thread.join()  # nothing is under way: whoever forks next forks no thread


def _work(store: ObjectStore, asked: SimpleQueue[str | None], answers: _Answers) -> None:
    while (name := asked.get()) is not None:
        answers.put((name, _get(store, name)))


def _get(store: ObjectStore, name: str) -> bytes | BaseException:
    try:
        return store.get(SNAPSHOTS + name)
    except BaseException as error:  # noqa: BLE001 - raised again by whoever reads the answers
        return error
