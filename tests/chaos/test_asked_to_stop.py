"""Asked to stop in mid-backup, or bereft of a helper, the coordinator or its reader: it ends, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from shared.errors import Interrupted
from tests.support.attempts import Bench, digest, make_source
from tests.support.fleets import SmallFleet
from tests.support.trapped import Program, session
from tests.support.zygote import Zygote

RUN = "ef" * 16
ENGINE = "workers.backup"
SLOW = 0.3  # seconds that each put takes longer, so that there is a middle to stop in


@pytest.fixture
def bench(tmp_path: object) -> Bench:
    """An empty site and a source of its own."""
    return Bench(os.path.join(str(tmp_path), "bench"), make_source(os.path.join(str(tmp_path), "source")))


class Scene:
    """An engine at work, its events in a file."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.out = os.path.join(bench.directory, "events")
        trap = bench.trap(slow=SLOW)
        self.program = Program(trap, ENGINE, stdin=json.dumps(bench.spec(RUN)) + "\n", stdout=self.out)

    def events(self) -> list[dict[str, Any]]:
        """What the engine said."""
        with open(self.out) as file:
            lines = file.read().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def hold_to_a_clean_end(self) -> None:
        """All that is durable is indexed, the lock is gone, and the next attempt uploads nothing twice."""
        bench = self.bench
        assert bench.names("locks") == set()
        assert bench.names("snapshots") == set()
        durable = bench.names("data")
        assert bench.indexed() == durable
        bench.check()
        _complete(bench)
        new = bench.names("data") - durable
        assert bench.blobs(new).keys() & bench.blobs(durable).keys() == set()


def _complete(bench: Bench) -> None:
    with Zygote() as zygote:
        ended = zygote.run("backup", bench.spec(RUN))
    assert (ended.error, ended.strays, ended.left) == ("", 0, 0)
    bench.check()
    (snapshot,) = bench.snapshots(RUN)
    assert bench.names("snapshots") == {snapshot.id}
    assert digest(bench.restore(snapshot.id)) == digest(bench.source)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("packs", [0, 4], ids=["early", "in mid-upload"])
def test_a_signal_ends_it_cleanly(bench: Bench, number: signal.Signals, packs: int) -> None:
    """To the whole group, as a terminal or systemd sends it: flushed, indexed, unlocked, exit code 130."""
    scene = Scene(bench)
    with scene.program as program:
        program.wait_for_puts(packs or 1, "put data/" if packs else "put locks/")
        os.killpg(program.process.pid, number)
        assert program.end() == Interrupted.exit_code
    last = scene.events()[-1]
    assert (last["event"], last["exit_code"]) == ("error", Interrupted.exit_code)
    assert "stopped" in last["message"]
    assert len(bench.names("data")) >= packs
    scene.hold_to_a_clean_end()


def test_a_second_signal_does_not_break_the_clean_end(bench: Bench) -> None:
    """Who presses Ctrl-C three times gets what who presses it once gets."""
    scene = Scene(bench)
    with scene.program as program:
        program.wait_for_puts(4)
        for _ in range(3):
            os.killpg(program.process.pid, signal.SIGINT)
        assert program.end() == Interrupted.exit_code
    scene.hold_to_a_clean_end()


def test_a_closed_stdin_ends_it_cleanly(bench: Bench) -> None:
    """Its supervisor has died, so the pipe is closed: the engine does not outlive it for long."""
    scene = Scene(bench)
    with scene.program as program:
        program.wait_for_puts(4)
        program.close_stdin()
        assert program.end() == Interrupted.exit_code
    scene.hold_to_a_clean_end()


def test_a_killed_coordinator_leaves_no_helper(bench: Bench) -> None:
    """SIGKILL to it alone: helpers see their sockets close; what they had uploaded is taken up."""
    scene = Scene(bench)
    with scene.program as program:
        program.wait_for_puts(4)
        assert len(program.children()) == 2
        program.process.kill()
        assert program.end() == -signal.SIGKILL
    bench.check()
    _complete(bench)


def test_a_killed_helper_fails_the_run_and_leaves_nothing_running(bench: Bench) -> None:
    """As the kernel does when memory is short: a clear error, no lock left, and the next attempt goes on from there."""
    scene = Scene(bench)
    with scene.program as program:
        program.wait_for_puts(4)
        helper = program.children()[0]
        os.kill(helper, signal.SIGKILL)
        code = program.end()
    last = scene.events()[-1]
    assert (last["event"], code, last["exit_code"]) == ("error", 42, 42)
    assert last["message"] == f"helper process {helper} ended unexpectedly"
    assert "run it again" in last["hint"]
    assert (bench.names("locks"), bench.names("snapshots")) == (set(), set())
    bench.check()
    _complete(bench)


def test_a_direct_backup_stops_at_ctrl_c(tmp_path: object) -> None:
    """`holdfast backup --direct`: exit code 130, nothing left running or locked; the same again goes on from there."""
    small = SmallFleet(str(tmp_path))
    make_source(small.source_dir, big=32 << 20)
    with open(small.path, "a") as file:
        file.write("defaults: {pack_size: 4MiB}\n")
    bench = Bench(str(tmp_path), small.source_dir)
    slow = Program(
        bench.trap(slow=SLOW), "cli.main", "--config", small.path, "backup", "web1", "--direct",
        stdout=os.path.join(str(tmp_path), "said"),
    )  # fmt: skip
    with slow as program:
        program.wait_for_puts(1)
        os.killpg(program.process.pid, signal.SIGINT)
        assert program.end() == Interrupted.exit_code
    with open(os.path.join(str(tmp_path), "said")) as file:
        assert "stopped" in file.read()
    assert (bench.names("locks"), bench.names("snapshots")) == (set(), set())
    durable = bench.names("data")
    assert durable != set()
    assert len(bench.names("index")) == 1
    with Program(bench.trap(), "cli.main", "--config", small.path, "backup", "web1", "--direct") as program:
        assert program.end() == 0
        assert session(program.process.pid) == []
    assert len(bench.names("snapshots")) == 1
    password = small.fleet.machine_password("web1")
    assert "no errors were found" in bench.restic("check", "--read-data", "--no-lock", password=password)
