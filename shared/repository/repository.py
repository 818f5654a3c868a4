"""A repository of the restic format, version 2 (version 1 is read): create, open, read, save.

    config  keys/ID  locks/ID  snapshots/ID  index/ID  data/XX/ID      stock restic's
    holdfast/...                                                       our own, which it ignores

Invariants: config comes last when a repository is made, so that until it is there, there is none;
a file's name is the SHA-256 of its bytes and is compared whenever it is read; a blob's id is the
SHA-256 of its content and is compared too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

import orjson

from shared.repository import keys, polynomial
from shared.repository.compression import (
    DATA_BLOB_MAX,
    SMALL_FILE_MAX,
    TREE_BLOB_MAX,
    decompress,
    pack_small,
    unpack_small,
)
from shared.repository.crypto import MasterKey, Sealer
from shared.repository.errors import Damaged, RepositoryMissing, UnsupportedRepository, WrongPassword
from shared.repository.index import decode_index
from shared.repository.locks import RepositoryLock
from shared.repository.pack import Blob, BlobType, decode_header, header_length, plaintext_length
from shared.repository.snapshot import Snapshot, decode_snapshot
from shared.repository.snapshotcache import SnapshotCache
from shared.repository.snapshots import stored_snapshots
from shared.storage.api import MissingObject, ObjectStore

VERSION = 2
PACKS = "data/"  # all of them lie below it
_HEADER_GUESS = 64 << 10  # bytes read from a pack's end at first: enough for 1,500 blobs


def pack_key(pack_id: bytes) -> str:
    """Where a pack lies, relative to the repository."""
    name = pack_id.hex()
    return f"{PACKS}{name[:2]}/{name}"


class Repository:
    """An opened repository. Reading is safe for one thread at a time; `sealer()` gives another thread its own."""

    def __init__(self, store: ObjectStore, key: MasterKey, *, version: int = VERSION, restic_id: str = "") -> None:
        self.store = store
        self.key = key
        self.version = version
        self.restic_id = restic_id
        self._sealer = Sealer(key)
        self._cached_at: tuple[str, str] | None = None

    @classmethod
    def open(cls, store: ObjectStore, *passwords: str) -> Repository:
        """Open with the first of these passwords that fits a key file.

        Raises RepositoryMissing, WrongPassword, UnsupportedRepository, Damaged, StorageError.
        """
        key = _find_key(store, passwords)
        try:
            sealed = store.get("config")
        except MissingObject:
            raise RepositoryMissing(
                f"there is no repository at {store.url} (it has no config)",
                hint="Check the site's url and the repository's name; a first backup creates it",
            ) from None
        if key is None:
            raise WrongPassword(
                f"no key of the repository at {store.url} opens with this password",
                hint="Check which secret the configuration names; any password that restic opens it with will do",
            )
        version, restic_id = read_config(store.url, Sealer(key), sealed)
        return cls(store, key, version=version, restic_id=restic_id)

    @classmethod
    def create(
        cls, store: ObjectStore, *, repository_id: str, fleet_secret: bytes, recovery_password: str
    ) -> Repository:
        """Make the repository, or open it where it exists. Safe to repeat from any step, and by several at once.

        Raises WrongPassword where it exists under other secrets, Damaged, StorageError.
        """
        machine = keys.machine_password(fleet_secret, repository_id)
        try:
            store.stat("config")
        except MissingObject:
            pass
        else:
            return cls.open(store, machine, recovery_password)
        key = keys.derived_master_key(fleet_secret, repository_id)
        for password, n in ((machine, keys.MACHINE_N), (recovery_password, keys.RECOVERY_N)):
            found = _find_key(store, (password,))
            if found is None:
                _put_named(store, "keys", keys.make_key_file(key, password, n=n))
            elif found != key:
                raise Damaged(
                    f"{store.url}: a key file opens with our password but holds another master key",
                    hint="It is left from another fleet secret; no config was ever written, so move `keys/` away",
                )
        restic_id, chunker = keys.derived_config(fleet_secret, repository_id)
        config = {"version": VERSION, "id": restic_id, "chunker_polynomial": f"{chunker:x}"}
        store.put_if_absent("config", Sealer(key).seal(orjson.dumps(config)))
        return cls.open(store, machine)

    def sealer(self) -> Sealer:
        """A new sealer, for another thread."""
        return Sealer(self.key)

    def cached(self, cache_dir: str, site: str) -> Repository:
        """This repository, which from now on keeps the snapshots of this site in `cache_dir`/snapshots; "" is nowhere.

        What lies there is sealed, and may be deleted at any time.
        """
        self._cached_at = (os.path.join(cache_dir, "snapshots"), site) if cache_dir else None
        return self

    def require_writable(self) -> None:
        """Raise UnsupportedRepository for a version that is only read."""
        if self.version != VERSION:
            raise UnsupportedRepository(
                f"the repository at {self.store.url} has format version {self.version}, which is only read",
                hint="Convert it with `restic migrate upgrade_repo_v2`, or back up into a new one",
            )

    def lock(self, *, holder: str, exclusive: bool = False) -> RepositoryLock:
        """A lock for `holder` (`<host>/holdfast/<run>`), not taken yet."""
        return RepositoryLock(
            self.store, self.save, self.load, holder=holder, username=keys.username(), exclusive=exclusive
        )

    def seal_small(self, *json: bytes) -> bytes:
        """The stored bytes of an index, snapshot or lock file, from its JSON in parts."""
        return self._sealer.seal(pack_small(json))

    def save(self, kind: str, *json: bytes, sealer: Sealer | None = None) -> str:
        """Seal and store a small file, from its JSON in parts; its id in hex. `kind` is "index" or "locks".

        Another thread than the one that reads gives a `sealer` of its own.
        """
        return _put_named(self.store, kind, (sealer or self._sealer).seal(pack_small(json)))

    def load(self, kind: str, name: str) -> bytes:
        """The JSON of a small file. Raises MissingObject, Damaged."""
        stored = self.store.get(f"{kind}/{name}")
        return self._small(kind, name, stored)

    def _small(self, kind: str, name: str, stored: bytes) -> bytes:
        try:
            return self.open_small(stored, name)
        except Damaged as error:
            raise Damaged(f"{self.store.url}: {kind}/{name[:16]}: {error.args[0]}") from error

    def open_small(self, stored: bytes, name: str = "", *, at_most: int = SMALL_FILE_MAX) -> bytes:
        """The JSON in a small file's stored bytes; their hash must be `name` where one is given. Raises Damaged.

        `at_most`: bytes that it may unpack to.
        """
        got = hashlib.sha256(stored).hexdigest()
        if name and got != name:
            raise Damaged(f"its bytes hash to {got[:16]}, not to its name")
        return unpack_small(self._sealer.unseal(stored), at_most)

    def snapshots(
        self, damaged: Callable[[str, Damaged], None] | None = None, *, fresh: bool = False
    ) -> Iterator[Snapshot]:
        """Every snapshot, in no set order: from the cache what it has, the rest by as many threads as pay.

        One that can't be read goes to `damaged` with its id, else it raises Damaged. `fresh`: all of them are read
        from the site, as it is that which is looked at. Raises StorageError.
        """
        cache = None if fresh or not self._cached_at else SnapshotCache(*self._cached_at, self.restic_id)
        for name, stored in stored_snapshots(self.store, cache):
            try:
                snapshot = decode_snapshot(self._small("snapshots", name, stored), name)
            except Damaged as error:
                if damaged is None:
                    raise
                damaged(name, error)
                continue
            snapshot.size = len(stored)
            yield snapshot

    def load_index(self, name: str) -> list[tuple[bytes, list[Blob]]]:
        """What an index file lists. Raises MissingObject, Damaged."""
        try:
            return decode_index(self.load("index", name))
        except Damaged as error:
            raise Damaged(f"{self.store.url}: index/{name[:16]}: {error.args[0]}") from error

    def pack_header(self, pack_id: bytes) -> list[Blob]:
        """The blobs that a pack's own header lists. Raises MissingObject, Damaged."""
        key = pack_key(pack_id)
        total = self.store.stat(key).size
        try:
            guess = min(total, _HEADER_GUESS)
            tail = self.store.get_range(key, total - guess, guess)
            length = header_length(tail, total)
            if length + 4 > guess:
                tail = self.store.get_range(key, total - length - 4, length + 4)
            return decode_header(self._sealer.unseal(memoryview(tail)[-length - 4 : -4]), total)
        except Damaged as error:
            raise Damaged(f"{self.store.url}: pack {pack_id.hex()[:16]}: {error.args[0]}") from error

    def load_blob(self, pack_id: bytes, blob: Blob) -> bytes:
        """A blob's content from where the index says it is, verified. Raises MissingObject, Damaged."""
        stored = self.store.get_range(pack_key(pack_id), blob.offset, blob.length)
        try:
            return open_blob(self._sealer, blob, stored)
        except Damaged as error:
            raise Damaged(f"{self.store.url}: pack {pack_id.hex()[:16]}: {error.args[0]}") from error


