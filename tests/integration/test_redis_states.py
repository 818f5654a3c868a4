"""The command line over each state of Redis: what it says, the exit code, and that nothing is half done."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError

from cli.main import main
from shared.ledger import connect
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunRequest, RunState
from shared.ledger.roll import Roll
from shared.messaging.app import make_app
from shared.messaging.events import SNAPSHOT_COMMITTED, publish
from shared.messaging.signed import Sealer
from tests.support.answers import AnswerServer, Scripted
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger
from tests.support.proxy import FaultProxy
from tests.support.tools import ValkeyServer, free_port

UP = "Is `holdfast up` running?"
RUN = "8f21" * 8
ASKING = (["status"], ["runs"], ["runs", "show", RUN], ["worker"])
CHANGING = (
    ["backup", "web1"],
    ["backup", "web1", "--full", "--follow"],
    ["verify", "web1"],
    ["runs", "cancel", RUN],
    ["worker", "drain", "w1"],
)


@dataclass
class Scene:
    """A fleet on a Redis with one run and one worker in it."""

    small: SmallFleet
    ledger: Ledger
    server: ValkeyServer

    @property
    def text(self) -> str:
        """The fleet's file."""
        return Path(self.small.path).read_text()

    def write(self, text: str) -> None:
        """Replace the fleet's file."""
        Path(self.small.path).write_text(text)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, ValkeyServer]]:
    """One Valkey for all of these tests."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey"))) as pair:
        yield pair


@pytest.fixture
def scene(shared: tuple[Ledger, ValkeyServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The run is queued; commands wait for an answer for a moment only."""
    ledger, server = shared
    monkeypatch.setitem(connect.connect.__kwdefaults__, "timeout", 0.2)
    ledger.client.flushall()
    ledger.open(RunRequest(RUN, RunKind.VERIFY, "web1", queue="maintenance"))
    Roll(ledger).beat("w1@h", "h", 1, ["backup"])
    return Scene(SmallFleet(str(tmp_path), broker=server.url), ledger, server)


@contextmanager
def full(scene: Scene) -> Iterator[None]:
    """No room for a single write."""
    scene.ledger.client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        scene.ledger.client.config_set("maxmemory", "0")


