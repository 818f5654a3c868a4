"""The demo's stage: a scratch directory, a fleet, real processes, and honest ways to look at what they did."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from shared.config.fleet import Fleet
from shared.ledger.errors import LedgerAway
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunState
from shared.messaging.client import ledger_of
from shared.repository.pack import Blob
from shared.repository.repository import Repository

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = "files"
SITE = "a"
INCREMENTAL_EVERY = 5  # seconds; a real policy says hours
_BUCKET = "backups"
_FLEET = """\
secret: {{file: fleet.secret}}
recovery_password: {{file: recovery.password}}
state_dir: state
cache_dir: cache
exporter: {{listen: off}}  # a demo disturbs nothing else on this machine
sites:
  {site}: {{{place}}}
policies:
  demo: {{full: 1d, incremental: {every}s}}
sources:
  {source}: {{paths: ["{files}"]}}
"""

Found = TypeVar("Found")


class DemoFailed(Exception):
    """Something is not as the demo says it is."""


def tools() -> dict[str, str]:
    """The programs that `deploy/tools/fetch.py` has fetched, by name."""
    fetch = os.path.join(PROJECT, "deploy", "tools", "fetch.py")
    printed = subprocess.run([sys.executable, fetch, "--print"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in printed.splitlines())


def wait_for(look: Callable[[], Found | None], what: str, seconds: float = 60.0, every: float = 0.05) -> Found:
    """What `look` finds once it does. Raises DemoFailed after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(LedgerAway):  # it starts, or starts again
            found = look()
            if found:
                return found
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {seconds:g} s for {what}")
        time.sleep(every)


