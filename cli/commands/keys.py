"""`holdfast keys`: which passwords open a source's repository; others added, removed, changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from cli.app import App, global_options, pass_app
from cli.passwords import LEAST_LENGTH, password_in
from shared.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from shared.config.opening import Opened
    from shared.repository.keyring import KeyFile

PASSWORD_VARIABLE = "HOLDFAST_NEW_PASSWORD"  # noqa: S105 - the variable's name


@click.command(
    epilog="""\b
Examples:
  holdfast keys web1 list
  holdfast keys web1 add --password-file new.password
  holdfast keys web1 remove 4f1c09ab
  holdfast keys web1 password                   # asks for a new one in place of the recovery password
  holdfast keys web1 add --machine              # after the fleet's secret has changed""",
)
@click.argument("source")
@click.argument("action", type=click.Choice(["list", "add", "remove", "password"]), default="list")
@click.argument("key_id", metavar="[ID]", required=False)
@click.option("--password-file", metavar="FILE", help=f"Holds the new password (else ${PASSWORD_VARIABLE}, or asked).")
@click.option("--machine", is_flag=True, help="With add: the machine password that derives from the fleet's secret.")
@click.option("--replace", metavar="ID", help="With password: this key goes (else the recovery password's).")
@click.option("--site", default="", metavar="SITE", help="The site to work at (else the primary).")
@global_options
@pass_app
def command(
    app: App,
    source: str,
    action: str,
    key_id: str | None,
    password_file: str | None,
    machine: bool,
    replace: str | None,
    site: str,
) -> None:
    """List, add, remove or change the passwords that open the repository of SOURCE.

    Each key file opens with one password and holds the same master key: a new password re-encrypts nothing, and
    who has copied an old key file and knows its password still reads the repository.
    """
    for given, wanted, name in (
        (key_id, action == "remove", "an ID"),
        (password_file, action in {"add", "password"}, "--password-file"),
        (machine, action == "add", "--machine"),
        (replace, action == "password", "--replace"),
    ):
        if given and not wanted:
            raise UsageError(f"{action} takes no {name.removeprefix('an ')}")
    if machine and password_file:
        raise UsageError("--machine and --password-file exclude each other")
    if action == "remove" and not key_id:
        raise UsageError("remove needs the ID of a key", hint=f"`holdfast keys {source} list` shows them")
    from cli.opened import open_source

    opened = open_source(app.fleet, source, site)
    if action == "list":
        _list(app, source, opened)
    elif action == "add":
        _add(app, opened, password_file, machine=machine)
    elif action == "remove":
        _remove(app, opened, key_id or "")
    else:
        _change(app, opened, password_file, replace)


def _list(app: App, source: str, opened: Opened) -> None:
    from shared.config.opening import MACHINE, RECOVERY, recovery_password
    from shared.repository.keyring import opening, read_keys

    files = read_keys(opened.repository.store)
    names = {app.fleet.machine_password(opened.name): MACHINE}
    try:
        names.setdefault(recovery_password(app.fleet), RECOVERY)
    except ConfigError as error:
        app.warn(f"which key is the {RECOVERY}'s is not known: {error}")
    opens = {one.id: (names[password], key) for one, password, key in opening(files, list(names))}
    first = next((one.id for one in files if one.id in opens and opens[one.id][0] == opened.which), "")
    rows: list[dict[str, Any]] = []
    for one in files:
        problem = one.problem
        if one.id in opens and opens[one.id][1] != opened.repository.key:
            problem = "holds another master key: it was never this repository's"
        elif one.going:
            problem = f"half removed: `holdfast keys {source} remove {one.id[:8]}` finishes it"
        rows.append(
            {
                "id": one.id,
                "created": one.created,
                "username": one.username,
                "hostname": one.hostname,
                "scrypt_n": one.n,
                "opens_with": opens[one.id][0] if one.id in opens else None,
                "opened": one.id == first,
                "problem": problem or None,
            }
        )
    data = {"source": source, "repository": opened.name, "site": opened.site, "keys": rows}
    app.result(data, *_table(rows))


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """The keys for people; * marks the one that opened the repository just now."""
    cells = [("  ID", "CREATED (UTC)", "BY", "OPENS WITH", "")]
    for row in rows:
        by = f"{row['username']}@{row['hostname']}" if row["username"] or row["hostname"] else "-"
        mark = "* " if row["opened"] else "  "
        problem = row["problem"] or ""
        cells.append(
            (mark + row["id"][:8], _moment(row["created"]), by, row["opens_with"] or "another password", problem)
        )
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in cells
    ]


