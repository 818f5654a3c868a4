"""A configuration that changes while a process runs. shared.config.watch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.config.watch import FleetWatch
from shared.errors import ConfigError

GOOD = """\
secret: {file: fleet.secret}
recovery_password: {file: recovery.password}
sites: {a: {url: ./a}}
sources: {web1: {paths: /srv}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good configuration."""
    path = tmp_path / "fleet.yaml"
    path.write_text(GOOD)
    return path


def looked(watch: FleetWatch, times: int = 2) -> list[bool]:
    """What so many looks said."""
    return [watch.check() for _ in range(times)]


def test_a_changed_file_replaces_the_old_one(path: Path) -> None:
    """At the second look that finds it as it is; the old object stays as it was."""
    watch = FleetWatch(str(path))
    before = watch.fleet
    assert looked(watch) == [False, False]
    path.write_text(GOOD.replace("web1", "web2"))
    with capture_logs() as logs:
        assert looked(watch, 4) == [False, True, False, False]
    assert (list(before.sources), list(watch.fleet.sources)) == (["web1"], ["web2"])
    assert [line["event"] for line in logs] == ["the changed configuration is in force"]


def test_a_file_that_is_being_written_is_not_taken(path: Path) -> None:
    """As long as each look finds it different, the old one stays."""
    watch = FleetWatch(str(path))
    for number in range(5):
        path.write_text(GOOD + f"# {number}\n" * (number + 1))
        assert watch.check() is False
    assert watch.check() is True


def test_a_bad_file_keeps_the_old_one_alive(path: Path) -> None:
    """It is logged once, with file, line and key; mended, it counts, and an error after that is told again."""
    watch = FleetWatch(str(path))
    bad = GOOD.replace("paths:", "pahts:")
    with capture_logs() as logs:
        path.write_text(bad)
        assert looked(watch, 6) == [False] * 6
        os.utime(path)  # saved again as it was: nothing new to say
        assert looked(watch, 3) == [False] * 3
    assert list(watch.fleet.sources) == ["web1"]
    reason = f'{path}:4: sources.web1.pahts: unknown key (did you mean "paths"?)'
    assert [(line["log_level"], line["reason"]) for line in logs] == [("error", reason)]
    assert watch.error == reason
    path.write_text(GOOD.replace("web1", "web3"))
    assert looked(watch) == [False, True]
    assert (list(watch.fleet.sources), watch.error) == (["web3"], "")
    with capture_logs() as logs:
        path.write_text(bad)
        assert looked(watch, 3) == [False] * 3
    assert len(logs) == 1


def test_a_file_that_vanishes_keeps_the_old_one_alive(path: Path) -> None:
    """As while it is being replaced; back again, it counts."""
    watch = FleetWatch(str(path))
    path.unlink()
    assert looked(watch, 3) == [False] * 3
    assert "can't read the configuration" in watch.error
    path.write_text(GOOD.replace("web1", "web4"))
    assert [list(watch.current().sources) for _ in range(2)] == [["web1"], ["web4"]]


def test_who_looks_seldom_gets_what_the_files_say_now(path: Path) -> None:
    """In one call; a bad file leaves what was known, and is not read again and again."""
    watch = FleetWatch(str(path))
    path.write_text(GOOD.replace("web1", "web2"))
    assert list(watch.catch_up().sources) == ["web2"]
    path.write_text("sources: 7\n")
    with capture_logs() as logs:
        assert [list(watch.catch_up().sources) for _ in range(2)] == [["web2"], ["web2"]]
    assert len(logs) == 1


def test_fragments_that_come_and_go_are_seen(path: Path) -> None:
    """conf.d made, a file added, changed and removed; and what an include matches."""
    path.write_text(GOOD + "include: [extra/*.yaml]\n")
    watch = FleetWatch(str(path))
    for folder in ("conf.d", "extra"):
        fragment = path.parent / folder / "more.yaml"
        fragment.parent.mkdir()
        assert looked(watch) == [False, False], "an empty directory changes nothing"
        for text, names in (
            ("sources: {x: {paths: /x}}", ["web1", "x"]),
            ("sources: {yy: {paths: /x}}", ["web1", "yy"]),
        ):
            fragment.write_text(text)
            assert looked(watch) == [False, True]
            assert list(watch.fleet.sources) == names
        fragment.unlink()
        assert looked(watch) == [False, True]
        assert list(watch.fleet.sources) == ["web1"]


def test_a_missing_include_is_noticed_when_it_comes(path: Path) -> None:
    """What a bad configuration looked for in vain is watched too."""
    watch = FleetWatch(str(path))
    path.write_text(GOOD + "include: later.yaml\n")
    assert looked(watch, 3) == [False] * 3
    (path.parent / "later.yaml").write_text("sources: {later: {paths: /l}}\n")
    assert looked(watch) == [False, True]
    assert list(watch.fleet.sources) == ["web1", "later"]


def test_a_process_does_not_start_on_a_bad_file(path: Path) -> None:
    """There is no old one to keep."""
    path.write_text("sources: 7\n")
    with pytest.raises(ConfigError):
        FleetWatch(str(path))
