"""`python -m workers.maintenance.restore_test_process`: one restore test as a process of its own, see workers.pipe."""

from __future__ import annotations

import os

from workers.maintenance.restore_test import run_restore_test
from workers.maintenance.restore_test_spec import RestoreTestSpec
from workers.pipe import serve

if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(lambda data, on_event: run_restore_test(RestoreTestSpec.from_json(data), on_event).to_json()))
