"""Limits as a person meets them: `--direct`, `worker start`, `config show`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.command import Shop, open_shop
from tests.support.ledgers import own_ledger, until
from tests.support.limited import family


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop of a few files."""
    return open_shop(tmp_path)


def add(shop: Shop, text: str) -> None:
    """More lines for the configuration."""
    config = shop.conf / "holdfast.yaml"
    config.write_text(f"{config.read_text()}\n{text}\n")


def test_direct_keeps_to_the_limits_and_heeds_ctrl_c(shop: Shop) -> None:
    """The command itself is made nice, waits for its line, and is gone soon after Ctrl-C."""
    add(shop, "limits: {nice: 6, upload: 16 KB}")
    (shop.data / "big").write_bytes(os.urandom(3_000_000))
    process = shop.start("backup", "data", "--direct")
    try:
        until(lambda: len(family(process.pid)) > 1 and os.getpriority(os.PRIO_PROCESS, process.pid) == 6)
        until((shop.conf / ".holdfast" / "cache" / "limits" / "upload").exists)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert shop.ask("snapshots", "data", code=0)["snapshots"] == []


def test_a_worker_takes_as_many_runs_as_the_configuration_says(shop: Shop, tmp_path: Path) -> None:
    """One pool child a run; --concurrency says otherwise."""
    with own_ledger(str(tmp_path / "valkey")) as (_, server):
        add(shop, f"limits: {{runs: 3}}\nregions: {{local: {{broker: '{server.url}'}}}}")
        for options, runs in (((), 3), (("--concurrency", "1"), 1)):
            process = shop.start("worker", "start", "--restores", "0", *options)
            try:
                until(lambda: shop.ask("worker")["workers"], what="the worker")
                assert len(family(process.pid)) - 1 == runs
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)


def test_show_says_what_they_amount_to(shop: Shop) -> None:
    """In the words of the file, with what is not said."""
    assert shop.ask("config", "show")["limits"] == {"runs": 2, "cores": "all", "nice": 0, "io": "normal"}
    add(
        shop,
        "limits:\n  cores: 2\n  download: 1 MiB\n  upload: {windows: [{hours: 8:00-18:00, rate: 5 MB/s}]}\n",
    )
    got = shop.ask("config", "show")
    assert got["limits"]["cores"] == 2
    assert got["limits"]["download"] == {"rate": "1 MiB"}
    assert got["limits"]["upload"] == {
        "rate": "unlimited",
        "windows": [{"hours": "8:00-18:00", "rate": "5 MB"}],
        "timezone": "this machine's",
    }
