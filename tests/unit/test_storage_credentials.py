"""Credentials from files and commands, kept until they run out; never shown."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from shared.storage import Denied
from shared.storage.credentials import (
    CredentialsCache,
    CredentialsSpec,
    credentials_from_command,
    credentials_from_file,
    parse_credentials,
)

_PLAIN = CredentialsSpec("AK", "s3cr3t=/+")


@pytest.mark.parametrize(
    "text",
    [
        "access_key = AK\nsecret_key = s3cr3t=/+\n",
        "# a comment\n\naccess_key: AK\nsecret_key: 's3cr3t=/+'\nunknown = 1\n",
        "[default]\naws_access_key_id=AK\naws_secret_access_key=s3cr3t=/+\n[other]\naws_access_key_id=no\n",
        '{"access_key": "AK", "secret_key": "s3cr3t=/+"}',
        '{"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "s3cr3t=/+", "SessionToken": null}',
    ],
)
def test_the_forms_that_are_read(text: str) -> None:
    """Lines, an AWS file's profile, JSON, and what AWS's credential_process prints."""
    assert parse_credentials(text, where="x") == _PLAIN


def test_a_profile_is_chosen(tmp_path: Path) -> None:
    """Another section of an AWS file, with its session token and time of expiry."""
    path = tmp_path / "credentials"
    path.write_text(
        "[default]\naws_access_key_id=no\naws_secret_access_key=no\n"
        "[profile backup]\naws_access_key_id=AK\naws_secret_access_key=s\naws_session_token=t\n"
        "expiration=2026-01-01T00:00:00Z\n"
    )
    expected = CredentialsSpec("AK", "s", "t", 1_767_225_600.0)
    assert credentials_from_file(str(path), profile="backup")() == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x: no access_key and no secret_key"),
        ("access_key = hunter2\n", "x: no secret_key"),
        ("[other]\naccess_key=hunter2\nsecret_key=hunter2\n", "x: no access_key and no secret_key"),
        ('{"access_key": "hunter2"', "x: begins like JSON and is none"),
        ("access_key=a\nsecret_key=hunter2\nexpires=hunter2\n", "x: its time of expiry is no ISO 8601 time"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_quoted(text: str, said: str) -> None:
    """An error of credentials is Denied, and holds none of them, its causes neither."""
    with pytest.raises(Denied) as denied:
        parse_credentials(text, where="x")
    assert str(denied.value).startswith(said)
    assert "hunter2" not in str(denied.value)
    assert denied.value.__cause__ is None


def test_a_file_that_cant_be_read_is_named(tmp_path: Path) -> None:
    """The path and the reason."""
    path = tmp_path / "none"
    with pytest.raises(Denied, match=f"credentials file {path}: No such file or directory"):
        credentials_from_file(str(path))()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Denied, match="not UTF-8 text"):
        credentials_from_file(str(path))()


def test_a_command_prints_them() -> None:
    """Its output is read as a file would be."""
    script = "print('access_key=AK'); print('secret_key=s3cr3t=/+')"
    assert credentials_from_command([sys.executable, "-c", script])() == _PLAIN


def test_a_command_that_fails_is_named_with_its_exit_code_and_not_its_output() -> None:
    """Whatever it printed may be a secret."""
    script = "import sys; print('hunter2'); print('hunter2', file=sys.stderr); sys.exit(3)"
    with pytest.raises(Denied) as denied:
        credentials_from_command([sys.executable, "-c", script])()
    assert str(denied.value).startswith(f"credentials command {sys.executable}: exit code 3")
    assert "hunter2" not in str(denied.value)


def test_a_command_that_hangs_or_is_missing_is_told() -> None:
    """It is killed after its time-out."""
    with pytest.raises(Denied, match=r"no answer within 0\.1 s"):
        credentials_from_command(["sleep", "60"], timeout=0.1)()
    with pytest.raises(Denied, match="credentials command /none/such: No such file"):
        credentials_from_command(["/none/such"])()


def test_secrets_are_not_in_a_repr() -> None:
    """Logged by mistake, a spec shows its access key alone."""
    assert repr(CredentialsSpec("AK", "hunter2", "hunter3")) == "CredentialsSpec(access_key='AK', expires=None)"


def test_a_provider_is_asked_once_until_they_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept between requests; fetched anew a minute before their time is up."""
    now = time.time()
    asked: list[float] = []

    def provide() -> CredentialsSpec:
        asked.append(now)
        return CredentialsSpec("AK", str(len(asked)), expires=now + 3600)

    cache = CredentialsCache(provide)
    assert [cache.current().secret_key for _ in range(3)] == ["1", "1", "1"]
    monkeypatch.setattr(time, "time", lambda: now + 3541)
    assert cache.current().secret_key == "2"


def test_threads_that_are_refused_together_ask_once() -> None:
    """The first to be refused renews; the others find that done, and try again with the new ones."""
    asked: list[int] = []

    def provide() -> CredentialsSpec:
        asked.append(1)
        return CredentialsSpec("AK", str(len(asked)))

    cache = CredentialsCache(provide)
    refused = cache.current()
    renewed: list[bool] = []
    threads = [threading.Thread(target=lambda: renewed.append(cache.renew(refused))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (renewed, len(asked)) == ([True] * 5, 2)


def test_fixed_credentials_and_unchanged_ones_are_not_tried_again() -> None:
    """There is nothing new to try."""
    cache = CredentialsCache(_PLAIN)
    assert cache.renew(cache.current()) is False
    same = CredentialsCache(lambda: CredentialsSpec("AK", "s"))
    assert same.renew(same.current()) is False


def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the configuration reads it; a stray AWS variable changes nothing here."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stray")
    path = tmp_path / "c"
    path.write_text("access_key=AK\nsecret_key=s3cr3t=/+\n")
    assert os.environ["AWS_ACCESS_KEY_ID"] == "stray"
    assert credentials_from_file(str(path))() == _PLAIN
