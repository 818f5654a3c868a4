"""A directory site under kills, one that goes away, and under stock restic; how its files are written."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.storage import Permanent, Transient, open_store
from shared.storage.durable import TEMPORARY_PREFIX
from tests.support.tools import restic

_DAY = 86_400.0


def _put_for_ever(path: str, ready: int) -> None:
    store = open_store(path)
    data = [bytes([n]) * (2 << 20) for n in range(16)]
    for n in itertools.count():
        store.put(f"data/{n % 3:02x}/pack", data[n % 16])
        store.put_if_absent(f"commits/{n % 50}", data[n % 16][:1000])
        if n == 3:
            os.write(ready, b"!")


def _temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]


def test_a_process_killed_in_mid_put_leaves_whole_objects(tmp_path: Path) -> None:
    """SIGKILL at random moments: each object is one put's bytes, whole; nothing unfinished is listed."""
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    store = open_store(str(tmp_path))
    left = 0
    for _ in range(12):
        ready, child_ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _put_for_ever(str(tmp_path), child_ready)
            finally:
                os._exit(1)
        assert os.read(ready, 1) == b"!"
        time.sleep(moments.random() * 0.02)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(ready)
        os.close(child_ready)
        left += len(_temporaries(tmp_path))
        listed = list(store.list(""))
        assert len(listed) >= 6
        for info in listed:
            data = store.get(info.key)
            assert len(data) == (2 << 20 if info.key.startswith("data/") else 1000), f"{info.key}, seed {seed}"
            assert data == data[:1] * len(data), f"{info.key}, seed {seed}"
    assert left > 0, f"no kill hit a put: the test proves nothing, seed {seed}"


def test_a_leftover_is_removed_by_a_listing_after_a_day(tmp_path: Path) -> None:
    """A younger one may have a living writer, so it stays; neither is listed."""
    store = open_store(str(tmp_path))
    store.put("data/aa/1", b"1")
    old, young = (tmp_path / "data/aa" / f"{TEMPORARY_PREFIX}{n}" for n in (1, 2))
    for path in (old, young):
        path.write_bytes(b"unfinished")
    os.utime(old, (time.time() - _DAY - 60,) * 2)
    os.utime(young, (time.time() - _DAY + 60,) * 2)
    assert [info.key for info in store.list("")] == ["data/aa/1"]
    assert _temporaries(tmp_path) == [young]


def test_what_a_kill_left_staged_is_removed_by_a_listing_after_a_week(tmp_path: Path) -> None:
    """A younger one may be a pack that waits for the next new bytes of a large source; neither is listed."""
    store = open_store(str(tmp_path)).below("repos/web1")
    for _ in range(2):
        store.stage("data/").write(b"unfinished")
    old, young = _temporaries(tmp_path)
    assert {path.parent for path in (old, young)} == {tmp_path / "repos/web1/data/.holdfast-staged"}
    os.utime(old, (time.time() - 7 * _DAY - 60,) * 2)
    os.utime(young, (time.time() - 7 * _DAY + 60,) * 2)
    assert list(store.list("data/")) == []
    assert _temporaries(tmp_path) == [young]


def test_what_is_staged_is_synced_before_it_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, then the name in a directory that is made for it, then that directory: no crash shows half a pack."""
    store = open_store(str(tmp_path))
    staged = store.stage("data/")
    staged.write(b"whole")
    seen: list[str] = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{given[0]}")) if name == "fsync" else name)
            return real(*given, **named)

        return call

    for name in ("fsync", "rename", "mkdir"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    (unfinished,) = _temporaries(tmp_path)
    staged.publish("data/3f/pack", sha256="")
    assert seen == [unfinished.name, "mkdir", "data", "rename", "3f"]
    assert os.stat(tmp_path / "data/3f/pack").st_mode & 0o777 == 0o400


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_what_is_staged_is_not_synced_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A second fsync may succeed although the first has lost bytes, so also an error that passes is the end."""
    store = open_store(str(tmp_path), name="fra")
    staged = store.stage("data/")
    staged.write(b"whole")
    tries = []

    def fsync(fd: int) -> None:
        tries.append(fd)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        kind = Permanent if number == errno.EIO else Transient
        with pytest.raises(kind, match=rf"site fra: .*PUT data/3f/pack at .*{errno.errorcode[number]}"):
            staged.publish("data/3f/pack", sha256="")
    staged.discard()
    assert (len(tries), list(store.list("")), _temporaries(tmp_path)) == (1, [], [])


