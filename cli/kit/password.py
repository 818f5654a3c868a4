"""The password of a kit: a new one that is shown once, or the one that somebody gives."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from cli.app import App
from cli.passwords import LEAST_LENGTH, password_in, strong_password
from shared.errors import UsageError
from shared.kit import age

VARIABLE = "HOLDFAST_KIT_PASSWORD"


def new_password(app: App, file: str | None, *, recovery: Callable[[], str] | None) -> tuple[str, int, bool]:
    """A password, how hard it is to be to try one (log2 N), and whether it was made now. Raises UsageError."""
    if recovery is not None:
        if file:
            raise UsageError("--password-file and --recovery-password exclude each other")
        password, where = recovery(), "the recovery password"
    elif file:
        password, where = password_in(file), f"in {file}"
    elif given := os.environ.get(VARIABLE):
        password, where = given, f"in ${VARIABLE}"
    elif app.is_interactive:
        return strong_password(), age.STRONG, True
    else:
        raise UsageError(
            "the kit needs a password, and there is no terminal to show a new one on",
            hint=f"Name a file with --password-file, set ${VARIABLE}, or take --recovery-password",
        )
    if len(password) < LEAST_LENGTH:
        raise UsageError(f"the kit's password ({where}) has fewer than {LEAST_LENGTH} characters: it could be guessed")
    return password, age.CHOSEN, False


def known_password(app: App, file: str | None, kit: str) -> str:
    """The password of a kit that is there. Raises UsageError."""
    if file:
        return password_in(file)
    if given := os.environ.get(VARIABLE):
        return given
    if app.is_interactive and os.isatty(0):
        answer: str = click.prompt(f"Password of {kit}", hide_input=True, err=True)
        return answer.strip()
    raise UsageError(
        "the kit's password is needed, and there is no terminal to ask on",
        hint=f"Name a file with --password-file, or set ${VARIABLE}",
    )
