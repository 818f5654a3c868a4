"""A worker or a scheduler whose leases and pauses are shorter: `python -m tests.support.chaos.member PACE workers ...`.

At pace 5 a lease lasts 3 s instead of 15, and so in proportion: two minutes then hold what ten would. Its engines are
forked rather than started, since they are hundreds: see `tests.support.forked`; and the recovery key of a repository
is as cheap as that of machines. At pace 1 the processes are the real ones, and this module is not used.
"""

from __future__ import annotations

import sys

from shared.repository.keys import MACHINE_N
from tests.support import forked


def main() -> int:
    """Hurry, and be what the second argument says."""
    _, pace, what, *arguments = sys.argv
    for name in list(sys.modules):  # whatever whoever forked this has imported, with the times as they were
        if name.partition(".")[0] in forked.PACKAGES:
            del sys.modules[name]
    from shared.ledger import calls, lease

    lease.LEASE_SECONDS /= float(pace)  # before anything else is imported, and takes it over
    for name in ("RING_AGAIN", "RING_AGAIN_AT_MOST", "RETRY_FIRST", "RETRY_AT_MOST"):
        setattr(calls, name, getattr(calls, name) / float(pace))
    if what == "workers":
        from workers.__main__ import main as run

        forked.fork_engines(**{"shared.repository.keys:RECOVERY_N": MACHINE_N})
    else:
        from scheduler import evidence, reaper
        from scheduler.__main__ import main as run

        evidence._AGAIN /= float(pace)
        reaper.AGAIN /= float(pace)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
