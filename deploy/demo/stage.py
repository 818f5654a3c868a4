"""The demo's stage: a scratch directory, a fleet of two sites and a witness, and the real processes."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress

from grounds import PROJECT, DemoFailed, copy_real_files, descendants, is_alive
from places import make_places

from shared.config.fleet import Fleet
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunState
from shared.messaging.client import ledger_of
from shared.repository.pack import Blob
from shared.repository.repository import Repository

SOURCE = "files"
SITE, OTHER = "a", "b"
INCREMENTAL_EVERY = 5  # seconds; a real policy says hours
_FLEET = """\
secret: {{file: fleet.secret}}
recovery_password: {{file: recovery.password}}
state_dir: state
cache_dir: cache
exporter: {{listen: off}}  # a demo disturbs nothing else on this machine
sites:
{sites}
policies:
  demo: {{full: 1d, incremental: {every}s, rpo: 1m, primary: a, copies: {{sites: [b]}}}}
sources:
  {source}: {{paths: ["{files}"]}}
"""


def tools() -> dict[str, str]:
    """The programs that `deploy/tools/fetch.py` has fetched, by name."""
    fetch = os.path.join(PROJECT, "deploy", "tools", "fetch.py")
    printed = subprocess.run([sys.executable, fetch, "--print"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in printed.splitlines())


class Stage:
    """Everything lies below one scratch directory; `close` stops what runs."""

    def __init__(self, kind: str) -> None:
        self.root = tempfile.mkdtemp(prefix="holdfast-demo-")
        self.files = os.path.join(self.root, "files")
        self.tools = tools()
        self.places = make_places(kind, self.root, self.tools)
        self._up: subprocess.Popen[bytes] | None = None
        self._seen: set[int] = set()
        copy_real_files(self.files)
        for name in ("fleet.secret", "recovery.password"):
            with open(
                os.path.join(self.root, name), "w", opener=lambda path, flags: os.open(path, flags, 0o600)
            ) as file:
                file.write(secrets.token_urlsafe(24))
        self.config = os.path.join(self.root, "holdfast.yaml")
        sites = "\n".join(f"  {name}: {{{place.described}}}" for name, place in self.places.items())
        with open(self.config, "w") as file:
            file.write(_FLEET.format(sites=sites, every=INCREMENTAL_EVERY, source=SOURCE, files=self.files))
        self.fleet = Fleet.load(self.config)
        self.ledger: Ledger = ledger_of(self.fleet)

    # -- programs ---------------------------------------------------------------------------------

    def holdfast(self, *words: str) -> str:
        """Run a command of Holdfast; what it printed. Raises DemoFailed."""
        command = [sys.executable, "-m", "cli.main", "--config", self.config, *words]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise DemoFailed(f"`holdfast {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def restic(self, site: str, *words: str) -> str:
        """Run stock restic on the repository at a site; what it printed. Raises DemoFailed."""
        name = "restic-0.18" if "restic-0.18" in self.tools else "restic-0.14"
        if name not in self.tools:
            raise DemoFailed("stock restic is not there: run `make tools`")
        place = self.places[site]
        command = [self.tools[name], "--repo", place.repository(SOURCE), "--no-cache", *words]
        password = os.path.join(self.root, "recovery.password")
        environment = {**os.environ, **place.environment, "RESTIC_PASSWORD_FILE": password}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise DemoFailed(f"`restic {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def up(self) -> int:
        """Start `holdfast up`; its process id."""
        with open(os.path.join(self.root, "up.log"), "ab") as log:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "--config", self.config, "up"],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._up.pid

    def stop_up(self) -> None:
        """Stop `holdfast up`, as Ctrl-C does. Raises DemoFailed where it does not end well."""
        code = self._stop()
        if code != 0:
            raise DemoFailed(f"`holdfast up` ended with {code}")

    def kill_up(self) -> None:
        """SIGKILL to all of it in one instant: scheduler, workers, Valkey; and what Valkey kept is deleted."""
        if self._up is None:
            raise DemoFailed("`holdfast up` does not run")
        doomed = [self._up.pid, *descendants(self._up.pid)]
        for how in (signal.SIGSTOP, signal.SIGKILL):  # first frozen, so that none sees another die
            for pid in doomed:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
        self._up.wait()
        shutil.rmtree(os.path.join(self.fleet.state_dir, "valkey"))

    # -- what is there ----------------------------------------------------------------------------

    def ended_run(self, wanted: Callable[[Run], bool]) -> Run | None:
        """The newest run that ended well and is wanted. Raises DemoFailed where one has failed."""
        for run in self.ledger.recent():
            if run.state not in {RunState.SUCCEEDED, RunState.INCOMPLETE}:
                raise DemoFailed(f"{run.request.kind.value} {run.state.value}: {run.error}")
            if wanted(run):
                return run
        return None

    def newest_backup(self) -> Run | None:
        """The backup that ended well last, whatever else has failed."""
        backups = (run for run in self.ledger.recent() if run.request.kind.is_backup)
        return next((run for run in backups if run.state is RunState.SUCCEEDED), None)

    def names(self, site: str, kind: str) -> dict[str, int]:
        """What lies at a site now, of one kind: names and bytes."""
        with closing(self.fleet.open_site(site)) as root:
            listed = root.below(f"repos/{SOURCE}").list(f"{kind}/")
            return {info.key.rpartition("/")[2]: info.size for info in listed}

    def packs(self) -> dict[str, int]:
        """The packs at the first site."""
        return self.names(SITE, "data")

    def repository(self, site: str = SITE) -> Repository:
        """The repository, opened as any reader opens it."""
        store = self.fleet.open_site(site).below(f"repos/{SOURCE}")
        return Repository.open(store, self.fleet.machine_password(SOURCE))

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

    # -- the end ----------------------------------------------------------------------------------

    def close(self) -> list[int]:
        """Stop all; the process ids of what is left running (there should be none)."""
        self._stop()
        self._seen.update(pid for place in self.places.values() if (pid := place.close()))
        self.ledger.client.close()
        return [pid for pid in self._seen if is_alive(pid)]

    def _stop(self) -> int:
        process = self._up
        if process is None:
            return 0
        if process.poll() is None:
            self._seen.update([process.pid, *descendants(process.pid)])
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        self._up = None
        return process.wait()

    def remove(self) -> None:
        """Delete the scratch directory."""
        shutil.rmtree(self.root)
