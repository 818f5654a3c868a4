"""Restore tests of databases, each into a scratch server of its own: workers.maintenance.scratch_server."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.commands.restore_test import describe
from shared.config.fleet import Fleet
from tests.support.command import open_shop
from tests.support.crafting import change_object
from tests.support.ledgers import until
from tests.support.postgres import Postgres, forget_home, new_home

COUNT = "select 'orders: ' || count(*) from orders"


class Scene:
    """A shop whose source `db/orders` prints the dump of a real PostgreSQL; its restore tests lie in `place`."""

    def __init__(self, base: Path, server: Postgres, dump: str) -> None:
        self.shop = open_shop(base)
        self.dump = dump
        self.place = os.path.join(os.path.dirname(server.directory), "tests")
        os.makedirs(self.place)
        clients = {name: value for name, value in server.variables.items() if name in {"PATH", "LD_LIBRARY_PATH"}}
        self.scratch: dict[str, Any] = {"user": "nobody", "folder": self.place, "env": clients}
        self.source: dict[str, Any] = {
            "preset": "postgresql",
            "options": {**server.options, "database": "orders"},
            "env": server.variables,
        }

    def configure(self, **more: Any) -> None:
        """Let the source be so, and its scratch server have this besides."""
        file = self.shop.conf / "holdfast.yaml"
        fleet = yaml.safe_load(file.read_text())
        fleet["sources"] = {"db/orders": {**self.source, "scratch": {**self.scratch, **more}}}
        file.write_text(yaml.safe_dump(fleet))

    def print_file(self) -> None:
        """From now on the source prints a file, and is otherwise as it was: its scratch server is spelt out."""
        self.configure()
        kept = self.effective()
        steps = ("make", "serve", "ready", "fill", "check")
        self.scratch |= {step: kept[step] for step in steps}
        self.source = {"command": ["cat", self.dump], "filename": "orders.dump"}
        self.configure()

    def effective(self) -> dict[str, Any]:
        """The steps that the preset amounts to."""
        given = Fleet.load(str(self.shop.conf / "holdfast.yaml")).source("db/orders").scratch
        assert given is not None
        return {step: list(getattr(given, step)) for step in ("make", "serve", "ready", "fill", "check")}

    def test(self, code: int = 0) -> dict[str, Any]:
        """The report of a restore test, of which nothing is left."""
        report: dict[str, Any] = self.shop.ask("restore-test", "db/orders", "--direct", code=code)
        assert self.left() == []
        return report

    def left(self) -> list[str]:
        """What there is of scratch servers: their folders, and their processes."""
        folders = [path.path for path in os.scandir(f"{self.place}/restore-test")] if os.listdir(self.place) else []
        return [*folders, *(line for line in commands() if self.place in line)]


def commands() -> Iterator[str]:
    """The command lines of all processes."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield f"{pid} {Path('/proc', pid, 'cmdline').read_bytes().decode(errors='replace')}"
        except OSError:
            continue


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, str]]:
    """A server with a database, and a dump of it."""
    home = new_home()
    server = Postgres(home, "first")
    try:
        server.start()
        server.sql("create database orders")
        server.sql(
            "create table orders as select i as id, md5(i::text) as note from generate_series(1, 20000) i",
            database="orders",
        )
        dump = tmp_path_factory.mktemp("dump") / "orders.dump"
        with dump.open("wb") as file:
            command = ["pg_dump", "-Fc", "-Z0", "orders"]
            subprocess.run(command, env={**os.environ, **server.variables}, stdout=file, check=True)
        yield server, str(dump)
    finally:
        server.stop()
        forget_home(home)


@pytest.fixture
def scene(tmp_path: Path, served: tuple[Postgres, str]) -> Iterator[Scene]:
    """All of it."""
    server, dump = served
    copy = str(shutil.copy(dump, tmp_path))
    (tmp_path / "shop").mkdir()
    scene = Scene(tmp_path / "shop", server, copy)
    yield scene
    shutil.rmtree(scene.place)


