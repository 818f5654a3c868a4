"""Run one command and say what it cost: wall and CPU time, and memory as the sampled sum of PSS of its process tree.

PSS, unlike the resident size, counts a page shared by n processes as 1/n, so that forked helpers are neither counted
twice nor let off. Sampling costs time itself: it is slowed down where it would take more than SHARE of one core.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INTERVAL = 0.05  # seconds between samples
SHARE = 0.02  # of one core, at most, for sampling
PR_SET_CHILD_SUBREAPER = 36


class CommandFailed(Exception):
    """A measured command ended with a non-zero code."""


@dataclass
class Cost:
    """What a command cost. Times in seconds, memory in bytes."""

    wall: float
    user: float
    system: float
    pss: int
    """The highest sampled sum; 0 where the command was over before the first sample."""
    samples: int
    sampler_cpu: float
    """Seconds of CPU that the sampling itself took, not part of the others."""
    left_behind: int
    """Processes that the command left running or unreaped; ended and counted here, a blemish of the tool."""
    output: str = field(repr=False, default="")

    @property
    def cpu(self) -> float:
        """User and system time together."""
        return self.user + self.system


def become_subreaper() -> None:
    """Let orphans of a measured command fall to this process, so that their CPU time is counted too (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str, sample: bool = True, beside: int | None = None
) -> Cost:
    """Run `command` to its end and return its cost.

    `beside` is a process that works for the command meanwhile: what it and its descendants take is part of the cost.
    Raises CommandFailed with the end of its output where its exit code is not 0.
    """
    keep = _children(os.getpid())
    with tempfile.TemporaryFile() as log:
        served = tree_cpu(beside)
        before = time.perf_counter()
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        sampler = _Sampler([process.pid, *([beside] if beside else [])])
        if sample:
            sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - before
        process.returncode = os.waitstatus_to_exitcode(status)
        if sample:
            sampler.stop()
        user, system = (now - then for now, then in zip(tree_cpu(beside), served, strict=True))
        left = _collect(_children(os.getpid()) - keep)
        log.seek(0)
        output = log.read().decode(errors="replace")
    if process.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: exit code {process.returncode}\n{output[-3000:]}")
    return Cost(
        wall=wall,
        user=usage.ru_utime + sum(one.ru_utime for one in left) + user,
        system=usage.ru_stime + sum(one.ru_stime for one in left) + system,
        pss=sampler.peak,
        samples=sampler.samples,
        sampler_cpu=sampler.cpu,
        left_behind=len(left),
        output=output,
    )


def tree_pss(root: int) -> int:
    """Return the sum of PSS of a process and all its descendants, in bytes."""
    total = 0
    for pid in _tree(root):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    total += int(line.split()[1]) * 1024
                    break
    return total


def tree_cpu(root: int | None) -> tuple[float, float]:
    """Return user and system time of a process and all its descendants, ended ones that were waited for included.

    0 where there is none.
    """
    user = system = 0.0
    for pid in _tree(root) if root else ():
        with contextlib.suppress(OSError):
            own_user, own_system, reaped_user, reaped_system = _times(pid)
            user += own_user + reaped_user
            system += own_system + reaped_system
    return user, system


def cpu_seconds(pid: int) -> float:
    """User and system time that a running process has taken (its threads, not its children)."""
    user, system, *_ = _times(pid)
    return user + system


def _times(pid: int) -> list[float]:
    """Return user and system time of a process, then of its children that were waited for."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return [int(field) / tick for field in fields[11:15]]


def _tree(root: int) -> list[int]:
    """Return a process and all its descendants, parents first."""
    found = [root]
    for pid in found:
        found.extend(_children(pid))
    return found


class _Sampler(threading.Thread):
    """Samples the memory of process trees until told to stop."""

    def __init__(self, roots: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.samples = 0
        self.cpu = 0.0
        self._roots = roots
        self._over = threading.Event()

    def run(self) -> None:
        pause = 0.01
        while not self._over.wait(pause):
            began = time.thread_time()
            self.peak = max(self.peak, sum(map(tree_pss, self._roots)))
            self.samples += 1
            took = time.thread_time() - began
            self.cpu += took
            pause = max(INTERVAL, took / SHARE)

    def stop(self) -> None:
        """End the sampling and wait for the thread."""
        self._over.set()
        self.join()


def _children(pid: int) -> set[int]:
    """Direct children of a process, over all its threads."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found.update(map(int, file.read().split()))
    return found


def _collect(pids: set[int]) -> list[resource.struct_rusage]:
    """Wait up to five seconds for processes that were left behind, end what still runs, and return what they took."""
    usages = []
    deadline = time.monotonic() + 5
    for pid in pids:
        while True:
            try:
                found, _, usage = os.wait4(pid, os.WNOHANG)
            except ChildProcessError:
                break
            if found:
                usages.append(usage)
                break
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            time.sleep(0.01)
    return usages
