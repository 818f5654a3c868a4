"""What a server gets when it joins: the files of its own configuration directory, and none of the fleet's secrets.

Made where the fleet's file is, written on the server. `holdfast.yaml` and what it refers to are the fleet's: they are
written anew at each join. `conf.d/sources.yaml` is the server's own: written once, and then left alone, as it says what
of this server is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import yaml

from shared import topology
from shared.agents import identity
from shared.agents.errors import AgentError, OtherHost
from shared.config.loader import load
from shared.errors import ConfigError
from shared.retention import span
from shared.storage.durable import make_directories, write_durable, write_durable_if_absent

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.models import Policy, Site, Source

MAIN = "holdfast.yaml"
SOURCES = "conf.d/sources.yaml"
_BROKER, _PASSWORDS = "broker.url", "machine.passwords"
_SAME = "Use the same release here and there"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_HEAD = """\
# The configuration of the agent of {host}, written by `holdfast agent join`, and written anew by the next one: what you
# add goes into conf.d/. What of this server is read stands in {sources}, which is yours.
# Where restores may write that come over the queue:  restore_to: [/srv/restore]   (without it: nowhere)
"""
_HEAD_SOURCES = """\
# What the agent of this server reads. Written once; it is yours from now on. Sources are known by their ids and labels
# where the fleet's file is, too: one that is only here never comes due.
"""


@dataclass(frozen=True, slots=True)
class Parcel:
    """The files by their names, each relative to the directory."""

    host: str
    files: Mapping[str, str] = field(repr=False)

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {"host": self.host, "files": dict(self.files)}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Parcel:
        """Read what `to_json` gave. Raises AgentError for names that lead elsewhere."""
        files = data.get("files")
        if not isinstance(files, dict) or not isinstance(data.get("host"), str):
            raise AgentError("what lies ready for this token is of another release", hint=_SAME)
        for name in files:
            if name != SOURCES and not _NAME.fullmatch(name):
                raise AgentError(
                    f"what lies ready for this token has a file of the name {name!r}",
                    hint=f"{_SAME}; else ask who enrolled this host: it may not have been made there",
                )
        return cls(str(data["host"]), {str(name): str(text) for name, text in files.items()})


def sources_of(fleet: Fleet, host: str) -> list[Source]:
    """The sources that are read on a host, in the file's order. Raises AgentError where it has none."""
    found = [source for source in fleet.sources.values() if source.host == host]
    if not found:
        fleet.require_host(host)
        raise AgentError(f"no source is read on host {host}", hint=f"Give it one in {fleet.path}: {{host: {host}}}")
    return found


def sites_of(fleet: Fleet, host: str) -> dict[str, list[str]]:
    """Each site that an agent uses, with its repositories there: the primaries of its sources, and their copies'."""
    found: dict[str, list[str]] = {}
    now = topology.current(fleet)
    for source in sources_of(fleet, host):
        policy = fleet.policy_for(source.id)
        wanted = [now.primary(source.id)]
        if policy is not None and policy.copies is not None:
            keeping = [site.id for site in fleet.sites.values() if not site.witness]
            wanted += policy.copies.sites or keeping
        for site in dict.fromkeys(wanted):
            repositories = found.setdefault(site, [])
            if (name := fleet.repository_of(source.id)) not in repositories:
                repositories.append(name)
    return found


def make_parcel(fleet: Fleet, host: str, generation: int, broker: str) -> Parcel:
    """What a host's agent gets. `broker`: Redis's address as the server sees it. Raises ConfigError, AgentError."""
    secret = fleet.secret.read()
    sources, sites = sources_of(fleet, host), sites_of(fleet, host)
    repositories = dict.fromkeys(fleet.repository_of(source.id) for source in sources)
    password = identity.redis_password(secret, host, generation)
    files = {
        _BROKER: with_user(broker, identity.redis_user(host), password) + "\n",
        _PASSWORDS: "".join(f"{name} {fleet.machine_password(name)}\n" for name in repositories),
    }
    described: dict[str, Any] = {}
    for name in sites:
        key = identity.s3_secret(secret, name, host, generation)
        described[name] = _site(fleet.site(name), files, identity.s3_user(secret, host, generation), key)
    policies = dict.fromkeys(policy.id for one in sources if (policy := fleet.policy_for(one.id)))
    main = {
        "agent": host,
        "machine_passwords": {"file": _PASSWORDS},
        "regions": {"local": {"broker": {"file": _BROKER}}},
        "sites": described,
        "policies": {name: _policy(fleet.policies[name]) for name in policies},
    }
    files[SOURCES] = _HEAD_SOURCES + _yaml({"sources": {one.id: _source(one) for one in sources}})
    files[MAIN] = _HEAD.format(host=host, sources=SOURCES) + _yaml({key: part for key, part in main.items() if part})
    return Parcel(host, files)


