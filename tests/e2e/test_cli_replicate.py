"""Copies at a second site: by themselves, after each backup of a policy with `copies`; and by hand."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.attempts import digest, run_restic
from tests.support.command import Shop, open_shop
from tests.support.ledgers import until


def two_sites(base: Path, *, copies: str) -> Shop:
    """A shop whose policy has a primary, and perhaps copies at the other one."""
    shop = open_shop(base)
    (shop.conf / "second").mkdir()
    config = shop.conf / "holdfast.yaml"
    text = config.read_text().replace("  main:\n", "  second: {url: second}\n  main:\n", 1)
    config.write_text(text.replace("    primary: main\n", f"    primary: main\n{copies}", 1))
    return shop


def password(shop: Shop) -> str:
    """The recovery password."""
    return (shop.conf / "recovery.password").read_text().strip()


def check(shop: Shop, expected: int) -> None:
    """Stock restic finds no error at the second site, and as many snapshots, whose files are those of the source."""
    repository = str(shop.conf / "second" / "repos" / "data")
    said = run_restic(repository, "check", "--read-data", "--no-lock", password=password(shop))
    assert "no errors were found" in said
    listed = json.loads(run_restic(repository, "snapshots", "--json", "--no-lock", password=password(shop)))
    assert len(listed) == expected
    target = str(shop.base / f"from-second-{expected}")
    run_restic(repository, "restore", "latest", "--target", target, "--no-lock", password=password(shop))
    assert digest(target + str(shop.data)) == digest(str(shop.data))


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Shop]:
    """A fleet with one copy of each source, that is up."""
    shop = two_sites(tmp_path, copies="    copies: {number: 1}\n")
    process = shop.start("up")
    try:
        assert process.stdout is not None
        assert "Ctrl-C stops" in process.stdout.readline()
        yield shop
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_what_is_backed_up_arrives_at_the_second_site_by_itself(up: Shop) -> None:
    """The first backup, and one that is asked for later; each by a run of its own, that status and the ledger know."""

    def replicated() -> list[dict[str, object]]:
        runs = up.ask("runs", "list", "--source", "data")["runs"]
        return [run for run in runs if run["kind"] == "replicate" and run["state"] == "succeeded"]

    until(lambda: len(replicated()) == 1, seconds=60)
    check(up, 1)
    (up.data / "new").write_text("a new file\n")
    up.run("backup", "data", "--follow")
    until(lambda: len(replicated()) == 2, seconds=60)
    check(up, 2)
    (report,) = up.ask("replicate", "data")["replications"]
    assert (report["owed"], report["site"], report["origin"]) == (0, "second", "main")


def test_by_hand_without_workers(tmp_path: Path) -> None:
    """What is owed is said before; and the way back is the same command."""
    shop = two_sites(tmp_path, copies="")
    shop.run("backup", "data", "--direct")
    assert "1 snapshot owed" in shop.run("replicate", "data", "--to", "second", "--dry-run")
    assert "nothing says to which site" in shop.run("replicate", "data", "--direct", code=2)
    assert "give one SOURCE, or --all" in shop.run("replicate", code=2)
    assert "from site main to main" in shop.run("replicate", "data", "--to", "main", "--direct", code=10)
    said = shop.run("replicate", "--all", "--to", "second", "--direct")
    assert "made repository data at second" in said
    assert "1 of 1 snapshot arrived" in said
    check(shop, 1)
    assert "nothing is owed" in shop.run("replicate", "data", "--to", "main", "--from", "second", "--direct")
