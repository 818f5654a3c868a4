"""What a store can do, found out by trying: not every S3 server honours the conditions it is sent."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from shared.errors import StorageError
from shared.storage.api import Capabilities, ObjectStore

_FIRST = b"holdfast probe: first"
_SECOND = b"holdfast probe: second"


def run_probe(store: ObjectStore, *, versioned: Callable[[], bool]) -> Capabilities:
    """Try each capability below `holdfast/probe/<nonce>/` of `store`, and remove what that made.

    `versioned` asks the kind of store in question. Raises the StorageError of a put, a get or
    the clock: a store that can't do those can't be probed. What only some stores can do becomes a note.
    """
    base = f"holdfast/probe/{os.urandom(8).hex()}"
    keys = [f"{base}/{name}" for name in ("range", "absent", "swap")]
    notes: list[str] = []

    def attempt(what: str, consequence: str, trial: Callable[[], bool]) -> bool:
        try:
            if trial():
                return True
            reason = "the store ignores the condition"
        except StorageError as error:
            reason = str(error)
        notes.append(f"no {what} ({reason}): {consequence}")
        return False

    try:
        ranged = _try_range(store, keys[0])
        absent = attempt("put-if-absent", "two runs at once may commit twice", lambda: _try_absent(store, keys[1]))
        swap = attempt("compare-and-swap", "the site can't vote on a failover", lambda: _try_swap(store, keys[2]))
        if not ranged:
            notes.append("no range reads: restores read whole packs")
        is_versioned = False
        try:
            is_versioned = versioned()
        except StorageError as error:
            notes.append(f"can't tell whether overwritten objects are kept ({error})")
        before = time.time()
        clock = store.clock()
        skew = clock - (before + time.time()) / 2
    finally:
        for key in keys:
            with contextlib.suppress(StorageError):  # an identity that may not delete leaves a few bytes
                store.delete(key)
    return Capabilities(
        put_if_absent=absent,
        compare_and_swap=swap,
        range_reads=ranged,
        versioned=is_versioned,
        clock_skew=skew,
        notes=tuple(notes),
    )


def _try_range(store: ObjectStore, key: str) -> bool:
    store.put(key, _FIRST)
    return store.get_range(key, 3, 5) == _FIRST[3:8]


def _try_absent(store: ObjectStore, key: str) -> bool:
    return store.put_if_absent(key, _FIRST) and not store.put_if_absent(key, _SECOND) and store.get(key) == _FIRST


def _try_swap(store: ObjectStore, key: str) -> bool:
    store.put(key, _FIRST)
    _, version = store.get_versioned(key)
    if not store.compare_and_swap(key, _SECOND, version=version):
        return False
    return not store.compare_and_swap(key, _FIRST, version=version) and store.get(key) == _SECOND
