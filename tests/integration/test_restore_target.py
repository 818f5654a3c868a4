"""What a restore does with what is there: policies, selections, in place, dry runs, resuming, verifying."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.backups import OLD, SECOND, Shop, write
from tests.support.compare import compare_trees
from tests.support.crafting import Crafted
from tests.support.kinds import make_every_kind, remove_tree
from tests.support.restores import names_below, restore, restore_spec, target_of


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty repository."""
    return Shop(str(tmp_path))


@pytest.fixture
def crafted(shop: Shop) -> Crafted:
    """The means to fill it."""
    return Crafted(shop)


def test_every_kind_of_file(shop: Shop, tmp_path: Path) -> None:
    """What Holdfast backed up it restores identical in all of it, holes, sockets and endless paths too."""
    shutil.rmtree(shop.source)
    make_every_kind(shop.source)
    try:
        assert shop.backup().complete
        result = restore(shop, verify=True, base=shop.source)
        assert (result.exit_code, result.problems, result.metadata_problems) == (0, [], [])
        assert compare_trees(shop.source, target_of(shop), top=False) == []
        assert result.verified > 15
        again = restore(shop, "again", base=shop.source, overwrite="always")
        assert compare_trees(shop.source, target_of(shop, "again"), top=False) == []
        assert again.files == result.files
    finally:
        remove_tree(str(tmp_path))
        tmp_path.mkdir()


def four_files(shop: Shop, crafted: Crafted) -> Path:
    """A snapshot of four files, and a target that has three of them: as they were, newer, and changed before."""
    crafted.snapshot(*(crafted.file(name, b"stored " + name) for name in (b"absent", b"same", b"newer", b"older")))
    target = target_of(shop)
    write(f"{target}/same", b"stored same")
    write(f"{target}/newer", b"mine, newer", mtime=OLD + SECOND)
    write(f"{target}/older", b"mine, older", mtime=OLD - SECOND)
    write(f"{target}/unknown", b"mine")
    return Path(target)


@pytest.mark.parametrize(
    ("policy", "replaced", "counts"),
    [
        ("always", {"absent", "same", "newer", "older"}, (4, 0, 0)),
        ("if-changed", {"absent", "newer", "older"}, (3, 1, 0)),
        ("if-newer", {"absent", "older"}, (2, 0, 2)),
        ("never", {"absent"}, (1, 0, 3)),
    ],
)
def test_overwrite_policies(
    shop: Shop, crafted: Crafted, policy: str, replaced: set[str], counts: tuple[int, int, int]
) -> None:
    """Each policy replaces what it says, and counts what it leaves; what the snapshot does not hold always stays."""
    target = four_files(shop, crafted)
    before = {name: os.stat(target / name).st_ino for name in ("same", "newer", "older")}
    result = restore(shop, overwrite=policy)
    changed = {name for name in before if os.stat(target / name).st_ino != before[name]}
    assert changed | ({"absent"} & set(os.listdir(target))) == replaced
    assert (result.files, result.unchanged, result.skipped) == counts
    assert all((target / name).read_text() == f"stored {name}" for name in replaced)
    assert (sorted(os.listdir(target)), result.exit_code) == (["absent", "newer", "older", "same", "unknown"], 0)


def test_dry_run(shop: Shop, crafted: Crafted) -> None:
    """A dry run counts, and writes neither target nor lock."""
    crafted.snapshot(crafted.directory(b"d", crafted.file(b"a", b"12345"), crafted.file(b"b", b"1", b"2")))
    before = names_below(shop.site)
    result = restore(shop, dry_run=True)
    assert (result.files, result.bytes, result.exit_code) == (2, 7, 0)
    assert (os.path.exists(target_of(shop)), names_below(shop.site)) == (False, before)


def some_tree(crafted: Crafted) -> None:
    """A snapshot of /srv/www and /srv/log."""
    www = crafted.directory(b"www", crafted.file(b"index.html", b"html"), crafted.file(b"style.css", b"css"))
    log = crafted.directory(b"log", crafted.file(b"today.log", b"log"), crafted.file(b"old.log.gz", b"gz"))
    crafted.snapshot(crafted.directory(b"srv", www, log), paths=(b"/srv/www", b"/srv/log"))


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"paths": ["/srv/www"]}, ["srv/www/index.html", "srv/www/style.css"]),
        (
            {"paths": ["/srv/www/index.html", "/srv/log/"]},
            ["srv/log/old.log.gz", "srv/log/today.log", "srv/www/index.html"],
        ),
        ({"includes": ["*.log", "/srv/www/*.css"]}, ["srv/log/today.log", "srv/www/style.css"]),
        ({"excludes": ["log/"]}, ["srv/www/index.html", "srv/www/style.css"]),
        ({"includes": ["www"], "excludes": ["*.css"]}, ["srv/www/index.html"]),
        ({"paths": ["/srv/log"], "includes": ["*.gz", "*.css"]}, ["srv/log/old.log.gz"]),
        ({"base": "/srv/www"}, ["index.html", "style.css"]),
        ({"base": "/srv", "paths": ["/srv/log/today.log"]}, ["log/today.log"]),
    ],
)
def test_selections(shop: Shop, crafted: Crafted, options: dict[str, object], files: list[str]) -> None:
    """Paths and patterns select; directories are made only where something selected lies, with their metadata."""
    some_tree(crafted)
    result = restore(shop, **options)
    target = Path(target_of(shop))
    assert [name for name in names_below(str(target)) if (target / name).is_file()] == files
    assert {(target / name).stat().st_mtime_ns for name in names_below(str(target))} == {OLD}
    assert (result.exit_code, result.files) == (0, len(files))
    needed = {os.path.dirname(name) for name in files} | {os.path.dirname(os.path.dirname(name)) for name in files}
    assert {name for name in names_below(str(target)) if (target / name).is_dir()} == needed - {""}


