"""`holdfast worker`: two take the work, a third joins by one command, one leaves in mid-run and its run goes on."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Shop, open_shop
from tests.support.ledgers import own_ledger, until


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop whose configuration names a Redis, with nothing else that runs."""
    with own_ledger(str(tmp_path / "valkey")) as (_, server):
        shop = open_shop(tmp_path)
        config = shop.conf / "holdfast.yaml"
        config.write_text(config.read_text() + f"\nregions: {{local: {{broker: '{server.url}'}}}}\n")
        yield shop


def names(shop: Shop) -> set[str]:
    """The workers that are there."""
    return {one["name"] for one in shop.ask("worker")["workers"]}


def start(shop: Shop, *options: str) -> subprocess.Popen[str]:
    """A worker that takes one run at a time."""
    return shop.start("worker", "start", "--concurrency", "1", *options)


def test_a_worker_leaves_in_mid_run_and_its_run_goes_on_elsewhere(shop: Shop) -> None:
    """By `drain`, with an exit code of 0; one attempt was given back, and the next one ends the run."""
    with (shop.data / "big").open("wb") as file:
        for number in range(40):
            file.write(number.to_bytes(4) * (1 << 21))
    first = start(shop)
    second: subprocess.Popen[str] | None = None
    try:
        (leaving,) = until(lambda: names(shop), what="the first worker")
        run = shop.ask("backup", "data")["run"]
        until(lambda: shop.ask("runs", "show", run)["state"] != "queued", what="its claim")
        second = start(shop, "--host", "elsewhere")
        until(lambda: len(names(shop)) == 2, what="the second worker")
        shop.run("worker", "drain", leaving, "--wait")
        assert first.wait(40) == 0
        assert leaving not in names(shop)
        ended = shop.ask("runs", "follow", run)
        assert ended["state"] == "succeeded"
        assert len(shop.ask("snapshots", "data")["snapshots"]) == 1
    finally:
        for process in (first, second):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=60)
    assert "no source is of host elsewhere" in said


def test_no_worker_of_that_name(shop: Shop) -> None:
    """Says who is there, and what to do where nobody is."""
    assert "There is none at all" in shop.run("worker", "drain", "worker-1@nowhere", code=65)
    assert "holdfast worker start" in shop.run("worker")
    assert "no worker runs" in shop.run("status", code=2)
