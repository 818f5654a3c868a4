"""Bad input to a restore: a clear error, an exit code, and nothing written that should not be."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest
import zstandard

from shared.errors import RestoreError
from shared.repository.crypto import Sealer
from shared.repository.errors import Damaged, RepositoryMissing, UnsupportedRepository, WrongPassword
from shared.repository.pack import BlobType
from shared.repository.tree import encode_node, join_tree
from shared.storage.api import Permanent
from tests.support.backups import Shop, write
from tests.support.crafting import Crafted, change_object
from tests.support.namespaces import run_mounted
from tests.support.restores import names_below, restore, target_of
from workers.restore.places import blocked


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty repository."""
    return Shop(str(tmp_path))


@pytest.fixture
def crafted(shop: Shop) -> Crafted:
    """The means to fill it."""
    return Crafted(shop)


def messages(result: object) -> list[str]:
    """What a result says of single nodes, as `path: message`."""
    problems = getattr(result, "problems", [])
    return [f"{problem['path']}: {problem['message']}" for problem in problems]


# -- the repository as a whole ------------------------------------------------------------------


def test_wrong_password(shop: Shop, crafted: Crafted) -> None:
    """A wrong password is told as one, and no target is made."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    with pytest.raises(WrongPassword, match="opens with this password") as caught:
        restore(shop, passwords=["wrong"])
    assert caught.value.exit_code == 22
    assert not os.path.exists(target_of(shop))


def test_missing_repository(shop: Shop) -> None:
    """A repository that is not there is told with its place; nothing is made at the site."""
    before = names_below(shop.site)
    with pytest.raises(RepositoryMissing, match=r"there is no repository at .*other"):
        restore(shop, repository="other")
    assert (names_below(shop.site), os.path.exists(target_of(shop))) == (before, False)


def test_missing_site(shop: Shop, tmp_path: Path) -> None:
    """A site that is not there is told with its path."""
    shop.site = str(tmp_path / "gone")
    with pytest.raises(Permanent, match="no such directory"):
        restore(shop)
    assert not os.path.exists(target_of(shop))


def test_a_folder_that_is_no_repository(shop: Shop) -> None:
    """A folder of other things is no repository."""
    write(os.path.join(shop.site, "repos", "photos", "one.jpg"), b"x")
    with pytest.raises(RepositoryMissing, match="it has no config"):
        restore(shop, repository="photos")


def test_version_3(shop: Shop, crafted: Crafted) -> None:
    """A format version of the future is refused by its number."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    sealer = Sealer(crafted.repo.key)

    def upgrade(data: bytearray) -> bytes:
        config = orjson.loads(sealer.unseal(bytes(data)))
        return sealer.seal(orjson.dumps({**config, "version": 3}))

    change_object(os.path.join(shop.repository, "config"), upgrade)
    with pytest.raises(UnsupportedRepository, match="format version 3; this release knows 1"):
        restore(shop)
    assert not os.path.exists(target_of(shop))


@pytest.mark.parametrize("fault", ["flipped", "cut", "empty"])
def test_damaged_config(shop: Shop, crafted: Crafted, fault: str) -> None:
    """A damaged config is told, with the way out."""
    crafted.snapshot(crafted.file(b"file", b"x"))

    def damage(data: bytearray) -> bytes:
        if fault == "flipped":
            data[20] ^= 1
        return bytes(data[: {"flipped": len(data), "cut": 40, "empty": 0}[fault]])

    change_object(os.path.join(shop.repository, "config"), damage)
    with pytest.raises(Damaged, match=r"its config is damaged.*Copy `config` from another site"):
        restore(shop)
    assert not os.path.exists(target_of(shop))


def test_no_such_snapshot_or_path(shop: Shop, crafted: Crafted) -> None:
    """An id, a source or a path that the repository does not have is told before anything is made."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    with pytest.raises(RestoreError, match="there is no snapshot abcdef at"):
        restore(shop, snapshot="abcdef")
    with pytest.raises(RestoreError, match="there is no snapshot of source db1"):
        restore(shop, source="db1")
    with pytest.raises(RestoreError, match="holds no /nothing/here"):
        restore(shop, paths=["/nothing/here"])
    with pytest.raises(RestoreError, match="holds no directory /file"):
        restore(shop, base="/file")
    assert not os.path.exists(target_of(shop))


def test_damaged_index(shop: Shop, crafted: Crafted) -> None:
    """An index file that does not verify is told by its name."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    (name,) = shop.names("index")
    change_object(os.path.join(shop.repository, "index", name), lambda data: data[:-1])
    with pytest.raises(Damaged, match=f"index/{name[:16]}"):
        restore(shop)
    assert not os.path.exists(target_of(shop))


