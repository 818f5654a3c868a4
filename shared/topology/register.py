"""The register: one value that the members vote on, changed by a majority of them, read from as many as answer.

CASPaxos with passive acceptors: a round asks a majority to promise, takes the newest value that one of them accepted,
changes it, and has a majority accept the result. Invariants:

- What a majority accepted is found by every later round, whoever proposes, and is built upon.
- A change of the members needs a majority of the old ones and of the new ones.
- A member that has forgotten (its object gone, damaged, or older than one that was seen there) does not vote, until it
  is healed: by a round that so many of the others carried that every majority of all has one of them besides.
- All members are founded before there is a first value. So an object that is missing later is one that was lost.

Every step may be repeated. What ends in an error may have been decided or not: a change that says by its claimant that
it was made already is safe to be made again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.errors import ConfigError, StorageError
from shared.storage.api import MissingObject
from shared.topology.ballot import KEY, Ballot, Vote, VoteDamaged, decode, encode
from shared.topology.errors import NoMajority, NotAllAgree
from shared.topology.state import State

if TYPE_CHECKING:
    from shared.storage.api import ObjectStore
    from shared.topology.memory import Memory

ANSWER_WITHIN = 5.0  # seconds; a member that takes longer has not answered
_ROUNDS = 12
_PAUSE = 0.05  # seconds, at most, after a first round that another proposer was in the way of


class Standing(StrEnum):
    """How a member stands."""

    AGREES = "agrees"
    BEHIND = "behind"  # it missed the last change, and is told by the next
    BLANK = "blank"  # it was founded, and has accepted nothing yet
    ABSENT = "absent"  # nothing lies there
    FORGOT = "forgot"  # what lies there is damaged, or older than what was seen
    SILENT = "silent"  # it does not answer


_FORGETFUL = (Standing.ABSENT, Standing.FORGOT)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one member said. `version` is its object's; `error`: why it is silent, or has forgotten.

    `higher`: it refuses, as it has promised this one.
    """

    vote: Vote | None = None
    version: str = ""
    error: StorageError | None = None
    higher: Ballot | None = None

    @property
    def is_silent(self) -> bool:
        """Whether nobody knows what it holds."""
        return self.error is not None and not isinstance(self.error, MissingObject | VoteDamaged)


@dataclass(frozen=True, slots=True)
class View:
    """What one look at all members found. `settled`: a majority holds this very state, or as many as a person said.

    `voted`: there is a first value, at a member or in what this machine remembers.
    """

    state: State
    settled: bool
    voted: bool
    standing: Mapping[str, Standing]
    errors: Mapping[str, StorageError]


def _some_of(seconds: float) -> None:
    time.sleep(random.SystemRandom().uniform(0, seconds))


