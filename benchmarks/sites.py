"""Where repositories are put: a local directory, or a real MinIO started on the loopback address for the run."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import measure
from minio import Minio

if TYPE_CHECKING:
    from collections.abc import Iterator


class Place(Protocol):
    """A place that repositories can be made in, each under a name of its own."""

    def url(self, name: str) -> str:
        """Where the named repository lies, as restic and Holdfast write it."""

    def stored_bytes(self, name: str) -> int:
        """Sum of the sizes of its files or objects."""

    def remove(self, name: str) -> None:
        """Delete it."""

    def server_cpu(self) -> float:
        """Seconds of CPU that the place's server has taken so far; 0 for a directory."""

    @property
    def env(self) -> dict[str, str]:
        """What a tool needs in its environment."""


@dataclass
class Directory:
    """Repositories in a local directory."""

    path: str

    def url(self, name: str) -> str:
        """Return its path."""
        return os.path.join(self.path, name)

    def stored_bytes(self, name: str) -> int:
        """Return the sum of file sizes."""
        return sum(
            os.lstat(os.path.join(directory, file)).st_size
            for directory, _, files in os.walk(self.url(name))
            for file in files
        )

    def remove(self, name: str) -> None:
        """Delete the directory."""
        shutil.rmtree(self.url(name), ignore_errors=True)

    def server_cpu(self) -> float:
        """No server, no time."""
        return 0.0

    @property
    def env(self) -> dict[str, str]:
        """Return nothing: a directory needs no key."""
        return {}


@dataclass
class Bucket:
    """Repositories in buckets of a MinIO of our own, a bucket each."""

    address: str
    access_key: str
    secret_key: str
    pid: int

    def url(self, name: str) -> str:
        """Return the address; makes the bucket."""
        client = self._client()
        if not client.bucket_exists(bucket_name=name):
            client.make_bucket(bucket_name=name)
        return f"s3:http://{self.address}/{name}/site"

    def stored_bytes(self, name: str) -> int:
        """Return the sum of object sizes, by listing."""
        return sum(found.size or 0 for found in self._client().list_objects(bucket_name=name, recursive=True))

    def remove(self, name: str) -> None:
        """Delete all objects, then the bucket."""
        client = self._client()
        if not client.bucket_exists(bucket_name=name):
            return
        for found in client.list_objects(bucket_name=name, recursive=True):
            client.remove_object(bucket_name=name, object_name=str(found.object_name))
        client.remove_bucket(bucket_name=name)

    def has(self, name: str, key: str) -> bool:
        """Whether an object is there."""
        return any(True for _ in self._client().list_objects(bucket_name=name, prefix=key))

    def server_cpu(self) -> float:
        """Return what the MinIO process has taken."""
        return measure.cpu_seconds(self.pid)

    @property
    def env(self) -> dict[str, str]:
        """Return the keys, under the names that restic reads and that the fleet's file calls `env: AWS`."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def _client(self) -> Minio:
        return Minio(endpoint=self.address, access_key=self.access_key, secret_key=self.secret_key, secure=False)


@contextlib.contextmanager
def minio(binary: str, work: str, own_keys: tuple[str, str] | None = None) -> Iterator[Bucket]:
    """Run a MinIO on the loopback address, with keys that nobody knows, below `work` for the time of the block.

    `own_keys`: the pair, where several servers are to have the same.

    Raises TimeoutError where it does not answer within 30 seconds.
    """
    data = tempfile.mkdtemp(prefix="minio-", dir=work)
    address = f"127.0.0.1:{_free_port()}"
    user, password = own_keys or (secrets.token_hex(10), secrets.token_hex(20))
    keys = {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password}
    with open(os.path.join(work, "minio.log"), "wb") as log:
        server = subprocess.Popen(
            [binary, "server", data, "--address", address, "--quiet"],
            env={"PATH": os.defpath, "HOME": work, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off", **keys},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_live(address, server)
        yield Bucket(address, keys["MINIO_ROOT_USER"], keys["MINIO_ROOT_PASSWORD"], server.pid)
    finally:
        server.terminate()
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(data, ignore_errors=True)


def _wait_until_live(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(f"http://{address}/minio/health/live"):
            return
        time.sleep(0.1)
    raise TimeoutError(f"MinIO did not answer at {address} within 30 s; its log is minio.log in the work directory")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
