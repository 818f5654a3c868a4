"""A real agent process whose engine is the fake one: `python -m tests.support.fake_agent --config FILE --host HOST`."""

from __future__ import annotations

import sys

from tests.support import fake_worker
from workers.agent import main

if __name__ == "__main__":
    assert fake_worker.LEASE > 0  # what it sets up on import counts here, too
    sys.exit(main())
