"""One round of healing, after a look: what was found is looked at anew, under a lock of its own.

    shared lock      snapshots       from the first place that has the bytes
                     packs           read whole: sound after all, or replaced by the same bytes, or broken
                     index files     packs here that none lists are listed, by their own headers
                     blobs           of broken packs, and others that are needed and lie nowhere: in new packs, that
                                     new index files list
                     marks           holdfast/quarantine/<pack> of the broken ones: nobody counts on them
    exclusive lock   new index files for those that are damaged or list what is to leave; then the old ones are deleted

Why it is safe, whatever is killed and whoever works beside it: all that is done under the shared lock only adds, or
puts the bytes that a name stands for in the place of others, so backups go on beside it; what is not finished is found
by the next look. Only where an index file is to go somebody might have relied on what it lists, so nobody else is let
in for as long as that takes, see `replacing`. A forget is kept out by either lock, so what is put is not being
forgotten.

Doomed packs are not listed again; a blob that only they have is copied out of them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from shared.repository.absent import DOOMED, QUARANTINE
from shared.repository.committed import COMMITS, FORGOTTEN, SNAPSHOTS
from shared.repository.errors import Damaged, Locked
from shared.repository.indexcache import IndexCache
from shared.repository.locks import RepositoryLock
from shared.repository.pack import Blob
from shared.repository.repository import PACKS, Repository, pack_key
from shared.storage.api import Denied, MissingObject, StoreFull
from workers.access import is_remote
from workers.careful import Careful
from workers.healing.gathering import Gathering
from workers.healing.others import Others, Taken
from workers.healing.packs import Looked, Packs, State
from workers.healing.putting import put_named, why_not
from workers.healing.replacing import Replacing
from workers.healing.stock import Stock
from workers.maintenance import inventory
from workers.maintenance.findings import Findings
from workers.maintenance.spec import Healing, VerifySpec
from workers.maintenance.verify_helper import digest, open_sound_index
from workers.restore.reading import Reader

_AGAIN = 1.0  # seconds between two tries to get a lock
Blobs = dict[bytes, list[Blob]]  # of packs
Progress = Callable[[str, int, int], None]  # what, how much of it is done, of how much


class Mending:
    """For one repository, round after round. `progress` may raise.

    `broken`: packs here that nobody has whole; `touched`: packs that are to be read whole by the next look.
    """

    def __init__(self, repo: Repository, spec: VerifySpec, others: Others, done: Healing, progress: Progress) -> None:
        self.broken: set[bytes] = set()
        self.touched: set[bytes] = set()
        self.notes: list[str] = []
        self._repo = repo
        self._spec = spec
        self._others = others
        self._done = done
        self._progress = progress
        self._lock: RepositoryLock | None = None
        self._said: tuple[str, int, int] = ("heal", 0, 0)

    def round(self, found: Findings) -> bool:
        """Heal what was found; whether anything was changed, so that another look is worth while.

        Raises Locked where a prune or a forget goes on, StorageError of this site, what `progress` raises.
        """
        threads = ThreadPoolExecutor(self._repo.store.connections)
        try:
            with tempfile.TemporaryDirectory(prefix="holdfast-") as temporary:
                return self._round(found, threads, temporary)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _round(self, found: Findings, threads: ThreadPoolExecutor, temporary: str) -> bool:
        known, before = frozenset(self.broken), self._so_far()
        self._packs = Packs(self._repo, self._others, threads, self._heed, dry_run=self._spec.dry_run)
        with self._locked(exclusive=False):
            self._snapshots(found)
            unreadable, suspects = self._odd_index_files(found)
            cache_dir = temporary if unreadable else self._spec.cache_dir or temporary
            try:
                wrong, broken = self._add(found, suspects, unreadable, cache_dir)
            except (Denied, StoreFull) as error:  # of an index file: the rest is told of one by one
                self._lose_index(unreadable, why_not(error))
                return self._so_far() != before
            self._mark(self.broken - self._marked(QUARANTINE))
        changed = self._so_far() != before or self.broken != known
        needed = {blob for _, blob in found.missing}
        leaving = {pack for pack in known & broken.keys() if not any(blob.id in needed for blob in broken[pack])}
        if self._spec.dry_run or not (leaving or wrong or unreadable):
            return changed
        return self._replace(leaving, wrong, unreadable, cache_dir) or changed

    def _so_far(self) -> tuple[int, ...]:
        done = self._done
        return done.healed_objects, done.blobs_healed, done.index_files_written

    def _add(self, found: Findings, suspects: set[bytes], unreadable: set[str], cache_dir: str) -> tuple[Blobs, Blobs]:
        """All that only adds; the packs that an index does not list as they are, and the broken ones."""
        spec, repo = self._spec, self._repo
        marked = self._marked(QUARANTINE)
        stock = Stock(repo, spec.pack_size, self._done, self._look)
        index = open_sound_index(repo, spec.site, spec.repository, cache_dir, frozenset(unreadable), self._heed)
        try:
            listed = {pack for pack, _ in index.packs()}
            suspects |= found.packs | (marked & listed)
            wrong, broken = self._mend(suspects, index, marked)
            if found.index or found.missing:
                self._list_again(stock, listed, marked)
                stock.finish()
                index.refresh()
            if broken or found.missing:
                reader = Reader(repo.store, repo.sealer(), remote=is_remote(spec.site))
                gathering = Gathering(
                    repo, index, self._others, reader, self.broken, stock.listed, stock.add, self._heed
                )
                gathering.from_broken(broken)
                gathering.search(found.missing, sorted(self._marked(DOOMED)), self._packs)
                stock.finish()
        finally:
            index.close()
        self.touched |= suspects | stock.packs
        return wrong, broken

    # -- small things -----------------------------------------------------------------------------

    def _snapshots(self, found: Findings) -> None:
        repo = self._repo
        for name in sorted(found.snapshots):
            key = SNAPSHOTS + name
            try:
                stored = repo.store.get(key)
            except MissingObject:
                continue  # forgotten since the look
            if hashlib.sha256(stored).hexdigest() == name:
                continue  # its bytes are what was stored: what is wrong with it is not ours to change
            if name in self._marked_names(FORGOTTEN):
                self._done.lose(key, "it is being forgotten")
                continue
            taken = self._others.named(key, name)
            if isinstance(taken, str):
                taken = self._from_commits(name) or taken
            if isinstance(taken, str):
                self._done.lose(key, taken)
            else:
                self._put(key, taken, name)

    def _from_commits(self, name: str) -> Taken | None:
        """A run's commit is the very bytes of its snapshot."""
        for info in self._repo.store.list(COMMITS):
            self._heed()
            try:
                stored = self._repo.store.get(info.key)
            except MissingObject:
                continue
            if hashlib.sha256(stored).hexdigest() == name:
                return Taken(stored, "this site")
        return None

    def _put(self, key: str, taken: Taken, name: str) -> None:
        problem = "" if self._spec.dry_run else put_named(self._repo.store, key, taken.data, name)
        if problem:
            self._done.lose(key, f"{taken.site} has it whole; {problem}")
        else:
            self._done.heal(key, taken.site, len(taken.data))

    def _odd_index_files(self, found: Findings) -> tuple[set[str], set[bytes]]:
        """Those that can't be read, and the packs of those that can, and are wrong all the same."""
        unreadable, packs = set(), set[bytes]()
        for name in found.index:
            try:
                packs.update(pack for pack, _ in self._repo.load_index(name))
            except MissingObject:
                continue
            except Damaged:
                unreadable.add(name)
        return unreadable, packs

    def _marked_names(self, prefix: str) -> set[str]:
        return {info.key.rpartition("/")[2] for info in self._repo.store.list(prefix)}

    def _marked(self, prefix: str) -> set[bytes]:
        return {bytes.fromhex(name) for name, _ in inventory.named(self._repo.store, prefix, self._heed)}

    def _mark(self, packs: set[bytes]) -> None:
        """Have nobody count on these: a backup stores their blobs again."""
        for pack in [] if self._spec.dry_run else sorted(packs):
            try:
                self._repo.store.put(QUARANTINE + pack.hex(), b"")
            except (Denied, StoreFull) as error:
                self.notes.append(f"pack {pack.hex()} could not be put in quarantine: {why_not(error)}")

    def _unmark(self, pack: bytes) -> None:
        if self._spec.dry_run:
            return
        try:
            self._repo.store.delete(QUARANTINE + pack.hex())
        except Denied as error:
            self.notes.append(f"pack {pack.hex()} is whole, and stays in quarantine: {error.args[0]}")

    # -- packs ------------------------------------------------------------------------------------

    def _mend(self, suspects: set[bytes], index: IndexCache, marked: set[bytes]) -> tuple[Blobs, Blobs]:
        entries: defaultdict[bytes, list[list[Blob]]] = defaultdict(list)
        for pack, blobs in index.pack_blobs(suspects) if suspects else ():
            entries[pack].append(list(blobs))
        wrong: Blobs = {}
        broken: Blobs = {}
        for count, one in enumerate(self._packs.mend(sorted(suspects))):
            self._say(count, len(suspects))
            self._sum_up(one, marked)
            listed = entries.get(one.pack, [])
            if one.state is State.BROKEN:
                broken[one.pack] = [*one.blobs, *(blob for blobs in listed for blob in blobs)]
            elif one.blobs and any(digest(blobs) != digest(one.blobs) for blobs in listed):
                wrong[one.pack] = one.blobs
        return wrong, broken

    def _sum_up(self, one: Looked, marked: set[bytes]) -> None:
        key = pack_key(one.pack)
        if one.state is State.HEALED:
            self._done.heal(key, one.by, one.size)
        elif one.state is not State.SOUND:
            self._done.lose(key, one.why)
        if one.state is State.BROKEN:
            self.broken.add(one.pack)
            return
        self.broken.discard(one.pack)
        if one.pack in marked and one.state is not State.BLOCKED:
            self._unmark(one.pack)

    def _list_again(self, stock: Stock, listed: set[bytes], marked: set[bytes]) -> None:
        """Have packs listed that lie here and that no index file lists, by their own headers."""
        here = {bytes.fromhex(name) for name, _ in inventory.named(self._repo.store, PACKS, self._heed)}
        left = sorted(here - listed - marked - self._marked(DOOMED))
        count = 0
        for at, one in enumerate(self._packs.headers(left)):
            self._say(at, len(left))
            if one.state is State.HEALED:
                self._done.heal(pack_key(one.pack), one.by, one.size)
            if one.state is State.BROKEN:  # what is needed of it is missing, and looked for as such
                self._mark({one.pack})
                self._done.heal(pack_key(one.pack), "other packs")
            if one.state in {State.SOUND, State.HEALED} and one.blobs:
                stock.list_pack(one.pack, one.blobs)
                count += 1
                if self._spec.reads(one.pack):
                    self.touched.add(one.pack)
        if count:
            how = "would be listed" if self._spec.dry_run else "are listed now"
            self.notes.append(f"packs that stood in no index file and {how}, by their own headers: {count}")

    # -- index files ------------------------------------------------------------------------------

    def _replace(self, leaving: set[bytes], wrong: Blobs, unreadable: set[str], cache_dir: str) -> bool:
        lock = None
        try:
            with self._locked(exclusive=True):
                lock = self._lock
                assert lock is not None  # noqa: S101 -- just taken
                careful = Careful(self._repo.store, lock, lambda: None, self._heed)
                replacing = Replacing(self._repo, self._spec, careful, self._packs, self._done)
                gone = replacing.replace(leaving, wrong, unreadable, cache_dir)
        except (Denied, StoreFull) as error:
            self._lose_index(unreadable, why_not(error))
            return False
        except Locked as error:
            if lock is not None:
                raise
            self.notes.append(f"index files are left as they are, to be replaced by the next healing: {error.args[0]}")
            return False
        self.broken -= gone
        self.touched -= gone
        return True

    def _lose_index(self, unreadable: set[str], why: str) -> None:
        for name in sorted(unreadable) or [""]:
            self._done.lose(f"index/{name}", why)

    # -- locks ------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, *, exclusive: bool) -> Iterator[None]:
        if self._spec.dry_run:
            yield
            return
        holder = f"{os.uname().nodename}/holdfast/heal-{os.getpid()}"
        give_up = time.monotonic() + self._spec.patience
        while True:
            lock = self._repo.lock(holder=holder, exclusive=exclusive)
            try:
                lock.begin()
                lock.confirm()
                break
            except Locked:
                if time.monotonic() >= give_up:
                    raise
                self._heed()
                time.sleep(_AGAIN)
        self._lock = lock
        try:
            yield
        finally:
            self._lock = None
            lock.release()

    def _look(self) -> None:
        """Before an index file is put."""
        if self._lock is not None:
            self._lock.maintain()
            self._lock.ensure_held()

    def _say(self, done: int, total: int) -> None:
        self._said = "heal", done, total
        self._heed()

    def _heed(self) -> None:
        if self._lock is not None:
            self._lock.maintain()
        self._progress(*self._said)
