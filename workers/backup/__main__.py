"""The engine of a backup as a process: a BackupSpec as JSON on stdin, events as JSON lines on stdout.

It ends when its stdin closes, so it does not outlive whoever started it; SIGTERM ends it cleanly.
"""

from __future__ import annotations

import os
from typing import Any

from workers.backup.run import OnEvent, run_backup
from workers.backup.spec import BackupSpec
from workers.pipe import serve


def work(data: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    """Do what a spec says: a backup, or what is to be done now of one that is cut. See `run_backup`."""
    spec = BackupSpec.from_json(data)
    if spec.shards is not None:
        from workers.backup.shards.run import run_shards  # few backups are

        return run_shards(spec, on_event)
    return run_backup(spec, on_event).to_json()


if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(work))
