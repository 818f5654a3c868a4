"""`python -m workers.maintenance`: one verification as a process of its own, see workers.pipe."""

from __future__ import annotations

import os

from workers.maintenance.spec import VerifySpec
from workers.maintenance.verify import run_verify
from workers.pipe import serve

if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(lambda data, on_event: run_verify(VerifySpec.from_json(data), on_event).to_json()))
