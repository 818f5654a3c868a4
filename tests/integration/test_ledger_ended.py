"""The runs that ended lately, in many realms: each is told once. shared.ledger.ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from shared.ledger.ended import EndedRuns
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunRequest, RunState
from tests.support.ledgers import a_run, own_ledger


@pytest.fixture
def ledger(tmp_path: object) -> Iterator[Ledger]:
    """The pools' realm of an empty ledger."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, _):
        yield ledger


def end(ledger: Ledger, request: RunRequest, state: RunState = RunState.SUCCEEDED) -> str:
    """Do a run; its id."""
    ledger.open(request)
    lease = ledger.claim(request.id, "w").lease
    assert lease is not None
    ledger.finish(lease, state)
    return request.id


def test_each_end_is_told_once_whatever_the_realm(ledger: Ledger) -> None:
    """What had ended before the first look is no news."""
    hosts = ["", *(f"host{number}" for number in range(1200))]
    end(ledger, a_run())
    ended = EndedRuns(ledger, hosts)
    assert ended.look() == []
    expected = [end(ledger.realm(host), a_run(host or "pooled")) for host in ("", "host7", "host1199", "")]
    assert sorted(run.id for run in ended.look()) == sorted(expected)
    assert ended.look() == []


def test_a_run_that_ends_again_is_told_again(ledger: Ledger) -> None:
    """As a failed slot does that is opened anew."""
    ended = EndedRuns(ledger, [""])
    ended.look()
    request = a_run()
    end(ledger, request, RunState.FAILED)
    first = ended.look()
    time.sleep(0.002)  # two ends in one millisecond would be one
    ledger.client.hset(ledger.keys.run(request.id), "retry", "0")
    end(ledger, request)
    assert [run.state for run in [*first, *ended.look()]] == [RunState.FAILED, RunState.SUCCEEDED]


def test_many_ends_between_two_looks_do_not_hide_each_other(ledger: Ledger) -> None:
    """Also those that end within one millisecond of a look; they come in their order."""
    ended = EndedRuns(ledger, [""])
    ended.look()
    done, told = [], []
    for _ in range(40):
        done += [end(ledger, a_run()) for _ in range(3)]
        told += [run.id for run in ended.look()]
        told += [run.id for run in ended.look()]
    assert told == done
