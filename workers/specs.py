"""From a run to the engine that does it and its spec: what the configuration says, and what the run's options override.

A spec holds secrets. It lives in this process and on the engine's pipe: never in Redis, an argument or a log.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from shared import topology
from shared.config.opening import passwords, recovery_password
from shared.config.programs import environment
from shared.errors import ConfigError
from shared.ledger.model import RunKind, RunRequest
from workers.backup.spec import BackupSpec, HooksSpec, Selection, ShardsSpec, SiteSpec, StreamSpec
from workers.engine_process import module_command
from workers.limits import EngineLimits
from workers.maintenance.forget_spec import ForgetSpec
from workers.maintenance.prune_spec import PruneSpec
from workers.maintenance.restore_test_spec import RestoreTestSpec
from workers.maintenance.spec import VerifySpec
from workers.programs.program import ProgramSpec
from workers.replication.spec import ReplicateSpec
from workers.restore.spec import RestoreSpec
from workers.restore.within import TargetRefused
from workers.scratch import scratch_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.config.fleet import Fleet
    from shared.config.models import Source

ENGINES = {
    RunKind.FULL: "workers.backup",
    RunKind.INCREMENTAL: "workers.backup",
    RunKind.RESTORE: "workers.restore",
    RunKind.VERIFY: "workers.maintenance",
    RunKind.FORGET: "workers.maintenance.forget_process",
    RunKind.PRUNE: "workers.maintenance.prune_process",
    RunKind.RESTORE_TEST: "workers.maintenance.restore_test_process",
    RunKind.SHARD: "workers.backup",
    RunKind.REPLICATE: "workers.replication",
}
_LEVELS = {"off": 0, "fastest": 1, "default": 3, "better": 7, "max": 19}  # zstd's; 0 stores as it is
# What an option may not change: where a repository is, how it is opened, and what a worker keeps where.
_SECRET = {"passwords", "fleet_secret", "recovery_password"}
_FIXED = {"site", "origin", "repository", "run", "cache_dir", "state_dir", "limits", "tag", *_SECRET}
_FIXED |= {"others", "left_out"}  # which sites are asked
_FIXED |= {"within", "into"}  # where it may write, and what it may run


def command_for(kind: RunKind) -> list[str]:
    """The command of the engine for this kind of run."""
    return module_command(ENGINES[kind])


def spec_for(
    fleet: Fleet,
    request: RunRequest,
    *,
    slot: str = "",
    journal: Sequence[str] = (),
    agent: bool = False,
    shards: ShardsSpec | None = None,
) -> dict[str, Any]:
    """The spec of a run, as plain data for the pipe. `slot` is the run's, or when a run by hand was opened.

    `shards`: what is to be done of a backup that is cut; without it is done in one piece.

    An `agent` restores only to where its own file says; others to anywhere, unless theirs says something.

    Reads secrets. Raises ConfigError: no such source, nothing to read here, an option that there is none of.
    """
    if request.kind.reads_source:
        kind: Literal["full", "incremental"] = "full" if request.kind is RunKind.FULL else "incremental"
        return backup_spec(fleet, request, kind, slot=slot, journal=journal, shards=shards).to_json()
    if request.kind is RunKind.RESTORE:
        _require_known(fleet, request.source)
        spec = restore_spec(fleet, request.source, request.options)
        spec.within = [] if fleet.restore_to is None and agent else _listed(fleet.restore_to)
        if request.options.get("into"):
            spec.into = into_spec(fleet, str(request.options["into"]))
        return spec.to_json()
    if request.kind.at_site and agent:
        why = "a server may delete nothing at a site" if request.kind.deletes else "workers of the pools do it"
        raise ConfigError(f"an agent does no {request.kind.value}: {why}")
    if request.kind is RunKind.FORGET:
        return forget_spec(fleet, request.source, request.options, run=request.id).to_json()
    if request.kind is RunKind.PRUNE:
        return prune_spec(fleet, request.source, request.options, run=request.id).to_json()
    if request.kind is RunKind.RESTORE_TEST:
        return restore_test_spec(fleet, request.source, request.options, run=request.id).to_json()
    if request.kind is RunKind.REPLICATE:
        return replicate_spec(fleet, request.source, request.options, run=request.id).to_json()
    return verify_spec(fleet, request.source, request.options).to_json()


def site_spec(fleet: Fleet, site: str) -> SiteSpec:
    """A site as an engine opens it; may hold S3 keys. Raises ConfigError."""
    access = fleet.site_access(site)
    given = access.credentials or {}
    command = given.get("command")
    return SiteSpec(
        id=access.id,
        url=access.url,
        access_key=str(given.get("access_key", "")),
        secret_key=str(given.get("secret_key", "")),
        session_token=str(given.get("session_token", "")),
        credentials_file=str(given.get("file", "")),
        credentials_command=command if isinstance(command, list) else [],
        ca_file=access.ca_file or "",
        connections=access.connections,
        lines=fleet.lines(site),
    )


def engine_limits(fleet: Fleet) -> EngineLimits:
    """What the engines of this machine may take of it."""
    return EngineLimits(fleet.limits.cores, fleet.limits.nice, fleet.limits.io)


def backup_spec(
    fleet: Fleet,
    request: RunRequest,
    kind: Literal["full", "incremental"],
    *,
    slot: str = "",
    journal: Sequence[str] = (),
    shards: ShardsSpec | None = None,
) -> BackupSpec:
    """One backup of a source to its primary. Raises ConfigError."""
    source = fleet.source(request.source)
    if not source.has_body:
        raise ConfigError(f"source {source.id} has no paths here", hint="Give it `paths:`, or a `command:`")
    repository = fleet.repository_of(source.id)
    policy = fleet.policy_for(source.id)
    _allowed(request.options, {"shard", "of", "plan"} if request.kind is RunKind.SHARD else set(), "backup")
    return BackupSpec(
        site=site_spec(fleet, topology.current(fleet).primary(source.id)),
        repository=repository,
        source=source.id,
        tag=source.first_name,
        run=request.id,
        selection=Selection(
            paths=list(source.paths or ()),
            excludes=list(source.excludes),
            exclude_files=list(source.exclude_files),
            exclude_caches=source.exclude_caches,
            exclude_if_present=list(source.exclude_if_present),
            one_file_system=source.one_file_system,
            exclude_larger_than=source.exclude_larger_than or 0,
        ),
        stream=_stream(source),
        hooks=_hooks(source),
        shards=shards,
        kind=kind,
        slot=slot or request.slot,
        host=source.host or socket.gethostname(),
        labels=[f"hf.policy={policy.id}"] if policy else [],
        passwords=passwords(fleet, repository),
        fleet_secret="" if fleet.agent else fleet.secret.read().hex(),  # an agent creates no repository
        recovery_password="" if fleet.agent else recovery_password(fleet),
        cache_dir=fleet.cache_dir,
        state_dir=fleet.state_dir,
        journal=list(journal),
        compression_level=_LEVELS[fleet.defaults.compression],
        pack_size=fleet.defaults.pack_size,
        helpers=fleet.defaults.read_concurrency,
        limits=engine_limits(fleet),
    )


def _stream(source: Source) -> StreamSpec | None:
    if source.command is None:
        return None
    env, secrets = environment(source.env, f"source {source.id}")
    return StreamSpec(source.stream_path, ProgramSpec(list(source.command), env, source.timeout, secrets))


def _hooks(source: Source) -> HooksSpec | None:
    hooks = source.hooks
    if hooks is None:
        return None
    env, secrets = environment(source.env, f"source {source.id}")
    return HooksSpec(
        list(hooks.before or ()), list(hooks.after or ()), env, hooks.timeout, hooks.private_mounts, secrets
    )


def restore_spec(fleet: Fleet, source: str, options: Mapping[str, object]) -> RestoreSpec:
    """One restore of a source, from its primary or the site that `options` name. Raises ConfigError."""
    site = str(options.get("site") or topology.current(fleet).primary(source))
    repository = fleet.repository_of(source)
    chosen = _allowed(options, {field.name for field in fields(RestoreSpec)}, "restore")
    given: dict[str, Any] = {
        "helpers": fleet.defaults.read_concurrency,
        "source": source,
        **chosen,
        "tag": fleet.source(source).first_name,
        "site": site_spec(fleet, site),
        "repository": repository,
        "passwords": passwords(fleet, repository),
        "cache_dir": fleet.cache_dir,
        "state_dir": fleet.state_dir,
        "limits": engine_limits(fleet),
    }
    return RestoreSpec(**given)


def into_spec(fleet: Fleet, name: str) -> ProgramSpec:
    """The program that this machine's own file has under a name, for restores over the queue.

    Reads secrets. Raises TargetRefused, ConfigError.
    """
    given = fleet.restore_into.get(name)
    if given is None:
        there = ", ".join(fleet.restore_into) or "none"
        raise TargetRefused(
            f"{fleet.path} on {socket.gethostname()} lets no restore that comes over the queue run {name!r}; "
            f"there are: {there}",
            hint="Add it to `restore_into` of that file, or restore there with --direct",
        )
    env, secrets = environment(given.env, f"restore_into.{name}")
    return ProgramSpec(list(given.command), env, given.timeout, secrets)


def verify_spec(fleet: Fleet, source: str, options: Mapping[str, object]) -> VerifySpec:
    """One verification of the repository of a source, at its primary or the site that `options` name.

    One that heals takes from the other sites, or only from the `origin` that they name. Raises ConfigError.
    """
    site = str(options.get("site") or topology.current(fleet).primary(source))
    repository = fleet.repository_of(source)
    others, left_out = _places(fleet, source, site, str(options.get("origin", ""))) if options.get("heal") else ([], [])
    given: dict[str, Any] = {
        "helpers": fleet.defaults.read_concurrency,
        **_allowed(options, {field.name for field in fields(VerifySpec)} | {"origin"}, "verification"),
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


def _require_known(fleet: Fleet, source: str) -> None:
    """A restore may be of another machine's source, which a machine's own file need not have."""
    if source not in fleet.sources:
        raise ConfigError(
            f"{fleet.path} on {socket.gethostname()} knows no source {source}, so its repository can't be read there",
            hint="Add it there (id, site and repository are enough), or restore to a machine that knows it",
        )


def _listed(folders: Sequence[str] | None) -> list[str] | None:
    return None if folders is None else list(folders)


def forget_spec(fleet: Fleet, source: str, options: Mapping[str, object], *, run: str) -> ForgetSpec:
    """One forget of a source, at its primary or the site that `options` name, under the epoch of now.

    Raises ConfigError, where no snapshots are named also for a source without rules at that site.
    """
    now = topology.current(fleet)
    site = str(options.get("site") or now.primary(source))
    repository = fleet.repository_of(source)
    policy = fleet.policy_for(source)
    rules = policy.retention.rules_at(site) if policy and policy.retention else None
    given: dict[str, Any] = _allowed(options, {"site", "snapshots"}, "forget")
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
        **_allowed(options, {"site", "grace", "max_unused", "max_repack"}, "prune"),
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
    given: dict[str, Any] = _allowed(options, {"site", "snapshot", "files", "size", "whole"}, "restore test")
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
    _allowed(options, {"site", "origin", "both_ways"}, "replication")
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


def _allowed(options: Mapping[str, object], known: set[str], what: str) -> dict[str, object]:
    unknown = sorted(set(options) - known)
    if unknown:
        there = ", ".join(sorted(known - _FIXED)) or "none"
        raise ConfigError(
            f"a {what} has no option {unknown[0]!r}", hint=f"There are: {there}. Is this worker of an older release?"
        )
    return {name: value for name, value in options.items() if name not in _FIXED}
