"""What the ledger costs in memory: `python -m benchmarks.ledger_memory [RUNS]`, on a Valkey of its own.

Fills a ledger with runs as they are in life (opened, claimed, renewed with progress, finished with a result), 100 of
each source, and asks Valkey by MEMORY USAGE and INFO what they take.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from statistics import mean

from shared.ledger.calls import HISTORY
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunKind, RunRequest, RunState, new_run_id
from tests.support.ledgers import own_ledger

RUNS = 10_000
RESULT = {
    "snapshot": "bb" * 32,
    "site": "frankfurt",
    "repository": "web0001",
    "kind": "incremental",
    "complete": True,
    "files_new": 1234,
    "files_changed": 56,
    "files_unmodified": 123_456,
    "bytes_read": 123_456_789,
    "bytes_added": 12_345_678,
    "bytes_stored": 3_456_789,
    "unreadable": 0,
    "duration": 12.345,
}
PROGRESS = {"files": 1000, "bytes": 123_456_789, "files_total": 124_000, "bytes_total": 234_567_890}


def main(runs: int = RUNS) -> None:
    """Print one line a figure, in bytes."""
    with tempfile.TemporaryDirectory() as directory, own_ledger(directory) as (ledger, _):
        empty = used(ledger)
        ended = [one_run(ledger, f"web{number // HISTORY:04}", RunState.SUCCEEDED) for number in range(runs)]
        full = used(ledger)
        failed = [one_run(ledger, "web0000", RunState.FAILED) for _ in range(50)]
        waiting = [one_run(ledger, "web0000", None) for _ in range(50)]
        keys = ledger.keys
        print(f"one run that succeeded      {_each(ledger, keys.run, ended[:1000])} bytes")
        print(f"one run that failed twice   {_each(ledger, keys.run, failed)} bytes")
        print(f"one run under way           {_each(ledger, keys.run, waiting)} bytes")
        print(f"the history of one source   {_each(ledger, keys.history, ['web0000'])} bytes, {HISTORY} runs at most")
        print(f"the evidence of one source  {_each(ledger, keys.evidence, ['web0000'])} bytes")
        print(f"all of it, per ended run    {(full - empty) // runs} bytes ({runs} runs, {(full - empty) >> 10} KiB)")


def one_run(ledger: Ledger, source: str, state: RunState | None) -> str:
    """A run as it is in life, over or (None) under way; its id."""
    request = RunRequest(
        new_run_id(), RunKind.INCREMENTAL, source, policy="daily", slot="2026-03-04T02:00:00Z", queue="backup"
    )
    ledger.open(request)
    owner = "worker-12345@backup-worker-1:12346"
    lease = ledger.claim(request.id, owner).lease
    if lease and state is RunState.FAILED:
        ledger.release(lease, error="the engine ended without a word (exit code -9)")
        lease = ledger.claim(request.id, owner).lease
    assert lease is not None
    ledger.renew(lease, PROGRESS)
    if state is not None:
        error = "site frankfurt: denied" if state is RunState.FAILED else ""
        ledger.finish(lease, state, result=None if error else RESULT, error=error, exit_code=32 if error else 0)
        ledger.note_evidence(source, "frankfurt", Evidence(request.slot, request.slot))
    return request.id


def used(ledger: Ledger) -> int:
    """Bytes of all that the ledger's Redis holds."""
    return int(ledger.client.info("memory")["used_memory_dataset"])


def _each(ledger: Ledger, key: Callable[[str], str], names: list[str]) -> int:
    return round(mean(ledger.client.memory_usage(key(name), samples=0) or 0 for name in names))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
