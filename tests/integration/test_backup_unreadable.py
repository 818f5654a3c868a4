"""What can't be read, vanishes or changes meanwhile: recorded, counted, and the snapshot says it is incomplete."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.repository.crypto import Buffer
from tests.support.backups import Shop, write
from tests.support.compare import compare_trees
from tests.support.processes import in_processes
from tests.support.stores import NOBODY
from workers.backup.engine import reading, scan
from workers.backup.spec import BackupResult


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A source of ten files."""
    made = Shop(str(tmp_path))
    for number in range(10):
        write(f"{made.source}/d/f{number}", b"content %d" % number)
    return made


def incomplete(shop: Shop, result: BackupResult, *problems: str) -> None:
    """The result and the snapshot's tag both say how much is missing; the repository is whole all the same."""
    assert (result.complete, result.unreadable, sorted(result.problems)) == (False, len(problems), sorted(problems))
    snapshot = next(one for one in shop.open().snapshots() if one.id == result.snapshot)
    assert (snapshot.complete, snapshot.tag("unreadable")) == (False, str(len(problems)))


def test_what_permissions_forbid_is_recorded() -> None:
    """As a user who may not read a file and a directory: both are named, the rest is there."""
    base = tempfile.mkdtemp(prefix="hf-nobody-")
    try:
        shop = Shop(base)
        for name in ("open", "d/inner", "secret", "closed/inside"):
            write(f"{shop.source}/{name}", b"x")
        _give_away(base)
        os.chmod(f"{shop.source}/secret", 0)
        os.chmod(f"{shop.source}/closed", 0)

        def as_nobody(_: int) -> BackupResult:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            return shop.backup()

        (result,) = in_processes(1, as_nobody)
        closed = f"{shop.source}/closed: the directory can't be opened: Permission denied"
        incomplete(shop, result, closed, f"{shop.source}/secret: can't be read: Permission denied")
        assert sorted(shop.nodes(result.tree, shop.source)) == [b"d", b"open"]
        shop.check()
    finally:
        shutil.rmtree(base)


def _give_away(base: str) -> None:
    if os.geteuid() == 0:
        for folder, _, names in os.walk(base):
            for path in [folder, *(os.path.join(folder, name) for name in names)]:
                os.chown(path, NOBODY, NOBODY)


def test_the_next_complete_backup_says_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete parent is no trap: what was missing is read once it can be."""
    with monkeypatch.context() as broken:
        _fail_reading(broken, f"{shop.source}/d/f3", errno.EIO)
        incomplete(shop, shop.backup(), f"{shop.source}/d/f3: can't be read: Input/output error")
    again = shop.backup()
    assert (again.complete, again.unreadable, again.files_new) == (True, 0, 1)
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def _fail_reading(patch: pytest.MonkeyPatch, path: str, number: int) -> None:
    """Make the disk fail under one file: no test can have a disk that does."""
    read_all = reading.read_whole

    def failing(fd: int, size: int, room: memoryview) -> Buffer | None:
        if os.readlink(f"/proc/self/fd/{fd}") == path:
            raise OSError(number, os.strerror(number))
        return read_all(fd, size, room)

    patch.setattr(reading, "read_whole", failing)


def test_a_file_removed_between_scan_and_reading_is_recorded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was listed and looked at, and is gone when it is opened."""
    victim = f"{shop.source}/d/f5"
    _just_before_reading(monkeypatch, b"f5", lambda: os.unlink(victim))
    result = shop.backup()
    incomplete(shop, result, f"{victim}: can't be read: No such file or directory")
    assert sorted(shop.nodes(result.tree, f"{shop.source}/d")) == [b"f%d" % n for n in range(10) if n != 5]


def test_a_file_that_becomes_a_link_is_not_followed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it then points at lies elsewhere and is not read."""
    victim = f"{shop.source}/d/f5"

    def swap() -> None:
        os.unlink(victim)
        os.symlink("/etc/passwd", victim)

    _just_before_reading(monkeypatch, b"f5", swap)
    incomplete(shop, shop.backup(), f"{victim}: can't be read: Too many levels of symbolic links")


def test_a_file_that_becomes_a_fifo_does_not_hang(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes into it: the backup goes on, and records it."""
    victim = f"{shop.source}/d/f5"

    def swap() -> None:
        os.unlink(victim)
        os.mkfifo(victim)

    _just_before_reading(monkeypatch, b"f5", swap)
    incomplete(shop, shop.backup(), f"{victim}: is no regular file any more")


