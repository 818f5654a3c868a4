"""Credentials of an S3 site: fixed, from a file, or from a command. The environment is the configuration's to read."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from shared.storage.api import Denied

_EARLY = 60.0  # seconds before they run out that credentials are fetched anew
_MOST_OUTPUT = 65_536

# Our own names, those of AWS's files and those of its credential_process.
_NAMES = {
    "access_key": "access_key",
    "aws_access_key_id": "access_key",
    "accesskeyid": "access_key",
    "secret_key": "secret_key",
    "aws_secret_access_key": "secret_key",
    "secretaccesskey": "secret_key",
    "session_token": "session_token",
    "aws_session_token": "session_token",
    "sessiontoken": "session_token",
    "expires": "expires",
    "expiration": "expires",
}


@dataclass(frozen=True, slots=True)
class CredentialsSpec:
    """One set of S3 credentials. `expires`: POSIX seconds, None for never."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires: float | None = None


CredentialsProvider: TypeAlias = Callable[[], CredentialsSpec]


def credentials_from_file(path: str, *, profile: str = "default") -> CredentialsProvider:
    """Provider that reads `path` each time it is asked: JSON, `name = value` lines, or a profile of an AWS file."""

    def provide() -> CredentialsSpec:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(_MOST_OUTPUT)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise Denied(f"credentials file {path}: {reason}", hint="Name a file that this user can read") from error
        return parse_credentials(text, where=f"credentials file {path}", profile=profile)

    return provide


def credentials_from_command(command: Sequence[str], *, timeout: float = 30.0) -> CredentialsProvider:
    """Provider that runs `command` (no shell) and reads its output in the same forms as a file's.

    `timeout`: seconds. Errors name the command and its exit code, never what it printed.
    """

    def provide() -> CredentialsSpec:
        where = f"credentials command {command[0]}"
        hint = "Run it by hand as the user that runs Holdfast"
        try:
            done = subprocess.run(
                list(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            # Not chained: that error carries what was printed so far.
            raise Denied(f"{where}: no answer within {timeout:g} s", hint=hint) from None
        except OSError as error:
            raise Denied(f"{where}: {error.strerror}", hint=hint) from error
        if done.returncode != 0:
            raise Denied(f"{where}: exit code {done.returncode}", hint=hint)
        return parse_credentials(done.stdout.decode("utf-8", "replace"), where=where)

    return provide


def parse_credentials(text: str, *, where: str, profile: str = "default") -> CredentialsSpec:
    """Credentials from JSON, or from `name = value` (or `name: value`) lines, with or without [profile] sections.

    Raises Denied, which names `where` and what is missing and quotes none of the text.
    """
    found = _from_json(text, where) if text.lstrip().startswith("{") else _from_lines(text, profile)
    missing = [name for name in ("access_key", "secret_key") if not found.get(name)]
    if missing:
        hint = "Expected lines access_key = ... and secret_key = ..., or the same as JSON"
        raise Denied(f"{where}: no {' and no '.join(missing)}", hint=hint)
    return CredentialsSpec(
        access_key=found["access_key"],
        secret_key=found["secret_key"],
        session_token=found.get("session_token") or None,
        expires=_parse_expiry(found.get("expires", ""), where),
    )


def _from_json(text: str, where: str) -> dict[str, str]:
    try:
        document = json.loads(text)
    except ValueError:
        # Not chained: the decoder's error carries the document.
        raise Denied(f"{where}: begins like JSON and is none") from None
    pairs = ((_NAMES.get(str(key).lower().replace("-", "_")), value) for key, value in document.items())
    return {name: str(value) for name, value in pairs if name and value is not None}


def _from_lines(text: str, profile: str) -> dict[str, str]:
    found: dict[str, str] = {}
    section = profile  # lines before any section serve every profile
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip().removeprefix("profile ").strip()
            continue
        cut = min((at for at in (line.find("="), line.find(":")) if at > 0), default=0)
        if not cut or line[0] in "#;" or section != profile:
            continue
        name = _NAMES.get(line[:cut].strip().lower())
        if name:
            found[name] = line[cut + 1 :].strip().strip("\"'")
    return found


def _parse_expiry(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise Denied(f"{where}: its time of expiry is no ISO 8601 time") from None


class CredentialsCache:
    """What a store asks before each request: the provider's answer, kept until it runs out or is refused.

    Safe for several threads: one asks the provider, the others wait for its answer.
    """

    def __init__(self, source: CredentialsProvider | CredentialsSpec) -> None:
        self._fixed = isinstance(source, CredentialsSpec)
        self._provide: CredentialsProvider = (lambda: source) if isinstance(source, CredentialsSpec) else source
        self._lock = threading.Lock()
        self._current: CredentialsSpec | None = None

    def current(self) -> CredentialsSpec:
        """Credentials that have not run out. Raises Denied where the provider does."""
        with self._lock:
            known = self._current
            if known is None or (known.expires is not None and known.expires - _EARLY < time.time()):
                known = self._current = self._provide()
            return known

    def renew(self, refused: CredentialsSpec) -> bool:
        """After `refused` was refused: ask the provider again, unless another thread has; True if they differ now."""
        if self._fixed:
            return False
        with self._lock:
            if self._current is refused:
                self._current = self._provide()
            return self._current != refused
