"""The users of agents in Redis, and what each may do: the ACL that holds an agent to its own keys.

A list of what is allowed, and no list of what is not: a command that Redis learns later is refused. What names no key
tells of everybody's (KEYS, SCAN, RANDOMKEY, PUBSUB, CLIENT TRACKING) or stops everybody (FLUSHALL, SCRIPT FLUSH), so it
is not among them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import NoPermissionError

from shared.agents.errors import AgentError
from shared.agents.identity import REDIS_USERS, redis_user
from shared.agents.token import JOIN_USERS, join_key, join_user
from shared.errors import LedgerError
from shared.ledger.guard import guarded
from shared.ledger.keys import realm_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis

    from shared.agents.token import Token

_DATA = ("string", "hash", "list", "set", "sortedset", "transaction")  # categories whose commands name their keys
_CONNECTING = ("ping", "select", "client|setname", "client|setinfo")
_COMMANDS = (
    *_CONNECTING,
    *("del", "unlink", "exists", "type", "expire", "pexpire", "persist", "ttl", "pttl", "time"),
    *("memory|usage", "object|encoding"),  # of its own keys: scripts look at sizes first
    *("eval", "evalsha", "script|load", "script|exists"),
    *("publish", "subscribe", "unsubscribe", "psubscribe", "punsubscribe"),
)
_NOT = ("admin", "dangerous")  # of those categories: SORT, which reads by patterns


def agent_rules(host: str, password: str) -> list[str]:
    """The rules of ACL SETUSER for a host's agent, from nothing."""
    prefix = realm_prefix(host)
    allowed = [*(f"+@{name}" for name in _DATA), *(f"-@{name}" for name in _NOT), *(f"+{name}" for name in _COMMANDS)]
    return ["reset", "on", f">{password}", f"~{prefix}*", "resetchannels", f"&{prefix}*", "-@all", *allowed]


def join_rules(token_id: str, password: str) -> list[str]:
    """The rules for who holds a token: it may take one value, once."""
    allowed = [*(f"+{name}" for name in _CONNECTING), "+getdel"]
    return ["reset", "on", f">{password}", f"~{join_key(token_id)}", "resetchannels", "-@all", *allowed]


def set_agents(client: redis.Redis, passwords: Iterable[tuple[str, str]]) -> None:
    """Make, or make anew, the users of agents, each (host, password). Raises AgentError, LedgerAway, LedgerError."""
    _acl(client, [("SETUSER", redis_user(host), *agent_rules(host, password)) for host, password in passwords])


def agents(client: redis.Redis) -> set[str]:
    """The hosts whose agents have a user. Raises AgentError, LedgerAway, LedgerError."""
    return {name.removeprefix(REDIS_USERS) for name in _users(client) if name.startswith(REDIS_USERS)}


def remove_agents(client: redis.Redis, hosts: Iterable[str]) -> None:
    """Remove the users of agents, whose connections end with that. Raises AgentError, LedgerAway, LedgerError."""
    _acl(client, [("DELUSER", redis_user(host)) for host in hosts])


def offer(client: redis.Redis, token: Token, sealed: bytes, seconds: int) -> None:
    """Put what a token is for, and the user who may take it. Raises AgentError, LedgerAway, LedgerError."""
    guarded(lambda: client.set(join_key(token.id), sealed.hex(), ex=seconds))
    _acl(client, [("SETUSER", join_user(token.id), *join_rules(token.id, token.password))])


def sweep_offers(client: redis.Redis, *, also: str = "") -> None:
    """Remove the users of tokens that were used or have expired, and withdraw the tokens for host `also`."""
    ids = sorted(name.removeprefix(JOIN_USERS) for name in _users(client) if name.startswith(JOIN_USERS))
    withdrawn = [one for one in ids if also and one.startswith(f"{also}:")]
    pipe = client.pipeline(transaction=False)
    for one in withdrawn:
        pipe.delete(join_key(one))
    for one in ids:
        pipe.exists(join_key(one))
    there = guarded(pipe.execute)[len(withdrawn) :]
    _acl(client, [("DELUSER", join_user(one)) for one, is_there in zip(ids, there, strict=True) if not is_there])


def save(client: redis.Redis) -> None:
    """Write the users to Redis's own file, where it has one (`aclfile`); else they are given back by the scheduler."""
    with suppress(LedgerError):
        _acl(client, [("SAVE",)])


def is_open(client: redis.Redis) -> bool:
    """Whether anybody may do anything there without a password, so that no ACL holds anyone."""
    (about,) = _acl(client, [("GETUSER", "default")])
    flags = about["flags"] if isinstance(about, dict) else dict(zip(about[::2], about[1::2], strict=True))["flags"]
    return "nopass" in flags and "on" in flags


def _users(client: redis.Redis) -> list[str]:
    return cast("list[str]", _acl(client, [("USERS",)])[0])


def _acl(client: redis.Redis, commands: Iterable[tuple[str, ...]]) -> list[Any]:
    """The answers to some ACL commands, in one round trip."""
    pipe = client.pipeline(transaction=False)
    for words in commands:
        pipe.execute_command("ACL", *words)  # type: ignore[no-untyped-call] # its types name no ACL of a pipeline
    try:
        return cast("list[Any]", guarded(pipe.execute))
    except LedgerError as error:
        if isinstance(error.__cause__, NoPermissionError):
            raise AgentError(
                "the broker's user may not make users of Redis",
                hint="Give it +acl, or name one that may: regions: {...: {admin: ...}} (docs/agents.md)",
            ) from error
        raise
