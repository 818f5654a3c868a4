"""The engine of a backup as a process: a BackupSpec as JSON on stdin, events as JSON lines on stdout.

It ends when its stdin closes, so it does not outlive whoever started it; SIGTERM ends it cleanly.
"""

from __future__ import annotations

import os

from workers.backup.run import run_backup
from workers.backup.spec import BackupSpec
from workers.pipe import serve

if __name__ == "__main__":
    # Not sys.exit, which would take the interpreter apart first: whoever waits for the end waits for nothing.
    os._exit(serve(lambda data, on_event: run_backup(BackupSpec.from_json(data), on_event).to_json()))
