"""What a running `up` tells of itself, and what is never taken for it: workers.standing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workers.children import Child
from workers.standing import AlreadyUp, hold, identity, is_alive, look, stop

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


def test_a_number_that_was_given_away_again_is_another_process() -> None:
    """A process is its number and the time of its start; a zombie has ended."""
    own = identity(os.getpid())
    assert is_alive(own)
    assert not is_alive(f"{os.getpid()}:1")
    child = subprocess.Popen(SLEEPER)
    name = identity(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(name)
    child.wait()
    assert not is_alive(name)


def test_nothing_is_up_where_nobody_holds_the_lock(tmp_path: Path) -> None:
    """Whatever files lie there, whole or not."""
    assert look(str(tmp_path)) is None
    (tmp_path / "up.lock").write_text(identity(os.getpid()))
    (tmp_path / "up.json").write_text("{half")
    assert (look(str(tmp_path)), stop(str(tmp_path))) == (None, None)


def test_who_holds_the_lock_is_told_with_his_children(tmp_path: Path) -> None:
    """Until the end; a second one is refused."""
    child = Child("worker", SLEEPER, str(tmp_path))
    child.start()
    with hold(str(tmp_path)) as holding:
        holding.tell([child])
        found = look(str(tmp_path))
        assert found is not None
        assert (found.pid, [(one.name, one.pid) for one in found.alive]) == (os.getpid(), [("worker", child.pid)])
        with pytest.raises(AlreadyUp), hold(str(tmp_path)):
            pass
    child.ask_to_stop()
    child.wait_stopped()
    assert look(str(tmp_path)) is None


def test_children_that_outlived_their_up_are_stopped(tmp_path: Path) -> None:
    """`up` was killed outright: its list tells what is left."""
    child = subprocess.Popen(SLEEPER)
    text = f'{{"since": 1.0, "members": [{{"name": "beat", "process": "{identity(child.pid)}", "since": 1.0, '
    (tmp_path / "up.json").write_text(text + '"deaths": 0, "log": "x"}]}')
    found = look(str(tmp_path))
    assert found is not None
    assert (found.pid, [one.name for one in found.alive]) == (0, ["beat"])
    assert stop(str(tmp_path)) == found
    assert child.wait() == -signal.SIGTERM
    assert look(str(tmp_path)) is None
