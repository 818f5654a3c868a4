"""The engine of a backup over a store that is far away and keeps a trace: `python -m tests.support.traced_engine`.

The trace lies in the directory that HOLDFAST_TEST_TRACE names, in a file `<run>-<pid>`: a line with the ids of the
engine and of its parent, then "begin put data/.." and "end put data/.." of each write of all its processes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from shared.storage.api import Buffer, ObjectStore, Staged
from workers import access
from workers.backup import spec as specs
from workers.backup.run import run_backup
from workers.pipe import serve

TRACE = "HOLDFAST_TEST_TRACE"
PACK_SIZE = 256 << 10  # bytes: smaller than the configuration allows, so that there are many
_DISTANCE = 0.01  # seconds to the store, and back again


class TracedStore:
    """An `ObjectStore` around a real one; see the module."""

    def __init__(self, inner: ObjectStore, trace: str) -> None:
        self._inner = inner
        self._trace = trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def below(self, prefix: str) -> TracedStore:
        """See `ObjectStore`."""
        return TracedStore(self._inner.below(prefix), self._trace)

    def put(self, key: str, data: Buffer, *, sha256: str | None = None) -> None:
        """See `ObjectStore`."""
        self.traced(f"put {key}", lambda: self._inner.put(key, data, sha256=sha256))

    def stage(self, prefix: str, *, spool: str = "") -> TracedStaged:
        """See `ObjectStore`."""
        return TracedStaged(self._inner.stage(prefix, spool=spool), self)

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """See `ObjectStore`."""
        return self.traced(f"put_if_absent {key}", lambda: self._inner.put_if_absent(key, data))

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        self.traced(f"delete {key}", lambda: self._inner.delete(key))

    def traced(self, what: str, work: Callable[[], Any]) -> Any:
        """Do it, with a line before and one after it."""
        note(self._trace, f"begin {what}")
        time.sleep(_DISTANCE)
        done = work()
        time.sleep(_DISTANCE)
        note(self._trace, f"end {what}")
        return done


class TracedStaged:
    """What is staged in a `TracedStore`: publishing it is the put."""

    def __init__(self, inner: Staged, store: TracedStore) -> None:
        self._inner = inner
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def publish(self, key: str, *, sha256: str) -> None:
        """See `Staged`."""
        self._store.traced(f"put {key}", lambda: self._inner.publish(key, sha256=sha256))


def note(trace: str, line: str) -> None:
    """Append a line; it is there when the process dies in the next instant."""
    fd = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def _work(data: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    trace = os.path.join(os.environ[TRACE], f"{data['run']}-{os.getpid()}")
    note(trace, f"engine {os.getpid()} {os.getppid()}")
    real = access.open_store
    access.open_store = lambda *given, **named: TracedStore(real(*given, **named), trace)  # type: ignore[assignment,return-value]
    return run_backup(specs.BackupSpec.from_json({**data, "pack_size": PACK_SIZE}), on_event).to_json()


if __name__ == "__main__":
    sys.exit(serve(_work))
