"""Programs around a run: `before` it reads, `after` whatever came of it.

    note -> before -> scan, commit -> after -> the note goes

Invariant: what `before` may have begun is undone. The note, which says how, is durable on this machine's disk before
`before` starts and goes only when `after` has ended well; so after a kill, or an `after` that failed, the next run of
the source here runs that first. A run holds the note's lock, so that no other takes it for one that was left behind.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from shared.errors import BackupError, HoldfastError, Interrupted
from shared.storage.durable import sync_directory
from workers.backup.engine.sources import cache_name
from workers.backup.spec import BackupResult, BackupSpec
from workers.programs.program import ProgramFailed, ProgramSpec, run_program

SUCCEEDED, INCOMPLETE, FAILED, INTERRUPTED, KILLED = "succeeded", "incomplete", "failed", "interrupted", "killed"
RECOVERY_TIMEOUT = 300.0  # seconds, where a note says none


class HookFailed(BackupError):
    """A program around the run failed: nothing was read, or what it had begun may not be undone."""

    exit_code: ClassVar[int] = 44


class Hooks:
    """The hooks of one run."""

    def __init__(self, spec: BackupSpec) -> None:
        self._spec = spec
        self._hooks = spec.hooks
        self._file = -1
        folder = os.path.join(spec.state_dir or spec.cache_dir, "hooks")
        self._path = os.path.join(folder, cache_name(spec.repository, spec.tagged))

    def begin(self) -> None:
        """Take the note, and undo what a run that was killed has left. Raises HookFailed, BackupError."""
        if self._hooks is None and not os.path.exists(self._path):
            return
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.end()
            raise BackupError(
                f"source {self._spec.source}: another run of it is under way here, with its hooks",
                hint="Wait for its end: `holdfast runs`",
            ) from None
        sync_directory(os.path.dirname(self._path))
        if (left := self._left()) is not None:
            self._after(*left, KILLED)
        if self._hooks is None:
            self.end()  # there is nothing to undo for others either

    def end(self) -> None:
        """Give the note's lock back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @contextmanager
    def around(self, heed: Callable[[], None], let_go: Callable[[], None]) -> Iterator[list[BackupResult]]:
        """Run `before`; within it the work, which leaves its result in the list; then `after`, whatever came of it.

        `heed` is called while `before` runs, and may raise to end it. `let_go` ends whatever still reads the source,
        where the work failed. Where `after` fails the result is incomplete. Raises HookFailed.
        """
        results: list[BackupResult] = []
        hooks = self._hooks
        if hooks is None:
            yield results
            return
        after = ProgramSpec(hooks.after, hooks.env, hooks.timeout, hooks.secrets) if hooks.after else None
        self._note(after)
        try:
            if hooks.before:
                self._before(ProgramSpec(hooks.before, hooks.env, hooks.timeout, hooks.secrets), heed)
            yield results
        except BaseException as error:
            if after is not None:
                let_go()
                self._after_failure(after, error)
            raise
        if after is not None:
            self._after_success(after, results[0])

    def _before(self, program: ProgramSpec, heed: Callable[[], None]) -> None:
        try:
            run_program(program, heed, more=self._variables(self._spec.run, ""))
        except ProgramFailed as error:
            raise HookFailed(
                f"source {self._spec.source}: hook before: {error.args[0]}; nothing was read", hint=error.hint
            ) from error

    def _after_failure(self, after: ProgramSpec, error: BaseException) -> None:
        try:
            self._after(after, self._spec.run, INTERRUPTED if isinstance(error, Interrupted) else FAILED)
        except HookFailed as second:
            if isinstance(error, HoldfastError):
                error.args = (f"{error.args[0]}; and {second.args[0]}",)

    def _after_success(self, after: ProgramSpec, result: BackupResult) -> None:
        try:
            self._after(after, self._spec.run, SUCCEEDED if result.complete else INCOMPLETE)
        except HookFailed as error:
            result.complete = False
            result.problems.insert(0, str(error))

    def _after(self, after: ProgramSpec, run: str, how: str) -> None:
        try:
            # Nothing is written to the site any more, so its lock need not be kept meanwhile; nor does a stop end this.
            run_program(after, lambda: None, more=self._variables(run, how))
        except ProgramFailed as error:
            raise HookFailed(
                f"source {self._spec.source}: hook after: {error.args[0]}",
                hint="What hook before has begun may not be undone; the next run of the source here tries it first",
            ) from error
        os.ftruncate(self._file, 0)

    def _variables(self, run: str, how: str) -> dict[str, str]:
        variables = {"HOLDFAST_SOURCE": self._spec.source, "HOLDFAST_RUN": run, "HOLDFAST_KIND": self._spec.kind}
        return {**variables, "HOLDFAST_RESULT": how}

    def _note(self, after: ProgramSpec | None) -> None:
        """No secret: the environment is the configuration's to give again."""
        said = {"run": self._spec.run, "argv": after.argv, "timeout": after.timeout} if after else {}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(said).encode(), 0)
        os.fsync(self._file)

    def _left(self) -> tuple[ProgramSpec, str] | None:
        """How to undo what was left behind, and the run that left it. One that is not whole precedes `before`."""
        try:
            said = json.loads(os.pread(self._file, 1 << 20, 0))
            argv, timeout, run = list(said["argv"]), float(said["timeout"]), str(said["run"])
        except (ValueError, KeyError, TypeError):
            return None
        env, secrets = (self._hooks.env, self._hooks.secrets) if self._hooks else ({}, [])
        return (ProgramSpec(argv, env, timeout or RECOVERY_TIMEOUT, secrets), run) if argv else None
