"""The loaded configuration: `Fleet.load(path)`, and the questions that the rest of Holdfast asks it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

from shared.config import loader
from shared.config.around import Into
from shared.config.assembly import Seen
from shared.config.choice import PolicyChoice
from shared.config.failover import Failover
from shared.config.health import Health
from shared.config.inventory import Inventory, own_place, state_dir
from shared.config.limits import Limits
from shared.config.models import Defaults, FleetFile, Policy, Prune, Region, Site, Source
from shared.config.problems import nearest
from shared.config.scheduling import Scheduling
from shared.config.secrets import FleetSecret, Secret
from shared.config.values import OFF
from shared.errors import ConfigError
from shared.storage.api import ObjectStore

if TYPE_CHECKING:
    from shared.storage.retry import Patience

Part = TypeVar("Part")
Kept = TypeVar("Kept", bound=Secret)


@dataclass(frozen=True, slots=True)
class SiteAccess:
    """All that opens a site, as plain values that travel to an engine as JSON. `credentials` may hold keys."""

    id: str
    url: str
    credentials: dict[str, str | list[str]] | None
    ca_file: str | None
    connections: int

    def __repr__(self) -> str:
        return f"SiteAccess(id={self.id!r}, url={self.url!r})"


class Fleet:
    """One configuration, checked as a whole. It does not change; `FleetWatch` loads changed files anew."""

    def __init__(self, path: str, file: FleetFile, files: Iterable[str] = ()) -> None:
        self.path = os.path.abspath(path)
        self.files = tuple(os.path.abspath(one) for one in files) or (self.path,)  # all that were read, in that order
        self.sites: Mapping[str, Site] = file.sites
        self.policies: Mapping[str, Policy] = file.policies
        self.sources: Mapping[str, Source] = file.sources
        self.regions: Mapping[str, Region] = file.regions
        self.defaults: Defaults = file.defaults
        self.prune: Prune = file.prune
        self.hosts: tuple[str, ...] = _hosts(file)  # where there is, or may be, a worker of its own
        self.restore_to: tuple[str, ...] | None = file.restore_to
        self.restore_into: Mapping[str, Into] = file.restore_into  # programs for restores over the queue, by name
        self.health: Health = file.health
        self.limits: Limits = file.limits
        self.failover: Failover = file.failover
        self.promote_without_majority: bool = file.promote_without_majority
        self.agent: str = file.agent  # the host whose agent's file this is; empty: a fleet's
        self._file = file
        self.scheduling: Scheduling = file.scheduling
        self.inventory: Inventory | None = file.inventory
        self._choice = PolicyChoice(file.policies.values())

    @classmethod
    def load(cls, path: str, seen: Seen | None = None) -> Self:
        """Read and check a file with its conf.d, or a directory of files; `seen` is filled with what was looked at.

        Raises ConfigInvalid, which lists all that is wrong, or ConfigError.
        """
        seen = {} if seen is None else seen
        file = loader.load(path, seen)
        return cls(path, file, [name for kind, name in seen if kind == "file"])

    @property
    def secret(self) -> FleetSecret:
        """Where the fleet's secret is. Raises ConfigError in an agent's file."""
        return self._not_for_agents(self._file.secret, "secret")

    @property
    def recovery_password(self) -> Secret:
        """Where the recovery password is. Raises ConfigError in an agent's file."""
        return self._not_for_agents(self._file.recovery_password, "recovery password")

    @property
    def machine_passwords(self) -> Secret | None:
        """Where an agent's machine passwords are; None in a fleet's file, as its secret gives them."""
        return self._file.machine_passwords

    @property
    def metrics_address(self) -> str:
        """Where metrics are served, host:port; empty: nowhere."""
        listen = self._file.exporter.listen
        return "" if listen == OFF else listen

    @property
    def ask_sites(self) -> bool:
        """Whether the exporter asks the sites what they have: it needs the fleet's secret and their credentials."""
        return self._file.exporter.ask_sites

    @property
    def directory(self) -> str:
        """Where relative paths start: the directory that was named, or that of the file that was."""
        return self.path if self.path not in self.files else os.path.dirname(self.path)

    @property
    def state_dir(self) -> str:
        """Journals and logs: /var/lib/holdfast for a file below /etc, else `.holdfast/state` beside the file."""
        return state_dir(self.path, self.directory, self._file.state_dir)

    @property
    def cache_dir(self) -> str:
        """What may be deleted at any time: /var/cache/holdfast for a file below /etc, else `.holdfast/cache`."""
        return self._file.cache_dir or own_place(self.path, self.directory, "/var/cache/holdfast", "cache")

    def site(self, name: str) -> Site:
        """A site by its id. Raises ConfigError."""
        return _known(self.sites, name, "site", self.path)

    def source(self, name: str) -> Source:
        """A source by its id. Raises ConfigError."""
        return _known(self.sources, name, "source", self.path)

    def require_host(self, name: str) -> None:
        """Raise ConfigError unless a source is read on this host, or `hosts` names it."""
        _known(dict.fromkeys(self.hosts), name, "host", self.path)

    def region(self, name: str = "") -> Region:
        """A region by its name, or the only one. Raises ConfigError."""
        if not name and len(self.regions) > 1:
            raise ConfigError(f"{self.path} has {len(self.regions)} regions: say which ({', '.join(self.regions)})")
        return _known(self.regions, name or next(iter(self.regions)), "region", self.path)

    def broker_url(self, region: str = "") -> str | None:
        """The Redis URL of a region, which may hold a password; None: `holdfast up` runs one (embedded)."""
        broker = self.region(region).broker
        return broker.read("broker url").decode() if isinstance(broker, Secret) else broker

    def admin_url(self, region: str = "") -> str | None:
        """The URL by which users of that Redis are made: `admin`, else the broker's own. Raises ConfigError."""
        admin = self.region(region).admin
        if admin is None:
            return self.broker_url(region)
        return admin.read("admin url").decode() if isinstance(admin, Secret) else admin

    def policy_for(self, source: str) -> Policy | None:
        """The policy that a source follows: the most specific one that selects it."""
        return next(iter(self.selecting(source)), None)

    def selecting(self, source: str) -> tuple[Policy, ...]:
        """The policies that select a source; the first one, the most specific, is the one that counts."""
        return self._choice.selecting(self.source(source).labels)

    def sources_of(self, policy: str) -> list[Source]:
        """The sources that follow a policy, in the file's order."""
        return [source for source in self.sources.values() if (own := self.policy_for(source.id)) and own.id == policy]

    def repository_of(self, source: str) -> str:
        """The repository of a source: its first name, unless it names another to share."""
        own = self.source(source)
        return own.repository or own.first_name

    def configured_primary(self, source: str) -> str:
        """The site that the configuration names primary for a source. Only `topology.current()` says which one is.

        Raises ConfigError where no policy selects the source and there are several sites.
        """
        policy = self.policy_for(source)
        if policy and policy.primary:
            return policy.primary
        keeping = [site.id for site in self.sites.values() if not site.witness]
        if len(keeping) == 1:
            return keeping[0]
        raise ConfigError(
            f"source {source} has no primary: no policy of {self.path} selects it",
            hint=f"Name a site ({', '.join(keeping)}), or give it a label that a policy selects",
        )

    def site_access(self, name: str) -> SiteAccess:
        """What an engine is told to open a site; may read the environment. Raises ConfigError."""
        site = self.site(name)
        credentials = site.credentials.reference(f"credentials of site {name}") if site.credentials else None
        return SiteAccess(name, site.url, credentials, site.ca_file, site.connections)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The limits of what passes between this machine and a site, as plain data: see `workers.access`.

        Each is a line that all engines here share: of the machine, to all sites, and of the site. Raises ConfigError.
        """
        lines = []
        for limits, suffix in ((self.limits, ""), (self.site(name).limits, f".{name}")):
            for direction, line in (("upload", limits.upload), ("download", limits.download)):
                if line is not None:
                    bucket = os.path.join(self.cache_dir, "limits", f"{direction}{suffix}")
                    lines.append({"direction": direction, "bucket": bucket, **line.rates().to_json()})
        return lines

    def open_site(self, name: str, *, create: bool = False, patience: Patience | None = None) -> ObjectStore:
        """Open a site's store. `patience`: None for what a backup has. Raises ConfigError, StorageError."""
        from shared.config.stores import open_site

        return open_site(self.site_access(name), create=create, patience=patience)

    def machine_password(self, repository_id: str) -> str:
        """A repository's machine password: from the fleet's secret, or an agent's own list. Raises ConfigError."""
        if self._file.machine_passwords is not None:
            return self._listed_password(self._file.machine_passwords, repository_id)
        from shared.repository.keys import machine_password

        return machine_password(self.secret.read(), repository_id)

    @cached_property
    def event_key(self) -> bytes:
        """What the fleet's events are sealed with; its secret is read once. Raises ConfigError."""
        from shared.messaging.signed import event_key

        return event_key(self.secret.read())

    def _listed_password(self, listed: Secret, repository_id: str) -> str:
        for line in listed.read("machine passwords").decode(errors="replace").splitlines():
            repository, _, password = line.strip().partition(" ")
            if repository == repository_id:
                return password.strip()
        raise ConfigError(
            f"{self.path} has no machine password of repository {repository_id}",
            hint=f"Enroll the host again, where the fleet's file is: holdfast agent enroll {self.agent}",
        )

    def _not_for_agents(self, given: Kept | None, what: str) -> Kept:
        if given is None:
            raise ConfigError(
                f"{self.path} is the file of {self.agent}'s agent, which does not hold the fleet's {what}",
                hint="Do this where the fleet's file is",
            )
        return given

    def __repr__(self) -> str:
        return f"Fleet({self.path!r}, sites={list(self.sites)}, sources={len(self.sources)})"


def _hosts(file: FleetFile) -> tuple[str, ...]:
    return tuple(sorted({*file.hosts, *(source.host for source in file.sources.values() if source.host)}))


def _known(parts: Mapping[str, Part], name: str, what: str, path: str) -> Part:
    if name in parts:
        return parts[name]
    raise ConfigError(
        f'there is no {what} "{name}" in {path}{nearest(name, parts)}',
        hint=f"There are: {_few(parts)}" if parts else f"It has no {what}s yet",
    )


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
