"""What a site can do: the seam between Holdfast and where its bytes lie.

Keys are relative POSIX paths without a leading slash ("repos/web1/data/3f/3f9a..."). A put is
whole or not there at all, and durable when it returns. Nothing here knows the repository format.

Error leaves (all StorageError): MissingObject, Denied, Transient, Permanent, StoreFull.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from shared.errors import StorageError

Buffer: TypeAlias = bytes | bytearray | memoryview


class MissingObject(StorageError):
    """There is no object of that key."""

    exit_code: ClassVar[int] = 31


class Denied(StorageError):
    """The credentials may not do this (403, EACCES, EPERM, EROFS)."""

    exit_code: ClassVar[int] = 32


class Transient(StorageError):
    """It failed in a way that may pass, and went on failing until the deadline."""

    exit_code: ClassVar[int] = 33


class Permanent(StorageError):
    """The store refuses, and would refuse again."""

    exit_code: ClassVar[int] = 34


class StoreFull(StorageError):
    """No space is left, or a quota is reached (ENOSPC, EDQUOT, 507, XMinioStorageFull)."""

    exit_code: ClassVar[int] = 35


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing: its key, size in bytes, and time of change (POSIX seconds, the store's clock)."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of an object. `etag` hashes its bytes; empty: not bytes, but a mark that it was deleted."""

    key: str
    version: str
    etag: str
    is_latest: bool


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a probe found that a store can do; `notes` says in words what is missing and what follows from it."""

    put_if_absent: bool
    compare_and_swap: bool
    range_reads: bool
    versioned: bool
    clock_skew: float  # seconds by which the store's clock is ahead of this host's
    notes: tuple[str, ...] = ()


class Staged(Protocol):
    """An object that is written before its key is known. For one thread at a time.

    What fails here is not tried again, as nobody has the bytes any more: it is discarded, whatever its error.
    """

    def write(self, data: Buffer) -> None:
        """Append `data`. Raises StorageError; OSError where they wait on this host, which has no room for them."""

    def publish(self, key: str, *, sha256: str) -> None:
        """Make what was written the object `key`, durable on return. `sha256`: the lowercase hex of all of it."""

    def discard(self) -> None:
        """Give back what it holds; of what was not published nothing stays. May be called at any time, and twice."""


@runtime_checkable
class ObjectStore(Protocol):
    """A site, or a part of one below a prefix. Safe for use by several threads; opened after a fork, never before."""

    @property
    def url(self) -> str:
        """Where it is, for messages; holds no secret."""

    @property
    def connections(self) -> int:
        """How many requests at once pay: what it was opened with; 1 where nothing waits for a network."""

    def put(self, key: str, data: Buffer, *, sha256: str | None = None) -> None:
        """Store `data` under `key`, durable on return; an existing object is replaced whole.

        `sha256`: the lowercase hex SHA-256 of `data` where it is known, so that nobody hashes it again.
        """

    def stage(self, prefix: str, *, spool: str = "") -> Staged:
        """Begin an object whose key, somewhere below `prefix` (which ends in "/"), is known only at its end.

        `spool`: a directory of this host in which its bytes may wait where the store takes none before the key;
        without one, or where it can't be written to, they wait in memory.
        """

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """Store `data` unless `key` exists; True if this call's bytes are there now. Atomic, durable on return."""

    def compare_and_swap(self, key: str, data: Buffer, *, version: str) -> bool:
        """Replace `key` if it still has the `version` that `get_versioned` gave; False if it has not, or is gone."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises MissingObject."""

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """The whole object and an opaque version for `compare_and_swap`. Raises MissingObject."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises MissingObject; Permanent where the object ends before."""

    def stat(self, key: str) -> ObjectInfo:
        """Size and time of one object. Raises MissingObject."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key begins with `prefix` (which ends in "/" or is empty), streamed, in no set order.

        Temporary files of unfinished puts are never listed. A prefix that does not exist lists nothing.
        """

    def delete(self, key: str) -> None:
        """Remove `key`; removing what is not there is no error."""

    def purge(self, key: str) -> None:
        """As `delete`, and where the store keeps older versions, they go too. Raises Denied where they may not.

        The newest goes last, so that no older one comes to light.
        """

    def clock(self) -> float:
        """The store's own time, in POSIX seconds (a response's Date; in a directory a fresh file's mtime)."""

    def probe(self) -> Capabilities:
        """Find out by trying (below `holdfast/probe/`, cleaned up) what this store can do."""

    def below(self, prefix: str) -> ObjectStore:
        """The same store seen from below `prefix` (no trailing slash): keys are relative to it."""

    def close(self) -> None:
        """Give up connections; the store is not used after that."""


@runtime_checkable
class MeasuredStore(ObjectStore, Protocol):
    """A store that can tell how much room there is. The S3 API has no question for that."""

    def room(self) -> int:
        """Bytes that may still be written there. Raises StorageError."""


@runtime_checkable
class VersionedStore(ObjectStore, Protocol):
    """A store that may keep what is overwritten and deleted."""

    def keeps_versions(self) -> bool:
        """Whether it does now, or did once."""

    def versions(self, prefix: str) -> Iterator[ObjectVersion]:
        """Every version below a prefix (which ends in "/" or is empty), by key, the newest of each first."""

    def get_version(self, key: str, version: str) -> bytes:
        """The bytes of one version. Raises MissingObject."""