# -- packs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["missing", "flipped", "cut"])
def test_a_bad_pack_loses_its_files_alone(shop: Shop, crafted: Crafted, fault: str) -> None:
    """Of a pack that is missing, changed or cut what can be had is restored; pack and files are named; exit code 24."""
    one, two = crafted.file(b"one", os.urandom(9000)), crafted.file(b"two", os.urandom(9000))
    big = crafted.file(b"big", os.urandom(9000), b"second part" * 1000)
    (bad,) = crafted.flush()
    fine = crafted.file(b"fine", b"in another pack")
    crafted.snapshot(one, two, big, fine)
    path = crafted.pack_path(bad)
    if fault == "missing":
        os.unlink(path)
        lost = ["big", "one", "two"]
    elif fault == "flipped":  # in the first blob

        def flip(data: bytearray) -> None:
            data[100] ^= 1

        change_object(path, flip)
        lost = ["one"]
    else:
        change_object(path, lambda data: data[:15_000])  # within the second
        lost = ["big", "two"]
    result = restore(shop)
    assert sorted(problem["path"] for problem in result.problems) == [f"/{name}" for name in lost]
    assert all(bad.hex() in message for message in messages(result))
    assert (result.exit_code, result.damaged_packs, result.errors) == (24, [bad.hex()], len(lost))
    assert sorted(os.listdir(target_of(shop))) == sorted({"big", "one", "two", "fine"} - set(lost))
    again = restore(shop, "again", verify=True)  # which does not tell of them a second time, as missing
    assert (again.errors, again.verified, 0 < again.verify_duration < again.duration) == (
        len(lost),
        4 - len(lost),
        True,
    )


def test_index_past_the_end(shop: Shop, crafted: Crafted) -> None:
    """An index entry that points behind its pack loses that file alone."""
    good, bad = crafted.file(b"good", b"good" * 100), crafted.file(b"bad", os.urandom(5000))
    tree = crafted.tree(good, bad)
    crafted.flush()
    assert bad.content is not None
    for _, blobs in crafted.packs:
        for at, blob in enumerate(blobs):
            if blob.id == bad.content[0]:
                blobs[at] = blob._replace(offset=1 << 30)
    crafted.index()
    crafted.snapshot(tree=tree)
    result = restore(shop)
    assert [problem["path"] for problem in result.problems] == ["/bad"]
    assert "the object ends" in result.problems[0]["message"]
    assert (result.exit_code, os.listdir(target_of(shop))) == (24, ["good"])


def test_blob_in_no_index(shop: Shop, crafted: Crafted) -> None:
    """A file, or a directory, whose blob no index lists is told; the rest is restored."""
    lost = crafted.file(b"lost", b"x", content=[b"\1" * 32])
    gone = crafted.directory(b"gone", subtree=b"\2" * 32)
    both = crafted.file(b"both", b"x", content=[b"\1" * 32, b"\3" * 32])
    crafted.snapshot(lost, gone, both, crafted.file(b"here", b"x"))
    result = restore(shop)
    assert sorted(messages(result)) == [
        "/both: its blob 0101010101010101 is in no index",
        "/gone: nothing in this directory can be restored: its tree 0202020202020202 is in no index",
        "/lost: its blob 0101010101010101 is in no index",
    ]
    assert (result.exit_code, sorted(os.listdir(target_of(shop)))) == (3, ["gone", "here"])


@pytest.mark.parametrize("honest", [True, False])
def test_blob_that_unpacks_to_gigabytes(shop: Shop, crafted: Crafted, honest: bool) -> None:
    """A blob that would unpack beyond the bound, or beyond what its index says, is refused before it does."""
    size = 2 << 30
    packer = zstandard.ZstdCompressor().compressobj(size=size if honest else -1)
    zeros = bytes(1 << 20)
    frame = b"".join([*(packer.compress(zeros) for _ in range(size >> 20)), packer.flush()])
    bomb = crafted.raw(BlobType.DATA, b"\7" * 32, frame, size if honest else 1000)
    crafted.snapshot(crafted.file(b"bomb", b"x" * 1000, content=[bomb]), crafted.file(b"fine", b"x"))
    result = restore(shop)
    assert [problem["path"] for problem in result.problems if "pack" in problem["message"]] == ["/bomb"]
    if honest:
        assert "would unpack to 2147483648 bytes, at most 67108864 are allowed" in messages(result)[-1]
    assert (result.exit_code, os.listdir(target_of(shop))) == (24, ["fine"])


