"""`holdfast restic`: stock restic with what the configuration says, and without what deletes or rewrites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands.restic import ALLOWED, REFUSED
from cli.main import main
from tests.support import forked
from tests.support.command import Shop, environment, open_shop
from tests.support.stores import write_certificates
from tests.support.tools import MinioServer, restic

# Stands in for restic: tells what it was given, as it was given.
FAKE = f"""\
#!{sys.executable}
import json, os, sys
password = open(os.environ["RESTIC_PASSWORD_FILE"]).read()
print(json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ), "password": password,
    "cmdline": open("/proc/self/cmdline").read(), "environ": open("/proc/self/environ").read()}}))
sys.exit(int(os.environ.get("FAKE_CODE", "0")))
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with one backup, and a stand-in for restic."""
    shop = open_shop(tmp_path)
    shop.run("backup", "data", "--direct")
    (shop.conf / "fake").write_text(FAKE)
    (shop.conf / "fake").chmod(0o755)
    return shop


@pytest.mark.parametrize("version", ["0.14", "0.18"])
def test_stock_restic_reads_the_repository(shop: Shop, version: str) -> None:
    """Snapshots as JSON, a restore and a check, by one word more than restic itself takes."""
    program = ("--restic", restic(version), "--")
    (snapshot,) = json.loads(shop.run("restic", "data", *program, "snapshots", "--json"))
    assert (snapshot["id"], snapshot["paths"]) == (
        shop.ask("snapshots", "data")["snapshots"][0]["id"],
        [str(shop.data)],
    )
    shop.run("restic", "data", *program, "restore", "latest", "--target", "out")
    assert (Path(f"{shop.conf}/out{shop.data}") / "sub/file-3.txt").read_bytes() == (
        shop.data / "sub/file-3.txt"
    ).read_bytes()
    assert "no errors were found" in shop.run("restic", "data", *program, "check")


def test_its_exit_code_is_passed_on(shop: Shop) -> None:
    """Restic's own, for what it refuses; and any other."""
    said = shop.run("restic", "data", "--restic", restic("0.18"), "--", "ls", "0123abcd", code=1)
    assert "no matching ID" in said
    done = forked.run(
        [sys.executable, "-m", "cli.main", "restic", "data", "--restic", "./fake", "--", "stats"],
        cwd=shop.conf,
        env={**environment(), "FAKE_CODE": "77"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 77


def test_the_password_is_in_no_argument_and_no_environment(shop: Shop) -> None:
    """It comes by a pipe; what else the environment says of other repositories and accounts does not get through."""
    foreign = {"RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY_FILE": "x", "AWS_PROFILE": "x", "HOLDFAST_NEW_PASSWORD": "x"}
    done = forked.run(
        [
            sys.executable,
            "-m",
            "cli.main",
            "restic",
            "data",
            "--restic",
            "./fake",
            "--",
            "mount",
            "/mnt",
            "--allow-other",
        ],
        cwd=shop.conf,
        env={**environment(), **foreign, "RESTIC_PROGRESS_FPS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    got = json.loads(done.stdout)
    password = got["password"].strip()
    assert len(password) == 64
    recovery = (shop.conf / "recovery.password").read_text().strip()
    assert [one in got["cmdline"] + got["environ"] for one in (password, recovery)] == [False, False]
    assert got["argv"] == ["mount", "/mnt", "--allow-other"]
    assert foreign.keys() & got["env"].keys() == set()
    assert {key: got["env"][key] for key in ("RESTIC_REPOSITORY", "RESTIC_CACHE_DIR", "RESTIC_PROGRESS_FPS")} == {
        "RESTIC_REPOSITORY": str(shop.conf / "backups/repos/data"),
        "RESTIC_CACHE_DIR": str(shop.conf / ".holdfast/cache/restic"),
        "RESTIC_PROGRESS_FPS": "1",
    }


def test_a_closed_pipe_ends_it_as_it_ends_any_program(shop: Shop) -> None:
    """SIGPIPE, which Python ignores, is not ignored by restic."""
    (shop.conf / "fake").write_text("#!/bin/sh\nexec grep SigIgn /proc/self/status\n")
    said = shop.run("restic", "data", "--restic", "./fake", "--", "snapshots")
    assert int(said.split()[1], 16) & (1 << 12) == 0


def test_a_bucket_behind_a_private_authority(tmp_path: Path) -> None:
    """Its credentials and ca_file reach restic, the former in its environment alone."""
    authority = write_certificates(str(tmp_path / "certs"))
    (tmp_path / "shop").mkdir()
    shop = open_shop(tmp_path / "shop")
    with MinioServer(str(tmp_path / "minio"), certs_dir=str(tmp_path / "certs")) as server:
        os.mkdir(tmp_path / "minio/bucket")
        (shop.conf / "keys").write_text(f"access_key = {server.access_key}\nsecret_key = {server.secret_key}\n")
        path = shop.conf / "holdfast.yaml"
        site = f'url: "s3:{server.url}/bucket/below"\n    credentials: {{file: keys}}\n    ca_file: {authority}'
        path.write_text(path.read_text().replace('url: "./backups"', site))
        shop.run("backup", "data", "--direct")
        (snapshot,) = json.loads(shop.run("restic", "data", "--restic", restic("0.18"), "--", "snapshots", "--json"))
        assert snapshot["paths"] == [str(shop.data)]
        (shop.conf / "fake").write_text(FAKE)
        (shop.conf / "fake").chmod(0o755)
        got = json.loads(shop.run("restic", "data", "--restic", "./fake", "--", "snapshots"))
        assert (server.secret_key in got["cmdline"], got["env"]["AWS_ACCESS_KEY_ID"]) == (False, server.access_key)
        assert got["argv"] == ["snapshots", "--cacert", authority]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_deletes_or_rewrites_is_refused(name: str, shop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with the way out, which names a command that there is."""
    assert main(["restic", "data", "--", name, "--help"]) == 2
    said = capsys.readouterr().err
    assert (f"`restic {name}` is not run" in said, "\nhint: " in said, "{source}" in said) == (True, True, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no command for restic"),
        (["--json", "forget"], "restic's command comes first, before --json"),
        (["frobnicate"], "not known as one that only looks"),
        (["snapshots", "--repo=/x"], "--repo is not taken"),
        (["snapshots", "-r", "/x"], "-r is not taken"),
        (["snapshots", "-qr/x"], "-qr/x is not taken"),
        (["snapshots", "--password-file", "x"], "--password-file is not taken"),
        (["ls", "--from-repo", "x"], "--from-repo is not taken"),
    ],
)
def test_what_would_be_another_repository_is_refused(
    arguments: list[str], said: str, shop_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a command that is not known, and options before it, behind which one could hide."""
    assert main(["restic", "data", "--", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def shop_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder: what is refused is refused before the configuration is looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    return tmp_path


def test_a_program_that_is_not_there(shop_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The way out names where to give it."""
    assert main(["restic", "data", "--restic", "./none", "--", "snapshots"]) == 1
    assert "there is no program ./none" in capsys.readouterr().err


def test_every_command_of_restics_is_decided_on() -> None:
    """Each that restic 0.18 lists is either allowed or refused with its reason, none is both, or known as unsafe."""
    listed = subprocess.run([restic("0.18"), "help"], capture_output=True, text=True, check=True).stdout
    names = set()
    for section in ("Available Commands:", "Advanced Options:"):
        for line in listed.partition(section)[2].splitlines()[1:]:
            if not line.startswith("  "):
                break
            names.add(line.split()[0])
    assert {"forget", "snapshots", "mount"} <= names
    assert names - ALLOWED - set(REFUSED) - {"generate", "self-update", "completion"} == set()
    assert ALLOWED & set(REFUSED) == set()
