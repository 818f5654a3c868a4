"""Restore tests of real repositories: what they restore, find, and leave behind, which is nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.errors import RestoreError
from shared.repository.errors import Damaged
from shared.repository.snapshot import Snapshot, encode_snapshot
from shared.repository.tree import Node
from tests.support.backups import OLD, PASSWORD, REPOSITORY, Shop, write
from tests.support.compare import compare_trees
from tests.support.crafting import Crafted, change_object
from tests.support.kinds import make_every_kind
from tests.support.namespaces import run_mounted
from tests.support.processes import in_processes
from tests.support.restores import names_below
from tests.support.stores import NOBODY
from workers.backup.spec import SiteSpec
from workers.engine_process import EngineProcess, module_command
from workers.maintenance.restore_test import run_restore_test
from workers.maintenance.restore_test_spec import RestoreTestReport, RestoreTestSpec
from workers.maintenance.scratch import FOLDER

RUN, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty repository."""
    return Shop(str(tmp_path))


@pytest.fixture
def filled(shop: Shop) -> Shop:
    """A repository with a snapshot of forty files in a few directories."""
    fill(shop, 40)
    shop.backup()
    return shop


def fill(shop: Shop, count: int, size: int = 5000) -> None:
    """Files that share nothing."""
    for number in range(count):
        write(f"{shop.source}/d{number % 4}/f{number}", random.Random(number).randbytes(size))


def spec(shop: Shop, **more: Any) -> RestoreTestSpec:
    """A test of the shop's source."""
    fields: dict[str, Any] = {
        "site": SiteSpec("a", shop.site),
        "repository": REPOSITORY,
        "source": "web1",
        "run": RUN,
        "cache_dir": shop.cache,
        "passwords": [PASSWORD],
        "helpers": 2,
        **more,
    }
    return RestoreTestSpec(**fields)


def try_out(shop: Shop, look: Callable[[str], None] = lambda _: None, **more: Any) -> RestoreTestReport:
    """Run one; `look` is called with the scratch folder when all is there. Nothing may be left of it."""

    def on_event(event: dict[str, Any]) -> None:
        if event["phase"] == "verify":
            (folder,) = (one.path for one in os.scandir(f"{shop.cache}/{FOLDER}") if one.is_dir())
            look(folder)

    report = run_restore_test(spec(shop, **more), on_event)
    assert left(shop) == []
    return report


def left(shop: Shop) -> list[str]:
    """What tests have left, here and of locks at the site."""
    return [*os.listdir(f"{shop.cache}/{FOLDER}"), *shop.names("locks")]


def restored_by(shop: Shop, **more: Any) -> set[str]:
    """The files that a test restores."""
    found: set[str] = set()

    def look(folder: str) -> None:
        found.update(name for name in names_below(folder) if os.path.isfile(f"{folder}/{name}"))

    report = try_out(shop, look, **more)
    assert (report.exit_code, report.errors, report.files) == (0, 0, len(found))
    return found


def test_a_sample_is_restored_and_compared(filled: Shop) -> None:
    """As many as asked for; the same again for the same run, others for another."""
    first, again, other = (restored_by(filled, files=7, run=run) for run in (RUN, RUN, OTHER))
    assert (len(first), first == again, first == other) == (7, True, False)
    assert {f"/{name}" for name in first} <= {f"{filled.source}/d{number % 4}/f{number}" for number in range(40)}


def test_the_report_says_what_was_done(filled: Shop) -> None:
    """From which snapshot, how much of how much, how fast."""
    report = try_out(filled, files=7)
    assert (report.site, report.repository, report.source) == ("a", REPOSITORY, "web1")
    assert {report.snapshot} == filled.names("snapshots")
    assert (report.files, report.verified, report.bytes) == (7, 7, 35000)
    assert (report.files_total, report.bytes_total) == (40, 200_000)
    assert report.rate == pytest.approx(report.bytes / report.duration)
    assert report.snapshot_time.startswith("20")
    assert (report.exit_code, report.problems, report.notes) == (0, [], [])


def test_all_of_it_is_restored_as_it_was(shop: Shop) -> None:
    """A file of every kind, with all its attributes; hard links count once, though each is a file."""
    shutil.rmtree(shop.source)
    make_every_kind(shop.source)
    assert shop.backup().complete
    differences: list[str] = ["never looked"]

    def look(folder: str) -> None:
        differences[:] = compare_trees(shop.source, f"{folder}{shop.source}", top=False)

    report = try_out(shop, look, whole=True)
    assert differences == []
    assert (report.exit_code, report.problems, report.metadata_failed, report.notes) == (0, [], 0, [])
    assert (report.files, report.bytes) == (report.files_total, report.bytes_total)


def test_no_more_bytes_are_drawn_than_allowed(filled: Shop) -> None:
    """But for a first file, which may be larger."""
    assert len(restored_by(filled, size=12_000)) == 2
    assert len(restored_by(filled, size=10)) == 1


