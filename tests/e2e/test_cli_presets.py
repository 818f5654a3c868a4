"""Databases that need no server of their own: SQLite, and a preset of one's own."""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path

import pytest
import yaml

from tests.support.command import Shop, open_shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop."""
    return open_shop(tmp_path)


def put_source(shop: Shop, **body: object) -> None:
    """Make `db` the only source."""
    file = shop.conf / "holdfast.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "sources": {"db": body}}))


def test_sqlite_is_consistent_while_it_is_written_to(shop: Shop, tmp_path: Path) -> None:
    """What two tables hold together in each transaction, they hold together in the copy."""
    path = tmp_path / "db.sqlite"
    database = sqlite3.connect(path, check_same_thread=False)
    database.executescript("pragma journal_mode=wal; create table a (n integer); create table b (n integer);")
    done = threading.Event()

    def write() -> None:
        count = 0
        while not done.is_set():
            count += 1
            with database:
                database.execute("insert into a values (?)", (count,))
                database.execute("insert into b values (?)", (count,))

    writer = threading.Thread(target=write)
    writer.start()
    put_source(shop, preset="sqlite", options={"path": str(path), "python": sys.executable})
    try:
        shop.run("backup", "db", "--direct")
    finally:
        done.set()
        writer.join()
        database.close()
    shop.run("restore", "db", "--direct", "--into", f"cp /dev/stdin {tmp_path}/back.sqlite")
    copy = sqlite3.connect(tmp_path / "back.sqlite")
    a, b = copy.execute("select (select count(*) from a), (select count(*) from b)").fetchone()
    assert (a == b, a > 0, copy.execute("pragma integrity_check").fetchone()) == (True, True, ("ok",))
    copy.close()


def test_a_sqlite_that_is_not_there_makes_no_snapshot(shop: Shop, tmp_path: Path) -> None:
    """And no empty database in its place."""
    put_source(shop, preset="sqlite", options={"path": f"{tmp_path}/none", "python": sys.executable})
    assert "unable to open database file" in shop.run("backup", "db", "--direct", code=43)
    assert not (tmp_path / "none").exists()


def test_a_preset_of_ones_own_backs_up(shop: Shop) -> None:
    """Its file, beside the configuration, is read when it changes, too; a password is in no output."""
    own = {
        "description": "What echo says",
        "options": {"what": {"required": True, "meaning": "to be said"}},
        "command": ["sh", "-ec", 'test ${#WORD} = 7 && echo "$1"', "sh", "{what}"],
        "filename": "said",
        "restore": "cat",
    }
    (shop.conf / "presets").mkdir()
    (shop.conf / "presets/echo.yaml").write_text(yaml.safe_dump(own))
    (shop.conf / "word").write_text("hunter2")
    (shop.conf / "word").chmod(0o600)
    put_source(shop, preset="echo", options={"what": "hello"}, env={"WORD": {"file": "word"}})
    shop.run("backup", "db", "--direct")
    assert shop.run("dump", "db:/stream/db/said").startswith("hello\n")
    shown = shop.run("config", "show", "--source", "db")
    assert ("hello" in shown, "hunter2" in shown) == (True, False)
    own["command"] = ["sh", "-c", 'echo "no: $WORD, password=swordfish" >&2; exit 1']
    (shop.conf / "presets/echo.yaml").write_text(yaml.safe_dump({**own, "options": {}}))
    put_source(shop, preset="echo", env={"WORD": {"file": "word"}})
    assert "sh ended with code 1: no: ***, password=***; no snapshot is made" in shop.run(
        "backup", "db", "--direct", code=43
    )
