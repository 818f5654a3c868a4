"""The demo's sites: directories, or real MinIO servers. Each can be lost in an instant, and come back."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress

from grounds import DemoFailed, wait_for

_BUCKET = "backups"


class Place(ABC):
    """A site. `described`: its lines in the configuration; `environment`: what stock restic needs to reach it."""

    lost = "lost"  # how it is lost, for people
    described = ""
    environment: Mapping[str, str] = {}

    @abstractmethod
    def repository(self, name: str) -> str:
        """Where stock restic finds a repository."""

    @abstractmethod
    def lose(self) -> None:
        """Be gone, without a word."""

    @abstractmethod
    def come_back(self) -> None:
        """With what was there."""

    def close(self) -> int | None:
        """End; the process id of what ran, if anything did."""
        return None


class DirectoryPlace(Place):
    """A disk, which is pulled out."""

    lost = "the disk is pulled"

    def __init__(self, root: str, name: str, *, witness: bool = False) -> None:
        self._path = os.path.join(root, f"site-{name}")
        os.mkdir(self._path)
        self.described = f'url: "{self._path}"' + (", witness: true" if witness else "")

    def repository(self, name: str) -> str:
        """Below the directory."""
        return os.path.join(self._path, "repos", name)

    def lose(self) -> None:
        """The directory is not there any more."""
        os.rename(self._path, f"{self._path}.gone")

    def come_back(self) -> None:
        """It is there again."""
        os.rename(f"{self._path}.gone", self._path)


class MinioPlace(Place):
    """A server, which is killed."""

    lost = "kill -9"

    def __init__(self, root: str, name: str, program: str) -> None:
        self._root, self._name, self._program = root, name, program
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
        self._user, self._password = secrets.token_hex(8), secrets.token_hex(20)
        keys = f"DEMO_{name.upper()}"
        os.environ |= {f"{keys}_ACCESS_KEY_ID": self._user, f"{keys}_SECRET_ACCESS_KEY": self._password}
        self.environment = {"AWS_ACCESS_KEY_ID": self._user, "AWS_SECRET_ACCESS_KEY": self._password}
        self.described = f'url: "s3:http://{self._endpoint}/{_BUCKET}", credentials: {{env: {keys}}}'
        self._start()

    def repository(self, name: str) -> str:
        """In the bucket."""
        return f"s3:http://{self._endpoint}/{_BUCKET}/repos/{name}"

    def lose(self) -> None:
        """SIGKILL."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def come_back(self) -> None:
        """The same server with the same disk."""
        self._start()

    def close(self) -> int | None:
        """SIGTERM."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        return self._process.pid

    def _start(self) -> None:
        said = {"MINIO_ROOT_USER": self._user, "MINIO_ROOT_PASSWORD": self._password}
        said |= {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "MINIO_CI_CD": "1"}
        data = os.path.join(self._root, f"minio-{self._name}")
        certificates = os.path.join(self._root, "no-certs")
        options = ["--quiet", "--address", self._endpoint, "--certs-dir", certificates]
        with open(os.path.join(self._root, f"minio-{self._name}.log"), "ab") as log:
            self._process = subprocess.Popen(
                [self._program, "server", *options, data],
                env={**os.environ, **said},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        from minio import Minio

        client = Minio(endpoint=self._endpoint, access_key=self._user, secret_key=self._password, secure=False)

        def is_there() -> bool:
            try:
                if not client.bucket_exists(bucket_name=_BUCKET):
                    client.make_bucket(bucket_name=_BUCKET)
            except Exception:  # noqa: BLE001 - not listening yet, in one of many ways
                return False
            return True

        wait_for(is_there, "MinIO", 30)


def make_places(kind: str, root: str, tools: Mapping[str, str]) -> dict[str, Place]:
    """Two sites, `a` and `b`, and a witness `w`, which is a directory. Raises DemoFailed."""
    witness: dict[str, Place] = {"w": DirectoryPlace(root, "w", witness=True)}
    if kind != "minio":
        return {name: DirectoryPlace(root, name) for name in ("a", "b")} | witness
    if "minio" not in tools:
        raise DemoFailed("MinIO is not there: run `make tools`")
    return {name: MinioPlace(root, name, tools["minio"]) for name in ("a", "b")} | witness
