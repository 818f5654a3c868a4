"""Enrolling and joining: a server with rights of its own backs itself up, on a real Redis and a real MinIO."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from scheduler.agents import AgentKeeper
from shared.agents import acl
from shared.agents.policy import agent_policy
from shared.agents.s3users import S3Users
from shared.ledger.model import RunKind, RunState
from shared.messaging import client
from shared.storage import Denied
from shared.storage.open import parse_url
from tests.support.enrolled import Enrolled, enrolled_fleet
from tests.support.ledgers import until
from tests.support.stores import credentials_of
from tests.support.tools import MinioServer


@pytest.fixture
def scene(tmp_path: Path, minio_server: MinioServer) -> Iterator[Enrolled]:
    """Two hosts that nobody has enrolled yet."""
    with enrolled_fleet(tmp_path, minio_server) as scene:
        yield scene


def test_a_server_joins_by_one_line_and_backs_itself_up(scene: Enrolled) -> None:
    """Backup and drain work; neither Redis nor MinIO refuses it anything that it needs."""
    scene.join(scene.enroll("web1"), "web1")
    with scene.agent("web1") as process:
        assert scene.back_up("web1").state is RunState.SUCCEEDED
        assert scene.back_up("web1", RunKind.INCREMENTAL).state is RunState.SUCCEEDED
        (worker,) = client.workers(scene.fleet)
        client.drain(scene.fleet, worker.name, "anna")
        assert process.wait(40) == 0
    assert scene.denials() == []
    said = scene.log("web1").read_text()
    assert [word for word in ("NOPERM", "denied", "Traceback") if word in said] == []
    assert list(scene.site().list("repos/web1/locks/")) == []


def test_what_a_server_gets_holds_no_secret_of_the_fleet(scene: Enrolled) -> None:
    """Files that this user alone reads; the machine password of its own repository, and nobody else's."""
    scene.join(scene.enroll("web1"), "web1")
    files = {path.name: path for path in scene.directory("web1").rglob("*") if path.is_file()}
    assert sorted(files) == ["broker.url", "fra.keys", "holdfast.yaml", "machine.passwords", "sources.yaml"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
    text = "".join(path.read_text() for path in files.values())
    secret = (scene.shop.conf / "secret").read_text()
    for known in (secret, "a recovery password", "rootpw", "holdfastpw", scene.minio.secret_key):
        assert known not in text
    assert files["machine.passwords"].read_text() == f"web1 {scene.fleet.machine_password('web1')}\n"
    assert scene.fleet.machine_password("web2") not in text
    assert scene.own("web1").machine_password("web1") == scene.fleet.machine_password("web1")


def test_the_agents_of_an_emptied_redis_return_without_a_new_token(scene: Enrolled) -> None:
    """Redis starts anew and knows nobody: the scheduler makes the users again, and the agent goes on by itself."""
    scene.join(scene.enroll("web1"), "web1")
    with scene.agent("web1") as agent, scheduler(scene):
        until(lambda: states(scene) == {"succeeded"}, seconds=60, what="the first backup, by the schedule")
        scene.valkey.kill()
        scene.valkey.start()
        assert scene.is_wiped()
        scene.set_up_redis()
        until(lambda: scene.is_here("web1"), seconds=90, what="the agent, again")
        assert scene.back_up("web1").state is RunState.SUCCEEDED
        assert agent.poll() is None


def test_a_revoked_agent_has_nothing_any_more_and_another_token_gives_it_other_passwords(scene: Enrolled) -> None:
    """Redis cuts it off, S3 refuses its keys, its old ones never work again; its backups stay, its neighbour works."""
    scene.both()
    with scene.agent("web1"):
        assert scene.back_up("web1").state is RunState.SUCCEEDED
    old_keys, old_redis = scene.as_agent("web1"), scene.redis_as("web1")
    old_redis.set("hf:h:web1:here", 1)
    scene.shop.run("agent", "revoke", "web1")
    for use in (lambda: old_keys.get("repos/web1/config"), lambda: old_keys.put("repos/web1/locks/a", b"")):
        with pytest.raises(Denied):
            use()
    with pytest.raises(redis.exceptions.RedisError):
        old_redis.get("hf:h:web1:here")
    AgentKeeper(scene.fleet).look()
    listed = {one["host"]: (one["state"], one["redis_user"]) for one in scene.shop.ask("agent", "list")["agents"]}
    assert listed == {"web1": ("revoked", False), "web2": ("away", True)}
    assert len(list(scene.site().list("repos/web1/snapshots/"))) == 1
    assert scene.redis_as("web2").ping()
    scene.join(scene.enroll("web1"), "web1")
    assert scene.as_agent("web1").get("repos/web1/config") == scene.site().get("repos/web1/config")
    assert scene.redis_as("web1").get("hf:h:web1:here") == "1"
    with pytest.raises(redis.exceptions.AuthenticationError):
        old_redis.get("hf:h:web1:here")
    with pytest.raises(Denied):
        old_keys.get("repos/web1/config")


def test_a_second_scheduler_does_not_give_back_what_was_revoked(scene: Enrolled) -> None:
    """It remembers an older register; before it gives rights it reads the sites again."""
    scene.both()
    keeper = AgentKeeper(scene.fleet)
    keeper.look()
    scene.shop.run("agent", "revoke", "web1")
    keeper.look()
    assert acl.agents(scene.root()) == {"web2"}
    scene.root().acl_deluser("hf-agent-web2")
    keeper.look()
    assert acl.agents(scene.root()) == {"web2"}
    assert scene.redis_as("web2").ping()


def test_a_scheduler_that_starts_gives_the_rights_of_its_release(scene: Enrolled) -> None:
    """An older release gave others: the agent needs no other token, and keeps its password."""
    scene.enroll("web1")
    rules = scene.root().acl_getuser("hf-agent-web1")
    scene.root().execute_command("ACL", "SETUSER", "hf-agent-web1", "resetkeys", "-@all", "+ping")
    assert scene.root().acl_getuser("hf-agent-web1") != rules
    AgentKeeper(scene.fleet).look()
    assert scene.root().acl_getuser("hf-agent-web1") == rules


def test_without_an_administrator_the_rights_are_printed(scene: Enrolled) -> None:
    """The very policy that would have been applied, and the user; exit code 3 says that something is left to do."""
    config = scene.shop.conf / "holdfast.yaml"
    config.write_text(config.read_text().replace(", admin: {file: fra.keys}", ""))
    said = scene.shop.ask("agent", "enroll", "web1", code=3)
    (by_hand,) = said["by_hand"]
    place = parse_url(scene.fleet.site("fra").url)
    assert by_hand["policy"] == agent_policy(place, ["web1"])
    scene.join(said["token"], "web1", code=3)  # its keys do not work yet, and it says so
    S3Users("fra", scene.fleet.site("fra").url, credentials_of(scene.minio)).grant(
        by_hand["user"], by_hand["secret"], by_hand["policy"]
    )
    assert scene.as_agent("web1").get("repos/web1/config")
    assert "mc admin policy create" in scene.shop.run("agent", "enroll", "web1", code=3)


def test_what_is_no_safe_place_for_agents_is_told(tmp_path: Path, minio_server: MinioServer) -> None:
    """A bucket without versions, and a Redis that lets anybody in."""
    with enrolled_fleet(tmp_path, minio_server, versioned=False) as scene:
        scene.root().acl_setuser("default", enabled=True, nopass=True)
        warnings = scene.shop.ask("agent", "enroll", "web1")["warnings"]
    assert [part in line for part, line in zip(("keeps no versions", "without a password"), warnings, strict=True)] == [
        True,
        True,
    ]


def test_a_user_of_redis_that_may_make_no_users_is_told_what_it_needs(scene: Enrolled) -> None:
    """With the way out."""
    config = scene.shop.conf / "holdfast.yaml"
    config.write_text(config.read_text().replace(f", admin: '{scene.admin}'", ""))
    said = scene.shop.run("agent", "enroll", "web1", code=80)
    assert "may not make users of Redis" in said
    assert "admin:" in said


def states(scene: Enrolled) -> set[str]:
    """The states of all runs of web1."""
    return {run.state.value for run in client.all_runs(scene.fleet, source="web1")}


@contextmanager
def scheduler(scene: Enrolled) -> Iterator[None]:
    """A scheduler, until the end."""
    process = scene.shop.start("scheduler")
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
