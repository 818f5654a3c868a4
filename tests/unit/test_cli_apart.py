"""Work in a forked child: cli.apart."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from cli.apart import Apart
from shared.config.problems import ConfigInvalid, Problem
from shared.errors import ConfigError, HoldfastError


def apart(work: Callable[[], object]) -> object:
    """What a child makes of it."""
    with Apart(work) as child:
        return child.result()


def raised_apart(error: BaseException) -> BaseException:
    """What the parent gets of an error in the child."""

    def work() -> None:
        raise error

    with pytest.raises(type(error)) as info:
        apart(work)
    return info.value


def test_plain_data_comes_back_whole() -> None:
    """More of it than a pipe holds, too; and what the child changed is not changed here."""
    here: list[int] = []

    def work() -> dict[str, object]:
        here.append(os.getpid())
        return {"paths": ["/srv/\udcff"] * 30_000, "size": 1 << 40, "none": None}

    assert apart(work) == {"paths": ["/srv/\udcff"] * 30_000, "size": 1 << 40, "none": None}
    assert here == []


def test_an_error_arrives_as_it_was_raised() -> None:
    """Its class, message, hint and exit code; its trace is kept as a note."""
    error = raised_apart(ConfigError("there is no source", hint="There are: a"))
    assert isinstance(error, ConfigError)
    assert (error.args, error.hint, error.exit_code) == (("there is no source",), "There are: a", 10)
    assert "in work" in error.__notes__[0]


def test_all_problems_of_a_file_arrive() -> None:
    """An error that is made from other things than its message is no exception."""
    problems = [Problem(("sites", "a"), 3, "is missing"), Problem((), 0, "this is not UTF-8")]
    error = raised_apart(ConfigInvalid("fleet.yaml", problems))
    assert isinstance(error, ConfigInvalid)
    assert (str(error), error.problems) == (str(ConfigInvalid("fleet.yaml", problems)), tuple(reversed(problems)))


def test_an_error_that_can_not_travel_is_told_by_name() -> None:
    """So that a bug in a library is not hidden by a second one."""

    class LocalError(Exception):
        pass

    def work() -> None:
        raise LocalError("odd")

    with pytest.raises(RuntimeError, match="LocalError: odd"):
        apart(work)


def test_a_child_that_dies_is_told() -> None:
    """One that was killed has given nothing."""
    with pytest.raises(HoldfastError, match="ended with code -9"):
        apart(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_no_child_outlives_its_block() -> None:
    """An interrupted command leaves none behind that waits for a vault."""
    began = time.monotonic()
    with Apart(lambda: time.sleep(60)) as child:
        pid = child._pid
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
