"""One failover worker's mind: what it remembers from look to look, and how it carries out an act.

It asks nothing and waits for nothing, but for the register; what it needs to know it is given. So the same code flies
under the worker's loop and under the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.observability.structured import structlog
from shared.topology.errors import MoveRefused, NoMajority, StaleEpoch
from shared.topology.moves import Move, carry_out, new_claim
from shared.topology.notes import Note, Orders, note_of, orders_of, with_note
from shared.topology.register import Standing
from workers.failover.guards import Seen
from workers.failover.judge import Heard, Judgement, Streak, clock_is_off, is_fresh, judge, tells_our_time
from workers.failover.machine import Act, Make, step

if TYPE_CHECKING:
    from shared.health.observation import Observation
    from shared.topology.register import Register, View
    from shared.topology.state import State
    from workers.failover.rules import Rules

JUMP = 5.0  # seconds by which the wall's clock may go apart from our own between two looks

_log = structlog.get_logger("holdfast.failover")


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What only a look at the sites says. `behind`, `alike`, `back_at`: see `Seen`."""

    behind: Mapping[tuple[str, str], tuple[str, ...]]
    alike: Mapping[str, bool]
    back_at: bool = False


def decided_long_ago(age: float, rules: Rules) -> bool:
    """Whether who decided has slept since: what was seen then says nothing of now, though the epoch is the same."""
    return age > rules.old


def is_overtaken(state: State, site: str, note: Note, orders: Orders) -> bool:
    """Whether somebody has noted or ordered something else since: that raises no epoch."""
    return note_of(state, site) != note or orders_of(state) != orders


@dataclass(frozen=True)
class _Timely(Move):
    """A move that holds only for a moment, and for what was noted when it was decided on; asked at each round."""

    note: Note = field(default_factory=Note)
    orders: Orders = field(default_factory=Orders)
    age: Callable[[], float] = lambda: 0.0
    rules: Rules | None = None

    def __call__(self, state: State) -> State:
        made = self.claim in {one.epoch.claimant for one in state.history}
        if not made and self.rules is not None and decided_long_ago(self.age(), self.rules):
            raise StaleEpoch("nothing was changed: it was decided too long ago", hint="The next look decides anew")
        if not made and is_overtaken(state, self.site, self.note, self.orders):
            raise StaleEpoch("nothing was changed: somebody was faster", hint="The next look decides anew")
        return Move.__call__(self, state)


class Pilot:
    """`me`: this worker, by a name that no other has, nor had; `place`: where it is. Seconds of both clocks."""

    def __init__(self, me: str, place: str, rules: Rules, *, clock: float, now: float) -> None:
        self.me = me
        self.place = place
        self._rules = rules
        self._began = clock
        self._before = (now, clock)
        self._jumped = float("-inf")
        self._heard: dict[tuple[str, str], Heard] = {}  # by observer and site
        self._streaks: dict[str, Streak] = {}
        self._met: dict[object, float] = {}
        self._seen: dict[object, object] = {}  # what `_met` is about, as it was
        self._looked = False

    def hear(self, observations: Iterable[Observation], clock: float) -> None:
        """Take in what came. One that is no newer than what its observer said before is nothing new."""
        for one in observations:
            before = self._heard.get((one.observer, one.site))
            if before is None or one.at != before.what.at:
                self._heard[one.observer, one.site] = Heard(one, clock)

    def see(self, state: State, primaries: frozenset[str], known: Knowledge, *, now: float, clock: float) -> Seen:
        """All that is known now."""
        wall, own = self._before
        self._before = (now, clock)
        if abs((now - wall) - (clock - own)) > JUMP:
            self._jumped = clock
            self._streaks.clear()
        if clock - own > self._rules.old:  # frozen, or the register could not be read: nobody looked meanwhile
            self._streaks.clear()
        self._heard = {name: one for name, one in self._heard.items() if is_fresh(one, clock, self._rules.old)}
        found = judge(self._heard.values(), state.members, self._rules, now, clock)
        self._streaks = {
            site: self._streaks.get(site, Streak()).after(judgement, clock) for site, judgement in found.items()
        }
        self._meet(state, clock)
        return Seen(
            state=state,
            now=now,
            clock=clock,
            primaries=primaries,
            streaks=dict(self._streaks),
            behind=known.behind,
            alike=known.alike,
            began=self._began,
            jumped=self._jumped,
            off=clock_is_off(self._heard.values(), self.place, self._rules, now, clock),
            confirmed=self._is_confirmed(now, clock),
            met=dict(self._met),
            back_at=known.back_at,
        )

    def tend(self, register: Register, view: View) -> bool:
        """Have members that forgot, or missed something, hold what was decided: a site less to be without."""
        if all(how in {Standing.AGREES, Standing.SILENT} for how in view.standing.values()):
            return False
        try:
            register.settle()
        except NoMajority as error:
            _log.warning("members that have forgotten can't be told", reason=str(error))
            return False
        return True

    def acts(self, seen: Seen) -> list[Act]:
        """What is to be done now, one thing a site at most."""
        found = (step(site, seen, self._rules, self.me) for site in seen.state.members)
        return [act for act in found if act is not None]

    def carry_out(
        self, register: Register, seen: Seen, act: Act, *, clock: Callable[[], float], least: int = 0
    ) -> bool:
        """Do it; False where it was not to be: others were faster, or no majority answers. The next look tells."""
        try:
            if isinstance(act, Make):
                move = _Timely(
                    act.what,
                    act.site,
                    act.to,
                    by=self.me,
                    why=act.why,
                    behind="; ".join(seen.behind.get((act.site, act.to), ())),
                    primaries=seen.primaries,
                    agreed=seen.state.epoch,
                    at=seen.now,
                    claim=new_claim(self.me),
                    note=act.note,
                    orders=orders_of(seen.state),
                    age=lambda: clock() - seen.clock,
                    rules=self._rules,
                )
                carry_out(register, move, least=least)
            else:
                register.change(lambda state: with_note(state, act.site, act.before, act.after), least=least)
        except (MoveRefused, StaleEpoch, NoMajority) as error:
            _log.warning("nothing was changed", site=act.site, reason=str(error))
            return False
        return True

    def down(self, site: str) -> bool:
        """Whether a site is down, as far as is known."""
        return self._streaks.get(site, Streak()).judgement is Judgement.DOWN

    def _is_confirmed(self, now: float, clock: float) -> bool:
        """Whether another place is heard of whose clock says what ours does."""
        others = (one for one in self._heard.values() if one.what.place != self.place)
        return any(
            is_fresh(one, clock, self._rules.old) and tells_our_time(one, now, self._rules.old) for one in others
        )

    def _meet(self, state: State, clock: float) -> None:
        """Note when each note and each change came. Of what stood at the first look, nobody here knows since when."""
        about: dict[object, object] = {change.epoch: True for change in state.history}
        notes: dict[object, object] = {site: note_of(state, site) for site in state.members}
        for thing, what in (*about.items(), *notes.items()):
            if thing not in self._seen or self._seen[thing] != what:
                self._seen[thing] = what
                if self._looked or thing not in about:
                    self._met[thing] = clock
        for thing in self._seen.keys() - about.keys() - notes.keys():
            del self._seen[thing]
            self._met.pop(thing, None)
        self._looked = True
