"""How backups by many workers scale: `python -m benchmarks.scale`, or as a part of `make bench-fleet`.

1, 2, 4 and 8 workers, each a process of one slot, on a MinIO behind a proxy that holds back each answer by 20 ms.
Many sources have a repository of their own; of each a few files have changed since its first backup. What one worker
does in a second, a number of them should do as many times, until the machine's cores are busy: the busy cores, of this
machine as a whole, are told beside it, and the CPU time of all that takes part, MinIO and Redis too.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import contenders  # noqa: E402 -- found by the path above
import delay  # noqa: E402
import sites  # noqa: E402
from measure import tree_cpu  # noqa: E402

from benchmarks.figures import Figure, table  # noqa: E402
from benchmarks.jobs import worker  # noqa: E402
from shared.ledger import sweep  # noqa: E402
from shared.ledger.ledger import Ledger  # noqa: E402
from shared.ledger.model import RunKind, RunState  # noqa: E402
from shared.messaging.client import open_and_ring  # noqa: E402
from tests.support.fleets import SmallFleet  # noqa: E402
from tests.support.ledgers import own_ledger, until  # noqa: E402

WORKERS = (1, 2, 4, 8)
MILLISECONDS = 20
EACH = 16  # runs a worker is to do
FILES, SIZE = 8, 64 << 10  # that change in each source, and their size in bytes
SHARE = 0.9  # of as many times one worker's rate: the aim
BUSY = 0.85  # of the machine's cores: beyond that they are what ends it


def measure(workers: Sequence[int] = WORKERS) -> Iterator[Figure]:
    """One figure for each number of workers."""
    minio = contenders.tools().get("minio")
    assert minio, "there is no MinIO: `make tools` fetches one"
    with ExitStack() as stack:
        base = stack.enter_context(tempfile.TemporaryDirectory())
        ledger, server = stack.enter_context(own_ledger(os.path.join(base, "valkey")))
        bucket = stack.enter_context(sites.minio(minio, base))
        far = stack.enter_context(delay.behind(bucket.address, MILLISECONDS))
        os.environ.update(bucket.env)
        small = many_sources(os.path.join(base, "fleet"), server.url, bucket, max(workers) * EACH)
        work(ledger, small, list(small.fleet.sources), RunKind.FULL, max(workers))
        small.change(bucket.address, far)
        one = 0.0
        for number in workers:
            names = list(small.fleet.sources)[: number * EACH]
            for name in names:
                change(small, name)
            seconds, cpu, busy = work(ledger, small, names, RunKind.INCREMENTAL, number)
            rate, cores = len(names) / seconds, os.cpu_count() or 1
            one = one or rate / number
            ended = busy > BUSY * cores
            said = [f"{rate * FILES * SIZE / 2**20:.1f} MiB/s", f"{cpu / len(names):.2f} s of CPU a run"]
            said.append(f"{busy:.1f} of {cores} cores busy")
            if number > 1:
                said.insert(0, f"{rate / one:.2f} times one")
            if ended:
                said.append("the cores are what ends it")
            aim = f"> {SHARE * number * one:.2f}" if number > 1 and not ended else ""
            what = f"small backups, {number} worker{'s' * (number > 1)}, {MILLISECONDS} ms to the site"
            yield Figure(what, rate, "a second", aim, ", ".join(said))


def many_sources(directory: str, broker: str, bucket: sites.Bucket, count: int) -> SmallFleet:
    """So many sources of a few files each, on one bucket."""
    small = SmallFleet(directory, broker=broker, policy="full: 365d, select: none=yes")
    small.change(
        "sites: {a: {url: site}}", f"sites: {{a: {{url: '{bucket.url('scale')}', credentials: {{env: AWS}}}}}}"
    )
    with open(small.path) as file:
        head = file.read().rpartition("sources:")[0]
    names = [f"s{number:03}" for number in range(count)]
    with open(small.path, "w") as file:
        file.write(head + "sources:\n")
        file.writelines(f"  {name}: {{paths: [{os.path.join(small.source_dir, name)}]}}\n" for name in names)
    for name in names:
        os.makedirs(os.path.join(small.source_dir, name))
        change(small, name)
    return small


def change(small: SmallFleet, name: str) -> None:
    """Write the files of a source anew."""
    for number in range(FILES):
        with open(os.path.join(small.source_dir, name, str(number)), "wb") as file:
            file.write(os.urandom(SIZE))


def work(
    ledger: Ledger, small: SmallFleet, names: Sequence[str], kind: RunKind, workers: int
) -> tuple[float, float, float]:
    """Let so many workers back these sources up.

    The seconds it took; the CPU time of all that took part, MinIO and Redis too; the cores that were busy meanwhile.
    """
    fleet = small.fleet
    with ExitStack() as stack:
        for _ in range(workers):
            stack.enter_context(worker(small, slots=1))
        until(lambda: ledger.client.zcard("hf:workers") == workers, seconds=120)
        idle, cpu, began = _idle(), sum(tree_cpu(os.getpid())), time.perf_counter()
        ids = [open_and_ring(fleet, kind, name) for name in names]
        until(lambda: not ledger.client.zcard("hf:open"), seconds=900)
        seconds = time.perf_counter() - began
        busy = (os.cpu_count() or 1) - (_idle() - idle) / seconds
        cpu = sum(tree_cpu(os.getpid())) - cpu
    ledger.client.delete("hf:workers")  # those that have left
    runs = sweep.load(ledger, [("", run_id) for run_id in ids])
    assert {run.state for run in runs} == {RunState.SUCCEEDED}, {run.error for run in runs}
    return seconds, cpu, busy


def _idle() -> float:
    """Seconds that the machine's cores had nothing to do, added up."""
    with open("/proc/stat") as file:
        fields = file.readline().split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for one in measure():
        print(table([one]).splitlines()[-1], flush=True)
