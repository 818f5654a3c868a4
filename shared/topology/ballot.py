"""What one member keeps of the register: a promise, and what it accepted last. Bytes and rules, no I/O.

    HMAC-SHA256 in hex | newline | {"promised": [n, who], "accepted": [n, who] or null, "value": ..., "least": n,
                                    "nonce": ...}

The members are passive (CASPaxos over objects): whoever proposes reads an object and replaces it by a conditional
write, so these rules are the proposer's to keep. Invariants: `promised` never falls, `accepted` is at most `promised`,
and no object is ever deleted, as a promise would be forgotten with it. Each write carries a nonce, since a store may
compare by the bytes' hash. It is authenticated by the fleet's secret: who may write there elects nobody by that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import dataclass, replace
from typing import Any

from shared.errors import StorageError
from shared.topology.state import State

KEY = "holdfast/topology"


class VoteDamaged(StorageError):
    """What lies at a member was not written with this fleet's secret, or is damaged."""


class VoteUnreadable(StorageError):
    """It was written with this fleet's secret, by a release that says more than this one understands."""


@dataclass(frozen=True, order=True, slots=True)
class Ballot:
    """A proposer's turn: ordered, and no two proposers have the same."""

    number: int = 0
    who: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """One member's."""

    promised: Ballot = Ballot()
    accepted: Ballot | None = None  # None: it was founded, and accepted nothing yet
    state: State | None = None
    least: int = 0  # so many members were enough to accept it, as a person said; 0: a majority

    def promise(self, ballot: Ballot) -> Vote | None:
        """Its promise to hear of no lower one; None where it has promised a higher one."""
        return replace(self, promised=ballot) if ballot >= self.promised else None

    def accept(self, ballot: Ballot, state: State, least: int = 0) -> Vote | None:
        """What it accepts; None where it has promised a higher one."""
        return Vote(ballot, ballot, state, least) if ballot >= self.promised else None


def encode(secret: bytes, vote: Vote) -> bytes:
    """The object."""
    body = json.dumps(
        {
            "promised": [vote.promised.number, vote.promised.who],
            "accepted": [vote.accepted.number, vote.accepted.who] if vote.accepted else None,
            "value": vote.state.to_json() if vote.state else None,
            "least": vote.least,
            "nonce": os.urandom(8).hex(),
        }
    ).encode()
    return _mac(secret, body) + b"\n" + body


def decode(secret: bytes, raw: bytes, where: str) -> Vote:
    """What it says. Raises VoteDamaged, VoteUnreadable."""
    mac, _, body = raw.partition(b"\n")
    if not hmac.compare_digest(mac, _mac(secret, body)):
        raise VoteDamaged(
            f"the topology at {where} ({KEY}) is damaged, or was written with another fleet's secret",
            hint="Is the secret the one that the fleet has always had? The other members heal it",
        )
    try:
        said: dict[str, Any] = json.loads(body)
        accepted = said["accepted"]
        return Vote(
            Ballot(*said["promised"]),
            Ballot(*accepted) if accepted else None,
            State.from_json(said["value"]) if said["value"] else None,
            int(said.get("least", 0)),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise VoteUnreadable(
            f"the topology at {where} ({KEY}) was written by another release ({error!r})", hint="Upgrade this one"
        ) from error


def _mac(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, b"holdfast topology 1|" + body, hashlib.sha256).hexdigest().encode()
