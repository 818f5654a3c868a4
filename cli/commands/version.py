"""`holdfast version`: which Holdfast this is, and with what it runs."""

from __future__ import annotations

import os
import platform

import click

from cli.app import App, global_options, pass_app

_LIBRARIES = ("celery", "cryptography", "minio", "pydantic", "redis", "zstandard")


def holdfast_version() -> str:
    """The version of the installed package; in a checkout that is not installed, that of its pyproject.toml."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("holdfast")
    except PackageNotFoundError:
        import tomllib

        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        with open(os.path.join(root, "pyproject.toml"), "rb") as file:
            return str(tomllib.load(file)["project"]["version"])


@click.command(
    epilog="""\b
Examples:
  holdfast version
  holdfast version --json""",
)
@global_options
@pass_app
def command(app: App) -> None:
    """Show which Holdfast this is.

    With --json also the libraries that it runs with, for a report of a bug.
    """
    from importlib.metadata import PackageNotFoundError, version

    own = holdfast_version()
    libraries: dict[str, str | None] = {}
    if app.json:
        for name in _LIBRARIES:
            try:
                libraries[name] = version(name)
            except PackageNotFoundError:
                libraries[name] = None
    data = {
        "version": own,
        "repository_format": 2,
        "python": platform.python_version(),
        "system": platform.platform(),
        "libraries": libraries,
    }
    app.result(data, f"holdfast {own} (restic format 2, Python {platform.python_version()})")
