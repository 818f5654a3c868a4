"""`python -m workers.maintenance`: one verification as a process of its own, see workers.pipe. It heals if it is to."""

from __future__ import annotations

import os
from typing import Any

from workers.healing.run import OnEvent, run_healing
from workers.maintenance.spec import VerifySpec
from workers.maintenance.verify import run_verify
from workers.pipe import serve


def _verify(data: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    spec = VerifySpec.from_json(data)
    return (run_healing if spec.heal else run_verify)(spec, on_event).to_json()


if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(_verify))
