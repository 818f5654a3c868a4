"""The first half: ordinary days. Backups, files that are lost and come back, a worker that is killed, stock restic."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from grounds import (
    DemoFailed,
    command_line,
    content,
    descendants,
    differences,
    mb,
    number,
    wait_for,
    walk_files,
)
from stage import INCREMENTAL_EVERY, SITE, SOURCE, Stage

from shared.ledger.model import Run, RunKind

_CHANGED = 12
_NEW_FILES = 20  # for the backup that is killed: large enough to be killed in its middle
_NEW_SIZE = 8 << 20  # bytes of each
_KILL_AFTER = 4  # packs in the journal
_IN_FLIGHT = 2 * (os.cpu_count() or 1) * (17 << 20)  # bytes: per helper one pack on its way, and one not yet noted


class OrdinaryDays:
    """The steps, in order. Each says what it proves, and fails where it does not."""

    def __init__(self, stage: Stage, up: int) -> None:
        self.stage = stage
        self.up = up
        self.random = random.Random(1)  # noqa: S311 - which files are changed
        self.first: Run | None = None
        self.before: dict[str, str] = {}  # files as they were: a copy of each that step 2 changes or deletes
        self.deleted = ""
        self.edited = ""

    def scheduled_full(self) -> str:
        """Nobody asked for it: the policy did."""
        run = wait_for(
            lambda: self.stage.ended_run(lambda run: run.request.kind is RunKind.FULL), "the first full backup"
        )
        self.first = run
        files, size = number(run, "files_new"), number(run, "bytes_processed")
        if files < 1000:
            raise DemoFailed(f"expected more than 1,000 files, and it found {files}")
        return f"scheduled full: {files:,} files, {mb(size)} -> site {SITE}, {mb(number(run, 'bytes_stored'))} stored"

    def scheduled_incremental(self) -> str:
        """Some files are changed and one deleted; the next slot finds just those."""
        top = os.path.join(self.stage.files, "site-packages")
        candidates = sorted(
            entry.path for entry in walk_files(top) if entry.name.endswith(".py") and entry.stat().st_size
        )
        chosen = self.random.sample(candidates, _CHANGED + 1)
        keep = os.path.join(self.stage.root, "as-it-was")
        os.mkdir(keep)
        for index, path in enumerate(chosen):
            self.before[path] = os.path.join(keep, str(index))
            shutil.copy2(path, self.before[path])
        *changed, self.deleted = chosen
        self.edited = changed[0]
        self._after_an_incremental()
        for path in changed:
            with open(path, "a") as file:
                file.write("# changed by the demo\n")
        os.unlink(self.deleted)
        run = self._ended("the next incremental", lambda run: number(run, "files_changed") == _CHANGED)
        gone = number(run, "files_gone")
        if gone != 1:
            raise DemoFailed(f"expected 1 file gone, and it found {gone}")
        read = mb(number(run, "bytes_read"))
        return f"change {_CHANGED}, delete 1 -> scheduled incremental: {_CHANGED} changed, {gone} gone; {read} read"

    def deleted_file_back(self) -> str:
        """From the snapshot before it was deleted, by a worker."""
        self._bring_back(self.deleted)
        return "the deleted file, back: identical"

    def earlier_version_back(self) -> str:
        """The same of a file that is there, and is another now."""
        if content(self.edited) == content(self.before[self.edited]):
            raise DemoFailed("the file was not changed")
        self._bring_back(self.edited)
        return "an earlier version of a changed file, back: identical"

    def killed_and_resumed(self) -> str:
        """SIGKILL to the worker and to all of its engine, in mid-backup: the next attempt takes up what is there."""
        new = os.path.join(self.stage.root, "new")
        os.mkdir(new)
        for index in range(_NEW_FILES):
            with open(os.path.join(new, f"{index}.bin"), "wb") as file:
                file.write(self.random.randbytes(_NEW_SIZE))
        before = self.stage.packs()
        os.rename(new, os.path.join(self.stage.files, "new"))  # all at once: no snapshot has half of it
        self._kill_worker_in_mid_backup()
        killed = time.monotonic()
        at_kill = self.stage.packs()
        run = self._ended("the resumed run", lambda run: number(run, "files_new") == _NEW_FILES)
        seconds = time.monotonic() - killed
        if run.attempt < 2:
            raise DemoFailed("the backup was done before it was killed")
        if not number(run, "packs_resumed"):
            raise DemoFailed("nothing was taken up")
        kept = mb(sum(size for name, size in at_kill.items() if name not in before))
        twice = self.stage.bytes_twice()
        if twice > _IN_FLIGHT:
            raise DemoFailed(f"{twice:,} bytes were stored twice: more than the packs that were in flight")
        measured = f"{mb(twice)} twice: what was in flight" if twice else "0 bytes twice"
        return f"kill -9 the worker in mid-backup: resumed after {seconds:.0f} s, {kept} kept, {measured}"

    def verified(self) -> str:
        """Every byte of the repository is read and compared."""
        self.stage.holdfast("verify", SOURCE, "--data", "--direct")
        packs = self.stage.packs()
        return f"verify: each of {len(packs)} packs read, {mb(sum(packs.values()))}: no errors"

    def stock_restic(self) -> str:
        """With Holdfast stopped: no process of it is needed to come back."""
        self.stage.stop_up()
        count = self.stage.restic(SITE, "snapshots", "--json").count('"short_id"')
        self.stage.restic(SITE, "check", "--read-data", "--no-lock")  # the killed engine's lock is still there
        target = os.path.join(self.stage.root, "by-restic")
        self.stage.restic(SITE, "restore", "latest", "--target", target)
        different = differences(self.stage.files, target + self.stage.files)
        if different:
            raise DemoFailed(f"restored by restic, {len(different)} entries differ, the first: {different[0]}")
        return f"Holdfast stopped; stock restic: {count} snapshots, check --read-data clean, restored identical"

    def _ended(self, what: str, wanted: Callable[[Run], bool]) -> Run:
        return wait_for(lambda: self.stage.ended_run(wanted), what)

    def _bring_back(self, path: str) -> None:
        if self.first is None:
            raise DemoFailed("there is no first backup")
        target = os.path.join(self.stage.root, "back", os.path.basename(self.before[path]))
        snapshot = str(self.first.result["snapshot"])
        self.stage.holdfast("restore", f"{SOURCE}:{path}", "--snapshot", snapshot, "--to", target)
        restored = os.path.join(target, os.path.basename(path))
        if content(restored) != content(self.before[path]):
            raise DemoFailed(f"{path} came back different")

    def _after_an_incremental(self) -> None:
        """Wait until one has just ended, so that what is changed now is found by one run and not by two."""
        before = self.stage.newest_backup()

        def another() -> bool:
            run = self.stage.newest_backup()
            return run is not None and run != before

        wait_for(another, "an incremental", INCREMENTAL_EVERY + 15)

    def _kill_worker_in_mid_backup(self) -> None:
        """As soon as some packs are in the run's journal, SIGKILL to the worker, the engine and its helpers."""
        worker = next(pid for pid in descendants(self.up) if "workers" in command_line(pid))
        doomed = [worker]

        def journaled() -> bool:
            doomed[1:] = descendants(worker)
            return self.stage.journaled() >= _KILL_AFTER

        wait_for(journaled, "the backup of new files", every=0.002)
        for how in (signal.SIGSTOP, signal.SIGKILL):  # first frozen, so that none sees another die
            for pid in doomed:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
