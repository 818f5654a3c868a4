"""How a failed operation is told: site, kind, operation, key, place, reason, and a way out."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from shared.errors import StorageError
from shared.storage.api import Denied, MissingObject, Permanent, StoreFull, Transient

_KINDS: dict[type[StorageError], str] = {
    MissingObject: "missing",
    Denied: "denied",
    Transient: "unavailable",
    Permanent: "refused",
    StoreFull: "full",
}

# A key that only leads to others is no object; to write there is another matter.
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Worth another try: a network file system that lost its handle or its server. EINTR never arrives
# (PEP 475). EIO is not among them: a disk that fails is not to be hammered, nor is it to be hidden.
_TRANSIENT = frozenset(
    {
        errno.ESTALE,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)

_HINTS: dict[int, str] = {
    errno.EROFS: "The file system is mounted read-only: mount it writable, or use the site for restores alone",
    errno.EACCES: "Give the user that runs Holdfast read and write access to the site's directory",
    errno.EPERM: "The file system or a security module forbids it: look for immutable attributes (lsattr)",
    errno.ENOSPC: "Free space there, or add space; what was stored is whole, and the next run goes on from it",
    errno.EDQUOT: "Raise the quota; what was stored is whole, and the next run goes on from it",
    errno.EFBIG: "The limit on the size of a file (ulimit -f, or the file system's) is too low for a pack",
    errno.EIO: "The disk or the network mount reports an error: look at the kernel's log (dmesg)",
    errno.ESTALE: "The network mount has lost its server: mount it again",
    errno.ENAMETOOLONG: "The site's path is too long: mount it nearer to the root",
}


@dataclass(frozen=True, slots=True)
class Place:
    """The site that a message is about. `name` may be empty; `url` holds no secret."""

    name: str
    url: str

    def fail(self, kind: type[StorageError], operation: str, key: str, reason: str, hint: str = "") -> StorageError:
        """The error to raise, for example `site fra: denied: PUT a/b at s3:https://h/b (403 AccessDenied)`."""
        site = f"site {self.name}: " if self.name else ""
        what = f"{operation} {key}" if key else operation
        error = kind(f"{site}{_KINDS[kind]}: {what} at {self.url} ({reason})", hint=hint)
        error.site = self.name
        return error

    def from_os_error(self, error: OSError, operation: str, key: str) -> StorageError:
        """Sort what the operating system answered."""
        number = error.errno or 0
        if number in _MISSING and operation != "PUT":
            kind: type[StorageError] = MissingObject
        elif number in _DENIED:
            kind = Denied
        elif number in _FULL:
            kind = StoreFull
        elif number in _TRANSIENT:
            kind = Transient
        else:
            kind = Permanent
        reason = error.strerror or str(error)
        name = errno.errorcode.get(number, "")
        return self.fail(kind, operation, key, f"{name}: {reason}" if name else reason, _HINTS.get(number, ""))


def check_key(place: Place, key: str) -> None:
    """Refuse a key that could leave the store or mean two things: empty parts, `.`, `..`, NUL, hidden names."""
    parts = key.split("/")
    if "\0" in key or any(part in {"", ".", ".."} or part.startswith(".holdfast-") for part in parts):
        raise place.fail(Permanent, "use of", repr(key), "not a key: expected names separated by single slashes")


def check_prefix(place: Place, prefix: str) -> None:
    """Refuse a listing prefix that is neither empty nor a key followed by a slash."""
    if prefix:
        if not prefix.endswith("/"):
            raise place.fail(Permanent, "LIST", repr(prefix), "not a prefix: expected one that ends in a slash")
        check_key(place, prefix[:-1])
