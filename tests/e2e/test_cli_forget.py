"""`holdfast forget`, `hold` and `retention` on a real repository; by a worker too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Shop, await_first_backup, open_shop


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with four snapshots, of which its policy keeps two."""
    shop = open_shop(tmp_path_factory.mktemp("made"))
    path = shop.conf / "holdfast.yaml"
    path.write_text(path.read_text().replace("  standard:\n", "  standard:\n    retention: {keep_last: 2}\n"))
    for number in range(4):
        (shop.data / "number").write_text(str(number))
        shop.run("backup", "data", "--direct")
    return shop


@pytest.fixture
def shop(made: Shop, tmp_path: Path) -> Shop:
    """A copy of that shop; its source is read where it was made."""
    shutil.copytree(made.conf, tmp_path / "conf")
    return Shop(tmp_path)


def ids(shop: Shop) -> list[str]:
    """The snapshots, oldest first."""
    return [one["id"] for one in shop.ask("snapshots", "data")["snapshots"]]


def verdicts(shop: Shop) -> list[tuple[bool, list[str]]]:
    """What the preview says of each, oldest first."""
    found: dict[str, Any] = shop.ask("retention", "preview", "data")
    return [(one["kept"], one["reasons"]) for one in found["snapshots"]]


def test_the_preview_says_why_each_one_stays(shop: Shop) -> None:
    """And nothing is changed by it."""
    assert verdicts(shop) == [
        (False, []),
        (False, []),
        (True, ["last 2"]),
        (True, ["last 2", "last good snapshot"]),
    ]
    said = shop.run("retention", "preview", "data").splitlines()
    assert (said[0].split(), said[-1]) == (["ID", "TIME", "WHY"], "4 snapshots: 2 kept, 2 to be forgotten")
    assert len(ids(shop)) == 4


def test_what_no_rule_keeps_is_forgotten(shop: Shop) -> None:
    """A dry run first, which changes nothing; then in this process; the second time there is nothing to do."""
    before = ids(shop)
    said = shop.run("forget", "data", "--dry-run")
    assert f"would forget snapshot {before[0][:8]}" in said
    assert "data at main: 2 snapshots would be forgotten, 2 kept" in said
    assert ids(shop) == before
    report = shop.ask("forget", "data", "--direct")
    assert (report["forgotten"], report["kept"], sorted(report["snapshots"])) == (2, 2, sorted(before[:2]))
    assert ids(shop) == before[2:]
    assert shop.ask("forget", "data", "--direct")["forgotten"] == 0
    shop.run("verify", "data", "--direct")


def test_what_is_held_stays_until_it_is_let_go(shop: Shop) -> None:
    """The preview, the list and the refusal name the reason; the undo that is printed works."""
    before = ids(shop)
    said = shop.run("hold", "add", "data", before[0][:10], "--reason", "INC-77", "--until", "2127-01-01T00:00:00Z")
    assert said.splitlines()[-1] == f"undo: holdfast hold remove data {before[0][:8]}"
    assert verdicts(shop)[0] == (True, ["hold: INC-77, until 2127-01-01T00:00:00Z"])
    (held,) = shop.ask("hold", "list", "data")["holds"]
    assert (held["snapshot"], held["reason"], held["counts"]) == (before[0], "INC-77", True)
    refused = shop.run("forget", "data", before[0], "--direct", code=28)
    assert "stays: it is under a hold (INC-77" in refused
    assert shop.ask("forget", "data", "--direct")["snapshots"] == [before[1]]
    assert shop.ask("hold", "remove", "data", before[0][:8])["removed"] == [before[0]]
    assert shop.ask("hold", "list", "data")["holds"] == []
    assert shop.ask("forget", "data", "--direct")["snapshots"] == [before[0]]


def test_all_can_be_held(shop: Shop) -> None:
    """Those that there are now."""
    assert len(shop.ask("hold", "add", "data", "--all", "--reason", "audit")["holds"]) == 4
    assert shop.ask("forget", "data", "--direct")["forgotten"] == 0
    assert len(shop.ask("hold", "remove", "data", "--all")["removed"]) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["forget", "data", "latest", "--direct"], 2, 'source data has no snapshot "latest" at main'),
        (["forget", "data", "ab", "--direct"], 2, '"ab" does not name one snapshot'),
        (["forget", "nothing"], 10, 'there is no source "nothing"'),
        (["hold", "add", "data", "--reason", "x"], 2, "name snapshots, or give --all"),
        (["hold", "add", "data", "--all", "latest", "--reason", "x"], 2, "name snapshots, or give --all"),
        (["hold", "add", "data", "--all", "--reason", " "], 2, "a hold needs a reason"),
        (["hold", "add", "data", "--all", "--reason", "x", "--until", "2020-01-01"], 2, "is past"),
        (["hold", "add", "data", "0123456789", "--reason", "x"], 26, "there is no snapshot 0123456789"),
    ],
)
def test_what_is_wrong_is_told(shop: Shop, arguments: list[str], code: int, said: str) -> None:
    """Each says what, and changes nothing."""
    assert said in shop.run(*arguments, code=code)
    assert (len(ids(shop)), shop.ask("hold", "list", "data")["holds"]) == (4, [])


def test_without_rules_it_says_so(shop: Shop) -> None:
    """Before anybody is rung for; one that is named goes all the same."""
    path = shop.conf / "holdfast.yaml"
    path.write_text(path.read_text().replace("    retention: {keep_last: 2}\n", ""))
    for arguments in (["forget", "data"], ["forget", "data", "--direct"], ["retention", "preview", "data"]):
        said = shop.run(*arguments, code=10)
        assert "nothing says which snapshots of source data to keep: policy standard has no retention for site" in said
    first = ids(shop)[0]
    assert shop.ask("forget", "data", first[:8], "--direct")["snapshots"] == [first]


def test_a_worker_forgets(tmp_path: Path) -> None:
    """Rung for and followed; the run's result is the command's."""
    shop = open_shop(tmp_path)
    path = shop.conf / "holdfast.yaml"
    path.write_text(path.read_text().replace("  standard:\n", "  standard:\n    retention: {keep_last: 1}\n"))
    shop.run("up", "--detach")
    try:
        await_first_backup(shop)
        first = ids(shop)
        (shop.data / "more").write_text("more")
        shop.run("backup", "data", "--follow")
        assert shop.ask("forget", "data")["snapshots"] == first
        # A forget by the rules may fall into this hour, too.
        (run,) = [one for one in shop.ask("runs")["runs"] if one["kind"] == "forget" and one["slot"] is None]
        assert (run["state"], run["queue"], run["result"]["kept"]) == ("succeeded", "maintenance", 1)
        assert "result   data at main: 1 snapshot forgotten, 1 kept" in shop.run("runs", "show", run["id"])
    finally:
        shop.run("down")