def _moment(created: str) -> str:
    from datetime import UTC, datetime

    try:
        return f"{datetime.fromisoformat(created).astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return created or "-"


def _add(app: App, opened: Opened, password_file: str | None, *, machine: bool) -> None:
    from shared.repository.keyring import add_key, read_keys
    from shared.repository.keys import MACHINE_N, RECOVERY_N

    password = app.fleet.machine_password(opened.name) if machine else new_password(app, password_file)
    known = _that_opens([one for one in read_keys(opened.repository.store) if not one.going], password)
    if known:
        raise UsageError(f"this password opens the repository already, with key {known.id[:8]}")
    n = MACHINE_N if machine else RECOVERY_N
    key_id = add_key(opened.repository.store, opened.repository.key, password, n=n)
    app.result(
        {"added": key_id},
        f"added key {key_id[:8]}",
        f"to undo: holdfast keys {_source(app, opened)} remove {key_id[:8]}",
    )


def _remove(app: App, opened: Opened, key_id: str) -> None:
    from shared.config.opening import recovery_password
    from shared.repository.keyring import pick, read_keys, remove_key

    store = opened.repository.store
    files = read_keys(store)
    target = pick(files, key_id)
    passwords = [app.fleet.machine_password(opened.name), recovery_password(app.fleet)]
    # Each password that opens it now, before this or any other removal, opens it afterwards.
    keep = [one for one in dict.fromkeys(passwords) if _that_opens(files, one)]
    remove_key(store, target.id, keep=keep)
    app.result({"removed": target.id}, f"removed key {target.id[:8]}; its password opens the repository no more")


def _change(app: App, opened: Opened, password_file: str | None, replace: str | None) -> None:
    from shared.config.opening import recovery_password
    from shared.repository.keyring import add_key, pick, read_keys, remove_key

    store = opened.repository.store
    files = read_keys(store)
    machine, configured = app.fleet.machine_password(opened.name), recovery_password(app.fleet)
    if replace:
        old = [pick(files, replace)]
    else:
        old = [one for one in files if one.opens(configured)]
        if not old:
            raise UsageError(
                "no key opens with the configured recovery password, so it is not clear which is to go",
                hint="Name it with --replace; `list` shows all",
            )
    if any(one.opens(machine) for one in old):
        raise UsageError("that is the machine password, which derives from the fleet's secret", hint="Name another key")
    password = new_password(app, password_file)
    if any(one.opens(password) for one in old):
        raise UsageError(
            "the new password is the old one",
            hint="Where the configuration names the new one already, name the old key with --replace",
        )
    # There already where an earlier try was killed before it had removed the old one.
    known = _that_opens([one for one in files if not one.going], password)
    added = known.id if known else add_key(store, opened.repository.key, password)
    keep = [password, *([machine] if _that_opens(files, machine) else [])]
    for one in old:
        remove_key(store, one.id, keep=keep)
    removed = [one.id for one in old]
    gone = ", ".join(one[:8] for one in removed)
    app.result({"added": added, "removed": removed}, f"key {added[:8]} opens the repository now; removed {gone}")
    if password != configured:
        where = app.fleet.recovery_password.where()
        app.warn(
            f"the configuration still names the old recovery password ({where}): put the new one there once every "
            f"repository has it; each source has keys of its own ({len(app.fleet.sources)} in this configuration)"
        )


def new_password(app: App, file: str | None) -> str:
    """A new password: from a file, the environment, or asked twice. Raises UsageError where it is too weak."""
    if file:
        password, where = password_in(file), file
    elif given := os.environ.get(PASSWORD_VARIABLE):
        password, where = given, f"${PASSWORD_VARIABLE}"
    elif app.is_interactive and os.isatty(0):
        password, where = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True), "it"
    else:
        hint = f"Name a file with --password-file, or set ${PASSWORD_VARIABLE}"
        raise UsageError("a new password is needed, and there is no terminal to ask on", hint=hint)
    if "\n" in password or "\0" in password:
        raise UsageError(f"the new password ({where}) has more than one line: restic could not take it")
    if len(password) < LEAST_LENGTH:
        raise UsageError(f"the new password ({where}) has fewer than {LEAST_LENGTH} characters: it could be guessed")
    return password


def _that_opens(files: list[KeyFile], password: str) -> KeyFile | None:
    return next((one for one in files if one.opens(password)), None)


def _source(app: App, opened: Opened) -> str:
    return next(name for name in app.fleet.sources if app.fleet.repository_of(name) == opened.name)