def test_a_snapshot_without_files(shop: Shop) -> None:
    """There is nothing to be compared, and nothing is wrong."""
    os.makedirs(f"{shop.source}/empty")
    shop.backup()
    for whole in (False, True):
        report = try_out(shop, whole=whole)
        assert (report.exit_code, report.files, report.notes) == (0, 0, ["the snapshot holds no files"])


# -- which snapshot -----------------------------------------------------------------------------------


def test_the_newest_complete_snapshot_is_tested(filled: Shop) -> None:
    """One in which something was unreadable is passed over, unless there is no other, or it is named."""
    (complete,) = filled.names("snapshots")
    repo = filled.open()
    (tree,) = [one.tree for one in repo.snapshots()]
    tags = ["hf.source=web1", "hf.unreadable=3"]
    later = repo.save("snapshots", encode_snapshot(Snapshot(2 * 10**18, tree, [b"/x"], tags=tags)))
    assert try_out(filled, files=1).snapshot == complete
    assert try_out(filled, files=1, snapshot=later[:8]).snapshot == later
    os.unlink(f"{filled.repository}/snapshots/{complete}")
    report = try_out(filled, files=1)
    assert (report.snapshot, report.exit_code) == (later, 0)
    assert report.notes == ["no snapshot is complete: in the newest, 3 files could not be read"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"source": "db"}, "there is no snapshot of source db to be tested at .*Back it up first: holdfast backup db"),
        ({"source": "db", "snapshot": "SNAPSHOT"}, "is not of source db, but of web1"),
        ({"snapshot": "0123"}, "there is no snapshot 0123 at"),
    ],
)
def test_a_snapshot_that_is_not_there_is_told(filled: Shop, more: dict[str, str], said: str) -> None:
    """With the way out; nothing is left."""
    (name,) = filled.names("snapshots")
    more = {key: value.replace("SNAPSHOT", name) for key, value in more.items()}
    with pytest.raises(RestoreError, match=said):
        try_out(filled, **more)
    assert left(filled) == []


# -- damage -------------------------------------------------------------------------------------------


def flip(data: bytearray) -> None:
    """A bit of the first blob."""
    data[100] ^= 1


@pytest.mark.parametrize("fault", ["flipped", "missing"])
def test_a_damaged_pack_is_named_with_its_files(filled: Shop, fault: str) -> None:
    """Exit code 24; the files that can still be had are restored."""
    name, path = max(filled.packs().items(), key=lambda item: os.path.getsize(item[1]))
    if fault == "flipped":
        change_object(path, flip)
    else:
        os.unlink(path)
    report = try_out(filled, whole=True)
    lost = 1 if fault == "flipped" else 40
    assert (report.exit_code, report.errors, report.files) == (24, lost, 40 - lost)
    assert report.damaged_packs == [name]
    assert len(report.problems) == min(lost, 20)
    said = {"flipped": "the authentication tag does not match", "missing": f"pack {name} is missing at"}[fault]
    assert all(said in one["message"] and one["path"].startswith(filled.source) for one in report.problems)


def crafted_snapshot(crafted: Crafted, *nodes: Node) -> None:
    """A snapshot of the source that holds these nodes."""
    top = crafted.tree(*nodes)
    crafted.flush()
    crafted.index()
    crafted.repo.save("snapshots", encode_snapshot(Snapshot(OLD, top, [b"/data"], tags=["hf.source=web1"])))


def test_what_is_lost_above_the_files_is_found_beside_the_sample(shop: Shop) -> None:
    """A directory whose tree is gone, a file of which a chunk is: told once each, whatever was drawn."""
    crafted = Crafted(shop)
    lost = crafted.file(b"lost", content=[os.urandom(32), os.urandom(32)], size=10)
    sound = [crafted.file(b"s%d" % number, os.urandom(3000)) for number in range(5)]
    crafted_snapshot(crafted, crafted.directory(b"gone", subtree=os.urandom(32)), lost, *sound)
    for more in ({"files": 2}, {"whole": True}):
        report = try_out(shop, **more)
        assert sorted(one["path"] for one in report.problems) == ["/gone", "/lost"]
        assert (report.exit_code, report.errors, report.files) == (3, 2, 2 if "files" in more else 5)


def test_a_damaged_tree_is_damage(filled: Shop) -> None:
    """Where nothing can be drawn, as the root can't be read, that is told and not passed over."""
    name, path = min(filled.packs().items(), key=lambda item: os.path.getsize(item[1]))
    os.unlink(path)
    report = try_out(filled)
    assert (report.exit_code, report.damaged_packs, report.files) == (24, [name], 0)
    assert [one["path"] for one in report.problems] == ["/"]


def test_a_damaged_snapshot_is_damage(filled: Shop) -> None:
    """An older one is tested then; but that the newest can't be read is no success."""
    filled.backup(cache=f"{filled.base}/other")
    older, newer = sorted(filled.names("snapshots"), key=lambda name: os.stat(snapshot_path(filled, name)).st_mtime_ns)
    change_object(snapshot_path(filled, newer), flip)
    report = try_out(filled, files=1)
    assert (report.snapshot, report.exit_code, report.damaged_snapshots) == (older, 24, [newer])
    assert [one["path"] for one in report.problems] == [f"snapshots/{newer}"]


