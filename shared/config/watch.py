"""A configuration that may change while a process runs.

Invariant: `fleet` is always a whole, valid configuration. A change counts once two looks in a row have found the same
files, so that one which is being written is not taken for one that is done; a bad one is logged once, and the old
one stays. Who looks also sees to it that the inventory is asked, where there is one: its answers are files, too.
"""

from __future__ import annotations

import os
import time

from shared.config import asking
from shared.config.assembly import Seen, look
from shared.config.fleet import Fleet
from shared.config.problems import ConfigInvalid
from shared.errors import ConfigError
from shared.observability.structured import structlog

_PAUSE = 0.2  # seconds between the looks of `catch_up`
_LOOKS_AT_MOST = 15  # by then who writes so long is not waited for

_log = structlog.get_logger("holdfast.config")


class FleetWatch:
    """The newest valid configuration of a path. `check` now and then, from one thread; `fleet` may be read by any."""

    def __init__(self, path: str) -> None:
        """Load it; where the inventory has never answered, ask it first.

        Raises ConfigError: a process does not start on a bad configuration.
        """
        self.error = ""  # what is wrong with the files as they are now; empty where `fleet` is what they say
        self._path = os.path.abspath(path)  # a process that runs on may go to another directory
        self._seen: Seen = {}
        self._changed: Seen | None = None
        self._asker = asking.Asker()
        try:
            self.fleet = Fleet.load(self._path, self._seen)
        except ConfigInvalid:
            asking.first(self._path)
            self.fleet = Fleet.load(self._path, self._seen)  # anew in any case: the error now says why it did not

    def check(self) -> bool:
        """Look whether files have changed, at the cost of a stat of each; True where `fleet` is another one now."""
        self._asker.look(self.fleet)
        now = {place: look(*place) for place in self._seen}
        if now == self._seen:
            self._changed = None
            return False
        if now != self._changed:
            self._changed = now
            return False
        self._changed = None
        seen: Seen = {}
        try:
            fleet = Fleet.load(self._path, seen)
        except ConfigError as error:
            # What was not reached this time may still be what will be mended.
            self._seen = {**now, **seen}
            if str(error) != self.error:
                self.error = str(error)
                _log.error(
                    "the changed configuration is wrong; the old one stays", config=self._path, reason=self.error
                )
            return False
        self.fleet = fleet  # first: a process forked in between must not take the old one for what was seen
        self._seen = seen
        self.error = ""
        _log.info(
            "the changed configuration is in force",
            config=self._path,
            files=len(fleet.files),
            sources=len(fleet.sources),
            policies=len(fleet.policies),
        )
        return True

    def catch_up(self) -> Fleet:
        """The newest valid configuration for who looks seldom, a worker before a run for one.

        It waits, where files have changed, until two looks have found the same; where none has, not at all.
        """
        for _ in range(_LOOKS_AT_MOST):
            if self.check() or self._changed is None:
                break
            time.sleep(_PAUSE)
        return self.fleet

    def current(self) -> Fleet:
        """`check`, and then `fleet`: for what runs now and then, a tick for one."""
        self.check()
        return self.fleet
