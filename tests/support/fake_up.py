"""`holdfast up` with a worker whose engine is the fake one: `python -m tests.support.fake_up FILE`."""

from __future__ import annotations

import sys

from shared.config.watch import FleetWatch
from workers import parts, up
from workers.engine_process import module_command


def _command(module: str) -> list[str]:
    return module_command("tests.support.fake_worker" if module == "workers" else module)


if __name__ == "__main__":
    parts.module_command = _command
    sys.exit(up.run_up(FleetWatch(sys.argv[1]), tick=1.0))
