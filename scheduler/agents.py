"""Gives agents their users back when Redis has lost them, and takes away those of revoked ones.

Redis may be started anew without its users, or be another one: an agent then hears that its password is wrong, and goes
on trying. Who is enrolled stands at the sites (`shared.agents.register`), and passwords derive from the fleet's secret,
so nobody needs another token. What a scheduler remembers of the register counts for nothing where it would give rights:
it is read again first, as the host may have been revoked meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.agents import acl, enrolling, identity
from shared.errors import HoldfastError, StorageError
from shared.observability.structured import structlog

if TYPE_CHECKING:
    from shared.agents.register import Enrolment
    from shared.config.fleet import Fleet

_LOOK = 10.0  # seconds between looks at Redis's users
_READ = 300.0  # seconds between looks at the sites

_log = structlog.get_logger("holdfast.scheduler")


class AgentKeeper:
    """Looks in a thread of its own, one at a time, so that no site holds up a tick. Made before a fork."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float] = time.monotonic) -> None:
        self.fleet = fleet
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._next = 0.0
        self._read_at: float | None = None
        self._known: dict[str, Enrolment] = {}
        self._is_fresh = True  # a release may give other rights than the one before
        self._said = ""

    def __call__(self) -> None:
        """Begin a look where one is due."""
        if self._clock() < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        self._next = self._clock() + _LOOK
        self._thread = threading.Thread(target=self._look, name="agents", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """One look. Raises HoldfastError; what it could not do the next one does."""
        region = self.fleet.region()
        if region.broker is None and region.admin is None:
            return  # on a Redis of this machine's own (embedded) no agent is
        due = self._read_at is None or self._clock() - self._read_at >= _READ
        if due:
            self._read()
        if not self._known:
            return
        client = enrolling.admin_of(self.fleet)
        try:
            if due:
                acl.sweep_offers(client)
            missing, extra = self._differs(acl.agents(client))
            if not missing and not extra and not self._is_fresh:
                return
            self._read()
            missing, extra = self._differs(acl.agents(client))
            secret = self.fleet.secret.read()
            wanted = [host for host, one in self._known.items() if not one.revoked] if self._is_fresh else missing
            acl.set_agents(
                client, [(host, identity.redis_password(secret, host, self._known[host].generation)) for host in wanted]
            )
            self._is_fresh = False
            acl.remove_agents(client, extra)
            acl.save(client)
        finally:
            client.close()
        if missing:
            _log.info("agents have their users of Redis again", agents=len(missing))
        if extra:
            _log.info("users of revoked agents were removed from Redis", agents=len(extra))

    def _look(self) -> None:
        try:
            self.look()
        except HoldfastError as error:
            if str(error) != self._said:  # once, and not at each look
                _log.warning("agents' users of Redis can't be looked after", reason=str(error))
            self._said = str(error)
        else:
            self._said = ""

    def _read(self) -> None:
        known, failed = enrolling.known(self.fleet)
        if failed and not known:
            raise StorageError(f"nothing says which agents are enrolled: {failed[0].args[0]}", hint=failed[0].hint)
        self._known, self._read_at = known, self._clock()

    def _differs(self, users: set[str]) -> tuple[list[str], list[str]]:
        enrolled = {host for host, one in self._known.items() if not one.revoked}
        return sorted(enrolled - users), sorted(({*self._known} - enrolled) & users)
