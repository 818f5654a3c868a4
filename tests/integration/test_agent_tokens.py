"""Tokens that are refused: each with an error of its own, and the good ones never lost to a mistake."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.agents.errors import BadToken, OtherHost, TokenExpired, TokenSpent
from shared.agents.token import JOIN_USERS, Token, join_key
from shared.errors import HoldfastError
from tests.support.enrolled import Enrolled, enrolled_fleet
from tests.support.tools import MinioServer


@pytest.fixture
def scene(tmp_path: Path, minio_server: MinioServer) -> Iterator[Enrolled]:
    """Two hosts that nobody has enrolled yet."""
    with enrolled_fleet(tmp_path, minio_server) as scene:
        yield scene


def test_a_token_works_once(scene: Enrolled) -> None:
    """The second who has it hears that it was used, and what he has there is as it was."""
    token = scene.enroll("web1")
    scene.join(token, "web1")
    before = (scene.directory("web1") / "holdfast.yaml").stat().st_mtime_ns
    said = scene.join(token, "web1", code=TokenSpent.exit_code)
    assert "has been used already" in said
    assert "holdfast agent enroll web1" in said
    assert (scene.directory("web1") / "holdfast.yaml").stat().st_mtime_ns == before


def test_of_two_at_once_one_gets_it(scene: Enrolled) -> None:
    """Redis gives it away and forgets it in one step."""
    token = scene.enroll("web1")

    def one(number: int) -> int:
        where = scene.base / f"at-once-{number}"
        process = scene.shop.start("agent", "join", token, "--host", "web1", "--directory", str(where))
        process.communicate(timeout=60)
        return process.returncode

    with ThreadPoolExecutor(4) as pool:
        codes = sorted(pool.map(one, range(4)))
    assert codes == [0] + [TokenSpent.exit_code] * 3


def test_an_expired_token(scene: Enrolled) -> None:
    """Its key is gone from Redis by itself, and its user with the next enrolment."""
    token = Token.parse(scene.enroll("web1"))
    root = scene.root()
    assert 0 < root.ttl(join_key(token.id)) <= 3600
    root.pexpire(join_key(token.id), 1)
    time.sleep(0.01)
    past = Token(token.host, token.broker, token.id, int(time.time()) - 1, token.key)
    scene.join(past.text(), "web1", code=TokenExpired.exit_code)
    scene.enroll("web2")
    users = [name for name in root.acl_users() if name.startswith(JOIN_USERS)]
    assert [name.removeprefix(JOIN_USERS).partition(":")[0] for name in users] == ["web2"]


def test_a_token_of_another_host_is_good_still(scene: Enrolled) -> None:
    """Pasted on the wrong server it is refused before it is spent; who knows better says so."""
    token = scene.enroll("web1")
    where = ("--directory", str(scene.base / "here"))
    said = scene.shop.run("agent", "join", token, *where, code=OtherHost.exit_code)
    assert f"this token is for host web1, and this is {socket.gethostname()}" in said
    scene.shop.run("agent", "join", token, *where, "--host", "web2", code=OtherHost.exit_code)
    assert not (scene.base / "here").exists()
    scene.shop.run("agent", "join", token, *where, "--host", "web1")


@pytest.mark.parametrize("keep", [0, 3, 20, 100, -9, -1])
def test_a_token_that_was_cut(scene: Enrolled, keep: int) -> None:
    """At whatever place: it is told from one that is refused, and nothing of it is shown."""
    token = scene.enroll("web1")
    said = scene.shop.run("agent", "join", token[:keep] or "-", code=BadToken.exit_code)
    assert token[20:60] not in said


def test_each_changed_character_is_noticed() -> None:
    """The check stands for all of it. White space, as a terminal that wraps puts in, does no harm."""
    token = Token.new("web1", "redis://127.0.0.1:6379/0", 1_800_000_000)
    text = token.text()
    assert Token.parse(f" {text[:40]}\n  {text[40:]}\n") == token
    for at in range(len(text)):
        changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        with pytest.raises(BadToken):
            Token.parse(changed)


def test_what_redis_holds_opens_with_the_token_alone(scene: Enrolled) -> None:
    """Who reads all of Redis finds neither the parcel nor a password in it; another's token does not open it."""
    token = Token.parse(scene.enroll("web1"))
    root = scene.root()
    sealed = bytes.fromhex(root.get(join_key(token.id)))
    users = json.dumps(root.acl_list())
    for secret in (token.password, token.key.hex(), scene.fleet.machine_password("web1")):
        assert secret not in users
        assert secret.encode() not in sealed
    other = Token.parse(scene.enroll("web2"))
    with pytest.raises(BadToken):
        other.open(sealed)
    parcel = token.open(sealed)
    assert parcel["host"] == "web1"
    assert "secret" not in base64.urlsafe_b64decode(token.text().split(".")[1] + "==").decode()


