"""Which packs count as absent: the one function that says so.

A blob in an absent pack is stored again by a backup and fetched again by replication. Absent is a
pack that is missing or has the wrong size (a listing must be compared for that: a full backup does),
one in quarantine (verification found it damaged) and one that prune has doomed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shared.storage.api import ObjectStore

QUARANTINE, DOOMED = "holdfast/quarantine/", "holdfast/doomed/"
_PAGE = 1000  # objects that S3 lists in one answer


def marked_packs(store: ObjectStore) -> frozenset[bytes]:
    """The packs that stand in quarantine or are doomed. One listing each; costs nothing to speak of."""
    return frozenset(
        bytes.fromhex(name)
        for prefix in (QUARANTINE, DOOMED)
        for name in (info.key.rpartition("/")[2] for info in store.list(prefix))
        if len(name) == 64
    )


def absent_packs(
    store: ObjectStore,
    expected: Iterable[tuple[bytes, int]] | None = None,
    look_after: Callable[[], None] = lambda: None,
) -> frozenset[bytes]:
    """All packs that count as absent.

    `expected`: (pack id, size in bytes) of every pack that the index lists, to be compared with the
    store's listing, which takes memory for the listing's ids; None trusts the index. `look_after` is called
    once for every thousand of them, since a large listing takes minutes.
    """
    marked = marked_packs(store)
    if expected is None:
        return marked
    listed = {}
    for info in store.list("data/"):
        name = info.key.rpartition("/")[2]
        if len(name) == 64:
            listed[bytes.fromhex(name)] = info.size
            if len(listed) % _PAGE == 0:
                look_after()
    return marked | frozenset(pack for pack, size in expected if listed.get(pack) != size)