def open_blob(sealer: Sealer, blob: Blob, stored: bytes | memoryview) -> bytes:
    """The content of a blob from its stored bytes; its hash is compared. Raises Damaged."""
    limit = TREE_BLOB_MAX if blob.type == BlobType.TREE else DATA_BLOB_MAX
    if plaintext_length(blob) > limit:
        raise Damaged(
            f"blob {blob.id.hex()[:16]} would unpack to {plaintext_length(blob)} bytes, at most {limit} are allowed"
        )
    content = sealer.unseal(stored)
    if blob.uncompressed:
        content = decompress(content, blob.uncompressed)
    got = hashlib.sha256(content).digest()
    if got != blob.id:
        raise Damaged(f"blob {blob.id.hex()[:16]}: its content hashes to {got.hex()[:16]}")
    return content


def _put_named(store: ObjectStore, kind: str, stored: bytes) -> str:
    name = hashlib.sha256(stored).hexdigest()
    store.put(f"{kind}/{name}", stored, sha256=name)
    return name


def _find_key(store: ObjectStore, passwords: tuple[str, ...]) -> MasterKey | None:
    """The master key from the first key file that one of the passwords opens; cheap key files are tried first."""
    files = []
    problems = []
    for info in store.list("keys/"):
        try:
            raw = store.get(info.key)
            files.append((orjson.loads(raw).get("N", 0), raw))
        except MissingObject:
            continue  # removed since the listing
        except (ValueError, AttributeError):
            problems.append(info.key)
    for _, raw in sorted(files, key=lambda item: str(item[0]).rjust(20)):
        for password in passwords:
            try:
                key = keys.open_key_file(raw, password)
            except Damaged as error:
                problems.append(str(error))
                break
            if key is not None:
                return key
    if problems:
        raise Damaged(
            f"{store.url}: no key file opens, and these are damaged: {', '.join(problems)}",
            hint="Bring the key file back from another site of the repository, or from the recovery kit",
        )
    return None


def read_config(url: str, sealer: Sealer, sealed: bytes) -> tuple[int, str]:
    """The format's version and restic's id in a sealed config. Raises Damaged, UnsupportedRepository."""
    try:
        config = orjson.loads(sealer.unseal(sealed))
        version, restic_id, chunker = config["version"], config["id"], int(config["chunker_polynomial"], 16)
    except (Damaged, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{url}: its config is damaged ({error})",
            hint="Copy `config` from another site of the same repository: it is the same bytes' content everywhere",
        ) from error
    if version not in (1, VERSION):
        raise UnsupportedRepository(
            f"the repository at {url} has format version {version!r}; this release knows 1 (reading) and 2",
            hint="Use a newer release of Holdfast",
        )
    if not polynomial.is_irreducible(chunker):
        raise Damaged(f"{url}: its config holds a chunker polynomial that is reducible ({chunker:x})")
    return version, restic_id
