"""Secrets are planted in every place that has them, things go wrong, and no log line and no metric shows one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import redis as redis_py
from minio import Minio

from shared.config.fleet import Fleet
from shared.ledger.model import RunKind, RunState
from shared.messaging.client import find, open_and_ring
from tests.support import forked
from tests.support.ledgers import until
from tests.support.monitoring import ROOT, get
from tests.support.tools import MinioServer, ValkeyServer, free_port

FLEET_SECRET = "0f1e2d3c4b5a6978" * 4
RECOVERY = "planted-recovery-password"
BROKER = "planted-broker-password"
SECRET_KEY = "planted-secret-key"
PLANTED = (FLEET_SECRET, RECOVERY, BROKER, SECRET_KEY)


@contextmanager
def _process(log: str, *arguments: str, environment: dict[str, str]) -> Iterator[None]:
    """A process of Holdfast, with all that it says in a file."""
    with open(log, "wb") as out:
        process = forked.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):  # one that waits for a Redis which lets nobody in
                process.wait(10)
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _write(path: str, text: str) -> None:
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)


def _fleet(here: str, minio: MinioServer, broker: str) -> str:
    """A source at a bucket that refuses the planted secret key, and a broker with a password in its URL."""
    source = os.path.join(here, "source")
    os.makedirs(source)
    _write(os.path.join(source, "file"), "content")
    _write(os.path.join(here, "secret"), FLEET_SECRET)
    _write(os.path.join(here, "recovery"), RECOVERY)
    path = os.path.join(here, "fleet.yaml")
    _write(
        path,
        f"""
secret: {{file: secret}}
recovery_password: {{file: recovery}}
state_dir: state
cache_dir: cache
sites: {{a: {{url: "s3:{minio.url}/planted", credentials: {{env: PLANT}}}}}}
regions: {{local: {{broker: "{broker}"}}}}
policies: {{all: {{full: 1d, rpo: 1h}}}}
sources: {{web1: {{paths: [{source}]}}}}
""",
    )
    return path


def test_no_secret_is_logged_or_exported(tmp_path: os.PathLike[str], minio_server: MinioServer) -> None:
    """Through a refused backup, and a Redis that suddenly wants another password, by each process that logs."""
    here = str(tmp_path)
    environment = {
        "PLANT_ACCESS_KEY_ID": minio_server.access_key,
        "PLANT_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    root = Minio(
        minio_server.endpoint, access_key=minio_server.access_key, secret_key=minio_server.secret_key, secure=False
    )
    root.make_bucket("planted")
    metrics = free_port()
    with ValkeyServer(os.path.join(here, "valkey")) as valkey, ExitStack() as stack:
        admin = stack.enter_context(redis_py.Redis.from_url(valkey.url))
        admin.config_set("requirepass", BROKER)
        config = _fleet(here, minio_server, f"redis://:{BROKER}@127.0.0.1:{valkey.port}/0")
        logs = {
            name: os.path.join(here, f"{name}.log") for name in ("exporter", "worker", "scheduler", "beat", "direct")
        }
        for name, arguments in {
            "exporter": ["scheduler.exporter", "--config", config, "--listen", f"127.0.0.1:{metrics}"],
            "worker": ["workers", "--config", config],
            "scheduler": ["scheduler", "worker", "--config", config],
            "beat": ["scheduler", "beat", "--config", config, "--tick", "1"],
        }.items():
            stack.enter_context(_process(logs[name], *arguments, environment=environment))

        def said(name: str) -> str:
            with open(logs[name], errors="replace") as file:
                return file.read()

        fleet = Fleet.load(config)
        run = open_and_ring(fleet, RunKind.FULL, "web1")
        until(lambda: find(fleet, run)[1].state is RunState.FAILED, seconds=60, what="the run fails")
        assert "403" in find(fleet, run)[1].error
        until(lambda: "what is due can't be known" in said("scheduler"), what="the tick looks at the site")
        with open(logs["direct"], "wb") as out:
            command = [sys.executable, "-m", "cli.main", "backup", "web1", "--direct", "--config", config]
            done = forked.run(command, cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=out, timeout=60)
        assert done.returncode == 32
        pages = [get(metrics, "/metrics")[1]]
        assert 'holdfast_last_run_failed{source="web1"} 1.0' in pages[0]

        admin.config_set("requirepass", "another")
        admin.client_kill_filter(_type="normal", skipme=True)
        pages.append(get(metrics, "/metrics")[1])
        assert "holdfast_ledger_up 0.0" in pages[1]
        for name in ("exporter", "worker", "beat"):
            until(lambda name=name: "password" in said(name).lower(), what=f"{name} is refused")  # type: ignore[misc]
        for name, text in {**{name: said(name) for name in logs}, "page": pages[0], "away": pages[1]}.items():
            assert text != ""
            assert [planted for planted in PLANTED if planted in text] == [], name
