"""What was seen of the sites lately, by whom and from where. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli import format as show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.health.observation import Observation

_HEAD = ("SITE", "SEEN BY", "FROM", "AS", "TOOK", "FREE", "CERTIFICATE", "CLOCK", "WHEN")
_NEVER = "-"


def as_json(seen: Sequence[Observation]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "site": one.site,
            "observer": one.observer,
            "place": one.place,
            "time": show.iso(one.at),
            "verdict": one.verdict.value,
            "why": one.why or None,
            "latency": one.latency,
            "free": one.free,
            "certificate": None if one.certificate is None else show.iso(one.certificate),
            "clock": one.clock,
        }
        for one in seen
    ]


def lines(seen: Sequence[Observation], now: float) -> list[str]:
    """For people: a table, and under it what is not as it should be; nothing where nobody looked."""
    if not seen:
        return []
    cells = [_HEAD, *(_cells(one, now) for one in seen)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    rows = [[f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in cells]
    said = dict.fromkeys((one.site, one.place, show.plain(one.why)) for one in seen if one.why)
    return [
        "",
        *("  ".join(row).rstrip() for row in rows),
        *(f"{site} from {place}: {why}" for site, place, why in said),
    ]


def _cells(one: Observation, now: float) -> tuple[str, ...]:
    certificate = _NEVER if one.certificate is None else f"{show.duration(max(0.0, one.certificate - now))} left"
    return (
        one.site,
        one.observer,
        one.place,
        one.verdict.value,
        show.duration(one.latency) if one.latency else _NEVER,
        _NEVER if one.free is None else show.size(one.free),
        certificate,
        _NEVER if one.clock is None else f"{one.clock:+.0f} s",
        show.ago(one.at, now),
    )
