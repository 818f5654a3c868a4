"""Processes of a test: a function in several forked ones at once; those below a worker."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_processes(count: int, work: Callable[[int], T]) -> list[T]:
    """The results of `work(0)` to `work(count - 1)`, each in a process of its own, all started together.

    Forked, so `work` may be a closure; it opens its own connections. A child that fails fails the test.
    """
    start_read, start_write = os.pipe()
    children: list[tuple[int, int]] = []
    for number in range(count):
        result_read, result_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(start_write)
                os.read(start_read, 1)  # ends when the parent closes it: all start at once
                data = pickle.dumps(work(number))
                while data:
                    data = data[os.write(result_write, data) :]
                status = 0
            except BaseException:  # noqa: BLE001 - a child must not go on with the parent's test run
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(result_write)
        children.append((pid, result_read))
    os.close(start_read)
    os.close(start_write)
    results: list[T] = []
    failed = []
    for number, (pid, fd) in enumerate(children):
        with os.fdopen(fd, "rb") as pipe:
            data = pipe.read()
        if os.waitpid(pid, 0)[1] == 0:
            results.append(pickle.loads(data))  # noqa: S301 - our own child's
        else:
            failed.append(number)
    assert failed == [], f"processes {failed} failed"
    return results


def engine_of(child: int) -> int:
    """The engine below a pool child, once it leads a group of its own; 0 before."""
    with open(f"/proc/{child}/task/{child}/children") as file:
        found = [int(pid) for pid in file.read().split()]
    return next((pid for pid in found if os.getpgid(pid) == pid), 0)