class Stage:
    """Everything lies below one scratch directory; `close` stops what runs."""

    def __init__(self, site: str) -> None:
        self.root = tempfile.mkdtemp(prefix="holdfast-demo-")
        self.files = os.path.join(self.root, "files")
        self.tools = tools()
        self.restic_environment: dict[str, str] = {}
        self._environment = dict(os.environ)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._seen: set[int] = set()
        copy_real_files(self.files)
        for name in ("fleet.secret", "recovery.password"):
            with open(
                os.path.join(self.root, name), "w", opener=lambda path, flags: os.open(path, flags, 0o600)
            ) as file:
                file.write(secrets.token_urlsafe(24))
        place = self._start_minio() if site == "minio" else self._make_directory_site()
        self.config = os.path.join(self.root, "holdfast.yaml")
        with open(self.config, "w") as file:
            file.write(_FLEET.format(site=SITE, place=place, every=INCREMENTAL_EVERY, source=SOURCE, files=self.files))
        self.fleet = Fleet.load(self.config)
        self.ledger: Ledger = ledger_of(self.fleet)

    def holdfast(self, *words: str) -> str:
        """Run a command of Holdfast; what it printed. Raises DemoFailed."""
        command = [sys.executable, "-m", "cli.main", "--config", self.config, *words]
        done = subprocess.run(
            command, cwd=PROJECT, env=self._environment, capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode != 0:
            raise DemoFailed(f"`holdfast {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def restic(self, *words: str) -> str:
        """Run stock restic on the same repository; what it printed. Raises DemoFailed."""
        name = "restic-0.18" if "restic-0.18" in self.tools else "restic-0.14"
        if name not in self.tools:
            raise DemoFailed("stock restic is not there: run `make tools`")
        command = [self.tools[name], "--repo", self.restic_repository, "--no-cache", *words]
        password = os.path.join(self.root, "recovery.password")
        environment = {**self._environment, **self.restic_environment, "RESTIC_PASSWORD_FILE": password}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise DemoFailed(f"`restic {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def up(self) -> int:
        """Start `holdfast up`; its process id."""
        return self._start("up", [sys.executable, "-m", "cli.main", "--config", self.config, "up"])

    def ended_run(self, wanted: Callable[[Run], bool]) -> Run | None:
        """The newest run that ended well and is wanted. Raises DemoFailed where a run has failed."""
        for run in self.ledger.recent():
            if run.state not in {RunState.SUCCEEDED, RunState.INCOMPLETE}:
                raise DemoFailed(f"{run.request.kind.value} {run.state.value}: {run.error}")
            if wanted(run):
                return run
        return None

    def repository(self) -> Repository:
        """The repository, opened as any reader opens it."""
        store = self.fleet.open_site(SITE).below(f"repos/{SOURCE}")
        return Repository.open(store, self.fleet.machine_password(SOURCE))

    def packs(self) -> dict[str, int]:
        """The packs that lie at the site now: id and bytes."""
        store = self.fleet.open_site(SITE).below(f"repos/{SOURCE}")
        return {info.key.rpartition("/")[2]: info.size for info in store.list("data/")}

    def journaled(self) -> int:
        """How many packs the backup under way has noted as stored."""
        folder = os.path.join(self.fleet.cache_dir, "journal")
        lines = 0
        with suppress(OSError):  # none yet, or just removed
            for name in os.listdir(folder):
                with open(os.path.join(folder, name), "rb") as file:
                    lines += file.read().count(b"\n")
        return lines

    def bytes_twice(self) -> int:
        """Bytes of blobs that lie at the site more than once, read from the packs themselves and not from an index."""
        repository = self.repository()
        seen: set[tuple[int, bytes]] = set()
        twice = 0
        for name in self.packs():
            blobs: list[Blob] = repository.pack_header(bytes.fromhex(name))
            for blob in blobs:
                if (blob.type, blob.id) in seen:
                    twice += blob.length
                seen.add((blob.type, blob.id))
        return twice

    def stop_up(self) -> None:
        """Stop `holdfast up`, as Ctrl-C does. Raises DemoFailed where it does not end well."""
        code = self._stop(self._processes["up"])
        if code != 0:
            raise DemoFailed(f"`holdfast up` ended with {code}")

    def close(self) -> list[int]:
        """Stop all; the process ids of what is left running (there should be none)."""
        for process in reversed(self._processes.values()):
            self._stop(process)
        self.ledger.client.close()
        return [pid for pid in self._seen if is_alive(pid)]

    def _stop(self, process: subprocess.Popen[bytes]) -> int:
        if process.poll() is None:
            self._seen.update([process.pid, *descendants(process.pid)])
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return process.wait()

    def remove(self) -> None:
        """Delete the scratch directory."""
        shutil.rmtree(self.root)

    def _start(self, name: str, command: list[str]) -> int:
        with open(os.path.join(self.root, f"{name}.log"), "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[name] = process
        return process.pid

    def _make_directory_site(self) -> str:
        place = os.path.join(self.root, "site")
        os.mkdir(place)
        self.restic_repository = os.path.join(place, "repos", SOURCE)
        return f'url: "{place}"'

    def _start_minio(self) -> str:
        if "minio" not in self.tools:
            raise DemoFailed("MinIO is not there: run `make tools`")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
        user, password = secrets.token_hex(8), secrets.token_hex(20)
        self._environment |= {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password, "MINIO_BROWSER": "off"}
        self._environment |= {"MINIO_UPDATE": "off", "MINIO_CI_CD": "1"}
        self._environment |= {"DEMO_ACCESS_KEY_ID": user, "DEMO_SECRET_ACCESS_KEY": password}
        os.environ.update({name: value for name, value in self._environment.items() if name.startswith("DEMO_")})
        data = os.path.join(self.root, "minio")
        certificates = os.path.join(self.root, "no-certs")
        command = [self.tools["minio"], "server", "--quiet", "--address", endpoint, "--certs-dir", certificates, data]
        self._start("minio", command)
        from minio import Minio

        client = Minio(endpoint=endpoint, access_key=user, secret_key=password, secure=False)

        def made() -> bool:
            try:
                client.make_bucket(bucket_name=_BUCKET)
            except Exception:  # noqa: BLE001 - not listening yet, in one of many ways
                return False
            return True

        wait_for(made, "MinIO", 30)
        self.restic_repository = f"s3:http://{endpoint}/{_BUCKET}/repos/{SOURCE}"
        self.restic_environment = {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": password}
        return f'url: "s3:http://{endpoint}/{_BUCKET}", credentials: {{env: DEMO}}'


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def copy_real_files(target: str) -> None:
    """The virtual environment's packages and the project itself: real files, copied so that they may be changed."""
    shutil.copytree(sysconfig.get_paths()["purelib"], os.path.join(target, "site-packages"), symlinks=True)
    left_out = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(PROJECT, os.path.join(target, "project"), symlinks=True, ignore=left_out)


def differences(one: str, two: str) -> list[str]:
    """What differs between two trees: names, types, modes, owners, times of files, targets of links, content."""
    first, second = dict(_entries(one)), dict(_entries(two))
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _entries(top: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            kept: tuple[object, ...] = (facts.st_mode, facts.st_uid, facts.st_gid)
            if stat.S_ISREG(facts.st_mode):
                kept = (*kept, facts.st_size, facts.st_mtime_ns, content(path))
            elif stat.S_ISLNK(facts.st_mode):
                kept = (*kept, os.readlink(path))
            yield os.path.relpath(path, top), kept


def content(path: str) -> bytes:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def descendants(top: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    below = [top]
    for pid in below:
        below += [child for child, parent in parents.items() if parent == pid]
    return below[1:]


def command_line(pid: int) -> list[str]:
    """The words of a process's command; none where it is gone."""
    with suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return file.read().split("\0")
    return []


def is_alive(pid: int) -> bool:
    """Whether a process runs, zombies aside."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False
