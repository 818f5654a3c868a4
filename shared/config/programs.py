"""Programs that a configuration names: their environment, and what is wrong with one before it ever runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import PlainValidator, ValidationInfo

from shared.config.secrets import Secret
from shared.config.values import expected, expected_secret

# What of Holdfast's own environment they get. All else is to be said in the file, so that a run by hand, one by a
# worker and one after an upgrade find the same.
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh", "mksh"})
_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.|(?:^|(?<=\s))#[^\n]*""", re.DOTALL)
_PIPE = re.compile(r"(?<![|>])\|(?!\|)")


def _variables(value: object, info: ValidationInfo) -> dict[str, str | Secret]:
    if not isinstance(value, dict):
        raise expected("a mapping of variables")
    checked: dict[str, str | Secret] = {}
    for name, given in value.items():
        if not _NAME.fullmatch(name):
            raise expected(f'names of variables (look at "{name}")')
        if isinstance(given, dict):
            checked[name] = Secret.model_validate(given, context=info.context)
        elif isinstance(given, str | int) and not isinstance(given, bool) and "\0" not in str(given):
            checked[name] = str(given)
        else:
            raise expected_secret(f"{name} as a text, or one of file, env, command")
    return checked


Variables = Annotated[dict[str, str | Secret], PlainValidator(_variables)]


def inherited() -> dict[str, str]:
    """The environment of a program that a person runs by a command: all of theirs."""
    return dict(os.environ)


def environment(given: Mapping[str, str | Secret], whose: str) -> tuple[dict[str, str], list[str]]:
    """The whole environment of a program, what is kept of ours and what is `given`; and which values are secrets.

    `whose` names it in an error. Raises ConfigError.
    """
    env = {"PATH": _PATH, **{name: os.environ[name] for name in KEPT if os.environ.get(name)}}
    secrets = []
    for name, value in given.items():
        if isinstance(value, Secret):
            env[name] = os.fsdecode(value.read(f"{name} of {whose}"))
            secrets.append(env[name])
        else:
            env[name] = value
    return env, secrets


def hides_failures(argv: Sequence[str]) -> bool:
    """Whether a command is a shell's script with a pipe in it, and without `pipefail`.

    Such a shell ends well where the last program does, so a dump that breaks off before `| gzip` would pass for whole.
    """
    for number, part in enumerate(argv):
        if os.path.basename(part) not in _SHELLS:
            continue
        rest = argv[number + 1 :]
        if any("pipefail" in one for one in rest):
            return False
        for option, script in pairwise(rest):
            if re.fullmatch(r"-[A-Za-z]*c[A-Za-z]*", option):
                return _PIPE.search(_QUOTED.sub("", script)) is not None
    return False
