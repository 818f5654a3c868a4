"""A program of the user's: the command of a source, a hook, what a stream is restored into.

There is no shell. It runs in a session of its own, so it can't ask a terminal, and its whole group can be ended.

Invariants: it does not outlive this object, nor the process that made it, nor does what it has started; what it says is
kept bounded; and only a `finish` that returns says that it ended well: exit code 0, in time. To be started by a
process's main thread.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Self

from shared.errors import HoldfastError
from shared.observability.masks import MASK, mask_text
from workers.programs import launch

POLL = 0.2  # seconds between looks at everything
_PATIENCE = 3.0  # seconds between SIGTERM and SIGKILL
_SAID_AT_MOST = 4096  # bytes of what it says
_LINES = 6  # the last so many of them stand in an error
_LINE_AT_MOST = 300  # characters
_PIPE = 1 << 20  # bytes that a pipe holds


class ProgramFailed(HoldfastError):
    """A program could not be started, ended badly, or not in time. The message names it and what it said."""

    exit_code: ClassVar[int] = 43


@dataclass(slots=True)
class ProgramSpec:
    """What is run. `env` is its whole environment; `timeout` in seconds, 0 is none; `secrets` are never told on."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 0.0
    secrets: list[str] = field(default_factory=list, repr=False)
    prefix: list[str] = field(default_factory=list)  # what starts it, if it is not to be as whoever starts that

    @property
    def name(self) -> str:
        """The program without its arguments, which may hold what is nobody's business."""
        return self.argv[0]


