"""`holdfast kit`: the recovery kit, one encrypted file with what is needed when everything else is gone."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.terminal import echo
from shared.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from shared.kit.archive import Kit

_PARTS_AT_MOST = 9
_password_option = click.option(
    "--password-file", metavar="FILE", help="Holds the kit's password (else $HOLDFAST_KIT_PASSWORD, or asked)."
)
_files = click.argument("files", nargs=-1, required=True, metavar="FILE...")


@click.group(
    epilog="""\b
Examples:
  holdfast kit make /media/usb/fleet.hfk
  holdfast kit make --split 2/3 /media/usb/parts
  holdfast kit show /media/usb/fleet.hfk
  holdfast kit check /media/usb/fleet.hfk
  holdfast kit open fleet.hfk --to recovered"""
)
@global_options
def command() -> None:
    """Make, show, check or open the recovery kit.

    One encrypted file with all that is needed when everything else but one site is gone: configuration, keys,
    topology, and instructions with the exact commands of stock restic. Keep it away from what it recovers.
    """


@command.command(
    "make",
    epilog="""\b
Examples:
  holdfast kit make /media/usb/fleet.hfk                 # shows a new password, once
  holdfast kit make --split 2/3 /media/usb/parts         # three parts, any two open it
  holdfast kit make fleet.hfk --password-file kit.password
  holdfast kit make fleet.hfk --recovery-password --without 'sources.*' --dry-run""",
)
@click.argument("file", required=False)
@click.option("--split", type=(str, str), metavar="K/N DIR", help="N parts into DIR, of which any K open it.")
@click.option("--password-file", metavar="FILE", help="Holds its password (else $HOLDFAST_KIT_PASSWORD, or a new one).")
@click.option("--recovery-password", is_flag=True, help="Its password is the fleet's recovery password.")
@click.option("--without", multiple=True, metavar="KEY", help="What may be missing, as sites.fra.admin or 'sources.*'.")
@click.option("--dry-run", is_flag=True, help="Say what it would hold, and write nothing.")
@global_options
@pass_app
def make(
    app: App,
    file: str | None,
    split: tuple[str, str] | None,
    password_file: str | None,
    recovery_password: bool,
    without: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Make a kit: FILE, sealed with a password, or parts.

    An older kit of that name is replaced, and nothing else is ever overwritten. A secret that can't be read is named,
    and no kit is made, unless it is left out by --without. The file opens with `age -d` and `tar xz`, too.
    """
    from cli.kit.password import new_password
    from shared.config.opening import recovery_password as configured
    from shared.kit import age, archive, folder, parts, record
    from shared.kit.contents import collect
    from shared.kit.errors import KitError

    if file is None and split is None:
        raise UsageError("no FILE for the kit, and no --split", hint="As in: holdfast kit make /media/usb/fleet.hfk")
    if file is None and (password_file or recovery_password):
        raise UsageError("parts have no password: two of them open the kit", hint="Leave the password's option out")
    if file is not None:
        _check_replaced(file)
    number = _numbers(split[0]) if split else None
    if split:
        folder.check_free(split[1])
    collected = collect(app.fleet, without)
    for line in collected.warnings:
        app.warn(line)
    packed = archive.pack(collected.kit)
    data = {**_described(collected.kit), "file": file, "parts": [], "bytes": len(packed), "dry_run": dry_run}
    texts = parts.split(packed, *number) if number else {}
    names = {f"kit-part-{one}.txt": text.encode() for one, text in texts.items()}
    if split:
        data["parts"] = [os.path.join(split[1], name) for name in names]
    if dry_run:
        app.result(data, *([] if app.json else _lines(collected.kit)), "nothing was written")
        return
    if file is not None:
        recovery = (lambda: configured(app.fleet)) if recovery_password else None
        password, work, is_new = new_password(app, password_file, recovery=recovery)
        sealed = age.seal(packed, password, work=work)
        if is_new:  # shown before the kit of before is gone: a kit without its password is none
            echo(f"The password of this kit, shown only now:\n\n    {password}\n", err=True)
        _write(file, sealed)
    if split:
        folder.publish(split[1], names)
    try:
        record.note(app.fleet, collected.kit.made, collected.watched)
    except KitError as error:
        app.warn(str(error))
    written = ([file] if file else []) + list(data["parts"])
    app.result(
        data, *(f"wrote {one}" for one in written), "Keep it, and apart from it its password, away from the sites."
    )


def _numbers(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9])/([0-9])", text)
    needed, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 2 <= needed <= parts <= _PARTS_AT_MOST:
        raise UsageError(f'--split: expected such as 2/3, at least 2 and at most {_PARTS_AT_MOST}, found "{text}"')
    return needed, parts


def _check_replaced(file: str) -> None:
    """Only a kit may be replaced. Raises UsageError."""
    from shared.kit.age import MAGIC

    if not os.path.lexists(file):
        return
    try:
        with open(file, "rb") as opened:
            is_kit = opened.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise UsageError(f"can't replace {file}: {error.strerror}") from None
    if not is_kit:
        raise UsageError(f"{file} exists, and is no kit: it is left as it is", hint="Name another file")