def test_a_site_that_goes_away_under_what_is_staged_is_named(tmp_path: Path) -> None:
    """Its directory is not made anew: that might be an empty mount point."""
    site = tmp_path / "site"
    site.mkdir()
    staged = open_store(str(site)).stage("data/")
    shutil.rmtree(site)
    staged.write(b"x")
    with pytest.raises(Permanent, match="the site's directory is not there"):
        staged.publish("data/3f/pack", sha256="")
    staged.discard()
    assert not site.exists()


def test_a_file_is_read_only_and_its_directories_private(tmp_path: Path) -> None:
    """Mode 0400 for objects and 0700 for directories made: what stock restic gives them."""
    open_store(str(tmp_path)).put("data/aa/1", b"1")
    modes = [os.stat(tmp_path / name).st_mode & 0o7777 for name in ("data", "data/aa", "data/aa/1")]
    assert modes == [0o700, 0o700, 0o400]


def test_a_relative_site_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later chdir does not move it."""
    monkeypatch.chdir(tmp_path)
    store = open_store("site", create=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    store.put("a", b"1")
    assert (tmp_path / "site/a").read_bytes() == b"1"


def test_a_site_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Opening says which site, where, and the way out, and makes nothing unless asked to."""
    path = tmp_path / "a/b"
    with pytest.raises(Permanent, match=f"site fra: refused: open at {path} .no such directory.. Mount it"):
        open_store(str(path), name="fra")
    assert list(tmp_path.iterdir()) == []
    open_store(f"dir:{path}", create=True).put("x", b"1")
    assert open_store(f"file://{path}").get("x") == b"1"
    with pytest.raises(Permanent, match="not a directory"):
        open_store(str(path / "x"), create=True)


def test_a_site_that_went_away_is_not_an_empty_one(tmp_path: Path) -> None:
    """Unmounted under way: nothing is 'missing' and nothing is made anew in its place; each operation says so."""
    site = tmp_path / "site"
    site.mkdir()
    store = open_store(str(site), name="fra")
    below = store.below("repos/x")
    below.put("a", b"1")
    _, version = below.get_versioned("a")
    site.rename(tmp_path / "away")
    for use in (
        lambda: below.get("a"),
        lambda: below.stat("a"),
        lambda: list(below.list("")),
        lambda: below.put("a", b"2"),
        lambda: below.put_if_absent("b", b"2"),
        lambda: below.compare_and_swap("a", b"2", version=version),
        lambda: below.delete("a"),
        store.clock,
    ):
        with pytest.raises(Permanent, match="the site's directory is not there"):
            use()
    assert not site.exists()


@pytest.mark.parametrize("version", ["0.14", "0.18"])
def test_stock_restic_does_not_mind_what_kills_leave_behind(tmp_path: Path, version: str) -> None:
    """Unfinished writes and lock files in every directory of a repository: backup, check, prune and restore go on."""
    source, repository = tmp_path / "source", tmp_path / "repository"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(100_000))
    environment = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(repository)}

    def run(*arguments: str) -> None:
        command = [restic(version), "--no-cache", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "holdfast" not in done.stdout + done.stderr

    def litter() -> None:
        for directory, _, _ in list(os.walk(repository)):
            for name in (f"{TEMPORARY_PREFIX}0011223344556677", ".holdfast-lock"):
                Path(directory, name).write_bytes(b"unfinished")

    run("init")
    litter()
    run("backup", str(source))
    litter()
    run("check", "--read-data")
    run("prune")
    run("unlock", "--remove-all")
    run("restore", "latest", "--target", str(tmp_path / "target"))
    restored = Path(f"{tmp_path}/target{source}/file").read_bytes()
    assert restored == (source / "file").read_bytes()
