"""A fleet of two hosts on a real Redis with ACLs and a real MinIO with policies, and the agents that join it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from shared.config.fleet import Fleet
from shared.config.stores import current_credentials
from shared.ledger.model import Run, RunKind
from shared.messaging import client
from shared.storage import ObjectStore, open_store
from tests.support import forked
from tests.support.command import ROOT, Shop, environment
from tests.support.ledgers import until
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer, ValkeyServer

HOSTS = ("web1", "web2")
_CONTROL = "on >holdfastpw ~* &* +@all -@admin -@dangerous +info"


class Enrolled:
    """The fleet's file lies in `conf` of the shop; each host's own directory beside it."""

    def __init__(self, base: Path, valkey: ValkeyServer, minio: MinioServer, *, versioned: bool = True) -> None:
        self.shop = Shop(base)
        self.base = base
        self.valkey = valkey
        self.minio = minio
        self.bucket = make_bucket(minio, versioned=versioned)
        self.shop.conf.mkdir()
        for name, text in (
            ("secret", "0123456789abcdef" * 4),
            ("recovery", "a recovery password"),
            ("fra.keys", f"access_key = {minio.access_key}\nsecret_key = {minio.secret_key}\n"),
        ):
            (self.shop.conf / name).write_text(text)
            (self.shop.conf / name).chmod(0o600)
        sources = ""
        for host in HOSTS:
            (base / f"data-{host}").mkdir()
            for number in range(5):
                (base / f"data-{host}" / f"file-{number}").write_bytes(f"{host} {number}\n".encode() * 2000)
            sources += f"  {host}: {{host: {host}, paths: [{base}/data-{host}]}}\n"
        (self.shop.conf / "holdfast.yaml").write_text(
            "secret: {file: secret}\nrecovery_password: {file: recovery}\n"
            f"regions: {{local: {{broker: '{self.broker}', admin: '{self.admin}'}}}}\n"
            f"sites: {{fra: {{url: 's3:{minio.url}/{self.bucket}', credentials: {{file: fra.keys}}, "
            "admin: {file: fra.keys}}}\n"
            f"policies: {{all: {{full: 1d}}}}\nsources:\n{sources}"
        )
        self.set_up_redis()

    def set_up_redis(self) -> None:
        """What an administrator does with a Redis that knows nobody: a password, and the fleet's own user."""
        with redis.Redis.from_url(self.valkey.url) as client_:
            client_.config_set("requirepass", "rootpw")
        self.root().execute_command("ACL", "SETUSER", "holdfast", *_CONTROL.split())

    @property
    def broker(self) -> str:
        """As the fleet's own processes reach it."""
        return self.valkey.url.replace("//", "//holdfast:holdfastpw@")

    @property
    def admin(self) -> str:
        """As who may do all."""
        return self.valkey.url.replace("//", "//:rootpw@")

    def root(self) -> redis.Redis:
        """A client that may do all."""
        return redis.Redis.from_url(self.admin, decode_responses=True)

    @property
    def fleet(self) -> Fleet:
        """The fleet's file, loaded."""
        return Fleet.load(str(self.shop.conf / "holdfast.yaml"))

    def directory(self, host: str) -> Path:
        """The server's own configuration."""
        return self.base / f"etc-{host}"

    def own(self, host: str) -> Fleet:
        """The server's own file, loaded."""
        return Fleet.load(str(self.directory(host) / "holdfast.yaml"))

    def enroll(self, host: str, *options: str, code: int = 0) -> str:
        """A token."""
        return str(self.shop.ask("agent", "enroll", host, *options, code=code)["token"])

    def join(self, token: str, host: str, *options: str, code: int = 0) -> str:
        """Join as that host; what it said."""
        given = ("--directory", str(self.directory(host)), "--host", host, *options)
        return self.shop.run("agent", "join", token, *given, code=code)

    def both(self) -> None:
        """Both hosts have joined."""
        for host in HOSTS:
            self.join(self.enroll(host), host)

    @contextmanager
    def agent(self, host: str) -> Iterator[subprocess.Popen[bytes]]:
        """The agent of a host; killed at the end if it is there still."""
        with open(self.log(host), "ab") as log:
            process = forked.Popen(
                [sys.executable, "-m", "cli.main", "-c", str(self.directory(host) / "holdfast.yaml"), "agent", "run"],
                cwd=ROOT,
                env=environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until(lambda: self.is_here(host), what=f"the agent of {host} on the roll")
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self, host: str) -> Path:
        """What the agent said."""
        return self.base / f"agent-{host}.log"

    def is_wiped(self) -> bool:
        """Whether Redis knows neither a key nor a user."""
        with redis.Redis.from_url(self.valkey.url, decode_responses=True) as client_:
            return client_.dbsize() == 0 and client_.acl_users() == ["default"]

    def is_here(self, host: str) -> bool:
        """Whether the host's agent has been heard of."""
        return any(f"host.{host}" in one.queues for one in client.workers(self.fleet))

    def back_up(self, host: str, kind: RunKind = RunKind.FULL) -> Run:
        """Ring for a backup of the host's source; the run once it is over."""
        run_id = client.open_and_ring(self.fleet, kind, host)
        return self.ended(host, run_id)

    def ended(self, host: str, run_id: str, *, seconds: float = 60.0) -> Run:
        """The run once it is over."""
        realm = client.ledger_of(self.fleet, host)

        def over() -> Run | None:
            run = realm.get(run_id)
            return run if run is not None and run.is_over else None

        return until(over, seconds=seconds, what=f"run {run_id} of {host}")

    def denials(self) -> list[str]:
        """What Redis refused, to anybody: user and what it was."""
        return [f"{one['username']} {one['object']}" for one in self.root().acl_log()]

    def site(self) -> ObjectStore:
        """The whole bucket, as who may do all."""
        return open_bucket(self.minio, self.bucket)

    def as_agent(self, host: str) -> ObjectStore:
        """The whole bucket, with the keys that the host has now."""
        keys = current_credentials(self.own(host).site_access("fra"))
        return open_store(f"s3:{self.minio.url}/{self.bucket}", credentials=keys, deadline=10.0, name="fra")

    def redis_as(self, host: str) -> redis.Redis:
        """Redis, as the host's own user."""
        return redis.Redis.from_url((self.directory(host) / "broker.url").read_text().strip(), decode_responses=True)


@contextmanager
def enrolled_fleet(base: Path, minio: MinioServer, *, versioned: bool = True) -> Iterator[Enrolled]:
    """On a Redis of its own."""
    with ValkeyServer(str(base / "valkey")) as valkey:
        yield Enrolled(base, valkey, minio, versioned=versioned)
