"""What stock restic, old and new, does to a repository that Holdfast wrote; and what Holdfast then makes of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from shared.repository.errors import UnsupportedRepository
from shared.repository.pack import BlobType
from shared.repository.tree import Node
from tests.support.backups import OLD, PASSWORD, SECOND, Shop, run_restic, write
from tests.support.compare import compare_trees

VERSIONS = pytest.mark.parametrize("version", ["0.14", "0.18"])
Make = Callable[[], Shop]


def fill(source: str) -> None:
    """A few files that need care: hardlinks, odd names, attributes, a hole, several chunks."""
    write(f"{source}/docs/plain.txt", b"plain\n" * 100)
    write(f"{source}/docs/same.txt", b"plain\n" * 100)
    write(os.fsencode(f"{source}/docs/") + b'q"\xff<\n', b"odd name")
    write(f"{source}/docs/\U0001fae8 new emoji", b"newer than this Python")
    write(f"{source}/docs/empty")
    write(f"{source}/data/big", os.urandom(5 << 20))
    with open(f"{source}/data/hole", "wb") as file:
        file.truncate(6 << 20)
        file.seek(3 << 20)
        file.write(b"island")
    os.link(f"{source}/data/big", f"{source}/docs/big-again")
    os.symlink("../data/big", f"{source}/docs/link")
    os.setxattr(f"{source}/docs/plain.txt", "user.note", b"\x00<\xff")
    os.mkfifo(f"{source}/docs/fifo")
    os.makedirs(f"{source}/void/deep")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A full and two incrementals, and a snapshot of another source."""
    shop = Shop(str(tmp_path_factory.mktemp("written")))
    fill(shop.source)
    shop.backup(kind="full", slot="2026-01-01T00:00:00Z", labels=["env=prod"])
    write(f"{shop.source}/docs/second", b"second " * 2000)
    shop.backup(slot="2026-01-02T00:00:00Z")
    os.unlink(f"{shop.source}/docs/same.txt")
    write(f"{shop.source}/docs/plain.txt", b"changed\n", mtime=OLD + SECOND)
    shop.backup(slot="2026-01-03T00:00:00Z")
    shop.backup(f"{shop.source}/docs", source="web1-docs")
    return shop


@pytest.fixture
def shop(written: Shop, tmp_path: Path) -> Shop:
    """That repository, to be done with as one likes; the source is shared and stays as it is."""
    shutil.copytree(written.site, tmp_path / "site")
    shutil.copytree(written.cache, tmp_path / "cache")
    return Shop(str(tmp_path), source=written.source)


def ours(shop: Shop, source: str = "web1") -> list[str]:
    """The ids of a source's snapshots, oldest first."""
    found = sorted((one.time, one.id) for one in shop.open().snapshots() if one.source == source)
    return [snapshot for _, snapshot in found]


def same_as_source(shop: Shop, restored: str, *without: str) -> None:
    """Identical to the source as it is."""
    assert compare_trees(shop.source, restored, without=without, top=False) == []


@VERSIONS
def test_check_finds_nothing(shop: Shop, version: str) -> None:
    """Structure and every byte."""
    shop.check(version)


@VERSIONS
def test_snapshots_are_listed(shop: Shop, version: str) -> None:
    """With host, paths, user and all tags; those of one source by its tag."""
    listed = shop.restic_json(version, "snapshots", "--tag", "hf.source=web1")
    assert [one["id"] for one in listed] == ours(shop)
    assert [[tag for tag in one["tags"] if tag.startswith("hf.kind")] for one in listed] == [
        ["hf.kind=full"],
        ["hf.kind=incremental"],
        ["hf.kind=incremental"],
    ]
    first = listed[0]
    assert (first["hostname"], first["paths"], "env=prod" in first["tags"]) == ("web1.example", [shop.source], True)
    assert [tag for tag in listed[2]["tags"] if tag.startswith("hf.lastfull")] == ["hf.lastfull=2026-01-01T00:00:00Z"]


