"""What must not hang a backup, eat its memory or end it: fifos, files that grow, a parent's tree cut off."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shared.errors import BackupError, UsageError
from shared.repository.crypto import Buffer
from shared.repository.pack import BlobType
from tests.support.backups import Shop, write
from tests.support.compare import compare_trees
from workers.backup.engine import reading
from workers.backup.engine.big import BIG_FILE
from workers.backup.engine.helper import first_met
from workers.backup.engine.sources import resolve
from workers.backup.spec import Selection


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A source with one small file."""
    made = Shop(str(tmp_path))
    write(f"{made.source}/d/file", b"x" * 1000)
    return made


def test_a_fifo_named_like_a_cache_tag_is_not_waited_for(shop: Shop) -> None:
    """Nobody writes to it, so an open that waits would wait for ever, and a stop with it."""
    os.mkfifo(f"{shop.source}/d/CACHEDIR.TAG")
    done = shop.backup(exclude_caches=True)
    assert (done.complete, set(shop.nodes(done.tree, f"{shop.source}/d"))) == (True, {b"CACHEDIR.TAG", b"file"})


@pytest.mark.parametrize("path", ["/", "//", "///"])
def test_the_root_by_any_number_of_slashes_is_the_root(path: str) -> None:
    """POSIX lets two leading slashes stand; walking up from them never came to the one."""
    assert resolve(Selection([path])).paths == [b"/"]


def test_a_small_file_that_has_become_big_is_read_as_a_big_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows between the look at its size and its reading: it may hold more than fits in memory."""
    real, path = reading.read_whole, f"{shop.source}/d/file"
    lengths: list[int] = []

    def grow_first(fd: int, size: int, room: memoryview) -> Buffer | None:
        if size == 1000:
            with open(path, "r+b") as file:
                file.seek(5 * BIG_FILE)
                file.write(os.urandom(1000))
        data = real(fd, size, room)
        lengths.append(len(data or b""))
        assert lengths == [0]
        return data

    monkeypatch.setattr(reading, "read_whole", grow_first)
    done = shop.backup()
    assert (done.complete, done.files_new) == (True, 1)
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_a_fifo_in_place_of_a_big_file_is_not_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes to it could write for ever."""
    path = f"{shop.source}/d/big"
    write(path, b"b" * BIG_FILE)
    real = os.open

    def swap_first(name: str | bytes, *arguments: int, **options: int) -> int:
        if name == b"big" and os.path.isfile(path):
            os.unlink(path)
            os.mkfifo(path)
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", swap_first)
    done = shop.backup()
    assert (done.unreadable, [problem.partition(": ")[0] for problem in done.problems]) == (1, [path])


def test_a_parents_tree_that_is_cut_off_costs_reading_and_no_more(shop: Shop) -> None:
    """Without a local cache it is fetched: where its pack ends too early everything is read, and the run goes on."""
    shop.backup()
    for pack in {pack for (kind, _), (pack, _) in shop.blobs().items() if kind is BlobType.TREE}:
        path = shop.packs()[pack.hex()]
        os.chmod(path, 0o600)
        os.truncate(path, 50)
    shutil.rmtree(shop.cache)
    done = shop.backup()
    assert (done.files_new, done.bytes_read) == (1, 1000)


def test_helpers_name_a_file_system_alike() -> None:
    """By where it is first met, not by what each met first: or the links of a file would be two files."""
    device = os.stat("/proc").st_dev
    met = {first_met(path, device) for path in (b"/proc/self/stat", b"/proc/sys/kernel/ostype", b"/proc")}
    assert met == {b"/proc"}


def test_a_damaged_snapshot_is_told_and_stops_no_backup(shop: Shop) -> None:
    """It may be another source's: backups go on, and say what is to be verified."""
    broken = shop.backup().snapshot
    path = f"{shop.repository}/snapshots/{broken}"
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.write(b"rot")
    done = shop.backup()
    assert done.complete
    assert [broken[:16] in warning for warning in done.warnings] == [True]


def test_a_label_with_a_comma_is_refused_before_anything_is_read(shop: Shop) -> None:
    """Restic would take it for two tags."""
    with pytest.raises(UsageError, match="holds a comma"):
        shop.backup(labels=["a,b"])
    assert shop.names("snapshots") == set()


def test_a_local_cache_that_can_not_be_is_told(shop: Shop) -> None:
    """A file stands where the cache belongs: the error names it, and no traceback is shown."""
    write(f"{shop.base}/in the way", b"")
    with pytest.raises(BackupError, match="local file can't be used"):
        shop.backup(cache=f"{shop.base}/in the way")


def test_what_a_full_stored_anew_is_what_a_restore_reads(shop: Shop) -> None:
    """Truncated packs stay in the index until a prune: a restore passes them over for the whole copies."""
    shop.backup()
    for pack in shop.packs().values():
        os.chmod(pack, 0o600)
        os.truncate(pack, 10)
    shop.backup(kind="full")
    for number in range(3):
        assert compare_trees(shop.source, shop.restore(f"back{number}"), top=False) == []
