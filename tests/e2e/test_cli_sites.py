"""Two sites and a witness, by hand: one fails, the other takes its place, and the first one comes back."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shared import topology
from shared.config.fleet import Fleet
from shared.topology.notes import Note, Phase, note_of, with_note
from tests.support.command import Shop
from tests.support.ledgers import until
from tests.support.sites import open_sites
from tests.support.stores import make_bucket
from tests.support.tools import MinioServer


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Three directories; the sites have voted, and a has a backup."""
    shop = open_sites(tmp_path, "a: {url: a}, b: {url: b}, w: {url: w, witness: true}")
    for name in "abw":
        (shop.conf / name).mkdir()
    shop.run("backup", "data", "--direct")
    shop.run("sites", "settle")
    return shop


def away(shop: Shop, site: str) -> None:
    """The disk of a site is gone."""
    (shop.conf / site).rename(shop.conf / f"{site}.away")


def back(shop: Shop, site: str) -> None:
    """It is there again."""
    (shop.conf / f"{site}.away").rename(shop.conf / site)


def next_second() -> None:
    """Slots are told apart by the second."""
    now = int(time.time())
    until(lambda: int(time.time()) > now)


def copy(shop: Shop, site: str, to: str) -> None:
    """What replication would bring; the disks' own copy stands for it."""
    shutil.copytree(shop.conf / site / "repos", shop.conf / to / "repos", dirs_exist_ok=True)


def member(report: dict[str, Any], site: str) -> dict[str, Any]:
    """A site's row."""
    (found,) = [one for one in report["members"] if one["site"] == site]
    return found


def restored(shop: Shop, where: str) -> str:
    """The file, as it is restored from the primary."""
    shop.run("restore", "data", "--direct", "--to", where)
    (found,) = (shop.conf / where).rglob("file")
    return found.read_text()


def test_a_site_fails_another_takes_its_place_and_it_comes_back(shop: Shop) -> None:
    """The whole way: nothing is deleted meanwhile, and nothing that is lacking is passed over without a word."""
    copy(shop, "a", "b")
    (shop.data / "file").write_text("only at a\n")
    shop.run("backup", "data", "--direct")
    assert "site a answers, so nothing need be lost" in shop.run("failover", "--to", "b", "--yes", code=74)
    away(shop, "a")

    plan = shop.ask("failover", "--to", "b", "--dry-run")
    assert (plan["done"], plan["epoch"], plan["sources"], plan["undo"]) == (False, 1, ["data"], "holdfast failback a")
    assert [one["source"] for one in plan["lost"]] == ["data"]
    assert "what only a has is not known" in plan["notes"][0]
    assert "b lacks snapshots of 1 source: data" in shop.run("failover", "--to", "b", "--yes", code=76)
    assert "there is no terminal to ask on" in shop.run("failover", "--to", "b", "--accept-loss", code=2)
    assert shop.ask("sites", "history")["changes"] == []

    moved = shop.ask("failover", "--to", "b", "--accept-loss", "--yes", "--why", "a flood")
    assert (moved["done"], moved["epoch"], moved["to"], moved["missed"]) == (True, 1, "b", ["a"])
    (change,) = shop.ask("sites", "history")["changes"]
    assert (change["what"], change["why"], change["claimant"]) == ("failover a to b", "a flood", moved["claimant"])
    assert change["behind"].startswith("data: what the other has is not known, here 2")

    (shop.data / "file").write_text("at b\n")
    next_second()
    assert shop.ask("backup", "data", "--direct")["site"] == "b"
    assert restored(shop, "out") == "at b\n"
    for command in ("forget", "prune"):
        said = shop.run(command, "data", "--direct", code=73)
        assert "nothing is deleted while not every member agrees" in said
    report = shop.ask("sites", code=3)
    assert (member(report, "a")["standing"], member(report, "a")["replaced_by"]) == ("silent", "b")
    assert (member(report, "b")["primary_of"], member(report, "b")["stands_in_for"]) == (1, ["a"])
    assert member(report, "w")["witness"]

    back(shop, "a")
    assert member(shop.ask("sites", code=3), "a")["standing"] == "behind"
    assert "a does not know yet what was decided (behind)" in shop.run("failback", "a", "--yes", code=74)
    shop.run("sites", "settle")
    report = shop.ask("sites")
    assert [one["standing"] for one in report["members"]] == ["agrees"] * 3
    assert [one["source"] for one in member(report, "b")["lost"]] == ["data"]
    assert "a lacks snapshots of 1 source: data" in shop.run("failback", "a", "--yes", code=76)
    assert shop.ask("forget", "data", "--direct")["forgotten"] == 1
    given = shop.ask("failback", "a", "--accept-loss", "--yes")
    assert (given["epoch"], given["to"], len(given["lost"])) == (2, "a", 1)
    assert shop.ask("backup", "data", "--direct")["site"] == "a"
    shop.run("verify", "data", "--direct")
    shop.run("verify", "data", "--direct", "--site", "b")


