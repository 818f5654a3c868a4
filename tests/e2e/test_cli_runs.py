"""`holdfast runs`, with a real worker and a real Valkey, and with none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Shop, await_first_backup, open_shop
from tests.support.ledgers import until


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop that is up for all of these tests, and does nothing but what is asked for by hand."""
    shop = open_shop(tmp_path_factory.mktemp("shop"))
    config = shop.conf / "holdfast.yaml"
    config.write_text(config.read_text().replace('full: "0 2 * * 0"', "full: 52w").replace("incremental: 1h", ""))
    shop.run("up", "--detach")
    await_first_backup(shop)
    yield shop
    shop.run("down")


def failed(shop: Shop) -> str:
    """The id of a run that failed: a restore into what is not empty."""
    (shop.conf / "full").mkdir(exist_ok=True)
    (shop.conf / "full/here").touch()
    run = shop.ask("restore", "data", "--to", "full", "--json", code=50)["error"]["message"].split()[1]
    return str(run)


def test_runs_are_listed_shown_and_followed_by_the_first_digits(shop: Shop) -> None:
    """With the same exit code as the command that asked for them."""
    run = failed(shop)
    listed = shop.ask("runs")["runs"]
    assert (run, "failed") in [(one["id"], one["state"]) for one in listed]
    assert [one["id"] for one in shop.ask("runs", "--source", "data", "--limit", "1")["runs"]] == [run]
    assert shop.ask("runs", "list", "--open")["runs"] == []
    assert shop.ask("runs", "show", run[:16])["exit_code"] == 50
    said = shop.run("runs", "show", run[:16])
    assert f"holdfast runs retry {run[:12]} --follow" in said
    assert "is not empty" in shop.run("runs", "follow", run[:16], code=50)


def test_a_failed_run_is_retried(shop: Shop) -> None:
    """The same work in a new run, once what was wrong is mended."""
    run = failed(shop)
    (shop.conf / "full/here").unlink()
    got = shop.ask("runs", "retry", run[:16], "--follow")
    assert (got["state"], got["kind"], got["id"] != run) == ("succeeded", "restore", True)


def test_a_run_under_way_is_cancelled(shop: Shop) -> None:
    """Its worker stops it within seconds; who follows it is told by whom, with the exit code of an interruption."""
    with (shop.data / "big").open("wb") as file:
        file.truncate(1 << 36)  # 64 GiB of nothing take a while to read
    run = shop.ask("backup", "data")["run"]
    until(lambda: shop.ask("runs", "show", run)["state"] in {"claimed", "running"}, what="a worker")
    got = shop.ask("runs", "cancel", run[:16], "--wait")
    (shop.data / "big").unlink()
    assert got["answer"] in {"asked", "done"}
    if got["answer"] == "asked" and got["state"] == "cancelled":
        assert "cancelled by" in shop.run("runs", "follow", run, code=130)
    assert "had ended already" in shop.run("runs", "cancel", run)


def test_what_is_no_run_is_said_clearly(shop: Shop) -> None:
    """Unknown, ambiguous and mistyped ids, and a mistyped command."""
    assert "there is no run ffff" in shop.run("runs", "show", "ffffffffffffffff", code=62)
    assert 'Did you mean "show"?' in shop.run("runs", "shwo", "8f", code=2)


def test_a_stopped_redis_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    """Nothing hangs, and nothing is guessed."""
    shop = open_shop(tmp_path)
    for arguments in (["runs"], ["runs", "show", "8f21"], ["runs", "cancel", "8f21"], ["status"], ["worker"]):
        error = json.loads(shop.run(*arguments, "--json", code=61))["error"]
        assert (error["type"], "holdfast up" in error["hint"]) == ("LedgerAway", True)


def test_status_tells_what_is_well_and_what_is_not(shop: Shop) -> None:
    """Exit code 0 while all is served, and what is wrong once it is not."""
    got = until(lambda: found if (found := _status(shop))["level"] == "ok" else None, what="a fleet that is well")
    assert (got["scheduler"], got["workers"], got["rpo"]["sources"]) == (True, 2, 1)
    assert "HOLDFAST  OK" in shop.run("status")


def _status(shop: Shop) -> dict[str, object]:
    process = shop.start("status", "--json")
    out, _ = process.communicate(timeout=60)
    assert process.returncode in {0, 1, 2}
    found: dict[str, object] = json.loads(out)
    assert found["exit_code"] == process.returncode
    return found
