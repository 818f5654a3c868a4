"""From a run to the engine that does it and its spec: what the configuration says, and what the run's options override.

A spec holds secrets. It lives in this process and on the engine's pipe: never in Redis, an argument or a log.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from shared import topology
from shared.config.opening import passwords, recovery_password
from shared.config.programs import environment
from shared.errors import ConfigError
from shared.ledger.model import RunKind, RunRequest
from workers.backup.spec import BackupSpec, HooksSpec, Selection, ShardsSpec, StreamSpec
from workers.engine_process import module_command
from workers.programs.program import ProgramSpec
from workers.restore.spec import RestoreSpec
from workers.restore.within import TargetRefused
from workers.spec_parts import allowed, engine_limits, site_spec
from workers.upkeep_specs import forget_spec, prune_spec, replicate_spec, restore_test_spec, verify_spec

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
    allowed(request.options, {"shard", "of", "plan"} if request.kind is RunKind.SHARD else set(), "backup")
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
    chosen = allowed(options, {field.name for field in fields(RestoreSpec)}, "restore")
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


def _require_known(fleet: Fleet, source: str) -> None:
    """A restore may be of another machine's source, which a machine's own file need not have."""
    if source not in fleet.sources:
        raise ConfigError(
            f"{fleet.path} on {socket.gethostname()} knows no source {source}, so its repository can't be read there",
            hint="Add it there (id, site and repository are enough), or restore to a machine that knows it",
        )


def _listed(folders: Sequence[str] | None) -> list[str] | None:
    return None if folders is None else list(folders)
