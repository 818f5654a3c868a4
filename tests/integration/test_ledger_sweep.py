"""Many realms and sources at once: what a sweep sees and does is what each realm's own ledger would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.ledger import sweep
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, Opened, RunKind, RunState
from tests.support.ledgers import a_run, own_ledger

HOSTS = [f"web{number}" for number in range(1100)]  # more than one script looks at


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One for all tests of this module."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey"))) as (ledger, _):
        yield ledger


@pytest.fixture
def ledger(shared_ledger: Ledger) -> Ledger:
    """An empty ledger."""
    shared_ledger.client.flushall()
    return shared_ledger.realm("")


def expire(ledger: Ledger, run_id: str) -> None:
    """Let the lease of a run have run out."""
    ledger.client.hset(ledger.keys.run(run_id), "lease", 0)
    ledger.client.zadd(ledger.keys.open, {run_id: 0})


def test_backups_of_many_hosts_are_opened_at_once(ledger: Ledger) -> None:
    """Each in its host's realm; one that is open already is joined, under the id that it has."""
    first = a_run(HOSTS[7])
    ledger.realm(HOSTS[7]).open_backup(first)
    requests = [(host, a_run(host, host=host)) for host in HOSTS]
    answers = sweep.open_runs(ledger, requests)
    assert answers[7] == (Opened.JOINED, first.id)
    assert [answer for answer in answers if answer[0] is not Opened.OPENED] == [answers[7]]
    host, request = requests[-1]
    run = ledger.realm(host).get(request.id)
    assert run is not None
    assert (run.state, run.host, run.request) == (RunState.QUEUED, host, request)


def test_the_state_of_many_sources(ledger: Ledger) -> None:
    """The slots that are known at a site, and whether a backup is open; a restore does not make a source busy."""
    known = Evidence("2026-03-04T02:00:00Z", "2026-03-01T02:00:00Z")
    ledger.realm("web3").note_evidence("web3", "a", known)
    ledger.realm("web4").open_backup(a_run("web4", RunKind.INCREMENTAL))
    ledger.realm("web5").open(a_run("web5", RunKind.RESTORE))
    states = sweep.states(ledger, tuple((host, host, "a") for host in HOSTS))
    assert states[3] == sweep.SourceState(known.last, known.last_full)
    assert sweep.states(ledger, (("web3", "web3", "b"),)) == [sweep.SourceState("", "")]
    assert [host for host, state in zip(HOSTS, states, strict=True) if state.busy] == ["web4"]


def test_a_source_is_busy_until_its_last_backup_is_over(ledger: Ledger) -> None:
    """A full one that was asked for beside an incremental: the end of one is not the end of both."""
    ids = []
    for kind, joins in ((RunKind.INCREMENTAL, None), (RunKind.FULL, RunKind.FULL)):
        request = a_run("web1", kind)
        assert ledger.open_backup(request, joins=joins)[0] is Opened.OPENED
        ids.append(request.id)
    seen = []
    for run_id in ids:
        seen.append(sweep.states(ledger, (("", "web1", "a"),))[0].busy)
        lease = ledger.claim(run_id, "w:1").lease
        assert lease is not None
        ledger.finish(lease, RunState.SUCCEEDED)
    seen.append(sweep.states(ledger, (("", "web1", "a"),))[0].busy)
    assert seen == [True, True, False]


def test_the_dead_of_all_realms_are_found(ledger: Ledger) -> None:
    """Their runs come back to be rung for, and their realms are named, since their locks may still stand."""
    dead = {}
    for host in ("", HOSTS[0], HOSTS[1099]):
        realm, request = ledger.realm(host), a_run(host or "pooled")
        realm.open_backup(request)
        assert realm.claim(request.id, "w:1").lease is not None
        expire(realm, request.id)
        dead[host] = request.id
    ledger.realm("web9").open_backup(a_run("web9"))
    reaped = sweep.reap(ledger, ["", *HOSTS])
    assert {run.host: run.id for run in reaped.runs} == dead
    assert reaped.fenced == sorted(dead)
    again = sweep.reap(ledger, ["", *HOSTS])
    assert (again.runs, again.fenced) == ([], sorted(dead))


def test_the_newest_runs_of_all_realms(ledger: Ledger) -> None:
    """In the order in which they ended, wherever they lie; the history of one source, in any realm."""
    ids = []
    for host in ("web5", "", "web5", "web2"):
        realm, request = ledger.realm(host), a_run("shared")
        realm.open(request)
        lease = realm.claim(request.id, "w:1").lease
        assert lease is not None
        realm.finish(lease, RunState.SUCCEEDED)
        ledger.client.hset(realm.keys.run(request.id), "ended", 1000 * (len(ids) + 1))
        ids.append(request.id)
    heads = sweep.heads(ledger, ["", *HOSTS])
    assert [run.id for run in sweep.newest(ledger, heads, 3)] == ids[:0:-1]
    assert {run.id for run in sweep.history(ledger, heads, "shared", 10)} == set(ids)
    assert sweep.homes(ledger, ["", *HOSTS], ids[3]) == ["web2"]
    assert sweep.homes(ledger, ["", *HOSTS], "ab" * 16) == []