def test_a_database_is_restored_into_a_server_of_its_own(scene: Scene) -> None:
    """Made, started, filled, asked and gone; the check's answer and the rate stand in the report."""
    scene.configure(check=[*checking(), COUNT])
    scene.shop.ask("backup", "db/orders", "--direct")
    report = scene.test()
    assert (report["server"], report["said"], report["verified"], report["errors"]) == (True, "orders: 20000", 1, 0)
    assert report["rate"] > 0
    assert report["bytes"] == report["bytes_total"] > 500_000
    assert describe(report)[-1] == "a scratch server has taken all of it, and its check passed: orders: 20000"


def checking() -> list[str]:
    """A client of the scratch server."""
    return ["psql", "-XqAt", "--host={scratch}", "--port=5432", "--username=postgres", "--dbname=postgres", "-c"]


def test_the_presets_own_check_looks_for_tables(scene: Scene) -> None:
    """Without another one."""
    scene.configure()
    scene.shop.ask("backup", "db/orders", "--direct")
    assert scene.test()["said"] == "1 tables"


@pytest.mark.parametrize("damage", ["cut", "torn"])
def test_a_dump_that_is_damaged_fails_the_test(scene: Scene, damage: str) -> None:
    """Though each of its bytes is as it was backed up: the server does not take it, and says why."""
    scene.print_file()
    raw = Path(scene.dump).read_bytes()
    middle = len(raw) // 2
    Path(scene.dump).write_bytes(
        raw[:middle] if damage == "cut" else raw[:middle] + b"\0" * 4096 + raw[middle + 4096 :]
    )
    scene.shop.ask("backup", "db/orders", "--direct")
    report = scene.test(code=3)
    (problem,) = report["problems"]
    assert problem["message"].startswith(
        "the scratch server was not filled: pg_restore ended with code 1: pg_restore: "
    )
    assert describe(report)[-1] == "NOT RESTORED: 1 error"
    assert (report["verified"], report["said"]) == (0, "")


def test_a_check_that_fails_fails_the_test(scene: Scene) -> None:
    """The dump is whole, and not what it should be."""
    scene.configure(check=[*checking(), "select 1 / count(*) from orders where id > 20000"])
    scene.shop.ask("backup", "db/orders", "--direct")
    report = scene.test(code=3)
    (problem,) = report["problems"]
    assert problem["path"] == "/stream/db/orders/orders.dump"
    assert "was filled, and its check failed: psql ended with code 1: ERROR:" in problem["message"]
    assert "division by zero" in problem["message"]


def test_what_is_damaged_at_the_site_is_told_as_that(scene: Scene) -> None:
    """With the exit code of a repository that is damaged, and no half of a dump in any server."""
    scene.print_file()
    scene.shop.ask("backup", "db/orders", "--direct")
    packs = sorted((scene.shop.conf / "backups/repos/db/orders/data").glob("*/*"), key=lambda path: path.stat().st_size)
    change_object(str(packs[-1]), lambda raw: raw[:5000] + b"\xff\xff" + raw[5002:])
    report = scene.test(code=24)
    assert describe(report)[-1].startswith("DAMAGED: 1 error")
    assert report["damaged_snapshots"] == [report["snapshot"]]


UNMADE: list[tuple[dict[str, Any], int, str]] = [
    ({"make": ["false"]}, 43, "false ended with code 1"),
    ({"make": ["true"], "serve": ["sh", "-c", "echo no disk; exit 3"]}, 43, "sh ended with code 3: no disk"),
    ({"make": ["true"], "serve": ["sh", "-c", "exit 0"]}, 43, "sh ended with code 0"),
    ({"make": ["true"], "serve": ["sleep", "600"], "ready": ["false"], "timeout": "1s"}, 43, "false ended with code 1"),
    ({"fill": ["no-such-program"]}, 43, "no scratch server can be made: no-such-program is not on its PATH"),
]


