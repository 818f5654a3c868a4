"""The failover's machine: what is to be done about a site, from all that is known. Pure.

    phase           | goes to         | when
    healthy         | promoting       | it is a primary, it is down, no guard objects, somebody fit can take its place
                    | proposed        | the same, in mode `propose`
                    | blocked         | the same, and a guard objects, or nobody is fit: the note says why
                    | failed over     | another stands in for it: a person has done it
    blocked,        | promoting       | nothing objects any more (proposed: a person has said yes)
    proposed        | healthy         | it works again, or is no primary any more
                    | failed over     | another stands in for it
    promoting       | (the move)      | nothing objects still; made with the epoch that was gone by
                    | failed over     | another stands in for it: the move was made, by whomever
                    | blocked         | something objects now
                    | healthy         | it works again, or is no primary any more
    failed over     | catching up     | it works again, for a while
                    | healthy         | nobody stands in for it any more: a person has given it back
    catching up     | ready           | neither it nor its stand-in lacks anything
                    | failed over     | it is down again
                    | healthy         | nobody stands in for it any more
    ready           | switching back  | the configuration lets it, now
                    | catching up     | one lacks something again
                    | failed over     | it is down again
                    | healthy         | nobody stands in for it any more
    switching back  | (the move)      | neither lacks anything still
                    | healthy         | nobody stands in for it any more: the move was made
                    | ready           | it is down, or one lacks something

`suspect` is what a healthy one is called while it is down and not for long enough.

A step gives one act at most: to note something, if the note is still the one that was gone by, or to make a move, if
the epoch still is. So it may be broken off between any two acts, and whoever goes on, anywhere, goes on from the
register; two that act at once do what one does. Who is about to move is named in the note, and left alone for a while:
that saves doing things twice (hooks), and nothing else rests on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared.topology.moves import What
from shared.topology.notes import Note, Phase, note_of
from workers.failover import guards
from workers.failover.judge import Judgement

if TYPE_CHECKING:
    from workers.failover.guards import Seen
    from workers.failover.rules import Rules


@dataclass(frozen=True, slots=True)
class Write:
    """Note this of a site, where `before` is what is noted still."""

    site: str
    before: Note
    after: Note


@dataclass(frozen=True, slots=True)
class Make:
    """Make this change of primary, where the epoch is the one that was gone by."""

    what: What
    site: str
    to: str
    why: str
    note: Note


Act = Write | Make


def step(site: str, seen: Seen, rules: Rules, me: str) -> Act | None:
    """What `me`, a failover worker, is to do about a site now; None: nothing."""
    return _STEPS[note_of(seen.state, site).phase](_Step(site, seen, rules, me))


def phase_now(site: str, seen: Seen) -> Phase:
    """Where a site stands, for people: as noted, and `suspect` where it is down without a note."""
    phase = note_of(seen.state, site).phase
    down = seen.streak(site).judgement is Judgement.DOWN
    return Phase.SUSPECT if phase is Phase.HEALTHY and down and _is_primary(site, seen) else phase


def _is_primary(site: str, seen: Seen) -> bool:
    return site in {seen.state.primary(one) for one in seen.primaries}


class _Step:
    """One look at one site."""

    def __init__(self, site: str, seen: Seen, rules: Rules, me: str) -> None:
        self.site, self.seen, self.rules, self.me = site, seen, rules, me
        self.note = note_of(seen.state, site)
        self.stand_in = seen.state.stand_ins.get(site, "")

    # -- what is so -------------------------------------------------------------------------------

    @property
    def is_down(self) -> bool:
        return self.seen.streak(self.site).judgement is Judgement.DOWN

    @property
    def works_again(self) -> bool:
        streak = self.seen.streak(self.site)
        return streak.judgement is Judgement.WORKS and self.seen.clock - streak.since >= self.rules.back_after

    @property
    def is_anothers(self) -> bool:
        """Whether somebody else has noted it, lately: who sees things otherwise does not at once undo that."""
        met = self.seen.met.get(self.site, self.seen.clock)
        return self.note.by not in {"", self.me} and self.seen.clock - met < self.rules.takes_over_after

    def waits(self) -> bool:
        """Whether this worker is to wait, and may be the only one."""
        return any(guard(self.site, self.seen, self.rules) for guard in guards.OURS)

    def objection(self) -> str:
        """Why nothing may be done now, by anybody; empty where it may."""
        return next((why for guard in guards.ALL if (why := guard(self.site, self.seen, self.rules))), "")

    def successor(self, word: bool) -> tuple[str, str]:
        """Who is to take its place, and why nobody is. `word`: a person has accepted what is lost."""
        whys = []
        for to in sorted(self.seen.state.keepers, key=lambda one: (len(self._behind(one)), one)):
            if to == self.site:
                continue
            why = guards.unfit(self.site, to, self.seen, self.rules)
            why = why or ("" if word else guards.too_far_behind(self.site, to, self.seen, self.rules))
            if not why:
                return to, ""
            whys.append(why)
        return "", "; ".join(whys) or "no other site keeps copies"

    def _behind(self, to: str) -> tuple[str, ...]:
        return self.seen.behind.get((self.site, to), ("not known",))

    # -- what is to be done -----------------------------------------------------------------------

    def write(self, phase: Phase, **more: object) -> Write | None:
        """Note a phase, unless the same is noted already, by whomever."""
        kept = {"by": self.me, "since": self.seen.now, "maintenance_until": self.note.maintenance_until}
        after = Note(phase, **{**kept, **more}, turn=self.note.turn + 1)  # type: ignore[arg-type]
        same = replace(after, by=self.note.by, since=self.note.since, turn=self.note.turn) == self.note
        return None if same else Write(self.site, self.note, after)

    def come_down(self) -> Act | None:
        """What a primary that is down comes to: promoting, proposed, blocked; healthy where it is none of that."""
        works = self.seen.streak(self.site).judgement is Judgement.WORKS
        if works or not _is_primary(self.site, self.seen):
            return self.write(Phase.HEALTHY)
        if self.waits():
            return None
        note, why = self.note, self.objection()
        to, nobody = ("", "") if why else self.successor(word=False)
        # A yes is one to just what was noted then: this loss, or this successor.
        word = note.accepted and note.why == nobody if nobody else note.accepted and note.to == to
        if nobody and word:
            to, nobody = self.successor(word=True)
        if why or nobody:
            return self.write(Phase.BLOCKED, why=why or nobody)
        if not (self.rules.automatic or word):
            return self.write(Phase.PROPOSED, to=to, why=f"site {self.site} is down")
        return self.take_on(to, word)

    def take_on(self, to: str, word: bool) -> Act:
        """Be about it, oneself."""
        why = f"site {self.site} is down"
        fields = {"since": self.seen.now, "maintenance_until": self.note.maintenance_until, "turn": self.note.turn + 1}
        return Write(
            self.site,
            self.note,
            Note(Phase.PROMOTING, to, self.me, why=why, accepted=word, **fields),  # type: ignore[arg-type]
        )


def _healthy(at: _Step) -> Act | None:
    if at.stand_in:
        return at.write(Phase.FAILED_OVER, to=at.stand_in)
    return at.come_down()


def _waiting(at: _Step) -> Act | None:
    if at.stand_in:
        return at.write(Phase.FAILED_OVER, to=at.stand_in)
    return None if at.is_anothers and not at.note.accepted else at.come_down()


def _promoting(at: _Step) -> Act | None:
    note = at.note
    if at.stand_in:
        return at.write(Phase.FAILED_OVER, to=at.stand_in, why=note.why)
    if at.is_anothers:
        return None
    if not at.is_down or not _is_primary(at.site, at.seen):
        return at.come_down()
    if at.waits():
        return None
    objection = at.objection() or guards.unfit(at.site, note.to, at.seen, at.rules)
    if not (objection or note.accepted):
        objection = guards.too_far_behind(at.site, note.to, at.seen, at.rules)
    if objection:
        return at.come_down()
    if note.by != at.me:
        return at.take_on(note.to, note.accepted)
    return Make(What.FAILOVER, at.site, note.to, note.why, note)


def _failed_over(at: _Step) -> Act | None:
    if not at.stand_in:
        return at.write(Phase.HEALTHY)
    if at.is_anothers or not at.works_again:
        return None
    return at.write(Phase.CATCHING_UP, to=at.stand_in)


def _catching_up(at: _Step) -> Act | None:
    if not at.stand_in:
        return at.write(Phase.HEALTHY)
    if at.is_anothers:
        return None
    if at.is_down:
        return at.write(Phase.FAILED_OVER, to=at.stand_in)
    return at.write(Phase.READY, to=at.stand_in) if at.seen.alike.get(at.site) else None


def _ready(at: _Step) -> Act | None:
    if not at.stand_in:
        return at.write(Phase.HEALTHY)
    if at.is_anothers:
        return None
    if at.is_down:
        return at.write(Phase.FAILED_OVER, to=at.stand_in)
    if not at.seen.alike.get(at.site):
        return at.write(Phase.CATCHING_UP, to=at.stand_in)
    return at.write(Phase.SWITCHING_BACK, to=at.stand_in) if _may_go_back(at) else None


def _switching_back(at: _Step) -> Act | None:
    if not at.stand_in:
        return at.write(Phase.HEALTHY)
    if at.is_anothers:
        return None
    if not (at.works_again and at.seen.alike.get(at.site) and _may_go_back(at)):
        return at.write(Phase.READY, to=at.stand_in)
    if at.note.by != at.me:
        return Write(at.site, at.note, replace(at.note, by=at.me, since=at.seen.now, turn=at.note.turn + 1))
    return Make(What.FAILBACK, at.site, "", f"site {at.site} has all that {at.stand_in} has", at.note)


def _may_go_back(at: _Step) -> bool:
    """What forbids a failover forbids a switch back by itself, but for the site's being down."""
    asked = [guard for guard in (*guards.OURS, *guards.ALL) if guard is not guards.not_long_enough]
    return at.seen.back_at and not any(guard(at.site, at.seen, at.rules) for guard in asked)


_STEPS: dict[Phase, Callable[[_Step], Act | None]] = {
    Phase.HEALTHY: _healthy,
    Phase.SUSPECT: _healthy,
    Phase.BLOCKED: _waiting,
    Phase.PROPOSED: _waiting,
    Phase.PROMOTING: _promoting,
    Phase.FAILED_OVER: _failed_over,
    Phase.CATCHING_UP: _catching_up,
    Phase.READY: _ready,
    Phase.SWITCHING_BACK: _switching_back,
}
