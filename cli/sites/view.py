"""The report of the sites for people and for programs. Pure, but for the clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cli import format as show
from cli.sites import seen
from shared.ledger.model import slot_time
from shared.topology.register import Standing

if TYPE_CHECKING:
    from cli.sites.facts import Loss, Report, Row

_HEAD = ("SITE", "ROLE", "STANDING", "BEHIND", "LOST IF IT DIED NOW")
_SHOWN = 5  # losses of a site, each in a line


def as_json(report: Report) -> dict[str, Any]:
    """For programs."""
    return {
        "epoch": report.epoch,
        "claimant": report.claimant or None,
        "voted": report.voted,
        "settled": report.settled,
        "ledger": report.ledger,
        "well": report.is_well,
        "outside": list(report.outside),
        "seen": seen.as_json(report.seen),
        "members": [
            {
                "site": row.site,
                "witness": row.witness,
                "standing": row.standing.value,
                "error": row.error or None,
                "primary_of": row.primary_of,
                "stands_in_for": list(row.stands_in_for),
                "replaced_by": row.replaced_by or None,
                "newest": row.newest or None,
                "behind": row.behind,
                "unknown": row.unknown,
                "lost": [
                    {"source": one.source, "newest": one.newest, "elsewhere": one.elsewhere or None} for one in row.lost
                ],
            }
            for row in report.rows
        ],
    }


def lines(report: Report) -> list[str]:
    """For people: a table, then what is to be known and done."""
    now = time.time()
    cells = [_HEAD, *(_cells(row, now) for row in report.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD) - 1)]
    found = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in cells
    ]
    for row in report.rows:
        found += [f"  only at {row.site}: {_loss(one, now)}" for one in row.lost[:_SHOWN]] if _is_telling(row) else []
        if row.error:
            found.append(f"{row.site}: {row.error}")
        if row.standing in {Standing.BEHIND, Standing.FORGOT, Standing.ABSENT, Standing.BLANK} and report.voted:
            found.append(f"{row.site} does not know what was decided: holdfast sites settle")
    return [*found, *seen.lines(report.seen, now), *_notes(report)]


def _is_telling(row: Row) -> bool:
    """Whether its losses fit under the table: with a single copy of everything they are the table."""
    return 0 < len(row.lost) <= _SHOWN


def _notes(report: Report) -> list[str]:
    found = []
    if not report.voted:
        if len(report.rows) > 1:
            found.append("the sites have never voted, and no failover is possible before: holdfast sites settle")
    else:
        found.append(f"epoch {report.epoch}{'' if report.settled else ', which no majority holds'}")
    found += [f"{site} is configured and does not vote: holdfast sites add {site}" for site in report.outside]
    if not report.ledger:
        found.append("what the sites have is told by themselves alone: the ledger was not asked, or is away")
    unknown = sum(row.unknown for row in report.rows)
    if unknown:
        found.append(f"of {show.count(unknown, 'copy', 'copies')} it is not known how new they are")
    return found


def _cells(row: Row, now: float) -> tuple[str, ...]:
    return (row.site, _role(row), row.standing.value, "-" if row.witness else _behind(row), _lost(row, now))


def _role(row: Row) -> str:
    if row.witness:
        return "witness"
    role = f"primary of {row.primary_of:,}" if row.primary_of else "copies"
    if row.stands_in_for:
        role += f", for {' '.join(row.stands_in_for)}"
    if row.replaced_by:
        role += f", {row.replaced_by} stands in"
    return role


def _behind(row: Row) -> str:
    said = show.count(row.behind, "source") if row.behind else "no"
    return f"{said}, {row.unknown:,} not known" if row.unknown else said


def _lost(row: Row, now: float) -> str:
    if row.witness or (not row.lost and not row.unknown):
        return "nothing"
    if not row.lost:
        return "not known"
    only = sum(not one.elsewhere for one in row.lost)
    since = min((one.elsewhere for one in row.lost if one.elsewhere), default="")
    said = show.count(len(row.lost), "source")
    said += f", {only:,} of them nowhere else" if only else ""
    return said + (f"; back to {_age(since, now)}" if since else "")


def _loss(one: Loss, now: float) -> str:
    back = f"elsewhere from {_age(one.elsewhere, now)}" if one.elsewhere else "nowhere else"
    return f"{one.source} from {_age(one.newest, now)}, {back}"


def _age(slot: str, now: float) -> str:
    return show.ago(slot_time(slot).timestamp(), now)