class Register:
    """For one thread at a time. `members`: those of the configuration, which count until there is a first value.

    `witnesses` of them keep no copies.
    """

    def __init__(
        self,
        members: Iterable[str],
        open_member: Callable[[str], ObjectStore],
        secret: bytes,
        memory: Memory,
        *,
        witnesses: Iterable[str] = (),
        answer_within: float = ANSWER_WITHIN,
        threads: Executor | None = None,
        pause: Callable[[float], None] = _some_of,
    ) -> None:
        self.configured = tuple(sorted(members))
        self._witnesses = tuple(sorted(witnesses))
        self._open = open_member
        self._secret = secret
        self._memory = memory
        self._within = answer_within
        self._who = os.urandom(8).hex()
        self._above = Ballot()
        self._owed: dict[str, Future[Answer]] = {}
        self._stores: dict[str, ObjectStore] = {}
        # A member that hangs keeps its thread until its store gives up.
        self._threads = threads or ThreadPoolExecutor(16, thread_name_prefix="register")
        self._pause = pause

    def close(self) -> None:
        """Give up connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    # -- looking ------------------------------------------------------------------------------------

    def look(self) -> View:
        """Ask every member once. Raises nothing that a member says; a fleet that never voted is at epoch 0."""
        answers = self._ask(self._known())
        newest = _newest(answers.values())
        if newest is None:
            state = self._memory.state or self._first()
            settled = self._memory.state is None and all(
                isinstance(one.error, MissingObject) for one in answers.values()
            )
        else:
            state = newest.state or State()
            holding = [name for name in state.members if _accepted(answers.get(name)) == newest.accepted]
            settled = len(holding) >= (newest.least or _majority(state.members))
        standing = {name: _standing(answers.get(name), newest) for name in state.members}
        errors = {name: one.error for name, one in answers.items() if one.error is not None}
        promised = {name: one.vote.promised for name, one in answers.items() if one.vote}
        self._memory.note(promised, state if settled and newest else None, standing)
        return View(state, settled, newest is not None or self._memory.state is not None, standing, errors)

    def every(self) -> State:
        """What every member agrees on: what deletes need. Raises NotAllAgree, which names those that do not."""
        view = self.look()
        others = {name: how for name, how in view.standing.items() if how is not Standing.AGREES}
        never = set(view.standing.values()) == {Standing.ABSENT} and self._memory.state is None
        if others and not never:
            raise NotAllAgree(others, view.errors)
        return view.state

    # -- changing -----------------------------------------------------------------------------------

    def change(self, apply: Callable[[State], State], *, least: int = 0) -> State:
        """Change the value: `apply` is given what was decided, and may give it back as it is, or raise.

        `least`: so many members are enough, where a person has said so. Raises NoMajority; what `apply` raises.
        """
        return self._until_decided(lambda: self._round(apply, least))

    def _until_decided(self, turn: Callable[[], State | None]) -> State:
        lately: NoMajority | None = None
        for number in range(_ROUNDS):
            try:
                decided = turn()
            except NoMajority as error:
                if not error.contended:
                    raise
                lately = error
            else:
                if decided is not None:
                    return decided
            self._pause(_PAUSE * 2 ** min(number, 5))
        raise lately or NoMajority(self.configured, {}, contended=True)

    def settle(self) -> State:
        """Have every member that answers hold what was decided, also one that forgot. Raises NoMajority.

        Of an even number half is enough for that where all others have forgotten: each majority that there was had one
        of these besides, and so had each promise.
        """
        standing = self.look().standing
        others = frozenset(name for name, how in standing.items() if how not in _FORGETFUL)
        if len(others) < len(standing) and len(others) == _enough_to_heal(standing):
            self._until_decided(lambda: self._round(lambda state: state, 0, others))
            self._heal()
        state = self.change(lambda state: state)
        self._heal()
        return state

    def _round(self, apply: Callable[[State], State], least: int, among: frozenset[str] = frozenset()) -> State | None:
        """One round; None: the members are others by now. `among`: just these are needed, and all of them."""
        answers = self._ask(self._known())
        newest = _newest(answers.values())
        members = newest.state.members if newest and newest.state else self.configured
        if newest is None:
            self._found(members, answers, least)
        highest = max(
            [self._memory.highest(), self._above, *(one.vote.promised for one in answers.values() if one.vote)]
        )
        ballot = Ballot(highest.number + 1, f"{self._who}.{os.urandom(4).hex()}")
        promised = self._each(members, lambda name: self._write(name, lambda vote: vote.promise(ballot)))
        self._need(members, promised, least, among)
        found = _newest(promised.values())
        state = found.state if found and found.state else self._first()
        if state.members != members:
            return None  # the members are others by now: a round among these
        wanted = apply(state)
        asked = sorted({*members, *wanted.members})
        if not self._welcome(set(asked) - set(members), ballot):
            return None
        accepted = self._each(asked, lambda name: self._write(name, lambda vote: vote.accept(ballot, wanted, least)))
        self._need(members, accepted, least, among)
        self._need(wanted.members, accepted, least, among)
        self._memory.note({name: ballot for name, one in accepted.items() if one.vote}, wanted)
        return wanted

    def _need(self, members: tuple[str, ...], answers: Mapping[str, Answer], least: int, among: frozenset[str]) -> None:
        given = {name for name in members if answers[name].vote is not None}
        if not among <= given or (not among and len(given) < (least or _majority(members))):
            errors = {name: error for name in members if (error := answers[name].error) is not None}
            raise NoMajority(members, errors, contended=len(given) + len(errors) < len(members))

    def _write(self, name: str, next_vote: Callable[[Vote], Vote | None]) -> Answer:
        """Bring one member forward. An answer without vote and error is a refusal: it has promised a higher ballot."""
        for _ in range(_ROUNDS):
            answer = self._read(name)
            if answer.vote is None:
                return answer
            wanted = next_vote(answer.vote)
            if wanted is None:
                return Answer(higher=answer.vote.promised)
            if wanted == answer.vote:
                return answer  # our own write, of which the answer was lost
            try:
                if self._store(name).compare_and_swap(KEY, encode(self._secret, wanted), version=answer.version):
                    return replace(answer, vote=wanted)
            except StorageError as error:
                return Answer(error=error)
        return Answer()

    # -- founding and healing -------------------------------------------------------------------------

    def _found(self, members: tuple[str, ...], answers: Mapping[str, Answer], least: int) -> None:
        """Put a blank vote at each member: before all have one there is no first value, unless a person says so.

        Raises NoMajority.
        """
        errors = {name: answers[name].error for name in members}
        if self._memory.state is not None:
            raise NoMajority(members, errors)
        if not least and any(answers[name].is_silent for name in members):
            raise NoMajority(members, errors, founding=True)
        for name in members:
            if isinstance(answers[name].error, MissingObject):
                self._found_one(name)
        errors = {name: one.error for name, one in self._each(members, self._read).items()}
        if not least and any(error and not isinstance(error, VoteDamaged) for error in errors.values()):
            raise NoMajority(members, errors, founding=True)

    def _found_one(self, name: str) -> None:
        with suppress(StorageError, ConfigError):  # a round finds out who is there
            self._store(name).put_if_absent(KEY, encode(self._secret, Vote()))

    def _welcome(self, names: Iterable[str], ballot: Ballot) -> bool:
        """Have those that are to join drop what they hold of another time, which was decided by others.

        Else it would be the newest value, once they are members. False: one has promised more, and the next round is
        to begin above that.
        """
        for name in names:
            self._found_one(name)
        answers = self._each(
            names, lambda name: self._write(name, lambda vote: Vote(ballot) if ballot > vote.promised else None)
        )
        self._above = max([self._above, *(one.higher for one in answers.values() if one.higher)])
        return not any(one.higher for one in answers.values())

    def _heal(self) -> None:
        """Write what was decided to the members that have forgotten: enough of the others hold it by now.

        Whoever was promised something by a forgotten vote is refused by one of these. One that another has healed
        meanwhile may have promised more since, and is left as it is.
        """
        answers = self._ask(self._known())
        newest = _newest(answers.values())
        if newest is None or newest.state is None or newest.accepted is None:
            return
        holding = [name for name in newest.state.members if _accepted(answers.get(name)) == newest.accepted]
        if len(holding) < _enough_to_heal(newest.state.members):
            return
        for name in newest.state.members:
            answer = answers[name]
            vote, store = encode(self._secret, newest), self._stores.get(name)
            if store is None or _standing(answer, newest) not in _FORGETFUL:
                continue
            with suppress(StorageError):
                if isinstance(answer.error, MissingObject):
                    store.put_if_absent(KEY, vote)
                else:
                    raw, version = store.get_versioned(KEY)
                    if self._promises(raw, newest.promised):
                        continue
                    store.compare_and_swap(KEY, vote, version=version)
                self._memory.note({name: newest.promised}, newest.state)

    def _promises(self, raw: bytes, ballot: Ballot) -> bool:
        try:
            return decode(self._secret, raw, "").promised >= ballot
        except VoteDamaged:
            return False

    # -- asking -------------------------------------------------------------------------------------

    def _first(self) -> State:
        return State(members=self.configured, witnesses=self._witnesses)

    def _known(self) -> tuple[str, ...]:
        return self._memory.state.members if self._memory.state else self.configured

    def _ask(self, names: Iterable[str]) -> dict[str, Answer]:
        """All of them, and those besides that the newest value among them names."""
        answers = self._each(names, self._read)
        while True:
            newest = _newest(answers.values())
            more = set(newest.state.members if newest and newest.state else ()) - answers.keys()
            if not more:
                return answers
            answers |= self._each(more, self._read)

    def _each(self, names: Iterable[str], work: Callable[[str], Answer]) -> dict[str, Answer]:
        """Have each member answer, in time. Who still owes an answer to an earlier question is not waited for again."""
        waiting: dict[str, Future[Answer]] = {}
        late = Answer(error=StorageError(f"no answer within {self._within:.0f} s"))
        answers = {}
        for name in names:
            if (owed := self._owed.get(name)) is not None and not owed.done():
                answers[name] = late
            else:
                waiting[name] = self._owed[name] = self._threads.submit(work, name)
        wait(waiting.values(), self._within)
        return answers | {name: one.result() if one.done() else late for name, one in waiting.items()}

    def _read(self, name: str) -> Answer:
        try:
            store = self._store(name)
            raw, version = store.get_versioned(KEY)
            vote = decode(self._secret, raw, store.url)
        except StorageError as error:
            return Answer(error=error)
        except ConfigError as error:  # this machine's file does not know it, or what opens it
            return Answer(error=StorageError(f"site {name} can't be asked: {error.args[0]}", hint=error.hint))
        if vote.promised < self._memory.seen(name):
            return Answer(error=VoteDamaged(f"the topology at {store.url} ({KEY}) is older than it was"))
        return Answer(vote, version)

    def _store(self, name: str) -> ObjectStore:
        if name not in self._stores:
            self._stores[name] = self._open(name)
        return self._stores[name]


def _standing(answer: Answer | None, newest: Vote | None) -> Standing:
    if answer is None or answer.is_silent:
        return Standing.SILENT
    if isinstance(answer.error, MissingObject):
        return Standing.ABSENT
    if answer.vote is None:
        return Standing.FORGOT
    if answer.vote.accepted is None:
        return Standing.BLANK
    return Standing.AGREES if newest and answer.vote.accepted == newest.accepted else Standing.BEHIND


def _majority(members: Iterable[str]) -> int:
    return len(tuple(members)) // 2 + 1


def _enough_to_heal(members: Iterable[str]) -> int:
    """So many that every majority of all has one of them, though all others forgot: of an even number the half."""
    count = len(tuple(members))
    return count - count // 2


def _accepted(answer: Answer | None) -> Ballot | None:
    return answer.vote.accepted if answer and answer.vote else None


def _newest(answers: Iterable[Answer]) -> Vote | None:
    """The vote that was accepted last."""
    votes = [one.vote for one in answers if one.vote is not None and one.vote.accepted is not None]
    return max(votes, key=lambda vote: vote.accepted or Ballot(), default=None)
