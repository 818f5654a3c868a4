"""`holdfast completion`, and the answers that a shell gets at a TAB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import COMMANDS, COMPLETE_VARIABLE, main
from tests.support import forked
from tests.support.command import ROOT, environment

CONFIG = (
    "secret: {file: s}\nrecovery_password: {file: r}\nsites: {a: {url: ./a}}\n"
    "sources: {web1: {paths: /a}, web2: {paths: /b}, db/orders: {paths: /c}}\n"
)


def asked(folder: Path, *words: str) -> list[str]:
    """What bash is offered after these words, the last of which is not finished."""
    done = forked.run(
        [sys.executable, "-m", "cli.main"],
        cwd=folder,
        env={
            **environment(),
            COMPLETE_VARIABLE: "bash_complete",
            "COMP_WORDS": " ".join(["holdfast", *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_choices_are_completed(tmp_path: Path) -> None:
    """Those of the installed release, without a configuration."""
    assert asked(tmp_path, "") == list(COMMANDS)
    assert asked(tmp_path, "snap") == ["snapshots"]
    assert asked(tmp_path, "config", "") == ["check", "show"]
    assert asked(tmp_path, "keys", "--pass") == ["--password-file"]
    assert asked(tmp_path, "keys", "web1", "re") == ["remove"]
    assert asked(tmp_path, "snapshots", "w") == []


def test_sources_are_completed(tmp_path: Path) -> None:
    """From the configuration that would be used; once one stands there, no other; none where it is wrong."""
    (tmp_path / "holdfast.yaml").write_text(CONFIG)
    assert asked(tmp_path, "snapshots", "") == ["web1", "web2", "db/orders"]
    assert asked(tmp_path, "snapshots", "w") == ["web1", "web2"]
    assert asked(tmp_path, "restic", "web1", "") == []
    (tmp_path / "other.yaml").write_text(CONFIG.replace("web", "www"))
    assert asked(tmp_path, "-c", "other.yaml", "snapshots", "w") == ["www1", "www2"]
    (tmp_path / "holdfast.yaml").write_text("sources: 7\n")
    assert asked(tmp_path, "snapshots", "w") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It asks the program that is installed, by the variable that it answers to."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"{COMPLETE_VARIABLE}={shell}_complete" in script
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shell": shell, "script": script.removesuffix("\n")}


def test_bash_takes_the_script(tmp_path: Path) -> None:
    """In a real bash: sourced, it completes through the program."""
    script = subprocess.run(
        [sys.executable, "-m", "cli.main", "completion", "bash"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "holdfast").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m cli.main "$@"\n')
    (tmp_path / "holdfast").chmod(0o755)
    asking = f"{script}\nCOMP_WORDS=(holdfast rest); COMP_CWORD=1; _holdfast_completion {tmp_path}/holdfast"
    asking += "; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", asking], env=environment(), capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["restic", "restore", "restore-test"]


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With the three that there are."""
    assert main(["completion", "tcsh"]) == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err
