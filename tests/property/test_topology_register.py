"""The members decide one thing after the other, whoever asks, dies or does not answer meanwhile."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.topology.ballot import Ballot, Vote, decode, encode
from shared.topology.errors import NoMajority, NotAllAgree
from shared.topology.memory import Memory
from shared.topology.register import Register, Standing
from shared.topology.state import Change, Epoch, State
from tests.support.voting import SECRET, Died, MemberStore, register_of

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


def made_by(claimant: str, state: State) -> Change:
    """The next change of a state."""
    return Change(Epoch(state.epoch.number + 1, claimant), 0.0, "", "", "")


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_healing_amid_proposals_takes_no_decision_back(size: int) -> None:
    """One member at a time loses its object while others propose, fail and die; half of an even number heals it."""
    decided = healed = 0
    for seed in range(12):
        world = World(seed)
        world.members = NAMES[:size]
        world.registers = [world._proposer() for _ in range(3)]
        for _ in range(8):
            world.propose(world.draw.randrange(3))
            victim = world.stores[world.draw.choice(world.members)]
            if victim.data is None:
                continue
            victim.data = None if world.draw.random() < 0.5 else b"?" + victim.data
            victim.version += 1
            healed += heal(world)
        world.calm = True
        world.propose(0)
        rows = sorted(world.told, key=len)
        for shorter, longer in pairwise(rows):
            assert longer[: len(shorter)] == shorter, seed
        decided += len(rows)
    assert decided > 24
    assert healed > 24


def heal(world: World) -> bool:
    """Settle until all agree, with the others in between at first; whether that was possible."""
    for attempt in range(20):
        number = world.draw.randrange(3)
        world.calm = attempt > 3
        # Without a memory: one of what a lost object had promised would take the healed one for older.
        world.registers[number] = world._proposer()
        world.busy.add(number)
        try:
            world.registers[number].settle()
            world.registers[number].every()
        except (NoMajority, NotAllAgree):
            continue
        except Died:
            continue
        finally:
            world.busy.discard(number)
        world.calm = False
        world.registers = [world._proposer() for _ in range(3)]
        return True
    raise AssertionError("it can't be healed")


def test_of_two_members_the_other_one_heals_the_one_that_lost_its_object() -> None:
    """No word is needed for that: nothing was ever decided without the other one."""
    for size in (2, 4):
        stores = {name: MemberStore(name) for name in NAMES[:size]}
        register = register_of(stores, NAMES[:size])
        register.change(lambda state: state.promote("a", "b", made_by("x", state)))
        for name in NAMES[: size // 2]:
            stores[name].data = None
        with pytest.raises(NoMajority):
            register_of(stores, NAMES[:size]).change(lambda state: state)
        assert register_of(stores, NAMES[:size]).settle().primary("a") == "b"
        assert register_of(stores, NAMES[:size]).every().epoch == Epoch(1, "x")
    stores["b"].data = stores["c"].data = stores["d"].data = None
    with pytest.raises(NoMajority):
        register_of(stores, NAMES[:4]).settle()


def test_what_a_person_decided_with_one_of_two_is_what_everybody_follows() -> None:
    """A machine that looks while the other is away takes it for decided, as there is nobody to ask."""
    stores = {name: MemberStore(name) for name in ("a", "b")}
    register = register_of(stores, ["a", "b"])
    register.change(lambda state: state)
    stores["a"].down = True
    register.change(lambda state: state.promote("a", "b", made_by("x", state)), least=1)
    memory = Memory()
    view = register_of(stores, ["a", "b"], memory).look()
    assert (view.settled, view.state.primary("a")) == (True, "b")
    assert memory.state is not None
    assert memory.state.primary("a") == "b"


def test_sites_that_never_voted_can_do_without_one_where_a_person_says_so() -> None:
    """Else a fleet whose first site dies before the first vote could never move."""
    stores = {name: MemberStore(name) for name in ("a", "b", "c")}
    stores["a"].down = True
    register = register_of(stores, ["a", "b", "c"])
    assert register.change(lambda state: state.promote("a", "b", made_by("x", state)), least=1).primary("a") == "b"
    stores["a"].down = False
    register.settle()
    assert register.every().primary("a") == "b"


def test_one_that_joins_may_have_promised_more_than_all_others() -> None:
    """It was a member of another time: the next round begins above its promise."""
    stores = {name: MemberStore(name) for name in ("a", "b")}
    stores["b"].data = encode(SECRET, Vote(Ballot(900, "z"), Ballot(900, "z"), State(members=("b", "q"))))
    register = register_of(stores, ["a"])
    register.change(lambda state: state)
    assert register.change(lambda state: state.admit("b", made_by("x", state))).members == ("a", "b")
    assert register.every().epoch == Epoch(1, "x")


def test_one_that_was_removed_as_lost_comes_back_with_nothing() -> None:
    """Who remembers what it was does not take it for one that forgot: it is a new member."""
    stores, memory = {name: MemberStore(name) for name in ("a", "b")}, Memory()
    register = register_of(stores, ["a", "b"], memory)
    register.change(lambda state: state)
    stores["a"].down = True
    register.change(lambda state: state.dismiss("a", made_by("x", state)), least=1)
    stores["a"] = MemberStore("a")
    again = register_of(stores, ["a", "b"], memory)
    assert again.change(lambda state: state.admit("a", made_by("y", state))).members == ("a", "b")
    assert again.every().epoch == Epoch(2, "y")


def test_a_member_that_this_machine_does_not_know_is_silent() -> None:
    """Its file may be older than the decision that let the member join."""
    stores = {name: MemberStore(name) for name in ("a", "b", "c")}
    register_of(stores, ["a", "b", "c"]).change(lambda state: state)
    register = register_of(stores, ["a", "b"])

    def open_member(name: str) -> object:
        if name == "c":
            raise ConfigError('there is no site "c"')
        return stores[name]

    register._open = open_member  # type: ignore[assignment] # what else a register is made of does not matter here
    assert register.look().standing == {"a": Standing.AGREES, "b": Standing.AGREES, "c": Standing.SILENT}
    assert register.change(lambda state: state.promote("a", "b", made_by("x", state))).primary("a") == "b"


def test_what_a_newer_release_wrote_is_not_taken_for_damage() -> None:
    """Healing would write over it."""
    stores = {name: MemberStore(name) for name in ("a", "b", "c")}
    register = register_of(stores, ["a", "b", "c"])
    register.change(lambda state: state)
    body = b'{"promised": {"much": "newer"}}'
    stores["c"].data = _signed(body)
    assert register.look().standing["c"] is Standing.SILENT
    register.settle()
    assert stores["c"].data == _signed(body)


def _signed(body: bytes) -> bytes:
    from shared.topology.ballot import _mac

    return _mac(SECRET, body) + b"\n" + body


def test_who_heals_late_takes_nothing_back() -> None:
    """Another has healed the member meanwhile, and had it accept more: at whatever read of the first one that was."""
    for when in range(1, 14):
        stores = {name: MemberStore(name) for name in NAMES}
        first, other = (register_of(stores, NAMES) for _ in range(2))
        first.change(lambda state: state)
        victim = stores["c"]
        victim.data = b"?"
        reads: list[str] = []
        accepted: list[Ballot] = []

        def trouble(
            what: str,
            when: int = when,
            other: Register = other,
            reads: list[str] = reads,
            accepted: list[Ballot] = accepted,
            victim: MemberStore = victim,
        ) -> str:
            reads.append(what)
            if reads.count("read") == when and not accepted:
                accepted.append(Ballot())
                other.settle()
                other.change(lambda state: state.promote("a", "b", made_by("x", state)))
                accepted[0] = promised(victim)
            return ""

        victim.trouble = trouble
        first.settle()
        assert promised(victim) >= (accepted or [Ballot()])[0], when
        victim.trouble = lambda _: ""
        assert register_of(stores, NAMES).settle().epoch.number == len(accepted)


def promised(store: MemberStore) -> Ballot:
    """By a member."""
    return decode(SECRET, store.data or b"", store.name).promised


def test_who_can_not_remember_goes_by_what_it_sees(tmp_path: Path) -> None:
    """What is remembered is a cache: a folder that can't be made, or written to, is no error."""
    (tmp_path / "file").touch()
    stores = {"a": MemberStore("a")}
    register = register_of(stores, ["a"], Memory(str(tmp_path / "file" / "topology.json")))
    register.change(lambda state: state.schedule_in("x", Change(Epoch(1, "x"), 0.0, "", "", "")))
    assert register.look().state.region == "x"
