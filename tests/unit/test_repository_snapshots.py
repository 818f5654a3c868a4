"""Reading all snapshots: what the cache has, the rest by several threads; and a cache that anybody may spoil."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from shared.repository import snapshotcache
from shared.repository.errors import Damaged
from shared.repository.repository import Repository
from shared.repository.snapshot import Snapshot, encode_snapshot
from shared.repository.snapshots import stored_snapshots
from shared.storage.api import MissingObject, Transient
from shared.storage.directory import DirectoryStore
from shared.storage.durable import DurableFile
from tests.support.attempts import RECOVERY, SECRET

TREE = bytes(range(32))


class Watched:
    """A store that notes which objects are fetched, and may have several connections."""

    def __init__(self, inner: DirectoryStore, connections: int) -> None:
        """`before` is called with each key that is fetched."""
        self.inner = inner
        self.connections = connections
        self.fetched: list[str] = []
        self.before: Callable[[str], object] = lambda _: None

    def get(self, key: str) -> bytes:
        """Note it, then as the inner one."""
        self.before(key)
        if key.startswith("snapshots/"):
            self.fetched.append(key.rpartition("/")[2])
        return self.inner.get(key)

    def __getattr__(self, name: str) -> Any:
        """All else is the inner one's."""
        return getattr(self.inner, name)


class Bench:
    """A repository of snapshots of one tree, at one site, and the cache of this host."""

    def __init__(self, base: Path) -> None:
        """Make it, without a snapshot."""
        (base / "site").mkdir()
        self.base = base
        self.cache = str(base / "cache")
        self.made = 0
        self.repo = Repository.create(
            DirectoryStore(str(base / "site")), repository_id="web1", fleet_secret=SECRET, recovery_password=RECOVERY
        )

    def open(self, *, connections: int = 1, cache: str | None = None) -> Repository:
        """The repository, with a cache."""
        store: Any = Watched(DirectoryStore(str(self.base / "site")), connections)
        repo = Repository(store, self.repo.key, restic_id=self.repo.restic_id)
        return repo.cached(self.cache if cache is None else cache, "site")

    def add(self, count: int = 1) -> list[str]:
        """Store so many more snapshots; their ids."""
        names = []
        for _ in range(count):
            self.made += 1
            snapshot = Snapshot(1_700_000_000_000_000_000 + self.made, TREE, [b"/srv"], hostname="web1")
            names.append(self.repo.save("snapshots", encode_snapshot(snapshot)))
        return names

    def path(self, name: str) -> Path:
        """A snapshot's file at the site."""
        return self.base / "site/snapshots" / name

    @property
    def file(self) -> Path:
        """The one file of the cache."""
        (path,) = (self.base / "cache/snapshots").iterdir()
        return path


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Twenty snapshots."""
    made = Bench(tmp_path)
    made.add(20)
    return made


def fetched_by(repo: Repository) -> list[str]:
    """What was fetched through this repository's store."""
    store: Any = repo.store
    return sorted(store.fetched)


def read(repo: Repository) -> list[str]:
    """Read all, which are then all that lie at the site; the ids that were fetched for it."""
    before = len(fetched_by(repo))
    got = sorted(one.id for one in repo.snapshots())
    store: Any = repo.store
    assert got == sorted(os.listdir(f"{store.url}/snapshots"))
    return sorted(store.fetched[before:])


def test_what_was_read_once_is_not_fetched_again(bench: Bench) -> None:
    """A second reading, in another process say, fetches nothing, and gives the same snapshots."""
    first = sorted(bench.open().snapshots(), key=lambda one: one.id)
    again = bench.open()
    assert sorted(again.snapshots(), key=lambda one: one.id) == first
    assert (len(first), fetched_by(again)) == (20, [])


