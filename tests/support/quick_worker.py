"""A real worker with real engines, though forked, and short leases: `python -m tests.support.quick_worker --config F`.

`HOLDFAST_TEST_PAUSE`, a directory with a file `<number>` there, makes the engine of that shard wait until it is gone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind
from tests.support import forked
from workers import specs, supervise
from workers.__main__ import main

PAUSE = "HOLDFAST_TEST_PAUSE"
LEASE = 2.0  # seconds


def engine(data: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The engine of a backup, which notes that it begins and may be held up."""
    from workers.backup.__main__ import work

    folder = os.environ[PAUSE]
    number = data["shards"]["number"] if data["shards"] else "direct"
    step = "end" if number == -1 and data["shards"]["plan"] else "cut" if number == -1 else str(number)
    with open(os.path.join(folder, "begun"), "a") as file:
        file.write(f"{step}\n")
    while os.path.exists(os.path.join(folder, step)):
        on_event({"event": "progress", "files": 0, "bytes": 0})
        time.sleep(0.05)
    return work(data, on_event)


if __name__ == "__main__":
    if "--engine" in sys.argv:
        from workers.pipe import serve

        os._exit(serve(engine))
    for kind in (RunKind.FULL, RunKind.INCREMENTAL, RunKind.SHARD):
        specs.ENGINES[kind] = "tests.support.quick_worker"
    real = specs.command_for
    specs.command_for = lambda kind: [*real(kind), "--engine"] if kind.reads_source else real(kind)
    forked.fork_engines()
    supervise.AWAY_EVERY = LEASE / 2
    (Ledger.__init__.__kwdefaults__ or {})["lease_seconds"] = LEASE
    sys.exit(main())
