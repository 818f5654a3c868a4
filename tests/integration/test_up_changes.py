"""A configuration that changes while `holdfast up` runs: followed where it is good, told of where it is bad."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunState
from shared.messaging.client import ledger_of, open_and_ring
from tests.support.fleets import SmallFleet, alive
from tests.support.ledgers import until
from tests.support.monitoring import get
from tests.support.tools import free_port
from tests.support.ups import Up


@pytest.fixture
def up(tmp_path: object) -> Iterator[Up]:
    """`up` on a fleet whose one source has had its first backup."""
    up = Up(SmallFleet(str(tmp_path)))
    try:
        until(lambda: "web1  backup-full  succeeded" in up.said, what="the first backup")
        yield up
    finally:
        up.stop()


def ended_well(ledger: Ledger, source: str) -> bool:
    """Whether a backup of this source has succeeded."""
    return any(run.request.source == source and run.state is RunState.SUCCEEDED for run in ledger.recent())


def test_a_new_source_gets_its_first_backup_without_a_restart(up: Up) -> None:
    """A source of the unnamed pool needs no other process; the scheduler and the worker take the file by themselves."""
    before = up.children()
    up.small.change("sources: {", f"sources: {{web2: {{paths: [{up.small.source_dir}]}}, ")
    ledger = ledger_of(up.small.fleet)
    until(lambda: ended_well(ledger, "web2"), what="its first backup")
    until(lambda: "the configuration has changed: 2 sources" in up.said)
    assert up.children() == before
    assert [run.state for run in ledger.recent() if run.state is not RunState.SUCCEEDED] == []
    ledger.client.close()


def test_a_source_of_a_new_pool_brings_workers_that_serve_it(up: Up) -> None:
    """Both workers are replaced, as they are told at their start what they serve; a run under way is given back."""
    up.small.behave("hang", once=True)
    os.unlink(os.path.join(up.small.source_dir, "behaved"))
    ledger = ledger_of(up.small.fleet)
    hanging = open_and_ring(up.small.fleet, RunKind.INCREMENTAL, "web1")
    until(lambda: ledger.journal(hanging), what="its first pack")
    before = up.children()
    up.small.change("sources: {", f"sources: {{nas: {{pool: dc1, paths: [{up.small.source_dir}]}}, ")
    until(lambda: ended_well(ledger, "nas"), what="the first backup of the pool's source", seconds=40)
    until(lambda: up.children()["worker"] != before["worker"] and up.children()["restore"] != before["restore"])
    until(lambda: not alive(before["worker"]), what="the end of the worker that was replaced", seconds=40)
    run = until(lambda: found if (found := ledger.get(hanging)) and found.state.is_final else None)
    assert (run.state, [attempt.error for attempt in run.attempts]) == (RunState.SUCCEEDED, ["", ""])
    after = up.children()
    assert [after[name] for name in ("valkey", "scheduler", "beat")] == [
        before[name] for name in ("valkey", "scheduler", "beat")
    ]
    assert "worker is started anew, as the configuration has changed" in up.said
    ledger.client.close()


def test_a_bad_file_keeps_the_old_one_in_force_and_says_so_once(up: Up) -> None:
    """Backups go on by the old one; mended, the new one counts."""
    up.small.change("sources: {web1: {paths:", "sources: {web1: {pahts:")
    said = "the configuration is wrong; the old one stays in force: "
    until(lambda: said in up.said, what="the error")
    assert f'{up.small.path}:9: sources.web1.pahts: unknown key (did you mean "paths"?)' in up.said
    up.small.change("sources: {web1: {pahts:", "sources: {web2: {pahts:")
    until(lambda: up.said.count(said) == 2, what="another error")

    ledger = ledger_of(BeforeIt(up.small).fleet)
    by_hand = open_and_ring(BeforeIt(up.small).fleet, RunKind.INCREMENTAL, "web1")
    run = until(lambda: found if (found := ledger.get(by_hand)) and found.state.is_final else None)
    assert run.state is RunState.SUCCEEDED

    up.small.change("{web2: {pahts:", "{web2: {paths:")
    until(lambda: ended_well(ledger, "web2"), what="a backup by the mended file")
    assert up.said.count(said) == 2
    ledger.client.close()


class BeforeIt(SmallFleet):
    """The same fleet by a file beside that is as the first one was, for whoever asks by hand meanwhile."""

    def __init__(self, small: SmallFleet) -> None:
        self.directory, self.source_dir, self.state_dir = small.directory, small.source_dir, small.state_dir
        self.path = os.path.join(small.directory, "before.yaml")
        with open(small.path) as file, open(self.path, "w") as copy:
            copy.write(file.read().replace("pahts", "paths").replace("{web2:", "{web1:"))


def test_what_is_fixed_at_the_start_is_said_to_be(up: Up) -> None:
    """Another state directory or Redis counts at the next start alone."""
    up.small.change("state_dir: state", "state_dir: elsewhere")
    until(lambda: "state_dir has changed: that counts once" in up.said)
    assert "the Redis has changed" in up.said  # the embedded one lies in it


def test_metrics_are_served_where_the_configuration_says(up: Up) -> None:
    """Switched on, moved to an address that is taken, and off again; all else runs on."""
    assert "exporter" not in up.children()
    up.small.change("listen: 'off'", "listen: '127.0.0.1:0'")
    until(lambda: "serving metrics" in up.log("exporter"), what="metrics")
    port = int(up.log("exporter").partition("http://127.0.0.1:")[2].partition("/")[0])
    assert "holdfast_ledger_up 1.0" in get(port, "/metrics")[1]

    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)):
        up.small.change("127.0.0.1:0", f"127.0.0.1:{taken}")
        said = f"exporter can't start: 127.0.0.1:{taken} is taken by another process"
        until(lambda: said in up.said)
        assert "exporter" not in up.children()
    until(
        lambda: up.log("exporter").count("serving metrics") == 2, what="metrics, once the address is free", seconds=40
    )
    assert get(taken, "/metrics")[0] == 200
    assert up.said.count("exporter can't start") == 1

    up.small.change(f"127.0.0.1:{taken}", "off")
    until(lambda: "exporter" not in up.children(), what="its end")
    assert "exporter is stopped, as the configuration has changed" in up.said