def test_a_warm_reading_writes_nothing(bench: Bench) -> None:
    """Where nothing has changed the file is left as it is."""
    read(bench.open())
    before = os.stat(bench.file)
    read(bench.open())
    after = os.stat(bench.file)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_without_a_cache_all_are_fetched_each_time(bench: Bench) -> None:
    """No cache directory: nothing is kept anywhere."""
    repo = bench.open(cache="")
    assert (len(read(repo)), len(read(repo))) == (20, 20)
    assert not os.path.exists(bench.cache)


def test_fresh_reading_looks_at_the_site_itself(bench: Bench) -> None:
    """Who verifies a site is told of damage there, although this host's cache has the bytes."""
    read(bench.open())
    (name,) = bench.add()
    read(bench.open())
    flip(bench.path(name), 40)
    told: list[str] = []
    list(bench.open().snapshots(lambda name, _: told.append(name)))
    assert told == []
    list(bench.open().snapshots(lambda name, _: told.append(name), fresh=True))
    assert told == [name]


def test_only_new_ones_are_fetched(bench: Bench) -> None:
    """A snapshot that appears is fetched, and then kept, too."""
    read(bench.open())
    new = bench.add(2)
    assert read(bench.open()) == sorted(new)
    assert read(bench.open()) == []


def test_a_forgotten_snapshot_leaves_the_cache(bench: Bench) -> None:
    """What is no longer listed is not given, and its bytes are dropped."""
    (name,) = bench.add()
    read(bench.open())
    stored = bench.path(name).read_bytes()
    assert stored in bench.file.read_bytes()
    bench.path(name).unlink()
    assert read(bench.open()) == []
    assert stored not in bench.file.read_bytes()
    assert read(bench.open()) == []


def test_the_last_one_forgotten_leaves_an_empty_cache(bench: Bench) -> None:
    """A repository without snapshots has a cache without records."""
    read(bench.open())
    for path in bench.path("x").parent.iterdir():
        path.unlink()
    assert read(bench.open()) == []
    assert bench.file.read_bytes() == snapshotcache.MAGIC


def test_two_sites_have_a_cache_each(bench: Bench) -> None:
    """The same repository at another site is listed apart: what is forgotten there only stays here."""
    read(bench.open())
    other = bench.open().cached(bench.cache, "other")
    assert len(read(other)) == 20
    assert len(list((bench.base / "cache/snapshots").iterdir())) == 2


def test_nothing_in_the_cache_is_plain(bench: Bench) -> None:
    """It has the sealed bytes and no more: no path, host or tag can be read in it, and it is its owner's alone."""
    read(bench.open())
    assert b"web1" not in bench.file.read_bytes()
    assert (os.stat(bench.file).st_mode & 0o777, os.stat(bench.file.parent).st_mode & 0o777) == (0o600, 0o700)


def flip(path: Path, at: int) -> None:
    """Change one byte."""
    os.chmod(path, 0o600)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_any_flipped_byte_is_noticed_and_mended(tmp_path: Path) -> None:
    """Each byte of the cache in turn: the snapshots are the true ones, and the next reading fetches nothing."""
    bench = Bench(tmp_path)
    bench.add(3)
    read(bench.open())
    whole = bench.file.read_bytes()
    for at in range(len(whole)):
        flip(bench.file, at)
        assert 1 <= len(read(bench.open())) <= 3
        assert read(bench.open()) == []
        assert len(bench.file.read_bytes()) == len(whole)


def test_a_flipped_byte_costs_one_snapshot(bench: Bench) -> None:
    """Where a record's bytes are damaged, and not its length, the others are still taken."""
    read(bench.open())
    flip(bench.file, len(snapshotcache.MAGIC) + snapshotcache.RECORD.size + 5)
    assert len(read(bench.open())) == 1


def test_cut_anywhere_it_is_made_whole_again(tmp_path: Path) -> None:
    """At each length that a file may be cut to: the answers are right, and the file is whole again."""
    bench = Bench(tmp_path)
    bench.add(3)
    read(bench.open())
    whole = bench.file.read_bytes()
    for length in range(len(whole)):
        os.truncate(bench.file, length)
        assert 1 <= len(read(bench.open())) <= 3
        assert read(bench.open()) == []
        assert len(bench.file.read_bytes()) == len(whole)