def test_nothing_is_forgotten_under_an_old_epoch(shop: Shop) -> None:
    """A machine that has not heard of the move goes by the old one, is told so, and knows it from then on."""
    remembered = shop.conf / ".holdfast" / "state" / "topology.json"
    old = remembered.read_bytes()
    copy(shop, "a", "b")
    shop.run("switchover", "--to", "b", "--yes")
    for _ in range(2):
        (shop.data / "file").write_text(os.urandom(8).hex())
        shop.run("backup", "data", "--direct")
    for command in (("forget", "data"), ("prune", "data")):
        remembered.write_bytes(old)
        said = shop.run(*command, "--direct", "--site", "b", code=70)
        assert "nothing more is deleted: the epoch was 0, and is 1 now" in said
    assert len(shop.ask("snapshots", "data")["snapshots"]) == 3
    assert shop.ask("forget", "data", "--direct")["forgotten"] == 2


def test_a_switchover_loses_nothing(shop: Shop) -> None:
    """It is refused until the other site has all; while one waits for that it may still come."""
    said = shop.run("switchover", "--to", "b", "--yes", code=76)
    assert "b lacks snapshots of 1 source: data: the newest is from" in said
    waiting = shop.start("switchover", "--to", "b", "--yes", "--wait", "100")
    assert waiting.stdout is not None
    assert "waiting" in waiting.stdout.readline()
    copy(shop, "a", "b")
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, out + err
    assert "1 source backed up to b" in out
    assert "undo: holdfast failback a" in out
    assert "site b stands in for a already" in shop.run("switchover", "--site", "a", "--to", "b", "--yes", code=74)
    away(shop, "b")
    assert "b does not answer" in shop.run("switchover", "--site", "b", "--to", "a", "--yes", code=30)


def test_members_come_and_go(shop: Shop) -> None:
    """A planned removal needs all, and a site that is primary stays; one that is lost goes by a majority."""
    path = shop.conf / "holdfast.yaml"
    path.write_text(path.read_text().replace("sites: {", "sites: {c: {url: c}, "))
    (shop.conf / "c").mkdir()
    assert shop.ask("sites")["outside"] == ["c"]
    assert "the configuration says that c keeps copies" in shop.run("sites", "add", "c", "--witness", code=2)
    assert shop.ask("sites", "add", "c", "--dry-run")["done"] is False
    assert shop.ask("sites", "add", "c", "--yes")["members"] == ["a", "b", "c", "w"]
    assert "a is the primary of sources" in shop.run("sites", "remove", "a", "--yes", code=74)
    assert shop.ask("sites", "remove", "c", "--yes", "--why", "a test")["members"] == ["a", "b", "w"]
    away(shop, "a")
    assert "not every member agrees" in shop.run("sites", "remove", "b", "--yes", code=73)
    assert "a is the primary of sources" in shop.run("sites", "remove", "--lost", "a", "--yes", code=74)
    shop.run("failover", "--to", "b", "--accept-loss", "--yes")
    shop.run("backup", "data", "--direct")
    shop.run("backup", "data", "--direct")
    shop.run("forget", "data", "--direct", code=73)
    assert shop.ask("sites", "remove", "--lost", "a", "--yes")["members"] == ["b", "w"]
    shop.run("forget", "data", "--direct")
    (shop.conf / "a").mkdir()  # a new disk, with nothing on it
    assert shop.ask("sites", "add", "a", "--yes")["members"] == ["a", "b", "w"]
    report = shop.ask("sites")
    assert (member(report, "a")["standing"], member(report, "a")["replaced_by"]) == ("agrees", "b")


