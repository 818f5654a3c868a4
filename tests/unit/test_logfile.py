"""A log file that is renamed, or whose disk is full, under the processes that write to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support.ledgers import until
from workers.logfiles import rotate

ROOT = Path(__file__).parents[2]
# Logs what it is told to, a line of input each; an answer on fd 3 says that it has tried.
WRITER = """
import logging, os, resource, sys
from shared.observability import logs
logs.set_up(log_file=sys.argv[1])
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "limit":
        most = int(rest) if rest else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    elif word == "many":
        for number in range(int(rest)):
            logging.getLogger("many").info("%s-%s", os.getpid(), number)
    elif word == "print":
        print(rest, file=sys.stderr, flush=True)
    else:
        logging.getLogger("test").info(rest)
    os.write(int(sys.argv[2]), b".")
"""


class Writer:
    """A process that logs to a file."""

    def __init__(self, path: Path) -> None:
        self._answers, answering = os.pipe()
        with path.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), str(answering)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                text=True,
                pass_fds=[answering],
            )
        os.close(answering)

    def say(self, line: str) -> None:
        """Tell it to do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def done(self, line: str) -> None:
        """The same, and wait until it has tried."""
        self.say(line)
        assert os.read(self._answers, 1) == b"."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(20) == 0
        os.close(self._answers)


def events(path: Path) -> list[str]:
    """What was logged, whole lines alone."""
    return [json.loads(line)["event"] for line in path.read_text().splitlines() if line.startswith("{")]


def test_a_log_is_put_aside_by_its_size_and_the_oldest_goes(tmp_path: Path) -> None:
    """Three are kept besides the one that is written; a smaller one stays, and so does one that is not there."""
    path = tmp_path / "worker.log"
    assert rotate(str(path), at_most=1) is False
    for number in range(6):
        path.write_text(str(number))
        assert rotate(str(path), at_most=2) is False
        assert rotate(str(path), at_most=1) is True
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {
        "worker.log.1": "5",
        "worker.log.2": "4",
        "worker.log.3": "3",
    }


def test_a_rotation_that_was_killed_between_two_renames_is_made_up_for(tmp_path: Path) -> None:
    """From each step at which it can stop, the next one loses nothing but the oldest."""
    for missing in (1, 2, 3):
        for number in (1, 2, 3):
            (tmp_path / f"a.log.{number}").write_text(f"old {number}")
        (tmp_path / f"a.log.{missing}").unlink()
        (tmp_path / "a.log").write_text("new")
        assert rotate(str(tmp_path / "a.log"), at_most=1) is True
        assert (tmp_path / "a.log.1").read_text() == "new"
        kept = {one.read_text() for one in tmp_path.iterdir()}
        assert kept >= {f"old {number}" for number in (1, 2) if number != missing}


def test_who_writes_goes_over_to_the_new_file(tmp_path: Path) -> None:
    """By its next line, and what it prints by itself with it; the new file is private."""
    path = tmp_path / "worker.log"
    with Writer(path) as writer:
        writer.done("log one")
        assert rotate(str(path), at_most=1)
        writer.done("log two")
        writer.done("print a traceback")
    assert (events(tmp_path / "worker.log.1"), events(path)) == (["one"], ["two"])
    assert path.read_text().splitlines()[1] == "a traceback"
    assert path.stat().st_mode & 0o077 == 0


def test_no_line_is_lost_while_several_write_and_the_file_is_renamed(tmp_path: Path) -> None:
    """All lines of all processes are there once and whole, in whatever file."""
    path = tmp_path / "worker.log"
    rotations = 0
    with Writer(path) as one, Writer(path) as two:
        writers = (one, two)
        for writer in writers:
            writer.say("many 16000")

        def done() -> bool:
            nonlocal rotations
            rotations += rotate(str(path), at_most=50_000, kept=1000)
            return sum(file.read_bytes().count(b"\n") for file in tmp_path.iterdir()) >= 32_000

        until(done, seconds=60)
        for writer in writers:
            assert os.read(writer._answers, 1) == b"."
    assert rotations > 3
    found = sorted(event for file in tmp_path.iterdir() for event in events(file))
    assert found == sorted(f"{writer.process.pid}-{number}" for writer in writers for number in range(16_000))
    assert all(line.startswith("{") for file in tmp_path.iterdir() for line in file.read_text().splitlines())


def test_a_full_disk_stops_nobody_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    """Every write is refused for want of space; once there is room, the next line says how many are missing."""
    path = tmp_path / "worker.log"
    path.symlink_to("/dev/full")
    with Writer(path) as writer:
        for number in range(5):
            writer.done(f"log {number}")
        path.unlink()
        writer.done("log room again")
    assert events(path) == ["room again", "5 lines before this one could not be written"]


def test_a_line_that_a_full_disk_has_cut_spoils_no_other(tmp_path: Path) -> None:
    """The next one begins a line of its own."""
    path = tmp_path / "worker.log"
    with Writer(path) as writer:
        writer.done("log whole")
        writer.done(f"limit {path.stat().st_size + 20}")
        writer.done("log cut")
        writer.done("log refused")
        writer.done("limit")
        writer.done("log whole again")
    assert [len(line) < 40 for line in path.read_text().splitlines()] == [False, True, False, False]
    lines = [line for line in path.read_text().splitlines() if len(line) > 40]
    assert [json.loads(line)["event"] for line in lines] == [
        "whole",
        "whole again",
        "2 lines before this one could not be written",
    ]