@pytest.mark.parametrize("spoil", ["deleted", "cut", "overwritten", "all deleted"])
def test_spoiled_while_it_is_read(bench: Bench, spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file goes away or changes under a reader that is in the middle of it."""
    monkeypatch.setattr(snapshotcache, "_READ_AHEAD", 512)
    read(bench.open())
    bench.add(3)
    repo = bench.open()
    reading = repo.snapshots()
    got = [next(reading).id]
    if spoil == "deleted":
        bench.file.unlink()
    elif spoil == "cut":
        os.truncate(bench.file, 100)
    elif spoil == "overwritten":
        with bench.file.open("r+b") as file:
            file.write(bytes(1000))
    else:
        shutil.rmtree(bench.cache)
    got += [one.id for one in reading]
    assert sorted(got) == sorted(os.listdir(bench.base / "site/snapshots"))
    read(bench.open())
    assert read(bench.open()) == []


@pytest.mark.parametrize("what", ["directory", "fifo", "link", "no right"])
def test_something_else_in_its_place(bench: Bench, what: str) -> None:
    """What stands where the cache should be and is none holds nobody up, and hides no snapshot."""
    read(bench.open())
    path = bench.file
    path.unlink()
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.parent.rmdir()
        path.parent.write_bytes(b"no directory")
    assert len(read(bench.open())) == 20
    assert len(read(bench.open())) == (20 if what in {"directory", "no right"} else 0)


def test_a_full_disk_costs_only_the_cache(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that can't be written leaves the reading as it is, and no file behind."""

    def full(_file: DurableFile, _data: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DurableFile, "write", full)
        assert len(read(bench.open())) == 20
    assert os.listdir(bench.base / "cache/snapshots") == []
    assert len(read(bench.open())) == 20


def test_a_damaged_snapshot_is_told_every_time_and_not_kept(bench: Bench) -> None:
    """Bytes at the site that do not fit their name: told with the id, also where others come from the cache."""
    (name,) = bench.add()
    flip(bench.path(name), 3)
    told: list[tuple[str, str]] = []
    for times in (1, 2):
        got = [one.id for one in bench.open().snapshots(lambda name, error: told.append((name, str(error))))]
        assert (len(got), [one for one, _ in told]) == (20, [name] * times)
        assert "hash to" in told[-1][1]
    with pytest.raises(Damaged, match=name[:16]):
        list(bench.open().snapshots())


def test_one_that_was_cut_at_the_site_is_told_although_it_is_cached(bench: Bench) -> None:
    """The listing has another size than the cache: the site's own bytes are looked at."""
    (name,) = bench.add()
    read(bench.open())
    os.chmod(bench.path(name), 0o600)
    os.truncate(bench.path(name), 50)
    told: list[str] = []
    list(bench.open().snapshots(lambda name, _: told.append(name)))
    assert told == [name]


def test_a_name_that_is_no_id_is_passed_over(bench: Bench) -> None:
    """As stock restic does."""
    bench.path("README").write_bytes(b"not a snapshot")
    assert len(list(bench.open().snapshots())) == 20


def test_one_forgotten_between_listing_and_reading_is_left_out(bench: Bench) -> None:
    """It is neither an error nor given."""
    (name,) = bench.add()
    repo = bench.open()
    store: Any = repo.store
    store.before = lambda key: bench.path(name).unlink(missing_ok=True) if key.endswith(name) else None
    assert len(list(repo.snapshots())) == 20


def test_several_threads_fetch_at_once_and_end(bench: Bench) -> None:
    """As many at once as the store has connections, and none is left when all is read."""
    repo = bench.open(connections=4)
    store: Any = repo.store
    together = threading.Barrier(4)  # passed only by four at once
    store.before = lambda key: together.wait(30) if key.startswith("snapshots/") else None
    before = threading.active_count()
    assert (len(read(repo)), threading.active_count()) == (20, before)
    assert read(bench.open(connections=4)) == []


def test_what_was_fetched_before_a_failure_is_kept(bench: Bench) -> None:
    """A site that goes away in the middle: the error is raised, and the next reading goes on from there."""
    for connections in (1, 4):
        repo = bench.open(connections=connections, cache=f"{bench.cache}{connections}")
        store: Any = repo.store

        def failing(key: str, store: Any = store) -> None:
            if key.startswith("snapshots/") and len(store.fetched) >= 10:
                raise Transient("the site is away")

        store.before = failing
        with pytest.raises(Transient):
            list(repo.snapshots())
        left = len(read(bench.open(cache=f"{bench.cache}{connections}")))
        assert 10 <= left <= 14


def test_who_stops_early_stops_the_fetching(bench: Bench) -> None:
    """A reader that has enough leaves no thread that goes on, and a cache of what was fetched."""
    repo = bench.open(connections=2)
    reading = repo.snapshots()
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(10)
    assert len(fetched_by(repo)) < 20
    assert len(read(bench.open())) < 20


def test_who_stops_within_the_cache_leaves_it_as_it_is(bench: Bench) -> None:
    """What was not looked at is not dropped."""
    read(bench.open())
    bench.path(os.listdir(bench.base / "site/snapshots")[0]).unlink()
    reading = bench.open().snapshots()
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert read(bench.open()) == []


def in_child(work: Callable[[], object]) -> int:
    """Do `work` in a forked child; its pid. It exits with 0 where `work` returned."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    """Wait for a child; negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_many_processes_at_once(bench: Bench) -> None:
    """All of them get the true answers, and one whole cache is left."""
    for _ in range(5):
        children = [in_child(lambda: read(bench.open(connections=2))) for _ in range(4)]
        assert [exit_code(child) for child in children] == [0, 0, 0, 0]
        assert read(bench.open()) == []
        bench.add(3)
        bench.path(min(os.listdir(bench.base / "site/snapshots"))).unlink()
        assert len(os.listdir(bench.base / "cache/snapshots")) == 1


def test_killed_at_every_write(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL before and after each change to the file system: the next reading is right, and tidies up."""
    read(bench.open())
    step = kills = 0
    while True:
        step += 1
        bench.add()

        def killed(step: int = step) -> None:
            kill_at(step, monkeypatch)
            read(bench.open())

        code = exit_code(in_child(killed))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        read(bench.open())
        bench.add()
        read(bench.open())
        assert bench.file.name[0] != "."
    assert kills >= 8


def kill_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let this process kill itself before or after the n-th change that it makes to the file system."""
    count = 0

    def killing(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*args: object, **kwargs: object) -> object:
            nonlocal count
            for late in (False, True):
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                if not late:
                    result = change(*args, **kwargs)
            return result

        return changed

    for name in ("write", "publish"):
        patch.setattr(DurableFile, name, killing(getattr(DurableFile, name)))
    patch.setattr(os, "rename", killing(os.rename))


class Endless:
    """A store that lists many large snapshots, made when they are asked for."""

    connections = 4

    def __init__(self, count: int, size: int) -> None:
        """`size` in bytes each."""
        self._contents = {sha256(b"%d" % number).hexdigest(): number for number in range(count)}
        self._size = size

    def list(self, prefix: str) -> Iterator[Any]:
        """All of them."""
        for name in self._contents:
            yield type("Info", (), {"key": prefix + name, "size": self._size})

    def get(self, key: str) -> bytes:
        """The bytes of one, which do not fit its name."""
        if key.rpartition("/")[2] not in self._contents:
            raise MissingObject(key)
        return bytes(self._size)


def test_memory_does_not_grow_with_what_is_stored() -> None:
    """Two thousand snapshots of 100 kB each: 200 MB go by, and a few are held at once."""
    store: Any = Endless(2000, 100_000)
    tracemalloc.start()
    try:
        count = sum(1 for _ in stored_snapshots(store))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2000
    assert peak < 8 << 20
