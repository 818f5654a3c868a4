"""The scheduler's worker follows the configuration: scheduler.__main__.Ticker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from scheduler.__main__ import Ticker
from shared.config.watch import FleetWatch
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until


@pytest.fixture
def small(tmp_path: object) -> Iterator[SmallFleet]:
    """A fleet of one source, with a Redis."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (_, server):
        yield SmallFleet(str(tmp_path), broker=server.url)


class Bell:
    """A ticker, and what it has rung for."""

    def __init__(self, small: SmallFleet) -> None:
        self.rung: list[str] = []
        self.ticker = Ticker(FleetWatch(small.path), lambda runs: self.rung.extend(run_id for run_id, _ in runs))

    def rings(self, ticks: int = 1) -> int:
        """For how many runs so many ticks ring."""
        before = len(self.rung)
        for _ in range(ticks):
            self.ticker.tick()
        return len(self.rung) - before


def test_a_new_source_is_due_at_the_second_tick_after_it_came(small: SmallFleet) -> None:
    """A bad file in between leaves the old one in force."""
    bell = Bell(small)
    assert bell.rings() == 1
    small.change("sources: {", f"sources: {{web2: {{paths: [{small.source_dir}]}}, ")
    assert [bell.rings(), bell.rings(), bell.rings()] == [0, 1, 0]
    small.change("sources: {", f"sources: {{web3: {{pahts: [{small.source_dir}]}}, ")
    assert bell.rings(4) == 0
    small.change("pahts", "paths")
    assert bell.rings(2) == 1


def test_a_new_source_of_the_inventory_is_due_once_it_is_named(small: SmallFleet, tmp_path: Path) -> None:
    """The scheduler asks beside its ticks; one that left is due no more, though it was never backed up."""
    answer = tmp_path / "answer"
    answer.write_text("sources: {i1: {paths: /srv}}")
    small.change("exporter:", f"inventory: {{command: [cat, {answer}], every: 1s}}\nexporter:")
    bell = Bell(small)
    assert bell.rings() == 2  # web1 and i1
    answer.write_text("sources: {i2: {paths: /srv}, i3: {paths: /srv}}")
    until(lambda: bell.rings() == 2)
    assert {name for name, one in bell.ticker._watch.fleet.sources.items() if one.left} == {"i1"}


def test_a_source_that_is_gone_is_due_no_more(small: SmallFleet) -> None:
    """Though it was never backed up."""
    bell = Bell(small)
    small.change("sources: {web1", "sources: {web2")
    assert bell.rings(2) == 2  # web1 by the first tick, web2 by the second
    assert bell.rings(2) == 0


def test_a_process_that_was_just_forked_reads_the_files_at_once(small: SmallFleet) -> None:
    """Its parent knows them as they were at its own start."""
    bell = Bell(small)
    small.change("sources: {", f"sources: {{web2: {{paths: [{small.source_dir}]}}, ")
    bell.ticker._process = 0  # another one's
    assert bell.rings() == 2


def test_another_redis_is_told_to_need_a_restart(small: SmallFleet) -> None:
    """The tick goes on with the one that rings for it."""
    bell = Bell(small)
    assert bell.rings() == 1
    small.change("regions: {local: {broker: ", "regions: {local: {broker: 'redis://127.0.0.1:1/0'}} #")
    with capture_logs() as logs:
        assert bell.rings(3) == 0
    warnings = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert warnings == ["the configuration names another Redis now; that counts once the scheduler is started again"]
