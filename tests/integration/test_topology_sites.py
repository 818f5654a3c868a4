"""The register at real sites: buckets and directories."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from shared import topology
from shared.config.fleet import Fleet
from shared.storage.api import ObjectStore
from shared.storage.open import open_store
from shared.topology.ballot import KEY
from shared.topology.memory import Memory
from shared.topology.register import Register, Standing
from shared.topology.state import Change, Epoch, State
from tests.support.fleets import SmallFleet
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer

SECRET = b"s" * 32


@pytest.fixture
def servers(tmp_path: os.PathLike[str]) -> Iterator[dict[str, tuple[MinioServer, str]]]:
    """Two of MinIO, each with a bucket."""
    with MinioServer(os.path.join(tmp_path, "a")) as one, MinioServer(os.path.join(tmp_path, "b")) as two:
        yield {"a": (one, make_bucket(one)), "b": (two, make_bucket(two))}


def register_of(
    servers: dict[str, tuple[MinioServer, str]], directory: str, memory: Memory, *, within: float = 10.0
) -> Register:
    """Two buckets, and a directory as witness."""

    def open_member(name: str) -> ObjectStore:
        return open_bucket(*servers[name]) if name in servers else open_store(directory, create=True)

    return Register([*servers, "w"], open_member, SECRET, memory, answer_within=within)


def promote(state: State, who: str) -> State:
    """The same site again and again, each time under a new epoch."""
    return state.promote("a", "b", Change(Epoch(state.epoch.number + 1, who), 0.0, "promote", "", who))


def test_many_who_vote_at_once_make_one_history(
    servers: dict[str, tuple[MinioServer, str]], tmp_path: os.PathLike[str]
) -> None:
    """Four proposers, five changes each: twenty epochs in a row, and none is lost."""
    witness = os.path.join(tmp_path, "w")

    def work(number: int) -> None:
        with closing(register_of(servers, witness, Memory())) as register:
            for turn in range(5):
                while True:
                    try:
                        register.change(lambda state, who=f"{number}-{turn}": _once(state, who))
                        break
                    except topology.NoMajority as error:
                        if not error.contended:
                            raise

    with closing(register_of(servers, witness, Memory())) as register:
        register.settle()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
        state = register.settle()
        assert register.every() == state
    assert [one.epoch.number for one in state.history] == list(range(1, 21))
    assert len({one.by for one in state.history}) == 20


def _once(state: State, who: str) -> State:
    return state if who in (one.by for one in state.history) else promote(state, who)


def test_a_frozen_site_is_done_without_and_told_later(
    servers: dict[str, tuple[MinioServer, str]], tmp_path: os.PathLike[str]
) -> None:
    """A MinIO that is stopped holds up no majority, but every delete; when it goes on it is told."""
    with closing(register_of(servers, os.path.join(tmp_path, "w"), Memory(), within=1.5)) as register:
        register.settle()
        os.kill(servers["a"][0].pid, signal.SIGSTOP)
        try:
            assert register.change(lambda state: promote(state, "x")).primary("a") == "b"
            with pytest.raises(topology.NotAllAgree, match=r"a \(no answer within"):
                register.every()
        finally:
            os.kill(servers["a"][0].pid, signal.SIGCONT)
    with closing(register_of(servers, os.path.join(tmp_path, "w"), Memory())) as register:
        assert register.look().standing["a"] is Standing.BEHIND
        register.settle()
        assert register.every().epoch == Epoch(1, "x")


def test_what_the_sites_decided_is_what_everybody_goes_by(tmp_path: os.PathLike[str]) -> None:
    """Backups go to the one that stands in; no delete goes on under the old epoch, also where nobody looked since."""
    small = SmallFleet(str(tmp_path))
    small.change("sites: {a: {url: site}}", "sites: {a: {url: site}, z: {url: other}}")
    small.change("all: {full", "all: {primary: a, full")
    fleet = Fleet.load(small.path)
    fleet.open_site("a", create=True).close()
    fleet.open_site("z", create=True).close()
    before = topology.current(fleet)
    assert before.epoch == Epoch()
    topology.guard(fleet, "web1", before.epoch)
    with closing(topology.register(fleet)) as register:
        register.change(lambda state: state.promote("a", "z", Change(Epoch(1, "me"), 0.0, "promote", "a flood", "me")))
    with pytest.raises(topology.StaleEpoch, match="the epoch was 0, and is 1 now"):
        topology.guard(fleet, "web1", before.epoch)
    assert topology.current(fleet).primary("web1") == "z"
    os.unlink(os.path.join(fleet.state_dir, "topology.json"))
    assert topology.current(fleet).primary("web1") == "a"
    topology.follow(fleet)
    assert (topology.current(fleet).primary("web1"), topology.current(fleet).epoch) == ("z", Epoch(1, "me"))
    with open(os.path.join(tmp_path, "other", KEY), "r+b") as vote:
        vote.write(b"0")
    with pytest.raises(topology.NotAllAgree, match="damaged"):
        topology.guard(fleet, "web1", Epoch(1, "me"))
