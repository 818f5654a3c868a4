"""How workers are named and shown: cli.commands.worker."""

from __future__ import annotations

import pytest

from cli.commands.worker import as_json, choose, table
from shared.errors import UsageError
from shared.ledger.roll import WorkerInfo

THERE = ["worker-1@web1", "worker-11@web1", "worker-2@web2"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("worker-2", "worker-2@web2"), ("worker-1@web1", "worker-1@web1"), ("worker-9", "worker-9")],
)
def test_the_start_of_a_name_will_do(name: str, meant: str) -> None:
    """A whole name is always meant as it stands."""
    assert choose(name, THERE) == meant


def test_a_start_that_several_have_is_refused() -> None:
    """With all of their names."""
    with pytest.raises(UsageError, match="2 workers begin with"):
        choose("worker-1", THERE)


def test_the_list_says_what_each_serves_and_does() -> None:
    """And who was asked to leave."""
    busy = WorkerInfo("worker-1@web1", "web1", 1, ("backup", "host.web1"), 1000.0, ("8f21" * 8,))
    leaving = WorkerInfo("worker-2@web2", "web2", 2, ("backup",), 1000.0, (), "ada@desk")
    assert table([busy, leaving], 1090.0) == [
        "NAME           THERE FOR  RUNS          SERVES",
        "worker-1@web1  1m 30s     8f218f218f21  backup host.web1",
        "worker-2@web2  1m 30s     -             backup            asked to leave by ada@desk",
    ]
    assert as_json(leaving)["drained_by"] == "ada@desk"
    assert "holdfast worker start" in table([], 0.0)[0]
