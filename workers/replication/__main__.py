"""`python -m workers.replication`: one replication as a process of its own, see workers.pipe."""

from __future__ import annotations

import os

from workers.pipe import serve
from workers.replication.run import run_replicate
from workers.replication.spec import ReplicateSpec

if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(lambda data, on_event: run_replicate(ReplicateSpec.from_json(data), on_event).to_json()))
