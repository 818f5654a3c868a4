"""`holdfast restore-test` as a person runs it, in its own process and by a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Shop, await_first_backup, open_shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with a snapshot of twelve files."""
    shop = open_shop(tmp_path)
    shop.run("backup", "data", "--direct")
    return shop


def test_a_sample_by_itself(shop: Shop) -> None:
    """What was restored, how fast, how long all of it takes, and the verdict last; nothing is left."""
    said = shop.run("restore-test", "data", "--direct", "--files", "3").splitlines()
    assert said[0].startswith("restored 3 of 12 files, ")
    assert " of data at main as it was " in said[0]
    assert said[1].startswith("in 0.")
    assert "/s; at this rate all of it, " in said[1]
    assert said[2:] == ["compared: all of it is as it was backed up"]
    assert list(shop.conf.rglob("restore-test/*")) == []


def test_all_of_it(shop: Shop) -> None:
    """As JSON: each file, of the snapshot that was asked for."""
    first = shop.ask("snapshots", "data")["snapshots"][0]["id"]
    (shop.data / "more").write_text("more")
    shop.run("backup", "data", "--direct")
    found = shop.ask("restore-test", "data", "--direct", "--whole")
    assert (found["files"], found["files_total"], found["whole"], found["exit_code"]) == (13, 13, True, 0)
    found = shop.ask("restore-test", "data", "--direct", "--whole", "--snapshot", first[:8], "--site", "main")
    assert (found["files"], found["snapshot"], found["site"]) == (12, first, "main")


def test_damage_is_named(shop: Shop) -> None:
    """Exit code 24, each file with the reason, the pack, and what to do, last."""
    packs = [path for path in shop.conf.rglob("repos/data/data/*/*") if path.is_file()]
    for path in packs:
        path.chmod(0o600)
        raw = bytearray(path.read_bytes())
        raw[40] ^= 1
        path.write_bytes(raw)
    said = shop.run("restore-test", "data", "--direct", "--whole", code=24).splitlines()
    assert any(line.startswith("damaged pack ") and line.split()[2] in {one.name for one in packs} for line in said)
    assert said[-1].startswith("DAMAGED: ")
    assert said[-1].endswith("see `holdfast verify data --data`")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing", "--direct"], 10, 'there is no source "nothing"'),
        (["nothing"], 10, 'there is no source "nothing"'),
        (["data", "--files", "0"], 2, "0 is not in the range x>=1"),
        (["data", "--direct", "--site", "mars"], 10, "mars"),
        (["data", "--direct", "--snapshot", "0123"], 50, "there is no snapshot 0123 at"),
    ],
)
def test_what_is_wrong_is_told(shop: Shop, arguments: list[str], code: int, said: str) -> None:
    """Each says what."""
    assert said in shop.run("restore-test", *arguments, code=code)


def test_a_source_without_a_snapshot(tmp_path: Path) -> None:
    """There is nothing to be tested, and the way out is named."""
    shop = open_shop(tmp_path)
    shop.run("backup", "data", "--direct")
    path = shop.conf / "holdfast.yaml"
    other = "  other: {repository: data, paths: [/nowhere]}\n"
    path.write_text(path.read_text().replace("\nexporter:", f"{other}\nexporter:"))
    said = shop.run("restore-test", "other", "--direct", code=50)
    assert "there is no snapshot of source other to be tested at" in said
    assert "Back it up first: holdfast backup other" in said


def test_a_worker_tests(tmp_path: Path) -> None:
    """Rung for and followed; the run's result is the command's, and what is damaged ends it as incomplete."""
    shop = open_shop(tmp_path)
    shop.run("up", "--detach")
    try:
        await_first_backup(shop)
        found = shop.ask("restore-test", "data", "--files", "2")
        assert (found["files"], found["exit_code"]) == (2, 0)
        (run,) = [one for one in shop.ask("runs")["runs"] if one["kind"] == "restore-test"]
        assert (run["state"], run["queue"], run["result"]) == ("succeeded", "maintenance", found)
        assert "result   compared: all of it is as it was backed up" in shop.run("runs", "show", run["id"])
        for path in shop.conf.rglob("repos/data/data/*/*"):
            path.unlink()
        assert shop.ask("restore-test", "data", code=24)["damaged_packs"] != []
        newest = shop.ask("runs")["runs"][0]
        assert (newest["kind"], newest["state"]) == ("restore-test", "incomplete")
    finally:
        shop.run("down")