def test_two_sites_without_a_witness_need_a_word(tmp_path: Path) -> None:
    """On the command line or in the configuration; both then hold, also for a machine that only looks."""
    shop = open_sites(tmp_path, "a: {url: a}, b: {url: b}", ", rpo: 7d")
    for name in "ab":
        (shop.conf / name).mkdir()
    shop.run("backup", "data", "--direct")
    shop.run("sites", "settle")
    copy(shop, "a", "b")
    away(shop, "a")
    said = shop.run("failover", "--to", "b", "--yes", code=72)
    assert "no majority of the members answers (a, b)" in said
    # b is no older than the RPO: no more is lost than was agreed on.
    assert shop.ask("failover", "--to", "b", "--yes", "--without-majority")["epoch"] == 1
    (shop.conf / ".holdfast" / "state" / "topology.json").unlink()
    report = shop.ask("sites", code=3)
    assert (report["epoch"], report["settled"]) == (1, True)
    assert shop.ask("backup", "data", "--direct")["site"] == "b"
    back(shop, "a")
    shop.run("sites", "settle")
    shop.run("failback", "a", "--accept-loss", "--yes")
    path = shop.conf / "holdfast.yaml"
    path.write_text(f"promote_without_majority: true\n{path.read_text()}")
    away(shop, "a")
    assert shop.ask("failover", "--to", "b", "--yes")["epoch"] == 3


@pytest.fixture
def minio(tmp_path: Path) -> Iterator[MinioServer]:
    """Site a's."""
    with MinioServer(str(tmp_path / "minio")) as server:
        yield server


def test_a_minio_that_is_killed_is_done_without(tmp_path: Path, minio: MinioServer) -> None:
    """Site a is a bucket, and its server dies by SIGKILL; started again it is told, and given back its place."""
    bucket = make_bucket(minio)
    (tmp_path / "shop").mkdir()
    first = f"a: {{url: 's3:{minio.url}/{bucket}', credentials: {{file: keys}}}}"
    sites = f"{first}, b: {{url: b}}, w: {{url: w, witness: true}}"
    shop = open_sites(tmp_path / "shop", sites)
    (shop.conf / "keys").write_text(f"access_key = {minio.access_key}\nsecret_key = {minio.secret_key}\n")
    (shop.conf / "keys").chmod(0o600)
    for name in "bw":
        (shop.conf / name).mkdir()
    shop.run("backup", "data", "--direct")
    shop.run("sites", "settle")
    minio.kill()
    moved = shop.ask("failover", "--to", "b", "--accept-loss", "--yes")
    assert (moved["epoch"], moved["missed"]) == (1, ["a"])
    assert shop.ask("backup", "data", "--direct")["site"] == "b"
    assert restored(shop, "out") == "first\n"
    shop.run("backup", "data", "--direct")
    shop.run("forget", "data", "--direct", code=73)
    minio.start()
    assert shop.ask("sites", "settle")["epoch"] == 1
    shop.run("forget", "data", "--direct")
    shop.run("failback", "a", "--yes", code=76)
    shop.run("failback", "a", "--accept-loss", "--yes")
    assert restored(shop, "again") == "first\n"


def test_people_tell_the_failovers_machine(shop: Shop) -> None:
    """To pause, that a site is worked on, that they say yes; a wrong word is told, and changes nothing."""
    paused = shop.ask("sites", "pause", "--why", "moving racks")
    assert paused["paused_by"].endswith(": moving racks")
    assert "failover by itself is paused by" in shop.run("sites")
    assert shop.ask("sites", "resume")["paused_by"] is None

    assert "give --for TIME, or --end" in shop.run("sites", "maintenance", "a", code=2)
    assert '"soon" is no length of time' in shop.run("sites", "maintenance", "a", "--for", "soon", code=2)
    assert "site x is no member" in shop.run("sites", "maintenance", "x", "--for", "2h", code=74)
    assert "site a: in maintenance until" in shop.run("sites", "maintenance", "a", "--for", "2h")
    assert shop.run("sites", "maintenance", "a", "--end").startswith("nothing is noted")

    assert "nothing waits for a yes" in shop.run("sites", "accept", "--yes", code=74)
    note = Note(Phase.PROPOSED, "b", "dc2/1", 1_800_000_000.0, "site a is down", turn=9)
    with closing(topology.register(Fleet.load(str(shop.conf / "holdfast.yaml")))) as register:
        register.change(lambda state: with_note(state, "a", note_of(state, "a"), note))
    assert "site a: proposed to b" in shop.run("sites")
    assert "there is no terminal to ask on" in shop.run("sites", "accept", code=2)
    assert shop.run("sites", "accept", "--dry-run").endswith("nothing was changed\n")
    assert [one["accepted"] for one in shop.ask("sites", "accept", "--dry-run")["notes"]] == [False, False, False]
    accepted = shop.ask("sites", "accept", "a", "--yes")
    assert [one["accepted"] for one in accepted["notes"]] == [True, False, False]
    assert shop.ask("sites", "acknowledge")["acknowledged"] == shop.ask("sites")["epoch"]