# -- trees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc/passwd", b"../up", b"nul\0byte"])
def test_unsafe_name(shop: Shop, crafted: Crafted, name: bytes) -> None:
    """A node whose name is none of a directory entry is left out and told; nothing appears beside the target."""
    below = crafted.tree(crafted.file(name, b"evil"), crafted.file(b"zz-good", b"good"))
    before = set(os.listdir(shop.base))
    crafted.snapshot(crafted.directory(b"data", subtree=below))
    result = restore(shop)
    assert [message for message in messages(result) if "is not one of a directory entry" in message] != []
    assert result.exit_code == 3
    assert names_below(target_of(shop)) == ["data", "data/zz-good"]
    assert set(os.listdir(shop.base)) - before <= {"target", "cache"}


def test_nodes_twice_and_unsorted(shop: Shop, crafted: Crafted) -> None:
    """Of two nodes of one name the first counts; nodes out of order are restored; both are told."""
    first, second = crafted.file(b"same", b"first"), crafted.file(b"same", b"second")
    other = crafted.file(b"aaa", b"behind")
    raw = join_tree(encode_node(node) for node in (first, second, other))
    crafted.snapshot(tree=crafted.blob(BlobType.TREE, raw))
    result = restore(shop)
    assert messages(result) == [
        "/: tree: the name b'same' stands in it twice",
        "/: tree: b'aaa' stands behind b'same', names must ascend",
    ]
    assert Path(target_of(shop), "same").read_bytes() == b"first"
    assert (result.exit_code, sorted(os.listdir(target_of(shop)))) == (3, ["aaa", "same"])


def test_tree_that_is_none(shop: Shop, crafted: Crafted) -> None:
    """A tree blob that is no tree, and nodes with values that can't be, are told; their neighbours are restored."""
    broken = crafted.blob(BlobType.TREE, b"[1, 2]")
    odd = crafted.blob(
        BlobType.TREE,
        b'{"nodes":[{"name":"odd","type":"file","mtime":"2020-01-01T00:00:00Z","atime":"2020-01-01T00:00:00Z",'
        b'"ctime":"2020-01-01T00:00:00Z","uid":"root","gid":0,"content":[]},3,{"name":"door","type":"door",'
        b'"mtime":"2020-01-01T00:00:00Z","atime":"2020-01-01T00:00:00Z","ctime":"2020-01-01T00:00:00Z",'
        b'"uid":0,"gid":0,"content":null}]}\n',
    )
    crafted.snapshot(
        crafted.directory(b"broken", subtree=broken), crafted.directory(b"odd", subtree=odd), crafted.file(b"ok", b"x")
    )
    result = restore(shop)
    assert result.errors == len(result.problems) >= 4
    assert (result.exit_code, names_below(target_of(shop))) == (3, ["broken", "odd", "ok"])


def test_two_files_that_claim_one_inode(shop: Shop, crafted: Crafted) -> None:
    """Files of different content with one (inode, device) are not linked; those of one content are."""
    fields = {"links": 2, "inode": 77, "device_id": 5}
    crafted.snapshot(
        crafted.file(b"a", b"one", **fields),
        crafted.file(b"b", b"two", **fields),
        crafted.file(b"c", b"one", **fields),
    )
    result = restore(shop)
    content = {name: Path(target_of(shop), name).read_bytes() for name in "abc"}
    inodes = {name: os.stat(os.path.join(target_of(shop), name)).st_ino for name in "abc"}
    assert content == {"a": b"one", "b": b"two", "c": b"one"}
    assert (inodes["a"] == inodes["c"], inodes["a"] == inodes["b"]) == (True, False)
    assert (result.exit_code, result.files, result.links) == (0, 3, 1)


# -- the target -----------------------------------------------------------------------------------


def test_target_that_is_not_empty(shop: Shop, crafted: Crafted) -> None:
    """A target that holds something is refused unless a policy says what is to become of that."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    write(os.path.join(target_of(shop), "precious"), b"mine")
    with pytest.raises(RestoreError, match=r"is not empty\. Choose an empty or new directory") as caught:
        restore(shop)
    assert (caught.value.exit_code, os.listdir(target_of(shop))) == (50, ["precious"])


def test_target_that_is_a_file(shop: Shop, crafted: Crafted) -> None:
    """A file as target is refused and stays."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    write(target_of(shop), b"mine")
    with pytest.raises(RestoreError, match="is not a directory"):
        restore(shop)
    assert Path(target_of(shop)).read_bytes() == b"mine"


