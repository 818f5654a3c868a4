"""A real PostgreSQL: backed up while it is written to, destroyed, restored, compared row by row."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.command import Shop, open_shop
from tests.support.ledgers import own_ledger, until
from tests.support.postgres import Postgres, WriteLoad, forget_home, new_home
from tests.support.proxy import FaultProxy
from tests.support.stores import make_bucket
from tests.support.tools import MinioServer

# What pgbench keeps true in every transaction, so also in each consistent copy: all sums are the same.
BALANCED = (
    "select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)"
    " and (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches)"
    " and (select sum(tbalance) from pgbench_tellers) = (select coalesce(sum(delta), 0) from pgbench_history)"
)
MAKE_LEDGER = """
create table ledger (id bigint primary key, sum numeric, note text, at timestamptz, raw bytea, list int[]);
insert into ledger select i, i / 7.0, md5(i::text) || E'\\n\\t\\\\ \u00e9', 'epoch'::timestamptz + i * '1s'::interval,
decode(md5(i::text), 'hex'), array[i, null, -i] from generate_series(1, 20000) i;
create index on ledger (note); create view newest as select max(id) from ledger
"""
EVERY_ROW = "select * from ledger order by id"


@pytest.fixture
def home() -> Iterator[str]:
    """Where servers live."""
    folder = new_home()
    yield folder
    forget_home(folder)


@pytest.fixture
def orders(home: str) -> Iterator[Postgres]:
    """A server with a database: rows of many kinds that nobody changes, and pgbench's tables, which are written to."""
    server = Postgres(home, "first")
    server.start()
    server.sql("create database orders")
    server.sql(MAKE_LEDGER, database="orders")
    server.client("pgbench", "-i", "-q", "-s", "2", "orders")
    yield server
    server.stop()


@pytest.fixture
def far(minio_server: MinioServer, tmp_path: Path) -> Iterator[dict[str, object]]:
    """A site behind a slow line: a bucket of MinIO, each answer of which comes late."""
    bucket = make_bucket(minio_server)
    file = tmp_path / "keys"
    file.write_text(f"access_key = {minio_server.access_key}\nsecret_key = {minio_server.secret_key}\n")
    file.chmod(0o600)
    with FaultProxy(("127.0.0.1", minio_server.port)) as proxy:
        proxy.slow_down(0.1)
        yield {"url": f"s3:http://127.0.0.1:{proxy.port}/{bucket}", "credentials": {"file": str(file)}}


def shop_of(
    base: Path,
    server: Postgres,
    preset: str,
    *,
    upload: str = "",
    site: dict[str, object] | None = None,
    **options: str,
) -> Shop:
    """A shop whose source `db/orders` is that server."""
    shop = open_shop(base)
    file = shop.conf / "holdfast.yaml"
    fleet = yaml.safe_load(file.read_text())
    source = {"preset": preset, "options": {**server.options, **options}, "env": server.variables}
    fleet["sources"] = {"db/orders": source}
    if site:
        fleet["sites"] = dict.fromkeys(fleet["sites"], site)
    if upload:
        fleet["limits"] = {"upload": upload}
    file.write_text(yaml.safe_dump(fleet))
    return shop


