"""What a repository is opened with: its key files and its config, brought back before it is opened.

No lock stands around it, as none can be read or written before. Invariant: a key file is put only with bytes that hash
to its name, and not where a tombstone says, here or there, that it was removed; that is looked at once more afterwards,
as a removal goes from tombstone to key file: so of the two at least one sees the other. A config is put only where
there is none or where a damaged one was read, by compare-and-swap; and only one that opens with the master key that
what else lies here is sealed with. Where no key file here opens, those of another site come that open with our
passwords, if their master key opens what lies here: else it would be another repository's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shared.errors import StorageError
from shared.repository.committed import FORGOTTEN, SNAPSHOTS
from shared.repository.crypto import MasterKey, Sealer
from shared.repository.errors import Damaged, UnsupportedRepository
from shared.repository.keyring import KeyFile, opening, read_keys
from shared.repository.repository import read_config
from shared.storage.api import Denied, MissingObject, ObjectStore, Permanent, StoreFull
from workers.healing.others import Other, Others
from workers.healing.putting import put_named, why_not
from workers.maintenance.spec import Healing

_LOOKED_AT = 20  # small files of each kind, to find one that a master key opens


class Access:
    """For one repository at one site. `broken` afterwards: it can't be opened as it is."""

    def __init__(self, store: ObjectStore, others: Others, passwords: Sequence[str], done: Healing) -> None:
        self.broken = False
        self._store = store
        self._others = others
        self._passwords = passwords
        self._done = done

    def heal(self) -> None:
        """Bring back what is damaged. Raises StorageError of this site."""
        files = read_keys(self._store)
        self._gone = _gone(self._store)
        healed = [one for one in map(self._key, (one for one in files if one.problem and not one.going)) if one]
        key = self._opened([one for one in files if not one.problem])
        if key is None:
            self.broken = self._done.dry_run
            key = self._opened(healed) or self._keys_from_others()
        if key is not None:
            self._config(key)

    def _opened(self, files: Sequence[KeyFile]) -> MasterKey | None:
        return next((key for _, _, key in opening(files, self._passwords)), None)

    # -- keys -------------------------------------------------------------------------------------

    def _key(self, damaged: KeyFile) -> KeyFile | None:
        """The key file, whole again."""
        key, reasons = f"keys/{damaged.id}", []
        for other in self._others.all:
            data, why = other.named(key, damaged.id)
            if not why and damaged.id in self._removed_at(other):
                why = f"{other.name} says that it was removed"
            if not why:
                return self._put_key(KeyFile(damaged.id, data), other.name)
            reasons.append(why)
        reasons.append("`holdfast keys SOURCE add` gives its password another, and `remove` takes this one away")
        self._lose(key, "; ".join(reasons))
        return None

    def _put_key(self, one: KeyFile, site: str) -> KeyFile | None:
        key = f"keys/{one.id}"
        if not self._done.dry_run:
            problem = put_named(self._store, key, one.raw, one.id)
            if problem:
                self._lose(key, f"{site} has it whole; {problem}")
                return None
            if one.id in _gone(self._store):  # its removal has begun meanwhile, and may be past deleting it
                self._store.delete(key)
                return None
            self._done.found += 1  # else the verification finds it
        self._done.heal(key, site, len(one.raw))
        return one

    def _keys_from_others(self) -> MasterKey | None:
        for other in self._others.all:
            if other.away:
                continue
            try:
                files = [one for one in read_keys(other.store) if not one.problem and not one.going]
            except StorageError as error:
                other.lose(error)
                continue
            found = [(one, key) for one, _, key in opening(files, self._passwords) if one.id not in self._gone]
            ours = [(one, key) for one, key in found if self._opens_what_is_here(key)]
            if ours:
                for one, _ in ours:
                    self._put_key(one, other.name)
                return ours[0][1]
        return None

    def _opens_what_is_here(self, key: MasterKey) -> bool:
        sealer = Sealer(key)
        return any(_opens(sealer, stored) for stored in self._sealed_here())

    def _sealed_here(self) -> Iterator[bytes]:
        for prefix in ("index/", SNAPSHOTS):
            for count, info in enumerate(self._store.list(prefix)):
                if count == _LOOKED_AT:
                    break
                yield self._store.get(info.key)
        try:
            yield self._store.get("config")
        except MissingObject:
            return

    def _removed_at(self, other: Other) -> set[str]:
        try:
            return _gone(other.store)
        except StorageError as error:
            other.lose(error)
            return set()

    # -- config -----------------------------------------------------------------------------------

    def _config(self, key: MasterKey) -> None:
        sealer, store = Sealer(key), self._store
        version = ""
        try:
            sealed, version = store.get_versioned("config")
            read_config(store.url, sealer, sealed)
        except MissingObject:
            if not any(True for prefix in (SNAPSHOTS, "index/") for _ in store.list(prefix)):
                return  # nothing was ever stored: it is none yet
        except UnsupportedRepository:
            return  # it is whole, and who opens it says so
        except Damaged:
            pass
        else:
            return
        reasons = []
        for other in self._others.all:
            data, why = self._config_of(other, sealer)
            if not why:
                self._put_config(data, version, other.name)
                return
            reasons.append(why)
        self._lose("config", "; ".join(reasons) or "there is no other site to take it from")

    def _config_of(self, other: Other, sealer: Sealer) -> tuple[bytes, str]:
        if other.away:
            return b"", f"{other.name} does not answer"
        try:
            data = other.store.get("config")
            read_config(other.store.url, sealer, data)
        except MissingObject:
            return b"", f"{other.name} has none"
        except (Damaged, UnsupportedRepository):
            return b"", f"{other.name} has one that does not open with this repository's master key"
        except StorageError as error:
            other.lose(error)
            return b"", f"{other.name} does not answer"
        return data, ""

    def _put_config(self, data: bytes, version: str, site: str) -> None:
        store = self._store
        if self._done.dry_run:
            self.broken = True
        else:
            try:
                if version:
                    store.compare_and_swap("config", data, version=version)
                else:
                    store.put_if_absent("config", data)
                kept = store.get("config")
            except (Denied, Permanent, StoreFull, MissingObject) as error:
                self._lose("config", f"{site} has it whole; {why_not(error)}")
                return
            if kept != data:
                self._lose("config", f"{site} has it whole; what was put reads back as other bytes")
                return
        self._done.found += 1
        self._done.heal("config", site, len(data))

    def _lose(self, key: str, why: str) -> None:
        self.broken |= key == "config"
        self._done.lose(key, why)


def _gone(store: ObjectStore) -> set[str]:
    return {info.key.rpartition("/")[2] for info in store.list(FORGOTTEN)}


def _opens(sealer: Sealer, stored: bytes) -> bool:
    try:
        sealer.unseal(stored)
    except Damaged:
        return False
    return True
