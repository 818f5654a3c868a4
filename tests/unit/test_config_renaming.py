"""A source gets another name in the file that has it. shared.config.renaming."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.config.document import parse
from shared.config.fleet import Fleet
from shared.config.renaming import edited, rename
from shared.errors import ConfigError

TOP = "secret: {file: s}\nrecovery_password: {file: r}\nsites: {a: {url: ./a}}\n"


LONG = """\
sources:
  # the shop
  web1: # since 2019

    # all of it
    paths:
    - /srv
  web10: {paths: /x}
"""
SHORT = "sources:\n  web1:\n    paths: /srv\n"
FLOW = "sources: {a: {paths: /a, host: web1}, web1: {paths: /srv}, b: {paths: /web1}}"


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (SHORT, {"  web1:\n": "  new:\n    formerly: web1\n"}),
        (SHORT.replace("\n", "\r\n"), {"  web1:\r\n": "  new:\r\n    formerly: web1\r\n"}),
        (SHORT.replace("web1", '"web1"'), {'  "web1":\n': "  new:\n    formerly: web1\n"}),
        (SHORT.replace("    paths", "    formerly: old\n    paths"), {"web1": "new"}),
        (f"policies: {{web1: {{full: 1d}}}}\n{SHORT}", {"  web1:\n": "  new:\n    formerly: web1\n"}),
        (LONG, {"  web1:": "  new:", "    paths:\n": "    formerly: web1\n    paths:\n"}),
        (FLOW, {"web1: {": "new: {formerly: web1, "}),
        ("sources:\n  web1: {paths: /srv/web1} # x\n", {"web1: {": "new: {formerly: web1, "}),
    ],
)
def test_one_line_changes_and_one_is_added(text: str, changes: dict[str, str]) -> None:
    """Comments, order and all else stay."""
    wanted = text
    for old, new in changes.items():
        wanted = wanted.replace(old, new, 1)
    assert edited(text, parse(text), "web1", "new") == wanted


@pytest.mark.parametrize(
    "text",
    [
        "x: &x {paths: /srv}\nsources:\n  web1: *x\n",
        "sources: {web1: {paths: /srv, labels: {web1: x}}}",
        "sources:\n  web1: &x\n    paths: /srv\n  b: *x\n",
    ],
)
def test_what_is_not_sure_to_be_meant_is_left_to_a_person(text: str) -> None:
    """An edit that might do more, or less."""
    assert edited(text, parse(text), "web1", "new") is None


def fleet(base: Path, text: str) -> str:
    """A configuration."""
    path = base / "fleet.yaml"
    path.write_text(TOP + text)
    return str(path)


def test_what_lasts_keeps_its_first_name(tmp_path: Path) -> None:
    """Repository, tag and a stream's place; also after a second time, and after going back."""
    path = fleet(tmp_path, "sources: {db/old: {command: [pg_dump]}}\n")
    stream = Fleet.load(path).source("db/old").stream_path
    for old, new in (("db/old", "orders"), ("orders", "db/orders"), ("db/orders", "db/old")):
        rename(path, old, new).make()
        loaded = Fleet.load(path)
        source = loaded.source(new)
        assert (list(loaded.sources), loaded.repository_of(new), source.first_name) == ([new], "db/old", "db/old")
        assert source.stream_path == stream == "/stream/db/old/old"


def test_the_file_that_has_it_is_edited(tmp_path: Path) -> None:
    """Behind a link too; mode and all else stay."""
    path = fleet(tmp_path, "sources: {own: {paths: /own}}\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "real.yaml").write_text("sources:\n  web1:\n    paths: /srv\n")
    os.chmod(tmp_path / "real.yaml", 0o640)
    (tmp_path / "conf.d/web.yaml").symlink_to("../real.yaml")
    rename(path, "web1", "shop").make()
    assert (tmp_path / "conf.d/web.yaml").is_symlink()
    assert (tmp_path / "real.yaml").stat().st_mode & 0o777 == 0o640
    assert list(Fleet.load(path).sources) == ["own", "shop"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("nope", "new", "no file of .* has the source nope"),
        ("web1", "web2", "there is a source web2 already"),
        ("web1", "Shop", "expected a name of lower-case letters"),
        ("web1", "web2/data", 'expected a name whose later parts are no folder of a repository \\("data" is one\\)'),
    ],
)
def test_a_name_that_can_not_be_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """Before anything is written."""
    path = fleet(tmp_path, "sources:\n  web1: {paths: /a}\n  web2: {paths: /b}\n")
    before = Path(path).read_text()
    with pytest.raises(ConfigError, match=reason):
        rename(path, old, new)
    assert Path(path).read_text() == before


def test_a_first_name_is_given_once(tmp_path: Path) -> None:
    """Two sources in one repository under one tag would be one history."""
    path = fleet(tmp_path, "sources:\n  web1: {paths: /a}\n  shop: {formerly: web1, paths: /b}\n")
    with pytest.raises(ConfigError, match=r"fleet.yaml:6: sources.shop.formerly: web1 is what source web1 is called"):
        Fleet.load(path)


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Somebody edits it just now."""
    path = fleet(tmp_path, "sources:\n  web1: {paths: /a}\n")
    edit = rename(path, "web1", "shop")
    with open(path, "a") as file:
        file.write("# mine\n")
    with pytest.raises(ConfigError, match="has just been changed by another"):
        edit.make()
    assert Path(path).read_text().endswith("# mine\n")
