"""Durations, sizes, schedules, selectors, days: shared.config.values, selector, scheduling."""

from __future__ import annotations

import pytest
from pydantic_core import PydanticCustomError

from shared.config.scheduling import Days
from shared.config.selector import Selector
from shared.config.values import Schedule, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("15m", 900),
        ("1h30m", 5400),
        ("1d", 86400),
        ("2w", 1209600),
        ("1.5h", 5400),
        ("15", None),
        (15, None),
    ]
    + [(text, None) for text in ("", "m", "15 m", "1y", "-5m", None, True)],
)
def test_durations(text: object, seconds: float | None) -> None:
    """A number without a unit is no duration: nobody remembers which unit it would be."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("512 B", 512),
        ("64 MiB", 64 << 20),
        ("64M", 64 << 20),
        ("64MB", 64000000),
        ("1.5 GB", 1500000000),
        ("2kib", 2048),
        (-1, None),
        (True, None),
        ("many", None),
        ("1 PB", None),
        (None, None),
    ],
)
def test_sizes(text: object, count: int | None) -> None:
    """Binary units are powers of 1024, decimal ones of 1000, and a bare letter is binary as in restic."""
    assert parse_size(text) == count


def test_an_interval_and_a_cron_line_are_told_apart() -> None:
    """What has a unit is an interval; five or six fields are a cron line."""
    got = [(one.text, one.interval, one.is_cron) for one in map(Schedule.parse, ("15m", "0  2 * * *", "*/5 * * * * *"))]
    assert got == [("15m", 900.0, False), ("0 2 * * *", None, True), ("*/5 * * * * *", None, True)]


@pytest.mark.parametrize(
    "text", ["", "daily", "0.5s", "0s", "* * * *", "61 * * * *", "0 0 31 2 *", "1 2 3 4 5 6 7", 15]
)
def test_wrong_schedules_are_refused(text: object) -> None:
    """A schedule that never comes true is as wrong as one that can't be read."""
    with pytest.raises(PydanticCustomError, match="expected"):
        Schedule.parse(text)


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("*", {}, True),
        ("tier=1", {"tier": "1", "team": "web"}, True),
        ("tier=1, team=web", {"tier": "1", "team": "web"}, True),
        ("tier=1,team=db", {"tier": "1", "team": "web"}, False),
        ("tier=1", {}, False),
        ("tier != 1", {"tier": "2"}, True),
        ("tier!=1", {"tier": "1"}, False),
        ("tier!=1", {}, True),
        ("tier in (1, 2), team=web", {"tier": "2", "team": "web"}, True),
        ("tier in (1,2)", {"tier": "3"}, False),
        ("tier in (1)", {}, False),
        ("tier not in (1, 2)", {"tier": "2"}, False),
        ("tier not in (1, 2)", {}, True),
        ("exists tier", {"tier": "x"}, True),
        ("exists tier", {"team": "x"}, False),
        ("!tier, team=web", {"team": "web"}, True),
        ("! tier", {"tier": "x"}, False),
        ("in=1", {"in": "1"}, True),
    ],
)
def test_selectors_match_labels(text: str, labels: dict[str, str], matches: bool) -> None:
    """Every term must hold; a label that is not there is another one than any that is named."""
    assert Selector.parse(text).matches(labels) is matches


@pytest.mark.parametrize(
    ("text", "rank"), [("*", 0), ("a=1", 1), ("a=1, a=1", 1), ("a in (1), a=1", 1), ("a in (1, 2), !b, c!=3", 3)]
)
def test_a_selector_is_as_specific_as_it_has_different_terms(text: str, rank: int) -> None:
    """One that is written twice, or in two ways, counts once; how many values it lists does not count."""
    assert Selector.parse(text).rank == rank


@pytest.mark.parametrize("term", ["a=1", "a!=1", "a in (1, 2)", "a not in (1, 2)", "exists a", "!a"])
def test_a_term_is_shown_as_it_is_written(term: str) -> None:
    """So that a message can be searched for in the file."""
    assert [str(one) for one in Selector.parse(term).terms] == [term]


@pytest.mark.parametrize(
    "text",
    ["", "tier", "tier=", "=1", "a=1 b=2", "tier=1,", 5, "a in ()", "a in (1", "a in 1", "a in (1,)", "!", "a==1",
     "exists", "a not (1)", "a in (1) b=2", "!a=1", "a notin (1)"],
)  # fmt: skip
def test_wrong_selectors_are_refused(text: object) -> None:
    """An expression that could mean something else selects nothing and says so."""
    with pytest.raises(PydanticCustomError, match="labels to select by"):
        Selector.parse(text)


@pytest.mark.parametrize(
    ("text", "numbers"), [("mon-fri", {0, 1, 2, 3, 4}), ("Sat, sun", {5, 6}), ("fri-mon", {4, 5, 6, 0}), ("wed", {2})]
)
def test_days_of_the_week_are_read(text: str, numbers: set[int]) -> None:
    """Spans may go over the week's end."""
    assert Days.parse(text).numbers == numbers


@pytest.mark.parametrize("text", ["", "monday", "mon-", "mon-fri-sat", "mon fri", 1])
def test_wrong_days_are_refused(text: object) -> None:
    """What is no day is said to be none."""
    with pytest.raises(PydanticCustomError, match="days of the week"):
        Days.parse(text)
