"""A source in which Holdfast's own site, cache or state lies: a backup does not back itself up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import BackupError
from tests.support.backups import PASSWORD, RECOVERY, REPOSITORY, SECRET, Shop, write
from tests.support.namespaces import run_mounted
from workers.backup.engine import own
from workers.backup.run import run_backup
from workers.backup.spec import BackupResult, BackupSpec, Selection, SiteSpec


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A source that holds the site, the cache and the state beside a file of its own."""
    source = str(tmp_path / "source")
    made = Shop(str(tmp_path), source, site=f"{source}/backups/site", cache=f"{source}/.holdfast/cache")
    write(f"{source}/mine", b"x")
    write(f"{source}/.holdfast/state/log", b"growing")
    return made


def backup(shop: Shop, *paths: str, **selection: list[str]) -> BackupResult:
    """As `holdfast backup` would."""
    spec = BackupSpec(
        site=SiteSpec("a", shop.site),
        repository=REPOSITORY,
        source="web1",
        run=os.urandom(8).hex(),
        selection=Selection(list(paths) or [shop.source], **selection),  # type: ignore[arg-type]
        passwords=[PASSWORD],
        fleet_secret=SECRET.hex(),
        recovery_password=RECOVERY,
        cache_dir=shop.cache,
        state_dir=f"{shop.source}/.holdfast/state",
        helpers=2,
    )
    return run_backup(spec, shop.events.append)


def tops(shop: Shop, result: BackupResult, path: str = "") -> list[str]:
    """What a directory of the snapshot holds."""
    return sorted(map(os.fsdecode, shop.nodes(result.tree, path or shop.source)))


def test_they_are_left_out_and_named(shop: Shop) -> None:
    """Nothing of them is in the snapshot, a note says so, and the next backup finds nothing new."""
    first, again = backup(shop), backup(shop)
    assert tops(shop, first) == [".holdfast", "backups", "mine"]
    assert (tops(shop, first, f"{shop.source}/.holdfast"), tops(shop, first, f"{shop.source}/backups")) == ([], [])
    assert (first.files_new, again.files_new, again.files_unmodified) == (1, 0, 1)
    places = ", ".join(f"{shop.source}/{name}" for name in (".holdfast/cache", ".holdfast/state", "backups/site"))
    note = f"left out, as Holdfast itself writes there: {places}"
    assert (first.notes, again.notes, first.complete) == ([note], [note], True)
    assert [event for event in shop.events if event["event"] == "note"] == [{"event": "note", "message": note}] * 2


def test_what_else_lies_in_a_sites_directory_is_backed_up(shop: Shop) -> None:
    """Of a disk that holds a site and other things only the site's part is left out."""
    write(f"{shop.site}/photos/1", b"x")
    result = backup(shop)
    assert tops(shop, result, shop.site) == ["photos"]
    assert f"{shop.site}/repos" in result.notes[0]
    assert tops(shop, backup(shop, f"{shop.site}/photos"), f"{shop.site}/photos") == ["1"]


def test_a_pattern_that_leaves_them_out_already(shop: Shop) -> None:
    """As `holdfast init` writes it: nobody need be told."""
    result = backup(shop, excludes=["/backups/site/", ".holdfast"])
    assert (result.notes, tops(shop, result)) == ([], ["backups", "mine"])
    assert backup(shop, excludes=["/backups/site/", "!site", ".holdfast"]).notes == [
        f"left out, as Holdfast itself writes there: {shop.site}"
    ]


@pytest.mark.parametrize("inside", ["backups/site", "backups/site/repos/web1", ".holdfast/cache/trees"])
def test_a_path_that_lies_in_one_is_refused(shop: Shop, inside: str) -> None:
    """It would be a backup of nothing, or of itself: that is a mistake in the configuration."""
    with pytest.raises(BackupError, match=r"source web1: .* lies in .*, where Holdfast itself writes"):
        backup(shop, f"{shop.source}/{inside}", f"{shop.source}/mine")
    assert shop.names("snapshots") == set()


def test_it_is_found_through_links(shop: Shop) -> None:
    """A site that is named by way of a symbolic link is left out where it really lies; the link is kept."""
    os.symlink("backups", f"{shop.source}/way")
    shop.site = f"{shop.source}/way/site"
    result = backup(shop)
    assert tops(shop, result) == [".holdfast", "backups", "mine", "way"]
    assert tops(shop, result, f"{shop.source}/backups") == []


def test_a_source_beside_them_is_not_touched(shop: Shop) -> None:
    """Where none lies in the source nothing is said."""
    write(f"{shop.source}/other/backups/site/f", b"x")
    result = backup(shop, f"{shop.source}/other")
    assert (result.notes, result.files_new) == ([], 1)


def test_names_that_are_not_utf8(shop: Shop) -> None:
    """The note and the events are JSON all the same."""
    odd = os.fsdecode(os.fsencode(shop.source) + b"/latin\xe9")
    os.rename(f"{shop.source}/backups", odd)
    shop.site = f"{odd}/site"
    result = backup(shop)
    assert result.notes[0].endswith(f"{shop.source}/latin\\udce9/site")
    assert tops(shop, result, odd) == []


SCRIPT = """
import sys
from tests.support.backups import Shop
base = sys.argv[1]
shop = Shop(base, base + "/source", site=base + "/elsewhere/site", cache=base + "/cache")
result = shop.backup()
print(sorted(shop.nodes(result.tree, shop.source + "/host")), len(result.notes))
"""


def test_it_is_found_through_other_mounts(tmp_path: Path) -> None:
    """A container that sees its host's disk below one path, and the site on that disk below another."""
    write(f"{tmp_path}/disk/file", b"x")
    for name in ("source/host", "elsewhere/site", "cache"):
        os.makedirs(tmp_path / name)
    Shop(str(tmp_path / "made"), site=f"{tmp_path}/disk/site")
    mounts = 'mount --bind "$1/disk" "$1/source/host" && mount --bind "$1/disk/site" "$1/elsewhere/site"'
    assert run_mounted(SCRIPT, str(tmp_path), mounts=mounts) == "[b'file'] 1\n"


def test_mount_points_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel writes them escaped; a place that does not exist yet is found as well, and one in part."""
    table = tmp_path / "mountinfo"
    there = os.fsencode(tmp_path / "a disk")
    for name in (there, os.fsencode(tmp_path / "seen")):
        os.mkdir(name)
    lines = (
        b"1 0 0:1 / / rw - ext4 none rw",
        b"2 1 8:1 / %s rw - ext4 none rw" % there.replace(b" ", b"\\040"),
        b"3 1 8:1 / %s rw - ext4 none rw" % os.fsencode(tmp_path / "seen"),
        b"4 1 8:1 /part/below /part rw - ext4 none rw",
        b"5 1 8:2 / /another rw - ext4 none rw",
    )
    table.write_bytes(b"".join(line + b"\n" for line in lines))
    monkeypatch.setattr(own, "_MOUNTS", str(table))
    monkeypatch.setattr(own, "_same", lambda *_: True)
    assert own.seen_as(there) == {there, os.fsencode(tmp_path / "seen"), b"/part"}
    assert own.seen_as(there + b"/not/yet") == {there + b"/not/yet", os.fsencode(tmp_path / "seen/not/yet")}
