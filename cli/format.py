"""How figures and times are shown to people. Pure: no terminal, no clock."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

import shared.plain

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB")


def size(count: float) -> str:
    """Bytes in powers of 1000: `512 B`, `92 MB`, `1.2 GB`."""
    value = float(count)
    for unit in _UNITS:
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 9.95 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError  # pragma: no cover - the last unit takes every size


def rate(count: float, seconds: float) -> str:
    """Bytes per second, `104 MB/s`."""
    return f"{size(count / seconds)}/s" if seconds > 0 else "-"


def count(number: int, one: str, many: str = "") -> str:
    """`1 file`, `1,204 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `5m 07s`, `5h 12m`, `3d 4h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def moment(seconds: float, zone: tzinfo | None = None) -> str:
    """A time in POSIX seconds, local (or in `zone`) and UTC: `2026-03-02 04:12:07 CET (03:12:07 UTC)`."""
    there = datetime.fromtimestamp(seconds, UTC)
    here = there.astimezone(zone)
    if not here.utcoffset():
        return f"{there:%Y-%m-%d %H:%M:%S} UTC"
    same_day = here.date() == there.date()
    return f"{here:%Y-%m-%d %H:%M:%S %Z} ({there:{'%H:%M:%S' if same_day else '%Y-%m-%d %H:%M:%S'}} UTC)"


def ago(seconds: float, now: float) -> str:
    """How long before `now`: `5h 12m ago`, or `in 3m 00s` for what a clock ahead of ours wrote."""
    return f"{duration(now - seconds)} ago" if now >= seconds else f"in {duration(seconds - now)}"


def plain(text: str) -> str:
    """A text that somebody else wrote, in one line, with what would steer a terminal escaped."""
    return shared.plain.plain(text)


def iso(seconds: float) -> str:
    """A time in POSIX seconds for programs: `2026-03-02T03:12:07Z`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
