"""What every command says with --json on one small real fleet: samples for the test that holds docs/json.md to it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from shared.config.fleet import Fleet
from shared.messaging.client import ledger_of
from shared.repository.repository import Repository
from shared.storage.directory import DirectoryStore
from tests.support import forked
from tests.support.command import Shop, environment
from tests.support.enrolled import enrolled_fleet
from tests.support.ledgers import until
from tests.support.sites import open_sites
from tests.support.tools import MinioServer

Samples = dict[str, list[Any]]  # by section of docs/json.md


class Speaker:
    """A shop whose commands are asked, and what each said."""

    def __init__(self, base: Path) -> None:
        self.shop = Shop(base)
        self.said: Samples = {}

    def ask(self, section: str, *arguments: str, code: int = 0) -> Any:
        """Run a command that ends with this exit code, and keep what it said."""
        found = self.shop.ask(*arguments, code=code)
        self.said.setdefault(section, []).append(found)
        return found

    def speak(self) -> Samples:
        """Run every command."""
        self.open()
        self.configuration()
        self.kits()
        self.by_itself()
        self.retention()
        self.passwords_and_locks()
        self.with_everything_up()
        self.damaged()
        self.agents()
        self.sites()
        return self.said

    def sites(self) -> None:
        """Two sites and a witness, and one that joins and leaves."""
        here, base = self.shop, self.shop.base / "sites"
        base.mkdir()
        first = "a: {url: a}, b: {url: b}, w: {url: w, witness: true}, c: {url: c}"
        self.shop = shop = open_sites(base, first)
        path = shop.conf / "holdfast.yaml"
        text = path.read_text()
        for name in "abwc":
            (shop.conf / name).mkdir()
        path.write_text(text.replace(", c: {url: c}", ""))
        shop.run("backup", "data", "--direct")
        self.ask("sites settle", "sites", "settle")
        path.write_text(text)
        self.ask("sites add", "sites", "add", "c", "--yes", "--why", "more room")
        self.ask("sites", "sites")
        self.ask("failover", "failover", "--to", "b", "--dry-run", "--although-it-answers")
        shutil.copytree(shop.conf / "a" / "repos", shop.conf / "b" / "repos")
        self.ask("switchover", "switchover", "--to", "b", "--yes")
        shop.run("backup", "data", "--direct")
        (shop.conf / "a").rename(shop.conf / "a.away")
        self.ask("sites", "sites", code=3)
        (shop.conf / "a.away").rename(shop.conf / "a")
        self.ask("failback", "failback", "a", "--accept-loss", "--yes")
        self.ask("sites remove", "sites", "remove", "c", "--yes")
        self.ask("sites pause", "sites", "pause", "--why", "moving racks")
        self.ask("sites maintenance", "sites", "maintenance", "b", "--for", "2h")
        self.ask("sites resume", "sites", "resume")
        self.ask("sites acknowledge", "sites", "acknowledge")
        self.ask("sites history", "sites", "history")
        self.shop = here

    def open(self) -> None:
        """A source with a link, names that are not UTF-8 and bytes that do not compress; one more, of a pool."""
        shop = self.shop
        shop.conf.mkdir()
        (shop.data / "sub").mkdir(parents=True)
        (shop.data / "sub" / "file").write_bytes(random.Random(5).randbytes(200_000))
        (shop.data / "gone").write_text("gone\n")
        (shop.data / "link").symlink_to("sub/file")
        (shop.data / "sub" / "odd\udcff").write_text("no UTF-8\n")
        (shop.base / "pool").mkdir()
        self.ask("init", "init", "--source", str(shop.data))
        path = shop.conf / "holdfast.yaml"
        # One of a host that no worker serves, so that status has something to say.
        more = f"  far:\n    host: nowhere.example\n    paths: [{shop.base}/pool]\n"
        more += "  there:\n    pool: dc1\n    owner: it-ops\n    labels: {tier: 1}\n"
        more += f"    paths: [{shop.base}/pool]\n    shards: 2\n"
        path.write_text(path.read_text().rstrip("\n") + "\n" + more)

    def configuration(self) -> None:
        """What needs no site and no Redis."""
        self.ask("version", "version")
        self.ask("error", "snapshots", "nothing", code=10)
        self.ask("completion", "completion", "bash")
        self.ask("sources", "sources")
        self.ask("config show", "config", "show")
        self.ask("config check", "config", "check")
        (self.shop.base / "loose").write_text("secret")
        (self.shop.base / "loose").chmod(0o644)
        wrong = self.shop.conf / "holdfast.yaml"
        right = wrong.read_text()
        wrong.write_text(right.replace("{file: fleet.secret}", "{file: ../loose}"))
        self.ask("config check", "config", "check")
        wrong.write_text(right.replace("paths:", "path:"))
        self.ask("config check", "config", "check", code=10)
        wrong.write_text(right)
        self.inventory(wrong)

    def inventory(self, config: Path) -> None:
        """Sources from a command; what was doubted, what left, what was dropped."""
        right, script = config.read_text(), self.shop.base / "ask.sh"
        config.write_text(right + f"inventory: {{command: [sh, {script}], max_loss: 0}}\n")
        script.write_text("echo 'sources: {i1: {paths: /srv}, i2: {paths: /srv}}'")
        self.ask("sources refresh", "sources", "refresh")
        script.write_text("echo 'sources: {}'")
        self.ask("error", "sources", "refresh", code=10)
        self.ask("sources", "sources")
        script.write_text("echo 'sources: {i2: {paths: /srv}}'")
        self.ask("sources refresh", "sources", "refresh", "--dry-run")
        self.ask("sources refresh", "sources", "refresh", "--accept")
        self.ask("sources", "sources")
        self.ask("config show", "config", "show")
        self.ask("sources drop", "sources", "drop", "i1")
        self.ask("sources rename", "sources", "rename", "far", "further", "--dry-run")
        config.write_text(right)

    def kits(self) -> None:
        """A recovery kit in parts, which need no password, and what has changed since."""
        parts = [f"parts/kit-part-{number}.txt" for number in "13"]
        config = self.shop.conf / "holdfast.yaml"
        right = config.read_text()
        self.ask("kit make", "kit", "make", "kit.hfk", "--recovery-password", "--dry-run")
        self.ask("kit make", "kit", "make", "--split", "2/3", "parts")
        self.ask("kit show", "kit", "show", *parts)
        self.ask("kit open", "kit", "open", *parts, "--to", "opened")
        config.write_text(right + "prune: {grace: 2d}\n")
        self.ask("kit check", "kit", "check", *parts, code=3)
        config.write_text(right)

    def by_itself(self) -> None:
        """What needs a site alone."""
        data = self.shop.data
        self.ask("backup", "backup", "data", "--direct", "--full")
        (data / "gone").unlink()
        (data / "sub" / "new").write_text("new\n")
        (data / "link").unlink()
        (data / "link").symlink_to("sub/new")
        (data / "sub" / "odd\udcff").write_text("no UTF-8, changed\n")
        self.ask("backup", "backup", "data", "--direct")
        self.ask("snapshots", "snapshots", "data")
        self.ask("ls", "ls", "data", "-r")
        self.ask("find", "find", "data", "new", "gone", "odd*", "link")
        self.ask("history", "history", f"data:{data}/gone")
        self.ask("history", "history", f"data:{data}/link")
        self.ask("history", "history", f"data:{data}/sub/odd\udcff")
        self.ask("diff", "diff", "data", "latest~1", "latest")
        self.said["dump"] = [self.dump("sub/new"), self.dump("sub")]
        self.ask("restore", "restore", "data", "--direct", "--to", "out", "--verify")
        into = ["--direct", "--into", "dd of=/dev/null status=none"]
        self.ask("restore --into", "restore", f"data:{data}/sub/new", *into)
        self.ask("verify", "verify", "data", "--direct", "--data")
        self.ask("restore-test", "restore-test", "data", "--direct", "--whole")
        path = self.shop.conf / "holdfast.yaml"
        text = path.read_text()
        (self.shop.conf / "second").mkdir()
        path.write_text(text.replace("  main:\n", "  second: {url: second}\n  main:\n", 1))
        self.ask("replicate", "replicate", "data", "--to", "second", "--direct")
        path.write_text(text)
        damaged = self.shop.conf / "backups/repos/data/snapshots" / ("0" * 64)
        damaged.write_bytes(b"damaged")
        self.ask("rebuild", "rebuild", "--dry-run", code=3)
        damaged.unlink()

    def retention(self) -> None:
        """What stays, what is held, what is forgotten."""
        path = self.shop.conf / "holdfast.yaml"
        text = path.read_text()
        path.write_text(text.replace("  standard:\n", "  standard:\n    retention: {keep_last: 1}\n"))
        self.ask("backup", "backup", "data", "--direct")
        self.ask("hold add", "hold", "add", "data", "latest~1", "--reason", "INC-77")
        self.ask("hold add", "hold", "add", "data", "latest~1", "--reason", "INC-77", "--until", "2127-01-01")
        self.ask("hold list", "hold", "list", "data")
        self.ask("retention preview", "retention", "preview", "data")
        self.ask("forget", "forget", "data", "--dry-run")
        self.ask("forget", "forget", "data", "--direct")
        self.ask("hold remove", "hold", "remove", "data", "--all")
        self.ask("prune", "prune", "data", "--dry-run")
        self.ask("prune", "prune", "data", "--direct")

    def agents(self) -> None:
        """A fleet of its own, on Redis and MinIO: one that an administrator gives its rights, and one by hand."""
        base = self.shop.base / "agents"
        base.mkdir()
        with MinioServer(str(base / "minio")) as minio, enrolled_fleet(base, minio) as scene:
            here, self.shop = self.shop, scene.shop
            token = self.ask("agent enroll", "agent", "enroll", "web1")["token"]
            self.ask("agent join", "agent", "join", token, "--host", "web1", "--directory", str(base / "etc"))
            self.ask("verify", "verify", "web1", "--heal")
            self.ask("agent list", "agent", "list")
            with closing(ledger_of(Fleet.load(str(scene.shop.conf / "holdfast.yaml"))).client) as redis:
                redis.set("hf:h:web1:open", "what its agent made of it")
                self.ask("runs list", "runs", "list")
                redis.delete("hf:h:web1:open")
            self.ask("agent revoke", "agent", "revoke", "web1")
            config = scene.shop.conf / "holdfast.yaml"
            config.write_text(config.read_text().replace(", admin: {file: fra.keys}", ""))
            token = self.ask("agent enroll", "agent", "enroll", "web2", code=3)["token"]
            place = str(base / "etc2")
            self.ask("agent join", "agent", "join", token, "--host", "web2", "--directory", place, code=3)
            self.ask("agent revoke", "agent", "revoke", "web2", code=3)
            self.shop = here

    def dump(self, what: str) -> Any:
        """What is said on stderr, while the content goes to stdout."""
        command = [sys.executable, "-m", "cli.main", "dump", f"data:{self.shop.data}/{what}", "--json"]
        done = forked.run(
            command,
            cwd=self.shop.conf,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
            check=True,
        )
        return json.loads(done.stderr)

    def passwords_and_locks(self) -> None:
        """What changes a repository's keys and locks."""
        (self.shop.conf / "new.password").write_text("a password of some length")
        (self.shop.conf / "newer.password").write_text("another password of some length")
        self.ask("keys list", "keys", "data", "list")
        added = self.ask("keys add", "keys", "data", "add", "--password-file", "new.password")["added"]
        self.ask("keys password", "keys", "data", "password", "--replace", added, "--password-file", "newer.password")
        last = self.ask("keys list", "keys", "data", "list")["keys"][-1]["id"]
        self.ask("keys remove", "keys", "data", "remove", last)
        folder = self.shop.conf / "backups/repos/data"
        password = (self.shop.conf / "recovery.password").read_text().strip()
        repository = Repository.open(DirectoryStore(str(folder)), password)
        repository.lock(holder="web9").begin()
        self.ask("unlock", "unlock", "data")
        self.ask("unlock", "unlock", "data", "--all", "--yes")

    def with_everything_up(self) -> None:
        """What needs the job system."""
        ask, shop = self.ask, self.shop
        ask("up --status", "up", "--status", code=1)
        ask("up --detach", "up", "--detach")
        try:
            ask("up --status", "up", "--status")
            until(lambda: shop.ask("worker")["workers"], what="the worker")
            ask("worker list", "worker", "list")
            run = ask("backup without --follow", "backup", "data")["run"]
            ask("runs follow", "runs", "follow", run)
            ask("backup", "backup", "data", "--follow")
            ask("restore", "restore", "data", "--to", "out-2")
            ask("verify", "verify", "data")
            ask("restore-test", "restore-test", "data", "--files", "1")
            ask("forget", "forget", "data")
            ask("prune", "prune", "data")
            ask("rebuild", "rebuild")
            ask("runs list", "runs", "list")
            ask("runs show", "runs", "show", run)
            ask("runs show", "runs", "show", self.in_shards())
            waiting = ask("runs cancel", "runs", "cancel", run)["run"]
            assert waiting == run
            ask("runs retry", "runs", "retry", run)
            ask("schedule", "schedule", "--hours", "200")
            ask("schedule --dropped", "schedule", "data", "--dropped", "--hours", "200")
            self.status()
            self.exporter()
            until(lambda: shop.ask("sites")["seen"], what="what is seen of the site")
            ask("sites", "sites")
            name = shop.ask("worker")["workers"][0]["name"]
            ask("worker drain", "worker", "drain", name)
        finally:
            ask("down", "down")
        ask("down", "down")

    def in_shards(self) -> str:
        """The id of a run that was cut and is over."""
        run = str(self.ask("backup without --follow", "backup", "there")["run"])
        self.ask("runs follow", "runs", "follow", run)
        return run

    def status(self) -> None:
        """How the fleet stands, whatever it is: the exit code tells, and the JSON has it, too."""
        process = self.shop.start("status", "--all", "--json")
        out, _ = process.communicate(timeout=60)
        found = json.loads(out)
        assert process.returncode == found["exit_code"]
        self.said.setdefault("status", []).append(found)

    def exporter(self) -> None:
        """One line, once it serves."""
        process = self.shop.start("exporter", "--listen", "127.0.0.1:0", "--json")
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        self.said["exporter"] = [json.loads("".join(lines))]

    def damaged(self) -> None:
        """A pack of files' content is damaged: what verify and restore say of it."""
        packs = [path for path in (self.shop.conf / "backups/repos/data/data").rglob("*") if path.is_file()]
        largest = max(packs, key=lambda path: path.stat().st_size)
        raw = bytearray(largest.read_bytes())
        raw[100] ^= 1
        os.chmod(largest, 0o600)
        largest.write_bytes(raw)
        self.ask("verify", "verify", "data", "--direct", "--data", code=24)
        self.ask("restore", "restore", "data", "--direct", "--to", "out-3", code=24)
        self.ask("restore-test", "restore-test", "data", "--direct", "--whole", code=24)