def test_a_path_that_is_not_there(shop: Shop, crafted: Crafted) -> None:
    """Of several paths those that exist are restored, and the others told."""
    some_tree(crafted)
    result = restore(shop, paths=["/srv/www/index.html", "/srv/gone"])
    assert result.problems == [{"path": "/srv/gone", "message": "there is no such path in the snapshot"}]
    assert (result.exit_code, result.files) == (3, 1)


def test_in_place(shop: Shop, tmp_path: Path) -> None:
    """In place, what differs is replaced and kept in a safety directory; what is above the source is not touched."""
    for name in ("kept", "changed", "deep/down/changed", "deleted"):
        write(f"{shop.source}/{name}", b"first " + name.encode())
    os.utime(tmp_path, ns=(OLD, OLD))
    assert shop.backup().complete
    write(f"{shop.source}/changed", b"second", mtime=OLD + SECOND)
    write(f"{shop.source}/deep/down/changed", b"second", mtime=OLD + SECOND)
    write(f"{shop.source}/new", b"of today")
    os.unlink(f"{shop.source}/deleted")
    above = os.stat(tmp_path).st_mtime_ns
    result = restore(shop, in_place=True)
    assert (result.exit_code, result.problems, result.files, result.unchanged) == (0, [], 3, 1)
    source = Path(shop.source)
    assert {
        name: (source / name).read_bytes() for name in ("kept", "changed", "deep/down/changed", "deleted", "new")
    } == {
        "kept": b"first kept",
        "changed": b"first changed",
        "deep/down/changed": b"first deep/down/changed",
        "deleted": b"first deleted",
        "new": b"of today",
    }
    assert os.stat(tmp_path).st_mtime_ns == above
    (undo,) = result.undo
    assert (Path(undo).parent, Path(undo, "changed").read_bytes()) == (source, b"second")
    assert sorted(names_below(undo)) == ["changed", "deep", "deep/down", "deep/down/changed"]
    subprocess.run(shlex.split(result.undo_hint), check=True)
    assert (source / "deep/down/changed").read_bytes() == b"second"


def test_in_place_below_several_paths_has_one_undo(shop: Shop) -> None:
    """Each path keeps what was replaced beside itself; the one command that is printed brings all of it back."""
    folders = [f"{shop.source}/{name}" for name in ("one", "it's two", "three")]
    for folder in folders:
        write(f"{folder}/f", b"first")
    shop.backup(*folders)
    for folder in folders:
        write(f"{folder}/f", b"second", mtime=OLD + SECOND)
    result = restore(shop, in_place=True)
    assert (result.files, [Path(folder, "f").read_bytes() for folder in folders]) == (3, [b"first"] * 3)
    assert sorted(os.path.dirname(kept) for kept in result.undo) == sorted(folders)
    subprocess.run(["sh", "-c", result.undo_hint], check=True)
    assert [Path(folder, "f").read_bytes() for folder in folders] == [b"second"] * 3


def test_in_place_one_file(shop: Shop) -> None:
    """One file in place changes nothing beside it."""
    for name in ("one", "two"):
        write(f"{shop.source}/{name}", b"first")
    shop.backup()
    for name in ("one", "two"):
        write(f"{shop.source}/{name}", b"second", mtime=OLD + SECOND)
    os.utime(shop.source, ns=(OLD, 3 * OLD))
    result = restore(shop, in_place=True, paths=[f"{shop.source}/one"])
    assert (result.files, Path(shop.source, "one").read_bytes()) == (1, b"first")
    assert Path(shop.source, "two").read_bytes() == b"second"
    assert result.undo == [os.path.join(shop.source, os.path.basename(result.undo[0]))]