@contextmanager
def read_only(scene: Scene) -> Iterator[None]:
    """A replica of a primary that is not there."""
    scene.ledger.client.execute_command("REPLICAOF", "127.0.0.1", free_port())
    try:
        yield
    finally:
        scene.ledger.client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def frozen(scene: Scene) -> Iterator[None]:
    """It takes connections and bytes, and answers nothing."""
    os.kill(scene.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(scene.server.pid, signal.SIGCONT)


@contextmanager
def locked(scene: Scene) -> Iterator[None]:
    """It wants a password."""
    scene.ledger.client.config_set("requirepass", "x")
    try:
        yield
    finally:
        redis.Redis(port=scene.server.port, password="x").config_set("requirepass", "")


@contextmanager
def absent(scene: Scene) -> Iterator[None]:
    """Nobody listens."""
    scene.write(scene.text.replace(f":{scene.server.port}", f":{free_port()}"))
    yield


@contextmanager
def another_server(scene: Scene) -> Iterator[None]:
    """What listens is no Redis."""
    with AnswerServer(Scripted(400)) as other:
        scene.write(scene.text.replace(f":{scene.server.port}", f":{other.port}"))
        yield


@contextmanager
def cut_off(scene: Scene) -> Iterator[None]:
    """Each connection breaks at its first bytes."""
    with FaultProxy(("127.0.0.1", scene.server.port)) as proxy:
        proxy.cut_uploads(1000, after=5)
        scene.write(scene.text.replace(f":{scene.server.port}", f":{proxy.port}"))
        yield


def said(capsys: pytest.CaptureFixture[str], scene: Scene, *arguments: str, code: int) -> dict[str, object]:
    """What a command answers with --json, and that it ends with this exit code and without a trace."""
    got = main([*arguments, "--json", "--config", scene.small.path])
    out, err = capsys.readouterr()
    assert (got, "Traceback" in out + err, " bug " in err) == (code, False, False), (arguments, out, err)
    found: dict[str, object] = json.loads(err)["error"] if code == 61 else json.loads(out)
    return found


@pytest.mark.parametrize(
    ("state", "message", "way_out"),
    [
        (absent, "Redis does not answer: Error 111 connecting to 127.0.0.1:", UP),
        (frozen, "Redis does not answer: Timeout reading from ", UP),
        (cut_off, "Redis does not answer: ", UP),
        (another_server, "Redis does not answer: ", UP),
        (locked, "Redis wants a password, or another one", "The broker's URL in the configuration needs its password"),
        (full, "Redis answers: command not allowed when used memory > 'maxmemory'", "It is full: raise its maxmemory"),
        (read_only, "Redis answers: You can't write against a read only replica", "It is a replica: name the primary"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_command_says_what_redis_is_and_the_way_out(
    scene: Scene,
    capsys: pytest.CaptureFixture[str],
    state: Callable[[Scene], object],
    message: str,
    way_out: str,
) -> None:
    """What only asks is answered where Redis can be read; what was not done has left nothing in the ledger."""
    keys = sorted(scene.ledger.client.scan_iter())
    readable = state in {full, read_only}
    with state(scene):  # type: ignore[attr-defined] # a context manager
        for arguments in ASKING:
            answer = said(capsys, scene, *arguments, code=(2 if arguments == ["status"] else 0) if readable else 61)
            assert readable or str(answer["message"]).startswith(message)
        for arguments in CHANGING:
            error = said(capsys, scene, *arguments, code=61)
            assert str(error["message"]).startswith(message)
            assert (error["type"], str(error["hint"]).startswith(way_out)) == ("LedgerAway", True)
            if arguments[0] in {"backup", "verify"}:
                assert "--direct" in str(error["hint"])
    assert sorted(scene.ledger.client.scan_iter()) == keys
    run = scene.ledger.get(RUN)
    assert run is not None
    assert (run.state, run.cancel_by) == (RunState.QUEUED, "")


def test_a_redis_that_was_emptied_knows_no_run_and_takes_new_ones(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is gone is said to be gone; a backup can be asked for at once."""
    scene.ledger.client.flushall()
    for arguments in (["show", RUN], ["follow", RUN], ["cancel", RUN], ["retry", RUN]):
        assert main(["runs", *arguments, "--config", scene.small.path]) == 62
        assert f"there is no run {RUN}" in capsys.readouterr().err
    assert main(["worker", "drain", "w1", "--config", scene.small.path]) == 65
    assert "There is none at all" in capsys.readouterr().err
    run_id = str(said(capsys, scene, "backup", "web1", code=0)["run"])
    assert [run.id for run in scene.ledger.open_runs()] == [run_id]


def test_a_connection_that_is_cut_in_mid_transaction_opens_one_run_and_rings(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Redis has it all, or when it was done and not yet answered: asked again, it is done once."""
    text, broken = scene.text, 0
    for up, after in [
        *((True, sent) for sent in range(100, 8000, 400)),
        *((False, got) for got in range(50, 800, 6)),
    ]:
        scene.ledger.client.flushall()
        scene.ledger.client.script_flush()
        with FaultProxy(("127.0.0.1", scene.server.port)) as proxy:
            (proxy.cut_uploads if up else proxy.cut_downloads)(1, after=after)
            scene.write(text.replace(f":{scene.server.port}", f":{proxy.port}"))
            run_id = said(capsys, scene, "backup", "web1", code=0)["run"]
            broken += proxy.broken
        assert [run.id for run in scene.ledger.open_runs()] == [run_id], (up, after)
        assert scene.ledger.client.llen("backup") in {1, 2}, (up, after)
    assert broken > 10


@pytest.mark.parametrize("state", [full, read_only], ids=lambda state: state.__name__)
def test_an_event_that_redis_refuses_is_as_one_that_it_does_not_answer(
    scene: Scene, state: Callable[[Scene], object]
) -> None:
    """Events may be missed: whoever tells of one expects that error and no other."""
    app = make_app(scene.server.url)
    with state(scene), pytest.raises(OperationalError):  # type: ignore[attr-defined] # a context manager
        publish(app.producer_pool, Sealer(b"k", "w").seal(SNAPSHOT_COMMITTED, {"run": RUN}))
    app.close()