def check_place(directory: str, host: str) -> None:
    """Make the directory, and raise AgentError, OtherHost where a join could not write it, or must not."""
    path = os.path.join(directory, MAIN)
    try:
        make_directories(os.path.join(directory, os.path.dirname(SOURCES)))
        write_durable(os.path.join(directory, ".join"), b"", mode=0o600)
        os.unlink(os.path.join(directory, ".join"))
    except OSError as error:
        hint = "Nothing was done, and the token is good still. Run it as the user that the agent is to run as"
        raise AgentError(f"can't write to {directory}: {error.strerror}", hint=hint) from error
    if not os.path.lexists(path):
        return
    try:
        there = load(path).agent
    except ConfigError as error:
        raise OtherHost(
            f"{path} is there, and can't be read: {error.args[0]}", hint="Move it away; the token is good still"
        ) from None
    if there != host:
        whose = f"the agent of {there}" if there else "a fleet"
        raise OtherHost(
            f"{path} is there, and is the configuration of {whose}",
            hint="Name another directory (--directory); the token is good still",
        )


def write(parcel: Parcel, directory: str) -> list[str]:
    """Write the files, mode 0600, the one that names the others last; which were written. Raises AgentError."""
    written = []
    order: Sequence[str] = sorted(parcel.files, key=lambda name: name == MAIN)
    try:
        for name in order:
            path, data = os.path.join(directory, name), parcel.files[name].encode()
            if name == SOURCES:
                if not write_durable_if_absent(path, data, mode=0o600):
                    continue
            else:
                write_durable(path, data, mode=0o600)
            written.append(path)
    except OSError as error:
        hint = f"The token is spent: make another, with `holdfast agent enroll {parcel.host}`"
        raise AgentError(f"can't write to {directory}: {error.strerror}", hint=hint) from error
    return written


def address_of(url: str) -> str:
    """A broker's URL without user and password. Raises AgentError where no other machine reaches it."""
    if url.startswith("unix://"):
        raise AgentError(
            "Redis listens on a socket of this machine, which no agent elsewhere reaches",
            hint="Name a Redis that listens (regions: {...: {broker: rediss://...}}), or its address by --broker",
        )
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def with_user(address: str, user: str, password: str) -> str:
    """The URL of a broker for a user of it."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}"))


def _site(site: Site, files: dict[str, str], user: str, key: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"url": site.url}
    if not site.is_s3:
        return shown
    files[f"{site.id}.keys"] = f"access_key = {user}\nsecret_key = {key}\n"
    shown |= {"credentials": {"file": f"{site.id}.keys"}, "connections": site.connections}
    if site.ca_file:
        try:
            with open(site.ca_file, encoding="ascii") as file:
                files[f"{site.id}.ca.pem"] = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"sites.{site.id}.ca_file: can't read {site.ca_file}: {error}") from error
        shown["ca_file"] = f"{site.id}.ca.pem"
    return shown


def _policy(policy: Policy) -> dict[str, Any]:
    shown: dict[str, Any] = {"select": str(policy.select)}
    if policy.primary:
        shown["primary"] = policy.primary
    return shown | {key: str(when) for key in ("full", "incremental") if (when := getattr(policy, key)) is not None}


# What a scheduler alone needs to know; and a preset, of which the command that it was made into is given.
_NOT_GIVEN = {"owner", "scratch", "paused_until", "retired", "preset", "options"}


def _source(source: Source) -> dict[str, Any]:
    """A source in the words of a file."""
    shown = source.model_dump(mode="json", exclude_defaults=True, exclude_none=True, exclude=_NOT_GIVEN)
    for place in (shown, shown.get("hooks", {})):
        if "timeout" in place:
            place["timeout"] = span(place["timeout"])
    return shown


def _yaml(data: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)
    return text
