"""Backups, forgets and prunes of one repository side by side, some frozen for long: no file of any snapshot is lost.

`pytest tests/chaos/test_backups_beside_prunes.py -k beside_prunes --chaos-seconds=600` goes on for ten minutes.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.repository import locks
from shared.repository.errors import Locked
from tests.support.attempts import QUICK, Bench, digest
from tests.support.prunes import PACK_SIZE, assert_clean, back_up, change_source, contents, forget, prune_spec
from tests.support.zygote import Ended, Zygote

BACKUPS = 12  # by each of two hosts at least, and until prunes have done all that they do
GIVE_UP = 120.0  # seconds after which they have had their time
GRACE = 0.3  # seconds
AWAY = locks.STALE + 60  # seconds


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    """Where engines run."""
    with Zygote() as zygote:
        yield zygote


class Truth:
    """What each snapshot must give back, and which may be forgotten."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, str]] = {}
        self.lock = threading.Lock()

    def add(self, snapshot: str, files: dict[str, str]) -> None:
        """A backup has ended."""
        with self.lock:
            self.files[snapshot] = files

    def forget_one(self, bench: Bench, draw: random.Random) -> None:
        """One goes, under the lock that a forget takes, if that can be had."""
        lock = bench.open().lock(holder="host/holdfast/forget", exclusive=True)
        try:
            lock.begin()
            lock.confirm()
        except Locked:
            return
        try:
            with self.lock:
                if len(self.files) > 3:
                    name = draw.choice(sorted(self.files))
                    del self.files[name]
                    forget(bench, name)
        finally:
            lock.release()


def host(bench: Bench, name: str, truth: Truth, seed: int, enough: threading.Event) -> int:
    """Back up again and again; how often somebody else had the lock."""
    draw = random.Random(seed)
    waited = 0
    source = os.path.join(bench.directory, name)
    mine = Bench(bench.directory, source)
    mine.cache = os.path.join(bench.directory, f"cache of {name}")
    with Zygote() as zygote:
        for number in itertools.count():
            if number >= BACKUPS and enough.is_set():
                break
            time.sleep(draw.uniform(0.0, 0.4))  # in which both may be idle, and a prune gets its turn
            change_source(source, seed + number + 1)
            files = digest(source)
            kind = "full" if number % 5 == 0 else "incremental"
            run = mine.spec(f"{name}-{number}", source=name, kind=kind, pack_size=PACK_SIZE)
            while (ended := zygote.run("backup", run, set_=QUICK)).exit_code == Locked.exit_code:
                waited += 1
                time.sleep(0.02)
            assert (ended.error, ended.result["complete"]) == ("", True)
            truth.add(ended.result["snapshot"], files)
    return waited


def test_backups_beside_prunes(tmp_path: Path, zygote: Zygote, pytestconfig: pytest.Config) -> None:
    """Two hosts, one repository, a prune or a forget at any moment, and a grace period that is hardly one."""
    bench = Bench(str(tmp_path), str(tmp_path / "unused"))
    bench.cache = str(tmp_path / "cache of prunes")
    least = time.monotonic() + pytestconfig.getoption("--chaos-seconds")
    truth, draw, enough = Truth(), random.Random(7), threading.Event()
    with ThreadPoolExecutor(2) as threads:
        hosts = [
            threads.submit(host, bench, name, truth, seed, enough) for name, seed in (("web1", 100), ("web2", 200))
        ]
        pruned = {"packs_doomed": 0, "packs_deleted": 0, "packs_repacked": 0}
        try:
            while not all(one.done() for one in hosts):
                if not truth.files:
                    time.sleep(0.05)
                    continue
                truth.forget_one(bench, draw)
                ended = zygote.run("prune", prune_spec(bench, grace=GRACE, patience=5), set_=QUICK)
                assert ended.exit_code in (0, Locked.exit_code), ended.error
                for name in pruned:
                    pruned[name] += ended.result.get(name, 0)
                if (min(pruned.values()) and time.monotonic() > least) or time.monotonic() > least + GIVE_UP:
                    enough.set()
        finally:
            enough.set()
        for one in hosts:
            one.result()
    assert min(pruned.values()) > 0, pruned
    time.sleep(GRACE)
    for _ in range(2):
        assert zygote.run("prune", prune_spec(bench, grace=0), set_=QUICK).error == ""
    bench.check()
    assert_clean(bench)
    assert bench.names("snapshots") == set(truth.files)
    for name, files in truth.files.items():
        target = str(tmp_path / "restored")
        bench.restic("restore", name, "--target", target, "--no-lock")
        (source,) = (folder for folder in ("web1", "web2") if os.path.isdir(target + str(tmp_path / folder)))
        assert digest(target + str(tmp_path / source)) == files, name
        shutil.rmtree(target)


