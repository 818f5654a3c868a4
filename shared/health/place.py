"""Who looks, and from where."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

_ODD = re.compile(r"[^a-z0-9._-]+")


def place_of(fleet: Fleet) -> str:
    """Where this machine stands: what its configuration says, else its host name."""
    return fleet.health.place or _host()


def observer_of(what: str) -> str:
    """Who looks: `what` (probes, runs, failover) of this machine. The same after a restart."""
    return f"{what}@{_host()}"


def _host() -> str:
    return _ODD.sub("-", socket.gethostname().lower()).strip("-.") or "here"
