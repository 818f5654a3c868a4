"""A restore test from beginning to end: the coordinator.

    what killed tests left is removed -> a scratch folder -> a helper finds the snapshot, walks it, draws files ->
    room? -> an ordinary restore of these into the folder, read again -> their sizes, modes and times -> all removed

Of a source with `scratch` the stream goes into a scratch server in place of a file: `restore_test_server`.

Whatever ends it, nothing of it stays at the site but what a lock leaves, and nothing here but for who is killed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

from shared.errors import Interrupted
from workers.access import preload
from workers.careful import stop_at_sigterm
from workers.crew import Crew
from workers.helpers import HelperPool
from workers.limits import obey
from workers.maintenance import restore_test_draw
from workers.maintenance.restore_test_server import serve_and_check
from workers.maintenance.restore_test_spec import RestoreTestReport, RestoreTestSpec
from workers.maintenance.sample import Candidate
from workers.maintenance.scratch import require_space, scratch_folder
from workers.restore.places import Places, open_target, shown
from workers.restore.run import run_restore
from workers.restore.spec import RestoreResult, RestoreSpec

OnEvent = Callable[[dict[str, Any]], None]


def run_restore_test(spec: RestoreTestSpec, on_event: OnEvent) -> RestoreTestReport:
    """Test what `spec` says. To be called in a process without threads or connections: it forks.

    `on_event` gets {"event": "progress", "phase", "files", "files_total", "bytes", "bytes_total", "errors"} a few
    times a second. Raises RestoreError (no snapshot, no room), ConfigError, RepositoryError, StorageError,
    Interrupted; what is wrong with what is stored is in the report instead.
    """
    stop_at_sigterm()
    notes = obey(spec.limits)
    preload(spec.site)
    report = RestoreTestReport(spec.site.id, spec.repository, spec.source, whole=spec.whole, notes=notes)
    try:
        place = spec.scratch.folder if spec.scratch else ""
        with scratch_folder(place or spec.cache_dir, spec.run) as folder:
            _Test(spec, on_event, report, folder).run()
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("the restore test was interrupted", hint="Nothing of it is left; run it again") from None
    return report


class _Test:
    def __init__(self, spec: RestoreTestSpec, on_event: OnEvent, report: RestoreTestReport, folder: str) -> None:
        self._spec = spec
        self._on_event = on_event
        self._report = report
        self._folder = folder
        self._drawn: list[Candidate] = []
        self._space = 0
        self._problems: list[tuple[bytes, str]] = []  # in the snapshot's own trees
        self._errors = 0  # how many of these there are

    def run(self) -> None:
        spec, report = self._spec, self._report
        self._draw()
        if spec.scratch is not None:
            require_space(self._folder, report.bytes_total, 1)
            serve_and_check(spec, report, self._folder, self._on_event)
        elif (spec.whole and report.files_total) or self._drawn:
            nodes = report.files_total if spec.whole else len(self._drawn)
            require_space(self._folder, self._space if spec.whole else sum(one.space for one in self._drawn), nodes)
            self._take(run_restore(self._restore_spec(), self._on_event))
            self._compare()
        else:
            self._tell_problems(frozenset())
            report.notes += [] if report.errors else ["the snapshot holds no files"]

    def _draw(self) -> None:
        report = self._report
        pool = HelperPool(1, restore_test_draw.main)
        try:
            said = (0, 0, 0)
            more = True

            def tick() -> None:
                files, size, errors = said
                counts = {"files": files, "files_total": 0, "bytes": size, "bytes_total": 0, "errors": errors}
                self._on_event({"event": "progress", "phase": "draw", **counts})

            def opened(answer: Any) -> None:
                _, report.snapshot, report.snapshot_time, unreadable, notes = answer
                report.notes += notes
                for name, message in unreadable:
                    report.add_snapshot(name, message)

            def walked(answer: Any) -> None:
                nonlocal said, more
                _, more, *counts = answer
                said = counts[0], counts[1], counts[2]

            def drawn(answer: Any) -> None:
                _, files, totals, self._errors, self._problems, packs = answer
                self._drawn = [Candidate(*one) for one in files]
                report.files_total, report.bytes_total, self._space = totals
                report.add_packs(pack.hex() for pack in packs)

            crew = Crew(pool, tick)
            holder = f"{os.uname().nodename}/holdfast/restore-test-{os.getpid()}"
            crew.broadcast(("setup", self._spec.to_json(), holder))
            crew.broadcast(("open",), opened)
            while more:
                crew.broadcast(("walk",), walked)
            crew.broadcast(("drawn",), drawn)
        finally:
            pool.close()

    def _restore_spec(self) -> RestoreSpec:
        spec = self._spec
        return RestoreSpec(
            site=spec.site,
            repository=spec.repository,
            passwords=spec.passwords,
            snapshot=self._report.snapshot,
            paths=[] if spec.whole else [f"/{os.fsdecode(one.path)}" for one in self._drawn],
            target=self._folder,
            verify=True,
            lock=spec.lock,
            helpers=spec.helpers,
            cache_dir=spec.cache_dir,
            state_dir=spec.state_dir,
        )

    def _take(self, result: RestoreResult) -> None:
        """What the restore has found, and besides it what the draw has found where the restore did not look."""
        report = self._report
        report.files, report.bytes, report.verified = result.files, result.bytes, result.verified
        report.duration = result.duration - result.verify_duration
        report.rate = report.bytes / report.duration if report.duration > 0 else 0.0
        report.add_packs(result.damaged_packs)
        report.notes += result.notes
        if result.metadata_failed:
            first = result.metadata_problems[0]
            report.metadata_failed = result.metadata_failed
            report.notes.append(
                f"owners or attributes that could not be set here, which says nothing of what is stored: "
                f"{result.metadata_failed}; the first: {first['path']}: {first['message']}"
            )
        for problem in result.problems:
            report.add(problem["path"], problem["message"])
        report.errors += result.errors - len(result.problems)
        if not self._spec.whole:
            above = {one.path[:at] for one in self._drawn for at, char in enumerate(one.path) if char == ord("/")}
            self._tell_problems(frozenset({b"", *above, *(one.path for one in self._drawn)}))

    def _tell_problems(self, seen: frozenset[bytes]) -> None:
        """Tell of problems that the draw has found, but for those that the restore has met, too."""
        told = [(path, message) for path, message in self._problems if path not in seen]
        for path, message in told:
            self._report.add(f"/{shown(path)}", message)
        self._report.errors += self._errors - len(self._problems)

    def _compare(self) -> None:
        """Sizes, modes and times of the drawn files, looked at by themselves."""
        whole = not self._report.errors
        places = Places(open_target(self._folder))
        try:
            for one in self._drawn:
                above, _, name = one.path.rpartition(b"/")
                try:
                    found = os.stat(name, dir_fd=places.get(above, create=False), follow_symlinks=False)
                except OSError as error:
                    if whole:  # else it may be among those that were told
                        self._report.add(f"/{shown(one.path)}", f"after the restore: {error.strerror}")
                    continue
                for fault in _faults(one, found):
                    self._report.add(f"/{shown(one.path)}", fault)
        finally:
            places.close()


def _faults(one: Candidate, found: os.stat_result) -> list[str]:
    faults = []
    if not stat.S_ISREG(found.st_mode) or found.st_size != one.size:
        faults.append(f"after the restore: expected a file of {one.size} bytes, found {found.st_size}")
    # The kernel takes setgid from who is not in the group; a file system may keep whole seconds.
    bits = 0o7777 if os.geteuid() == 0 else 0o777
    if (found.st_mode ^ one.mode) & bits:
        faults.append(f"after the restore: expected mode {one.mode:o}, found {stat.S_IMODE(found.st_mode):o}")
    if found.st_mtime_ns not in (one.mtime, one.mtime - one.mtime % 10**9):
        faults.append(f"after the restore: expected time {one.mtime}, found {found.st_mtime_ns} (nanoseconds)")
    return faults