def test_a_token_opens_nothing_but_its_own_key(scene: Enrolled) -> None:
    """Its user may take one value and do nothing else."""
    token = Token.parse(scene.enroll("web1"))
    root = scene.root()
    rules = root.acl_getuser(f"{JOIN_USERS}{token.id}")
    assert rules["keys"] == [f"~{join_key(token.id)}"]
    assert rules["channels"] == []
    assert rules["categories"] == ["-@all"]
    assert sorted(rules["commands"]) == ["+client|setinfo", "+client|setname", "+getdel", "+ping", "+select"]


def test_a_new_token_withdraws_the_one_before(scene: Enrolled) -> None:
    """So one that was printed, and lost, can be made worthless."""
    lost = scene.enroll("web1")
    good = scene.enroll("web1")
    scene.join(lost, "web1", code=TokenSpent.exit_code)
    scene.join(good, "web1")


def test_a_place_that_is_taken_is_seen_before_the_token_is_spent(scene: Enrolled) -> None:
    """A fleet's configuration, another host's, a directory that can't be written to: all refused, and then it works."""
    scene.join(scene.enroll("web2"), "web2")
    token = scene.enroll("web1")
    for taken in (scene.shop.conf, scene.directory("web2")):
        before = {path: path.read_bytes() for path in taken.rglob("*") if path.is_file()}
        where = ("--directory", str(taken), "--host", "web1")
        scene.shop.run("agent", "join", token, *where, code=OtherHost.exit_code)
        assert {path: path.read_bytes() for path in taken.rglob("*") if path.is_file()} == before
    (scene.base / "file").write_text("")
    where = ("--directory", str(scene.base / "file" / "below"), "--host", "web1")
    assert "can't write to" in scene.shop.run("agent", "join", token, *where, code=80)
    scene.join(token, "web1")


def test_what_the_server_has_added_outlives_another_join(scene: Enrolled) -> None:
    """The fleet's part is written anew, with what has changed; sources.yaml and the rest of conf.d are the server's."""
    scene.join(scene.enroll("web1"), "web1")
    own = scene.directory("web1") / "conf.d"
    (own / "sources.yaml").write_text((own / "sources.yaml").read_text() + "    excludes: ['*.tmp']\n")
    (own / "limits.yaml").write_text("limits: {nice: 19}\nrestore_to: [/srv/restore]\n")
    config = scene.shop.conf / "holdfast.yaml"
    config.write_text(config.read_text() + f"  web1/more: {{host: web1, paths: [{scene.base}/data-web1]}}\n")
    assert scene.shop.ask("agent", "enroll", "web1", code=10)["error"]["type"] == "ConfigInvalid"
    config.write_text(config.read_text().replace("web1/more", "more"))
    scene.join(scene.enroll("web1"), "web1")
    fleet = scene.own("web1")
    assert (fleet.limits.nice, fleet.sources["web1"].excludes) == (19, ("*.tmp",))
    assert fleet.machine_password("more") == scene.fleet.machine_password("more")
    assert stat.S_IMODE(os.stat(own).st_mode) == 0o700


@pytest.mark.parametrize("options", [["--expires", "10"], ["--expires", "8d"], ["--expires", "soon"]])
def test_a_time_that_can_not_be(scene: Enrolled, options: list[str]) -> None:
    """From a minute to a week."""
    assert "expected a time from 1m to 7d" in scene.shop.run("agent", "enroll", "web1", *options, code=2)


def test_a_host_that_there_is_not(scene: Enrolled) -> None:
    """With the nearest name; one that reads nothing is told apart; a revocation of nobody as well."""
    assert 'did you mean "web1"' in scene.shop.run("agent", "enroll", "web11", code=10)
    config = scene.shop.conf / "holdfast.yaml"
    config.write_text(config.read_text() + "hosts: [spare]\n")
    assert "no source is read on host spare" in scene.shop.run("agent", "enroll", "spare", code=80)
    assert "no agent of host spare is enrolled" in scene.shop.run("agent", "revoke", "spare", code=85)


def test_a_redis_that_only_this_machine_reaches(tmp_path: Path) -> None:
    """The embedded one listens on a socket: no token is made that could never work."""
    from shared.agents.parcel import address_of

    with pytest.raises(HoldfastError, match="listens on a socket of this machine"):
        address_of(f"unix://{tmp_path}/valkey.sock")
