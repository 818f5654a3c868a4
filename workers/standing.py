"""What a running `holdfast up` tells of itself, and how another process stops it.

Two files in the state directory. `up.lock` is locked for as long as `up` lives, whatever ends it, and holds its
process: number and time of start, so that a number which the kernel has given away again is never taken for it.
`up.json` lists the processes of the group. Only the lock says that `up` runs; the list is for people, and for what
outlived a SIGKILL.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from shared.errors import HoldfastError
from workers.children import Child

_LOCK = "up.lock"
_LIST = "up.json"
_TAKE = 1.0  # seconds; who only looks whether the lock is held holds it for a moment
_POLL = 0.05
STOP_AT_MOST = 60.0  # seconds from SIGTERM until all is stopped: a worker's grace, Valkey's, and some


class AlreadyUp(HoldfastError):
    """Another `holdfast up` runs on this state directory."""

    exit_code = 71


@dataclass(frozen=True, slots=True)
class Member:
    """One process of the group. `process` is `identity`, empty while it is down; `since` in POSIX seconds.

    `note` says why it is down and is not just started again.
    """

    name: str
    process: str
    since: float
    deaths: int
    log: str
    note: str = ""

    @property
    def pid(self) -> int:
        """Its number, 0 while it is down."""
        return int(self.process.partition(":")[0] or 0)


@dataclass(frozen=True, slots=True)
class Standing:
    """A group. `pid` is `up` itself, 0 where it has died and its children are left; `since` in POSIX seconds."""

    pid: int
    since: float
    members: tuple[Member, ...]

    @property
    def alive(self) -> list[Member]:
        """The members that run now."""
        return [member for member in self.members if member.process and is_alive(member.process)]


class Holding:
    """Held by the one `up` of a state directory."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, _LIST)
        self._since = time.time()
        self._said: tuple[Member, ...] | None = None

    def tell(self, children: Sequence[Child]) -> None:
        """Write who belongs to the group, where that has changed. Raises nothing: a full disk stops no backup."""
        members = tuple(_member(child) for child in children)
        if members == self._said:
            return
        body = {"since": self._since, "members": [asdict(member) for member in members]}
        with suppress(OSError):
            with open(f"{self._path}.new", "w", opener=_private) as file:
                json.dump(body, file)
            os.replace(f"{self._path}.new", self._path)
            self._said = members

    def forget(self) -> None:
        """The group has ended."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)


@contextmanager
def hold(state_dir: str) -> Iterator[Holding]:
    """Be the one `up` of a state directory. Raises AlreadyUp."""
    fd = os.open(os.path.join(state_dir, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _TAKE
        while not _try(fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise AlreadyUp(
                    f"`holdfast up` runs already on {state_dir}",
                    hint="`holdfast up --status` shows it, `holdfast down` stops it",
                )
            time.sleep(_POLL)
        os.ftruncate(fd, 0)
        os.pwrite(fd, identity(os.getpid()).encode(), 0)
        holding = Holding(state_dir)
        yield holding
        holding.forget()
    finally:
        os.close(fd)


def look(state_dir: str) -> Standing | None:
    """What is up on a state directory; None where nothing is."""
    process = _holder(state_dir)
    try:
        with open(os.path.join(state_dir, _LIST)) as file:
            body = json.load(file)
        since, members = float(body["since"]), tuple(Member(**member) for member in body["members"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        since, members = 0.0, ()
    standing = Standing(int(process.partition(":")[0] or 0), since, members)
    return standing if standing.pid or standing.alive else None


def stop(state_dir: str, *, seconds: float = STOP_AT_MOST) -> Standing | None:
    """Stop what is up, and come back when all of it has ended: what was stopped, or None where nothing was up.

    Raises HoldfastError where something still runs after `seconds`, and where it belongs to another user.
    """
    standing = look(state_dir)
    if standing is None:
        return None
    process = _holder(state_dir)
    try:
        # Children whose `up` was killed have been told by the kernel; once more does no harm.
        targets = [process] if process else [member.process for member in standing.alive]
        for target in targets:
            if is_alive(target):
                os.kill(int(target.partition(":")[0]), signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise HoldfastError(
            f"what is up on {state_dir} belongs to another user", hint="Stop it as that user, or as root"
        ) from None
    deadline = time.monotonic() + seconds
    while _holder(state_dir) or (process and is_alive(process)) or standing.alive:
        if time.monotonic() > deadline:
            left = ", ".join(f"{member.name} ({member.pid})" for member in standing.alive) or f"up ({standing.pid})"
            raise HoldfastError(
                f"still running after {seconds:.0f} s: {left}", hint=f"Look at the logs in {state_dir}/log"
            )
        time.sleep(_POLL)
    with suppress(OSError):
        os.unlink(os.path.join(state_dir, _LIST))
    return standing


def identity(pid: int) -> str:
    """A process as `number:time of start in ticks since boot`. Raises OSError where there is none."""
    with open(f"/proc/{pid}/stat") as file:
        return f"{pid}:{file.read().rpartition(')')[2].split()[19]}"


def is_alive(process: str) -> bool:
    """Whether the very process of `identity` runs; a zombie does not."""
    pid = process.partition(":")[0]
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] != "Z" and process == f"{pid}:{fields[19]}"


def _holder(state_dir: str) -> str:
    """The process that holds the lock, empty where nobody does."""
    try:
        fd = os.open(os.path.join(state_dir, _LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        deadline = time.monotonic() + _TAKE
        while not _try(fd, fcntl.LOCK_SH):
            process = os.pread(fd, 64, 0).decode()
            # Between taking the lock and writing its own name, a new holder's file names the former one.
            if process and is_alive(process):
                return process
            if time.monotonic() > deadline:
                raise HoldfastError(
                    f"{state_dir}/{_LOCK} is held, and does not say by whom", hint=f"`fuser {state_dir}/{_LOCK}` does"
                )
            time.sleep(_POLL)
        return ""
    finally:
        os.close(fd)


def _try(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _member(child: Child) -> Member:
    try:
        process = identity(child.pid) if child.pid else ""
    except (FileNotFoundError, ProcessLookupError):
        process = ""
    return Member(child.name, process, child.since if process else 0.0, child.deaths, child.log_path, child.note)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
