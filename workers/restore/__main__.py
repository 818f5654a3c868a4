"""`python -m workers.restore`: one restore as a process of its own, see workers.pipe."""

from __future__ import annotations

import os
from typing import Any

from workers.pipe import OnEvent, serve
from workers.restore.into import run_into
from workers.restore.run import run_restore
from workers.restore.spec import RestoreSpec


def _restore(data: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    spec = RestoreSpec.from_json(data)
    return run_into(spec, on_event).to_json() if spec.into else run_restore(spec, on_event).to_json()


if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(_restore))
