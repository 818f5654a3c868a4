"""`holdfast kit`: from a fleet to a kit, and from a bare directory with a kit and one site to restored files."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from shared.kit import folder
from shared.storage import durable
from tests.support.command import Shop, environment, open_shop
from tests.support.stores import make_bucket
from tests.support.tools import MinioServer, restic

PASSWORD = "a password of some length"


@dataclass(frozen=True, slots=True)
class Made:
    """A kit of a fleet that is gone, but for its sites; what the sources held; how long it took."""

    kit: Path
    parts: list[Path]
    said: dict[str, Any]
    before: dict[str, bytes]
    sources: dict[str, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, minio_server: MinioServer) -> Iterator[Made]:
    """Source `data` at a directory, `more` at MinIO; both backed up, a kit made, and all lost but the sites."""
    base = tmp_path_factory.mktemp("kit")
    shop = open_shop(base)
    bucket = make_bucket(minio_server)
    other = base / "more"
    other.mkdir()
    (other / "it's one").write_text("more\n")
    (shop.conf / "minio.keys").write_text(
        f"access_key = {minio_server.access_key}\nsecret_key = {minio_server.secret_key}\n"
    )
    path = shop.conf / "holdfast.yaml"
    site = f"  s3: {{url: 's3:{minio_server.url}/{bucket}/below', credentials: {{file: minio.keys}}}}\n"
    policy = '  s3: {select: "at=s3", primary: s3, full: 1d}\n'
    text = (
        path.read_text().replace("sites:  ", f"sites:\n{site}#", 1).replace("policies:  ", f"policies:\n{policy}#", 1)
    )
    path.write_text(text.replace("  data:\n", f"  more: {{paths: ['{other}'], labels: {{at: s3}}}}\n  data:\n", 1))
    for source in ("data", "more"):
        shop.run("backup", source, "--direct")
    (shop.conf / "pw").write_text(PASSWORD + "\n")
    said = shop.ask("kit", "make", "../fleet.hfk", "--password-file", "pw", "--split", "2/3", "../parts")
    sources = {"data": shop.data, "more": other}
    before = {str(one): one.read_bytes() for place in sources.values() for one in place.rglob("*") if one.is_file()}
    (shop.conf / "backups").rename(base / "backups")
    for place in (shop.conf, *sources.values()):
        shutil.rmtree(place)
    shop.conf.mkdir()
    (base / "backups").rename(shop.conf / "backups")
    yield Made(base / "fleet.hfk", sorted((base / "parts").iterdir()), said, before, sources)


def run(place: Path, *arguments: str, code: int = 0, password: str = PASSWORD) -> str:
    """A command, on a bare machine: nothing of the fleet's is in its environment."""
    shop = Shop(place.parent)
    process = subprocess.run(
        [*shop_command(), *arguments],
        cwd=place,
        env={**environment(), "HOLDFAST_KIT_PASSWORD": password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (process.returncode, shop.base) == (code, place.parent), process.stdout + process.stderr
    return process.stdout + process.stderr


def shop_command() -> list[str]:
    """The command's beginning."""
    import sys

    return [sys.executable, "-m", "cli.main"]


def files_below(place: Path) -> dict[str, bytes]:
    """What was restored, by the paths that it had."""
    return {f"/{one.relative_to(place)}": one.read_bytes() for one in place.rglob("*") if one.is_file()}


@pytest.fixture(scope="module")
def opened(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit, opened in a fresh directory."""
    place = tmp_path_factory.mktemp("bare") / "here"
    place.mkdir()
    began = time.monotonic()
    run(place, "kit", "open", str(made.kit), "--to", "fleet")
    print(f"kit open: {time.monotonic() - began:.1f} s")
    return place / "fleet"


def test_what_is_opened_is_for_its_owner_alone(made: Made, opened: Path) -> None:
    """Each file 0600, each directory 0700, and nothing else beside them."""
    found = [opened, *opened.rglob("*")]
    assert {stat.S_IMODE(one.stat().st_mode) for one in found if one.is_dir()} == {0o700}
    assert {stat.S_IMODE(one.stat().st_mode) for one in [made.kit, *made.parts, *found] if one.is_file()} == {0o600}
    assert [one.name for one in opened.parent.iterdir()] == ["fleet"]


def test_holdfast_restores_with_nothing_but_the_kit(made: Made, opened: Path) -> None:
    """From a directory and from a bucket, with neither Redis nor what the fleet had."""
    began = time.monotonic()
    for source in made.sources:
        run(opened, "restore", source, "--direct", "--to", f"{opened.parent}/ours/{source}")
    print(f"restore of both sources: {time.monotonic() - began:.1f} s")
    got = [files_below(opened.parent / "ours" / source) for source in made.sources]
    assert got[0] | got[1] == made.before


@pytest.mark.parametrize("version", ["0.14", "0.18"])
def test_stock_restic_restores_by_the_text_of_the_kit(made: Made, opened: Path, version: str, tmp_path: Path) -> None:
    """Each command as it stands there, run by a shell that knows neither Holdfast nor the fleet."""
    text = (opened / "INSTRUCTIONS.md").read_text()
    site = dict(re.findall(r"^### Site (\w+)\n.*?```sh\n(.*?)```", text, re.MULTILINE | re.DOTALL))
    source = {}
    for section in text.partition("\n# Sources\n")[2].split("\n## ")[1:]:
        found = re.search(r"^At (\w+) \(primary\):\n\n```sh\n(.*?)```", section, re.MULTILINE | re.DOTALL)
        assert found is not None
        source[section.partition("\n")[0]] = (site[found[1]], found[2])
    assert set(source) == set(made.sources)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/restic").symlink_to(restic(version))
    clean = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    began = time.monotonic()
    for name, (env, block) in source.items():
        said = subprocess.run(
            ["sh", "-eu", "-c", env + block], cwd=opened, env=clean, capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stderr
        assert "1 snapshots" in said.stdout
        place = opened / "restored" / name
        wanted = {file: data for file, data in made.before.items() if file.startswith(f"{made.sources[name]}/")}
        assert files_below(place) == wanted
        shutil.rmtree(place)
    print(f"the same by restic {version}: {time.monotonic() - began:.1f} s")


def test_any_two_parts_show_and_open_it_and_no_secret_is_shown(made: Made, tmp_path: Path) -> None:
    """Of when, of which fleet, what is in it."""
    said = json.loads(run(tmp_path, "kit", "show", *map(str, made.parts[1:]), "--json"))
    assert said == {key: value for key, value in made.said.items() if key in said}
    assert [one["source"] for one in said["sources"]] == ["more", "data"]
    run(tmp_path, "kit", "open", *map(str, made.parts[::2]), "--to", "x")
    secrets = [(tmp_path / "x/secrets" / name).read_text().strip() for name in ("secret", "recovery_password")]
    shown = run(tmp_path, "kit", "show", *map(str, made.parts[:2]))
    assert [secret for secret in secrets if secret in shown] == []


def test_what_has_changed_is_told_and_status_knows(made: Made, tmp_path: Path) -> None:
    """On the opened configuration nothing has; with another source something has, and `check` says what."""
    parts = [str(one) for one in made.parts[:2]]
    run(tmp_path, "kit", "open", *parts, "--to", "x")
    place = tmp_path / "x"
    assert "is right: nothing has changed since" in run(place, "kit", "check", *parts)
    from shared.config.fleet import Fleet
    from shared.kit.record import last

    path = str(place / "holdfast.yaml")
    assert (last(Fleet.load(path)).made > 0, last(Fleet.load(path)).changed) == (True, ())
    with open(path, "a", encoding="utf-8") as file:
        file.write("prune: {grace: 3d}\n")
    said = json.loads(run(place, "kit", "check", *parts, "--json", code=3))
    assert (said["right"], said["changes"]) == (False, [{"what": "prune", "how": "new"}])
    assert last(Fleet.load(path)).changed == (path,)


def test_wrong_words_and_wrong_files_are_told(made: Made, tmp_path: Path) -> None:
    """Each by its code, and nothing is written."""
    kit, (one, _, _) = str(made.kit), made.parts
    (tmp_path / "half").write_bytes(made.kit.read_bytes()[:-40])
    (tmp_path / "text").write_text("hello, this is a text of mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for arguments, code, said in (
        ([kit], 91, "the password does not open"),
        (["text"], 92, "text is no recovery kit"),
        (["none"], 2, "can't read the kit none"),
        ([str(one)], 94, "2 different parts of 3 open this kit, and there are 1"),
        ([str(one), kit], 2, "is no part of a kit"),
        ([kit, "half"], 2, "one file is opened at a time"),
    ):
        assert said in run(tmp_path, "kit", "open", *arguments, "--to", "x", code=code, password="wrong password")
    assert "its content does not verify" in run(tmp_path, "kit", "open", "half", "--to", "x", code=92)
    assert "is not empty" in run(tmp_path, "kit", "open", kit, "--to", "full", code=2)
    assert "there is no terminal to ask on" in run(tmp_path, "kit", "show", kit, code=2, password="")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["full", "half", "text"]


def test_a_kit_is_made_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it lacks is told; no file but a kit is replaced; a weak password is refused; interrupted, the old one stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    monkeypatch.setenv("HOLDFAST_KIT_PASSWORD", PASSWORD)
    monkeypatch.setattr("shared.kit.age.CHOSEN", 10)
    assert main(["init"]) == 0
    (tmp_path / "weak").write_text("short")
    (tmp_path / "letter").write_text("dear friend")
    for arguments, code, said in (
        ([], 2, "no FILE for the kit"),
        (["letter"], 2, "letter exists, and is no kit"),
        (["k", "--password-file", "weak"], 2, "has fewer than 12 characters"),
        (["k", "--password-file", "none"], 2, "can't read the password file none"),
        (["k", "--password-file", "weak", "--recovery-password"], 2, "exclude each other"),
        (["--split", "1/3", "parts"], 2, "--split: expected such as 2/3"),
        (["--split", "2/3", "."], 2, "is not empty"),
        (["none/k"], 90, "can't write the kit none/k"),
    ):
        assert main(["kit", "make", *arguments]) == code
        assert said in capsys.readouterr().err
    assert main(["kit", "make", "k", "--split", "2/3", "parts", "--dry-run"]) == 0
    assert not (tmp_path / "k").exists()
    assert main(["kit", "make", "k", "--recovery-password"]) == 0
    old = (tmp_path / "k").read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(durable.DurableFile, "publish", interrupted)
        assert main(["kit", "make", "k"]) == 130
    with monkeypatch.context() as patched:
        patched.setattr(folder, "write_durable", interrupted)
        assert main(["kit", "make", "--split", "2/3", "parts"]) == 130
    assert ((tmp_path / "k").read_bytes(), (tmp_path / "parts").exists()) == (old, False)
    assert [name for name in os.listdir(tmp_path) if durable.is_temporary(name)] == []
    (tmp_path / "fleet.secret").unlink()
    assert main(["kit", "make", "k"]) == 90
    assert "the kit is not made: the secret: can't read" in capsys.readouterr().err
    assert (tmp_path / "k").read_bytes() == old
    assert main(["kit", "make", "k", "--without", "secret"]) == 0
    assert (tmp_path / "k").read_bytes() != old
