"""Keeps up with the register beside other work: a thread looks every so often, and nobody waits for long.

Where the sites have never voted a follower that may `find` has them do it as soon as all answer: once one is gone it
is too late for that. A fleet of one site that never voted has nothing to follow.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from shared.errors import HoldfastError
from shared.observability.structured import structlog
from shared.topology.current import memory, register
from shared.topology.register import Standing
from shared.topology.voters import found

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.topology.register import View

EVERY = 10.0  # seconds between two looks
_FOUND_AGAIN = 3600.0  # seconds after a first vote that could not be, as a store takes no conditional writes

_log = structlog.get_logger("holdfast.topology")


class Follower:
    """One process's. It may be made before a fork; whoever asks first in a process starts the looking there."""

    def __init__(self, *, every: float = EVERY, find: bool = False) -> None:
        self._every = every
        self._find = find
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._began = float("-inf")
        self._found_after = float("-inf")
        self._said = ""

    def follow(self, fleet: Fleet, *, wait: float = 0.0) -> None:
        """Look if the last look is too long ago, and wait at most so many seconds for what it finds."""
        if fleet.agent:
            return  # it can't tell what was written with the fleet's secret from what was not
        if self._process != os.getpid():
            self._process, self._thread, self._began = os.getpid(), None, float("-inf")
        thread = self._thread
        if (thread is None or not thread.is_alive()) and time.monotonic() - self._began >= self._every:
            if len(fleet.sites) == 1 and memory(fleet).state is None:
                return
            self._began = time.monotonic()
            thread = self._thread = threading.Thread(target=self._look, args=(fleet,), name="topology", daemon=True)
            thread.start()
        if wait and thread is not None:
            thread.join(wait)

    def _may_find(self, view: View) -> bool:
        answers = Standing.SILENT not in view.standing.values()
        return not view.voted and answers and time.monotonic() >= self._found_after

    def _look(self, fleet: Fleet) -> None:
        try:
            with closing(register(fleet)) as votes:
                before = memory(fleet).state
                view = votes.look()
                if self._find and self._may_find(view):
                    self._found_after = time.monotonic() + _FOUND_AGAIN
                    found(fleet, votes)
                    _log.info("the sites have voted for the first time", members=", ".join(view.state.members))
            now = memory(fleet).state
        except HoldfastError as error:
            if str(error) != self._said:
                _log.warning("the topology can't be followed", reason=str(error))
            self._said = str(error)
            return
        except Exception:  # noqa: BLE001 - a thread's end is seen by nobody
            _log.exception("a look at the topology broke off")
            return
        self._said = ""
        if now is not None and before is not None and now.epoch != before.epoch:
            last = now.history[-1].what if now.history else ""
            _log.info("the topology has changed", epoch=now.epoch.number, what=last)
