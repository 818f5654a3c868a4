"""A run as its hash in Redis: what is one comes back, and what a host's agent made of it is no run."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.ledger.codec import FIELDS, NoRun, decode_run
from shared.ledger.model import RunKind

ID = "8f21" * 8
GOOD = {
    "id": ID,
    "kind": "backup-full",
    "source": "web1",
    "state": "failed",
    "queue": "host.web1",
    "slot": "2026-03-04T02:00:00Z",
    "attempt": "2",
    "rings": "1",
    "opened": "1772000000000",
    "started": "1772000001000",
    "ended": "1772000002000",
    "owner": "w@m:1",
    "exit_code": "1",
    "finisher": "a:1",
    "options": '{"full": true}',
    "result": '{"site": "a", "bytes_stored": 5, "problems": ["x"]}',
    "attempts": '[[1, "w@m:1", 1, 2, "broken"]]',
}


def test_a_sound_run_comes_back() -> None:
    """All of it, the last attempt too."""
    run = decode_run(GOOD, "web1", ID)
    assert (run.id, run.host, run.attempt, run.ended, run.request.queue) == (ID, "web1", 2, 1772000002.0, "host.web1")
    assert (dict(run.result)["bytes_stored"], [one.number for one in run.attempts]) == (5, [1, 2])


@pytest.mark.parametrize("queue", ["backup", "scheduler", "host.web2", "host.web1.restore.x", ""])
def test_a_run_of_a_host_is_rung_on_its_own_queues(queue: str) -> None:
    """Whatever it names; a run of the pools is trusted."""
    assert decode_run({**GOOD, "queue": queue}, "web1", ID).request.queue == "host.web1"
    assert decode_run({**GOOD, "queue": queue}, "", ID).request.queue == queue
    own = {**GOOD, "queue": "host.web1.restore"}
    assert decode_run(own, "web1", ID).request.queue == "host.web1.restore"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("opened", "attempt", "lease") for value in ("x", "-1", "1.5", "9" * 400, "nan")),
        ("id", "0" * 32),
        ("kind", ""),
        ("kind", "x" * 300),
        ("kind", "prune"),
        ("kind", "shard"),
        ("state", "\x1b[2J"),
        ("source", "x" * 5000),
        ("slot", "2026-99-99T99:99:99Z"),
        ("exit_code", "99999999"),
        ("options", "[]"),
        ("options", "{"),
        ("progress", "[" * 100_000),
        ("progress", '{"a":' * 100 + "1" + "}" * 100),
        ("progress", '{"bytes": "many"}'),
        ("progress", '{"bytes": 1e999}'),
        ("progress", '{"bytes": NaN}'),
        ("progress", '{"bytes": -5}'),
        ("result", '{"bytes_stored": 1e300}'),
        ("result", '{"problems": 5}'),
        ("result", '{"notes": [[]]}'),
        ("result", '{"exit_code": 1000}'),
        ("result", '{"target": {}}'),
        ("attempts", "[[1, 2]]"),
        ("attempts", '[[1, "w", -5, 1, ""]]'),
        ("attempts", '[[1, "w", 1, 1e99, ""]]'),
        ("attempts", '{"a": 1}'),
    ],
)
def test_what_is_not_what_it_should_be_is_no_run(name: str, value: str) -> None:
    """Nothing else is raised, and nothing is guessed."""
    with pytest.raises(NoRun):
        decode_run({**GOOD, name: value}, "web1", ID)


def test_what_a_restore_could_not_do_is_told_as_a_restore_tells_it() -> None:
    """A path and a message each: commands show them."""
    restore = {**GOOD, "kind": RunKind.RESTORE.value, "result": json.dumps({"problems": [{"path": "/x"}]})}
    with pytest.raises(NoRun):
        decode_run(restore, "web1", ID)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(FIELDS), st.one_of(st.text(), st.from_regex(r"[\[{\"0-9e.,:}\]]{0,20}"))))
def test_any_garbage_is_a_run_or_none(garbage: dict[str, str]) -> None:
    """In a host's realm and in the pools'."""
    for host in ("web1", ""):
        with suppress(NoRun):
            assert decode_run({**GOOD, **garbage}, host, ID).id == ID
