"""Keeping helpers busy: tasks out, answers in, progress and locks looked after meanwhile; and a helper's side of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from shared import errors
from shared.errors import HoldfastError
from shared.repository import errors as repository_errors
from shared.storage import api as storage_errors
from workers.helpers import Channel, HelperPool

Task = tuple[Any, ...]
_DEPTH = 2  # tasks that a helper has at once: the next is there when it is done with one
_TICK = 0.25  # seconds between two calls of `tick` while waiting


def error_for(exit_code: int, message: str, hint: str) -> HoldfastError:
    """An error that a helper has told of, as the class with that exit code."""
    return _CLASSES.get(exit_code, HoldfastError)(message, hint=hint)


_CLASSES = {
    kind.exit_code: kind
    for module in (storage_errors, repository_errors, errors)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, HoldfastError)
}


def serve(channel: Channel, start: Callable[..., object]) -> None:
    """A helper's side: do one coordinator's tasks until its socket closes. Raises CoordinatorGone then.

    The first message holds the arguments of `start`; each later one names a method of what that gave, with its
    arguments. Each is answered with the same name and what the method gave. An error that makes going on
    pointless is answered with ("fatal", exit code, message, hint).
    """
    gc.disable()  # what is read forms no cycles, and there is much of it
    try:
        name, *arguments = channel.receive()
        helper = start(*arguments)
        channel.send((name,))
        while True:
            name, *arguments = channel.receive()
            channel.send((name, *getattr(helper, name)(*arguments)))
    except HoldfastError as error:
        channel.send(("fatal", error.exit_code, str(error.args[0]), error.hint))
        channel.receive()  # nothing more comes: this waits for the end


class Crew:
    """A pool of helpers at work on one stage after the other. A helper that tells of a fatal error ends it all."""

    def __init__(self, pool: HelperPool, tick: Callable[[], None]) -> None:
        self._pool = pool
        self._tick = tick
        self._next_tick = 0.0

    def __len__(self) -> int:
        """How many helpers there are."""
        return len(self._pool)

    def broadcast(self, task: Task, handle: Callable[[Any], None] = lambda _: None) -> None:
        """Give every helper the task and wait for all their answers."""
        self._pool.broadcast(task)
        self._collect([1] * len(self._pool), lambda: None, handle)

    def run(self, next_task: Callable[[], Task | None], handle: Callable[[Any], None]) -> None:
        """Work until `next_task` has none left and every answer was handled; an answer may bring new tasks.

        Raises what helpers tell as fatal, HelperDied, and what `handle` raises.
        """
        self._collect([0] * len(self._pool), next_task, handle)

    def _collect(
        self, under_way: list[int], next_task: Callable[[], Task | None], handle: Callable[[Any], None]
    ) -> None:
        while True:
            self._give(under_way, next_task)
            if not any(under_way):
                return
            for number, message in self._pool.poll(_TICK):
                if message[0] == "fatal":
                    raise error_for(*message[1:])
                under_way[number] -= 1
                handle(message)
            now = time.monotonic()
            if now >= self._next_tick:
                self._next_tick = now + _TICK
                self._tick()

    def _give(self, under_way: list[int], next_task: Callable[[], Task | None]) -> None:
        for level in range(_DEPTH):  # everybody gets one before anybody gets two
            for number, has in enumerate(under_way):
                if has <= level:
                    task = next_task()
                    if task is None:
                        return
                    self._pool.send(number, task)
                    under_way[number] += 1
