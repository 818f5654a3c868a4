"""Points in time as people write them. Pure: the clock and the zone are arguments."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from shared.errors import UsageError

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")
_AGO = re.compile(r"((?:[0-9]+[smhdw])+) ago")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_when(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """The moment that `text` means, with a zone.

    `14:05` (the last time it was so), `2026-03-01`, `2026-03-01 14:05[:07]`, the same with `Z` or `+01:00`, `3h ago`.
    Without a zone local time (or that of `zone`) is meant. `now` has a zone. Raises UsageError.
    """
    said = text.strip()
    here = now.astimezone(zone)
    ago = _AGO.fullmatch(said)
    if ago:
        pairs = re.findall(r"([0-9]+)([smhdw])", ago.group(1))
        # In UTC: an hour ago is 3600 s ago, also on the day when the clocks change.
        past = sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in pairs), timedelta())
        return (now.astimezone(UTC) - past).astimezone(zone)
    clock = _CLOCK.fullmatch(said)
    if clock:
        hour, minute, second = (int(part or 0) for part in clock.groups())
        # Through naive local time, so that a change to summer time in between does not move it.
        moment = here.replace(tzinfo=None, hour=hour, minute=minute, second=second, microsecond=0)
        if moment > here.replace(tzinfo=None):
            moment -= timedelta(days=1)
        return _in_zone(moment, zone)
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        raise UsageError(
            f'"{text}" is no time', hint='Write "14:05", "2026-03-01 14:05", "2026-03-01T14:05:00Z" or "3h ago"'
        ) from None
    return moment if moment.tzinfo else _in_zone(moment, zone)


def _in_zone(moment: datetime, zone: tzinfo | None) -> datetime:
    return moment.replace(tzinfo=zone) if zone else moment.astimezone()
