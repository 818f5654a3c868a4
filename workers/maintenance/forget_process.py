"""`python -m workers.maintenance.forget_process`: one forget as a process of its own, see workers.pipe."""

from __future__ import annotations

import os
from typing import Any

from workers.maintenance.forget import OnEvent, run_forget
from workers.maintenance.forget_spec import ForgetSpec
from workers.pipe import serve


def _forget(data: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    from shared.config.fleet import Fleet
    from shared.topology import Epoch, guard

    spec = ForgetSpec.from_json(data)
    fleet = Fleet.load(spec.config)
    epoch = Epoch(*spec.epoch)
    return run_forget(spec, on_event, lambda: guard(fleet, spec.repository, epoch)).to_json()


if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(_forget))
