"""A real worker process whose engine is the fake one: `python -m tests.support.fake_worker --config FILE`.

Its leases are short, so that a test need not wait for a quarter of a minute.
"""

from __future__ import annotations

import os
import sys

from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind
from workers import specs, supervise
from workers.__main__ import main

for kind in RunKind:
    specs.ENGINES[kind] = "tests.support.fake_engine"

LEASE = float(os.environ.get("HOLDFAST_TEST_LEASE", "3"))  # seconds
supervise.AWAY_EVERY = LEASE / 2
(Ledger.__init__.__kwdefaults__ or {})["lease_seconds"] = LEASE

if __name__ == "__main__":
    sys.exit(main())
