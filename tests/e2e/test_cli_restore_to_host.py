"""`holdfast restore --to HOST:/path`, with two agents, each with its own file, and a real Valkey."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import Shop, open_shop
from tests.support.compare import compare_trees
from tests.support.ledgers import own_ledger, until


@dataclass(slots=True)
class Hosts:
    """A shop whose source `data` is read by host a; host b has none, and takes restores below `allowed`."""

    shop: Shop

    @property
    def allowed(self) -> Path:
        """Where b's own file lets restores go."""
        return self.shop.base / "allowed"

    def restore(self, to: str, *options: str, code: int = 0) -> str:
        """Restore the source's folder; what was said."""
        return self.shop.run("restore", f"data:{self.shop.data}/sub", "--to", to, *options, code=code)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Both agents run, and one backup has been made."""
    base = tmp_path_factory.mktemp("hosts")
    with own_ledger(str(base / "valkey")) as (_, server):
        shop = open_shop(base)
        hosts = Hosts(shop)
        hosts.allowed.mkdir()
        config = shop.conf / "holdfast.yaml"
        text = config.read_text().replace("  data:\n", "  data:\n    host: a\n")
        text += f"\nregions: {{local: {{broker: '{server.url}'}}}}\nhosts: [b, c]\n"
        config.write_text(text)
        (shop.conf / "a.yaml").write_text(text)
        (shop.conf / "b.yaml").write_text(text + f"restore_to: [{hosts.allowed}]\n")
        (shop.conf / "c.yaml").write_text(
            text.partition("sources:")[0] + f"restore_to: [{hosts.allowed}]\n"
            f"regions: {{local: {{broker: '{server.url}'}}}}\n"
        )
        beside = {"a": ["--restores", "0"], "b": [], "c": ["--restores", "0"]}  # b has a process for restores, too
        agents = [
            shop.start("-c", f"{name}.yaml", "worker", "start", "--host", name, "--no-pools", *options)
            for name, options in beside.items()
        ]
        try:
            until(lambda: len(shop.ask("worker")["workers"]) == 4, seconds=60, what="the agents on the roll")
            shop.run("backup", "data", "--follow")
            yield hosts
        finally:
            for agent in agents:
                agent.send_signal(signal.SIGTERM)
            for agent in agents:
                agent.communicate(timeout=60)


def test_one_hosts_source_is_restored_on_another(hosts: Hosts) -> None:
    """By that one's worker, identical, below a folder that its file allows; the undo says where."""
    target = hosts.allowed / "one/deep"
    said = hosts.restore(f"b:{target}", "--verify")
    assert compare_trees(str(hosts.shop.data / "sub"), str(target / "sub")) == []
    assert "restored 12 files" in said
    assert f"to b:{target}" in said
    assert f"to undo, on b: rm -r {target}" in said


def test_the_run_lies_with_the_host_that_does_it(hosts: Hosts) -> None:
    """It is listed with its source, shown, found by its first digits and retried, as any other."""
    target = hosts.allowed / "two"
    said = json.loads(hosts.restore(f"b:{target}", "--json"))
    assert (said["host"], said["target"]) == ("b", str(target))
    (run,) = hosts.shop.ask("runs", "--source", "data", "--limit", "1")["runs"]
    assert (run["host"], run["queue"], run["state"]) == ("b", "host.b.restore", "succeeded")
    assert hosts.shop.ask("runs", "show", run["id"][:16])["id"] == run["id"]
    assert "is not empty" in hosts.shop.run("runs", "retry", run["id"][:16], "--follow", code=50)
    for file in target.glob("sub/*"):
        file.unlink()
    (target / "sub").rmdir()
    again = hosts.shop.ask("runs", "retry", run["id"][:16], "--follow")
    assert (again["host"], again["state"], again["id"] != run["id"]) == ("b", "succeeded", True)


def test_a_dry_run_looks_and_writes_nothing(hosts: Hosts) -> None:
    """It is planned on that host, within what is allowed there."""
    target = hosts.allowed / "three"
    assert "would restore 12 files" in hosts.restore(f"b:{target}", "--dry-run")
    assert not target.exists()
    assert "may not write" in hosts.restore(f"b:{hosts.shop.base}/elsewhere", "--dry-run", code=51)


def test_what_the_hosts_own_file_does_not_allow_is_refused(hosts: Hosts) -> None:
    """Beside its folders; through a link out of them; and anywhere where its file says nothing. Nothing is written."""
    outside = hosts.shop.base / "outside"
    outside.mkdir()
    (hosts.allowed / "link").symlink_to(outside)
    for target, leads_to in ((outside / "x", ""), (hosts.allowed / "link/x", f"which is {outside}/x")):
        said = hosts.restore(f"b:{target}", code=51)
        assert f"may not write to {target}" in said
        assert f"only in {hosts.allowed}" in said
        assert leads_to in said
        assert "`restore_to`" in said
    assert "it may nowhere" in hosts.restore(f"a:{hosts.allowed}/x", code=51)
    assert "it may nowhere" in hosts.shop.run("restore", "data", "--in-place", code=51)
    assert list(outside.iterdir()) == []


def test_a_host_that_does_not_know_the_source_says_so(hosts: Hosts) -> None:
    """Its own file is what it opens the repository with."""
    said = hosts.restore(f"c:{hosts.allowed}/c", code=10)
    assert "c.yaml on" in said
    assert "knows no source data" in said


def test_what_makes_no_sense_is_told_before_anything_is_rung(hosts: Hosts) -> None:
    """An unknown host, a path that is not absolute, in place, and in this process."""
    runs = len(hosts.shop.ask("runs", "--limit", "1000")["runs"])
    for to, options, code, reason in (
        ("bb:/tmp/x", (), 10, 'there is no host "bb"'),
        ("b:tmp/x", (), 2, "is not absolute"),
        (":/tmp/x", (), 2, "names no host"),
        ("b:/tmp/x", ("--in-place",), 2, "exclude each other"),
        ("b:/tmp/x", ("--direct",), 2, "and not on b"),
    ):
        assert reason in hosts.restore(to, *options, code=code)
    assert 'did you mean "b"' in hosts.restore("b2:/tmp/x", code=10)
    assert len(hosts.shop.ask("runs", "--limit", "1000")["runs"]) == runs


def test_status_and_the_roll_see_the_agents(hosts: Hosts) -> None:
    """With queues by their short names, a host's restores apart."""
    served = {tuple(one["queues"]) for one in hosts.shop.ask("worker")["workers"]}
    both = {(f"host.{name}", f"host.{name}.restore") for name in "abc"}
    assert served == {*both, ("host.b.restore",)}
    process = hosts.shop.start("status", "--json")
    status = json.loads(process.communicate(timeout=60)[0])
    assert (status["workers"], status["queues"]) == (4, [])


def test_an_agent_needs_a_host(hosts: Hosts) -> None:
    """Without one it would serve nothing."""
    assert "leaves nothing to serve" in hosts.shop.run("worker", "start", "--no-pools", code=2)
    assert "exclude each other" in hosts.shop.run("worker", "start", "--no-pools", "--host", "a", "--pool", "p", code=2)
