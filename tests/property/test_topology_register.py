"""The members decide one thing after the other, whoever asks, dies or does not answer meanwhile."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from shared.topology.errors import NoMajority, NotAllAgree
from shared.topology.memory import Memory
from shared.topology.register import Register, Standing
from shared.topology.state import Change, Epoch, State
from tests.support.voting import Died, MemberStore, register_of

NAMES = ["a", "b", "c", "d", "e"]
SEEDS = 100


class World:
    """Some members and three proposers. What a proposer was told is decided is in `told`."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.members = NAMES[: self.draw.choice([1, 2, 3, 3, 5])]
        self.stores = {name: MemberStore(name, self.trouble) for name in NAMES}
        self.registers = [self._proposer() for _ in range(3)]
        self.told: list[tuple[str, ...]] = []
        self.busy: set[int] = set()
        self.calm = False
        self.claims = 0

    def _proposer(self) -> Register:
        return register_of(self.stores, self.members, Memory())

    def trouble(self, _what: str) -> str:
        """What befalls an operation; before it another proposer may do something."""
        if self.calm:
            return ""
        idle = [number for number in range(len(self.registers)) if number not in self.busy]
        if idle and self.draw.random() < 0.04:
            self.propose(self.draw.choice(idle))
        return self.draw.choices(["", "fails", "answer lost", "dies", "dies after"], [200, 6, 6, 1, 1])[0]

    def propose(self, number: int) -> None:
        """One change by one proposer."""
        self.busy.add(number)
        self.claims += 1
        claimant = f"{number}-{self.claims}"

        def apply(state: State) -> State:
            if claimant in (change.epoch.claimant for change in state.history):
                return state
            made = Change(Epoch(state.epoch.number + 1, claimant), 0.0, "promote", "", "")
            return state.promote(self.members[0], self.members[-1], made)

        try:
            state = self.registers[number].change(apply)
            self.told.append(tuple(change.epoch.claimant for change in state.history))
        except NoMajority:
            pass
        except Died:
            self.registers[number] = self._proposer()  # its memory is lost, too
        finally:
            self.busy.discard(number)


def test_every_decision_stands_in_every_later_one() -> None:
    """Lost answers, deaths at any operation, proposers in between: the decisions are one row."""
    decided = 0
    for seed in range(SEEDS):
        world = World(seed)
        for _ in range(12):
            world.propose(world.draw.randrange(3))
        world.calm = True
        world.propose(0)
        assert world.told, seed
        rows = sorted(world.told, key=len)
        for shorter, longer in pairwise(rows):
            assert longer[: len(shorter)] == shorter, seed
        decided += len(rows)
    assert decided > 4 * SEEDS


def test_a_member_that_forgets_takes_no_decision_back() -> None:
    """One member of three at a time loses its object, or has an old one: found out, kept from voting, healed."""
    found = healed = 0
    for seed in range(40):
        draw = random.Random(seed)
        stores = {name: MemberStore(name) for name in NAMES[:3]}
        register = register_of(stores, NAMES[:3], Memory())
        row: list[str] = []
        for number in range(8):
            claimant = f"c{number}"
            state = register.change(
                lambda state, claimant=claimant: state.promote(
                    "a", "b", Change(Epoch(state.epoch.number + 1, claimant), 0.0, "promote", "", "")
                )
            )
            row.append(claimant)
            assert [change.epoch.claimant for change in state.history] == row, seed
            victim = stores[draw.choice(NAMES[:3])]
            victim.forget(draw)
            view = register.look()
            forgot = [name for name, how in view.standing.items() if how in (Standing.FORGOT, Standing.ABSENT)]
            if forgot:
                found += 1
                with pytest.raises(NotAllAgree, match=forgot[0]):
                    register.every()
            assert view.state.epoch == state.epoch
            register.settle()
            assert register.every().epoch == state.epoch, seed
            healed += 1
    assert found > 200
    assert healed == 320


def test_members_come_and_go_between_decisions() -> None:
    """The old ones and the new ones decide who they are; who only knows the old ones finds the new."""
    stores = {name: MemberStore(name) for name in NAMES}
    register = register_of(stores, ["a", "b", "c"])
    claims = iter(range(100))

    def made(state: State) -> Change:
        return Change(Epoch(state.epoch.number + 1, f"m{next(claims)}"), 0.0, "", "", "")

    register.change(lambda state: state.admit("d", made(state)))
    register.change(lambda state: state.admit("e", made(state), witness=True))
    register.change(lambda state: state.dismiss("a", made(state)))
    stores["a"].down = stores["b"].down = True  # of the old three one is left, of today's four three
    register.change(lambda state: state.promote("b", "d", made(state)))
    newcomer = register_of(stores, ["a", "b", "c"])
    state = newcomer.look().state
    assert (state.members, state.witnesses) == (("b", "c", "d", "e"), ("e",))
    assert state.primary("b") == "d"
    newcomer.change(lambda state: state.give_back("b", made(state)))
    assert register.look().state.primary("b") == "b"


def test_two_members_without_a_witness_need_a_word() -> None:
    """With one of two away nothing is decided, unless a person says that one is enough; the other then follows."""
    stores = {name: MemberStore(name) for name in ("a", "b")}
    register = register_of(stores, ["a", "b"])
    register.change(lambda state: state)
    stores["a"].down = True

    def promote(state: State) -> State:
        return state.promote("a", "b", Change(Epoch(state.epoch.number + 1, "p"), 0.0, "", "", ""))

    with pytest.raises(NoMajority, match="a does not answer"):
        register.change(promote)
    assert register.change(promote, least=1).primary("a") == "b"
    stores["a"].down = False
    assert register.look().standing == {"a": Standing.BEHIND, "b": Standing.AGREES}
    register.settle()
    assert register.every().primary("a") == "b"


def test_the_first_vote_needs_all() -> None:
    """A member that is away when the fleet votes for the first time could not tell later what it lost."""
    stores = {name: MemberStore(name) for name in ("a", "b", "c")}
    stores["c"].down = True
    register = register_of(stores, ["a", "b", "c"])
    with pytest.raises(NoMajority, match="needs all of them"):
        register.change(lambda state: state)
    with pytest.raises(NotAllAgree, match="c does not answer"):
        register.every()
    stores["c"].down = False
    register.change(lambda state: state)
    assert register.every().members == ("a", "b", "c")


def test_a_member_that_does_not_answer_is_not_admitted() -> None:
    """One member alone could decide for the two that there will be, and neither would know of the other's word."""
    stores = {name: MemberStore(name) for name in ("a", "b")}
    register = register_of(stores, ["a"])
    register.change(lambda state: state)
    stores["b"].down = True
    with pytest.raises(NoMajority, match="b does not answer"):
        register.change(lambda state: state.admit("b", Change(Epoch(1, "x"), 0.0, "", "", "")))


def test_what_was_seen_is_not_rolled_back() -> None:
    """The only member has an older object than it had: who remembers that takes neither its word nor its vote."""
    stores, memory = {"a": MemberStore("a")}, Memory()
    register = register_of(stores, ["a"], memory)
    for number in range(2):
        register.change(
            lambda state, number=number: state.schedule_in("x", Change(Epoch(number, "x"), 0.0, "", "", ""))
        )
    stores["a"].data = stores["a"].older[-2]
    assert register_of(stores, ["a"]).look().standing == {"a": Standing.AGREES}
    assert register.look().standing == {"a": Standing.FORGOT}
    with pytest.raises(NotAllAgree, match="older than it was"):
        register.every()
    with pytest.raises(NoMajority, match="older than it was"):
        register.change(lambda state: state)
