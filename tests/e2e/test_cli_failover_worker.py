"""A failover worker beside two sites and a witness: the primary goes, another takes its place, and it comes back."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.support.command import Shop
from tests.support.ledgers import until
from tests.support.sites import open_sites

QUICK = "failover: {interval: 1s, down_after: 1s, grace: 1s, max_behind: 1d, observers: 1, cool_down: 1s}\n"


def changes(shop: Shop) -> list[str]:
    """What the history says."""
    return [one["what"] for one in shop.ask("sites", "history")["changes"]]


def snapshots(shop: Shop, site: str) -> int:
    """How many lie at a site."""
    return len(list((shop.conf / site / "repos").glob("*/snapshots/*")))


def test_a_primary_that_is_gone_is_replaced_and_backups_go_on(tmp_path: Path) -> None:
    """Nobody asks for it; no Redis is there; the worker stops when it is told to."""
    shop = open_sites(tmp_path, "a: {url: a}, b: {url: b}, w: {url: w, witness: true}")
    path = shop.conf / "holdfast.yaml"
    path.write_text(QUICK + path.read_text())
    for name in "abw":
        (shop.conf / name).mkdir()
    shop.run("backup", "data", "--direct")
    shop.run("sites", "settle")
    shutil.copytree(shop.conf / "a/repos", shop.conf / "b/repos", dirs_exist_ok=True)
    before = snapshots(shop, "b")
    worker = shop.start("failover-worker")
    try:
        (shop.conf / "a").rename(shop.conf / "a.away")
        until(lambda: changes(shop) or None, seconds=40, what="a failover")
        assert changes(shop) == ["failover a to b"]
        shop.run("backup", "data", "--direct")
        assert snapshots(shop, "b") == before + 1
    finally:
        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=30)
    assert worker.returncode == 0, said
