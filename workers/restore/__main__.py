"""`python -m workers.restore`: one restore as a process of its own, see workers.pipe."""

from __future__ import annotations

import sys

from workers.pipe import serve
from workers.restore.run import run_restore
from workers.restore.spec import RestoreSpec

if __name__ == "__main__":
    sys.exit(serve(lambda data, on_event: run_restore(RestoreSpec.from_json(data), on_event).to_json()))
