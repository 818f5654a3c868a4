"""A failover worker: `python -m workers.failover --config FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from shared.config.watch import FleetWatch
from shared.errors import HoldfastError
from shared.observability import logs
from workers.failover.worker import FailoverWorker
from workers.group import signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until told to stop; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.failover", description="A failover worker of Holdfast.")
    parser.add_argument("--config", required=True, help="the fleet's file")
    parser.add_argument("--log-file", default="", help="where to log in place of standard error")
    options = parser.parse_args(arguments)
    logs.set_up(log_file=options.log_file)
    try:
        with signals() as asked:
            FailoverWorker(FleetWatch(options.config)).run(asked)
    except HoldfastError as error:
        sys.stderr.write(f"holdfast: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
