"""Secrets by reference: shared.config.secrets."""

from __future__ import annotations

import hashlib
import hmac
import sys
from pathlib import Path

import pytest

from shared.config.fleet import Fleet
from shared.config.secrets import Credentials, FleetSecret, Secret
from shared.errors import ConfigError


def test_a_secret_comes_from_a_file_a_variable_or_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line's end is not part of it; other white space is."""
    (tmp_path / "s").write_bytes(b" hunter2 \r\n")
    monkeypatch.setenv("S", "hunter3")
    command = (sys.executable, "-c", "print('hunter4')")
    got = [Secret(file=str(tmp_path / "s")).read(), Secret(env="S").read(), Secret(command=command).read()]
    assert got == [b" hunter2 ", b"hunter3", b"hunter4"]


def test_a_secret_is_read_when_it_is_needed(tmp_path: Path) -> None:
    """Loading reads none, so that a command that needs none works where none can be read."""
    secret = Secret(file=str(tmp_path / "later"))
    (tmp_path / "later").write_text("now")
    assert secret.read() == b"now"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({"file": "/nowhere/secret"}, "the key: can't read /nowhere/secret: No such file or directory"),
        ({"env": "HF_NOT_SET"}, "the key: looked in the environment variable HF_NOT_SET, which is not set"),
        ({"env": "HF_EMPTY"}, "the key: looked in the environment variable HF_EMPTY, which is empty"),
        ({"command": ["/nowhere/vault", "read"]}, "the key: can't run /nowhere/vault: No such file or directory"),
        (
            {"command": ["sh", "-c", "echo hunter2; echo sealed >&2; exit 3"]},
            "the key: sh ended with code 3: sealed",
        ),
        ({"command": ["true"]}, "the key is empty: looked in the command true"),
        ({"file": "/dev/null"}, "the key is empty: looked in /dev/null"),
    ],
)
def test_an_error_names_where_it_looked_and_no_more(
    monkeypatch: pytest.MonkeyPatch, reference: dict[str, object], said: str
) -> None:
    """Where, and why not; what a command printed may be half a secret and is not repeated."""
    monkeypatch.setenv("HF_EMPTY", "")
    with pytest.raises(ConfigError) as caught:
        Secret.model_validate(reference).read("key")
    assert str(caught.value) == said


def test_a_file_that_is_too_large_is_refused() -> None:
    """A device or a database named by mistake is not read whole."""
    with pytest.raises(ConfigError, match="is larger than 65536 bytes"):
        Secret(file="/dev/zero").read()


def test_a_short_fleet_secret_is_refused(tmp_path: Path) -> None:
    """Everything derives from it."""
    (tmp_path / "s").write_text("short")
    with pytest.raises(ConfigError, match=r"too short: expected 16 bytes or more, found 5"):
        FleetSecret(file=str(tmp_path / "s")).read()


def test_credentials_of_the_environment_are_resolved_and_others_referred_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a command is read where the site is opened, and again when the keys run out."""
    monkeypatch.setenv("FRA_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("FRA_SECRET_ACCESS_KEY", "key")
    monkeypatch.setenv("FRA_SESSION_TOKEN", "token")
    got = [Credentials(env="FRA"), Credentials(file="/k"), Credentials(command=("vault", "read"))]
    keys = {"access_key": "id", "secret_key": "key", "session_token": "token"}
    assert [one.reference() for one in got] == [keys, {"file": "/k"}, {"command": ["vault", "read"]}]


def test_credentials_name_the_variable_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix alone would leave a person guessing."""
    monkeypatch.setenv("FRA_ACCESS_KEY_ID", "id")
    with pytest.raises(ConfigError, match="variable FRA_SECRET_ACCESS_KEY, which is not set"):
        Credentials(env="FRA").reference("credentials of site fra")


def test_the_machine_password_is_an_hmac_of_the_repository(tmp_path: Path) -> None:
    """64 hex characters of HMAC-SHA256(fleet secret, repository id), as DESIGN says."""
    secret = b"0123456789abcdef0123456789abcdef"
    (tmp_path / "s").write_bytes(secret + b"\n")
    (tmp_path / "f.yaml").write_text("secret: {file: s}\nrecovery_password: {file: p}\nsites: {a: {url: ./a}}\n")
    got = Fleet.load(str(tmp_path / "f.yaml")).machine_password("db/orders")
    assert got == hmac.new(secret, b"db/orders", hashlib.sha256).hexdigest()
