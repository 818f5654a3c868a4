"""Two sites with one repository, what befalls the objects of one of them, and healing it from the other."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tests.support.attempts import MACHINE, QUICK, Bench
from tests.support.killing_store import Trap
from tests.support.prunes import PACK_SIZE, back_up, forget, prune_spec
from tests.support.replicas import other, replicate
from tests.support.zygote import Ended, Zygote
from workers.backup.spec import SiteSpec
from workers.maintenance.spec import VerifySpec

Change = Callable[[bytes], bytes | None]  # None: the object goes


@dataclass
class Pair:
    """A site `here`, which things befall, and another one, `there`."""

    here: Bench
    there: Bench
    zygote: Zygote

    def copy(self, directory: str) -> Pair:
        """One that starts where this one stands, to be changed."""
        here, there = (os.path.join(directory, name) for name in ("here", "there"))
        return Pair(self.here.copy(here), self.there.copy(there), self.zygote)

    def swapped(self) -> Pair:
        """With the other one to be healed."""
        return Pair(self.there, self.here, self.zygote)

    def spec(self, **more: Any) -> VerifySpec:
        """Heal the one from the other; all data is read."""
        given: dict[str, Any] = {
            "passwords": [MACHINE],
            "share": 100.0,
            "cache_dir": self.here.cache,
            "helpers": 2,
            "pack_size": PACK_SIZE,
            "patience": 0.0,
            "others": [SiteSpec("b", self.there.site)],
            **more,
        }
        return VerifySpec(SiteSpec("a", self.here.site), self.here.repository, heal=True, **given)

    def heal(self, **more: Any) -> dict[str, Any]:
        """Do it; what is said of it."""
        ended = self.try_to_heal(**more)
        assert (ended.error, ended.strays) == ("", 0)
        return ended.result

    def try_to_heal(self, *, trap: Trap | None = None, **more: Any) -> Ended:
        """Do it, though it may end otherwise."""
        return self.zygote.run("heal", asdict(self.spec(**more)), trap=trap, set_=QUICK)


def two_sites(base: str, zygote: Zygote) -> Pair:
    """Three days of a source, and copies of them: the same packs at both."""
    here = Bench(os.path.join(base, "here"), os.path.join(base, "source"))
    for day in (1, 2, 3):
        back_up(here, zygote, day)
    there = other(here, os.path.join("..", "there"))
    replicate(here, there)
    return Pair(here, there, zygote)


def go_apart(pair: Pair) -> Pair:
    """Both forget the same snapshot, and each prunes for itself: no pack that was repacked is at both."""
    first = min(pair.here.snapshots(), key=lambda one: one.time).id
    for bench, size in ((pair.here, PACK_SIZE), (pair.there, 3 * PACK_SIZE)):
        forget(bench, first)
        for _ in range(2):
            assert pair.zygote.run("prune", prune_spec(bench, grace=0, pack_size=size), set_=QUICK).error == ""
    assert pair.here.names("data") != pair.there.names("data")
    return pair


def place(bench: Bench, key: str) -> str:
    """Where an object lies."""
    return os.path.join(bench.path, key)


def pack_key(name: str) -> str:
    """The key of a pack."""
    return f"data/{name[:2]}/{name}"


def keys_of(bench: Bench, *kinds: str) -> list[str]:
    """The keys of all objects of these kinds, in order."""
    found = [pack_key(name) if kind == "data" else f"{kind}/{name}" for kind in kinds for name in bench.names(kind)]
    return sorted(found)


def befall(bench: Bench, key: str, change: Change) -> bytes:
    """Change an object's bytes, or have it go; what it was. Other benches may have hard links to it."""
    path = place(bench, key)
    with open(path, "rb") as file:
        was = file.read()
    os.unlink(path)
    now = change(was)
    if now is not None:
        with open(path, "wb") as file:
            file.write(now)
        os.chmod(path, 0o400)
    return was


def flip(at: int) -> Change:
    """One bit of the byte at a place; of the last ones where it is below 0."""
    return lambda data: data[: at % len(data)] + bytes([data[at % len(data)] ^ 4]) + data[at % len(data) + 1 :]


def flip_at_random(draw: random.Random) -> Change:
    """One bit, anywhere."""

    def change(data: bytes) -> bytes:
        at = draw.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]

    return change


def gone(_: bytes) -> None:
    """It is deleted."""


def cut(data: bytes) -> bytes:
    """It has lost its end."""
    return data[: len(data) // 2]


def grown(data: bytes) -> bytes:
    """It has got more than it had."""
    return data + b"more"


def content(bench: Bench, key: str) -> bytes:
    """An object's bytes."""
    with open(place(bench, key), "rb") as file:
        return file.read()
