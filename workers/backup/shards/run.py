"""A backup that is cut in shards, as the engine sees it: what is cut, one shard, and the end.

    the run     open or create -> a commit of this run? -> lock -> weigh, plan -> the kept lock -> Cut: no snapshot yet
    each shard  open -> lock -> the kept lock -> pass over its part -> a root tree, with its part alone; no commit
    the run     as above -> are all roots whole? else Cut again, for those that are not -> merge -> commit

Invariant: what a shard has stored counts only once whoever finishes has seen, under a lock of his own that no prune can
pass, that all of it is indexed, in packs that are not doomed: from listings, or else by a walk of its trees. So nothing
rests on the kept lock, nor on the ledger.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from shared.errors import BackupError
from shared.repository.errors import Damaged
from shared.repository.gojson import parse_time, time_string
from shared.repository.keptlock import KeptLock
from shared.repository.pack import Blob, BlobType
from shared.repository.snapshot import Snapshot
from shared.repository.tree import Node, decode_tree
from workers.backup import commit as commits
from workers.backup.engine.coordinator import Counts
from workers.backup.engine.packer import Packer, Uploader
from workers.backup.engine.parent import ParentReader
from workers.backup.engine.selection import Filter
from workers.backup.engine.treecache import NO_REF, Ref, TreeReader, TreeWriter, load_head
from workers.backup.run import PASSES, TREE_SHARE, BackupRun, OnEvent, run_backup
from workers.backup.shards import weigh
from workers.backup.shards.merge import merge
from workers.backup.shards.plan import Plan, buckets_for, make_plan
from workers.backup.shards.stands import ShardResult, Standing, rests_on
from workers.backup.spec import BackupResult, BackupSpec, Selection, ShardsSpec

_SUMS = ("files_new", "files_changed", "files_unmodified", "files_gone", "bytes_processed", "bytes_read", "bytes_added")
_LISTED = 100


class _CutNow(Exception):
    """There is no snapshot yet: shards are to be done first, those in `again` anew."""

    def __init__(self, plan: Plan, again: list[int]) -> None:
        super().__init__("shards are to be done")
        self.plan = plan
        self.again = again


def run_shards(spec: BackupSpec, on_event: OnEvent) -> dict[str, Any]:
    """Do what `spec.shards` says: the result, or {"cut": {"plan": text, "again": numbers}}. See `run_backup`."""
    shards = _of(spec)
    if shards.number >= 0:
        spec.selection.plan, spec.selection.shard = shards.plan, shards.number
        return run_backup(spec, on_event, ShardRun).to_json()
    try:
        return run_backup(spec, on_event, CutRun).to_json()
    except _CutNow as cut:
        return {"cut": {"plan": cut.plan.to_text(), "again": cut.again}}


def digest_of(selection: Selection) -> str:
    """What belongs to the source, in short: a plan is for that, and for nothing else."""
    said = [
        selection.paths,
        selection.excludes,
        selection.exclude_caches,
        selection.exclude_if_present,
        selection.one_file_system,
        selection.exclude_larger_than,
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


class ShardRun(BackupRun):
    """One shard: a pass over its part of the source."""

    def _find(self) -> commits.Commit:
        plan = Plan.parse(_of(self._spec).plan)
        if plan.selection != digest_of(self._resolved.selection):
            raise BackupError(
                f"source {self._spec.source}: its paths or what they leave out differ from those that it was cut by",
                hint="Give all workers of the pool the same configuration and mounts; then it is cut anew",
            )
        self._spec.kind = "full" if plan.kind == "full" else "incremental"
        number = _of(self._spec).number
        for path, names in self._resolved.partial.items():
            self._resolved.partial[path] = [name for name in names if plan.is_mine(number, path, name)]
        self._kept = KeptLock(self._repo, _of(self._spec).run)
        return commits.Commit(commits.State.NONE)

    def _make_known(self, *, compare: bool = False) -> None:
        super()._make_known(compare=compare)
        self._kept.ensure()

    def _tick(self, counts: Counts) -> None:
        super()._tick(counts)
        if self._known.ready:
            self._kept.ensure()

    def _commit(
        self, counts: Counts, root: tuple[bytes, Ref], parent: Snapshot | None, writer: TreeWriter
    ) -> BackupResult:
        writer.discard()
        self._journal.remove()
        spec = self._spec
        result = ShardResult(
            snapshot="",
            kind=spec.kind,
            source=spec.source,
            repository=spec.repository,
            site=spec.site.id,
            time=time_string(self._began),
            tree=root[0].hex(),
            parent=parent.id if parent else "",
            **rests_on(self._repo.store, self._known.relied_on, self._absent),
        )
        return self._said(result, counts)


class CutRun(BackupRun):
    """The run that is cut: its begin and its end. It reads no file."""

    helpers: ClassVar[int | None] = 0

    def _back_up(self) -> BackupResult:
        shards = _of(self._spec)
        self._kept = KeptLock(self._repo, shards.run)
        digest = digest_of(self._resolved.selection)
        try:
            plan = Plan.parse(shards.plan) if shards.plan else None
        except ValueError:
            plan = None  # of another release: it is cut anew
        if plan is None or plan.selection != digest or len(shards.done) != plan.count:
            raise self._cut(digest)
        results = [one for one in shards.done if one is not None]
        if len(results) < plan.count:
            self._lock.confirm()
            self._kept.ensure()
            raise _CutNow(plan, shards.lost)
        for _ in range(PASSES):
            done = self._finish(plan, results)
            if done is not None:
                self._kept.release()
                return done
        raise BackupError(
            f"source {self._spec.source}: the repository's index changed under the run {PASSES} times",
            hint="Something else prunes the repository without respecting locks; stop it and run this again",
        )

    # -- the begin --------------------------------------------------------------------------------

    def _cut(self, digest: str) -> _CutNow:
        spec, count = self._spec, _of(self._spec).count
        parent = self._parent()
        self._make_known()
        tops: Mapping[bytes, Any] = dict.fromkeys(self._resolved.paths)
        look = weigh.on_disk(Filter(self._resolved.selection))
        if parent is None:
            spec.kind = "full"
        else:
            head = load_head(self._trees_folder())
            if head is not None and head.snapshot != parent.id:
                head = None
            trees = TreeReader(self._trees_folder(), head.segments if head else [])
            reader = ParentReader(trees, self._repo.store, self._repo.sealer())
            look = weigh.in_snapshot(reader, self._known.locate_tree)
            root = (parent.tree, head.root if head else NO_REF)
            tops = weigh.tops_in_snapshot(look, root, self._resolved.paths)
        weighed = weigh.weigh(tops, look, buckets_for(count), self._look_after)
        plan = make_plan(weighed, count, kind=spec.kind, selection=digest)
        self._lock.ensure_held()
        self._kept.ensure()
        return _CutNow(plan, [])

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self, plan: Plan, done: list[dict[str, Any]]) -> BackupResult | None:
        """Commit; None where something that was taken as stored is not, while others delete without a lock."""
        spec, known = self._spec, self._known
        spec.kind = "full" if plan.kind == "full" else "incremental"
        if known.ready:
            known.begin_pass()
        else:
            self._make_known()
        standing = Standing(self._repo.store, self._absent)
        lost = [number for number, one in enumerate(done) if not self._stands(standing, one)]
        if lost:
            self._kept.ensure()
            raise _CutNow(plan, lost)
        tree, unseen = self._merge(plan, [bytes.fromhex(one["tree"]) for one in done])
        known.index.refresh()
        if not known.relied_on <= known.index.index_ids:
            return None
        self._lock.ensure_held()
        began = min(parse_time(one["time"]) for one in done)
        result = self._put(_sum(plan, done, unseen), tree, self._parent(), began=began)
        if not result.existed:
            result.shards = plan.count
            result.duration = max(result.duration, (time.time_ns() - began) / 1e9)
            result.bytes_stored += sum(one["bytes_stored"] for one in done)
            result.packs_stored += sum(one["packs_stored"] for one in done)
            result.packs_resumed += sum(one["packs_resumed"] for one in done)
            result.warnings = list(
                dict.fromkeys([*self._warnings, *(text for one in done for text in one["warnings"])])
            )
        return result

    def _stands(self, standing: Standing, done: Mapping[str, Any]) -> bool:
        if done["site"] != self._spec.site.id:
            return False  # the primary has changed meanwhile
        if standing.holds(done):
            return True
        tree = bytes.fromhex(done["tree"])
        return commits.is_stored(self._repo, tree, self._known.index, self._absent, self._look_after)

    def _merge(self, plan: Plan, roots: list[bytes]) -> tuple[bytes, list[str]]:
        spec, repo, known = self._spec, self._repo, self._known
        uploader = Uploader(repo.store, uploads=1, spool=spec.cache_dir)
        target = spec.pack_size // TREE_SHARE
        packer = Packer(repo.key, uploader, BlobType.TREE, level=spec.compression_level, target=target)

        def store(tree: bytes, raw: bytes) -> None:
            self._look_after()
            if known.claim(BlobType.TREE, [tree])[0]:
                packer.add(tree, raw)

        try:
            merged = merge(plan, roots, self._nodes, store)
            packer.flush()
            uploader.wait()
            for pack in uploader.finished():
                known.stored(pack)
            known.flush()
        finally:
            packer.discard()
            uploader.let_end()
        return merged

    def _nodes(self, tree: bytes) -> list[Node]:
        (found,) = self._known.index.lookup(BlobType.TREE, [tree], self._absent)
        if found is None:
            raise Damaged(f"tree {tree.hex()[:16]} is gone from the index while the run was finished")
        blob = Blob(tree, BlobType.TREE, found.offset, found.length, found.uncompressed)
        return decode_tree(self._repo.load_blob(found.pack, blob))


def _of(spec: BackupSpec) -> ShardsSpec:
    if spec.shards is None:
        raise BackupError(f"source {spec.source} is not cut in shards")
    return spec.shards


def _sum(plan: Plan, done: list[dict[str, Any]], unseen: list[str]) -> Counts:
    """What the shards have met, together. A directory that is cut was looked at by all: its trouble counts once."""
    counts = Counts()
    for name in _SUMS:
        setattr(counts, name, sum(int(one[name]) for one in done))
    counts.dirs = sum(int(one["dirs"]) for one in done) - (plan.count - 1) * len(plan.cuts)
    listed = [*unseen, *(problem for one in done for problem in one["problems"])]
    once = list(dict.fromkeys(listed))
    counts.problems = len(unseen) + sum(int(one["unreadable"]) for one in done) - (len(listed) - len(once))
    counts.listed = once[:_LISTED]
    return counts
