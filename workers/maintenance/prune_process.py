"""`python -m workers.maintenance.prune_process`: one prune as a process of its own, see workers.pipe."""

from __future__ import annotations

import os
from typing import Any

from workers.maintenance.prune import OnEvent, run_prune
from workers.maintenance.prune_spec import PruneSpec
from workers.pipe import serve


def _prune(data: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    from shared.config.fleet import Fleet
    from shared.topology import Epoch, guard

    spec = PruneSpec.from_json(data)
    fleet = Fleet.load(spec.config)
    epoch = Epoch(*spec.epoch)
    return run_prune(spec, on_event, lambda: guard(fleet, spec.repository, epoch)).to_json()


if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(_prune))
