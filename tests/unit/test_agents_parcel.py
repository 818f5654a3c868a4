"""What a server gets at its enrolment is a file that its agent reads, and says the same of each source."""

from __future__ import annotations

from pathlib import Path

from shared.agents.parcel import make_parcel, write
from shared.config.fleet import Fleet
from tests.support.fleets import SmallFleet

SOURCES = """\
  db/orders: {host: web1, preset: postgresql, options: {database: orders}, timeout: 90m, retired: 2027-01-31}
  www:
    host: web1
    paths: [/srv/www]
    labels: {tier: 1}
    owner: shop
    paused_until: 2027-01-31
    excludes: ["*.tmp"]
    exclude_larger_than: 2 GiB
    hooks: {before: [/bin/true], after: [/bin/true], timeout: 10m}
  other: {host: web2, paths: [/srv]}
"""


def test_each_source_reads_the_same_on_the_server(tmp_path: Path) -> None:
    """Presets, lengths of time, sizes and hooks too; what the scheduler alone needs to know stays with it."""
    small = SmallFleet(str(tmp_path), broker="redis://127.0.0.1:1/0")
    text = Path(small.path).read_text().partition("sources:")[0]
    Path(small.path).write_text(text + "sources:\n" + SOURCES)
    fleet = small.fleet
    directory = tmp_path / "server"
    (directory / "conf.d").mkdir(parents=True)
    write(make_parcel(fleet, "web1", 1, "redis://redis.example.org:6379/0"), str(directory))
    server = Fleet.load(str(directory / "holdfast.yaml"))
    assert sorted(server.sources) == ["db/orders", "www"]
    for name, source in server.sources.items():
        given = fleet.source(name)
        for key in ("host", "paths", "command", "filename", "timeout", "labels", "excludes", "hooks"):
            assert getattr(source, key) == getattr(given, key), (name, key)
        assert source.exclude_larger_than == given.exclude_larger_than
        assert (source.rests(0.0), source.owner) == ("", None)
