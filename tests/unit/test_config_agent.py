"""An agent's own file: which secrets it may hold, and what it can do without the fleet's."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.config.fleet import Fleet
from shared.config.loader import load_text
from shared.config.opening import passwords
from shared.config.problems import ConfigInvalid
from shared.errors import ConfigError
from shared.ledger.model import RunKind, RunRequest
from workers.specs import backup_spec

AGENT = """\
agent: web1
machine_passwords: {file: machine.passwords}
sites: {a: {url: site}}
sources: {web1: {host: web1, paths: [/srv]}, db/orders: {host: web1, repository: shared, paths: [/db]}}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A whole one."""
    (tmp_path / "machine.passwords").write_text("web1 1111\nweb10 2222\nshared 3333\n")
    path = tmp_path / "holdfast.yaml"
    path.write_text(AGENT)
    return Fleet.load(str(path))


def problems(text: str) -> list[str]:
    """What is wrong with a file's text."""
    with pytest.raises(ConfigInvalid) as wrong:
        load_text(text, "agent.yaml")
    return [one.render("agent.yaml").partition(": ")[2] for one in wrong.value.problems]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("secret: {file: x}\n", ["secret: does not belong into the file of web1's agent: it opens every repository"]),
        (
            "recovery_password: {file: x}\n",
            ["recovery_password: does not belong into the file of web1's agent: it opens every repository"],
        ),
        ("hosts: [web2]\n", []),
    ],
)
def test_the_fleets_secrets_have_no_place_in_it(change: str, said: list[str]) -> None:
    """So nobody copies a fleet's file to a server by habit."""
    assert (problems(AGENT + change) if said else load_text(AGENT + change, "a.yaml") and []) == said


def test_what_it_needs() -> None:
    """The passwords of its repositories, and no source of another host or of a pool."""
    assert problems(AGENT.replace("machine_passwords: {file: machine.passwords}\n", "")) == [
        "machine_passwords: is missing"
    ]
    assert problems(AGENT.replace("{host: web1, paths: [/srv]}", "{host: web2, paths: [/srv]}")) == [
        "sources.web1.host: expected web1, whose agent's file this is"
    ]
    assert problems(AGENT.replace("{host: web1, paths: [/srv]}", "{paths: [/srv]}")) == [
        "sources.web1.host: expected web1, whose agent's file this is"
    ]


def test_a_fleets_file_lists_no_machine_passwords() -> None:
    """They follow from its secret; and without `agent` both secrets are missed."""
    said = problems(AGENT.replace("agent: web1\n", ""))
    assert said[:2] == ["secret: is missing", "recovery_password: is missing"]
    assert said[2].startswith("machine_passwords: is for an agent's file alone")


def test_a_password_is_found_by_the_whole_name(fleet: Fleet) -> None:
    """Not by how it begins; for a source, that of its repository. One that is not listed says what to do."""
    assert [fleet.machine_password(name) for name in ("web1", "web10", "shared")] == ["1111", "2222", "3333"]
    with pytest.raises(ConfigError, match=r"no machine password of repository web.*holdfast agent enroll web1"):
        fleet.machine_password("web")


def test_a_backup_by_an_agent_creates_no_repository(fleet: Fleet) -> None:
    """Its spec has the machine password, and nothing of which another could be derived."""
    spec = backup_spec(fleet, RunRequest("0" * 32, RunKind.FULL, "db/orders"), "full")
    assert (spec.passwords, spec.fleet_secret, spec.recovery_password) == (["3333"], "", "")
    assert passwords(fleet, "shared") == ["3333"]


def test_what_needs_the_fleets_secret_says_where_to_do_it(fleet: Fleet) -> None:
    """A command for people, run on the server."""
    for ask in (lambda: fleet.secret, lambda: fleet.recovery_password):
        with pytest.raises(ConfigError, match=r"does not hold the fleet's .*Do this where the fleet's file is"):
            ask()
