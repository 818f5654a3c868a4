"""`holdfast rebuild`: a Redis that was emptied knows again what it knew, and no more than the sites bear out."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from scheduler.evidence import SiteEvidence
from scheduler.rebuild import rebuild
from scheduler.tick import tick
from shared.errors import Interrupted
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, slot_text
from shared.repository import keys
from shared.repository.repository import Repository
from shared.repository.status import STATUS, read_known
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger
from tests.support.many import store_snapshots

NOW = datetime.now(UTC)
SLOT, OLD = slot_text(NOW), slot_text(NOW - timedelta(hours=3))
HOSTS, POOLS = [f"h{number}" for number in range(6)], ["p0", "p1"]  # sources of hosts of their own, and of the pools


class Scene:
    """Two sites that are directories; each source has a snapshot of this hour at `a` and, older, one at `b`."""

    def __init__(self, base: Path, ledger: Ledger, broker: str) -> None:
        self.ledger, self.base = ledger, base
        policy = "primary: a, copies: {sites: [b]}, full: 30d, incremental: 1h"
        self.small = SmallFleet(str(base), broker=broker, policy=policy)
        self.small.change("sites: {a: {url: site}}", "sites: {a: {url: site}, b: {url: other}}")
        (base / "other").mkdir()
        with open(self.small.path) as file:
            head = file.read().partition("sources:")[0]
        with open(self.small.path, "w") as file:
            file.write(head + "sources:\n  never: {paths: [/srv]}\n")
            file.writelines(f"  {name}: {{host: {name}, paths: [/srv]}}\n" for name in HOSTS)
            file.writelines(f"  {name}: {{paths: [/srv]}}\n" for name in POOLS)
        self.fleet = self.small.fleet
        store_snapshots(self.fleet, dict.fromkeys([*HOSTS, *POOLS], SLOT), ("a",))
        store_snapshots(self.fleet, dict.fromkeys([*HOSTS, *POOLS], OLD), ("b",))

    def run(self, *arguments: str, code: int = 0) -> Any:
        """`holdfast rebuild` in this process; what it says as JSON, or the error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            got = main(["-c", self.small.path, "rebuild", "--json", *arguments])
        assert got == code, out.getvalue() + err.getvalue()
        return json.loads(out.getvalue() or err.getvalue())

    def known(self) -> dict[str, Mapping[str, str]]:
        """All evidence in the ledger."""
        names = self.ledger.client.scan_iter("*evidence:*")
        return {name: self.ledger.client.hgetall(name) for name in sorted(names)}

    def path(self, site: str, source: str) -> Path:
        """A repository."""
        return self.base / {"a": "site", "b": "other"}[site] / "repos" / source

    def open(self, site: str, source: str) -> Repository:
        """The same, by its key."""
        key = keys.derived_master_key(self.fleet.secret.read(), source)
        return Repository(self.fleet.open_site(site).below(f"repos/{source}"), key)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all of them."""
    base = tmp_path_factory.mktemp("rebuild")
    with own_ledger(str(base / "valkey")) as (ledger, server):
        yield Scene(base, ledger, server.url)


@pytest.fixture
def scene(made: Scene) -> Scene:
    """With an empty Redis, and no status at the sites."""
    made.ledger.client.flushall()
    for path in made.base.glob("*/repos/*/holdfast/status"):
        path.unlink()
    return made


def test_an_empty_redis_knows_again_what_it_knew(scene: Scene) -> None:
    """In the realm of each host what its primary has, in the pools' what copies are; and nothing more is due."""
    for name in HOSTS + POOLS:
        host = name if name in HOSTS else ""
        scene.ledger.realm(host).note_evidence(name, "a", Evidence(SLOT, SLOT))
        scene.ledger.note_evidence(name, "b", Evidence(OLD, OLD))
    before = scene.known()
    scene.ledger.client.flushall()
    said = scene.run()
    assert scene.known() == before
    assert [(one["site"], one["found"], one["snapshots"], one["sources"]) for one in said["sites"]] == [
        ("a", 8, 8, 8),
        ("b", 8, 8, 8),
    ]
    sites = SiteEvidence(scene.fleet)
    opened = tick(scene.fleet, scene.ledger, lambda _: None, sites, NOW, ask=sites.ask).opened
    sites.close()
    assert [run.source for run in opened if run.kind.is_backup] == ["never"]
    assert sorted(run.source for run in opened if not run.kind.is_backup and run.options.get("site") == "b") != []


def test_a_status_that_is_missing_is_written_and_the_next_one_reads_no_snapshot(scene: Scene) -> None:
    """Done twice, it is the same; what is behind is written anew."""
    assert [one["status_written"] for one in scene.run()["sites"]] == [8, 8]
    before = scene.known()
    store_snapshots(scene.fleet, {"h0": slot_text(NOW + timedelta(minutes=1))}, ("b",))
    again = scene.run()
    assert [(one["status_behind"], one["status_written"]) for one in again["sites"]] == [(0, 0), (1, 1)]
    known = read_known(scene.open("b", "h0"))
    assert known is not None
    assert (known.current, known.snapshots) == (True, 2)
    assert {name: one for name, one in scene.known().items() if "h0" not in name} == {
        name: one for name, one in before.items() if "h0" not in name
    }
    for path in (scene.path("b", "h0") / "snapshots").iterdir():
        if path.name in {one.id for one in known.facts if one.serves > SLOT}:
            path.unlink()


