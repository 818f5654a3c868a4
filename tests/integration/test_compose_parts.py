"""deploy/compose: what can be run of it without containers, with its own files: Redis, both sites, a backup to each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
import yaml
from minio import Minio
from minio.error import S3Error
from minio.versioningconfig import SUSPENDED, VersioningConfig

from tests.support import forked
from tests.support.command import environment
from tests.support.ledgers import until
from tests.support.monitoring import PROMETHEUS_DIR, promtool
from tests.support.tools import MinioServer, ValkeyServer, valkey_server

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy/compose"
SERVICES = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]


class AclServer(ValkeyServer):
    """A Valkey with the command line of compose, and the users that `make_secrets.py` wrote."""

    secrets: Path

    def _command(self) -> list[str]:
        program, file, *options = SERVICES["redis"]["command"]
        assert program == "valkey-server"
        conf = os.path.join(self.directory, os.path.basename(file))
        text = (ROOT / "deploy/redis" / os.path.basename(file)).read_text()
        Path(conf).write_text(text.replace("/etc/redis/users.acl", f"{self.secrets}/users.acl"))
        options = [word.replace("/data", self.directory) for word in options]
        return [valkey_server(), conf, *options, "--port", str(self.port), "--bind", "127.0.0.1"]

    def _answers(self) -> bool:
        try:
            return bool(redis.Redis(port=self.port, username="health", password="none").ping())
        except redis.exceptions.ConnectionError:
            return False


class System:
    """The parts that run, and the fleet of compose with their addresses."""

    def __init__(self, base: Path, store: AclServer, sites: dict[str, MinioServer]) -> None:
        self.base, self.store, self.sites = base, store, sites

    def prepare(self) -> str:
        """The service `sites`, with its own command line; what it said."""
        arguments = [self._here(word) for word in SERVICES["sites"]["command"]]
        command = [sys.executable, COMPOSE / "prepare_sites.py", *arguments]
        own = {**environment(), "SECRETS": str(self.base / "run")}
        done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def holdfast(self, *arguments: str) -> dict[str, object]:
        """A command on the fleet of compose; its answer."""
        command = [sys.executable, "-m", "cli.main", "-c", str(self.base / "holdfast.yaml"), *arguments, "--json"]
        done = forked.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
        assert done.returncode in {0, 2}, done.stdout + done.stderr
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def configure(self) -> None:
        """The fleet's file beside the secrets, at these addresses, and with a folder of the test's for its sources."""
        text = (COMPOSE / "config/holdfast.yaml").read_text()
        text = re.sub(r"http://site-[ab]:9000", lambda found: self._here(found[0]), text)
        (self.base / "holdfast.yaml").write_text(text.replace("/srv/docs", str(ROOT / "docs")))
        url = self.base / "secrets/broker.url"
        url.chmod(0o600)
        url.write_text(url.read_text().replace("@redis:6379", f"@127.0.0.1:{self.store.port}"))

    def _here(self, word: str) -> str:
        for name, server in self.sites.items():
            word = word.replace(f"http://{name}:9000", server.url)
        return word


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Redis and two MinIOs with the secrets of `make_secrets.py`, which compose would hand to them."""
    base = tmp_path_factory.mktemp("compose")
    secrets, run = base / "secrets", base / "run"
    subprocess.run([sys.executable, COMPOSE / "make_secrets.py", secrets], check=True, stdout=subprocess.DEVNULL)
    run.mkdir()
    for name, secret in yaml.safe_load((COMPOSE / "compose.yaml").read_text())["secrets"].items():
        (run / name).symlink_to(secrets / os.path.basename(secret["file"]))
    sites = {}
    for name in ("site-a", "site-b"):
        sites[name] = MinioServer(str(base / name))
        sites[name].access_key = (secrets / f"{name}.root-user").read_text().strip()
        sites[name].secret_key = (secrets / f"{name}.root-password").read_text().strip()
    store = AclServer(str(base / "redis"))
    store.secrets = secrets
    with store, sites["site-a"], sites["site-b"]:
        made = System(base, store, sites)
        made.prepare()
        made.configure()
        yield made


