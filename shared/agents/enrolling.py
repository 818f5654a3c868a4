"""Enrolling and revoking an agent, where the fleet's file is.

Each step may be repeated, and a kill between two of them is mended by asking again. The order of an enrolment: the
repositories, then the rights at the sites, then the register, then the user in Redis, then the token: who holds a
token finds all that it leads to. The order of a revocation: the register first, so that no scheduler gives back what
is then taken away: the user in Redis, and those at the sites.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.agents import acl, identity, register
from shared.agents.errors import NotEnrolled
from shared.agents.parcel import address_of, make_parcel, sites_of
from shared.agents.policy import agent_policy
from shared.agents.register import FIRST, Enrolment
from shared.agents.s3users import S3Users
from shared.agents.token import Token
from shared.config.opening import recovery_password
from shared.config.stores import admin_credentials
from shared.errors import StorageError
from shared.ledger.connect import connect
from shared.messaging.broker import broker_url
from shared.storage.open import parse_url

if TYPE_CHECKING:
    import redis

    from shared.config.fleet import Fleet


@dataclass(slots=True)
class ByHand:
    """Rights at one site that somebody has to give: no administrator of it is configured."""

    site: str
    user: str
    secret: str = field(repr=False)
    policy: dict[str, Any]


@dataclass(slots=True)
class Enrolled:
    """What an enrolment made."""

    token: Token
    generation: int
    created: list[str] = field(default_factory=list)  # repositories, each `<name> at <site>`
    granted: list[str] = field(default_factory=list)  # sites
    by_hand: list[ByHand] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def admin_of(fleet: Fleet) -> redis.Redis:
    """The fleet's Redis, as who may make users there. Connects at the first call. Raises ConfigError."""
    return connect(fleet.admin_url() or broker_url(fleet)).client


def known(fleet: Fleet) -> tuple[dict[str, Enrolment], list[StorageError]]:
    """Who is enrolled, by all sites that answer, and what the others said. Raises ConfigError."""
    stores = [fleet.open_site(site.id) for site in fleet.sites.values() if not site.witness]
    try:
        return register.read_all(stores, fleet.secret.read())
    finally:
        for store in stores:
            store.close()


def enroll(fleet: Fleet, host: str, *, broker: str = "", seconds: int = 3600) -> Enrolled:
    """Give a host's agent all that it needs, and make the token by which it fetches it.

    `broker`: the address of Redis as the server sees it, else that of the configuration. `seconds`: for how long the
    token is good. Raises ConfigError, AgentError, StorageError, LedgerError.
    """
    address = address_of(broker or fleet.broker_url() or broker_url(fleet))
    sites = sites_of(fleet, host)
    client = admin_of(fleet)
    there, failed = known(fleet)
    if failed and host not in there:
        raise failed[0]  # a revocation might stand just there
    enrolment = there.get(host, FIRST).again()
    token = Token.new(host, address, int(time.time()) + seconds)
    done = Enrolled(token, enrolment.generation)
    done.warnings += [f"{error.args[0]}: asked no further; enroll again when it is back" for error in failed]
    for site, repositories in sites.items():
        _prepare(fleet, site, repositories, done, host)
    _note(fleet, host, enrolment, done.warnings)
    if acl.is_open(client):
        done.warnings.append(
            "this Redis lets anybody in without a password (its user default), so nothing holds an agent to its own "
            "keys: ACL SETUSER default off, or requirepass"
        )
    acl.set_agents(client, [(host, identity.redis_password(fleet.secret.read(), host, enrolment.generation))])
    acl.sweep_offers(client, also=host)
    parcel = make_parcel(fleet, host, enrolment.generation, address)
    acl.offer(client, token, token.seal(parcel.to_json()), seconds)
    acl.save(client)
    return done


def revoke(fleet: Fleet, host: str) -> list[str]:
    """Take all rights from a host's agent; what could not be taken now, in words. Its backups stay.

    Raises NotEnrolled, ConfigError; StorageError where a site could not be told, and nothing has been taken yet.
    """
    there, failed = known(fleet)
    client = admin_of(fleet)
    if host not in there and not failed:
        raise NotEnrolled(f"no agent of host {host} is enrolled", hint="`holdfast agent list` shows who is")
    enrolment = Enrolment(there.get(host, FIRST).generation, revoked=True)
    missed: list[str] = []
    _note(fleet, host, enrolment, missed)
    acl.sweep_offers(client, also=host)
    acl.remove_agents(client, [host])
    acl.save(client)
    user = identity.s3_user(fleet.secret.read(), host, enrolment.generation)
    for site in fleet.sites.values():
        if not site.is_s3:
            continue
        try:
            users = _users_of(fleet, site.id)
            if users is None:
                missed.append(f"site {site.id}: remove user and policy {user} there by hand")
            else:
                users.remove(user)
        except StorageError as error:
            missed.append(str(error))
    return missed


def _prepare(fleet: Fleet, site: str, repositories: list[str], done: Enrolled, host: str) -> None:
    """An agent creates no repository and gives itself no rights: that is done here."""
    from shared.repository.repository import Repository
    from shared.storage.api import MissingObject

    store = fleet.open_site(site)
    secret = fleet.secret.read()
    try:
        for name in repositories:
            below = store.below(f"repos/{name}")
            try:
                below.stat("config")
            except MissingObject:
                Repository.create(
                    below, repository_id=name, fleet_secret=secret, recovery_password=recovery_password(fleet)
                )
                done.created.append(f"{name} at {site}")
        place = parse_url(fleet.site(site).url)
        if not place.is_s3:
            done.warnings.append(f"site {site} is a directory: nothing there holds an agent to its own repositories")
            return
        if not store.probe().versioned:
            done.warnings.append(
                f"the bucket of site {site} keeps no versions: a stolen server can overwrite its own backups for good "
                "(docs/agents.md#versions)"
            )
    finally:
        store.close()
    user = identity.s3_user(secret, host, done.generation)
    key = identity.s3_secret(secret, site, host, done.generation)
    policy = agent_policy(place, repositories)
    users = _users_of(fleet, site)
    if users is None:
        done.by_hand.append(ByHand(site, user, key, policy))
    else:
        users.grant(user, key, policy)
        done.granted.append(site)


def _users_of(fleet: Fleet, site: str) -> S3Users | None:
    """Who gives rights at a site; None where the configuration names no administrator. Raises ConfigError, Denied."""
    access = fleet.site_access(site)
    credentials = admin_credentials(fleet, site)
    return S3Users(site, access.url, credentials, access.ca_file) if credentials else None


def _note(fleet: Fleet, host: str, enrolment: Enrolment, missed: list[str]) -> None:
    """Tell every site; one that does not answer is told of in `missed`. Raises StorageError where none does."""
    secret = fleet.secret.read()
    failed: list[StorageError] = []
    keeping = [site.id for site in fleet.sites.values() if not site.witness]
    for site in keeping:
        try:
            store = fleet.open_site(site)
            try:
                register.note(store, secret, {host: enrolment})
            finally:
                store.close()
        except StorageError as error:
            failed.append(error)
            missed.append(f"site {site} could not be told: {error.args[0]}; ask again when it is back")
    if len(failed) == len(keeping):
        raise failed[0]
