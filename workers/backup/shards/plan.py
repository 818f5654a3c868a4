"""How a source is cut into shards: which of them looks at which names of which directories. Pure.

Invariant: whatever path there may be below the source lies in exactly one shard, also one that comes after the plan
was made. A directory that is cut says so of every name: a few stand in it by name, all others by a hash of the name.
What is not cut belongs, with all below it, to whoever has its name. A directory that is cut is looked at by all.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ALL = -1  # in place of a shard's number: a directory that is cut in its turn
CUTS = 64  # directories that are cut at most
GRAIN = 4  # nothing that can be cut is heavier than a fourth of a shard
_BUCKETS = 16  # of a directory, at least
_TEXT_AT_MOST = 64 << 20  # bytes of a plan that are read


@dataclass(slots=True)
class Folder:
    """A directory as it was weighed, in bytes and what a file costs besides. `buckets`: its own files, by `bucket_of`.

    `looked`: whether it was looked into, so that it can be cut; else its weight is a guess.
    """

    weight: int = 0
    looked: bool = False
    buckets: dict[int, int] = field(default_factory=dict)
    folders: dict[bytes, Folder] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """Who has which name of a directory: by name, else by the name's bucket."""

    named: Mapping[bytes, int]
    buckets: tuple[int, ...]

    def owner(self, name: bytes) -> int:
        """The number of a shard, or ALL."""
        found = self.named.get(name)
        return self.buckets[bucket_of(name, len(self.buckets))] if found is None else found


@dataclass(frozen=True, slots=True)
class Plan:
    """Shards are numbered from 0. `kind` is the run's, `selection` a digest of what belongs to the source."""

    count: int
    kind: str
    selection: str
    cuts: Mapping[bytes, Cut]

    def is_mine(self, number: int, directory: bytes, name: bytes) -> bool:
        """Whether a shard looks at `name` of a directory that it looks at."""
        cut = self.cuts.get(directory)
        return cut is None or cut.owner(name) in (number, ALL)

    def to_text(self) -> str:
        """For the ledger and the pipe: letters and digits."""
        cuts = {
            os.fsdecode(path): [{os.fsdecode(name): n for name, n in cut.named.items()}, list(cut.buckets)]
            for path, cut in self.cuts.items()
        }
        said = json.dumps([1, self.count, self.kind, self.selection, cuts], sort_keys=True)
        return base64.b64encode(zlib.compress(said.encode(), 9)).decode()

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read what `to_text` gave. Raises ValueError."""
        try:
            packed = base64.b64decode(text, validate=True)
            form, count, kind, selection, cuts = json.loads(zlib.decompressobj().decompress(packed, _TEXT_AT_MOST))
            if form != 1:
                raise ValueError(f"a plan of form {form!r}")
            return cls(
                int(count),
                str(kind),
                str(selection),
                {
                    os.fsencode(path): Cut({os.fsencode(name): int(n) for name, n in named.items()}, tuple(buckets))
                    for path, (named, buckets) in cuts.items()
                },
            )
        except (zlib.error, TypeError, AttributeError) as error:
            raise ValueError(f"no plan: {error}") from error

    @property
    def digest(self) -> str:
        """A short name of the plan, equal for equal ones."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()[:16]


def bucket_of(name: bytes, count: int) -> int:
    """Which of `count` buckets a name falls into: the same on every machine and in every release."""
    return zlib.crc32(name) % count


def buckets_for(count: int) -> int:
    """How many buckets a directory has that is cut for `count` shards."""
    return max(_BUCKETS, count * GRAIN)


def make_plan(tops: Mapping[bytes, Folder], count: int, *, kind: str, selection: str) -> Plan:
    """Cut a source into `count` shards of about the same weight.

    `tops`: the paths of the source, absolute and none in another, each as weighed with `buckets_for(count)`. Whatever
    is heavier than a grain is cut, the heaviest first; then each piece goes to the shard that has the least.
    """
    named: dict[bytes, dict[bytes, int]] = {}  # what is not cut stands here with ALL until it is given out
    pieces: list[tuple[int, bytes, bytes, int]] = []  # weight, directory, name, bucket or -1
    grain = sum(top.weight for top in tops.values()) // (count * GRAIN)
    heap: list[tuple[int, bytes, Folder]] = []
    loose: dict[bytes, Folder] = {}
    for path, top in tops.items():
        _above(path, named)
        loose[path] = top
        heapq.heappush(heap, (-top.weight, path, top))
    filled: dict[bytes, list[int]] = {}
    while heap and len(filled) < CUTS:
        weight, path, folder = heapq.heappop(heap)
        if path != b"/" and (-weight <= grain or not folder.looked):
            continue
        loose.pop(path)
        here = filled[path] = [folder.buckets.get(number, 0) for number in range(buckets_for(count))]
        there = named.setdefault(path, {})
        for name, below in folder.folders.items():
            if below.weight <= grain:
                here[bucket_of(name, len(here))] += below.weight
                continue
            there[name] = ALL
            at = os.path.join(path, name)
            loose[at] = below
            heapq.heappush(heap, (-below.weight, at, below))
    for path, folder in loose.items():
        pieces.append((folder.weight, *os.path.split(path), -1))
    for path, weights in filled.items():
        pieces += [(weight, path, b"", number) for number, weight in enumerate(weights)]
    owners = _give_out(pieces, count)
    cuts = {}
    for path, names in named.items():
        own = {name: owners.get((path, name, -1), ALL) for name in names}
        cuts[path] = Cut(own, tuple(owners.get((path, b"", number), 0) for number in range(len(filled.get(path, [0])))))
    return Plan(count, kind, selection, cuts)


def _above(path: bytes, named: dict[bytes, dict[bytes, int]]) -> None:
    """The ancestors of a path of the source are everybody's."""
    while path != b"/":
        above, name = os.path.split(path)
        named.setdefault(above, {})[name] = ALL
        path = above


def _give_out(pieces: Iterable[tuple[int, bytes, bytes, int]], count: int) -> dict[tuple[bytes, bytes, int], int]:
    """The heaviest first, each to who has the least so far. What weighs nothing yet is spread as well."""
    loads = [(0, number) for number in range(count)]
    owners = {}
    for weight, directory, name, bucket in sorted(pieces, key=lambda piece: (-piece[0], *piece[1:])):
        load, number = heapq.heappop(loads)
        owners[directory, name, bucket] = number
        heapq.heappush(loads, (load + max(1, weight), number))
    return owners
