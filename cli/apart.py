"""Work done in a forked child for what it imports: its result comes back as plain data, its modules don't.

Reading the configuration takes pydantic, which is 100 ms and 10 MB that an engine in this process would carry, and its
helpers with it. A child reads it while this process imports the engine.

Invariant: an error in the child is raised here as if it had happened here; a child never outlives the `with` block.
"""

from __future__ import annotations

import gc
import importlib
import marshal
import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from shared.errors import HoldfastError

T = TypeVar("T")

# What both sides need, imported once: 15 ms.
_BOTH = ("shared.storage", "shared.repository.keys")


class Apart(Generic[T]):
    """Forks a child that does `work`, which must give what marshal can write. To be made where there is one thread."""

    def __init__(self, work: Callable[[], T]) -> None:
        for name in _BOTH:
            importlib.import_module(name)
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(reading)
            _child(work, writing)
        os.close(writing)
        self._pipe = open(reading, "rb")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._reap()

    def result(self) -> T:
        """What `work` gave, when the child has ended. Raises what `work` raised."""
        raw = self._pipe.read()
        status = self._reap()
        if not raw:
            raise HoldfastError(f"the process that reads the configuration ended with code {status}")
        done, value = marshal.loads(raw)  # noqa: S302 - our own fork's bytes
        if not done:
            raise _unpacked(*value)
        given: T = value
        return given

    def _reap(self) -> int:
        pid, self._pid = self._pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _child(work: Callable[[], Any], pipe: int) -> None:
    """Never returns: what belongs to the parent's frames, its buffers too, is not touched."""
    try:
        gc.disable()  # it lives for a moment, of which looking for cycles took 8 ms
        try:
            raw = marshal.dumps((True, work()))
        except BaseException as error:  # noqa: BLE001 - an interruption too: the parent raises it
            raw = marshal.dumps((False, _packed(error)))
        with open(pipe, "wb") as file:
            file.write(raw)
    finally:
        os._exit(0)


def _packed(error: BaseException) -> tuple[bytes, str]:
    """An error and its trace, for the parent."""
    import pickle
    import traceback

    trace = "".join(traceback.format_exception(error))
    try:
        raw = pickle.dumps(error)
        pickle.loads(raw)  # noqa: S301 - what was just written
    except Exception:  # noqa: BLE001 - any error of any library may come by here
        raw = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return raw, trace


def _unpacked(raw: bytes, trace: str) -> BaseException:
    import pickle

    error: Any = pickle.loads(raw)  # noqa: S301 - our own fork's bytes
    if not isinstance(error, BaseException):
        raise TypeError(f"expected an error, got {type(error).__name__}")
    error.add_note(f"\nIt was raised in a child process:\n{trace}")
    return error
