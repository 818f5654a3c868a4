"""What retention keeps: the same as stock restic where all is complete, and what no incomplete snapshot may change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.repository.gojson import time_string
from shared.repository.snapshot import Snapshot, encode_snapshot
from shared.retention import LAST_GOOD, Point, Rules, decide
from tests.support.backups import Shop, run_restic

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
COUNTS = st.integers(0, 6)
RULES = st.builds(
    Rules, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from([0.0, 3600.0, 36000.0, 86400.0 * 3])
)
# Hours, days, months and years apart; some at the very edges of a period.
_GAPS = st.one_of(
    st.integers(1, 7200),
    st.integers(1, 30).map(lambda hours: hours * 3600),
    st.integers(600, 90000),
    st.integers(1, 700).map(lambda days: days * 86400),
)
_STARTS = st.sampled_from(
    [datetime(2026, 3, 29, 0, 30, tzinfo=UTC), datetime(2025, 10, 26, 3, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)]
)


@st.composite
def times(draw: st.DrawFn) -> list[int]:
    """Some times in seconds, newest first, none twice."""
    at = int(draw(_STARTS).timestamp())
    found = []
    for gap in draw(st.lists(_GAPS, min_size=1, max_size=25)):
        found.append(at)
        at -= gap
    return found


@st.composite
def points(draw: st.DrawFn) -> list[Point]:
    """Snapshots of which some are incomplete."""
    return [Point(f"{at:x}", at * 10**9, complete=draw(st.booleans())) for at in draw(times())]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A repository, whose snapshots each example puts anew."""
    shop = Shop(str(tmp_path_factory.mktemp("shop")))
    yield shop
    shutil.rmtree(shop.base)


def kept_by_restic(shop: Shop, seconds: list[int], rules: Rules, zone: str) -> set[str]:
    """The times of the snapshots that stock restic would keep; each was made in `zone`."""
    folder = os.path.join(shop.repository, "snapshots")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    repo = shop.open()
    for at in seconds:
        raw = encode_snapshot(Snapshot(time=at * 10**9, tree=bytes(32), paths=[b"/srv"], hostname="web1"))
        there = datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat()  # it goes by what stands there
        sealed = repo.seal_small(raw.replace(time_string(at * 10**9).encode(), there.encode()))
        repo.store.put(f"snapshots/{hashlib.sha256(sealed).hexdigest()}", sealed)
    options = [
        f"--keep-{name}={value}"
        for name in ("last", "hourly", "daily", "weekly", "monthly", "yearly")
        if (value := getattr(rules, name))
    ]
    options += [f"--keep-within={rules.within / 3600:.0f}h"] if rules.within else []
    said = run_restic(
        "0.18", shop.repository, "forget", "--dry-run", "--no-lock", "--group-by", "", *options, "--json", TZ="UTC"
    )
    return {one["time"] for group in json.loads(said) for one in group["keep"]}


@pytest.mark.parametrize("zone", ZONES)
def test_of_complete_snapshots_stock_restic_keeps_the_same(shop: Shop, zone: str) -> None:
    """For every set of rules, in the time zone in which the snapshots were made."""

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(times(), RULES.filter(lambda rules: not rules.keeps_nothing))
    def same(seconds: list[int], rules: Rules) -> None:
        here = ZoneInfo(zone)
        ours = decide([Point(str(at), at * 10**9) for at in seconds], rules, {}, NOW, here)
        kept = {
            datetime.fromtimestamp(int(one.id), UTC) for one in ours if one.kept and set(one.reasons) != {LAST_GOOD}
        }
        theirs = {datetime.fromisoformat(at).astimezone(UTC) for at in kept_by_restic(shop, seconds, rules, zone)}
        assert kept == theirs

    same()


@given(points(), RULES)
def test_an_incomplete_snapshot_pushes_no_complete_one_out(some: list[Point], rules: Rules) -> None:
    """Whatever rules keep of the complete ones alone is kept beside any number of incomplete ones."""
    complete = [point for point in some if point.complete]
    alone = {one.id for one in decide(complete, rules, {}, NOW, UTC) if one.kept}
    beside = {one.id for one in decide(some, rules, {}, NOW, UTC) if one.kept}
    assert alone <= beside


@given(points(), RULES, st.data())
def test_what_no_rule_may_forget_is_kept(some: list[Point], rules: Rules, data: st.DataObject) -> None:
    """The newest complete one, the newest of all, and whatever is held; each says so."""
    held = data.draw(st.sets(st.sampled_from([point.id for point in some])))
    found = {one.id: one.reasons for one in decide(some, rules, dict.fromkeys(held, "INC-77"), NOW, UTC)}
    newest = sorted(some, key=lambda point: point.time)
    good = [point for point in newest if point.complete][-1:]
    assert [LAST_GOOD in found[point.id] for point in good] == [True] * len(good)
    assert found[newest[-1].id] != ()
    assert {name for name, reasons in found.items() if "hold: INC-77" in reasons} == held


@given(points(), RULES)
def test_what_was_decided_is_decided_again(some: list[Point], rules: Rules) -> None:
    """With the forgotten ones gone nothing that was kept is forgotten: a forget that is done twice ends the same."""
    kept = {one.id for one in decide(some, rules, {}, NOW, UTC) if one.kept}
    again = decide([point for point in some if point.id in kept], rules, {}, NOW, UTC)
    assert {one.id for one in again if one.kept} == kept
