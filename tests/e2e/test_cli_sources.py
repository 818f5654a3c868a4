"""`holdfast sources`: what the configuration says, without any site or Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.browsing import call

CONFIG = """\
secret: {file: absent.secret}
recovery_password: {env: ABSENT}
sites:
  a: {url: /nowhere/at/all}
policies:
  often: {select: "tier=1", primary: a, incremental: 1h}
  daily: {primary: a, full: 1d}
sources:
  web1: {paths: [/srv], host: web1.example, labels: {tier: "1", team: shop}}
  db/orders: {paths: [/dumps], pool: dbs, repository: shared, owner: payments}
  any: {paths: [/x]}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration whose site and secrets are not there."""
    path = tmp_path / "holdfast.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_who_reads_what_by_which_policy(config: str) -> None:
    """A line each, in the file's order."""
    code, out, err = call("sources", "-c", config)
    assert (code, err) == (0, "")
    assert out.decode().splitlines() == [
        "SOURCE     READ BY            POLICY  REPOSITORY  LABELS",
        "web1       host web1.example  often   web1        tier=1 team=shop",
        "db/orders  pool dbs           daily   shared",
        "any        any worker         daily   any",
        "3 sources",
    ]


def test_programs_get_all_of_it(config: str) -> None:
    """With --json, the owner too."""
    _, out, _ = call("sources", "-c", config, "--json")
    assert json.loads(out)["sources"][1] == {
        "id": "db/orders", "host": None, "pool": "dbs", "policy": "daily", "repository": "shared", "labels": {},
        "owner": "payments", "rests": None, "gone": None,
    }  # fmt: skip


def test_some_can_be_chosen(config: str) -> None:
    """By labels, which must all fit, and by policy."""
    got = []
    for options in (["--label", "tier=1", "--label", "team=shop"], ["--label", "tier=2"], ["--policy", "daily"]):
        _, out, _ = call("sources", "-c", config, "--json", *options)
        got.append([one["id"] for one in json.loads(out)["sources"]])
    assert got == [["web1"], [], ["db/orders", "any"]]
    assert call("sources", "-c", config, "--policy", "daily")[1].decode().splitlines()[-1] == "2 sources of 3"
    for options, said in ((["--policy", "weekly"], 'no policy "weekly"'), (["--label", "tier"], "is no label")):
        code, _, err = call("sources", "-c", config, *options)
        assert (code, said in err) == (2, True)
