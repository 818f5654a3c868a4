"""What several sites cost: `make bench-sites`, or `python -m benchmarks.several [PART ...]`.

replication  two MinIO servers, against rclone and `restic copy` (`benchmarks.replication`)
rebuild      an emptied ledger from two sites 20 ms away (`benchmarks.rebuild`); REPOSITORIES= says of how many

Each figure is printed with its aim, and stands in docs/benchmarks.md with `--publish`.
"""

from __future__ import annotations

import sys

from benchmarks import rebuild, replication
from benchmarks.figures import run_parts

PARTS = {"replication": replication.measure, "rebuild": rebuild.measure}


if __name__ == "__main__":
    sys.exit(run_parts("several", __doc__, PARTS))
