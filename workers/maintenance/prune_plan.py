"""What of each pack is used, and what follows from that: which packs go, and which are copied out of first.

Pure but for the scan. A used blob that lies in several packs counts for one of them, the soundest and fullest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from shared.repository.crypto import OVERHEAD
from shared.repository.indexcache.layout import RECORD
from shared.repository.indexcache.scan import Scan
from shared.repository.pack import ENTRY_COMPRESSED, LENGTH_FIELD, Blob, BlobType, to_records
from workers.maintenance.used import UsedIds

_MISSING_SHOWN = 1000
_ALL = 100.0  # per cent
Parts = list[tuple[int, bytes]]  # blobs of one pack: their type, and they as records


@dataclass(slots=True)
class PackUse:
    """A pack that an index lists. `size` as its entries imply, in bytes."""

    id: bytes
    size: int
    indexes: list[bytes]  # the index files that list it
    sound: bool  # it is there, with that size
    marked: int = 0  # 1: doomed; 2: in quarantine
    odd: bool = False  # index files do not agree on it: it is left alone
    blobs: int = 0
    used: int = 0
    used_bytes: int = 0

    @property
    def unused_bytes(self) -> int:
        """What would not be there without the blobs that nobody needs; nothing of one that is used whole."""
        if self.used == self.blobs:
            return 0
        return max(0, self.size - self.used_bytes - self.used * ENTRY_COMPRESSED.size - OVERHEAD - LENGTH_FIELD.size)


@dataclass(slots=True)
class Survey:
    """The whole index against what is used."""

    packs: dict[bytes, PackUse] = field(default_factory=dict)
    missing: list[tuple[BlobType, bytes]] = field(
        default_factory=list
    )  # used, and in no sound pack: the first thousand
    several: dict[tuple[int, bytes], bytes] = field(default_factory=dict)  # (type, blob) in more than one -> the pack


def survey(
    scan: Scan, used: UsedIds, listed: Mapping[bytes, int], marked: Mapping[bytes, int], look_after: Callable[[], None]
) -> Survey:
    """Look at every entry of the index. `listed`: the packs at the site with their sizes; `marked` as in PackUse."""
    result = Survey()
    tables = _tables(scan, result.packs, listed, marked)
    several: dict[tuple[int, bytes], list[tuple[PackUse, int]]] = {}
    trees = used.tree_parts()
    for first, parts in enumerate(scan.parts()):
        look_after()
        wanted = (used.data(first), set(trees[first]))
        found: tuple[dict[bytes, tuple[PackUse, int]], ...] = ({}, {})
        for number, records in parts:
            table = tables[number]
            for blob, kind, pack, _, length, _ in RECORD.iter_unpack(records):
                use = table[pack]
                if use is None:
                    continue
                use.blobs += 1
                if blob in wanted[kind] and use.sound:
                    had = found[kind].setdefault(blob, (use, length))
                    if had[0] is not use:
                        several.setdefault((kind, blob), [had]).append((use, length))
        for kind in BlobType:
            lacking = wanted[kind].difference(found[kind])
            result.missing += [(kind, blob) for blob in lacking][: _MISSING_SHOWN - len(result.missing)]
            for blob, (use, length) in found[kind].items():
                if (kind, blob) not in several:
                    use.used += 1
                    use.used_bytes += length
    for key, places in several.items():
        use, length = max(places, key=lambda place: (-place[0].marked, place[0].used / place[0].blobs, place[0].id))
        use.used += 1
        use.used_bytes += length
        result.several[key] = use.id
    return result


def _tables(
    scan: Scan, packs: dict[bytes, PackUse], listed: Mapping[bytes, int], marked: Mapping[bytes, int]
) -> list[list[PackUse | None]]:
    """Per segment, whose use a pack number counts for. A pack that two index files list is counted by the first."""
    tables: list[list[PackUse | None]] = []
    for entries in scan.packs:
        table: list[PackUse | None] = [None] * len(entries)
        for number, entry in enumerate(entries):
            if entry is None:
                continue
            pack, size, index = entry
            known = packs.get(pack)
            if known is None:
                sound = listed.get(pack) == size
                table[number] = packs[pack] = PackUse(pack, size, [index], sound, marked.get(pack, 0))
            else:
                known.indexes.append(index)
                known.odd |= known.size != size
        tables.append(table)
    return tables


def used_parts(
    scan: Scan, used: UsedIds, found: Survey, packs: AbstractSet[bytes], look_after: Callable[[], None]
) -> dict[bytes, Parts]:
    """The used blobs of these packs; of what lies in several, only where it counts."""
    numbers = [
        {number for number, entry in enumerate(entries) if entry and entry[0] in packs} for entries in scan.packs
    ]
    trees = used.tree_parts()
    collected: dict[tuple[bytes, int], bytearray] = {}
    last: tuple[int, bytes, bytes] | None = None
    seen: set[tuple[int, bytes, bytes]] = set()
    for first, parts in enumerate(scan.parts()):
        look_after()
        wanted: tuple[set[bytes], set[bytes]] | None = None
        for number, records in parts:
            mine, entries = numbers[number], scan.packs[number]
            if not mine:
                continue
            wanted = wanted or (used.data(first), set(trees[first]))
            for blob, kind, pack, offset, length, uncompressed in RECORD.iter_unpack(records):
                entry = entries[pack] if pack in mine else None
                if entry is None or blob not in wanted[kind]:
                    continue
                place = kind, blob, entry[0]
                if found.several.get((kind, blob), entry[0]) != entry[0] or place == last or place in seen:
                    continue  # it counts elsewhere, or stands in this pack, or in the lists of it, more than once
                last = place
                if len(found.packs[entry[0]].indexes) > 1:
                    seen.add(place)
                one = Blob(blob, BlobType(kind), offset, length, uncompressed)
                collected.setdefault((entry[0], kind), bytearray()).extend(to_records([one]))
    result: dict[bytes, Parts] = {}
    for (pack_id, kind), all_of_it in collected.items():
        result.setdefault(pack_id, []).append((kind, bytes(all_of_it)))
    return result


@dataclass(slots=True)
class Plan:
    """What is to be done with packs that an index lists."""

    unused: list[PackUse] = field(default_factory=list)  # they leave the index
    repack: list[PackUse] = field(default_factory=list)  # so do these, when what is used of them has been copied
    needed: list[PackUse] = field(default_factory=list)  # they were doomed, and are not any more
    limited: bool = False  # more would be repacked, if `max_repack` let it
    waits: bool = False  # more would leave, if `max_indexes` or `max_blobs` let it

    @property
    def leaving(self) -> list[PackUse]:
        """The packs that leave the index."""
        return self.unused + self.repack


def make_plan(
    packs: Iterable[PackUse], *, max_unused: float, max_repack: int, max_indexes: int, max_blobs: int
) -> Plan:
    """Decide. The largest gain for what is copied comes first, the smallest last.

    `max_unused`: per cent of what is left afterwards that may be unused; 100 repacks nothing. `max_repack`: bytes, 0
    for no limit; but one pack always. `max_indexes`: index files that may be touched, `max_blobs`: blobs that may be
    copied; packs beyond either wait.
    """
    plan = Plan()
    candidates, used, unused = [], 0, 0
    for pack in packs:
        if not pack.used:
            if not pack.odd:
                plan.unused.append(pack)
            continue
        used += pack.used_bytes
        unused += pack.unused_bytes
        if pack.marked == 1:
            plan.needed.append(pack)
        elif pack.used < pack.blobs and not pack.odd and pack.sound and not pack.marked:
            candidates.append(pack)
    candidates.sort(key=lambda pack: (pack.used_bytes / pack.size, pack.id))
    allowed = used * max_unused / (_ALL - max_unused) if max_unused < _ALL else float("inf")
    copied = blobs = 0
    for pack in candidates:
        if unused <= allowed:
            break
        if plan.repack and blobs + pack.used > max_blobs:
            plan.waits = True
            break
        if max_repack and plan.repack and copied + pack.used_bytes > max_repack:
            plan.limited = True
            break
        plan.repack.append(pack)
        copied += pack.used_bytes
        blobs += pack.used
        unused -= pack.unused_bytes
    _keep_to(plan, max_indexes)
    return plan


def _keep_to(plan: Plan, most: int) -> None:
    """Leave out packs of later index files, where too many would have to be written anew."""
    touched: set[bytes] = set()
    for kept in (plan.unused, plan.repack):
        chosen = []
        for pack in kept:
            if len(touched) + sum(index not in touched for index in pack.indexes) <= most:
                touched.update(pack.indexes)
                chosen.append(pack)
        plan.waits |= len(chosen) < len(kept)
        kept[:] = chosen
