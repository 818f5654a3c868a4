"""What `restore --into` names: with --direct a command here, else a program that a worker's own file has a name for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from cli import format as show
from shared.errors import UsageError

_NAMED = re.compile(r"(?:(?P<host>[\w.-]+):)?(?P<name>\w[\w.-]*)", re.ASCII)


def split_command(text: str) -> list[str]:
    """The program and its arguments, quoted as for a shell, which there is none of. Raises UsageError."""
    try:
        argv = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--into {text}: {error}", hint="Quote as for a shell") from None
    if not argv:
        raise UsageError("--into names no program", hint="--into 'psql orders_restored'")
    return argv


def parse_named(text: str) -> tuple[str, str]:
    """The host, or none, and the name of a program of that machine's own file. Raises UsageError."""
    found = _NAMED.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--into {text!r} is a command, and a worker runs only what its own file has a name for",
            hint="With --direct it runs here; else [HOST:]NAME, of `restore_into` of the file there",
        )
    return found["host"] or "", found["name"]


def describe_into(result: Mapping[str, Any], *, host: str = "") -> list[str]:
    """What a restore into a program did, for people."""
    size, program = show.size(result.get("bytes", 0)), result.get("program", "")
    if host:
        program = f"{program} on {host}"
    if result.get("dry_run"):
        return [f"would give {size} of {result.get('path')} to {program}"]
    lines = [f"{program} took {size} of {result.get('path')} and ended with code 0"]
    lines[0] += f"; {show.duration(result.get('duration', 0.0))}"
    return lines + ([f"it said: {result['said']}"] if result.get("said") else [])