_SMALL_TARGET = """
import os, sys
from shared.errors import RestoreError
from tests.support.backups import Shop
from tests.support.restores import restore
shop, target = Shop(sys.argv[1]), sys.argv[2]
os.rmdir(target + "/lost+found") if os.path.exists(target + "/lost+found") else None
try:
    print(restore(shop, target=target).to_json())
except RestoreError as error:
    print(error.exit_code, error, sorted(os.listdir(target)))
"""


def test_target_too_small(shop: Shop, crafted: Crafted, tmp_path: Path) -> None:
    """A target that has no room for the plan is refused, with both figures, before anything is written."""
    crafted.snapshot(crafted.file(b"big", os.urandom(3 << 20)))
    small = tmp_path / "small"
    small.mkdir()
    said = run_mounted(_SMALL_TARGET, shop.base, str(small), mounts='mount -t tmpfs -o size=1m none "$2"')
    assert said.startswith(f"50 the target {small} is too small: 3145728 bytes are to be written, ")
    assert said.endswith("[]\n")


def test_target_that_fills_up(shop: Shop, crafted: Crafted, tmp_path: Path) -> None:
    """No space in the middle ends the restore with a clear error; no half-written file stays."""
    # What compresses that well counts as holes, but these bytes are none.
    crafted.snapshot(*(crafted.file(b"file-%d" % n, b"%d" % n * (700 << 10)) for n in range(3)))
    small = tmp_path / "small"
    small.mkdir()
    said = run_mounted(_SMALL_TARGET, shop.base, str(small), mounts='mount -t tmpfs -o size=1m none "$2"')
    assert said.startswith("50 the target is full (no space is left). Free space there and run the same restore again")
    left = eval(said[said.index("[") :])  # noqa: S307 -- a list that this test has printed
    assert [name for name in left if not name.startswith(".holdfast-restore-")] in (["file-0"], ["file-1"], ["file-2"])


@pytest.mark.parametrize("overwrite", ["always", "if-changed", "if-newer", "never"])
def test_planted_link(shop: Shop, crafted: Crafted, tmp_path: Path, overwrite: str) -> None:
    """A symbolic link in a directory's place is not followed and not replaced; it is told, and the rest goes on."""
    sub = crafted.directory(b"sub", crafted.file(b"file", b"evil"))
    crafted.snapshot(crafted.directory(b"data", sub, crafted.file(b"other", b"fine")))
    outside = tmp_path / "outside"
    outside.mkdir()
    data = Path(target_of(shop), "data")
    data.mkdir(parents=True)
    (data / "sub").symlink_to(outside)
    result = restore(shop, overwrite=overwrite)
    assert messages(result) == [f"/data/sub: {blocked('symbolic link', b'data/sub')}"]
    assert (list(outside.iterdir()), (data / "sub").is_symlink(), (data / "other").read_bytes()) == ([], True, b"fine")
    assert result.exit_code == 3


def test_planted_link_to_a_file(shop: Shop, crafted: Crafted, tmp_path: Path) -> None:
    """A symbolic link under a file's name is replaced, never written through."""
    crafted.snapshot(crafted.file(b"small", b"new"), crafted.file(b"large", b"new" * 1000, b"more" * 1000))
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    os.makedirs(target_of(shop))
    for name in ("small", "large"):
        os.symlink(victim, os.path.join(target_of(shop), name))
    result = restore(shop, overwrite="always")
    assert (result.exit_code, victim.read_bytes()) == (0, b"untouched")
    assert Path(target_of(shop), "small").read_bytes() == b"new"
    assert not Path(target_of(shop), "large").is_symlink()


def test_directory_in_the_place_of_a_file(shop: Shop, crafted: Crafted) -> None:
    """A directory is never replaced by a file, nor a file by a directory."""
    crafted.snapshot(crafted.file(b"file", b"x"), crafted.directory(b"folder", crafted.file(b"below", b"x")))
    write(os.path.join(target_of(shop), "file", "precious"), b"mine")
    write(os.path.join(target_of(shop), "folder"), b"mine")
    result = restore(shop, overwrite="always")
    assert sorted(messages(result)) == [
        "/file: a directory stands in its place, and is not replaced",
        f"/folder: {blocked('file', b'folder')}",
    ]
    assert names_below(target_of(shop)) == ["file", "file/precious", "folder"]
