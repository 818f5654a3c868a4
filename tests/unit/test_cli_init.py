"""`holdfast init`."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from cli.main import main
from shared.config.fleet import Fleet


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_it_writes_loads(tmp_path: Path) -> None:
    """The configuration, both secrets and the site are usable at once."""
    (tmp_path / "data").mkdir()
    assert main(["init", "conf", "--source", "data", "--site", str(tmp_path / "backups")]) == 0
    fleet = Fleet.load("conf/holdfast.yaml")
    assert (fleet.source("data").paths, fleet.site("main").url) == ((f"{tmp_path}/data",), f"{tmp_path}/backups")
    assert fleet.open_site("main").url
    assert len(fleet.secret.read()) == 64
    assert fleet.configured_primary("data") == "main"


def test_secrets_are_strong_and_private(tmp_path: Path) -> None:
    """For the owner only, and different each time."""
    assert [main(["init", "a"]), main(["init", "b"])] == [0, 0]
    for name in ("fleet.secret", "recovery.password"):
        texts = [(tmp_path / folder / name).read_text() for folder in "ab"]
        assert stat.S_IMODE((tmp_path / "a" / name).stat().st_mode) == 0o600
        assert (texts[0] != texts[1], len(texts[0].strip()) >= 39) == (True, True)


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a configuration nor a secret: losing one would lose every backup."""
    (tmp_path / "fleet.secret").write_text("0123456789abcdef")
    assert main(["init"]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert main(["init"]) == 2
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert (after, before["fleet.secret"]) == (before, b"0123456789abcdef")
    assert "holdfast.yaml exists, and is left as it is" in capsys.readouterr().err


def test_the_configuration_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between there may be secrets without a configuration, never the other way round."""
    from shared.storage import durable

    real = durable.write_durable_if_absent

    def stop_at_the_password(path: str, data: bytes, *, mode: int) -> bool:
        if path.endswith("recovery.password"):
            raise KeyboardInterrupt
        return real(path, data, mode=mode)

    monkeypatch.setattr(durable, "write_durable_if_absent", stop_at_the_password)
    assert main(["init"]) == 130
    assert sorted(os.listdir(tmp_path)) == ["fleet.secret"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    secret = (tmp_path / "fleet.secret").read_bytes()
    assert main(["init"]) == 0
    assert (tmp_path / "fleet.secret").read_bytes() == secret


def test_a_source_that_holds_the_site_excludes_it(tmp_path: Path) -> None:
    """A backup of a home directory does not back up the backups in it."""
    assert main(["init", "--source", ".", "--site", "my [backups]"]) == 0
    source = next(iter(Fleet.load("holdfast.yaml").sources.values()))
    assert source.excludes == ("/my\\ \\[backups\\]/", "/.holdfast/")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--source", "absent"], 2, "does not exist"),
        (["--source", "site/in", "--site", "site"], 2, "a backup would back itself up"),
        (["--site", "ftp://x/y"], 10, "sites.main.url: "),
        (["--site", "not/there"], 1, "can't make the site's directory"),
        (["file/below"], 1, "can't write to"),
    ],
)
def test_what_can_not_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    """Before a configuration stands there that would not work."""
    (tmp_path / "site/in").mkdir(parents=True)
    (tmp_path / "file").touch()
    assert main(["init", *arguments]) == code
    assert said in capsys.readouterr().err


def test_names_of_sources_are_made_from_their_paths(tmp_path: Path) -> None:
    """Two folders of one name become two sources."""
    folders = ("a/Data Files", "b/data-files", "c/ä")
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    options = [text for name in (*folders, "/") for text in ("--source", name)]
    assert main(["init", "--site", "s3:https://h/b", *options]) == 0
    assert list(Fleet.load("holdfast.yaml").sources) == ["data-files", "data-files-2", "root", "root-2"]


def test_json_lists_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a program that sets up a machine."""
    assert main(["init", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["written"] == [str(tmp_path / name) for name in ("fleet.secret", "recovery.password", "holdfast.yaml")]