@VERSIONS
def test_restore_is_identical(shop: Shop, version: str) -> None:
    """All of the latest snapshot; and of an old one what was there then."""
    newest, oldest = ours(shop)[-1], ours(shop)[0]
    target = f"{shop.base}/out"
    shop.restic(version, "restore", newest, "--target", target)
    same_as_source(shop, target + shop.source, "sparse")
    shop.restic(version, "restore", oldest, "--target", f"{target}-old", "--include", f"{shop.source}/docs")
    old = f"{target}-old{shop.source}/docs"
    assert (Path(old, "same.txt").read_bytes(), os.path.exists(f"{old}/second")) == (b"plain\n" * 100, False)


@VERSIONS
def test_copy_takes_all_to_another_repository(shop: Shop, version: str) -> None:
    """Which checks, and restores what the first one does; the hf.* tags go along."""
    second = Shop(f"{shop.base}/second").repository
    names = ("RESTIC_REPOSITORY2", "RESTIC_PASSWORD2") if version == "0.14" else ()
    if names:
        environment = {"RESTIC_PASSWORD": PASSWORD, **dict(zip(names, (second, PASSWORD), strict=True))}
        shop.restic(version, "copy", **environment)
    else:
        environment = {"RESTIC_FROM_PASSWORD": PASSWORD}
        run_restic(version, second, "copy", "--from-repo", shop.repository, **environment)
    assert "no errors were found" in run_restic(version, second, "check", "--read-data")
    listed = json.loads(run_restic(version, second, "snapshots", "--json"))
    assert sorted(one["tree"] for one in listed) == sorted(one.tree.hex() for one in shop.open().snapshots())
    assert all(any(tag.startswith("hf.run=") for tag in one["tags"]) for one in listed)
    run_restic(version, second, "restore", "latest", "--tag", "hf.source=web1", "--target", f"{shop.base}/out")
    same_as_source(shop, f"{shop.base}/out{shop.source}", "sparse")


@VERSIONS
def test_diff_tells_what_changed(shop: Shop, version: str) -> None:
    """Between two incrementals: one file gone, one modified."""
    out = shop.restic(version, "diff", *ours(shop)[1:])
    changes = [line for line in out.splitlines() if line[:1] in "+-M" and line[1:5] == "    "]
    files = [line for line in changes if not line.endswith("/") and shop.source in line]
    docs = f"{shop.source}/docs"
    assert files == [f"M    {docs}/plain.txt", f"-    {docs}/same.txt"]


@VERSIONS
def test_what_forget_and_prune_leave_is_gone_on_with(shop: Shop, version: str) -> None:
    """All but the last snapshot of a source forgotten and pruned: Holdfast restores, and appends an incremental."""
    last = ours(shop)[-1]
    arguments = ("--tag", "hf.source=web1", "--group-by", "", "--keep-last", "1", "--prune", "--max-unused", "0")
    shop.restic(version, "forget", *arguments)
    assert ours(shop) == [last]
    shop.check(version)
    same_as_source(shop, shop.restore(snapshot=last))
    again = shop.backup()
    assert (again.parent, again.complete) == (last, True)
    assert shop.tree_of(again.tree) == shop.tree_of(next(s.tree for s in shop.open().snapshots() if s.id == last))
    shop.check(version)


@VERSIONS
def test_restic_appends_and_holdfast_goes_on(shop: Shop, version: str) -> None:
    """A snapshot of restic's restores with Holdfast, which takes its own as the next one's parent; all checks."""
    before = ours(shop)
    snapshot = shop.restic_backup(version)["snapshot_id"]
    same_as_source(shop, shop.restore(snapshot=snapshot))
    again = shop.backup()
    assert again.parent == before[-1]
    same_as_source(shop, shop.restore("again", snapshot=again.snapshot))
    shop.check(version)


