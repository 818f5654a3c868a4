"""A worker or a scheduler whose leases and pauses are shorter: `python -m tests.support.chaos.member PACE workers ...`.

At pace 5 a lease lasts 3 s instead of 15, and so in proportion: two minutes then hold what ten would. At pace 1 the
processes are the real ones, and this module is not used.
"""

from __future__ import annotations

import sys

from shared.ledger import calls, lease

_TIMES = [(lease, "LEASE_SECONDS")] + [
    (calls, name) for name in ("RING_AGAIN", "RING_AGAIN_AT_MOST", "RETRY_FIRST", "RETRY_AT_MOST")
]


def main() -> int:
    """Hurry, and be what the second argument says."""
    _, pace, what, *arguments = sys.argv
    for module, name in _TIMES:  # before anything else is imported, and takes them over
        setattr(module, name, getattr(module, name) / float(pace))
    if what == "workers":
        from workers.__main__ import main as run
    else:
        from scheduler import evidence, reaper
        from scheduler.__main__ import main as run

        evidence._AGAIN /= float(pace)
        reaper.AGAIN /= float(pace)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
