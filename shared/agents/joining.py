"""Joining, on the server: a token becomes a configuration directory.

All that can be known before is looked at before the token is spent. Redis gives the parcel away and forgets it in one
step, so of two who have the same token one gets it. A server that dies between that and its last file needs another
token: that is cheap, and keeping the parcel for a second try would make it worth stealing for longer.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field

from redis.exceptions import AuthenticationError, NoPermissionError

from shared.agents.errors import BadToken, OtherHost, TokenExpired, TokenSpent
from shared.agents.parcel import MAIN, Parcel, check_place, with_user, write
from shared.agents.token import Token, join_key, join_user
from shared.config.fleet import Fleet
from shared.errors import ConfigError, LedgerError, StorageError
from shared.ledger.connect import connect
from shared.ledger.guard import guarded


@dataclass(slots=True)
class Joined:
    """What a join made: the configuration, the files that were written, and what did not work on a first try."""

    host: str
    config: str
    written: list[str]
    problems: list[str] = field(default_factory=list)


def join(text: str, directory: str, *, host: str = "") -> Joined:
    """Take what lies ready for a token, and write it. `host`: said by who knows that this server is that host.

    Raises BadToken, TokenExpired, TokenSpent, OtherHost, AgentError, LedgerAway.
    """
    token = Token.parse(text)
    _require_here(token, host)
    directory = os.path.abspath(directory)
    check_place(directory, token.host)
    parcel = Parcel.from_json(token.open(_take(token)))
    written = write(parcel, directory)
    config = os.path.join(directory, MAIN)
    return Joined(token.host, config, written, list(_try(config)))


def _require_here(token: Token, host: str) -> None:
    own = socket.gethostname()
    if token.host not in ({host} if host else {own, own.partition(".")[0]}):
        raise OtherHost(
            f"this token is for host {token.host}, and this is {host or own}",
            hint=f"If this server is {token.host} in the fleet's file, say so: --host {token.host}",
        )


def _take(token: Token) -> bytes:
    client = connect(with_user(token.broker, join_user(token.id), token.password)).client
    try:
        sealed = guarded(lambda: client.getdel(join_key(token.id)))
    except LedgerError as error:
        if not isinstance(error.__cause__, AuthenticationError | NoPermissionError):
            raise
        sealed = None  # the user was removed: after a use, when its time was over, or by a revocation
    finally:
        client.close()
    if sealed is not None:
        try:
            return bytes.fromhex(str(sealed))
        except ValueError:
            raise BadToken(
                "what lies ready for this token is damaged",
                hint=f"Make another, where the fleet's file is: holdfast agent enroll {token.host}",
            ) from None
    again = f"Make another, where the fleet's file is: holdfast agent enroll {token.host}"
    if time.time() >= token.expires:
        raise TokenExpired("the token has expired", hint=again)
    raise TokenSpent("the token has been used already, or was withdrawn", hint=again)


def _try(config: str) -> list[str]:
    """Whether the new rights work: one word to Redis, one look at each site."""
    problems: list[str] = []
    try:
        fleet = Fleet.load(config)
        ledger = connect(fleet.broker_url() or "", fleet.agent)
        guarded(lambda: ledger.client.exists(ledger.keys.ledger))
        ledger.client.close()
    except (ConfigError, LedgerError) as error:
        problems.append(str(error))
        return problems
    for source in fleet.sources:
        repository = fleet.repository_of(source)
        try:
            store = fleet.open_site(fleet.configured_primary(source))
            try:
                store.below(f"repos/{repository}").stat("config")
            finally:
                store.close()
        except (ConfigError, StorageError) as error:
            problems.append(str(error))
    return problems
