"""What this machine has seen of the register: how far each member was, and the newest state.

A cache that may be deleted: without it a member that was rolled back is found out by the others alone. Written by
rename, so it is whole or as it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from shared.storage.durable import make_directories, write_durable
from shared.topology.ballot import Ballot
from shared.topology.state import State

NOTED_EVERY = 60.0  # seconds after which a look is noted again that has found nothing new


class Memory:
    """In a file; without a `path` in this process alone. Processes that share the file merge into it."""

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._seen: dict[str, Ballot] = {}
        self.state: State | None = None
        self.standing: dict[str, str] = {}  # how each member stood at the last look
        self.looked = 0.0  # when that was noted, POSIX seconds
        self._read()

    def seen(self, member: str) -> Ballot:
        """The highest ballot that the member was seen to have promised."""
        return self._seen.get(member, Ballot())

    def highest(self) -> Ballot:
        """The highest one of all."""
        return max(self._seen.values(), default=Ballot())

    def note(
        self, promised: Mapping[str, Ballot], state: State | None, standing: Mapping[str, str] | None = None
    ) -> None:
        """Remember what was seen; what is older than what is known is nothing new. `state`: one that was decided."""
        self._read()
        before, now = (dict(self._seen), self.state, self.standing), time.time()
        self._merge(promised, state)
        if standing is not None:
            self.standing = {name: str(how) for name, how in standing.items()}
        stale = standing is not None and now - self.looked > NOTED_EVERY
        if stale or (self._seen, self.state, self.standing) != before:
            self.looked = now if standing is not None else self.looked
            self._write()

    def _merge(self, promised: Mapping[str, Ballot], state: State | None) -> None:
        for name, ballot in promised.items():
            self._seen[name] = max(ballot, self.seen(name))
        if state is not None and (self.state is None or state.epoch >= self.state.epoch):
            self.state = state
        if self.state is not None:  # who is no member any more may come back with nothing, and is a new one then
            self._seen = {name: ballot for name, ballot in self._seen.items() if name in self.state.members}

    def _read(self) -> None:
        if not self._path:
            return
        with suppress(OSError, ValueError, KeyError, TypeError):  # a cache: what can't be read is not there
            with open(self._path) as file:
                said: dict[str, Any] = json.load(file)
            seen = {str(name): Ballot(int(number), str(who)) for name, (number, who) in said["seen"].items()}
            self._merge(seen, State.from_json(said["state"]) if said["state"] else None)
            self.standing = {str(name): str(how) for name, how in said.get("standing", {}).items()}
            self.looked = float(said.get("looked", 0.0))

    def _write(self) -> None:
        if not self._path:
            return
        said = {
            "seen": {name: [ballot.number, ballot.who] for name, ballot in sorted(self._seen.items())},
            "state": self.state.to_json() if self.state else None,
            "standing": self.standing,
            "looked": self.looked,
        }
        with suppress(OSError):  # a cache: who may not write it, or has no room, goes by what he has seen himself
            make_directories(os.path.dirname(self._path))
            write_durable(self._path, json.dumps(said).encode(), mode=0o600)
