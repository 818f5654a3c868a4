"""`holdfast version`: which Holdfast this is, and with what it runs."""

from __future__ import annotations

import platform

import click

from cli.app import App, global_options, pass_app
from shared.version import VERSION

_LIBRARIES = ("celery", "cryptography", "minio", "pydantic", "redis", "zstandard")


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
    libraries: dict[str, str | None] = {}
    if app.json:
        from importlib.metadata import PackageNotFoundError, version

        for name in _LIBRARIES:
            try:
                libraries[name] = version(name)
            except PackageNotFoundError:
                libraries[name] = None
    data = {
        "version": VERSION,
        "repository_format": 2,
        "python": platform.python_version(),
        "system": platform.platform(),
        "libraries": libraries,
    }
    app.result(data, f"holdfast {VERSION} (restic format 2, Python {platform.python_version()})")
