"""A process that a test had forked is what it would be had it been started: tests.support.forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import forked
from tests.support.command import environment
from tests.support.ledgers import until
from tests.support.processes import in_processes

PORTRAIT = [sys.executable, "-m", "tests.support.portrait", "a word", "", "ü\udcff"]


def options(folder: Path, **more: str) -> dict[str, Any]:
    """Where and with what they run."""
    variables = {**environment(), "TMPDIR": str(folder), "TZ": "Asia/Kolkata", "ODD": "a\nb \udcff", **more}
    return {"cwd": folder, "env": variables, "input": "told\n", "capture_output": True, "text": True}


@pytest.mark.parametrize("session", [False, True])
def test_it_finds_itself_to_be_what_a_start_makes(tmp_path: Path, session: bool) -> None:
    """Arguments, environment, folder, streams, signals, session: all of it, and what /proc says; and its exit code."""
    started = subprocess.run(PORTRAIT, check=False, start_new_session=session, **options(tmp_path))
    ours = forked.run(PORTRAIT, start_new_session=session, **options(tmp_path))
    assert (started.returncode, started.stderr) == (3, "")
    assert (ours.returncode, ours.stderr) == (3, "")
    told, found = json.loads(started.stdout), json.loads(ours.stdout)
    assert (told["forked"], found["forked"]) == (False, True)
    assert found["self"] == told["self"]


def test_what_a_fork_can_not_be_is_started(tmp_path: Path) -> None:
    """Another locale, another Python path, and what else counts before any code runs."""
    for more in ({"LC_ALL": "C"}, {"PYTHONPATH": f"{forked.ROOT}:/nowhere"}, {"LD_BIND_NOW": "1"}):
        done = forked.run(PORTRAIT, **options(tmp_path, **more))
        assert (done.returncode, json.loads(done.stdout)["forked"]) == (3, False)


def test_it_is_waited_for_as_a_child_is() -> None:
    """Nothing while it runs, then what ended it; until then its number is nobody else's."""
    with forked.Popen(PORTRAIT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        until(lambda: "\nState:\tZ" in Path(f"/proc/{process.pid}/status").read_text())
        os.killpg(process.pid, signal.SIGKILL)
        assert (process.wait(), process.poll()) == (-signal.SIGKILL, -signal.SIGKILL)
    assert not Path(f"/proc/{process.pid}").exists()


def test_what_nobody_can_wait_for_any_more_is_reaped() -> None:
    """Who asked for it has ended: a zombie would hold its locks for ever."""

    def ask(_: int) -> int:
        process = forked.Popen(PORTRAIT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        process.returncode = 0  # it is not to be missed by Python
        return process.pid

    assert forked.address()  # in_processes forks: they share this one
    (pid,) = in_processes(1, ask)
    until(lambda: not Path(f"/proc/{pid}").exists())
