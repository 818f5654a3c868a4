"""Figures and times as people read them: cli.format and cli.when."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from cli import format as show
from cli.when import parse_when
from shared.errors import UsageError

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 29, 10, 0, tzinfo=UTC)  # noon in Berlin, on the day that summer time begins


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (9949, "9.9 KB"),
        (9950, "10 KB"),
        (999499, "999 KB"),
        (999500, "1.0 MB"),
        (92000000, "92 MB"),
        (1200000000, "1.2 GB"),
        (5 * 10**21, "5000 EB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """Two figures that count, in powers of 1000."""
    assert show.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (2.14, "2.1 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m 00s"),
        (307, "5m 07s"),
        (18720, "5h 12m"),
        (273600, "3d 4h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """As exact as a person needs."""
    assert show.duration(seconds) == text


def test_counts_and_rates() -> None:
    """Thousands are grouped, one is singular."""
    got = [show.count(1, "file"), show.count(1204, "file"), show.count(2, "copy", "copies")]
    assert [*got, show.rate(208e6, 2), show.rate(1, 0)] == ["1 file", "1,204 files", "2 copies", "104 MB/s", "-"]


def test_moments_are_local_and_utc() -> None:
    """Both, as logs and colleagues are elsewhere; the date twice only where it differs."""
    noon, night = (datetime(2026, 1, day, hour, tzinfo=UTC).timestamp() for day, hour in ((5, 12), (5, 23)))
    got = [show.moment(noon, BERLIN), show.moment(night, BERLIN), show.moment(noon, UTC)]
    assert got == [
        "2026-01-05 13:00:00 CET (12:00:00 UTC)",
        "2026-01-06 00:00:00 CET (2026-01-05 23:00:00 UTC)",
        "2026-01-05 12:00:00 UTC",
    ]


def test_how_long_ago() -> None:
    """A clock ahead of ours is no reason for a negative figure."""
    assert [show.ago(0, 18720), show.ago(180, 0)] == ["5h 12m ago", "in 3m 00s"]


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("11:30", "2026-03-29T09:30:00"),
        ("01:30", "2026-03-29T00:30:00"),
        ("12:30", "2026-03-28T11:30:00"),
        ("12:00:00", "2026-03-29T10:00:00"),
        ("2026-03-01", "2026-02-28T23:00:00"),
        ("2026-03-01 14:05", "2026-03-01T13:05:00"),
        ("2026-03-01T14:05:07Z", "2026-03-01T14:05:07"),
        ("2026-03-01 14:05+05:00", "2026-03-01T09:05:00"),
        ("3h ago", "2026-03-29T07:00:00"),
        ("1d2h ago", "2026-03-28T08:00:00"),
    ],
)
def test_points_in_time(text: str, utc: str) -> None:
    """A bare clock means the last time that it was so, by local time, across a change to summer time too."""
    assert parse_when(text, NOW, BERLIN).astimezone(UTC) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "25:00", "3h", "2026-13-01", "0:60"])
def test_what_is_no_time_says_how_to_write_one(text: str) -> None:
    """A guess could restore the wrong day."""
    with pytest.raises(UsageError, match="is no time"):
        parse_when(text, NOW, BERLIN)


def test_what_would_steer_a_terminal_is_shown_escaped() -> None:
    """A name or an error that an agent wrote is a text, and nothing else."""
    assert show.plain("w\u00e9b\x1b[2J1\u202e\n") == "w\u00e9b\\x1b[2J1\\u202e\\n"
