"""A scratch server: a database of its own for one restore test, which is filled, checked, and gone.

    make -> serve (runs on) -> ready (tried until it ends well) -> fill (gets the dump) -> check -> serve is ended

Invariant: nothing of it outlives the test. Each program is in a group of its own that ends with this process, however
that ends (`workers.programs`), and all they write lies in the test's scratch folder, which goes with the test, or when
the next one begins. What `make`, `serve` and `ready` do says nothing of what is stored: where they fail, the test could
not be made. What `fill` and `check` find is the test's result.
"""

from __future__ import annotations

import os
import pwd
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Self

from shared.errors import ConfigError
from workers.programs.program import POLL, Program, ProgramFailed, ProgramSpec, run_program

MARK = "{scratch}"  # in arguments and variables: the scratch folder
VARIABLE = "HOLDFAST_SCRATCH"  # the same for scripts
_PLAIN = 0o711  # whoever serves may pass through the folder above, and see nothing there
_STEPS = ("make", "serve", "ready", "fill", "check")

Look = Callable[[], None]


@dataclass(slots=True)
class ScratchSpec:
    """The programs of a scratch server; those that are None are left out. `user` counts where this process is root."""

    fill: ProgramSpec
    make: ProgramSpec | None = None
    serve: ProgramSpec | None = None
    ready: ProgramSpec | None = None
    check: ProgramSpec | None = None
    user: str = ""
    folder: str = ""  # below which the scratch folder is made; empty: the cache

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> ScratchSpec | None:
        """Read what `asdict` gave. Raises TypeError for what is none."""
        if data is None:
            return None
        return cls(**{**data, **{name: ProgramSpec(**data[name]) for name in _STEPS if data[name] is not None}})


@dataclass(slots=True)
class ScratchServer:
    """One of them, in a folder; a context, from `make` to the end of `serve`."""

    spec: ScratchSpec
    folder: str
    look: Look
    _stack: ExitStack = field(default_factory=ExitStack)
    _serving: Program | None = None
    _prefix: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Make and start it, and wait until it is ready. Raises ProgramFailed, ConfigError, and what `look` raises."""
        self._prepare()
        try:
            if self.spec.make is not None:
                run_program(self._placed(self.spec.make), self.look)
            if self.spec.serve is not None:
                self._serving = self._stack.enter_context(Program(self._placed(self.spec.serve)))
                self._await_ready()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def fill(self) -> ProgramSpec:
        """The program that is to get the dump."""
        return self._placed(self.spec.fill)

    def check(self) -> str:
        """Whether what it was filled with is right; what the check said. Raises ProgramFailed."""
        return "" if self.spec.check is None else run_program(self._placed(self.spec.check), self.look_after)

    def look_after(self) -> None:
        """Hear what it says, so that it never waits for that. Raises ProgramFailed where it has ended."""
        self.look()
        if self._serving is not None:
            self._serving.look()

    def _prepare(self) -> None:
        """Give the folder to whom it serves, and see that all programs are there before any is started."""
        spec = self.spec
        for step in (spec.make, spec.serve, spec.ready, spec.fill, spec.check):
            if step is not None and shutil.which(step.name, path=step.env.get("PATH", os.defpath)) is None:
                raise ProgramFailed(
                    f"no scratch server can be made: {step.name} is not on its PATH",
                    hint="Install it where restore tests are made, or set PATH in `scratch.env`",
                )
        if not spec.user or os.geteuid() != 0:
            return
        try:
            user = pwd.getpwnam(spec.user)
        except KeyError:
            raise ConfigError(
                f'no scratch server can be made: there is no user "{spec.user}" here',
                hint="Name one that may run it: scratch: {user: ...}",
            ) from None
        above = os.path.dirname(self.folder)
        os.chmod(above, _PLAIN)
        os.chown(self.folder, user.pw_uid, user.pw_gid)
        switched = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=KILL"]
        self._prefix = ["setpriv", *switched]
        try:
            run_program(
                ProgramSpec(["test", "-w", self.folder], dict(spec.fill.env), 60.0, prefix=self._prefix), self.look
            )
        except ProgramFailed:
            raise ConfigError(
                f"no scratch server can be made: user {spec.user} can't reach {above}",
                hint="Name a folder that he can pass into: scratch: {folder: ...}",
            ) from None

    def _await_ready(self) -> None:
        ready = self.spec.ready
        if ready is None:
            return
        end = time.monotonic() + ready.timeout
        while True:
            self.look_after()
            try:
                run_program(self._placed(ready), self.look_after)
            except ProgramFailed:
                self.look_after()  # where it has ended, that is why
                if time.monotonic() > end:
                    raise
                time.sleep(POLL)
            else:
                return

    def _placed(self, program: ProgramSpec) -> ProgramSpec:
        """The program, told where the folder is."""
        env = {name: value.replace(MARK, self.folder) for name, value in program.env.items()}
        argv = [part.replace(MARK, self.folder) for part in program.argv]
        return replace(program, argv=argv, env={**env, VARIABLE: self.folder}, prefix=self._prefix)
