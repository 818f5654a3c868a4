"""Which agents are enrolled: the evidence that is not in Redis, at each site as `holdfast/agents`.

    HMAC-SHA256 in hex | newline | {"agents": {host: [generation, revoked]}, "nonce": ...}

Redis may lose its users: who runs the scheduler gives them back by this. Entries only grow, (generation, revoked) by
that order, so copies at sites merge, and a revocation is never undone by a site that missed it while one that heard of
it answers. The object is authenticated by the fleet's secret, so that nobody who may write there enrolls himself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import StorageError
from shared.storage.api import MissingObject

if TYPE_CHECKING:
    from shared.storage.api import ObjectStore

KEY = "holdfast/agents"
_TRIES = 20


class RegisterDamaged(StorageError):
    """What lies there was not written with this fleet's secret, or is damaged."""


@dataclass(frozen=True, slots=True, order=True)
class Enrolment:
    """One host's. The `generation` counts its enrolments that followed a revocation, from 1."""

    generation: int
    revoked: bool = False

    def again(self) -> Enrolment:
        """What an enrolment now makes of it."""
        return Enrolment(self.generation + 1) if self.revoked else self


FIRST = Enrolment(1)


def merge(*parts: Mapping[str, Enrolment]) -> dict[str, Enrolment]:
    """Of each host the newest that any of them knows."""
    found: dict[str, Enrolment] = {}
    for part in parts:
        for host, one in part.items():
            found[host] = max(one, found.get(host, one))
    return found


def encode(secret: bytes, enrolled: Mapping[str, Enrolment]) -> bytes:
    """The object. It carries a nonce, as a compare-and-swap needs."""
    agents = {host: [one.generation, one.revoked] for host, one in sorted(enrolled.items())}
    body = json.dumps({"agents": agents, "nonce": os.urandom(8).hex()}).encode()
    return _mac(secret, body) + b"\n" + body


def decode(secret: bytes, raw: bytes, where: str) -> dict[str, Enrolment]:
    """What it says. Raises RegisterDamaged."""
    mac, _, body = raw.partition(b"\n")
    if not hmac.compare_digest(mac, _mac(secret, body)):
        raise RegisterDamaged(
            f"the list of agents at {where} ({KEY}) is damaged, or was written with another fleet's secret",
            hint="Is the secret the one that the fleet has always had? Else delete the object and enroll again",
        )
    return {host: Enrolment(int(one[0]), bool(one[1])) for host, one in json.loads(body)["agents"].items()}


def read(store: ObjectStore, secret: bytes) -> dict[str, Enrolment]:
    """What one site knows. Raises StorageError."""
    try:
        return decode(secret, store.get(KEY), store.url)
    except MissingObject:
        return {}


def read_all(stores: Iterable[ObjectStore], secret: bytes) -> tuple[dict[str, Enrolment], list[StorageError]]:
    """What all sites that answer know, and what the others said."""
    found: dict[str, Enrolment] = {}
    failed: list[StorageError] = []
    for store in stores:
        try:
            found = merge(found, read(store, secret))
        except StorageError as error:
            failed.append(error)
    return found, failed


def note(store: ObjectStore, secret: bytes, enrolled: Mapping[str, Enrolment]) -> None:
    """Add to what one site knows; what it knows that is newer stays. Raises StorageError."""
    for _ in range(_TRIES):
        try:
            raw, version = store.get_versioned(KEY)
        except MissingObject:
            if store.put_if_absent(KEY, encode(secret, enrolled)):
                return
            continue
        known = decode(secret, raw, store.url)
        wanted = merge(known, enrolled)
        if wanted == known or store.compare_and_swap(KEY, encode(secret, wanted), version=version):
            return
    raise StorageError(f"the list of agents at {store.url} ({KEY}) goes on changing", hint="Try again")


def _mac(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, b"holdfast agents 1|" + body, hashlib.sha256).hexdigest().encode()
