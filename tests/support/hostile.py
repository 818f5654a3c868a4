"""A fleet of two hosts on a real Valkey, and the Redis user of web1, which writes into its realm as it likes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.main import main
from scheduler.__main__ import Ticker
from shared.agents import acl
from shared.config.watch import FleetWatch
from shared.ledger.keys import Keys, host_queues
from shared.ledger.ledger import Ledger
from shared.messaging.bell import rung
from shared.messaging.names import redis_list
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger

MINE = "web1"
THEIRS = "web2"


class Scene:
    """The fleet, its ledger, and the thief's connection."""

    def __init__(self, small: SmallFleet, ledger: Ledger, thief: redis.Redis) -> None:
        self.small = small
        self.ledger = ledger
        self.thief = thief
        self.keys = Keys(MINE)
        self.mine, self.theirs = ledger.realm(MINE), ledger.realm(THEIRS)

    def command(self, capsys: pytest.CaptureFixture[str], *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        """What a command says with --json. No bug is reported, and nothing steers the terminal, with and without."""
        for more in ([], ["--json"]):
            got = main([*arguments, *more, "--config", self.small.path])
            said = capsys.readouterr()
            both = said.out + said.err
            assert got in codes, both
            assert "unexpected" not in both
            assert all(char.isprintable() or char in "\n\t" for char in both), ascii(both)
        return json.loads(said.out or said.err)

    def tick(self) -> list[str]:
        """A tick of a scheduler, with all that it does; the rings that are on the other host's queue then."""
        Ticker(FleetWatch(self.small.path)).tick()
        raw = self.ledger.client.lrange(redis_list(host_queues(THEIRS)[0]), 0, -1)
        return [str(rung(one)) for one in raw]


@pytest.fixture(scope="module")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One Valkey for all of them."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey"))) as (ledger, _):
        yield ledger


@pytest.fixture
def scene(hostile_server: Ledger, tmp_path: Path) -> Iterator[Scene]:
    """An empty ledger, and two hosts with a source each."""
    server = hostile_server
    server.client.flushall()
    acl.set_agents(server.client, [(MINE, "pw")])
    port = server.client.connection_pool.connection_kwargs["port"]
    small = SmallFleet(str(tmp_path), broker=f"redis://127.0.0.1:{port}/0")
    small.change("web1: {", f"{MINE}: {{host: {MINE}, ")
    small.add_source(THEIRS, host=THEIRS)
    with redis.Redis(port=port, username=f"hf-agent-{MINE}", password="pw", decode_responses=True) as thief:
        yield Scene(small, server.realm(""), thief)
