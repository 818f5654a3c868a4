"""The commands with workers: `holdfast up` on this machine, its own Redis, and everything rung."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.command import Shop, await_first_backup, open_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop that is up for all of these tests, and stopped then."""
    shop = open_shop(tmp_path_factory.mktemp("shop"))
    config = shop.conf / "holdfast.yaml"
    # Nothing but what is asked for by hand: the schedule's own runs would stand between.
    config.write_text(config.read_text().replace('full: "0 2 * * 0"', "full: 52w").replace("incremental: 1h", ""))
    up = shop.start("up")
    try:
        assert up.stdout is not None
        assert "Ctrl-C stops" in up.stdout.readline()
        await_first_backup(shop)
        yield shop
    finally:
        up.send_signal(signal.SIGINT)
        said, _ = up.communicate(timeout=60)
    assert (up.returncode, said.splitlines()[-1].endswith("stopped; nothing is left running")) == (0, True)


def wait_for_snapshots(shop: Shop, count: int) -> None:
    """Until there are so many: what was rung for goes on when the command has ended."""
    deadline = time.monotonic() + 60
    while (now := len(shop.ask("snapshots", "data")["snapshots"])) < count and time.monotonic() < deadline:
        time.sleep(0.2)
    assert now == count


def test_backup_restore_and_verify_by_a_worker(shop: Shop) -> None:
    """Followed to their end, with the same report and exit code as in this process."""
    before = len(shop.ask("snapshots", "data")["snapshots"])
    assert shop.ask("backup", "data", "--follow")["complete"] is True
    rung = shop.ask("backup", "data")
    assert (rung["source"], len(rung["run"])) == ("data", 32)
    wait_for_snapshots(shop, before + 2)
    shop.run("restore", "data", "--to", "back")
    got = {path.name: path.read_bytes() for path in (shop.conf / "back").rglob("*.txt")}
    assert got == {path.name: path.read_bytes() for path in shop.data.rglob("*.txt")}
    assert "whole: no errors were found" in shop.run("verify", "data", "--data")


def test_a_run_that_fails_says_why_and_ends_with_its_code(shop: Shop) -> None:
    """The worker's error is the command's."""
    shop.run("backup", "data", "--follow")
    (shop.conf / "full").mkdir()
    (shop.conf / "full/here").touch()
    said = shop.run("restore", "data", "--to", "full", code=50)
    assert "is not empty" in said


def test_following_can_be_stopped_and_the_run_goes_on(shop: Shop) -> None:
    """Ctrl-C ends the watching and not the work."""
    shop.run("backup", "data", "--follow")
    before = len(shop.ask("snapshots", "data")["snapshots"])
    with (shop.data / "big").open("wb") as file:
        file.truncate(256 << 20)
    process = shop.start("backup", "data", "--follow")
    assert process.stdout is not None
    assert "Ctrl-C stops following" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "no longer following; run " in said) == (130, True)
    wait_for_snapshots(shop, before + 1)
