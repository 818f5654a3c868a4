"""Secrets by reference: read when they are needed, from where the file says, and never shown."""

from __future__ import annotations

import os
import subprocess
from typing import Self

from pydantic import model_validator

from shared.config.base import Model
from shared.config.values import BesidePath, Program, Text, expected_secret, wrong
from shared.errors import ConfigError

_SECRET_AT_MOST = 64 * 1024  # bytes; a larger file is a mistaken path
_COMMAND_SECONDS = 60.0
_FLEET_SECRET_AT_LEAST = 16  # bytes


class _Reference(Model):
    """Where a secret is: an environment variable, a file or a command, exactly one of them."""

    env: Text | None = None
    file: BesidePath | None = None
    command: Program | None = None

    @model_validator(mode="before")
    @classmethod
    def _shape(cls, value: object) -> object:
        if not isinstance(value, cls | dict):
            raise expected_secret("a mapping with one of file, env or command; a secret does not stand in this file")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(part is not None for part in (self.env, self.file, self.command)) != 1:
            raise wrong("give exactly one of file, env or command")
        return self

    def where(self) -> str:
        """Where it looks, for messages: "$NAME", a path, or the program's name without its arguments."""
        if self.env is not None:
            return f"${self.env}"
        return self.file if self.file is not None else f"the command {(self.command or ('',))[0]}"

    def _read_reference(self, what: str) -> bytes:
        if self.file is not None:
            return _read_file(self.file, what)
        if self.command is not None:
            return _read_command(self.command, what)
        return os.fsencode(_read_variable(self.env or "", what))


class Secret(_Reference):
    """One secret. `read()` gives its bytes; a line's end after it is not part of it."""

    def read(self, what: str = "secret") -> bytes:
        """The secret, read anew at each call. `what` names it in errors.

        Raises ConfigError that says where it looked, and never what it found.
        """
        value = self._read_reference(what).rstrip(b"\r\n")
        if not value:
            raise ConfigError(f"the {what} is empty: looked in {self.where()}")
        return value


class FleetSecret(Secret):
    """The secret that a fleet's machine passwords and keys derive from."""

    def read(self, what: str = "fleet secret") -> bytes:
        """The secret, at least 16 bytes. Raises ConfigError."""
        value = super().read(what)
        if len(value) < _FLEET_SECRET_AT_LEAST:
            raise ConfigError(
                f"the {what} in {self.where()} is too short: expected {_FLEET_SECRET_AT_LEAST} bytes or more, "
                f"found {len(value)}",
                hint="`holdfast init` makes a strong one.",
            )
        return value


class Credentials(_Reference):
    """The keys of an S3 site.

    `env: FRA` reads FRA_ACCESS_KEY_ID, FRA_SECRET_ACCESS_KEY and, where it is set, FRA_SESSION_TOKEN (so `env: AWS`
    is what the AWS tools use). What a file or a command may hold, shared.storage.credentials says.
    """

    def reference(self, what: str = "credentials") -> dict[str, str | list[str]]:
        """What an engine is told on its pipe: {"file": ...}, {"command": [...]}, or the keys that the environment has.

        The keys are `access_key`, `secret_key`, `session_token`. Raises ConfigError.
        """
        if self.file is not None:
            return {"file": self.file}
        if self.command is not None:
            return {"command": list(self.command)}
        keys: dict[str, str | list[str]] = {
            "access_key": _read_variable(f"{self.env}_ACCESS_KEY_ID", what),
            "secret_key": _read_variable(f"{self.env}_SECRET_ACCESS_KEY", what),
        }
        token = os.environ.get(f"{self.env}_SESSION_TOKEN", "")
        return {**keys, "session_token": token} if token else keys


def _read_variable(name: str, what: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        state = "empty" if name in os.environ else "not set"
        raise ConfigError(f"the {what}: looked in the environment variable {name}, which is {state}")
    return value


def _read_file(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            value = file.read(_SECRET_AT_MOST + 1)
    except OSError as error:
        raise ConfigError(f"the {what}: can't read {path}: {error.strerror}") from None
    if len(value) > _SECRET_AT_MOST:
        raise ConfigError(f"the {what}: {path} is larger than {_SECRET_AT_MOST} bytes: is it the right file?")
    return value


def _read_command(command: tuple[str, ...], what: str) -> bytes:
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_SECONDS
        )
    except OSError as error:
        raise ConfigError(f"the {what}: can't run {command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the {what}: {command[0]} gave no answer in {_COMMAND_SECONDS:.0f} s") from None
    if done.returncode != 0:
        # Only what it said on stderr: stdout may hold a part of the secret.
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f": {said[-1][:200]}" if said else ""
        raise ConfigError(f"the {what}: {command[0]} ended with code {done.returncode}{reason}")
    return done.stdout
