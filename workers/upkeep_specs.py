"""The specs of runs that work at sites alone: verifications, forgets, prunes, restore tests, replications.

As in `specs`: they hold secrets, and live in this process and on the engine's pipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from shared import topology
from shared.config.opening import passwords
from shared.errors import ConfigError
from workers.backup.spec import SiteSpec
from workers.maintenance.forget_spec import ForgetSpec
from workers.maintenance.prune_spec import PruneSpec
from workers.maintenance.restore_test_spec import RestoreTestSpec
from workers.maintenance.spec import VerifySpec
from workers.replication.spec import ReplicateSpec
from workers.scratch import scratch_of
from workers.spec_parts import allowed, engine_limits, site_spec

if TYPE_CHECKING:
    from shared.config.fleet import Fleet


def verify_spec(fleet: Fleet, source: str, options: Mapping[str, object]) -> VerifySpec:
    """One verification of the repository of a source, at its primary or the site that `options` name.

    One that heals takes from the other sites, or only from the `origin` that they name. Raises ConfigError.
    """
    site = str(options.get("site") or topology.current(fleet).primary(source))
    repository = fleet.repository_of(source)
    others, left_out = _places(fleet, source, site, str(options.get("origin", ""))) if options.get("heal") else ([], [])
    given: dict[str, Any] = {
        "helpers": fleet.defaults.read_concurrency,
        **allowed(options, {field.name for field in fields(VerifySpec)} | {"origin"}, "verification"),
        "others": others,
        "left_out": left_out,
        "pack_size": fleet.defaults.pack_size,
        "site": site_spec(fleet, site),
        "repository": repository,
        "passwords": passwords(fleet, repository),
        "cache_dir": fleet.cache_dir,
        "limits": engine_limits(fleet),
    }
    return VerifySpec(**given)


def _places(fleet: Fleet, source: str, site: str, origin: str) -> tuple[list[SiteSpec], list[str]]:
    """Where else the repository of a source may be, the likeliest first; those that can't be opened from here."""
    if origin:
        if origin == site or fleet.site(origin).witness:
            raise ConfigError(
                f"site {site} can't be healed from site {origin}", hint="Name another site that keeps copies"
            )
        return [site_spec(fleet, origin)], []
    now = topology.current(fleet)
    likely = dict.fromkeys((now.primary(source), *topology.copying(fleet, now, source), *fleet.sites))
    found: list[SiteSpec] = []
    left_out: list[str] = []
    for name in likely:
        if name == site or name not in fleet.sites or fleet.site(name).witness:
            continue
        try:
            found.append(site_spec(fleet, name))
        except ConfigError:
            left_out.append(name)
    return found, left_out


def forget_spec(fleet: Fleet, source: str, options: Mapping[str, object], *, run: str) -> ForgetSpec:
    """One forget of a source, at its primary or the site that `options` name, under the epoch of now.

    Raises ConfigError, where no snapshots are named also for a source without rules at that site.
    """
    now = topology.current(fleet)
    site = str(options.get("site") or now.primary(source))
    repository = fleet.repository_of(source)
    policy = fleet.policy_for(source)
    rules = policy.retention.rules_at(site) if policy and policy.retention else None
    given: dict[str, Any] = allowed(options, {"site", "snapshots"}, "forget")
    retired, left = fleet.source(source).retired, fleet.source(source).left
    if left and not given.get("snapshots"):
        raise ConfigError(
            f"source {source} is {fleet.source(source).rests(time.time())}: no rule forgets any of them",
            hint="Name the snapshots that are to be forgotten",
        )
    if retired is not None and time.time() < retired and not given.get("snapshots"):
        raise ConfigError(
            f"source {source} is {fleet.source(source).rests(time.time())}: no rule forgets any of them before",
            hint="Change `retired` there, or name the snapshots that are to be forgotten",
        )
    if rules is None and not given.get("snapshots"):
        whose = f"policy {policy.id} has no retention for site {site}" if policy else "no policy selects it"
        raise ConfigError(
            f"nothing says which snapshots of source {source} to keep: {whose}",
            hint="Give the policy `retention:`, or name the snapshots that are to be forgotten",
        )
    return ForgetSpec(
        **given,
        site=site_spec(fleet, site),
        repository=repository,
        source=source,
        tag=fleet.source(source).first_name,
        run=run,
        passwords=passwords(fleet, repository),
        rules=rules,
        timezone=policy.timezone if policy else "UTC",
        others=_other_sites(fleet, site),
        cache_dir=fleet.cache_dir,
        limits=engine_limits(fleet),
        config=fleet.path,
        epoch=[now.epoch.number, now.epoch.claimant],
    )


