"""A source is renamed, or moves to another host: its history stays, and no full backup is made for it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.status.facts import gather
from cli.status.judge import Condition, judge
from scheduler.__main__ import Ticker
from scheduler.sites import Claim, SiteLooks
from shared.config.renaming import rename
from shared.config.watch import FleetWatch
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunKind, RunState
from shared.topology.lag import lacks, read_site
from tests.support.browsing import call
from tests.support.fleets import SmallFleet
from tests.support.ledgers import a_run, own_ledger, until
from tests.support.tools import ValkeyServer

TODAY = f"{datetime.now(UTC):%Y-%m-%d}T00:00:00Z"
NOW = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}Z"


class Scene:
    """A fleet of one source with a ledger, and its commands."""

    def __init__(self, base: Path, ledger: Ledger, server: ValkeyServer) -> None:
        self.ledger, self.server = ledger, server
        self.small = SmallFleet(str(base / "fleet"), broker=server.url, policy="full: 30d, incremental: 1d, rpo: 2d")
        Path(self.small.source_dir, "file").write_text("the same\n")

    def run(self, *arguments: str, code: int = 0) -> str:
        """A command's stdout."""
        got, out, err = call(*arguments, "-c", self.small.path)
        assert got == code, err
        return out.decode() + err

    def ask(self, *arguments: str) -> dict[str, object]:
        """What it says for programs."""
        got, out, err = call(*arguments, "-c", self.small.path, "--json")
        assert got == 0, err
        answer: dict[str, object] = json.loads(out)
        return answer

    def back_up(self, name: str) -> dict[str, object]:
        """A backup of what is the newest kind."""
        return self.ask("backup", name, "--direct")

    def snapshots(self, name: str) -> list[str]:
        """Their ids, by the command."""
        return [one["id"] for one in self.ask("snapshots", name)["snapshots"]]  # type: ignore[attr-defined]

    def rings(self) -> int:
        """For how many runs a scheduler that has just started rings until the sites have answered it."""
        rung: list[str] = []
        ticker = Ticker(FleetWatch(self.small.path), lambda runs: rung.extend(run_id for run_id, _ in runs))
        name = next(iter(self.small.fleet.sources))
        realm = self.ledger.realm(self.small.fleet.source(name).host or "")

        def known() -> bool:
            ticker.tick()
            return realm.evidence(name, "a") is not None

        until(known)
        ticker.tick()
        return len(rung)

    def condition(self) -> Condition:
        """How `status` finds the source."""
        return judge(*gather(self.small.fleet)).findings[0].condition


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """All of it."""
    with own_ledger(os.path.join(tmp_path, "valkey")) as (ledger, server):
        yield Scene(tmp_path, ledger, server)


def ended(scene: Scene, source: str, snapshot: object) -> str:
    """A backup of the schedule that the ledger knows of; its id."""
    request = replace(a_run(source, RunKind.FULL), slot=TODAY)
    scene.ledger.open(request)
    lease = scene.ledger.claim(request.id, "worker").lease
    assert lease is not None
    scene.ledger.finish(lease, RunState.SUCCEEDED, result={"site": "a", "snapshot": snapshot, "bytes_stored": 7})
    scene.ledger.note_evidence(source, "a", Evidence(NOW, NOW))
    scene.ledger.note_upkeep(source, "a", RunKind.VERIFY, TODAY)
    return request.id


def test_a_renamed_source_goes_on(scene: Scene) -> None:
    """The next backup is an incremental that finds its parent; every command shows the old snapshots and runs."""
    first = scene.back_up("web1")["snapshot"]
    run = ended(scene, "web1", first)
    before = scene.condition()
    said = scene.run("sources", "rename", "web1", "shop/web")
    assert said.splitlines()[-2:] == ["renamed: web1 is shop/web now", "undo: holdfast sources rename shop/web web1"]
    assert list(scene.small.fleet.sources) == ["shop/web"]
    assert scene.condition() is before
    assert [one.id for one in scene.ledger.history("shop/web")] == [run]
    assert [one.id for one in scene.ledger.history("web1")] == []
    assert scene.rings() == 0
    second = scene.back_up("shop/web")
    assert (second["kind"], second["parent"], second["files_unmodified"]) == ("incremental", first, 2)
    assert scene.snapshots("shop/web") == [first, second["snapshot"]]
    changes = scene.ask("history", f"shop/web:{scene.small.source_dir}/file")
    assert str(first)[:8] in json.dumps(changes)
    assert scene.ask("runs", "list", "--source", "shop/web")["runs"][0]["id"] == run  # type: ignore[index]
    scene.run("restore", "shop/web", "--direct", "--to", os.path.join(scene.small.directory, "out"))
    scene.run("restore-test", "shop/web", "--direct")
    scene.run("hold", "add", "shop/web", "latest", "--reason", "x")
    assert "latest" not in scene.run("hold", "list", "shop/web")
    assert os.listdir(os.path.join(scene.small.directory, "site/repos")) == ["web1"]