def test_verify_after(shop: Shop, crafted: Crafted) -> None:
    """Verification tells a file that is not what the snapshot says, here one that was taken for finished."""
    crafted.snapshot(crafted.file(b"good", b"right"), crafted.file(b"bad", b"right"), crafted.file(b"big", b"1", b"2"))
    result = restore(shop, verify=True)
    assert (result.verified, result.exit_code) == (3, 0)
    write(f"{target_of(shop)}/bad", b"wrong")
    result = restore(shop, verify=True, overwrite="if-changed")
    assert (result.verified, result.unchanged, result.exit_code) == (2, 3, 3)
    assert [problem["path"] for problem in result.problems] == ["/bad"]
    assert "what was written is not what was read" in result.problems[0]["message"]


# -- interrupted ----------------------------------------------------------------------------------


def many_files(crafted: Crafted, count: int = 4000) -> None:
    """A snapshot that takes some time to restore."""
    folders = [
        crafted.directory(b"d%d" % d, *(crafted.file(b"f%d" % f, b"%d/%d" % (d, f)) for f in range(count // 20)))
        for d in range(20)
    ]
    big = crafted.file(b"big", *(os.urandom(300_000) for _ in range(20)))
    crafted.snapshot(*folders, big)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, None])
def test_broken_off_and_taken_up(shop: Shop, crafted: Crafted, how: signal.Signals | None) -> None:
    """Broken off by a signal or its parent's end, no unfinished file looks finished, and it goes on later."""
    many_files(crafted)
    spec = restore_spec(shop)
    engine = subprocess.Popen([sys.executable, "-m", "workers.restore"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert engine.stdin is not None
    assert engine.stdout is not None
    engine.stdin.write(json.dumps(spec.to_json()).encode() + b"\n")
    engine.stdin.flush()
    target = target_of(shop)
    deadline = time.monotonic() + 30
    while len(names_below(target)) < 200 and time.monotonic() < deadline:
        time.sleep(0.001)
    if how is None:
        engine.stdin.close()
    else:
        engine.send_signal(how)
    events = [json.loads(line) for line in engine.stdout.read().splitlines()]
    code = engine.wait(30)
    engine.stdin.close()
    engine.stdout.close()
    if how != signal.SIGKILL:
        assert (code, events[-1]["event"], events[-1]["exit_code"]) == (130, "error", 130)
        assert "run the same restore again and it goes on" in events[-1]["hint"]
    for folder, _, names in os.walk(target):
        for name in names:
            found = os.stat(os.path.join(folder, name))
            if found.st_mtime_ns == OLD and name != "big":
                assert Path(folder, name).read_text() == f"{os.path.basename(folder)[1:]}/{name[1:]}"
    done = restore(shop)
    assert (done.resumed, done.exit_code, done.files + done.unchanged) == (True, 0, 4001)
    assert done.unchanged > 0
    fresh = restore(shop, "fresh")
    assert (fresh.resumed, compare_trees(target_of(shop, "fresh"), target, top=False)) == (False, [])


def test_finished_is_not_taken_up(shop: Shop, crafted: Crafted) -> None:
    """A restore that ended leaves no marker: its target counts as somebody's."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    restore(shop)
    assert os.listdir(target_of(shop)) == ["file"]


def test_a_broken_off_restore_of_something_else(shop: Shop, crafted: Crafted) -> None:
    """The target of a restore that was broken off is not taken for that of another one."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    write(f"{target_of(shop)}/.holdfast-restore-0123456789abcdef", b"")
    with pytest.raises(Exception, match="a restore of something else was broken off there"):
        restore(shop)


def test_no_lock_where_none_can_be_put(shop: Shop, crafted: Crafted) -> None:
    """A site that can't be written to is restored from without a lock, and that is told."""
    crafted.snapshot(crafted.file(b"file", b"x"))
    locks = os.path.join(shop.repository, "locks")
    shutil.rmtree(locks, ignore_errors=True)
    Path(locks).write_bytes(b"")  # nothing can be put below it
    result = restore(shop)
    assert (result.exit_code, len(result.notes)) == (0, 1)
    assert "no lock, as the site can't be written to" in result.notes[0]


def test_empty_blobs_and_holes_share_a_pack(shop: Shop, crafted: Crafted) -> None:
    """A blob that many files share is read once and written to each; zeros become holes."""
    shared = os.urandom(50_000)
    zeros = bytes(1 << 20)
    crafted.snapshot(
        *(crafted.file(b"same-%d" % n, shared) for n in range(5)),
        crafted.file(b"mixed", shared, zeros, shared),
        crafted.file(b"zeros", zeros, zeros),
    )
    result = restore(shop)
    target = Path(target_of(shop))
    assert (result.exit_code, result.bytes) == (0, 7 * 50_000 + 3 * (1 << 20))
    assert {(target / f"same-{n}").read_bytes() for n in range(5)} == {shared}
    assert (target / "mixed").read_bytes() == shared + zeros + shared
    assert (target / "zeros").stat().st_blocks == 0
    assert (target / "mixed").stat().st_blocks * 512 < 150_000
