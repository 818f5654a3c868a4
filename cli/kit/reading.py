"""From the files that a person names to the kit in them: one sealed file, or parts of a split one."""

from __future__ import annotations

from cli.app import App
from cli.kit.password import known_password
from shared.errors import UsageError
from shared.kit import age, archive, parts
from shared.kit.archive import Kit

_FILE_AT_MOST = 64 << 20  # bytes


def read_kit(app: App, files: tuple[str, ...], password_file: str | None) -> Kit:
    """The kit. Raises UsageError, KitError."""
    given = {file: _content(file) for file in files}
    in_parts = {file: data for file, data in given.items() if data.startswith(parts.BEGINS)}
    first = files[0]
    if in_parts:
        if others := [file for file in given if file not in in_parts]:
            raise UsageError(f"{others[0]} is no part of a kit, and {next(iter(in_parts))} is one")
        return archive.unpack(parts.join(given), first)
    if len(given) > 1:
        raise UsageError(f"{first} is no part of a kit: one file is opened at a time", hint="Name it alone")
    data = given[first]
    if data.lstrip().startswith(age.ARMOR_BEGIN.encode()):
        data = age.unarmor(data.decode("ascii", "replace"), first)
    if not data.startswith(age.MAGIC):
        age.unseal(data, "", first)  # says what it is instead, before a password is asked for
    return archive.unpack(age.unseal(data, known_password(app, password_file, first), first), first)


def _content(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            data = opened.read(_FILE_AT_MOST + 1)
    except OSError as error:
        raise UsageError(f"can't read the kit {file}: {error.strerror}") from None
    if len(data) > _FILE_AT_MOST:
        raise UsageError(f"{file} is larger than {_FILE_AT_MOST >> 20} MiB: it is no kit")
    return data