def test_a_cached_snapshot_is_no_proof_of_the_stored_one(filled: Shop) -> None:
    """What is tested is read from the site, though a cache would know it."""
    assert try_out(filled, files=1).exit_code == 0
    (name,) = filled.names("snapshots")
    change_object(snapshot_path(filled, name), flip)
    with pytest.raises(Damaged, match=name[:8]):
        try_out(filled, files=1)
    assert left(filled) == []


def snapshot_path(shop: Shop, name: str) -> str:
    """The file of a snapshot."""
    return f"{shop.repository}/snapshots/{name}"


# -- the scratch folder -------------------------------------------------------------------------------

TINY = """
import json, os, sys
from workers.maintenance.restore_test import run_restore_test
from workers.maintenance.restore_test_spec import RestoreTestSpec
from shared.errors import HoldfastError
cache, spec = sys.argv[1:]
try:
    run_restore_test(RestoreTestSpec.from_json(json.loads(spec)), lambda _: None)
    said = [0, ""]
except HoldfastError as error:
    said = [error.exit_code, str(error)]
print(json.dumps([*said, os.listdir(os.path.join(cache, "restore-test"))]))
"""


def test_too_little_room_is_told_before_anything_is_written(filled: Shop, tmp_path: Path) -> None:
    """With the folder, what is needed and the way out."""
    cache = tmp_path / "tiny"
    cache.mkdir()
    asked = json.dumps(spec(filled, whole=True, cache_dir=str(cache)).to_json())
    said = run_mounted(TINY, str(cache), asked, mounts='mount -t tmpfs -o size=160k tmpfs "$1"')
    code, message, names = json.loads(said)
    assert (code, names) == (50, [])
    assert f"too little room in {cache}/{FOLDER}: it needs 200000 bytes, " in message
    assert "Nothing was written. Make room there, set `cache_dir` to where there is more, or test fewer" in message


def start(shop: Shop, **more: Any) -> EngineProcess:
    """A test as a worker starts it, seen when its scratch folder is there."""
    command = module_command("workers.maintenance.restore_test_process")
    engine = EngineProcess(command, spec(shop, **more).to_json())
    while not any(path.is_dir() for path in Path(shop.cache, FOLDER).glob("*")):
        assert not engine.ended
        time.sleep(0.002)
    return engine


def test_what_a_killed_test_left_goes_with_the_next(shop: Shop) -> None:
    """Killed with its helpers, at any moment, it can't clean up."""
    fill(shop, 400, 50_000)
    shop.backup()
    engine = start(shop, whole=True)
    engine.close()
    assert len(os.listdir(f"{shop.cache}/{FOLDER}")) == 2
    assert run_restore_test(spec(shop, files=1), lambda _: None).exit_code == 0
    assert os.listdir(f"{shop.cache}/{FOLDER}") == []


def test_one_that_is_told_to_stop_cleans_up(shop: Shop) -> None:
    """And says that it was interrupted."""
    fill(shop, 400, 50_000)
    shop.backup()
    engine = start(shop, whole=True)
    try:
        engine.terminate()
        events: list[Any] = []
        while not engine.ended:
            events += engine.events(0.1)
    finally:
        engine.close()
    assert (events[-1]["event"], events[-1]["message"]) == ("error", "the restore test was interrupted")
    assert left(shop) == []


def test_two_at_once_leave_each_other_alone(filled: Shop) -> None:
    """Of the same source, in the same cache."""
    found = in_processes(3, lambda _: run_restore_test(spec(filled, whole=True), lambda _: None))
    assert [(one.exit_code, one.files) for one in found] == [(0, 40)] * 3
    assert left(filled) == []


# -- without root -------------------------------------------------------------------------------------


def test_no_root_is_needed() -> None:
    """Owners can't be set then, which a note says; a file that nobody may read is compared all the same."""
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)  # noqa: S103 - nobody must get this far
        shop = Shop(base)
        fill(shop, 4)
        os.chmod(f"{shop.source}/d0/f0", 0)
        shop.backup(cache=f"{base}/root's")
        os.makedirs(shop.cache)
        everything = [shop.site, shop.cache, *(f"{shop.site}/{name}" for name in names_below(shop.site))]
        for path in everything:
            os.chown(path, *[NOBODY if os.geteuid() == 0 else -1] * 2)

        def as_nobody(_: int) -> RestoreTestReport:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            return run_restore_test(spec(shop, whole=True), lambda _: None)

        (report,) = in_processes(1, as_nobody)
        assert (report.exit_code, report.problems, report.files, report.verified) == (0, [], 4, 4)
        if os.geteuid() == 0:
            (note,) = report.notes
            assert note.startswith(
                "owners or attributes that could not be set here, which says nothing of what is stored"
            )
            assert report.metadata_failed > 0
        assert left(shop) == []
