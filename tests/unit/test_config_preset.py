"""Presets: what a source amounts to that names one; one's own; what is wrong with one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from shared.config.fleet import Fleet
from shared.config.models import Source
from shared.config.preset import BUILT_IN, load
from shared.config.problems import ConfigInvalid

FLEET = """
secret: {file: fleet.secret}
recovery_password: {file: recovery}
sites: {a: {url: /srv/a}}
sources:
  db/orders: %s
"""
OWN = """
description: A dump of ours
options:
  name: {required: true, meaning: what is dumped}
  level: {default: "3", meaning: how much}
  host: {meaning: where it is}
env: {LEVEL: "{level}", WHERE: "{host}"}
command: [our-dump, "--host={host}", --, "{name}"]
filename: "{name}.our"
restore: our-load NEW
"""


def source(folder: Path, text: str) -> Source:
    """The source with this body."""
    file = folder / "holdfast.yaml"
    file.write_text(FLEET % text)
    return Fleet.load(str(file)).source("db/orders")


def wrong(folder: Path, text: str) -> str:
    """What is said of a source with this body."""
    with pytest.raises(ConfigInvalid) as caught:
        source(folder, text)
    return str(caught.value)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a preset of one's own."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/ours.yaml").write_text(OWN)
    return tmp_path


def test_a_source_with_a_preset_is_one_with_a_command(tmp_path: Path) -> None:
    """Options that have no value leave their arguments out."""
    found = source(tmp_path, "{preset: postgresql, options: {database: orders, port: 5433}}")
    assert found.command == (
        *("pg_dump", "--format=custom", "--compress=0", "--no-password"),
        *("--port=5433", "--dbname=orders"),
    )
    assert found.stream_path == "/stream/db/orders/orders.dump"


@pytest.mark.parametrize("file", sorted(os.listdir(BUILT_IN)))
def test_each_preset_is_whole(file: str, tmp_path: Path) -> None:
    """It is read, each option is used and each mark is one, and a source with what it needs has a command."""
    preset = load(os.path.join(BUILT_IN, file))
    texts = [*preset.command, preset.filename, *preset.env.values()]
    assert [name for name in preset.options if not any(f"{{{name}}}" in text for text in texts)] == []
    given = {name: "x" for name, option in preset.options.items() if option.required}
    body = {"preset": file.removesuffix(".yaml"), "options": given}
    assert source(tmp_path, yaml.safe_dump(body, default_flow_style=True)).command


def test_ones_own_is_a_file_beside_the_configuration(own: Path) -> None:
    """Its environment goes under the source's own."""
    found = source(own, "{preset: ours, options: {name: 'a b'}, env: {LEVEL: '9', MORE: x}}")
    assert (found.command, found.stream_path) == (("our-dump", "--", "a b"), "/stream/db/orders/a b.our")
    assert found.env == {"LEVEL": "9", "MORE": "x"}


def test_ones_own_goes_before_one_that_is_built_in(own: Path) -> None:
    """By the same name."""
    (own / "presets/ours.yaml").rename(own / "presets/postgresql.yaml")
    assert source(own, "{preset: postgresql, options: {name: x}}").command == ("our-dump", "--", "x")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{preset: oours}", 'sources.db/orders.preset: expected a preset, found "oours" (did you mean "ours"?); there'),
        ("{preset: ours}", "sources.db/orders.options: preset ours needs name: what is dumped"),
        ("{preset: ours, options: {nam: x}}", 'options.nam: preset ours has no such option (did you mean "name"?)'),
        ("{preset: ours, options: {name: [x]}}", "sources.db/orders.options.name: expected a text"),
        ("{preset: ours, paths: /x}", "preset: stands beside command or paths: a preset says what is read"),
    ],
)
def test_what_is_wrong_with_a_source_is_told(own: Path, body: str, reason: str) -> None:
    """With the key, and what there is."""
    assert reason in wrong(own, body)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("command: [x]\n", "description"),
        (OWN.replace("command: [", "command: x  # ["), "in this preset: expected a list of a program"),
        (OWN + "more: x\n", "more"),
        ("a: [", "presets/ours.yaml"),
    ],
)
def test_what_is_wrong_with_a_preset_is_told(own: Path, text: str, reason: str) -> None:
    """With its own file and line."""
    (own / "presets/ours.yaml").write_text(text)
    said = wrong(own, "{preset: ours, options: {name: x}}")
    assert (reason in said, "presets/ours.yaml" in said) == (True, True), said


def test_a_scratch_server_is_the_presets_where_it_is_asked_for(tmp_path: Path) -> None:
    """Not otherwise; and what the source says itself counts before that."""
    asked = source(tmp_path, "{preset: sqlite, options: {path: /db}, scratch: {timeout: 5m, fill: [cat]}}").scratch
    assert asked is not None
    assert (asked.fill, asked.timeout, (asked.check or ("",))[0]) == (("cat",), 300.0, "python3")
    assert source(tmp_path, "{preset: sqlite, options: {path: /db}}").scratch is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{command: [x], scratch: {}}", "scratch.fill: is missing"),
        ("{paths: /srv, scratch: {fill: [x]}}", "has scratch and paths: only what a program prints goes into a server"),
        ("{command: [x], scratch: {fill: [x], ready: [y]}}", "has ready and no serve that could be"),
        ('{command: [x], scratch: {fill: [sh, -c, "gunzip | psql"]}}', "scratch.fill: a shell's pipe ends well"),
    ],
)
def test_a_scratch_server_that_can_not_be_is_named(tmp_path: Path, text: str, reason: str) -> None:
    """With the key."""
    with pytest.raises(ConfigInvalid) as raised:
        source(tmp_path, text)
    assert reason in str(raised.value)
