"""The failover worker's loop: look, ask the register, decide, act. It needs the sites and no Redis.

Invariant: whatever it knows besides the register may be lost at any time. It may be killed between any two acts, and
another one, or it itself anew, goes on from what is noted there.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from shared import topology
from shared.errors import HoldfastError
from shared.observability.structured import structlog
from shared.topology.moves import primaries_of
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

Heard = Callable[[], Iterable["Observation"]]

_log = structlog.get_logger("holdfast.failover")


def rules_of(fleet: Fleet) -> Rules:
    """The limits that the configuration sets."""
    said = fleet.failover
    return Rules(
        automatic=said.mode == "automatic",
        observers=said.observers,
        down_after=said.down_after,
        old=max(5.0, 3 * said.interval),
        grace=said.grace,
        cool_down=said.cool_down,
        at_most=said.moves_per_hour,
        takes_over_after=max(10.0, 5 * said.interval) + 2 * said.hooks.timeout,
        fails_back=said.failback == "automatic",
    )


def least_of(fleet: Fleet, view: View) -> int:
    """How many members are enough: 1 of two sites without a witness, where the configuration says so; 0: a majority."""
    two = len(view.state.members) == 2 and not view.state.witnesses
    return 1 if two and fleet.promote_without_majority else 0


class FailoverWorker:
    """One. `heard`: what other observers have said lately."""

    def __init__(self, config: FleetWatch, heard: Heard = lambda: ()) -> None:
        self._config = config
        self._heard = heard
        host = socket.gethostname()
        self._place = host
        self._me = f"{host}/{os.getpid()}/{os.urandom(3).hex()}"
        self._refused: dict[str, float] = {}
        self._told: dict[str, Phase] = {}
        self._begin()

    def run(self, asked: Asked) -> None:
        """Until asked to stop."""
        _log.info("failover worker up", name=self._me, place=self._place)
        try:
            self._loop(asked)
        finally:
            self._register.close()

    def _loop(self, asked: Asked) -> None:
        while not asked.stop:
            began = time.monotonic()
            if self._config.check():
                self._register.close()
                self._begin()
            try:
                self.look(asked)
            except HoldfastError as error:
                _log.warning("this look came to nothing", reason=str(error))
            asked.wait(self._fleet.failover.interval - (time.monotonic() - began))

    def look(self, asked: Asked) -> None:
        """One look, and what follows of it."""
        pilot = self._pilot
        observations = [*self._looks(self._fleet), *self._heard()]
        pilot.hear(observations, time.monotonic())
        view = self._register.look()
        if not view.voted:
            return  # the scheduler has the sites vote for the first time
        if pilot.tend(self._register, view):
            view = self._register.look()
        least = least_of(self._fleet, view)
        if not (view.settled or least):
            return
        seen = self._see(view, observations)
        self._tell(seen)
        for act in pilot.acts(seen):
            if asked.stop:
                return
            self._do(seen, act, least, asked)

    def _begin(self) -> None:
        self._fleet = fleet = self._config.fleet
        self._register: Register = topology.register(fleet)
        self._looks = Looks(self._me, self._place, max(1.0, fleet.failover.interval))
        self._knowing = Knowing(fleet)
        self._pilot = Pilot(self._me, self._place, rules_of(fleet), clock=time.monotonic(), now=time.time())

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
        made = self._pilot.carry_out(self._register, seen, act, clock=time.monotonic, least=least)
        if made:
            _log.warning("the primary has changed", move=act.what.value, site=act.site, to=act.to, reason=act.why)
        run_after(hooks, act, look, made=made)