def _other_sites(fleet: Fleet, site: str) -> list[SiteSpec] | None:
    """Where a repository may be besides; None where this machine can't ask all of them."""
    try:
        return [site_spec(fleet, one.id) for one in fleet.sites.values() if one.id != site and not one.witness]
    except ConfigError:
        return None


def prune_spec(fleet: Fleet, source: str, options: Mapping[str, object], *, run: str) -> PruneSpec:
    """One prune of the repository of a source, at its primary or the site that `options` name, under the epoch of now.

    Raises ConfigError.
    """
    now = topology.current(fleet)
    site = str(options.get("site") or now.primary(source))
    repository = fleet.repository_of(source)
    given: dict[str, Any] = {
        "grace": fleet.prune.grace,
        "max_unused": fleet.prune.max_unused,
        "max_repack": fleet.prune.max_repack or 0,
        **allowed(options, {"site", "grace", "max_unused", "max_repack"}, "prune"),
    }
    return PruneSpec(
        **given,
        site=site_spec(fleet, site),
        repository=repository,
        run=run,
        passwords=passwords(fleet, repository),
        pack_size=fleet.defaults.pack_size,
        helpers=fleet.defaults.read_concurrency,
        cache_dir=fleet.cache_dir,
        limits=engine_limits(fleet),
        config=fleet.path,
        epoch=[now.epoch.number, now.epoch.claimant],
    )


def restore_test_spec(fleet: Fleet, source: str, options: Mapping[str, object], *, run: str) -> RestoreTestSpec:
    """One restore test of a source, from its primary or the site that `options` name. Raises ConfigError."""
    site = str(options.get("site") or topology.current(fleet).primary(source))
    repository = fleet.repository_of(source)
    given: dict[str, Any] = allowed(options, {"site", "snapshot", "files", "size", "whole"}, "restore test")
    return RestoreTestSpec(
        **given,
        site=site_spec(fleet, site),
        repository=repository,
        source=source,
        tag=fleet.source(source).first_name,
        run=run,
        passwords=passwords(fleet, repository),
        helpers=fleet.defaults.read_concurrency,
        limits=engine_limits(fleet),
        cache_dir=fleet.cache_dir,
        scratch=scratch_of(fleet.source(source)),
        state_dir=fleet.state_dir,
    )


def replicate_spec(fleet: Fleet, source: str, options: Mapping[str, object], *, run: str) -> ReplicateSpec:
    """One replication of a source to the `site` that `options` name, from its primary or the `origin` they name.

    Raises ConfigError.
    """
    allowed(options, {"site", "origin", "both_ways"}, "replication")
    site = str(options.get("site") or "")
    origin = str(options.get("origin") or topology.current(fleet).primary(source))
    if site == origin or not site:
        raise ConfigError(
            f"source {source} can't be replicated from site {origin} to {site or 'no site'}",
            hint="Name another site: holdfast replicate SOURCE --to SITE",
        )
    for name in (site, origin):
        if fleet.site(name).witness:
            raise ConfigError(f"site {name} is a witness, which keeps no copies", hint="Name another site")
    repository = fleet.repository_of(source)
    policy = fleet.policy_for(source)
    retention = policy.retention if policy else None
    return ReplicateSpec(
        site=site_spec(fleet, site),
        origin=site_spec(fleet, origin),
        repository=repository,
        source=source,
        run=run,
        passwords=passwords(fleet, repository),
        rules=retention.rules_at(site) if retention else None,
        timezone=policy.timezone if policy else "UTC",
        cache_dir=fleet.cache_dir,
        limits=engine_limits(fleet),
        tag=fleet.source(source).first_name,
        both_ways=bool(options.get("both_ways")),
        origin_rules=retention.rules_at(origin) if retention else None,
    )