@pytest.fixture
def restored_by(orders: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """The command that takes a dump back, less the database's name; what a person runs finds PostgreSQL's programs."""
    for name, value in orders.variables.items():
        monkeypatch.setenv(name, value)
    return "pg_restore --no-owner --exit-on-error -d"


def assert_same_rows(server: Postgres, rows: str, at_least: int) -> None:
    """Rows that nobody changed are as they were, those being changed are consistent, nothing committed is lost."""
    assert server.sql(EVERY_ROW, database="orders") == rows
    assert server.sql(BALANCED, database="orders") == "t\n"
    assert int(server.sql("select count(*) from pgbench_history", database="orders")) >= at_least
    assert server.sql("select max from newest", database="orders") == "20000\n"
    server.client("pg_amcheck", "--install-missing", "--heapallindexed", "orders")  # each index knows each row


def test_a_dump_under_load_comes_back_row_by_row(tmp_path: Path, orders: Postgres, restored_by: str) -> None:
    """pg_dump while rows are written; the server is destroyed; pg_restore of the stream into an empty one."""
    shop = shop_of(tmp_path, orders, "postgresql", database="orders")
    rows = orders.sql(EVERY_ROW, database="orders")
    with WriteLoad(orders, "orders") as load:
        before = load.count()
        first = shop.ask("backup", "db/orders", "--direct")
        between = load.count()
        second = shop.ask("backup", "db/orders", "--direct")
        assert load.count() > between
    assert (first["kind"], second["kind"]) == ("full", "incremental")
    orders.destroy()
    orders.start()
    orders.sql("create database orders")
    shop.run("restore", "db/orders", "--direct", "--into", f"{restored_by} orders")
    assert_same_rows(orders, rows, between)
    orders.sql("drop database orders")
    orders.sql("create database orders")
    shop.run("restore", "db/orders", "--snapshot", first["snapshot"], "--direct", "--into", f"{restored_by} orders")
    assert_same_rows(orders, rows, before)


def physical_round(base: Path, orders: Postgres, home: str, site: dict[str, object] | None = None) -> None:
    """A physical backup under load, the end of the server, and another one on what comes back."""
    shop = shop_of(base, orders, "postgresql-physical", site=site)
    rows = orders.sql(EVERY_ROW, database="orders")
    with WriteLoad(orders, "orders") as load:
        before = load.count()
        shop.run("backup", "db/orders", "--direct")
        assert load.count() > before
    orders.destroy()
    unpacked = base / "unpacked"
    unpacked.mkdir()
    shop.run("restore", "db/orders", "--direct", "--into", f"tar -x -C {unpacked}")
    with Postgres(home, "second") as second_server:
        second_server.stop()
        shutil.rmtree(second_server.data)
        second_server.take(str(unpacked))
        second_server.start()
        assert_same_rows(second_server, rows, before)


def test_a_physical_backup_comes_back_row_by_row(tmp_path: Path, orders: Postgres, home: str) -> None:
    """pg_basebackup while rows are written; from the tar another server starts and recovers to a consistent point."""
    physical_round(tmp_path, orders, home)


def test_a_physical_backup_to_a_site_far_away_is_as_consistent(
    tmp_path: Path, orders: Postgres, home: str, far: dict[str, object]
) -> None:
    """The server goes on writing while the backup waits for the site, and the WAL of that time is in it."""
    physical_round(tmp_path, orders, home, far)


def test_a_dump_to_a_site_far_away_is_as_consistent(
    tmp_path: Path, orders: Postgres, restored_by: str, far: dict[str, object]
) -> None:
    """Each answer of the bucket comes late, in the backup and in the restore."""
    shop = shop_of(tmp_path, orders, "postgresql", site=far, database="orders")
    rows = orders.sql(EVERY_ROW, database="orders")
    with WriteLoad(orders, "orders") as load:
        before = load.count()
        shop.run("backup", "db/orders", "--direct")
        assert load.count() > before
    orders.destroy()
    orders.start()
    orders.sql("create database orders")
    shop.run("restore", "db/orders", "--direct", "--into", f"{restored_by} orders")
    assert_same_rows(orders, rows, before)


def test_a_dump_comes_back_on_another_host(tmp_path: Path, orders: Postgres, home: str) -> None:
    """By that host's worker: as a file in a folder that its own file allows, and into a program that this names."""
    shop = shop_of(tmp_path, orders, "postgresql", database="orders")
    rows = orders.sql(EVERY_ROW, database="orders")
    with own_ledger(str(tmp_path / "valkey")) as (_, valkey), Postgres(home, "other") as other:
        config = shop.conf / "holdfast.yaml"
        fleet = yaml.safe_load(config.read_text())
        fleet["sources"]["db/orders"]["host"] = "a"
        fleet |= {"regions": {"local": {"broker": valkey.url}}, "hosts": ["b"]}
        config.write_text(yaml.safe_dump(fleet))
        load = ["pg_restore", "--no-owner", "--exit-on-error", "-d", "orders"]
        own = {"restore_to": [str(tmp_path / "dumps")]}
        own["restore_into"] = {"orders": {"command": load, "env": other.variables}}
        (shop.conf / "b.yaml").write_text(yaml.safe_dump(fleet | own))
        agents = [
            shop.start("-c", file, "worker", "start", "--host", host, "--no-pools")
            for file, host in (("holdfast.yaml", "a"), ("b.yaml", "b"))
        ]
        try:
            until(lambda: len(shop.ask("worker")["workers"]) == 4, seconds=60, what="the agents on the roll")
            with WriteLoad(orders, "orders") as writes:
                before = writes.count()
                shop.run("backup", "db/orders", "--follow")
            orders.destroy()
            other.sql("create database orders")
            shop.run("restore", "db/orders", "--into", "b:orders")
            assert_same_rows(other, rows, before)
            other.sql("drop database orders")
            other.sql("create database orders")
            shop.run("restore", "db/orders", "--to", f"b:{tmp_path}/dumps")
            other.client(*load, str(tmp_path / "dumps/orders.dump"))
            assert_same_rows(other, rows, before)
        finally:
            for agent in agents:
                agent.terminate()
            for agent in agents:
                agent.communicate(timeout=60)


def test_a_dump_to_a_slow_site_is_as_consistent(tmp_path: Path, orders: Postgres, restored_by: str) -> None:
    """The site takes a fraction of what pg_dump gives: it waits, and its snapshot of the database stays one."""
    shop = shop_of(tmp_path, orders, "postgresql", database="orders", upload="200 KB")
    rows = orders.sql(EVERY_ROW, database="orders")
    with WriteLoad(orders, "orders") as load:
        before = load.count()
        shop.run("backup", "db/orders", "--direct")
    orders.sql("create database restored")
    shop.run("restore", "db/orders", "--direct", "--into", f"{restored_by} restored")
    orders.sql("drop database orders")
    orders.sql("alter database restored rename to orders")
    assert_same_rows(orders, rows, before)


def test_a_dump_that_is_cut_short_makes_no_snapshot(tmp_path: Path, orders: Postgres) -> None:
    """Its connection is cut in the middle of a table: the error says what pg_dump said, the last good one stays."""
    shop = shop_of(tmp_path, orders, "postgresql", database="orders", upload="4 MB")
    good = shop.ask("backup", "db/orders", "--direct")
    orders.sql(
        """create table large as select i, (select string_agg(md5(random()::text || i || j), '')
        from generate_series(1, 4000) j) from generate_series(1, 300) i""",
        database="orders",
    )
    process = shop.start("backup", "db/orders", "--direct")
    cut = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'COPY public.large%'"
    until(lambda: orders.sql(cut) or None, what="the dump of the table")
    out, err = process.communicate()
    assert (process.returncode, out) == (43, "")
    assert "source db/orders: pg_dump ended with code 1: " in err
    assert "COPY public.large" in err
    assert [one["id"] for one in shop.ask("snapshots", "db/orders")["snapshots"]] == [good["snapshot"]]


def test_a_restore_that_fails_says_what_the_program_said(tmp_path: Path, orders: Postgres, restored_by: str) -> None:
    """Into a database that is not there: pg_restore's own words, and exit code 43."""
    shop = shop_of(tmp_path, orders, "postgresql", database="orders")
    shop.run("backup", "db/orders", "--direct")
    said = shop.run("restore", "db/orders", "--direct", "--into", f"{restored_by} nowhere", code=43)
    assert 'database "nowhere" does not exist' in said
