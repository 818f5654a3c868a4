"""A running `holdfast up` whose worker has the fake engine, as a process of its own."""

from __future__ import annotations

import os
import sys

from tests.support import forked
from tests.support.fleets import SmallFleet

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
MARKS = {
    "valkey": "valkey-server",
    "worker": "--role\0all",
    "restore": "--role\0restore",
    "beat": "\0beat\0",
    "scheduler": "scheduler\0worker",
    "exporter": "scheduler.exporter",
}


class Up:
    """A running `up`, in a process of its own."""

    def __init__(self, small: SmallFleet) -> None:
        self.small = small
        command = [sys.executable, "-m", "tests.support.fake_up", small.path]
        self.said_path = os.path.join(small.directory, "said")
        with open(self.said_path, "ab") as said:
            self.process = forked.Popen(command, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)

    @property
    def said(self) -> str:
        """What the terminal shows."""
        with open(self.said_path) as file:
            return file.read()

    def children(self) -> dict[str, int]:
        """Its own children that do something, by what they are."""
        found = {}
        for pid in descendants(self.process.pid):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    line = file.read()
                mine = parent_of(pid) == self.process.pid
            except (FileNotFoundError, ProcessLookupError):
                continue
            for name, mark in MARKS.items():
                if mark in line and mine:
                    found[name] = pid
        return found

    def log(self, name: str) -> str:
        """What one of its processes has logged; empty before it has."""
        try:
            with open(os.path.join(self.small.state_dir, "log", f"{name}.log")) as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit code."""
        self.process.terminate()
        return self.process.wait(40)


def parent_of(pid: int) -> int:
    """The parent of a process."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def descendants(top: int) -> list[int]:
    """All processes below one."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = parent_of(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    below = [top]
    for pid in below:
        below += [child for child, parent in parents.items() if parent == pid]
    return below[1:]
