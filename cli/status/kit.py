"""What `holdfast status` says of the last recovery kit. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from cli import format as show
from cli.status.judge import Level, Problem
from shared.kit.record import OLD, LastKit

_NAMED = 3  # files of which it is said that they have changed
_MAKE = "holdfast kit make FILE"


def kit_problems(kit: LastKit, now: float) -> Iterator[Problem]:
    """What needs a look. One that was never made is none: it may have been made on another machine."""
    if kit.made and kit.changed:
        few = ", ".join(os.path.basename(file) for file in kit.changed[:_NAMED])
        more = f" and {len(kit.changed) - _NAMED} more" if len(kit.changed) > _NAMED else ""
        text = f"the recovery kit of {show.moment(kit.made)} is outdated: {few}{more} changed since"
        yield Problem(Level.WARNING, text, f"{_MAKE}; or holdfast kit check FILE, which compares what it says")
    elif kit.made and now - kit.made > OLD:
        yield Problem(Level.WARNING, f"the recovery kit is {show.duration(now - kit.made)} old", _MAKE)


def kit_line(kit: LastKit, now: float) -> str:
    """One line of the head."""
    if not kit.made:
        return f"KIT       none was made here: {_MAKE}"
    return f"KIT       {show.ago(kit.made, now)}{', outdated' if kit.changed else ''}"


def kit_json(kit: LastKit, now: float) -> dict[str, Any]:
    """The same for programs."""
    return {
        "made": show.iso(kit.made) if kit.made else None,
        "age_seconds": round(now - kit.made) if kit.made else None,
        "changed": list(kit.changed),
    }
