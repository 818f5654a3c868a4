"""What the exporter asks the sites: whether they answer, and whether they have what the ledger claims."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.sites import EVERY, SLACK, Claim, SiteLooks, Verdict, _Look, holds, to_ask
from shared.config.fleet import Fleet
from shared.config.opening import open_repository
from shared.config.watch import FleetWatch
from shared.repository.snapshot import Snapshot
from tests.support.command import Shop, open_shop
from tests.support.histories import add_day
from tests.support.ledgers import until

BEGAN = 1_772_625_600  # seconds


def snapshot(**more: object) -> Snapshot:
    """A complete one of web1, begun at BEGAN."""
    fields: dict[str, object] = {"time": BEGAN * 10**9, "tree": bytes(32), "paths": [b"/srv"], "id": "aa", **more}
    tags = fields.pop("tags", ["hf.source=web1"])
    return Snapshot(**fields, tags=tags)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Claim("web1", BEGAN, "aa"), True),
        (Claim("web1", BEGAN), True),  # the ledger was wiped: a slot, and no id
        (Claim("web1", BEGAN + SLACK, "aa"), True),  # the server's clock is slow
        (Claim("web1", BEGAN + SLACK + 1, "aa"), False),  # an old snapshot, shown again as a new one
        (Claim("web1", BEGAN, "bb"), False),
        (Claim("web2", BEGAN, "aa"), False),
    ],
)
def test_a_claim_holds_where_a_snapshot_bears_it_out(claim: Claim, *, expected: bool) -> None:
    """The source, the id and the time must fit."""
    assert holds(claim, [snapshot()]) is expected


def test_an_incomplete_snapshot_bears_out_nothing() -> None:
    """It does not count for the RPO, whatever the agent calls it."""
    assert holds(Claim("web1", BEGAN, "aa"), [snapshot(tags=["hf.source=web1", "hf.unreadable=3"])]) is False


def test_claims_are_asked_in_turn() -> None:
    """Those never asked first, then what is a day old, and at once what was disproved and is another now."""
    claims = [Claim(name, BEGAN) for name in ("fresh", "old", "new", "wrong", "mended")]
    now = 10 * EVERY
    known = {
        "fresh": Verdict(claims[0], holds=True, at=now - 1),
        "old": Verdict(claims[1], holds=True, at=now - EVERY),
        "wrong": Verdict(claims[3], holds=False, at=now - 1),
        "mended": Verdict(Claim("mended", BEGAN - 99), holds=False, at=now - 1),
    }
    assert [claim.source for claim in to_ask(claims, known, now)] == ["new", "old", "mended"]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A configured shop with one backup."""
    shop = open_shop(tmp_path)
    shop.run("backup", "data", "--direct")
    return shop


def settled(look: Callable[[], object], expected: object) -> None:
    """Wait until what is looked at is as expected."""
    until(lambda: look() == expected, what=str(expected))


def test_false_claims_are_found_and_mended_ones_clear(shop: Shop) -> None:
    """A snapshot that is there holds; one that was never stored is disproved, until the claim is a true one."""
    fleet = Fleet.load(str(shop.conf / "holdfast.yaml"))
    (site,) = fleet.sites
    (true,) = (one["id"] for one in shop.ask("snapshots", "data")["snapshots"])
    claims = [Claim("data", time.time() - 60, "ff" * 32)]
    looks = SiteLooks(FleetWatch(fleet.path), lambda _: list(claims), pause=0.05)
    looks.follow()
    try:
        settled(looks.up, {site: True})
        settled(lambda: {place: one.holds for place, one in looks.verdicts().items()}, {("data", site): False})
        claims[0] = Claim("data", time.time() - 60, true)
        settled(lambda: {place: one.holds for place, one in looks.verdicts().items()}, {("data", site): True})
    finally:
        looks.stop()


def test_a_site_that_is_out_is_down_and_disproves_nothing(shop: Shop) -> None:
    """A disk that is not mounted says nothing of what is on it; back again, it is up."""
    fleet = Fleet.load(str(shop.conf / "holdfast.yaml"))
    ((name, site),) = fleet.sites.items()
    look = _Look(name, 60)
    assert look.ask(fleet) is True
    os.rename(site.url, f"{site.url}-away")
    assert (look.ask(fleet), look.answers()) == (False, False)
    look.check(fleet, Claim("data", 0))
    assert look.known == {}
    os.rename(f"{site.url}-away", site.url)
    assert (look.ask(fleet), look.answers()) == (True, True)


def test_who_lacks_the_secret_says_nothing(shop: Shop) -> None:
    """That an exporter may not ask says nothing of a site, and nothing of a claim."""
    path = shop.conf / "holdfast.yaml"
    ((name, _),) = Fleet.load(str(path)).sites.items()
    path.write_text(
        re.sub(r"url: .*", "url: s3:http://127.0.0.1:9/b\n    credentials: {file: none}", path.read_text(), count=1)
    )
    look = _Look(name, 60)
    assert (look.ask(Fleet.load(str(path))), look.answers()) == (False, None)
    (shop.conf / "fleet.secret").unlink()
    look.check(Fleet.load(str(path)), Claim("data", 0))
    assert look.known == {}


def test_a_repository_that_is_gone_disproves(shop: Shop) -> None:
    """The site answers, and there is none: whatever was claimed of it is not there."""
    fleet = Fleet.load(str(shop.conf / "holdfast.yaml"))
    ((name, site),) = fleet.sites.items()
    os.rename(os.path.join(site.url, "repos", "data"), os.path.join(site.url, "elsewhere"))
    look = _Look(name, 60)
    look.check(fleet, Claim("data", 0))
    assert look.known["data"].holds is False


def test_a_look_that_takes_long_is_no_answer(shop: Shop) -> None:
    """A site that hangs is down before the question comes to its end."""
    look = _Look("a", patience=0)
    assert look.answers() is None
    look._since = time.monotonic() - 1
    assert look.answers() is False


def test_a_damaged_snapshot_hides_no_other(shop: Shop) -> None:
    """One that can't be read bears out nothing; the whole one beside it does."""
    fleet = Fleet.load(str(shop.conf / "holdfast.yaml"))
    ((name, _),) = fleet.sites.items()
    repo = open_repository(fleet, "data", name).repository
    (like,) = repo.snapshots()
    older = add_day(repo, like, 4, source="data")
    path = os.path.join(fleet.site(name).url, "repos", "data", "snapshots", older)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.write(b"damage")
    look = _Look(name, 60)
    look.check(fleet, Claim("data", 0, older))
    assert look.known["data"].holds is False
    look.check(fleet, Claim("data", 0, like.id))
    assert look.known["data"].holds is True


def test_who_may_not_ask_does_not(shop: Shop) -> None:
    """`ask_sites: false`: no site is asked, and nothing is said of any."""
    path = shop.conf / "holdfast.yaml"
    path.write_text(path.read_text().replace("exporter: {", "exporter: {ask_sites: false, "))
    looks = SiteLooks(FleetWatch(str(path)), lambda _: [Claim("data", 0)], pause=0.05)
    looks.follow()
    assert (looks.up(), looks.verdicts(), looks._looks) == ({}, {}, {})
