"""What this machine remembers of the last kit, so that `status` and the exporter can say how old it is.

In `<state_dir>/kit.json`: when it was made, and a digest of each file that it was made of (configuration, secrets,
certificates), keyed by a salt of its own. To tell whether it is outdated those files are read, and nothing is asked:
no vault, no inventory, no site. What only these know, `holdfast kit check` compares.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from shared.kit.compare import standing as standing_of
from shared.kit.errors import KitError
from shared.storage.durable import make_directories, write_durable
from shared.topology import memory_path

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

_FILE = "kit.json"
_TOPOLOGY = "topology"
OLD = 90 * 86400.0  # seconds after which a kit is to be made anew, whatever has changed


@dataclass(frozen=True, slots=True)
class LastKit:
    """How the last one stands. `made`: POSIX seconds, 0 where none is known; `changed`: files that are others now."""

    made: float = 0.0
    changed: tuple[str, ...] = ()


def note(fleet: Fleet, made: float, watched: Iterable[str]) -> None:
    """Remember a kit that is right now. Raises KitError."""
    salt = os.urandom(16)
    seen = {file: _digest(file, salt) for file in watched}
    said = {"made": made, "salt": salt.hex(), "files": seen, _TOPOLOGY: _topology(fleet)}
    path = os.path.join(fleet.state_dir, _FILE)
    try:
        make_directories(fleet.state_dir)
        write_durable(path, json.dumps(said).encode(), mode=0o600)
    except OSError as error:
        raise KitError(f"`status` will not know of this kit: can't write {path}: {error.strerror}") from None


def last(fleet: Fleet) -> LastKit:
    """The last kit that was made, or found right, on this machine."""
    try:
        with open(os.path.join(fleet.state_dir, _FILE), "rb") as file:
            said = json.load(file)
        salt, seen = bytes.fromhex(said["salt"]), dict(said["files"])
        now = {*seen, *fleet.files}
        changed = [file for file in sorted(now) if _differs(file, salt, seen.get(file))]
        if said[_TOPOLOGY] != _topology(fleet):
            changed.append(_TOPOLOGY)
        return LastKit(float(said["made"]), tuple(changed))
    except (OSError, ValueError, KeyError, TypeError):
        return LastKit()  # not there, or not ours to read


def _differs(file: str, salt: bytes, before: str | None) -> bool:
    now = _digest(file, salt)
    return now != before and now is not None


def _digest(file: str, salt: bytes) -> str | None:
    """None where this user may not read it, which says nothing of what it holds."""
    try:
        found = os.stat(file)
        return _content(file, (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size), salt)
    except FileNotFoundError:
        return ""
    except OSError:
        return None


@lru_cache(maxsize=1024)
def _content(file: str, _mark: tuple[int, ...], salt: bytes) -> str:
    with open(file, "rb") as opened:
        return hmac.new(salt, opened.read(), hashlib.sha256).hexdigest()


def _topology(fleet: Fleet) -> str:
    try:
        with open(memory_path(fleet), "rb") as file:
            raw = file.read()
    except OSError:
        raw = b""
    return json.dumps(standing_of(raw))
