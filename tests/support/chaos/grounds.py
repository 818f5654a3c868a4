"""Some hundreds of small sources on two sites, in which files change all the time."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from contextlib import suppress

from shared.config.fleet import Fleet
from tests.support.chaos.plan import SOURCES
from tests.support.tools import MinioServer

HOST, POOL = "web1", "s3"  # a source in ten has a host of its own, one in ten is in the bucket's pool
_MEDIUM = range(5, SOURCES, 25)  # numbers: a backup takes long enough for things to happen in the middle of it
_MEDIUM_SIZE = 24 << 20  # bytes
_PAUSE = 0.03  # seconds between two changes


class Grounds:
    """The sources, the sites and the configuration, below one directory."""

    def __init__(
        self,
        directory: str,
        brokers: tuple[str, str],
        minio: MinioServer,
        bucket: str,
        seed: int,
        pace: float,
        sources: int = SOURCES,
    ) -> None:
        """`brokers`: Redis as those who work reach it, and as people do."""
        self.directory = directory
        self.minio = minio
        self.bucket = bucket
        self.names = [f"s{number:03}" for number in range(sources)]
        self.medium = [f"s{number:03}" for number in _MEDIUM]
        self._draw = random.Random(f"{seed} sources")
        for name in self.names:
            self._make(name)
        every = round(max(20.0, 120.0 / pace) * sources / SOURCES)  # as many runs a second, however many sources
        schedule = {"full": f"{5 * every}s", "incremental": f"{every}s"}
        self.path = self._configure("fleet.yaml", brokers[0], schedule)
        # To what is asked for when all is to be drained: a source that has no backup at all still gets one.
        self.quiet_path = self._configure("quiet.yaml", brokers[0], {"full": "0 0 1 1 *"})
        self.fleet = Fleet.load(self._configure("people.yaml", brokers[1], schedule))

    def place(self, name: str) -> str:
        """Where a source's files are."""
        return os.path.join(self.directory, "sources", name)

    def stable(self, name: str) -> bytes:
        """What the one file of a source that never changes holds."""
        return f"stable {name}\n".encode() * 40

    def number(self, name: str) -> int:
        """The number of a source."""
        return int(name[1:])

    def site_of(self, name: str) -> str:
        """Where its repository is."""
        return "b" if self.number(name) % 10 == 3 else "a"

    def host_of(self, name: str) -> str:
        """Its host; empty for a pool's."""
        return HOST if self.number(name) % 10 == 6 else ""

    def repository_url(self, name: str) -> str:
        """The repository as stock restic names it."""
        if self.site_of(name) == "a":
            return os.path.join(self.directory, "site", "repos", name)
        return f"s3:http://{self.minio.endpoint}/{self.bucket}/repos/{name}"

    @property
    def s3_environment(self) -> dict[str, str]:
        """What stock restic needs besides for the bucket."""
        return {"AWS_ACCESS_KEY_ID": self.minio.access_key, "AWS_SECRET_ACCESS_KEY": self.minio.secret_key}

    def _make(self, name: str) -> None:
        place = self.place(name)
        os.makedirs(os.path.join(place, "sub"))
        write(os.path.join(place, "stable"), self.stable(name))
        for number in range(4):
            write(os.path.join(place, "sub", f"file{number}"), self._draw.randbytes(self._draw.randrange(1, 4000)))
        if name in self.medium:
            write(os.path.join(place, "medium"), self._draw.randbytes(_MEDIUM_SIZE))

    def _configure(self, file_name: str, broker: str, schedule: dict[str, str]) -> str:
        keys = (
            f"[default]\naws_access_key_id = {self.minio.access_key}\naws_secret_access_key = {self.minio.secret_key}\n"
        )
        for name, text in (("secret", "0123456789abcdef" * 4), ("recovery", "a recovery password"), ("keys", keys)):
            with open(os.path.join(self.directory, name), "w", opener=_private) as file:
                file.write(text)
        sources: dict[str, dict[str, object]] = {}
        for name in self.names:
            sources[name] = {"paths": [self.place(name)], "labels": {"site": self.site_of(name)}}
            if self.site_of(name) == "b":
                sources[name]["pool"] = POOL
            elif self.host_of(name):
                sources[name]["host"] = HOST
        url = f"s3:http://{self.minio.endpoint}/{self.bucket}"
        fleet = {
            "secret": {"file": "secret"},
            "recovery_password": {"file": "recovery"},
            "state_dir": "state",
            "cache_dir": "cache",
            "scheduling": {"runs_per_host": 4},
            "defaults": {"read_concurrency": 1, "pack_size": "4 MiB"},
            "regions": {"local": {"broker": broker}},
            "sites": {"a": {"url": "site"}, "b": {"url": url, "credentials": {"file": f"{self.directory}/keys"}}},
            "policies": {
                "far": {"select": "site=b", "primary": "b", **schedule},
                "near": {"select": "*", "primary": "a", **schedule},
            },
            "sources": sources,
        }
        for folder in ("site", "state", "cache", "restored"):
            os.makedirs(os.path.join(self.directory, folder), exist_ok=True)
        path = os.path.join(self.directory, file_name)
        with open(path, "w") as file:
            json.dump(fleet, file)  # which is YAML, too
        return path


class Mutator(threading.Thread):
    """Changes files of the sources for as long as it is not stopped: some of any source, none that is `stable`."""

    def __init__(self, grounds: Grounds, seed: int) -> None:
        super().__init__(name="mutator", daemon=True)
        self.changes = 0
        self._grounds = grounds
        self._draw = random.Random(f"{seed} changes")
        self._over = threading.Event()

    def run(self) -> None:
        """Change one thing after the other."""
        while not self._over.wait(_PAUSE):
            with suppress(FileNotFoundError):  # it drew what it has removed before
                self._change(self._draw.choice(self._grounds.names))
                self.changes += 1

    def stop(self) -> None:
        """No more changes from now on."""
        self._over.set()
        self.join()

    def _change(self, name: str) -> None:
        draw, place = self._draw, self._grounds.place(name)
        file = os.path.join(place, "sub", f"file{draw.randrange(8)}")
        what = draw.randrange(7)
        if name in self._grounds.medium and what < 3:
            with open(os.path.join(place, "medium"), "r+b") as medium:
                medium.seek(draw.randrange(_MEDIUM_SIZE - (1 << 16)))
                medium.write(draw.randbytes(1 << 16))
        elif what == 0:
            os.unlink(file)
        elif what == 1:
            os.rename(file, os.path.join(place, "sub", f"file{draw.randrange(8)}"))
        elif what == 2:
            folder = os.path.join(place, f"more{draw.randrange(3)}")
            if os.path.isdir(folder):
                shutil.rmtree(folder)
            else:
                os.makedirs(folder)
                os.symlink("../stable", os.path.join(folder, "link"))
        elif what == 3:
            with open(file, "ab") as changed:
                changed.write(draw.randbytes(100))
        elif what == 4:
            write(file, draw.randbytes(os.stat(file).st_size))
        else:
            write(file, draw.randbytes(draw.randrange(1, 4000)))


def write(path: str, data: bytes) -> None:
    """Write a file's content, in place."""
    with open(path, "wb") as file:
        file.write(data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_TRUNC, 0o600)
