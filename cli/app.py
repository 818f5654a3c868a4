"""What every command shares: the global options, the configuration, and where output goes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import click

from cli.terminal import echo, shown_json
from shared.errors import ConfigError, HoldfastError

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

Command = TypeVar("Command", bound=Callable[..., object])

CONFIG_VARIABLE = "HOLDFAST_CONFIG"
CONFIG_PLACES = ("holdfast.yaml", "/etc/holdfast/holdfast.yaml")


class RunFailed(HoldfastError):
    """A run that a worker did has failed: the message is the worker's, and so is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code or self.exit_code


@dataclass
class App:
    """One invocation. Global options may stand before the command or after it; the later one counts."""

    config: str = ""
    json: bool = False
    quiet: bool = False
    color: bool = field(default_factory=lambda: "NO_COLOR" not in os.environ)

    @cached_property
    def config_path(self) -> str:
        """The configuration file: --config, $HOLDFAST_CONFIG, ./holdfast.yaml, /etc/holdfast/holdfast.yaml.

        Raises ConfigError where there is none.
        """
        named = self.config or os.environ.get(CONFIG_VARIABLE, "")
        if named:
            return named
        for place in CONFIG_PLACES:
            if os.path.exists(place):
                return place
        raise ConfigError(
            f"there is no configuration: looked for ./{CONFIG_PLACES[0]} and {CONFIG_PLACES[1]}",
            hint=f"`holdfast init` writes one; --config or ${CONFIG_VARIABLE} names another",
        )

    @cached_property
    def fleet(self) -> Fleet:
        """The configuration, loaded when a command first asks. Raises ConfigError."""
        from shared.config.fleet import Fleet  # pydantic is half of a command's start

        return Fleet.load(self.config_path)

    @property
    def is_interactive(self) -> bool:
        """Whether a person watches: progress bars and questions go to terminals only."""
        return not self.json and not self.quiet and sys.stderr.isatty()

    def say(self, line: str = "") -> None:
        """A line for people, on stdout; nothing with --json or --quiet."""
        if not self.json and not self.quiet:
            echo(line, color=None if self.color else False)

    def result(self, data: object, *lines: str) -> None:
        """What a command found: `data` as JSON with --json, else the lines. Shown with --quiet too."""
        if self.json:
            click.echo(shown_json(json.dumps(data, ensure_ascii=False, indent=2, default=str)))
        else:
            for line in lines:
                echo(line, color=None if self.color else False)

    def warn(self, line: str) -> None:
        """Something a person should know, on stderr."""
        if not self.json:
            echo(f"warning: {line}", err=True, color=None if self.color else False)


def app_of(context: click.Context) -> App:
    """The invocation's App."""
    return context.ensure_object(App)


pass_app = click.make_pass_decorator(App, ensure=True)


def _set(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value not in (None, False):
        name = str(parameter.name)
        setattr(app_of(context), "color" if name == "no_color" else name, False if name == "no_color" else value)


def global_options(command: Command) -> Command:
    """Give a command the global options; they end up in the App."""
    for option in (
        click.option("--no-color", is_flag=True, expose_value=False, callback=_set, help="Never use colour."),
        click.option("--quiet", "-q", is_flag=True, expose_value=False, callback=_set, help="Only results and errors."),
        click.option("--json", is_flag=True, expose_value=False, callback=_set, help="Results and errors as JSON."),
        click.option(
            "--config",
            "-c",
            metavar="PATH",
            expose_value=False,
            callback=_set,
            help=f"The configuration (else ${CONFIG_VARIABLE}, ./{CONFIG_PLACES[0]}, {CONFIG_PLACES[1]}).",
        ),
    ):
        command = option(command)
    return command