def _write(file: str, sealed: bytes) -> None:
    from shared.kit.errors import KitError
    from shared.storage.durable import write_durable

    try:
        write_durable(file, sealed, mode=0o600)
    except OSError as error:
        raise KitError(f"can't write the kit {file}: {error.strerror}", hint="What was there is as it was") from None


@command.command(
    "show",
    epilog="""\b
Examples:
  holdfast kit show /media/usb/fleet.hfk
  holdfast kit show kit-part-1.txt kit-part-3.txt --json""",
)
@_files
@_password_option
@global_options
@pass_app
def show_kit(app: App, files: tuple[str, ...], password_file: str | None) -> None:
    """Show what is in a kit, of when and of which fleet, and no secret of it. FILE: a kit, or parts of one."""
    from cli.kit.reading import read_kit

    kit = read_kit(app, files, password_file)
    app.result(_described(kit), *([] if app.json else _lines(kit)))


@command.command(
    "open",
    epilog="""\b
Examples:
  holdfast kit open fleet.hfk --to recovered && cd recovered && holdfast restore web1 --direct
  holdfast kit open kit-part-1.txt kit-part-3.txt --to recovered""",
)
@_files
@_password_option
@click.option("--to", "directory", metavar="DIR", required=True, help="Where it goes; not there yet, or empty.")
@global_options
@pass_app
def open_kit(app: App, files: tuple[str, ...], password_file: str | None, directory: str) -> None:
    """Write what is in a kit to DIR: configuration, secrets (mode 0600), topology, INSTRUCTIONS.md.

    FILE: a kit, or as many parts as it needs. Needs no configuration, no site and no network.
    """
    from cli.kit.reading import read_kit
    from shared.kit import archive, folder

    folder.check_free(directory)
    kit = read_kit(app, files, password_file)
    folder.publish(directory, kit.files)
    place = os.path.abspath(directory)
    data = {**_described(kit), "directory": place}
    app.result(
        data,
        f"opened the kit of {show.moment(kit.made)} to {place}/",
        f"next: cd {place}, and read {archive.INSTRUCTIONS}",
        f"It holds every secret of the fleet. To undo: rm -r {place}",
    )


@command.command(
    "check",
    epilog="""\b
Examples:
  holdfast kit check /media/usb/fleet.hfk
  holdfast -c /etc/holdfast/holdfast.yaml kit check fleet.hfk --password-file kit.password --json""",
)
@_files
@_password_option
@click.option("--without", multiple=True, metavar="KEY", help="What can't be read here, and is not compared.")
@global_options
@pass_app
def check(app: App, files: tuple[str, ...], password_file: str | None, without: tuple[str, ...]) -> int:
    """Say what has changed since a kit was made: in the configuration, the keys and the topology.

    Exit code 3: something has, so make another. Where nothing has, `holdfast status` on this machine knows of the kit
    from then on.
    """
    from fnmatch import fnmatchcase

    from cli.kit.reading import read_kit
    from shared.kit import record
    from shared.kit.compare import changes
    from shared.kit.contents import collect
    from shared.kit.errors import KitError

    kit = read_kit(app, files, password_file)
    now = collect(app.fleet, without)
    found = [one for one in changes(kit, now.kit) if not any(fnmatchcase(one.what, each) for each in without)]
    data = {**_described(kit), "right": not found, "changes": [{"what": one.what, "how": one.how} for one in found]}
    age = show.ago(kit.made, time.time())
    if found:
        lines = [f"  {one.how:<8} {one.what}" for one in found]
        lines += [f"The kit of {show.moment(kit.made)} ({age}) is outdated: make another, with `holdfast kit make`"]
        app.result(data, *lines)
        return EXIT_INCOMPLETE
    known = record.last(app.fleet)
    if kit.made >= known.made or known.changed:  # a newer one that is right, too, is the last one still
        try:
            record.note(app.fleet, kit.made, now.watched)
        except KitError as error:
            app.warn(str(error))
    app.result(data, f"the kit of {show.moment(kit.made)} ({age}) is right: nothing has changed since")
    return EXIT_OK


def _described(kit: Kit) -> dict[str, Any]:
    said = kit.manifest
    return {
        "id": kit.id,
        "made": show.iso(kit.made),
        "by": said["by"],
        "host": said["host"],
        "configuration": said["configuration"],
        "sites": [{"site": name, "url": url} for name, url in said["sites"].items()],
        "sources": [{"source": name, "repository": place} for name, place in said["repositories"].items()],
        "left_out": [{"key": key, "reason": reason} for key, reason in said["left_out"].items()],
        "temporary": [{"key": key, "until": until} for key, until in said["temporary"].items()],
        "files": sorted(kit.files),
    }


def _lines(kit: Kit) -> list[str]:
    said = kit.manifest
    lines = [
        f"kit {kit.id} of {said['configuration']} on {said['host']}",
        f"made {show.moment(kit.made)} ({show.ago(kit.made, time.time())}) by {said['by']}",
    ]
    lines += [f"site {name}: {url}" for name, url in said["sites"].items()]
    lines.append(show.count(len(said["repositories"]), "source") + f": {', '.join(said['repositories'])}")
    lines += [f"left out: {key} ({reason})" for key, reason in said["left_out"].items()]
    lines += [f"temporary: {key}{f', until {until}' if until else ''}" for key, until in said["temporary"].items()]
    return [*lines, f"files: {', '.join(sorted(kit.files))}"]
