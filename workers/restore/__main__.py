"""`python -m workers.restore`: one restore as a process of its own, see workers.pipe."""

from __future__ import annotations

import os

from workers.pipe import serve
from workers.restore.run import run_restore
from workers.restore.spec import RestoreSpec

if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(lambda data, on_event: run_restore(RestoreSpec.from_json(data), on_event).to_json()))