@pytest.fixture
def bench(tmp_path: Path, zygote: Zygote) -> Bench:
    """Three days, of which the first is forgotten; its packs are doomed, the second one is forgotten too."""
    bench = Bench(str(tmp_path), str(tmp_path / "source"))
    first, second = back_up(bench, zygote, 1), back_up(bench, zygote, 2)
    back_up(bench, zygote, 3)
    forget(bench, first)
    assert zygote.run("prune", prune_spec(bench), set_=QUICK).error == ""
    forget(bench, second)
    return bench


def freeze(bench: Bench, work: str, spec: dict[str, Any], prefix: str, meanwhile: Any) -> Ended:
    """Stop an engine before the first operation that begins so, for longer than its lock counts."""
    trap = bench.trap(slow=0, at=1, when="pause", prefix=prefix)
    with Zygote() as other, ThreadPoolExecutor(1) as thread:
        frozen = thread.submit(other.run, work, spec, trap=trap, set_=QUICK)
        while not trap.paused:
            assert not frozen.done(), frozen.result().error
            time.sleep(0.01)
        for name in bench.names("locks"):
            path = os.path.join(bench.path, "locks", name)
            os.utime(path, (time.time() - AWAY, time.time() - AWAY))
        try:
            meanwhile()
        finally:
            trap.go_on()
        return frozen.result()


@pytest.mark.parametrize("prefix", ["put data", "put index", "put holdfast/doomed", "delete index", "delete data"])
def test_a_prune_that_was_frozen_stops(bench: Bench, zygote: Zygote, prefix: str) -> None:
    """Its lock counts no more, a backup came and went: it looks, and nothing that this one relies on is lost."""

    def meanwhile() -> None:
        change_source(bench.source, 4)
        ended = zygote.run("backup", bench.spec("d" * 32, kind="incremental", pack_size=PACK_SIZE), set_=QUICK)
        assert ended.error == ""

    ended = freeze(bench, "prune", prune_spec(bench, grace=0), prefix, meanwhile)
    assert ended.exit_code in (0, Locked.exit_code), ended.error
    files = digest(bench.source)
    bench.check()
    for _ in range(2):
        assert zygote.run("prune", prune_spec(bench, grace=0), set_=QUICK).error == ""
    bench.check()
    assert_clean(bench)
    (snapshot,) = bench.snapshots("d" * 32)
    assert contents(bench)[snapshot.id] == files


def test_a_backup_that_was_frozen_at_its_last_step_is_saved(bench: Bench, zygote: Zygote) -> None:
    """It had looked at its lock, and puts a snapshot whose packs a prune has doomed: the second step saves them."""
    only = sorted(bench.names("snapshots"))
    files = digest(bench.source)

    def meanwhile() -> None:
        for name in only:
            forget(bench, name)
        ended = zygote.run("prune", prune_spec(bench), set_=QUICK)
        assert (ended.error, ended.result["packs_deleted"]) == ("", 0)
        assert bench.indexed() == set()

    run = bench.spec("e" * 32, kind="incremental", pack_size=PACK_SIZE)
    ended = freeze(bench, "backup", run, "put snapshots", meanwhile)
    assert ended.error == ""
    saved = zygote.run("prune", prune_spec(bench, grace=0), set_=QUICK)
    assert saved.error == ""
    assert saved.result["packs_saved"] > 0
    bench.check()
    assert contents(bench) == {ended.result["snapshot"]: files}
