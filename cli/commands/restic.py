"""`holdfast restic`: stock restic on a source's repository, for what only looks.

What deletes or rewrites is refused: stock restic knows no epoch, tombstone or grace, and a run of Holdfast's would find
its parent gone or its commit contradicted. What is allowed stands in a list, so that a command of a later restic is
refused until it is known.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import click

from cli.app import App, global_options, pass_app
from shared.errors import HoldfastError, UsageError

if TYPE_CHECKING:
    from shared.config.fleet import SiteAccess
    from shared.config.opening import Opened

ALLOWED = frozenset(
    {"cat", "check", "diff", "dump", "features", "find", "help", "list", "ls", "mount", "options", "restore"}
    | {"snapshots", "stats", "version"}
)
_LATER = "this release rewrites nothing; that is to come"
_LOOK = "`holdfast verify {source}` says what is wrong; a full backup stores again what is missing"
REFUSED = {
    "backup": "`holdfast backup {source}` does it",
    "cache": "restic's cache lies below cache_dir and may be deleted at any time",
    "copy": "it would write into this repository; to copy from it, run restic itself with the recovery password",
    "forget": "`holdfast forget {source}` does it, and leaves tombstones",
    "init": "a first `holdfast backup {source}` makes the repository",
    "key": "`holdfast keys {source}` does it, and leaves a tombstone",
    "migrate": _LATER,
    "prune": "`holdfast prune {source}` does it, and deletes nothing before its time",
    "rebuild-index": _LOOK,
    "recover": _LOOK,
    "repair": _LOOK,
    "rewrite": _LATER,
    "tag": _LATER,
    "unlock": "`holdfast unlock {source}` does it, by the store's clock",
}
# Given by Holdfast; another value would mean another repository.
_GIVEN = ("--repo", "--repository-file", "--password-file", "--password-command", "--insecure-no-password", "--from-")
_GIVEN_SHORT = re.compile(r"-[hlnqv]*[rp]")  # -r and -p, also behind flags in one word
_ABOUT_ITSELF = ("-h", "--help", "--version")
# Of our environment restic sees neither another repository's settings nor another account's keys.
_HIDDEN = ("AWS_", "HOLDFAST_", "RESTIC_PASSWORD", "RESTIC_REPOSITORY", "RESTIC_FROM_", "RESTIC_KEY_HINT")


@click.command(
    epilog="""\b
Examples:
  holdfast restic web1 -- snapshots --json
  holdfast restic web1 -- mount /mnt/web1
  holdfast restic web1 -- restore latest --target /srv/out
  holdfast restic web1 --site ams -- check --read-data-subset 5% --no-lock""",
)
@click.argument("source")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.option("--restic", "program", default="restic", metavar="PATH", help="The program (else restic from PATH).")
@click.option("--site", default="", metavar="SITE", help="The site to look at (else the primary).")
@global_options
@pass_app
def command(app: App, source: str, arguments: tuple[str, ...], program: str, site: str) -> None:
    """Run stock restic on the repository of SOURCE.

    It gets repository, password and credentials, none of them as an argument; its exit code is passed on. What
    deletes or rewrites is refused, with the command of Holdfast's that does it.
    """
    check_arguments(source, arguments)
    path = shutil.which(program)
    if path is None:
        raise HoldfastError(
            f"there is no program {program}", hint="Install restic 0.14 or newer, or name it with --restic PATH"
        )
    from cli.opened import open_source

    opened = open_source(app.fleet, source, site)
    access = app.fleet.site_access(opened.site)
    environment = environment_for(os.environ, opened, access, app.fleet.cache_dir)
    given = ["--cacert", access.ca_file] if access.ca_file else []
    _become(path, [arguments[0], *given, *arguments[1:]], environment, opened.password)


def check_arguments(source: str, arguments: tuple[str, ...]) -> None:
    """Raise UsageError for what is not to be done with restic, or would mean another repository."""
    if not arguments:
        raise UsageError("no command for restic", hint=f"As in: holdfast restic {source} -- snapshots")
    name = arguments[0]
    if name in REFUSED:
        raise UsageError(
            f"`restic {name}` is not run on Holdfast's repositories", hint=REFUSED[name].format(source=source)
        )
    if name.startswith("-") and name not in _ABOUT_ITSELF:
        raise UsageError(
            f"restic's command comes first, before {name}", hint=f"holdfast restic {source} -- COMMAND {name}"
        )
    if name not in ALLOWED and name not in _ABOUT_ITSELF:
        hint = f"Known as such are: {', '.join(sorted(ALLOWED))}"
        raise UsageError(f"`restic {name}` is not known as one that only looks", hint=hint)
    for one in arguments[1:]:
        if one == "--":
            break
        if one.startswith(_GIVEN) or _GIVEN_SHORT.match(one):
            raise UsageError(f"{one.partition('=')[0]} is not taken: Holdfast gives repository and password")


def environment_for(own: Mapping[str, str], opened: Opened, access: SiteAccess, cache_dir: str) -> dict[str, str]:
    """What restic gets besides the password. Raises Denied where the credentials can't be had."""
    from shared.config.stores import current_credentials
    from shared.storage.open import restic_repository

    environment = {name: value for name, value in own.items() if not name.startswith(_HIDDEN)}
    environment["RESTIC_REPOSITORY"] = restic_repository(access.url, f"repos/{opened.name}", name=access.id)
    keys = current_credentials(access)
    if keys is not None:
        environment |= {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
        if keys.session_token:
            environment["AWS_SESSION_TOKEN"] = keys.session_token
    environment["RESTIC_CACHE_DIR"] = f"{cache_dir}/restic"
    return environment


def _become(path: str, arguments: list[str], environment: dict[str, str], password: str) -> NoReturn:
    """Turn into restic: signals, terminal and exit code are its own. It reads the password from a pipe."""
    reading, writing = os.pipe()
    os.write(writing, password.encode() + b"\n")
    os.close(writing)
    os.set_inheritable(reading, True)
    environment["RESTIC_PASSWORD_FILE"] = f"/dev/fd/{reading}"
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, and so would they be by restic
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, [path, *arguments], environment)  # noqa: S606 - a list, no shell
    except OSError as error:
        raise HoldfastError(f"can't run {path}: {error.strerror}") from None
