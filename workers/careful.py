"""What stands before deletes: a signal is heeded, the repository lock is still ours, the epoch is what it was.

Looked at before each batch, and before each delete that comes a while after the last look: a process that was frozen
must not go on as if nothing had happened.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from shared.repository.locks import RepositoryLock
from shared.storage.api import ObjectStore

LOOK = 10.0  # seconds after which a delete is preceded by another look

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Guard = Callable[[], None]  # raises StaleEpoch


def boot_clock() -> float:
    """Seconds that also pass while this process is frozen, or its machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag: between two steps is soon enough."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    old = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped.is_set
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def stop_at_sigterm() -> None:
    """Let SIGTERM end this process's work as Ctrl-C does: by KeyboardInterrupt."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)


class Careful:
    """Changes a repository under a lock. `heed` raises where the work is to stop. For one thread."""

    def __init__(self, store: ObjectStore, lock: RepositoryLock, guard: Guard, heed: Callable[[], None]) -> None:
        self._store = store
        self._lock = lock
        self._guard = guard
        self._heed = heed
        self._looked = 0.0

    def look(self) -> None:
        """Whether it may go on. Raises what `heed` and `guard` raise, Locked where the lock is ours no more."""
        self._heed()
        self._guard()  # which may take a while: the lock is looked at last
        self._lock.maintain()
        self._lock.ensure_held()
        self._looked = boot_clock()

    def look_again(self) -> None:
        """The same, where the last look is a while ago."""
        self._heed()
        if boot_clock() - self._looked > LOOK:
            self.look()

    def each(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """Do it with each, in order, by as many requests at once as pay; a look at least every 10 s."""
        store, answers = self._store, []
        if store.connections == 1:
            for item in items:
                self.look_again()
                answers.append(work(item))
            return answers
        with ThreadPoolExecutor(store.connections) as threads:
            for at in range(0, len(items), store.connections):
                self.look_again()
                answers += threads.map(work, items[at : at + store.connections])
        return answers