def _just_before_reading(patch: pytest.MonkeyPatch, name: bytes, change: object) -> None:
    """Do something between lstat and open of a file: a race that is always lost."""
    read_xattrs = scan.read_xattrs

    def racing(at: bytes | int, problem: object) -> str:
        out = read_xattrs(at, problem)  # type: ignore[arg-type]
        if at == name:
            change()  # type: ignore[operator]
        return out

    patch.setattr(scan, "read_xattrs", racing)


def test_a_small_file_that_keeps_changing_is_kept_as_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read three times, then taken as it is, told, and read again by the next run whatever its times say."""
    path = f"{shop.source}/d/f7"
    read_all = reading.read_whole

    def appended(fd: int, size: int, room: memoryview) -> Buffer | None:
        data = read_all(fd, size, room)
        if os.readlink(f"/proc/self/fd/{fd}") == path:
            with open(path, "ab") as file:
                file.write(b"+")
        return data

    with monkeypatch.context() as racing:
        racing.setattr(reading, "read_whole", appended)
        result = shop.backup()
    incomplete(shop, result, f"{path}: changed while it was read; what was read is kept")
    node = shop.nodes(result.tree, f"{shop.source}/d")[b"f7"]
    assert node.size == len(b"content 7++")
    assert shop.backup().complete
    assert compare_trees(shop.source, shop.restore(), top=False) == []


def test_one_change_while_reading_is_read_again_silently(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second reading is whole and fits its times: nothing is missing."""
    path = f"{shop.source}/d/f7"
    read_all = reading.read_whole
    todo = [b"changed once"]

    def changed(fd: int, size: int, room: memoryview) -> Buffer | None:
        data = read_all(fd, size, room)
        if os.readlink(f"/proc/self/fd/{fd}") == path and todo:
            Path(path).write_bytes(todo.pop())
        return data

    monkeypatch.setattr(reading, "read_whole", changed)
    assert shop.backup().complete
    assert compare_trees(shop.source, shop.restore(), top=False) == []


@pytest.fixture
def writer(shop: Shop) -> Iterator[str]:
    """A process that appends to a big file all the time."""
    path = f"{shop.source}/log"
    write(path, os.urandom(5 << 20))
    script = (
        "import sys,time\nf=open(sys.argv[1],'ab',0)\nprint(flush=True)\nwhile True: f.write(b'l'); time.sleep(0.0005)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield path
        process.kill()


def test_a_big_file_that_grows_is_kept_as_read(shop: Shop, writer: str) -> None:
    """A log under a real writer: what was read is whole, up to some point, and is restored as that."""
    result = shop.backup()
    incomplete(shop, result, f"{writer}: changed while it was read; what was read is kept")
    size = shop.nodes(result.tree, shop.source)[b"log"].size
    restored = shop.restore()
    with open(f"{restored}/log", "rb") as theirs, open(writer, "rb") as now:
        assert theirs.read() == now.read(size)
    shop.check()


def test_a_directory_whose_files_come_and_go(shop: Shop) -> None:
    """Under a process that makes and removes files all the time: no crash, and what is named was really gone."""
    script = (
        "import os,sys\nos.chdir(sys.argv[1])\nprint(flush=True)\n"
        "while True:\n for n in range(300): open(f't{n}','w').close()\n for n in range(300): os.unlink(f't{n}')"
    )
    with subprocess.Popen([sys.executable, "-c", script, f"{shop.source}/d"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        results = [shop.backup() for _ in range(3)]
        process.kill()
    for result in results:
        assert all(f"{shop.source}/d/t" in problem for problem in result.problems)
        names = shop.nodes(result.tree, f"{shop.source}/d")
        assert {b"f%d" % number for number in range(10)} <= names.keys()
        assert result.complete == (result.unreadable == 0)
    shop.check()
