"""What goes into a recovery kit: all that is needed where everything else but one site is gone.

Invariant: the configuration in a kit is one file that refers to nothing outside of its directory but sites, and means
what the files meant when the kit was made. It is read back before the kit is given out. Order: the secrets, so that
one that can't be read is named before anything is made; then the configuration that refers to them; then the text.
"""

from __future__ import annotations

import copy
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import yaml

from shared.config.document import parse
from shared.config.loader import joined, load_text
from shared.errors import ConfigError
from shared.kit import archive, keys
from shared.kit.archive import Kit
from shared.kit.errors import KitError
from shared.kit.instructions import Known, instructions
from shared.topology import memory_path
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

ORIGINALS = "original"
_STAYS = timedelta(days=3650)  # for which no rule forgets what left the inventory
_HEAD = """\
# The configuration as a recovery kit of {made} has it: all files and the inventory's sources joined, presets and
# includes worked in, every secret in a file below secrets/. The files as they were lie below original/.
"""


@dataclass(frozen=True, slots=True)
class Collected:
    """A kit, and what a person should know of it. `watched`: the files that it was made of."""

    kit: Kit
    warnings: tuple[str, ...]
    watched: tuple[str, ...] = field(repr=False)


def collect(fleet: Fleet, without: Iterable[str] = (), now: float | None = None) -> Collected:
    """All of it, as of now. `without`: keys, or patterns of them, that may be missing.

    Raises ConfigError in an agent's file, KitError where a secret can't be read.
    """
    made = time.time() if now is None else now
    wanted = list(keys.references(fleet))
    files: dict[str, bytes] = {}
    temporary: dict[str, str | None] = {}
    left, wrong, watched = [], [], list(fleet.files)
    for one in wanted:
        content, access, reason = keys.read(one)
        if reason and not one.optional and not any(fnmatchcase(one.key, pattern) for pattern in without):
            wrong.append((one.key, reason))
        elif reason:
            left.append((one, reason))
        else:
            files[one.kept] = content
            if access is not None and (access.session_token or access.expires is not None):
                temporary[one.key] = _iso(access.expires) if access.expires is not None else None
            elif one.file:
                watched.append(one.file)
    if wrong:
        said = "; ".join(reason for _, reason in wrong)
        raise KitError(
            f"the kit is not made: {said}",
            hint="Make it where these can be read; or without them: "
            + " ".join(f"--without {key}" for key, _ in wrong),
        )
    if not {"secrets/secret", "secrets/recovery_password"} & files.keys():
        raise KitError("the kit is not made: without the secret and the recovery password it would open no repository")
    # What could not be read keeps its place: put there later, it counts.
    data = _configuration(fleet, [one for one in wanted if not one.plain or one.kept in files])
    text = _HEAD.format(made=_iso(made)) + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)
    _check(text, data)
    for file in fleet.files:
        files[f"{ORIGINALS}/{file.lstrip('/')}"] = _original(file)
    topology = _topology(fleet)
    if topology:
        files[archive.TOPOLOGY] = topology
    left_out = {one.key: reason for one, reason in left}
    known = Known(made, fleet.path, left_out, temporary, frozenset(files))
    manifest: dict[str, Any] = {
        "format": archive.FORMAT,
        "id": os.urandom(8).hex(),
        "made": made,
        "by": f"Holdfast {VERSION}",
        "host": socket.gethostname(),
        "configuration": fleet.path,
        "sites": {name: site.url for name, site in fleet.sites.items()},
        "repositories": {name: fleet.repository_of(name) for name in fleet.sources},
        "left_out": left_out,
        "temporary": temporary,
    }
    head = {archive.INSTRUCTIONS: instructions(fleet, known).encode(), archive.CONFIG: text.encode()}
    warnings = [f"left out: {reason}" for reason in left_out.values()]
    warnings += [
        f"{key} are temporary{f', until {until}' if until else ''}: the kit needs others by then"
        for key, until in temporary.items()
    ]
    return Collected(Kit(manifest, {**head, **files}), tuple(warnings), tuple(dict.fromkeys(watched)))


def _configuration(fleet: Fleet, wanted: Iterable[keys.Reference]) -> dict[str, Any]:
    """The joined data, in which nothing refers to this machine's files any more."""
    data: dict[str, Any] = copy.deepcopy(joined(fleet.path).data)
    data.pop("inventory", None)
    data |= {"state_dir": "state", "cache_dir": "cache"}
    for name, site in data["sites"].items():
        known_site = fleet.site(name)
        site["url"] = known_site.url
        if known_site.ca_file is not None:
            site["ca_file"] = known_site.ca_file
    for name, source in (data.get("sources") or {}).items():
        known = fleet.source(name)
        for key in ("preset", "options"):
            source.pop(key, None)
        if known.left and known.retired is None:
            source["retired"] = f"{datetime.fromtimestamp(known.left, UTC) + _STAYS:%Y-%m-%d}"
        if known.exclude_files:
            source["exclude_files"] = list(known.exclude_files)
    for one in wanted:
        one.put(data)
    return data


def _check(text: str, data: dict[str, Any]) -> None:
    """What is written can be read, and says the same. Raises KitError."""
    try:
        load_text(text, "/kit/holdfast.yaml")
    except ConfigError as error:
        raise KitError(f"the kit is not made: its configuration would not load: {error.args[0]}") from error
    if parse(text).data != data:
        raise KitError("the kit is not made: its configuration would not say what the files say")


def _original(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise KitError(f"the kit is not made: can't read {file}: {error.strerror}") from None


def _topology(fleet: Fleet) -> bytes:
    try:
        with open(memory_path(fleet), "rb") as opened:
            return opened.read()
    except FileNotFoundError:
        return b""  # the sites have never voted, or this machine has not looked: the configuration's counts
    except OSError as error:
        raise KitError(f"the kit is not made: can't read {memory_path(fleet)}: {error.strerror}") from None


def _iso(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