@VERSIONS
def test_repacked_by_restic(shop: Shop, version: str) -> None:
    """`prune` that repacks small packs, and a rebuilt index: Holdfast notices both, and stores nothing again."""
    shop.restic(version, "prune", "--max-unused", "0", "--repack-cacheable-only=false")
    shop.restic(version, "rebuild-index" if version == "0.14" else "repair", *([] if version == "0.14" else ["index"]))
    again = shop.backup(kind="full")
    data = {blob for kind, blob in shop.blobs() if kind is BlobType.DATA}
    assert again.bytes_read > 5 << 20
    assert data == {blob for node in _files(shop, again.tree) for blob in node.content or []} | data
    assert shop.tree_of(again.tree) == shop.tree_of(_tree(shop, ours(shop)[-2]))
    shop.check(version)


def _tree(shop: Shop, snapshot: str) -> bytes:
    return next(one.tree for one in shop.open().snapshots() if one.id == snapshot)


def _files(shop: Shop, tree: str) -> list[Node]:
    return [node for node in shop.nodes(tree, f"{shop.source}/docs").values() if node.type == "file"]


def test_018_rewrite_encodes_every_tree_alike(shop: Shop) -> None:
    """`rewrite --exclude` refuses a tree that it can't reproduce byte for byte; here only the excluded file goes."""
    out = shop.restic("0.18", "rewrite", "--exclude", "second", "--forget")
    assert "modified 3 snapshots" in out
    trees = [_tree(shop, snapshot) for snapshot in ours(shop)]
    assert len(trees) == 3
    for tree in trees:
        names = shop.nodes(tree, f"{shop.source}/docs")
        assert (b"second" in names, b'q"\xff<\n' in names, "\U0001fae8 new emoji".encode() in names) == (
            False,
            True,
            True,
        )
    shop.check()


def test_018_restores_holes(shop: Shop) -> None:
    """With --sparse a chunk of zeros is a hole again: half of the file, as its island lies in the other chunk."""
    shop.restic("0.18", "restore", ours(shop)[-1], "--sparse", "--target", f"{shop.base}/out")
    same_as_source(shop, f"{shop.base}/out{shop.source}", "sparse")
    assert os.stat(f"{shop.base}/out{shop.source}/data/hole").st_blocks * 512 <= 3 << 20


@VERSIONS
def test_what_holdfast_must_find_again_survives_tag(shop: Shop, version: str) -> None:
    """After `tag --add` every hf.* tag is there; the new snapshot is the next incremental's parent."""
    before = {snapshot.tag("run"): snapshot for snapshot in shop.open().snapshots()}
    shop.restic(version, "tag", "--add", "keep,me")
    after = {snapshot.tag("run"): snapshot for snapshot in shop.open().snapshots()}
    for run, snapshot in before.items():
        now = after[run]
        assert (now.source, now.tag("kind"), now.tag("slot"), now.tag("lastfull"), now.began) == (
            snapshot.source,
            snapshot.tag("kind"),
            snapshot.tag("slot"),
            snapshot.tag("lastfull"),
            snapshot.began,
        )
        assert (now.id != snapshot.id, now.original, now.tags[-2:]) == (True, snapshot.id, ["keep", "me"])
    assert shop.backup().parent == ours(shop)[-2]


