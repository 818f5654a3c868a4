"""A worker or a scheduler whose leases and pauses are shorter: `python -m tests.support.chaos.member PACE workers ...`.

At pace 5 a lease lasts 3 s instead of 15, and so in proportion: two minutes then hold what ten would. At pace 1 the
processes are the real ones, and this module is not used.
"""

from __future__ import annotations

import sys
from typing import Any

from scheduler import evidence, reaper
from shared.ledger import ledger

_OF_LEDGER = ("LEASE_SECONDS", "RING_AGAIN", "RING_AGAIN_AT_MOST", "RETRY_FIRST", "RETRY_AT_MOST")


def hurry(pace: float) -> None:
    """Divide the times of the ledger and of the scheduler in this process by `pace`."""
    for name in _OF_LEDGER:
        setattr(ledger, name, getattr(ledger, name) / pace)
    kind = ledger.Ledger
    for method in (kind.__init__, kind.open, kind.open_backup, kind.release):
        given: dict[str, Any] = method.__kwdefaults__ or {}
        given.update({name: given[name] / pace for name in ("lease_seconds", "ring_again") if name in given})
    for module, name in ((evidence, "_AGAIN"), (reaper, "AGAIN")):
        setattr(module, name, getattr(module, name) / pace)


def main() -> int:
    """Hurry, and be what the second argument says."""
    _, pace, what, *arguments = sys.argv
    hurry(float(pace))
    if what == "workers":
        from workers.__main__ import main as run
    else:
        from scheduler.__main__ import main as run
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
