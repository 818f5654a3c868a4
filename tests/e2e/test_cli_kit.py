"""`holdfast kit`: from a fleet to a kit, and from a bare directory with a kit and one site to restored files."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from cli.status.judge import Level
from cli.status.kit import kit_line, kit_problems
from shared.config.fleet import Fleet
from shared.kit import age, folder
from shared.kit.record import LastKit, last
from shared.storage import durable
from tests.support.command import environment, open_shop
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
def made(tmp_path_factory: pytest.TempPathFactory, minio_server: MinioServer) -> Made:
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
    return Made(base / "fleet.hfk", sorted((base / "parts").iterdir()), said, before, sources)


def run(place: Path, *arguments: str) -> str:
    """A command as a process, on a bare machine: nothing of the fleet's is in its environment."""
    process = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=place,
        env={**environment(), "HOLDFAST_KIT_PASSWORD": PASSWORD},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare directory to be in, for commands in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    monkeypatch.setenv("HOLDFAST_KIT_PASSWORD", PASSWORD)
    return tmp_path


Say = Callable[..., str]


@pytest.fixture
def say(here: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command in this process, and what it said."""

    def run_here(*arguments: str, code: int = 0) -> str:
        assert main(arguments) == code
        said = capsys.readouterr()
        return said.out + said.err

    return run_here


def tell(figure: str) -> None:
    """A figure for who runs this with -s."""
    sys.stdout.write(f"{figure}\n")


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
    tell(f"kit open: {time.monotonic() - began:.1f} s")
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
    tell(f"restore of both sources: {time.monotonic() - began:.1f} s")
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
    tell(f"the same by restic {version}: {time.monotonic() - began:.1f} s")


def test_any_two_parts_show_and_open_it_and_no_secret_is_shown(made: Made, here: Path, say: Say) -> None:
    """Of when, of which fleet, what is in it."""
    said = json.loads(say("kit", "show", *map(str, made.parts[1:]), "--json"))
    assert said == {key: value for key, value in made.said.items() if key in said}
    assert [one["source"] for one in said["sources"]] == ["more", "data"]
    say("kit", "open", *map(str, made.parts[::2]), "--to", "x")
    secrets = [(here / "x/secrets" / name).read_text().strip() for name in ("secret", "recovery_password")]
    shown = say("kit", "show", *map(str, made.parts[:2]))
    assert [secret for secret in secrets if secret in shown] == []


def test_what_has_changed_is_told_and_status_knows(made: Made, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the opened configuration nothing has; then something has, and `check` says what."""
    parts = [str(one) for one in made.parts[:2]]
    say("kit", "open", *parts, "--to", "x")
    monkeypatch.chdir("x")
    assert last(Fleet.load("holdfast.yaml")) == LastKit()
    assert "is right: nothing has changed since" in say("kit", "check", *parts)
    known = last(Fleet.load("holdfast.yaml"))
    assert (known.made > 0, known.changed, list(kit_problems(known, known.made))) == (True, (), [])
    (old,) = kit_problems(known, known.made + 91 * 86400)
    assert old.text == "the recovery kit is 91d 0h old"
    with open("holdfast.yaml", "a", encoding="utf-8") as file:
        file.write("prune: {grace: 3d}\n")
    said = json.loads(say("kit", "check", *parts, "--json", code=3))
    assert (said["right"], said["changes"]) == (False, [{"what": "prune", "how": "new"}])
    now = last(Fleet.load("holdfast.yaml"))
    (problem,) = kit_problems(now, now.made)
    assert (problem.level, "is outdated: holdfast.yaml changed since" in problem.text) == (Level.WARNING, True)
    assert (kit_line(LastKit(), 0.0), kit_line(now, now.made)) == (
        "KIT       none was made here: holdfast kit make FILE",
        "KIT       0.0 s ago, outdated",
    )


def test_wrong_words_and_wrong_files_are_told(
    made: Made, here: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by its code, and nothing is written."""
    one, kit = made.parts[0], "kit"
    sealed = age.seal(bytes(1000), PASSWORD, work=10)
    (here / kit).write_bytes(sealed)
    (here / "half").write_bytes(sealed[:-40])
    (here / "text").write_text("hello, this is a text of mine")
    (here / "full").mkdir()
    (here / "full" / "file").write_text("mine")
    (here / "wrong").write_text("wrong password")
    for arguments, code, said in (
        ([kit, "--password-file", "wrong"], 91, "the password does not open"),
        (["half"], 92, "its content does not verify"),
        ([kit], 92, "opens, and holds no kit"),
        (["text"], 92, "text is no recovery kit"),
        (["none"], 2, "can't read the kit none"),
        ([str(one)], 94, "2 different parts of 3 open this kit, and there are 1"),
        ([str(one), kit], 2, "is no part of a kit"),
        ([kit, "half"], 2, "one file is opened at a time"),
        ([kit, "--to", "full"], 2, "is not empty"),
    ):
        assert said in say("kit", "open", "--to", "x", *arguments, code=code)
    monkeypatch.delenv("HOLDFAST_KIT_PASSWORD")
    assert "there is no terminal to ask on" in say("kit", "show", kit, code=2)
    assert sorted(entry.name for entry in here.iterdir()) == ["full", "half", "kit", "text", "wrong"]


def test_a_kit_is_made_whole_or_not_at_all(here: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lacks is told; no file but a kit is replaced; a weak password is refused; stopped, the old one stays."""
    monkeypatch.setattr("shared.kit.age.CHOSEN", 10)
    assert main(["init"]) == 0
    (here / "weak").write_text("short")
    (here / "letter").write_text("dear friend")
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
        assert said in say("kit", "make", *arguments, code=code)
    assert main(["kit", "make", "k", "--split", "2/3", "parts", "--dry-run"]) == 0
    assert not (here / "k").exists()
    assert main(["kit", "make", "k", "--recovery-password"]) == 0
    old = (here / "k").read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(durable.DurableFile, "publish", interrupted)
        assert main(["kit", "make", "k"]) == 130
    with monkeypatch.context() as patched:
        patched.setattr(folder, "write_durable", interrupted)
        assert main(["kit", "make", "--split", "2/3", "parts"]) == 130
    assert ((here / "k").read_bytes(), (here / "parts").exists()) == (old, False)
    assert [name for name in os.listdir(here) if durable.is_temporary(name)] == []
    (here / "fleet.secret").unlink()
    assert "the kit is not made: the secret: can't read" in say("kit", "make", "k", code=90)
    assert (here / "k").read_bytes() == old
    assert main(["kit", "make", "k", "--without", "secret"]) == 0
    assert (here / "k").read_bytes() != old
