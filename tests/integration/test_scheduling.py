"""The tick with limits, and evidence that sites are asked for beside it: scheduler.tick, scheduler.evidence."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from scheduler.evidence import SiteEvidence, StillAsking
from scheduler.tick import Ticked, tick
from shared.config.opening import open_repository
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunState, slot_time
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until

NOON = slot_time("2026-03-04T12:00:00Z")


@pytest.fixture
def small(tmp_path: object) -> Iterator[tuple[SmallFleet, Ledger]]:
    """A fleet with three sources of host h and two of host k, besides web1."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        small = SmallFleet(str(tmp_path), broker=server.url)
        for name, host in (("h1", "h"), ("h2", "h"), ("h3", "h"), ("k1", "k"), ("k2", "k")):
            small.add_source(name, host=host)
        yield small, ledger


def one_tick(small: SmallFleet, ledger: Ledger) -> Ticked:
    """A tick at noon, of a fleet that has nothing."""
    return tick(small.fleet, ledger, lambda *_: None, lambda *_: None, NOON)


def opened(ticked: Ticked) -> list[str]:
    """The sources of which it opened a run."""
    return sorted(one.source for one in ticked.opened)


def test_a_host_gets_one_run_at_a_time(small: tuple[SmallFleet, Ledger]) -> None:
    """The others stay due, are named with the reason, and are opened as it ends."""
    fleet, ledger = small
    first = one_tick(fleet, ledger)
    assert opened(first) == ["h1", "k1", "web1"]
    full = {"h2": "host h has 1 of 1 runs", "h3": "host h has 1 of 1 runs", "k2": "host k has 1 of 1 runs"}
    assert first.held == full
    assert (opened(one_tick(fleet, ledger)), one_tick(fleet, ledger).held) == ([], full)
    run_id = next(one.id for one in first.opened if one.source == "h1")
    lease = ledger.realm("h").claim(run_id, "w:1").lease
    assert lease is not None
    ledger.realm("h").finish(lease, RunState.SUCCEEDED)
    ledger.realm("h").note_evidence("h1", "a", Evidence("2026-03-04T00:00:00Z", "2026-03-04T00:00:00Z"))
    assert opened(one_tick(fleet, ledger)) == ["h2"]


def test_one_that_failed_or_was_cancelled_leaves_its_place_to_others(small: tuple[SmallFleet, Ledger]) -> None:
    """It is the most urgent still, and would keep its host for itself until its next slot."""
    fleet, ledger = small
    first = {one.source: one.id for one in one_tick(fleet, ledger).opened}
    lease = ledger.realm("h").claim(first["h1"], "w:1").lease
    assert lease is not None
    ledger.realm("h").finish(lease, RunState.FAILED, error="no")
    ledger.realm("k").cancel(first["k1"], "anna")
    assert opened(one_tick(fleet, ledger)) == ["h2", "k2"]


def test_the_fleet_has_its_limit_and_hosts_that_are_away_do_not_count(small: tuple[SmallFleet, Ledger]) -> None:
    """What nobody has taken for a minute holds up no other host."""
    fleet, ledger = small
    fleet.change("sites: ", "scheduling: {runs: 1}\nsites: ")
    fleet.change("web1: {", "web1: {host: laptop, ")
    assert opened(one_tick(fleet, ledger)) == ["web1"]
    assert opened(one_tick(fleet, ledger)) == []
    (run,) = ledger.realm("laptop").open_runs()
    ledger.client.hset(ledger.realm("laptop").keys.run(run.id), "opened", 1)
    assert opened(one_tick(fleet, ledger)) == ["h1"]


def test_a_site_that_hangs_holds_up_nobody_else(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's sources are known, and those of the silent one are asked for once."""
    monkeypatch.setenv("B_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("B_SECRET_ACCESS_KEY", "y")
    small = SmallFleet(str(tmp_path), policy="full: 1d, primary: a")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"s3:http://127.0.0.1:{silent.getsockname()[1]}/bucket"
        small.change("sites: {", f"sites: {{b: {{url: '{url}', credentials: {{env: B}}}}, ")
        look = SiteEvidence(small.fleet)
        with pytest.raises(StillAsking):
            look("web1", "a")
        look.ask([("web1", "b"), ("web1", "a")], seconds=0.1)
        look.ask([("web1", "b"), ("web1", "a")], seconds=30)  # nothing new: it does not wait for what hangs
        until(lambda: answered(look, "a"))
        assert look("web1", "a") is None
        with pytest.raises(StillAsking):
            look("web1", "b")
        look.close()


def test_sources_that_share_a_repository_are_read_once(small: tuple[SmallFleet, Ledger]) -> None:
    """What one of them is asked for is known of all; a backup that is opened ends what is known."""
    fleet, _ = small
    for name in ("h1", "h2"):
        fleet.change(f"{name}: {{", f"{name}: {{repository: web1, ")
    look = SiteEvidence(fleet.fleet)
    look.ask([("web1", "a")])
    until(lambda: answered(look, "a"))
    assert [look(name, "a") for name in ("web1", "h1", "h2")] == [None, None, None]
    look.drop("h2")
    with pytest.raises(StillAsking):
        look("web1", "a")


def test_a_repository_that_cannot_be_read_is_no_source_without_backups(small: tuple[SmallFleet, Ledger]) -> None:
    """A full one would be made of each source of a site with a wrong password."""
    fleet, ledger = small
    os.makedirs(os.path.join(fleet.directory, "site/repos/web1/keys"))
    for place in ("config", "keys/" + "ab" * 32):
        with open(os.path.join(fleet.directory, "site/repos/web1", place), "w") as file:
            file.write("{}")
    look = SiteEvidence(fleet.fleet)
    ticked = tick(fleet.fleet, ledger, lambda *_: None, look, NOON, ask=lambda pairs: look.ask(pairs, seconds=30))
    assert opened(ticked) == ["h1", "k1"]
    assert list(ticked.unknown) == ["web1"]
    with pytest.raises(Exception, match="web1"):
        open_repository(fleet.fleet, "web1", "a")


def answered(look: SiteEvidence, site: str) -> bool:
    """Whether the site has said anything of web1."""
    try:
        look("web1", site)
    except StillAsking:
        return False
    return True
