"""A real worker process whose engine is the fake one: `python -m tests.support.fake_worker --config FILE`."""

from __future__ import annotations

import sys

from shared.ledger.model import RunKind
from workers import specs
from workers.__main__ import main

for kind in RunKind:
    specs.ENGINES[kind] = "tests.support.fake_engine"

if __name__ == "__main__":
    sys.exit(main())
