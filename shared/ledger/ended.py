"""The runs that ended lately, in any number of realms, for one round trip: for whoever tells a person of each.

Invariant: each end is told once. The clock is Redis's own, looked at in the very script that looks at the runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.ledger import sweep
from shared.ledger.guard import guarded
from shared.ledger.keys import Keys
from shared.ledger.look import LOOK

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Run

_AT_ONCE = 500  # realms of one script: about a millisecond of Redis's time
_MOST = 50  # runs of one realm that are told at a time

# KEYS: prefixes of realms. ARGV: since when (ms, empty: from now on), most runs of one. Answers the time, and the runs
# that ended since then: number of the realm (from 1), id, when it ended. What ends in a time to come does not.
_ENDED = (
    LOOK
    + """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local since = tonumber(ARGV[1]) or now
local found = {}
for i, prefix in ipairs(KEYS) do
  for _, id in ipairs((listed(prefix .. 'recent', 0, ARGV[2] - 1))) do
    local ended = tonumber(digits(text(15, prefix .. 'run:' .. id, 'ended')) or 0)
    if ended < since then break end
    if ended <= now then found[#found + 1] = {i, id, ended} end
  end
end
return cjson.encode({now, found})
"""
)


class EndedRuns:
    """Looks at realms again and again; each look gives what ended since the one before."""

    def __init__(self, ledger: Ledger, hosts: Sequence[str]) -> None:
        """`hosts` are the realms, the pools' being the empty one. Runs that have ended by the first look are left out.

        Connects at the first look.
        """
        self._ledger = ledger
        self._hosts = [hosts[at : at + _AT_ONCE] for at in range(0, len(hosts), _AT_ONCE)]
        self._since: list[int | None] = [None] * len(self._hosts)
        self._told: set[tuple[str, int]] = set()

    def look(self) -> list[Run]:
        """The runs that have ended, by the time of their end. Raises LedgerAway and LedgerError."""
        pipe = self._ledger.client.pipeline(transaction=False)
        for hosts, since in zip(self._hosts, self._since, strict=True):
            prefixes = [Keys(host).prefix for host in hosts]
            pipe.eval(_ENDED, len(prefixes), *prefixes, "" if since is None else since, _MOST)
        fresh: list[tuple[str, str]] = []
        told: set[tuple[str, int]] = set()
        looked: list[int | None] = []
        for number, answer in enumerate(guarded(pipe.execute)):
            now, found = json.loads(answer)
            first = self._since[number] is None
            for realm, run_id, ended in reversed(found or []):  # those of one millisecond in their order
                told.add((run_id, ended))
                if not first and (run_id, ended) not in self._told:
                    fresh.append((self._hosts[number][realm - 1], run_id))
            looked.append(now)  # what ends within this very millisecond is looked at again, and known then
        runs = sorted(sweep.load(self._ledger, fresh), key=lambda run: run.ended)
        self._since, self._told = looked, told
        return runs