def test_retention_sees_one_history(scene: Scene) -> None:
    """What was made under the old name is forgotten by the rules of now."""
    first = scene.back_up("web1")["snapshot"]
    scene.run("sources", "rename", "web1", "shop")
    second = scene.back_up("shop")["snapshot"]
    scene.small.change("rpo: 2d", "rpo: 2d, retention: {keep_last: 1}")
    done = scene.ask("forget", "shop", "--direct")
    assert (done["snapshots"], done["source"], scene.snapshots("shop")) == ([first], "shop", [second])


def test_copies_go_on_at_other_sites(scene: Scene) -> None:
    """What was made under the old name is owed to them, and counted there; by whoever asks what a site lacks, too."""
    scene.small.change("sites: {a: {url: site}}", "sites: {a: {url: site}, b: {url: other}}")
    scene.small.change("all: {", "all: {primary: a, ")
    first = scene.back_up("web1")["snapshot"]
    scene.run("sources", "rename", "web1", "shop")
    os.mkdir(os.path.join(scene.small.directory, "other"))
    done = scene.ask("replicate", "shop", "--to", "b", "--direct")
    (copied,) = done["replications"]  # type: ignore[misc]
    assert (copied["source"], copied["snapshots"], copied["good"]) == ("shop", 1, first)
    fleet = scene.small.fleet
    assert [point.id for point in read_site(fleet, "b", ["shop"])["shop"]] == [first]
    assert lacks(read_site(fleet, "a", ["shop"]), read_site(fleet, "b", ["shop"])) == []


def test_a_wiped_ledger_learns_of_it_from_the_site(scene: Scene) -> None:
    """So nothing is backed up again for a new name, whatever Redis has lost; and what is claimed is found there."""
    snapshot = scene.back_up("web1")["snapshot"]
    scene.run("sources", "rename", "web1", "shop")
    scene.ledger.client.flushall()
    assert scene.rings() == 0
    looks = SiteLooks(FleetWatch(scene.small.path), lambda _: [Claim("shop", 1.0, str(snapshot))])
    try:
        looks.follow()
        assert until(looks.verdicts)["shop", "a"].holds
    finally:
        looks.stop()


def test_while_a_run_is_under_way_nothing_changes(scene: Scene) -> None:
    """Its worker would not find the source again."""
    request = a_run("web1")
    scene.ledger.open(request)
    said = scene.run("sources", "rename", "web1", "shop", code=10)
    assert f"a run of web1 is queued or under way ({request.id[:12]})" in said
    assert list(scene.small.fleet.sources) == ["web1"]


def test_broken_off_in_between_it_is_finished_by_the_next(scene: Scene) -> None:
    """The file has the new name, and Redis the old one: again it moves what is known."""
    run = ended(scene, "web1", "aa")
    rename(scene.small.path, "web1", "shop").make()
    assert scene.run("sources", "rename", "web1", "shop").splitlines()[0] == "renamed: web1 is shop now"
    assert [one.id for one in scene.ledger.history("shop")] == [run]
    assert scene.ledger.evidence("shop", "a") == Evidence(NOW, NOW)


def test_without_redis_the_file_alone_is_changed(scene: Scene) -> None:
    """It says so, and that it may be done again."""
    scene.server.stop()
    said = scene.run("sources", "rename", "web1", "shop", code=3)
    assert "Redis is away, so what it knows stays under web1 until this is done again" in said
    assert list(scene.small.fleet.sources) == ["shop"]


def test_what_is_known_under_the_new_name_stays(scene: Scene) -> None:
    """A scheduler may have learned more meanwhile; moved twice is moved once."""
    ended(scene, "web1", "aa")
    later = "2099-01-01T00:00:00Z"
    scene.ledger.note_evidence("shop", "a", Evidence(later, later))
    assert [scene.ledger.rename("web1", "shop") for _ in range(2)] == ["", ""]
    assert scene.ledger.evidence("shop", "a") == Evidence(later, later)
    assert scene.ledger.evidence("web1", "a") is None
    assert len(scene.ledger.history("shop")) == 1
    assert scene.ledger.client.hget(scene.ledger.keys.counts, "uploaded|shop") == "7"


def test_a_dry_run_shows_the_change(scene: Scene) -> None:
    """As a difference of the file, and makes none."""
    said = scene.run("sources", "rename", "web1", "shop", "--dry-run")
    assert "+sources: {shop: {formerly: web1, paths:" in said
    assert list(scene.small.fleet.sources) == ["web1"]


def test_a_source_that_moves_to_another_host_keeps_its_history(scene: Scene) -> None:
    """Another `host:` is all: no full becomes due there, and the next backup finds its parent."""
    scene.small.change("web1: {", "web1: {host: localhost, ")
    first = scene.back_up("web1")["snapshot"]
    scene.ledger.realm("localhost").note_evidence("web1", "a", Evidence(NOW, NOW))
    scene.small.change("host: localhost", f"host: {socket.gethostname().lower()}")
    assert scene.rings() == 0
    second = scene.back_up("web1")
    assert (second["kind"], second["parent"]) == ("incremental", first)
    assert scene.snapshots("web1") == [first, second["snapshot"]]
    assert scene.condition() is not Condition.NEVER
