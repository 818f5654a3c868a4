"""Several processes at one cache, and processes killed while they write it."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.repository.indexcache import assembly, folder
from shared.storage import durable
from tests.support.indexes import IndexSite, assert_true, shrink, some_packs


@pytest.fixture
def site() -> IndexSite:
    """Enough index files for several runs and merges, once all is shrunk."""
    made = IndexSite()
    for number in range(8):
        made.put(str(number), some_packs(str(number), packs=3, blobs=2))
    return made


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


def open_and_check(site: IndexSite, directory: Path) -> None:
    """Open, compare everything, close."""
    cache = site.open(str(directory))
    assert_true(cache, site)
    cache.close()


def names(directory: Path) -> list[str]:
    """What the cache's directory holds besides its lock."""
    return sorted(path.name for path in directory.glob("*/*") if path.name != folder.LOCK)


def kill_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let this process kill itself before or after the n-th change that it makes to the file system."""
    count = 0

    def killing(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = change(*args, **kwargs)
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return changed

    for name in ("rename", "unlink", "mkdir"):
        patch.setattr(os, name, killing(getattr(os, name)))
    for name in ("write", "publish"):
        patch.setattr(durable.DurableFile, name, killing(getattr(durable.DurableFile, name)))


def test_killed_at_every_step(site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with SIGKILL before and after each change to the file system: the next open is right, and tidies up."""
    shrink(monkeypatch)
    step = kills = 0
    while True:
        step += 1
        directory = tmp_path / str(step)

        def killed(step: int = step, directory: Path = directory) -> None:
            kill_at(step, monkeypatch)
            site.open(str(directory))

        if exit_code(in_child(killed)) == 0:
            break
        kills += 1
        site.loaded.clear()
        open_and_check(site, directory)
        assert len(site.loaded) == len(set(site.loaded))
        assert all(name.endswith(folder.SUFFIX) for name in names(directory))
        site.loaded.clear()
        open_and_check(site, directory)
        assert site.loaded == []
    assert kills > 40


