"""Passwords that commands make, or read from a file."""

from __future__ import annotations

import secrets

from shared.errors import UsageError

LEAST_LENGTH = 12  # characters of a password that a person chose: who holds what it opens can try at leisure
_FILE_AT_MOST = 4096  # bytes
_GROUPS = 8  # of 4 characters out of 32: 160 bits
_READABLE = "abcdefghijkmnpqrstuvwxyz23456789"  # no l, o, 0, 1: a person may have to type it from paper


def strong_password() -> str:
    """A new one, of 160 bits."""
    return "-".join("".join(secrets.choice(_READABLE) for _ in range(4)) for _ in range(_GROUPS))


def password_in(file: str) -> str:
    """What a file holds, without the end of its line. Raises UsageError."""
    try:
        with open(file, "rb") as opened:
            raw = opened.read(_FILE_AT_MOST + 1)
    except OSError as error:
        raise UsageError(f"can't read the password file {file}: {error.strerror}") from None
    if len(raw) > _FILE_AT_MOST:
        raise UsageError(f"the password file {file} is larger than {_FILE_AT_MOST} bytes: is it the right file?")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"the password file {file} is not UTF-8") from None
