"""The failover worker's loop: look, ask the register, decide, act. It needs the sites and no Redis.

Invariant: whatever it knows besides the register may be lost at any time. It may be killed between any two acts, and
another one, or it itself anew, goes on from what is noted there.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from shared import topology
from shared.errors import HoldfastError
from shared.health.heard import Listening
from shared.observability.structured import structlog
from shared.topology.moves import enough, primaries_of
from shared.topology.notes import Phase
from workers.failover.hooks import run_after, run_before
from workers.failover.knowing import Knowing
from workers.failover.looks import Looks
from workers.failover.machine import Act, Make, phase_now
from workers.failover.pilot import Pilot
from workers.failover.rules import Rules
from workers.programs.program import ProgramFailed

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.watch import FleetWatch
    from shared.health.observation import Observation
    from shared.topology.register import Register, View
    from workers.failover.guards import Seen
    from workers.group import Asked

_REFUSED_FOR = 30.0  # seconds after a hook that forbade a change, until it is asked again

_log = structlog.get_logger("holdfast.failover")


def rules_of(fleet: Fleet) -> Rules:
    """The limits that the configuration sets."""
    said = fleet.failover
    return Rules(
        automatic=said.mode == "automatic",
        observers=said.observers,
        down_after=said.down_after,
        old=max(3 * said.interval, fleet.health.interval + fleet.health.timeout + 1.0),  # others look less often
        grace=said.grace,
        cool_down=said.cool_down,
        at_most=said.moves_per_hour,
        takes_over_after=max(10.0, 5 * said.interval) + 2 * said.hooks.timeout,
        fails_back=said.failback == "automatic",
    )


class FailoverWorker:
    """One. What other observers say comes by way of Redis, for as long as that is there."""

    def __init__(self, config: FleetWatch) -> None:
        self._config = config
        self._me = f"{socket.gethostname()}/{os.getpid()}/{os.urandom(3).hex()}"
        self._refused: dict[str, float] = {}
        self._told: dict[str, Phase] = {}
        self._begin()

    def run(self, asked: Asked) -> None:
        """Until asked to stop."""
        _log.info("failover worker up", name=self._me, place=self._looks.place)
        try:
            self._loop(asked)
        finally:
            self._end()

    def _loop(self, asked: Asked) -> None:
        while not asked.stop:
            began = time.monotonic()
            if self._config.check():
                self._end()
                self._begin()
            try:
                self.look(asked)
            except HoldfastError as error:
                _log.warning("this look came to nothing", reason=str(error))
            asked.wait(self._fleet.failover.interval - (time.monotonic() - began))

    def look(self, asked: Asked) -> None:
        """One look, and what follows of it."""
        found = self._look()
        if found is None:
            return
        seen, least = found
        self._tell(seen)
        for act in self._pilot.acts(seen):
            if asked.stop:
                return
            self._do(seen, act, least, asked)

    def _look(self) -> tuple[Seen, int] | None:
        """What is known now, and how many members are enough; None where nothing may be decided."""
        pilot = self._pilot
        observations = [*self._looks(), *self._listening.newest().values()]
        pilot.hear(observations, time.monotonic())
        view = self._register.look()
        if not view.voted:
            return None  # the scheduler has the sites vote for the first time
        if pilot.tend(self._register, view):
            view = self._register.look()
        least = enough(self._fleet, view.state)
        return (self._see(view, observations), least) if view.settled or least else None

    def _begin(self) -> None:
        self._fleet = fleet = self._config.fleet
        self._register: Register = topology.register(fleet)
        self._listening = Listening(fleet)
        self._listening.start()
        self._looks = Looks(fleet)
        self._knowing = Knowing(fleet)
        self._pilot = Pilot(self._me, self._looks.place, rules_of(fleet), clock=time.monotonic(), now=time.time())

    def _end(self) -> None:
        self._listening.stop()
        self._knowing.close()
        self._register.close()

    def _see(self, view: View, observations: Iterable[Observation]) -> Seen:
        working = {one.site for one in observations if one.verdict.works}
        suspected = {site for site in view.state.members if site not in working or self._pilot.down(site)}
        known = self._knowing.now(view.state, suspected, working)
        primaries = frozenset(primaries_of(self._fleet).values())
        return self._pilot.see(view.state, primaries, known, now=time.time(), clock=time.monotonic())

    def _tell(self, seen: Seen) -> None:
        for site in seen.state.keepers:
            phase = phase_now(site, seen)
            if phase is not self._told.get(site, Phase.HEALTHY):
                judged = seen.streak(site).judgement.value
                _log.warning("a site's state has changed", site=site, state=phase.value, judged=judged)
            self._told[site] = phase

    def _do(self, seen: Seen, act: Act, least: int, asked: Asked) -> None:
        if not isinstance(act, Make):
            self._pilot.carry_out(self._register, seen, act, clock=time.monotonic, least=least)
            return
        if time.monotonic() < self._refused.get(act.site, float("-inf")):
            return
        hooks = self._fleet.failover.hooks

        def look() -> None:
            if asked.stop:
                raise ProgramFailed("the failover worker was asked to stop")

        try:
            run_before(hooks, act, look)
        except ProgramFailed as error:
            self._refused[act.site] = time.monotonic() + _REFUSED_FOR
            _log.warning("the hook before a change of primary forbids it", site=act.site, reason=str(error))
            run_after(hooks, act, look, made=False)
            return
        if hooks.before is not None:  # it may have taken long: what was seen before it is no reason any more
            found = self._look()
            if found is None or act not in self._pilot.acts(found[0]):
                _log.warning("what was to be changed is no longer wanted", site=act.site)
                run_after(hooks, act, look, made=False)
                return
            seen, least = found
        made = self._pilot.carry_out(self._register, seen, act, clock=time.monotonic, least=least)
        if made:
            _log.warning("the primary has changed", move=act.what.value, site=act.site, to=act.to, reason=act.why)
        run_after(hooks, act, look, made=made)
