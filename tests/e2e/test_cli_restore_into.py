"""`holdfast restore --into`: a dump into a program, here or by a worker, by a name of its own file; a real Valkey."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.config.fleet import Fleet
from shared.messaging.bell import ring
from shared.messaging.client import find
from tests.support.command import Shop, open_shop
from tests.support.ledgers import own_ledger, until

SIZE = 12_000_000  # bytes; more than a pipe holds


@dataclass(slots=True)
class Hosts:
    """A shop whose source `db/orders` is a program's output on host a; b has names for a few programs."""

    shop: Shop

    @property
    def got(self) -> Path:
        """What b's program `keep` has written: first while it reads, then under its own name."""
        return self.shop.base / "got"

    @property
    def content(self) -> bytes:
        """The dump."""
        return (self.shop.base / "dump").read_bytes()

    def restore(self, *options: str, code: int = 0) -> str:
        """Restore the source; what was said."""
        return self.shop.run("restore", "db/orders", *options, code=code)

    def last_run(self) -> dict[str, object]:
        """The newest run of the source."""
        (run,) = self.shop.ask("runs", "--source", "db/orders", "--limit", "1")["runs"]
        shown: dict[str, object] = self.shop.ask("runs", "show", run["id"][:16])
        return shown


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Both agents run, and one backup has been made."""
    base = tmp_path_factory.mktemp("into")
    with own_ledger(str(base / "valkey")) as (_, server):
        shop = open_shop(base)
        hosts = Hosts(shop)
        (base / "dump").write_bytes(os.urandom(SIZE))
        config = shop.conf / "holdfast.yaml"
        text = config.read_text().partition("sources:")[0]
        text += f"sources:\n  db/orders: {{host: a, command: [cat, {base}/dump]}}\nexporter: {{listen: 'off'}}\n"
        text += f"regions: {{local: {{broker: '{server.url}'}}}}\nhosts: [b]\n"
        config.write_text(text)
        keep = f"cat > {hosts.got}.part && mv {hosts.got}.part {hosts.got} && echo kept $HOLDFAST_SOURCE $WORD"
        hang = f"head -c 100000 >/dev/null; echo $$ > {base}/hangs; cat {base}/never"
        (shop.base / "word").write_text("hunter2")
        (shop.base / "word").chmod(0o600)
        os.mkfifo(base / "never")
        programs = {
            "keep": {"command": ["sh", "-ec", keep], "env": {"WORD": {"file": f"{base}/word"}}},
            "refuse": {"command": ["sh", "-c", "head -c 1000 >/dev/null; echo no such database >&2; exit 5"]},
            "hang": {"command": ["sh", "-c", hang]},
            "late": {"command": ["sleep", "600"], "timeout": "1s"},
        }
        for name, more in {"a": "", "b": f"restore_into: {json.dumps(programs)}\n"}.items():
            (shop.conf / f"{name}.yaml").write_text(text + more)
        agents = [
            shop.start("-c", f"{name}.yaml", "worker", "start", "--host", name, "--no-pools") for name in ("a", "b")
        ]
        try:
            until(lambda: len(shop.ask("worker")["workers"]) == 4, seconds=60, what="the agents on the roll")
            shop.run("backup", "db/orders", "--follow")
            yield hosts
        finally:
            for agent in agents:
                agent.send_signal(signal.SIGTERM)
            for agent in agents:
                agent.communicate(timeout=60)


def test_a_dump_goes_into_a_program_of_another_host(hosts: Hosts) -> None:
    """By its name there; byte for byte; what the program said is told, without the secret that it was given."""
    said = hosts.restore("--into", "b:keep")
    assert hosts.got.read_bytes() == hosts.content
    assert "sh on b took 12 MB of /stream/db/orders/orders and ended with code 0" in said
    assert "it said: kept db/orders ***" in said
    run = hosts.last_run()
    assert (run["host"], run["state"], "hunter2" in json.dumps(run)) == ("b", "succeeded", False)


def test_a_program_that_fails_fails_the_run(hosts: Hosts) -> None:
    """With what it said; one that hangs is killed at its time."""
    assert "sh ended with code 5: no such database" in hosts.restore("--into", "b:refuse", code=43)
    assert "sleep was not done after 1 s and was killed" in hosts.restore("--into", "b:late", code=43)


def test_only_names_of_that_machines_own_file_are_run(hosts: Hosts) -> None:
    """Another name, a host whose file has none, and a command are refused."""
    assert "there are: keep, refuse, hang, late" in hosts.restore("--into", "b:keeep", code=51)
    assert "there are: none" in hosts.restore("--into", "keep", code=51)
    assert "is a command, and a worker runs only what" in hosts.restore("--into", "b:sh -c id", code=2)
    assert 'there is no host "c"' in hosts.restore("--into", "c:keep", code=10)
    assert "--into and --to exclude each other" in hosts.restore("--into", "b:keep", "--to", "/tmp/x", code=2)


def test_a_dry_run_starts_nothing(hosts: Hosts) -> None:
    """But it looks whether there is such a name, and what would be given."""
    hosts.got.unlink(missing_ok=True)
    assert "would give 12 MB of /stream/db/orders/orders to sh on b" in hosts.restore("--into", "b:keep", "--dry-run")
    assert not hosts.got.exists()


def test_a_kill_does_not_pass_the_half_for_the_whole(hosts: Hosts) -> None:
    """The engine is killed while the program reads: the program is, too, and the run is not simply tried again."""
    base = hosts.shop.base
    process = hosts.shop.start("restore", "db/orders", "--into", "b:hang")
    until(lambda: (base / "hangs").exists() or None, what="the program")
    program = int((base / "hangs").read_text())
    launcher = parent_of(program)
    os.kill(parent_of(launcher), signal.SIGKILL)
    until(lambda: hosts.last_run()["state"] == "queued" or None, what="the run given back")
    ledger, run = find(Fleet.load(str(hosts.shop.conf / "holdfast.yaml")), str(hosts.last_run()["id"]))
    ring(ledger.client, [(run.id, run.request.queue)])  # as the reaper would, in a while
    said = "".join(process.communicate(timeout=60))
    assert (process.returncode, "was broken off, and program hang may have kept a part" in said) == (50, True), said
    until(lambda: not os.path.exists(f"/proc/{program}") or None, what="the program's end")
    assert hosts.last_run()["attempt"] == 2


def test_here_any_command_takes_it(hosts: Hosts, tmp_path: Path) -> None:
    """With --direct, and without a shell."""
    said = hosts.restore("--direct", "--into", f"dd of={tmp_path}/out status=none")
    assert ((tmp_path / "out").read_bytes(), "dd took 12 MB" in said) == (hosts.content, True)
    assert "head took" in hosts.restore("--direct", "--into", "head -c 10", code=3)


def test_a_stream_is_a_file_on_another_host(hosts: Hosts) -> None:
    """`--to` puts it right into a folder that its file allows."""
    target = hosts.shop.base / "allowed"
    file = hosts.shop.conf / "b.yaml"
    file.write_text(f"{file.read_text()}restore_to: [{target}]\n")
    hosts.restore("--to", f"b:{target}/dumps")
    assert (target / "dumps/orders").read_bytes() == hosts.content
    done = subprocess.run(["ls", "-A", target / "dumps"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["orders"]


def parent_of(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
