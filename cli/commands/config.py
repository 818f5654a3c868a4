"""`holdfast config`: whether the configuration is right, and what it amounts to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from shared.errors import EXIT_OK

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.problems import ConfigInvalid


@click.group(
    epilog="""\b
Examples:
  holdfast config check
  holdfast config check /etc/holdfast/new.yaml
  holdfast config show --source db/orders""",
)
@global_options
def command() -> None:
    """Check the configuration, or show what it amounts to."""


@command.command(
    "check",
    epilog="""\b
Examples:
  holdfast config check
  holdfast config check /etc/holdfast/new.yaml && mv /etc/holdfast/new.yaml /etc/holdfast/holdfast.yaml
  holdfast config check --json""",
)
@click.argument("file", required=False)
@global_options
@pass_app
def check(app: App, file: str | None) -> int:
    """List all that is wrong with the configuration, or with FILE (or a directory of files).

    Exit code 10: something is wrong. Warnings are about what is valid and may not be what was meant, or is not
    done by this release; they change no exit code.
    """
    from cli.effective import warnings
    from shared.config.fleet import Fleet
    from shared.config.problems import ConfigInvalid

    path = file or app.config_path
    try:
        fleet = Fleet.load(path)
    except ConfigInvalid as error:
        _report_problems(app, error)
        return error.exit_code
    listed = list(warnings(fleet))
    for line in listed:
        app.warn(line)
    data = {"ok": True, "files": list(fleet.files), **_counts(fleet), "problems": [], "warnings": listed}
    parts = [show.count(number, one, many) for one, many, number in _parts(fleet)]
    read = f" (with {show.count(len(fleet.files) - 1, 'more file')})" if len(fleet.files) > 1 else ""
    said = f"; {show.count(len(listed), 'warning')}" if listed else ""
    app.result(data, f"{path}{read} is right: {', '.join(parts)}{said}")
    return EXIT_OK


def _report_problems(app: App, error: ConfigInvalid) -> None:
    from shared.config.problems import dotted

    problems = [
        {"file": one.file or error.file, "line": one.line or None, "key": dotted(one.path), "reason": one.reason}
        for one in error.problems
    ]
    lines = [one.render(error.file) for one in error.problems]
    data = {"ok": False, "problems": problems, "warnings": []}
    app.result(data, *lines, f"{error.file} is wrong: {show.count(len(lines), 'problem')}")


def _parts(fleet: Fleet) -> list[tuple[str, str, int]]:
    return [
        ("site", "sites", len(fleet.sites)),
        ("policy", "policies", len(fleet.policies)),
        ("source", "sources", len(fleet.sources)),
    ]


def _counts(fleet: Fleet) -> dict[str, int]:
    return {many: number for _, many, number in _parts(fleet)}


@command.command(
    "show",
    epilog="""\b
Examples:
  holdfast config show
  holdfast config show --source db/orders
  holdfast config show --json""",
)
@click.option("--source", metavar="SOURCE", help="This source alone.")
@global_options
@pass_app
def show_effective(app: App, source: str | None) -> None:
    """Show what the configuration amounts to.

    Defaults are filled in, and each source says which policy it follows and why. Of secrets it shows where they
    are, and never what they are.
    """
    from cli.effective import effective, effective_source

    data: dict[str, Any]
    data = {"sources": {source: effective_source(app.fleet, source)}} if source else effective(app.fleet)
    app.result(data, *([] if app.json else _yaml(data)))


def _yaml(data: dict[str, Any]) -> list[str]:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000).splitlines()
