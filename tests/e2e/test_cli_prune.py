"""`holdfast prune` as a person runs it, behind a forget."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.support.command import Shop, open_shop

GRACE = 1.0  # seconds


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop of which most that was ever backed up is forgotten; it may be deleted after a second."""
    shop = open_shop(tmp_path)
    path = shop.conf / "holdfast.yaml"
    text = path.read_text().replace("  standard:\n", "  standard:\n    retention: {keep_last: 1}\n")
    path.write_text(f"{text}\nprune: {{grace: {GRACE:.0f}s, max_unused: 0}}\n")
    for number in range(3):
        (shop.data / "large").write_bytes(random.Random(number).randbytes(300_000))
        shop.run("backup", "data", "--direct")
    shop.run("forget", "data", "--direct")
    return shop


def stored(shop: Shop) -> int:
    """The bytes of all packs."""
    return sum(path.stat().st_size for path in shop.conf.rglob("repos/data/data/*/*"))


def test_two_prunes_give_space_back(shop: Shop) -> None:
    """A dry run first, which changes nothing; then one that notes, and one that deletes. The repository stays whole."""
    before = stored(shop)
    said = shop.run("prune", "data", "--dry-run").splitlines()
    assert said[0].startswith("unused      60")
    assert "would be left out of the index, to be deleted later" in "\n".join(said)
    assert said[-1].startswith("repository data at main: 1 snapshot, ")
    assert stored(shop) == before
    first = shop.ask("prune", "data", "--direct")
    assert (first["done"], first["packs_deleted"], first["bytes_doomed"] > 600_000) == (True, 0, True)
    assert "whole: no errors were found" in shop.run("verify", "data", "--direct", "--data")
    time.sleep(GRACE)
    second = shop.ask("prune", "data", "--direct")
    assert (second["packs_deleted"], second["bytes_deleted"]) == (first["packs_doomed"], first["bytes_doomed"])
    assert stored(shop) < 0.5 * before
    assert "whole: no errors were found" in shop.run("verify", "data", "--direct", "--data")


def test_what_it_can_not_do_it_says(shop: Shop) -> None:
    """No such source; a pack that is missing, with exit code 24; nothing is changed."""
    assert 'there is no source "nowhere"' in shop.run("prune", "nowhere", "--direct", code=10)
    for path in shop.conf.rglob("repos/data/data/*/*"):
        path.unlink()
    said = shop.run("prune", "data", "--direct", code=24)
    assert "which a snapshot needs" in said
    assert "nothing was pruned" in said