class Program:
    """One run of a program; a context, which ends it where it still runs."""

    def __init__(
        self,
        spec: ProgramSpec,
        *,
        reads: bool = False,
        writes: bool = False,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Start it. `reads`: its input comes by `write`, else it has none. `writes`: its output goes to `read_into`.

        Else that counts as said. `more` is added to its environment. Raises ProgramFailed.
        """
        env = {**spec.env, **(more or {})}
        self._spec = spec
        self._said = bytearray()
        self._end = time.monotonic() + spec.timeout if spec.timeout else float("inf")
        if shutil.which(spec.name, path=env.get("PATH", os.defpath)) is None:
            raise ProgramFailed(
                f"{spec.name} can't be started: there is no such program on its PATH",
                hint="Install it, or write its whole path",
            )
        end, self._in = os.pipe() if reads else (subprocess.DEVNULL, -1)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {launch.INPUT_IS_WHOLE})
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    launch.__file__,
                    str(os.getpid()),
                    str(self._in),
                    *spec.prefix,
                    *spec.argv,
                ],
                stdin=end,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if writes else subprocess.STDOUT,
                env=env,
                cwd="/",
                start_new_session=True,
                pass_fds=(self._in,) if reads else (),
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            self._end_input()
            raise ProgramFailed(f"{spec.name} can't be started: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if reads:
                os.close(end)
        pipes = self._process.stdout, self._process.stderr
        self._out, self._err = (-1 if pipe is None else pipe.fileno() for pipe in pipes)
        if not writes:
            self._out, self._err = -1, self._out
        self._pidfd = os.pidfd_open(self._process.pid)  # readable as soon as it has ended
        for fd in (self._in, self._out):
            if fd >= 0:
                os.set_blocking(fd, False)
                with suppress(OSError):
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
        os.set_blocking(self._err, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def said(self) -> str:
        """The last of what it said on standard error, in one line, without secrets."""
        text = bytes(self._said).decode(errors="backslashreplace")
        for secret in self._spec.secrets:
            text = text.replace(secret, MASK)
        text = mask_text(text)
        lines = ["".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines()]
        return " / ".join([line[:_LINE_AT_MOST] for line in lines if line][-_LINES:])

    def read_into(self, buffer: memoryview, look: Callable[[], None]) -> int:
        """Bytes of its output, as many as are there; 0 at its end. `look` is called now and then, and may raise.

        Raises ProgramFailed where it has failed, or takes too long.
        """
        while True:
            look()
            if self._out in self._wait(self._out, select.POLLIN):
                return os.readv(self._out, [buffer])
            self._require_well()

    def write(self, data: bytes, look: Callable[[], None]) -> bool:
        """Give it input; False where it takes no more. Raises ProgramFailed, and what `look` raises."""
        view = memoryview(data)
        while view:
            look()
            if self._in not in self._wait(self._in, select.POLLOUT):
                self._require_well()
                continue
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
        return True

    def look(self) -> None:
        """For one that is to run on: hear what it says. Raises ProgramFailed where it has ended, however it did."""
        self._hear()
        self._require_well()
        if self._code() is not None:
            raise self._failed(0)

    def finish(self, look: Callable[[], None]) -> None:
        """Close its input, and wait for its end. Raises ProgramFailed unless that is exit code 0, and in time."""
        if self._in >= 0:
            self._end_input()
            os.kill(self._process.pid, launch.INPUT_IS_WHOLE)
        while (code := self._code()) is None:
            look()
            self._wait(-1, 0)
            self._require_in_time()
        self._hear()
        if code:
            raise self._failed(code)

    def close(self) -> None:
        """End it and all of its group, where it still runs: SIGTERM, then SIGKILL. May be called twice."""
        if self._process.returncode is None:
            if self._code() != 0:
                self._signal(signal.SIGTERM)
                end = time.monotonic() + _PATIENCE
                while self._code() is None and time.monotonic() < end:
                    self._wait(-1, 0)
                self._signal(signal.SIGKILL)
            self._hear()
            self._process.wait()
            os.close(self._pidfd)
        self._end_input()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _end_input(self) -> None:
        if self._in >= 0:
            os.close(self._in)
            self._in = -1

    def _wait(self, fd: int, events: int) -> set[int]:
        """Wait a little for `fd`, or without one for its end, and for something said; those that are ready."""
        poll = select.poll()
        poll.register(*((fd, events) if fd >= 0 else (self._pidfd, select.POLLIN)))
        if self._err >= 0:
            poll.register(self._err, select.POLLIN)
        ready = {found for found, _ in poll.poll(POLL * 1000)}
        if self._err in ready:
            self._hear()
        return ready

    def _hear(self) -> None:
        """Take what it has said; the pipe's end is noted, so that nobody waits for it."""
        while self._err >= 0:
            try:
                data = os.read(self._err, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self._err = -1
                return
            self._said = (self._said + data)[-_SAID_AT_MOST:]

    def _code(self) -> int | None:
        """Its exit code, negative where a signal ended it. Not reaped, so that its group's number stays its own."""
        if self._process.returncode is not None:
            return self._process.returncode
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _require_well(self) -> None:
        code = self._code()
        if code:  # whatever it started may go on and hold its output, but nobody vouches for it
            self._hear()
            raise self._failed(code)
        self._require_in_time()

    def _require_in_time(self) -> None:
        if time.monotonic() >= self._end:
            raise ProgramFailed(
                f"{self._spec.name} was not done after {self._spec.timeout:g} s and was killed{self._saying()}",
                hint="Does it wait for something? Give it more time with `timeout`",
            )

    def _failed(self, code: int) -> ProgramFailed:
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"died of {-code}"
        else:
            how = f"ended with code {code}"
        return ProgramFailed(f"{self._spec.name} {how}{self._saying()}")

    def _saying(self) -> str:
        return f": {said}" if (said := self.said) else ", without a word"

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def run_program(spec: ProgramSpec, look: Callable[[], None], *, more: Mapping[str, str] | None = None) -> str:
    """Run it to its end; what it said. `look` is called a few times a second, and may raise.

    Raises ProgramFailed, and what `look` raises; it is ended then.
    """
    with Program(spec, more=more) as program:
        program.finish(look)
        return program.said