def test_a_plain_tree_has_one_id_whoever_wrote_it(tmp_path: Path) -> None:
    """Restic 0.18, told to note devices of hardlinks alone, adds not one blob for the same unchanged directory.

    Fifos and sockets excepted, whose links it does not count and whose st_dev it always notes.
    """
    shop = Shop(str(tmp_path))
    for name in ("a/one", "a/two <&>", "b/c/three"):
        write(f"{shop.source}/{name}", name.encode() * 50)
    write(os.fsencode(shop.source) + b'/a/\xff"\n', b"x")
    write(f"{shop.source}/a/negative", b"x", mtime=-1)
    os.symlink("somewhere/é", f"{shop.source}/b/link")
    os.symlink(b"\xff/target", os.fsencode(f"{shop.source}/b/raw"))
    if os.geteuid() == 0:
        os.mknod(f"{shop.source}/b/null", 0o020666, os.makedev(1, 3))
        os.chown(f"{shop.source}/a/one", 1, 123456)
    os.setxattr(f"{shop.source}/a/one", "user.x", b"value")
    os.chmod(f"{shop.source}/b/c/three", 0o6755)  # noqa: S103 -- nobody runs it
    os.chmod(f"{shop.source}/b/c", 0o1777)  # noqa: S103 -- like /tmp
    done = shop.backup()
    blobs = set(shop.blobs())
    arguments = ("backup", shop.source, "--host", "other", "--force")
    shop.restic("0.18", *arguments, RESTIC_FEATURES="device-id-for-hardlinks=true")
    theirs = next(one for one in shop.open().snapshots() if not one.source)
    assert shop.tree_of(theirs.tree) == shop.tree_of(done.tree)
    more = set(shop.blobs()) - blobs
    parents = len(Path(shop.source).parts) - 1  # above the source, where other processes change times
    assert (len(more) <= parents, {kind for kind, _ in more} <= {BlobType.TREE}) == (True, True)


def test_as_shipped_restic_differs_in_the_device_alone(tmp_path: Path) -> None:
    """Without that setting restic 0.18 notes st_dev in every node, and nothing else is different."""
    shop = Shop(str(tmp_path))
    write(f"{shop.source}/f", b"content")
    os.mkdir(f"{shop.source}/d")
    done = shop.backup()
    snapshot = shop.restic_backup("0.18")["snapshot_id"]
    ours_there, theirs = shop.nodes(done.tree, shop.source), shop.nodes(_tree(shop, snapshot), shop.source)
    device = os.stat(shop.source).st_dev
    assert {node.device_id for node in theirs.values()} == {device}
    for node in theirs.values():
        node.device_id = 0
    assert theirs == ours_there


@VERSIONS
def test_chunks_of_large_files_stand_beside_restics(tmp_path: Path, version: str) -> None:
    """The two cut differently, so a large file is stored twice; a small one is one blob for both."""
    shop = Shop(str(tmp_path))
    write(f"{shop.source}/big", os.urandom(3 << 20))
    write(f"{shop.source}/small", b"small" * 1000)
    shop.restic_backup(version)
    done = shop.backup()
    assert 3 << 20 <= done.bytes_added < (3 << 20) + 5000
    shop.check(version)


def test_a_version_1_repository_is_read_and_never_written(tmp_path: Path) -> None:
    """What 0.14 wrote in it restores; a backup into it is refused by name, and leaves no object."""
    shop = Shop(str(tmp_path))
    shutil.rmtree(shop.repository)
    shop.restic("0.14", "init", "--repository-version", "1")
    fill(shop.source)
    shop.restic_backup("0.14")
    same_as_source(shop, shop.restore())
    before = sorted(os.path.join(folder, name) for folder, _, names in os.walk(shop.site) for name in names)
    with pytest.raises(UnsupportedRepository, match=r"format version 1, which is only read.*migrate upgrade_repo_v2"):
        shop.backup()
    assert sorted(os.path.join(folder, name) for folder, _, names in os.walk(shop.site) for name in names) == before


def test_an_upgraded_repository_is_written(tmp_path: Path) -> None:
    """After `migrate upgrade_repo_v2` a backup goes into it, uncompressed old blobs beside new ones."""
    shop = Shop(str(tmp_path))
    repo = shop.open()  # with Holdfast's own keys, as those that `init` makes take half a second to open
    config = orjson.loads(repo.sealer().unseal(repo.store.get("config"))) | {"version": 1}
    repo.store.put("config", repo.sealer().seal(orjson.dumps(config)))
    write(f"{shop.source}/old", b"old " * 5000)
    shop.restic_backup("0.14")
    shop.restic("0.14", "migrate", "upgrade_repo_v2")
    write(f"{shop.source}/new", b"new " * 5000)
    done = shop.backup()
    assert done.bytes_added < 20_000 + 8000  # `old` is there already: the new file and trees
    same_as_source(shop, shop.restore())
    shop.check("0.14")