def test_what_was_published_before_a_kill_is_not_loaded_again(
    site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long first build that is killed goes on where it was."""
    shrink(monkeypatch)

    def killed() -> None:
        load = site.load

        def dying(index: str) -> object:
            if len(site.loaded) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return load(index)

        site.load = dying  # type: ignore[method-assign, assignment]
        site.open(str(tmp_path))

    assert exit_code(in_child(killed)) == -signal.SIGKILL
    open_and_check(site, tmp_path)
    assert len(site.loaded) == 2


def test_many_open_at_once(site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that open one empty cache together all get the true answers, and one tidy cache is left."""
    shrink(monkeypatch)
    children = [in_child(lambda: open_and_check(site, tmp_path)) for _ in range(4)]
    assert [exit_code(child) for child in children] == [0, 0, 0, 0]
    open_and_check(site, tmp_path)
    assert site.loaded == []


def test_who_waits_takes_up_what_the_other_builds(
    site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process builds, an open waits for it as long as it gets on, and loads nothing itself."""
    shrink(monkeypatch)
    monkeypatch.setattr(assembly, "POLL", 0.002)
    monkeypatch.setattr(assembly, "STALL", 30.0)
    started, start = os.pipe()

    def builder() -> None:
        load = site.load

        def slow(index: str) -> object:
            os.write(start, b"x")
            time.sleep(0.02)
            return load(index)

        site.load = slow  # type: ignore[method-assign, assignment]
        site.open(str(tmp_path))

    child = in_child(builder)
    os.read(started, 1)
    open_and_check(site, tmp_path)
    assert site.loaded == []
    assert exit_code(child) == 0
    os.close(started)
    os.close(start)


def test_a_holder_that_does_not_get_on_is_not_waited_for(
    site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a lock whose holder publishes nothing, a process builds for itself, and publishes that."""
    monkeypatch.setattr(assembly, "STALL", 0.05)
    monkeypatch.setattr(assembly, "POLL", 0.01)
    other = IndexSite()
    other.put("other", [])
    open_and_check(other, tmp_path)  # makes the directory and its lock
    (lock,) = tmp_path.glob(f"*/{folder.LOCK}")
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        open_and_check(site, tmp_path)
        assert len(site.loaded) == 8
        site.loaded.clear()
        open_and_check(site, tmp_path)
        assert site.loaded == []


def test_a_warm_open_needs_no_lock(site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that finds everything there does not wait for the writers' lock."""
    open_and_check(site, tmp_path)
    (lock,) = tmp_path.glob(f"*/{folder.LOCK}")
    monkeypatch.setattr(assembly, "STALL", 30.0)
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = time.monotonic()
        open_and_check(site, tmp_path)
        assert time.monotonic() - before < 5


def test_a_reader_outlives_merges_by_others(site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open cache answers from its own view while another process merges and deletes its segments."""
    shrink(monkeypatch)
    cache = site.open(str(tmp_path))
    before = names(tmp_path)
    more = IndexSite()
    more.files = dict(site.files)
    for number in range(20, 40):
        more.put(str(number), some_packs(str(number), packs=3, blobs=2))
    assert exit_code(in_child(lambda: open_and_check(more, tmp_path))) == 0
    assert set(before).isdisjoint(names(tmp_path))
    assert_true(cache, site)
    cache.close()


def test_a_forked_child_goes_on_with_the_cache(site: IndexSite, tmp_path: Path) -> None:
    """A cache that was opened before a fork answers in the child and in the parent, and repairs in either."""
    cache = site.open(str(tmp_path))
    assert exit_code(in_child(lambda: assert_true(cache, site))) == 0
    (path,) = tmp_path.rglob("*.segment")
    path.write_bytes(path.read_bytes()[:-40])
    assert exit_code(in_child(lambda: assert_true(cache, site))) == 0
    assert_true(cache, site)
    cache.close()


def test_an_unfinished_file_of_a_living_writer_is_kept(site: IndexSite, tmp_path: Path) -> None:
    """Tidying up removes what dead writers left, never what another process is writing."""
    open_and_check(site, tmp_path)
    (where,) = tmp_path.glob("*")
    cabinet = folder.Folder(str(where))
    _, file = cabinet.create()
    (where / f"{durable.TEMPORARY_PREFIX}dead").write_bytes(b"left")
    cabinet.sweep(set())
    left = names(tmp_path)
    file.close()
    assert [durable.is_temporary(name) for name in left] == [True]
    assert not left[0].endswith("dead")


def test_a_merge_between_listing_and_opening(site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that was merged away after the directory was listed is looked for again, not loaded again."""
    open_and_check(site, tmp_path)
    listed = folder.Folder.segments
    moved: list[Path] = []

    def listed_too_early(self: folder.Folder) -> list[str]:
        names = listed(self)
        if not moved:
            (path,) = tmp_path.rglob("*.segment")
            moved.append(path.rename(path.with_name("merged.segment")))
        return names

    monkeypatch.setattr(folder.Folder, "segments", listed_too_early)
    monkeypatch.setattr(folder.Folder, "lock", lambda _: pytest.fail("a reader needs no lock"))
    site.loaded.clear()
    open_and_check(site, tmp_path)
    assert site.loaded == []


def test_built_by_another_just_before_the_lock_was_free(
    site: IndexSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gets the lock looks again first: what the one before it built is not built twice."""
    take = folder.Lock.take

    def taken_late(self: folder.Lock) -> bool:
        monkeypatch.setattr(folder.Lock, "take", take)
        assert exit_code(in_child(lambda: open_and_check(site, tmp_path))) == 0
        return take(self)

    monkeypatch.setattr(folder.Lock, "take", taken_late)
    open_and_check(site, tmp_path)
    assert site.loaded == []
