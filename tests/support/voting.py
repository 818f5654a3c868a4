"""Members in memory that fail, forget and are gone by a seed, and proposers that get in each other's way.

Between any two operations of one proposer another one may do all of its own: that is what `between` is called for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, cast

from shared.errors import StorageError
from shared.storage.api import MissingObject, ObjectStore, Transient
from shared.topology.memory import Memory
from shared.topology.register import Register

SECRET = b"s" * 32


class Serial(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except StorageError as error:
            future.set_exception(error)
        return future


class Died(BaseException):
    """The proposer was killed here."""


@dataclass
class MemberStore:
    """One member's object. `down`: nothing answers. What `trouble` gives befalls an operation."""

    name: str
    trouble: Callable[[str], str] = lambda _: ""
    data: bytes | None = None
    version: int = 0
    down: bool = False
    older: list[bytes] = field(default_factory=list)
    url: str = ""

    def _enter(self, what: str) -> str:
        trouble = self.trouble(what)
        if self.down or trouble == "fails":
            raise Transient(f"{self.name} does not answer")
        if trouble == "dies":
            raise Died
        return trouble

    def _leave(self, trouble: str) -> None:
        if trouble == "answer lost":
            raise Transient(f"the answer of {self.name} is lost")
        if trouble == "dies after":
            raise Died

    def get_versioned(self, _key: str) -> tuple[bytes, str]:
        """As a store does."""
        self._leave(self._enter("read"))
        if self.data is None:
            raise MissingObject(f"{self.name} has none")
        return self.data, str(self.version)

    def put_if_absent(self, _key: str, data: bytes) -> bool:
        """As a store does."""
        trouble = self._enter("write")
        done = self.data is None
        if done:
            self._set(data)
        self._leave(trouble)
        return done

    def compare_and_swap(self, _key: str, data: bytes, *, version: str) -> bool:
        """As a store does."""
        trouble = self._enter("write")
        done = self.data is not None and version == str(self.version)
        if done:
            self._set(data)
        self._leave(trouble)
        return done

    def _set(self, data: bytes) -> None:
        if self.data is not None:
            self.older.append(self.data)
        self.data = data
        self.version += 1

    def forget(self, draw: random.Random) -> None:
        """Lose the object, have it damaged, or rolled back."""
        how = draw.choice(["gone", "damaged", "older"])
        if how == "gone":
            self.data = None
        elif self.data is not None:
            self.data = draw.choice(self.older) if how == "older" and self.older else b"?" + self.data
        self.version += 1

    def close(self) -> None:
        """Nothing to do."""


def register_of(stores: dict[str, MemberStore], members: list[str], memory: Memory | None = None) -> Register:
    """A proposer that waits for nothing."""
    return Register(
        members,
        lambda name: cast("ObjectStore", stores[name]),
        SECRET,
        memory or Memory(),
        threads=Serial(),
        pause=lambda _: None,
    )
