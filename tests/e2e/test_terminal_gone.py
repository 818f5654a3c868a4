"""A terminal that goes away: SIGHUP, and every later word to it fails. What runs there ends cleanly, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.command import Shop, environment, open_shop
from tests.support.fleets import alive
from tests.support.ledgers import own_ledger, until

FILES = 24


class Terminal:
    """A command that runs in a session of its own, on a terminal that can be closed."""

    def __init__(self, request: pytest.FixtureRequest, shop: Shop, *arguments: str) -> None:
        self.traces = shop.base / "tmp"
        self.traces.mkdir(exist_ok=True)
        self._screen, line = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=shop.conf,
            env={**environment(), "TMPDIR": str(self.traces)},
            preexec_fn=lambda: os.login_tty(line),  # noqa: PLW1509 - no thread of this process holds a lock
        )
        os.close(line)
        os.set_blocking(self._screen, False)
        self.shown = ""
        request.addfinalizer(self.end)

    def shows(self, text: str) -> bool:
        """Whether it has shown this so far."""
        with suppress(BlockingIOError):
            self.shown += os.read(self._screen, 1 << 16).decode(errors="replace")
        return text in self.shown

    def close(self) -> int:
        """Take the terminal away; the exit code of what ran there, which wrote no trace of a bug."""
        os.close(self._screen)
        code = self.process.wait(40)
        assert list(self.traces.glob("*.trace")) == []
        return code

    def end(self) -> None:
        """Leave nothing running, where a test has failed."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with enough to back up for a second or two."""
    shop = open_shop(tmp_path)
    with (shop.data / "big").open("wb") as file:
        for _ in range(FILES):
            file.write(os.urandom(4 << 20))
    return shop


@pytest.fixture
def served(shop: Shop) -> Iterator[Shop]:
    """The same with a Redis of its own, and a line that makes the backup last for some seconds."""
    with own_ledger(str(shop.base / "valkey")) as (_, server):
        config = shop.conf / "holdfast.yaml"
        config.write_text(
            config.read_text() + f"\nregions: {{local: {{broker: '{server.url}'}}}}\n" + "limits: {upload: 20 MB}\n"
        )
        yield shop


def packs(shop: Shop) -> list[Path]:
    """What is at the site already."""
    return [path for path in (shop.conf / "backups").rglob("data/*/*") if path.is_file()]


def locks(shop: Shop) -> list[Path]:
    """The locks at the site."""
    return list((shop.conf / "backups").rglob("locks/*"))


def test_a_direct_backup_stops_as_at_ctrl_c(request: pytest.FixtureRequest, shop: Shop) -> None:
    """No lock is left, what was uploaded is kept, and the next one ends well."""
    terminal = Terminal(request, shop, "backup", "data", "--direct")
    until(lambda: packs(shop), what="a pack")
    assert (terminal.close(), locks(shop)) == (130, [])
    assert shop.ask("backup", "data", "--direct")["complete"] is True


def test_who_follows_leaves_and_the_run_goes_on(request: pytest.FixtureRequest, served: Shop) -> None:
    """`backup --follow` and `runs follow`; then the worker's own terminal: its run is given back at once."""
    first = Terminal(request, served, "worker", "start", "--concurrency", "1")
    asking = Terminal(request, served, "backup", "data", "--follow")
    run = until(lambda: served.ask("runs", "--open")["runs"], what="the run")[0]["id"]
    following = Terminal(request, served, "runs", "follow", run)
    until(lambda: served.ask("runs", "show", run)["state"] == "running", what="the engine")
    until(lambda: following.shows("Ctrl-C stops following"), what="a second follower")
    assert (asking.close(), following.close()) == (130, 130)
    if served.ask("runs", "show", run)["state"] == "running":
        until(lambda: packs(served), what="a pack")
    assert first.close() == 0
    shown = served.ask("runs", "show", run)
    assert (shown["state"], locks(served)) in [("queued", []), ("succeeded", [])]
    assert {one["error"] for one in shown["attempts"]} == {None}


def test_all_that_is_up_goes_down(request: pytest.FixtureRequest, shop: Shop) -> None:
    """As with Ctrl-C: nothing is left running."""
    terminal = Terminal(request, shop, "up")
    until(lambda: terminal.shows("Ctrl-C stops"), what="all of it")
    members = [one["pid"] for one in shop.ask("up", "--status")["processes"]]
    assert terminal.close() == 0
    assert (len(members), [pid for pid in members if alive(pid)]) == (6, [])
    assert shop.ask("up", "--status", code=1)["up"] is False
