"""What an engine may take of its machine: cores, and the kernel's favour for its CPU and IO.

To be obeyed before helpers are forked, which inherit all of it, as do threads that are started later. What the kernel
refuses is told and is no reason to leave a backup undone.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

_IO_CLASSES = {"low": (2, 7), "idle": (3, 0)}  # ioprio_set(2): class and level; the last of best effort, and idle
_CLASS_SHIFT = 13
_WHO_PROCESS = 1
# The number of ioprio_set, which no C library wraps. Others have the generic one.
_IOPRIO_SET = {"x86_64": 251, "i386": 289, "i686": 289, "armv6l": 314, "armv7l": 314, "ppc64le": 273, "s390x": 282}
_IOPRIO_SET_GENERIC = 30  # aarch64, riscv64, loongarch64
_AUTOGROUP = "/proc/self/autogroup"


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """See docs/configuration.md#limits. What is left out is as whoever starts the engine has it."""

    cores: int = 0  # 0: all that it may use
    nice: int = 0  # 0 to 19
    io: str = "normal"  # or "low", "idle"


def obey(limits: EngineLimits) -> list[str]:
    """Keep this process to the limits; what could not be done, for people. To be called while it has one thread."""
    wanted: list[tuple[str, Callable[[], None]]] = []
    if limits.cores:
        wanted.append(("cores", lambda: _keep_to_cores(limits.cores)))
    if limits.nice:
        wanted.append(("nice", lambda: _be_nice(limits.nice)))
    if limits.io in _IO_CLASSES:
        wanted.append(("io", lambda: _yield_io(*_IO_CLASSES[limits.io])))
    notes = []
    for name, act in wanted:
        try:
            act()
        except OSError as error:
            notes.append(f"limits.{name} can't be kept on this machine: {error.strerror}")
    return notes


def _keep_to_cores(count: int) -> None:
    # The same ones in each engine, so that it is a bound for all of them together.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


def _be_nice(least: int) -> None:
    nice = max(least, os.getpriority(os.PRIO_PROCESS, 0))  # a service may be nicer already
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    if os.getsid(0) == os.getpid():
        # Where the kernel shares cores out by sessions first, niceness counts within one alone, and this is one's own.
        with suppress(OSError), open(_AUTOGROUP, "w") as file:
            file.write(str(nice))


def _yield_io(kind: int, level: int) -> None:
    call = _IOPRIO_SET.get(os.uname().machine, _IOPRIO_SET_GENERIC)
    if ctypes.CDLL(None, use_errno=True).syscall(call, _WHO_PROCESS, 0, kind << _CLASS_SHIFT | level) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