def test_it_never_replaces_what_is_newer(scene: Scene) -> None:
    """A backup was committed since the site was read."""
    newer = slot_text(NOW + timedelta(minutes=5))
    scene.ledger.realm("h1").note_evidence("h1", "a", Evidence(newer, ""))
    scene.run()
    assert scene.ledger.realm("h1").evidence("h1", "a") == Evidence(newer, SLOT)


def test_a_dry_run_writes_nothing(scene: Scene) -> None:
    """Neither to Redis, nor to a site."""
    said = scene.run("--dry-run")
    assert (said["dry_run"], [one["status_behind"] for one in said["sites"]]) == (True, [8, 8])
    assert scene.ledger.client.dbsize() == 0
    assert list(scene.base.glob("*/repos/*/holdfast/status")) == []


def test_what_can_not_be_read_is_told_and_the_rest_is_known(scene: Scene) -> None:
    """A site that is away, a snapshot that is damaged: exit code 3; the tick holds their sources until it knows."""
    (snapshot,) = (scene.path("a", "h2") / "snapshots").iterdir()
    kept = snapshot.read_bytes()
    snapshot.chmod(0o600)
    snapshot.write_bytes(b"damaged")
    (scene.base / "other").rename(scene.base / "away")
    try:
        first, second = scene.run(code=3)["sites"]
        sites = SiteEvidence(scene.fleet)
        ticked = tick(scene.fleet, scene.ledger, lambda _: None, sites, NOW, ask=sites.ask)
        sites.close()
    finally:
        snapshot.write_bytes(kept)
        (scene.base / "away").rename(scene.base / "other")
    assert (first["read"], [one["repository"] for one in first["failed"]]) == (8, ["h2"])
    assert "hash" in first["failed"][0]["error"]
    assert (second["read"], second["found"], second["failed"]) == (0, 0, [])
    assert "no such directory" in second["away"]
    assert sorted(scene.known()) == sorted(
        [*(f"hf:h:{name}:evidence:{name}" for name in HOSTS if name != "h2"), *(f"hf:evidence:{one}" for one in POOLS)]
    )
    assert (list(ticked.unknown), "h2" in {run.source for run in ticked.opened}) == (["h2"], False)


def test_one_site_is_enough(scene: Scene) -> None:
    """Where the other one is gone for good."""
    (one,) = scene.run("--site", "b")["sites"]
    assert (one["site"], one["sources"]) == ("b", 8)
    assert sorted(scene.known()) == sorted(f"hf:evidence:{name}" for name in HOSTS + POOLS)


def test_broken_off_it_leaves_what_is_true(scene: Scene) -> None:
    """What was noted by then is as it would be; of the rest the tick asks the sites, as always."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.ledger.refill.AT_ONCE", 1)

        def stop(event: Mapping[str, Any]) -> None:
            if event["repositories"] == 7:
                raise Interrupted("enough")

        with pytest.raises(Interrupted):
            rebuild(scene.fleet, scene.ledger, ["a", "b"], stop)
    part = scene.known()
    scene.run()
    whole = scene.known()
    assert 0 < len(part) < len(whole)
    assert all(whole[name].items() >= one.items() for name, one in part.items())


def test_where_no_status_can_be_written_the_ledger_is_filled_all_the_same(scene: Scene) -> None:
    """That is told, and is no failure."""
    blocked = scene.path("a", "h3") / "holdfast"
    shutil.rmtree(blocked, ignore_errors=True)
    blocked.write_bytes(b"")
    first, _ = scene.run()["sites"]
    blocked.unlink()
    assert (first["read"], first["status_behind"], first["status_written"]) == (9, 8, 7)
    assert [one["repository"] for one in first["unwritten"]] == ["h3"]
    assert scene.ledger.realm("h3").evidence("h3", "a") == Evidence(SLOT, SLOT)


def test_redis_and_the_names_of_sites_are_looked_at_first(scene: Scene) -> None:
    """Redis away: no site was read; a site that is none; one that keeps nothing."""
    assert "nosuch" in scene.run("--site", "nosuch", code=10)["error"]["message"]
    scene.small.change("b: {url: other}", "b: {url: other}, w: {url: w, witness: true}")
    assert "is a witness" in scene.run("--site", "w", code=2)["error"]["message"]
    scene.small.change(", w: {url: w, witness: true}", "")
    broker = scene.fleet.broker_url()
    scene.small.change(str(broker), "unix:///nowhere/valkey.sock")
    try:
        error = scene.run(code=61)["error"]
    finally:
        scene.small.change("unix:///nowhere/valkey.sock", str(broker))
    assert "With --dry-run nothing is asked of Redis" in error["hint"]
    assert list(scene.base.glob(f"*/repos/*/{STATUS}")) == []
