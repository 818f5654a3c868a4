"""A real worker whose backups run in the traced engine, with short leases: `python -m tests.support.traced_worker`."""

from __future__ import annotations

import sys

from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind
from workers import specs
from workers.__main__ import main

LEASE = 1.5  # seconds

if __name__ == "__main__":
    for kind in (RunKind.FULL, RunKind.INCREMENTAL):
        specs.ENGINES[kind] = "tests.support.traced_engine"
    (Ledger.__init__.__kwdefaults__ or {})["lease_seconds"] = LEASE
    sys.exit(main())
