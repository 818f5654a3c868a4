"""`python -m workers.maintenance`: one verification as a process of its own, see workers.pipe."""

from __future__ import annotations

import sys

from workers.maintenance.spec import VerifySpec
from workers.maintenance.verify import run_verify
from workers.pipe import serve

if __name__ == "__main__":
    sys.exit(serve(lambda data, on_event: run_verify(VerifySpec.from_json(data), on_event).to_json()))
