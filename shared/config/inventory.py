"""Sources that a command names, as a configuration management database does: what is kept of its answers.

The command is run now and then by who runs anyway (`asking`, through `FleetWatch`); everybody else reads what is kept:
loading a configuration asks nobody. Kept below `state_dir`, each written whole or not at all:

    sources.json   the last answer that could be used. It is in force, and changes only where the sources do
    state.json     when it was asked, when it last gave such an answer, and what was wrong since

What left the inventory stays in `sources.json` with the time since when: such a source is backed up no more, and is
in sight, its snapshots too, until a person drops it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from shared.config.assembly import Assembly, Seen, look
from shared.config.base import Model
from shared.config.document import Document
from shared.config.programs import Variables
from shared.config.values import Duration, Program, whole_number
from shared.errors import ConfigError
from shared.retention import span

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "inventory"
_FOLDER = "inventory"
_SYSTEM = "/etc/"  # a file below it belongs to the machine, and so does its state
_OWN = "sources"
_SLACK = 60.0  # seconds by which an answer may come late


class Inventory(Model):
    """A program that prints sources, and what of its answers is believed."""

    command: Program
    env: Variables = Field(default_factory=dict)
    every: Duration = 300.0  # seconds
    timeout: Duration = 30.0  # seconds
    max_loss: Annotated[int, whole_number(" per cent", least=0, most=100)] = 50  # of the sources; else it is doubted


@dataclass(frozen=True, slots=True)
class Gone:
    """A source that left the inventory: since when (POSIX seconds), and what it was."""

    since: float
    source: dict[str, object]


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer that is in force."""

    sources: Mapping[str, object]
    gone: Mapping[str, Gone] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As it lies in its file."""
        gone = {name: asdict(one) for name, one in self.gone.items()}
        return json.dumps({_OWN: self.sources, "gone": gone}, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Kept:
        """Raises ValueError where it is none."""
        try:
            said = json.loads(raw)
            gone = {name: Gone(float(one["since"]), dict(one["source"])) for name, one in said["gone"].items()}
            return cls(dict(said[_OWN]), gone)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"it is not what Holdfast wrote: {error!r}") from None


@dataclass(frozen=True, slots=True)
class State:
    """How the asking goes. Times in POSIX seconds, 0 for never."""

    asked: float = 0.0
    answered: float = 0.0  # when the answer in force was last given
    command: str = ""  # a mark of what was asked
    error: str = ""  # why the last answer was not used; empty: it was
    lost: tuple[str, ...] = ()  # the sources that a doubted answer lacks


def trouble(state: State, inventory: Inventory, now: float) -> str:
    """What a person should know of the asking at `now` (POSIX seconds): a sentence, or empty where all is well."""
    age = f"the inventory's last good answer is {span(float(int(max(0.0, now - state.answered))) or 1.0)} old"
    if state.error:
        return f"{age}: {state.error}"
    silent = now - state.answered > 2 * inventory.every + inventory.timeout + _SLACK
    return f"{age}: no scheduler and no worker runs on this machine that would ask it" if silent else ""


class Place:
    """Where a configuration's inventory is kept."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.sources = os.path.join(folder, "sources.json")
        self.state = os.path.join(folder, "state.json")
        self.lock = os.path.join(folder, "lock")

    def read(self) -> Kept | None:
        """The answer in force; None for none. Raises ConfigError."""
        raw = _read(self.sources)
        try:
            return None if raw is None else Kept.decode(raw)
        except ValueError as error:
            raise ConfigError(f"{self.sources} can't be used: {error}", hint=f"Remove it, then {ASK}") from None

    def read_state(self) -> State:
        """How the asking goes; where that can't be read, as if it had never been."""
        try:
            said = json.loads(_read(self.state) or b"{}")
            return State(**{**said, "lost": tuple(said.get("lost", ()))})
        except (ConfigError, ValueError, TypeError, AttributeError):
            return State()

    def keep(self, kept: Kept) -> None:
        """Put an answer in force. Raises ConfigError."""
        self._write(self.sources, kept.encode())

    def note(self, state: State) -> None:
        """Note how the asking goes. Raises ConfigError."""
        self._write(self.state, json.dumps(asdict(state), ensure_ascii=False).encode())

    def make(self) -> None:
        """Make the folder, which only its owner may enter, and the lock in it. Raises ConfigError."""
        from shared.storage.durable import make_directories

        try:
            make_directories(self.folder)
            os.close(os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if os.geteuid() == 0:  # what a person does as root must not lock out the service
                owner = os.stat(os.path.dirname(self.folder))
                for path in (self.folder, self.lock):
                    os.chown(path, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise ConfigError(f"can't keep what the inventory says in {self.folder}: {error.strerror}") from None

    def _write(self, path: str, data: bytes) -> None:
        from shared.storage.durable import DurableFile

        try:
            with DurableFile(path, mode=0o600) as file:
                if os.geteuid() == 0:
                    owner = os.stat(self.folder)
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                file.write(data)
                file.publish()
        except OSError as error:
            raise ConfigError(f"can't keep what the inventory says in {path}: {error.strerror}") from None


ASK = "`holdfast sources refresh` asks it now"


def own_place(path: str, directory: str, system: str, own: str) -> str:
    """Where a configuration keeps what is its own: at `system` for one below /etc, else beside it."""
    return system if os.path.realpath(path).startswith(_SYSTEM) else os.path.join(directory, ".holdfast", own)


def state_dir(path: str, directory: str, given: str) -> str:
    """A configuration's `state_dir`, which it may leave out."""
    return given or own_place(path, directory, "/var/lib/holdfast", "state")


def place_of(assembly: Assembly) -> Place:
    """Where it is kept, by what files say that may be wrong otherwise."""
    given = str(assembly.data.get("state_dir") or "")
    beside = os.path.normpath(os.path.join(assembly.directory, os.path.expanduser(given))) if given else ""
    return Place(os.path.join(state_dir(assembly.name, assembly.directory, beside), _FOLDER))


def place_in(state: str) -> Place:
    """Where it is kept, by a `state_dir`."""
    return Place(os.path.join(state, _FOLDER))


def has(assembly: Assembly) -> bool:
    """Whether there is an inventory, in a form that tells where its answers are."""
    given = assembly.data.get("state_dir")
    return isinstance(assembly.data.get(KEY), dict) and (given is None or isinstance(given, str))


def join(assembly: Assembly, seen: Seen, kept: Kept | None = None) -> dict[str, float]:
    """Add what the inventory says, what is kept or else `kept`; since when each source that left it is gone.

    Raises ConfigError where what is kept can't be read.
    """
    if not has(assembly):
        return {}
    place = place_of(assembly)
    seen["kept", place.sources] = look("kept", place.sources)
    kept = kept or place.read()
    if kept is None:
        said = place.read_state().error
        reason = f"has given no answer yet, so which sources there are is not known{': ' if said else ''}{said}; {ASK}"
        assembly.problems.append(assembly.problem((KEY,), reason))
        return {}
    # Copies: a preset is expanded in place.
    answered = {name: dict(one) if isinstance(one, dict) else one for name, one in kept.sources.items()}
    assembly.add(place.sources, Document({_OWN: answered}))
    sources: Any = assembly.data[_OWN]
    if not isinstance(sources, dict):
        return {}
    known = names_in(sources)
    gone = {name: one for name, one in kept.gone.items() if name not in known}
    assembly.add(place.sources, Document({_OWN: {name: dict(one.source) for name, one in gone.items()}}))
    return {name: one.since for name, one in gone.items()}


def names_in(sources: Mapping[str, object]) -> set[str]:
    """What sources are called, and were first: one that was renamed is not gone."""
    first = {str(one["formerly"]) for one in sources.values() if isinstance(one, dict) and one.get("formerly")}
    return first | set(sources)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"can't read what the inventory has said in {path}: {error.strerror}") from None
