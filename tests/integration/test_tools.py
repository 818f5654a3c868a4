"""The tools that other tests stand on are the real ones, and behave as those tests assume."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest
import redis
from minio import Minio

from tests.support import tools
from tests.support.fixtures import minio_server, valkey_server
from tests.support.tools import MinioServer, Server, ValkeyServer

__all__ = ["minio_server", "valkey_server"]

_FETCH = os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "tools", "fetch.py")


def _client(server: MinioServer) -> Minio:
    return Minio(server.endpoint, access_key=server.access_key, secret_key=server.secret_key, secure=False)


def _fetch(
    *arguments: str, cache: str | os.PathLike[str], path: str | os.PathLike[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {"HOLDFAST_TOOLS": str(cache), "PATH": str(path), **environment}
    command = [sys.executable, _FETCH, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def _program(path: str, script: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\n{script}\n")
    os.chmod(path, 0o700)


@pytest.mark.parametrize("version", ["0.14", "0.18"])
def test_restic_is_at_least_the_version_asked_for(version: str) -> None:
    """`restic(version)` runs, and is that version or (from PATH, off Debian) a newer one."""
    said = subprocess.run([tools.restic(version), "version"], capture_output=True, text=True, check=True).stdout
    found = tuple(map(int, said.split()[1].split(".")[:2]))
    assert found >= tuple(map(int, version.split(".")))


def test_a_missing_tool_fails_and_names_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed raises, with the command that installs it, and skips nothing."""
    monkeypatch.setattr(tools, "_installed", dict)
    with pytest.raises(AssertionError, match=r"deploy/tools/fetch\.py restic-0\.14"):
        tools.restic("0.14")


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_a_program_may_live_an_hour_off(ahead: int) -> None:
    """The time of day is another one, in its children too; the clocks that time spans are not."""
    script = "import time; print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{script}'])"]
    before = (time.time() + ahead, time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))
    said = subprocess.run(command, env={**os.environ, **tools.faketime(ahead)}, capture_output=True, check=True).stdout
    after = (time.time() + ahead, time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))
    found = [float(word) for word in said.split()]
    assert [low <= one <= high for low, one, high in zip(before, found, after, strict=True)] == [True] * 3


def test_minio_stores_and_lists(minio_server: MinioServer) -> None:
    """The MinIO of the session accepts its root credentials."""
    client = _client(minio_server)
    client.make_bucket("tools")
    assert [bucket.name for bucket in client.list_buckets()] == ["tools"]
    client.remove_bucket("tools")


def test_a_killed_minio_returns_with_its_data(tmp_path: os.PathLike[str]) -> None:
    """After a SIGKILL, `start` brings back the same port, credentials and buckets."""
    with MinioServer(os.path.join(tmp_path, "data")) as server:
        _client(server).make_bucket("kept")
        server.kill()
        server.start()
        assert [bucket.name for bucket in _client(server).list_buckets()] == ["kept"]


def test_valkey_answers(valkey_server: ValkeyServer) -> None:
    """The Valkey of the session speaks to redis-py."""
    with redis.Redis.from_url(valkey_server.url) as client:
        assert client.set("tools", "1") is True


@pytest.mark.parametrize(("append_only", "expected"), [(True, b"kept"), (False, None)])
def test_a_killed_valkey_keeps_what_it_was_asked_to(
    tmp_path: os.PathLike[str],
    append_only: bool,
    expected: bytes | None,
) -> None:
    """With `append_only` a write survives SIGKILL; without, it is gone, as after a wipe."""
    with ValkeyServer(str(tmp_path), append_only=append_only) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "kept")
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("key") == expected


def test_a_stopped_server_leaves_no_process(tmp_path: os.PathLike[str]) -> None:
    """`stop` ends the process group, and a second `stop` is no error."""
    server: Server = ValkeyServer(str(tmp_path))
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_a_server_that_can_not_start_says_why(tmp_path: os.PathLike[str]) -> None:
    """A server that ends at once, here because its port is taken, fails with its own words."""
    server = ValkeyServer(str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", server.port))
        with pytest.raises(AssertionError, match=r"(?s)did not become ready on port \d+:\n.*Address already in use"):
            server.start()


@pytest.mark.parametrize(("environment", "expected"), [({}, 0), ({"CI": "true"}, 1)])
def test_what_can_not_be_had_is_a_failure_under_ci_alone(
    tmp_path: os.PathLike[str], environment: dict[str, str], expected: int
) -> None:
    """With no apt and no restic on PATH, fetch says what to install; the exit code is 1 only under CI."""
    done = _fetch("restic-0.18", cache=tmp_path, path=tmp_path, **environment)
    assert done.returncode == expected
    assert "restic-0.18 is MISSING: install restic 0.18 or newer and put it on PATH" in done.stderr


def test_a_newer_restic_on_path_serves_for_an_older_one(tmp_path: os.PathLike[str]) -> None:
    """Where nothing is cached, the restic on PATH stands in for versions up to its own."""
    program = os.path.join(tmp_path, "restic")
    _program(program, "echo restic 0.17.3 compiled with go")
    done = _fetch("--print", cache=os.path.join(tmp_path, "cache"), path=tmp_path)
    of_restic = [line for line in done.stdout.splitlines() if line.startswith("restic")]  # a server may be installed
    assert of_restic == [f"restic-0.14={program}"]


def test_minio_of_another_hash_is_not_built(tmp_path: os.PathLike[str]) -> None:
    """Source whose module checksum is not the pinned one is refused before anything is built."""
    answers = """case "$1" in env) echo go1.26.1;; mod) echo '{"Sum": "h1:other=", "Dir": "/"}';; *) exit 99;; esac"""
    _program(os.path.join(tmp_path, "go"), answers)
    done = _fetch("minio", "--strict", cache=os.path.join(tmp_path, "cache"), path=tmp_path)
    assert done.returncode == 1
    assert "is not the pinned one: expected h1:" in done.stderr
    assert os.listdir(os.path.join(tmp_path, "cache")) == [".lock"]


@pytest.mark.parametrize(("environment", "expected"), [({}, 0), ({"CI": "true"}, 1)])
def test_a_missing_prometheus_is_a_failure_under_ci_alone(
    tmp_path: os.PathLike[str], environment: dict[str, str], expected: int
) -> None:
    """With no apt and none on PATH, each of the three names itself; the exit code is 1 only under CI."""
    done = _fetch("prometheus", "promtool", "alertmanager", cache=tmp_path, path=tmp_path, **environment)
    assert done.returncode == expected
    for name in ("prometheus", "promtool", "alertmanager"):
        assert f"{name} is MISSING: install {name} and put it on PATH" in done.stderr


def test_debians_name_of_alertmanager_on_path_serves(tmp_path: os.PathLike[str]) -> None:
    """Where nothing is cached, what is on PATH is taken, under the name that Debian gives it too."""
    for name in ("promtool", "prometheus-alertmanager"):
        _program(os.path.join(tmp_path, name), "exit 0")
    done = _fetch("--print", "promtool", "alertmanager", cache=os.path.join(tmp_path, "cache"), path=tmp_path)
    assert done.stdout.splitlines() == [
        f"promtool={tmp_path}/promtool",
        f"alertmanager={tmp_path}/prometheus-alertmanager",
    ]
