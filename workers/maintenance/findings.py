"""What a verification has found that might be healed: by what it is, and not by what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field

MissingBlob = tuple[int, bytes]  # type and id


@dataclass(slots=True)
class Findings:
    """Objects with errors, and blobs that a snapshot needs and that can be had nowhere at the site."""

    packs: set[bytes] = field(default_factory=set)
    index: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    missing: set[MissingBlob] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.packs or self.index or self.snapshots or self.missing)

    def add(self, thing: str) -> None:
        """Note an object as a problem names it: "pack 3f...", "index 7a...", "snapshot ..."; others are left out."""
        kind, _, name = thing.partition(" ")
        if kind == "pack":
            self.packs.add(bytes.fromhex(name))
        elif kind == "index":
            self.index.add(name)
        elif kind == "snapshot":
            self.snapshots.add(name)