def test_sites_are_prepared_again_without_harm(system: System) -> None:
    """Each start of the system does it; the buckets keep versions."""
    assert system.prepare().count("are ready") == 2
    for server in system.sites.values():
        client = Minio(
            endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key, secure=False
        )
        assert client.get_bucket_versioning(bucket_name="backups").status == "Enabled"


def test_a_backup_arrives_at_each_site(system: System) -> None:
    """With the identities that were made for Holdfast, and no other."""
    for source, site in (("docs", "a"), ("decisions", "b")):
        done = system.holdfast("backup", source, "--direct")
        assert done["site"] == site
        snapshots = system.holdfast("snapshots", source)["snapshots"]
        assert isinstance(snapshots, list)
        assert [one["id"] for one in snapshots] == [done["snapshot"]]


def test_old_snapshots_go(system: System) -> None:
    """Forgetting and pruning are among the rights."""
    first, began = system.holdfast("backup", "docs", "--direct"), int(time.time())
    until(lambda: int(time.time()) > began)  # a bucket's clock has whole seconds, and the newest good one stays
    second = system.holdfast("backup", "docs", "--direct")
    assert first["snapshot"] != second["snapshot"]
    system.holdfast("forget", "docs", str(first["snapshot"]), "--direct")
    snapshots = system.holdfast("snapshots", "docs")["snapshots"]
    assert isinstance(snapshots, list)
    assert first["snapshot"] not in {one["id"] for one in snapshots}
    assert system.holdfast("prune", "docs", "--direct")["site"] == "a"


def test_the_identity_may_no_more_than_it_needs(system: System) -> None:
    """It destroys no key and no configuration of a repository, nor a version of one, and has no say over the bucket."""
    server = system.sites["site-a"]
    own = dict(line.split(" = ") for line in (system.base / "secrets/site-a.credentials").read_text().splitlines())
    client = Minio(endpoint=server.endpoint, access_key=own["access_key"], secret_key=own["secret_key"], secure=False)
    found = list(client.list_objects(bucket_name="backups", prefix="repos/docs/", recursive=True, include_version=True))
    kept = [one for one in found if one.object_name.split("/")[2] in {"keys", "config"}]
    assert len(kept) >= 3
    for one in kept:
        for version in (None, one.version_id):
            with pytest.raises(S3Error, match="AccessDenied"):
                client.remove_object(bucket_name="backups", object_name=one.object_name, version_id=version)
    with pytest.raises(S3Error, match="AccessDenied"):
        client.set_bucket_versioning(bucket_name="backups", config=VersioningConfig(SUSPENDED))
    with pytest.raises(S3Error, match="AccessDenied"):
        client.make_bucket(bucket_name="another")


def test_the_commands_of_health_answer(system: System) -> None:
    """`status` and `worker list`, which the checks of health ask, reach Redis as Holdfast's user."""
    assert system.holdfast("worker", "list")["workers"] == []
    assert system.holdfast("status")["scheduler"] is False
    text = subprocess.run(
        [sys.executable, "-m", "cli.main", "-c", str(system.base / "holdfast.yaml"), "status", "--json"],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=False,
    ).stdout  # fmt: skip
    (pattern,) = re.findall(r"grep -q '(.+)'", SERVICES["scheduler"]["healthcheck"]["test"][1])
    assert re.search(pattern.replace("true", "false"), text) is not None


def test_prometheus_takes_its_file(tmp_path: Path) -> None:
    """With the rules beside it, as compose mounts them."""
    for source in (COMPOSE / "config/prometheus.yml", Path(PROMETHEUS_DIR) / "holdfast.rules.yml"):
        (tmp_path / source.name).write_text(source.read_text())
    done = subprocess.run(
        [promtool(), "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [yaml.safe_load((folder / "prometheus.yml").read_text()) for folder in (tmp_path, Path(PROMETHEUS_DIR))]
    assert [job["scrape_configs"][0]["job_name"] for job in jobs] == ["holdfast", "holdfast"]  # alerts name it
    assert quote(jobs[0]["rule_files"][0]) == "holdfast.rules.yml"
