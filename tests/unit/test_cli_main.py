"""The command's frame: help, options, errors, exit codes, start-up. cli.main, cli.app."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli import main as frame
from cli.app import App
from shared.errors import ConfigError, Interrupted
from tests.support import forked

ROOT = Path(__file__).parents[2]
HEAVY = {"celery", "redis", "kombu", "rich", "minio", "prometheus_client", "structlog", "cryptography"}


def run(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None, code: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; `code` runs first, in the same process."""
    script = f"import sys; {code}\nfrom cli.main import main\nsys.exit(main())"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    command = [sys.executable, "-c", script] if code else [sys.executable, "-m", "cli.main"]
    return forked.run(
        [*command, *arguments],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(cwd), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def imported_by(tmp_path: Path, *arguments: str) -> set[str]:
    """The top-level modules in a process that ran this command."""
    code = "import atexit; atexit.register(lambda: print('MODULES', *{n.split('.')[0] for n in sys.modules}))"
    done = run(*arguments, cwd=tmp_path, code=code)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """What `--help` does not need does not delay it; not even the configuration's models."""
    assert imported_by(tmp_path, "--help") & (HEAVY | {"pydantic", "yaml", "orjson", "zstandard"}) == set()


def test_version_imports_nothing_heavy(tmp_path: Path) -> None:
    """The same for `version`."""
    assert imported_by(tmp_path, "version") & (HEAVY | {"pydantic", "yaml"}) == set()


def test_a_command_that_reads_the_configuration_imports_no_celery(tmp_path: Path) -> None:
    """`init` checks what it writes with the models, and needs neither broker nor terminal library."""
    assert imported_by(tmp_path, "init") & HEAVY == set()


def test_commands_import_nothing_heavy_until_they_run() -> None:
    """Every command's module is thin: its engine is imported inside."""
    code = (
        "import importlib, sys\n"
        "from cli.main import COMMANDS\n"
        "for name in COMMANDS: importlib.import_module('cli.commands.' + name.replace('-', '_'))\n"
        f"print(*{HEAVY | {'pydantic', 'workers'}!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", list(frame.COMMANDS))
def test_every_command_has_help_with_examples(name: str) -> None:
    """Each shows how it is used, takes the global options, and its line in the overview is its own first line."""
    done = CliRunner().invoke(frame.holdfast, [name, "--help"])
    command = importlib.import_module(f"cli.commands.{name.replace('-', '_')}").command
    assert done.exit_code == 0
    assert f"holdfast {name}" in done.output.partition("Examples:")[2] or name == "up"
    assert [one for one in ("--json", "--config", "--quiet", "--no-color") if one not in done.output] == []
    assert frame.COMMANDS[name].split()[0] == command.help.split()[0]


def test_every_module_of_a_command_is_listed() -> None:
    """One module per command, and none that cannot be reached."""
    modules = {path.stem.replace("_", "-") for path in (ROOT / "cli/commands").glob("[!_]*.py")}
    assert modules == set(frame.COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the finger costs one look."""
    assert frame.main(["bakcup"]) == 2
    said = 'error: There is no command "bakcup". Did you mean "backup"?\nhint: See `holdfast --help`\n'
    assert capsys.readouterr().err == said


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """With the command whose help would tell."""
    assert frame.main(["backup", "web1", "--ful"]) == 2
    assert "hint: See `holdfast backup --help`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("the file is wrong", hint="Mend it"), 10, "error: the file is wrong\nhint: Mend it\n"),
        (Interrupted("stopped"), 130, "error: stopped\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (click.Abort(), 130, "error: interrupted\n"),
    ],
)
def test_an_error_is_one_clear_line_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    """Without a trace; the exit code is that of the class."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(frame.holdfast, "invoke", fail)
    assert (frame.main(["version"]), capsys.readouterr().err) == (code, said)


def test_an_error_with_json_is_json(tmp_path: Path) -> None:
    """On stderr, so that stdout holds results only."""
    done = run("snapshots", "web1", "--json", cwd=tmp_path)
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, done.stdout, error["type"], error["exit_code"]) == (10, "", "ConfigError", 10)
    assert error["hint"].startswith("`holdfast init` writes one")


def test_what_nobody_expected_is_one_line_and_a_trace_in_a_file(tmp_path: Path) -> None:
    """A person is not shown a trace, and nothing of it is lost."""
    broken = "import cli.app; cli.app.App.config_path = property(lambda self: 1 / 0)"
    done = run("snapshots", "web1", cwd=tmp_path, code=broken)
    (trace,) = tmp_path.glob("holdfast-*.trace")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: unexpected ZeroDivisionError: division by zero"
    assert str(trace) in done.stderr
    assert "Traceback" not in done.stderr
    assert "ZeroDivisionError" in trace.read_text()
    assert trace.stat().st_mode & 0o777 == 0o600


def test_debugging_shows_the_trace(tmp_path: Path) -> None:
    """HOLDFAST_DEBUG=1 is for whoever mends it."""
    broken = "import cli.app; cli.app.App.config_path = property(lambda self: 1 / 0)"
    done = run("snapshots", "web1", cwd=tmp_path, code=broken, environment={"HOLDFAST_DEBUG": "1"})
    assert (done.returncode, "Traceback" in done.stderr) == (1, True)


def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path: Path) -> None:
    """Cleanly, with the exit code of an interruption and no trace."""
    slow = (
        "import cli.app, os, signal, time; "
        "cli.app.App.config_path = property(lambda self: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(20)))"
    )
    done = run("snapshots", "web1", cwd=tmp_path, code=slow)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`holdfast ... | head` ends quietly."""
    script = "import sys\nfrom cli.main import main\nsys.exit(main())"
    reading, writing = os.pipe()
    os.close(reading)  # before the command starts: it must not be the quicker one
    done = subprocess.run(
        [sys.executable, "-c", script, "version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_configuration_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, then $HOLDFAST_CONFIG, then ./holdfast.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    (tmp_path / "holdfast.yaml").touch()
    got = [App().config_path]
    monkeypatch.setenv("HOLDFAST_CONFIG", "/from/variable")
    got += [App().config_path, App(config="/from/option").config_path]
    assert got == ["holdfast.yaml", "/from/variable", "/from/option"]


def test_global_options_stand_before_or_after_the_command(tmp_path: Path) -> None:
    """Nobody has to remember which."""
    got = [run(*order, cwd=tmp_path).stdout for order in (("--json", "version"), ("version", "--json"))]
    assert [json.loads(text)["repository_format"] for text in got] == [2, 2]
