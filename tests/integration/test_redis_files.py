"""deploy/redis: servers started with the very files. What is kept, who may do what, TLS, and a master that dies."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from scheduler.facts import _redis_state
from shared.errors import LedgerError
from shared.ledger.connect import connect
from shared.ledger.errors import LedgerAway
from tests.support import tools
from tests.support.ledgers import a_run, until
from tests.support.stores import write_certificates
from tests.support.tools import Server, valkey_server

FILES = Path(tools.__file__).parents[2] / "deploy/redis"
PASSWORDS = {"HOLDFAST": "of holdfast", "REPLICA": "of replicas", "SENTINEL": "of sentinels"}
SERVERS = {"valkey": valkey_server, "redis": lambda: tools._tool("redis")}


class FileServer(Server):
    """A server on a copy of the files, in which the places are the test's and the passwords are filled in."""

    def __init__(self, directory: str, program: str, file: str, *, first: int = 0) -> None:
        super().__init__(directory)
        self.program, self.file, self.first = program, file, first or self.port

    def _command(self) -> list[str]:
        conf = os.path.join(self.directory, "conf")
        if not os.path.exists(conf):
            shutil.copytree(FILES, conf)
            os.mkdir(os.path.join(self.directory, "data"))
            for name in os.listdir(conf):
                path = os.path.join(conf, name)
                text = Path(path).read_text()
                text = text.replace("/etc/redis/", f"{conf}/").replace("/var/lib/redis", f"{self.directory}/data")
                text = text.replace("FIRST 6379", f"127.0.0.1 {self.first}")
                text = re.sub(r"\b(tls-port|port) (6379|26379)\b", rf"\1 {self.port}", text)
                for who, password in PASSWORDS.items():
                    text = text.replace(f"#{who}", f"#{hashlib.sha256(password.encode()).hexdigest()}")
                    text = text.replace(f"{who}-PASSWORD", f'"{password}"')
                Path(path).write_text(text)
        sentinel = ["--sentinel"] if self.file == "sentinel.conf" else []
        extra = [] if self.first == self.port or sentinel else ["--replicaof", f"127.0.0.1 {self.first}"]
        listen = ["--bind", "127.0.0.1", *(["--dir", self.directory] if sentinel else [])]
        return [SERVERS[self.program](), os.path.join(conf, self.file), *listen, *extra, *sentinel]

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def url(self, user: str = "holdfast") -> str:
        """The address, as that user."""
        return f"redis://{user}:{PASSWORDS[user.upper()].replace(' ', '%20')}@127.0.0.1:{self.port}/0"


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileServer]:
    """A server on redis.conf, of either make."""
    with FileServer(os.path.join(tmp_path, "server"), request.param, "redis.conf") as running:
        yield running


def test_holdfast_has_what_it_needs(server: FileServer) -> None:
    """Its user opens and claims runs; the exporter finds nothing to complain of."""
    ledger = connect(server.url())
    run = a_run()
    ledger.open(run)
    assert ledger.claim(run.id, "worker").lease is not None
    state = _redis_state(ledger.client.info())
    assert (state.persistent, state.evicts, state.memory_limit, state.clients_limit) == (True, False, 1 << 30, 10000)


def test_what_was_answered_survives_a_kill(server: FileServer) -> None:
    """The log is on disk within a second, and the server starts with it: all that scripts wrote, too."""
    ledger = connect(server.url())
    run = a_run()
    ledger.open(run)
    until(lambda: any(path.stat().st_size > 500 for path in Path(server.directory).rglob("*.incr.aof")), what="the log")
    server.kill()
    server.start()

    def still_there() -> bool:
        try:
            return ledger.get(run.id) is not None
        except LedgerAway:
            return False

    until(still_there, what="the run")


@pytest.mark.parametrize("command", [["FLUSHALL"], ["CONFIG", "SET", "save", ""], ["ACL", "LIST"], ["SHUTDOWN"]])
def test_holdfast_may_not_do_what_it_need_not(server: FileServer, command: list[str]) -> None:
    """Neither administration nor anything dangerous."""
    client = redis.Redis.from_url(server.url())
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)


def test_nobody_else_may_do_anything(server: FileServer) -> None:
    """Without a password nothing, with a wrong one nothing, and who looks after health may ping."""
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=server.port).get("hf:ledger")
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=server.port, username="holdfast", password="wrong").get("hf:ledger")
    health = redis.Redis(port=server.port, username="health", password="any")
    assert health.ping() is True
    with pytest.raises(redis.exceptions.NoPermissionError):
        health.get("hf:ledger")


def test_tls(tmp_path: Path) -> None:
    """With the authority's certificate the ledger is reached; without it, and without TLS, it is not."""
    certificates = os.path.join(tmp_path, "certificates")
    authority = write_certificates(certificates)
    running = FileServer(os.path.join(tmp_path, "server"), "redis", "tls.conf")
    conf = os.path.join(running.directory, "conf")
    running._command()
    for name, source in (("server.crt", "public.crt"), ("server.key", "private.key")):
        shutil.copy(os.path.join(certificates, source), os.path.join(conf, name))
    shutil.copy(authority, os.path.join(conf, "ca.crt"))
    with running:
        url = running.url().replace("redis://", "rediss://")
        run = a_run()
        ledger = connect(f"{url}?ssl_ca_certs={authority}")
        ledger.open(run)
        assert ledger.get(run.id) is not None
        for refused in (url, running.url()):
            with pytest.raises(LedgerError):
                connect(refused).get(run.id)


def test_a_replica_takes_the_place_of_a_master_that_dies(tmp_path: Path) -> None:
    """Three Sentinels with the file see it and agree; what the master had answered is there, under the same users."""
    first = FileServer(os.path.join(tmp_path, "first"), "valkey", "replicated.conf")
    second = FileServer(os.path.join(tmp_path, "second"), "valkey", "replicated.conf", first=first.port)
    watchers = [
        FileServer(os.path.join(tmp_path, f"sentinel{number}"), "valkey", "sentinel.conf", first=first.port)
        for number in range(3)
    ]
    running: list[FileServer] = []
    try:
        for one in (first, second, *watchers):
            one.start()
            running.append(one)
        ledger = connect(first.url())
        until(lambda: ledger.client.info("replication").get("connected_slaves") == 1, what="the replica")
        run = a_run()
        ledger.open(run)
        assert ledger.client.wait(1, 5000) == 1
        asked = [redis.Redis(port=one.port, decode_responses=True) for one in watchers]
        for client in asked:
            client.execute_command("SENTINEL", "SET", "holdfast", "down-after-milliseconds", "1000")
        until(
            lambda: all(
                (seen := client.sentinel_master("holdfast"))["num-other-sentinels"] == 2 and seen["num-slaves"] == 1
                for client in asked
            ),
            what="the Sentinels know each other",
        )
        first.kill()
        until(
            lambda: asked[0].sentinel_get_master_addr_by_name("holdfast") == ("127.0.0.1", second.port),
            seconds=60,
            what="the new master",
        )
        after = connect(second.url())
        until(lambda: after.client.info("replication")["role"] == "master", what="its role")
        assert after.get(run.id) is not None
        after.open(later := a_run())
        assert after.get(later.id) is not None
    finally:
        for one in running:
            one.stop()