def test_a_server_that_can_not_be_made_is_an_error(scene: Scene) -> None:
    """It says nothing of what is stored: the run has failed, and nothing is left."""
    unknown = ({"user": "no-such-user"}, 10, 'no scratch server can be made: there is no user "no-such-user" here')
    scene.configure()
    scene.shop.ask("backup", "db/orders", "--direct")
    for changes, code, reason in [*UNMADE, *([unknown] if os.geteuid() == 0 else [])]:
        scene.configure(**changes)
        assert reason in scene.shop.run("restore-test", "db/orders", "--direct", code=code)
        assert scene.left() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is nobody else")
def test_a_folder_that_its_user_can_not_reach_is_named(scene: Scene, tmp_path: Path) -> None:
    """With the way out."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    scene.configure(folder=str(closed))
    scene.shop.ask("backup", "db/orders", "--direct")
    said = scene.shop.run("restore-test", "db/orders", "--direct", code=10)
    assert f"no scratch server can be made: user nobody can't reach {closed}/restore-test" in said
    assert "scratch: {folder: ...}" in said


def test_killed_in_its_midst_no_server_is_left(scene: Scene) -> None:
    """The processes end with whoever started them; the folder goes at once, or after SIGKILL with the next test."""
    scene.configure(check=["sh", "-c", 'echo > "$HOLDFAST_SCRATCH/now"; sleep 600'])
    scene.shop.ask("backup", "db/orders", "--direct")
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = scene.shop.start("restore-test", "db/orders", "--direct")
        until(lambda: glob.glob(f"{scene.place}/restore-test/*/now"), what="the check")
        assert any("postgres" in line for line in scene.left())
        process.send_signal(number)
        process.communicate(timeout=60)
        until(lambda: not [line for line in commands() if scene.place in line], what="the end of the server")
        assert bool(scene.left()) == (number == signal.SIGKILL)
    scene.configure()
    assert scene.test()["said"] == "1 tables"


def test_sqlite_needs_no_server(tmp_path: Path) -> None:
    """The file itself is checked; one that is torn fails."""
    (tmp_path / "shop").mkdir()
    shop = open_shop(tmp_path / "shop")
    path = tmp_path / "app.sqlite"
    database = sqlite3.connect(path)
    database.execute("create table notes (id integer primary key, text)")
    database.executemany("insert into notes (text) values (?)", [("x" * 500,)] * 500)
    database.execute("create index by_text on notes (text)")
    database.commit()
    database.close()

    def source(**given: object) -> None:
        file = shop.conf / "holdfast.yaml"
        fleet = yaml.safe_load(file.read_text())
        fleet["sources"] = {"app": given}
        file.write_text(yaml.safe_dump(fleet))

    scratch: dict[str, object] = {}
    source(preset="sqlite", options={"path": str(path), "python": sys.executable}, scratch=scratch)
    shop.ask("backup", "app", "--direct")
    assert shop.ask("restore-test", "app", "--direct")["said"] == "1 tables"
    raw = path.read_bytes()
    torn = tmp_path / "torn"
    torn.write_bytes(raw[: 20 * 4096] + bytes(4096 * 8) + raw[28 * 4096 :])
    given = Fleet.load(str(shop.conf / "holdfast.yaml")).source("app").scratch
    assert given is not None
    steps = {"fill": list(given.fill), "check": list(given.check or ())}
    source(command=["cat", str(torn)], filename="database.sqlite", scratch=steps)
    shop.ask("backup", "app", "--direct")
    report = shop.ask("restore-test", "app", "--direct", code=3)
    assert "was filled, and its check failed" in json.dumps(report["problems"])


def test_a_worker_does_it_too(scene: Scene) -> None:
    """As a run, whose result is the command's."""
    scene.configure()
    scene.shop.run("up", "--detach")
    try:
        until(lambda: [one["state"] for one in scene.shop.ask("runs")["runs"]] == ["succeeded"], seconds=60)
        report = scene.shop.ask("restore-test", "db/orders")
        assert (report["said"], report["exit_code"]) == ("1 tables", 0)
        assert scene.left() == []
    finally:
        scene.shop.run("down")
