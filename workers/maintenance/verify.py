"""A verification from beginning to end: the coordinator.

    snapshots -> listing of packs -> locks -> index files -> headers, or whole packs -> every distinct tree once,
    knowing by then which packs and blobs are lost -> hard links per snapshot -> who suffers

Key files are hashed, too; what is sealed below holdfast/ and does not open is told, as it does no harm.
Backups may go on meanwhile: that order keeps them from passing for damage, see inventory.
Nothing is written to the repository but a shared lock. Each problem names its object, and the snapshots and
paths that can't be restored whole for it. Stricter than `restic check`, see treecheck.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from shared.errors import Interrupted
from shared.repository.errors import Damaged, Locked
from shared.repository.locks import LockInfo, RepositoryLock
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import VERSION, Repository
from shared.repository.tree import Node, decode_tree
from shared.storage.api import Denied, MissingObject, ObjectInfo, Permanent, StoreFull
from workers.access import is_remote, open_repository, preload
from workers.careful import stop_at_sigterm
from workers.crew import Crew, Task
from workers.helpers import HelperPool
from workers.limits import obey
from workers.maintenance import inventory, verify_helper
from workers.maintenance.findings import Findings
from workers.maintenance.graph import TreeGraph
from workers.maintenance.spec import Problem, VerifyReport, VerifySpec
from workers.restore.places import join, shown

OnEvent = Callable[[dict[str, Any]], None]

_INDEX_BATCH, _PACK_BATCH, _TREE_BATCH = 4, 64, 64  # objects in one task
_PATHS_LOOKED_AT = 1000  # of one snapshot, before its suffering paths are no longer counted
_TICK = 0.25  # seconds between two ticks


def run_verify(spec: VerifySpec, on_event: OnEvent) -> VerifyReport:
    """Verify what `spec` says. To be called in a process without threads or connections: it forks.

    `on_event` gets {"event": "progress", "phase", "done", "total", "errors"} a few times a second. Raises
    ConfigError, RepositoryError where it can't even be opened, StorageError, Interrupted; what is wrong
    inside the repository is in the report instead.
    """
    began = time.monotonic()
    stop_at_sigterm()
    notes = obey(spec.limits)
    preload(spec.site)
    count = spec.helpers or len(os.sched_getaffinity(0)) * (2 if is_remote(spec.site) else 1)
    pool = HelperPool(count, verify_helper.main)
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-") as temporary:
            report = Verify(spec, on_event, pool, temporary).run()
    except KeyboardInterrupt:
        raise Interrupted("the verification was interrupted", hint="Nothing was changed; run it again") from None
    finally:
        pool.close()
    report.notes += notes
    report.duration = time.monotonic() - began
    return report


class Verify:
    """One look at a repository, by the helpers of `pool`. After `run`, `found` says what might be healed.

    `again`: a look by the same helpers came before, and these packs are to be read whole; `absent`: packs whose blobs
    count as lost, whatever the index says. `temporary` is a directory of this look's own.
    """

    def __init__(
        self,
        spec: VerifySpec,
        on_event: OnEvent,
        pool: HelperPool,
        temporary: str,
        *,
        again: AbstractSet[bytes] | None = None,
        absent: AbstractSet[bytes] = frozenset(),
    ) -> None:
        self.report = VerifyReport(repository=spec.repository, site=spec.site.id)
        self.found = Findings()
        self._spec = spec
        self._on_event = on_event
        self._crew = Crew(pool, self._tick)
        self._temporary = temporary
        self._repo: Repository = open_repository(spec.site, spec.repository, spec.passwords)
        self._lock: RepositoryLock | None = None
        self._phase, self._done, self._total = "index", 0, 0
        self._ticked = 0.0
        self._roots: list[tuple[str, bytes]] = []  # snapshot id, tree
        self._indexed: dict[bytes, tuple[int, set[bytes], list[str]]] = {}  # pack -> size, digests, index files
        self._bad_index: list[str] = []
        self._again = again
        self._absent = absent
        self._bad_packs: set[bytes] = set()
        self._lost: list[tuple[bytes, bytes]] = []  # (pack, blob) that do not verify
        self._graph = TreeGraph()
        self._tree_problems: dict[bytes, list[tuple[bytes, Problem]]] = {}  # tree -> (node's name, problem)

    def run(self) -> VerifyReport:
        """Look. Raises what `run_verify` raises."""
        try:
            return self._run()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _run(self) -> VerifyReport:
        repo, spec = self._repo, self._spec
        self._take_lock()
        self._read_snapshots()
        if self._again is None:
            setup = ("setup", repo.key.to_bytes(), spec.to_json()["site"], spec.repository, repo.restic_id)
            self._crew.broadcast(setup)
        self._tell(inventory.damaged_keys(repo.store))
        listed = self._list_packs()
        others = inventory.writers(repo)
        self._read_index()
        if self._lock is not None:
            self._lock.confirm()
        self._read_packs(self._compare(listed, others))
        if spec.headers:
            self._read_notes()
        # An index that was read with gaps must not be taken up by a backup later.
        cache_dir = self._temporary if self._bad_index else spec.cache_dir or self._temporary
        index = verify_helper.open_sound_index(
            repo, spec.site, spec.repository, cache_dir, frozenset(self._bad_index), self._look_after
        )
        bad_packs = self._bad_packs | self._absent
        self._crew.broadcast(("ready", cache_dir, self._bad_index, sorted(bad_packs), self._lost))
        self._read_trees()

        def load(tree: bytes) -> list[Node]:
            (place,) = index.lookup(BlobType.TREE, [tree], bad_packs)
            if place is None:
                return []
            try:
                blob = Blob(tree, BlobType.TREE, place.offset, place.length, place.uncompressed)
                return decode_tree(repo.load_blob(place.pack, blob), [])
            except (Damaged, MissingObject, Permanent):
                return []

        self._compare_links()
        self._blame(load)
        index.close()
        self.report.trees = len(self._graph)
        self._tick()
        return self.report

    def _take_lock(self) -> None:
        if not self._spec.lock:
            return
        if self._repo.version != VERSION:
            self.report.notes.append("no lock: the repository's format version is only read")
            return
        lock = self._repo.lock(holder=f"{os.uname().nodename}/holdfast/verify-{os.getpid()}")
        try:
            self._begin(lock)
        except (Denied, Permanent, StoreFull) as error:
            self.report.notes.append(f"no lock, as the site can't be written to: {error}")
        else:
            self._lock = lock

    def _begin(self, lock: RepositoryLock) -> None:
        """Who looks again does not give up what was healed for a lock that is in the way."""
        give_up = time.monotonic() + (0.0 if self._again is None else self._spec.patience)
        while True:
            try:
                return lock.begin()
            except Locked:
                if time.monotonic() >= give_up:
                    raise
                time.sleep(1.0)

    def _problem(self, thing: str, message: str, *, error: bool = True) -> Problem:
        problem = Problem("error" if error else "warning", thing, message)
        self.report.add(problem)
        if error:
            self.found.add(thing)
        return problem

    def _tell(self, told: Iterable[tuple[bool, str, str]]) -> None:
        for error, thing, message in told:
            self._problem(thing, message, error=error)

    def _read_snapshots(self) -> None:
        """Read them before the index: what comes later may refer to what the index did not list yet."""

        def damaged(name: str, error: Damaged) -> None:
            self._problem(f"snapshot {name}", f"it can't be read: {error.args[0]}")
            self.report.affected_snapshots.append(name)

        for snapshot in self._repo.snapshots(damaged, fresh=True):
            self._look_after()
            self._roots.append((snapshot.id, snapshot.tree))
        self._roots.sort()
        self.report.snapshots = len(self._roots)

    def _read_index(self) -> None:
        names = sorted(name for name, _ in self._named("index/"))
        self._phase, self._done, self._total = "index", 0, len(names)
        self.report.index_files = len(names)

        def handle(answer: Any) -> None:
            _, told, packs, damaged = answer
            self._tell(told)
            self._bad_index += damaged
            self._done += _INDEX_BATCH
            for pack, size, digest, name in packs:
                _, digests, files = self._indexed.setdefault(pack, (size, set(), []))
                digests.add(digest)
                files.append(name)

        tasks = (("index", names[at : at + _INDEX_BATCH]) for at in range(0, len(names), _INDEX_BATCH))
        self._crew.run(lambda: next(tasks, None), handle)
        for pack, (_, digests, files) in self._indexed.items():
            if len(digests) > 1:
                self._problem(f"pack {pack.hex()}", f"index files do not agree on what it holds: {', '.join(files)}")
            elif len(files) > 1:
                self._problem(
                    f"pack {pack.hex()}", f"more than one index file lists it: {', '.join(files)}", error=False
                )
        self.report.packs = len(self._indexed)

    def _list_packs(self) -> dict[bytes, int]:
        """The packs below data/ with their sizes in bytes."""
        listed: dict[bytes, int] = {}
        for name, info in self._named("data/"):
            if info.key == f"data/{name[:2]}/{name}":
                listed[bytes.fromhex(name)] = info.size
            else:
                self._problem(f"pack {name}", f"it lies at {info.key}, where no reader looks", error=False)
        return listed

    def _compare(self, listed: dict[bytes, int], others: list[LockInfo]) -> dict[bytes, int]:
        """Compare the listing with the index; the sizes of the packs that are sound so far."""
        sizes = {pack: size for pack, (size, _, _) in self._indexed.items()}
        left = listed.keys() - sizes.keys()
        unindexed = len(left - inventory.doomed(self._repo.store, self._look_after)) if left else 0
        if unindexed and others:
            holders = ", ".join(f"{lock.hostname} ({lock.age:.0f} s old)" for lock in others)
            self.report.notes.append(
                f"packs in no index yet: {unindexed}, as is usual while others write; there are locks of {holders}"
            )
        elif unindexed:
            self._problem("data/", f"packs in no index: {unindexed}; the next prune removes them", error=False)
        unlisted = sizes.keys() - listed.keys()
        listed.update(inventory.list_again(self._repo.store, unlisted, self._look_after))
        for pack, message in inventory.faults(sizes, listed):
            self._problem(f"pack {pack.hex()}", message)
            self._bad_packs.add(pack)
        return {pack: size for pack, size in listed.items() if pack in sizes and pack not in self._bad_packs}

    def _read_packs(self, listed: dict[bytes, int]) -> None:
        spec = self._spec
        again = self._again
        whole = sorted(pack for pack in listed if (spec.reads(pack) if again is None else pack in again))
        rest = sorted(listed.keys() - set(whole)) if spec.headers else []
        self._phase, self._done, self._total = "packs", 0, len(whole) + len(rest)
        self.report.headers = len(whole) + len(rest)

        def tasks() -> Iterator[Task]:
            for pack in whole:
                yield "pack", [(pack, listed[pack], list(self._indexed[pack][1]), True)]
            for at in range(0, len(rest), _PACK_BATCH):
                batch = rest[at : at + _PACK_BATCH]
                yield "pack", [(pack, listed[pack], list(self._indexed[pack][1]), False) for pack in batch]

        def handle(answer: Any) -> None:
            _, told, lost, count, read = answer
            self._tell(told)
            self._lost += lost
            self._done += read or _PACK_BATCH
            self.report.bytes_read += count
            self.report.packs_read += read

        source = tasks()
        self._crew.run(lambda: next(source, None), handle)

    def _read_notes(self) -> None:
        names = sorted(inventory.notes(self._repo.store, self._look_after))
        tasks = (("notes", names[at : at + _PACK_BATCH]) for at in range(0, len(names), _PACK_BATCH))
        self._crew.run(lambda: next(tasks, None), lambda answer: self._tell(answer[1]))

    def _read_trees(self) -> None:
        pending = [tree for _, tree in self._roots if self._graph.meet(tree)]
        self._phase, self._done, self._total = "trees", 0, len(pending)

        def next_task() -> Task | None:
            if not pending:
                return None
            size = min(_TREE_BATCH, max(1, len(pending) // len(self._crew)))
            batch = pending[-size:]
            del pending[-size:]
            return "trees", batch

        def handle(answer: Any) -> None:
            _, trees, files, missing, faulty = answer
            self.report.files += files
            self.found.missing.update(missing)
            self.found.packs.update(faulty)
            self._done += len(trees)
            for tree, children, links, problems in trees:
                pending.extend(child for _, child in children if self._graph.meet(child))
                self._graph.add(tree, (child for _, child in children), links)
                for error, name, message in problems:
                    problem = self._problem(f"tree {tree.hex()}", message, error=error)
                    self._tree_problems.setdefault(tree, []).append((name, problem))
            self._total = len(self._graph)

        self._crew.run(next_task, handle)

    def _compare_links(self) -> None:
        for snapshot, root in self._roots:
            self._look_after()
            for first, other in self._graph.clashes(root):
                names = f"{shown(first[3])} and {shown(other[3])}"
                self._problem(
                    f"snapshot {snapshot}",
                    f"hard links that are none: {names} share inode {first[0]} of device {first[1]}, but not their "
                    "content; stock restic restores both with the content of one",
                )

    def _blame(self, load: Callable[[bytes], list[Node]]) -> None:
        """Find who suffers from what is wrong in trees, and from packs through them."""
        if not self._tree_problems:
            return
        targets = frozenset(self._tree_problems)
        above = self._graph.above(targets)
        for snapshot, root in self._roots:
            for count, (tree, path) in enumerate(self._graph.paths(root, targets, above, load)):
                self._look_after()
                for name, problem in self._tree_problems[tree]:
                    self.report.blame(problem, snapshot, f"/{shown(join(path, name) if name else path)}")
                if count >= _PATHS_LOOKED_AT:
                    break

    def _named(self, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
        return inventory.named(self._repo.store, prefix, self._look_after)

    def _look_after(self) -> None:
        """Tick, if it is time: for stretches in which the crew does not."""
        if time.monotonic() - self._ticked >= _TICK:
            self._tick()

    def _keep_lock(self) -> None:
        if self._lock is None:
            return
        try:
            self._lock.maintain()
        except Locked as lapsed:
            self.report.notes.append(f"{lapsed.args[0]}: what is told as missing may have been pruned; verify again")
            self._lock.maintain(reader=True)

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self._keep_lock()
        self._on_event(
            {
                "event": "progress",
                "phase": self._phase,
                "done": min(self._done, self._total),
                "total": self._total,
                "errors": self.report.errors,
            }
        )
