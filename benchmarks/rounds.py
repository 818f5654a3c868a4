"""One round: every step of one data set with every tool in turn, each in the machine state that the place asks for."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import changes
import contenders
import corpus
import measure
import report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from contenders import Contender
    from corpus import DataSet
    from sites import Place

STEPS = {
    "small": ("full", "unchanged", "changed", "restore"),
    "text": ("full", "unchanged", "restore"),
    "random": ("full", "unchanged", "restore"),
}
SETTLE = 2.5
"""Seconds from the last change of a tree to its first backup: an incremental does not trust times that are younger."""

ROOM = 8 << 30
"""Bytes to leave free on the disk."""
MANY = 100
"""Files of a tree that is not deleted before the end of the run."""
WORKER_AT = "local-warm"
"""The one place where the warm worker runs."""


@dataclass
class Bench:
    """What all rounds of one run share: tools, a directory to work in, and what was measured so far."""

    binaries: dict[str, str]
    work: str
    say: Callable[[str], None]
    runs: list[report.Run] = field(default_factory=list)
    checked: set[tuple[str, str]] = field(default_factory=set)
    """Tools and data sets whose restore was compared with the source."""

    def put_away(self, target: str, data: DataSet) -> None:
        """Delete what was restored; a tree of many files is kept until the end of the run, unless the disk grows full.

        On ext4 many files made right after many were deleted cost far more: 64,000 empty ones took 20 s and not 1 to 3,
        and restores grew from round to round.
        """
        if data.files < MANY:
            shutil.rmtree(target)
        elif shutil.disk_usage(target).free < ROOM:
            self.say(
                "the disk grows full: restored trees are deleted early, and the next restores may be slower for it"
            )
            shutil.rmtree(os.path.dirname(target))

    @contextlib.contextmanager
    def ring(self, place: Place, data: DataSet, tools: Sequence[str]) -> Iterator[dict[str, Contender]]:
        """Give each tool, bound to a new and empty repository of its own, which is removed afterwards.

        What a tool runs beside its commands runs for the time of the block. Raises measure.CommandFailed, TimeoutError.
        """
        with contextlib.ExitStack() as ends:
            ring: dict[str, Contender] = {}
            for tool in tools:
                home = os.path.join(self.work, tool)
                os.makedirs(home, exist_ok=True)
                ends.callback(place.remove, repository_name(tool, data))
                one = contenders.KINDS[tool](self.binaries[tool], place, repository_name(tool, data), data.path, home)
                one.forget_caches()
                ends.callback(one.stop)
                one.start()
                measure.run(one.init(), env=one.env(), cwd=self.work, sample=False)
                ring[tool] = one
            time.sleep(SETTLE)
            yield ring


@dataclass
class Round:
    """One round of one data set at one place; `steps` are those to report, in STEPS' order."""

    bench: Bench
    where: str
    place: Place
    number: int
    data: DataSet
    steps: list[str]

    def run(self) -> None:
        """Run all steps with the pair, then with the worker, which is not up while the pair is measured.

        Raises measure.CommandFailed, TimeoutError.
        """
        self._series([tool for tool in self.bench.binaries if tool != "worker"])
        if "worker" in self.bench.binaries and self.where == WORKER_AT:
            self._series(["worker"])

    def _series(self, tools: Sequence[str]) -> None:
        """Run all steps, each with all of these tools."""
        if not tools:
            return
        with self.bench.ring(self.place, self.data, tools) as ring:
            order = list(ring.values()) if self.number % 2 == 0 else list(reversed(ring.values()))
            for step in dict.fromkeys(["full", *self.steps]):  # all others stand on a first backup
                changing = step == "changed"
                with changes.one_percent(self.data.path) if changing else contextlib.nullcontext():
                    for position, one in enumerate(order):
                        self._step(step, position, one)

    def _step(self, step: str, position: int, one: Contender) -> None:
        """Run one step with one tool, and note it if it was asked for."""
        target = os.path.join(self.bench.work, "restored", f"{self.where}-{self.data.name}-{self.number}-{one.name}")
        command = one.restore(target) if step == "restore" else one.backup(full=step == "full")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        self._settle(one)
        served = self.place.server_cpu()
        try:
            cost = measure.run(command, env=one.env(), cwd=self.bench.work, beside=one.beside)
        except measure.CommandFailed as error:
            raise measure.CommandFailed(f"{error}{one.said()}") from None
        served = self.place.server_cpu() - served
        if step == "restore":
            self._check(one.name, target)
            self.bench.put_away(target, self.data)
        if step not in self.steps:
            return
        run = report.Run(
            where=self.where,
            case=f"{self.data.name}-{step}",
            round=self.number,
            position=position,
            tool=one.name,
            wall=cost.wall,
            user=cost.user,
            system=cost.system,
            server_cpu=served,
            pss=cost.pss,
            samples=cost.samples,
            sampler_cpu=cost.sampler_cpu,
            stored=self.place.stored_bytes(repository_name(one.name, self.data)),
            left_behind=cost.left_behind,
        )
        self.bench.runs.append(run)
        self.bench.say(
            f"{self.where} round {self.number + 1} {run.case:16} {run.tool:9} {run.wall:6.2f} s, "
            f"cpu {cost.cpu:6.2f} s, PSS {run.pss / 1e6:4.0f} MB, stored {run.stored / 1e6:7.1f} MB"
            + (f", LEFT {run.left_behind} PROCESSES" if run.left_behind else "")
        )

    def _settle(self, one: Contender) -> None:
        """Bring the machine into the state that `where` names: nothing dirty, and caches full or empty."""
        os.sync()
        if self.where == "local-cold":
            one.forget_caches()
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
                file.write("3")
            return
        for path in corpus.walk_files(self.data.path):
            with open(path, "rb", buffering=0) as data:
                while data.read(corpus.MIB):
                    pass
        self._recycle()

    def _recycle(self) -> None:
        """Free as much page cache as the data set is large, in the instant before a measured run.

        In a virtual machine 1 GB written to pages not used of late took 2.7 s of system time, and 0.2 to 0.5 s on pages
        just freed (probably the host takes idle ones back): chance would give that to one tool or the other.
        """
        scratch = os.path.join(self.bench.work, "scratch")
        piece = bytes(corpus.MIB)
        with open(scratch, "wb") as file:
            file.writelines(piece for _ in range(self.data.size * 5 // 4 // corpus.MIB))
        os.unlink(scratch)

    def _check(self, tool: str, target: str) -> None:
        """Compare what a tool restored with the source, once a tool and data set.

        The 1 % that was changed before the last backup and put back since may differ. Raises measure.CommandFailed.
        """
        if (tool, self.data.name) in self.bench.checked:
            return
        self.bench.checked.add((tool, self.data.name))
        found = target + self.data.path if os.path.isdir(target + self.data.path) else target
        wrong = sum(not _same(path, found + path[len(self.data.path) :]) for path in corpus.walk_files(self.data.path))
        allowed = self.data.files // 50 if "changed" in self.steps else 0
        if wrong > allowed:
            raise measure.CommandFailed(
                f"{tool} restored {self.data.name} wrongly: {wrong} files are missing or differ"
            )


def repository_name(tool: str, data: DataSet) -> str:
    """Return the name of a tool's repository; also a valid bucket name."""
    return f"{tool}-{data.name}"


def _same(one: str, other: str) -> bool:
    """Compare two files by content; a missing one is not the same."""
    try:
        with open(one, "rb") as left, open(other, "rb") as right:
            return all(a == b for a, b in _pieces(left, right))
    except FileNotFoundError:
        return False


def _pieces(left: IO[bytes], right: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    while True:
        pair = left.read(corpus.MIB), right.read(corpus.MIB)
        yield pair
        if not any(pair):
            return
