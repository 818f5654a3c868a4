"""Asking the inventory: runs its command, and puts in force what can be believed.

Invariant: what is in force is always an answer with which the whole configuration is valid. The order that keeps it:
the command's end, its form, a look at what it lacks, the check of the whole configuration with it, and only then
`sources.json`, whole, by a rename; `state.json` last. Killed at any point, the old answer or the new one is in force,
and at worst it is asked once more. One at a time on a machine, by a lock on a file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from shared.config import loader
from shared.config.assembly import Assembly, assemble
from shared.config.document import parse
from shared.config.inventory import KEY, Gone, Inventory, Kept, Place, State, has, names_in, place_in, place_of
from shared.config.problems import ConfigInvalid, Problem, found
from shared.config.programs import environment
from shared.errors import ConfigError
from shared.observability.masks import mask_text
from shared.observability.structured import structlog

if TYPE_CHECKING:
    from shared.config.fleet import Fleet

A_FEW = 3  # sources: so many may always go at once
_ANSWER_AT_MOST = 64 << 20  # bytes
_SAID_AT_MOST = 64 << 10  # bytes of what it complains
_SHOWN = 5  # names
_LOOK = 1.0  # seconds between looks whether it is time

_log = structlog.get_logger("holdfast.config")


class NotUsed(ConfigError):
    """An answer that is not put in force, or none."""


class Doubted(NotUsed):
    """An answer that lacks so much that a person must say that it is meant."""

    def __init__(self, message: str, lost: list[str], hint: str) -> None:
        super().__init__(message, hint=hint)
        self.lost = tuple(lost)


@dataclass(frozen=True, slots=True)
class Change:
    """What an answer changes, by the names of sources."""

    sources: int
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    back: tuple[str, ...] = ()


def ask(path: str, *, accept: bool = False, keep: bool = True) -> Change:
    """Ask the inventory of a configuration now, and put its answer in force; `accept`: however much it lacks.

    Without `keep` nothing is kept of it. Raises NotUsed, where the answer before stays in force; ConfigError.
    """
    assembly = assemble(os.path.abspath(path), {})
    if not has(assembly):
        raise ConfigError(f"{path} has no {KEY}", hint="Name a program: inventory: {command: [...]}")
    inventory = _settings(assembly)
    place = place_of(assembly)
    place.make()
    with _turn(place, wait=True):
        return _ask(path, inventory, place, accept=accept, keep=keep)


def first(path: str) -> bool:
    """Ask where nothing is kept yet; whether something is now. Never raises for what the inventory does."""
    assembly = assemble(path, {})
    if not has(assembly) or os.path.exists(place_of(assembly).sources):
        return False
    inventory, place = _settings(assembly), place_of(assembly)
    place.make()
    with _turn(place, wait=True), suppress(NotUsed):
        if place.read() is None:  # who had the lock may have done it
            _ask(path, inventory, place)
    return os.path.exists(place.sources)


def drop(path: str, names: tuple[str, ...]) -> None:
    """Lose sight of sources that left the inventory. Their snapshots stay. Raises ConfigError."""
    assembly = assemble(os.path.abspath(path), {})
    place = place_of(assembly)
    kept = place.read() if has(assembly) else None
    if kept is None:
        raise ConfigError(f"{path} has no {KEY} that has answered")
    with _turn(place, wait=True):
        kept = place.read() or kept
        for name in names:
            if name not in kept.gone:
                there = ", ".join(kept.gone) or "none"
                raise ConfigError(f"source {name} has not left the inventory", hint=f"These have: {there}")
        place.keep(Kept(kept.sources, {name: one for name, one in kept.gone.items() if name not in names}))


class Asker:
    """Asks when it is time, in a thread of its own: who looks never waits for a command."""

    def __init__(self) -> None:
        self._next = 0.0
        self._thread: threading.Thread | None = None
        self._said = ""

    def look(self, fleet: Fleet) -> None:
        """Begin to ask where it is time, and nobody on this machine does."""
        inventory, now = fleet.inventory, time.monotonic()
        if inventory is None or now < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        self._next = now + _LOOK
        if is_due(place_in(fleet.state_dir).read_state(), inventory, time.time()):
            self._thread = threading.Thread(target=self._ask, args=(fleet, inventory), name="inventory", daemon=True)
            self._thread.start()

    def _ask(self, fleet: Fleet, inventory: Inventory) -> None:
        place = place_in(fleet.state_dir)
        try:
            place.make()
            with _turn(place, wait=False) as mine:
                if mine and is_due(place.read_state(), inventory, time.time()):
                    _ask(fleet.path, inventory, place)
                    self._said = ""
        except ConfigError as error:
            self._next = time.monotonic() + inventory.every  # what can't be noted is asked no more often
            if str(error) != self._said:
                self._said = str(error)
                _log.warning(
                    "the inventory's answer is not used; the last good one stays", config=fleet.path, reason=self._said
                )
        except Exception as error:  # noqa: BLE001 - a thread's end is seen by nobody
            _log.exception("the inventory can't be asked", config=fleet.path, reason=repr(error))


def is_due(state: State, inventory: Inventory, now: float) -> bool:
    """Whether it is time to ask, by a clock that may have been put back."""
    return not state.asked <= now < state.asked + inventory.every or state.command != _mark(inventory)


def _ask(path: str, inventory: Inventory, place: Place, *, accept: bool = False, keep: bool = True) -> Change:
    """Under the lock: once from the command to what is kept. Raises NotUsed, ConfigError."""
    now = time.time()
    before = place.read()
    asked = replace(place.read_state(), asked=now, command=_mark(inventory), error="", lost=())
    try:
        sources = _sources(_run(inventory))
        if not accept:
            _doubt(sources, before, inventory)
        kept, change = _merged(sources, before, now)
        _check(path, kept)
    except NotUsed as error:
        if keep:
            lost = error.lost if isinstance(error, Doubted) else ()
            place.note(replace(asked, error=str(error), lost=lost))
        raise
    if keep:
        if kept != before:
            place.keep(kept)
        place.note(replace(asked, answered=now))
    return change


def _merged(sources: Mapping[str, object], before: Kept | None, now: float) -> tuple[Kept, Change]:
    old, known = before or Kept({}), names_in(sources)
    left = {name: one for name, one in old.sources.items() if name not in known}
    gone = {name: one for name, one in old.gone.items() if name not in known}
    gone |= {name: Gone(now, one) for name, one in left.items() if isinstance(one, dict)}
    back = tuple(name for name in old.gone if name in sources)
    new = tuple(name for name in sources if name not in old.sources and name not in old.gone)
    changed = tuple(name for name, one in sources.items() if name in old.sources and old.sources[name] != one)
    return Kept(sources, gone), Change(len(sources), new, changed, tuple(left), back)


def _doubt(sources: Mapping[str, object], before: Kept | None, inventory: Inventory) -> None:
    if before is None:
        return
    known = names_in(sources)
    lost = [name for name in before.sources if name not in known]
    much = len(lost) > A_FEW and len(lost) * 100 > len(before.sources) * inventory.max_loss
    if much or (lost and not sources):
        few = ", ".join(lost[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
        raise Doubted(
            f"the inventory's answer lacks {len(lost)} of {len(before.sources)} sources ({few}) and is doubted, "
            "so the one before stays in force",
            lost,
            "If they are meant to go: holdfast sources refresh --accept",
        )


def _check(path: str, kept: Kept) -> None:
    try:
        loader.load(path, kept=kept)
    except ConfigInvalid as error:
        raise NotUsed(f"the inventory's answer can't be used: {error}") from None


def _sources(raw: bytes) -> dict[str, object]:
    """The sources of an answer. Raises NotUsed."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise NotUsed("the inventory's answer is not UTF-8") from None
    try:
        data: Any = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):  # it is not JSON, but may be YAML; and who reads that says what is wrong
        document = parse(text)
        if document.problems:
            one: Problem = document.problems[0]
            raise NotUsed(f"the inventory's answer is broken: {one.render(f'line {one.line}')}") from None
        data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("sources"), dict):
        what = found(data.get("sources") if isinstance(data, dict) else data)
        raise NotUsed(f"the inventory's answer is none: expected sources by id, as `sources:` has them, found {what}")
    more = ", ".join(str(key) for key in data if key != "sources")
    if more:
        raise NotUsed(f"the inventory's answer has {more}: nothing but sources is taken from it")
    return dict(data["sources"])


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A mapping, in which nothing stands twice: JSON would drop the first."""
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key stands twice")
    return data


def _settings(assembly: Assembly) -> Inventory:
    try:
        return Inventory.model_validate(assembly.data[KEY], context={"directory": assembly.directory})
    except ValidationError:
        loader.load(assembly.name)  # which says what is wrong with it, and where
        raise


def _mark(inventory: Inventory) -> str:
    return hashlib.sha256("\0".join(inventory.command).encode()).hexdigest()[:16]


@contextmanager
def _turn(place: Place, *, wait: bool) -> Iterator[bool]:
    """Nobody else asks meanwhile; gives whether that is so, always with `wait`. Raises ConfigError."""
    try:
        fd = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"can't keep what the inventory says in {place.folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _run(inventory: Inventory) -> bytes:
    """What the command prints. It is killed, with all that it has started, when its time is over. Raises NotUsed."""
    name = inventory.command[0]
    env, secrets = environment(inventory.env, KEY)
    try:
        process = subprocess.Popen(
            inventory.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise NotUsed(f"the inventory's command {name} can't be started: {error.strerror}") from None
    deadline = time.monotonic() + inventory.timeout
    try:
        answer, said = _read(process, deadline, name)
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise NotUsed(f"the inventory's command {name} gave no answer in {inventory.timeout:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if code:
        lines = said.decode(errors="replace").strip().splitlines()
        last = mask_text(lines[-1][:200]) if lines else ""
        for secret in secrets:
            last = last.replace(secret, "***")
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise NotUsed(f"the inventory's command {name} {how}{': ' if last else ''}{last}")
    return answer


def _read(process: subprocess.Popen[bytes], deadline: float, name: str) -> tuple[bytes, bytes]:
    """Both of what it prints and complains, to their ends. Raises TimeoutError, NotUsed."""
    got: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    read: Callable[[int, int], bytes] = os.read
    with selectors.DefaultSelector() as selector:
        for pipe in got:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                data = read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    got[key.fileobj] = (got[key.fileobj] + data)[-_SAID_AT_MOST:]
                else:
                    got[key.fileobj] += data
                    if len(got[key.fileobj]) > _ANSWER_AT_MOST:
                        raise NotUsed(f"the inventory's command {name} prints more than {_ANSWER_AT_MOST >> 20} MiB")
    return bytes(got[process.stdout]), bytes(got[process.stderr])
